"""What the methods about invitations say of brokers."""

from __future__ import annotations

import pytest

from p2pflowsd.api.invitations import _is_same_broker, _place, _serves_one_machine

HERE, THERE = "embedded:18883/0a1b2c3d", "embedded:18883/ffffffff"


@pytest.mark.parametrize(
    ("theirs", "own", "same"),
    [
        (HERE, HERE, True),
        (HERE, THERE, False),
        ("mqtts://broker", "mqtts://broker", True),
        ("mqtts://broker", "mqtts://other", None),
        ("mqtts://broker", HERE, False),
        (HERE, "mqtts://broker", False),
        (HERE, "mqtt://localhost:18883", None),
        ("mqtt://127.0.0.1:18883", HERE, None),
        ("mqtt://127.0.0.1", "mqtt://[::1]", None),
    ],
)
def test_brokers_are_told_apart_as_far_as_addresses_can(theirs: str, own: str, same: bool | None) -> None:
    """Embedded brokers of two machines differ by their marks; one broker may have several addresses."""
    assert _is_same_broker(theirs, own) is same


@pytest.mark.parametrize(
    ("broker", "one_machine"),
    [
        (HERE, True), ("mqtt://127.0.0.1:1884", True), ("mqtt://[::1]:1884", True), ("mqtt://localhost", True),
        ("mqtts://broker.example.org:8884", False), ("mqtt://[2001:db8::1]", False), ("mqtt://10.0.0.7", False),
    ],
)  # fmt: skip
def test_a_broker_on_the_loopback_interface_serves_one_machine(broker: str, one_machine: bool) -> None:
    """Whatever its form."""
    assert _serves_one_machine(broker) is one_machine


def test_people_do_not_see_the_mark_of_an_embedded_broker() -> None:
    """It is for daemons."""
    assert (_place(HERE), _place("mqtts://broker")) == ("embedded:18883", "mqtts://broker")
