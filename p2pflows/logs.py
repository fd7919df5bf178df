"""Logging of the daemon and of workers: logfmt lines on stderr, `time=... level=... source=... msg="..."`."""

from __future__ import annotations

import json
import logging
import sys
import time

_VERBOSE_LIBRARIES = ("httpx", "httpx2", "openai", "huggingface_hub")
"""They log each request at level info."""


class _Logfmt(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        text = json.dumps(record.getMessage(), ensure_ascii=False)
        line = f"time={at}.{int(record.msecs):03}Z level={record.levelname.lower()} source={record.name} msg={text}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def to_stderr(level: str) -> None:
    """Log to stderr, from a level on; verbose libraries log warnings only, unless the level is debug."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Logfmt())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level.upper() != "DEBUG":
        for name in _VERBOSE_LIBRARIES:
            logging.getLogger(name).setLevel(logging.WARNING)
