"""The settings: `config.yaml` in the home folder, and `P2PFLOWS_BROKER`, which has precedence."""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from p2pflows import yaml_file
from p2pflows.errors import UsageError
from p2pflows.home import Home
from p2pflows.links import broker_url
from p2pflows.protocol import topics
from p2pflows.settings.file_limits import FileLimits
from p2pflows.settings.limits import Limits
from p2pflows.settings.notify import NotifySettings
from p2pflows.settings.prices import MAX_MODELS, Price
from p2pflows.settings.retention import Retention
from p2pflows.settings.web import WebSettings

DEFAULT_POINT = "default"


class KeyConfig(BaseModel):
    """Where a worker finds the key of a model server; never the key itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend_used: str = "openai"
    api_key_env: str | None = Field(default=None, pattern="^[A-Za-z_][A-Za-z0-9_]*$")
    """The environment variable that holds the key; None if the server at `api_base` needs no key."""
    api_base: str | None = None
    api_version: str | None = None
    model: str | None = None
    ca_file: str | None = None
    """A PEM file with the certificates of the authorities that the server may have its own from."""


class WorkerConfig(BaseModel):
    """A worker process that `p2pflows up` starts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dispatch_point: str = DEFAULT_POINT
    concurrency: int = Field(default=4, ge=1, le=256)
    max_waiting: int = Field(default=256, ge=0, le=10_000)
    """How many waiting runs it keeps at hand; beyond that, those that have waited longest begin again later."""
    api_infos: list[KeyConfig] = []

    @field_validator("dispatch_point")
    @classmethod
    def _point(cls, value: str) -> str:
        if not topics.is_name(value):
            raise ValueError("a dispatch point is 1 to 64 letters, digits, '_' or '-'")
        return value


class Settings(BaseModel):
    """The content of `config.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    broker: str = "embedded"
    human_endpoint: str = "User"
    workers: list[WorkerConfig] = [WorkerConfig()]
    limits: Limits = Limits()
    retention: Retention = Retention()
    files: FileLimits = FileLimits()
    notify: NotifySettings = NotifySettings()
    web: WebSettings | None = None
    """The page for browsers, which runs beside the daemon; None if it does not."""
    prices: dict[str, Price] = Field(default={}, max_length=MAX_MODELS)
    """What models cost, by name."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    @field_validator("human_endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        if not topics.is_name(value) or value.startswith("_"):
            raise ValueError("an endpoint is 1 to 64 letters, digits, '_' or '-', and does not start with '_'")
        return value


def load(where: Home) -> Settings:
    """Read the settings of a home; the defaults if there is no file.

    Raises:
        UsageError: the file cannot be read, or holds a wrong or unknown setting.
    """
    hint = f"Correct {where.config}, or move it away to use the defaults."
    content = yaml_file.read(where.config, "The settings", hint)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UsageError("The settings file is not a mapping of names to values.", hint)
    if os.environ.get("P2PFLOWS_BROKER"):
        content["broker"] = os.environ["P2PFLOWS_BROKER"]
    try:
        settings = Settings.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        setting = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            groups: dict[str, type[BaseModel]] = {
                "limits": Limits,
                "retention": Retention,
                "files": FileLimits,
                "workers": WorkerConfig,
                "prices": Price,
                "notify": NotifySettings,
                "web": WebSettings,
            }
            known = groups.get(str(first["loc"][0]), Settings)
            raise UsageError(
                f"There is no setting {setting!r}.", f"{hint} Known ones: {', '.join(known.model_fields)}."
            ) from error
        raise UsageError(f"The setting {setting!r} is wrong: {first['msg']}.", hint) from error
    broker_url.parse(settings.broker)
    return settings
