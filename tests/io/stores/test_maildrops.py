"""The behavior of all maildrop stores."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from mailauth import pop3
from mailauth_io._line_ends import Growth, crlf_growth, with_crlf
from mailauth_io._workers import CLEANUP
from mailauth_io.stores import (
    Budget,
    BudgetExceeded,
    MaildirMaildrops,
    Maildrops,
    MemoryMaildrops,
    MessageContent,
    OpenedMaildrop,
    memory_maildrops,
)
from tests.io.server_support import Run, on_both_loops

pytestmark = on_both_loops

Make = Callable[[], Maildrops]


@pytest.fixture(params=["memory", "maildir"])
def maildrops(request: pytest.FixtureRequest, tmp_path: Path) -> Maildrops:
    return MemoryMaildrops() if request.param == "memory" else MaildirMaildrops(tmp_path / "mail")


async def put(maildrops: Maildrops, name: str, text: bytes, head: bytes = b"", budget: Budget | None = None) -> None:
    content = MessageContent.of(text, budget or Budget())
    await (await maildrops.stage(name, head, content)).commit()
    content.release()


async def opened(maildrops: Maildrops, name: str) -> OpenedMaildrop:
    maildrop = await maildrops.open(name)
    assert not isinstance(maildrop, pop3.Unavailable)
    return maildrop


async def whole(maildrop: OpenedMaildrop, number: int) -> bytes:
    pieces = [await maildrop.read(number)]
    while not pieces[-1].last:
        pieces.append(await maildrop.read(number, sum(len(piece.data) for piece in pieces)))
    return b"".join(piece.data for piece in pieces)


def test_new_mailbox_has_empty_maildrop(run: Run, maildrops: Maildrops) -> None:
    async def main() -> None:
        assert (await opened(maildrops, "alice")).messages == ()

    run(main)


def test_staged_message_is_not_visible_before_commit(run: Run, maildrops: Maildrops) -> None:
    async def main() -> None:
        staged = await maildrops.stage("alice", b"H: 1\r\n", MessageContent.of(b"\r\nbody\r\n", Budget()))
        first = await opened(maildrops, "alice")
        assert first.messages == ()
        first.close()
        await staged.commit()
        assert first.messages == ()
        second = await opened(maildrops, "alice")
        assert [message.size for message in second.messages] == [14]
        assert await whole(second, 1) == b"H: 1\r\n\r\nbody\r\n"

    run(main)


@pytest.mark.parametrize("committed", [False, True])
def test_discarded_message_is_removed_and_frees_memory(
    run: Run, maildrops: Maildrops, committed: bool, tmp_path: Path
) -> None:
    budget = Budget()

    async def main() -> None:
        content = MessageContent.of(b"body\r\n", budget)
        staged = await maildrops.stage("alice", b"", content)
        if committed:
            await staged.commit()
        staged.discard()
        content.release()
        CLEANUP.finish(60)
        assert (await opened(maildrops, "alice")).messages == ()

    run(main)
    assert budget.free == budget.size
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] in ([], ["mailauth.lock"])


def test_messages_are_numbered_in_order_of_arrival(run: Run, maildrops: Maildrops) -> None:
    async def main() -> None:
        for number in range(1, 4):
            await put(maildrops, "alice", b"x" * number + b"\r\n")
        maildrop = await opened(maildrops, "alice")
        assert [message.size for message in maildrop.messages] == [3, 4, 5]
        assert [await whole(maildrop, number) for number in (3, 1)] == [b"xxx\r\n", b"x\r\n"]

    run(main)


def test_unique_ids_are_persistent_and_distinct(run: Run, maildrops: Maildrops) -> None:
    """RFC 1939 section 7: the unique-id of a message persists across sessions."""

    async def main() -> None:
        for _ in range(2):
            await put(maildrops, "alice", b"same\r\n")
        first = await opened(maildrops, "alice")
        first.close()
        await put(maildrops, "alice", b"same\r\n")
        second = await opened(maildrops, "alice")
        ids = [message.unique_id for message in second.messages]
        assert ids[:2] == [message.unique_id for message in first.messages]
        assert len(set(ids)) == 3

    run(main)


TEXTS = [b"line\r\n" * 50_000, b"x" * 200_000 + b"\r\n", b"\r\n" * 70_000, b"no end", b"", b".\r\n"]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: str(len(text)))
def test_message_read_in_pieces_has_the_reported_size(run: Run, maildrops: Maildrops, text: bytes) -> None:
    """The size in LIST is the size of the content of RETR, without dot-stuffing."""

    async def main() -> None:
        await put(maildrops, "alice", text)
        maildrop = await opened(maildrops, "alice")
        got = await whole(maildrop, 1)
        assert got == (text if text.endswith(b"\r\n") or not text else text + b"\r\n")
        assert maildrop.messages[0].size == len(got)

    run(main)


BARE = [
    b"a\nb\n",
    b"a\rb\r\n",
    b"a\r\r\nb\n\r\n",
    b"a\r\n\rb",
    b"\n" * 70_000,
    b"x" * 65_535 + b"\r" + b"y" * 9 + b"\n",
    b"x\r",
]


@pytest.mark.parametrize("text", BARE, ids=range(len(BARE)))
@pytest.mark.parametrize("head", [b"", b"H: 1\n"])
def test_bare_cr_or_lf_is_converted_to_crlf(run: Run, maildrops: Maildrops, text: bytes, head: bytes) -> None:
    """RFC 1939 section 3: lines end in CRLF.  A client that accepts a bare LF would see another end of the message."""

    async def main() -> None:
        await put(maildrops, "alice", text, head=head)
        maildrop = await opened(maildrops, "alice")
        got = await whole(maildrop, 1)
        assert got.replace(b"\r\n", b"").translate(None, b"\r\n") == got.replace(b"\r\n", b"")
        ended = head + (text if text.endswith(b"\r\n") else text + b"\r\n")  # as seal() does
        assert got == re.sub(rb"\r\n|\r|\n", b"\r\n", ended)
        assert maildrop.messages[0].size == len(got)

    run(main)


def test_snapshot_is_a_valid_pop3_maildrop(run: Run, maildrops: Maildrops) -> None:
    """RFC 1939 section 7: unique-ids of 1 to 70 characters from 0x21 to 0x7E."""

    async def main() -> None:
        for _ in range(3):
            await put(maildrops, "alice", b"x\r\n")
        assert len(pop3.Maildrop(messages=(await opened(maildrops, "alice")).messages).messages) == 3

    run(main)


def test_a_closed_maildrop_deletes_nothing(run: Run, maildrops: Maildrops) -> None:
    """RFC 1939 section 6: without QUIT there is no UPDATE state."""

    async def main() -> None:
        await put(maildrops, "alice", b"x\r\n")
        first = await opened(maildrops, "alice")
        await whole(first, 1)
        first.close()
        assert len((await opened(maildrops, "alice")).messages) == 1

    run(main)


def test_reading_can_be_interrupted_and_restarted(run: Run, maildrops: Maildrops) -> None:
    async def main() -> None:
        await put(maildrops, "alice", b"first\r\n" * 30_000)
        await put(maildrops, "alice", b"second\r\n")
        maildrop = await opened(maildrops, "alice")
        assert not (await maildrop.read(1)).last
        assert await whole(maildrop, 2) == b"second\r\n"
        assert await whole(maildrop, 1) == b"first\r\n" * 30_000

    run(main)


def test_maildrop_is_open_in_one_session_at_a_time(run: Run, maildrops: Maildrops) -> None:
    """RFC 1939 section 4: the server acquires exclusive access before the TRANSACTION state."""

    async def main() -> None:
        first = await opened(maildrops, "alice")
        assert await maildrops.open("alice") is pop3.Unavailable.IN_USE
        (await opened(maildrops, "bob")).close()
        first.close()
        second = await opened(maildrops, "alice")
        first.close()
        assert await maildrops.open("alice") is pop3.Unavailable.IN_USE
        second.close()

    run(main)


def test_messages_are_deleted_only_by_update(run: Run, maildrops: Maildrops) -> None:
    """RFC 1939 section 6."""
    budget = Budget()

    async def main() -> None:
        for text in (b"one\r\n", b"two\r\n", b"three\r\n"):
            await put(maildrops, "alice", text, budget=budget)
        first = await opened(maildrops, "alice")
        first.close()
        second = await opened(maildrops, "alice")
        assert len(second.messages) == 3
        await put(maildrops, "alice", b"four\r\n", budget=budget)
        await second.update(frozenset({1, 3}))
        second.close()
        third = await opened(maildrops, "alice")
        assert [await whole(third, number) for number in (1, 2)] == [b"two\r\n", b"four\r\n"]
        await third.update(frozenset({1, 2}))
        assert budget.free == budget.size

    run(main)


def test_deletions_do_not_search_the_maildrop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """architecture.md, invariant 7: in a list, 100,000 deletions would compare billions of messages."""
    compared = 0

    def equal(copy: object, other: object) -> bool:
        nonlocal compared
        compared += 1
        return copy is other

    monkeypatch.setattr(memory_maildrops._Copy, "__eq__", equal)
    monkeypatch.setattr(memory_maildrops._Copy, "__hash__", object.__hash__)
    maildrops = MemoryMaildrops()
    budget = Budget()

    async def main() -> None:
        for _ in range(100):
            await put(maildrops, "alice", b"x\r\n", budget=budget)
        content = MessageContent.of(b"y\r\n", budget)
        (await maildrops.stage("alice", b"", content)).discard()
        staged = await maildrops.stage("alice", b"", content)
        await staged.commit()
        staged.discard()
        content.release()
        await (await opened(maildrops, "alice")).update(frozenset(range(1, 101)))
        assert budget.free == budget.size
        assert maildrops.messages("alice") == ()

    run(main)
    assert compared == 0


def test_mail_delivered_during_session_is_not_in_snapshot(run: Run, maildrops: Maildrops) -> None:
    async def main() -> None:
        await put(maildrops, "alice", b"one\r\n")
        maildrop = await opened(maildrops, "alice")
        await put(maildrops, "alice", b"two\r\n")
        assert len(maildrop.messages) == 1
        assert await whole(maildrop, 1) == b"one\r\n"

    run(main)


def test_recipients_share_the_memory_of_one_message(run: Run) -> None:
    maildrops = MemoryMaildrops()
    budget = Budget(250_000)

    async def main() -> None:
        content = MessageContent.of(b"x" * 60_000 + b"\r\n", budget)
        for name in ("alice", "bob", "carol"):
            await (await maildrops.stage(name, b"", content)).commit()
        content.release()
        for name in ("alice", "bob", "carol"):
            assert 185_000 < budget.free < 190_000
            assert budget.kept == budget.size - budget.free
            await (await opened(maildrops, name)).update(frozenset({1}))
        assert budget.free == budget.size

    run(main)


def test_memory_maildrops_are_bounded(run: Run) -> None:
    budget = Budget(2_000)

    async def main() -> None:
        content = MessageContent.of(b"body\r\n", budget)
        with pytest.raises(BudgetExceeded):
            await MemoryMaildrops().stage("alice", b"x" * 1_500, content)
        content.release()

    run(main)
    assert budget.free == budget.size


async def stored(maildrops: Maildrops, name: str, size: int, budget: Budget) -> bool:
    """Return whether a message of *size* bytes is accepted."""
    content = MessageContent.of(b"x" * (size - 2) + b"\r\n", budget)
    try:
        await (await maildrops.stage(name, b"", content)).commit()
    except BudgetExceeded:
        return False
    finally:
        content.release()
    return True


async def empty(maildrops: Maildrops, name: str) -> None:
    maildrop = await opened(maildrops, name)
    await maildrop.update(frozenset(range(1, len(maildrop.messages) + 1)))
    maildrop.close()


def test_full_memory_maildrops_leave_memory_to_messages_in_progress(run: Run) -> None:
    """Nobody reads them.  Deleting the messages makes room again."""
    maildrops, budget = MemoryMaildrops(), Budget(100_000)

    async def main() -> None:
        for name in ("alice", "bob", "carol"):
            while await stored(maildrops, name, 100, budget):
                pass
        assert 49_000 < budget.kept == budget.size - budget.free <= 50_000
        content = MessageContent.of(b"x" * 49_000 + b"\r\n", budget)  # is received, for a maildrop of another kind
        content.release()
        await empty(maildrops, "alice")
        assert await stored(maildrops, "alice", 100, budget)
        for name in ("alice", "bob", "carol"):
            await empty(maildrops, name)
        assert (budget.free, budget.kept) == (budget.size, 0)

    run(main)


@pytest.mark.parametrize(("first", "second"), [(20_000, 10_000), (24_488, 100), (40_000, 100)])
def test_one_memory_maildrop_leaves_memory_to_the_others(run: Run, first: int, second: int) -> None:
    """It may hold a quarter, or one message; messages that a test has added do not count."""
    maildrops, budget = MemoryMaildrops(), Budget(100_000)
    maildrops.add("alice", b"x" * 30_000)

    async def main() -> None:
        assert await stored(maildrops, "alice", first, budget)
        assert not await stored(maildrops, "alice", second, budget)
        assert await stored(maildrops, "bob", second, budget)
        await empty(maildrops, "alice")
        assert await stored(maildrops, "alice", second, budget)
        for name in ("alice", "bob"):
            await empty(maildrops, name)
        assert (budget.free, budget.kept) == (budget.size, 0)

    run(main)


def test_a_discarded_message_makes_room_in_its_maildrop(run: Run) -> None:
    maildrops, budget = MemoryMaildrops(), Budget(100_000)

    async def main() -> None:
        content = MessageContent.of(b"x" * 20_000, budget)
        staged = await maildrops.stage("alice", b"", content)
        content.release()
        assert not await stored(maildrops, "alice", 10_000, budget)
        staged.discard()
        assert await stored(maildrops, "alice", 20_000, budget)

    run(main)


@given(st.lists(st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"x", b"x\r\n", b"\n\r"]), max_size=8))
def test_growth_is_what_conversion_to_crlf_adds(run: Run, pieces: list[bytes]) -> None:
    """For any line ends, split anywhere."""
    assert crlf_growth(*pieces) == sum(map(len, with_crlf(pieces))) - sum(map(len, pieces))


def test_the_size_of_a_message_is_counted_once_for_all_its_recipients(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is delivered, with turns of the event loop for others, and not when a maildrop is opened."""
    maildrops, counted, turns = MemoryMaildrops(), 0, 0

    def count(growth: Growth, piece: bytes) -> None:
        nonlocal counted
        counted += len(piece)
        real(growth, piece)

    async def turn() -> None:
        nonlocal turns
        turns += 1

    real = Growth.count
    monkeypatch.setattr(Growth, "count", count)
    monkeypatch.setattr(memory_maildrops, "checkpoint", turn)
    content = MessageContent(Budget())
    for _ in range(40):
        content.append(b"a\n" * 30_000)

    async def main() -> None:
        for name in ("alice", "bob", "carol"):
            await (await maildrops.stage(name, b"H: 1\r\n", content)).commit()
        assert 2_400_000 <= counted < 2_400_100
        assert turns == 2
        for name in ("alice", "bob", "carol"):
            assert (await opened(maildrops, name)).messages[0].size == 6 + 3_600_000
        assert counted < 2_400_100

    run(main)


