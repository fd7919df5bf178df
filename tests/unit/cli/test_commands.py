"""Every command: its requests to the daemon, and its output for people and for programs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from support.commands import CommandResult
from support.scripted_daemon import ScriptedDaemon, moment, prompt, run_here

from p2pflows.contacts import Contacts
from p2pflows.errors import Declined, NotServed, UsageError
from p2pflows.models.templates import Template

BOB = "b0" * 32
KEY = "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394"
"""A user id that is a public key, which `contacts add` asks for."""
KNOWN = {"verified": False, "introduced_by": None, "clock_ahead_ms": None}
ID = "0197f6a0c3de7b0e9a5d0f0e4f1c22d9"
EVIL = "\x1b]0;owned\x07"


# Identity and contacts.


def test_init_makes_one_identity(tmp_path: Path) -> None:
    """The first `init` makes a private key, and the second loads it; both print the same user id."""
    first, second = run_here(tmp_path / "a", "init"), run_here(tmp_path / "a", "init")
    assert (first.code, second.code) == (0, 0)
    assert first.out == second.out
    assert len(first.out) == 65
    assert first.err.startswith("Made your identity")
    assert second.err.startswith("You already have an identity")
    assert (tmp_path / "a/identity.key").stat().st_mode & 0o777 == 0o600
    assert run_here(tmp_path / "a", "init", "--json").document == {
        "user_id": first.out.strip(), "home": str(tmp_path / "a"), "made": False
    }  # fmt: skip


def test_init_refuses_a_home_it_cannot_use(tmp_path: Path) -> None:
    """If a file is in the place of the home folder, the error says so."""
    (tmp_path / "file").write_text("")
    ended = run_here(tmp_path / "file", "init")
    assert ended.code == 2
    assert ended.err.startswith("Error [usage]: ")


def test_id_prints_the_user_id(tmp_path: Path) -> None:
    """`id` prints the user id: alone, as JSON, or below a QR code. Without an identity, it says how to make one."""
    none = run_here(tmp_path, "id")
    assert none.code == 2
    assert "p2pflows init" in none.err
    user = run_here(tmp_path, "init").out
    assert run_here(tmp_path, "id").out == user
    assert run_here(tmp_path, "id", "--json").document == {"user_id": user.strip(), "home": str(tmp_path)}
    drawn = run_here(tmp_path, "id", "--qr").out
    assert drawn.endswith(user)
    assert drawn.count("█") > 100


def test_contacts_need_no_daemon(tmp_path: Path) -> None:
    """Contacts are added, listed and removed without a daemon."""
    assert run_here(tmp_path, "contacts").err.startswith("You have no contacts.")
    assert run_here(tmp_path, "contacts", "add", "bob", KEY.upper()).code == 0
    assert run_here(tmp_path, "contacts", "list").out == f"NAME  USER ID{' ' * 59}KNOWN\nbob   {KEY}\n"
    assert run_here(tmp_path, "contacts", "list", "--json").document == [{**KNOWN, "name": "bob", "user": KEY}]
    assert run_here(tmp_path, "contacts", "add", "bob", "00" * 32).code == 2
    no_key = run_here(tmp_path, "contacts", "add", "eve", "b0" * 32)
    assert (no_key.code, "it is not a public key" in no_key.err) == (2, True)
    assert "contacts rename bob bert" in run_here(tmp_path, "contacts", "add", "bert", KEY).err
    assert run_here(tmp_path, "contacts", "rename", "bob", "Zoë").err == f"Zoë is {KEY}.\n"
    assert run_here(tmp_path, "contacts", "rename", "Zoë", "bob").code == 0
    assert run_here(tmp_path, "contacts", "add", "eve", "123", "--json").error["code"] == "usage"
    assert run_here(tmp_path, "contacts", "remove", "bob", "--json").document == {"name": "bob", "user": KEY}
    assert run_here(tmp_path, "contacts", "remove", "bob").code == 3


def test_contacts_accepts_json_before_and_after_list(tmp_path: Path) -> None:
    """As for `outbox`, a command inherits --json from its group."""
    run_here(tmp_path, "contacts", "add", "bob", KEY)
    for words in (["--json"], ["list", "--json"], ["--json", "list"]):
        assert run_here(tmp_path, "contacts", *words).document == [{**KNOWN, "name": "bob", "user": KEY}], words


# Messages.


def test_call_prints_the_data_and_nothing_else(daemon: ScriptedDaemon) -> None:
    """The data of the reply is one line on stdout."""
    daemon.script.update(
        submit={"id": ID}, wait={"id": ID, "data": {"human_input": "Hey there neighbor!!"}, "from": BOB}
    )
    data = {"api_output": "Neighbor, are you there?"}
    ended = run_here(daemon.home, "call", "bob/User", json.dumps(data), "--timeout", "2m", "--conversation", ID)
    assert (ended.code, ended.out, ended.err) == (0, '{"human_input":"Hey there neighbor!!"}\n', "")
    assert daemon.asked == [
        ("submit", {"address": "bob/User", "data": data, "timeout": 120.0, "conversation": ID}),
        ("wait", {"id": ID}),
    ]
    assert run_here(daemon.home, "call", "bob/User", "text=hi", "--json").out == ended.out


def test_call_reads_stdin(daemon: ScriptedDaemon) -> None:
    """Piped input is the data, with `-` or without any argument."""
    daemon.script.update(submit={"id": ID}, wait={"id": ID, "data": {}})
    for words in ([], ["-"]):
        assert run_here(daemon.home, "call", "bob/sum", *words, stdin='{"n":\n[1, 2]}').out == "{}\n"
    assert [params["data"] for method, params in daemon.asked if method == "submit"] == [{"n": [1, 2]}] * 2


def test_a_declined_call_is_exit_1(daemon: ScriptedDaemon) -> None:
    """The command ends with the error of the answer."""
    daemon.script.update(submit={"id": ID}, wait=Declined("bob declined: not now."))
    ended = run_here(daemon.home, "call", "bob/User", "text=hi")
    assert (ended.code, ended.out, ended.err) == (1, "", "Error [declined]: bob declined: not now.\n")


def test_a_call_outlives_the_daemon(daemon: ScriptedDaemon) -> None:
    """If the daemon dies while a call waits, the error says how to continue."""
    daemon.script.update(submit={"id": ID}, wait=lambda _: daemon.die())
    ended = run_here(daemon.home, "call", "bob/User", "text=hi")
    assert ended.code == 3
    assert f"p2pflows wait {ID}" in ended.err


def test_send_prints_the_id(daemon: ScriptedDaemon) -> None:
    """`send` prints the id of the message, which `wait` and `cancel` accept."""
    daemon.script.update(send={"id": ID}, wait={"id": ID, "state": "delivered"}, cancel={})
    assert run_here(daemon.home, "send", "bob/log", "n=1", "--timeout", "7d").out == f"{ID}\n"
    assert run_here(daemon.home, "send", "bob/log", "n:=1", "--json").document == {"id": ID}
    assert run_here(daemon.home, "wait", ID, "--timeout", "5").document == {"id": ID, "state": "delivered"}
    assert run_here(daemon.home, "cancel", ID).err == "Cancelled 4f1c22d9.\n"
    assert daemon.asked[0] == (
        "send",
        {"address": "bob/log", "data": {"n": 1}, "typed": {"n": "1"}, "timeout": 604_800.0},
    )
    assert daemon.asked[1] == ("send", {"address": "bob/log", "data": {"n": 1}})
    assert daemon.asked[2:] == [("wait", {"id": ID, "timeout": 5.0}), ("cancel", {"id": ID})]


# Questions.


def test_inbox_shows_questions(daemon: ScriptedDaemon) -> None:
    """The table has one row per question, with control characters escaped; JSON has the unchanged list."""
    shown = prompt(ID, f"Are you there?\n{EVIL}", received=moment(-185))
    past = prompt(ID, "x", name=None, status="expired", received=moment(-185))
    daemon.script["inbox"] = {"prompts": [shown, past]}
    ended = run_here(daemon.home, "inbox", "--all")
    assert ended.code == 0
    assert ended.out.splitlines() == [
        "ID        FROM       ENDPOINT  ASKED   LEFT     TEXT",
        "4f1c22d9  bob        User      3m ago  1h       Are you there?\\n\\x1b]0;owned\\x07",
        "4f1c22d9  b0b0b0b0…  User      3m ago  expired  x",
    ]
    assert daemon.asked == [("inbox", {"all": True, "limit": 50})]
    assert run_here(daemon.home, "inbox", "--json").document[0] == shown
    daemon.script["inbox"] = {"prompts": []}
    assert run_here(daemon.home, "inbox").err == "There are no open questions.\n"
    assert run_here(daemon.home, "inbox", "--json").out == "[]\n"


def test_answer_and_decline(daemon: ScriptedDaemon) -> None:
    """An answer is one argument, several, or stdin; `decline` may have a reason."""
    daemon.script.update(answer={"id": ID}, decline={"id": ID}, decline_all={"declined": 3, "dismissed": 1})
    assert run_here(daemon.home, "answer", "4f1c22d9", "Hey there neighbor!!").err == "Answered 4f1c22d9.\n"
    run_here(daemon.home, "answer", "4f1c22d9", "of", "course")
    run_here(daemon.home, "answer", "4f1c22d9", "-", stdin="two\nlines\n")
    assert run_here(daemon.home, "decline", "4f1c22d9", "--reason", "no", "--json").document == {"id": ID}
    told = run_here(daemon.home, "decline", "--from", "bob", "--all")
    assert told.err.strip() == "Declined 3 questions, and put away 1 note."
    for unclear in ([], ["--all"], ["4f1c22d9", "--all"], ["--from", "bob"], ["4f1c22d9", "--from", "bob"]):
        assert run_here(daemon.home, "decline", *unclear).code == 2
    assert daemon.asked == [
        ("answer", {"id": "4f1c22d9", "words": ["Hey there neighbor!!"]}),
        ("answer", {"id": "4f1c22d9", "words": ["of", "course"]}),
        ("answer", {"id": "4f1c22d9", "text": "two\nlines"}),
        ("decline", {"id": "4f1c22d9", "reason": "no"}),
        ("decline_all", {"user": "bob"}),
    ]


def _chat(daemon: ScriptedDaemon, stdin: str, *words: str) -> CommandResult:
    ids = iter(range(100))
    asked: dict[str, Any] = {}

    def submit(params: dict[str, Any]) -> dict[str, Any]:
        message_id = f"{next(ids):032x}"
        asked[message_id] = params["data"]
        return {"id": message_id}

    def wait(params: dict[str, Any]) -> Any:
        (text,) = asked[params["id"]].values()
        return Declined("No.") if text == "fail" else {"id": params["id"], "data": {"human_input": f"{text}!\n{EVIL}"}}

    daemon.script.update(submit=submit, wait=wait)
    return run_here(daemon.home, "chat", "bob/Talker", *words, stdin=stdin)


def test_chat_is_one_conversation(daemon: ScriptedDaemon) -> None:
    """All lines belong to one conversation; an error does not end it, but /quit does; piped input gets no prompt."""
    daemon.script["describe"] = {"kind": "human", "schema": None}
    ended = _chat(daemon, "hello\n\nfail\nbye\n/quit\nnever\n", "--timeout", "5")
    assert ended.code == 0
    assert ended.out == "bob: hello!\n     \\x1b]0;owned\\x07\nbob: bye!\n     \\x1b]0;owned\\x07\n"
    assert ended.err == "Error [declined]: No.\n"
    sent = [params for method, params in daemon.asked if method == "submit"]
    assert [params["data"] for params in sent] == [{"api_output": text} for text in ("hello", "fail", "bye")]
    assert [params.get("conversation") for params in sent] == [None, "0" * 32, "0" * 32]


@pytest.mark.parametrize(
    ("schema", "key"),
    [
        (
            {
                "properties": {"question": {"type": "string"}, "n": {"type": "integer"}},
                "required": ["question", "n"],
            },
            "question",
        ),
        ({"properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a", "b"]}, "text"),
        ({"properties": "nonsense", "required": 5}, "text"),
        (None, "text"),
    ],
)
def test_chat_finds_the_key_for_a_text(daemon: ScriptedDaemon, schema: Any, key: str) -> None:
    """For a flow that is not a human, the key is that of its one required text, or else `text`."""
    daemon.script["describe"] = {"kind": "python", "schema": schema}
    assert _chat(daemon, "hello").code == 0
    assert next(params["data"] for method, params in daemon.asked if method == "submit") == {key: "hello"}


def test_chat_with_nobody_ends_at_once(daemon: ScriptedDaemon) -> None:
    """An endpoint that is not served is an error before any input."""
    daemon.script["describe"] = NotServed("bob does not serve that.")
    assert _chat(daemon, "hello").code == 1


# Serving.


def _served(**more: Any) -> dict[str, Any]:
    fields = {"text": {"type": "string"}, "to": {"type": "string", "default": "fr"}}
    return {
        "endpoint": "translate",
        "kind": "python",
        "target": "/x/flows.py:translate",
        "dispatch_point": "default",
        "allow": "contacts",
        "parallel": False,
        "description": "Translate.",
        "schema": {"properties": fields, "required": ["text"]},
        "revision": 1,
        **more,
    }


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (None, "Serving translate for contacts. Try"),
        ({"kind": "python", "target": "/x/flows.py:translate"}, "Serving translate for contacts, again. Try"),
        ({"kind": "exec", "target": "cat\n"}, "for contacts, in place of the command cat\\n. Try"),
        ({"kind": "class", "target": "m:C"}, "for contacts, in place of m:C. Try"),
        ({"kind": "human", "target": ""}, "for contacts, in place of you in person. Try"),
    ],
)
def test_serve_says_what_it_replaces(
    daemon: ScriptedDaemon, tmp_path: Path, before: dict[str, str] | None, said: str
) -> None:
    """What was served under the same name before is named; --replace is passed on."""
    daemon.script["serve"] = _served(replaced=before)
    ended = run_here(daemon.home, "serve", "translate", "m:translate", "--replace", cwd=tmp_path)
    assert said in ended.err
    assert daemon.asked[0][1]["replace"] is True


def test_serve_and_describe_show_what_a_class_may_call(daemon: ScriptedDaemon) -> None:
    """The owner sees whom a class calls in their name, whatever the worker that loaded it says."""
    daemon.script["serve"] = _served(kind="class", may_call=["bob/x\x1b", *(f"me/f{n:02}" for n in range(30))])
    ended = run_here(daemon.home, "serve", "A", "--class", "a.A")
    assert "\nIn your name, it may call bob/x\\x1b, me/f00, " in ended.err
    assert ended.err.endswith(", me/f18, and 11 more.\n")
    about = {"address": "me/A", "user": BOB, "online": True, "served": True, "allowed": True}
    for known, shown in ((["me/User"], "me/User"), ([], "nothing"), (None, "not known yet; serve it again")):
        daemon.script["describe"] = {**_served(kind="class", may_call=known), **about}
        assert f"it may call     {shown}\n" in run_here(daemon.home, "describe", "me/A").out


def test_serve_sends_the_target(daemon: ScriptedDaemon, tmp_path: Path) -> None:
    """The path of a file is made absolute, a module and a command stay as they are; the output suggests a call."""
    daemon.script["serve"] = _served()
    (tmp_path / "flows.py").write_text("def translate(text: str) -> str: ...\n")
    ended = run_here(daemon.home, "serve", "translate", "flows.py:translate", cwd=tmp_path)
    assert ended.code == 0
    assert ended.err == "Serving translate for contacts. Try: p2pflows call me/translate text=TEXT\n"
    run_here(
        daemon.home,
        "serve",
        "translate",
        "package.module:Class.method",
        "--parallel",
        "--allow",
        "bob,carol",
        cwd=tmp_path,
    )
    run_here(daemon.home, "serve", "sum", "--exec", "./sum.sh", "--dispatch-point", "gpu", cwd=tmp_path)
    assert run_here(daemon.home, "serve", "User", "--human", "--json", cwd=tmp_path).document == _served()
    common = {"cwd": str(tmp_path), "dispatch_point": "default", "allow": "contacts", "parallel": False}
    assert [params for _, params in daemon.asked] == [
        {**common, "endpoint": "translate", "kind": "python", "target": f"{tmp_path}/flows.py:translate"},
        {**common, "endpoint": "translate", "kind": "python", "target": "package.module:Class.method",
         "parallel": True, "allow": "bob,carol"},
        {**common, "endpoint": "sum", "kind": "exec", "target": "./sum.sh", "dispatch_point": "gpu"},
        {**common, "endpoint": "User", "kind": "human"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.py:f"], "There is no file"),
        (["flows.py"], "p2pflows serve x flows.py:x"),
        (["flows.py:"], "p2pflows serve x flows.py:x"),
        (["package.module"], "PACKAGE.MODULE:FUNCTION"),
        (["flows.py:not a name"], "does not name a function"),
        (["./flows:f"], "does not name a function"),
        (["flows.py:f", "--human"], "exactly one"),
        (["--exec", "ls", "--human"], "exactly one"),
    ],
)
def test_serve_refuses_a_malformed_target(words: list[str], message: str, tmp_path: Path) -> None:
    """A target without a function, or whose file is missing, is refused, with an example of the right form."""
    (tmp_path / "flows.py").write_text("")
    ended = run_here(tmp_path, "serve", "x", *words, cwd=tmp_path)
    assert ended.code == 2
    assert message in ended.err


@pytest.mark.parametrize("words", [["fl.py"], ["fl.py:"], [":Counter"], ["Counter"], ["fl.py:a b"]])
def test_a_class_that_cannot_be_served_is_not_called_a_function(words: list[str], tmp_path: Path) -> None:
    """The error speaks of a class, even for a file alone, and its example has --class."""
    (tmp_path / "fl.py").write_text("")
    ended = run_here(tmp_path, "serve", "x", "--class", *words, cwd=tmp_path)
    assert ended.code == 2
    assert f"{words[0]!r} does not name a class." in ended.err
    assert "FILE.py:CLASS or MODULE.CLASS, for example: p2pflows serve x --class " in ended.err


def serve_chat(daemon: ScriptedDaemon, *words: str, workers: Any = ()) -> CommandResult:
    """Serve a chat; `workers` is what the status shows of them."""
    daemon.script |= {"serve": _served(kind="class"), "status": {"workers": list(workers)}}
    ended = run_here(daemon.home, "serve", "A", "--chat", *words)
    assert ended.code == 0, ended
    return ended


def test_several_models_are_served_in_their_order(daemon: ScriptedDaemon) -> None:
    """They share one server, or have one each; anything between is refused."""
    serve_chat(daemon, "--model", "a", "--model", "b", "--api-base", "http://h/v1")
    assert daemon.asked[0][1]["config"]["backend"] == {"model_name": ["a", "b"], "api_base": "http://h/v1"}
    daemon.asked.clear()
    serve_chat(daemon, "--model", "a", "--api-base", "http://a/v1", "--model", "b", "--api-base", "http://b/v1")
    pairs = [{"model_name": name, "api_base": f"http://{name}/v1"} for name in "ab"]
    assert daemon.asked[0][1]["config"]["backend"] == {"model_name": pairs}
    words = ["--model", "a", "--api-base", "http://a/v1", "--api-base", "http://b/v1"]
    assert "There are 1 models and 2 servers." in run_here(daemon.home, "serve", "A", "--chat", *words).err


def test_a_chat_is_told_what_to_be(daemon: ScriptedDaemon, tmp_path: Path) -> None:
    """`--system` takes a text or a file as it is, with any braces."""
    for text in ("Be {{kind}}.", f"@{tmp_path / 'rules'}"):
        (tmp_path / "rules").write_text("Be {{kind}}.")
        daemon.asked.clear()
        serve_chat(daemon, "--model", "m", "--system", text)
        template = Template.from_config(daemon.asked[0][1]["config"]["system_message_prompt_template"])
        assert template.render({"kind": "harsh"}) == "Be {{kind}}."
    for words in (["--human"], ["--chat", "--set", "system_message_prompt_template.template=x"]):
        assert run_here(daemon.home, "serve", "A", "--system", "Be kind.", *words).code == 2
    assert "Cannot read" in run_here(daemon.home, "serve", "A", "--chat", "--system", "@nowhere").err


@pytest.mark.parametrize(
    "words", [["backend.max_token=5"], ["backend.temperature=hot"], ["previous_messages.last_k=-1"]]
)
def test_settings_of_a_chat_that_mean_nothing_are_refused(daemon: ScriptedDaemon, words: list[str]) -> None:
    """Nothing is served, and the error names the key."""
    ended = run_here(daemon.home, "serve", "A", "--chat", "--model", "m", "--set", *words)
    assert (ended.code, daemon.asked) == (2, [])
    assert words[0].partition("=")[0] in ended.err


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ([], "No worker of 'p' runs yet. Start one with the key of the model: p2pflows worker --dispatch-point p"),
        ([{"dispatch_point": "p", "workers": 1, "keys": 0}], "No worker of 'p' has a key of a model server."),
        ([{"dispatch_point": "p", "workers": 0, "keys": 0}], "No worker of 'p' runs yet."),
        ([{"dispatch_point": "p", "workers": 1, "keys": 2}], None),
        ([{"dispatch_point": "p", "workers": 1}], None),
    ],
)
def test_a_chat_says_what_its_point_lacks(
    daemon: ScriptedDaemon, workers: list[dict[str, Any]], said: str | None
) -> None:
    """Who serves a chat reads at once that no worker, or no key, is there; workers of a release before do not say."""
    ended = serve_chat(daemon, "--model", "m", "--dispatch-point", "p", workers=workers)
    assert (said or "No worker") in ended.err if said else "No worker" not in ended.err


def test_a_chat_is_served_with_the_option_of_its_worker(daemon: ScriptedDaemon) -> None:
    """`serve` and `worker` have the same option --api-base for the model's server."""
    serve_chat(daemon, "--model", "m", "--api-base", "http://h/v1", "--set", "backend.n=2")
    assert daemon.asked[0][1]["config"] == {"backend": {"n": 2, "model_name": "m", "api_base": "http://h/v1"}}
    assert daemon.asked[0][1]["subflows"] == {}
    assert (
        "--tool and --confirm belong to --chat" in run_here(daemon.home, "serve", "A", "--api-base", "x", "--human").err
    )


