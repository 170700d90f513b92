"""The shared methods of values do the same as those that attrs would compile for each class."""

from __future__ import annotations

from typing import Any, Final

import attrs
import pytest

from mailauth import _values, errors, events, sasl, smtp
from mailauth._values import shared_methods, shared_repr
from mailauth.sasl import _scram_messages, messages, offer, scram
from mailauth.smtp import commands, parameters, settings

MODULES: Final = (events, commands, parameters, settings, smtp.events, messages, offer, scram, _scram_messages)
KINDS: Final = sorted(
    {
        kind
        for module in MODULES
        for kind in vars(module).values()
        if isinstance(kind, type) and vars(kind).get("__eq__") is _values._equal
    },
    key=lambda kind: (kind.__module__, kind.__qualname__),
)


def of_attrs(kind: Any) -> Any:
    """Return a class with the fields of *kind*, whose methods are by attrs."""
    fields = {
        field.name: attrs.field(default=None, repr=field.repr, eq=field.eq, hash=field.hash)
        for field in attrs.fields(kind)
    }
    return attrs.make_class(kind.__name__, fields, frozen=True, kw_only=True)


def with_fields(kind: Any, values: dict[str, Any]) -> Any:
    """Return a *kind* with *values*, which its validators might not accept."""
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def test_most_values_have_shared_methods() -> None:
    assert len(KINDS) > 40
    assert {smtp.Mail, smtp.Hello, sasl.CheckPassword, sasl.Context, events.Send, events.NeedData} <= set(KINDS)
    assert not {smtp.Mailbox, errors.Malformed} & set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_shared_methods_do_the_same_as_those_of_attrs(kind: Any) -> None:
    theirs = of_attrs(kind)
    names = [field.name for field in attrs.fields(kind)]
    assert not any(field.eq_key for field in attrs.fields(kind))
    same = {name: f"value of {name}".encode() for name in names}
    one, equal = with_fields(kind, same), with_fields(kind, dict(same))
    assert one == equal
    assert hash(one) == hash(equal)
    assert repr(one) == repr(theirs(**{name.lstrip("_"): value for name, value in same.items()}))
    assert one != theirs()
    assert one.__eq__(theirs()) is NotImplemented
    for name in names:
        other = {**same, name: b"another"}
        assert (with_fields(kind, other) == one) is (theirs(**stripped(other)) == theirs(**stripped(same)))
        differs = hash(theirs(**stripped(other))) != hash(theirs(**stripped(same)))
        assert (hash(with_fields(kind, other)) != hash(one)) is differs


def stripped(values: dict[str, Any]) -> dict[str, Any]:
    return {name.lstrip("_"): value for name, value in values.items()}


def test_values_of_a_subclass_are_not_equal() -> None:
    class Idle(smtp.Noop):
        verb = "IDLE"

    assert Idle() != smtp.Noop()
    assert Idle() == Idle()
    assert repr(Idle(argument="x")) == "Idle(argument='x')"


def test_nan_is_equal_to_itself_as_with_attrs() -> None:
    nan = float("nan")
    assert events.NeedData(timeout=nan) == events.NeedData(timeout=nan)


def test_client_mechanisms_are_equal_only_to_themselves() -> None:
    one, other = (sasl.LoginClient(authentication_identity="a", password=b"b") for _ in range(2))
    assert one != other
    assert repr(one) == repr(other) == "LoginClient(authentication_identity='a')"


def test_a_class_with_a_shared_repr_keeps_its_equality() -> None:
    @shared_repr
    @attrs.define(repr=False)
    class Pair:
        first: int
        second: int = attrs.field(repr=lambda number: f"<{number}>")

    assert Pair(1, 2) == Pair(1, 2)
    assert repr(Pair(1, 2)) == "Pair(first=1, second=<2>)"
    assert shared_methods(Pair).__hash__ is _values._hash
