"""Whatever arrives, well-formed but extreme: it touches few rows, and has little sent, over much that waits.

Beside `tests/unit/receiving/test_bounds.py`, which has one test for each attack, this tries all kinds of input.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.desk import Desk, Hand, control_of
from support.lone_daemon import Cost, Packet, Peer

from p2pflows.errors import P2pflowsError
from p2pflows.protocol import topics
from p2pflows.protocol.channel import Channel
from p2pflows.protocol.message import Type
from p2pflows.protocol.notice import MAX_RECEIPTS, MAX_STREAM_LINES
from p2pflowsd.api.methods import METHODS, Methods
from p2pflowsd.receiving.blocked import MAX_RELEASED
from p2pflowsd.running.worker_tokens import point_key
from p2pflowsd.sending import presence
from p2pflowsd.sending.send_queue import MAX_BUNDLE_BYTES

EPOCH = 5
LARGEST = 2**62
STEPS_OF_A_STATEMENT = 300
"""Instructions of SQLite that one statement takes which finds or changes a row, rounded up."""
STEPS_OF_A_MESSAGE = 20 * STEPS_OF_A_STATEMENT
STEPS_OF_A_NOTICE = (MAX_RECEIPTS + 4 * MAX_STREAM_LINES) * STEPS_OF_A_STATEMENT
STEPS_OF_A_RELEASE = MAX_RELEASED * STEPS_OF_A_MESSAGE
CHANGES_OF_A_MESSAGE = 6
CHANGES_OF_A_RELEASE = MAX_RELEASED * CHANGES_OF_A_MESSAGE
EXAMPLES = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
_NAMES = st.sampled_from(["User", "f", "C", "x", "_flows", "_instances", "a" * 64])
_COUNTS = st.sampled_from([0, 1, 2, EPOCH, 600, 2**53, LARGEST])
_IDS = st.integers(0, 40).map(lambda number: f"{number:032x}")
_TIMES = st.sampled_from([1, 1, 40, 5_000])
"""How often a line is repeated, each time a little different if the kind of line allows it."""
_DATA = st.sampled_from([{}, {"text": "x"}, {"op": "mount", "endpoint": "C"}, {"op": "list"}, {"a": [[]] * 300}])


@dataclass
class Scene:
    """Bob's daemon, over which much waits: requests that miss one before them, calls of his own, questions, a task."""

    desk: Desk
    peer: Peer
    hand: Hand
    tasks: list[str]

    def settle(self) -> list[Cost]:
        """Let a moment pass; return what each batch in it cost."""
        costs = []
        for pause in (0.03, 1.1):
            self.desk.timeline.sleep(pause)
            with self.desk.measured() as cost:
                self.desk.node.process_batch([])
            costs.append(cost)
        return costs

    def arrives(self, topic: str, *payloads: bytes) -> Cost:
        """Let packets arrive in one batch; return what it cost."""
        with self.desk.measured() as cost:
            self.desk.node.process_batch([Packet(topic, payload) for payload in payloads])
        return cost


@contextmanager
def scene(tmp_path: Path, name: str | None = "mallory") -> Iterator[Scene]:
    """Bob's daemon, with a contact or a stranger."""
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    desk = Desk(folder)
    desk.serve_human()
    desk.serves("f", kind="python", allow="anyone")
    desk.serves("C", allow="anyone")
    hand, peer = Hand(desk, "b", "w"), Peer(desk, 66, name)
    ann = Peer(desk, 67, "ann")
    ann.send(*(ann.message(epoch=EPOCH, seq=2 * n, data={"text": str(n)}) for n in range(300)))
    ann.send(ann.message("f", epoch=EPOCH, seq=0, type="call"), endpoint="f")
    ann.send(ann.message("C", epoch=EPOCH, seq=0, type="call"), endpoint="C")
    peer.send(*(peer.message(epoch=EPOCH, seq=2 * n) for n in range(1, 300)))
    desk.do(lambda: _accept_calls(desk, peer))
    desk.sleep(0.6)
    tasks = [task["task"] for task, _ in hand.takes()]
    assert len(tasks) == 2
    yield Scene(desk, peer, hand, tasks)
    desk.restart()  # which whatever arrived must not prevent
    desk.journal.close()


def _accept_calls(desk: Desk, peer: Peer) -> None:
    for number in range(40):
        desk.node.outbox.accept(
            Type.CALL if number % 2 else Type.POST, peer.user, ("x", "f", "User")[number % 3], {"fill": "x" * 1_000},
            expires=desk.clock.now() + 600_000, message_id=f"{number:032x}",
        )  # fmt: skip


