"""``mailauth fetch``: retrieve the messages of a maildrop."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import stat
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import attrs

from .. import client
from .._maildir import MaildirPath, StagedFile
from ..client import sync
from . import client_options
from .errors import ConfigError

_FROM_LINE: Final = re.compile(rb"^(>*From )", re.MULTILINE)


class _StoreError(Exception):
    """A message could not be stored."""


def run(options: argparse.Namespace) -> int:
    """Retrieve the messages, and return the exit status.  Raises ConfigError."""
    if options.json and options.maildir is None:
        raise ConfigError("--json needs --maildir; without it the messages are printed")
    run = _Run(options)
    try:
        run.fetch(client_options.server(options))
    except _StoreError as error:
        run.fail(error, client_options.TEMPORARY)
    except client.ClientError as error:
        run.fail(error, client_options.status_of(error))
    except (ValueError, TypeError) as invalid:
        raise ConfigError(str(invalid)) from invalid
    finally:
        run.progress.show("")
    if options.json:
        client_options.put(json.dumps({"status": run.status, "errors": run.errors, "messages": run.rows}))
    return run.status


@attrs.define
class _Run:
    options: argparse.Namespace
    progress: client_options.Progress = attrs.field(factory=client_options.Progress)
    rows: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])
    errors: list[str] = attrs.field(factory=list[str])
    status: int = client_options.DONE

    def fail(self, error: Exception, status: int) -> None:
        """Print *error*.  The first status that is not 0 is that of the command."""
        self.status = self.status or status
        text = client_options.text_of(error)
        self.errors.append(text)
        self.progress.show("")
        print(f"mailauth fetch: {text}", file=sys.stderr)

    def fetch(self, server: dict[str, Any]) -> None:
        with sync.collect(**server, delete=self.options.delete) as messages:
            while True:
                try:
                    message = next(messages, None)
                except (client.ServerRejected, client.MessageTooLarge) as error:  # of one message, or of its deletion
                    self.fail(error, client_options.status_of(error))
                    continue
                if message is None:
                    return
                self._store(message)

    def _store(self, message: client.CollectedMessage) -> None:
        if self.options.maildir is None:
            with _output_errors():
                _print(message.raw, synchronize=self.options.delete)
        else:
            _deliver(self.options.maildir, message.raw)
            self.progress.show("")
            if not self.options.json:
                kept = "" if message.complete else ", shorter than announced, so it is never deleted"
                with _output_errors():
                    client_options.put(
                        f"message {message.number} ({message.unique_id}): {len(message.raw)} bytes stored{kept}"
                    )
        self.rows.append(
            {
                "number": message.number,
                "unique_id": message.unique_id,
                "size": len(message.raw),
                "complete": message.complete,
            }
        )
        self.progress.show(f"{len(self.rows)} messages")


def _deliver(maildir: Path, raw: bytes) -> None:
    file = StagedFile(MaildirPath(maildir))
    try:
        file.write((raw,))
        file.commit()
    except OSError as error:
        file.discard()
        raise _StoreError(f"cannot store a message in {maildir}: {error.strerror}") from error


@contextlib.contextmanager
def _output_errors() -> Generator[None]:
    """Raise _StoreError if standard output fails, unless its reader has closed it, as ``head`` does."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _StoreError(f"cannot write to standard output: {error.strerror}") from error


def _print(raw: bytes, *, synchronize: bool) -> None:
    """Print a message in mbox format, in which lines that begin with From are quoted (mboxrd).  Raises OSError.

    With *synchronize*, a file is synchronized to disk before the message is deleted from the server.
    """
    text = _FROM_LINE.sub(rb">\1", raw.replace(b"\r\n", b"\n"))
    client_options.write(f"From MAILER-DAEMON {time.asctime(time.gmtime())}\n".encode() + text + b"\n")
    descriptor = sys.stdout.fileno()
    if synchronize and stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.fsync(descriptor)
