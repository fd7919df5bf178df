"""Getting a module's files from its source into an empty folder; nothing here decides whether it may run."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.modules import tree
from p2pflows.modules.source import Source, SourceKind

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

_MAX_PARALLEL_DOWNLOADS = 8
_HUB_TRACES = ".cache"
_GIT = (
    "git", "-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false", "-c", "advice.detachedHead=false",
)  # fmt: skip
_USUAL_HUB = "https://huggingface.co"
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.IGNORECASE)
_OF_ANOTHER_REPOSITORY = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"}


class FetchFailed(P2pflowsError):
    """A source cannot be reached, or does not give what it was asked for."""

    kind = "fetch_failed"
    exit_code = 3


class NoRevision(UsageError):
    """A source does not have the revision that it was asked for."""


def fetch(source: Source, revision: str, folder: Path, endpoint: str | None, *, locked: bool) -> str | None:
    """Fill an empty folder with a source's files at a revision; gives the commit, where there are commits.

    Args:
        source: what to fetch.
        revision: a branch, tag or commit.
        folder: where to.
        endpoint: which hub.
        locked: the revision is a commit whose files are known, so it need not be in any branch. For any other,
            hosts give out what strangers have pushed to their forks.

    Raises:
        FetchFailed: the source cannot be reached, or an unforeseen answer came.
        UsageError: there is no such module.
        NoRevision: the module has no such revision.
        ContentDiffers: what came is not what was promised.
    """
    match source.kind:
        case SourceKind.HUB:
            commit: str | None = _from_hub(source.url, revision, folder, endpoint)
        case SourceKind.GIT:
            commit = _from_git(source.url, revision, folder, locked=locked)
        case _:
            commit = None
            if not source.folder.is_dir():
                raise UsageError(f"There is no folder {source.folder}.", "Check the path.")
            tree.copy(source.folder, folder)
    tree.purge(folder)
    return commit


def _from_hub(repository: str, revision: str, folder: Path, endpoint: str | None) -> str:
    # Otherwise the library also asks the usual hub which programs are agents, whatever hub was named.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub import errors as hub

    token = None if _may_have_token(endpoint) else False

    def download(name: str) -> None:
        hf_hub_download(
            repository,
            name,
            revision=commit,
            local_dir=folder,
            cache_dir=folder / _HUB_TRACES,
            endpoint=endpoint,
            token=token,
            library_name="p2pflows",
        )

    try:
        api = HfApi(endpoint=endpoint, token=token, library_name="p2pflows")
        info = api.model_info(repository, revision=revision, files_metadata=True)
        files = {file.rfilename: file for file in info.siblings or []}
        commit = _checked_commit(info.sha, files)
        with _without_bars(), ThreadPoolExecutor(_MAX_PARALLEL_DOWNLOADS) as pool:
            list(pool.map(download, files))
    except P2pflowsError:
        raise
    except hub.RevisionNotFoundError as error:
        raise _no_revision(repository, revision) from error
    except hub.GatedRepoError as error:
        raise UsageError(
            f"{repository} is open only to some.", "Ask its author, and log in with: hf auth login"
        ) from error
    except (hub.RepositoryNotFoundError, hub.HFValidationError) as error:
        raise UsageError(
            f"The hub has no module {repository}, or does not show it to you.",
            "Check the name; for a private one, log in with: hf auth login",
        ) from error
    except Exception as error:  # the hub library's transport changes with its versions, and so do its errors
        raise FetchFailed(
            f"{repository} cannot be fetched from the hub: {_first_line(error)}", "Check the connection, and try again."
        ) from error
    shutil.rmtree(folder / _HUB_TRACES, ignore_errors=True)
    _check_files(repository, folder, files)
    return commit


def _may_have_token(endpoint: str | None) -> bool:
    """Whether a hub gets the token that the user has for the hub of their environment."""
    usual = os.environ.get("HF_ENDPOINT") or _USUAL_HUB
    return endpoint is None or endpoint.rstrip("/") in (_USUAL_HUB, usual.rstrip("/"))


def _checked_commit(commit: str | None, files: Mapping[str, RepoSibling]) -> str:
    """The commit, once no file's name could lead out of its folder."""
    if not commit:
        raise FetchFailed("The hub told no commit.", "Check the endpoint.")
    for name in files:
        parts = name.split("/")
        if PurePosixPath(name).is_absolute() or {"", ".", ".."} & set(parts) or "\\" in name or "\0" in name:
            raise tree.ContentDiffers(f"The hub names a file {name!r}.", "Check the endpoint.")
        if parts[0] == _HUB_TRACES:
            raise tree.ContentDiffers(
                f"The module holds a file {name!r}, which is no place for one.", "Tell its author."
            )
    return commit