def test_two_settings_of_one_key_are_refused(daemon: ScriptedDaemon) -> None:
    """`a.b=1` and `a=2` are refused in either order; neither silently replaces the other."""
    for first, second in (("a.b=1", "a=2"), ("a=2", "a.b=1"), ("a=1", "a=1"), ('{"a": {"b": 1}}', "a.b=2")):
        for words in (["serve", "x", "--class", "m.C"], ["mount", "bob/x"]):
            ended = run_here(daemon.home, *words, "--set", first, "--set", second)
            assert ended.code == 2, (first, second)
            assert "is set twice.\nKeep one of the two settings." in ended.err
    assert daemon.asked == []


def test_mount_accepts_settings_as_serve_does(daemon: ScriptedDaemon) -> None:
    """Settings are KEY=VALUE, JSON objects, or both; for anything else, the error shows these forms."""
    daemon.script["mount"] = {"instance": ID}
    overrides = ['{"a": {"b": 1}, "n": {}}', "a.c=[2]", "a.d=x=y", "n.o=null", 'a.e:="5"']
    words = [word for override in overrides for word in ("--set", override)]
    assert run_here(daemon.home, "mount", "bob/x", *words).out == f"{ID}\n"
    config = {"a": {"b": 1, "c": [2], "d": "x=y", "e": "5"}, "n": {"o": None}}
    assert daemon.asked == [("mount", {"address": "bob/x", "config_overrides": config})]
    for wrong in ('{"a', "a", "=1", "a..b=1", ".=1", ""):
        ended = run_here(daemon.home, "mount", "bob/x", "--set", wrong)
        assert ended.code == 2, wrong
        assert "Give KEY=VALUE, for example: max_rounds=3; or one JSON object in single quotes." in ended.err
    no_json = run_here(daemon.home, "mount", "bob/x", "--set", "a.b:=x")
    assert (no_json.code, no_json.err.splitlines()[-1]) == (2, "For a text, write: a.b=TEXT")
    ended = run_here(daemon.home, "mount", "bob/x", "--state", "a=1")
    assert ended.err.endswith("\nGive one JSON object in single quotes.\n")
    run_here(daemon.home, "mount", "bob/x", "--state", '{"a": 1}')
    assert daemon.asked[1:] == [("mount", {"address": "bob/x", "initial_state": {"a": 1}})]


