"""`python -m p2pflows` is the command `p2pflows`."""

from p2pflows.cli import main

main()
