"""examples/relay.py passes on the replies of the next hop, and accepts only messages that the next hop has accepted."""

from __future__ import annotations

import argparse
import asyncio
import re
import smtplib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples import relay
from mailauth_io.on_asyncio import serve_smtp
from tests.examples import programs
from tests.examples.scripted import End, Script, Server, smtp_server

ALICE, BOB, CAROL = "alice@example.org", "bob@far.test", "carol@far.test"
MESSAGE = b"Subject: test\r\n\r\nDown the rabbit-hole.\r\n.\r\n..dots\r\n"
ON_THE_WIRE = MESSAGE.replace(b"\r\n.", b"\r\n..")
RECEIVED = re.compile(rb"Received: from \[127\.0\.0\.1\] by localhost with ESMTP; [^\r\n]+\r\n")


@contextmanager
def relaying(port: int) -> Iterator[smtplib.SMTP]:
    """A client of a relay that runs in a thread of this process, with the next hop at *port*."""
    args = argparse.Namespace(next_hop="127.0.0.1", next_port=port, tls="none")
    loop = asyncio.new_event_loop()
    done = asyncio.Event()
    listening: list[int] = []
    ready = threading.Event()

    async def serve() -> None:
        async with serve_smtp(relay.Relay(args, None).session, relay.SETTINGS, grace=0.5) as listener:
            listening.append(listener.port)
            ready.set()
            await done.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(programs.TIMEOUT)
        client = smtplib.SMTP("127.0.0.1", listening[0], "client.test", timeout=programs.TIMEOUT)
        client.ehlo()
        try:
            yield client
        finally:
            client.close()
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()


def submit(client: smtplib.SMTP, *recipients: str, content: bytes = ON_THE_WIRE) -> list[str]:
    """Return the replies to MAIL, to each RCPT, to DATA and to the message, as far as it gets."""
    replies = [client.docmd("MAIL", f"FROM:<{ALICE}>")]
    replies += [client.docmd("RCPT", f"TO:<{recipient}>") for recipient in recipients]
    replies.append(client.docmd("DATA"))
    if replies[-1][0] == 354:
        client.send(content + b".\r\n")
        replies.append(client.getreply())
    return [f"{code} {text.decode()}" for code, text in replies]


def relayed(script: Script, *recipients: str) -> tuple[list[str], Server]:
    """Return what the client receives and what the next hop has, with the next hop following *script*."""
    with smtp_server(script) as hop, relaying(hop.port) as client:
        replies = submit(client, *recipients)
    return replies, hop


def content(message: bytes) -> bytes:
    """Return the message without the trace line that the relay added."""
    found = RECEIVED.match(message)
    assert found is not None, message
    return message[found.end() :]


def test_message_is_relayed_to_the_next_hop() -> None:
    replies, hop = relayed({}, BOB, CAROL)
    assert replies == [
        "250 2.0.0 ok",
        "250 2.1.5 recipient ok",
        "250 2.1.5 recipient ok",
        replies[3],
        "250 2.0.0 queued",
    ]
    assert [content(message) for message in hop.messages] == [ON_THE_WIRE]
    assert [line for line in hop.heard if line.startswith(("MAIL", "RCPT"))] == [
        f"MAIL FROM:<{ALICE}>",
        f"RCPT TO:<{BOB}>",
        f"RCPT TO:<{CAROL}>",
    ]
    assert hop.heard[-1] == "QUIT"


STEPS = {"MAIL": 0, "RCPT": 1, "DATA": 2, "MESSAGE": 3}
"""The steps at which the next hop can reject the message, and the index of the relay's reply."""


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("said", ["554 5.7.1 go away", "451 4.3.0 later", "552 5.2.2 full"])
def test_rejection_by_the_next_hop_is_passed_on_unchanged(step: str, said: str) -> None:
    replies, hop = relayed({step: f"{said}\r\n".encode()}, BOB)
    assert replies[STEPS[step]] == said
    assert not any(reply.startswith("2") for reply in replies[STEPS[step] :])
    assert (hop.messages != []) == (step == "MESSAGE")


