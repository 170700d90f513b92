"""Delivery and trace lines, without a connection."""

from __future__ import annotations

import email
import email.policy
import re
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from mailauth import pop3, smtp
from mailauth.errors import Malformed
from mailauth_io import stores
from mailauth_io._workers import CLEANUP
from mailauth_io.server import delivery, trace
from tests.io.server_support import TIMEOUT, Run, on_both_loops

RECEIVED = b"Received: from here\r\n"


def content(*chunks: bytes) -> stores.MessageContent:
    """Return message content that consists of *chunks*."""
    made = stores.MessageContent(stores.Budget())
    made.chunks = [chunk for chunk in chunks if chunk]
    made.size = sum(map(len, chunks))
    return made


@pytest.mark.parametrize(
    ("peer", "literal"),
    [
        ("192.0.2.1", "[192.0.2.1]"),
        ("2001:db8::1", "[IPv6:2001:db8::1]"),
        ("fe80::1%eth0", "[IPv6:fe80::1]"),
        ("::ffff:192.0.2.1", "[192.0.2.1]"),
    ],
)
def test_received_field_gives_peer_as_address_literal(peer: str, literal: str) -> None:
    """RFC 5321 sections 4.1.3 and 4.4."""
    line = trace.received(
        hello=smtp.Hello(domain="client.test"),
        peer=peer,
        host_name="example.test",
        protocol="ESMTP",
        queue_id="q-1",
        when=1_000_000_000.9,
    )
    assert (
        line
        == (
            f"Received: from client.test ({literal})\r\n"
            "\tby example.test with ESMTP id q-1;\r\n"
            "\tSun, 09 Sep 2001 01:46:40 +0000\r\n"
        ).encode()
    )


def field_of(name: bytes, peer: str) -> bytes:
    """Return the Received field for a client that sends *name* with EHLO, without its date."""
    hello = smtp.Hello.parse(name.decode("utf-8", "surrogateescape"))
    line = trace.received(
        hello=hello, peer=peer, host_name="example.test", protocol="ESMTP", queue_id="q-1", when=1_000_000_000
    )
    end = b"\r\n\tby example.test with ESMTP id q-1;\r\n\tSun, 09 Sep 2001 01:46:40 +0000\r\n"
    assert line.endswith(end)
    return line.removesuffix(end)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (b"under_score.test", b"from under_score.test ([192.0.2.1])"),
        (b"[IPv6:2001:db8::9]", b"from [IPv6:2001:db8::9] ([192.0.2.1])"),
        (b"[x-tag:a=b]", b"from [x-tag:a=b] ([192.0.2.1])"),
        (b'[x-tag:)(a"b;c]', b"from [192.0.2.1] (helo==5Bx-tag:=29=28a=22b=3Bc=5D)"),
        (b"(none)", b"from [192.0.2.1] (helo==28none=29)"),
        (b"[::1]", b"from [192.0.2.1] (helo==5B::1=5D)"),
        (b"My PC", b"from [192.0.2.1] (helo=My=20PC)"),
        (b"\xfc", b"from [192.0.2.1] (helo==FC)"),
        ("\xfc".encode(), b"from [192.0.2.1] (helo==C3=BC)"),
        (b"a=29", b"from [192.0.2.1] (helo=a=3D29)"),
        (b"a)b\\", b"from [192.0.2.1] (helo=a=29b=5C)"),
        (b"!" + b"x" * 254, b"from [192.0.2.1] (helo==21" + b"x" * 61 + b")"),
        (b"x" * 61 + b"!?", b"from [192.0.2.1] (helo=" + b"x" * 61 + b"=21)"),
        (b"x" * 62 + b"!?", b"from [192.0.2.1] (helo=" + b"x" * 62 + b")"),
        (b"x" * 63 + b"!?", b"from [192.0.2.1] (helo=" + b"x" * 63 + b")"),
    ],
)
def test_invalid_client_name_is_encoded_in_a_comment(name: bytes, field: bytes) -> None:
    """No character of it can end the comment, the field or the value."""
    assert field_of(name, "192.0.2.1") == b"Received: " + field


CLIENT_NAMES = st.one_of(
    st.binary(min_size=1, max_size=255),
    st.text(min_size=1, max_size=255).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(st.sampled_from([*'[]()\\";,@<>=: .-_aZ0', "x-tag:", "[x:", "]", "é"]), max_size=40).map(
        lambda parts: "".join(parts).encode()
    ),
    st.from_regex(rb"\[[a-z-]{0,4}[a-z]:[!-Z^-~]{1,99}\]", fullmatch=True),
)


