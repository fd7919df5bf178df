"""What leaves the daemon: messages, receipts and presence."""