@pytest.mark.parametrize("words", [["mount", "bob/x"], ["serve", "x", "--human"], ["worker"]])
def test_a_malformed_dispatch_point_is_refused_before_the_daemon_is_asked(
    words: list[str], daemon: ScriptedDaemon
) -> None:
    """The command checks the form of the name."""
    ended = run_here(daemon.home, *words, "--dispatch-point", "a b")
    assert (ended.code, daemon.asked) == (2, [])
    assert "'a b' cannot name a dispatch point" in ended.err


def test_ls_lists_mine_and_theirs(daemon: ScriptedDaemon) -> None:
    """Own flows are listed with who may call them; flows of a contact with their descriptions."""
    daemon.script.update(ls={"flows": [_served()]}, unserve={})
    assert run_here(daemon.home, "ls").out.splitlines() == [
        "ENDPOINT   KIND    DISPATCH POINT  ALLOWED   DESCRIPTION",
        "translate  python  default         contacts  Translate.",
    ]
    assert run_here(daemon.home, "ls", "bob").out.splitlines()[0] == "ENDPOINT   KIND    DESCRIPTION"
    assert run_here(daemon.home, "ls", "bob", "--json").document == [_served()]
    assert run_here(daemon.home, "unserve", "translate").err == "translate is no longer served.\n"
    assert [params for _, params in daemon.asked] == [
        {},
        {"user": "bob"},
        {"user": "bob"},
        {"endpoint": "translate"},
    ]
    daemon.script["ls"] = {"flows": []}
    assert "serves nothing" in run_here(daemon.home, "ls", "bob").err


