"""The pages are true: their commands run, their links exist, and they name what the code has."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest
from support.command_tree import commands
from support.console_examples import PageRunner, read
from support.model_server import Asked, Fails, ModelServer, Script
from support.processes import free_port
from test_rooms import FLOORS

import p2pflows
from p2pflows import errors
from p2pflows.cli import cli
from p2pflows.flows import state
from p2pflows.protocol import asks, envelope, framing, message, notice, progress, strict_json
from p2pflows.protocol.worker_frames import DaemonFrame, WorkerFrame, WorkerInfo
from p2pflows.settings.limits import Limits
from p2pflows.web import cards, fields, hub, logins
from p2pflows.web import server as web_server
from p2pflowsd.api import talk
from p2pflowsd.api.methods import METHODS
from p2pflowsd.human import delegations, inbox, pages, transcript
from p2pflowsd.journal import prompts
from p2pflowsd.receiving import allowance, blocked, intake
from p2pflowsd.running import dispatch, instances
from p2pflowsd.sending import presence, send_queue

LIMITS = Limits()
ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for folder in ("docs", "broker-config") for page in (ROOT / folder).rglob("*.md"))]
)
STORIES = [
    "README.md",
    "docs/GUIDE.md",
    "docs/BROKERS.md",
    "docs/TUTORIAL.md",
    "docs/CONTROL.md",
    "docs/MODULES.md",
    "docs/FLOWS.md",
    "docs/HUMANS.md",
    "docs/OPENAI.md",
    "docs/WEB.md",
    "docs/MODELS.md",
    "docs/FILES.md",
]
PORTS = re.compile(r"\b(?:18642|18643|28883)\b")
"""The ports on which the programs of the pages listen; each test has others, as several may run at the same time."""
PROTOCOL = (ROOT / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")
SOURCES = sorted([*(ROOT / "p2pflows").rglob("*.py"), *(ROOT / "daemon").rglob("*.py")])
COMMANDS = dict(commands(cli))
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
FENCE = re.MULTILINE | re.DOTALL


def _section(title: str) -> str:
    """One numbered section of the protocol."""
    found = re.search(rf"^## \d+\. {title}\n(.*?)(?=^## |\Z)", PROTOCOL, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def _anchors(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _refusals() -> set[str]:
    """Every reason for which the code refuses something."""
    found = set()
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"\._?refuse\((?:message, )?\"(\w+)\"", source))
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Call(func=ast.Name(id="Refused"), args=[reason]):
                    found |= _texts(reason)
    return found


def _texts(expression: ast.expr) -> set[str]:
    """The texts that an expression may return."""
    match expression:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.IfExp(body=body, orelse=orelse):
            return _texts(body) | _texts(orelse)
    return set()


class StoryModel(ModelServer):
    """The model server of the pages: it does not know the model `gone`, and answers with data where it is asked to."""

    def take(self, asked: Asked) -> Script:
        """Return the answer to a request."""
        if asked.body["model"] == "gone":
            return Fails(404, "model 'gone' not found")
        if "response_format" in asked.body:
            return '{"city": "Bern", "people": 140000}'
        return super().take(asked)


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder with a short path, as unix sockets need."""
    with tempfile.TemporaryDirectory(prefix="p2p-") as name:
        yield Path(name)


