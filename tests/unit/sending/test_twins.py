"""Two daemons with one identity: which of them goes on."""

from __future__ import annotations

import secrets

import pytest

from p2pflows.protocol import topics
from p2pflows.protocol.identity import Identity
from p2pflowsd.sending import presence
from p2pflowsd.sending.twins import Standing, Twins

ME = Identity(b"m" * 32)
OTHER = Identity(b"o" * 32)


def twin(boot: int, *, take_over: bool = False, runs: bool = False, identity: Identity = ME) -> Twins:
    """A daemon that starts, or runs already."""
    made = Twins(identity, boot=boot, take_over=take_over, entropy=secrets.token_bytes)
    if runs:
        made.settle()
    return made


def ask(one: Twins, other: Twins) -> None:
    """Let one ask: both hear the question, and the one hears the answer."""
    question = one.question()
    assert one.receive(question) is None
    assert one.is_heard
    answer = other.receive(question)
    if answer is not None:
        other.receive(answer)
        back = one.receive(answer)
        if back is not None:
            other.receive(back)
    one.settle()


@pytest.mark.parametrize("boot", [5, 15])
def test_the_second_daemon_steps_back(boot: int) -> None:
    """Whoever starts while another one runs steps back, also if its clock is behind."""
    first, second = twin(10, runs=True), twin(boot)
    ask(second, first)
    assert (first.standing, second.standing) == (Standing.ALONE, Standing.BACK)
    assert second.other == 10


def test_a_daemon_that_is_to_take_over_goes_on() -> None:
    """The first one ends, and knows who took over; the second has its answer and goes on."""
    first, second = twin(10, runs=True), twin(15, take_over=True)
    ask(second, first)
    assert (first.standing, first.other, second.standing) == (Standing.BACK, 15, Standing.ALONE)
    ask(second, twin(10))
    assert second.standing is Standing.ALONE


def test_of_two_that_start_at_once_the_earlier_goes_on() -> None:
    """Both ask, and only the later one gets an answer."""
    first, second = twin(10), twin(15)
    questions = first.question(), second.question()
    answer = first.receive(questions[1])
    assert second.receive(questions[0]) is None
    assert answer is not None
    second.receive(answer)
    first.settle()
    assert (first.standing, second.standing) == (Standing.ALONE, Standing.BACK)


@pytest.mark.parametrize("asker", [0, 1, 2])
def test_of_two_that_both_run_the_earlier_goes_on(asker: int) -> None:
    """After a partition, whoever asks first, or if both do, one steps back and the other does not."""
    first, second = twin(10, runs=True), twin(15, runs=True)
    if asker != 1:
        ask(first, second)
    if asker != 0:
        ask(second, first)
    assert (first.standing, second.standing) == (Standing.ALONE, Standing.BACK)


def test_a_daemon_that_took_over_is_not_above_the_rule() -> None:
    """Once it runs, an earlier one that was cut off until then goes on, as among others."""
    first, second = twin(10, runs=True), twin(15, take_over=True, runs=True)
    ask(second, first)
    assert (first.standing, second.standing) == (Standing.ALONE, Standing.BACK)


def test_a_daemon_that_ends_says_nothing_more() -> None:
    """Neither does it end others, nor does it answer what it has asked itself."""
    first = twin(10)
    early = first.question()
    first.settle()
    assert first.receive(early) is None
    first.receive(twin(15, take_over=True).question())
    assert first.standing is Standing.BACK
    assert first.receive(twin(20).question()) is None


def test_recorded_and_forged_words_have_no_effect() -> None:
    """An answer to another question, an old take-over, another signer and garbage end nobody."""
    first = twin(10, runs=True)
    for recorded in (
        twin(5, runs=True).receive(twin(7).question()),
        twin(5, take_over=True).question(),
        twin(5, runs=True).question(),
        twin(15, take_over=True, identity=OTHER).question(),
        twin(15, take_over=True).question()[:-1] + b"x",
        presence.seal(ME, topics.status(ME.user_id), {"boot": 15, "asks": "x", "takes_over": True}),
        presence.seal(ME, first.topic, {"boot": "15", "asks": "x", "takes_over": True}),
        presence.seal(ME, first.topic, {"boot": 15, "asks": 7, "takes_over": True}),
        b"",
    ):
        assert recorded is not None
        first.receive(recorded)
        assert first.standing is Standing.ALONE


def test_a_recorded_question_ends_no_later_start() -> None:
    """Whoever repeats what an earlier start has asked on a new connection ends neither a start nor a running daemon."""
    recorded = twin(5, runs=True).question()
    for daemon in (twin(10), twin(10, runs=True), twin(10, take_over=True)):
        asked_back = daemon.receive(recorded)
        assert asked_back is not None
        assert daemon.standing is not Standing.BACK
        daemon.receive(asked_back)
        daemon.settle()
        assert daemon.standing is Standing.ALONE


def test_a_recorded_answer_to_a_take_over_ends_nobody() -> None:
    """What the one that was taken over has answered ends the other one not, when it comes again."""
    first, second = twin(10, runs=True), twin(15, take_over=True)
    answer = first.receive(second.question())
    assert answer is not None
    second.receive(answer)
    second.receive(answer)
    assert second.standing is Standing.ALONE


def test_a_status_of_another_daemon_is_seen() -> None:
    """What is stored at the broker tells whether another daemon may be online."""
    second = twin(15)
    for boot, online, seen in ((10, True, True), (15, True, False), (10, False, False)):
        second.note_status(presence.Presence(ME, boot).mine(online=online))
        assert second.is_seen is seen
    second.note_status(presence.Presence(OTHER, 10).mine(online=True))
    assert not second.is_seen
