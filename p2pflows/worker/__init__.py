"""A worker: a process without a user key that gets tasks from its daemon over the broker and runs flows."""
