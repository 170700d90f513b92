"""A server that stops replying: the clients time out, and report failure."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from examples import collect, submit
from mailauth import Command, NeedData, pop3, smtp
from tests.examples.programs import ROOT
from tests.examples.scripted import pop3_server, smtp_server
from tests.examples.test_relay import relayed

SILENCE = b""


@pytest.fixture(autouse=True)
def impatient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients wait for a moment instead of minutes.  On a slow machine they may time out even earlier.

    If the server is silent after MESSAGE, the program reports that, so the steps before it have their usual timeouts.
    """
    until_sent = "MESSAGE" in request.node.name
    sent: list[object] = []
    for machine in (smtp.ClientConnection, pop3.ClientConnection):

        def next_event(self: Any, usual: Any = machine.next_event) -> Any:
            event = usual(self)
            wait = until_sent and not any(isinstance(command, smtp.MessageComplete) for command in sent)
            return attrs.evolve(event, timeout=0.1) if isinstance(event, NeedData) and not wait else event

        def send(self: Any, command: Command, usual: Any = machine.send) -> None:
            sent.append(command)
            usual(self, command)

        monkeypatch.setattr(machine, "next_event", next_event)
        monkeypatch.setattr(machine, "send", send)
    monkeypatch.setenv("MAIL_PASSWORD", "secret")


@pytest.mark.parametrize("step", ["GREETING", "EHLO", "MESSAGE"])
def test_submit_times_out_if_the_server_does_not_reply(
    step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = tmp_path / "letter.eml"
    letter.write_bytes(b"Subject: test\n")
    with smtp_server({step: SILENCE}) as server:
        arguments = ["--tls", "none", "127.0.0.1", str(server.port), str(letter), "alice@example.org"]
        assert submit.main([*arguments, "bob@example.org"]) == 1
    outcome = "Not confirmed: the message may have been accepted" if step == "MESSAGE" else "Not delivered"
    assert capsys.readouterr().err == f"{outcome}: the connection was closed before the server replied\n"


@pytest.mark.parametrize("step", ["GREETING", "PASS", "RETR 2"])
def test_collect_times_out_if_the_server_does_not_reply(
    step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pop3_server({step: SILENCE}) as server:
        arguments = ["--tls", "none", "--user", "alice", "127.0.0.1", str(server.port), str(tmp_path / "Maildir")]
        assert collect.main(arguments) == 1
    assert (
        capsys.readouterr().err == "Stopped; no message was lost: the connection was closed before the server replied\n"
    )
    assert server.deleted == []


@pytest.mark.parametrize("step", ["MAIL", "MESSAGE"])
def test_relay_times_out_if_the_next_hop_does_not_reply(step: str) -> None:
    replies, _ = relayed({step: SILENCE}, "bob@far.test")
    assert replies[-1].startswith(("451 4.4.1 next hop: ", "503 "))


@pytest.mark.parametrize("step", ["GREETING", "MESSAGE"])
def test_client_times_out_if_the_server_does_not_reply(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with smtp_server({step: SILENCE}) as server:
        monkeypatch.setattr(sys, "argv", ["client.py", str(server.port)])
        with pytest.raises(SystemExit, match=r"not delivered: .*before the server replied"):
            runpy.run_path(str(ROOT / "examples" / "client.py"))
