"""The messages that their recipients have confirmed last; who asks for one again has an older copy of a journal."""

from __future__ import annotations

from collections import deque

MAX_STREAMS = 1_000
MAX_NUMBERS = 256
"""How many numbers of a stream are remembered."""

Stream = tuple[str, str]
"""The peer and the endpoint of an outgoing stream."""


class Confirmed:
    """The messages of each stream that were confirmed since this daemon started; the oldest are forgotten."""

    def __init__(self) -> None:
        self._streams: dict[Stream, deque[tuple[int, int]]] = {}

    def add(self, stream: Stream, seq: int, boot: int) -> None:
        """Remember that a message was confirmed.

        Args:
            stream: its stream.
            seq: its number.
            boot: which start of the recipient's daemon has confirmed it, by its status.
        """
        confirmed = self._streams.pop(stream, None) or deque(maxlen=MAX_NUMBERS)
        confirmed.append((seq, boot))
        self._streams[stream] = confirmed
        if len(self._streams) > MAX_STREAMS:
            self._streams.pop(next(iter(self._streams)))

    def boot_of(self, stream: Stream, seq: int) -> int | None:
        """Return which start of the recipient's daemon has confirmed a message; None if that is not known."""
        return next((boot for number, boot in self._streams.get(stream, ()) if number == seq), None)
