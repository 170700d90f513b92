"""The listing of a maildrop by the client: numbers, sizes and unique-ids (RFC 1939 sections 5 and 7)."""

from __future__ import annotations

import pytest

from mailauth_io import client
from tests.io.client.peers import MAILS
from tests.io.client.test_collect import collected
from tests.io.server_support import Run, on_both_loops


@on_both_loops
def test_messages_to_skip_are_neither_retrieved_nor_deleted(run: Run) -> None:
    got: list[client.CollectedMessage] = []
    peer = collected(run, {}, got, skip={"id-1", "id-3", "id-9"})
    assert [message.number for message in got] == [2]
    assert peer.deleted == [2]


@on_both_loops
@pytest.mark.parametrize(
    ("one", "two"),
    [
        (b"caf\xe9", b"caf\xe8"),
        (b"caf\xe9", b"caf?"),
        (b"caf\xe9", rb"caf\xe9"),
        (b"caf\xe9", b"caf\xc3\xa9"),
        (b"caf\xa0a", b"caf\xa0b"),
        (b"caf\x1ca", b"caf\x1cb"),
        (b"caf\0", b"caf\x7f"),
        (b"tea 1", b"tea 2"),
        (b"tea\t1", b"tea 1"),
        (b"x" * 71, b"x" * 72),
    ],
)
def test_invalid_unique_ids_that_differ_are_different(run: Run, one: bytes, two: bytes) -> None:
    """RFC 1939 section 7 allows 1 to 70 characters from 0x21 to 0x7E, and nothing after a unique-id."""
    listing = {"UIDL": b"+OK\r\n1 " + one + b"\r\n2 " + two + b" \r\n3 id-3\r\n.\r\n"}
    got: list[client.CollectedMessage] = []
    collected(run, listing, got)
    first = got[0].unique_id
    assert first is not None
    assert first.isprintable() or "\t" in first
    assert collected(run, listing, skip={first}).deleted == [2, 3]


@on_both_loops
@pytest.mark.parametrize("said", [b"-ERR what?\r\n", b"+OK\r\n.\r\n"])
def test_messages_have_no_unique_id_without_uidl(run: Run, said: bytes) -> None:
    got: list[client.CollectedMessage] = []
    assert collected(run, {"UIDL": said}, got, skip={"id-1"}).deleted == [1, 2, 3]
    assert [message.unique_id for message in got] == [None] * 3


@on_both_loops
@pytest.mark.parametrize(
    "listing",
    [
        b"1   %(1)d\r\n2\t%(2)d\r\n3 \t %(3)d \r\n",
        b"\r\n1 %(1)d\r\n2 %(2)d\r\n3 %(3)d\r\n",
        b" \t\r\n  1 %(1)d\r\n2 %(2)d octets\r\n3 %(3)d\t0\r\n\r\n",
    ],
    ids=["aligned", "empty line first", "blanks and further words"],
)
def test_blanks_and_empty_lines_in_a_listing_are_ignored(run: Run, listing: bytes) -> None:
    got: list[client.CollectedMessage] = []
    numbers = {b"%d" % number: len(mail) for number, mail in enumerate(MAILS, 1)}
    sizes = b"+OK\r\n" + listing % numbers + b".\r\n"
    unique_ids = b"+OK\r\n" + (listing % numbers).replace(b"%d" % len(MAILS[0]), b"id-1") + b".\r\n"
    assert collected(run, {"LIST": sizes, "UIDL": unique_ids}, got, skip={"id-1"}).deleted == [2, 3]
    assert [(message.number, message.complete) for message in got] == [(2, True), (3, True)]


@on_both_loops
@pytest.mark.parametrize("line", [b"1", b"1 \t", b"one 5", b"0 5", b"-1 5", b"1,5", b"+1 5", b"id-1"])
def test_line_of_a_listing_that_is_not_clear_is_an_error(run: Run, line: bytes) -> None:
    """What number a unique-id belongs to decides which message is deleted."""
    for verb in ("LIST", "UIDL"):
        with pytest.raises(client.ConnectionFailed, match=f"the response to {verb} has an invalid "):
            collected(run, {verb: b"+OK\r\n" + line + b"\r\n.\r\n"})
