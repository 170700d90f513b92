"""A server for SMTP and POP3 whose maildrops are in an SQLite database: a store of two methods.

    python examples/maildrop_store.py mail.sqlite

One thread uses the database, in the order of the calls, so the event loop never waits for it.  ``discard()`` and
``close()``, which are not coroutines, do not wait for it either.  Messages are deleted at QUIT, and not before.

For ``mailauth serve``, write ``maildrops = "maildrop_store:open_maildrops"`` in ``[stores]``.  When run, the program
listens on 127.0.0.1, without TLS, and has one account: alice, with the password wonderland.  Only one process may use a
database.
"""

import argparse
import secrets
import sqlite3
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar, TypeVarTuple

import anyio
from anyio import to_thread

from mailauth import pop3
from mailauth_io import server
from mailauth_io.stores import MemoryAccounts, MemoryOutbox, MessageContent, OpenedMaildrop, Staged

PIECE = 65_536
"""Bytes of a message that are read at once."""

TABLE = """
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    unique_id TEXT NOT NULL UNIQUE,  -- for UIDL: never used again
    maildrop TEXT NOT NULL,
    visible INTEGER NOT NULL DEFAULT 0,  -- 1 after commit()
    content BLOB NOT NULL  -- with CRLF line ends, as it was received
)"""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Database:
    """The table of messages.  All methods but ``run`` and ``submit`` are called in the thread of the database."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._waiting = anyio.CapacityLimiter(1)

    def submit(self, function: Callable[[*Ts], T], *args: *Ts) -> Future[T]:
        """Run *function* in the thread, after all earlier calls."""
        return self._thread.submit(function, *args)

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run *function* in the thread, and wait for it.  After a cancellation it still runs, in its turn."""
        return await to_thread.run_sync(self.submit(function, *args).result, limiter=self._waiting)

    def connect(self) -> None:
        self._connection = sqlite3.connect(self._path)
        with self._connection:
            self._connection.execute(TABLE)
            self._connection.execute("DELETE FROM message WHERE NOT visible")  # left by a crash

    def close(self) -> None:
        self._connection.close()

    def insert(self, unique_id: str, maildrop: str, pieces: Sequence[bytes]) -> None:
        """Write a message that is not visible, without joining it in memory."""
        with self._connection:
            row = self._connection.execute(
                "INSERT INTO message (unique_id, maildrop, content) VALUES (?, ?, zeroblob(?))",
                (unique_id, maildrop, sum(map(len, pieces))),
            ).lastrowid
            assert row is not None
            with self._connection.blobopen("message", "content", row) as blob:
                for piece in pieces:
                    blob.write(piece)

    def show(self, unique_id: str) -> None:
        with self._connection:
            self._connection.execute("UPDATE message SET visible = 1 WHERE unique_id = ?", (unique_id,))

    def delete(self, unique_ids: Iterable[str]) -> None:
        with self._connection:
            self._connection.executemany("DELETE FROM message WHERE unique_id = ?", [(each,) for each in unique_ids])

    def messages(self, maildrop: str) -> list[tuple[int, str, int]]:
        """Return the row, the unique-id and the size of each message."""
        found = self._connection.execute(
            "SELECT id, unique_id, length(content) FROM message WHERE maildrop = ? AND visible ORDER BY id", (maildrop,)
        )
        return found.fetchall()

    def read(self, row: int, offset: int) -> pop3.Content:
        with self._connection.blobopen("message", "content", row, readonly=True) as blob:
            blob.seek(offset)
            data = blob.read(PIECE)
            return pop3.Content(data=data, last=offset + len(data) == len(blob))


class SqliteMaildrops:
    """The maildrops in the SQLite file *path*, which is open while the context is entered."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        self._in_use: set[str] = set()

    async def __aenter__(self) -> Self:
        await self.database.run(self.database.connect)
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self.database.run(self.database.close)  # after all earlier calls

    async def open(self, name: str) -> OpenedMaildrop | pop3.Unavailable:
        if name in self._in_use:
            return pop3.Unavailable.IN_USE
        self._in_use.add(name)
        try:
            found = await self.database.run(self.database.messages, name)
        except BaseException:
            self._in_use.remove(name)
            raise
        return Opened(self.database, found, lambda: self._in_use.remove(name))

    async def stage(self, name: str, head: bytes, content: MessageContent) -> Staged:
        copy = Copy(self.database, secrets.token_hex(16))
        try:
            await self.database.run(self.database.insert, copy.unique_id, name, (head, *content.chunks))
        except BaseException:  # a failure, or a cancellation while the INSERT runs: the DELETE runs after it
            copy.discard()
            raise
        return copy


class Copy:
    """A message that is written and not visible."""

    def __init__(self, database: Database, unique_id: str) -> None:
        self._database = database
        self.unique_id = unique_id

    async def commit(self) -> None:
        await self._database.run(self._database.show, self.unique_id)

    def discard(self) -> None:
        self._database.submit(self._database.delete, [self.unique_id])


class Opened:
    """A maildrop that one session uses."""

    def __init__(self, database: Database, found: list[tuple[int, str, int]], release: Callable[[], None]) -> None:
        self._database = database
        self._rows = [row for row, _, _ in found]
        self._release: Callable[[], None] | None = release
        self.messages = tuple(pop3.Message(size=size, unique_id=unique_id) for _, unique_id, size in found)

    async def read(self, number: int, offset: int = 0) -> pop3.Content:
        return await self._database.run(self._database.read, self._rows[number - 1], offset)

    async def update(self, deleted: frozenset[int]) -> None:
        await self._database.run(self._database.delete, [self.messages[number - 1].unique_id for number in deleted])

    def close(self) -> None:
        release, self._release = self._release, None
        if release is not None:  # a later call must not release the maildrop for which another session waits
            release()


def open_maildrops() -> SqliteMaildrops:
    """Return the store for ``mailauth serve``, which enters it."""
    return SqliteMaildrops(Path("mail.sqlite"))


async def run(path: Path) -> None:
    config = server.Config(smtp=0, pop3=0, legacy=True)
    async with SqliteMaildrops(path) as maildrops:
        stores = server.Stores(
            accounts=MemoryAccounts({"alice": b"wonderland"}), maildrops=maildrops, outbox=MemoryOutbox()
        )
        async with server.serve(config, stores) as running:
            print(f"listening on {running.hosts[0]}, ports {running.smtp} (SMTP) and {running.pop3} (POP3)", flush=True)
            await anyio.sleep_forever()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Accept mail by SMTP, and serve it by POP3 from an SQLite database.")
    parser.add_argument("database", type=Path, help="SQLite file; it is created if it does not exist")
    parser.add_argument("--loop", choices=("asyncio", "trio"), default="asyncio", help="event loop (default: asyncio)")
    args = parser.parse_args(arguments)
    try:
        anyio.run(run, args.database, backend=args.loop)
    except (OSError, sqlite3.Error) as error:
        print(f"Cannot serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
