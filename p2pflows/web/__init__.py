"""The page: a server for browsers, which is a client of the daemon."""
