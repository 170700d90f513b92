"""A policy service for Postfix: an address with a grant of mailauth (POP before SMTP) may relay.

    mailauth serve --pop3 110 --grants sqlite:/var/lib/mailauth/grants.db ...
    python examples/postfix_policy.py --port 10040 /var/lib/mailauth/grants.db

In main.cf of Postfix (postconf(5), SMTPD_POLICY_README):

    smtpd_relay_restrictions = permit_mynetworks, check_policy_service inet:127.0.0.1:10040, reject_unauth_destination

Run it as the user of mailauth, because no other user may read the file.  It listens on 127.0.0.1 only.
"""

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mailauth import LocalProtocolError
from mailauth.grants import Grant
from mailauth_io.stores import Grants, GrantsError
from mailauth_io.stores.sqlite_grants import SqliteGrants

MAX_LINES = 100
"""Maximum attributes of a request; Postfix sends about 30."""


async def decide(grants: Grants, address: str) -> str:
    """Return the action of Postfix (access(5)) for a client at *address*."""
    try:
        found = await grants.find(address)
    except LocalProtocolError:
        return "DUNNO"  # not an IP address, such as "unknown"
    except Exception:
        logging.exception("the grants of %s cannot be read", address)
        return "DEFER_IF_PERMIT 4.7.1 cannot check relay permission, try again later"
    if isinstance(found, Grant):
        return "OK"
    return "DUNNO" if found is None else "DEFER_IF_PERMIT 4.7.1 cannot check relay permission, try again later"


async def read_request(reader: asyncio.StreamReader) -> dict[str, str]:
    """Return the attributes of one request; none at the end of the connection.  Raises ValueError."""
    request: dict[str, str] = {}
    for _ in range(MAX_LINES):
        line = (await reader.readline()).decode()
        if line in ("\n", ""):
            return request
        name, _, value = line.rstrip("\n").partition("=")
        request[name] = value
    raise ValueError("too many attributes")


async def serve(port: int, grants: Grants) -> None:
    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, ValueError):
            while request := await read_request(reader):
                writer.write(f"action={await decide(grants, request.get('client_address', ''))}\n\n".encode())
                await writer.drain()

    async with await asyncio.start_server(session, "127.0.0.1", port) as server:
        print(f"listening on 127.0.0.1, port {server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Answer Postfix whether a client may relay.")
    parser.add_argument("grants", type=Path, help="the SQLite file of mailauth")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free port)")
    args = parser.parse_args(arguments)
    try:
        grants = SqliteGrants(args.grants)
    except GrantsError as error:
        print(f"Cannot serve: {error}", file=sys.stderr)
        return 1
    with contextlib.closing(grants), contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(args.port, grants))
    return 0


if __name__ == "__main__":
    sys.exit(main())
