"""What the daemon sends: messages, receipts and presence."""
