"""The human of this daemon: open prompts and past conversations."""
