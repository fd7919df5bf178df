"""What every test needs."""

from __future__ import annotations

import signal

# A shell that runs the tests in the background has them ignore SIGINT, and so would all programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
