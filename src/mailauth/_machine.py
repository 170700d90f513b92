"""The base class of the SMTP and POP3 servers and clients: buffers, output, the open question, TLS and the end.

Its subclasses in ``_server`` and ``_client`` add logins.  The protocols add commands and replies.
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from ._lines import LineBuffer
from ._unchecked import new, slot_setters
from .errors import LocalProtocolError
from .events import PAUSED, Action, BeginTls, Closed, CloseReason, NeedData, Send, Tls

E = TypeVar("E")

MAX_UNWRITTEN: Final = 32_768
"""The maximum size, in bytes, of the replies held back while further pipelined commands are read.

It is half of the 64 KiB that a connection may keep, since objects take more memory than the bytes in them."""

(_set_data,) = slot_setters(Send, "data")
_CLOSED: Final[Mapping[CloseReason, Closed]] = {reason: Closed(reason=reason) for reason in CloseReason}


class Phase(enum.IntEnum):
    """The phase of a connection.  The order of commands while it is open is in the table of each protocol."""

    OPEN = 0
    SHUTTING_DOWN = 1
    """``shut_down()`` was called.  The last reply, or QUIT, is not written yet."""
    TLS_REPLY = 2
    """The server has agreed to TLS.  The queued output leaves with BeginTls."""
    HANDSHAKE = 3
    """BeginTls was returned.  Only ``tls_started()`` or the end of the stream may follow."""
    CLOSED = 4
    """The queued output is returned, then Closed."""


# A member is read several times for each event, and as an attribute of its class it costs more.
_OPEN, _HANDSHAKE, _ENDED = Phase.OPEN, Phase.HANDSHAKE, Phase.CLOSED
_PEER_CLOSED: Final = CloseReason.PEER_CLOSED


class Machine(Generic[E]):
    """A state machine without I/O.  *E* is the union of the events that it returns, besides the actions.

    Pass received data to ``receive_data()``, and call ``next_event()`` for the next event or action.

        machine.receive_data(sock.recv(65_536))
        while not isinstance(event := machine.next_event(), NeedData | Closed):
            handle(event)  # write the data of Send, answer a Question
    """

    __slots__ = (
        "_events",
        "_input",
        "_output",
        "_output_due",
        "_output_size",
        "_phase",
        "_question",
        "_reason",
        "_tls",
    )

    def __init__(self, tls: Tls | None) -> None:
        self._tls = tls
        self._input = LineBuffer()
        # Further events of the same step, two or three at most.  An empty deque would take as much memory as all the
        # rest of an idle connection.
        self._events: list[E] = []
        self._question: object | None = None  # always None on a client
        self._output: list[bytes] = []
        self._output_size = 0
        self._output_due = False
        self._phase = _OPEN
        self._reason = _PEER_CLOSED

    @property
    def tls(self) -> Tls | None:
        """The TLS layer of this connection; None in clear text."""
        return self._tls

    def receive_data(self, data: bytes) -> None:
        """Add bytes received from the peer; ``b""`` is the end of the stream.  After Closed they are ignored.

        Raises LocalProtocolError between BeginTls and ``tls_started()`` (except for ``b""``, a failed handshake), for
        data after the end of the stream, and if more than 64 KiB are unread already.
        """
        phase = self._phase
        if phase is _ENDED:
            return
        if phase is not _HANDSHAKE:
            self._input.feed(data)
        elif data:
            raise LocalProtocolError(
                'no data may be passed during the TLS handshake: call tls_started(), or pass b"" if it failed'
            )
        else:
            self._close(CloseReason.PEER_CLOSED)

    def next_event(self) -> E | Action:
        """Return the next event.  NeedData, Paused and Closed are returned again until something changes."""
        while True:
            if self._events:
                return self._events.pop(0)
            if self._question is not None:
                return PAUSED
            if self._output_due:
                return self._flush()
            event = self._advance() if self._phase is _OPEN else self._advance_phase()
            if event is not None:
                return event

    def tls_started(self, tls: Tls) -> None:
        """Report that the handshake requested by BeginTls has succeeded.

        Raises LocalProtocolError if no handshake was requested.
        """
        if self._phase is not Phase.HANDSHAKE:
            raise LocalProtocolError("no TLS handshake is in progress: call tls_started() only after BeginTls")
        self._phase = Phase.OPEN
        self._tls = tls
        self._on_tls_started(tls)

    def shut_down(self, reason: CloseReason = CloseReason.SHUT_DOWN) -> None:
        """End the session.  *reason* is reported by Closed.  A second call does nothing.

        ``next_event()`` first returns the last reply or command (421 or QUIT, for example), if the protocol allows one.
        """
        if self._phase is Phase.OPEN:
            self._reason = reason
            self._phase = Phase.SHUTTING_DOWN
        elif self._phase in (Phase.TLS_REPLY, Phase.HANDSHAKE):
            self._output.clear()
            self._close(reason)

    @abstractmethod
    def _advance(self) -> E | Action | None:
        """Process some input.  Return None if ``next_event()`` must check its queues again."""

    def _advance_phase(self) -> Action | None:
        """Return the next action of a connection that is not open, or None if the queues must be checked again."""
        phase = self._phase
        if phase is _ENDED:
            return self._flush() if self._output else self._closed()
        if phase is Phase.SHUTTING_DOWN:
            self._begin_shutdown()
            return None
        return self._begin_tls() if phase is Phase.TLS_REPLY else PAUSED

    @abstractmethod
    def _begin_shutdown(self) -> None:
        """Write the last output after ``shut_down()``, if there is any, then call ``_close()``."""

    @abstractmethod
    def _on_tls_started(self, tls: Tls) -> None:
        """Discard everything learned before TLS was started."""

    def _at_end_of_stream(self) -> None:
        """Handle the end of the stream, after all input is read: call ``_close()``, or raise RemoteProtocolError."""
        self._close(CloseReason.PEER_CLOSED)

    def _write(self, data: bytes, *, due: bool) -> None:
        """Queue output.

        It is sent at once if *due*, or else when 32 KiB are queued or more input is needed (RFC 2920 section 3.2).
        """
        self._output.append(data)
        self._output_size += len(data)
        if due or self._output_size >= MAX_UNWRITTEN:
            self._output_due = True

    def _flush(self) -> Send:
        output = self._output
        if len(output) == 1:
            data = output.pop()
        else:
            data = b"".join(output)
            output.clear()
        self._output_size = 0
        self._output_due = False
        send = new(Send)  # the same as __init__, at a third of the cost
        _set_data(send, data)
        return send

    def _need_more_data(self, need: NeedData) -> Action | None:
        """Handle incomplete input, and return the next action.

        Join the data received later, if there is any; else send the queued output; else close if the stream has ended;
        else return *need*.
        """
        received = self._input
        if received.later:
            received.gather()
            return None
        if self._output:
            return self._flush()
        if received.ended:
            self._at_end_of_stream()
            return None
        if received.offset == len(received.data):  # otherwise an idle connection would keep the data read last
            received.data = b""
            received.offset = 0
        return need

    def _close(self, reason: CloseReason) -> None:
        self._reason = reason
        self._phase = _ENDED
        self._input.clear()

    def _closed(self) -> Closed:
        return _CLOSED[self._reason]

    def _begin_tls(self) -> BeginTls:
        self._phase = Phase.HANDSHAKE
        return BeginTls(data=self._flush().data)