def test_describe_shows_how_to_call(daemon: ScriptedDaemon) -> None:
    """`describe` shows the fields of the input, whether you may call the flow, and an example."""
    flow = {
        **_served(),
        "address": "bob/translate",
        "user": BOB,
        "online": None,
        "served": True,
        "allowed": True,
    }
    daemon.script["describe"] = flow
    ended = run_here(daemon.home, "describe", "bob/translate")
    assert ended.out.splitlines() == [
        "address         bob/translate",
        f"user id         {BOB}",
        "online          not known",
        "served          yes",
        "you may call    yes",
        "kind            python",
        "dispatch point  default",
        "description     Translate.",
        "",
        "FIELD  TYPE    NEEDED  MEANING",
        "text   string  yes",
        "to     string  no      default 'fr'",
    ]
    assert ended.err == "\nCall it: p2pflows call bob/translate text=TEXT\n"
    assert run_here(daemon.home, "describe", "bob/translate", "--json").document == flow


@pytest.mark.parametrize(
    ("kind", "keys", "line"),
    [
        ("class", ["step", "a.b"], "others may set  step, a.b"),
        ("class", [], "others may set  nothing"),
        ("class", None, None),
        ("python", [], None),
        ("class", ["\x1b[2Jstep"], "others may set  \\x1b[2Jstep"),
    ],
)
def test_describe_shows_what_others_may_set(daemon: ScriptedDaemon, kind: str, keys: Any, line: str | None) -> None:
    """`describe` of a class shows the keys that users other than its owner may set."""
    about = {"address": "bob/x", "user": BOB, "online": True, "served": True, "allowed": True}
    daemon.script["describe"] = {**_served(), **about, "kind": kind, "overridable": keys}
    shown = run_here(daemon.home, "describe", "bob/x").out.splitlines()
    assert [each for each in shown if "others may set" in each] == ([] if line is None else [line])


