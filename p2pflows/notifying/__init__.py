"""Tells the user what waits for them: a process beside the daemon, which `up` starts when it is configured."""
