"""Checks of what the methods of a store return and raise.  They cannot be checked before the first call."""

from __future__ import annotations

from .._checks import has_interface, interface_problem, type_name
from ..logs import place


class WrongResult(TypeError):
    """A method of a store has returned a value of a wrong type.  The text contains no value, which may be a secret."""


def check_result(store: object, method: str, value: object, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Check that *value*, which *method* of *store* has returned, is one of *kinds*.  *wanted* describes them."""
    if not isinstance(value, kinds):
        raise WrongResult(f"{method}() of {type_name(store)} must return {wanted}, not {type_name(value)}")


def check_returned_interface(store: object, method: str, value: object, interface: type) -> None:
    """Check that *value*, which *method* of *store* has returned, has the methods of the Protocol *interface*."""
    if has_interface(value, interface):
        return
    problem = interface_problem(type_name(value), value, interface)
    if problem:
        raise WrongResult(
            f"{method}() of {type_name(store)} must return an object with the methods of stores.{interface.__name__};"
            f" {problem}"
        )


class MethodFailed(RuntimeError):
    """A method that gets a password or a token has raised.  The text has the class and the place of the exception."""


def method_failed(owner: object, method: str, error: Exception) -> MethodFailed:
    """Return what is raised, from None, in place of *error* of *method* of *owner*: its message may quote a secret."""
    return MethodFailed(f"{method}() of {type_name(owner)} failed: {type(error).__name__} at {place(error)}")
