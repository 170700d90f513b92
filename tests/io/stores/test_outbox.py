"""The behavior of all outbox stores."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from mailauth_io._workers import CLEANUP
from mailauth_io.stores import Budget, BudgetExceeded, Envelope, MaildirOutbox, MemoryOutbox, MessageContent, Outbox
from tests.io.server_support import Run, on_both_loops

ENVELOPE = Envelope(queue_id="q-1", reverse_path="alice@example.test", recipients=("bob@far.test", '"a b"@far.test'))
HEAD = b"Received: from here\r\n"
TEXT = b"Subject: hello\r\n\r\nbody\r\n"

Held = Callable[[], list[bytes]]


@pytest.fixture(params=["memory", "maildir"])
def outbox(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Outbox, Held]:
    """An outbox, and a function that returns the messages visible in it, without envelopes."""
    if request.param == "memory":
        memory = MemoryOutbox()
        return memory, lambda: [message.data for message in memory.messages]
    path = tmp_path / "outbox"

    def held() -> list[bytes]:
        CLEANUP.finish(60)
        files = sorted((path / "new").iterdir()) if path.exists() else []
        return [b"".join(file.read_bytes().replace(b"\n", b"\r\n").splitlines(True)[3:]) for file in files]

    return MaildirOutbox(path), held


@on_both_loops
def test_message_is_visible_only_after_commit(run: Run, outbox: tuple[Outbox, Held]) -> None:
    box, held = outbox

    async def main() -> None:
        staged = await box.stage(ENVELOPE, HEAD, MessageContent.of(TEXT, Budget()))
        assert held() == []
        await staged.commit()
        assert held() == [HEAD + TEXT]

    run(main)


@on_both_loops
@pytest.mark.parametrize("committed", [False, True])
def test_discarded_message_is_removed_and_frees_memory(run: Run, outbox: tuple[Outbox, Held], committed: bool) -> None:
    box, held = outbox
    budget = Budget()
    content = MessageContent.of(TEXT, budget)

    async def main() -> None:
        staged = await box.stage(ENVELOPE, HEAD, content)
        if committed:
            await staged.commit()
        staged.discard()

    run(main)
    content.release()
    assert held() == []
    assert budget.free == budget.size


@on_both_loops
def test_memory_outbox_keeps_envelope_and_clear_frees_memory(run: Run) -> None:
    box = MemoryOutbox()
    budget = Budget()
    content = MessageContent.of(TEXT, budget)

    async def main() -> None:
        await (await box.stage(ENVELOPE, HEAD, content)).commit()

    run(main)
    content.release()
    assert [message.envelope for message in box.messages] == [ENVELOPE]
    assert budget.free < budget.size
    box.clear()
    assert box.messages == ()
    assert budget.free == budget.size


@on_both_loops
def test_the_memory_outbox_is_bounded(run: Run) -> None:
    box = MemoryOutbox()
    budget = Budget(1000)
    content = MessageContent.of(TEXT, budget)

    async def main() -> None:
        with pytest.raises(BudgetExceeded):
            await box.stage(ENVELOPE, HEAD, content)

    run(main)
    content.release()
    assert budget.free == budget.size


@on_both_loops
def test_full_memory_outbox_leaves_memory_to_messages_in_progress(run: Run) -> None:
    """Otherwise mail that the program has not fetched would stop local mail too."""
    box, budget = MemoryOutbox(), Budget(100_000)

    async def main() -> None:
        while True:
            content = MessageContent.of(TEXT, budget)
            try:
                await (await box.stage(ENVELOPE, HEAD, content)).commit()
            finally:
                content.release()

    with pytest.raises(BudgetExceeded):
        run(main)
    assert 48_000 < budget.kept == budget.size - budget.free <= 50_000
    box.clear()
    assert (budget.free, budget.kept) == (budget.size, 0)


@on_both_loops
@pytest.mark.parametrize("reverse_path", ["alice@example.test", ""])
def test_maildir_outbox_writes_envelope_as_header_fields(run: Run, tmp_path: Path, reverse_path: str) -> None:
    envelope = Envelope(queue_id="q-1", reverse_path=reverse_path, recipients=ENVELOPE.recipients)

    async def main() -> None:
        staged = await MaildirOutbox(tmp_path / "out").stage(envelope, HEAD, MessageContent.of(TEXT, Budget()))
        await staged.commit()

    run(main)
    (file,) = (tmp_path / "out" / "new").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == (
        b"Return-Path: <" + reverse_path.encode() + b">\n"
        b"X-Envelope-To: bob@far.test\n"
        b'X-Envelope-To: "a b"@far.test\n'
        b"Received: from here\nSubject: hello\n\nbody\n"
    )


@on_both_loops
def test_discarding_a_message_does_not_search_the_outbox(run: Run) -> None:
    """architecture.md, invariant 7: a failed delivery takes as long as with an empty outbox."""
    steps: list[int] = []

    async def main() -> None:
        box = MemoryOutbox()
        budget = Budget()
        for _ in range(2):
            staged = await box.stage(ENVELOPE, HEAD, MessageContent.of(TEXT, budget))
            await staged.commit()
            steps.append(executed(staged.discard))
            for _ in range(50):
                await (await box.stage(ENVELOPE, HEAD, MessageContent.of(TEXT, budget))).commit()

    run(main)
    assert steps[0] == steps[1]


def executed(function: Callable[[], object]) -> int:
    """Return the number of instructions of the interpreter that *function* executes."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count
