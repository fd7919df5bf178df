"""Flow modules: their sources, hashes, lock and dependencies, and the trust in their code."""

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
    """Add and lock a module, as if it had been fetched from the hub."""
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
    """The last two parts of a url are the author and the name, changed so that they can be imported."""
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
    """A url that does not end with two Python names, or that holds a secret, is refused, with a hint."""
    with pytest.raises(UsageError) as refused:
        parse(url, None, HERE)
    assert refused.value.hint


@given(st.text(max_size=40))
def test_no_url_leads_out_of_the_modules(url: str) -> None:
    """Every accepted url leads to a path two folders below `flow_modules`."""
    try:
        found = parse(url, None, Path("/nowhere"))
    except P2pflowsError:
        return
    assert is_module(found.module)
    assert re.fullmatch(r"\w+/\w+", found.module)


def test_a_revision_is_a_path_only_if_written_as_one(tmp_path: Path) -> None:
    """A revision is a folder only if it is written as a path; a folder with the name of a branch is not used."""
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
    """A file url may hold spaces or their escapes."""
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
def test_a_malformed_entry_is_refused(entry: dict[str, object]) -> None:
    """An unknown field or a wrong type is refused, not ignored."""
    with pytest.raises(UsageError):
        read_entry(entry, HERE)


def test_an_entry_may_be_a_url_alone() -> None:
    """The default revision is the branch main, or for git the default branch of the repository."""
    assert read_entry("team/Chat", HERE).source.revision == "main"
    assert read_entry("git+https://host.example/team/Chat", HERE).source.revision == "HEAD"
    assert read_entry({"url": "team/Chat", "overwrite": True}, HERE).overwrite


# Hashes.


def test_hashes_cover_names_content_and_links_but_no_bytecode(tmp_path: Path) -> None:
    """Every file is hashed, whatever its name, except the bytecode that Python writes on import."""
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
    """Hashes that differ in any way have differences, and another total."""
    assert (tree.differences(one, other) == {}) == (one == other) == (tree.total(one) == tree.total(other))


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "deep/../../outside"])
def test_a_link_that_leads_out_is_refused(tmp_path: Path, target: str) -> None:
    """A fetched module cannot reach files outside its folder."""
    folder = tmp_path / "module"
    (folder / "deep").mkdir(parents=True)
    (folder / "link").symlink_to(target)
    with pytest.raises(tree.ContentDiffers, match="leads out"):
        tree.remove_forbidden(folder)


@pytest.mark.parametrize("target", ["link", "other"])
def test_a_link_that_leads_in_a_circle_is_refused(tmp_path: Path, target: str) -> None:
    """A link to itself, or to a link that leads back, is an error."""
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "other").symlink_to("link")
    with pytest.raises(tree.ContentDiffers, match="leads in a circle"):
        tree.remove_forbidden(tmp_path)


@pytest.mark.parametrize("target", [None, b"\xff.py"])
def test_a_name_that_is_not_text_is_refused(tmp_path: Path, target: bytes | None) -> None:
    """A file name or a link target that flow.lock cannot hold is refused before anything is added."""
    if target is None:
        Path(os.fsdecode(bytes(tmp_path) + b"/\xff.py")).write_text("")
    else:
        (tmp_path / "link").symlink_to(os.fsdecode(target))
    with pytest.raises(tree.ContentDiffers, match="is not UTF-8"):
        tree.remove_forbidden(tmp_path)


