"""examples/faults.py fails once at each given step, and smtplib then delivers its message."""

from __future__ import annotations

import asyncio
import smtplib
from collections.abc import Coroutine

import pytest

from examples import faults
from mailauth import smtp
from mailauth_io.on_asyncio import serve_smtp
from tests.examples import programs


@pytest.mark.parametrize("step", faults.STEPS)
@pytest.mark.parametrize("what", ["451", "550", "421", "close"])
def test_each_fault_happens_once(step: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert faults.main([f"{step}={what}"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("Attempt 1 failed: SMTP")
    assert what in first or what == "close"
    assert rest == ["Attempt 2 succeeded.", "Messages that arrived: 1"]


def test_faults_of_one_step_happen_in_the_given_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert faults.main(["RCPT=451", "RCPT=550", "MESSAGE=452"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [code in line for code, line in zip(("451", "550", "452"), lines, strict=False)] == [True, True, True]
    assert lines[3:] == ["Attempt 4 succeeded.", "Messages that arrived: 1"]


def test_client_without_retry_delivers_no_message() -> None:
    """As the example shows: another client, and its reaction to a fault."""

    def client(port: int) -> bool:
        """A client that stops at the first failure."""
        try:
            faults.send(port)
        except smtplib.SMTPException:
            return False
        return True

    async def whole() -> tuple[bool, list[bytes]]:
        double = faults.Double([faults.Fault(smtp.MessageComplete, smtp.Reply(452, "4.3.1", "disk full"))])
        async with serve_smtp(double.session, smtp.ServerSettings()) as listener:
            return await asyncio.to_thread(client, listener.port), double.messages

    assert asyncio.run(whole()) == (False, [])


def test_duplicate_message_exits_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    once = faults.send

    def twice(port: int) -> None:
        once(port)
        once(port)

    monkeypatch.setattr(faults, "send", twice)
    assert faults.main([]) == 1
    assert capsys.readouterr().out.endswith("Messages that arrived: 2\n")


@pytest.mark.parametrize(
    "fault", ["RCPT", "RCPT=", "RCPT=250", "RCPT=999", "RCPT=4.5", "RCPT=460", "RCPT=499", "RCPT=560", "NOOP=451"]
)
def test_invalid_fault_argument_is_rejected(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        faults.main([fault])
    assert caught.value.code == 2
    assert f"invalid fault {fault!r}; use STEP=close or STEP=CODE" in capsys.readouterr().err


def test_program_runs_as_a_subprocess() -> None:
    result = programs.run("faults.py", "DATA=close")
    assert (result.status, result.err) == (0, "")
    assert result.out.endswith("Attempt 2 succeeded.\nMessages that arrived: 1\n")


def test_keyboard_interrupt_exits_with_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(main: Coroutine[None, None, int]) -> int:
        main.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run", interrupted)
    assert faults.main([]) == 130
