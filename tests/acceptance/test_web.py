"""The page in a real browser: what a person sees, presses and types, and what others try to make of it."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from support.browser import CHROMIUM, DESK, PHONE, TIMEOUT_MS, WITHOUT_IT, Surfer, axe_script, chromium
from support.network import Network
from support.people import Person
from support.processes import command_line_of, free_port, wait_until

from p2pflows.contacts import Contacts
from p2pflows.foreign_text import escape

pytestmark = pytest.mark.skipif(not CHROMIUM, reason=WITHOUT_IT)

YES_OR_NO = {"type": "boolean"}
VISITOR = {
    "type": "object",
    "required": ["name", "age", "badge"],
    "properties": {
        "name": {"type": "string", "title": "Full name", "maxLength": 20},
        "age": {"type": "integer", "minimum": 16, "title": "Age"},
        "badge": {"enum": ["visitor", "staff"], "title": "Badge"},
        "languages": {"type": "array", "items": {"type": "string"}, "title": "Languages"},
        "lunch": {"type": "boolean", "title": "Lunch"},
    },
}
HOSTILE = {
    "script": "<script>window.hacked = 1</script>",
    "image": "<img src=x onerror='window.hacked = 1'>",
    "frame": "<iframe src='javascript:parent.hacked = 1'></iframe>",
    "style": "<style>* { display: none }</style>",
    "template": "${window.hacked = 1} {{constructor.constructor('window.hacked = 1')()}}",
    "order": "\u202eevil\u202c \u2066x\u2069 \u200f",
    "hidden": "a\u200bb\u00adc\ufeffd\U000e0041e",
    "control": "\x1b[2J\x07 \x9b31m \r\x00",
    "wide": "W" * 5_000,
    "arabic": "مرحبا بالعالم",
    "marks": "Z" + "\u0351" * 500,
}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAMAAAEsCAIAAACJx56/AAAAJUlEQVR42mOwDr0JQQyjrFHWKGuUNcoaZY2yRlmjrFHWKGuQsgDy"
    "1fVh7OchdQAAAABJRU5ErkJggg=="
)
"""A picture of 3 by 300 pixels."""
LOG = "document.querySelector('.log')"
BIDI = """
    [...document.querySelectorAll(".foreign")].map((node) => `${getComputedStyle(node).unicodeBidi} ${node.dir}`)
"""
"""Whether words of others may change the direction of what stands around them."""
TOO_SMALL = """
    [...document.querySelectorAll("button, a, textarea, select, input[type=text]")]
      .filter((node) => node.offsetParent && !node.matches(".skip"))
      .map((node) => [node.outerHTML.slice(0, 80), node.getBoundingClientRect().height])
      .filter(([, height]) => height < 43.9)
"""
"""The controls that are too small for a thumb."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of this file.

    No longer: as long as it is there, an event loop runs in this thread, and no asynchronous test can.
    """
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def people() -> Iterator[tuple[Person, Person]]:
    """Alice, and bob whose page it is; they know each other."""
    network = Network()
    try:
        alice, bob = network.pair(workers=False)
        yield alice, bob
    finally:
        network.close()


@pytest.fixture(scope="module")
def server(people: tuple[Person, Person], browser: Browser) -> Iterator[Surfer]:
    """The server of bob's page."""
    surfer = Surfer(people[1], browser)
    yield surfer
    surfer.close()


@pytest.fixture
def alice(people: tuple[Person, Person]) -> Person:
    """Who asks."""
    return people[0]


@pytest.fixture
def bob(server: Surfer) -> Iterator[Surfer]:
    """Whose page it is; after each test his inbox is empty, and the browser has complained about nothing."""
    server.faults.clear()
    yield server
    server.close()
    server.person.request("decline_all", user="alice")
    assert server.faults == []


def ask(alice: Person, text: str, **more: Any) -> str:
    """Ask bob; returns the id of the question."""
    return str(alice.request("ask", who=["bob"], text=text, **more)["id"])


def value_of(alice: Person, question: str) -> Any:
    """Wait for the end of a question; returns the value of the answer, or how it ended."""
    ended = alice.request("wait", id=question, timeout=20)
    return ended["value"] if ended["outcome"] == "answered" else ended["outcome"]


def prompt_of(bob: Surfer, text: str) -> str:
    """Wait for a question; returns its id in bob's inbox."""
    wait_until(lambda: any(text in each["text"] for each in bob.person.prompts()))
    return next(str(each["id"]) for each in bob.person.prompts() if text in each["text"])


