"""What people type after an address arrives as what the schema of the flow says."""

from __future__ import annotations

import pytest
from support.people import Person

FLOWS = """
def show(text: str = "", n: int = 0, ratio: float = 0.0, yes: bool = False, parts: list[int] | None = None) -> dict:
    return {"got": [text, n, ratio, yes, parts]}
"""
SHOW_CLASS = '''
from p2pflows import AtomicFlow

class Show(AtomicFlow):
    """Answers with what it gets."""
    default_config = {"name": "Show", "description": "Show"}

    def run(self, input_message):
        self.send_message(self.package_output_message(input_message, {"got": input_message.data}))
'''


@pytest.fixture(scope="module")
def served(pair: tuple[Person, Person]) -> None:
    """Bob serves a function with types, and a command and a class without."""
    bob = pair[1].ready()
    bob.write_file("typed_flows.py", FLOWS)
    bob.write_file("typed_class.py", SHOW_CLASS)
    bob.cli("serve", "show", "typed_flows.py:show").ok()
    bob.cli("serve", "echo", "--exec", "cat").ok()
    bob.cli("serve", "instances", "--class", "typed_class.py:Show").ok()


@pytest.mark.usefixtures("served")
def test_the_schema_decides_what_a_typed_text_is(alice: Person) -> None:
    """`1.10` stays a text where the flow takes texts, and is a number where it takes numbers."""
    words = ("text=1.10", "n=3", "ratio=1.10", "yes=true", "parts=[1,2]")
    assert alice.cli("call", "bob/show", *words).ok().document == {"got": ["1.10", 3, 1.1, True, [1, 2]]}
    assert alice.cli("call", "bob/show", "text=true", "parts=null").ok().document["got"][0] == "true"
    assert alice.cli("call", "bob/show", "--stream", "text=5", "n=5").ok().document["got"][:2] == ["5", 5]
    refused = alice.cli("call", "bob/show", "text:=1.10")
    assert (refused.code, refused.err) == (2, "Error [bad_input]: bob says: 'text' should be a valid string.\n")
    refused = alice.cli("call", "bob/show", "n=3.5")
    assert (refused.code, refused.err) == (2, "Error [bad_input]: bob says: 'n' should be a valid integer.\n")


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("endpoint", ["echo", "instances"])
def test_a_flow_without_a_schema_gets_what_was_typed(alice: Person, endpoint: str) -> None:
    """Without a schema nothing is guessed: `=` is text, and `:=` is JSON."""
    answer = alice.cli("call", f"bob/{endpoint}", "n=1.10", "m:=1.10").ok().document
    assert answer.get("got", answer) == {"n": "1.10", "m": 1.1}


def test_a_text_to_a_human_needs_no_json(alice: Person, bob: Person) -> None:
    """A question is what was typed, even if it looks like a number or an equation."""
    questions = ["Are you there?", "42", "Is 2+2=4?"]
    for question in questions:
        alice.cli("send", "bob/User", question).ok()
    alice.cli("send", "bob/User", "text=true").ok()
    assert [prompt["text"] for prompt in bob.wait_for_prompts(4)] == [*questions, "true"]