def test_the_example_of_describe_is_safe_in_a_shell(daemon: ScriptedDaemon) -> None:
    """A name of the other user that no key=value pair can hold is left out, and so is one that a shell would run."""
    names = ["$(reboot)", "a b", "it's", ";x", "a=b", "-x", "{x", "", "a\x1bb", "über", "text"]
    schema = {"properties": {name: {"type": "string"} for name in names}, "required": names}
    facts = {"address": "bob/x", "user": BOB, "online": None, "served": True, "allowed": True}
    daemon.script["describe"] = {**facts, "schema": schema}
    typed = run_here(daemon.home, "describe", "bob/x").err.partition("Call it: ")[2]
    assert shlex.split(typed) == ["p2pflows", "call", "bob/x", "über=ÜBER", "text=TEXT"]
    assert "$(" not in typed


@pytest.mark.parametrize(
    "schema",
    [
        None,
        [],
        "x",
        {"properties": []},
        {"properties": {"a": 5, EVIL: {"type": [EVIL], "description": {}}}, "required": 7},
    ],
)
def test_describe_survives_any_schema(daemon: ScriptedDaemon, schema: Any) -> None:
    """Any schema of another user is shown safely, and so is an unknown flow."""
    facts = {
        "address": "bob/x",
        "user": BOB,
        "endpoint": "x",
        "online": False,
        "served": None,
        "allowed": None,
    }
    daemon.script["describe"] = {**facts, "schema": schema, "served": True, "allowed": True}
    ended = run_here(daemon.home, "describe", "bob/x")
    assert ended.code == 0
    assert "\x1b" not in ended.out + ended.err
    daemon.script["describe"] = facts
    assert "not known" in run_here(daemon.home, "describe", "bob/x").out


