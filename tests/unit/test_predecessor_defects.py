"""Defects of the predecessor that nothing else tests here and that need no daemon (docs/predecessor.md)."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from support.command_tree import commands
from support.scripted_run import ScriptedRun, incoming

import p2pflows
from p2pflows import errors
from p2pflows.cli import cli
from p2pflows.flows.flow import AtomicFlow, build, dump_state, invoke
from p2pflows.models.api_info import ApiInfo, quick_load_api_keys
from p2pflows.models.flow import ChatAtomicFlow
from p2pflows.protocol import identity

TWENTY_YEARS = 20 * 365 * 24 * 3600


def functions() -> Iterator[tuple[str, inspect.Signature]]:
    """Every function, method and constructor of the library by its dotted name."""
    for found in pkgutil.walk_packages(p2pflows.__path__, "p2pflows."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value):
                yield f"{module.__name__}.{name}", inspect.signature(value)
            elif inspect.isclass(value):
                for method, function in vars(value).items():
                    if inspect.isfunction(function):
                        yield f"{module.__name__}.{name}.{method}", inspect.signature(function)


class Counter(AtomicFlow):
    """Counts its messages."""

    def run(self, input_message: p2pflows.FlowMessage) -> dict[str, Any]:
        """Count."""
        del input_message
        self.flow_state["count"] = self.flow_state.get("count", 0) + 1
        return {"count": self.flow_state["count"]}


def test_an_identity_does_not_expire(tmp_path: Path) -> None:
    """A key from long ago is still its user and signs; its file holds the seed and no date (D1, D2)."""
    path = tmp_path / "identity.key"
    made = identity.create(path)
    then = path.stat().st_mtime - TWENTY_YEARS
    os.utime(path, (then, then))
    found = identity.load(path)
    assert found.user_id == made.user_id
    assert found.sign(b"today") == made.sign(b"today")
    _header, seed = path.read_text(encoding="ascii").split()
    assert len(bytes.fromhex(seed)) == 32


def test_no_option_takes_a_word_for_yes_or_no() -> None:
    """What is on or off is a flag, so that no text such as "False" can mean yes (D6)."""
    options = [
        (name, option)
        for name, command in commands(cli)
        for option in command.params
        if isinstance(option, click.Option)
    ]
    flags = [option for _, option in options if isinstance(option.type, click.types.BoolParamType)]
    assert flags
    assert all(option.is_flag for option in flags)
    worker = next(command for name, command in commands(cli) if name == "worker")
    with pytest.raises(click.UsageError):
        worker.make_context("worker", ["--keep-alive", "False"])


def test_no_default_is_shared() -> None:
    """No function has a list, dict or set as a default, which one caller could fill for the next (D13, D33)."""
    shared = [
        f"{name}({parameter.name})"
        for name, signature in functions()
        for parameter in signature.parameters.values()
        if isinstance(parameter.default, (list, dict, set, bytearray))
    ]
    assert shared == []


def test_what_an_error_holds_is_text() -> None:
    """Kind, message and hint are texts, in the object and in what is printed of it (D14)."""
    for kind, error_class in errors.BY_KIND.items():
        error = error_class("They do not serve 'Missing'.", "See: p2pflows ls bob")
        assert (error.kind, error.message, error.hint) == (kind, "They do not serve 'Missing'.", "See: p2pflows ls bob")
        assert str(error) == error.message
        assert error.as_json() == {"code": kind, "message": error.message, "hint": error.hint}


def test_nothing_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows leave no folder where they are made and run, and `enable_cache` is a word of a config like any (D52)."""
    monkeypatch.chdir(tmp_path)
    config = {"name": "sample", "description": "A sample.", "enable_cache": True}
    state = None
    counts = []
    for _ in range(2):
        flow = build(Counter, config, subflows={}, run=ScriptedRun(), state=state)
        invoke(flow, incoming({"same": "input"}))
        state = dump_state(flow)
        counts.append(flow.flow_state["count"])
    ChatAtomicFlow.instantiate_from_default_config(enable_cache=True)
    assert counts == [1, 2]
    assert list(tmp_path.iterdir()) == []


def test_a_key_keeps_its_version_when_it_is_filled_in() -> None:
    """What Azure asks for beside the key is not lost on the way (D57)."""
    info = ApiInfo("azure", "2024-02-01", "sk-azure", "https://azure.example")
    config = {"backend": {"api_infos": "???"}, "subflows_config": {"chat": {"backend": {"api_infos": "???"}}}}
    filled = quick_load_api_keys(config, [info])
    places = [filled["backend"], filled["subflows_config"]["chat"]["backend"]]
    assert [[each.api_version for each in place["api_infos"]] for place in places] == [["2024-02-01"]] * 2
    assert config["backend"] == {"api_infos": "???"}
