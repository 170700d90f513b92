"""``mailauth passwd`` prints a line that ``mailauth serve --accounts`` accepts, and never shows the password."""

from __future__ import annotations

import getpass
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailauth_io.cli import main as cli
from mailauth_io.server import Authenticator
from mailauth_io.stores import AccountsFile, MemoryAccounts
from tests.io import loops


class Terminal:
    """Standard input: a terminal if *data* is None, otherwise a pipe that contains *data*."""

    def __init__(self, data: bytes | None) -> None:
        self._octets = data
        self.buffer = io.BytesIO(data or b"")

    def isatty(self) -> bool:
        return self._octets is None


def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], data: bytes, *words: str
) -> tuple[object, str, str]:
    """Run ``mailauth passwd`` and return its exit status, standard output and standard error."""
    status: object
    monkeypatch.setattr(sys, "stdin", Terminal(data))
    try:
        status = cli.main(["passwd", *words])
    except SystemExit as end:
        status = end.code
    said = capfd.readouterr()
    return status, said.out, said.err


@pytest.mark.parametrize("scheme", [None, *cli.SCHEMES])
def test_passwd_output_is_accepted_as_accounts_file(
    scheme: str | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("Alice@example.test",) if scheme is None else ("Alice@example.test", "--scheme", scheme.lower())
    status, line, said = run(monkeypatch, capfd, b"open sesame \r\nnot this\n", *words)
    assert (status, said) == (0, "")
    assert line.startswith(f"Alice@example.test:{{{scheme or 'ARGON2ID'}}}")
    path = tmp_path / "users"
    path.touch(mode=0o600)
    path.write_text(line)
    accounts = Authenticator(MemoryAccounts(file=AccountsFile(path), domains=frozenset({"example.test"})))

    async def main() -> None:
        assert await accounts.check_password("alice", b"open sesame ")
        assert not await accounts.check_password("alice", b"open sesame")

    loops.named("asyncio").run(main)


@pytest.mark.parametrize(
    ("data", "words", "says"),
    [
        (b"", ("alice",), "1 to 1024 bytes"),
        (b"\n", ("alice",), "1 to 1024 bytes"),
        (b"hunter:2", ("alice", "--scheme", "PLAIN"), "colon"),
        (b"hunter\xff", ("alice",), "UTF-8"),
        (b"hun\rter", ("alice",), "control character, such as CR"),
        (b"hunter\t2", ("alice", "--scheme", "PLAIN"), "control character"),
        ("hunter\u200e".encode(), ("alice",), "SASLprep prohibits"),
        ("hunter\U0001f642".encode(), ("alice", "--scheme", "PLAIN"), "SCRAM does not allow"),
        (b"hunter2", ("al ice",), "invalid mailbox name"),
        (b"hunter2", ("al:ice",), "invalid mailbox name"),
        (b"hunter2", ("alice@",), "invalid mailbox name"),
        (b"hunter2", ("alice@a:b",), "invalid mailbox name"),
        (b"hunter2", ("alice@b\u00fccher.test",), "invalid mailbox name"),
        (b"hunter2", ("alice", "--scheme", "MD5"), "invalid choice"),
        (b"hunter2", (), "NAME"),
    ],
)
def test_passwd_error_is_one_line_without_the_password(
    data: bytes, words: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, said = run(monkeypatch, capfd, data, *words)
    assert (status, out) == (2, "")
    assert says in said
    assert said.count("\n") == 1
    assert "hunter" not in said


def answers(monkeypatch: pytest.MonkeyPatch, *passwords: str) -> list[str]:
    """Replace standard input by a terminal at which *passwords* are typed.  Returns the prompts shown so far."""
    monkeypatch.setattr(sys, "stdin", Terminal(None))
    typed: Iterator[str] = iter(passwords)
    prompts: list[str] = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(getpass, "getpass", ask)
    return prompts


def test_password_at_a_terminal_is_read_twice_with_getpass(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """``getpass`` turns off the echo."""
    prompts = answers(monkeypatch, "open sesame", "open sesame", "not read")
    assert cli.main(["passwd", "alice", "--scheme", "PLAIN"]) == 0
    assert capfd.readouterr().out == "alice:{PLAIN}open sesame\n"
    assert prompts == ["Password: ", "Retype password: "]


@pytest.mark.parametrize(
    ("typed", "says"), [(("one", "two"), "do not match"), ((), "no password"), (("one",), "no pass")]
)
def test_mismatch_or_end_of_input_at_a_terminal_prints_only_an_error(
    typed: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, *typed)
    assert cli.main(["passwd", "alice"]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert says in said.err
