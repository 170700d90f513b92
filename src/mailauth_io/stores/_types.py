"""Checks of the types of arguments, for the functions that an application calls without a type checker."""

from __future__ import annotations

from mailauth import LocalProtocolError


def check_bytes(name: str, value: object) -> None:
    """Raise LocalProtocolError, which never quotes *value*, unless *value* is bytes."""
    if not isinstance(value, bytes):
        raise LocalProtocolError(f"{name} must be bytes, not {type(value).__name__}; use .encode() for a str")


def check_text(name: str, value: object) -> None:
    """Raise LocalProtocolError, which never quotes *value*, unless *value* is a str."""
    if not isinstance(value, str):
        raise LocalProtocolError(f"{name} must be a str, not {type(value).__name__}; use .decode() for bytes")
