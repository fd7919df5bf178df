"""What may keep a daemon from working, found out one by one: `p2pflows doctor`."""
