"""The source of a module: the hub, a git repository, a folder that is copied, or a folder that is linked."""

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
from p2pflows.home import expand_user

PACKAGE = "flow_modules"
MAIN, HEAD = "main", "HEAD"

_FORMS_HINT = (
    "Write author/Name, git+https://host/author/Name, https://host/author/Name.git or file:///folder/author/Name."
)
_GIT_SCHEMES = {"git+https", "git+ssh", "git+file"}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*/[A-Za-z_][A-Za-z0-9_]*")
_PATHS = ("/", "./", "../", "~/")
_ENTRY_KEYS = {"url", "revision", "overwrite"}


class SourceKind(Enum):
    """How files get from a source into the project."""

    HUB = "hub"
    GIT = "git"
    COPY = "copy"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Source:
    """One revision of one module, as the user or a module requests it.

    Attributes:
        kind: how its files are fetched.
        module: its path below `flow_modules`, such as aiflows/ChatFlowModule.
        url: its normal form.
        revision: a branch, tag or commit; for a linked folder, the folder's path; for a copied folder, empty.
    """

    kind: SourceKind
    module: str
    url: str
    revision: str

    @property
    def package(self) -> str:
        """The dotted name to import."""
        return package(self.module)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder or repository on this machine, which modules of others must not name."""
        return self.kind in {SourceKind.COPY, SourceKind.LINK} or self.url.startswith("git+file:")

    @property
    def is_own_folder(self) -> bool:
        """Whether it is a plain folder of the user, named by its path."""
        return self.kind in {SourceKind.COPY, SourceKind.LINK}

    @property
    def folder(self) -> Path:
        """The folder that is linked or copied."""
        return Path(self.revision if self.kind is SourceKind.LINK else unquote(urlsplit(self.url).path))

    def identity(self, endpoint: str | None) -> str:
        """Return what the user trusts: the url, preceded by the hub if that is not the usual one, or a folder."""
        if self.kind is SourceKind.LINK:
            return self.folder.as_uri()
        return f"{endpoint}/{self.url}" if self.kind is SourceKind.HUB and endpoint else self.url

    def __str__(self) -> str:
        return f"{self.url} at {self.revision}" if self.revision else self.url


@dataclass(frozen=True, slots=True)
class Wanted:
    """An entry of a list of dependencies: a source, and whether it replaces what is in the project."""

    source: Source
    overwrite: bool = field(default=False)


def package(module: str) -> str:
    """Return the dotted name under which a module is imported."""
    return f"{PACKAGE}.{module.replace('/', '.')}"


def is_module(text: object) -> bool:
    """Whether a text can be a module's path: two Python names with a slash between them."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None and not _has_reserved_word(text)


def read_entry(entry: Mapping[str, Any] | str, base: Path) -> Wanted:
    """Read one entry of a list of dependencies.

    Args:
        entry: a url, or a mapping with `url` and optionally `revision` and `overwrite`.
        base: the folder to which relative paths refer.

    Raises:
        UsageError: the entry has a wrong form, or its module could not be imported.
    """
    fields = {"url": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, Mapping):
        raise UsageError(f"{entry!r} is not a dependency.", 'Write {"url": "author/Name", "revision": "main"}.')
    unknown = sorted(str(key) for key in fields if key not in _ENTRY_KEYS)
    if unknown:
        raise UsageError(f"A dependency has no field {unknown[0]!r}.", "The fields are: url, revision and overwrite.")
    url, revision, overwrite = fields.get("url"), fields.get("revision"), fields.get("overwrite")
    if not isinstance(url, str) or not url.strip():
        raise UsageError("A dependency has no url.", _FORMS_HINT)
    if revision is not None and not isinstance(revision, str):
        raise UsageError(f"The revision {revision!r} of {url} is not a text.", "Put it in quotes.")
    if overwrite not in (None, True, False):
        raise UsageError(f"overwrite is {overwrite!r} for {url}.", "Write true or false.")
    return Wanted(parse(url.strip(), revision or None, base), bool(overwrite))


