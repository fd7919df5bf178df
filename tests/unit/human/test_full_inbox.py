"""The inbox: notes that are put away, questions that are hidden for a while, and pages, however much it holds."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import pytest
from support.desk import Desk, Neighbour

from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.protocol.message import Type
from p2pflowsd.human import inbox
from p2pflowsd.human.inbox import Typed
from p2pflowsd.human.pages import groups, groups_of, read_page
from p2pflowsd.journal.prompts import MAX_MATCHING, Page
from p2pflowsd.journal.rows import PromptRow
from p2pflowsd.lifecycle import IncomingState, PromptState
from p2pflowsd.receiving import deadlines

HOUR_S = 3_600
HOUR_MS = HOUR_S * 1000


def note(alice: Neighbour, text: str = "I am home.", **changes: Any) -> str:
    """Let alice leave a note; return its id."""
    return alice.sends("User", {"text": text}, type="post", **changes)


def ask(alice: Neighbour, text: str = "Tea?", **changes: Any) -> str:
    """Let alice ask something; return the id."""
    return alice.sends("User", {"text": text}, **changes)


def texts(desk: Desk, limit: int = 10, **page: Any) -> list[str]:
    """The texts of a page."""
    return [row.text for row in read_page(desk.journal, Page(limit=limit, **page), "")[0]]


def events(desk: Desk) -> list[PromptRow]:
    """The prompts that are announced from now on."""
    found: list[PromptRow] = []
    desk.node.inbox._on_prompt = found.append
    return found


def fill(desk: Desk, peers: list[str], count: int) -> None:
    """Put notes of some users into the inbox, as many as one may have of each of a hundred users."""
    now = desk.clock.now()
    with desk.journal.transaction():
        db = desk.journal._db
        for number in range(count):
            peer, message = peers[number % len(peers)], f"{0x0197_F6A0:08x}{secrets.token_hex(12)}"
            row_id = db.execute(
                "INSERT INTO incoming (id, peer, type, endpoint, epoch, seq, conversation, received, expires, state)"
                " VALUES (?, ?, 'post', 'User', 1, ?, ?, ?, ?, 'asked')",
                (message, peer, number, message, now + number, now + HOUR_MS),
            ).lastrowid
            row = desk.journal.incoming.get(row_id or 0)
            assert row is not None
            desk.journal.prompts.add(row, "A note", "{}")
    desk.restart()
    for _ in range(200):
        desk.node.process_batch([])


# Notes.


def test_a_note_is_put_away_and_not_declined(desk: Desk, alice: Neighbour) -> None:
    """Its sender hears nothing; to decline it is refused, and the error says what to do."""
    first, second = note(alice), note(alice, "Dinner is ready.")
    refused = desk.do(lambda: desk.node.inbox.decline(first[-8:], ""))
    assert isinstance(refused, UsageError)
    assert f"p2pflows dismiss {first[-8:]}" in refused.hint
    desk.do(lambda: desk.node.inbox.dismiss([first[-8:], second]))
    assert [row.state for row in desk.journal.prompts.all()] == [PromptState.DISMISSED] * 2
    assert desk.journal.incoming.in_state(IncomingState.ASKED) == []
    assert alice.hears() == []


def test_no_note_is_put_away_beside_a_question(desk: Desk, alice: Neighbour) -> None:
    """Nobody dismisses a question by mistake; what is named with it stays, too."""
    first, question = note(alice), ask(alice)
    refused = desk.do(lambda: desk.node.inbox.dismiss([first, question]))
    assert isinstance(refused, UsageError)
    assert "is a question" in refused.message
    assert texts(desk) == ["Tea?", "I am home."]


def test_all_notes_of_one_user_are_put_away(desk: Desk, alice: Neighbour) -> None:
    """Their questions stay, and so do the notes of others."""
    carol = Neighbour(desk, 2, "carol")
    for number in range(5):
        note(alice, str(number))
    ask(alice)
    note(carol, "Hello")
    assert desk.do(lambda: desk.node.inbox.end_some(alice.user, "", 3, Type.POST)) == {Type.POST: 3}
    assert desk.do(lambda: desk.node.inbox.end_some(alice.user, "", 3, Type.POST)) == {Type.POST: 2}
    assert texts(desk) == ["Tea?", "Hello"]
    assert (desk.node.inbox.open.questions, desk.node.inbox.open.notes) == (1, 1)


# Snoozing.


def test_a_snoozed_question_is_hidden_until_its_time(desk: Desk, alice: Neighbour) -> None:
    """Also over a restart; then it is announced as if it were new."""
    question = ask(alice)
    desk.do(lambda: desk.node.inbox.snooze(question[-8:], HOUR_MS // 2))
    assert texts(desk) == []
    assert texts(desk, snoozed=True) == ["Tea?"]
    desk.restart()
    announced = events(desk)
    desk.passes(HOUR_S / 2 - 5)
    assert (texts(desk), announced) == ([], [])
    desk.passes(6)
    assert texts(desk) == ["Tea?"]
    assert [(row.text, row.state, row.snoozed) for row in announced] == [("Tea?", PromptState.OPEN, 0)]


def test_a_snoozed_question_keeps_its_deadline(desk: Desk, alice: Neighbour) -> None:
    """It cannot be hidden beyond it, and expires while it is hidden if the clock jumps; it can be answered, too."""
    late, early = ask(alice), ask(alice, "Milk?")
    refused = desk.do(lambda: desk.node.inbox.snooze(late, HOUR_MS))
    assert isinstance(refused, UsageError)
    assert "ends in 3,5" in refused.message
    for question in (late, early):
        desk.do(lambda question=question: desk.node.inbox.snooze(question, HOUR_MS // 2))  # type: ignore[misc]
    desk.do(lambda: desk.node.inbox.answer(early, Typed("yes")))
    assert alice.hears(early) == [{"human_input": "yes"}]
    desk.passes(2 * HOUR_S)
    assert [row.state for row in desk.journal.prompts.all()] == [PromptState.EXPIRED, PromptState.ANSWERED]
    assert desk.journal.prompts.snoozed() == []


def test_a_snoozed_question_is_shown_again_on_demand(desk: Desk, alice: Neighbour) -> None:
    """With no time at all; snoozing again replaces the time."""
    question = ask(alice)
    for ms in (HOUR_MS // 4, HOUR_MS // 2, 0):
        desk.do(lambda ms=ms: desk.node.inbox.snooze(question, ms))  # type: ignore[misc]
    assert texts(desk) == ["Tea?"]
    announced = events(desk)
    desk.passes(HOUR_S * 0.75)
    assert announced == []


def test_only_so_many_questions_are_hidden(desk: Desk, alice: Neighbour, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next is refused, until one of them has ended."""
    monkeypatch.setattr(inbox, "MAX_SNOOZED", 1)
    first, second = ask(alice), ask(alice)
    desk.do(lambda: desk.node.inbox.snooze(first, 60_000))
    assert isinstance(desk.do(lambda: desk.node.inbox.snooze(second, 60_000)), UsageError)
    assert isinstance(desk.do(lambda: desk.node.inbox.snooze(second, 0)), PromptRow)
    assert isinstance(desk.do(lambda: desk.node.inbox.snooze(first, 90_000)), PromptRow)
    desk.do(lambda: desk.node.inbox.answer(first, Typed("yes")))
    assert isinstance(desk.do(lambda: desk.node.inbox.snooze(second, 60_000)), PromptRow)


