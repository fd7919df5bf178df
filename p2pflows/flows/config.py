"""Configs of flow classes: defaults, overrides, and what they say about subflows.

A class may have its defaults in `<ClassName>.yaml` beside its module, or in a dict in its body called `default_config`
(or `__default_flow_config`). They override the defaults of its first base class, which override those of its base, and
so on.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2pflows import petnames
from p2pflows.errors import UsageError
from p2pflows.flows.copies import copied
from p2pflows.flows.overrides import TARGET
from p2pflows.flows.project import project_of, public_name
from p2pflows.flows.references import resolved_references
from p2pflows.protocol import topics

BASE_DEFAULTS: dict[str, Any] = {"private_keys": [], "unsent_keys": []}
"""The defaults that every flow class inherits."""
OPEN = "???"
"""A value that an override has to fill in before an instance is created."""
LOCAL = "local"
"""Stands for the user whose daemon runs the flow."""
SUBFLOWS = "subflows_config"

_MAX_DEPTH = 64
_INSTANCE = re.compile(r"[0-9a-f]{32}")
_INTERFACE_FORMS = "Write a list of names, or a mapping from names to descriptions."
_ABOUT_SERVING = frozenset(
    {
        *(TARGET, "user_id", "flow_id", "flow_endpoint", "flow_class_name"),
        *("singleton", "dispatch_point", "parallel_dispatch"),
    }
)
"""Keys that say which flow a subflow is and how to serve it; they are not passed on to that flow's own config."""
_LABELS = frozenset({"name", "description", "input_interface", "output_interface"})
"""Keys that describe a subflow to a reader."""


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with another one overriding it. Both stay unchanged, and the result shares nothing with them.

    Mappings are merged key by key. Any other value, a list and None included, replaces the old one.
    """
    merged = copied(dict(base))
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            merged[key] = merge(old, value)
        else:
            merged[key] = copied(value)
    return merged


def default_config(flow_class: type[Any]) -> dict[str, Any]:
    """Return the defaults of a class, including those of its bases.

    Raises:
        UsageError: a config file is not a mapping with text keys and JSON values, or refers to a key it does not hold.
    """
    merged = copied(BASE_DEFAULTS)
    for each in reversed(_first_bases(flow_class)):
        merged = merge(merged, _own_config(each))
    return merged


def effective_config(flow_class: type[Any], overrides: Mapping[str, Any], *, complete: bool = True) -> dict[str, Any]:
    """Return the defaults of a class, with overrides.

    Args:
        flow_class: the class.
        overrides: keys that override its defaults.
        complete: whether to refuse a required key whose value is still `???`.

    Raises:
        UsageError: a config file is wrong, or a required key is missing.
    """
    config = merge(default_config(flow_class), overrides)
    check_required(flow_class, config, complete=complete)
    return config


def required_keys(flow_class: type[Any]) -> list[str]:
    """Return the keys that a class's config must have: the REQUIRED_KEYS_CONFIG of the class and all its bases."""
    lists = [keys for each in reversed(flow_class.__mro__) if (keys := vars(each).get("REQUIRED_KEYS_CONFIG"))]
    return list(dict.fromkeys(key for keys in lists for key in keys))


def check_required(flow_class: type[Any], config: Mapping[str, Any], *, complete: bool = True) -> None:
    """Check that a config has all the keys that its class requires.

    Args:
        flow_class: the class.
        config: its config.
        complete: whether to refuse a key whose value is still `???`.

    Raises:
        UsageError: a key is missing or still to be filled in; the error names it.
    """
    for key in required_keys(flow_class):
        if key not in config or (complete and config[key] == OPEN):
            raise UsageError(
                f"The config of {flow_class.__name__} needs the key {key!r}.",
                f"Write it into {flow_class.__name__}.yaml beside the class, into its default_config, or override it.",
            )