def parse(url: str, revision: str | None, base: Path) -> Source:
    """Parse a url and a revision.

    A revision is a folder only if it is written as a path (`/a`, `./a`, `../a` or `~/a`), so that a folder with the
    name of a branch is never used in its place.

    Args:
        url: the url, in one of the forms of docs/MODULES.md.
        revision: a branch, tag, commit or path; None for the default.
        base: the folder to which relative paths refer.

    Raises:
        UsageError: the url or the revision has a wrong form, or the module could not be imported.
    """
    _check_text(url, "url")
    if url.startswith(_PATHS) or url in (".", "..", "~"):
        raise UsageError(f"{url!r} is a folder, but a module needs a name.", f"Write author/Name --revision {url}")
    if revision is not None:
        _check_text(revision, "revision")
    if url.startswith("file:"):
        return _copied_folder(url, revision)
    if "://" in url:
        url, module = _git(url)
        kind, default = SourceKind.GIT, HEAD
    else:
        author, _, name = url.partition("/")
        module = _module(author, name, url)
        kind, default = SourceKind.HUB, MAIN
    if revision is not None and (revision.startswith(_PATHS) or revision in (".", "..", "~")):
        return Source(SourceKind.LINK, module, url, str(_existing_folder(base / expand_user(revision))))
    return Source(kind, module, url, revision or default)


def split(url: str) -> SplitResult:
    """Split a url into its parts.

    Raises:
        UsageError: it is not a url.
    """
    try:
        return urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{url!r} is not a url: {error}.", _FORMS_HINT) from error


def _copied_folder(url: str, revision: str | None) -> Source:
    parts = split(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise UsageError(f"{url!r} does not name a folder on this machine.", "Write file:///folder/author/Name.")
    if revision not in (None, MAIN):
        raise UsageError(f"A folder has no revision {revision!r}.", f"If it is a git repository, write git+{url}")
    folder = _existing_folder(Path(unquote(parts.path)))
    module = _module(folder.parent.name, folder.name, url)
    return Source(SourceKind.COPY, module, folder.as_uri(), "")


def _git(url: str) -> tuple[str, str]:
    """Return the normal form of a git url, and the module that its last two parts name."""
    if url.startswith("https://") and url.endswith(".git"):
        url = f"git+{url}"
    parts = split(url)
    if parts.scheme not in _GIT_SCHEMES:
        raise UsageError(f"{url!r} is not a source of modules.", _FORMS_HINT)
    if parts.password is not None or (parts.username and parts.scheme == "git+https"):
        raise UsageError("The url holds a secret, which flow.lock would show.", "Use git's credential helper instead.")
    if parts.query or parts.fragment:
        raise UsageError(f"{url!r} has a query or a fragment.", "Give a revision with --revision, not in the url.")
    *_, author, name = ["", "", *parts.path.removesuffix("/").removesuffix(".git").split("/")]
    return url.removesuffix("/"), _module(unquote(author), unquote(name), url)


def _module(author: str, name: str, url: str) -> str:
    """Return a module's path: hyphens become underscores, and a leading digit of the author gets the prefix `user_`."""
    if not author or not name:
        raise UsageError(f"{url!r} does not name an author and a module.", _FORMS_HINT)
    author, name = author.replace("-", "_"), name.replace("-", "_")
    if author[0].isdigit():
        author = f"user_{author}"
    for word in (author, name):
        if not _IDENTIFIER.fullmatch(word) or _has_reserved_word(word):
            raise UsageError(
                f"{url!r} cannot be imported: {word!r} is not a Python name.",
                "Use letters, digits, '_' and '-'; begin with no digit, and use no word that Python reserves.",
            )
    return f"{author}/{name}"


def _has_reserved_word(text: str) -> bool:
    return any(keyword.iskeyword(word) or word.startswith("__") for word in text.split("/"))


def _existing_folder(path: Path) -> Path:
    if not path.is_dir():
        raise UsageError(f"There is no folder {path}.", "Check the path.")
    return path.resolve()


def _check_text(text: str, what: str) -> None:
    if text.startswith("-") or not text.isprintable():
        raise UsageError(f"{text!r} is not a {what}.", "It must not begin with '-', and must be printable.")
