"""The number of connections for which the process has enough file descriptors.

Without descriptors no file can be opened: a client that holds all of them would stop the mail of the others.
"""

from __future__ import annotations

from typing import Final

import attrs

from .._descriptor_limit import raise_descriptor_limit
from ..limits import Limits
from ..logs import Event
from ._log import LOGGER
from .config import PORTS, Config
from .next_hop import NextHop

RESERVED: Final = 320
"""Descriptors that are not for connections: four for each of the 40 threads for files, one for each of the 40 for DNS,
four for each of the 8 for grants, and some for the log, the event loop, and connections that are about to be refused.
"""

POP3_SESSION: Final = 3
"""Descriptors of a POP3 session: its connection, the lock of its maildrop, and the file of the message that it sends.
The file is open as long as the client does not read."""


def fit_limits(config: Config, outbox: object) -> Limits:
    """Return the limits of *config*, with fewer connections if the process has not enough descriptors for them.

    One address has at most half of the connections that are left, as one network does.
    """
    limits = config.limits
    listeners = len(config.hosts) * sum(getattr(config, name) is not None for name in PORTS)
    relay_sessions = outbox.max_sessions if isinstance(outbox, NextHop) else 0
    connections = fit_connections(
        limits.connections,
        descriptors=1 if (config.pop3, config.pop3s) == (None, None) else POP3_SESSION,
        reserved=RESERVED + listeners + relay_sessions,
        advice="or set a lower limit of connections ([limits] connections, Limits.connections)",
    )
    if connections == limits.connections:
        return limits
    per_address = min(limits.connections_per_address, max(connections // 2, 1))
    return attrs.evolve(limits, connections=connections, connections_per_address=per_address)


def fit_connections(wanted: int, *, descriptors: int, reserved: int, advice: str = "") -> int:
    """Return *wanted*, or as many connections as the process can open, each with this number of *descriptors*.

    First the soft limit is raised as far as needed and allowed.  If that is not enough, the log has a warning.  If the
    limit is very low, a quarter of it is for connections.
    """
    needed = wanted * descriptors + reserved
    limit = raise_descriptor_limit(needed)
    if limit is None or limit >= needed:
        return wanted
    connections = max(max(limit - reserved, limit // 4) // descriptors, 1)
    if connections >= wanted:
        return wanted
    text = (
        f"at most {connections} connections instead of {wanted}, because this process may have only {limit} open "
        f"files: allow {needed} (ulimit -n, LimitNOFILE of systemd) {advice}"
    )
    LOGGER.warning(Event("descriptors", {"warning": text.rstrip()}))
    return connections
