"""The limit on the file descriptors of this process (RLIMIT_NOFILE)."""

from __future__ import annotations

import contextlib


def raise_descriptor_limit(needed: int | None = None) -> int | None:
    """Raise the soft limit to *needed*, or to the hard limit if that is lower or *needed* is None.

    Return the soft limit; None if there is none.  A library passes *needed*: a program that uses ``select()`` fails
    with descriptors over 1,023.
    """
    try:
        import resource
    except ImportError:  # not available on every system
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    wanted = hard
    if needed is not None and (hard == resource.RLIM_INFINITY or needed < hard):
        wanted = max(soft, needed)
    if wanted != soft:
        with contextlib.suppress(OSError, ValueError):  # macOS has another limit, of the whole system
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
