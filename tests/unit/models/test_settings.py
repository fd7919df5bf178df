"""Settings of a chat flow that mean nothing are refused by name when they are set, before anybody pays for them."""

from __future__ import annotations

import shlex

import pytest

from p2pflows.cli.input.arguments import read_settings
from p2pflows.errors import UsageError
from p2pflows.flows.config import effective_config
from p2pflows.models.flow import ChatAtomicFlow


class Garden(ChatAtomicFlow):
    """A chat flow with a key of its own."""

    default_config = {"name": "Garden", "place": "here"}  # noqa: RUF012 - as authors write it


def check(text: str, flow_class: type[ChatAtomicFlow] = ChatAtomicFlow) -> None:
    """Check settings as they follow `--set`."""
    flow_class.check_config(effective_config(flow_class, read_settings(tuple(shlex.split(text)))))


WRONG = [
    ("backend.max_token=5", "'backend.max_token'", "Do you mean 'backend.max_tokens'?"),
    ("max_tokens=5", "'max_tokens'", "Do you mean 'backend.max_tokens'?"),
    ("temperature=0.5", "'temperature'", "Do you mean 'backend.temperature'?"),
    ("last_k=3", "'last_k'", "Do you mean 'previous_messages.last_k'?"),
    ("system_promt=Hi", "'system_promt'", "the page about models"),
    ("backend.base_url=http://h/v1", "'backend.base_url'", "Known ones: api_infos, api_base"),
    ("backend.temperature=hot", "'backend.temperature' is wrong", "the page about models"),
    ("backend.temperature=-1", "'backend.temperature' is wrong", "the page about models"),
    ("backend.temperature='\"0.5\"'", "'backend.temperature' is wrong", "the page about models"),
    ("backend.n=0", "'backend.n' is wrong", "the page about models"),
    ("backend.stream=maybe", "'backend.stream' is wrong", "the page about models"),
    ("backend.stop=5", "'backend.stop' is wrong", "the page about models"),
    ("backend=fast", "'backend' is not a mapping", "backend: {...}"),
    ("backend.model_name=5", "backend.model_name has an unknown form", "in the order of preference"),
    ("backend.api_base=ftp://h", "not an http or https URL", "https://host/v1"),
    ("previous_messages.last_k=-1", "'previous_messages.last_k' is wrong", "the page about models"),
    ("previous_messages.lastk=1", "'previous_messages.lastk'", "Do you mean 'previous_messages.last_k'?"),
    ("previous_messages=3", "'previous_messages' is not a mapping", "previous_messages: {...}"),
    ("n_api_retries=0", "'n_api_retries' is wrong", "the page about models"),
    ("accept_incomplete=1", "'accept_incomplete' is wrong", "the page about models"),
    ("human_message_prompt_template=Hi", "prompt template in the config has an unknown form", "template"),
    ("system_message_prompt_template.template='{{'", "prompt template cannot be used", "It may use"),
]


@pytest.mark.parametrize(("text", "message", "hint"), WRONG, ids=[text for text, _, _ in WRONG])
def test_settings_that_mean_nothing_are_refused(text: str, message: str, hint: str) -> None:
    """The error names the key, and the one that was probably meant."""
    with pytest.raises(UsageError) as refused:
        check(text)
    assert message in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "backend.temperature=0 backend.top_p=1 backend.max_tokens=9 backend.n=2 backend.seed=7",
        "backend.model_name=m backend.api_base=http://localhost:8080/v1",
        'backend.model_name=\'["a", {"model_name": "b", "api_base": "http://h/v1"}]\'',
        "backend.stop='[\"END\"]' backend._target_=aiflows.LiteLLMBackend",
        "previous_messages.first_k=0 previous_messages.last_k=4",
        "enable_cache=true overridable='[\"description\"]' output_interface='[\"api_output\"]'",
        "n_api_retries=1 wait_time_between_retries=0.5 allow_image_urls=true init_human_message_prompt_template=null",
    ],
)
def test_settings_that_are_known(text: str) -> None:
    """All of them, and what the predecessor's configs have, are taken."""
    check(text)


def test_a_class_of_ones_own_may_have_keys_of_its_own() -> None:
    """Its defaults name some, its code may know others; what looks like a mistake is refused all the same."""
    check("place=there weather=fine", Garden)
    for text in ("backend.max_token=5", "temperatur=1", "previous_messages.last_k=-1"):
        with pytest.raises(UsageError):
            check(text, Garden)
