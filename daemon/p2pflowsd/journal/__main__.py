"""`python -m p2pflowsd.journal FILE` reads all of a journal, also one in use; prints `ok`, or what is wrong with it."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path


def main() -> int:
    """Check the file that the first argument names; return the exit code."""
    try:
        db = sqlite3.connect(f"{Path(sys.argv[1]).absolute().as_uri()}?mode=ro", uri=True)
        try:
            (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        finally:
            db.close()
    except sqlite3.Error as error:
        verdict = str(error)
    sys.stdout.write(f"{' '.join(verdict.split())}\n")
    return 0 if verdict == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
