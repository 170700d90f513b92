"""attrs validators for the fields of public values (architecture.md, invariant 11).

Each error is a LocalProtocolError that names the field and says what to pass.  Of a wrong value it shows only the type,
or the number: a text may be a secret or come from a peer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, AnyStr, Final, TypeAlias

import attrs

from .errors import LocalProtocolError, Malformed

Check: TypeAlias = Callable[[Any], object]
"""A function that raises Malformed for an invalid value of the right type."""

Validator: TypeAlias = Callable[[object, "attrs.Attribute[Any]", Any], None]

_HINTS: Final[Mapping[type, str]] = {bool: "True or False", Mapping: "a dict", frozenset: "frozenset({...})"}


def value_of(kind: type, check: Check | None = None, *, optional: bool = False) -> Validator:
    """Return a validator that accepts a *kind* for which *check* passes; if *optional*, also None.

    It does not accept a bool as an int, or a subclass of bytes as bytes.
    """

    def validate(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if type(value) is not kind:
            if optional and value is None:
                return
            # A subclass of bytes may report a false length, and bool is a subclass of int.
            if not isinstance(value, kind) or kind is bytes or (kind is int and isinstance(value, bool)):
                raise wrong_type(str(attribute.alias), kind, value, optional=optional)
        if check is not None:
            try:
                check(value)
            except Malformed as error:
                raise LocalProtocolError(f"{attribute.alias}: {error}") from None

    return validate


def tuple_of(kind: type, check: Check | None = None, *, optional: bool = False) -> Validator:
    """Return a validator that accepts a tuple of *kind* whose items pass *check*; if *optional*, also None."""

    def check_items(items: tuple[object, ...]) -> None:
        for item in items:
            if not isinstance(item, kind):
                raise Malformed(str(wrong_type("each item", kind, item)))
            if check is not None:
                check(item)

    return value_of(tuple, check_items, optional=optional)


def frozenset_of(kind: type) -> Validator:
    """Return a validator that accepts a frozenset of *kind*.  A str is not one, though ``in`` works with it."""

    def check_items(items: frozenset[object]) -> None:
        for item in items:
            if not isinstance(item, kind):
                raise Malformed(str(wrong_type("each item", kind, item)))

    return value_of(frozenset, check_items)


def check_type(field: str, kind: type, value: object, *, optional: bool = False) -> None:
    """Raise LocalProtocolError, which names *field*, unless *value* is a *kind*; if *optional*, it may also be None."""
    if not isinstance(value, kind) and not (optional and value is None):
        raise wrong_type(field, kind, value, optional=optional)


def check_integer(field: str, value: object, lowest: int, highest: int | None = None) -> None:
    """Raise LocalProtocolError, which names *field*, unless *value* is an int from *lowest* to *highest*."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type(field, int, value)
    if value < lowest or (highest is not None and value > highest):
        wanted = f"{lowest} or more" if highest is None else f"{lowest} to {highest}"
        shown = f", not {value}" if abs(value) < 2**63 else ""  # Python does not print thousands of digits
        raise LocalProtocolError(f"{field} must be {wanted}{shown}")