def _check_files(repository: str, folder: Path, files: Mapping[str, RepoSibling]) -> None:
    """Compare each file with the hash that the hub has told for it."""
    for name, file in files.items():
        if file.lfs is not None:
            expected, found = file.lfs.sha256, tree.sha256(folder / name)
        else:
            expected, found = file.blob_id or "", tree.git_blob(folder / name)
        if expected not in ("", found):
            raise tree.ContentDiffers(
                f"{name} of {repository} was changed on its way.", "Nothing was placed. Check the endpoint."
            )


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the hub library's progress bars off: modules are small, and a line says what is fetched."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _from_git(url: str, revision: str, folder: Path, *, locked: bool) -> str:
    _git(["clone", "--quiet", "--no-checkout", "--", url.removeprefix("git+"), str(folder)], Path.cwd(), url)
    if _COMMIT.fullmatch(revision):
        commit = _commit_itself(revision.lower(), folder, anywhere=locked)
    else:
        commit = _commit(f"refs/remotes/origin/{revision}", folder)
        commit = commit or _commit(f"refs/tags/{revision}", folder) or _commit(revision, folder)
    if commit is None:
        raise _no_revision(url, revision)
    _git(["checkout", "--quiet", "--detach", commit], folder, url)
    return commit


def _commit_itself(commit: str, folder: Path, *, anywhere: bool) -> str | None:
    """A commit by its full id, which no branch or tag of that name can stand for; else one that no branch holds."""
    if anywhere and _commit(commit, folder) is None:
        _run_git(["fetch", "--quiet", "origin", commit], folder)
    return commit if _commit(commit, folder) == commit else None


def _commit(name: str, folder: Path) -> str | None:
    found = _run_git(["rev-parse", "--quiet", "--verify", f"{name}^{{commit}}"], folder)
    return None if found.returncode else found.stdout.strip()


def _git(arguments: list[str], folder: Path, url: str) -> None:
    ended = _run_git(arguments, folder)
    if ended.returncode:
        raise FetchFailed(f"git cannot fetch {url}: {_last_line(ended.stderr)}", "Check the url and the connection.")


def _run_git(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run git where it can ask nobody anything, unless the user has chosen how it calls ssh."""
    environment = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_REPOSITORY}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    if not {"GIT_SSH_COMMAND", "GIT_SSH"} & environment.keys():
        chosen = _run(["config", "--get", "core.sshCommand"], folder, environment)
        if not chosen.stdout.strip():
            environment["GIT_SSH_COMMAND"] = "ssh -o BatchMode=yes"
    return _run(arguments, folder, environment)


def _run(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [*_GIT, *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        raise UsageError("The program git is not installed.", "Install it, and try again.") from error


def _no_revision(where: str, revision: str) -> NoRevision:
    return NoRevision(
        f"{where} has no revision {revision!r}.",
        f"Give a branch, a tag or a commit; for a folder of yours, write its path: ./{revision}",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.startswith(("fatal:", "error:"))]
    return (lines or text.strip().splitlines() or ["it failed"])[-1]