def within(costs: list[Cost], *, steps: int, changes: int, published: int) -> None:
    """Check that no batch did more than it may, beside what any batch may do with what waits."""
    assert max(cost.steps for cost in costs) <= steps + STEPS_OF_A_RELEASE
    assert max(cost.changes for cost in costs) <= changes + CHANGES_OF_A_RELEASE
    assert sum(cost.published for cost in costs) <= published + 3 * MAX_BUNDLE_BYTES


_LINES: dict[str, st.SearchStrategy[Any]] = {
    "received": _IDS,
    "held": _IDS,
    "waiting": _IDS,
    "untimely": st.tuples(_IDS, _COUNTS),
    "refused": st.tuples(_IDS, st.sampled_from(["requests_full", "streams_full", "x"])),
    "gaps": st.tuples(_NAMES, _COUNTS, _COUNTS),
    "skips": st.tuples(_NAMES, _COUNTS, _COUNTS),
    "rewound": st.tuples(_NAMES, _COUNTS, _IDS),
    "positions": st.tuples(_NAMES, _COUNTS, _COUNTS),
    "progress": st.tuples(_IDS, st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)),
}


def _numbered(lines: list[Any], times: int) -> list[Any]:
    """Repeat lines; each copy of a line about a stream names another stream, as far as there is room for a number."""
    return [
        (line[0][:8] + str(copy), *line[1:])
        if copy and isinstance(line, tuple) and len(line) == 3 and not line[0].startswith("_")
        else line
        for copy in range(times)
        for line in lines
    ]


@EXAMPLES
@given(
    notices=st.lists(
        st.tuples(
            st.fixed_dictionaries({}, optional={name: st.lists(line, max_size=8) for name, line in _LINES.items()}),
            _TIMES,
        ),
        min_size=1,
        max_size=3,
    ),
    name=st.sampled_from([None, "mallory"]),
)
def test_notices(tmp_path: Path, notices: list[tuple[dict[str, list[Any]], int]], name: str | None) -> None:
    """A notice touches at most as many rows as it may have lines, and one bundle for each stream is sent for it."""
    with scene(tmp_path, name) as bob:
        for lists, times in notices:
            cost = bob.peer.notify(**{field: _numbered(lines, times) for field, lines in lists.items()})
            costs = [cost, *bob.settle()]
            within(costs, steps=STEPS_OF_A_NOTICE, changes=MAX_RECEIPTS + 4 * MAX_STREAM_LINES, published=40_000)


@EXAMPLES
@given(
    messages=st.lists(
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(["call", "post", "cancel", "reply", "error"]),
                "endpoint": _NAMES,
                "id": _IDS,
                "cause": _IDS,
                "epoch": _COUNTS,
                "seq": _COUNTS,
                "data": _DATA,
                "instance": st.none() | _IDS,
            }
        ),
        min_size=1,
        max_size=60,
    ),
    name=st.sampled_from([None, "mallory"]),
)
def test_bundles(tmp_path: Path, messages: list[dict[str, Any]], name: str | None) -> None:
    """A bundle costs a bounded number of rows for each of its messages, and one short answer for each."""
    with scene(tmp_path, name) as bob:
        by_endpoint: dict[str, list[bytes]] = {}
        for fields in messages:
            endpoint = "_reply" if fields["type"] in ("reply", "error") else fields["endpoint"]
            by_endpoint.setdefault(endpoint, []).append(bob.peer.message(**{**fields, "endpoint": endpoint}))
        for endpoint, bodies in by_endpoint.items():
            costs = [bob.peer.send(*bodies, endpoint=endpoint), *bob.settle()]
            within(
                costs,
                steps=len(bodies) * STEPS_OF_A_MESSAGE,
                changes=len(bodies) * CHANGES_OF_A_MESSAGE,
                published=len(bodies) * 3_000,
            )


