"""Fetch a module's files from its source into an empty folder; nothing here decides whether its code may run."""

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
_HUB_FOLDER = ".cache"
_GIT = (
    "git", "-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false", "-c", "advice.detachedHead=false",
)  # fmt: skip
_USUAL_HUB = "https://huggingface.co"
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.IGNORECASE)
_GIT_VARIABLES = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"}


class FetchFailed(P2pflowsError):
    """A source cannot be reached, or returns something unexpected."""

    kind = "fetch_failed"
    exit_code = 3


class NoRevision(UsageError):
    """A source does not have the requested revision."""


def fetch(source: Source, revision: str, folder: Path, endpoint: str | None, *, locked: bool) -> str | None:
    """Fetch a source's files at a revision.

    Args:
        source: the source.
        revision: a branch, tag or commit.
        folder: the empty folder to fill.
        endpoint: the hub; None for the usual one.
        locked: whether the revision is a locked commit, whose files are known. It need not be in any branch; any
            other commit must be, because hosts also serve commits that strangers pushed to their forks.

    Returns:
        The commit; None for a folder, which has no commits.

    Raises:
        FetchFailed: the source cannot be reached, or returned something unexpected.
        UsageError: there is no such module.
        NoRevision: the module has no such revision.
        ContentDiffers: the files are not those that the source announced, or a module may not contain them.
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
    tree.remove_forbidden(folder)
    return commit


def _from_hub(repository: str, revision: str, folder: Path, endpoint: str | None) -> str:
    # Otherwise the library also sends a request to the usual hub, whatever hub was named.
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
            cache_dir=folder / _HUB_FOLDER,
            endpoint=endpoint,
            token=token,
            library_name="p2pflows",
        )

    try:
        api = HfApi(endpoint=endpoint, token=token, library_name="p2pflows")
        info = api.model_info(repository, revision=revision, files_metadata=True)
        files = {file.rfilename: file for file in info.siblings or []}
        commit = _check_listing(info.sha, files)
        with _no_progress_bars(), ThreadPoolExecutor(_MAX_PARALLEL_DOWNLOADS) as pool:
            list(pool.map(download, files))
    except P2pflowsError:
        raise
    except hub.RevisionNotFoundError as error:
        raise _no_revision(repository, revision) from error
    except hub.GatedRepoError as error:
        raise UsageError(
            f"You have no access to {repository}.", "Ask its author for access, then log in with: hf auth login"
        ) from error
    except (hub.RepositoryNotFoundError, hub.HFValidationError) as error:
        raise UsageError(
            f"The hub has no module {repository}, or you have no access to it.",
            "Check the name; if it is private, log in with: hf auth login",
        ) from error
    except Exception as error:  # the type of a network error depends on the version of the hub library
        raise FetchFailed(
            f"Cannot fetch {repository} from the hub: {_first_line(error)}", "Check the connection, then try again."
        ) from error
    shutil.rmtree(folder / _HUB_FOLDER, ignore_errors=True)
    _check_files(repository, folder, files)
    return commit


def _may_have_token(endpoint: str | None) -> bool:
    """Whether a hub may get the user's token: only the usual hub, and the one that HF_ENDPOINT names."""
    configured = os.environ.get("HF_ENDPOINT") or _USUAL_HUB
    return endpoint is None or endpoint.rstrip("/") in (_USUAL_HUB, configured.rstrip("/"))


def _check_listing(commit: str | None, files: Mapping[str, RepoSibling]) -> str:
    """Return the commit, after checking that no file name leads out of the folder."""
    if not commit:
        raise FetchFailed("The hub did not name a commit.", "Check the endpoint.")
    for name in files:
        parts = name.split("/")
        if PurePosixPath(name).is_absolute() or {"", ".", ".."} & set(parts) or "\\" in name or "\0" in name:
            raise tree.ContentDiffers(f"The hub lists {name!r}, a path outside the module.", "Check the endpoint.")
        if parts[0] == _HUB_FOLDER:
            raise tree.ContentDiffers(
                f"The module has a file {name!r}, which it must not have.", "Report this to its author."
            )
    return commit


def _check_files(repository: str, folder: Path, files: Mapping[str, RepoSibling]) -> None:
    """Compare each file with the hash that the hub announced for it."""
    for name, file in files.items():
        if file.lfs is not None:
            expected, found = file.lfs.sha256, tree.sha256(folder / name)
        else:
            expected, found = file.blob_id or "", tree.git_blob(folder / name)
        if expected not in ("", found):
            raise tree.ContentDiffers(
                f"{name} of {repository} is not what the hub announced.", "Nothing was added. Check the endpoint."
            )


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Switch off the hub library's progress bars: modules are small, and `sync` prints what it fetches."""
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
        commit = _resolve_id(revision.lower(), folder, anywhere=locked)
    else:
        commit = _resolve(f"refs/remotes/origin/{revision}", folder)
        commit = commit or _resolve(f"refs/tags/{revision}", folder) or _resolve(revision, folder)
    if commit is None:
        raise _no_revision(url, revision)
    _git(["checkout", "--quiet", "--detach", commit], folder, url)
    return commit


def _resolve_id(commit: str, folder: Path, *, anywhere: bool) -> str | None:
    """Return a full commit id if it is a commit, not a branch or tag of that name; `anywhere` includes forks."""
    if anywhere and _resolve(commit, folder) is None:
        _run_git(["fetch", "--quiet", "origin", commit], folder)
    return commit if _resolve(commit, folder) == commit else None


def _resolve(name: str, folder: Path) -> str | None:
    found = _run_git(["rev-parse", "--quiet", "--verify", f"{name}^{{commit}}"], folder)
    return None if found.returncode else found.stdout.strip()


def _git(arguments: list[str], folder: Path, url: str) -> None:
    ended = _run_git(arguments, folder)
    if ended.returncode:
        raise FetchFailed(f"git cannot fetch {url}: {_last_line(ended.stderr)}", "Check the url and the connection.")


def _run_git(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run git without questions to the user, but with the ssh command that the user has configured, if any."""
    environment = {name: value for name, value in os.environ.items() if name not in _GIT_VARIABLES}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    if not {"GIT_SSH_COMMAND", "GIT_SSH"} & environment.keys():
        configured = _run(["config", "--get", "core.sshCommand"], folder, environment)
        if not configured.stdout.strip():
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
        raise UsageError("The program git is not installed.", "Install it, then try again.") from error


def _no_revision(where: str, revision: str) -> NoRevision:
    return NoRevision(
        f"{where} has no revision {revision!r}.",
        f"Give a branch, a tag or a commit. If it is a folder of yours, write a path: ./{revision}",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.startswith(("fatal:", "error:"))]
    return (lines or text.strip().splitlines() or ["it failed"])[-1]
