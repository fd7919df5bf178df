"""Pictures in a message to the model, in the forms of the OpenAI protocol."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from p2pflows.errors import BadInput, NotAllowed, TooLarge
from p2pflows.flows.state import MAX_STATE_BYTES
from p2pflows.sent_files import File

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"RIFF": "webp",
}
_SCHEMES = ("https://", "http://", "data:image/")
_HINT = 'Send a file, or {"base64": "..."}, with a PNG, JPEG, GIF or WebP picture.'


def content(text: str, images: Any, *, takes_addresses: bool = True) -> str | list[dict[str, Any]]:
    """Return the content of a message: its text, or with pictures, the parts for the text and each picture.

    Args:
        text: the text.
        images: a list of pictures, each as a file, bytes, a URL, `{"url": ...}` or `{"base64": ...}`; None for no
            pictures.
        takes_addresses: whether a picture may be an address that the model's server fetches.

    Raises:
        BadInput: a picture has none of these forms.
        NotAllowed: a picture is an address, and none is taken.
        TooLarge: a file is larger than a conversation.
    """
    if images is None or images == []:
        return text
    if not isinstance(images, (list, tuple)):
        raise BadInput("'images' must be a list.", _HINT)
    urls = [_url(image) for image in images]
    if not takes_addresses and not all(url.startswith("data:") for url in urls):
        raise NotAllowed("This flow takes no pictures by URL from you.", 'Send them as {"base64": "..."}.')
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"type": "text", "text": text}, *pictures]


def given(data: Mapping[str, Any]) -> Any:
    """Return the pictures in a message: under `images`, where one needs no list, or as in the predecessor under `data`.

    Raises:
        BadInput: `data` holds something else than pictures.
    """
    older = data.get("data")
    if not isinstance(older, Mapping) or not {"images", "video"} & set(older):
        images = data.get("images")
        return [images] if isinstance(images, Mapping) else images
    unknown = sorted(set(older) - {"images"})
    if unknown:
        raise BadInput(f"'data.{unknown[0]}' cannot be sent to a model.", _HINT)
    if data.get("images"):
        raise BadInput("There are pictures under both 'images' and 'data.images'.", "Send them under 'images'.")
    return older["images"]


def _url(image: Any) -> str:
    """Return a picture as a URL. A file path is refused: the file would be read from the worker's disk."""
    match image:
        case File():
            return _data_url(_content_of(image))
        case bytes():
            return _data_url(image)
        case {"base64": str(text)}:
            try:
                return _data_url(base64.b64decode(text, validate=True))
            except binascii.Error:
                raise BadInput("A picture's base64 cannot be read.", _HINT) from None
        case str(url) | {"url": str(url)} | {"type": "url", "image": str(url)} if url.startswith(_SCHEMES):
            return url
        case {"type": "local_path"}:
            raise BadInput("A picture is named by a path, which the worker does not read.", _HINT)
    raise BadInput("A picture has an unknown form.", _HINT)


def _content_of(file: File) -> bytes:
    if file.size > MAX_STATE_BYTES:
        raise TooLarge(
            f"The picture {file.name!r} has {file.size:,} bytes, and a conversation keeps {MAX_STATE_BYTES:,}.",
            "Send a smaller one.",
        )
    return file.read_bytes()


def _data_url(picture: bytes) -> str:
    kind = next((kind for signature, kind in _SIGNATURES.items() if picture.startswith(signature)), None)
    if kind is None:
        raise BadInput("A picture has an unknown file type.", _HINT)
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
