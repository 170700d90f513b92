"""Checks of the values that an application passes, when they are passed (architecture.md, invariant 11).

A value of a wrong type is a TypeError, any other wrong value a ValueError.  The text names the parameter and says what
to pass.  It shows the type of a value, or a number, and never quotes text, which may be a secret.
"""

from __future__ import annotations

import functools
import inspect
import ipaddress
import math
import ssl
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, Final, cast

import attrs

from mailauth import LocalProtocolError
from mailauth.addresses import limit_key

_HINTS: Final[Mapping[type, str]] = {
    bool: "True or False",
    int: "a number such as 100",
    tuple: "a tuple such as (item,)",
    frozenset: "frozenset({...})",
    Path: "pathlib.Path(...)",
    ssl.SSLContext: "ssl.create_default_context(...)",
}


def type_name(value: object) -> str:
    """Return the name of the type of *value*, for an error."""
    if value is None:
        return "None"
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_type(name: str, value: object, kind: type, *, use: str = "", optional: bool = False) -> None:
    """Check that *value* is a *kind*; if *optional*, it may be None.  *use* is what the error says to use."""
    if (optional and value is None) or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
        return
    wanted = kind.__name__ + (" or None" if optional else "")
    article = "" if kind is bytes else "an " if wanted[0] in "AEIOUaeiou" or kind is ssl.SSLContext else "a "
    if not use:
        text = isinstance(value, str if kind is bytes else bytes)
        use = _HINTS.get(kind, f"{kind.__name__}(...)")
        use = (
            ".encode() for a str" if text and kind is bytes else ".decode() for bytes" if text and kind is str else use
        )
    raise TypeError(f"{name} must be {article}{wanted}, not {type_name(value)}; use {use}")


def check_integer(name: str, value: object, lowest: int, highest: int | None = None, *, optional: bool = False) -> None:
    """Check that *value* is an int from *lowest* to *highest*; if *optional*, it may be None."""
    check_type(name, value, int, optional=optional)
    if isinstance(value, int) and (value < lowest or (highest is not None and value > highest)):
        wanted = f"{lowest} or more" if highest is None else f"{lowest} to {highest}"
        shown = f", not {value}" if abs(value) < 2**63 else ""  # Python does not print thousands of digits
        raise ValueError(f"{name} must be {wanted}{shown}")


def check_port(name: str, value: object, lowest: int = 0, *, optional: bool = False) -> None:
    """Check that *value* is a port; if *lowest* is 0, 0 is allowed too."""
    check_integer(name, value, lowest, 65_535, optional=optional)


def check_number(name: str, value: object, *, zero: bool = False, infinite: bool = False) -> None:
    """Check that *value* is a number above 0; with *zero*, it may be 0; with *infinite*, it may be infinity."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be an int or a float, not {type_name(value)}; use a number such as 30.0")
    if not (value > 0 or (zero and value == 0)) or (value == math.inf and not infinite):
        wanted = f"{'' if infinite else 'finite and '}{'0 or more' if zero else 'above 0'}"
        raise ValueError(f"{name} must be {wanted}, not {value}; use a number such as 30.0")


def check_text(name: str, value: object, *, empty: bool = False, optional: bool = False) -> None:
    """Check that *value* is a str; if *empty*, it may be empty; if *optional*, it may be None."""
    check_type(name, value, str, optional=optional)
    if value == "" and not empty:
        raise ValueError(f"{name} must not be empty{'; use None for none' if optional else ''}")


def check_random_key(name: str, value: object, *, optional: bool = False) -> None:
    """Check that *value* is at least 16 bytes; if *optional*, it may be None."""
    check_type(name, value, bytes, use="secrets.token_bytes(32)", optional=optional)
    if isinstance(value, bytes) and len(value) < 16:
        raise ValueError(f"{name} must be at least 16 secret random bytes; use secrets.token_bytes(32)")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Check that *value* is one of *choices*."""
    check_type(name, value, str)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}")


