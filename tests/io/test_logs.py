"""The log: one line for each event, the same fields in both formats, and nothing that a client sends can forge it."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import logging
import os
import re
import socket
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailauth import smtp
from mailauth_io import _log_writer, logs
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


SERVER = logging.getLogger("mailauth_io.server")


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """Yield the root logger, and restore it after the test."""
    for name in ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    found = logging.getLogger()
    level, handlers = found.level, found.handlers
    yield found
    for handler in found.handlers:
        if handler not in handlers:
            handler.close()
    found.setLevel(level)
    found.handlers = handlers


def start(root: logging.Logger, descriptor: int, level: str = "info") -> logging.Handler:
    """Start the log with *descriptor*, without the handlers of pytest, and return the handler."""
    root.handlers = []
    logs.start("text", level, descriptor)
    (handler,) = root.handlers
    return handler


@pytest.mark.parametrize("level", logs.LEVELS)
def test_events_below_log_level_are_omitted(level: str, root: logging.Logger, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        handler = start(root, file.fileno(), level)
    for each in logs.LEVELS:
        SERVER.log(getattr(logging, each.upper()), logs.Event(each, {}))
    handler.flush()
    told = [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()]
    assert told == list(logs.LEVELS[logs.LEVELS.index(level) :])


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Yield the ends of a pipe: for reading and for writing."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            with contextlib.suppress(OSError):  # closed by the test
                os.close(end)


def numbered(number: int) -> str:
    return f"{number:06} {'x' * 93}"


def read_all(reading: int) -> list[str]:
    """Read the pipe to its end.  Return the text of each line; of a numbered one, the number."""
    with os.fdopen(os.dup(reading), "rb") as file:
        lines = file.read().decode().splitlines()
    return [re.sub(r"^\S+Z [A-Z]+ (\d{6} )?(x+$)?", r"\1", line).rstrip() for line in lines]


@pytest.mark.parametrize("non_blocking", [False, True])
def test_pipe_that_nobody_reads_delays_nothing_and_dropped_lines_are_counted(
    non_blocking: bool, root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number is logged where the lines are missing.  All other lines are written, in order."""
    monkeypatch.setattr(_log_writer, "MAX_BACKLOG", 100_000)
    monkeypatch.setattr(_log_writer, "FLUSH_TIMEOUT", 0.01)
    with pipe() as (reading, writing):
        os.set_blocking(writing, not non_blocking)  # for all processes that have the pipe
        handler = start(root, writing)
        os.close(writing)

        def fill() -> None:
            for number in range(5_000):  # more than the pipe and the backlog hold
                SERVER.info(numbered(number))
            handler.flush()  # gives up

        filler = threading.Thread(target=fill, daemon=True)
        filler.start()
        filler.join(60)
        assert not filler.is_alive()
        found: list[str] = []
        reader = threading.Thread(target=lambda: found.extend(read_all(reading)))
        reader.start()
        monkeypatch.setattr(_log_writer, "FLUSH_TIMEOUT", 60.0)
        handler.flush()
        SERVER.info("the last")
        handler.close()
        reader.join(60)
    *written, note, last = found
    assert 700 < len(written) < 4_000
    assert written == [f"{number:06}" for number in range(len(written))]
    assert note == f"log lines dropped count={5_000 - len(written)}"
    assert last == "the last"


def test_lines_lost_by_a_full_disk_are_counted_when_it_has_room_again(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A line that was cut is ended first."""
    log = tmp_path / "log"
    system_write, room = os.write, 120

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        if os.fstat(descriptor).st_ino != log.stat().st_ino:
            return system_write(descriptor, data)
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = system_write(descriptor, data[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", write)
    with log.open("w") as file:
        handler = start(root, file.fileno())
    for text in ("one", "two", "three", "four"):
        SERVER.info(text + " " + "x" * 40)
        handler.flush()
    assert log.read_bytes().count(b"\n") == 1
    room = 100_000
    SERVER.info("five")
    handler.flush()
    first, cut, note, last = log.read_text().splitlines()
    assert [line.split()[2] for line in (first, cut)] == ["one", "two"]
    assert note.endswith(" WARNING log lines dropped count=3")
    assert last.endswith(" INFO five")
    assert capfd.readouterr() == ("", "")


def test_closed_pipe_causes_no_exception_or_output(root: logging.Logger, capfd: pytest.CaptureFixture[str]) -> None:
    with pipe() as (reading, writing):
        os.close(reading)
        handler = start(root, writing)
        SERVER.info(EVENT)
        handler.flush()
    assert capfd.readouterr() == ("", "")


def test_log_has_a_descriptor_of_its_own(root: logging.Logger, tmp_path: Path) -> None:
    """The number may be reused for a connection after the caller has closed it."""
    with (tmp_path / "log").open("w") as file:
        handler = start(root, file.fileno())
        number = file.fileno()
    with (tmp_path / "other").open("w") as other:
        assert other.fileno() == number
        SERVER.info(EVENT)
        handler.flush()
    assert (tmp_path / "other").read_text() == ""
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_waiting_line_does_not_hold_the_frames_of_an_exception(root: logging.Logger) -> None:
    """A frame may hold a connection or a message."""

    class Kept:
        pass

    def fail() -> weakref.ref[Kept]:
        kept = Kept()
        try:
            raise KeyError("x")
        except KeyError:
            SERVER.exception("failed")
        return weakref.ref(kept)

    with pipe() as (_, writing):
        while True:  # fill the pipe, so that the line waits
            os.set_blocking(writing, False)
            try:
                os.write(writing, b"x" * 4096)
            except BlockingIOError:
                break
        start(root, writing)
        assert fail()() is None


def test_logging_of_an_application_is_not_changed(root: logging.Logger, tmp_path: Path) -> None:
    """As with logging.basicConfig, a handler that the application has installed stays the only one."""
    mine = logging.NullHandler()
    root.handlers = [mine]
    with (tmp_path / "log").open("w") as file:
        logs.start("text", "info", file.fileno())
    assert root.handlers == [mine]


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
    """fail2ban replaces <HOST> with a pattern for an address; ``%`` is doubled in its files.

    It removes the time from a line of a file.  In a journal, it adds the host name and the process, and the time stays.
    """
    (written,) = re.findall(r"^failregex = (.+)$", DOCUMENTATION.read_text(), re.MULTILINE)
    wanted = re.compile(written.replace("%%", "%").replace("<HOST>", r"(?P<host>[0-9a-f.:]+)"))
    with served(tmp_path, *USER) as server:
        for port in (server.port("smtp"), server.port("pop3")):
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                converse(
                    connection, "EHLO client.test", *plain("alice"), *plain(NAMES[0]), *plain("alice", "open sesame")
                )
    written_lines = server.log.read_text().splitlines()
    lines = [line.partition("Z ")[2] for line in written_lines]
    assert [line.split(" connection")[0] for line in lines if wanted.search(line)] == ["INFO login failed"] * 4
    journal = [f"mx.example.org mailauth[42]: {line}" for line in written_lines]
    assert [bool(wanted.search(line)) for line in journal] == [bool(wanted.search(line)) for line in lines]
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
