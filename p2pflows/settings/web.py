"""Where the page for browsers is: `web:` in `config.yaml`, and the options of `p2pflows web`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

DEFAULT_ADDRESS = "127.0.0.1:8643"
MAX_HOSTS = 20


def _check_address(text: str) -> str:
    if text and not text.startswith(("http://", "https://")):
        raise ValueError("give an address such as https://pi.example.org:8643")
    return text.rstrip("/")


class WebSettings(BaseModel):
    """Where the page is.

    Attributes:
        listen: where the server listens, as HOST:PORT.
        cert: a PEM file with the certificate; needed unless only this machine reaches the server.
        key: a PEM file with its key.
        hosts: further names under which browsers may ask for the page.
        address: how you reach the page; notifications name it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: str = DEFAULT_ADDRESS
    cert: str = ""
    key: str = ""
    hosts: Annotated[list[str], Field(max_length=MAX_HOSTS)] = []
    address: Annotated[str, AfterValidator(_check_address)] = ""