def test_a_link_with_an_overlong_target_is_accepted(tmp_path: Path) -> None:
    """Such a link leads nowhere, so it is harmless."""
    (tmp_path / "link").symlink_to("a" * 1000)
    tree.remove_forbidden(tmp_path)
    assert set(tree.hashes(tmp_path)) == {"link"}


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: socket.socket(socket.AF_UNIX).bind(path)])
def test_a_pipe_or_socket_in_a_folder_is_not_copied(
    tmp_path: Path, make: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names it, and the copy does not block on reading it."""
    (tmp_path / "from").mkdir()
    monkeypatch.chdir(tmp_path / "from")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        make("special")
        gc.collect()
    with pytest.raises(tree.ContentDiffers, match="special is not a regular file, so it cannot be copied"):
        tree.copy(tmp_path / "from", tmp_path / "to")


def test_bytecode_is_removed(tmp_path: Path) -> None:
    """Bytecode, which nobody can review and no hash covers, is removed; so is git's folder."""
    for folder in ("__pycache__", "deep/__pycache__", "deep/__pycache__/__pycache__", ".git"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "__pycache__").symlink_to("../deep")
    (tmp_path / "deep" / "file").write_text("")
    tree.remove_forbidden(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {"deep", "deep/file", "other"}


# The lock.


def test_a_lock_reads_back_as_written(tmp_path: Path) -> None:
    """Every kind of source is read from the file as it was written."""
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
    """A sync without changes does not touch the file, which may be read-only."""
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
def test_a_damaged_lock_is_refused(tmp_path: Path, damage: Callable[[str], str]) -> None:
    """A lock file that is cut short or was edited is an error."""
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
def test_a_malformed_lock_is_an_error(tmp_path: Path, content: str) -> None:
    """Any other JSON is an error."""
    (tmp_path / lock.NAME).write_text(content)
    with pytest.raises(UsageError, match="damaged"):
        lock.read(tmp_path)


def test_a_lock_that_is_a_folder_or_too_deeply_nested_is_an_error(tmp_path: Path) -> None:
    """The error names the file."""
    path = tmp_path / lock.NAME
    path.write_text("[" * 100_000)
    with pytest.raises(UsageError, match=r"flow\.lock is damaged"):
        lock.read(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match=r"Cannot read .*flow\.lock: "):
        lock.read(tmp_path)


def test_a_locked_commit_may_be_requested_by_its_id() -> None:
    """A branch that is locked at a commit satisfies a request for that commit, and no other request."""
    locked = Locked(parse("team/Chat", "main", HERE), COMMIT, {})
    assert locked.pins(parse("team/Chat", "main", HERE))
    assert locked.pins(parse("team/Chat", COMMIT, HERE))
    assert not locked.pins(parse("team/Chat", "v1", HERE))
    assert not locked.pins(parse("git+https://host.example/team/Chat", COMMIT, HERE))


def test_a_project_has_one_lock_holder_at_a_time(tmp_path: Path) -> None:
    """A second holder of the lock waits until the first has released it."""
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


# Inventory.


def test_verify_finds_changed_missing_and_extra_files(tmp_path: Path) -> None:
    """It also finds missing modules, and modules that are not in the lock."""
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
    """Whatever could be imported below `flow_modules`, or with a module, must be in the lock."""
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


def test_verify_checks_links(tmp_path: Path) -> None:
    """A linked folder may change, but the link must lead to it; a fetched module must not be a link."""
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


def test_a_project_without_modules_has_no_problems(tmp_path: Path) -> None:
    """A missing lock is not a problem."""
    assert list_modules(tmp_path) == []
    assert verify(tmp_path) == []


# Trust.


def test_trust_is_kept_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trusted sources are stored in a file that only its owner can read."""
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
    """A list that cannot be read is an error, and is not overwritten."""
    path = tmp_path / trust.NAME
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match="trusted sources"):
        trust.TrustList(path).add("team/Chat")
    assert path.read_bytes() == content.encode("latin-1")


def test_the_hint_about_trust_keeps_the_revision() -> None:
    """The hint repeats the same command, so that the user does not fetch another revision than the reviewed one."""
    assert "modules sync" not in trust.Untrusted("team/Chat").hint
    assert "same command again with --trust" in trust.Untrusted("team/Chat").hint


def test_another_hub_is_another_source() -> None:
    """Trust in a name on one hub does not extend to another hub; a git url is the same everywhere."""
    chat, git = parse("team/Chat", None, HERE), parse("git+https://host.example/team/Chat", None, HERE)
    assert chat.identity(None) == "team/Chat"
    assert chat.identity("http://mirror.example") == "http://mirror.example/team/Chat"
    assert git.identity("http://mirror.example") == git.identity(None) == git.url


def test_no_question_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal at stdin, without stdin, or in another thread, the user is not asked."""
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


# Dependencies.


def test_dependencies_are_read_from_the_file_first(tmp_path: Path) -> None:
    """`dependencies.yaml` has precedence over the code; it is a list, alone or under `dependencies`."""
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
def test_dependencies_in_code_are_read_without_running_it(tmp_path: Path, code: str, found: list[object]) -> None:
    """A literal list is found; a computed list and malformed code are ignored."""
    (tmp_path / "__init__.py").write_text(code)
    assert declared.dependencies(tmp_path) == found


def test_requirements_without_packages_are_ignored(tmp_path: Path) -> None:
    """A list that holds only comments requires nothing."""
    assert declared.requirements(tmp_path) is None
    path = tmp_path / declared.REQUIREMENTS
    path.write_text("# none\n\n")
    assert declared.requirements(tmp_path) is None
    path.write_text("# one\nnumpy>=2\n")
    assert declared.requirements(tmp_path) == path


def test_the_lock_is_json(tmp_path: Path) -> None:
    """For each module, the file has the url, the revision, the commit, the total hash, and the hash of each file."""
    entry = _locked(tmp_path, "team/Chat", {"a.py": "1"})
    fields = json.loads((tmp_path / lock.NAME).read_text())["modules"]["team/Chat"]
    assert fields == {
        "url": "team/Chat",
        "revision": "main",
        "commit": COMMIT,
        "sha256": tree.total(entry.files),
        "files": {"a.py": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"},
    }


def test_reserved_names_are_not_modules() -> None:
    """A word that Python reserves, or a dunder name, cannot be part of a module's path."""
    assert [name for name in ("a/B", "a/class", "a/__x__", "a", "a/b/c", "", "5a/B", None) if is_module(name)] == [
        "a/B"
    ]
    assert source.package("a/B") == "flow_modules.a.B"
