"""A long message goes into a local socket at once."""

from __future__ import annotations

import socket
import sys

import pytest

from p2pflows.links.socket_options import send_in_one_piece


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other limits")
def test_a_long_message_needs_no_reader_to_be_sent() -> None:
    """The system takes a message of 256 KB, with what goes around it, before anybody reads."""
    message = b"x" * (256 * 1024 + 500)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        send_in_one_piece(ours)
        ours.setblocking(False)
        assert ours.send(message) == len(message)


def test_a_socket_that_has_no_such_option_is_left_as_it_is() -> None:
    """A connection without a socket of the system, and a closed socket, are no error."""
    closed = socket.socket(socket.AF_UNIX)
    closed.close()
    send_in_one_piece(closed)
    send_in_one_piece(None)
