"""Commands for the questions and notes of others."""