def check_address(name: str, value: object) -> None:
    """Check that *value* is an IPv4Address or an IPv6Address."""
    if not isinstance(value, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        raise TypeError(
            f"{name} must be an IPv4Address or an IPv6Address, not {type_name(value)};"
            " use ipaddress.ip_address('192.0.2.1')"
        )


def check_address_text(name: str, value: object) -> None:
    """Check that *value* is the text of an IP address."""
    check_text(name, value)
    try:
        ipaddress.ip_address(str(value))
    except ValueError:
        raise ValueError(f"{name} must be an IP address such as '127.0.0.1', not a name") from None


def check_hashable(name: str, value: object) -> None:
    """Check that *value* can be the key of a dict."""
    if not isinstance(value, Hashable):
        raise TypeError(f"{name} must be hashable, not {type_name(value)}; use ipaddress.ip_address('192.0.2.1')")


def check_items(name: str, value: object, kind: type, *, use: str = "", container: type = tuple) -> None:
    """Check that *value* is a tuple (or another *container*) of *kind*."""
    check_type(name, value, container)
    for item in cast("Iterable[object]", value):
        check_type(f"each of {name}", item, kind, use=use)


def check_collection(name: str, value: object, use: str) -> None:
    """Check that *value* is a collection and not a str or bytes, which are collections of characters or numbers."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Collection):
        raise TypeError(f"{name} must be a collection, not {type_name(value)}; use {use}")


def check_iterable(name: str, value: object, use: str) -> None:
    """Check that *value* can be iterated over, and is not a str or bytes."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list, not {type_name(value)}; pass {use}")


