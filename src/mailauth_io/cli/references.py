"""Objects that the configuration file names as ``module:attribute``: stores and interceptors.

A module is searched where Python searches it, then in the directory of the configuration file.  Invalid settings raise
ConfigError.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Final, cast

from .. import server, stores
from .._checks import interface_problem
from ..logs import describe_error
from .errors import ConfigError
from .parsers import Reference
from .settings import Settings

STORES: Final[dict[str, type[object]]] = {
    "accounts_store": stores.Accounts,
    "maildrops_store": stores.Maildrops,
    "outbox_store": stores.Outbox,
    "grants_store": stores.Grants,
    "tokens_store": stores.Tokens,
    "certificates_store": stores.Certificates,
}
"""The interface of the store in each setting."""

_OTHERS: Final[dict[str, tuple[str, ...]]] = {
    "accounts_store": ("accounts", "users", "tokens", "client_names"),
    "maildrops_store": ("maildir",),
    "outbox_store": ("outbox", "relay_to"),
    "grants_store": ("redis_password",),
    "tokens_store": ("tokens",),
    "certificates_store": ("client_names",),
}
"""The settings that a store replaces."""


def store(settings: Settings, name: str) -> Any:
    """Return the store that the setting *name* names, or None.  A class or function is called without arguments."""
    reference: Reference | None = getattr(settings, name)
    if reference is None:
        return None
    found = _built(settings, name, reference, _checked(settings, name, reference))
    _check_methods(settings, name, reference, found)
    if name == "grants_store" and not isinstance(found.settings, stores.GrantSettings):
        raise settings.config_error(name, f"the settings of {reference} must be a GrantSettings of mailauth_io.stores")
    return found


async def enter(settings: Settings, stack: AsyncExitStack, built: Mapping[str, object]) -> None:
    """Enter each of the stores *built* that the settings name and that is an async context manager; *stack* leaves it.

    A store for several settings is entered once.  Raises ConfigError if one fails.
    """
    entered: list[object] = []
    for name, found in built.items():
        if getattr(settings, name) is None or not isinstance(found, AbstractAsyncContextManager):
            continue
        manager = cast("AbstractAsyncContextManager[object]", found)
        if not any(manager is each for each in entered):
            entered.append(manager)
            try:
                await stack.enter_async_context(manager)
            except Exception as error:  # the code of the user may raise anything
                reason = f"{getattr(settings, name)} failed in __aenter__(): {describe_error(error)}"
                raise settings.config_error(name, reason) from error


def interceptors(settings: Settings) -> tuple[server.Interceptor, ...]:
    """Return the interceptors that the settings name.  A class is called without arguments."""
    found: list[server.Interceptor] = []
    for reference in settings.interceptors:
        value = _import(settings, "interceptors", reference)
        if inspect.isclass(value):
            _check_interceptor_class(settings, reference, value)
            value = _built(settings, "interceptors", reference, value)
        found.append(_interceptor(settings, reference, value))
    return tuple(found)


def check(settings: Settings) -> None:
    """Check the settings as far as possible without calling anything.  All errors are in the ConfigError raised."""
    errors: list[ConfigError] = []
    for name in STORES:
        reference: Reference | None = getattr(settings, name)
        if reference is not None:
            try:
                _checked(settings, name, reference)
            except ConfigError as config_error:
                errors.append(config_error)
    for reference in settings.interceptors:
        try:
            value = _import(settings, "interceptors", reference)
            if inspect.isclass(value):
                _check_interceptor_class(settings, reference, value)
            else:
                _interceptor(settings, reference, value)
        except ConfigError as config_error:
            errors.append(config_error)
    if errors:
        errors[0].others = tuple(errors[1:])
        raise errors[0]


def _checked(settings: Settings, name: str, reference: Reference) -> Any:
    """Return the object that *reference* names, after checks that call nothing: its result may still be wrong."""
    for other in _OTHERS[name]:
        if getattr(settings, other):
            raise settings.config_error(
                name, f"replaces {settings.names(other)}; remove one of {settings.names(name, other)}"
            )
    if name == "grants_store" and str(settings.grants) != "memory":
        raise settings.config_error(
            name, f"replaces {settings.names('grants')}; remove one of {settings.names(name, 'grants')}"
        )
    found = _import(settings, name, reference)
    if not inspect.isroutine(found):
        _check_methods(settings, name, reference, found)
    elif inspect.iscoroutinefunction(found):
        raise settings.config_error(
            name, f"{reference} is a coroutine function, but no event loop runs yet when it is called; use def"
        )
    _check_arguments(settings, name, reference, found)
    return found


def _import(settings: Settings, name: str, reference: Reference) -> Any:
    directory = str(reference.directory)
    if directory not in sys.path:
        sys.path.append(directory)  # last, so that a file there replaces no installed module
    try:
        found: Any = importlib.import_module(reference.module)
    except Exception as error:  # a module may raise anything when it is imported
        raise settings.config_error(name, f"cannot import {reference.module}: {describe_error(error)}") from error
    for part in reference.attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise settings.config_error(
                name, f"{reference.module} has no {reference.attribute}; use module:attribute"
            ) from None
    return found


def _check_arguments(settings: Settings, name: str, reference: Reference, found: Any) -> None:
    """Check that *found* can be called without arguments, if it is a class or a function."""
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        return
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):  # of a compiled function, which does not tell
        return
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [each.name for each in parameters if each.default is each.empty and each.kind not in optional]
    if required:
        raise settings.config_error(
            name,
            f"{reference} is called without arguments, but requires {', '.join(required)}; "
            "name an object, or a class or function that requires none",
        )


def _check_interceptor_class(settings: Settings, reference: Reference, value: type[Any]) -> None:
    if not (issubclass(value, server.Interceptor) or any("__call__" in vars(base) for base in value.__mro__)):
        raise settings.config_error(
            "interceptors",
            f"{reference} is a class without __call__(); it must be a function of a view and a question, or a "
            "server.Interceptor",
        )
    _check_arguments(settings, "interceptors", reference, value)


def _built(settings: Settings, name: str, reference: Reference, found: Any) -> Any:
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        return found
    try:
        return found()
    except Exception as error:  # the code of the user may raise anything
        raise settings.config_error(name, f"{reference}() failed: {describe_error(error)}") from error


def _check_methods(settings: Settings, name: str, reference: Reference, found: object) -> None:
    if name == "outbox_store" and isinstance(found, server.NextHop):
        return
    problem = interface_problem(str(reference), found, STORES[name])
    if problem:
        raise settings.config_error(name, f"{problem}; see {STORES[name].__name__} in mailauth_io.stores")


def _interceptor(settings: Settings, reference: Reference, value: Any) -> server.Interceptor:
    try:
        return value if isinstance(value, server.Interceptor) else server.Interceptor(value)
    except TypeError:
        raise settings.config_error(
            "interceptors",
            f"{reference} is {type(value).__name__}; it must be a function of a view and a question, or a "
            "server.Interceptor",
        ) from None