FAILURES = [
    b"421 4.3.2 closing\r\n",
    End(),
    End(b"25"),
    End(b"250-first\r\n"),
    b"OK\r\n",
    b"\xff\r\n",
    b"250-a\r\n550 b\r\n",
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("said", FAILURES, ids=repr)
def test_next_hop_failure_returns_451(step: str, said: bytes | End) -> None:
    replies, hop = relayed({step: said}, BOB)
    assert replies[STEPS[step]].startswith("451 4.4.1 next hop: ")
    assert not any(reply.startswith("2") for reply in replies[STEPS[step] :])
    assert (hop.messages != []) == (step == "MESSAGE")


@pytest.mark.parametrize("step", ["GREETING", "EHLO"])
@pytest.mark.parametrize("said", [b"554 5.7.1 not you\r\n", *FAILURES], ids=repr)
def test_next_hop_failure_before_mail_returns_451(step: str, said: bytes | End) -> None:
    """It is not a rejection of the message, which must not bounce."""
    replies, hop = relayed({step: said}, BOB)
    assert replies[0].startswith("451 4.4.1 next hop: ")
    assert hop.messages == []
    assert not any(line.startswith("MAIL") for line in hop.heard)


def test_next_hop_reply_to_ehlo_is_included_in_the_451_reply() -> None:
    replies, _ = relayed({"EHLO": b"554 5.7.1 not you\r\n"}, BOB)
    assert replies[0] == "451 4.4.1 next hop: 554 5.7.1 not you"


def test_unreachable_next_hop_returns_451(free_port: int) -> None:
    with relaying(free_port) as client:
        assert submit(client, BOB)[0] == "451 4.4.1 next hop: cannot be reached"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("said", ["530 5.7.0 log in", "535 5.7.8 wrong password", "503 5.5.1 EHLO first"])
def test_authentication_or_sequence_error_of_the_next_hop_returns_451(step: str, said: str) -> None:
    replies, _ = relayed({step: f"{said}\r\n".encode()}, BOB)
    assert replies[STEPS[step]] == f"451 4.4.1 next hop: {said}"


def test_protocol_error_of_the_next_hop_is_reported() -> None:
    replies, _ = relayed({"GREETING": b"+OK a POP3 server\r\n"}, BOB)
    assert replies[0] == "451 4.4.1 next hop: protocol error"


def test_one_rejected_recipient_does_not_reject_the_message() -> None:
    replies, hop = relayed({f"RCPT {BOB}": b"550 5.1.1 no such user\r\n"}, BOB, CAROL)
    assert replies[1:3] == ["550 5.1.1 no such user", "250 2.1.5 recipient ok"]
    assert replies[-1] == "250 2.0.0 queued"
    assert [content(message) for message in hop.messages] == [ON_THE_WIRE]


def test_connection_lost_after_an_accepted_recipient_defers_the_message() -> None:
    """The first recipient was accepted: the message is deferred, not accepted for that recipient only."""
    replies, hop = relayed({f"RCPT {CAROL}": End()}, BOB, CAROL)
    assert replies[1].startswith("250")
    assert all(reply.startswith("451 4.4.1 ") for reply in replies[2:])
    assert hop.messages == []


def test_several_messages_in_one_session_are_relayed() -> None:
    with smtp_server({}) as hop, relaying(hop.port) as client:
        assert submit(client, BOB)[-1] == "250 2.0.0 queued"
        client.docmd("MAIL", f"FROM:<{ALICE}>")
        client.docmd("RCPT", f"TO:<{CAROL}>")
        client.docmd("RSET")
        assert submit(client, CAROL, content=b"second\r\n")[-1] == "250 2.0.0 queued"
        client.docmd("QUIT")
    assert [content(message) for message in hop.messages] == [ON_THE_WIRE, b"second\r\n"]


def test_message_after_a_failed_transaction_is_relayed() -> None:
    with smtp_server({f"RCPT {BOB}": End()}) as hop, relaying(hop.port) as client:
        assert submit(client, BOB)[1].startswith("451")
        client.docmd("RSET")
        assert submit(client, CAROL)[-1] == "250 2.0.0 queued"
    assert [content(message) for message in hop.messages] == [ON_THE_WIRE]


def test_large_message_is_relayed() -> None:
    large = (b"x" * 998 + b"\r\n") * 2_000
    with smtp_server({}) as hop, relaying(hop.port) as client:
        assert submit(client, BOB, content=large)[-1] == "250 2.0.0 queued"
    assert [content(message) for message in hop.messages] == [large]


def test_message_rejected_by_the_relay_is_not_relayed() -> None:
    with smtp_server({}) as hop, relaying(hop.port) as client:
        assert submit(client, BOB, content=b"NUL \0 here\r\n")[-1].startswith("5")
    assert hop.messages == []


@pytest.mark.parametrize("half", [b"", b"Subject: half\r\n", b"body\r\n.", b"x" * 200_000])
def test_incomplete_message_is_not_relayed(half: bytes) -> None:
    with smtp_server({}) as hop, relaying(hop.port) as client:
        client.docmd("MAIL", f"FROM:<{ALICE}>")
        client.docmd("RCPT", f"TO:<{BOB}>")
        assert client.docmd("DATA")[0] == 354
        client.send(half)
        assert client.sock is not None
        client.sock.shutdown(socket.SHUT_WR)
        while client.sock.recv(4_096):
            pass
    assert hop.heard[-1] == "DATA"
    assert hop.messages == []


def test_program_runs_as_a_subprocess(tmp_path: Path) -> None:
    with (
        smtp_server({}) as hop,
        programs.listening("relay.py", "--tls", "none", "127.0.0.1", hop.port, errors=tmp_path / "errors") as port,
        smtplib.SMTP("127.0.0.1", port, timeout=programs.TIMEOUT) as client,
    ):
        assert client.sendmail(ALICE, [BOB], MESSAGE) == {}
    assert [content(message) for message in hop.messages] == [ON_THE_WIRE]


def test_startup_errors_are_reported_in_one_line(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (
        ["--tls", "none", "--port", str(free_port), "127.0.0.1", "25"],  # already in use
        ["--ca", "missing.pem", "127.0.0.1", "25"],
    ):
        assert relay.main(options) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("Cannot serve: ")


def test_invalid_port_is_rejected_and_missing_ca_file_is_named(
    free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        relay.main(["--port", str(free_port), "127.0.0.1", "0"])
    assert caught.value.code == 2
    assert "invalid next_port value: '0'" in capsys.readouterr().err
    assert relay.main(["--ca", "missing.pem", "127.0.0.1", "25"]) == 1
    assert capsys.readouterr().err.startswith("Cannot serve: missing.pem: ")
