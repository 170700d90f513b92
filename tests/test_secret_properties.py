"""No repr contains a secret: a search of all values that a client and a server keep and return during a login.

architecture.md, invariant 6.  Every value reachable from the machines, their events and their errors is checked.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any, TypeAlias

import pytest

from mailauth import ACCEPT, BeginTls, Question, Send, Tls, sasl
from tests.test_login_properties import BARE, LOGINS, POP3, SMTP, Protocol, Wire

SECRET = b"Ferocious-Kitten-42"
SHOWN = [
    SECRET.decode(),
    SECRET.hex(),
    # Its middle part in base64, at any offset in a response.
    *(sasl.encode_base64(b"\0" * begins + SECRET)[4:-4].decode() for begins in range(3)),
]


def reachable(*roots: object) -> Iterator[object]:
    """Return all objects reachable from *roots*, except modules, classes and functions."""
    seen: dict[int, object] = {}
    waiting: list[object] = list(roots)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, ModuleType | type | FunctionType):
            continue
        seen[id(thing)] = thing
        yield thing
        waiting += gc.get_referents(thing)


def showing(*roots: object, secrets: Iterable[str] = SHOWN) -> list[str]:
    """Return the reprs, of objects of mailauth's types and of errors, that contain one of *secrets*."""
    ours = (
        thing
        for thing in reachable(*roots)
        if type(thing).__module__.startswith("mailauth") or isinstance(thing, BaseException)
    )
    return [text for text in map(repr, ours) if any(secret in text for secret in secrets)]


Make: TypeAlias = Callable[[bytes], sasl.ClientMechanism]

MAKE: dict[str, tuple[Make, Tls]] = {
    **LOGINS,
    "PLAIN": (lambda secret: sasl.PlainClient(authentication_identity="alice", password=secret), BARE),
    "LOGIN": (lambda secret: sasl.LoginClient(authentication_identity="alice", password=secret), BARE),
    "CRAM-MD5": (lambda secret: sasl.CramMd5Client(authentication_identity="alice", password=secret), BARE),
}
POP3_ALONE: dict[str, tuple[Make, Tls]] = {
    "USER": (lambda secret: sasl.UserPassClient(authentication_identity="alice", password=secret), BARE),
    "APOP": (lambda secret: sasl.ApopClient(authentication_identity="alice", password=secret), BARE),
}
ALL: dict[str, tuple[Protocol, Make, Tls]] = {
    **{f"{name} by SMTP": (SMTP, *how) for name, how in MAKE.items()},
    **{f"{name} by POP3": (POP3, *how) for name, how in (MAKE | POP3_ALONE).items()},
}


class Searched(Wire):
    """A wire that is searched at each question, when the secret is most exposed."""

    right = True

    def answer(self, question: Question[Any]) -> object:
        assert not showing(self, question)
        match question:
            case sasl.CheckPassword(password=secret) | sasl.CheckToken(token=secret):
                assert secret == SECRET
                if not self.right:
                    return sasl.Refusal.BAD_CREDENTIALS
                return "alice" if isinstance(question, sasl.CheckToken) else ACCEPT
            case sasl.FetchScramKeys(hash_name=hash_name):
                return sasl.scram_keys(SECRET if self.right else b"another", b"salt", 4096, hash_name)
            case sasl.FetchSecret():
                return SECRET if self.right else b"another"
        return super().answer(question)


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize(("protocol", "make", "tls"), ALL.values(), ids=ALL)
def test_login_does_not_expose_the_secret_in_any_repr(protocol: Protocol, make: Make, tls: Tls, right: bool) -> None:
    """With every mechanism, accepted or rejected, on both sides."""
    client = make(SECRET)
    wire = Searched(protocol, tls)
    wire.right = right
    wire.log_in(client)
    assert wire.asked
    assert isinstance(wire.noticed[-1], sasl.Authenticated) or not right
    assert not showing(wire, client)


def test_search_finds_an_exposed_secret() -> None:
    """Otherwise it would prove nothing."""
    assert showing([{"kept": (sasl.Challenge(SECRET),)}])
    assert showing(ValueError(SECRET))
    plain = sasl.PlainClient(authentication_identity="alice", password=SECRET)
    assert showing(sasl.Challenge(sasl.encode_base64(plain.respond(None))))


@pytest.mark.parametrize("action", [Send, BeginTls])
def test_repr_of_send_and_begin_tls_does_not_contain_the_data(action: type[Send] | type[BeginTls]) -> None:
    """``Send`` contains the password of the login."""
    assert not showing(action(data=b"PASS " + SECRET + b"\r\n"))
    assert "<26 bytes>" in repr(action(data=b"PASS " + SECRET + b"\r\n"))
