"""A next hop that closes, crashes or does not respond: the client gets 451, nothing is delivered in part."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import attrs
import pytest

from mailauth import ACCEPT, MessageChunk, smtp
from mailauth_io import server
from mailauth_io.server import _next_hop_session
from tests.io.next_hops import (
    CLOSE,
    CONTENT,
    FAR,
    IN_CLEAR,
    LOCAL,
    Deed,
    Double,
    Fault,
    logged_in,
    relay_to,
    relaying,
    send,
)
from tests.io.server_support import TIMEOUT, Run, Served, on_both_loops
from tests.io.tls import client_context

pytestmark = on_both_loops

STEPS: dict[type[object], str] = {
    smtp.Connected: "recipient",
    smtp.Hello: "recipient",
    smtp.Mail: "recipient",
    smtp.Rcpt: "recipient",
    smtp.Data: "data",
    smtp.MessageComplete: "final_reply",
}
"""The steps that can fail, and the timeout of each."""

HELLO: Final = b"220 far.test ESMTP\r\n"

at_each_step = pytest.mark.parametrize("step", STEPS, ids=[step.__name__ for step in STEPS])


def at_rcpt(step: type[object]) -> bool:
    """Return whether the client gets the error at RCPT; then the other recipients still get the message."""
    return STEPS[step] == "recipient"


def check_refused(served: Served, replies: list[str], step: type[object], begins: str) -> None:
    """Check that the client got *begins* at the right step, and that a local copy exists if and only if it got 250."""
    assert replies[0 if at_rcpt(step) else -1].startswith(begins)
    assert replies[-1].startswith("250 2.0.0 queued" if at_rcpt(step) else begins)
    assert len(served.mail_of("alice")) == at_rcpt(step)


@at_each_step
@pytest.mark.parametrize(("deed", "begins"), [(CLOSE, "451 4."), (Fault.DIE, "451 4.4.1")], ids=["421", "dies"])
def test_lost_next_hop_gives_451_and_next_transaction_reconnects(
    run: Run, step: type[object], deed: Deed, begins: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its 421 is not passed on: the client's session continues (RFC 5321 section 3.8)."""
    double = Double(deeds={step: [deed]})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            check_refused(served, send(smtp, FAR, LOCAL), step, begins)
            assert double.taken == []
            assert send(smtp, FAR, LOCAL)[-1].startswith("250")
            assert len(served.mail_of("alice")) == at_rcpt(step) + 1
        assert len(double.taken) == 1

    relaying(run, double, client, **IN_CLEAR)
    assert double.connections == 2
    (record,) = [record for record in caplog.records if record.getMessage().startswith("next hop ")]
    assert record.levelno == logging.ERROR


