"""Helps to build values from fields that are known to be valid, since a parser has validated them.

``new(Send)`` and then the setters of all its fields do the same as the constructor without its validation, at a third
to half of the cost.  A server builds at least one value for each line that it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

import attrs

A = TypeVar("A", bound=attrs.AttrsInstance)

Setter: TypeAlias = Callable[[object, object], None]

new: Final = object.__new__


def defaults_in_class(kind: type[A]) -> type[A]:
    """Store the default of each field in the class *kind*, which has no slots.

    An instance can then be built from the fields that differ.
    """
    for field in attrs.fields(kind):
        if field.default is not attrs.NOTHING:
            setattr(kind, field.name, field.default)
    return kind


def slot_setters(kind: type, *names: str) -> tuple[Setter, ...]:
    """Return the functions that set the fields *names* of a *kind* with slots, although it is frozen.

    Raises TypeError unless *names* are all fields, so that none is forgotten when the class gets another one.
    """
    fields: tuple[attrs.Attribute[Any], ...] = getattr(kind, "__attrs_attrs__", ())
    all_names = tuple(field.name for field in fields)
    if names != all_names:
        raise TypeError(f"the fields of {kind.__name__} are {', '.join(all_names)}; name all of them")
    slots = {name: slot for base in reversed(kind.__mro__) for name, slot in vars(base).items()}
    return tuple(slots[name].__set__ for name in names)
