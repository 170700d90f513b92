"""The log: one line for each event, the same fields in both formats, and nothing that a client sends can forge it."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailauth import smtp
from mailauth_io import logs
from tests.io.by_hand import converse
from tests.serving import served

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "logging.md"
USER = ("--user", "alice:open sesame", "--legacy", "--smtp", "0", "--pop3", "0")
FORGED = "x\r\n2026-01-31T12:00:00.000Z INFO login connection=00 peer=192.0.2.1 identity=root"
LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) ([a-z ]+?)((?: [a-z_]+=(?:\"[^\"]*\"|\S*))*)"
)


def fields(text: str) -> dict[str, str]:
    """Parse the fields of a line as described in docs/logging.md."""
    return {key: value.strip('"') for key, value in re.findall(r' ([a-z_]+)=("[^"]*"|\S*)', text)}


def record(message: object) -> logging.LogRecord:
    made = logging.LogRecord("mailauth_io.server", logging.INFO, "", 0, message, (), None)
    made.created, made.msecs = 1_769_860_800.25, 250.0
    return made


EVENT = logs.Event(
    "login failed",
    {
        "connection": "0a",
        "peer": "192.0.2.7",
        "tls": None,
        "identity": logs.shown('a "b\n'),
        "data": 7,
        "reply": smtp.Reply(535, "5.7.8", 'no "way"\nat all'),
    },
)


def test_text_formatter_writes_event_as_one_line() -> None:
    assert logs.TextFormatter().format(record(EVENT)) == (
        r"2026-01-31T12:00:00.250Z INFO login failed connection=0a peer=192.0.2.7 "
        r"""identity=a\x20\x22b\n data=7 reply="535 5.7.8 no 'way'\nat all" """.rstrip()
    )


def test_json_formatter_writes_event_as_one_object() -> None:
    written = logs.JsonFormatter().format(record(EVENT))
    assert written.isascii()
    assert "\n" not in written
    assert json.loads(written) == {
        "time": "2026-01-31T12:00:00.250Z", "level": "INFO", "event": "login failed", "connection": "0a",
        "peer": "192.0.2.7", "identity": r"a\x20\x22b\n", "data": 7, "reply": r'535 5.7.8 no "way"\nat all',
    }  # fmt: skip


def test_log_record_provides_message_and_event_fields() -> None:
    assert record(EVENT).getMessage().startswith("login failed connection=0a peer=192.0.2.7 ")
    assert EVENT.fields["data"] == 7


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[2Jb", "caf\xe9"])
def test_unescaped_field_is_written_as_printable_ascii(text: str) -> None:
    written = str(logs.Event("accounts", {"warning": text}))
    assert written.isascii()
    assert written.isprintable()


@pytest.mark.parametrize("text", ["a " + "\\" * 300, "a " * 300, 'a "' * 300])
def test_quoted_field_is_limited_and_ends_at_closing_quote(text: str) -> None:
    written = str(logs.Event("accounts", {"warning": text, "data": 7}))
    assert re.fullmatch(r'accounts warning="[^"]{1,256}(?<!\\)" data=7', written)


def failed(message: object, error: BaseException) -> logging.LogRecord:
    """Return a record with the traceback of *error*."""
    try:
        raise error
    except BaseException as raised:
        made = record(message)
        made.exc_info = (type(raised), raised, raised.__traceback__)
    return made


def test_foreign_record_is_logged_with_indented_traceback() -> None:
    told = failed("two\nlines of text\n", KeyError("x"))
    first, *others = logs.TextFormatter().format(told).split("\n")
    assert first == "2026-01-31T12:00:00.250Z INFO two"
    assert others[:2] == ["    | lines of text", "    | Traceback (most recent call last):"]
    assert others[-1] == "    | KeyError: 'x'"
    assert all(line.startswith("    | ") for line in others)
    read = json.loads(logs.JsonFormatter().format(told))
    assert read["event"] == "mailauth_io.server"
    assert read["message"] == "two\nlines of text"
    assert read["traceback"].startswith("Traceback (most recent call last):\n  File ")


BREAKS = ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
"""All characters that some log reader treats as a line end."""


@pytest.mark.parametrize("form", logs.FORMATS)
@pytest.mark.parametrize("line_end", BREAKS)
def test_traceback_with_peer_data_cannot_forge_a_line(form: str, line_end: str) -> None:
    """Nor a line that matches the documented filter, since fail2ban also reads lines without a time."""
    forged = "INFO login failed connection=00 peer=192.0.2.1 protocol=SMTP mechanism=PLAIN reason=BAD_CREDENTIALS"
    (written,) = re.findall(r"^failregex = (.+)$", DOCUMENTATION.read_text(), re.MULTILINE)
    wanted = re.compile(written.replace("%%", "%").replace("<HOST>", r"(?P<host>[0-9a-f.:]+)"))
    assert wanted.search("  " + forged)
    words = f"{line_end}{forged}{line_end}\x1b[2J\0caf\xe9 \udc80"
    formatter = logs.JsonFormatter() if form == "json" else logs.TextFormatter()
    for message in (EVENT, f"told: {words}"):
        written = formatter.format(failed(message, ValueError(words)))
        assert written.isascii()
        lines = written.split("\n")
        assert all(line.isprintable() for line in lines)
        assert not any(wanted.search(line) for line in lines)
        if form == "json":
            assert len(lines) == 1
            assert json.loads(written)["traceback"].startswith("Traceback")
        else:
            assert all(line.startswith("    | ") for line in lines[1:])


def test_traceback_and_error_message_are_logged_in_both_formats() -> None:
    told = failed(EVENT, KeyError("x"))
    text = logs.TextFormatter().format(told)
    assert text.startswith(logs.TextFormatter().format(record(EVENT)) + "\n    | Traceback")
    assert ", in failed\n    |     raise error\n    | KeyError: 'x'" in text
    read = json.loads(logs.JsonFormatter().format(told))
    assert read["reply"].startswith("535 ")
    assert read["traceback"].endswith(", in failed\n    raise error\nKeyError: 'x'")


@pytest.mark.parametrize("form", logs.FORMATS)
def test_traceback_length_is_limited(form: str) -> None:
    """The beginning and the end are written: the outermost frame, and the message of the exception."""
    formatter = logs.JsonFormatter() if form == "json" else logs.TextFormatter()
    many = formatter.format(failed(EVENT, ValueError("\n".join(f"line {n}" for n in range(5_000)))))
    assert "Traceback" in many
    assert "line 4999" in many
    assert "4803 lines omitted" in many
    assert len(many) < 10_000
    assert len(formatter.format(failed(EVENT, ValueError("x" * 1_000_000)))) < 3_000


def test_exception_with_failing_str_is_described_by_its_class() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert logs.describe_error(Mute()) == "Mute: (message not available)"
    assert logs.describe_error(ValueError()) == "ValueError"
    assert "Mute" in logs.TextFormatter().format(failed(EVENT, Mute()))


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """Yield the root logger, and restore it after the test."""
    for name in ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    found = logging.getLogger()
    before = found.level
    yield found
    found.setLevel(before)


@pytest.mark.parametrize("level", logs.LEVELS)
def test_events_below_log_level_are_omitted(
    level: str, root: logging.Logger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("w") as file:
        monkeypatch.setattr(root, "handlers", [])
        logs.start("text", level, file.fileno())
        for each in logs.LEVELS:
            logging.getLogger("mailauth_io.server").log(getattr(logging, each.upper()), logs.Event(each, {}))
    told = [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()]
    assert told == list(logs.LEVELS[logs.LEVELS.index(level) :])


def test_unwritable_log_causes_no_exception_or_output(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As after the reader of a pipe has exited, or on a full disk."""
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(root, "handlers", [])
    logs.start("text", "info", writing)
    logging.getLogger("mailauth_io.server").info(EVENT)
    os.close(writing)
    assert capfd.readouterr() == ("", "")


