"""The tutorials are correct: their cells run in a real kernel, with real daemons, a real model client and people."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.model_server import ModelServer
from support.notebooks import running
from support.processes import wait_until

from p2pflows import start_local
from p2pflows.local import LocalUser, LocalUsers

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
KEY = "sk-tutorial-0123456789abcdef"
WAIT = 20.0


class Human:
    """A human who answers prompts.

    Args:
        client: the client of the human's daemon.
    """

    def __init__(self, client: LocalUser) -> None:
        self.client = client

    def wait_for_question(self) -> dict[str, Any]:
        """Wait for the only open question; returns its prompt."""
        wait_until(lambda: bool(self.client.inbox()), WAIT)
        (prompt,) = self.client.inbox()
        return prompt

    def answer(self, text: str) -> str:
        """Answer the next question; returns its text."""
        prompt = self.wait_for_question()
        self.client.answer(prompt["id"], text)
        return str(prompt["text"])

    def answered(self, label: str) -> list[tuple[str, str]]:
        """The answered questions under a label, each with its answer."""
        prompts = [prompt for prompt in self.client.inbox(all=True) if prompt["label"] == label]
        return [(prompt["text"], prompt["answer"]) for prompt in prompts if prompt["status"] == "answered"]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the files of kernels in a folder of the test."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


@pytest.fixture
def users() -> Iterator[LocalUsers]:
    """Alice, the author of the notebook, and her neighbour bob, each with a worker process, as `p2pflows up` has it."""
    with start_local(2, workers=1) as users:
        yield users


@pytest.fixture
def model() -> Iterator[ModelServer]:
    """The model's server."""
    with ModelServer() as server:
        yield server


def test_humans_and_flows(users: LocalUsers, model: ModelServer, tmp_path: Path) -> None:
    """The first tutorial runs: a user asks herself, her neighbour and a model, while daemons are killed."""
    alice, bob = Human(users[0]), Human(users[1])
    environment = {
        "P2PFLOWS_HOME": str(users[0].home),
        "PARTNER_ID": users[1].user_id,
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": model.url,
    }
    folder = tmp_path / "notebook"
    folder.mkdir()
    with (
        ThreadPoolExecutor() as pool,
        running(TUTORIALS / "humans_and_flows.ipynb", folder, environment) as notebook,
    ):
        assert notebook.run_to("user-id") == repr(users[0].user_id)

        asked = pool.submit(alice.answer, "Yes, right here.")
        answer = notebook.run_to("ask-yourself")
        assert ast.literal_eval(answer) == {"human_input": "Yes, right here."}
        assert asked.result() == "Human, are you there?"

        asked = pool.submit(bob.answer, "Hello over there!")
        answer = notebook.run_to("ask-your-neighbour")
        assert ast.literal_eval(answer) == {"human_input": "Hello over there!"}
        assert asked.result() == "Neighbor, are you there?"

        assistant = ["Lovely! What do you have at home?", "Then it is an omelette."]
        human = ["Three eggs and a tomato.", "Thank you! <END>"]
        model.script(*assistant)
        heard = pool.submit(lambda: [alice.answer(words) for words in human])
        result = ast.literal_eval(notebook.run_to("talk"))
        assert heard.result() == assistant
        assert (result["end_of_interaction"], result["reason"], result["rounds"]) == (True, "end_word", 2)
        assert (result["user_inputs"], result["assistant_outputs"]) == (human, assistant)
        assert [(asked.key, asked.body["messages"][-1]["content"]) for asked in model.requests] == [
            (KEY, "I would like to cook something tonight."),
            (KEY, human[0]),
        ]

        notebook.run_to("connect-two")
        assert alice.answer("Hi, did you get home well?") == "You two are connected now."
        assert bob.wait_for_question()["text"] == "Hi, did you get home well?"
        users.restart(users[1])
        assert bob.answer("Yes, with the last train.") == "Hi, did you get home well?"
        assert alice.wait_for_question()["text"] == "Yes, with the last train."
        users.restart(users[0])
        assert alice.answer("Same time next week?") == "Yes, with the last train."
        assert bob.answer("I will bring the wine.") == "Same time next week?"
        assert alice.wait_for_question()["text"] == "I will bring the wine."

        notebook.run_to_end()
        assert notebook.printed("look-back") == [
            "shown:  You two are connected now.",
            "typed:  Hi, did you get home well?",
            "shown:  Yes, with the last train.",
            "typed:  Same time next week?",
            "shown:  I will bring the wine.",
            "typed:  None",
        ]
        # Nobody was asked twice.
        assert alice.answered("Proxy_User") == [("Human, are you there?", "Yes, right here.")]
        assert alice.answered("User") == list(zip(assistant, human, strict=True))
        assert bob.answered("User2") == [
            ("Hi, did you get home well?", "Yes, with the last train."),
            ("Same time next week?", "I will bring the wine."),
        ]
        everything = notebook.everything()
        notebook.check_outputs()
    assert KEY not in everything
    files = [path for place in (users[0].home.parent, folder) for path in place.rglob("*") if path.is_file()]
    assert {"journal.sqlite3", "daemon.log", "kernel.log", "HumanToHuman.py"} <= {path.name for path in files}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("path", sorted(TUTORIALS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    """Every link in a tutorial names an existing page."""
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_reverse_number(tmp_path: Path) -> None:
    """The second tutorial runs: flows are served and composed, errors come back, and interrupted work is done once."""
    with running(TUTORIALS / "reverse_number.ipynb", tmp_path, {}) as notebook:
        assert notebook.run_to("several-futures") == "[{'reversed': 21}, {'reversed': 543}, {'reversed': 9876}]"
        assert notebook.run_to("blocking") == "{'output_number': 1234}"
        assert notebook.run_to("sequential") == "{'output_number': 12}"
        assert notebook.run_to("errors") == "{'output_number': 1234}"
        assert notebook.printed("errors") == ["flow_failed - KeyError: 'number'"]
        assert notebook.run_to("pay") == "{'receipt': 'paid 5 francs', 'output_number': 54321}"
        assert notebook.run_to("restart") == "{'output_number': 13579}"
        notebook.run_to_end()
        notebook.check_outputs()
    assert (tmp_path / "runs.txt").read_text().splitlines() == ["a run begins"] * 2
    assert (tmp_path / "payments.txt").read_text().splitlines() == ["paid 5 francs"]
