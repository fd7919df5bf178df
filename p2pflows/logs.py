"""Logging of the daemon and of workers: logfmt lines on stderr, `time=... level=... source=... msg="..."`."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from pathlib import Path

from p2pflows.foreign_text import escape, escape_lines, shorten_lines

_VERBOSE_LIBRARIES = ("httpx", "httpx2", "openai", "huggingface_hub")
"""They log each request at level info."""
MAX_FILE_BYTES = 5_000_000
MAX_MESSAGE_CHARS = 8_000
MAX_TRACE_LINES = 100
MAX_TRACE_CHARS = 64_000


class Logfmt(logging.Formatter):
    """Formats a record as one line, and its exception below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        # Messages and exceptions may hold the words of others: nothing of them may control a terminal, or fill the log.
        message = record.getMessage()
        text = escape(json.dumps(message[:MAX_MESSAGE_CHARS], ensure_ascii=False))
        line = f"time={at}.{int(record.msecs):03}Z level={record.levelname.lower()} source={record.name} msg={text}"
        if not record.exc_info:
            return line
        trace = escape_lines(self.formatException(record.exc_info)).split("\n")
        # Indented, so that no text in it can pass for a line of the log.
        return "\n  ".join([line, *shorten_lines(trace, MAX_TRACE_LINES, MAX_TRACE_CHARS)])


def rotate(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bool:
    """Begin a log file anew if it is long, and keep what it had beside it; return whether it was.

    The file stays the same one, to which other processes append, too; a line that one of them writes at this moment may
    be lost.

    Args:
        path: the file; all who write append to it.
        max_bytes: how long it may be.
    """
    if path.stat().st_size <= max_bytes:
        return False
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    path.with_name(f"{path.name}.1").chmod(0o600)
    os.truncate(path, 0)
    return True


def to_stderr(level: str) -> None:
    """Log to stderr, from a level on; verbose libraries log warnings only, unless the level is debug."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Logfmt())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level.upper() != "DEBUG":
        for name in _VERBOSE_LIBRARIES:
            logging.getLogger(name).setLevel(logging.WARNING)
