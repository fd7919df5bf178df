"""The iotcore broker as a program: `python iotcore_child.py CONFIG`; it ends when its stdin is closed."""

from __future__ import annotations

import logging
import os
import sys
import threading

from iotcore import Broker


def main() -> None:
    """Run the broker that the config file describes until the owner closes the other end of stdin."""
    # It logs every packet as an error; real faults are written to stderr.
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    Broker(config_path=sys.argv[1]).run_forever()


def _end_with_stdin() -> None:
    # Not sys.stdin.read: its lock would make every error of the main thread a crash at exit.
    while os.read(0, 1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
