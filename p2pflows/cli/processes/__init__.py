"""Commands that run and look at the processes: the daemon and workers."""