def check_networks(name: str, value: object) -> None:
    """Check that *value* is a collection of IP networks.  A network of IPv4-mapped addresses would match nothing."""
    check_collection(name, value, "(ipaddress.ip_network('192.0.2.0/24'),)")
    for network in cast("Collection[object]", value):
        if not isinstance(network, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
            raise TypeError(
                f"each of {name} must be an IPv4Network or an IPv6Network, not {type_name(network)};"
                " use ipaddress.ip_network('192.0.2.0/24')"
            )
        if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
            raise ValueError(f"{name} contains {network}; use the IPv4 network, since these addresses count as IPv4")


def check_nat64_prefixes(name: str, value: object) -> None:
    """Check that *value* is a collection of IPv6 networks that RFC 6052 allows as NAT64 prefixes."""
    check_collection(name, value, "(ipaddress.IPv6Network('2001:db8:64::/96'),)")
    for prefix in cast("Collection[object]", value):
        check_type(f"each of {name}", prefix, ipaddress.IPv6Network, use="ipaddress.IPv6Network('2001:db8:64::/96')")
    try:
        limit_key("::", nat64_prefixes=cast("Collection[ipaddress.IPv6Network]", value))
    except LocalProtocolError as error:
        raise ValueError(str(error).replace("nat64_prefixes", name)) from None


def check_server_context(name: str, value: object) -> None:
    """Check that *value* is None or a context with which a server can do a handshake."""
    use = "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
    if type_name(value) == "TemporaryCertificate":
        use = "temporary_certificate().server"
    check_type(name, value, ssl.SSLContext, use=use, optional=True)
    if isinstance(value, ssl.SSLContext) and value.protocol is ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError(f"{name} is for clients; use ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)")


def check_client_context(name: str, value: object) -> None:
    """Check that *value* is None or a context with which a client can do a handshake."""
    use = "ssl.create_default_context()"
    if type_name(value) == "TemporaryCertificate":
        use = "temporary_certificate().client()"
    check_type(name, value, ssl.SSLContext, use=use, optional=True)
    if isinstance(value, ssl.SSLContext) and value.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise ValueError(f"{name} is for servers; use ssl.create_default_context()")


def check_function(name: str, value: object) -> None:
    """Check that *value* can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, not {type_name(value)}")


@functools.cache
def _members(interface: type) -> tuple[tuple[str, ...], tuple[tuple[str, bool], ...]]:
    """Return the properties of the Protocol *interface*, and its methods: whether each is a coroutine function."""
    members = {name: member for name, member in vars(interface).items() if not name.startswith("_")}
    return (
        tuple(name for name, member in members.items() if isinstance(member, property)),
        tuple(
            (name, inspect.iscoroutinefunction(member))
            for name, member in members.items()
            if inspect.isfunction(member)
        ),
    )


_COROUTINE_FLAGS: Final = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE  # by "async def", and types.coroutine


def _is_coroutine_function(function: Any) -> bool | None:
    """Return whether *function* is a coroutine function; None if that is not known before a call.

    It is not known for a compiled function, nor for a plain function that wraps a coroutine function.
    """
    if isinstance(function, MethodType):
        function = function.__func__
    plain: Any = function
    if type(plain) is FunctionType and not plain.__dict__:  # nothing marks it, and it wraps no other function
        return bool(plain.__code__.co_flags & _COROUTINE_FLAGS)
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
    if isinstance(flags, int):  # otherwise it is a mock, and inspect.iscoroutinefunction() is wrong about it
        if (
            inspect.iscoroutinefunction(function) or flags & inspect.CO_ITERABLE_COROUTINE
        ):  # the flag of types.coroutine
            return True
        if "_is_coroutine" in getattr(function, "__dict__", ()):  # Cython and asyncio mark functions with it
            return True
    if isinstance(function, functools.partial):
        return _is_coroutine_function(function.func)
    if hasattr(function, "__wrapped__"):  # by functools.wraps()
        return False if _is_coroutine_function(function.__wrapped__) is False else None
    if isinstance(function, FunctionType):
        return False
    call = None if isinstance(function, type) else inspect.getattr_static(function, "__call__", None)
    return _is_coroutine_function(call) if isinstance(call, FunctionType) else None


def interface_problem(shown: str, value: object, interface: type) -> str:
    """Return what *value* lacks of the Protocol *interface*, or an empty text.  *shown* is the name of *value*."""
    missing: list[str] = []
    other: list[str] = []
    properties, methods = _members(interface)
    for name in properties:
        if not (isinstance(value, type) or hasattr(value, name)):  # an object may have it where its class has not
            other.append(f"{shown} has no attribute {name}")
    for name, is_coroutine in methods:
        method = getattr(value, name, None)
        if not callable(method):
            missing.append(name)
        elif _is_coroutine_function(method) is (not is_coroutine):
            kind = "a coroutine function, defined with async def" if is_coroutine else "a plain function, without async"
            other.append(f"{name}() of {shown} must be {kind}")
    return f"{shown} has no method {', '.join(missing)}" if missing else "; ".join(other)


@functools.lru_cache(maxsize=256)
def _class_has_methods(kind: type, interface: type) -> bool:
    """Return whether the class *kind* has the methods of the Protocol *interface*, which has no properties."""
    properties, _ = _members(interface)
    return not properties and not interface_problem("", kind, interface)


def has_interface(value: object, interface: type) -> bool:
    """Return whether *value* is known to have *interface*: its class has, and it has no such attributes of its own.

    Then ``interface_problem()``, which takes four times as long, finds nothing.
    """
    kind: type = type(value)
    if not _class_has_methods(kind, interface):
        return False
    own: dict[str, object] | None = getattr(value, "__dict__", None)
    return not own or not any(name in own for name, _ in _members(interface)[1])


def check_interface(name: str, value: object, interface: type, *, optional: bool = False) -> None:
    """Check that *value* is an object with the methods of the Protocol *interface*; if *optional*, it may be None.

    A coroutine function must be one in *value* too, and a plain function must not be one.
    """
    if optional and value is None:
        return
    if isinstance(value, type):
        raise TypeError(f"{name} must be an object, not the class {value.__name__}; use {value.__name__}(...)")
    problem = interface_problem(type_name(value), value, interface)
    if problem:
        raise TypeError(f"{name} must have the methods of stores.{interface.__name__}; {problem}")


def field(
    check: Callable[..., None], *args: Any, **options: Any
) -> Callable[[object, attrs.Attribute[Any], Any], None]:
    """Return an attrs validator that calls *check* with the name of the field, its value and the other arguments."""

    def validate(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        check(str(attribute.alias), value, *args, **options)

    return validate
