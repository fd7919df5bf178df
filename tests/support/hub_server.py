"""A hub on this machine: the part of the Hugging Face HTTP API that fetching a repository needs.

Repositories are folders, `<author>/<name>/<commit>/`, with one commit for each revision that was published. Every
request is written down, and a file can be changed on its way.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

_API = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+))?(?:/.*)?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_STORED = re.compile(r"/stored/([^/]+/[^/]+/[0-9a-f]{40})/(.+)")
_LARGE = ".bin"
"""Files that are stored apart from git, as large ones are."""


class Hub:
    """The server, which runs inside `with`; `requests` has all requests, such as `GET /api/models/...`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[str] = []
        self.tampered: dict[str, bytes] = {}
        """What is sent in place of a file, by its name."""
        self.invented: list[str] = []
        """Names of files that are told and are not there."""
        self._revisions: dict[tuple[str, str], str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the server."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def publish(self, repository: str, files: Mapping[str, str | bytes], revision: str = "main") -> str:
        """Publish these files under a revision; returns the commit id."""
        content = {name: text.encode() if isinstance(text, str) else text for name, text in sorted({**files}.items())}
        commit = hashlib.sha1(repr((repository, content)).encode(), usedforsecurity=False).hexdigest()
        for name, data in content.items():
            path = self.folder / repository / commit / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self._revisions[repository, revision] = self._revisions[repository, commit] = commit
        return commit

    def commit(self, repository: str, revision: str) -> str | None:
        """The commit id of a revision."""
        return self._revisions.get((repository, revision))

    def knows(self, repository: str) -> bool:
        """Whether a repository has any commit."""
        return any(known == repository for known, _ in self._revisions)


class _Handler(BaseHTTPRequestHandler):
    """One request; the connection ends with it."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the standard library
        """Print nothing."""

    @property
    def _hub(self) -> Hub:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        return hub

    def _answer(self) -> None:
        self._hub.requests.append(f"{self.command} {self.path}")
        parts = urlsplit(self.path)
        path = unquote(parts.path.replace("%2F", "\0")).replace("\0", "/") if "/api/" not in parts.path else parts.path
        if found := _API.fullmatch(path):
            self._api(found[1], found[2] or "revision", unquote(found[3] or "main"), parse_qs(parts.query))
        elif found := _FILE.fullmatch(path):
            self._file(*found.groups())
        elif found := _STORED.fullmatch(path):
            self._send((self._hub.folder / found[1] / found[2]).read_bytes(), found[2])
        else:
            self._refuse("EntryNotFound")

    def _api(self, repository: str, what: str, revision: str, query: Mapping[str, Any]) -> None:
        commit = self._commit(repository, revision)
        if commit is None:
            return
        folder = self._hub.folder / repository / commit
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in paths]
        facts = [_facts(path) for path in paths]
        if what == "tree":
            listed = [{"type": "file", "path": name, **fact} for name, fact in zip(names, facts, strict=True)]
            self._json([{**item, "oid": item["blobId"]} for item in listed])
        else:
            known = facts if "blobs" in query else [{} for _ in names]
            siblings = [{"rfilename": name, **fact} for name, fact in zip(names, known, strict=True)]
            siblings += [{"rfilename": name} for name in self._hub.invented]
            self._json({"id": repository, "modelId": repository, "sha": commit, "siblings": siblings})

    def _file(self, repository: str, revision: str, name: str) -> None:
        commit = self._commit(repository, revision)
        if commit is None:
            return
        path = self._hub.folder / repository / commit / name
        if not path.is_file():
            self._refuse("EntryNotFound")
            return
        facts = _facts(path)
        if "lfs" in facts:
            self.send_response(302)
            self.send_header("X-Linked-Etag", f'"{facts["lfs"]["sha256"]}"')
            self.send_header("X-Linked-Size", str(facts["size"]))
            self.send_header("X-Repo-Commit", commit)
            # Under another name of the host, as large files are elsewhere.
            elsewhere = self._hub.url.replace("127.0.0.1", "localhost")
            self.send_header("Location", f"{elsewhere}/stored/{repository}/{commit}/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send(path.read_bytes(), name, {"ETag": f'"{facts["blobId"]}"', "X-Repo-Commit": commit})

    def _commit(self, repository: str, revision: str) -> str | None:
        if not self._hub.knows(repository):
            self._refuse("RepoNotFound")
            return None
        commit = self._hub.commit(repository, revision)
        if commit is None:
            self._refuse("RevisionNotFound")
        return commit

    def _send(self, content: bytes, name: str, headers: Mapping[str, str] | None = None) -> None:
        content = self._hub.tampered.get(name, content)
        self.send_response(200)
        for header, value in {**(headers or {}), "Last-Modified": formatdate(usegmt=True)}.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), "", {"Content-Type": "application/json"})

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _facts(path: Path) -> dict[str, Any]:
    """What the hub reports of a file."""
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    facts: dict[str, Any] = {"size": len(content), "blobId": blob}
    if path.suffix == _LARGE:
        sha256 = hashlib.sha256(content).hexdigest()
        facts["lfs"] = {"sha256": sha256, "oid": sha256, "size": len(content), "pointerSize": 134}
    return facts
