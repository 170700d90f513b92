"""``mailauth grants``: what lives in a store of grants that servers share, and the end of some of it.

Knows the store by its Protocol; which one it is was settled by the settings.
"""

from __future__ import annotations

from mailauth import LocalProtocolError
from mailauth.grants import normalize_address

from .. import _loops, stores
from . import grants_option
from .errors import ConfigError
from .settings import Settings


def run(settings: Settings, *, revoked: str | None) -> None:
    """Print the grants, or how many of the identity or at the address *revoked* were ended.

    Raises Complaint when there is nothing to ask, or no answer.
    """
    if settings.grant_lifetime == 0:
        raise settings.config_error("grant_lifetime", "is 0, so there are no grants")
    if settings.grants.sqlite is not None and not settings.grants.sqlite.exists():
        raise settings.config_error("grants", f"{settings.grants.sqlite} is not there")  # and would be made
    whose = None if revoked is None else _RevokeTarget(revoked, settings)
    grants = grants_option.shared(settings)
    if grants is None:
        raise ConfigError(
            f"grants in memory are known to their server alone; name the store that servers share: "
            f"{settings.names('grants')}"
        )

    async def main() -> str:
        return _table(await grants.active()) if whose is None else await whose.revoke(grants)

    try:
        said = _loops.named("asyncio").run(main)
    except Exception as error:
        reason = grants_option.describe_error(error)
        raise ConfigError(f"the grants in {settings.grants} cannot be asked: {reason}") from error
    finally:
        grants.close()
    print(said)


class _RevokeTarget:
    """Whom a revocation is for: an address, else an identity.  Raises Complaint for what is neither."""

    def __init__(self, text: str, settings: Settings) -> None:
        self._name: str | None = None
        try:
            self._shown = str(normalize_address(text, settings.grant_ipv6_prefix))
        except LocalProtocolError:
            self._name = stores.mailbox_name(text, frozenset(settings.domains))
            if self._name is None:
                raise ConfigError(f"{text!r} is no address and no identity: {stores.NAME_RULE}") from None
            self._shown = self._name

    async def revoke(self, grants: stores.Grants) -> str:
        if self._name is None:
            number = await grants.revoke_address(self._shown)
        else:
            number = await grants.revoke_identity(self._name)
        return f"{number} of {self._shown} revoked"


def _table(active: list[stores.ActiveGrant]) -> str:
    if not active:
        return "no grants"
    rows = [("ADDRESS", "IDENTITY", "SECONDS LEFT")]
    rows += [(str(each.address), each.identity, f"{each.remaining:.0f}") for each in active]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
