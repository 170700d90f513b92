"""attrs validators for the fields of public values, so that a wrong value is refused when it is built.

Every refusal is a LocalProtocolError that names the field.  None quotes the value, which may be a secret, or text that
came from a peer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, AnyStr, Final, TypeAlias

import attrs

from ._errors import LocalProtocolError, Malformed

Check: TypeAlias = Callable[[Any], object]
"""Raises Malformed for a value of the right type that cannot be used."""

Validator: TypeAlias = Callable[[object, "attrs.Attribute[Any]", Any], None]

_INSTEAD: Final[Mapping[type, str]] = {bool: "True or False", Mapping: "a dict"}


def value_of(kind: type, check: Check | None = None, *, optional: bool = False) -> Validator:
    """The field holds a *kind* that passes *check*, or None where it is *optional*.

    A bool is not an int here, and a subclass of bytes is not bytes.
    """

    def validate(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if type(value) is not kind:
            if optional and value is None:
                return
            # A subclass of bytes may give another length than it has; and a bool is an int.
            if not isinstance(value, kind) or kind is bytes or (kind is int and isinstance(value, bool)):
                raise wrong_type(str(attribute.alias), kind, value, optional=optional)
        if check is not None:
            try:
                check(value)
            except Malformed as error:
                raise LocalProtocolError(f"{attribute.alias}: {error}") from None

    return validate


def tuple_of(kind: type, check: Check | None = None, *, optional: bool = False) -> Validator:
    """The field holds a tuple of *kind*, each of which passes *check*, or None where it is *optional*."""

    def check_items(items: tuple[object, ...]) -> None:
        for item in items:
            if not isinstance(item, kind):
                raise Malformed(str(wrong_type("each item", kind, item)))
            if check is not None:
                check(item)

    return value_of(tuple, check_items, optional=optional)


def matches(pattern: re.Pattern[AnyStr], wanted: str) -> Check:
    """A check that all of the value matches *pattern*; *wanted* says in words what does."""

    def check(value: AnyStr) -> None:
        if pattern.fullmatch(value) is None:
            raise Malformed(wanted)

    return check


check_mechanism_name: Final = matches(
    re.compile(r"[A-Z0-9_-]{1,20}"), "a mechanism is named by 1 to 20 of A-Z, 0-9, - and _"
)
"""Raises Malformed (RFC 4422 section 3.1)."""

check_initial_response: Final = matches(re.compile(rb"[ -~]*[!-~]"), "printable ASCII, and no blank at its end")
"""Raises Malformed for what cannot stand in an AUTH command: it is base64 or ``=`` there."""


def between(lowest: int, highest: int) -> Check:
    """A check that a number is one of *lowest* to *highest*."""

    def check(number: int) -> None:
        if not lowest <= number <= highest:
            raise Malformed(f"must be {lowest} to {highest}")

    return check


def wrong_type(field: str, kind: type, value: object, *, optional: bool = False) -> LocalProtocolError:
    """The error that *field* holds *value*, which is not a *kind*."""
    name = kind.__name__ + (" or None" if optional else "")
    article = "" if kind is bytes else "an " if name[0] in "AEIOUaeiou" else "a "
    found = "None" if value is None else type(value).__name__
    if kind is bytes and isinstance(value, str):
        phase = ".encode()"
    elif kind is str and isinstance(value, bytes):
        phase = ".decode()"
    else:
        phase = _INSTEAD.get(kind, f"{kind.__name__}{'.parse' if hasattr(kind, 'parse') else ''}(...)")
    return LocalProtocolError(f"{field} must be {article}{name}, not {found}; use {phase}")