@pytest.fixture
def environment(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of a new user's terminals: the installed command, an empty home, a broker port of their own."""
    port = free_port()
    beside = Path(sys.executable).parent
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR", "PYTHONPATH") if name in os.environ}
    yield {
        **kept,
        "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "P2PFLOWS_BROKER": f"embedded:{port}",
    }
    files = Path("/var/tmp", f"p2pflows-{os.geteuid()}", f"broker-{port}")  # noqa: S108 - the broker's own place
    shutil.rmtree(files, ignore_errors=True)


@pytest.mark.parametrize("name", STORIES)
def test_a_page_does_what_it_shows(name: str, folder: Path, environment: dict[str, str]) -> None:
    """All console blocks of a page, run in order in an empty folder with real daemons, print what the page shows."""
    page = (ROOT / name).read_text(encoding="utf-8")
    for tool in ("curl", "socat", "mosquitto"):
        if f"{tool} -" in page and not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    ports = {port: str(free_port()) for port in PORTS.findall(page)}
    page = PORTS.sub(lambda found: ports[found[0]], page)
    with StoryModel() as model, PageRunner(folder, environment) as runner:
        steps = read(page.replace("http://127.0.0.1:8080/v1", model.url))
        assert steps
        for step in steps:
            runner.run_step(step)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help(name: str) -> None:
    """Each command has a sentence of help, help for each option, and an example."""
    command = COMMANDS[name]
    assert command.help
    assert command.get_short_help_str(100).endswith(".")
    assert all(option.help for option in command.params if isinstance(option, click.Option)), name
    assert f"p2pflows {name.split(maxsplit=1)[0]}" in (command.epilog or "")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_line_in_the_list(name: str) -> None:
    """The list of commands names each command."""
    assert f"`p2pflows {name}`" in (ROOT / "docs" / "COMMANDS.md").read_text(encoding="utf-8") or name == "contacts"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_what_there_is(page: Path) -> None:
    """Every link to a file names an existing file, and an existing anchor in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in _anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Every file of the project that a page names exists."""
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:p2pflows|daemon|scripts|tests|docs|broker-config)/[a-z_][\w./-]*)", text):
        assert (ROOT / name.rstrip(".")).exists(), name
    for name in re.findall(r"^(scripts/\w+)", text, re.MULTILINE):
        assert os.access(ROOT / name, os.X_OK), name


