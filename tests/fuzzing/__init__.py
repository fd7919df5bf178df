"""Coverage-guided fuzzing of everything that comes from outside; `scripts/fuzz` runs it."""
