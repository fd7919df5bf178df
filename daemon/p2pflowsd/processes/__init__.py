"""Child processes of the daemon: the embedded broker and the workers."""