def test_the_code_names_pages_and_sections_that_exist() -> None:
    """Every page and section that a docstring or an error names exists."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for page, title in re.findall(r"((?:docs|broker-config)/[\w-]+\.md)(?:,\s(\w+))?\)", text):
            assert (ROOT / page).exists(), (path, page)
            assert not title or _section(title), (path, title)
        for number in re.findall(r"docs/PROTOCOL\.md,\ssection\s(\d+)", text):
            assert f"\n## {number}. " in PROTOCOL, (path, number)
        for page in re.findall(r"(?:docs|broker-config)/[\w-]+\.md", text):
            assert (ROOT / page).exists(), (path, page)


def test_every_refusal_is_explained() -> None:
    """The table of refusals has a row for each reason of the code, and no other."""
    assert set(re.findall(r"^\| `(\w+)` \|", _section("Refusals"), re.MULTILINE)) == _refusals()


def test_every_kind_of_error_is_explained() -> None:
    """The table of kinds has a row for each kind, with its exit code, and the list of exit codes the same."""
    rows = re.findall(r"^\| `(\w+)` \| (\d) \|", _section("Answers and errors"), re.MULTILINE)
    assert {kind: int(code) for kind, code in rows} == {kind: error.exit_code for kind, error in errors.BY_KIND.items()}
    page = (ROOT / "docs" / "COMMANDS.md").read_text(encoding="utf-8")
    codes = {
        kind: int(code)
        for code, kinds in re.findall(r"^\| (\d+) \| (.*`.*) \|$", page, re.MULTILINE)
        for kind in re.findall(r"`(\w+)`", kinds)
    }
    assert codes == {kind: int(code) for kind, code in rows}


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ("body of a message", message.MAX_BODY_BYTES),
        ("`source`", message.MAX_SOURCE_CHARS),
        ("life of a message", message.MAX_LIFETIME_MS),
        ("clocks ahead", intake.MAX_CLOCK_SKEW_MS),
        ("parts of a frame", framing.MAX_PARTS),
        ("bodies that a sender puts into one bundle", send_queue.MAX_BUNDLE_BYTES),
        ("messages that a sender puts into one bundle", send_queue.MAX_BUNDLE_MESSAGES),
        ("unsettled bytes under way to one recipient", send_queue.MAX_IN_FLIGHT_BYTES),
        ("bytes of the notices in one bundle", notice.MAX_NOTICE_BYTES),
        ("ids in `received`, `held`, `waiting`, `untimely` and `refused` of one bundle", notice.MAX_RECEIPTS),
        ("streams in each of `gaps`, `skips` and `rewound` of one bundle", notice.MAX_STREAM_LINES),
        ("lines in `progress` of one bundle", notice.MAX_PROGRESS_LINES),
        ("blocked requests of one contact", LIMITS.blocked_per_contact),
        ("blocked requests of one stranger", LIMITS.requests_per_stranger),
        ("blocked requests of all strangers", LIMITS.requests_of_strangers),
        ("blocked requests of all users", intake.MAX_BLOCKED),
        ("packets of strangers", int(allowance.PACKET_RATE)),
        ("held requests of one stranger", LIMITS.requests_per_stranger),
        ("held requests of all strangers", LIMITS.requests_of_strangers),
        ("messages of strangers", int(allowance.MESSAGE_RATE)),
        ("messages in one bundle", envelope.MAX_BODIES),
        ("signed fact", presence.MAX_CARD_BYTES),
        ("attempts to run a task", dispatch.MAX_ATTEMPTS),
        ("nesting of JSON", strict_json.MAX_DEPTH),
        ("state of an instance", state.MAX_STATE_BYTES),
        ("levels of subflows", instances.MAX_MOUNT_DEPTH),
        ("calls and steps of one run", asks.MAX_RECORDS),
        ("instances of a flow for one contact", instances.MAX_PER_CLIENT),
        ("instances of a flow for one stranger", instances.MAX_PER_STRANGER),
        ("instances of a flow for all strangers", instances.MAX_OF_STRANGERS),
        ("progress of a call at a time", message.MAX_PROGRESS_BYTES),
        ("choices of which a reader follows the pieces", progress.MAX_CHOICES),
    ],
)
def test_limits_are_those_of_the_code(row: str, value: int) -> None:
    """The table of limits has the numbers of the code."""
    found = re.search(rf"^\| {row} \| ([\d,]+)", _section("Limits"), re.MULTILINE)
    assert found, row
    assert int(found[1].replace(",", "")) == value


@pytest.mark.parametrize(
    ("row", "values"),
    [
        ("packets of strangers", [allowance.PACKET_RATE, allowance.PACKET_RATE_OF_ONE, allowance.BYTES_PER_UNIT]),
        ("messages of strangers", [allowance.MESSAGE_RATE, allowance.MESSAGE_RATE_OF_ONE]),
        ("bytes of the notices", [notice.MAX_NOTICE_BYTES]),
        ("`received`,", [notice.MAX_RECEIPTS]),
        ("`gaps`,", [notice.MAX_STREAM_LINES]),
        ("`progress` in", [notice.MAX_PROGRESS_LINES]),
        ("missing messages that", [notice.MAX_STREAM_LINES]),
        ("blocked requests that are released", [blocked.MAX_RELEASED, blocked.MAX_RELEASED_OF_STREAM]),
        ("blocked requests of one contact", [LIMITS.blocked_per_contact]),
        ("blocked requests of one stranger", [LIMITS.requests_per_stranger, LIMITS.requests_of_strangers]),
        ("open questions and notes", [inbox.MAX_OPEN_OF_PEER]),
        ("remembered lines", [transcript.MAX_LINES_OF_PEER, transcript.MAX_LINES, transcript.MAX_CHARS]),
        ("passing one question on", [delegations.MAX_HOPS, inbox.MAX_WHY_CHARS]),
        ("conversations with names", [talk.MAX_TITLES]),
        ("hidden questions", [inbox.MAX_SNOOZED]),
        ("a page of the inbox", [pages.MAX_PAGE, prompts.MAX_PAGE_CHARS]),
        ("connections to [your page]", [web_server.MAX_CONNECTIONS, hub.MAX_STREAMS]),
        ("events that wait for a slow tab", [hub.MAX_UNSENT]),
        ("a request to your page", [web_server.MAX_BODY_BYTES, web_server.BODY_TIMEOUT_S]),
        (
            "links to log in",
            [
                logins.MAX_LINKS,
                logins.LINK_LIFE_S,
                logins.MAX_SESSIONS,
                logins.SESSION_LIFE_S // 86_400,
                logins.MAX_WRONG_LOGINS,
                logins.WRONG_LOGINS_PER_S,
            ],
        ),
        ("text that your page shows at first", [cards.MAX_TEXT_CHARS, cards.MAX_CARD_CHARS, fields.MAX_FIELDS]),
        ("blocked requests of all users", [intake.MAX_BLOCKED]),
        ("held requests of one stranger", [LIMITS.requests_per_stranger]),
        ("held requests of all strangers", [LIMITS.requests_of_strangers]),
        ("messages sent again", [send_queue.MAX_BUNDLE_MESSAGES, send_queue.MAX_BUNDLE_BYTES]),
        ("unsettled messages and bytes", [send_queue.MAX_IN_FLIGHT_MESSAGES, send_queue.MAX_IN_FLIGHT_BYTES]),
    ],
)
def test_the_limits_on_reliability_are_those_of_the_code(row: str, values: list[float]) -> None:
    """The table of limits on the page about reliability has the numbers that the code uses, in this order."""
    page = (ROOT / "docs" / "RELIABILITY.md").read_text(encoding="utf-8")
    found = re.search(rf"^\| {re.escape(row)}[^|]*\|([^|]*)\|", page, re.MULTILINE)
    assert found, row
    numbers = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", found[1])]
    assert numbers[: len(values)] == values


def test_the_fields_of_messages_and_notices_are_explained() -> None:
    """The protocol has a row for each field of a message and of a notice, and no other."""
    for title, model in (("Messages", message.Message), ("Notices", notice.Notice)):
        names = {field.alias or name for name, field in model.model_fields.items()}
        rows = set(re.findall(r"^\| `(\w+)` \|", _section(title), re.MULTILINE))
        assert rows - {kind.value for kind in message.Type} == names


def test_the_fields_of_frames_are_explained_and_frozen() -> None:
    """The protocol has a row for each field of a frame and of a task, and the vectors show each at least once."""
    tables = re.findall(r"^\| Field \|.*?\n\n", _section("Dispatch"), re.MULTILINE | re.DOTALL)
    explained = [
        set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", each, re.MULTILINE)))) for each in tables
    ]
    cases = json.loads((ROOT / "tests" / "vectors" / "channel.json").read_text(encoding="utf-8"))["cases"]
    headers = [case["header"] for case in cases]
    tasks = [task for header in headers for task in header.get("tasks", [])]
    from_worker = [header for header in headers if "slots" in header]
    to_worker = [header for header in headers if "slots" not in header]
    assert explained == [set().union(*frozen) for frozen in (from_worker, to_worker, tasks)]
    worker = WorkerFrame(worker=WorkerInfo("w", 1), boot=0, number=0, seen=0)
    assert set(worker.to_wire()[0]) <= explained[0]
    assert set(DaemonFrame(worker="w", boot=0, number=0, refused="why").to_wire()[0]) == explained[1]


def test_every_method_of_the_control_socket_is_explained() -> None:
    """CONTROL.md has a row for each method, and no other."""
    text = (ROOT / "docs" / "CONTROL.md").read_text(encoding="utf-8")
    methods = text.partition("## Methods")[2].partition("###")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", methods, re.MULTILINE)) == set(METHODS)


def test_the_table_of_methods_is_written_from_the_code() -> None:
    """The table in CONTROL.md is what scripts/method_table writes today."""
    text = (ROOT / "docs" / "CONTROL.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(ROOT / "scripts" / "method_table.py"))["page"](text) == text


def test_the_public_face_is_honest() -> None:
    """`__all__` is sorted, and every name in it exists and has a docstring."""
    assert p2pflows.__all__ == sorted(p2pflows.__all__)
    assert len(set(p2pflows.__all__)) == len(p2pflows.__all__)
    assert [name for name in p2pflows.__all__ if not getattr(p2pflows, name).__doc__] == []


def test_the_life_of_a_message_is_drawn_from_the_tables() -> None:
    """docs/lifecycle.md is what scripts/diagram draws of lifecycle.py today."""
    page = runpy.run_path(str(ROOT / "scripts" / "diagram.py"))["page"]()
    assert (ROOT / "docs" / "lifecycle.md").read_text(encoding="utf-8") == page


@functools.cache
def _tests(file: Path) -> set[str]:
    """The names of the tests in a file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    }