@given(CLIENT_NAMES, st.sampled_from([("192.0.2.1", "[192.0.2.1]"), ("2001:db8::1", "[IPv6:2001:db8::1]")]))
def test_any_client_name_gives_one_received_field_with_the_address(name: bytes, peer: tuple[str, str]) -> None:
    """RFC 5321 section 4.4: what a reader trusts is the address, which the client cannot change."""
    try:
        field = field_of(name, peer[0])
    except Malformed:
        return
    assert field.isascii()
    assert b"\r" not in field
    assert len(field) < 400
    parsed = email.message_from_bytes(field + b"; x\r\nSubject: x\r\n\r\nbody", policy=email.policy.SMTP)
    assert [key for key, _ in parsed.items()] == ["Received", "Subject"]
    assert parsed.get_payload() == "body"
    words = field.decode("ascii").removeprefix("Received: from ")
    client, _, comment = words.partition(" ")
    assert comment[:1] + comment[-1:] == "()"
    assert not set(words) & set('\\";,<>@')
    assert words.count("(") == words.count(")") == 1
    if client == peer[1]:
        assert re.fullmatch(r"\(helo=(?:[A-Za-z0-9.:_-]|=[0-9A-F]{2})+\)", comment) or comment == f"({client})"
        assert len(comment) <= 64 + len("(helo=)")
    else:
        assert comment == f"({peer[1]})"
        assert client.encode() == name


@pytest.mark.parametrize(
    ("extended", "tls", "authenticated", "keyword"),
    [
        (False, False, False, "SMTP"),
        (False, True, False, "SMTP"),
        (True, False, False, "ESMTP"),
        (True, True, False, "ESMTPS"),
        (True, False, True, "ESMTPA"),
        (True, True, True, "ESMTPSA"),
    ],
)
def test_protocol_keyword_depends_on_ehlo_tls_and_authentication(
    extended: bool, tls: bool, authenticated: bool, keyword: str
) -> None:
    """RFC 3848."""
    assert trace.protocol_keyword(extended=extended, tls=tls, authenticated=authenticated) == keyword


HEADERS = [
    (b"Return-Path: <a@b>\r\nS: 1\r\n", b"S: 1\r\n"),
    (b"S: 1\r\nRETURN-path : <a@b>\r\n", b"S: 1\r\n"),
    (b"Return-Path:\r\n <a@b>\r\n\t(c)\r\nS: 1\r\n", b"S: 1\r\n"),
    (b"Return-Path: 1\r\nReturn-Path: 2\r\nX-Envelope-To: eve@far.test\r\n", b""),
    (b"X-Return-Path: 1\r\nReturn-Pathological: 2\r\n", b"X-Return-Path: 1\r\nReturn-Pathological: 2\r\n"),
    (b"S: 1\r\n Return-Path: folded\r\n", b"S: 1\r\n Return-Path: folded\r\n"),
    (b"", b""),
]


@pytest.mark.parametrize("body", [b"", b"\r\n", b"\r\nReturn-Path: body\r\n\r\nX-Envelope-To: body\r\n"])
@pytest.mark.parametrize(("header", "clean"), HEADERS)
def test_envelope_header_fields_are_removed_at_any_chunk_boundary(header: bytes, clean: bytes, body: bytes) -> None:
    whole = header + body
    for cut in range(len(whole) + 1):
        for other in {cut, min(cut + 1, len(whole)), len(whole)}:
            made = content(whole[:cut], whole[cut:other], whole[other:])
            trace.strip_envelope(made)
            assert b"".join(made.chunks) == clean + body
            assert made.size == len(clean + body)


@given(st.lists(st.sampled_from([b"Received: x\r\n", b"RECEIVED :\r\n y\r\n", b"S: 1\r\n", b" folded\r\n"])))
def test_received_fields_are_counted_only_in_the_header_section(lines: list[bytes]) -> None:
    header = b"S: 0\r\n" + b"".join(lines)
    made = content(header, b"\r\nReceived: body\r\n")
    assert trace.strip_envelope(made) == sum(line[:8].upper() == b"RECEIVED" for line in lines)


