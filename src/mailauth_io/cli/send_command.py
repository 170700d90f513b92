"""``mailauth send``: submit a message."""

from __future__ import annotations

import argparse
import email.message
import email.parser
import email.policy
import io
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

from mailauth import smtp

from .. import client
from ..client import sync
from . import client_options
from .errors import ConfigError

_BCC: Final = re.compile(rb"^(?:resent-)?bcc[ \t]*:.*(?:\n[ \t].*)*(?:\n|\Z)", re.IGNORECASE | re.MULTILINE)
_OPTIONS: Final = {
    "sender and recipients": "--from and --to", "sender": "--from", "recipients": "--to", "at least one": "--to",
}  # fmt: skip
"""The options in place of what the text of an error says to pass."""
_FROM_LINE: Final = re.compile(rb"From [^\n]*\n")
"""The first line of a message in an mbox file."""
_BLANK_BEFORE_COLON: Final = re.compile(rb"^([!-9;-~]+)[ \t]+:", re.MULTILINE)
"""Obsolete, but valid (RFC 5322 section 4.5.8); for the parser of the standard library it ends the header."""
_END_OF_HEADER: Final = re.compile(rb"^\r?$", re.MULTILINE)


def run(options: argparse.Namespace) -> int:
    """Send the message, print the reply for each recipient, and return the exit status.  Raises ConfigError."""
    replies: dict[str, smtp.Reply] = {}
    error = None
    progress = client_options.Progress()
    try:
        server = client_options.server(options)
        replies.update(_send(options, server, progress).replies)
    except client.ClientError as failure:
        error = client_options.text_of(failure)
        status = client_options.status_of(failure)
    except (ValueError, TypeError) as invalid:
        raise ConfigError(str(invalid)) from invalid
    else:
        codes = [reply.code for reply in replies.values() if not reply.positive]
        status = client_options.DONE
        if codes:
            status = client_options.REJECTED if max(codes) >= 500 else client_options.TEMPORARY
    finally:
        progress.show("")
    try:
        _show(options, status, error, replies)
    except OSError as failure:
        reason = failure.strerror or str(failure)
        if any(reply.positive for reply in replies.values()):
            print(f"mailauth send: the message was sent, but the result cannot be printed: {reason}", file=sys.stderr)
        elif not isinstance(failure, BrokenPipeError):
            print(f"mailauth send: the result cannot be printed: {reason}", file=sys.stderr)
    if error is not None:
        print(f"mailauth send: {error}", file=sys.stderr)
    return status


def _show(options: argparse.Namespace, status: int, error: str | None, replies: dict[str, smtp.Reply]) -> None:
    """Print the result.  Raises OSError if standard output fails."""
    if options.json:
        rows = [_row(*each) for each in replies.items()]
        client_options.put(json.dumps({"status": status, "error": error, "recipients": rows}))
    else:
        for recipient, reply in replies.items():
            text = " ".join(str(reply).split())
            client_options.put(f"{recipient}: {'accepted' if reply.positive else 'rejected'}: {text}")


def _row(recipient: str, reply: smtp.Reply) -> dict[str, Any]:
    return {
        "recipient": recipient,
        "accepted": reply.positive,
        "code": reply.code,
        "enhanced_status_code": reply.enhanced_status_code,
        "text": reply.text,
    }


def _send(
    options: argparse.Namespace, server: dict[str, Any], progress: client_options.Progress
) -> client.SubmitResult:
    events = tuple(event.upper() for event in options.dsn_notify)
    dsn = client.Dsn(notify=events) if events else None
    data = _read(options.file)
    if separator := _FROM_LINE.match(data):
        data = data[separator.end() :]
    end = _END_OF_HEADER.search(data)
    header, body = (data[: end.start()], data[end.start() :]) if end else (data, b"")
    parsed = _parse(header)
    try:
        sender, recipients = client.envelope(parsed, options.sender, options.recipients or None)
    except ValueError as error:
        text = str(error)
        for passed, option in _OPTIONS.items():
            text = text.replace(f"pass {passed}", f"use {option}")
        raise ConfigError(text) from error
    content = _Content(_BCC.sub(b"", header) + body, progress)
    return sync.submit(content, sender or "", recipients, dsn=dsn, **server)


def _parse(header: bytes) -> email.message.Message:
    """Return the fields of *header*.  Raises ConfigError for a line that is not part of a field.

    The parser would take what follows the line as the body, and the recipients there would get nothing.
    """
    data = _BLANK_BEFORE_COLON.sub(rb"\1:", header)
    text = data.decode("utf-8", "surrogateescape")
    parsed = email.parser.HeaderParser(policy=email.policy.compat32).parsestr(text)
    # From the bytes: get_payload() raises an exception for text with both UTF-8 and other bytes.
    rest = str(email.parser.BytesHeaderParser(policy=email.policy.compat32).parsebytes(data).get_payload())
    if rest.strip("\r\n"):
        line = rest.splitlines()[0][:60].encode("utf-8", "backslashreplace").decode()
        raise ConfigError(f"a line of the header is not a field: {line!r}; end the header with an empty line")
    return parsed


def _read(path: Path | None) -> bytes:
    if path is not None:
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if sys.stdin is None:
        raise ConfigError("standard input is closed; redirect it from a file that contains the message")
    return sys.stdin.buffer.read()


class _Content(io.BytesIO):
    """The message, which shows how much of it was read.  It is read twice, first to examine it."""

    def __init__(self, data: bytes, progress: client_options.Progress) -> None:
        super().__init__(data)
        self._size = len(data)
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._progress.show(f"{self.tell()} of {self._size} bytes")
        return data
