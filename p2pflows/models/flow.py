"""ChatAtomicFlow: a conversation with a language model, stored in the flow's state."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from p2pflows.errors import BadInput, NotAllowed, UsageError
from p2pflows.flows.config import default_config
from p2pflows.flows.flow import AtomicFlow
from p2pflows.flows.future import FlowFuture
from p2pflows.flows.message import FlowMessage
from p2pflows.models import images
from p2pflows.models.answer import Completion, output_fields
from p2pflows.models.answers import Delta, OnDelta
from p2pflows.models.api_info import OPENAI, TO_BE_FILLED, ApiInfo, normal_base
from p2pflows.models.backend import Backend
from p2pflows.models.context import Counter, about_tokens, known_encoder
from p2pflows.models.exchange import TRIM, Exchange, Request, Roles, Rules
from p2pflows.models.failures import Cause, ModelFailed
from p2pflows.models.keyring import GIVE_THE_WORKER_A_KEY, Keyring
from p2pflows.models.routes import read_choices
from p2pflows.models.settings import check_settings
from p2pflows.models.structured import OutputSchema
from p2pflows.models.templates import Template
from p2pflows.models.tools import OWNER, Tool, Toolbox, read_tools

_HISTORY = "previous_messages"
_LEFT_OUT, _BYTES_PER_TOKEN = "left_out", "bytes_per_token"
_NOT_FOR_SUMMARIES = {"n", "response_format", "stream", "stream_options", "stop", "max_tokens"}
_NOT_SETTINGS = {"api_infos", "api_base", "wait_time_per_key", "timeout"}


class ChatAtomicFlow(AtomicFlow):
    """Asks a language model, and answers its text as `api_output`, or a list of texts when the config's `n` is over 1.

    Beside it are `finish_reason`, `model` and `usage`, as the server says them, or null. An answer that was cut or
    withheld, or has no text, is an error and no part of the conversation, unless the config has `accept_incomplete`.

    The first message of an instance starts the conversation with the system message, then the pairs of `query` and
    `response` under `demonstrations`, then the first prompt. Later messages use the human template. Pictures under
    `images` are part of the prompt. The state holds the whole conversation; `previous_messages` selects the part of it
    that the model receives.

    Raises:
        UsageError: the config has a template or server that cannot be used, or a role has the name of this flow.
    """

    REQUIRED_KEYS_CONFIG: ClassVar[list[str]] = ["backend"]
    output_model: ClassVar[type[BaseModel] | None] = None
    """The pydantic class whose fields the answer is to have, in place of a schema in the config."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        config = self.flow_config
        if self.name in self._roles():
            raise UsageError(
                f"A chat flow cannot be named {self.name!r}, like one of its roles.", "Change name in its config."
            )
        self._system = Template.from_config(config.get("system_message_prompt_template"))
        self._human = Template.from_config(config.get("human_message_prompt_template"))
        first = config.get("init_human_message_prompt_template")
        self._first = self._human if first is None else Template.from_config(first)
        backend = _backend_config(config)
        _check_base(backend.get("api_base"))
        self._keyring = _keyring_in(backend.get("api_infos"))

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Check all settings.

        Raises:
            UsageError: a key is unknown, or a value means nothing.
        """
        check_settings(config, None if cls is ChatAtomicFlow else default_config(cls).keys())

    @classmethod
    def describe_input(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of the input: those that the config names, pictures and demonstrations."""
        described = super().describe_input(config)
        fields = {**described.get("properties", {}), **_extra_fields(config)}
        return {"type": "object", "required": [], **described, "properties": fields}

    @classmethod
    def describe_output(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of the answer."""
        schema = cls._output_schema(config)
        return {"type": "object", "properties": output_fields(None if schema is None else schema.node)}

    @classmethod
    def _output_schema(cls, config: Mapping[str, Any]) -> OutputSchema | None:
        if cls.output_model is not None:
            return OutputSchema.of_model(cls.output_model)
        schema = config.get("output_schema")
        return None if schema is None else OutputSchema(schema)

    def set_up_flow_state(self) -> None:
        """Start with an empty conversation."""
        super().set_up_flow_state()
        self.flow_state[_HISTORY] = []

    def set_api_infos(self, api_infos: Iterable[ApiInfo] | Keyring) -> None:
        """Use the worker's keys, unless the config was filled with keys in memory; they are never stored.

        Args:
            api_infos: the keys; with one Keyring for all flows of a worker, its keys take turns over all of them.

        Raises:
            UsageError: there is no key, or a value is not an ApiInfo.
        """
        if self._keyring is None:
            self._keyring = api_infos if isinstance(api_infos, Keyring) else Keyring(api_infos)

    def get_interface_description(self) -> dict[str, Any]:
        """Return what the config says of the input, before or after the first message, and of the output."""
        when = "initialized" if self.flow_state.get(_HISTORY) else "non_initialized"
        interface = super().get_interface_description()
        configured = self.flow_config.get(f"input_interface_{when}")
        if configured is not None:
            interface["input"] = [configured] if isinstance(configured, str) else configured
        return interface

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Ask the model, and answer with its text.

        Raises:
            BadInput: the data lacks an input variable, or a picture or demonstration has an unknown form.
            NotAllowed: another user forges turns, or sends the address of a picture.
            FlowFailed: the worker has no key, the model gave no whole answer, or the conversation is too long to be
                stored.
        """
        system, user, assistant = self._roles()
        data = input_message.data
        is_for_another = self._is_for_another(input_message)
        if is_for_another and data.get("demonstrations") and self.flow_config.get("allow_demonstrations") is not True:
            raise NotAllowed("Only the owner of this flow gives it demonstrations.", "Send your question without them.")
        history: list[dict[str, Any]] = list(self.flow_state[_HISTORY])
        template = self._human if history else self._first
        if not history:
            history.append({"role": system, "content": self._system.render(data)})
            for query, response in _demonstrations(data.get("demonstrations")):
                history += [{"role": user, "content": query}, {"role": assistant, "content": response}]
        takes_addresses = not is_for_another or self.flow_config.get("allow_image_urls") is True
        question = images.content(template.render(data), images.given(data), takes_addresses=takes_addresses)
        history.append({"role": user, "content": question})
        toolbox = self._toolbox(input_message)
        exchange = Exchange(
            self._rules(),
            self._ask_in_step,
            list(history),
            self._counter(),
            self.flow_state.get(_LEFT_OUT, 0),
            toolbox=toolbox,
        )
        completion, output = exchange.run()
        # A turn without text would be sent again with each question, and many servers refuse it.
        if texts := [text for text in completion.texts if text.strip()]:
            answers = [{"role": assistant, "content": text} for text in texts]
            self.flow_state[_HISTORY] = [*map(dict, exchange.history), *answers]
            self._remember(exchange)
        answer = {**completion.to_data(), "trimmed": exchange.trimmed}
        if toolbox is not None and self.flow_config.get("tool_transcript") is True:
            answer["tool_calls"] = toolbox.transcript
        return answer if exchange.rules.schema is None else {**answer, "api_output": output}

    def _rules(self) -> Rules:
        config = self.flow_config
        window = config.get("previous_messages") or {}
        return Rules(
            self._roles(),
            window.get("first_k"),
            window.get("last_k"),
            window.get("context_tokens"),
            window.get("on_overflow") or TRIM,
            self._output_schema(config),
            _number(config, "output_retries", 2),
            config.get("accept_incomplete") is True,
            _number(config, "tool_rounds", 8),
            config.get("tool_tokens"),
        )

    def _toolbox(self, input_message: FlowMessage) -> Toolbox | None:
        tools = read_tools(self.flow_config)
        if not tools:
            return None
        caller = f" for user {input_message.user_id[:8]}…" if input_message.user_id else ""

        def begin(tool: Tool, data: dict[str, Any]) -> FlowFuture:
            proxy = self.subflows[tool.name]
            return proxy.get_reply_future(proxy.package_input_message(data), tool.timeout)

        def confirm(what: str) -> bool:
            question = f"The model wants to use {what}{caller}. Shall it?"
            return self.ask(OWNER, question, form=bool).value is True

        return Toolbox(tools, begin=begin, confirm=confirm, check=self.time_left)

    def _counter(self) -> Counter:
        """Return what counts tokens, where the config limits them."""
        if (self.flow_config.get("previous_messages") or {}).get("context_tokens") is None:
            return Counter()
        model = read_choices(_backend_config(self.flow_config).get("model_name"))[0].model
        name = model.get(OPENAI) if isinstance(model, Mapping) else model
        return Counter(known_encoder(name) if name else None, self.flow_state.get(_BYTES_PER_TOKEN))

    def _remember(self, exchange: Exchange) -> None:
        """Keep in the state what the next question needs beside the conversation."""
        if exchange.left_out:
            self.flow_state[_LEFT_OUT] = exchange.left_out
        if exchange.rules.max_tokens is not None and exchange.counter.bytes_per_token is not None:
            self.flow_state[_BYTES_PER_TOKEN] = exchange.counter.bytes_per_token

    def _is_for_another(self, input_message: FlowMessage) -> bool:
        """Whether another user than the owner of the flow asks."""
        return self._run is not None and input_message.user_id not in ("", self._run.user)

    def _ask_in_step(self, request: Request) -> Completion | ModelFailed:
        """Ask the model once, in a step of the run, so that a run that starts over does not ask again."""
        # The last answer ends the run, and needs no record of its own; the run of another class may go on.
        is_deferred = type(self).run is ChatAtomicFlow.run
        record = self._running().step(lambda: self._ask_for_record(request), is_deferred=is_deferred)
        match record:
            case {"too_long": str(details)}:
                return ModelFailed(Cause.TOO_LONG, details, record.get("max_tokens"))
        return Completion.from_record(record)

    def _ask_for_record(self, request: Request) -> dict[str, Any]:
        try:
            return self._ask(request).to_record()
        except ModelFailed as error:
            if error.cause is not Cause.TOO_LONG:
                raise
            return {"too_long": error.details, "max_tokens": error.max_tokens}

    def _ask(self, request: Request) -> Completion:
        if self._keyring is None:
            details = f"The flow {self.name!r} has no key for its model. {GIVE_THE_WORKER_A_KEY}"
            raise ModelFailed(Cause.NOT_SET_UP, details)
        config = _backend_config(self.flow_config)
        settings = {name: value for name, value in config.items() if name not in _NOT_SETTINGS}
        schema = self._output_schema(self.flow_config)
        if request.is_summary:
            settings = {name: value for name, value in settings.items() if name not in _NOT_FOR_SUMMARIES}
        elif schema is not None:
            settings["response_format"] = schema.response_format
        if (tools := read_tools(self.flow_config)) and not request.is_summary:
            settings["tools"] = [tool.as_setting() for tool in tools]
        report = self._reporter(is_again=request.is_again) if self.wants_progress and not request.is_summary else None
        with (
            Backend(
                self._keyring,
                api_base=config.get("api_base"),
                attempts=_number(self.flow_config, "n_api_retries", 6),
                max_wait=_number(self.flow_config, "wait_time_between_retries", 20),
                wait_time_per_key=_number(config, "wait_time_per_key", 0),
                timeout=_number(config, "timeout", 600),
                time_left=self._running().time_left,
            ) as backend,
            self._running().stopping(backend.interrupt),
        ):
            try:
                completion = backend.complete(request.messages, settings, report)
            finally:
                for unfinished in backend.unfinished:
                    self._note_spent(request, unfinished, "")
        self._note_spent(request, completion, str(settings.get("model", "")))
        return completion

    def _note_spent(self, request: Request, completion: Completion, model: str) -> None:
        """Note the tokens that a request took; where the server does not count them, about how many there were.

        Else a limit of tokens a day would hold for some servers only.
        """
        usage = completion.usage
        read, written = usage.tokens_in, usage.tokens_out
        if read is None:
            read = about_tokens(*(json.dumps(message.get("content")) for message in request.messages))
        if written is None:
            written = about_tokens(*completion.texts)
        self.note_tokens(completion.model or model, tokens_in=read, tokens_out=written, cached=usage.tokens_cached or 0)

    def _reporter(self, *, is_again: bool) -> OnDelta:
        """Return what reports each piece of an answer to the caller (docs/PROTOCOL.md, section 9).

        Args:
            is_again: whether pieces of an earlier answer were reported, in place of which this one comes.
        """
        begun: set[int] = set()

        def report(delta: Delta) -> None:
            is_restart = delta.restart or (is_again and delta.answer not in begun)
            begun.add(delta.answer)
            choice = {"choice": delta.answer} if delta.answer else {}
            self.progress({"delta": delta.text, **choice, **({"restart": True} if is_restart else {})})

        return report

    def _roles(self) -> Roles:
        return Roles(*(str(self.flow_config.get(f"{role}_name") or role) for role in Roles._fields))


ChatFlow = ChatAtomicFlow


def _backend_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    backend = config.get("backend")
    if not isinstance(backend, Mapping):
        raise UsageError("The config's 'backend' is not a mapping.", "Write: backend: {model_name: ...}")
    return {name: value for name, value in backend.items() if not name.startswith("_")}


def _extra_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that each chat takes beside those of its prompts."""
    urls = ", or addresses" if config.get("allow_image_urls") is True else "; addresses from the owner only"
    images_field = {"type": "array", "description": f'pictures: files, or {{"base64": ...}}{urls}'}
    whose = "" if config.get("allow_demonstrations") is True else ", from the owner only"
    demonstrations = {"type": "array", "description": f'at first: [{{"query": ..., "response": ...}}]{whose}'}
    return {"images": images_field, "demonstrations": demonstrations}


def _check_base(api_base: Any) -> None:
    if api_base is not None:
        try:
            normal_base(api_base)
        except UsageError as error:
            raise UsageError(f"backend.api_base cannot be used: {error.message}", error.hint) from None


def _keyring_in(api_infos: Any) -> Keyring | None:
    """Return the keys that `quick_load_api_keys` filled into a config; None when the worker has to supply them."""
    if api_infos in (None, TO_BE_FILLED):
        return None
    if isinstance(api_infos, list) and all(isinstance(info, ApiInfo) for info in api_infos):
        return Keyring(api_infos)
    # The wrong value may be a key, so the error does not show it.
    raise UsageError(
        "backend.api_infos has a value, but a config must not hold keys: it is stored and sent.", _LEAVE_OPEN
    )


_LEAVE_OPEN = f'Leave it as "{TO_BE_FILLED}". {GIVE_THE_WORKER_A_KEY}'


def _number(config: Mapping[str, Any], name: str, default: int) -> Any:
    value = config.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"The config's {name!r} is not a number.", "Write a number.")
    return value


def _demonstrations(value: Any) -> list[tuple[str, str]]:
    """Return the demonstrations as pairs of query and response."""
    if value is None:
        return []
    pairs = []
    for pair in value if isinstance(value, list) else [value]:
        match pair:
            case {"query": str(query), "response": str(response)}:
                pairs.append((query, response))
            case _:
                raise BadInput("A demonstration has an unknown form.", 'Write [{"query": ..., "response": ...}].')
    return pairs