def test_every_defect_of_the_predecessor_has_its_row() -> None:
    """D1 to D63 are in the table once, in order, each with an existing test or the word that none exists."""
    page = (ROOT / "docs" / "predecessor.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (D\d+) \| (.+) \|$", page, re.MULTILINE)
    assert [name for name, _ in rows] == [f"D{n}" for n in range(1, 64)]
    for name, row in rows:
        there, here, shown_by = row.split(" | ")
        assert there, name
        assert here, name
        named = re.findall(r"`(tests/[\w./]+)::(test_\w+)`", shown_by)
        assert named or shown_by.startswith(("not mended", "not applicable")), name
        for file, test in named:
            assert (ROOT / file).exists(), (name, file)
            assert test in _tests(ROOT / file), (name, file, test)


def test_decisions_are_numbered_and_dated() -> None:
    """Each decision has the next number, a date, and the three parts of a record."""
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [record.name[:4] for record in records] == [f"{n:04d}" for n in range(1, len(records) + 1)]
    for record in records:
        text = record.read_text(encoding="utf-8")
        assert text.startswith(f"# {int(record.name[:4])}. ")
        assert re.search(r"^Date: \d{4}-\d\d-\d\d$", text, re.MULTILINE)
        assert [part in text for part in ("## Context", "## Decision", "## Consequences")] == [True] * 3


