"""Flow modules from a hub, from git and from folders: fetched once, pinned, and never run without trust."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import hub_server
from support.commands import CommandResult
from support.hub_server import Hub
from support.scripted_daemon import command, run, run_here

from p2pflows import flow_verse
from p2pflows.errors import UsageError
from p2pflows.modules import ContentDiffers, FetchFailed, Untrusted, lock
from p2pflows.modules.sync import SyncOptions, sync_sources
from p2pflows.modules.trust import TrustList

CHAT: dict[str, str | bytes] = {
    "__init__.py": "from .Chat import greet\n",
    "Chat.py": "def greet():\n    return 'hello'\n",
    "default.yaml": "name: Chat\n",
    "weights.bin": bytes(range(256)) * 100,
}
NEEDS_OTHER = "from p2pflows import flow_verse\nflow_verse.sync_dependencies([{'url': 'team/Other'}])\n"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test a home and a current folder of its own, and undo its imports."""
    monkeypatch.setenv("P2PFLOWS_HOME", str(tmp_path / "home"))
    for name in ("HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for module in [name for name in sys.modules if name.partition(".")[0] == "flow_modules"]:
        del sys.modules[module]
    if library := sys.modules.get("huggingface_hub"):
        library.close_session()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the module team/Chat, which the environment selects."""
    with Hub(tmp_path / "hub") as hub:
        hub.publish("team/Chat", CHAT)
        hub.publish("team/Other", {"__init__.py": "OTHER = 1\n"})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in a folder with a space, which is the current folder."""
    root = tmp_path / "my project"
    root.mkdir()
    monkeypatch.chdir(root)
    return root


class Repository:
    """A git repository that a test fills."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=trunk")

    @property
    def url(self) -> str:
        """The URL of the repository, as the source of a module."""
        return f"git+file://{self.folder}"

    def commit(self, files: Mapping[str, str], tag: str | None = None) -> str:
        """Commit these files; returns the commit id."""
        for name, text in files.items():
            (self.folder / name).write_text(text)
        self.git("add", "--all")
        self.git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "x")
        if tag:
            self.git("tag", tag)
        return self.git("rev-parse", "HEAD").strip()

    def git(self, *words: str) -> str:
        """Run git in the repository."""
        return subprocess.run(
            ["git", *words], cwd=self.folder, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
        ).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A git repository below a folder with a space; its branch is not called main."""
    return Repository(tmp_path / "git repositories" / "team" / "Tool")


def _folder(root: Path, module: str) -> Path:
    return root / "flow_modules" / module


def _write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def _placed(root: Path) -> set[str]:
    """The modules of the project, and whatever else a sync has left there."""
    folder = root / "flow_modules"
    found = {path.relative_to(folder).as_posix() for path in folder.glob("*/*")}
    return found | {path.name for path in folder.glob(".staging-*")}


# From the hub.


def test_a_module_comes_from_the_hub_and_is_imported(hub: Hub, root: Path) -> None:
    """As in the tutorial, one call fetches the module, and its code is imported by its name."""
    dependencies = [{"url": "team/Chat", "revision": "main"}]
    assert flow_verse.sync_dependencies(dependencies, trust=True) == [str(_folder(root, "team/Chat"))]
    chat = importlib.import_module("flow_modules.team.Chat")
    assert chat.greet() == "hello"
    assert {path.name for path in _folder(root, "team/Chat").iterdir()} == set(CHAT)
    assert (_folder(root, "team/Chat") / "weights.bin").read_bytes() == CHAT["weights.bin"]
    locked = lock.read(root)["team/Chat"]
    assert (locked.source.url, locked.commit) == ("team/Chat", hub.commit("team/Chat", "main"))
    assert flow_verse.verify(root) == []


def test_a_second_sync_needs_no_hub(hub: Hub, root: Path) -> None:
    """A second sync of a locked module needs no hub."""
    first = flow_verse.sync_dependencies(["team/Chat", "team/Other"], trust=True)
    asked = len(hub.requests)
    before = (root / lock.NAME).read_bytes()
    hub.publish("team/Chat", {"__init__.py": "newer = 1\n"})
    assert flow_verse.sync_dependencies(["team/Chat", "team/Other"]) == first
    assert len(hub.requests) == asked
    hub.stop()
    for offline in (False, True):
        assert flow_verse.sync_dependencies(["team/Chat", "team/Other"], offline=offline) == first
    assert (root / lock.NAME).read_bytes() == before


def test_a_sync_returns_the_requested_modules_first(hub: Hub, root: Path) -> None:
    """A sync returns the folders of all modules: first those asked for, in their order, then the others."""
    assert hub.url
    flow_verse.sync_dependencies(["team/Chat"], trust=True)
    both = [str(_folder(root, name)) for name in ("team/Other", "team/Chat")]
    assert flow_verse.sync_dependencies(["team/Other"], trust=True) == both


def test_a_project_is_on_the_path_once(hub: Hub, root: Path) -> None:
    """However often a project is synced, it is on Python's path once."""
    assert hub.url
    for _ in range(3):
        flow_verse.sync_dependencies(["team/Chat"], trust=True)
    assert sys.path.count(str(root)) == 1


def test_a_lost_folder_comes_back_as_it_was_locked(hub: Hub, root: Path) -> None:
    """A lock restores a lost folder at the same commit, although the branch has moved."""
    flow_verse.sync_dependencies(["team/Chat"], trust=True)
    shutil.rmtree(root / "flow_modules")
    hub.publish("team/Chat", {"__init__.py": "newer = 1\n"})
    flow_verse.sync_dependencies(["team/Chat"])
    assert flow_verse.verify(root) == []
    flow_verse.sync_dependencies(["team/Chat"], all_overwrite=True)
    assert (_folder(root, "team/Chat") / "__init__.py").read_text() == "newer = 1\n"
    assert lock.read(root)["team/Chat"].commit == hub.commit("team/Chat", "main")


def test_what_is_not_what_was_locked_is_not_placed(hub: Hub, root: Path) -> None:
    """Other files for the locked commit are refused, even if the hub reports hashes that fit them."""
    flow_verse.sync_dependencies(["team/Chat"], trust=True)
    before = (root / lock.NAME).read_bytes()
    shutil.rmtree(root / "flow_modules")
    commit = hub.commit("team/Chat", "main")
    (hub.folder / f"team/Chat/{commit}/Chat.py").write_text("evil = 1\n")
    with pytest.raises(ContentDiffers, match=r"Chat\.py \(changed\)"):
        flow_verse.sync_dependencies(["team/Chat"])
    assert _placed(root) == set()
    assert (root / lock.NAME).read_bytes() == before


@pytest.mark.parametrize("name", ["Chat.py", "weights.bin"])
def test_a_file_that_was_changed_on_its_way_is_refused(hub: Hub, root: Path, name: str) -> None:
    """A file, small or large, without the hash that the hub reported is refused, and nothing is placed."""
    content = CHAT[name]
    size = len(content)
    hub.tampered[name] = b"#" * size
    with pytest.raises(ContentDiffers, match=f"{name} of team/Chat is not what the hub announced"):
        flow_verse.sync_dependencies(["team/Chat"], trust=True)
    assert _placed(root) == set()
    assert lock.read(root) == {}


@pytest.mark.parametrize("name", ["../evil.py", "deep/../../evil.py", "/evil.py", ".cache/evil.py"])
def test_a_hub_cannot_write_elsewhere(hub: Hub, root: Path, name: str) -> None:
    """A file name that leads out of the module's folder is refused before anything is fetched."""
    hub.invented = [name]
    with pytest.raises(ContentDiffers):
        flow_verse.sync_dependencies(["team/Chat"], trust=True)
    assert _placed(root) == set()
    assert [line for line in hub.requests if "/resolve/" in line] == []


def test_what_the_hub_does_not_have(hub: Hub, root: Path) -> None:
    """A wrong name, a wrong revision and a missing hub are three errors, each with a hint."""
    with pytest.raises(UsageError, match="no module team/Nothing"):
        flow_verse.sync_dependencies(["team/Nothing"], trust=True)
    (root / "v9").mkdir()
    with pytest.raises(UsageError, match="no revision 'v9'") as wrong:
        flow_verse.sync_dependencies([{"url": "team/Chat", "revision": "v9"}], trust=True)
    assert "./v9" in wrong.value.hint
    with pytest.raises(UsageError, match="must be fetched, but this sync is offline"):
        flow_verse.sync_dependencies(["team/Chat"], trust=True, offline=True)
    hub.stop()
    with pytest.raises(FetchFailed, match="Cannot fetch"):
        flow_verse.sync_dependencies(["team/Chat"], trust=True)
    assert _placed(root) == set()


# Changes.


def test_what_was_changed_by_hand_is_kept(hub: Hub, root: Path) -> None:
    """A sync that would lose local changes names the files and fails; with overwrite it goes on."""
    flow_verse.sync_dependencies(["team/Chat"], trust=True)
    asked = len(hub.requests)
    mine = _write(_folder(root, "team/Chat"), {"Chat.py": "mine = 1\n", "new.py": ""})
    (mine / "default.yaml").unlink()
    with pytest.raises(UsageError, match="was changed by hand") as kept:
        flow_verse.sync_dependencies(["team/Chat"], trust=True)
    for what in ("Chat.py (changed)", "default.yaml (missing)", "new.py (extra)"):
        assert what in kept.value.message
    assert "--overwrite" in kept.value.hint
    assert (mine / "Chat.py").read_text() == "mine = 1\n"
    assert len(hub.requests) == asked
    flow_verse.sync_dependencies([{"url": "team/Chat", "overwrite": True}])
    assert (mine / "Chat.py").read_text() == CHAT["Chat.py"]
    assert flow_verse.verify(root) == []


def test_another_revision_replaces_only_when_told(hub: Hub, root: Path) -> None:
    """A locked project keeps its revision; overwrite moves it to the new one, and the old files are gone."""
    newer = hub.publish("team/Chat", {"__init__.py": "newer = 1\n"}, "feature/v2.0-rc")
    flow_verse.sync_dependencies(["team/Chat"], trust=True)
    other = {"url": "team/Chat", "revision": "feature/v2.0-rc"}
    with pytest.raises(UsageError, match="is locked to team/Chat at main"):
        flow_verse.sync_dependencies([other])
    assert lock.read(root)["team/Chat"].commit == hub.commit("team/Chat", "main")
    flow_verse.sync_dependencies([{**other, "overwrite": True}])
    assert lock.read(root)["team/Chat"].commit == newer
    assert [path.name for path in _folder(root, "team/Chat").iterdir()] == ["__init__.py"]
    flow_verse.sync_dependencies([{"url": "team/Chat", "revision": newer}])


def test_a_folder_that_nobody_locked_is_not_replaced(hub: Hub, root: Path) -> None:
    """A folder that no sync has made is not replaced without overwrite."""
    mine = _write(_folder(root, "team/Chat"), {"mine.py": ""})
    with pytest.raises(UsageError, match=r"is not in flow\.lock"):
        flow_verse.sync_dependencies(["team/Chat"], trust=True)
    assert [path.name for path in mine.iterdir()] == ["mine.py"]
    assert hub.requests == []


def test_two_revisions_of_one_module_are_one_too_many(hub: Hub, root: Path) -> None:
    """A list with two revisions of one module is refused before anything happens."""
    with pytest.raises(UsageError, match="is requested twice"):
        flow_verse.sync_dependencies(["team/Chat", {"url": "team/Chat", "revision": "v1"}], trust=True)
    assert hub.requests == []
    assert _placed(root) == set()


# Git and folders.


def test_a_module_comes_from_git(repository: Repository, root: Path) -> None:
    """Without a revision the repository's own branch is taken; a tag or a commit works as well, and offline, too."""
    first = repository.commit({"__init__.py": "VERSION = 1\n"}, "v1")
    second = repository.commit({"__init__.py": "VERSION = 2\n"})
    for revision, commit in ((None, second), ("v1", first), ("trunk", second), (first, first)):
        entry = {"url": repository.url, "revision": revision, "overwrite": True}
        flow_verse.sync_dependencies([entry], trust=True, offline=True)
        assert lock.read(root)["team/Tool"].commit == commit
    assert importlib.import_module("flow_modules.team.Tool").VERSION == 1
    assert [path.name for path in _folder(root, "team/Tool").iterdir()] == ["__init__.py"]
    repository.folder.rename(repository.folder.with_name("moved"))
    flow_verse.sync_dependencies([{"url": repository.url, "revision": first}])
    with pytest.raises(FetchFailed, match="git cannot fetch"):
        flow_verse.sync_dependencies([repository.url], all_overwrite=True)
    assert flow_verse.verify(root) == []


def test_a_revision_that_git_does_not_have(repository: Repository, root: Path) -> None:
    """A name that is no branch, tag or commit is an error, and is never passed to git as an option."""
    repository.commit({"__init__.py": ""})
    for revision in ("main", "v9", "0" * 40):
        with pytest.raises(UsageError, match="has no revision"):
            flow_verse.sync_dependencies([{"url": repository.url, "revision": revision}], trust=True)
    with pytest.raises(UsageError):
        flow_verse.sync_dependencies([{"url": repository.url, "revision": "--upload-pack=x"}], trust=True)
    assert _placed(root) == set()


def test_a_branch_or_tag_that_is_named_like_a_commit_is_not_taken_for_it(repository: Repository, root: Path) -> None:
    """A full commit id stands for that commit alone, even if a branch or tag has the same name."""
    good = repository.commit({"__init__.py": "good = 1\n"})
    repository.commit({"__init__.py": "evil = 1\n"})
    for name in (good, good.upper(), "0" * 40, "0" * 64):
        repository.git("update-ref", f"refs/heads/{name}", "HEAD")
        repository.git("update-ref", f"refs/tags/{name}", "HEAD")
    for revision in (good, good.upper()):
        flow_verse.sync_dependencies([{"url": repository.url, "revision": revision, "overwrite": True}], trust=True)
        assert lock.read(root)["team/Tool"].commit == good
        assert (_folder(root, "team/Tool") / "__init__.py").read_text() == "good = 1\n"
    for revision in ("0" * 40, "0" * 64):
        with pytest.raises(UsageError, match="has no revision"):
            flow_verse.sync_dependencies([{"url": repository.url, "revision": revision, "overwrite": True}])


def test_a_locked_commit_outlives_a_force_push(repository: Repository, root: Path) -> None:
    """A commit that no branch holds is fetched by its id; once it is gone, the error says what to do."""
    first = repository.commit({"__init__.py": "1\n"})
    flow_verse.sync_dependencies([repository.url], trust=True)
    repository.git("update-ref", "-d", "HEAD")
    second = repository.commit({"__init__.py": "2\n"})
    shutil.rmtree(root / "flow_modules")
    flow_verse.sync_dependencies([repository.url])
    assert (_folder(root, "team/Tool") / "__init__.py").read_text() == "1\n"
    (root / "other").mkdir()
    with pytest.raises(UsageError, match=f"no revision '{first}'"):  # what strangers push to forks looks the same
        flow_verse.sync_dependencies([{"url": repository.url, "revision": first}], root=root / "other")
    shutil.rmtree(root / "flow_modules")
    repository.git("reflog", "expire", "--expire=now", "--all")
    repository.git("gc", "--quiet", "--prune=now")
    with pytest.raises(UsageError, match=rf"no longer has the commit {first}, to which flow\.lock pins") as gone:
        flow_verse.sync_dependencies([repository.url])
    assert gone.value.hint == "To use the present HEAD instead, add --overwrite."
    flow_verse.sync_dependencies([repository.url], all_overwrite=True)
    assert lock.read(root)["team/Tool"].commit == second


@pytest.mark.parametrize("chosen", ["GIT_SSH_COMMAND", "GIT_SSH", "core.sshCommand", None])
def test_the_users_own_way_to_call_ssh_is_taken(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    """The user's own setting of how git calls ssh is kept; otherwise ssh is called so that it never prompts."""
    for name in ("mine", "ssh"):
        _write(tmp_path / "bin", {name: f'#!/bin/sh\necho {name} "$@" >> "{tmp_path}/called"\nexit 1\n'})
        (tmp_path / "bin" / name).chmod(0o755)
    mine = str(tmp_path / "bin" / "mine")
    for name in ("GIT_SSH_COMMAND", "GIT_SSH"):
        monkeypatch.delenv(name, raising=False)
    _write(tmp_path, {"gitconfig": f"[core]\n\tsshCommand = {mine}\n" if chosen == "core.sshCommand" else ""})
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    if chosen and chosen.startswith("GIT"):
        monkeypatch.setenv(chosen, mine)
    with pytest.raises(FetchFailed):
        flow_verse.sync_dependencies(["git+ssh://git@host.invalid/team/Tool"], trust=True)
    called = {line.partition(" ")[0] for line in (tmp_path / "called").read_text().splitlines()}
    assert called == {"mine" if chosen else "ssh"}
    assert ("BatchMode=yes" in (tmp_path / "called").read_text()) == (chosen is None)
    assert _placed(root) == set()


def test_a_git_repository_cannot_reach_out_of_its_folder(repository: Repository, root: Path) -> None:
    """A repository with a link that leads outside is refused."""
    (repository.folder / "link").symlink_to("/etc")
    repository.commit({"__init__.py": ""})
    with pytest.raises(ContentDiffers, match="leads out"):
        flow_verse.sync_dependencies([repository.url], trust=True)
    assert _placed(root) == set()


def test_a_folder_of_ones_own_is_linked(root: Path, tmp_path: Path) -> None:
    """A revision that is a path links that folder, live; it needs no trust, and its content is left alone."""
    mine = _write(tmp_path / "my code", {"__init__.py": "VALUE = 1\n"})
    entry = {"url": "team/Chat", "revision": "../my code"}
    flow_verse.sync_dependencies([entry])
    assert _folder(root, "team/Chat").resolve() == mine
    _write(mine, {"__init__.py": "VALUE = 2\n"})
    flow_verse.sync_dependencies([entry], offline=True)
    assert importlib.import_module("flow_modules.team.Chat").VALUE == 2
    assert [module.state for module in flow_verse.list_modules(root)] == ["linked"]


def test_a_link_gives_way_to_the_published_module_and_back(hub: Hub, root: Path, tmp_path: Path) -> None:
    """With overwrite a link is replaced by a published module and back; the linked folder itself never changes."""
    assert hub.url
    mine = _write(tmp_path / "mine", {"__init__.py": "mine = 1\n"})
    flow_verse.sync_dependencies([{"url": "team/Chat", "revision": str(mine)}])
    with pytest.raises(UsageError, match="is locked to"):
        flow_verse.sync_dependencies(["team/Chat"], trust=True)
    flow_verse.sync_dependencies(["team/Chat"], all_overwrite=True, trust=True)
    assert not _folder(root, "team/Chat").is_symlink()
    flow_verse.sync_dependencies([{"url": "team/Chat", "revision": str(mine), "overwrite": True}])
    assert _folder(root, "team/Chat").is_symlink()
    assert (mine / "__init__.py").read_text() == "mine = 1\n"
    assert _placed(root) == {"team/Chat"}


def test_a_folder_is_copied_by_its_url(root: Path, tmp_path: Path) -> None:
    """A file URL copies the folder as it is now, and pins it like any other source."""
    mine = _write(tmp_path / "my files" / "team" / "Chat", {"__init__.py": "1\n", ".git/config": "", "a b/c.txt": ""})
    flow_verse.sync_dependencies([f"file://{mine}"])
    _write(mine, {"__init__.py": "2\n"})
    flow_verse.sync_dependencies([f"file://{mine}"])
    assert (_folder(root, "team/Chat") / "__init__.py").read_text() == "1\n"
    assert set(lock.read(root)["team/Chat"].files) == {"__init__.py", "a b/c.txt"}
    flow_verse.sync_dependencies([f"file://{mine}"], all_overwrite=True)
    assert (_folder(root, "team/Chat") / "__init__.py").read_text() == "2\n"


# What modules need themselves.


def test_what_a_module_needs_comes_with_it(hub: Hub, root: Path) -> None:
    """All that `dependencies.yaml` names, at any depth and even in a cycle, is fetched once."""
    hub.publish("a/One", {"__init__.py": "", "dependencies.yaml": "- url: b/Two\n- url: team/Other\n"})
    hub.publish("b/Two", {"__init__.py": "", "dependencies.yaml": "- url: c/Three\n  revision: v1\n"})
    hub.publish("c/Three", {"__init__.py": "", "dependencies.yaml": "- url: a/One\n"}, "v1")
    folders = flow_verse.sync_dependencies(["a/One"], trust=True)
    assert folders[0] == str(_folder(root, "a/One"))
    assert _placed(root) == {"a/One", "b/Two", "c/Three", "team/Other"}
    assert set(folders) == {str(_folder(root, name)) for name in _placed(root)}
    assert len([line for line in hub.requests if "/api/models/" in line]) == 4
    hub.stop()
    assert flow_verse.sync_dependencies(["a/One"], offline=True)[0] == folders[0]


def test_a_module_may_sync_when_it_is_imported(
    hub: Hub, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules that imported code asks for go into the same project, from any folder, and need their own trust."""
    code = "from p2pflows import flow_verse\nname = 'team/Other'\n"
    code += "places = flow_verse.sync_dependencies([{'url': name}])\nfrom flow_modules.team.Other import OTHER\n"
    hub.publish("team/Chat", {"__init__.py": code})
    flow_verse.sync_dependencies(["team/Chat"], trust=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Untrusted, match="team/Other is not trusted"):
        importlib.import_module("flow_modules.team.Chat")
    assert _placed(root) == {"team/Chat"}
    flow_verse.sync_dependencies(["team/Other"], root=root, trust=True)
    shutil.rmtree(_folder(root, "team/Other"))
    chat = importlib.import_module("flow_modules.team.Chat")
    assert chat.OTHER == 1
    assert chat.places == [str(_folder(root, "team/Other")), str(_folder(root, "team/Chat"))]
    assert not (tmp_path / "flow_modules").exists()


def test_a_list_in_the_code_is_fetched_before_the_code_runs(hub: Hub, root: Path) -> None:
    """A module that syncs a literal list when it is imported finds it in place, without any hub."""
    hub.publish("team/Chat", {"__init__.py": NEEDS_OTHER + "from flow_modules.team.Other import OTHER\n"})
    flow_verse.sync_dependencies(["team/Chat"], trust=True)
    assert _placed(root) == {"team/Chat", "team/Other"}
    hub.stop()
    assert importlib.import_module("flow_modules.team.Chat").OTHER == 1


def test_for_what_modules_need_the_lock_decides(hub: Hub, root: Path, tmp_path: Path) -> None:
    """The user's choice of a module, even a folder of theirs, wins over what another module asks for."""
    mine = _write(tmp_path / "mine", {"__init__.py": "OTHER = 'mine'\n"})
    hub.publish("a/One", {"__init__.py": "", "dependencies.yaml": "- url: team/Other\n  overwrite: true\n"})
    flow_verse.sync_dependencies(["a/One", {"url": "team/Other", "revision": str(mine)}], trust=True)
    flow_verse.sync_dependencies(["a/One"])
    assert _folder(root, "team/Other").resolve() == mine


def test_a_strangers_module_names_no_folder_of_this_machine(hub: Hub, root: Path, tmp_path: Path) -> None:
    """Only one's own folders may depend on local folders; modules from elsewhere may not."""
    secret = _write(tmp_path / "team" / "Secret", {"__init__.py": ""})
    for needs in (f"- url: file://{secret}", f"- {{url: team/Secret, revision: {secret}}}", f"- git+file://{secret}"):
        hub.publish("a/One", {"__init__.py": "", "dependencies.yaml": needs})
        with pytest.raises(UsageError, match="which is on this machine"):
            flow_verse.sync_dependencies(["a/One"], trust=True)
    assert _placed(root) == set()
    mine = _write(tmp_path / "mine", {"dependencies.yaml": "- url: team/Secret\n  revision: ../team/Secret\n"})
    flow_verse.sync_dependencies([{"url": "a/One", "revision": str(mine)}])
    assert _folder(root, "team/Secret").resolve() == secret


@pytest.mark.parametrize("form", ["link", "copy"])
def test_a_strangers_flow_lock_reaches_no_folder_of_this_machine(root: Path, tmp_path: Path, form: str) -> None:
    """A lock that came with a project links or copies a folder only after the trust question, which names it."""
    secret = _write(tmp_path / "team" / "Secret", {"__init__.py": "KEY = 1\n"})
    revision = str(secret) if form == "link" else None
    url = "team/Secret" if form == "link" else secret.as_uri()
    flow_verse.sync_dependencies([{"url": url, "revision": revision} if revision else url])
    stolen = (root / "flow.lock").read_text(encoding="utf-8")
    shutil.rmtree(root / "flow_modules")
    TrustList()._path.unlink()  # as on the machine of somebody else
    (root / "flow.lock").write_text(stolen, encoding="utf-8")
    with pytest.raises(Untrusted, match=str(secret)):
        sync_sources([], root, SyncOptions(), with_locked=True)
    assert _placed(root) == set()
    sync_sources([], root, SyncOptions(trust=True), with_locked=True)
    assert _placed(root) == {"team/Secret"}


def test_a_dependency_of_a_dependency_reaches_no_folder_outside_its_own(root: Path, tmp_path: Path) -> None:
    """A folder that the user did not name links what lies inside it, and asks for all else."""
    _write(tmp_path / "team" / "Secret", {"__init__.py": ""})
    needs = "- {url: team/Inner, revision: ./Inner}\n- {url: team/Secret, revision: ../team/Secret}\n"
    _write(tmp_path / "near", {"__init__.py": "", "dependencies.yaml": needs})
    _write(tmp_path / "near" / "Inner", {"__init__.py": ""})
    mine = _write(tmp_path / "mine", {"dependencies.yaml": "- {url: a/Near, revision: ../near}\n"})
    with pytest.raises(Untrusted, match="Secret"):
        flow_verse.sync_dependencies([{"url": "a/One", "revision": str(mine)}])
    assert _placed(root) == {"team/Inner"}


def test_a_link_in_a_lock_is_an_absolute_path(root: Path) -> None:
    """A relative one would depend on the current folder."""
    entry = {"url": "team/Chat", "revision": "../../etc", "linked": True}
    (root / "flow.lock").write_text(json.dumps({"version": 1, "modules": {"team/Chat": entry}}), encoding="utf-8")
    with pytest.raises(UsageError, match="damaged"):
        lock.read(root)


def test_packages_are_named_and_not_installed(hub: Hub, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A module's `pip_requirements.txt` causes one line that says what to type; nothing is installed."""
    hub.publish("team/Chat", {"__init__.py": "", "pip_requirements.txt": "no-such-package-of-anybody\n"})
    flow_verse.sync_dependencies(["team/Chat"], trust=True)
    path = _folder(root, "team/Chat") / "pip_requirements.txt"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"team/Chat needs packages: pip install -r '{path}'"
    ]


# Trust.


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str | None]]:
    """The token of each request to a hub, by the hub's port; the user has a token for their own hub."""
    seen: list[tuple[int, str | None]] = []
    answer = hub_server._Handler._answer

    def noting(handler: Any) -> None:
        seen.append((handler.server.server_address[1], handler.headers.get("Authorization")))
        answer(handler)

    monkeypatch.setattr(hub_server._Handler, "_answer", noting)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return seen


def test_the_token_of_the_users_hub_goes_to_no_other_hub(
    hub: Hub, root: Path, tmp_path: Path, tokens: list[tuple[int, str | None]]
) -> None:
    """The hub of the environment gets the token, however it is named; another hub gets none."""
    with Hub(tmp_path / "other hub") as other:
        other.publish("team/Chat", CHAT)
        flow_verse.sync_dependencies(["team/Chat"], trust=True, endpoint=other.url)
        assert len(tokens) > len(CHAT)
        assert {token for _, token in tokens} == {None}
        tokens.clear()
        for endpoint in (None, f"{hub.url}/"):
            flow_verse.sync_dependencies(["team/Chat"], trust=True, endpoint=endpoint, all_overwrite=True)
            assert tokens[0] == (int(hub.url.rpartition(":")[2]), "Bearer hf_secret")
            tokens.clear()
    assert _placed(root) == {"team/Chat"}


def test_only_a_fetched_source_is_trusted_for_good(hub: Hub, root: Path, tmp_path: Path) -> None:
    """Trust is stored only for a source that was fetched and fits the lock, and for what it needs."""
    hub.publish("team/Chat", {"__init__.py": "", "dependencies.yaml": "- team/Other\n"})
    for wrong in ("team/Chta", {"url": "team/Chat", "revision": "v9"}):
        with pytest.raises(UsageError, match=r"has no (module|revision)"):
            flow_verse.sync_dependencies([wrong], trust=True)
    hub.invented = ["../evil.py"]
    with pytest.raises(ContentDiffers):
        flow_verse.sync_dependencies(["team/Chat"], trust=True)
    assert TrustList().sources() == []
    hub.invented = []
    synced = _sync(root, "team/Chat", "--trust")
    assert TrustList().sources() == [f"{hub.url}/team/Chat", f"{hub.url}/team/Other"]
    for module in ("team/Chat", "team/Other"):
        assert f"Trusted from now on: {hub.url}/{module}\n" in synced.err
    assert "Trusted" not in _sync(root, "team/Chat", "--trust", "--overwrite").err
    (tmp_path / "home" / "trusted_sources.yaml").unlink()
    shutil.rmtree(root / "flow_modules")
    (hub.folder / f"team/Other/{hub.commit('team/Other', 'main')}/__init__.py").write_text("evil = 1\n")
    with pytest.raises(ContentDiffers, match=r"not those in flow\.lock"):
        flow_verse.sync_dependencies(["team/Other"], trust=True)
    assert TrustList().sources() == []


def test_an_untrusted_source_is_not_even_fetched(hub: Hub, root: Path) -> None:
    """Without trust nothing is requested, placed or locked; trust is remembered."""
    for trust in (None, False):
        with pytest.raises(Untrusted) as refused:
            flow_verse.sync_dependencies(["team/Chat"], trust=trust)
        assert "--trust" in refused.value.hint
    assert hub.requests == []
    assert (_placed(root), lock.read(root)) == (set(), {})
    flow_verse.sync_dependencies(["team/Chat"], trust=True)
    shutil.rmtree(root / "flow_modules")
    flow_verse.sync_dependencies(["team/Chat"])
    assert _placed(root) == {"team/Chat"}
    with pytest.raises(Untrusted, match="team/Other"):
        flow_verse.sync_dependencies(["team/Other"])


def test_trust_in_a_module_is_no_trust_in_what_it_needs(hub: Hub, root: Path) -> None:
    """A trusted module with a new dependency is not placed before that dependency is trusted, too."""
    flow_verse.sync_dependencies(["team/Chat"], trust=True)
    hub.publish("team/Chat", {"__init__.py": "", "dependencies.yaml": "- url: team/Other\n"})
    with pytest.raises(Untrusted, match="team/Other"):
        flow_verse.sync_dependencies(["team/Chat"], all_overwrite=True)
    assert _placed(root) == {"team/Chat"}
    assert flow_verse.verify(root) == []
    assert (_folder(root, "team/Chat") / "Chat.py").exists()


def test_a_git_repository_of_this_machine_wants_trust(repository: Repository, root: Path) -> None:
    """A local git repository needs trust, because a clone may hold anybody's code."""
    repository.commit({"__init__.py": ""})
    with pytest.raises(Untrusted):
        flow_verse.sync_dependencies([repository.url])
    assert _placed(root) == set()


def test_another_hub_wants_its_own_trust(hub: Hub, root: Path, tmp_path: Path) -> None:
    """Trust in a name on one hub is no trust in the same name on another hub."""
    flow_verse.sync_dependencies(["team/Chat"], trust=True)
    with Hub(tmp_path / "other hub") as other:
        other.publish("team/Chat", CHAT)
        with pytest.raises(Untrusted):
            flow_verse.sync_dependencies(["team/Chat"], endpoint=other.url, all_overwrite=True)
        assert other.requests == []
    assert hub.url
    assert flow_verse.verify(root) == []


def _at_a_terminal(home: Path, words: Sequence[str], answer: bytes) -> tuple[int, str]:
    """Run the CLI with a terminal as its stdin and stderr; returns the exit code and what the terminal showed."""
    arguments, environment = command(home, *words)
    main, side = pty.openpty()
    program = subprocess.Popen(arguments, env=environment, stdin=side, stdout=subprocess.DEVNULL, stderr=side)
    os.close(side)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux tells that the other side is closed
        while chunk := os.read(main, 4096):
            shown += chunk
            if b"[y/N] " in chunk:
                os.write(main, answer)
    os.close(main)
    return program.wait(), shown.decode()


def test_a_person_at_a_terminal_is_asked(hub: Hub, root: Path, tmp_path: Path) -> None:
    """At a terminal a question replaces the error; only `yes` is yes, and it is remembered."""
    words = ["modules", "sync", "team/Chat", "--root", str(root)]
    for answer in (b"\n", b"n\n", b"maybe\n"):
        code, shown = _at_a_terminal(tmp_path / "home", words, answer)
        assert (code, hub.requests) == (4, [])
        assert f"{hub.url}/team/Chat is not trusted yet" in shown
    code, shown = _at_a_terminal(tmp_path / "home", words, b"Y\n")
    assert code == 0, shown
    assert _placed(root) == {"team/Chat"}
    shutil.rmtree(root / "flow_modules")
    code, shown = _at_a_terminal(tmp_path / "home", words, b"n\n")
    assert code == 0
    assert "[y/N]" not in shown


# Several at once, and ends that nobody planned.


def test_two_processes_at_once_do_the_work_once(hub: Hub, root: Path, tmp_path: Path) -> None:
    """Of two simultaneous syncs, the second waits and finds everything in place."""
    hub.publish("team/Chat", {**CHAT, "dependencies.yaml": "- url: team/Other\n"})
    arguments, environment = command(tmp_path / "home", "modules", "sync", "team/Chat", "--trust", "--root", str(root))
    programs = [
        subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
        for _ in range(3)
    ]
    result = [program.communicate()[1] for program in programs]
    assert [program.returncode for program in programs] == [0, 0, 0], result
    assert _placed(root) == {"team/Chat", "team/Other"}
    assert len([line for line in hub.requests if "/api/models/" in line]) == 2
    assert flow_verse.verify(root) == []


def test_a_sync_that_is_killed_leaves_nothing_half_done(hub: Hub, root: Path, tmp_path: Path) -> None:
    """A sync that is killed while it fetches has placed nothing; the next sync cleans up and completes."""
    arrived, go_on = threading.Event(), threading.Event()

    class Slow(dict[str, bytes]):
        def get(self, key: str, default: Any = None) -> Any:
            if key == "Chat.py":
                arrived.set()
                go_on.wait(30)
            return super().get(key, default)

    hub.tampered = Slow()
    arguments, environment = command(tmp_path / "home", "modules", "sync", "team/Chat", "--trust", "--root", str(root))
    program = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    assert arrived.wait(30)
    program.send_signal(signal.SIGKILL)
    program.wait()
    go_on.set()
    assert {name[:9] for name in _placed(root)} == {".staging-"}
    assert flow_verse.verify(root) == []
    flow_verse.sync_dependencies(["team/Chat"], trust=True)
    assert _placed(root) == {"team/Chat"}
    assert flow_verse.verify(root) == []


def test_a_disk_that_fails_leaves_the_old_module(hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the lock cannot be written, the old module is restored."""
    flow_verse.sync_dependencies(["team/Chat"], trust=True)
    hub.publish("team/Chat", {"__init__.py": "newer = 1\n"})
    write, failed = lock.write, list[bool]()

    def full(*words: Any) -> None:
        if not failed:
            failed.append(True)
            raise OSError(28, "No space left on device")
        write(*words)

    monkeypatch.setattr(lock, "write", full)
    with pytest.raises(OSError, match="No space"):
        flow_verse.sync_dependencies(["team/Chat"], all_overwrite=True)
    assert _placed(root) == {"team/Chat"}
    assert flow_verse.verify(root) == []


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), UnicodeEncodeError("utf-8", "", 0, 1, "no text"), MemoryError()]
)
def test_whatever_cuts_an_overwrite_short_leaves_the_old_module(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, after: bool
) -> None:
    """Ctrl-C or an unexpected error, before or after the lock is written, restores the old module."""
    flow_verse.sync_dependencies(["team/Chat"], trust=True)
    before = (root / lock.NAME).read_bytes()
    hub.publish("team/Chat", {"__init__.py": "newer = 1\n"})
    write, failed = lock.write, list[bool]()

    def cut_short(*words: Any) -> None:
        if after or failed:
            write(*words)
        if not failed:
            failed.append(True)
            raise error

    monkeypatch.setattr(lock, "write", cut_short)
    with pytest.raises(type(error)):
        flow_verse.sync_dependencies(["team/Chat"], all_overwrite=True)
    assert _placed(root) == {"team/Chat"}
    assert (root / lock.NAME).read_bytes() == before
    assert flow_verse.verify(root) == []


def test_a_file_name_that_is_no_text_does_not_cost_the_old_module(repository: Repository, root: Path) -> None:
    """A file name that flow.lock cannot hold is refused before anything is moved."""
    repository.commit({"__init__.py": ""})
    flow_verse.sync_dependencies([repository.url], trust=True)
    repository.commit({os.fsdecode(b"\xff.py"): ""})
    with pytest.raises(ContentDiffers, match="is not UTF-8"):
        flow_verse.sync_dependencies([repository.url], all_overwrite=True)
    assert _placed(root) == {"team/Tool"}
    assert flow_verse.verify(root) == []


# The commands.


def _sync(root: Path, *words: str, **more: str) -> CommandResult:
    return run_here(root.parent / "home", "modules", "sync", *words, cwd=root, **more)


def test_the_commands_sync_list_and_verify(hub: Hub, root: Path) -> None:
    """`list` shows synced modules in words and in JSON; `verify` finds a changed one, with exit code 1."""
    synced = _sync(root, "team/Chat", "--trust", "--endpoint", hub.url)
    assert (synced.code, synced.out) == (0, "")
    assert "Fetching team/Chat" in synced.err
    assert "import flow_modules.team.Chat" in synced.err
    commit = hub.commit("team/Chat", "main")
    home = root.parent / "home"
    again = _sync(root, "team/Chat", "--offline", "--json")
    facts = {
        "module": "team/Chat",
        "package": "flow_modules.team.Chat",
        "folder": str(_folder(root, "team/Chat")),
        "url": "team/Chat",
        "revision": "main",
        "commit": commit,
    }
    assert again.document == [{**facts, "how": "kept", "requirements": None}]
    listed = run_here(home, "modules", "list", "--json", cwd=root)
    assert listed.document == [{**facts, "state": "ok"}]
    assert (commit or "")[:12] in run_here(home, "modules", cwd=root).out
    good = run_here(home, "modules", "verify", cwd=root)
    assert (good.code, good.out, good.err) == (0, "", "Checked 1 module: all files are as in flow.lock.\n")
    _write(_folder(root, "team/Chat"), {"Chat.py": "evil = 1\n"})
    bad = run_here(home, "modules", "verify", "--root", str(root))
    assert bad.code == 1
    assert "Chat.py" in bad.out
    result = run_here(home, "modules", "verify", "--json", cwd=root)
    assert (result.code, result.document) == (1, [{"module": "team/Chat", "path": "Chat.py", "what": "changed"}])
    kept = _sync(root, "team/Chat")
    assert kept.code == 2
    assert "Chat.py (changed)" in kept.err
    assert _sync(root, "team/Chat", "--overwrite").code == 0
    assert run_here(home, "modules", "verify", cwd=root).code == 0


def test_the_command_takes_lists_and_revisions(hub: Hub, root: Path, tmp_path: Path) -> None:
    """A file, the project's own file, or only the lock can say what to sync; paths in a file start beside it."""
    nothing = _sync(root)
    assert nothing.code == 2
    assert "nothing to sync" in nothing.err
    _write(tmp_path / "lists", {"some.yaml": "- url: team/Mine\n  revision: ./mine\n", "mine/__init__.py": ""})
    assert _sync(root, "--file", str(tmp_path / "lists" / "some.yaml")).code == 0
    assert _folder(root, "team/Mine").resolve() == tmp_path / "lists" / "mine"
    _write(root, {"dependencies.yaml": "dependencies:\n  - url: team/Other\n"})
    assert _sync(root, "--trust").code == 0
    assert _placed(root) == {"team/Mine", "team/Other"}
    (root / "dependencies.yaml").unlink()
    shutil.rmtree(root / "flow_modules")
    assert _sync(root).code == 0
    assert _placed(root) == {"team/Mine", "team/Other"}
    hub.publish("team/Chat", {"__init__.py": ""}, "v1")
    assert _sync(root, "team/Chat", "--revision", "v1", "--trust", "--json").document[0]["revision"] == "v1"


@pytest.mark.parametrize("dangling", [False, True])
def test_a_linked_folder_that_is_not_on_this_machine(root: Path, tmp_path: Path, dangling: bool) -> None:
    """A lock with a link to a folder that is missing here creates no link, and the output says so."""
    mine = _write(tmp_path / "mine", {"__init__.py": ""})
    flow_verse.sync_dependencies([{"url": "team/Mine", "revision": str(mine)}])
    shutil.rmtree(mine)
    if not dangling:
        shutil.rmtree(root / "flow_modules")
    for words in ([], ["--overwrite"]):
        gone = _sync(root, *words)
        assert gone.code == 2
        assert f"linked to {mine}, but there is no such folder on this machine" in gone.err
        assert "p2pflows modules sync team/Mine --revision FOLDER --overwrite" in gone.err
    assert _placed(root) == ({"team/Mine"} if dangling else set())
    moved = _write(tmp_path / "moved", {"__init__.py": ""})
    assert _sync(root, "team/Mine", "--revision", str(moved), "--overwrite").code == 0
    assert _folder(root, "team/Mine").resolve() == moved


def test_the_projects_list_does_not_hide_the_rest_of_its_lock(hub: Hub, root: Path, tmp_path: Path) -> None:
    """With `dependencies.yaml`, a sync without a source brings what the file names and all else that is locked."""
    assert _sync(root, "team/Chat", "--trust").code == 0
    shutil.rmtree(root / "flow_modules")
    _write(root, {"dependencies.yaml": "- team/Other\n"})
    synced = _sync(root, "--trust", "--json")
    assert [module["module"] for module in synced.document] == ["team/Other", "team/Chat"]
    assert _placed(root) == {"team/Chat", "team/Other"}
    shutil.rmtree(root / "flow_modules")
    assert _sync(root, "--file", str(_write(tmp_path / "x", {"list": "- team/Other\n"}) / "list")).code == 0
    assert _placed(root) == {"team/Other"}
    assert hub.url


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (["team/Chat"], 4, "untrusted"),
        (["team/Nothing", "--trust"], 2, "usage"),
        (["team/Chat", "--trust", "--revision", "v9"], 2, "usage"),
        (["team/Chat", "--trust", "--offline"], 2, "usage"),
        (["team/Chat", "--trust", "--endpoint", "http://127.0.0.1:1"], 3, "fetch_failed"),
        (["Chat"], 2, "usage"),
        (["team/Chat", "team/Other", "--revision", "v1"], 2, "usage"),
        (["--file", "nothing.yaml"], 2, "usage"),
    ],
)
def test_the_command_fails_with_a_kind_and_a_hint(hub: Hub, root: Path, words: list[str], code: int, kind: str) -> None:
    """Each failure has a code and a kind for programs, and never prompts."""
    ended = _sync(root, *words, "--json")
    assert (ended.code, ended.error["code"]) == (code, kind)
    assert ended.error["hint"]
    assert ended.out == ""
    assert _placed(root) == set()
    assert hub.url


def test_the_command_line_needs_no_hub_library_to_list(root: Path, tmp_path: Path) -> None:
    """`modules list` does not import the hub's library, which is slow to import."""
    mine = _write(tmp_path / "mine", {"__init__.py": ""})
    code = (
        "import sys; from p2pflows import flow_verse;"
        f"flow_verse.sync_dependencies([{{'url': 'team/Mine', 'revision': {str(mine)!r}}}]);"
        "print('huggingface_hub' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert ended.stdout == "False\n"
    listed = run(tmp_path / "home", "modules", "list", "--json", "--root", str(root))
    assert json.loads(listed.out)[0]["state"] == "linked"
