"""Flow modules: their names, the lock, the hashes, and whose code may run."""

from __future__ import annotations

import gc
import json
import os
import re
import socket
import stat
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.modules import declared, list_modules, lock, source, tree, trust, verify
from p2pflows.modules.lock import Locked
from p2pflows.modules.source import Source, SourceKind, is_module, parse, read_entry

HERE = Path("/")
COMMIT = "c0" * 20


def _locked(root: Path, module: str, files: dict[str, str]) -> Locked:
    """A module that is in place and locked, as if it had come from the hub."""
    place = root / "flow_modules" / module
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    entry = Locked(Source(SourceKind.HUB, module, module, "main"), COMMIT, tree.hashes(place))
    lock.write(root, {**lock.read(root), module: entry})
    return entry


# Names.


@pytest.mark.parametrize(
    ("url", "module", "package"),
    [
        ("aiflows/ChatFlowModule", "aiflows/ChatFlowModule", "flow_modules.aiflows.ChatFlowModule"),
        ("5laps/Chat", "user_5laps/Chat", "flow_modules.user_5laps.Chat"),
        ("my-team/chat-flow", "my_team/chat_flow", "flow_modules.my_team.chat_flow"),
        ("git+https://host.example/deep/team/Chat.git", "team/Chat", "flow_modules.team.Chat"),
        ("https://host.example/team/Chat.git", "team/Chat", "flow_modules.team.Chat"),
        ("git+ssh://git@host.example/team/Chat", "team/Chat", "flow_modules.team.Chat"),
        ("git+file:///a folder/team/Chat/", "team/Chat", "flow_modules.team.Chat"),
    ],
)
def test_a_url_names_what_is_imported(url: str, module: str, package: str) -> None:
    """The last two parts of a url are the author and the name; hyphens and leading digits become importable."""
    found = parse(url, None, HERE)
    assert (found.module, found.package) == (module, package)


@pytest.mark.parametrize(
    "url",
    [
        "Chat",
        "team/",
        "/Chat",
        "team/5Chat",
        "team/class",
        "team/__init__",
        "__pycache__/Chat",
        "team/Chat/More",
        "team/Chat.v2",
        "team/Chät",
        "../Chat",
        "team/..",
        "-team/Chat",
        "team/Chat\n",
        "https://host.example/team/Chat",
        "http://host.example/team/Chat.git",
        "ext::sh -c true/team/Chat",
        "git+ext://host.example/team/Chat",
        "git+https://user:secret@host.example/team/Chat",
        "git+https://token@host.example/team/Chat",
        "git+https://host.example/team/Chat?a=b",
        "git+https://host.example/team/Chat@v1",
        "git+https://host.example/Chat",
        "https://[::1/team/Chat.git",
        "git+ssh://git@[host/team/Chat",
        "file://[::1/team/Chat",
        "git+https://ho\u2100st.example/team/Chat",
        "file://other.example/team/Chat",
        "file:team/Chat",
        "file:///there/is/nothing",
        "./Chat",
    ],
)
def test_what_cannot_be_imported_is_refused(url: str) -> None:
    """A url that gives no two Python names, or that hides something, is an error with a hint, and never a path."""
    with pytest.raises(UsageError) as refused:
        parse(url, None, HERE)
    assert refused.value.hint


@given(st.text(max_size=40))
def test_no_url_leads_out_of_the_modules(url: str) -> None:
    """Whatever is asked for, what is taken has a place two folders below `flow_modules`."""
    try:
        found = parse(url, None, Path("/nowhere"))
    except P2pflowsError:
        return
    assert is_module(found.module)
    assert re.fullmatch(r"\w+/\w+", found.module)


