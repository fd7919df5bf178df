"""A daemon that the system starts: units of systemd, agents of launchd, and daemons without a terminal."""
