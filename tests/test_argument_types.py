"""Text in place of bytes, and the reverse: each function names the argument and says what to pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from mailauth import LocalProtocolError, pop3, sasl, smtp
from mailauth.addresses import grant_key
from mailauth.grants import Grant, GrantTable
from mailauth.policy import RelayPolicy

ENTROPY = bytes(32)
HERE = "192.0.2.1"

Call = Callable[[Any], object]

BYTES: tuple[tuple[str, Call], ...] = (
    ("data", lambda wrong: smtp.ServerConnection(smtp.ServerSettings(), entropy=ENTROPY).receive_data(wrong)),
    ("data", lambda wrong: pop3.ServerConnection(pop3.ServerSettings(), entropy=ENTROPY).receive_data(wrong)),
    ("data", lambda wrong: smtp.ClientConnection(smtp.ClientSettings()).receive_data(wrong)),
    ("data", lambda wrong: pop3.ClientConnection(pop3.ClientSettings()).receive_data(wrong)),
    ("data", sasl.encode_base64),
    ("line", sasl.decode_base64),
    ("line", smtp.ServerSettings().parse_command),
    ("line", pop3.ServerSettings().parse_command),
    ("password", lambda wrong: sasl.scram_keys(wrong, b"salt", 4096)),
    ("salt", lambda wrong: sasl.scram_keys(b"password", wrong, 4096)),
    ("key", lambda wrong: sasl.ScramDecoy(key=wrong)),
)
TEXT: tuple[tuple[str, Call], ...] = (
    ("text", sasl.saslprep),
    ("text", smtp.encode_xtext),
    ("text", smtp.decode_xtext),
    ("host_name", lambda wrong: smtp.ServerSettings(host_name=wrong)),
    ("host_name", lambda wrong: pop3.ServerSettings(host_name=wrong)),
    ("implementation", lambda wrong: pop3.ServerSettings(implementation=wrong)),
    ("each item", lambda wrong: smtp.ServerSettings(extra_extensions=(wrong,))),
    ("each item", lambda wrong: smtp.ServerSettings(extra_parameters=frozenset({wrong}))),
    ("each item", lambda wrong: smtp.ServerSettings(mechanisms_without_tls=frozenset({wrong}))),
    ("each item", lambda wrong: pop3.ServerSettings(mechanisms_without_tls=frozenset({wrong}))),
    ("identity", lambda wrong: Grant(HERE, wrong, 0.0)),
    ("identity", lambda wrong: GrantTable().grant(HERE, wrong, 0.0)),
    ("identity", lambda wrong: GrantTable().revoke_identity(wrong)),
    ("each domain", lambda wrong: RelayPolicy(domains=[wrong])),
)


@pytest.mark.parametrize(("name", "call"), BYTES)
def test_text_is_rejected_where_bytes_are_expected(name: str, call: Call) -> None:
    with pytest.raises(LocalProtocolError, match=rf"{name} must be bytes, not str; use \.encode\(\)"):
        call("x" * 32)


@pytest.mark.parametrize(("name", "call"), TEXT)
def test_bytes_are_rejected_where_text_is_expected(name: str, call: Call) -> None:
    with pytest.raises(LocalProtocolError, match=rf"{name} must be a str, not bytes; use \.decode\(\)"):
        call(b"example")


@pytest.mark.parametrize("wrong", ["x" * 32, None, bytearray(32), b"short"])
def test_entropy_must_be_32_bytes(wrong: Any) -> None:
    with pytest.raises(LocalProtocolError, match=r"entropy must be 32 random bytes.*use secrets.token_bytes\(32\)"):
        smtp.ServerConnection(smtp.ServerSettings(), entropy=wrong)


@pytest.mark.parametrize("wrong", [HERE.encode(), None, 5])
def test_address_must_be_text_or_an_address_object(wrong: Any) -> None:
    with pytest.raises(LocalProtocolError, match=r"address must be a str, an IPv4Address or an IPv6Address, not "):
        grant_key(wrong)


@pytest.mark.parametrize(
    "call",
    [
        lambda: smtp.ServerSettings(mechanisms_without_tls="PLAIN"),  # type: ignore[arg-type]  # the mistake
        lambda: pop3.ServerSettings(mechanisms_without_tls="PLAIN"),  # type: ignore[arg-type]  # the mistake
        lambda: smtp.ServerSettings(extra_parameters="X"),  # type: ignore[arg-type]  # the mistake
    ],
)
def test_text_is_rejected_where_a_set_of_names_is_expected(call: Callable[[], object]) -> None:
    """``in`` finds a part of a name in a str: "SCRAM-SHA-256-PLUS" would offer SCRAM-SHA-256 without TLS, too."""
    with pytest.raises(LocalProtocolError, match=re.escape("must be a frozenset, not str; use frozenset({...})")):
        call()
