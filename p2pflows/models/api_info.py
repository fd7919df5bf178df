"""ApiInfo: a key, and the model server that it may be sent to.

A key stays in the memory of the worker that uses it. It is in no config, state, log or error, so it is not copied to
disk or to another user by accident. Only `ApiInfo.api_key` and the request that carries it hold it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn, Self
from urllib.parse import urlsplit

from p2pflows.errors import UsageError

OPENAI, AZURE = "openai", "azure"
OPENAI_BASE = "https://api.openai.com/v1"
TO_BE_FILLED = "???"
REDACTED = "[redacted]"
NO_KEY = "none"
"""Stands for a key at a server that needs none. It is no secret, so it is not removed from a server's words."""

_PORTS = {"http": 80, "https": 443}


class ApiInfo:
    """A key for one model server. It is immutable, cannot be pickled or written as JSON, and `repr` hides the key.

    Args:
        backend_used: `openai`, `azure`, or any name for another server that speaks the OpenAI protocol.
        api_key: the key; for a server that needs none, `none`.
        api_base: the server's URL; the key is never sent to another one. It is optional for `openai`.
        api_version: the version of the API, for `azure`.
        model: the model that this key is for; it overrides a flow's config.
        ca_file: a PEM file with the certificates of the authorities that this server may have its own from; by default
            those that everybody trusts.

    Raises:
        UsageError: an argument is missing or malformed.
    """

    __slots__ = ("_api_key", "api_base", "api_version", "backend_used", "ca_file", "model")

    backend_used: str
    _api_key: str
    api_base: str | None
    api_version: str | None
    model: str | None
    ca_file: str | None

    def __init__(
        self,
        backend_used: str | None = OPENAI,
        api_version: str | None = None,
        api_key: str | None = None,
        api_base: str | None = None,
        *,
        model: str | None = None,
        ca_file: str | None = None,
    ) -> None:
        if not backend_used or not isinstance(backend_used, str):
            raise UsageError("An ApiInfo names no backend.", "Set backend_used, for example to 'openai'.")
        if not api_key or not isinstance(api_key, str):
            raise UsageError(
                f"The ApiInfo for {backend_used!r} has no key.",
                "Set api_key; if it comes from the environment, check that the variable is set.",
            )
        if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            raise UsageError(
                f"The api_key of the ApiInfo for {backend_used!r} holds blanks, control or non-ASCII characters.",
                "Copy it again.",
            )
        if api_base is None and backend_used != OPENAI:
            raise UsageError(f"The ApiInfo for {backend_used!r} has no api_base.", "Set it to the URL of the server.")
        if api_version is None and backend_used == AZURE:
            raise UsageError(
                "The ApiInfo for 'azure' has no api_version.",
                "Set it to the version that your Azure endpoint supports.",
            )
        if api_base is not None:
            normal_base(api_base)
        values = {
            "backend_used": backend_used,
            "_api_key": api_key,
            "api_base": api_base,
            "api_version": api_version,
            "model": model,
            "ca_file": ca_file,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def api_key(self) -> str:
        """The key; use it for the header of a request only."""
        return self._api_key

    @property
    def base(self) -> str:
        """The only URL that the key may be sent to."""
        return self.api_base or OPENAI_BASE

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"An ApiInfo cannot be changed: {name}.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"An ApiInfo cannot be changed: {name}.")

    def __repr__(self) -> str:
        shown = {"backend_used": self.backend_used, "api_key": REDACTED}
        names = ("api_base", "api_version", "model", "ca_file")
        named = {name: getattr(self, name) for name in names}
        shown |= {name: value for name, value in named.items() if value is not None}
        return f"ApiInfo({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def _identity(self) -> tuple[str | None, ...]:
        return (self.backend_used, self._api_key, self.api_base, self.api_version, self.model, self.ca_file)

    def __eq__(self, other: object) -> bool:
        return self._identity() == other._identity() if isinstance(other, ApiInfo) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity())

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("An ApiInfo holds a key, which stays in its process: it cannot be pickled.")

    def __getstate__(self) -> NoReturn:
        raise TypeError("An ApiInfo holds a key, which stays in its process: its state cannot be read.")


def normal_base(url: str) -> str:
    """Return a server's URL in its normal form, so that two can be compared.

    Raises:
        UsageError: it is not an http or https URL, or holds a password.
    """
    hint = "Write it like https://host/v1, without a user name, password or query."
    if not isinstance(url, str):
        raise UsageError("The base URL of a model server is not text.", hint)
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise UsageError("The base URL of a model server is malformed.", hint) from None
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError("The base URL of a model server is not an http or https URL.", hint)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or _PORTS[parts.scheme]}{parts.path.rstrip('/')}"


def quick_load_api_keys(cfg: Any, api_infos: Iterable[ApiInfo], key: str = "api_infos") -> Any:
    """Fill keys into a copy of a config, in memory only: they replace every `"???"` under `key`, at any depth.

    Args:
        cfg: a config; it stays unchanged.
        api_infos: the keys.
        key: the config key whose values are filled in.

    Returns:
        The copy.

    Raises:
        UsageError: there is no ApiInfo, or a value is not an ApiInfo.
    """
    return _filled(cfg, check_api_infos(api_infos), key)


def check_api_infos(api_infos: Iterable[ApiInfo]) -> list[ApiInfo]:
    """Return the ApiInfos as a list.

    Raises:
        UsageError: there is none, or a value is not an ApiInfo.
    """
    infos = list(api_infos)
    if not infos:
        raise UsageError("There is no ApiInfo.", "Pass at least one.")
    # The wrong value may be a key, so the error does not show it.
    strangers = {type(info).__name__ for info in infos if not isinstance(info, ApiInfo)}
    if strangers:
        raise UsageError(
            f"Each key must be an ApiInfo, not: {', '.join(sorted(strangers))}.", "Wrap each key in ApiInfo(...)."
        )
    return infos


def _filled(value: Any, api_infos: list[ApiInfo], key: str) -> Any:
    match value:
        case dict():
            return {
                name: list(api_infos) if name == key and item == TO_BE_FILLED else _filled(item, api_infos, key)
                for name, item in value.items()
            }
        case list():
            return [_filled(item, api_infos, key) for item in value]
        case tuple():
            return tuple(_filled(item, api_infos, key) for item in value)
        case _:
            return value
