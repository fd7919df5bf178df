"""Measures calls beside what other programs do, in one run: `scripts/bench`."""
