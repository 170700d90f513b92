"""What the command says, in one sentence, before it gives up with exit status 2."""

from __future__ import annotations


class ConfigError(Exception):
    """What was asked for cannot be done; the text is one sentence that says why and, where known, how to mend it."""

    further: tuple[ConfigError, ...] = ()
    """More of the same kind, for whoever wants to hear all of them."""
