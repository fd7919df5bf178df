"""Commands that call and send, and those that show what became of it."""
