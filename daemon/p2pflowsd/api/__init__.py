"""The control API: what a user, a script or the command line asks of the daemon."""