@pytest.mark.parametrize("body", [b"", b"\r\n", b"\r\nbody\r\n", b"\r\nbody\r\n" * 200_000])
@pytest.mark.parametrize("line", [b"Subject: x\r\n", b" folded\r\n", b"X-Envelope-To: x\r\n"])
def test_header_section_over_the_limit_raises_header_too_long(line: bytes, body: bytes) -> None:
    """For every chunk size: a search through a 25 MB header would block the event loop."""
    number, rest = divmod(trace.MAX_HEADER, len(line))
    for more, too_long in ((b"x" * (rest - 2) + b"\r\n", False), (b"x" * (rest - 1) + b"\r\n", True)):
        whole = line * number + more + body
        for size in (len(whole), 65_536, 100_000):
            made = content(*(whole[start : start + size] for start in range(0, len(whole), size)))
            if too_long:
                with pytest.raises(trace.HeaderTooLong):
                    trace.strip_envelope(made)
                assert made.size == len(whole)
            else:
                assert trace.strip_envelope(made) == 0
                assert made.size == len(whole) - (len(line) * number if line.startswith(b"X-Env") else 0)


def test_a_message_without_envelope_lines_is_not_copied() -> None:
    chunks = (b"S: 1\r\n", b"\r\nbody", b" goes on\r\n")
    made = content(*chunks)
    trace.strip_envelope(made)
    assert all(kept is given for kept, given in zip(made.chunks, chunks, strict=True))


class Failing:
    """A maildrop store in front of a real one; with FailingOutbox, it fails at one call of stage or commit."""

    def __init__(self, maildrops: stores.Maildrops, outbox: stores.Outbox, fails: str, error: BaseException) -> None:
        self._maildrops, self._outbox = maildrops, outbox
        self._fails, self._error = fails, error
        self.count = 0

    def step(self, what: str) -> None:
        if f"{what} {self.count}" == self._fails:
            raise self._error
        self.count += 1

    async def open(self, name: str) -> stores.OpenedMaildrop | pop3.Unavailable:
        return await self._maildrops.open(name)

    async def stage(self, name: str, head: bytes, content: stores.MessageContent) -> stores.Staged:
        self.step("stage")
        return _Staged(self, await self._maildrops.stage(name, head, content))


class FailingOutbox:
    def __init__(self, failing: Failing, outbox: stores.Outbox) -> None:
        self._failing, self._outbox = failing, outbox

    async def stage(self, envelope: stores.Envelope, head: bytes, content: stores.MessageContent) -> stores.Staged:
        self._failing.step("stage")
        return _Staged(self._failing, await self._outbox.stage(envelope, head, content))


class _Staged:
    def __init__(self, failing: Failing, staged: stores.Staged) -> None:
        self._failing, self._staged = failing, staged

    async def commit(self) -> None:
        self._failing.step("commit")
        await self._staged.commit()

    def discard(self) -> None:
        self._staged.discard()


STEPS = ["stage 0", "stage 1", "stage 2", "commit 3", "commit 4", "commit 5"]


class Cancelled(BaseException):
    """Stands for the exception with which a loop cancels a task."""


def empty_stores(kind: str, directory: Path) -> tuple[stores.Maildrops, stores.Outbox]:
    if kind == "maildir":
        return stores.MaildirMaildrops(directory / "mail"), stores.MaildirOutbox(directory / "out")
    return stores.MemoryMaildrops(), stores.MemoryOutbox()


def message(budget: stores.Budget) -> delivery.Message:
    """Return a message for two maildrops and the outbox."""
    return delivery.Message(
        queue_id="q-1", reverse_path=smtp.Mailbox("a", "b.test"), maildrops=("alice", "bob"), relayed=("c@far.test",),
        received=RECEIVED, content=stores.MessageContent.of(b"S: 1\r\n\r\nbody\r\n", budget),
    )  # fmt: skip


async def count(maildrops: stores.Maildrops, outbox: stores.Outbox, directory: Path) -> list[int]:
    """Return the number of messages of alice, of bob and in the outbox."""
    CLEANUP.finish(TIMEOUT)
    numbers = []
    for name in ("alice", "bob"):
        opened = await maildrops.open(name)
        assert not isinstance(opened, pop3.Unavailable)
        numbers.append(len(opened.messages))
        opened.close()
    if isinstance(outbox, stores.MemoryOutbox):
        return [*numbers, len(outbox.messages)]
    return [*numbers, len([path for path in (directory / "out").rglob("*") if path.is_file()])]


