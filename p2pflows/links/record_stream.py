"""A stream socket that carries records, as an asyncio protocol; the base of both ends of the daemon's own sockets."""

from __future__ import annotations

import asyncio
import select

from p2pflows.links.socket_options import send_in_one_piece
from p2pflows.protocol.framing import FramingError, Lines, Records


class RecordStream(asyncio.Protocol):
    """One connection; a subclass overrides the hooks.

    Args:
        framing: how the stream is split into records, in both directions.

    Attributes:
        write_paused: whether the peer reads too slowly to send more now.
    """

    def __init__(self, framing: Records | Lines) -> None:
        self._framing = framing
        self._transport: asyncio.WriteTransport | None = None
        self._flush_is_scheduled = False
        self.write_paused = False

    # Hooks.

    def on_open(self) -> None:
        """The connection is open."""

    def on_records(self, records: list[bytes]) -> None:
        """Records have arrived, at least one."""

    def on_framing_error(self, error: FramingError) -> None:
        """The bytes are no record, so the rest of the stream cannot be read either."""
        del error
        self.abort()

    def flush(self) -> None:
        """Send what is ready, unless `write_paused`."""

    def on_close(self, error: Exception | None) -> None:
        """The connection is closed.

        Args:
            error: None if either side closed it in an orderly way.
        """

    # Commands.

    @property
    def unsent_bytes(self) -> int:
        """How many bytes wait for the peer to read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def peer_closed(self) -> bool:
        """Whether the peer has closed the whole connection and reads no more; not every system reports it."""
        if self._transport is None:
            return True
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def send(self, content: bytes) -> bool:
        """Send a record; return False if the connection is closed."""
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.write(self._framing.wrap(content))
        return True

    def flush_soon(self) -> None:
        """Call `flush` after this pass of the event loop, so that all that becomes ready in it is sent together."""
        if not self._flush_is_scheduled:
            self._flush_is_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush_now)

    def close(self) -> None:
        """Close the connection after everything has been sent."""
        if self._transport is not None:
            self._transport.close()

    def pause_reading(self) -> None:
        """Read no more from the peer for now; what it sends waits there."""
        if isinstance(self._transport, asyncio.Transport):
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the peer again."""
        if isinstance(self._transport, asyncio.Transport):
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close the connection at once; unsent bytes are lost."""
        if self._transport is not None:
            self._transport.abort()

    def _flush_now(self) -> None:
        self._flush_is_scheduled = False
        self.flush()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, and call `on_open`."""
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - a stream socket's
        self._transport = transport
        send_in_one_piece(transport.get_extra_info("socket"))
        self.on_open()

    def data_received(self, data: bytes) -> None:
        """Split the stream, and call `on_records`."""
        try:
            records = self._framing.feed(data)
        except FramingError as error:
            self.on_framing_error(error)
            return
        if records:
            self.on_records(records)

    def pause_writing(self) -> None:
        """The write buffer is full."""
        self.write_paused = True

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        self.write_paused = False
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Call `on_close`."""
        self.on_close(exc)
