"""The outbox as a Maildir, from which another program sends the mail.

The envelope is at the top of each message: ``Return-Path:``, then one ``X-Envelope-To:`` for each recipient.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from .._checks import check_type
from .._maildir import STALE_AFTER, MaildirPath, sweep
from .._workers import FILES
from .content import Envelope, MessageContent
from .maildir_maildrops import stage_in
from .protocols import Staged


class MaildirOutbox:
    """The Maildir at *directory*, created on first use.

    For example:

        outbox = stores.MaildirOutbox(Path("/var/spool/outbox"))
        server_stores = server.Stores(accounts=accounts, maildrops=maildrops, outbox=outbox)
    """

    def __init__(self, directory: Path) -> None:
        check_type("directory", directory, Path)
        self._path = MaildirPath(directory)
        self._sweep_due = 0.0

    async def stage(self, envelope: Envelope, head: bytes, content: MessageContent) -> Staged:
        """Write a message to ``tmp`` of the Maildir, with its envelope in the first lines of the header.

        Raises OSError.
        """
        if (now := time.monotonic()) >= self._sweep_due:
            self._sweep_due = now + STALE_AFTER
            await FILES.run(self._sweep, key=self._path)
        lines = [f"Return-Path: <{envelope.reverse_path}>", *(f"X-Envelope-To: {path}" for path in envelope.recipients)]
        written = "".join(f"{line}\r\n" for line in lines).encode("utf-8")
        return await stage_in(self._path, (written, head, *content.chunks))

    def _sweep(self) -> None:
        with contextlib.suppress(OSError), self._path.open() as maildir:  # it is created at the first delivery
            sweep(maildir)