def test_a_path_is_written_as_one(tmp_path: Path) -> None:
    """A revision is a folder only if it looks like a path; one that is merely named like the branch is not it."""
    for folder in ("main", "feature/chat", "here"):
        (tmp_path / folder).mkdir(parents=True)
    for revision in ("main", "feature/chat", "v1.0-rc/2"):
        assert parse("team/Chat", revision, tmp_path) == Source(SourceKind.HUB, "team/Chat", "team/Chat", revision)
    for revision in ("./here", str(tmp_path / "here"), f"../{tmp_path.name}/here"):
        linked = parse("team/Chat", revision, tmp_path)
        assert (linked.kind, linked.folder) == (SourceKind.LINK, (tmp_path / "here").resolve())
    with pytest.raises(UsageError, match="There is no folder"):
        parse("team/Chat", "./not here", tmp_path)


def test_a_folder_to_copy_may_have_spaces(tmp_path: Path) -> None:
    """A file url may be written with spaces or with their escapes."""
    folder = tmp_path / "my files" / "team" / "Chat"
    folder.mkdir(parents=True)
    first, second = parse(f"file://{folder}", None, HERE), parse(folder.as_uri(), None, HERE)
    assert first == second
    assert (first.kind, first.module, first.folder) == (SourceKind.COPY, "team/Chat", folder)
    with pytest.raises(UsageError, match="no revision"):
        parse(folder.as_uri(), "v1", HERE)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"url": ""},
        {"url": 5},
        {"url": "team/Chat", "revision": 1.0},
        {"url": "team/Chat", "revision": "-x"},
        {"url": "team/Chat", "overwrite": "no"},
        {"url": "team/Chat", "branch": "main"},
        5,
    ],
)
def test_an_entry_of_another_form_is_refused(entry: dict[str, object]) -> None:
    """What is not understood is not ignored."""
    with pytest.raises(UsageError):
        read_entry(entry, HERE)


def test_an_entry_may_be_a_url_alone() -> None:
    """The revision is the branch main, for git the usual one of the repository."""
    assert read_entry("team/Chat", HERE).source.revision == "main"
    assert read_entry("git+https://host.example/team/Chat", HERE).source.revision == "HEAD"
    assert read_entry({"url": "team/Chat", "overwrite": True}, HERE).overwrite


# Hashes.


def test_hashes_cover_names_content_and_links_but_no_bytecode(tmp_path: Path) -> None:
    """Every file counts, whatever it is called; what Python makes when it imports does not."""
    before = tmp_path / "before"
    (before / "deep").mkdir(parents=True)
    (before / "deep" / "ü b.txt").write_text("x")
    (before / "link").symlink_to("deep")
    first = tree.hashes(before)
    assert set(first) == {"deep/ü b.txt", "link"}
    (before / "__pycache__").mkdir()
    (before / "__pycache__" / "x.pyc").write_text("")
    assert tree.hashes(before) == first
    (before / "module.pyc").write_text("")
    assert set(tree.hashes(before)) - set(first) == {"module.pyc"}


@given(
    st.dictionaries(st.text(max_size=4), st.text(max_size=4)),
    st.dictionaries(st.text(max_size=4), st.text(max_size=4)),
)
def test_differences_are_empty_only_for_the_same(one: dict[str, str], other: dict[str, str]) -> None:
    """Nothing that differs goes unseen, and the hash of all tells the same."""
    assert (tree.differences(one, other) == {}) == (one == other) == (tree.total(one) == tree.total(other))


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "deep/../../outside"])
def test_a_link_that_leads_out_is_refused(tmp_path: Path, target: str) -> None:
    """What is fetched cannot reach what is beside it."""
    folder = tmp_path / "module"
    (folder / "deep").mkdir(parents=True)
    (folder / "link").symlink_to(target)
    with pytest.raises(tree.ContentDiffers, match="leads out"):
        tree.remove_forbidden(folder)


@pytest.mark.parametrize("target", ["link", "other"])
def test_a_link_that_leads_in_a_circle_is_refused(tmp_path: Path, target: str) -> None:
    """A link to itself, or to one that leads back, is no crash."""
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "other").symlink_to("link")
    with pytest.raises(tree.ContentDiffers, match="leads in a circle"):
        tree.remove_forbidden(tmp_path)


