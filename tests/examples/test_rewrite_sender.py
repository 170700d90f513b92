"""examples/rewrite_sender.py: a device sends as root@localhost, and the provider sees the sender of the gateway."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from examples import rewrite_sender
from mailauth import smtp
from mailauth_io import client
from tests.examples import programs
from tests.examples.scripted import End, Script, Server, smtp_server
from tests.io.server_support import PASSWORD, Served, meet, run_on_asyncio
from tests.serving import LOOPS

CONTENT = b"Subject: scan\r\n\r\npage\r\n"
RECIPIENTS = ["dinah@far.test", "lory@far.test"]
RECEIVED = re.compile(
    rb"Received: from scanner \(\[127\.0\.0\.1\]\)\r\n"
    rb"\tby gateway\.example\.test with ESMTPA id [0-9a-f]+-1;\r\n\t.+\r\n"
)


@contextmanager
def gateway(script: Script, errors: Path, loop: str = "asyncio") -> Iterator[tuple[Server, smtplib.SMTP]]:
    """Run a provider that follows *script*, and the gateway; yield the provider, and a device that has logged in."""
    with (
        smtp_server(script) as provider,
        programs.listening(
            *("rewrite_sender.py", "--device", "scanner:ink", "--tls", "none", "--login", "office", "--loop", loop),
            *("127.0.0.1", provider.port, "office@example.org"),
            errors=errors,
            MAIL_PASSWORD="secret",
        ) as port,
        smtplib.SMTP("127.0.0.1", port, "scanner", timeout=programs.TIMEOUT) as device,
    ):
        device.login("scanner", "ink")
        yield provider, device


def send(device: smtplib.SMTP, *, sender: str = "root@localhost", content: bytes = CONTENT) -> str:
    """Return the reply to the final dot."""
    assert device.mail(sender)[0] == 250
    assert [device.rcpt(each)[0] for each in RECIPIENTS] == [250, 250]
    code, text = device.data(content)
    return f"{code} {text.decode()}"


@pytest.mark.parametrize("loop", LOOPS)
def test_message_is_submitted_with_another_sender_and_a_trace_line(loop: str, tmp_path: Path) -> None:
    with gateway({"MESSAGE": b"250 2.0.0 taken\r\n"}, tmp_path / "errors", loop) as (provider, device):
        assert send(device) == "250 2.0.0 taken"
        assert send(device, sender="") == "250 2.0.0 taken"
    sent = [line for line in provider.heard if line.startswith(("MAIL", "RCPT"))]
    to = [f"RCPT TO:<{each}>" for each in RECIPIENTS]
    assert [line.split(" SIZE=")[0] for line in sent] == ["MAIL FROM:<office@example.org>", *to, "MAIL FROM:<>", *to]
    found = RECEIVED.match(provider.messages[0])
    assert found is not None, provider.messages
    assert provider.messages[0][found.end() :] == CONTENT


@pytest.mark.parametrize(
    ("step", "said", "reply"),
    [
        ("MAIL", b"553 5.7.1 not your sender\r\n", "553 5.7.1 not your sender"),
        ("RCPT lory@far.test", b"550 5.1.1 no such user\r\n", "550 5.1.1 no such user"),
        ("RCPT", b"450 4.2.0 later\r\n", "450 4.2.0 later"),
        ("MESSAGE", b"571 5.7.1 blocked\r\n", "554 5.7.1 blocked"),
        ("MESSAGE", End(), "451 4.3.0 temporary failure, try again later"),
        ("AUTH", b"535 5.7.8 wrong\r\n", "451 4.3.0 temporary failure, try again later"),
    ],
)
def test_reply_of_the_provider_is_passed_on(step: str, said: bytes | End, reply: str) -> None:
    """One reply for all recipients: the first rejection."""

    def device(served: Served) -> str:
        with served.smtp("smtps") as smtp:
            smtp.login("alice", PASSWORD)
            return send(smtp)

    with smtp_server({step: said}) as provider:
        office, login = smtp.Mailbox("office", "example.org"), client.Login("office", "secret")
        submit = rewrite_sender.Submit(office, "127.0.0.1", provider.port, login=login, tls="none", ssl_context=None)
        options: dict[str, Any] = {"interceptors": [submit], "local_delivery": False, "postmaster": None}
        assert meet(run_on_asyncio, device, **options) == reply


def test_loop_is_detected_before_the_message_is_submitted(tmp_path: Path) -> None:
    """RFC 5321 section 6.3: an interceptor does not see the message."""
    with gateway({}, tmp_path / "errors") as (provider, device):
        assert send(device, content=b"Received: x\r\n" * 101 + CONTENT) == "554 5.4.6 mail loop detected"
        assert send(device, content=b"Received: x\r\n" * 100 + CONTENT)[:3] == "250"
    assert len(provider.messages) == 1


def test_recipient_without_a_login_is_rejected(tmp_path: Path) -> None:
    with gateway({}, tmp_path / "errors") as (provider, device):
        port = device.sock.getpeername()[1] if device.sock else 0
        with smtplib.SMTP("127.0.0.1", port, "scanner", timeout=programs.TIMEOUT) as unknown:
            unknown.ehlo()
            assert unknown.mail("root@localhost")[0] == 250
            codes = [unknown.rcpt(each)[0] for each in (*RECIPIENTS, "scanner@gateway.example.test", "postmaster")]
    assert (codes, provider.messages) == ([550] * 4, [])


def test_startup_errors_are_reported_in_one_line(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    usual = ["--device", "scanner:ink", "127.0.0.1", "25", "office@example.org"]
    for options in (["--port", str(free_port)], ["--ca", "missing.pem"], ["--login", "office"]):
        assert rewrite_sender.main([*options, *usual]) == 1
        assert capsys.readouterr().err.startswith("Cannot serve: ")
    with pytest.raises(SystemExit):
        rewrite_sender.main(["--device", "scanner", *usual[2:]])
    assert "use NAME:PASSWORD" in capsys.readouterr().err