# The daemon, strangers, the outbox and workers.


def test_status_is_shown(daemon: ScriptedDaemon) -> None:
    """A running daemon is described in a few lines, or as JSON."""
    broker = {"url": "mqtt://127.0.0.1:18883", "name": "mosquitto 2.0.11"}
    status = {
        "user_id": BOB, "pid": 7, "since": moment(-7300), "version": "0.1.0", "home": "/home/bob/.p2pflows",
        "broker": {**broker, "connected": True, "round_trip_ms": 0.42},
        "accepted": 12345, "delivered": 12, "received": 3, "refused": {"forged": 2, "expired": 1},
        "pending": 1, "dead": 0, "prompts_open": 2, "requests": 1, "served": 0,
        "workers": [{"dispatch_point": "default", "workers": 1, "slots": 4, "free": 3, "queued": 0}],
        "clocks": [{"user": "a0" * 32, "name": "ann", "ahead_ms": -3_540_000}],
    }  # fmt: skip
    daemon.script["status"] = status
    ended = run_here(daemon.home, "status")
    assert ended.code == 0
    assert ended.out.splitlines() == [
        "Running for 2h (process 7, version 0.1.0).",
        "",
        f"user id   {BOB}",
        "home      /home/bob/.p2pflows",
        "broker    mqtt://127.0.0.1:18883, mosquitto 2.0.11, connected, round trip 0.4 ms",
        "out       12,345 accepted, 12 delivered, 1 pending",
        "in        3 received, 0 dead letters",
        "refused   1 expired, 2 forged",
        "inbox     2 open questions (see: p2pflows inbox)",
        "requests  1 stranger (see: p2pflows requests)",
        "serving   0 endpoints",
        "clocks    ann is 59m behind",
        "",
        "WORKERS  SLOTS  FREE  QUEUED  WAITING  DISPATCH POINT",
        "      1      4     3       0        0  default",
    ]
    assert run_here(daemon.home, "status", "--json").document == status


