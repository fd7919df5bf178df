"""`serve --chat --tool`: what the model is told of the flows and people that it may call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import CommandResult
from support.scripted_daemon import ScriptedDaemon, run_here

BOB, ANN = "b0" * 32, "a0" * 32
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
FLOWS: dict[str, dict[str, Any]] = {
    "bob/search": {"kind": "python", "description": "Finds.", "schema": SCHEMA, "user": BOB, "endpoint": "search"},
    "ann/search": {"kind": "exec", "description": "", "schema": None, "user": ANN, "endpoint": "search"},
    "ann/User": {"kind": "human", "description": "", "schema": None, "user": ANN, "endpoint": "User"},
    "Zoë/User": {"kind": "human", "description": "", "schema": None, "user": ANN, "endpoint": "User"},
    "bob/owner": {"kind": "python", "description": "x", "schema": SCHEMA, "user": BOB, "endpoint": "owner"},
}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    """A daemon that knows the flows above."""
    with ScriptedDaemon(tmp_path) as daemon:
        unknown = {"served": None, "allowed": None, "online": False}
        daemon.script.update(
            describe=lambda params: FLOWS.get(params["address"], unknown),
            serve={"allow": "contacts", "schema": SCHEMA, "kind": "class", "may_call": ["bob/search"]},
            status={"workers": []},
        )
        yield daemon


def serve(daemon: ScriptedDaemon, *options: str) -> CommandResult:
    """Serve a chat."""
    return run_here(daemon.home, "serve", "Planner", "--chat", "--model", "m", *options)


def config_of(daemon: ScriptedDaemon) -> dict[str, Any]:
    """The config with which it was served."""
    params = dict(daemon.asked)["serve"]
    assert params["subflows"] == params["config"].get("subflows_config", {})
    config: dict[str, Any] = params["config"]
    return config


def test_tools_are_told_to_the_model_as_their_owners_describe_them(daemon: ScriptedDaemon) -> None:
    """Each has a name of its own, and the user id in place of the petname."""
    tools = ("bob/search", "ann/search", "ann/User", "Zoë/User", "bob/owner")
    serve(daemon, *(word for tool in tools for word in ("--tool", tool))).ok()
    config = config_of(daemon)
    assert list(config["tools"]) == ["search", "search_2", "ask_ann", "ask_Zo_", "owner_2"]
    assert config["tools"]["search"] == {"description": "Finds.", "parameters": SCHEMA}
    assert config["tools"]["search_2"]["parameters"] == {"type": "object", "properties": {}}
    assert config["tools"]["ask_ann"]["parameters"]["required"] == ["text"]
    assert config["subflows_config"]["search"] == {"user_id": BOB, "flow_endpoint": "search"}
    assert "owner" not in config["subflows_config"]


def test_the_owner_is_asked_before_some_tools_run(daemon: ScriptedDaemon) -> None:
    """So the chat may call its owner's human, too."""
    serve(daemon, "--tool", "ann/User", "--confirm", "bob/search").ok()
    config = config_of(daemon)
    assert config["tools"]["search"]["confirm"] == "owner"
    assert "confirm" not in config["tools"]["ask_ann"]
    assert config["subflows_config"]["owner"] == {"user_id": "local", "flow_endpoint": "User"}


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (("--tool", "carol/x"), "Nobody says what 'carol/x' takes"),
        (("--tool", "bob/search", "--set", 'tools=["x"]'), "groups of settings"),
        (("--tool", "bob/search", "--set", "backend.n=2"), "one answer"),
    ],
)
def test_what_cannot_be_a_tool_is_refused(daemon: ScriptedDaemon, options: tuple[str, ...], wrong: str) -> None:
    """Nothing is served then."""
    ended = serve(daemon, *options)
    assert ended.code == 2
    assert wrong in ended.err
    assert "serve" not in dict(daemon.asked)


def test_only_a_chat_has_tools(daemon: ScriptedDaemon) -> None:
    """The error says so."""
    ended = run_here(daemon.home, "serve", "f", "--exec", "cat", "--tool", "bob/search")
    assert ended.code == 2
    assert "--tool and --confirm belong to --chat" in ended.err
