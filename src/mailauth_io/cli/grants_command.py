"""``mailauth grants``: list or revoke the grants in a store that servers share."""

from __future__ import annotations

import anyio

from mailauth import LocalProtocolError
from mailauth.addresses import grant_key

from .. import stores
from . import grants_option, references
from .errors import ConfigError
from .settings import Settings


def run(settings: Settings, *, revoked: str | None) -> None:
    """Print the active grants, or revoke those of the identity or address *revoked* and print their number.

    Raises ConfigError if there is no shared store, if *revoked* is invalid, or if the store fails.
    """
    if settings.grant_lifetime == 0:
        raise settings.config_error("grant_lifetime", "0 disables grants; use the lifetime that the servers use")
    if settings.grants.sqlite is not None and not settings.grants.sqlite.exists():
        raise settings.config_error(
            "grants", f"{settings.grants.sqlite} does not exist; use the file of the servers"
        )  # opening would create it
    whose = None if revoked is None else _RevokeTarget(revoked, settings)
    grants: stores.Grants | None = references.store(settings, "grants_store")
    if grants is None:
        grants = grants_option.shared(settings)
    if grants is None:
        raise ConfigError(
            "grants in memory can be accessed only by their own server; "
            f"set a SQLite file or a Redis URL with {settings.names('grants')}"
        )

    async def main() -> str:
        return _table(await grants.active()) if whose is None else await whose.revoke(grants)

    try:
        output = anyio.run(main)
    except Exception as error:
        reason, place = grants_option.describe_error(error), settings.grants_store or settings.grants
        raise ConfigError(f"cannot access the grants in {place}: {reason}") from error
    finally:
        grants.close()
    print(output)


class _RevokeTarget:
    """The address or the identity whose grants are revoked.  Raises ConfigError if the text is neither."""

    def __init__(self, text: str, settings: Settings) -> None:
        self._name: str | None = None
        try:
            self._shown = str(grant_key(text, settings.grant_ipv6_prefix, settings.nat64_prefixes))
        except LocalProtocolError:
            self._name = stores.mailbox_name(text, frozenset(settings.domains))
            if self._name is None:
                raise ConfigError(f"invalid identity or address: {text!r}; {stores.NAME_RULE}") from None
            self._shown = self._name

    async def revoke(self, grants: stores.Grants) -> str:
        if self._name is None:
            number = await grants.revoke_address(self._shown)
        else:
            number = await grants.revoke_identity(self._name)
        return f"revoked {number} {'grant' if number == 1 else 'grants'} of {self._shown}"


def _table(active: list[stores.ActiveGrant]) -> str:
    if not active:
        return "no grants"
    rows = [("ADDRESS", "IDENTITY", "SECONDS LEFT")]
    rows += [(str(each.address), each.identity, f"{each.remaining:.0f}") for each in active]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
