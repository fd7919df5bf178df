"""Commands that ask people, and what became of their questions."""
