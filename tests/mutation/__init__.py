"""Removes one guard of the daemon at a time, and looks whether a test notices; `scripts/mutate` runs it."""