def integer(lowest: int, highest: int | None = None, *, optional: bool = False) -> Validator:
    """Return a validator that accepts an int from *lowest* to *highest* and, if *optional*, None."""

    def validate(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not (optional and value is None):
            check_integer(str(attribute.alias), value, lowest, highest)

    return validate


def check_number(field: str, value: object) -> None:
    """Raise LocalProtocolError, which names *field*, unless *value* is an int or a float, and not NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        found = "None" if value is None else type(value).__name__
        raise LocalProtocolError(f"{field} must be an int or a float, not {found}; use a number such as 30.0")
    if value != value:
        raise LocalProtocolError(f"{field} must be a number, not nan; use a number such as 30.0")


def positive(*, infinite: bool = False) -> Validator:
    """Return a validator that accepts an int or a float above 0, which is finite unless *infinite*."""

    def validate(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        check_number(str(attribute.alias), value)
        if value <= 0 or (value == math.inf and not infinite):
            wanted = "above 0" if infinite else "finite and above 0"
            raise LocalProtocolError(f"{attribute.alias} must be {wanted}, not {value}; use a number such as 30.0")

    return validate


def function_or(*kinds: type, optional: bool = False, hint: str) -> Validator:
    """Return a validator that accepts a function, a value of one of *kinds* and, if *optional*, None.

    *hint* is what the error says to use.
    """
    wanted = " or ".join([*(f"a {kind.__name__}" for kind in kinds), "a function", *(["None"] if optional else [])])

    def validate(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not (callable(value) or isinstance(value, kinds) or (optional and value is None)):
            found = "None" if value is None else type(value).__name__
            raise LocalProtocolError(f"{attribute.alias} must be {wanted}, not {found}; use {hint}")

    return validate


def mapping_of(key: type, value: type, hint: str) -> Validator:
    """Return a validator that accepts a mapping of *key* to *value*.  *hint* is what the error says to use."""

    def check_items(items: Mapping[object, object]) -> None:
        for each, found in items.items():
            if not (isinstance(each, key) and isinstance(found, value)):
                raise Malformed(f"must map each {key.__name__} to a {value.__name__}; use {hint}")

    return value_of(Mapping, check_items)


def matches(pattern: re.Pattern[AnyStr], wanted: str) -> Check:
    """Return a check that the whole value matches *pattern*.  *wanted* is the text of the error if it does not."""

    def check(value: AnyStr) -> None:
        if pattern.fullmatch(value) is None:
            raise Malformed(wanted)

    return check


MECHANISM_NAME: Final = re.compile(r"[A-Z0-9_-]{1,20}")
INITIAL_RESPONSE: Final = re.compile(rb"[ -~]*[!-~]")

check_mechanism_name: Final = matches(
    MECHANISM_NAME, "a mechanism name must be 1 to 20 of the characters A-Z, 0-9, - and _"
)
"""The check of a SASL mechanism name (RFC 4422 section 3.1).  Raises Malformed."""

check_initial_response: Final = matches(INITIAL_RESPONSE, "must be printable ASCII without a space at its end")
"""The check of the initial response in an AUTH command, which is base64 or ``=`` on the wire.  Raises Malformed."""


def between(lowest: int, highest: int) -> Check:
    """Return a check that a number is at least *lowest* and at most *highest*."""

    def check(number: int) -> None:
        if not lowest <= number <= highest:
            raise Malformed(f"must be {lowest} to {highest}")

    return check


def _qualified(kind: type) -> str:
    return ".".join([*kind.__module__.split(".")[1:2], kind.__name__])


def wrong_type(field: str, kind: type, value: object, *, optional: bool = False) -> LocalProtocolError:
    """Return the error for *value*, which is not a *kind*, in *field*."""
    name = kind.__name__ + (" or None" if optional else "")
    article = "" if kind is bytes else "an " if name[0] in "AEIOUaeiou" else "a "
    found = "None" if value is None else type(value).__name__
    if found == kind.__name__:  # smtp.ServerSettings and pop3.ServerSettings
        name, found = _qualified(kind) + name.removeprefix(found), _qualified(type(value))
    if kind is bytes and isinstance(value, str):
        hint = ".encode()"
    elif kind is str and isinstance(value, bytes):
        hint = ".decode()"
    elif kind is tuple and isinstance(value, str):
        hint = "a tuple such as (item,)"  # tuple() would split the text into characters
    elif members := getattr(kind, "__members__", None):  # of an enum
        hint = f"a member such as {kind.__name__}.{next(iter(members))}"
    else:
        hint = _HINTS.get(kind, f"{kind.__name__}{'.parse' if hasattr(kind, 'parse') else ''}(...)")
    return LocalProtocolError(f"{field} must be {article}{name}, not {found}; use {hint}")
