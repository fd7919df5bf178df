"""The command `p2pflows`, also as `python -m p2pflows`."""

from __future__ import annotations

from p2pflows import terminal


def main() -> None:
    """Run the command line and exit."""
    terminal.begin_quietly()
    from p2pflows.cli import main as run

    terminal.end_quiet_start()
    run()


if __name__ == "__main__":
    main()