@pytest.mark.parametrize("target", [None, b"\xff.py"])
def test_a_name_that_is_no_text_is_refused(tmp_path: Path, target: bytes | None) -> None:
    """What flow.lock could not hold, of a file or of where a link leads, is told before anything is placed."""
    if target is None:
        Path(os.fsdecode(bytes(tmp_path) + b"/\xff.py")).write_text("")
    else:
        (tmp_path / "link").symlink_to(os.fsdecode(target))
    with pytest.raises(tree.ContentDiffers, match="is not UTF-8"):
        tree.remove_forbidden(tmp_path)


def test_a_link_whose_target_is_too_long_is_no_crash(tmp_path: Path) -> None:
    """It leads nowhere, and harms nobody."""
    (tmp_path / "link").symlink_to("a" * 1000)
    tree.remove_forbidden(tmp_path)
    assert set(tree.hashes(tmp_path)) == {"link"}


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: socket.socket(socket.AF_UNIX).bind(path)])
def test_a_pipe_or_socket_in_a_folder_is_not_copied(
    tmp_path: Path, make: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named; nothing waits for somebody to write into it."""
    (tmp_path / "from").mkdir()
    monkeypatch.chdir(tmp_path / "from")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        make("special")
        gc.collect()
    with pytest.raises(tree.ContentDiffers, match="special is not a regular file, so it cannot be copied"):
        tree.copy(tmp_path / "from", tmp_path / "to")


def test_bytecode_does_not_come_along(tmp_path: Path) -> None:
    """Compiled code that nobody can read, and that no hash covers, is taken away; so is git's folder."""
    for folder in ("__pycache__", "deep/__pycache__", "deep/__pycache__/__pycache__", ".git"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "__pycache__").symlink_to("../deep")
    (tmp_path / "deep" / "file").write_text("")
    tree.remove_forbidden(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {"deep", "deep/file", "other"}


# The lock.


def test_what_is_locked_is_read_again(tmp_path: Path) -> None:
    """Every kind of source comes back from the file as it went in."""
    folder = tmp_path / "some files" / "team" / "Copied"
    folder.mkdir(parents=True)
    modules = {
        "team/Chat": Locked(parse("team/Chat", "v1", HERE), COMMIT, {"a b": "1" * 64}),
        "team/Git": Locked(parse("https://host.example/team/Git.git", None, HERE), COMMIT, {}),
        "team/Copied": Locked(parse(folder.as_uri(), None, HERE), None, {"x": "2" * 64}),
        "team/Linked": Locked(parse("team/Linked", str(folder), HERE)),
    }
    lock.write(tmp_path, modules)
    folder.rmdir()
    assert lock.read(tmp_path) == modules


def test_the_lock_is_written_only_when_it_changes(tmp_path: Path) -> None:
    """A sync that changes nothing leaves the file alone, for version control and for read-only folders."""
    modules = {"team/Chat": Locked(parse("team/Chat", None, HERE), COMMIT, {})}
    lock.write(tmp_path, modules)
    before = (tmp_path / lock.NAME).stat().st_ino
    lock.write(tmp_path, modules)
    assert (tmp_path / lock.NAME).stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir()] == [lock.NAME]


def _garbage(text: str) -> str:
    return text[:-5]


def _newer(text: str) -> str:
    return text.replace('"version": 1', '"version": 2')


def _outside(text: str) -> str:
    return text.replace("team/Chat", "../../x")


def _another_module(text: str) -> str:
    return text.replace('"url": "team/Chat"', '"url": "team/Other"')


def _another_hash(text: str) -> str:
    return text.replace("1" * 64, "2" * 64)


def _no_url(text: str) -> str:
    return text.replace('"url": "team/Chat"', '"url": "https://[::1/team/Chat.git"')


def _no_url_of_a_folder(text: str) -> str:
    return text.replace('"url": "team/Chat"', '"url": "file://[::1/team/Chat"')


def _an_option(text: str) -> str:
    return text.replace('"revision": "main"', '"revision": "--upload-pack=x"')


DAMAGES = [_garbage, _newer, _outside, _another_module, _another_hash, _no_url, _no_url_of_a_folder, _an_option]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_lock_is_not_believed(tmp_path: Path, damage: Callable[[str], str]) -> None:
    """A lock file that was cut, or that somebody changed, is an error, and leads nowhere."""
    lock.write(tmp_path, {"team/Chat": Locked(parse("team/Chat", None, HERE), COMMIT, {"a": "1" * 64})})
    path = tmp_path / lock.NAME
    damaged = damage(path.read_text())
    assert damaged != path.read_text()
    path.write_text(damaged)
    with pytest.raises(UsageError, match=re.escape(str(path))):
        lock.read(tmp_path)
    with pytest.raises(UsageError):
        verify(tmp_path)


@pytest.mark.parametrize("content", ["[]", "5", "{}", '{"version": 1}', '{"version": 1, "modules": {"a/B": 5}}'])
def test_a_lock_of_another_form_is_an_error(tmp_path: Path, content: str) -> None:
    """Whatever JSON it is, it does not crash."""
    (tmp_path / lock.NAME).write_text(content)
    with pytest.raises(UsageError, match="damaged"):
        lock.read(tmp_path)


def test_a_lock_that_is_a_folder_or_nested_without_end_is_an_error(tmp_path: Path) -> None:
    """What is no lock at all is told with its name."""
    path = tmp_path / lock.NAME
    path.write_text("[" * 100_000)
    with pytest.raises(UsageError, match=r"flow\.lock is damaged"):
        lock.read(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match=r"Cannot read .*flow\.lock: "):
        lock.read(tmp_path)


def test_a_commit_that_is_locked_may_be_asked_for_by_itself() -> None:
    """A branch that was locked at a commit satisfies who asks for that commit, and nobody else."""
    locked = Locked(parse("team/Chat", "main", HERE), COMMIT, {})
    assert locked.pins(parse("team/Chat", "main", HERE))
    assert locked.pins(parse("team/Chat", COMMIT, HERE))
    assert not locked.pins(parse("team/Chat", "v1", HERE))
    assert not locked.pins(parse("git+https://host.example/team/Chat", COMMIT, HERE))


def test_a_project_has_one_owner_at_a_time(tmp_path: Path) -> None:
    """Who wants the lock while another has it gets it only afterwards."""
    order: list[str] = []

    def other() -> None:
        with lock.exclusive(tmp_path):
            order.append("other")

    with lock.exclusive(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        order.append("mine")
    thread.join()
    assert order == ["mine", "other"]
    assert (tmp_path / "flow_modules" / ".gitignore").read_text() == "*\n"


# What is in place.


def test_verify_finds_what_was_changed_removed_and_added(tmp_path: Path) -> None:
    """Every file counts, and so do modules that are gone or that nobody locked."""
    _locked(tmp_path, "team/Chat", {"a.py": "1", "b.py": "2", "c d/e.py": "3"})
    _locked(tmp_path, "team/Gone", {"a.py": "1"})
    _locked(tmp_path, "team/Good", {"a.py": "1"})
    assert verify(tmp_path) == []
    place = tmp_path / "flow_modules" / "team"
    (place / "Chat" / "a.py").write_text("changed")
    (place / "Chat" / "b.py").unlink()
    (place / "Chat" / "c d" / "new.py").write_text("")
    (place / "Gone" / "a.py").unlink()
    (place / "Gone").rmdir()
    (place / "Stray").mkdir()
    assert [str(problem) for problem in verify(tmp_path)] == [
        "team/Chat/a.py: changed",
        "team/Chat/b.py: missing",
        "team/Chat/c d/new.py: extra",
        "team/Gone: missing",
        "team/Stray: not in flow.lock",
    ]
    assert {module.module: module.state for module in list_modules(tmp_path)} == {
        "team/Chat": "changed",
        "team/Gone": "missing",
        "team/Good": "ok",
    }


@pytest.mark.parametrize(
    "name",
    [
        "team/Extra.py",
        "team/Extra.pyc",
        "team/Extra.cpython-399-x86_64-linux-gnu.so",
        "team/__init__.py",
        "team/Extra",
        "__init__.py",
        "Extra.py",
    ],
)
def test_verify_finds_code_that_was_put_beside_the_modules(tmp_path: Path, name: str) -> None:
    """Whatever could be imported below `flow_modules`, or runs when a module is, must be in the lock."""
    _locked(tmp_path, "team/Chat", {"a.py": "1"})
    place = tmp_path / "flow_modules"
    for harmless in (
        ".gitignore",
        ".lock",
        "__pycache__/x.pyc",
        "team/__pycache__/x.pyc",
        "team/README.md",
        ".staging-x/new",
    ):
        (place / harmless).parent.mkdir(exist_ok=True)
        (place / harmless).write_text("")
    assert verify(tmp_path) == []
    if name == "team/Extra":
        (tmp_path / "elsewhere").mkdir()
        (place / name).symlink_to(tmp_path / "elsewhere")
    else:
        (place / name).write_text("evil = 1")
    assert [str(problem) for problem in verify(tmp_path)] == [f"{name}: not in flow.lock"]


def test_verify_sees_where_links_lead(tmp_path: Path) -> None:
    """A linked folder may change, but the link must lead to it; a copied module must be no link."""
    _locked(tmp_path, "team/Chat", {"a.py": "1"})
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other):
        folder.mkdir()
    link = tmp_path / "flow_modules" / "team" / "Linked"
    link.symlink_to(mine)
    lock.write(tmp_path, {**lock.read(tmp_path), "team/Linked": Locked(parse("team/Linked", str(mine), HERE))})
    (mine / "new.py").write_text("")
    assert verify(tmp_path) == []
    assert [module.state for module in list_modules(tmp_path)] == ["ok", "linked"]
    link.unlink()
    link.symlink_to(other)
    place = tmp_path / "flow_modules" / "team" / "Chat"
    place.rename(tmp_path / "moved")
    place.symlink_to(tmp_path / "moved")
    assert [problem.what for problem in verify(tmp_path)] == ["replaced by a link", f"not a link to {mine}"]


def test_a_project_without_modules_has_nothing_to_tell(tmp_path: Path) -> None:
    """No lock is no problem."""
    assert list_modules(tmp_path) == []
    assert verify(tmp_path) == []


# Trust.


def test_trust_is_kept_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was trusted stays trusted, in a file that only its owner reads."""
    monkeypatch.setenv("P2PFLOWS_HOME", str(tmp_path / "home"))
    assert trust.TrustList().sources() == []
    for identity in ("team/Chat", "team/Another", "team/Chat"):
        trust.TrustList().add(identity)
    assert trust.TrustList().sources() == ["team/Another", "team/Chat"]
    assert stat.S_IMODE((tmp_path / "home" / trust.NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    ["- team/Chat", "sources: 5", "sources: [5]", "sources: [2024-13-01]", "sources: " + "{a: " * 5000, "{", "\xff"],
)
def test_a_damaged_trust_list_trusts_nobody(tmp_path: Path, content: str) -> None:
    """A list that cannot be read is an error, and is not written over."""
    path = tmp_path / trust.NAME
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match="trusted sources"):
        trust.TrustList(path).add("team/Chat")
    assert path.read_bytes() == content.encode("latin-1")


def test_the_hint_for_what_is_untrusted_leads_to_no_other_revision() -> None:
    """Whoever looked at the code of one revision is not told to type a command that takes another."""
    assert "modules sync" not in trust.Untrusted("team/Chat").hint
    assert "same command again with --trust" in trust.Untrusted("team/Chat").hint


def test_another_hub_is_another_source() -> None:
    """Trust in a name on one hub is no trust in the same name on another; a git url is the same everywhere."""
    chat, git = parse("team/Chat", None, HERE), parse("git+https://host.example/team/Chat", None, HERE)
    assert chat.identity(None) == "team/Chat"
    assert chat.identity("http://mirror.example") == "http://mirror.example/team/Chat"
    assert git.identity("http://mirror.example") == git.identity(None) == git.url


def test_nobody_is_asked_where_no_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal at stdin, or without stdin, there is nobody to ask; nor in a side thread."""
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert not trust.can_ask()
    assert not trust.can_ask()
    monkeypatch.setattr("sys.stdin", None)
    assert not trust.can_ask()
    main, side = os.openpty()
    with os.fdopen(side) as terminal, os.fdopen(main):
        monkeypatch.setattr("sys.stdin", terminal)
        assert trust.can_ask()
        answers: list[bool] = []
        thread = threading.Thread(target=lambda: answers.append(trust.can_ask()))
        thread.start()
        thread.join()
        assert answers == [False]


# What modules need.


def test_needs_are_read_from_the_file_first(tmp_path: Path) -> None:
    """`dependencies.yaml` counts before the code; it is a list, alone or named."""
    (tmp_path / "__init__.py").write_text("sync_dependencies(['team/Code'])")
    assert declared.dependencies(tmp_path) == ["team/Code"]
    for text in ("- url: team/Chat\n", "dependencies:\n  - url: team/Chat\n"):
        (tmp_path / declared.FILE).write_text(text)
        assert declared.dependencies(tmp_path) == [{"url": "team/Chat"}]
    for text in ("", "dependencies:\n"):
        (tmp_path / declared.FILE).write_text(text)
        assert declared.dependencies(tmp_path) == []
    for text in ("5", "- 5", "dependencies: 5", "{", "- url: 2024-13-01", f"- url: {'1' * 5000}", "{a: " * 5000):
        (tmp_path / declared.FILE).write_text(text)
        with pytest.raises(UsageError):
            declared.dependencies(tmp_path)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from p2pflows import flow_verse\nflow_verse.sync_dependencies([{'url': 'a/B'}])", [{"url": "a/B"}]),
        ("needs = [\n  {'url': 'a/B', 'revision': 'v1'},\n]\nx = flow_verse.sync_dependencies(needs)",
         [{"url": "a/B", "revision": "v1"}]),
        ("sync_dependencies(dependencies=['a/B'], trust=True)", ["a/B"]),
        ("needs: list = ['a/B']\nx: list[str] = sync_dependencies(dependencies=needs)", ["a/B"]),
        ("needs: list\nsync_dependencies(needs)", []),
        ("sync_dependencies(root='.')", []),
        ("sync_dependencies(make())", []),
        ("sync_dependencies(unknown)", []),
        ("sync_dependencies()", []),
        ("raise SystemExit", []),
        ("def", []),
        ("\0", []),
    ],
)  # fmt: skip
def test_needs_in_code_are_read_without_running_it(tmp_path: Path, code: str, found: list[object]) -> None:
    """A list that is written out is seen; what is computed is left to the run, and nonsense is no error."""
    (tmp_path / "__init__.py").write_text(code)
    assert declared.dependencies(tmp_path) == found