def input_schema(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a config says of the input, as a JSON schema. It informs people; no message is checked against it.

    Raises:
        UsageError: it says so in a form that is not known.
    """
    for name in ("input_interface", "input_interface_non_initialized"):
        fields = interface_fields(config.get(name), name)
        if fields:
            return _schema({key: _field(value) for key, value in fields.items()})
    return {"type": "object"}


def interface_fields(interface: Any, name: str) -> dict[str, Any]:
    """Return the fields that an interface in a config names, each with what the config says of it.

    Args:
        interface: a name, a list of names, a mapping from names to texts, or as in the predecessor the config of a
            KeyInterface, whose fields are those that it selects, renames or copies.
        name: its key in the config, for the error.

    Raises:
        UsageError: it has another form.
    """
    match interface:
        case None:
            return {}
        case str(only):
            return {only: None}
        case {"_target_": target, **settings}:
            if str(target).rpartition(".")[2] != "KeyInterface":
                raise UsageError(f"{name} names {target!r}, which describes no fields.", _INTERFACE_FORMS)
            named: dict[str, Any] = {str(key): value for key, value in settings.items()}
            taken = [*(named.get("keys_to_rename") or ()), *(named.get("keys_to_copy") or ())]
            return {str(key): None for key in taken or named.get("keys_to_select") or ()}
        case Mapping():
            return {str(key): value for key, value in interface.items()}
        case [*keys] if all(isinstance(key, str) for key in keys):
            return dict.fromkeys(keys)
    raise UsageError(f"{name} has an unknown form.", _INTERFACE_FORMS)


def _schema(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _field(value: object) -> dict[str, Any]:
    return {"description": value} if isinstance(value, str) else {}


@dataclass(frozen=True, slots=True)
class SubflowSpec:
    """One subflow in a composite's config.

    Args:
        key: its key in the composite.
        user: the user who serves the flow: a user id, `local`, or `???` if that is still to be filled in.
        endpoint: the name under which that user serves it.
        instance: the id of the instance to use; None for a new one.
        overrides: keys that override the defaults of its class.
        class_name: the class to serve there, for recursive serving.
        dispatch_point: the dispatch point to serve it on; None for the default one.
        singleton: whether to serve it as one instance for all callers.
        parallel_dispatch: whether to serve it without state, with many runs at once.
        config: the config of its proxy.
    """

    key: str
    user: str
    endpoint: str
    instance: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    class_name: str | None = None
    dispatch_point: str | None = None
    singleton: bool = False
    parallel_dispatch: bool = False
    config: dict[str, Any] = field(default_factory=dict)


def subflow_specs(
    config: Mapping[str, Any],
    *,
    me: str = "",
    complete: bool = True,
) -> dict[str, SubflowSpec]:
    """Return the subflows in a config, by key.

    The entry of a subflow of this user overrides the whole config of that flow, its name and description included. The
    name, description and interfaces of another user's flow are not ours to change: only its proxy has them.

    Args:
        config: the merged config of a composite; without `subflows_config` it has no subflows.
        me: this user's id, which means the same as `local`.
        complete: whether to refuse a value that is still `???`.

    Raises:
        UsageError: a value is missing, still to be filled in, or malformed; the error names its key.
    """
    subflows = config.get(SUBFLOWS) or {}
    if not isinstance(subflows, Mapping):
        raise UsageError(f"{SUBFLOWS!r} must be a mapping.", "Write one entry for each subflow.")
    specs = {}
    for key, entry in subflows.items():
        if not isinstance(entry, Mapping):
            raise UsageError(f"{SUBFLOWS}.{key} must be a mapping.", "Write its flow_endpoint, name and description.")
        specs[key] = _spec(key, _Entry(f"{SUBFLOWS}.{key}", entry), me, complete)
    return specs


def with_user_ids(subflows: Any, resolve: Callable[[str], str]) -> Any:
    """Return a copy of a `subflows_config` in which each user is named by id, at any depth.

    Args:
        subflows: the mapping of subflows; what has another form stays as it is.
        resolve: returns the user id for a petname, or for `me`. `local`, `???` and user ids stay as they are.
    """
    if not isinstance(subflows, Mapping):
        return subflows
    named: dict[str, Any] = {}
    for key, entry in subflows.items():
        named[key] = copied(entry)
        if not isinstance(entry, Mapping):
            continue
        user = entry.get("user_id")
        if isinstance(user, str) and user.strip() not in ("", LOCAL, OPEN) and not topics.is_user_id(user.lower()):
            named[key]["user_id"] = resolve(user.strip())
        if SUBFLOWS in entry:
            named[key][SUBFLOWS] = with_user_ids(entry[SUBFLOWS], resolve)
    return named


def users_in(subflows: Any) -> dict[str, Any]:
    """Return only the user ids in a `subflows_config`, as overrides of another one."""
    found: dict[str, Any] = {}
    for key, entry in subflows.items() if isinstance(subflows, Mapping) else ():
        if isinstance(entry, Mapping):
            user, inner = entry.get("user_id"), users_in(entry.get(SUBFLOWS))
            part = {"user_id": user} if isinstance(user, str) and topics.is_user_id(user.lower()) else {}
            found |= {key: {**part, **({SUBFLOWS: inner} if inner else {})}} if part or inner else {}
    return found


def _spec(key: str, entry: _Entry, me: str, complete: bool) -> SubflowSpec:
    user = entry.text("user_id", LOCAL)
    if user == OPEN and complete:
        raise entry.to_fill_in("user_id")
    if user not in (OPEN, LOCAL):
        user = _user(user, entry, complete=complete)
    if user in (me, "me"):
        user = LOCAL
    endpoint = entry.text("flow_endpoint", OPEN if user == OPEN else "")
    if not endpoint:
        raise UsageError(f"{entry.path} has no flow_endpoint.", "Write the endpoint under which the flow is served.")
    if endpoint != OPEN:
        topics.check_name(endpoint, "an endpoint")
    elif complete or user == LOCAL:
        raise entry.to_fill_in("flow_endpoint")
    instance = entry.text("flow_id", "")
    if instance and not _INSTANCE.fullmatch(instance):
        raise UsageError(
            f"{entry.path}.flow_id is not an instance id: {instance!r}.", "Leave it out to get a new instance."
        )
    dropped = _ABOUT_SERVING if user == LOCAL else _ABOUT_SERVING | _LABELS
    point = entry.text("dispatch_point", "")
    return SubflowSpec(
        key=key,
        user=user,
        endpoint=endpoint,
        instance=instance or None,
        overrides={name: copied(value) for name, value in entry.content.items() if name not in dropped},
        class_name=entry.text("flow_class_name", "") or None,
        dispatch_point=topics.check_name(point, "a dispatch point") if point else None,
        singleton=entry.flag("singleton"),
        parallel_dispatch=entry.flag("parallel_dispatch"),
        config={
            **{name: copied(value) for name, value in entry.content.items() if name in _LABELS},
            "user_id": user,
            "flow_endpoint": endpoint,
        },
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """One subflow's part of a config, and its path in the config."""

    path: str
    content: Mapping[str, Any]

    def text(self, name: str, default: str) -> str:
        value = self.content.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise UsageError(f"{self.path}.{name} must be text, not {value!r}.", "Put it in quotes.")
        return value.strip()

    def flag(self, name: str) -> bool:
        value = self.content.get(name, False)
        if not isinstance(value, bool):
            raise UsageError(f"{self.path}.{name} must be true or false, not {value!r}.", "Write true or false.")
        return value

    def to_fill_in(self, name: str) -> UsageError:
        return UsageError(f"{self.path}.{name} is still to be filled in.", f"Override {self.path}.{name}.")


def _user(text: str, entry: _Entry, *, complete: bool) -> str:
    user = text.lower()
    if topics.is_user_id(user):
        return user
    if text == "me" or (not complete and petnames.has_form(text)):
        return text  # serving and mounting replace petnames by user ids
    raise UsageError(
        f"{entry.path}.user_id is not a user id: {text!r}.", "Write 64 hex digits, 'local', or the name of a contact."
    )


def _first_bases(flow_class: type[Any]) -> list[type[Any]]:
    """Return the class, its first base, and so on, without object. Mixins do not contribute to a config."""
    classes = []
    while flow_class is not object:
        classes.append(flow_class)
        flow_class = flow_class.__bases__[0]
    return classes


def _own_config(flow_class: type[Any]) -> Mapping[str, Any]:
    package = public_name(flow_class.__module__).rpartition(".")[0]
    path = _yaml_path(flow_class)
    text = None if path is None else _text(path, flow_class.__module__)
    if path is not None and text is not None:
        return _parse(text, path, package)
    name = flow_class.__name__
    private = f"_{name.lstrip('_')}__default_flow_config"  # Python mangles names with two underscores
    written = vars(flow_class)
    own, where = written.get("default_config", written.get(private, {})), f"{name}.default_config"
    _check_plain(own, where, "")
    return _mapping(own, where, package)


def _mapping(own: Any, where: str, package: str) -> Mapping[str, Any]:
    if not isinstance(own, dict):
        raise UsageError(f"{where} is not a mapping.", "Write keys and values.")
    config: dict[str, Any] = _with_absolute_targets(own, package)
    return config


def _yaml_path(flow_class: type[Any]) -> Path | None:
    """Return the path of a class's config file; None for a class of a notebook or prompt, which has no folder."""
    module = sys.modules.get(flow_class.__module__)
    file = getattr(module, "__file__", None)
    return Path(file).with_name(f"{flow_class.__name__}.yaml") if file else None


def _text(path: Path, module: str) -> bytes | None:
    """Read a config file; of a served class, what was there when the class was loaded. None if there is no file."""
    project = project_of(module)
    if project is not None:
        return project.config_file(path, module)
    if not path.is_file():
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}", f"Correct {path}.") from error


