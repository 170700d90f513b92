"""SCRAM with channel binding: the -PLUS forms, and the flag that reveals a downgrade (RFC 5802 section 6)."""

from __future__ import annotations

import pytest

from mailauth.sasl import (
    Fault,
    Refusal,
    ScramSha256Client,
    Success,
)
from tests.sasl.driver import log_in
from tests.sasl.scram_parties import (
    ENTROPY,
    KEYS,
    client,
    data,
    plus_client,
    plus_server,
    server,
)


def test_the_plus_form_binds_the_login_to_the_channel() -> None:
    """RFC 5802 section 6, RFC 9266."""
    ours, theirs = plus_client(), plus_server()
    assert ours.respond(None).startswith(b"p=tls-exporter,,n=user,r=")
    assert log_in(ours, theirs, {"user": b"pencil"}) == Success(
        authentication_identity="user", authorization_identity="user"
    )


def test_another_channel_is_no_login() -> None:
    """With a man in the middle, the two ends have different channel binding data."""
    ours = plus_client(data=b"what another TLS layer exported")
    assert log_in(ours, plus_server(), {"user": b"pencil"}) is Refusal.BAD_CREDENTIALS


def test_a_binding_that_the_connection_has_not_is_refused() -> None:
    assert plus_server().respond(plus_client("tls-unique").respond(None)) is Fault.MALFORMED


@pytest.mark.parametrize("flag", [b"n", b"y"])
def test_the_plus_form_without_a_binding_is_refused(flag: bytes) -> None:
    """RFC 5802 section 6."""
    assert plus_server().respond(flag + b",,n=user,r=abc") is Fault.MALFORMED


def test_a_client_that_was_not_shown_the_plus_form_is_refused_where_it_was_offered() -> None:
    """RFC 5802 section 6: ``y``, although -PLUS was offered, indicates a downgrade."""
    ours = ScramSha256Client(authentication_identity="user", password=b"pencil", entropy=ENTROPY, could_bind=True)
    first = ours.respond(None)
    assert first.startswith(b"y,,")
    assert server(plus_offered=True).respond(first) is Refusal.BAD_CREDENTIALS
    assert isinstance(log_in(ours, server(), {"user": b"pencil"}), Success)


def test_a_client_that_cannot_bind_is_taken_beside_the_plus_form() -> None:
    assert isinstance(log_in(client(), server(plus_offered=True), {"user": b"pencil"}), Success)


def test_a_flag_that_was_changed_on_the_way_is_no_login() -> None:
    """RFC 5802 section 6: the proof covers the header, so an attacker cannot change ``y`` to ``n``."""
    ours = ScramSha256Client(authentication_identity="user", password=b"pencil", entropy=ENTROPY, could_bind=True)
    theirs = server(plus_offered=True)
    theirs.respond(b"n" + ours.respond(None)[1:])
    final = ours.respond(data(theirs.resolve(KEYS)))
    assert theirs.respond(final) is Refusal.BAD_CREDENTIALS
