"""examples/fuzz.py: its targets pass for any bytes, and detect a faulty machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from examples import fuzz
from mailauth import CloseReason, Machine, NeedData, pop3, sasl, smtp
from tests.examples import programs

LINES = st.sampled_from([line for lines in fuzz.TARGETS.values() for line in lines])


@pytest.mark.parametrize("target", fuzz.TARGETS)
@given(data=st.lists(LINES | st.binary(max_size=20), max_size=12).map(b"".join))
def test_targets_raise_no_exception_for_arbitrary_bytes(target: Callable[[bytes], None], data: bytes) -> None:
    target(data)


def test_generated_sessions_reach_login_and_message_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generated sessions include accepted and retrieved mail, on both sides."""
    said: list[bytes] = []
    drive = fuzz.drive

    def recorded(
        machine: Machine[Any],
        handle: Callable[[Any], None],
        pieces: Iterable[bytes],
        interruption: fuzz.Interruption | None,
    ) -> fuzz.Session:
        session = drive(machine, handle, pieces, interruption)
        said.append(session.output)
        return session

    monkeypatch.setattr(fuzz, "drive", recorded)
    assert fuzz.main(["--runs", "300"]) == 0
    for sign in (
        b"\r\n354 ",
        b"\r\n235 ",
        b" 4 bytes received\r\n451 ",
        b"Subject: a\r\n\r\n..b\r\n.\r\n",
        b"\r\nDATA\r\n..\r\n.\r\n",
        b"\r\nRETR 1\r\nTOP 2 0\r\nDELE 1\r\n",
    ):
        assert any(sign in each for each in said), sign


def failure(target: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the output of the fuzzer for *target*, which fails."""
    assert fuzz.main(["--runs", "300"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    name, _, rest = line.partition(" failed on ")
    assert name == target.__name__
    return rest


def test_exception_in_a_machine_is_detected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = smtp.ServerConnection.next_event

    def planted(self: smtp.ServerConnection) -> object:
        event = whole(self)
        if isinstance(event, smtp.Rcpt):
            raise ValueError("planted")
        return event

    monkeypatch.setattr(smtp.ServerConnection, "next_event", planted)
    assert failure(fuzz.smtp_server, capsys).endswith(": planted")


def test_machine_that_waits_after_end_of_input_is_detected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pop3.ServerConnection, "next_event", lambda self: NeedData(timeout=1.0))
    assert "the machine waits for data after the end of its input" in failure(fuzz.pop3_server, capsys)


def test_machine_that_depends_on_input_segmentation_is_detected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = pop3.ClientConnection.receive_data

    def planted(self: pop3.ClientConnection, data: bytes) -> None:
        whole(self, data.replace(b"+OK ready\r\n", b"-ERR closed\r\n"))

    monkeypatch.setattr(pop3.ClientConnection, "receive_data", planted)
    assert "when the bytes arrive one by one" in failure(fuzz.pop3_client, capsys)


def test_events_that_depend_on_input_segmentation_are_detected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output is the same."""
    receive, whole = smtp.ServerConnection.receive_data, smtp.ServerConnection.next_event
    last = b""

    def recorded(self: smtp.ServerConnection, data: bytes) -> None:
        nonlocal last
        last = data
        receive(self, data)

    def planted(self: smtp.ServerConnection) -> object:
        event = whole(self)
        return whole(self) if isinstance(event, smtp.Rset) and len(last) == 1 else event

    monkeypatch.setattr(smtp.ServerConnection, "receive_data", recorded)
    monkeypatch.setattr(smtp.ServerConnection, "next_event", planted)
    assert "when the bytes arrive one by one" in failure(fuzz.smtp_server, capsys)


@pytest.mark.parametrize("reason", [CloseReason.SHUT_DOWN, CloseReason.PEER_CLOSED])
def test_message_without_an_end_is_detected(
    reason: CloseReason, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = smtp.ServerConnection.next_event

    def planted(self: smtp.ServerConnection) -> object:
        event = whole(self)
        return whole(self) if event == smtp.MessageAborted(reason=reason) else event

    monkeypatch.setattr(smtp.ServerConnection, "next_event", planted)
    assert "a message did not end exactly once" in failure(fuzz.smtp_server, capsys)


def test_login_without_an_end_is_detected(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    whole = pop3.ServerConnection.next_event

    def planted(self: pop3.ServerConnection) -> object:
        event = whole(self)
        return whole(self) if isinstance(event, sasl.AuthenticationFailed) and event.reason is None else event

    monkeypatch.setattr(pop3.ServerConnection, "next_event", planted)
    assert "a login did not end exactly once" in failure(fuzz.pop3_server, capsys)


def test_same_seed_generates_the_same_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: list[bytes] = []
    monkeypatch.setattr(fuzz, "TARGETS", {inputs.append: [b"a", b"b"]})
    for seed in ("1", "1", "2"):
        assert fuzz.main(["--runs", "20", "--seed", seed]) == 0
    assert inputs[:20] == inputs[20:40] != inputs[40:]


def test_program_runs_as_a_subprocess() -> None:
    result = programs.run("fuzz.py", "--runs", 50, "--seed", 7)
    assert (result.status, result.err) == (0, "")
    assert result.out == "50 inputs for each of 4 targets, no failures.\n"


@pytest.mark.parametrize("runs", ["-1", "0", "x"])
def test_invalid_number_of_runs_is_rejected(runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        fuzz.main(["--runs", runs])
    assert caught.value.code == 2
    assert f"invalid positive value: '{runs}'" in capsys.readouterr().err


def test_keyboard_interrupt_exits_with_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(data: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fuzz, "TARGETS", {interrupted: [b"a"]})
    assert fuzz.main([]) == 130
