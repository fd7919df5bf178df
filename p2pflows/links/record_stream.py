"""A socket that carries records, as asyncio serves it; both ends of the daemon's own sockets are made of it."""

from __future__ import annotations

import asyncio
import select

from p2pflows.protocol.framing import FramingError, Lines, Records


class RecordStream(asyncio.Protocol):
    """One connection's life; what happens in it, a subclass says.

    Args:
        framing: how records follow each other, both ways.
    """

    def __init__(self, framing: Records | Lines) -> None:
        self._framing = framing
        self._transport: asyncio.WriteTransport | None = None
        self._due = False
        self.full = False
        """Whether the other side reads too slowly for more to be sent now."""

    # What a subclass says.

    def opened(self) -> None:
        """The connection stands."""

    def arrived(self, records: list[bytes]) -> None:
        """Records have come, at least one."""

    def on_framing_error(self, error: FramingError) -> None:
        """What came is no record, and neither is what follows."""
        del error
        self.abort()

    def leave(self) -> None:
        """Send what is ready, unless the stream is `full`."""

    def lost(self, error: Exception | None) -> None:
        """The connection is gone."""

    # What it can do.

    @property
    def unsent(self) -> int:
        """Bytes that wait for the other side to read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def peer_closed(self) -> bool:
        """Whether the other side has closed its end, so that nobody reads any more; not sure on every system."""
        if self._transport is None:
            return True
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def send(self, content: bytes) -> bool:
        """Send a record; False if it cannot leave."""
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.write(self._framing.wrap(content))
        return True

    def leave_soon(self) -> None:
        """Have `leave` called once this pass of the loop is over: what it makes ready leaves together."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._leave_now)

    def finish(self) -> None:
        """End the connection once all has left."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _leave_now(self) -> None:
        self._due = False
        self.leave()

    # What asyncio tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - a stream socket's
        self._transport = transport
        self.opened()

    def data_received(self, data: bytes) -> None:
        """Bytes have come, in whatever pieces."""
        try:
            records = self._framing.feed(data)
        except FramingError as error:
            self.on_framing_error(error)
            return
        if records:
            self.arrived(records)

    def pause_writing(self) -> None:
        """The buffer holds all it should."""
        self.full = True

    def resume_writing(self) -> None:
        """The other side has read enough of it."""
        self.full = False
        self.leave()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self.lost(exc)
