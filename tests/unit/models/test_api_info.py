"""ApiInfo: a key that is not printed, stored or sent elsewhere; and configs that are filled with it."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
import pprint
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from p2pflows.errors import FlowFailed, UsageError
from p2pflows.flows import state
from p2pflows.models.api_info import ApiInfo, normal_base, quick_load_api_keys
from p2pflows.models.keyring import Keyring

KEY = "sk-secret-0123456789"
INFO = ApiInfo(backend_used="openai", api_key=KEY)
configs = st.recursive(
    st.none() | st.integers() | st.sampled_from(["???", "text"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["api_infos", "a", "b"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("show", [repr, str, pprint.pformat, "{}".format, "{!r}".format, lambda info: f"{[info]}"])
def test_key_is_not_shown(show: Any) -> None:
    """No text form of an ApiInfo or a Keyring shows the key."""
    for thing in (INFO, Keyring([INFO]), {"api_infos": [INFO]}):
        assert KEY not in show(thing)
    assert show(INFO).count("[redacted]") == 1


def test_key_is_not_written() -> None:
    """Neither JSON, pickle, pydantic, dataclasses nor our states write an ApiInfo, and their errors show no key."""
    writers: list[Any] = [
        json.dumps,
        pickle.dumps,
        to_jsonable_python,
        dataclasses.asdict,
        vars,
        TypeAdapter(Any).dump_json,
    ]
    for write in (*writers, lambda info: state.dumps({"info": info}), lambda info: info.__getstate__()):
        with pytest.raises((TypeError, ValueError, FlowFailed)) as failure:
            write(INFO)
        assert KEY not in "".join(traceback.format_exception(failure.value))


def test_key_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A log line with an ApiInfo does not show the key."""
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").warning("%s %r %s", INFO, INFO, {"api_infos": [INFO]})
    assert "ApiInfo" in caplog.text
    assert KEY not in caplog.text


def test_key_is_there_for_a_request() -> None:
    """`api_key` and `base` are what a request needs."""
    assert INFO.api_key == KEY


def test_frozen() -> None:
    """No attribute of an ApiInfo can be changed."""
    for name in ("api_key", "_api_key", "api_base", "other"):
        with pytest.raises(AttributeError) as failure:
            setattr(INFO, name, "https://elsewhere.example")
        assert KEY not in str(failure.value)
        with pytest.raises(AttributeError):
            delattr(INFO, name)


def test_copies_are_the_same() -> None:
    """A copy is the same object, so configs that hold one can be copied."""
    assert copy.copy(INFO) is INFO
    assert copy.deepcopy({"api_infos": [INFO]})["api_infos"][0] is INFO


def test_equality() -> None:
    """Two with equal content are equal, and are one key of a dict."""
    assert ApiInfo(backend_used="openai", api_key=KEY) == INFO
    assert len({INFO, ApiInfo(backend_used="openai", api_key=KEY), ApiInfo(api_key="other")}) == 2
    assert INFO != KEY


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"backend_used": None, "api_key": KEY}, "names no backend"),
        ({"backend_used": "", "api_key": KEY}, "names no backend"),
        ({"backend_used": "openai", "api_key": None}, "has no key"),
        ({"backend_used": "openai", "api_key": ""}, "has no key"),
        ({"api_key": f"{KEY}\n"}, "holds blanks, control or non-ASCII characters"),
        ({"api_key": f"{KEY}é"}, "holds blanks, control or non-ASCII characters"),
        ({"backend_used": "azure", "api_key": KEY, "api_version": "1"}, "has no api_base"),
        ({"backend_used": "azure", "api_key": KEY, "api_base": "https://a.example"}, "has no api_version"),
        ({"backend_used": "local", "api_key": KEY}, "has no api_base"),
        ({"api_key": KEY, "api_base": "ftp://a.example"}, "is not an http or https URL"),
        ({"api_key": KEY, "api_base": "https://user:pass@a.example"}, "is not an http or https URL"),
        ({"api_key": KEY, "api_base": "https://a.example:port"}, "malformed"),
    ],
)
def test_incomplete(given: dict[str, Any], sentence: str) -> None:
    """A missing or malformed argument is refused, and the error does not show the key."""
    with pytest.raises(UsageError, match=sentence) as refusal:
        ApiInfo(**given)
    assert refusal.value.hint
    assert KEY not in refusal.value.message + refusal.value.hint


def test_base() -> None:
    """The server of a key is the one it names, or OpenAI's."""
    assert INFO.base == "https://api.openai.com/v1"
    assert ApiInfo(api_key=KEY, api_base="http://localhost:1/v1").base == "http://localhost:1/v1"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://A.example/v1", "https://a.example:443/v1/"),
        ("http://a.example", "HTTP://a.example:80/"),
        ("http://[::1]:8/v1", " http://[::1]:8/v1/"),
    ],
)
def test_same_base(one: str, other: str) -> None:
    """Two spellings of one server's URL are equal."""
    assert normal_base(one) == normal_base(other)


@pytest.mark.parametrize("other", ["http://a.example/v1", "https://a.example/v2", "https://a.example.evil.example/v1"])
def test_other_base(other: str) -> None:
    """A URL with another scheme, path or host is another server."""
    assert normal_base("https://a.example/v1") != normal_base(other)


def test_fill_in() -> None:
    """Exactly the values "???" under the key are replaced, at every depth; the config stays unchanged."""
    config = {
        "backend": {"api_infos": "???", "model": "???"},
        "subflows_config": {"A": [{"api_infos": "???"}, {"api_infos": "?"}], "B": ({"api_infos": "???"},)},
        "api_infos": {"api_infos": "???"},
    }
    before = copy.deepcopy(config)
    filled = quick_load_api_keys(config, [INFO])
    assert config == before
    assert filled == {
        "backend": {"api_infos": [INFO], "model": "???"},
        "subflows_config": {"A": [{"api_infos": [INFO]}, {"api_infos": "?"}], "B": ({"api_infos": [INFO]},)},
        "api_infos": {"api_infos": [INFO]},
    }


def test_fill_in_another_key() -> None:
    """The config key can have another name."""
    assert quick_load_api_keys([{"keys": "???", "api_infos": "???"}], [INFO], key="keys") == [
        {"keys": [INFO], "api_infos": "???"}
    ]


@given(configs)
def test_fill_in_any(config: Any) -> None:
    """The result has no open value, is equal otherwise, and shares nothing with the config."""
    filled = quick_load_api_keys(config, [INFO])
    emptied = json.loads(json.dumps(_emptied(filled)))
    assert emptied == config
    assert '"api_infos": "???"' not in json.dumps(filled, default=repr)
    if isinstance(filled, (dict, list)):
        assert filled is not config


@pytest.mark.parametrize("wrong", [[], [None], [KEY], [{"api_key": KEY}], KEY])
def test_fill_in_something_else(wrong: Any) -> None:
    """A value that is not an ApiInfo is refused, and the error does not show it."""
    with pytest.raises(UsageError) as refusal:
        quick_load_api_keys({"api_infos": "???"}, wrong)
    assert KEY not in str(refusal.value)


def _emptied(value: Any) -> Any:
    if value == [INFO]:
        return "???"
    if isinstance(value, dict):
        return {name: _emptied(inner) for name, inner in value.items()}
    return [_emptied(inner) for inner in value] if isinstance(value, list) else value