def test_time_is_formatted_correctly_across_seconds() -> None:
    formatter = logs.TextFormatter()
    first, second = record(EVENT), record(EVENT)
    second.created, second.msecs = second.created + 0.75, 0.999
    assert [formatter.format(each).split()[0] for each in (first, second, first)] == [
        "2026-01-31T12:00:00.250Z", "2026-01-31T12:00:01.000Z", "2026-01-31T12:00:00.250Z",
    ]  # fmt: skip


def plain(name: str, password: str = "wrong") -> tuple[str, str]:
    return "AUTH PLAIN", base64.b64encode(f"\0{name}\0{password}".encode()).decode()


NAMES = ('"root" peer=192.0.2.1', "root reason=x", "\xe9" * 120, "x")
"""The names that SASLprep accepts (RFC 4013)."""
FORGERIES = (FORGED, FORGED.replace("\r", ""), "x\x1b[2J peer=192.0.2.1", "x" * 300, *NAMES)


def speak(smtp_port: int, pop3_port: int) -> None:
    """Send everything that could forge a line: in EHLO, as a user name, and in a path, in both protocols."""
    for forgery in FORGERIES:
        with socket.create_connection(("127.0.0.1", smtp_port), 10) as connection:
            # Text after a line end in EHLO is a separate command.
            converse(connection, "EHLO " + forgery.replace("\r\n", " "), "EHLO [127.0.0.1]", *plain(forgery))
        with socket.create_connection(("127.0.0.1", pop3_port), 10) as connection:
            converse(connection, *plain(forgery))
    paths = ('MAIL FROM:<"a peer=192.0.2.1"@far.test>', 'RCPT TO:<"b peer=192.0.2.1\\\\\\""@far.test>')
    local = ("RCPT TO:<alice@example.test>", "DATA", "S: x\r\n\r\nx\r\n.")
    with socket.create_connection(("127.0.0.1", smtp_port), 10) as connection:
        answers = converse(connection, "EHLO client.test", *paths, *local, "QUIT")
        assert [answer[:3] for answer in answers] == ["220", "250", "250", "550", "250", "354", "250", "221"]


