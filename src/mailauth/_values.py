"""``==``, ``hash()`` and ``repr()`` of values, with one function for all classes.

attrs compiles these methods for each class, which takes more than a third of the time of an import.
"""

from __future__ import annotations

from types import NotImplementedType
from typing import Any, TypeVar

T = TypeVar("T", bound=type)


def shared_methods(kind: T) -> T:
    """Give *kind*, a class by ``attrs.frozen(eq=False, repr=False)``, methods that do the same as those of attrs."""
    changed: Any = kind
    if any(field.eq_key is not None for field in changed.__attrs_attrs__):
        raise TypeError(f"{kind.__name__} compares a field by a function, which these methods do not know")
    changed.__eq__ = _equal
    changed.__hash__ = _hash
    return shared_repr(kind)


def shared_repr(kind: T) -> T:
    """Give *kind*, a class by attrs with ``repr=False``, a method that does the same as that of attrs."""
    changed: Any = kind
    changed.__repr__ = _repr
    return kind


def _equal(self: Any, other: Any) -> bool | NotImplementedType:
    if other.__class__ is not self.__class__:
        return NotImplemented  # type: ignore[no-any-return]  # mypy knows its type only in __eq__
    names = [field.name for field in self.__attrs_attrs__ if field.eq]
    return bool([getattr(self, name) for name in names] == [getattr(other, name) for name in names])


def _hash(self: Any) -> int:
    fields = [field for field in self.__attrs_attrs__ if (field.eq if field.hash is None else field.hash)]
    return hash((self.__class__, *[getattr(self, field.name) for field in fields]))


def _repr(self: Any) -> str:
    fields = [field for field in self.__attrs_attrs__ if field.repr is not False]
    shown = [f"{each.name}={(repr if each.repr is True else each.repr)(getattr(self, each.name))}" for each in fields]
    return f"{self.__class__.__qualname__.rpartition('>.')[2]}({', '.join(shown)})"
