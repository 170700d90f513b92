"""The skeleton of the four connections: buffers, the open question, when a Send is due, how a session ends.

Knows no verb, no reply and no login: what the octets mean is told by the subclasses, ``_server`` and ``_client`` first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from ._errors import LocalProtocolError
from ._events import PAUSED, Action, BeginTls, Closed, CloseReason, NeedData, Paused, Send, Tls
from ._lines import LineBuffer

E = TypeVar("E")

MAX_UNWRITTEN: Final = 32_768
"""Octets of replies that may wait for the rest of their group: half of what a connection keeps besides the chunk in
hand, since they weigh more than they count."""

_new: Final = object.__new__
_set_data: Final = vars(Send)["data"].__set__
_CLOSED: Final[Mapping[CloseReason, Closed]] = {reason: Closed(reason=reason) for reason in CloseReason}


class Machine(Generic[E]):
    """A pure state machine that is pulled: ``next_event()`` gives one value at a time, in causal order."""

    __slots__ = ("_events", "_input", "_output", "_output_due", "_output_size", "_phase", "_question", "_tls", "_why")

    def __init__(self, tls: Tls | None) -> None:
        self._tls = tls
        self._input = LineBuffer()
        # What happened beside the event that is being returned: two or three at most, so a list will do, and an empty
        # deque weighs as much as all the rest of an idle connection.
        self._events: list[E] = []
        self._question: object | None = None  # clients never have one
        self._output: list[bytes] = []
        self._output_size = 0
        self._output_due = False
        self._phase: Callable[[], E | Action | None] | None = None  # what happens instead of reading on: TLS, the end
        self._why = CloseReason.PEER_CLOSED

    @property
    def tls(self) -> Tls | None:
        """The TLS layer under this connection; None in clear text."""
        return self._tls

    def receive_data(self, data: bytes) -> None:
        """Take octets from the peer; ``b""`` is the end of the stream.  After Closed they are ignored.

        Raises LocalProtocolError between BeginTls and ``tls_started()``, after the end of the stream, and when 64 KiB
        wait to be pulled already.
        """
        phase = self._phase
        if phase is not None:
            if phase == self._flush_then_close:
                return
            if phase == self._wait_for_tls:
                if data:
                    raise LocalProtocolError("octets from before the handshake may not be handed in after it")
                self._close(CloseReason.PEER_CLOSED)
                return
        self._input.feed(data)

    def next_event(self) -> E | Action:
        """What comes next; NeedData, Paused and Closed repeat until something changes."""
        while True:
            if self._events:
                return self._events.pop(0)
            if self._question is not None:
                return PAUSED
            if self._output_due:
                return self._flush()
            phase = self._phase
            event = self._advance() if phase is None else phase()
            if event is not None:
                return event

    def tls_started(self, tls: Tls) -> None:
        """The handshake that BeginTls asked for is done.  Raises LocalProtocolError when none was asked for."""
        if self._phase != self._wait_for_tls:
            raise LocalProtocolError("no TLS handshake was asked for")
        self._phase = None
        self._tls = tls
        self._secured(tls)

    def shut_down(self, reason: CloseReason = CloseReason.SHUT_DOWN) -> None:
        """End the session as soon and as politely as the protocol allows; a second call changes nothing."""
        if self._phase is None:
            self._why = reason
            self._phase = self._begin_shutdown
        elif self._phase in (self._begin_tls, self._wait_for_tls):
            self._output.clear()
            self._close(reason)

    @abstractmethod
    def _advance(self) -> E | Action | None:
        """Use some input; None when something changed and the caller shall look again."""

    @abstractmethod
    def _begin_shutdown(self) -> None:
        """Say what is still to be said after ``shut_down()``, then ``_close()``."""

    @abstractmethod
    def _secured(self, tls: Tls) -> None:
        """TLS has started: forget everything that was said before it."""

    def _at_end_of_stream(self) -> None:
        """Nothing more will come and all that came is used up: ``_close()``, or raise RemoteProtocolError."""
        self._close(CloseReason.PEER_CLOSED)

    def _write(self, data: bytes, *, due: bool) -> None:
        """Queue output; it leaves when it is *due*, at 32 KiB, or when more input is needed (RFC 2920 section 3.2)."""
        self._output.append(data)
        self._output_size += len(data)
        if due or self._output_size >= MAX_UNWRITTEN:
            self._output_due = True

    def _flush(self) -> Send:
        output = self._output
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        self._output_size = 0
        self._output_due = False
        send = _new(Send)  # what __init__ does, for a third
        _set_data(send, data)
        return send

    def _need_more_data(self, need: NeedData) -> Action | None:
        """What came in is used up: look at what came later, write what waits, end with the stream, or ask for more."""
        if self._input.gather():
            return None
        if self._output:
            return self._flush()
        if self._input.ended:
            self._at_end_of_stream()
            return None
        return need

    def _close(self, reason: CloseReason) -> None:
        self._why = reason
        self._phase = self._flush_then_close
        self._input.clear()

    def _flush_then_close(self) -> Send | Closed:
        return self._flush() if self._output else _CLOSED[self._why]

    def _begin_tls(self) -> BeginTls:
        data = self._flush().data
        self._phase = self._wait_for_tls
        return BeginTls(data=data)

    def _wait_for_tls(self) -> Paused:
        return PAUSED