def test_a_test_adds_messages_and_reads_them(run: Run) -> None:
    """A message without trace lines, and one that was delivered, both with CRLF line ends."""
    maildrops = MemoryMaildrops()
    maildrops.add("alice", b"Subject: a\n\nbare\nlines\n")

    async def main() -> None:
        await put(maildrops, "alice", b"Subject: b\r\n\r\n", b"Received: by test\r\n")
        maildrop = await opened(maildrops, "alice")
        maildrops.add("alice", b"added later")
        assert [await whole(maildrop, number) for number in (1, 2)] == texts[:2]
        assert [message.size for message in maildrop.messages] == list(map(len, texts[:2]))
        assert len({message.unique_id for message in maildrop.messages}) == 2
        await maildrop.update(frozenset({1}))

    texts = [
        b"Subject: a\r\n\r\nbare\r\nlines\r\n",
        b"Received: by test\r\nSubject: b\r\n\r\n",
        b"added later\r\n",
    ]
    assert maildrops.messages("bob") == ()
    run(main)
    assert [message.data for message in maildrops.messages("alice")] == texts[1:]
    assert [message.head for message in maildrops.messages("alice")] == [b"Received: by test\r\n", b""]


def test_deleting_an_added_message_returns_its_memory(run: Run) -> None:
    maildrops = MemoryMaildrops()
    assert maildrops._added.max_kept == 256 * 1024 * 1024
    maildrops._added = Budget(10_000)
    maildrops.add("alice", b"x" * 3_000)

    async def main() -> None:
        await (await opened(maildrops, "alice")).update(frozenset({1}))

    with pytest.raises(BudgetExceeded):
        maildrops.add("alice", b"x" * 2_000)
    run(main)
    maildrops.add("alice", b"x" * 2_000)


@pytest.mark.parametrize("name", ["Alice", "alice@example.test", "", "a b"])
def test_name_that_is_not_canonical_is_rejected(run: Run, name: str) -> None:
    """Otherwise a test would add a message where no account finds it."""
    with pytest.raises(ValueError, match="canonical name"):
        MemoryMaildrops().add(name, b"")
    with pytest.raises(ValueError, match="canonical name"):
        MemoryMaildrops().messages(name)


def test_added_message_must_be_bytes(run: Run) -> None:
    with pytest.raises(TypeError, match="data must be bytes, not str"):
        MemoryMaildrops().add("alice", "Subject: a")  # type: ignore[arg-type]  # under test