@EXAMPLES
@given(
    header=st.fixed_dictionaries(
        {},
        optional={
            "held": st.just(["TASK0", "TASK1", "gone"]),
            "parked": st.just(["TASK1", "gone"]),
            "overdue": st.just([["gone", "f", 3]]),
            "slots": st.sampled_from([1, 4, LARGEST]),
            "waits": st.just([["TASK0", 0], ["TASK1", 1], ["gone", 0]]),
            "progress": st.just([{"task": "TASK0", "data": {"a": "x" * 1_000}}]),
            "asks": st.lists(
                st.sampled_from(
                    [
                        {"task": "TASK0", "k": 0, "op": "step", "value": "x" * 2_000, "mark": "m"},
                        {"task": "TASK0", "k": -1, "op": "cancel", "call": 0},
                        {"task": "TASK1", "k": 1, "op": "call", "user": "", "endpoint": "f", "data": {}, "mark": "m"},
                        {"task": "TASK1", "k": 2, "op": "unknown"},
                    ]
                ),
                max_size=4,
            ),
            "draining": st.booleans(),
            "bye": st.booleans(),
        },
    ),
    ends=st.lists(st.sampled_from(["TASK0", "TASK1", "gone"]), max_size=3),
    times=_TIMES,
)
@example(
    header={
        "asks": [{"task": "TASK0", "k": 0, "op": "step", "value": "x" * 2_000, "mark": "m"}],
        "waits": [["TASK0", 0], ["TASK1", 1]],
    },
    ends=[],
    times=5_000,
)
def test_worker_frames(tmp_path: Path, header: dict[str, Any], ends: list[str], times: int) -> None:
    """A frame of a worker costs a bounded number of rows, and is not answered with much more than it says."""
    with scene(tmp_path) as bob:
        topic, channel = topics.results(bob.desk.user, "b"), Channel(point_key(bob.desk.identity, "b"))
        frame: dict[str, Any] = {
            "worker": "w", "boot": bob.desk.node.boot, "n": 50, "seen": 50, "slots": 4, "held": bob.tasks,
            "draining": False, "bye": False, **header, "results": [{"task": task, "error": None} for task in ends],
        }  # fmt: skip
        for name in ("held", "parked", "overdue", "waits", "progress", "asks", "results"):
            frame[name] = frame.get(name, []) * times
        text = json.dumps(frame).replace("TASK0", bob.tasks[0]).replace("TASK1", bob.tasks[1])
        text = text.replace('"user": ""', f'"user": "{bob.peer.user}"')
        for number in (50, 51):
            sealed = channel.seal(topic, json.loads(text) | {"n": number}, [b"{}"] * len(frame["results"]))
            costs = [bob.arrives(topic, sealed), *bob.settle()]
            # Each of the few different lines may store or read something; repetitions do not.
            within(costs, steps=40 * STEPS_OF_A_MESSAGE, changes=40 * CHANGES_OF_A_MESSAGE, published=40 * 3_000)


@EXAMPLES
@given(
    statuses=st.lists(
        st.fixed_dictionaries({"boot": _COUNTS, "online": st.booleans()}, optional={"n": _COUNTS}), max_size=60
    )
)
def test_statuses(tmp_path: Path, statuses: list[dict[str, Any]]) -> None:
    """Whatever statuses arrive within a moment, what waits is sent again at most once."""
    with scene(tmp_path) as bob:
        pending = sum(row.size for row in bob.desk.journal.outgoing.pending())
        topic = topics.status(bob.peer.user)
        sealed = [presence.seal(bob.peer.identity, topic, status) for status in statuses]
        costs = [bob.arrives(topic, *sealed), *bob.settle()]
        rows = 45 * STEPS_OF_A_STATEMENT
        assert max(cost.steps for cost in costs) <= rows + STEPS_OF_A_RELEASE
        assert sum(cost.published for cost in costs) <= 3 * pending + 10_000


def _requests() -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    texts = ["", "mallory", "mallory/x", "User", "me", "0" * 32, "1", "human", "x" * 50_000]
    values = st.sampled_from([*texts, 0, 1, 5_000, LARGEST, True, {}, []])

    def of(method: str) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
        fields = METHODS[method].parameters.model_fields.items()
        required = {field.alias or name: values for name, field in fields if field.is_required()}
        optional = {field.alias or name: values for name, field in fields if not field.is_required()}
        return st.tuples(st.just(method), st.fixed_dictionaries(required, optional=optional))

    return st.sampled_from(sorted(METHODS)).flatmap(of)


@EXAMPLES
@given(requests=st.lists(_requests(), min_size=5, max_size=25))
def test_control_requests(tmp_path: Path, requests: list[tuple[str, dict[str, Any]]]) -> None:
    """A request on the control socket ends in a result or a sentence, writes little, and reads what it shows."""
    with scene(tmp_path) as bob:
        methods = Methods.of(control_of(bob.desk))

        async def ask(method: str, params: dict[str, Any]) -> None:
            try:
                await asyncio.wait_for(methods.run(method, params), 0.02)
            except (P2pflowsError, TimeoutError):
                return

        with asyncio.Runner() as runner:
            for method, params in requests:
                with bob.desk.measured() as cost:
                    runner.run(ask(method, params))
                # All that waits may be shown, or cleared; about 700 requests, questions and calls do.
                within([cost, *bob.settle()], steps=800 * STEPS_OF_A_STATEMENT, changes=1_500, published=100_000)


@pytest.mark.parametrize("method", ["status", "inbox", "conversations", "requests", "outbox", "log", "instances", "ls"])
def test_what_shows_something_changes_nothing(tmp_path: Path, method: str) -> None:
    """A method that only shows writes nothing and sends nothing."""
    with scene(tmp_path) as bob:
        with bob.desk.measured() as cost:
            asyncio.run(Methods.of(control_of(bob.desk)).run(method, {}))
        assert (cost.changes, cost.published) == (0, 0)
