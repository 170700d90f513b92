"""examples/submit.py succeeds only if the server has accepted the message for every recipient."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from examples import submit
from tests.examples import programs
from tests.examples.scripted import End, Script, Server, smtp_server

ALICE, BOB, CAROL = "alice@example.org", "bob@example.org", "carol@example.org"
MESSAGE = b"Subject: test\n\nDown the rabbit-hole.\n.\n..dots\n"
ON_THE_WIRE = b"Subject: test\r\n\r\nDown the rabbit-hole.\r\n..\r\n...dots\r\n"


@attrs.frozen
class Outcome(programs.Result):
    server: Server


@pytest.fixture
def letter(tmp_path: Path) -> Path:
    path = tmp_path / "letter.eml"
    path.write_bytes(MESSAGE)
    return path


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "secret")


def submit_to(script: Script, letter: Path, capsys: pytest.CaptureFixture[str], *recipients: str) -> Outcome:
    with smtp_server(script) as server:
        status = submit.main(
            ["--tls", "none", "--user", "alice", "127.0.0.1", str(server.port), str(letter), ALICE, *recipients]
        )
    out, err = capsys.readouterr()
    return Outcome(status, out, err, server)


STEPS = ("GREETING", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "MESSAGE")


def test_accepted_message_exits_with_status_0(letter: Path, password: None, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = submit_to({}, letter, capsys, BOB, CAROL)
    assert outcome.out == (
        f"{BOB}: accepted: 250 2.0.0 queued\n{CAROL}: accepted: 250 2.0.0 queued\nAccepted for 2 of 2 recipients.\n"
    )
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.server.messages == [ON_THE_WIRE]
    assert outcome.server.heard[-1] == "QUIT"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "said",
    [
        b"554 5.7.1 go away\r\n",
        b"451 4.3.0 later\r\n",
        b"550-go\r\n550 away\r\n",
        b"421 4.3.2 closing\r\n",
        End(),
        End(b"421 4.3.2 closing\r\n"),
        End(b"25"),
        End(b"250-the first line\r\n"),
        End(b"250-the first line\r\n250 the second"),
        b"OK\r\n",
        b"\xff\xfe\x00\r\n",
        b"299999 ok\r\n",
        b"250-first\r\n550 second\r\n",
        b"354 go ahead\r\n354 go ahead\r\n",
    ],
    ids=repr,
)
def test_rejection_or_failure_at_any_step_exits_with_status_1(
    step: str, said: bytes | End, letter: Path, password: None, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = submit_to({step: said}, letter, capsys, BOB, CAROL)
    assert outcome.status == 1
    assert "accepted:" not in outcome.out
    assert outcome.err.startswith(("Not delivered: ", "Not confirmed: ")) or outcome.out.endswith(
        "Accepted for 0 of 2 recipients.\n"
    )
    assert "Traceback" not in outcome.err
    if step not in ("RCPT", "MESSAGE"):
        assert outcome.server.messages == []


@pytest.mark.parametrize("step", ["GREETING", "EHLO", "AUTH"])
def test_server_reply_is_shown(step: str, letter: Path, password: None, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = submit_to({step: b"554-5.7.1 go\r\n554 5.7.1 away\r\n"}, letter, capsys, BOB)
    assert outcome.err.endswith(": 554 5.7.1 go away\n")


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "MESSAGE"])
def test_server_reply_is_shown_for_each_recipient(
    step: str, letter: Path, password: None, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = submit_to({step: b"452 4.2.2 mailbox full\r\n"}, letter, capsys, BOB, CAROL)
    assert outcome.out == (
        f"{BOB}: rejected: 452 4.2.2 mailbox full\n{CAROL}: rejected: 452 4.2.2 mailbox full\n"
        "Accepted for 0 of 2 recipients.\n"
    )


def test_one_rejected_recipient_exits_with_status_1(
    letter: Path, password: None, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = submit_to({f"RCPT {CAROL}": b"550 5.1.1 no such user\r\n"}, letter, capsys, BOB, CAROL)
    assert outcome.status == 1
    assert outcome.out == (
        f"{BOB}: accepted: 250 2.0.0 queued\n{CAROL}: rejected: 550 5.1.1 no such user\n"
        "Accepted for 1 of 2 recipients.\n"
    )
    assert outcome.server.messages == [ON_THE_WIRE]


@pytest.mark.parametrize("content_reply", [b"250 2.0.0 queued\r\n", b"554 5.5.1 no recipients\r\n"])
def test_message_without_accepted_recipients_exits_with_status_1(
    content_reply: bytes, letter: Path, password: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """DATA was pipelined, and the server accepts it without a valid recipient."""
    script = {"RCPT": b"550 5.1.1 no such user\r\n", "MESSAGE": content_reply}
    outcome = submit_to(script, letter, capsys, BOB)
    assert outcome.status == 1
    assert outcome.out == f"{BOB}: rejected: 550 5.1.1 no such user\nAccepted for 0 of 1 recipients.\n"
    assert outcome.server.messages == [b""]


@pytest.mark.parametrize("last", [End(b"250 2.0.0 queued\r\n"), b"250 2.0.0 queued\r\n"], ids=["closes", "stays"])
@pytest.mark.parametrize("farewell", [b"500 what?\r\n", b"junk\r\n", End(), End(b"22")], ids=repr)
def test_failure_at_quit_does_not_change_the_result(
    last: bytes | End, farewell: bytes | End, letter: Path, password: None, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = submit_to({"MESSAGE": last, "QUIT": farewell}, letter, capsys, BOB)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.endswith("Accepted for 1 of 1 recipients.\n")


def test_multiline_reply_cannot_forge_a_line_of_the_output(
    letter: Path, password: None, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = submit_to({f"RCPT {CAROL}": b"550-no\r\n550 eve@example.org: accepted\r\n"}, letter, capsys, BOB, CAROL)
    assert outcome.out.splitlines()[1] == f"{CAROL}: rejected: 550 no eve@example.org: accepted"


def test_duplicate_recipient_is_sent_in_one_rcpt_command(
    letter: Path, password: None, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = submit_to({}, letter, capsys, BOB, BOB)
    assert outcome.out.endswith("Accepted for 1 of 1 recipients.\n")
    assert sum(line.startswith("RCPT") for line in outcome.server.heard) == 1


def test_message_with_a_bare_cr_is_not_delivered(
    letter: Path, password: None, capsys: pytest.CaptureFixture[str]
) -> None:
    letter.write_bytes(b"Subject: test\r\n\r\n" + b"x" * 70_000 + b"a bare CR \r here\r\n")
    outcome = submit_to({}, letter, capsys, BOB)
    assert outcome.status == 1
    assert "bare CR" in outcome.err
    assert outcome.server.messages == []


def test_password_is_not_sent_when_tls_is_not_established(
    letter: Path, password: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for mode in ("starttls", "implicit"):
        with smtp_server(
            {"EHLO": b"250-script.test\r\n250 STARTTLS\r\n", "STARTTLS": b"454 4.7.0 not now\r\n"}
        ) as server:
            status = submit.main(
                ["--tls", mode, "--user", "alice", "127.0.0.1", str(server.port), str(letter), ALICE, BOB]
            )
        assert status == 1
        assert not any(line.startswith(("AUTH", "MAIL")) for line in server.heard)
        err = capsys.readouterr().err
        assert err.startswith("Not delivered: ")
        assert mode == "implicit" or err.endswith("rejected STARTTLS: 454 4.7.0 not now\n")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--help"], 0, "usage: "),
        ([], 2, "usage: "),
        (["127.0.0.1", "70000", "MESSAGE", ALICE, BOB], 2, "invalid port value: '70000'"),
        (["127.0.0.1", "25", "MESSAGE", ALICE, "bob"], 2, "invalid address value: 'bob'"),
        (["127.0.0.1", "25", "missing.eml", ALICE, BOB], 1, "missing.eml"),
        (["127.0.0.1", "CLOSED", "MESSAGE", ALICE, BOB], 1, "Not delivered: "),
        (["name..test", "25", "MESSAGE", ALICE, BOB], 1, "Not delivered: "),
        (["--ca", "missing.pem", "127.0.0.1", "25", "MESSAGE", ALICE, BOB], 1, "Not delivered: missing.pem: "),
    ],
)
def test_command_line_errors_are_reported_in_one_line(
    arguments: list[str],
    status: int,
    words: str,
    letter: Path,
    free_port: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"MESSAGE": str(letter), "CLOSED": str(free_port)}
    try:
        result = submit.main([given.get(argument, argument) for argument in arguments])
    except SystemExit as error:  # argparse
        result = int(error.code or 0)
    out, err = capsys.readouterr()
    assert result == status
    assert words in out + err
    if status == 1:
        assert (out, err.count("\n")) == ("", 1)
    elif status == 2:  # argparse prints the usage before the error
        assert out == ""
        assert ": error: " in err.splitlines()[-1]


def test_program_runs_as_a_subprocess(letter: Path) -> None:
    arguments = ["--tls", "none", "--user", "alice", "127.0.0.1"]
    with smtp_server({f"RCPT {CAROL}": b"550 5.1.1 no such user\r\n"}) as server:
        half = programs.run("submit.py", *arguments, server.port, letter, ALICE, BOB, CAROL, MAIL_PASSWORD="secret")
    assert (half.status, half.err) == (1, "")
    assert half.out.endswith("Accepted for 1 of 2 recipients.\n")
    assert server.messages == [ON_THE_WIRE]
    # getpass warns that it cannot hide the password, then reads the end of stdin.
    no_password = programs.run("submit.py", *arguments, server.port, letter, ALICE, BOB, PYTHONWARNINGS="")
    assert no_password.status == 1
    assert no_password.err.endswith("no terminal to read the password from.\n")


@pytest.mark.parametrize("addresses", [("\u00e4lice@example.org", BOB), (ALICE, "b\u00f6b@example.org")])
def test_non_ascii_addresses_are_sent_only_with_smtputf8(
    addresses: tuple[str, str], letter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with smtp_server({"EHLO": b"250-script.test\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"}) as server:
        arguments = ["--tls", "none", "127.0.0.1", str(server.port), str(letter), *addresses]
        assert submit.main(arguments) == 0
    assert any(line.startswith("MAIL ") and "SMTPUTF8" in line.split() for line in server.heard)
    capsys.readouterr()
    with smtp_server({}) as server:
        assert submit.main([*arguments[:3], str(server.port), *arguments[4:]]) == 1
    err = capsys.readouterr().err
    assert "needs SMTPUTF8, which the server does not offer" in err
    assert "smtputf8=" not in err


def test_keyboard_interrupt_at_password_prompt_exits_with_status_130(
    letter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAIL_PASSWORD", raising=False)

    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("getpass.getpass", interrupted)
    assert submit.main(["--user", "alice", "127.0.0.1", "465", str(letter), ALICE, BOB]) == 130