@pytest.mark.parametrize("form", logs.FORMATS)
def test_client_data_cannot_forge_a_line_or_a_field(form: str, tmp_path: Path) -> None:
    with served(tmp_path, *USER, "--log-format", form, "--log-level", "debug") as server:
        speak(server.port("smtp"), server.port("pop3"))
    told = server.log.read_text()
    assert told.isascii()
    events: list[tuple[str, dict[str, Any]]] = []
    for line in told.splitlines():
        if "Using selector: " in line:  # logged by asyncio at its start
            continue
        if form == "json":
            read = json.loads(line)
            assert line.isprintable()
            events.append((read["event"], read))
        else:
            matched = LINE.fullmatch(line)
            assert matched, line
            events.append((matched[2], fields(matched[3])))
    mine = [(event, found) for event, found in events if "connection" in found]
    assert {found["peer"] for _, found in mine} == {"127.0.0.1"}
    assert all(re.fullmatch("[0-9a-f]{12}", found["connection"]) for _, found in mine)
    assert all(len(str(value)) <= 256 for _, found in mine for value in found.values())
    assert [event for event, _ in mine if event == "login"] == []
    failed = [found.get("identity") for event, found in mine if event == "login failed"]
    assert failed == [logs.shown(name) if name in NAMES else None for name in FORGERIES for _ in range(2)]
    (refused,) = [found for event, found in mine if event == "recipient refused"]
    assert refused["reason"] == "NO_GRANT"
    (message,) = [found for event, found in mine if event == "message"]
    assert message["sender"] == r"\x22a\x20peer=192.0.2.1\x22@far.test"
    assert message["queue_id"] == message["connection"] + "-1"
    assert message["reply"] == f"250 2.0.0 queued as {message['queue_id']}"


def test_failed_login_line_matches_documented_fail2ban_filter(tmp_path: Path) -> None:
    """fail2ban replaces <HOST> with a pattern for an address, and removes the time; ``%`` is doubled in its files."""
    (written,) = re.findall(r"^failregex = (.+)$", DOCUMENTATION.read_text(), re.MULTILINE)
    wanted = re.compile(written.replace("%%", "%").replace("<HOST>", r"(?P<host>[0-9a-f.:]+)"))
    with served(tmp_path, *USER) as server:
        for port in (server.port("smtp"), server.port("pop3")):
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                converse(
                    connection, "EHLO client.test", *plain("alice"), *plain(NAMES[0]), *plain("alice", "open sesame")
                )
    lines = [line.partition("Z ")[2] for line in server.log.read_text().splitlines()]
    assert [line.split(" connection")[0] for line in lines if wanted.search(line)] == ["INFO login failed"] * 4
    assert {found["host"] for line in lines if (found := wanted.search(line))} == {"127.0.0.1"}
    assert len([line for line in lines if line.startswith("INFO login connection")]) == 2


def test_every_event_is_in_the_documentation() -> None:
    source = Path(logs.__file__).parent
    told = {
        name
        for path in source.rglob("*.py")
        for name in re.findall(r'(?:self\._?log\(\s*logging\.[A-Z]+,\s*|Event\(\s*)"([a-zA-Z ]+)"', path.read_text())
    }
    assert {"login failed", "message", "store failed", "accounts"} <= told
    documented = DOCUMENTATION.read_text()
    assert [name for name in sorted(told) if f"`{name}`" not in documented] == []