def test_strangers_are_allowed_or_denied(daemon: ScriptedDaemon) -> None:
    """`requests` shows whole user ids, because somebody could imitate a short one."""
    waiting = [
        {
            "user": BOB,
            "endpoints": ["User", "sum"],
            "messages": 3,
            "first": moment(-605),
            "last": moment(-65),
        }
    ]
    daemon.script.update(
        requests={"requests": waiting},
        allow={"user": BOB, "name": "bob", "released": 3},
        deny={"user": BOB, "dropped": 3},
    )
    ended = run_here(daemon.home, "requests")
    assert ended.out == f"{BOB}\n  3 messages to User, sum; first 10m ago, last 1m ago\n"
    assert run_here(daemon.home, "requests", "--json").document == waiting
    assert (
        run_here(daemon.home, "allow", BOB, "--name", "bob").err
        == "bob is a contact now; waiting messages accepted: 3.\n"
    )
    assert run_here(daemon.home, "deny", BOB, "--json").document == {"user": BOB, "dropped": 3}
    assert daemon.asked[2:] == [("allow", {"user": BOB, "name": "bob"}), ("deny", {"user": BOB})]


def test_allow_and_deny_accept_a_petname(daemon: ScriptedDaemon) -> None:
    """The request has the user id, so that the daemon speaks of a contact, not of a malformed id."""
    run_here(daemon.home, "contacts", "add", "bob", KEY)
    daemon.script["allow"] = lambda params: {"user": KEY, "name": params.get("name", "bob"), "released": 0}
    assert run_here(daemon.home, "allow", "bob").err == "bob is a contact already; waiting messages accepted: 0.\n"
    assert "bert is a contact now" in run_here(daemon.home, "allow", KEY, "--name", "bert").err
    daemon.script["deny"] = UsageError("'bob' is a contact.", "First run: p2pflows contacts remove bob")
    assert run_here(daemon.home, "deny", "bob").err.startswith("Error [usage]: 'bob' is a contact.")
    assert [params["user"] for _, params in daemon.asked] == [KEY] * 3