@functools.lru_cache(maxsize=64)
def _parse(text: bytes, path: Path, package: str) -> Mapping[str, Any]:
    """Return the content of a config file. It is cached, as each new instance needs it; callers must not change it."""
    from p2pflows.flows import yaml_config  # a worker that serves no class with a file needs no YAML

    try:
        content = yaml_config.load(text)
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}".replace("\n", " "), f"Correct {path}.") from error
    content = {} if content is None else content
    _check_plain(content, str(path), "")
    resolved = resolved_references(content, path)
    _check_plain(resolved, str(path), "")  # references may nest it deeper than it is written
    return _mapping(resolved, str(path), package)


def _check_plain(value: Any, where: str, path: str, level: int = 0) -> None:
    """Refuse a value that is not JSON; the error names its path."""
    here = path or "the top"
    if level > _MAX_DEPTH:
        raise UsageError(f"{where} is nested deeper than {_MAX_DEPTH} levels, or contains itself.", "Flatten it.")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise UsageError(f"{where} has the key {key!r} at {here}, which is not text.", "Put it in quotes.")
            _check_plain(inner, where, f"{path}.{key}" if path else key, level + 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_plain(inner, where, f"{path}.{number}", level + 1)
    elif not isinstance(value, (str, int, float, type(None))):
        raise UsageError(f"{where} has a {type(value).__name__} at {here}.", "Use text, numbers, lists and mappings.")


def _with_absolute_targets(value: Any, package: str) -> Any:
    """Return a copy in which each `_target_` that starts with "." is absolute; nothing is imported."""
    if isinstance(value, dict):
        whole = {key: _with_absolute_targets(inner, package) for key, inner in value.items()}
        target = whole.get(TARGET)
        if isinstance(target, str) and target.startswith("."):
            whole[TARGET] = f"{package}{target}" if package else target[1:]
        return whole
    if isinstance(value, list):
        return [_with_absolute_targets(inner, package) for inner in value]
    return value
