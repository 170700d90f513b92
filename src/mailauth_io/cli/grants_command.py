"""``mailauth grants``: list, add or revoke the grants in a store that servers share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeAlias

import anyio

from mailauth import LocalProtocolError, smtp
from mailauth.addresses import grant_key, is_within

from .. import stores
from . import grants_option, references
from .errors import ConfigError
from .settings import Settings

Action: TypeAlias = Callable[[stores.Grants], Awaitable[str]]
"""Uses the store, and returns what the command prints."""


def list_grants(settings: Settings) -> None:
    """Print the active grants.

    Raises ConfigError without a shared store, or if the store fails.
    """

    async def table(grants: stores.Grants) -> str:
        return _table(await grants.active())

    _run(settings, table)


def add(settings: Settings, address: str, identity: str) -> None:
    """Add a grant for *identity*, which has logged in from *address* at another POP3 or IMAP server.

    *identity* need not be an account of this server.  An address in an excluded network gets no grant, as at a login
    here; that is not an error.  Raises ConfigError without a shared store, if an argument is invalid, or if the
    store fails.
    """
    try:
        excluded = is_within(address, settings.no_grants_from + settings.proxy_from)
    except LocalProtocolError as error:
        raise ConfigError(str(error)) from None
    name = _identity(identity, settings)

    async def make(grants: stores.Grants) -> str:
        if excluded:
            return f"no grant: {address} is in an excluded network"
        await grants.grant(address, name)
        return f"added a grant of {name} at {grants.settings.key(address)} for {grants.settings.lifetime:g} seconds"

    _run(settings, make)


def revoke(settings: Settings, whose: str) -> None:
    """Revoke the grants of the identity or address *whose*, and print their number.

    Raises ConfigError without a shared store, if *whose* is invalid, or if the store fails.
    """
    try:
        grant_key(whose)
        name = None
    except LocalProtocolError:
        name = _identity(whose, settings, "identity or address")

    async def end(grants: stores.Grants) -> str:
        number = await (grants.revoke_address(whose) if name is None else grants.revoke_identity(name))
        shown = grants.settings.key(whose) if name is None else name
        return f"revoked {number} {'grant' if number == 1 else 'grants'} of {shown}"

    _run(settings, end)


def _identity(text: str, settings: Settings, what: str = "identity") -> str:
    """Return the canonical form of an identity: an account name of this server, or an address of another domain."""
    name = stores.mailbox_name(text, frozenset(settings.domains))
    if name is not None:
        return name
    local, at, domain = text.rpartition("@")
    try:
        if at and text.isascii() and stores.mailbox_name(local, frozenset()):
            return str(smtp.Mailbox(local, domain)).lower()
    except LocalProtocolError:
        pass
    raise ConfigError(f"invalid {what}: {text!r}; {stores.NAME_RULE}, or an address of another domain")


def _run(settings: Settings, action: Action) -> None:
    if settings.grants.sqlite is not None:
        grants_option.check_access(settings, settings.grants.sqlite)
        if not settings.grants.sqlite.exists():  # opening would create it
            raise settings.config_error(
                "grants", f"{settings.grants.sqlite} does not exist; use the file of the servers"
            )
    grants = grants_option.required(settings)

    async def main() -> str:
        async with AsyncExitStack() as stack:
            await references.enter(settings, stack, {"grants_store": grants})
            return await action(grants)

    try:
        output = anyio.run(main)
    except ConfigError:
        raise
    except Exception as error:  # a store of the user, SQLite and Redis have exceptions of their own
        reason, place = grants_option.describe_error(error), settings.grants_store or settings.grants
        raise ConfigError(f"cannot access the grants in {place}: {reason}") from error
    finally:
        grants.close()
    print(output)


def _table(active: list[stores.ActiveGrant]) -> str:
    if not active:
        return "no grants"
    rows = [("ADDRESS", "IDENTITY", "SECONDS LEFT")]
    rows += [(str(each.address), each.identity, f"{each.remaining:.0f}") for each in active]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
