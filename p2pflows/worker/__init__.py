"""A worker: a process without a user key that gets tasks from its daemon, over a socket or the broker; runs flows."""
