"""What docs/PROTOCOL.md specifies: messages, seals, topics and frames; no I/O but the key file."""
