"""Which keys of a flow's config a caller may override: data that the config lists, never the choice of code.

A caller who is not the owner may override the dotted keys that the config lists under `overridable`; without such a
list, none. Such a caller never overrides keys that `FORBIDDEN`, `PREFIXES` or `SUFFIXES` name, at any depth, even if
they are listed. The owner may override every key but `_target_`: the class of a flow is the one that is served.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from p2pflows.errors import BadInput, NotAllowed, TooLarge, UsageError

TARGET = "_target_"
DECLARED = "overridable"
MAX_OVERRIDE_DEPTH = 32
"""How deeply overrides may be nested."""
MAX_OVERRIDE_BYTES = 100_000
"""Most bytes of overrides, as JSON."""

FORBIDDEN = frozenset(
    {
        *("class", "class_name", "cls", "type_name", "target", "factory", "callable", "function", "method"),
        *("module", "package", "import", "loader", "plugin", "plugins", "code", "script", "command", "eval", "exec"),
        *("backend", "backends", "credentials", "password", "secret", "token", "key"),
        *("path", "paths", "file", "files", "filename", "folder", "dir", "directory", "cwd"),
        *("url", "urls", "uri", "host", "endpoint", "proxy"),
        *("regex", "pattern", "transformation", "transformations"),
        *("user_id", "flow_id", "flow_endpoint", "flow_class_name", "subflows_config", "subflows"),
        *("dispatch_point", "singleton", "parallel_dispatch", "overridable", "private_keys", "unsent_keys"),
    }
)
"""Keys that choose code, paths, people or secrets, that can block a worker, or that grant rights."""
PREFIXES = ("_", "api_", "template")
SUFFIXES = (
    *("_class", "_class_name", "_target", "_module", "_command", "_script", "_code", "_backend"),
    *("_template", "_templates", "_path", "_paths", "_file", "_files", "_filename", "_folder", "_dir", "_directory"),
    *("_url", "_urls", "_uri", "_host", "_endpoint", "_key", "_token", "_secret", "_password"),
    *("_regex", "_pattern", "_transformation", "_transformations"),
)

_KEYS = "api_infos"
_SECRET_NAME = re.compile(
    "(^|_)(api_?keys?|secret_?keys?|private_?key|password|passwd|passphrase|secret|credentials?|authorization"
    "|(access|auth|bearer|api|refresh|secret)_?token)$"
)
"""Names whose texts, numbers and lists of these are secrets."""
_CAMEL_CASE = re.compile("(?<=[a-z0-9])(?=[A-Z])")
_DESCRIBES_FIELDS = re.compile("_interface(_initialized|_non_initialized)?$|^(output_schema|parameters|properties)$")
_SECRET_VALUE = re.compile(
    "(^|[^A-Za-z0-9])(sk-[A-Za-z0-9_-]{16,}|(gh[oprsu]|hf|glpat|gsk|xai|pplx|r8)[_-][A-Za-z0-9_-]{16,}"
    "|github_pat_[A-Za-z0-9_]{16,}|xox[abeprs]-[A-Za-z0-9-]{10,}|A(KIA|SIA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{30,}"
    "|[Bb]earer +[A-Za-z0-9._~+/=-]{16,}|[a-z][a-z0-9+.-]*://[^/@\\s:]*:[^/@\\s]+@)|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
"""Values that have the form of keys of well-known services, or of a URL with a password."""
_Path = tuple[str, ...]


def is_forbidden(key: str) -> bool:
    """Return whether only the owner may set this key; each part of a dotted key counts."""
    parts = key.casefold().replace("-", "_").split(".")
    return any(
        part.strip() in FORBIDDEN or part.strip().startswith(PREFIXES) or part.strip().endswith(SUFFIXES)
        for part in parts
    )


def check_overrides(
    defaults: Mapping[str, Any], overrides: Mapping[str, Any], *, declared: list[str], trusted: bool
) -> None:
    """Check that a caller may override these keys.

    Args:
        defaults: the default config of the class.
        overrides: the caller's overrides.
        declared: the dotted keys that the config lists as overridable.
        trusted: whether the caller is the owner.

    Raises:
        NotAllowed: the caller may not override a key; the error names it.
        TooLarge: the overrides have more than MAX_OVERRIDE_BYTES.
        BadInput: the overrides are not a JSON object, or nested deeper than MAX_OVERRIDE_DEPTH.
    """
    _check_form(overrides)
    if overrides.get(TARGET, defaults.get(TARGET)) != defaults.get(TARGET):
        raise NotAllowed(f"{TARGET!r} cannot be overridden.", "The class of a flow is the one that is served.")
    if not trusted:
        _check_keys(defaults, overrides, [tuple(key.split(".")) for key in declared], ())


def declared_keys(config: Mapping[str, Any]) -> list[str]:
    """Return the keys that a config lists as overridable; without a list, none.

    Raises:
        UsageError: the value is not a list of texts.
    """
    declared = config.get(DECLARED)
    if declared is None:
        return []
    if not isinstance(declared, list) or not all(isinstance(key, str) for key in declared):
        raise UsageError(f"{DECLARED!r} must be a list of dotted keys.", "Write: overridable: [temperature]")
    return list(declared)


def open_keys(config: Mapping[str, Any]) -> list[str]:
    """Return the listed keys that callers may in fact override: those that no rule forbids.

    Raises:
        UsageError: the list has a wrong form.
    """
    return [key for key in declared_keys(config) if not is_forbidden(key)]


def _check_form(overrides: Mapping[str, Any]) -> None:
    if not isinstance(overrides, Mapping):
        raise BadInput("Config overrides must be an object.", "Pass a dict with text keys.")
    _check_levels(overrides, 1, "")
    try:
        size = len(json.dumps(overrides, allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError) as error:
        raise BadInput(f"The config overrides are not JSON: {error}.", "Pass JSON values only.") from error
    if size > MAX_OVERRIDE_BYTES:
        raise TooLarge(
            f"The config overrides take {size} bytes, over the limit of {MAX_OVERRIDE_BYTES}.",
            "Send large data in a message instead.",
        )


def _check_levels(value: Any, level: int, path: str) -> None:
    if level > MAX_OVERRIDE_DEPTH:
        raise BadInput(f"The config overrides are nested deeper than {MAX_OVERRIDE_DEPTH} levels.", "Flatten them.")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise BadInput(f"The config overrides have the key {key!r} at {path or 'the top'}.", "Use text keys.")
            _check_levels(inner, level + 1, key)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_levels(inner, level + 1, path)


def _check_keys(defaults: Mapping[str, Any], overrides: Mapping[str, Any], allowed: list[_Path], path: _Path) -> None:
    for key, value in overrides.items():
        here, default = (*path, key), defaults.get(key)
        if is_forbidden(key):
            raise _refusal(here, "Only the owner of the flow sets it.")
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            _check_keys(default, value, allowed, here)
        elif value and isinstance(value, Mapping) and key not in defaults and _is_above_an_allowed_key(here, allowed):
            _check_keys({}, value, allowed, here)
        elif not any(here[: len(declared)] == declared for declared in allowed):
            raise _refusal(here, f"You may override: {_allowed_keys(allowed)}.")
        else:
            _check_inside(default, here)
            _check_inside(value, here)


def _is_above_an_allowed_key(here: _Path, allowed: list[_Path]) -> bool:
    """Return whether an allowed key lies below this one."""
    return any(len(here) < len(declared) and declared[: len(here)] == here for declared in allowed)


def _check_inside(value: Any, path: _Path) -> None:
    """Refuse a value that holds a forbidden key, new or old."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if is_forbidden(str(key)):
                raise _refusal((*path, str(key)), "Only the owner of the flow sets it.")
            _check_inside(inner, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_inside(inner, path)


def _allowed_keys(allowed: list[_Path]) -> str:
    return ", ".join(sorted(key for key in map(".".join, allowed) if not is_forbidden(key))) or "nothing"


def _refusal(path: _Path, hint: str) -> NotAllowed:
    return NotAllowed(f"The config key {'.'.join(path)!r} cannot be overridden by you.", hint)


def check_keyless(config: object) -> None:
    """Check that a config or state holds no key or password. They are stored and sent; only workers hold keys.

    Raises:
        UsageError: a value looks like one, or its name says that it is one. The error does not repeat it.
    """
    _check_keyless(config, "")


def _check_keyless(value: object, name: str) -> None:
    """Check a part of a config, by its form and by the name that it stands under; so are the entries of a list."""
    if _is_key(name, value):
        which = f": {name!r} is" if name else ": it is"
        raise UsageError(
            f"A config must not hold keys of model servers, or other secrets{which} stored and sent.",
            "Give them to a worker: run_dispatch_worker_thread(cl, api_infos=[...]) or worker --api-key-env.",
        )
    if isinstance(value, Mapping):
        for key, inner in value.items():
            # What describes fields to people has their names as keys, and no values of theirs.
            _check_keyless(inner, "" if _DESCRIBES_FIELDS.search(name) else str(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_keyless(inner, name)


def _is_key(name: str, value: object) -> bool:
    if name == _KEYS and value not in (None, "???", []):
        return True
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number and (not isinstance(value, str) or value.strip() in ("", "???")):
        return False
    plain = _CAMEL_CASE.sub("_", name).casefold().replace("-", "_").split(".")[-1]
    return bool(_SECRET_NAME.search(plain) or _SECRET_VALUE.search(str(value)))
