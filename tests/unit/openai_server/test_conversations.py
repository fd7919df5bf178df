"""Which conversation goes on, found by what was said in it."""

from __future__ import annotations

from p2pflows.openai_server.chat_request import Turn
from p2pflows.openai_server.conversations import MAX_CONVERSATIONS, Conversations

SAID = [Turn("user", "Hi"), Turn("assistant", "Hello")]


def test_a_conversation_is_found_by_all_that_was_said_in_it() -> None:
    """Not under another model, nor with other words, speakers or pictures."""
    known = Conversations()
    known.put("bob/A", SAID, "1")
    others = [
        SAID[:1],
        [*SAID, Turn("user", "?")],
        [Turn("system", "Hi"), SAID[1]],
        [SAID[0], Turn("assistant", "Hallo")],
        [Turn("user", "Hi", ("data:,x",)), SAID[1]],
    ]
    assert [known.take("bob/A", said) for said in others] == [None] * len(others)
    assert known.take("bob/B", SAID) is None
    assert known.take("bob/A", [Turn("user", " Hi\n"), SAID[1]]) == "1"


def test_a_conversation_goes_on_once() -> None:
    """Who asks again from the same point must not find what was said meanwhile."""
    known = Conversations()
    known.put("bob/A", SAID, "1")
    assert known.take("bob/A", SAID) == "1"
    assert known.take("bob/A", SAID) is None


def test_the_conversation_that_was_used_longest_ago_is_forgotten() -> None:
    """So a client that begins ever others fills no memory."""
    known = Conversations()
    for number in range(MAX_CONVERSATIONS + 1):
        known.put("bob/A", [Turn("user", str(number))], str(number))
    assert known.take("bob/A", [Turn("user", "0")]) is None
    assert known.take("bob/A", [Turn("user", "1")]) == "1"