def test_outbox_shows_what_waits(daemon: ScriptedDaemon) -> None:
    """Undelivered messages and dead letters have a table each; one can be retried."""
    sent = {"id": ID, "to": BOB, "name": None, "endpoint": "log", "type": "post", "created": moment(-65),
            "expires": moment(7205)}  # fmt: skip
    outbox = {
        "pending": [{**sent, "attempts": 2, "state": "pending"}],
        "dead": [
            {
                "id": ID,
                "from": BOB,
                "name": "bob",
                "endpoint": "x",
                "received": moment(-5),
                "attempts": 5,
                "error": "died",
            }
        ],
        "count": {"pending": 1, "dead": 1},
    }
    daemon.script.update(outbox=outbox, retry={"id": ID})
    assert run_here(daemon.home, "outbox").out.splitlines() == [
        "PENDING   TO         ENDPOINT  TYPE  SENT    LEFT  TRIES  STATE",
        "4f1c22d9  b0b0b0b0…  log       post  1m ago  2h        2  pending",
        "DEAD      FROM  ENDPOINT  CAME    TRIES  ERROR",
        "4f1c22d9  bob   x         5s ago      5  died",
    ]
    assert run_here(daemon.home, "outbox", "--json").document == outbox
    assert run_here(daemon.home, "outbox", "retry", "4f1c22d9").err == "Retrying 4f1c22d9.\n"
    assert daemon.asked[-1] == ("retry", {"id": "4f1c22d9"})
    daemon.script["outbox"] = {"pending": [], "dead": []}
    assert "All messages are delivered" in run_here(daemon.home, "outbox").err
    daemon.script["outbox"] = {**outbox, "count": {"pending": 1_234, "dead": 1}}
    assert "There are 1,034 more: p2pflows outbox --page 3" in run_here(daemon.home, "outbox", "--page", "2").err
    assert daemon.asked.pop() == ("outbox", {"limit": 100, "offset": 100})
    daemon.script["outbox"] = {"pending": [], "dead": [], "count": {"pending": 0, "dead": 0}}
    assert "There are no more." in run_here(daemon.home, "outbox", "--page", "9").err


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_key_in_place_of_the_name_of_its_variable_is_not_printed(daemon: ScriptedDaemon, as_json: list[str]) -> None:
    """If the user gives $NAME instead of NAME, the error does not quote it, and no token is requested."""
    for key in ("sk-secret-0123456789", "0123secret", "secret key"):
        ended = run_here(daemon.home, "worker", "--api-key-env", key, *as_json)
        assert ended.code == 2
        assert "secret" not in ended.out + ended.err
        if not as_json:
            assert "--api-key-env takes the NAME of a variable, not the key." in ended.err
    unset = run_here(daemon.home, "worker", "--api-key-env", "P2PFLOWS_NO_SUCH_KEY")
    assert (unset.code, daemon.asked) == (2, [])
    assert "P2PFLOWS_NO_SUCH_KEY is not set" in unset.err


def test_status_names_who_has_nearly_filled_a_quota(daemon: ScriptedDaemon) -> None:
    """`status` says who fills what, and how to make room."""
    near = {"limit": "questions_per_contact", "what": "questions", "used": 950, "most": 1_000}
    size = {"limit": "bytes_per_stranger", "what": "bytes", "used": 3_900_000, "most": 4_000_000}
    ended = {"limit": "bytes_per_contact", "what": "bytes", "used": 63_000_000, "most": 64_000_000}
    waiting = {"blocked": 0, "tasks": 0, "dead": 0, "answers": 0}
    peers = [
        {"user": BOB, "name": "bob", "questions": 950, "near": [near]},
        {"user": "c0" * 32, "name": None, "questions": 0, "near": [size]},
        {"user": "d0" * 32, "name": "dan", "questions": 0, "near": []},
        {"user": "e0" * 32, "name": "eve", "questions": 0, "near": [ended], **waiting},
        {"user": "f0" * 32, "name": "fay", "questions": 0, "near": [ended], **waiting, "tasks": 9},
    ]
    daemon.script["status"] = {
        "user_id": BOB, "pid": 7, "since": moment(-7300), "version": "0.1.0", "home": "/home/bob/.p2pflows",
        "broker": {"url": "embedded", "name": "x", "connected": True, "round_trip_ms": 0.42},
        "accepted": 1, "delivered": 1, "received": 3, "refused": {}, "pending": 0, "dead": 0, "prompts_open": 950,
        "requests": 1, "served": 0, "workers": [], "quotas": {"peers": peers},
    }  # fmt: skip
    shown = run_here(daemon.home, "status").out
    assert (
        "bob has 950 of 1,000 questions (questions_per_contact). To clear: p2pflows decline --from bob --all" in shown
    )
    assert f"has 3.9 MB of 4 MB (bytes_per_stranger). To clear: p2pflows deny {'c0' * 32}" in shown
    assert "dan" not in shown
    assert "eve has 63 MB of 64 MB (bytes_per_contact). Questions that have ended give way by themselves." in shown
    assert "or end all of theirs: p2pflows contacts remove fay" in shown


def test_contacts_list_says_whose_clock_differs(daemon: ScriptedDaemon) -> None:
    """If a daemon runs; others than contacts are left out."""
    bob = "b0" * 32
    Contacts(daemon.home / "contacts.yaml").add("bob", bob)
    clocks = [{"user": user, "name": name, "ahead_ms": 3_540_000} for user, name in ((bob, "bob"), ("d1" * 32, None))]
    daemon.script["status"] = {"clocks": clocks}
    listed = run_here(daemon.home, "contacts", "list")
    assert listed.err == "Clocks, compared with yours: bob is 59m ahead.\n"
    assert run_here(daemon.home, "contacts", "list", "--json").document[0]["clock_ahead_ms"] == 3_540_000
