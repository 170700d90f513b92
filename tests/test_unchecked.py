"""Values that are built without their constructor have all fields, with the same values as from the constructor."""

from __future__ import annotations

import re
from typing import Any

import attrs
import pytest

from mailauth import (
    ACCEPT,
    Command,
    LocalProtocolError,
    Malformed,
    MessageChunk,
    NeedData,
    Question,
    Send,
    Tls,
    pop3,
    sasl,
    smtp,
)  # fmt: skip
from mailauth._unchecked import new, slot_setters
from mailauth.pop3.commands import Apop, ArgumentCommand, Pass, User, checked_list
from mailauth.smtp.commands import Auth
from tests.floor_plan import read

MAIL = b"MAIL FROM:<a@b.test> SIZE=3 BODY=8BITMIME\r\n"
SMTP = (
    b"HELO c\r\nEHLO c_d.\r\nAUTH PLAIN AGEAYg==\r\n"
    + MAIL
    + b"RCPT TO:<b@b.test>\r\nDATA\r\nhello\r\n.\r\nMAIL FROM:<>\r\n"
)
POP3 = b"USER alice\r\nPASS secret\r\nLIST 1\r\nRETR 1\r\n"


@attrs.frozen
class Pair:
    first: int
    second: int


def test_slot_setters_set_the_fields_of_a_frozen_value() -> None:
    pair = new(Pair)
    for set_field, value in zip(slot_setters(Pair, "first", "second"), (1, 2), strict=True):
        set_field(pair, value)
    assert pair == Pair(1, 2)


def test_slot_setters_accept_inherited_fields() -> None:
    (set_number,) = slot_setters(pop3.List, "number")
    command = new(pop3.List)
    set_number(command, 7)
    assert command == pop3.List(number=7)


@pytest.mark.parametrize("names", [(), ("first",), ("second",), ("second", "first"), ("first", "second", "third")])
def test_slot_setters_require_exactly_all_fields_in_order(names: tuple[str, ...]) -> None:
    with pytest.raises(TypeError, match="the fields of Pair are first, second; name all of them"):
        slot_setters(Pair, *names)


def events(machine: Any, data: bytes) -> list[Any]:
    """Return everything that a server returns for *data*, if every question is answered positively."""
    machine.receive_data(data)
    found = []
    while not isinstance(event := machine.next_event(), NeedData):
        found.append(event)
        match event:
            case pop3.OpenMaildrop():
                message = pop3.Message(size=7, unique_id="1")
                machine.answer(event, pop3.Maildrop(messages=(message,)))
            case pop3.Retrieve() | pop3.RetrieveMore():
                machine.answer(event, pop3.Content(data=b"hello\r\n", last=True))
            case Question():
                machine.answer(event, ACCEPT)
    return found


def test_each_event_equals_one_from_its_constructor() -> None:
    """This also reads every field: one that is not set would raise AttributeError."""
    smtp_settings = smtp.ServerSettings(mechanisms_without_tls=frozenset({"PLAIN"}))
    pop3_settings = pop3.ServerSettings(mechanisms_without_tls=frozenset({"USER"}))
    found = events(smtp.ServerConnection(smtp_settings, entropy=bytes(32)), SMTP)
    found += events(pop3.ServerConnection(pop3_settings, entropy=bytes(32)), POP3)
    kinds = {type(event) for event in found}
    assert {Send, MessageChunk, smtp.Hello, smtp.Mail, smtp.Rcpt, smtp.Data, pop3.Retrieve} <= kinds
    assert {sasl.AuthenticationStarted, sasl.CheckPassword, sasl.Authenticated} <= kinds
    for event in found:
        if isinstance(event, Send | MessageChunk | Command | sasl.AuthenticationStarted):
            kind: Any = type(event)
            fields = {field.alias: getattr(event, field.name) for field in attrs.fields(kind) if field.init}
            copy = kind(**fields)
            assert copy == event
            assert repr(copy) == repr(event)


@pytest.mark.parametrize("kind", [User, Pass, Apop])
def test_a_login_command_equals_one_from_its_constructor(kind: type[ArgumentCommand]) -> None:
    assert kind.parse(b"alice") == kind(argument=b"alice")


@pytest.mark.parametrize("argument", ["PLAIN", "plain AGEAYg==", "X =", "x y z"])
def test_auth_equals_one_from_its_constructor(argument: str) -> None:
    mechanism, space, response = argument.partition(" ")
    expected = Auth(mechanism=mechanism.upper(), initial_response=response.encode() if space else None)
    assert Auth.parse(argument) == expected


@pytest.mark.parametrize(
    "argument", ["", " x", "PLAIN ", "LOGIN  ", "MECHANISM-OF-21-BYTES x", "P.LAIN", "PLAIN x ", "PLAIN \x7f"]
)
def test_auth_that_the_constructor_rejects_is_malformed(argument: str) -> None:
    with pytest.raises(Malformed):
        Auth.parse(argument)


@pytest.mark.parametrize("kind", [smtp.Hello, type("Subclass", (smtp.Hello,), {})])
@pytest.mark.parametrize("domain", ["c", "a_b.c.", "[192.0.2.1]", "x" * 255, "-"])
def test_hello_equals_one_from_its_constructor(kind: type[smtp.Hello], domain: str) -> None:
    for extended, lmtp in ((True, False), (False, False), (True, True)):
        hello = kind.parse(domain, extended=extended, lmtp=lmtp)
        assert type(hello) is kind
        assert hello == kind(domain=domain, extended=extended, lmtp=lmtp)


def test_hello_of_lmtp_without_extensions_is_rejected() -> None:
    with pytest.raises(LocalProtocolError, match="LHLO has no form without extensions"):
        smtp.Hello.parse("c", extended=False, lmtp=True)


def test_a_list_command_equals_one_from_its_constructor() -> None:
    """A server answers LIST by itself, so there is no event of it."""
    assert checked_list(7) == pop3.List(number=7)


TLS = Tls(version="TLSv1.3", channel_bindings={"tls-exporter": b"x"}, peer_certificate={"subject": ()})


@pytest.mark.parametrize("tls", [None, TLS])
@pytest.mark.parametrize("settings", [smtp.ServerSettings(strict_syntax=True), pop3.ServerSettings(strict_syntax=True)])
def test_context_of_settings_equals_one_from_its_constructor(
    settings: smtp.ServerSettings | pop3.ServerSettings, tls: Tls | None
) -> None:
    expected = sasl.Context.of(
        tls,
        nonce="17.4",
        host_name=settings.host_name,
        offered=settings.offered(tls),
        scram_decoy=settings.scram_decoy,
        strict_syntax=True,
    )
    assert settings.context("17.4", tls) == expected


def test_only_the_unchecked_module_bypasses_constructors() -> None:
    """``object.__setattr__`` is allowed in ``__attrs_post_init__``."""
    by_itself = re.compile(r"object\.__new__|\.__set__\b")
    found = [module.name for module in read("mailauth") if by_itself.search(module.text)]
    assert found == ["mailauth._unchecked"]