# Pages.


def test_pages_have_everything_once(desk: Desk, alice: Neighbour) -> None:
    """Questions come before notes, also if some are answered between two pages; the filters hold on every page."""
    carol = Neighbour(desk, 2, "carol")
    for number in range(4):
        note(alice, f"note {number}")
        ask(alice, f"question {number}")
        note(carol, f"carol {number}")
    expected = [f"question {number}" for number in range(4)]
    expected += [text for number in range(4) for text in (f"note {number}", f"carol {number}")]
    assert _walk(desk, Page(limit=3)) == expected
    assert _walk(desk, Page(limit=3, peer=carol.user)) == [f"carol {number}" for number in range(4)]
    assert _walk(desk, Page(limit=3, type=Type.CALL)) == expected[:4]
    assert _walk(desk, Page(limit=3, since=0)) == expected
    assert _walk(desk, Page(limit=3, since=desk.clock.now() + 1)) == []
    past = _walk(desk, Page(limit=3, is_open=False))
    assert past[:3] == ["note 0", "question 0", "carol 0"]
    assert sorted(past) == sorted(expected)
    assert _walk(desk, Page(limit=3, is_open=False, type=Type.CALL)) == expected[:4]
    rows, after = read_page(desk.journal, Page(limit=2), "")
    desk.do(lambda: desk.node.inbox.answer(rows[1].id, Typed("yes")))
    assert after == rows[1].id
    assert [row.text for row in read_page(desk.journal, Page(limit=1), after)[0]] == ["question 2"]


def _walk(desk: Desk, page: Page) -> list[str]:
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        rows, after = read_page(desk.journal, page, after)
        assert len(rows) <= page.limit
        found += [row.text for row in rows]
    return found


