"""Pictures in a message to the model: from the forms that data may have, to the parts of the OpenAI protocol."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from p2pflows.errors import BadInput

_STARTS = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"RIFF": "webp",
}
_SCHEMES = ("https://", "http://", "data:image/")
_HINT = 'Give {"url": "https://..."} or {"base64": "..."}, with a PNG, JPEG, GIF or WebP picture.'


def content(text: str, images: Any) -> str | list[dict[str, Any]]:
    """What a message says: its text, or with pictures the text and picture parts.

    Args:
        text: the text.
        images: a list of pictures, each as bytes, a URL, `{"url": ...}` or `{"base64": ...}`; or None.

    Raises:
        BadInput: a picture has none of these forms.
    """
    if images is None or images == []:
        return text
    if not isinstance(images, (list, tuple)):
        raise BadInput("'images' must be a list.", _HINT)
    pictures = [{"type": "image_url", "image_url": {"url": _url(image)}} for image in images]
    return [{"type": "text", "text": text}, *pictures]


def _url(image: Any) -> str:
    """The picture as a URL; a file's path is not one, for it would be read on the worker's disk."""
    match image:
        case bytes():
            return _data_url(image)
        case {"base64": str(text)}:
            try:
                return _data_url(base64.b64decode(text, validate=True))
            except binascii.Error:
                raise BadInput("A picture's base64 cannot be read.", _HINT) from None
        case str(url) | {"url": str(url)} if url.startswith(_SCHEMES):
            return url
    raise BadInput("A picture has an unknown form.", _HINT)


def _data_url(picture: bytes) -> str:
    kind = next((kind for start, kind in _STARTS.items() if picture.startswith(start)), None)
    if kind is None:
        raise BadInput("A picture is of an unknown kind.", _HINT)
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