@at_each_step
def test_silent_next_hop_gives_451_after_the_timeout(
    run: Run, step: type[object], caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 5321 section 4.5.3.2: each step has its own timeout."""
    double = Double(deeds={step: [Fault.FALL_SILENT]})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            check_refused(served, send(smtp, FAR, LOCAL), step, "451 4.4.1")

    relaying(run, double, client, timeouts=attrs.evolve(server.Timeouts(), **{STEPS[step]: 0.05}), **IN_CLEAR)
    assert "next hop" in caplog.text
    assert "timed out" in caplog.text
    assert double.taken == []


def test_next_hop_whose_name_has_no_address_gives_451(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(_next_hop_session, "resolve", resolve)

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, FAR)[0].startswith("451 4.4.1")

    relaying(run, Double(), client, **IN_CLEAR)
    assert "Name or service not known" in caplog.text


def test_next_hop_that_stops_reading_gives_451(run: Run) -> None:
    double = Double(deeds={MessageChunk: [Fault.FALL_SILENT]}, settings=smtp.ServerSettings(max_message_size=2**26))

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            content = b"\r\n" + (b"x" * 998 + b"\r\n") * 16_384  # more than two sockets hold, and no header section
            assert send(smtp, LOCAL, FAR, content=content)[-1].startswith("451 4.4.1")
        assert served.mail_of("alice") == []

    relaying(run, double, client, timeouts=server.Timeouts(block=0.05), **IN_CLEAR)


def test_next_hop_lost_between_recipients_gives_451_and_delivers_nothing(run: Run) -> None:
    double = Double(deeds={smtp.Rcpt: [ACCEPT, CLOSE]})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            replies = send(smtp, LOCAL, FAR, "bill@far.test", "lory@far.test")
            assert [reply[:3] for reply in replies] == ["250", "250", "451", "451", "451"]
        assert served.mail_of("alice") == []

    relaying(run, double, client, **IN_CLEAR)
    assert (double.connections, double.taken) == (1, [])


@pytest.mark.parametrize("deed", [CLOSE, Fault.DIE], ids=["421", "dies"])
def test_next_hop_lost_between_messages_is_reconnected_without_error(run: Run, deed: Deed) -> None:
    """Nothing of the new transaction has been lost, so the client does not notice."""
    double = Double(deeds={smtp.Mail: [ACCEPT, deed]})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            for _ in range(2):
                assert send(smtp, FAR)[-1].startswith("250")

    relaying(run, double, client, **IN_CLEAR)
    assert double.connections == len(double.taken) == 2


def test_message_taken_by_next_hop_that_dies_gives_451_and_a_duplicate(run: Run) -> None:
    """RFC 1047: the server cannot know whether the message was accepted."""
    double = Double(deeds={smtp.MessageComplete: [Fault.TAKE_AND_DIE]})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, LOCAL, FAR)[-1].startswith("451 4.4.1")
            assert served.mail_of("alice") == []
            assert send(smtp, LOCAL, FAR)[-1].startswith("250")
            assert len(served.mail_of("alice")) == 1

    relaying(run, double, client, **IN_CLEAR)
    assert len(double.taken) == 2


def test_connection_idle_for_too_long_is_replaced(run: Run) -> None:
    """It may have been dropped without notice, by a firewall for example."""
    double = Double()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            for seconds, connections in ((0, 1), (60, 1), (61, 2)):
                served.clock.now += seconds
                assert send(smtp, FAR)[-1].startswith("250")
                assert double.connections == connections

    relaying(run, double, client, timeouts=server.Timeouts(idle=60), **IN_CLEAR)
    assert double.heard.count("Quit") == 2


REPLIES = [
    (smtp.Connected, smtp.Reply(554, "", "no mail here"), "451 4.4.1"),
    (smtp.Connected, smtp.Reply(220, "", "\n".join(["welcome"] * 201)), "451 4.4.1"),
    (smtp.Mail, smtp.Reply(530, "5.7.0", "log in first"), "451 4.4.1"),
    (smtp.Rcpt, smtp.Reply(503, "5.5.1", "out of order"), "451 4.4.1"),
    (smtp.Rcpt, smtp.Reply(550, "5.7.1", "\n".join(["x" * 400] * 20)), "550 5.7.1 x"),
    (smtp.Rcpt, smtp.Reply(550, "5.7.1", "\n".join(["x"] * 201)), "451 4.4.1"),
]


@pytest.mark.parametrize(
    ("step", "reply", "begins"), REPLIES, ids=["554", "endless greeting", "530", "503", "long", "endless"]
)
def test_next_hop_session_errors_give_451_and_long_replies_are_limited(
    run: Run, step: type[object], reply: smtp.Reply, begins: str
) -> None:
    double = Double(deeds={step: [reply]})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            replies = send(smtp, FAR, LOCAL)
            check_refused(served, replies, step, begins)
            assert "\n" not in replies[0]
            assert len(replies[0]) < 500

    relaying(run, double, client, **IN_CLEAR)


def test_unreachable_next_hop_gives_451_and_local_mail_is_accepted(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def client(served: Served) -> None:
        with logged_in(served) as client:
            check_refused(served, send(client, FAR, LOCAL), smtp.Connected, "451 4.4.1")

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        run(lambda: relay_to(taken.getsockname()[1], client, **IN_CLEAR))
    assert "next hop" in caplog.text


@pytest.mark.parametrize(
    ("lines", "begins"),
    [
        ((b"HTTP/1.1 400 Bad Request",), "451 4.4.1"),
        ((b"220 hi", b"250 hi", b"250 ok", b"250 ok", b"354 go on\r\n250 2.0.0 taken"), "451 4.4.1"),
        ((b"220 hi", b"250 hi", b"250 ok", b"250 ok\r\n250 2.0.0 ok", b"354 go on"), "451 4.4.1"),
        ((b"220 hi", b"250 hi", b"250 ok", b"250 ok", b"354 go on", b"250 2.0.0 ok"), "250 2.0.0"),
    ],
    ids=["no SMTP", "250 ahead of the message", "one 250 too many", "as it should be"],
)
def test_premature_250_of_next_hop_does_not_acknowledge_the_message(
    run: Run, lines: tuple[bytes, ...], begins: str
) -> None:
    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            replies = send(smtp, FAR, LOCAL)
            assert replies[0 if len(lines) == 1 else -1].startswith(begins)

    with spoken(*lines) as port:
        run(lambda: relay_to(port, client, **IN_CLEAR))


def test_mail_is_relayed_if_the_next_hop_rejects_ehlo(run: Run) -> None:
    """RFC 5321 section 3.2: by HELO, which offers no extensions, so SIZE is not sent."""
    lines: list[bytes] = []

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, FAR, options=("SIZE=100",))[-1].startswith("250")

    with spoken(b"220 hi", b"500 what?", b"250 hi", b"250 ok", b"250 ok", b"354 go on", b"250 ok", heard=lines) as port:
        run(lambda: relay_to(port, client, **IN_CLEAR))
    assert lines[:5] == [
        b"EHLO example.test\r\n",
        b"HELO example.test\r\n",
        b"MAIL FROM:<alice@example.test>\r\n",
        b"RCPT TO:<dinah@far.test>\r\n",
        b"DATA\r\n",
    ]


@contextmanager
def spoken(*lines: bytes, heard: list[bytes] | None = None) -> Iterator[int]:
    """Serve one client on a port: send the first of *lines*, and one more after each line and after the final dot.

    The lines of the client are added to *heard*, without content.
    """

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(TIMEOUT)
        with connection, connection.makefile("rb") as said, suppress(OSError):  # the client may disconnect early
            for line in lines:
                connection.sendall(line + b"\r\n")
                if line.startswith(b"354"):
                    while said.readline() not in (b".\r\n", b""):
                        pass
                else:
                    received = said.readline()
                    if heard is not None:
                        heard.append(received)
            said.read()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_client_lost_during_data_causes_no_data_to_the_next_hop(run: Run) -> None:
    double = Double()

    def client(served: Served) -> None:
        smtp = logged_in(served)
        smtp.mail("alice@example.test")
        smtp.rcpt(FAR)
        assert smtp.docmd("DATA")[0] == 354
        smtp.send(b"half a mess")
        smtp.close()

    relaying(run, double, client, **IN_CLEAR)
    assert double.taken == []
    assert "Data" not in double.heard


def test_client_lost_before_the_reply_has_its_message_in_both_places(run: Run) -> None:
    """It sends the message again, which gives two copies of each (RFC 1047)."""
    gone = threading.Event()
    double = Double(at_the_end=lambda: gone.wait(TIMEOUT))  # blocks the loop

    def client(served: Served) -> None:
        smtp = logged_in(served)
        smtp.mail("alice@example.test")
        smtp.rcpt(LOCAL)
        smtp.rcpt(FAR)
        assert smtp.docmd("DATA")[0] == 354
        smtp.send(b"Subject: x\r\n\r\n.\r\n")
        smtp.close()
        gone.set()
        assert any(served.mail_of("alice") for _ in range(2_000))  # each look is a POP3 session

    relaying(run, double, client, **IN_CLEAR)
    assert [taken.recipients for taken in double.taken] == [(FAR,)]


def test_next_hop_lost_after_a_recipient_gives_451_to_data_and_not_to_local_recipients(run: Run) -> None:
    double = Double(deeds={smtp.Rcpt: [ACCEPT, CLOSE]})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert [reply[:3] for reply in send(smtp, FAR, "bill@far.test", LOCAL)] == ["250", "451", "250", "451"]
        assert served.mail_of("alice") == []

    relaying(run, double, client, **IN_CLEAR)


def test_size_above_the_limit_of_the_next_hop_is_rejected_permanently(run: Run) -> None:
    """RFC 1870 section 6.1."""
    double = Double(settings=smtp.ServerSettings(max_message_size=70_000))

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, FAR, LOCAL, options=("SIZE=70001",))[0].startswith("554 5.3.4")
            assert send(smtp, FAR, LOCAL, options=("SIZE=70000",))[0].startswith("250")

    relaying(run, double, client, **IN_CLEAR)
    assert len(double.mails) == len(double.taken) == 1


SEVEN_BITS: Final = smtp.ServerSettings(eight_bit_mime=False)
EIGHT: Final = "Subject: x\r\n\r\ngr\u00fcn\r\n".encode()


def test_seven_bit_content_declared_as_8bitmime_is_relayed_to_a_next_hop_without_8bitmime(run: Run) -> None:
    """Many clients declare every message as 8BITMIME (RFC 6152): the content decides."""
    double = Double(settings=SEVEN_BITS)

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            for options in (("BODY=8BITMIME",), ("BODY=7BIT",), ()):
                assert [reply[:3] for reply in send(smtp, FAR, LOCAL, options=options)] == ["250"] * 3

    relaying(run, double, client, **IN_CLEAR)
    assert [taken.data.endswith(CONTENT) for taken in double.taken] == [True] * 3
    assert [mail.body for mail in double.mails] == [None] * 3


@pytest.mark.parametrize(
    "content",
    [EIGHT, b"Subject: gr\xfcn\r\n\r\n", b"\r\n" + b"x" * 998 + b"\r\n" + b"x" * 70 + b"\xff\r\n"],
    ids=["UTF-8", "Latin-1 header", "last octet"],
)
def test_eight_bit_content_is_rejected_at_the_final_dot_if_the_next_hop_has_no_8bitmime(
    run: Run, content: bytes
) -> None:
    """RFC 6152 section 3: the server does not convert messages.  Nothing is delivered; the connection is kept."""
    double = Double(settings=SEVEN_BITS)

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            options = ("BODY=8BITMIME",)
            replies = send(smtp, FAR, LOCAL, options=options, content=content)
            assert [reply[:9] for reply in replies] == ["250 2.1.5", "250 2.1.5", "554 5.6.3"]
            assert served.mail_of("alice") == []
            assert send(smtp, FAR, LOCAL, options=options)[-1].startswith("250")

    relaying(run, double, client, **IN_CLEAR)
    assert double.heard == [
        *("Connected", "Hello", "Mail", "Rcpt", "Rset"),
        *("Mail", "Rcpt", "Data", "MessageComplete", "Quit"),
    ]


@pytest.mark.parametrize("deed", [CLOSE, Fault.DIE], ids=["421", "dies"])
def test_eight_bit_content_is_rejected_permanently_even_if_rset_fails(run: Run, deed: Deed) -> None:
    double = Double(settings=SEVEN_BITS, deeds={smtp.Rset: [deed]})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, FAR, options=("BODY=8BITMIME",), content=EIGHT)[-1].startswith("554 5.6.3")
            assert send(smtp, FAR)[-1].startswith("250")

    relaying(run, double, client, **IN_CLEAR)
    assert double.connections == 2


def test_eight_bit_content_is_relayed_with_its_body_to_a_next_hop_with_8bitmime(run: Run) -> None:
    double = Double()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, FAR, options=("BODY=8BITMIME",), content=EIGHT)[-1].startswith("250")

    relaying(run, double, client, **IN_CLEAR)
    assert double.taken[0].data.endswith(EIGHT)
    assert double.mails[0].body is smtp.Body.EIGHT_BIT_MIME


@pytest.mark.parametrize("implicit_tls", [False, True], ids=["STARTTLS", "implicit"])
def test_host_with_a_dot_at_its_end_is_verified_by_its_name_without_the_dot(
    run: Run, implicit_tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dot says that the name is complete (RFC 1034 section 3.1): for name servers, not for certificates."""
    resolved: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        resolved.append(host)
        return ["127.0.0.1"]

    monkeypatch.setattr(_next_hop_session, "resolve", resolve)
    double = Double()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, FAR)[-1].startswith("250")

    relaying(run, double, client, host="localhost.", ssl_context=client_context(), implicit_tls=implicit_tls)
    assert resolved == ["localhost."]
    assert len(double.taken) == 1
    assert "Mail" not in double.in_clear
