"""An SMTP server whose accounts are in a JSON file: an account store of three methods.

    python examples/account_store.py accounts.json

The file maps names to passwords, as ``mailauth passwd`` writes them: ``{"alice": "{SCRAM-SHA-256}4096,...", ...}``.  It
is read again when it changes.  For tests on one machine: the server listens on 127.0.0.1, accepts logins without TLS,
and keeps the messages in memory.
"""

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import anyio
from anyio import to_thread

from mailauth_io import server
from mailauth_io.stores import (
    Account,
    Changes,
    Credential,
    MemoryMaildrops,
    MemoryOutbox,
    mailbox_name,
    read_credential,
)


def read_accounts(path: Path) -> dict[str, Account]:
    """Return the accounts in the file by canonical name.  Raises ValueError, as CredentialError and others do."""
    accounts: dict[str, Account] = {}
    for text, password in json.loads(path.read_text(encoding="utf-8")).items():
        name = mailbox_name(text, frozenset())
        if name is None:
            raise ValueError(f"{text!r} is not a mailbox name")
        accounts[name] = Account(name=name, credential=read_credential(password.encode()))
    return accounts


class JsonAccounts:
    """The accounts in a JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.modified = path.stat().st_mtime_ns
        self.accounts = read_accounts(path)

    async def find(self, name: str) -> Account | None:
        return self.accounts.get(name)

    async def refresh(self, *, at_once: bool = False) -> Changes | None:
        modified = self.path.stat().st_mtime_ns
        if modified == self.modified:
            return None
        try:
            accounts = await to_thread.run_sync(read_accounts, self.path)
        except ValueError as error:
            self.modified = modified  # an OSError is raised, and the next call tries again
            return Changes(warnings=(f"{self.path}: {error}; the accounts are unchanged",))
        self.modified = modified
        before, self.accounts = self.accounts, accounts
        # Whoever had one of these passwords loses sessions and grants.
        revoked = {name for name, account in before.items() if accounts.get(name) != account}
        return Changes(revoked=frozenset(revoked), notices=(f"reloaded {self.path}",))

    def credentials(self) -> Collection[Credential]:
        return [account.credential for account in self.accounts.values() if account.credential is not None]


async def run(accounts: JsonAccounts, port: int) -> None:
    config = server.Config(smtp=port, legacy=True)
    stores = server.Stores(accounts=accounts, maildrops=MemoryMaildrops(), outbox=MemoryOutbox())
    async with server.serve(config, stores) as running:
        print(f"listening on {running.hosts[0]}, port {running.smtp}", flush=True)
        await anyio.sleep_forever()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Accept mail by SMTP from the accounts in a JSON file.")
    parser.add_argument("accounts", type=Path, help="JSON file: names and passwords with their {SCHEME}")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free port)")
    parser.add_argument("--loop", choices=("asyncio", "trio"), default="asyncio", help="event loop (default: asyncio)")
    args = parser.parse_args(arguments)
    try:
        anyio.run(run, JsonAccounts(args.accounts), args.port, backend=args.loop)
    except (OSError, ValueError) as error:
        print(f"Cannot serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
