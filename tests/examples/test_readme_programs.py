"""The programs in the README: client.py succeeds only if the message was accepted, and server.py has printed it."""

from __future__ import annotations

import smtplib
from pathlib import Path

import pytest

from tests.examples import programs
from tests.examples.scripted import End, Script, Server, smtp_server
from tests.serving import LOOPS


def submit(script: Script) -> tuple[programs.Result, Server]:
    with smtp_server(script) as server:
        result = programs.run("client.py", server.port)
    return result, server


def test_accepted_message_exits_with_status_0() -> None:
    result, server = submit({})
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("250 ")
    assert server.messages == [
        b"From: alice@example.test\r\nTo: dinah@example.org\r\nSubject: test\r\n\r\nDown the rabbit-hole.\r\n"
    ]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("AUTH", b"535 5.7.8 wrong\r\n"),
        ("RCPT", b"550 5.1.1 no such user\r\n"),
        ("MESSAGE", b"554 5.6.0 not this\r\n"),
        ("MESSAGE", End()),
    ],
)
def test_rejected_or_unconfirmed_message_exits_with_status_1(step: str, said: bytes | End) -> None:
    result, _ = submit({step: said})
    assert result.status == 1
    assert result.err.startswith("not delivered: ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["abc"], ["0"], ["CLOSED"], ["99999"]])
def test_invalid_arguments_are_reported_in_one_line(arguments: list[str], free_port: int) -> None:
    result = programs.run("client.py", *(str(free_port) if each == "CLOSED" else each for each in arguments))
    assert (result.status, result.out) == (1, "")
    assert result.err.strip().count("\n") == 0
    assert "client.py PORT" in result.err or result.err.startswith("not delivered: ")


@pytest.mark.parametrize(
    "script", [{"GREETING": b"+OK a POP3 server\r\n"}, {"EHLO": b"250 script.test\r\n"}], ids=["POP3", "no PLAIN"]
)
def test_unsuitable_server_is_reported_in_one_line(script: Script) -> None:
    result, server = submit(script)
    assert (result.status, server.messages) == (1, [])
    assert result.err.startswith("not delivered: ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("loop", LOOPS)
def test_server_prints_a_message_before_accepting_it(loop: str, tmp_path: Path) -> None:
    program = "server.py" if loop == "asyncio" else programs.readme_server_on_trio(tmp_path)
    with programs.started(program, errors=tmp_path / "errors") as (server, port):
        with smtplib.SMTP("127.0.0.1", port, timeout=programs.TIMEOUT) as client:
            client.login("alice", "wonderland")
            client.sendmail("alice@example.test", ["dinah@example.org"], "Subject: test\n\nDown the rabbit-hole.\n")
        server.kill()
        assert server.stdout is not None
        assert "Down the rabbit-hole." in server.stdout.read()
