"""The control API: the methods that the command line and other programs of the user call."""
