"""Questions that this user asks other humans: whom, until when, and what became of each."""
