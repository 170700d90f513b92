"""Text in place of bytes, and the reverse, in the functions of the stores: the error says what to pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mailauth_io import server, stores
from mailauth_io.stores.credentials import Plain

Call = Callable[[Any], object]


def accounts(**options: Any) -> stores.MemoryAccounts:
    return stores.MemoryAccounts({"alice": b"secret"}, **options)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("field", stores.read_credential),
        ("password", lambda wrong: stores.write_credential("PLAIN", wrong)),
        ("password", lambda wrong: stores.from_password("alice", wrong)),
        ("password", lambda wrong: stores.MemoryAccounts({"alice": wrong})),
        ("password", Plain),
        ("password", lambda wrong: asyncio.run(server.Authenticator(accounts()).check_password("alice", wrong))),
        ("each token", lambda wrong: accounts(tokens=[("alice", wrong)])),
        ("data", lambda wrong: stores.MessageContent.of(wrong, stores.Budget())),
    ],
)
def test_text_is_rejected_where_bytes_are_expected(name: str, call: Call) -> None:
    """The value may be a password, so it is not quoted."""
    with pytest.raises(TypeError) as raised:
        call("{PLAIN}sesame")
    assert str(raised.value) == f"{name} must be bytes, not str; use .encode() for a str"


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("a mailbox name", lambda wrong: stores.mailbox_name(wrong, frozenset())),
        ("name", lambda wrong: stores.from_password(wrong, b"secret")),
        ("name", lambda wrong: stores.MemoryAccounts({wrong: b"secret"})),
        ("each certificate name", lambda wrong: accounts(certificate_names=[(wrong, "alice")])),
    ],
)
def test_bytes_are_rejected_where_text_is_expected(name: str, call: Call) -> None:
    with pytest.raises(TypeError) as raised:
        call(b"alice")
    assert str(raised.value) == f"{name} must be a str, not bytes; use .decode() for bytes"


def test_unknown_scheme_of_a_new_password_is_rejected() -> None:
    with pytest.raises(stores.CredentialError, match=r"the scheme 'MD5'; use one of \{PLAIN\}, "):
        stores.write_credential("MD5", b"sesame")
