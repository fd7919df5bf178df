"""Topic names: built and read in one place, and never from hostile parts."""

from __future__ import annotations

import pytest

from p2pflows.errors import UsageError
from p2pflows.protocol import topics

USER = "a1" * 32
BAD_NAMES = ["", "a/b", "+", "#", "a+b", "a#", "a b", "ä", "a\0", "a" * 65, "a\n", "$share"]


@pytest.mark.parametrize("name", ["a", "User", "_reply", "a-b_c", "0", "a" * 64])
def test_a_name_of_letters_digits_and_two_marks_is_one(name: str) -> None:
    """1 to 64 letters, digits, '_' or '-' may name an endpoint, a dispatch point, a worker or a contact."""
    assert topics.is_name(name)
    assert topics.check_name(name, "a thing") == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_could_steer_a_topic_is_no_name(name: str) -> None:
    """A name holds no separator, wildcard, space, control or foreign character."""
    assert not topics.is_name(name)
    with pytest.raises(UsageError, match="cannot name a thing"):
        topics.check_name(name, "a thing")


def test_names_that_begin_with_an_underscore_are_not_for_users() -> None:
    """Users cannot serve under the daemon's own endpoints."""
    assert topics.check_endpoint("User") == "User"
    for name in (topics.REPLY, topics.NOTICE, topics.FLOWS, "_mine"):
        with pytest.raises(UsageError, match="cannot name an endpoint"):
            topics.check_endpoint(name)


@pytest.mark.parametrize("text", ["a1" * 32, "0" * 64])
def test_a_user_id_is_64_hex_digits(text: str) -> None:
    """A user id is 64 lower-case hex digits."""
    assert topics.is_user_id(text)


@pytest.mark.parametrize("text", ["", "a1" * 31, "a1" * 33, "A1" * 32, "g1" * 32, "a1" * 32 + "\n"])
def test_what_is_not_64_lower_case_hex_digits_is_no_user_id(text: str) -> None:
    """A user id has one form, so that a user has one topic."""
    assert not topics.is_user_id(text)


def test_topics_have_the_form_of_the_protocol() -> None:
    """The names that others subscribe to do not change by accident."""
    assert topics.inbox(USER, "User") == f"p2pflows/1/{USER}/in/User"
    assert topics.card(USER) == f"p2pflows/1/{USER}/card"
    assert topics.status(USER) == f"p2pflows/1/{USER}/status"
    assert topics.dispatch(USER, "gpu", "w-1") == f"p2pflows/1/{USER}/dispatch/gpu/w-1"
    assert topics.results(USER, "gpu") == f"p2pflows/1/{USER}/results/gpu"
    assert topics.daemon_filters(USER) == [f"p2pflows/1/{USER}/in/+", f"p2pflows/1/{USER}/results/+"]


@pytest.mark.parametrize(
    ("topic", "meaning"),
    [
        (topics.inbox(USER, "User"), topics.InboxTopic(USER, "User")),
        (topics.results(USER, "gpu"), topics.ResultsTopic(USER, "gpu")),
        (topics.status(USER), topics.PresenceTopic(USER, "status")),
        (topics.card(USER), topics.PresenceTopic(USER, "card")),
    ],
)
def test_a_topic_that_was_built_is_read_back(topic: str, meaning: object) -> None:
    """A daemon reads the topics that others build."""
    assert topics.parse(topic) == meaning


def test_the_topic_of_a_worker() -> None:
    """A local worker names the topic that it reads."""
    assert topics.parse(topics.dispatch(USER, "gpu", "w-1")) == topics.DispatchTopic(USER, "gpu", "w-1")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "p2pflows/1/probe",
        "p2pflows/1",
        f"p2pflows/2/{USER}/in/User",
        f"other/1/{USER}/in/User",
        f"p2pflows/1/{USER.upper()}/in/User",
        f"p2pflows/1/{USER}/in",
        f"p2pflows/1/{USER}/in/",
        f"p2pflows/1/{USER}/in/User/more",
        f"p2pflows/1/{USER}/in/+",
        f"p2pflows/1/{USER}/out/User",
        f"/p2pflows/1/{USER}/in/User",
        topics.dispatch(USER, "gpu", "w/1"),
        topics.dispatch(USER, "gpu", "+"),
        topics.dispatch(USER.upper(), "gpu", "w1"),
        topics.results("b2", "gpu"),
        topics.status(USER.upper()),
        topics.card("+"),
    ],
)
def test_a_topic_that_no_daemon_reads_means_nothing(topic: str) -> None:
    """Topics of other versions and forms are not ours."""
    assert topics.parse(topic) is None