@on_both_loops
@pytest.mark.parametrize("kind", ["memory", "maildir"])
def test_delivery_stores_the_message_in_every_store(run: Run, kind: str, tmp_path: Path) -> None:
    maildrops, outbox = empty_stores(kind, tmp_path)

    async def main() -> None:
        delivered = message(stores.Budget())
        reply = await delivery.deliver(delivered, maildrops, outbox)
        assert (reply.code, reply.enhanced_status_code) == (250, "2.0.0")
        delivered.content.release()
        assert await count(maildrops, outbox, tmp_path) == [1, 1, 1]

    run(main)


@on_both_loops
@pytest.mark.parametrize("kind", ["memory", "maildir"])
@pytest.mark.parametrize("fails", STEPS)
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), stores.BudgetExceeded(), RuntimeError("a mistake"), Cancelled()]
)
def test_failed_delivery_step_leaves_the_message_in_no_store(
    run: Run, kind: str, fails: str, error: BaseException, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two maildrops and the outbox: each call of stage or commit fails in each way."""
    maildrops, outbox = empty_stores(kind, tmp_path)
    failing = Failing(maildrops, outbox, fails, error)
    budget = stores.Budget()

    async def main() -> None:
        undelivered = message(budget)
        try:
            reply = await delivery.deliver(undelivered, failing, FailingOutbox(failing, outbox))
        except Cancelled:
            assert isinstance(error, Cancelled)
        else:
            assert (reply.code, reply.enhanced_status_code) == (
                (452, "4.3.1") if isinstance(error, stores.BudgetExceeded) else (451, "4.3.0")
            )
            assert "q-1" not in reply.text
        undelivered.content.release()
        assert await count(maildrops, outbox, tmp_path) == [0, 0, 0]

    run(main)
    assert budget.free == budget.size
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"mailauth.lock"}
    if isinstance(error, (OSError, RuntimeError)):
        part = "outbox" if fails in ("stage 2", "commit 5") else "maildrops"
        logged = f"store failed connection=q queue_id=q-1 part={part} reason="
        assert logged in caplog.text
        assert type(error).__name__ in caplog.text.partition(logged)[2]
        assert "Traceback" in caplog.text  # the failing store is not one of mailauth


@on_both_loops
def test_return_path_is_added_only_to_the_maildrop_copy(run: Run, tmp_path: Path) -> None:
    budget = stores.Budget()
    outbox = stores.MemoryOutbox()
    maildrops = stores.MemoryMaildrops()

    async def main() -> None:
        message = delivery.Message(
            queue_id="q-1", reverse_path=smtp.Mailbox("a", "b.test"), maildrops=("alice",), relayed=("c@far.test",),
            received=RECEIVED, content=stores.MessageContent.of(b"Return-Path: <x>\r\n\r\nbody\r\n", budget),
        )  # fmt: skip
        reply = await delivery.deliver(message, maildrops, outbox)
        assert str(reply) == "250 2.0.0 queued as q-1"
        message.content.release()
        opened = await maildrops.open("alice")
        assert not isinstance(opened, pop3.Unavailable)
        piece = await opened.read(1)
        assert piece.data == b"Return-Path: <a@b.test>\r\n" + RECEIVED + b"\r\nbody\r\n"

    run(main)
    assert [message.data for message in outbox.messages] == [RECEIVED + b"\r\nbody\r\n"]


class Selective(stores.MemoryOutbox):
    """An outbox that rejects every message."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def stage(self, envelope: stores.Envelope, head: bytes, content: stores.MessageContent) -> stores.Staged:
        raise self.error


@on_both_loops
def test_reply_of_an_outbox_that_rejects_a_message_is_sent(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = smtp.Reply(550, "5.7.1", "sender blocked")
    maildrops, outbox = stores.MemoryMaildrops(), Selective(stores.DeliveryRejected(blocked))

    async def main() -> None:
        rejected = message(stores.Budget())
        assert await delivery.deliver(rejected, maildrops, outbox) == blocked
        assert await count(maildrops, outbox, tmp_path) == [0, 0, 0]

    run(main)
    assert caplog.text == ""


def test_only_a_negative_reply_can_reject_a_message() -> None:
    for code in (250, 354):
        with pytest.raises(
            ValueError, match=f"reply must be a 4yz or 5yz reply, not {code}; to accept a message, return"
        ):
            stores.DeliveryRejected(smtp.Reply(code, "", "ok"))
    with pytest.raises(TypeError, match="reply must be"):
        stores.DeliveryRejected("550")  # type: ignore[arg-type]  # the mistake
