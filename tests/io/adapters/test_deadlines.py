"""Deadlines of a peer: for a command, message content, the time before a login, and reading a reply."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
from collections.abc import Callable
from typing import Any

import pytest

from mailauth import ACCEPT, BeginTls, CloseReason, MessageChunk, NeedData, Question, Tls, pop3, sasl, smtp
from mailauth_io.adapters.connection import LINGER_SECONDS, LINGER_TOTAL, AsyncServerConnection
from mailauth_io.adapters.stream import Peer
from mailauth_io.adapters.tls.layer import TlsLayer
from mailauth_io.limits import Limits
from tests.io import loops
from tests.io.time_machine import SlowClient, beside, connected, run_in_no_time
from tests.io.tls import layers

on_each_loop = pytest.mark.parametrize("name", ["asyncio", "trio"])

IN_CLEAR = frozenset({"PLAIN", "LOGIN", "USER"})
TRANSACTION = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n"
LOGIN = b"AUTH PLAIN " + base64.b64encode(b"\0alice\0secret") + b"\r\n"
END = b"421 4.4.2 timeout exceeded, closing connection\r\n"
PEER_CLOSED = Peer("192.0.2.1", 1)


async def accept(connection: AsyncServerConnection[Any], events: list[Any], pause: Callable[[], None]) -> None:
    async for event in connection:
        events.append(event)
        match event:
            case pop3.OpenMaildrop():
                maildrop = pop3.Maildrop(messages=(pop3.Message(size=10, unique_id="x"),))
                connection.answer(event, maildrop)
            case Question():
                connection.answer(event, ACCEPT)
            case MessageChunk():
                pause()


def serve(
    machine: smtp.ServerConnection | pop3.ServerConnection,
    client: SlowClient,
    *,
    pause: float = 0.0,
    layer: TlsLayer | None = None,
    name: str = "asyncio",
) -> list[Any]:
    """Serve *client* with an application that accepts everything, and takes *pause* seconds for each chunk."""
    events: list[Any] = []

    def wait() -> None:
        client.seconds += pause

    connection: AsyncServerConnection[Any] = AsyncServerConnection(machine, client, PEER_CLOSED, None, layer)
    run_in_no_time(name, lambda: accept(connection, events, wait))
    return events


def smtp_server(**settings: Any) -> smtp.ServerConnection:
    return smtp.ServerConnection(
        smtp.ServerSettings(mechanisms_without_tls=IN_CLEAR, **settings), entropy=bytes(range(32))
    )


def pop3_server(**settings: Any) -> pop3.ServerConnection:
    return pop3.ServerConnection(
        pop3.ServerSettings(mechanisms_without_tls=IN_CLEAR, **settings), entropy=bytes(range(32))
    )


def each_octet(after: float, data: bytes) -> list[tuple[float, bytes]]:
    return [(after, bytes([octet])) for octet in data]


def test_the_bytes_of_a_command_do_not_renew_its_deadline() -> None:
    """RFC 5321 section 4.5.3.2.7: five minutes for a command, in which one byte a minute makes only six bytes."""
    client = SlowClient((0.0, b"EHLO c\r\n"), *each_octet(59.0, b"MAIL FROM:<a@b>\r\n"))
    serve(smtp_server(), client)
    assert client.seconds == 300.0
    assert client.heard.endswith(END)


def test_each_command_has_its_own_deadline() -> None:
    client = SlowClient((0.0, b"EHLO c\r\n"), *[(299.0, b"NOOP\r\n")] * 10)
    serve(smtp_server(login_timeout=math.inf), client)
    assert client.seconds == 10 * 299.0 + 300.0


def test_bytes_of_an_auth_response_do_not_renew_its_deadline() -> None:
    """As a command has.  A client that stops in the middle of AUTH has failed to log in."""
    client = SlowClient((0.0, b"EHLO c\r\nAUTH LOGIN\r\n"), *each_octet(59.0, b"YWxpY2U=\r\n"))
    events = serve(smtp_server(), client)
    assert client.seconds == 300.0
    assert isinstance(events[-1], sasl.AuthenticationFailed)
    assert client.heard.endswith(END)


def test_endless_line_without_pauses_has_the_deadline_of_a_command() -> None:
    """The clock is checked even if data is always available."""

    class Flood(SlowClient):
        def take(self) -> bytes | None:
            self.seconds += 1.0
            return b"x" * 1_000

        async def wait_readable(self, due: float) -> None:
            pass

    client = Flood()
    serve(smtp_server(login_timeout=math.inf), client)
    assert client.seconds == pytest.approx(300.0, abs=2.0)


@pytest.mark.parametrize("before", [b"EHLO c\r\n", b"EHLO c\r\n" + TRANSACTION])
def test_bytes_of_an_incomplete_tls_record_do_not_renew_the_deadline(before: bytes) -> None:
    """Inside TLS, an incomplete record does not restart the timeout."""
    server, client = layers()
    slow = SlowClient((0.0, client.encrypt(before)), *each_octet(59.0, client.encrypt(b"x" * 9)))
    machine = smtp.ServerConnection(smtp.ServerSettings(), entropy=bytes(32), tls=server.tls)
    serve(machine, slow, layer=server)
    assert slow.seconds == 300.0


def test_content_below_the_minimum_rate_times_out() -> None:
    """A byte a minute is too slow: each extends the deadline by two thousandths of a second."""
    client = SlowClient((0.0, b"EHLO c\r\n" + TRANSACTION), *[(59.0, b"x")] * 10_000)
    events = serve(smtp_server(), client)
    assert client.seconds == pytest.approx(300.0, abs=0.1)
    assert events[-1] == smtp.MessageAborted(reason=CloseReason.TIMED_OUT)
    assert client.heard.endswith(END)


def test_content_at_the_minimum_rate_may_take_hours() -> None:
    """RFC 5321 section 4.5.3.2.5: the timeout applies to progress, not to the whole message."""
    lines = b"x" * 58 + b"\r\n"
    pieces = [(119.9, lines * 1_000)] * 100
    client = SlowClient((0.0, b"EHLO c\r\n" + TRANSACTION), *pieces, (0.0, b".\r\nQUIT\r\n"))
    events = serve(smtp_server(), client)
    assert client.seconds == pytest.approx(11_990.0)
    assert isinstance(events[-2], smtp.MessageComplete)
    assert isinstance(events[-1], smtp.Quit)


@pytest.mark.parametrize(("pause", "ends"), [(299.0, False), (301.0, True)])
def test_pause_in_content_is_limited_to_the_timeout(pause: float, ends: bool) -> None:
    """A pause over five minutes ends the session, however much was received before."""
    client = SlowClient((0.0, b"EHLO c\r\n" + TRANSACTION), (1.0, b"x" * 9_000_000), (pause, b"\r\n.\r\nQUIT\r\n"))
    events = serve(smtp_server(), client)
    assert (events[-1] == smtp.MessageAborted(reason=CloseReason.TIMED_OUT)) is ends


def test_processing_time_of_the_application_does_not_count() -> None:
    pieces = [(1.0, b"x" * 98 + b"\r\n")] * 100
    client = SlowClient((0.0, b"EHLO c\r\n" + TRANSACTION), *pieces, (0.0, b".\r\nQUIT\r\n"))
    events = serve(smtp_server(), client, pause=1_000.0)
    assert isinstance(events[-1], smtp.Quit)


def test_each_message_has_the_full_timeout() -> None:
    message = (290.0, b"x\r\n.\r\n")
    client = SlowClient((0.0, b"EHLO c\r\n" + TRANSACTION), message, (0.0, TRANSACTION), message, (0.0, b"QUIT\r\n"))
    assert isinstance(serve(smtp_server(), client)[-1], smtp.Quit)


def bdat(data: bytes, *, last: bool = False) -> bytes:
    return b"BDAT %d%b\r\n" % (len(data), b" LAST" if last else b"") + data


BEGIN_CHUNKS = b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<b@b.test>\r\n" + bdat(b"x" * 1_000)


@on_each_loop
@pytest.mark.parametrize(
    ("says", "seconds"),
    [
        ([(299.0, b"BDAT 0\r\n")] * 99, 300.0),
        ([(100.0, bdat(b"x"))] * 99, 300.0),
        ([(100.0, b"NOOP\r\n")] * 99, 300.0),
        ([(100.0, b"DATA\r\n")] * 19, 300.0),
        ([(100.0, b"N" + b"O" * 2_000 + b"\r\n")] * 19, 300.0 + 3 * 2_003 / 500),
        (each_octet(59.0, b"N" + b"O" * 99), 300.0),
        ([(0.0, b"BDAT 9999\r\n"), (299.0, b"xx"), *[(299.0, bdat(b"x"))] * 99], 300.0),
        ([(150.0, bdat(b"x" * 50_000))] * 3 + [(299.0, b"NOOP\r\n")] * 9, 600.0),
    ],
)
def test_content_deadline_applies_between_bdat_chunks(
    name: str, says: list[tuple[float, bytes]], seconds: float
) -> None:
    """The deadline of the message that the server holds applies, whatever commands are read between (RFC 3030)."""
    client = SlowClient((0.0, BEGIN_CHUNKS), *says)
    events = serve(smtp_server(chunking=True), client, name=name)
    assert client.seconds == pytest.approx(seconds, abs=0.5)
    assert events[-1] == smtp.MessageAborted(reason=CloseReason.TIMED_OUT)
    assert client.heard.endswith(END)


@on_each_loop
@pytest.mark.parametrize("size", [150_000, 1_000_000])
def test_a_client_may_pause_between_two_large_chunks(name: str, size: int) -> None:
    """Chunks extend the deadline as any content does, and a pause between them is limited as in any content."""
    pauses = [(299.0, bdat(b"x" * size))] * 20
    client = SlowClient((0.0, BEGIN_CHUNKS), *pauses, (299.0, bdat(b"\r\n", last=True)), (0.0, b"QUIT\r\n"))
    events = serve(smtp_server(chunking=True), client, name=name)
    assert client.seconds == 299.0 * 21
    assert isinstance(events[-1], smtp.Quit)


@pytest.mark.parametrize("end", [b"RSET\r\n", b"EHLO c\r\n", bdat(b"\r\n", last=True), bdat(b"x" * 70_000)])
def test_command_deadline_applies_after_a_chunked_message_has_ended(end: bytes) -> None:
    """Also if it was aborted, and after a chunk that exceeds SIZE: then the server holds no message."""
    machine = smtp_server(chunking=True, max_message_size=65_536)
    content = NeedData(timeout=300.0, min_rate=500.0)
    assert last_wait(machine, BEGIN_CHUNKS) == last_wait(machine, b"NOOP\r\nBDAT") == content
    machine.receive_data(b" 0\r\n")
    assert last_wait(machine, end).min_rate is None


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (smtp_server, [(50.0, b"NOOP\r\n")] * 100),
        (smtp_server, [(50.0, b"EHLO c\r\n"), *[(50.0, b"AUTH LOGIN\r\n"), (50.0, b"*\r\n")] * 9]),
        (pop3_server, [(50.0, b"CAPA\r\n")] * 100),
        (pop3_server, [(50.0, b"USER alice\r\n")] * 100),
    ],
)
def test_login_timeout_is_not_renewed_by_commands(machine: Any, says: list[tuple[float, bytes]]) -> None:
    """Ten minutes from the start of the connection."""
    client = SlowClient(*says)
    serve(machine(), client)
    assert client.seconds == 600.0


def test_login_timeout_applies_while_data_is_always_available() -> None:
    class Flood(SlowClient):
        def take(self) -> bytes | None:
            self.seconds += 1.0
            return b"CAPA\r\n"

        async def wait_readable(self, due: float) -> None:
            pass

    client = Flood()
    serve(pop3_server(), client)
    assert client.seconds == pytest.approx(600.0, abs=2.0)


def test_login_timeout_starts_with_the_connection() -> None:
    """It includes the TLS handshake and the PROXY header, and an upgrade to TLS does not restart it."""
    client = SlowClient()
    client.seconds, client.started_at = 1_000.0, 960.0
    serve(smtp_server(login_timeout=100.0), client)
    assert client.seconds == 1_060.0
    for machine, upgrade in ((smtp_server(starttls=True), b"STARTTLS\r\n"), (pop3_server(stls=True), b"STLS\r\n")):
        assert last_wait(machine, upgrade).until == 600.0
        assert machine.tls is not None


def last_wait(machine: Any, data: bytes) -> NeedData:
    """Return what *machine* waits for after *data*, with every question accepted."""
    machine.receive_data(data)
    while not isinstance(event := machine.next_event(), NeedData):
        if isinstance(event, BeginTls):
            machine.tls_started(Tls(version="TLSv1.3"))
        elif isinstance(event, Question):
            machine.answer(event, ACCEPT)
    return event


@pytest.mark.parametrize("login", [LOGIN, TRANSACTION + b"x\r\n.\r\n"])
def test_login_or_accepted_message_cancels_the_login_timeout(login: bytes) -> None:
    """An MTA that delivers mail never logs in."""
    client = SlowClient((0.0, b"EHLO c\r\n" + login), *[(250.0, b"NOOP\r\n")] * 9, (0.0, b"QUIT\r\n"))
    assert isinstance(serve(smtp_server(), client)[-1], smtp.Quit)


def test_login_timeout_does_not_abort_a_long_first_message() -> None:
    pieces = [(100.0, (b"x" * 98 + b"\r\n") * 1_000)] * 20
    client = SlowClient((0.0, b"EHLO c\r\n" + TRANSACTION), *pieces, (0.0, b".\r\nQUIT\r\n"))
    assert isinstance(serve(smtp_server(), client)[-1], smtp.Quit)
    assert client.seconds == 2_000.0


def test_idle_pop3_session_ends_after_ten_minutes_without_update() -> None:
    """RFC 1939 section 3: the autologout timer does not enter the UPDATE state."""
    client = SlowClient((0.0, b"USER alice\r\nPASS secret\r\nDELE 1\r\n"), (599.0, b"NOOP\r\n"))
    events = serve(pop3_server(), client)
    assert client.seconds == 1_199.0
    assert isinstance(events[-1], pop3.Noop)
    assert not any(isinstance(event, pop3.Update) for event in events)
    assert client.heard.endswith(b"+OK message 1 deleted\r\n+OK ok\r\n")


async def write_to_a_reader(name: str, size: int, every: float) -> tuple[float, OSError | None]:
    """Send 10 MB to a client that reads *size* bytes *every* seconds.  Return the seconds taken and the error."""
    stream, client = await connected(name, Limits())
    loop = loops.current()

    async def read() -> None:
        while True:
            await loop.sleep(every)
            with contextlib.suppress(BlockingIOError):
                client.recv(size)

    async def write() -> tuple[float, OSError | None]:
        begun = stream.now()
        try:
            await stream.write_all(bytes(10_000_000))
        except OSError as error:
            return stream.now() - begun, error
        return stream.now() - begun, None

    with client:
        try:
            return await beside(read, write)
        finally:
            stream.abort()


@on_each_loop
def test_client_reading_below_the_minimum_rate_times_out(name: str) -> None:
    """A byte a minute does not extend the deadline: after five minutes the connection counts as lost."""
    seconds, error = run_in_no_time(name, lambda: write_to_a_reader(name, 1, 60.0))
    assert 300.0 <= seconds <= 301.0
    assert type(error) is TimeoutError


@on_each_loop
def test_client_reading_above_the_minimum_rate_does_not_time_out(name: str) -> None:
    """Progress extends the deadline of a Send, however long all of it takes."""
    seconds, error = run_in_no_time(name, lambda: write_to_a_reader(name, 65_536, 60.0))
    assert error is None
    assert seconds > 3_000.0


@on_each_loop
def test_client_that_does_not_read_times_out(name: str) -> None:
    """Data that was read before does not allow a longer pause."""
    seconds, error = run_in_no_time(name, lambda: write_to_a_reader(name, 5_000_000, 1_000.0))
    assert 300.0 <= seconds <= 301.0
    assert type(error) is TimeoutError


def test_linger_time_after_the_last_reply_is_limited() -> None:
    """Otherwise a byte every two seconds would keep the connection open for days, past every deadline."""
    client = SlowClient((0.0, b"QUIT\r\n"), *each_octet(1.9, bytes(1_000)))

    async def whole() -> None:
        connection: AsyncServerConnection[Any] = AsyncServerConnection(smtp_server(), client, PEER_CLOSED, None, None)
        await accept(connection, [], lambda: None)
        await connection.aclose()

    asyncio.run(whole())
    assert client.heard.endswith(b"\r\n221 2.0.0 goodbye\r\n")
    assert client.seconds == LINGER_TOTAL


def test_linger_time_after_a_failed_write_is_limited() -> None:
    """After a failed write, the remaining data of the client is read for a short time only."""

    class Gone(SlowClient):
        def write(self, data: bytes) -> None:
            raise BrokenPipeError

    client = Gone(*each_octet(1.9, bytes(1_000)))
    assert serve(smtp_server(), client)[:1] == [smtp.Connected()]
    assert client.seconds == LINGER_SECONDS
