"""The commands `show` and `answer`: what a person sees of a question with a form, and what an answer sends."""

from __future__ import annotations

from typing import Any

from support.scripted_daemon import ScriptedDaemon, prompt, run_here

from p2pflows.errors import DeadlinePassed

ID = "0197f6a0c3de7b0e9a5d0f0e4f1c22d9"
FORM: dict[str, Any] = {
    "expects": "the fields env, n",
    "choices": [],
    "fields": [
        {"name": "env", "expects": "1 staging, 2 production", "required": True, "about": ""},
        {"name": "n", "expects": "a whole number to 5", "required": False, "about": "How many\x1b[2J"},
    ],
    "schema": {},
    "draft": None,
}


def test_show_prints_every_field_with_controls_escaped(daemon: ScriptedDaemon) -> None:
    """What the asker says beside the text is shown, and none of it reaches the terminal as it is."""
    question = {**prompt(ID, "Deploy?\x1b]0;x\x07"), "answer": None, "about": {"why": "release\n7"}, "form": FORM}
    daemon.script["prompt"] = question
    shown = run_here(daemon.home, "show", "4f1c22d9")
    assert shown.code == 0
    assert "why      release\\n7" in shown.out
    assert "env    yes     1 staging, 2 production" in shown.out
    assert "How many\\x1b[2J" in shown.out
    assert "\x1b" not in shown.out
    assert shown.err == "Answer with: p2pflows answer 4f1c22d9 env=...\n"
    assert run_here(daemon.home, "show", "4f1c22d9", "--json").document == question


def test_inbox_says_what_the_answer_must_be(daemon: ScriptedDaemon) -> None:
    """In brackets after the text, and that there is more to see."""
    daemon.script["inbox"] = {"prompts": [{**prompt(ID, "Deploy?"), "about": {"why": 7}, "form": FORM}]}
    shown = run_here(daemon.home, "inbox").out
    assert "Deploy?  [the fields env, n]  (more: p2pflows show ID)" in shown


def test_a_remark_goes_with_the_answer(daemon: ScriptedDaemon) -> None:
    """Words stay apart, so that values with spaces stay whole."""
    daemon.script["answer"] = {"id": ID}
    run_here(daemon.home, "answer", "4f1c22d9", "city=Bern Ost", "n=3", "-m", "after 18:00")
    wanted = {"id": "4f1c22d9", "words": ["city=Bern Ost", "n=3"], "remark": "after 18:00"}
    assert daemon.asked == [("answer", wanted)]
    assert run_here(daemon.home, "answer", "4f1c22d9").code == 2


def test_the_document_is_edited_in_the_editor(daemon: ScriptedDaemon) -> None:
    """What is saved is sent; an empty file is no answer."""
    question = {**prompt(ID, "Edit?"), "answer": None, "about": {}, "form": {**FORM, "draft": {"size": 5}}}
    daemon.script.update(prompt=question, answer={"id": ID})
    assert run_here(daemon.home, "answer", "4f1c22d9", "--edit", EDITOR="sed -i s/5/6/").code == 0
    assert daemon.asked[-1] == ("answer", {"id": "4f1c22d9", "text": '{\n  "size": 6\n}'})
    emptied = run_here(daemon.home, "answer", "4f1c22d9", "--edit", EDITOR="sed -i d")
    assert (emptied.code, emptied.err.splitlines()[0]) == (
        2,
        "Error [usage]: You saved an empty answer, so nothing was sent.",
    )
    assert run_here(daemon.home, "answer", "4f1c22d9", "--edit", EDITOR="false").code == 2


def test_what_was_written_in_the_editor_is_not_lost(daemon: ScriptedDaemon) -> None:
    """A question may expire meanwhile, and the editor's file is removed."""
    question = {**prompt(ID, "Edit?"), "answer": None, "about": {}, "form": {**FORM, "draft": {"size": 5}}}
    daemon.script.update(prompt=question, answer=DeadlinePassed("Too late: nothing was sent."))
    late = run_here(daemon.home, "answer", "4f1c22d9", "--edit", EDITOR="sed -i s/5/6/")
    assert late.code == 5
    assert 'What you have written:\n{\n  "size": 6\n}\nError [deadline]' in late.err
    assert "What you" not in run_here(daemon.home, "answer", "4f1c22d9", "no").err