def test_a_page_of_long_texts_ends_early(desk: Desk, alice: Neighbour) -> None:
    """So that no page takes long to read; the next goes on."""
    for number in range(4):
        note(alice, f"{number}" * 300_000)
    rows, after = read_page(desk.journal, Page(limit=100), "")
    assert len(rows) == 2
    assert after is not None
    assert len(read_page(desk.journal, Page(limit=100), after)[0]) == 2


@pytest.mark.parametrize("since", [None, 0])
def test_long_questions_are_not_left_out_before_notes(desk: Desk, alice: Neighbour, since: int | None) -> None:
    """A page that ends early among the questions goes on with the others, not with the notes."""
    for number in range(5):
        ask(alice, f"{number}" * 300_000)
    note(alice, "note")
    found = [text[0] for text in _walk(desk, Page(limit=100, since=since))]
    assert found == ["0", "1", "2", "3", "4", "n"]


def test_pages_of_what_arrived_since(desk: Desk, alice: Neighbour) -> None:
    """Among the open, the hidden and the past ones, of one user or of all, each is there once."""
    carol = Neighbour(desk, 2, "carol")
    ask(alice, "too early")
    note(carol, "too early")
    hidden = ask(alice, "too early")
    desk.passes(60)
    since = desk.clock.now() - 1_000
    for whom in (carol, alice):
        note(whom, f"note {whom is alice:d}")
        ask(whom, f"question {whom is alice:d}")
    for question in (hidden, ask(alice, "hidden 1"), ask(carol, "hidden 0")):
        desk.do(lambda question=question: desk.node.inbox.snooze(question, HOUR_MS // 2))  # type: ignore[misc]
    assert _walk(desk, Page(limit=1, since=since)) == ["question 0", "question 1", "note 0", "note 1"]
    assert _walk(desk, Page(limit=1, since=since, peer=alice.user)) == ["question 1", "note 1"]
    assert _walk(desk, Page(limit=1, since=since, snoozed=True)) == ["hidden 1", "hidden 0"]
    assert _walk(desk, Page(limit=1, since=since, snoozed=True, peer=carol.user)) == ["hidden 0"]
    past = ["note 1", "question 1", "hidden 1"]
    assert _walk(desk, Page(limit=1, since=since, is_open=False, peer=alice.user)) == past


def test_an_end_of_a_page_that_has_other_types_is_no_place_to_begin_again(desk: Desk, alice: Neighbour) -> None:
    """Questions come before every note, and notes after every question, wherever a page of one type begins."""
    letter, question = note(alice), ask(alice)
    assert read_page(desk.journal, Page(limit=9, type=Type.CALL), letter)[0] == []
    assert [row.id for row in read_page(desk.journal, Page(limit=9, type=Type.POST), question)[0]] == [letter]


def test_a_page_after_nothing_is_refused(desk: Desk) -> None:
    """The error says where to begin."""
    with pytest.raises(P2pflowsError, match="No single message has the id 'abcd'"):
        read_page(desk.journal, Page(limit=3), "abcd")


def test_groups_count_users_and_conversations(desk: Desk, alice: Neighbour) -> None:
    """Who has the most questions comes first; each group shows the question that is shown first."""
    carol = Neighbour(desk, 2, "carol")
    for number in range(3):
        note(alice, f"note {number}", conversation="a" * 32)
    note(carol, "carol")
    ask(carol, "Milk?", conversation="c" * 32)
    found = groups(desk.journal, desk.node.inbox.open, 10)
    assert [(each.user, each.questions, each.notes, each.first and each.first.text) for each in found] == [
        (carol.user, 1, 1, "Milk?"),
        (alice.user, 0, 3, "note 0"),
    ]
    of_alice = groups_of(desk.journal, alice.user, 10)
    assert [(each.conversation, each.questions, each.notes) for each in of_alice] == [("a" * 32, 0, 3)]
    assert [each.questions for each in groups_of(desk.journal, carol.user, 10)] == [0, 1]


# Short ids.


def test_the_open_one_of_two_short_ids_is_meant(desk: Desk, alice: Neighbour) -> None:
    """A part that fits one open question and a past one means the open one; one that fits two is ambiguous."""
    first, second, third = (
        f"{begin}{'0' * 24}{end}" for begin, end in (("aaaa", "1234"), ("bbbb", "1234"), ("aaaa", "5678"))
    )
    for question in (first, second, third):
        ask(alice, question, id=question)
    ambiguous = desk.do(lambda: desk.node.inbox.answer("1234", Typed("yes")))
    assert isinstance(ambiguous, UsageError)
    assert "Give more of the id" in ambiguous.hint
    desk.do(lambda: desk.node.inbox.answer(first, Typed("yes")))
    assert desk.do(lambda: desk.node.inbox.answer("1234", Typed("yes"))).id == second
    assert desk.do(lambda: desk.node.inbox.answer("aaaa", Typed("yes"))).id == third
    assert "already answered" in desk.do(lambda: desk.node.inbox.answer("bbbb", Typed("yes"))).message


@pytest.mark.parametrize("part", ["", "a", "%", "aaa", "zzzz", "a" * 33])
def test_what_is_no_part_of_an_id_names_no_question(desk: Desk, alice: Neighbour, part: str) -> None:
    """An empty variable in a script does not answer the only question that is open."""
    ask(alice, id="a" * 32)
    refused = desk.do(lambda: desk.node.inbox.answer(part, Typed("yes")))
    assert isinstance(refused, UsageError)
    assert refused.message == f"No prompt has the id {part!r}."
    assert texts(desk) == ["Tea?"]


@pytest.mark.parametrize("part", ["aaaa", "bbbb", "bbbbbbbb"])
def test_past_questions_do_not_hide_the_open_one(desk: Desk, alice: Neighbour, part: str) -> None:
    """However many past ones have an id that begins or ends alike."""
    for number in range(MAX_MATCHING + 1):
        past = ask(alice, id=f"aaaa{number:020x}bbbbbbbb")
        desk.do(lambda past=past: desk.node.inbox.answer(past, Typed("no")))  # type: ignore[misc]
    last = ask(alice, id=f"aaaa{'f' * 20}bbbbbbbb")
    assert desk.do(lambda: desk.node.inbox.find(part)).id == last
    assert len(desk.journal.prompts.matching(part)) == 1
    desk.do(lambda: desk.node.inbox.answer(part, Typed("yes")))
    assert len(desk.journal.prompts.matching(part)) == MAX_MATCHING


def test_a_page_of_ambiguous_ids_is_short(desk: Desk, alice: Neighbour) -> None:
    """Of questions whose ids begin alike, and others whose ids end alike, a few are read in all."""
    for number in range(MAX_MATCHING):
        ask(alice, id=f"aaaa{number:028x}")
        ask(alice, id=f"{number:028x}aaaa")
    assert len(desk.journal.prompts.matching("aaaa")) == MAX_MATCHING


# A full inbox.


def test_a_full_inbox_costs_no_more(desk: Desk, alice: Neighbour) -> None:
    """An answer, a dismissal, a page and a bulk of notes take as much work with 20 notes as with 4,000."""
    peers = [Neighbour(desk, 100 + number, f"peer{number}").user for number in range(20)]
    fill(desk, peers, 20)
    few = _costs(desk, alice, peers)
    fill(desk, peers, 3_980)
    many = _costs(desk, alice, peers)
    assert {name: (few[name], many[name]) for name in few if many[name] > 2 * few[name] + 300} == {}


def _costs(desk: Desk, alice: Neighbour, peers: list[str]) -> dict[str, int]:
    """Return how many steps of SQLite's virtual machine each kind of work takes."""
    journal, human, now = desk.journal, desk.node.inbox, desk.clock.now()
    ids = [row.id for row in journal.prompts.page(Page(limit=10))]
    question = ask(alice, id=secrets.token_hex(16))
    found = {}
    work: dict[str, Callable[[], object]] = {
        "answer": lambda: human.answer(question[-8:], Typed("yes")),
        "dismiss": lambda: human.dismiss([ids[5][-8:]]),
        "ambiguous": lambda: human.answer(ids[5][:8], Typed("yes")),
        "page": lambda: read_page(journal, Page(limit=10), ids[0]),
        "of one": lambda: read_page(journal, Page(limit=1, peer=peers[3]), ""),
        "since": lambda: read_page(journal, Page(limit=10, since=now - HOUR_MS), ""),
        "since later": lambda: read_page(journal, Page(limit=10, since=now + HOUR_MS), ""),
        "past since later": lambda: read_page(journal, Page(limit=10, is_open=False, since=now + HOUR_MS), ""),
        "past": lambda: read_page(journal, Page(limit=10, is_open=False), ""),
        "groups": lambda: groups(journal, human.open, 10),
        "some": lambda: human.end_some(peers[4], "", 1),
        "snooze": lambda: human.snooze(ids[7][-8:], 1000),
    }
    for name, step in work.items():
        with desk.measured() as cost:
            desk.do(step)
        found[name] = cost.steps
    return found


def test_no_batch_ends_everything_that_expires_at_once(
    desk: Desk, alice: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batches after it end the rest, without a pause between them."""
    monkeypatch.setattr(deadlines, "MAX_EXPIRED", 10)
    for number in range(35):
        note(alice, str(number))
    costs = desk.sleep(2 * HOUR_S)
    assert desk.journal.prompts.open() == []
    assert len(costs) >= 4
    assert max(cost.changes for cost in costs) < 10 * 8  # with what triggers count
