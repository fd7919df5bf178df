"""Where a module comes from: the hub, a git repository, a folder that is copied, or a folder that is linked."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from p2pflows.errors import UsageError

PACKAGE = "flow_modules"
MAIN, HEAD = "main", "HEAD"

_FORMS = "Write author/Name, git+https://host/author/Name, https://host/author/Name.git or file:///folder/author/Name."
_GIT_SCHEMES = {"git+https", "git+ssh", "git+file"}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*/[A-Za-z_][A-Za-z0-9_]*")
_PATHS = ("/", "./", "../", "~/")
_ENTRY_KEYS = {"url", "revision", "overwrite"}


class SourceKind(Enum):
    """How a module gets from its source to its place."""

    HUB = "hub"
    GIT = "git"
    COPY = "copy"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Source:
    """One revision of one module, as it was asked for.

    `module` is its place below `flow_modules`, such as aiflows/ChatFlowModule. `revision` is a branch, tag or commit;
    for a linked folder it is the folder's path, and for a copied one it is empty.
    """

    kind: SourceKind
    module: str
    url: str
    revision: str

    @property
    def package(self) -> str:
        """What to import."""
        return package(self.module)

    @property
    def is_local(self) -> bool:
        """Whether it is a place on this machine, which no stranger's module may name."""
        return self.kind in {SourceKind.COPY, SourceKind.LINK} or self.url.startswith("git+file:")

    @property
    def is_own_folder(self) -> bool:
        """Whether it is a plain folder that the user has named by its path."""
        return self.kind in {SourceKind.COPY, SourceKind.LINK}

    @property
    def folder(self) -> Path:
        """The folder that is linked or copied."""
        return Path(self.revision if self.kind is SourceKind.LINK else unquote(urlsplit(self.url).path))

    def identity(self, endpoint: str | None) -> str:
        """What trust is given to: the url, and for the hub which hub, unless it is the usual one."""
        return f"{endpoint}/{self.url}" if self.kind is SourceKind.HUB and endpoint else self.url

    def __str__(self) -> str:
        return f"{self.url} at {self.revision}" if self.revision else self.url


@dataclass(frozen=True, slots=True)
class Wanted:
    """An entry of a list of dependencies."""

    source: Source
    overwrite: bool = field(default=False)


def package(module: str) -> str:
    """The dotted name under which a module is imported."""
    return f"{PACKAGE}.{module.replace('/', '.')}"


def is_module(text: object) -> bool:
    """Whether a text can be a module's place: two Python names with a slash between."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None and not _reserved(text)


def wanted(entry: Mapping[str, Any] | str, base: Path) -> Wanted:
    """Read one entry: a url, or a mapping with `url` and perhaps `revision` and `overwrite`.

    Relative paths begin at `base`.

    Raises:
        UsageError: it has another form, or names nothing that could be imported.
    """
    fields = {"url": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, Mapping):
        raise UsageError(f"{entry!r} is no dependency.", 'Write {"url": "author/Name", "revision": "main"}.')
    unknown = sorted(str(key) for key in fields if key not in _ENTRY_KEYS)
    if unknown:
        raise UsageError(f"A dependency has no field {unknown[0]!r}.", "It has: url, revision and overwrite.")
    url, revision, overwrite = fields.get("url"), fields.get("revision"), fields.get("overwrite")
    if not isinstance(url, str) or not url.strip():
        raise UsageError("A dependency has no url.", _FORMS)
    if revision is not None and not isinstance(revision, str):
        raise UsageError(f"The revision {revision!r} of {url} is no text.", "Put it in quotes.")
    if overwrite not in (None, True, False):
        raise UsageError(f"overwrite is {overwrite!r} for {url}.", "It is true or false.")
    return Wanted(parse(url.strip(), revision or None, base), bool(overwrite))


def parse(url: str, revision: str | None, base: Path) -> Source:
    """The source that a url and a revision stand for.

    A revision is a folder of this machine only if it is written as a path (`/a`, `./a`, `../a`, `~/a`); a folder that
    is merely named like a branch is never taken for it.

    Raises:
        UsageError: they have another form, or name nothing that could be imported.
    """
    _check_text(url, "url")
    if url.startswith(_PATHS) or url in (".", "..", "~"):
        raise UsageError(f"{url!r} is a folder, and a module needs a name.", f"Write author/Name --revision {url}")
    if revision is not None:
        _check_text(revision, "revision")
    if url.startswith("file:"):
        return _copied(url, revision)
    if "://" in url:
        url, module = _git(url)
        kind, usual = SourceKind.GIT, HEAD
    else:
        author, _, name = url.partition("/")
        module = _module(author, name, url)
        kind, usual = SourceKind.HUB, MAIN
    if revision is not None and (revision.startswith(_PATHS) or revision in (".", "..", "~")):
        return Source(SourceKind.LINK, module, url, str(_existing(base / Path(revision).expanduser())))
    return Source(kind, module, url, revision or usual)


def split(url: str) -> SplitResult:
    """The parts of a url.

    Raises:
        UsageError: it is none.
    """
    try:
        return urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{url!r} is no url: {error}.", _FORMS) from error


def _copied(url: str, revision: str | None) -> Source:
    parts = split(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise UsageError(f"{url!r} names no folder of this machine.", "Write file:///folder/author/Name.")
    if revision not in (None, MAIN):
        raise UsageError(f"A folder has no revision {revision!r}.", f"For a git repository, write git+{url}")
    folder = _existing(Path(unquote(parts.path)))
    module = _module(folder.parent.name, folder.name, url)
    return Source(SourceKind.COPY, module, folder.as_uri(), "")


def _git(url: str) -> tuple[str, str]:
    """The url with its scheme in full, and the module that its last two parts name."""
    if url.startswith("https://") and url.endswith(".git"):
        url = f"git+{url}"
    parts = split(url)
    if parts.scheme not in _GIT_SCHEMES:
        raise UsageError(f"{url!r} is no source of modules.", _FORMS)
    if parts.password is not None or (parts.username and parts.scheme == "git+https"):
        raise UsageError("The url holds a secret, which flow.lock would show.", "Leave it to git's credential helper.")
    if parts.query or parts.fragment:
        raise UsageError(f"{url!r} has more than a path.", "Give the revision beside the url.")
    *_, author, name = ["", "", *parts.path.removesuffix("/").removesuffix(".git").split("/")]
    return url.removesuffix("/"), _module(unquote(author), unquote(name), url)


def _module(author: str, name: str, url: str) -> str:
    """The place of a module: a hyphen becomes an underscore, and an author that begins with a digit is `user_...`."""
    if not author or not name:
        raise UsageError(f"{url!r} does not name an author and a module.", _FORMS)
    author, name = author.replace("-", "_"), name.replace("-", "_")
    if author[0].isdigit():
        author = f"user_{author}"
    for word in (author, name):
        if not _IDENTIFIER.fullmatch(word) or _reserved(word):
            raise UsageError(
                f"{url!r} cannot be imported: {word!r} is no Python name.",
                "A name has letters, digits, '_' and '-', does not begin with a digit, and is no word of Python.",
            )
    return f"{author}/{name}"


def _reserved(text: str) -> bool:
    return any(keyword.iskeyword(word) or word.startswith("__") for word in text.split("/"))


def _existing(path: Path) -> Path:
    if not path.is_dir():
        raise UsageError(f"There is no folder {path}.", "Check the path.")
    return path.resolve()


def _check_text(text: str, what: str) -> None:
    if text.startswith("-") or not text.isprintable():
        raise UsageError(f"{text!r} is no {what}.", "It begins with '-' or holds what cannot be printed.")
