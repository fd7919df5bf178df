"""`call --lines` and `send --lines`: many messages with one command."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from support.scripted_daemon import ScriptedDaemon, run_here

from p2pflows.errors import FlowFailed, NotAllowed


def _numbers(count: int) -> str:
    return "".join(f'{{"n": {n}}}\n' for n in range(count))


def test_answers_come_in_the_order_of_the_input(daemon: ScriptedDaemon) -> None:
    """2,000 calls whose replies arrive out of order are printed in order, with at most 256 in flight."""
    under_way = most = 0
    chance = random.Random(7)  # noqa: S311 - an order to test with, no secret

    async def call(params: dict[str, Any]) -> dict[str, Any]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(chance.random() / 20)
        under_way -= 1
        return {"id": "x", "data": params["data"]}

    daemon.script["call"] = call
    ended = run_here(daemon.home, "call", "bob/x", "--lines", "--timeout", "5m", stdin=_numbers(2000))
    assert (ended.code, ended.err) == (0, "")
    assert ended.lines == [{"n": n} for n in range(2000)]
    assert 64 < most <= 256
    assert daemon.asked[0] == ("call", {"address": "bob/x", "timeout": 300.0, "data": {"n": 0}})
    assert [params["data"]["n"] for _, params in daemon.asked] == list(range(2000))


def test_one_slow_line_does_not_stop_the_others(daemon: ScriptedDaemon) -> None:
    """Lines after a slow one are sent meanwhile, and printed after it."""
    last = asyncio.Event()

    async def call(params: dict[str, Any]) -> dict[str, Any]:
        if params["data"]["n"] == 0:
            await asyncio.wait_for(last.wait(), 20)
        elif params["data"]["n"] == 1999:
            last.set()
        return {"data": params["data"]}

    daemon.script["call"] = call
    ended = run_here(daemon.home, "call", "bob/x", "--lines", stdin=_numbers(2000))
    assert ended.lines == [{"n": n} for n in range(2000)]


def test_send_prints_one_id_per_line(daemon: ScriptedDaemon) -> None:
    """Every accepted line has its id, in order; blank lines are ignored, and the last line may lack its end."""
    daemon.script["send"] = lambda params: {"id": f"id{params['data']['n']}"}
    ended = run_here(daemon.home, "send", "bob/x", "--lines", stdin='\n{"n":1}\n \n\r\n{"n":2}\r\n{"n":3}')
    assert (ended.code, ended.out, ended.err) == (0, "id1\nid2\nid3\n", "")


def test_send_with_json_prints_json_lines_and_no_bare_ids(daemon: ScriptedDaemon) -> None:
    """With --json, each line of the output is a JSON object, with an id or an error."""
    daemon.script["send"] = lambda params: {"id": "1"} if params["data"] else NotAllowed("No.")
    ended = run_here(daemon.home, "send", "bob/x", "--lines", "--json", stdin='{"n":1}\n{}\n')
    error = {"error": {"code": "not_allowed", "message": "No.", "hint": ""}}
    assert (ended.code, ended.lines) == (4, [{"id": "1"}, error])


def test_stream_with_lines_is_refused(daemon: ScriptedDaemon) -> None:
    """The progress of many calls would be mixed up, so --stream is refused together with --lines."""
    ended = run_here(daemon.home, "call", "bob/x", "--lines", "--stream", stdin="{}\n")
    assert (ended.code, ended.out, daemon.asked) == (2, "", [])
    assert "--stream shows the progress of one call" in ended.err


def test_empty_input_is_not_an_error(daemon: ScriptedDaemon) -> None:
    """Empty input produces empty output."""
    ended = run_here(daemon.home, "call", "bob/x", "--lines")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_a_failed_line_has_its_error_in_its_place(daemon: ScriptedDaemon) -> None:
    """Errors are printed in place of answers; if all have one kind, the exit code is that of the kind."""
    failures = {1: FlowFailed("ValueError: no.", "Look."), 3: FlowFailed("ValueError: no.", "Look.")}
    daemon.script["call"] = lambda params: failures.get(params["data"]["n"], {"data": params["data"]})
    ended = run_here(daemon.home, "call", "bob/x", "--lines", stdin=_numbers(4))
    error = {"error": {"code": "flow_failed", "message": "ValueError: no.", "hint": "Look."}}
    assert ended.lines == [{"n": 0}, error, {"n": 2}, error]
    assert ended.code == 1
    assert ended.err == "Error [flow_failed]: 2 of 4 lines failed; the output has their errors.\n"


def test_failures_of_several_kinds_are_exit_1(daemon: ScriptedDaemon) -> None:
    """If lines fail with several exit codes, the command ends with exit code 1."""
    daemon.script["call"] = NotAllowed("No.")
    ended = run_here(daemon.home, "call", "bob/x", "--lines", "--json", stdin="{}\n{}\n")
    assert (ended.code, ended.error["code"]) == (4, "not_allowed")
    ended = run_here(daemon.home, "call", "bob/x", "--lines", "--json", stdin="{}\n{bad\n")
    assert (ended.code, ended.error["code"]) == (1, "error")


def test_a_line_that_is_not_an_object_fails_alone(daemon: ScriptedDaemon) -> None:
    """The error of a malformed line has its line number, and the other lines are sent."""
    daemon.script["call"] = lambda params: {"data": params["data"]}
    lines = ['{"n": 1}', "", "{bad}", "[1]", '"' + "x" * 1_100_000 + '"', '{"n": 2}']
    ended = run_here(daemon.home, "call", "bob/x", "--lines", stdin="\n".join(lines) + "\n")
    first, bad, no_object, huge, last = ended.lines
    assert (first, last) == ({"n": 1}, {"n": 2})
    assert bad["error"]["code"] == "usage"
    assert bad["error"]["message"].startswith("Line 3 of the input: The data is not JSON: line 1, column 2")
    assert no_object["error"]["message"].startswith("Line 4 of the input: The data is a list")
    assert huge["error"]["code"] == "too_large"
    assert "Line 5" in huge["error"]["message"]
    assert ended.code == 2


@pytest.mark.parametrize("method", ["call", "send"])
def test_a_lost_daemon_is_reported_with_counts(daemon: ScriptedDaemon, method: str) -> None:
    """Finished lines are printed, unknown ones are marked, and the error says where to continue."""

    async def answer(params: dict[str, Any]) -> dict[str, Any]:
        if params["data"]["n"] == 100:
            await asyncio.sleep(0.3)
            daemon.die()
        elif params["data"]["n"] > 100:
            await asyncio.sleep(60)
        return {"id": f"id{params['data']['n']}", "data": params["data"]}

    daemon.script[method] = answer
    ended = run_here(daemon.home, method, "bob/x", "--lines", stdin=_numbers(2000))
    assert ended.code == 3
    shown = ended.out.splitlines()
    assert shown[99] == ('{"n":99}' if method == "call" else "id99")
    assert [json.loads(line)["error"]["code"] for line in shown[100:]] == ["daemon_not_running"] * 256
    good = "100 lines are answered" if method == "call" else "100 lines were accepted (their ids are printed)"
    error, hint = ended.err.splitlines()
    assert error.endswith(f"The daemon went away: {good}, 0 failed, and of lines 101 to 356, 256 have unknown results.")
    assert hint == "Start it with: p2pflows up. Lines from 357 on were not sent: tail -n +357"


def test_data_beside_lines_is_refused(daemon: ScriptedDaemon) -> None:
    """DATA is refused together with --lines, because the data comes from stdin."""
    assert run_here(daemon.home, "send", "bob/x", "a=1", "--lines").code == 2
    assert daemon.asked == []
