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


def test_plus_login_succeeds_with_matching_channel_binding() -> None:
    """RFC 5802 section 6, RFC 9266."""
    ours, theirs = plus_client(), plus_server()
    assert ours.respond(None).startswith(b"p=tls-exporter,,n=user,r=")
    assert log_in(ours, theirs, {"user": b"pencil"}) == Success(
        authentication_identity="user", authorization_identity="user"
    )


def test_plus_login_fails_with_other_channel_binding_data() -> None:
    """With a man in the middle, the two ends have different channel binding data."""
    ours = plus_client(data=b"what another TLS layer exported")
    assert log_in(ours, plus_server(), {"user": b"pencil"}) is Refusal.BAD_CREDENTIALS


def test_unavailable_channel_binding_type_is_malformed() -> None:
    assert plus_server().respond(plus_client("tls-unique").respond(None)) is Fault.MALFORMED


@pytest.mark.parametrize("flag", [b"n", b"y"])
def test_plus_server_rejects_message_without_channel_binding(flag: bytes) -> None:
    """RFC 5802 section 6."""
    assert plus_server().respond(flag + b",,n=user,r=abc") is Fault.MALFORMED


def test_flag_y_is_rejected_only_if_plus_was_offered() -> None:
    """RFC 5802 section 6: ``y``, although -PLUS was offered, indicates a downgrade."""
    ours = ScramSha256Client(authentication_identity="user", password=b"pencil", entropy=ENTROPY, could_bind=True)
    first = ours.respond(None)
    assert first.startswith(b"y,,")
    assert server(plus_offered=True).respond(first) is Refusal.BAD_CREDENTIALS
    assert isinstance(log_in(ours, server(), {"user": b"pencil"}), Success)


def test_client_without_channel_binding_is_accepted_if_plus_was_offered() -> None:
    assert isinstance(log_in(client(), server(plus_offered=True), {"user": b"pencil"}), Success)


def test_flag_changed_in_transit_fails_the_login() -> None:
    """RFC 5802 section 6: the proof covers the header, so an attacker cannot change ``y`` to ``n``."""
    ours = ScramSha256Client(authentication_identity="user", password=b"pencil", entropy=ENTROPY, could_bind=True)
    theirs = server(plus_offered=True)
    theirs.respond(b"n" + ours.respond(None)[1:])
    final = ours.respond(data(theirs.resolve(KEYS)))
    assert theirs.respond(final) is Refusal.BAD_CREDENTIALS
