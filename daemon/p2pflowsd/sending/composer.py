"""Writes messages, and refuses what no recipient could read or no packet could hold."""

from __future__ import annotations

from typing import Any

from p2pflows.errors import BadInput, NotServed, TooLarge, UnknownUser
from p2pflows.protocol import strict_json, topics
from p2pflows.protocol.envelope import Envelope
from p2pflows.protocol.message import MAX_BODY_BYTES, Message, Type
from p2pflows.protocol.strict_json import JsonObject
from p2pflowsd.link import Link

PACKET_OVERHEAD_BYTES = 1_000
"""How many bytes topic, header, signature and framing add to a body, rounded up."""


class Composer:
    """Writes the messages of one daemon.

    Args:
        envelope: knows to whom a message can be sealed.
        link: knows the largest packet.
    """

    def __init__(self, envelope: Envelope, link: Link) -> None:
        self._envelope = envelope
        self._link = link

    def compose(self, fields: dict[str, Any]) -> tuple[Message, bytes]:
        """Return a message with these fields, and its body.

        Raises:
            UnknownUser: the recipient's user id is not a public key.
            NotServed: no daemon takes requests at the endpoint.
            BadInput: the data cannot be written as JSON that every recipient can read.
            TooLarge: the body exceeds the size limit.
        """
        if not self._envelope.can_seal_to(fields["to"]):
            raise UnknownUser(
                f"{fields['to']} is not a user id: it is not a public key.", "Check the id with its owner: p2pflows id"
            )
        if fields["endpoint"] in topics.TAKES_NO_REQUESTS and fields["type"] in (Type.CALL, Type.POST):
            raise NotServed(f"Nobody serves {fields['endpoint']!r}: daemons use it.", "See: p2pflows ls CONTACT")
        try:
            message = Message.model_validate(fields)
            body = message.to_bytes()
            if not isinstance(message.data, JsonObject):  # which was checked when it was read
                strict_json.check_levels(body)
        except ValueError as error:
            reason = (
                "it is nested too deeply"
                if "depth" in str(error) or "recursion" in str(error)
                else "it holds text that is not Unicode"
            )
            raise BadInput(
                f"The data cannot be sent as JSON: {reason}.", "Send plain objects, lists, texts and numbers."
            ) from error
        limit = min(MAX_BODY_BYTES, self._link.max_packet - PACKET_OVERHEAD_BYTES)
        if len(body) > limit and isinstance(message.data, JsonObject):  # which may have been written with white space
            return self.compose({**fields, "data": dict(message.data)})
        if len(body) > limit:
            raise TooLarge(
                f"The message is {len(body):,} bytes; the limit is {limit:,}.",
                "Send a reference to the data, or split it.",
            )
        return message, body
