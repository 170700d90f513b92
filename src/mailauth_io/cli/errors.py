"""The error that the command reports in one sentence before it ends with exit status 2."""

from __future__ import annotations


class ConfigError(Exception):
    """The settings or arguments cannot be used.  The text is one sentence: what is wrong and what to use instead."""

    others: tuple[ConfigError, ...] = ()
    """Errors found together with this one, for ``mailauth check-config``, which reports all of them."""
