"""A worker: a process without the user's key that gets tasks from a daemon, by socket or broker, and runs flows."""