def check_nothing_is_wider(page: Page) -> None:
    """Check that the page does not scroll sideways."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_script_waits_and_a_tap_answers(alice: Person, bob: Surfer) -> None:
    """`confirm` on one machine ends with what is tapped on a phone."""
    page = bob.open(size=PHONE)
    asked = alice.start_command("confirm", "bob", "Deploy?", "--timeout", "60s")
    page.get_by_role("link", name="Deploy?").tap()
    page.get_by_role("button", name="Yes").tap()
    expect(page.get_by_text("You answered:")).to_be_visible()
    assert asked.wait().code == 0
    refused = alice.start_command("confirm", "bob", "Really?", "--timeout", "60s")
    page.get_by_role("button", name="Back").tap()
    page.get_by_role("link", name="Really?").tap()
    page.get_by_label("Remark").fill("Not on Fridays")
    page.get_by_role("button", name="No", exact=True).tap()
    ended = refused.wait()
    assert ended.code == 11
    assert "Not on Fridays" in ended.out + ended.err


def test_a_form_says_what_is_wrong_at_its_field(alice: Person, bob: Surfer) -> None:
    """What was typed stays, and what is sent is what the form wants."""
    question = ask(alice, "Register the visitor", schema=VISITOR)
    page = bob.open(f"#q={prompt_of(bob, 'Register')}", size=PHONE)
    age = page.get_by_role("textbox", name="Age needed")
    page.get_by_label("Full name").fill("Ann Other")
    age.fill("7")
    page.get_by_label("staff").check()
    page.get_by_label("Languages").fill("de\nfr")
    page.get_by_role("button", name="Answer").tap()
    expect(age).to_be_focused()
    expect(page.get_by_text("This field must be at least 16", exact=False)).to_be_visible()
    expect(page.get_by_label("Full name")).to_have_value("Ann Other")
    page.reload()
    expect(page.get_by_label("Full name")).to_have_value("Ann Other")
    age.fill("70")
    page.get_by_role("button", name="Answer").tap()
    assert value_of(alice, question) == {"name": "Ann Other", "age": 70, "badge": "staff", "languages": ["de", "fr"]}


def test_a_draft_comes_back_edited(alice: Person, bob: Surfer) -> None:
    """Its fields can be changed without a word of JSON."""
    question = ask(alice, "Check this", draft={"subject": "Results", "send": False, "more": {"a": [1]}})
    page = bob.open(f"#q={prompt_of(bob, 'Check this')}")
    page.get_by_label("subject").fill("Results of May")
    page.get_by_label("Yes").check()
    page.get_by_role("button", name="Give it back", exact=True).click()
    assert value_of(alice, question) == {"subject": "Results of May", "send": True, "more": {"a": [1]}}


def test_everything_else_that_can_be_done_with_a_question(alice: Person, bob: Surfer) -> None:
    """A choice, a text, later, and a refusal with its reason; notes are put away."""
    choice = ask(alice, "Which?", schema={"enum": ["red", "green"]})
    text = ask(alice, "How did it go?", timeout=7200)
    refused = ask(alice, "Who did it?")
    alice.request("send", address="bob/User", data={"text": "For your information"})
    note = prompt_of(bob, "For your information")
    page = bob.open(f"#q={prompt_of(bob, 'Which')}")
    page.get_by_role("button", name="green").click()
    assert value_of(alice, choice) == "green"
    page.goto(f"{bob.url}/#q={prompt_of(bob, 'How did it go')}")
    page.get_by_role("button", name="Not now").click()
    page.get_by_role("button", name="For an hour").click()
    expect(page.get_by_role("link", name="How did it go?")).to_have_count(0)
    page.get_by_role("button", name="Later").click()
    expect(page.get_by_role("link", name="How did it go?")).to_be_visible()
    page.get_by_label("Your answer").fill("Well\nenough")
    page.get_by_label("Your answer").press("Control+Enter")
    assert value_of(alice, text) == "Well\nenough"
    page.goto(f"{bob.url}/#q={prompt_of(bob, 'Who did it')}")
    page.get_by_role("button", name="Decline").click()
    page.get_by_label("Why, optional").fill("I do not tell")
    page.get_by_role("button", name="Decline").last.click()
    ended = alice.request("wait", id=refused, timeout=20)
    assert (ended["outcome"], ended["error"]["message"]) == ("declined", "I do not tell")
    page.goto(f"{bob.url}/#q={note}")
    page.get_by_role("button", name="Put away").click()
    expect(page.get_by_text("You have put it away.")).to_be_visible()
    assert bob.person.prompts() == []


def test_a_question_is_passed_on(alice: Person, bob: Surfer) -> None:
    """To a contact whom the asker knows as well, with the reason."""
    network = Network(broker=alice.environment["P2PFLOWS_BROKER"])
    try:
        carol = network.person("carol").without_workers().start()
        for person in (alice, bob.person):
            person.add_contact(carol)
        carol.add_contact(alice)
        question = ask(alice, "Which floor?", schema={"enum": [f"floor {number}" for number in range(12)]})
        page = bob.open(f"#q={prompt_of(bob, 'Which floor')}", size=PHONE)
        page.get_by_role("button", name="Pass on").tap()
        page.get_by_label("To whom").select_option("carol")
        page.get_by_label("Why, optional").fill("She knows")
        page.get_by_role("button", name="Pass on").last.tap()
        expect(page.locator(".ended")).to_contain_text("To carol")
        expect(page.locator(".ended")).to_contain_text("She knows")
        carol.request("answer", id=carol.wait_for_prompts()[0]["id"], value="floor 7")
        assert value_of(alice, question) == "floor 7"
    finally:
        for person in (alice, bob.person):
            Contacts(person.home / "contacts.yaml").remove("carol")
        network.close()


def test_the_keyboard_reaches_everything(alice: Person, bob: Surfer) -> None:
    """A question is found, opened and answered without a pointer; the focus is where the eye is."""
    question = ask(alice, "Ship it?", schema=YES_OR_NO)
    prompt_of(bob, "Ship it")
    page = bob.open()
    page.wait_for_selector("a.item")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="Ship it?")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".detail-content .pane-title")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="Ship it?")).to_be_focused()
    page.keyboard.press("Enter")
    page.locator(".confirm .yes").wait_for()
    page.keyboard.press("y")
    expect(page.get_by_role("button", name="Yes")).to_be_focused()
    page.keyboard.press("Enter")
    assert value_of(alice, question) is True
    expect(page.locator(".detail-content .pane-title")).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    expect(page.get_by_role("heading", name="Conversations")).to_be_focused()
    page.keyboard.press("7")
    page.get_by_label("Keyboard shortcuts").uncheck()
    page.keyboard.press("2")
    expect(page.get_by_role("heading", name="Settings")).to_be_visible()
    page.get_by_label("Keyboard shortcuts").check()


def test_two_pages_and_a_terminal_answer_at_once(alice: Person, bob: Surfer) -> None:
    """One answer counts; who came too late sees which, and nothing breaks."""
    question = ask(alice, "Now?", schema=YES_OR_NO)
    prompt = prompt_of(bob, "Now?")
    pages = [bob.open(f"#q={prompt}"), bob.open(f"#q={prompt}", size=PHONE)]
    for page in pages:
        page.locator(".confirm .yes").wait_for()
    with ThreadPoolExecutor(1) as pool:
        terminal = pool.submit(bob.person.cli, "answer", prompt, "no")
        for page, name in zip(pages, ("Yes", "No"), strict=True):
            page.evaluate("name => document.querySelector(`.confirm .${name}`)?.click()", name.lower())
        code = terminal.result().code
    for page in pages:
        expect(page.locator(".ended.answered")).to_be_visible()
    texts = [page.locator(".ended").inner_text() for page in pages]
    winner = value_of(alice, question)
    assert all(("yes" if winner else "no") in text for text in texts)
    assert sum("elsewhere" in text for text in texts) == (2 if code == 0 else 1)


def test_an_answer_elsewhere_shows_at_once(alice: Person, bob: Surfer) -> None:
    """The form goes away before anybody fills it in for nothing."""
    ask(alice, "Anybody?", schema=YES_OR_NO)
    prompt = prompt_of(bob, "Anybody?")
    page = bob.open(f"#q={prompt}")
    page.locator(".confirm .yes").wait_for()
    bob.person.request("answer", id=prompt, value=False)
    expect(page.locator(".ended")).to_contain_text("It was answered elsewhere, by you")
    expect(page.locator("#announcer")).to_contain_text("answered elsewhere")
    expect(page.locator(".item")).to_have_count(0)


def test_what_is_said_appears_on_both_sides(alice: Person, bob: Surfer) -> None:
    """A conversation goes on in both directions while the page is open; reading a note puts it away."""
    page = bob.open(f"#talk={alice.user_id}", size=PHONE)
    page.get_by_label("What you say").fill("Hello <b>Alice</b>")
    page.get_by_role("button", name="Send").tap()
    expect(page.get_by_role("log")).to_contain_text("Hello <b>Alice</b>")
    prompt = alice.wait_for_prompts()[0]
    alice.request("send", address="bob/User", data={"text": "Hello Bob"}, conversation=prompt["conversation"])
    expect(page.get_by_role("log")).to_contain_text("Hello Bob")
    wait_until(lambda: bob.person.prompts() == [])
    page.get_by_label("What it is").select_option("Yes or no?")
    page.get_by_label("What you say").fill("Shall we meet?")
    page.get_by_role("button", name="Send").tap()
    asked = next(each for each in alice.wait_for_prompts(2) if each["wants_answer"])
    alice.request("answer", id=asked["id"], value=True)
    expect(page.get_by_role("log")).to_contain_text("answered")
    page.goto(f"{bob.url}/#asked")
    expect(page.get_by_role("link", name="Shall we meet?")).to_contain_text("yes")
    alice.request("dismiss_all", user="bob")


def test_a_picture_is_shown_and_saved(alice: Person, bob: Surfer, tmp_path: Path) -> None:
    """A large file is fetched when it is wanted, and what only claims to be a picture is saved."""
    contents = {
        "photo.png": PNG,
        "large.bin": b"large" * 400_000,
        "fake.png": b"<svg xmlns='http://www.w3.org/2000/svg'><script>window.hacked = 1</script></svg>",
        "<img src=x onerror=alert(1)>.html": b"<script>window.hacked = 1</script>",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    put = [alice.request("files_put", path=str(tmp_path / name), type="image/png")["file"] for name in contents]
    ask(alice, "Which of them?", files=put)
    page = bob.open(f"#q={prompt_of(bob, 'Which of them')}", size=PHONE)
    picture = page.get_by_role("img", name="Picture photo.png")
    expect(picture).to_be_visible()
    assert picture.evaluate("node => node.decode().then(() => [node.naturalWidth, node.naturalHeight])") == [3, 300]
    expect(page.get_by_text("not fetched yet")).to_have_count(1)
    expect(page.locator(".file img")).to_have_count(1)
    for name, content in contents.items():
        with page.expect_download() as saved:
            page.get_by_role("button", name=f"Download {name}", exact=True).tap()
        assert saved.value.path().read_bytes() == content
        assert not set(saved.value.suggested_filename) & set('<>"/')
    check_nothing_is_wider(page)
    assert page.evaluate(TOO_SMALL) == []
    page.evaluate(axe_script())
    assert page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"] == []
    assert page.evaluate("window.hacked") is None
    page.goto(f"{bob.url}/#talk={alice.user_id}")
    expect(page.get_by_role("log").get_by_role("img", name="Picture photo.png")).to_be_visible()
    # The picture came after the lines, and the last of them is still in sight.
    wait_until(lambda: page.evaluate("(log => log.scrollHeight - log.scrollTop - log.clientHeight)(" + LOG + ")") < 2)


def test_files_go_with_an_answer(alice: Person, bob: Surfer, tmp_path: Path) -> None:
    """One that is too large is said at the field before anything is sent; the asker sees the others."""
    photo, notes = tmp_path / "photo.png", tmp_path / "mü <b>.txt"
    photo.write_bytes(PNG)
    notes.write_text("notes")
    question = ask(alice, "Show me", schema=YES_OR_NO)
    page = bob.open(f"#q={prompt_of(bob, 'Show me')}", size=PHONE)
    field = page.get_by_label("Files, optional")
    field.evaluate(
        """node => {
          const file = new File(["x"], "huge.bin");
          Object.defineProperty(file, "size", { value: 2e9 });
          Object.defineProperty(node, "files", { value: [file], configurable: true });
        }"""
    )
    page.get_by_role("button", name="Yes").tap()
    expect(page.get_by_text("huge.bin has 2 GB; a file may have 1 GB.")).to_be_visible()
    expect(field).to_be_focused()
    field.evaluate("node => { delete node.files; }")
    field.set_input_files([photo, notes])
    page.get_by_role("button", name="Yes").tap()
    expect(page.get_by_text("You answered:")).to_be_visible()
    ended = alice.request("wait", id=question, timeout=20)
    assert ended["value"] is True
    said = alice.request("lines", user="bob", limit=1)["lines"][0]
    assert (said["kind"], said["files"]) == ("answer", ended["files"])
    files = [each["$file"] for each in ended["files"]]
    assert [(each["name"], each["type"]) for each in files] == [
        ("photo.png", "image/png"),
        ("mü <b>.txt", "text/plain"),
    ]
    paths = [Path(alice.request("files_get", id=each["id"], timeout=20)["path"]) for each in files]
    assert [path.read_bytes() for path in paths] == [PNG, b"notes"]
    assert list((bob.person.home / "uploads").iterdir()) == []


def test_a_question_is_asked_once(alice: Person, bob: Surfer) -> None:
    """From a form, with a deadline; it can be withdrawn."""
    page = bob.open("#a=new")
    page.get_by_label("Whom").select_option("alice")
    page.get_by_label("What", exact=True).fill("Where is it?")
    page.get_by_label("The answer is").select_option("A text")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("heading", name="To alice")).to_be_visible()
    assert [each["text"] for each in alice.wait_for_prompts()] == ["Where is it?"]
    page.get_by_role("button", name="Withdraw").click()
    expect(page.locator(".detail-body .chip.cancelled")).to_be_visible()
    wait_until(lambda: alice.prompts() == [])


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_hostile_questions_are_texts(alice: Person, bob: Surfer, size: tuple[int, int]) -> None:
    """No script runs, no rule of the policy is broken, nothing is reordered or hidden, and nothing grows wider."""
    for name, text in HOSTILE.items():
        form = {
            "type": "object",
            "properties": {(text[:90]): {"type": "string", "title": text[:300], "description": text[:300]}},
        }
        ask(alice, f"{name}: {text}", schema=form)
    ask(alice, "choices", schema={"enum": [text[:200] for text in HOSTILE.values()]})
    alice.request(
        "submit", address="bob/User", data={"text": "about", **{text[:200]: text for text in HOSTILE.values()}}
    )
    wait_until(lambda: len(bob.person.prompts()) == len(HOSTILE) + 2)
    page = bob.open(size=size)
    page.evaluate("addEventListener('securitypolicyviolation', (event) => console.error(event.violatedDirective))")
    for prompt in bob.person.prompts():
        page.goto(f"{bob.url}/#q={prompt['id']}")
        shown = page.locator(".question-text")
        expect(shown).to_contain_text(prompt["text"][:5])
        assert shown.evaluate("node => node.innerText") == escape(prompt["text"][:4_000])
        assert set(page.evaluate(BIDI)) == {"isolate auto"}
        check_nothing_is_wider(page)
    page.goto(f"{bob.url}/#talk={alice.user_id}")
    expect(page.get_by_role("log")).to_contain_text("<script>")
    check_nothing_is_wider(page)
    assert page.evaluate("window.hacked") is None
    assert page.locator("script").count() == 1


def test_a_long_text_is_shown_part_by_part(alice: Person, bob: Surfer) -> None:
    """The page stays quick, and no word is lost."""
    text = "word " * 40_000
    alice.request("submit", address="bob/User", data={"text": text, "extra": "x" * 10_000})
    page = bob.open(f"#q={prompt_of(bob, 'word')}", size=PHONE)
    assert len(page.locator(".question-text").inner_text()) < 5_000
    more = page.locator(".detail-body > .long > button")
    for left in (196_000, 146_000, 96_000, 46_000):
        expect(more).to_contain_text(f"{left:,} characters left")
        more.tap()
    expect(more).to_have_count(0)
    assert page.locator(".question-text").evaluate("node => node.textContent.length") == len(text)
    check_nothing_is_wider(page)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {f"f{n}": {"type": "string"} for n in range(10_000)}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}}},
    ],
    ids=["10,000 fields", "refers to itself"],
)
def test_a_form_that_nobody_can_fill_in_never_reaches_the_page(alice: Person, bob: Surfer, schema: Any) -> None:
    """The asker learns it, and the page stays empty."""
    data = {"text": "fill in", "answer_schema": schema}
    ended = alice.cli("call", "bob/User", json.dumps(data)) if len(json.dumps(data)) < 100_000 else None
    if ended is None:
        ended = alice.cli("call", "bob/User", "-", stdin=json.dumps(data))
    assert ended.code == 2
    assert bob.person.prompts() == []


def test_a_document_of_many_fields_is_json(alice: Person, bob: Surfer) -> None:
    """It can be edited, and comes back whole."""
    draft = {f"f{number}": number for number in range(3_000)}
    question = ask(alice, "Many", draft=draft)
    page = bob.open(f"#q={prompt_of(bob, 'Many')}")
    field = page.get_by_label("The document to edit, as JSON")
    changed = field.input_value().replace('"f7": 7,', '"f7": 77,')
    # Typing so much would take Chromium half a minute.
    field.evaluate("(node, text) => { node.value = text; node.dispatchEvent(new Event('input')); }", changed)
    page.get_by_role("button", name="Give it back", exact=True).click()
    assert value_of(alice, question) == {**draft, "f7": 77}


def test_names_are_those_that_the_owner_gave(alice: Person, bob: Surfer, people: tuple[Person, Person]) -> None:
    """A stranger is called so, whatever they claim; once let in, they have the name that the owner chose."""
    network = Network(broker=alice.environment["P2PFLOWS_BROKER"])
    try:
        mallory = network.person("alice-2").without_workers().start()
        mallory.add_contact(people[1], "bob")
        mallory.request("submit", address="bob/User", data={"text": "I am Alice", "from": "alice", "name": "alice"})
        page = bob.open("#people", size=PHONE)
        page.get_by_role("link", name=f"Stranger {mallory.user_id[:8]}").tap()
        page.get_by_label("Your name for them").fill("a1ice")
        page.get_by_role("button", name="Allow").tap()
        expect(page.get_by_text("looks like")).to_be_visible()
        page.get_by_label("Your name for them").fill("mallory")
        page.get_by_role("button", name="Allow").tap()
        page.goto(f"{bob.url}/#inbox")
        expect(page.get_by_role("link", name="I am Alice")).to_contain_text("mallory")
        bob.person.request("decline_all", user="mallory")
        Contacts(bob.person.home / "contacts.yaml").remove("mallory")
    finally:
        network.close()


def test_words_are_compared_on_the_page(alice: Person, bob: Surfer) -> None:
    """Both see the same; then the contact has a mark, and the book says so."""
    page = bob.open(f"#person={alice.user_id}")
    page.get_by_role("button", name="Show the words").click()
    words = page.locator(".words").inner_text()
    assert words == alice.cli("contacts", "verify", "bob", "--yes").ok().out.strip()
    page.get_by_role("button", name="They see the same").click()
    expect(page.get_by_text("You have compared the words")).to_be_visible()
    assert alice.user_id in Contacts(bob.person.home / "contacts.yaml").book().verified


def test_texts_are_escaped_as_in_a_terminal(bob: Surfer) -> None:
    """The page and the terminal agree on every character."""
    page = bob.open(logged_in=False)
    page.goto(bob.url)
    characters = [
        chr(code) for code in (*range(0x3100), *range(0xD7F0, 0x10000), *range(0xE0000, 0xE0100)) if code not in (9, 10)
    ]
    script = "async (text) => (await import('/dom.js')).visible(JSON.parse(text)).split('\\n')"
    found = page.evaluate(script, json.dumps("\n".join(characters)))
    assert found == [escape(character) for character in characters]


def test_tabs_share_one_stream(alice: Person, bob: Surfer) -> None:
    """A browser opens few connections to a server; when the tab with the stream is closed, another one takes over."""
    first = bob.open()
    second = bob.new_tab(first.context, "#inbox", logged_in=False)
    leads = "import('/events.js').then((events) => events.isLeader)"
    expect(second.locator("nav.side").get_by_text("connected")).to_be_visible()
    assert [first.evaluate(leads), second.evaluate(leads)] == [True, False]
    ask(alice, "Both of you?")
    for page in (first, second):
        expect(page.get_by_role("link", name="Both of you?")).to_be_visible()
    first.close()
    ask(alice, "And you alone?")
    expect(second.get_by_role("link", name="And you alone?")).to_be_visible()
    assert second.evaluate(leads) is True


def hold(page: Page, pattern: str) -> list[Route]:
    """Hold back what the page asks of its server; returns the requests, which the test lets go on."""
    held: list[Route] = []
    page.route(pattern, lambda route: held.append(route))  # noqa: PLW0108 - playwright takes no built-in method
    return held


def wait_for_one(page: Page, held: list[Route]) -> Route:
    """Wait until the page has asked."""
    for _ in range(TIMEOUT_MS // 20):
        if held:
            return held[-1]
        page.wait_for_timeout(20)
    raise AssertionError("the page has not asked")


def test_a_question_that_comes_while_the_list_is_read_stays(alice: Person, bob: Surfer) -> None:
    """What the server says of it meanwhile counts, and not the list, which is older."""
    ask(alice, "The first?")
    prompt_of(bob, "The first?")
    page = bob.open()
    inbox = hold(page, "**/api/inbox")
    page.reload()
    expect(page.locator("nav.side").get_by_text("connected")).to_be_visible()
    reading = wait_for_one(page, inbox)
    older = reading.fetch()
    ask(alice, "The second?")
    expect(page.get_by_role("link", name="The second?")).to_be_visible()
    reading.fulfill(response=older)
    expect(page.get_by_role("link", name="The first?")).to_be_visible()
    assert page.get_by_role("link", name="The second?").is_visible()
    page.unroute_all()


def test_a_question_that_comes_before_the_stream_is_shown(alice: Person, bob: Surfer) -> None:
    """The list is read before it came, and the stream begins after that, while the list is still on its way."""
    page = bob.open()
    inbox, stream = hold(page, "**/api/inbox"), hold(page, "**/api/events")
    page.reload()
    reading = wait_for_one(page, inbox)
    older = reading.fetch()
    ask(alice, "In between?")
    prompt_of(bob, "In between?")
    page.unroute("**/api/inbox")
    wait_for_one(page, stream).continue_()
    expect(page.locator("nav.side").get_by_text("connected")).to_be_visible()
    reading.fulfill(response=older)
    expect(page.get_by_role("link", name="In between?")).to_be_visible()
    page.unroute_all()


def notify_of_questions(bob: Surfer, page: Page) -> None:
    """Turn notifications on, and put the page into the background."""
    page.goto(f"{bob.url}/#settings")
    page.context.grant_permissions(["notifications"], origin=bob.url)
    expect(page.get_by_text(bob.person.user_id)).to_be_visible()  # then the questions so far are read
    page.get_by_label("Notify me of questions").check()
    expect(page.get_by_label("Notify me of questions")).to_be_checked()
    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => true })")


def check_notified(page: Page, wanted: list[list[str]]) -> None:
    """Wait for notifications, and compare their titles, texts and where they lead."""
    shown = "navigator.serviceWorker.ready.then((worker) => worker.getNotifications())"
    texts = f"{shown}.then((all) => all.map((each) => [each.title, each.body, each.data.hash]))"
    wait_until(lambda: page.evaluate(texts) != [])
    assert page.evaluate(texts) == wanted


def test_a_browser_notifies_while_the_page_is_in_the_background(alice: Person, bob: Surfer) -> None:
    """It says who asks, and not what; a tap on it opens the question."""
    page = bob.open()
    notify_of_questions(bob, page)
    ask(alice, "Are you away?")
    check_notified(page, [["alice asks you", "", f"#q={prompt_of(bob, 'away')}"]])


def test_a_notification_waits_for_what_shows_it(alice: Person, bob: Surfer) -> None:
    """A browser takes a while to start a service worker, and a question may come before that."""
    page = bob.open()
    page.evaluate(
        """() => {
          const register = navigator.serviceWorker.register.bind(navigator.serviceWorker);
          const held = new Promise((resolve) => { window.goOn = resolve; });
          navigator.serviceWorker.register = (...all) => held.then(() => register(...all));
        }"""
    )
    notify_of_questions(bob, page)
    ask(alice, "So soon?")
    expect(page.locator("#announcer")).to_contain_text("So soon?")
    page.evaluate("window.goOn()")
    check_notified(page, [["alice asks you", "", f"#q={prompt_of(bob, 'So soon')}"]])


def test_a_browser_notifies_of_what_came_while_the_server_was_away(alice: Person, bob: Surfer) -> None:
    """No event says so, but the page finds it in the list when it reads that again."""
    page = bob.open()
    stream = hold(page, "**/api/events")
    page.reload()
    notify_of_questions(bob, page)
    ask(alice, "Meanwhile?")
    prompt_of(bob, "Meanwhile?")
    wait_for_one(page, stream).continue_()
    check_notified(page, [["alice asks you", "", f"#q={prompt_of(bob, 'Meanwhile')}"]])
    page.unroute_all()


def test_a_cold_load_is_quick(alice: Person, bob: Surfer, record_property: Callable[[str, object], None]) -> None:
    """The first load of a browser ends with the list of questions; the time is reported, and fails no test."""
    ask(alice, "How long?")
    prompt_of(bob, "How long")
    page = bob.open()
    state = page.context.storage_state()
    took, bare = [], []
    for _ in range(3):
        fresh = bob.open(logged_in=False, state=state)
        fresh.goto(f"{bob.url}/icon.svg")
        bare.append(fresh.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
        fresh.goto(bob.url)
        fresh.get_by_role("link", name="How long?").wait_for()
        took.append(fresh.evaluate("performance.getEntriesByName('questions shown')[0].startTime"))
    words = f"{min(took):.0f} ms, of its icon alone: {min(bare):.0f} ms"
    record_property("report", f"cold load of the page until its questions are shown: {words}")
    assert fresh.evaluate("performance.getEntriesByType('resource').every((e) => e.name.startsWith(location.origin))")


# Others who try.


@pytest.fixture
def other_origin(bob: Surfer) -> Iterator[str]:
    """A server of somebody else on this machine, with a page that tries everything at bob's page."""
    attack = """<!doctype html><body><iframe src="URL/"></iframe>
      <form method=post enctype="text/plain" action="URL/api/answer">
        <input name='{"id":"ID","value":true,"x":"' value='"}'></form>
      <script>
        const tries = [];
        const options = { method: "POST", credentials: "include", body: JSON.stringify({ id: "ID", value: true }) };
        for (const more of [{}, { mode: "no-cors" }, { headers: { "Content-Type": "application/json" } }]) {
          tries.push(fetch("URL/api/answer", { ...options, ...more }).then((r) => r.text(), () => "refused"));
        }
        const binary = { "Content-Type": "application/octet-stream" };
        for (const more of [{}, { mode: "no-cors" }, { headers: binary }]) {
          tries.push(fetch("URL/api/upload", { ...options, ...more }).then((r) => r.text(), () => "refused"));
        }
        tries.push(fetch("URL/api/events", { credentials: "include" }).then((r) => r.text(), () => "refused"));
        Promise.all(tries).then((found) => { document.title = JSON.stringify(found); });
      </script>"""

    class Handler(BaseHTTPRequestHandler):
        cookies: list[str] = []  # noqa: RUF012 - of one test

        def do_GET(self) -> None:
            self.cookies.append(self.headers.get("Cookie", ""))
            prompt = self.path.partition("?")[2]
            body = attack.replace("URL", bob.url).replace("ID", prompt).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_page_of_another_origin_answers_nothing(alice: Person, bob: Surfer, other_origin: str) -> None:
    """Also not one of another port of the same machine, to which the browser sends the same cookies."""
    ask(alice, "Pay?", schema=YES_OR_NO)
    prompt = prompt_of(bob, "Pay?")
    page = bob.open()
    evil = page.context.new_page()
    for address in (other_origin, other_origin.replace("127.0.0.1", "localhost")):
        evil.goto(f"{address}/?{prompt}")
        expect(evil).not_to_have_title("")
        tried = json.loads(evil.title())
        assert all(text in ("refused", "") or "wrong_origin" in text for text in tried), tried
        with evil.expect_navigation():
            evil.evaluate("document.forms[0].submit()")
        assert "wrong_origin" in evil.content()
    assert [each["status"] for each in bob.person.prompts()] == ["open"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_second_user_of_the_machine_gets_no_link(bob: Surfer) -> None:
    """They cannot read the home, so no command of theirs makes a link."""
    bob.link()
    home = bob.person.home
    ended = subprocess.run(
        ["cat", home / "web.json"], user="nobody", extra_groups=[], capture_output=True, text=True, check=False, cwd="/"
    )
    assert "Permission denied" in ended.stderr
    assert ended.stdout == ""
    page = bob.open(logged_in=False)
    page.goto(f"{bob.url}/#login=0123456789abcdef.guess")
    expect(page.get_by_text("This link was used already, or is too old.")).to_be_visible()
    page.get_by_label("Link").fill(bob.link())
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Questions")).to_be_visible()


# Everybody can use it.


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_axe_finds_nothing_to_mend(alice: Person, bob: Surfer, size: tuple[int, int]) -> None:
    """In each view, with real content, in light and dark."""
    ask(alice, "Yes or no?", schema=YES_OR_NO)
    ask(alice, "Register", schema=VISITOR)
    ask(alice, "Anything?", timeout=120)
    bob.person.request("ask", who=["alice"], text="What do you think?")
    alice.request("decline", id=alice.wait_for_prompts()[0]["id"], reason="No time")
    prompts = [prompt_of(bob, text) for text in ("Yes or no", "Register", "Anything")]
    asked = bob.person.request("asked", limit=1)["asked"][0]["id"]
    user = alice.user_id
    views = ["#inbox", "#talks", f"#talk={user}", "#people", f"#person={user}", "#asked", f"#a={asked}", "#a=new"]
    page = bob.open(size=size)
    page.evaluate(axe_script())
    found = {}
    for view in [*views, "#waiting", "#log", "#settings", *(f"#q={prompt}" for prompt in prompts)]:
        page.goto(f"{bob.url}/{view}")
        page.emulate_media(color_scheme="light")
        expect(page.locator(".loading")).to_have_count(0)
        expect(page.locator("#list .pane-title" if "=" not in view else ".detail-content .pane-title")).to_be_attached()
        check_nothing_is_wider(page)
        assert size == DESK or page.evaluate(TOO_SMALL) == []
        faults = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
        page.emulate_media(color_scheme="dark")
        faults += page.evaluate("axe.run({ runOnly: ['color-contrast'] })")["violations"]
        if faults:
            found[view] = [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in faults]
    assert found == {}


def test_targets_are_large_enough_for_a_thumb(alice: Person, bob: Surfer) -> None:
    """Every button and link of a question is 44 pixels high at least, also on the smallest phones."""
    ask(alice, "Yes or no?", schema=YES_OR_NO)
    page = bob.open(f"#q={prompt_of(bob, 'Yes or no')}", size=(320, 640))
    page.locator(".confirm .yes").wait_for()
    check_nothing_is_wider(page)
    assert page.evaluate(TOO_SMALL) == []


# Trouble.


def test_an_answer_outlives_the_daemon_the_page_and_the_browser(network: Network, browser: Browser) -> None:
    """The daemon is killed while somebody types; the text survives a reload, and goes out when the daemon is back."""
    alice, person = network.pair(workers=False)
    bob = Surfer(person, browser)
    question = ask(alice, "What now?", timeout=300)
    other = ask(alice, "And then?", schema=YES_OR_NO, timeout=300)
    page = bob.open(f"#q={prompt_of(bob, 'What now')}", size=PHONE)
    page.get_by_label("Your answer").fill("Wait for")
    second = prompt_of(bob, "And then")
    person.kill_daemon()
    expect(page.get_by_text("Your daemon is away.")).to_be_visible()
    page.get_by_label("Your answer").press_sequentially(" me")
    page.get_by_role("button", name="Answer").tap()
    expect(page.get_by_text("Not sent yet: your daemon is away.")).to_be_visible()
    person.start()
    assert value_of(alice, question) == "Wait for me"
    expect(page.get_by_text("You answered:")).to_be_visible()
    context = page.context
    page.close()
    page = bob.new_tab(context, f"#q={second}", logged_in=False)
    page.get_by_role("button", name="Yes").tap()
    assert value_of(alice, other) is True
    bob.end_server()
    expect(page.get_by_text("The server of this page is away.")).to_be_visible()
    bob.start_server_again()
    expect(page.get_by_text("The server of this page is away.")).to_be_hidden()
    bob.end_server()
    bob.close()
    assert bob.faults == []


def test_the_daemon_runs_the_page_if_its_settings_say_so(network: Network, browser: Browser) -> None:
    """It is started again when it is killed, and ends with the daemon."""
    bob = network.person("bob")
    port = free_port()
    (bob.home / "config.yaml").write_text(f"workers: []\nweb: {{listen: '127.0.0.1:{port}'}}\n")
    bob.has_workers = False
    bob.start()
    wait_until(lambda: "Log in with" in bob.log_text())
    page = browser.new_page()
    page.goto(bob.cli("web", "--link").ok().out.strip())
    expect(page.get_by_role("heading", name="Questions")).to_be_visible()
    (child,) = [pid for pid in bob.children() if "p2pflows.web" in command_line_of(pid)]
    os.kill(child, 9)
    expect(page.get_by_text("The server of this page is away.")).to_be_visible()
    wait_until(lambda: bob.log_text().count("Log in with") == 2)
    page.reload()
    expect(page.get_by_text("connected")).to_be_visible()
    (child,) = [pid for pid in bob.children() if "p2pflows.web" in command_line_of(pid)]
    bob.kill_daemon()
    wait_until(lambda: command_line_of(child) == "")
    page.close()


def test_a_page_that_cannot_start_is_in_the_status(network: Network) -> None:
    """With what to do, in `status` and `doctor`; once that is done, both say that it runs."""
    bob = network.person("bob").without_workers()
    config = bob.home / "config.yaml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(f"workers: []\nweb: {{listen: '127.0.0.1:{port}'}}\n")
        bob.start()
        wait_until(lambda: bob.request("status")["page"]["problem"] is not None)
        page = bob.cli("status", "--json").ok().document["page"]
        assert (page["url"], page["problem"]) == (None, f"127.0.0.1:{port} cannot be used: Address already in use.")
        assert "listen under web in config.yaml" in page["next"]
        shown = bob.cli("status").ok().out
        assert page["problem"] in shown
        assert page["next"] in shown
        told = bob.cli("doctor").out
        assert f"Your page does not run: {page['problem']}" in told
        assert page["next"] in told
        config.write_text("workers: []\nweb: {listen: '127.0.0.1:0', cert: /none.pem, key: /none.key}\n")
        wait_until(lambda: "/none.pem" in (bob.request("status")["page"]["problem"] or ""))
    config.write_text(f"workers: []\nweb: {{listen: '127.0.0.1:{port}'}}\n")
    wait_until(lambda: bob.request("status")["page"]["url"] is not None)
    assert bob.request("status")["page"] == {"url": f"http://127.0.0.1:{port}", "problem": None, "next": None}
    assert f"http://127.0.0.1:{port}" in bob.cli("status").ok().out
    assert f"http://127.0.0.1:{port}" in bob.cli("doctor").out
    (child,) = [pid for pid in bob.children() if "p2pflows.web" in command_line_of(pid)]
    os.kill(child, 9)
    wait_until(lambda: bob.request("status")["page"]["problem"] == "It has ended (exit code -9).")
    wait_until(lambda: bob.request("status")["page"]["url"] is not None)
