"""The iotcore broker as a program: `python iotcore_child.py CONFIG`; it ends when its stdin does."""

from __future__ import annotations

import logging
import os
import sys
import threading

from iotcore import Broker


def main() -> None:
    """Serve what the config file says, for as long as our owner holds the other end of stdin."""
    # It reports every packet as an error; what it has to say at a fault comes on stderr.
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    Broker(config_path=sys.argv[1]).run_forever()


def _end_with_stdin() -> None:
    # Not sys.stdin.read: the lock it holds would turn every error of the main thread into a crash at exit.
    while os.read(0, 1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
