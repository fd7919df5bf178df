"""What docs/PROTOCOL.md specifies: messages, bundles, topics and frames. The key file is the only I/O."""