def test_pages_say_nothing_of_the_machine_they_were_written_on() -> None:
    """No page names a path of its author's machine."""
    for page in PAGES:
        assert not re.search(r"/(?:root|work|home)/|localhost:\d", page.read_text(encoding="utf-8")), page


def test_the_command_line_starts_fast_enough_to_say_help() -> None:
    """`p2pflows --help` runs as a command, and lists every command."""
    told = subprocess.run(
        [sys.executable, "-m", "p2pflows", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert [name for name in COMMANDS if " " not in name and f"  {name} " not in told] == []


@functools.cache
def _defined() -> set[str]:
    """The functions, classes and methods that code and tests define, such as `resolve`, `Node` and `Node.close`."""
    found = set()
    for path in (*SOURCES, *(ROOT / "tests").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            match node:
                case ast.ClassDef(name=name, body=body):
                    found |= {name, *(f"{name}.{each.name}" for each in body if isinstance(each, DEFINITIONS))}
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    found |= {name, f"{path.stem}.{name}"}
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    found.add(name)
    return found


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/ARCHITECTURE.md"])
def test_code_that_a_page_for_contributors_names_exists(name: str) -> None:
    """Every file, class and function that these pages name is in the code."""
    words = re.findall(
        r"`([^`\s]+)`", re.sub(r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=FENCE)
    )
    folders = (ROOT, ROOT / "p2pflows", ROOT / "daemon" / "p2pflowsd")
    for word in words:
        file, _, function = word.partition("::")
        if re.fullmatch(r"[\w./-]+(\.py|\.md|\.json|\.toml|/)", file):
            assert any((folder / file).exists() for folder in folders), word
        elif re.fullmatch(r"_?[A-Z]\w*(\.\w+)?|\w+\.\w+", file) and not file.endswith((".sock", ".lock", ".yaml")):
            function = file
        assert not function or function in _defined(), word


def test_the_architecture_has_the_floors_in_order() -> None:
    """The table of floors names folders and modules in the order of tests/test_rooms.py, and every folder."""
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = page.partition("## Who may import whom")[2].partition("\n\nThe core")[0]
    levels = []
    for cells in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        names = [name.removesuffix("/").removesuffix(".py") for name in re.findall(r"`([^`]+)`", cells)]
        modules = [{f"p2pflows.{name}", f"p2pflowsd.{name}"} for name in names]
        found = [level for module in modules for level, floor in enumerate(FLOORS) if module & floor]
        assert len(found) == len(names), cells
        levels.append((min(found), max(found)))
    assert all(above[1] < below[0] for above, below in pairwise(levels)), levels
    folders = {folder.name for top in ("p2pflows", "daemon/p2pflowsd") for folder in (ROOT / top).glob("[a-z]*/")}
    assert {name for name in folders if f"`{name}/`" not in table} == set()