def test_requirements_count_if_there_are_any(tmp_path: Path) -> None:
    """A list of packages with nothing but remarks asks for nothing."""
    assert declared.requirements(tmp_path) is None
    path = tmp_path / declared.REQUIREMENTS
    path.write_text("# none\n\n")
    assert declared.requirements(tmp_path) is None
    path.write_text("# one\nnumpy>=2\n")
    assert declared.requirements(tmp_path) == path


def test_the_lock_is_json_that_tells_all(tmp_path: Path) -> None:
    """The file has, for each module, the url, the revision, the commit, the hash of all and of each file."""
    entry = _locked(tmp_path, "team/Chat", {"a.py": "1"})
    fields = json.loads((tmp_path / lock.NAME).read_text())["modules"]["team/Chat"]
    assert fields == {
        "url": "team/Chat",
        "revision": "main",
        "commit": COMMIT,
        "sha256": tree.total(entry.files),
        "files": {"a.py": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"},
    }


def test_words_of_python_and_dunder_names_are_no_modules() -> None:
    """What Python keeps for itself is no place for a module."""
    assert [name for name in ("a/B", "a/class", "a/__x__", "a", "a/b/c", "", "5a/B", None) if is_module(name)] == [
        "a/B"
    ]
    assert source.package("a/B") == "flow_modules.a.B"
