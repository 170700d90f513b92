"""Replies of a next hop that come too early, or that a server may not send."""

from __future__ import annotations

import socket
from collections.abc import Iterable

import pytest

from tests.io.next_hops import FAR, IN_CLEAR, LOCAL, logged_in, relay_to, send
from tests.io.scripted_hop import Break, ScriptedHop
from tests.io.server_support import Run, Served, on_both_loops
from tests.io.tls import client_context

pytestmark = on_both_loops

ODD = [
    ("571 5.7.1 blocked", "554 5.7.1 blocked"),
    ("560 no", "554 5.0.0 no"),
    ("599 5.1.1 no such user", "554 5.1.1 no such user"),
    ("566 4.7.1 odd", "554 5.0.0 4.7.1 odd"),
    ("498 4.7.1 later", "451 4.7.1 later"),
    ("460", "451 4.0.0"),
    ("471-4.4.5 first\r\n471 4.4.5 second", "451 4.4.5 first second"),
    ("559 5.5.9 in the grammar", "559 5.5.9 in the grammar"),
    ("450 4.2.0 in the grammar", "450 4.2.0 in the grammar"),
]
"""Replies as sites with Postfix, Exim, sendmail and OpenSMTPD configure them, neighbors, and two of the grammar."""

odd = pytest.mark.parametrize(("said", "passed_on"), ODD)


def relayed(run: Run, verb: str, said: str, *, strict: bool = False) -> list[str]:
    """Return the replies to two recipients, one of them local, and to the content, if the next hop says *said*."""
    hop = ScriptedHop(replies={verb: f"{said}\r\n".encode()})

    def client(served: Served) -> list[str]:
        with logged_in(served) as smtp:
            return send(smtp, FAR, LOCAL)

    with hop.listening():
        return run(lambda: relay_to(hop.port, client, strict_syntax=strict, **IN_CLEAR))


@odd
@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
def test_odd_rejection_of_a_recipient_is_passed_on_with_a_code_of_the_grammar(
    run: Run, verb: str, said: str, passed_on: str
) -> None:
    """RFC 5321 section 4.2.1: the first digit decides.  The other recipients still get the message."""
    replies = relayed(run, verb, said)
    assert replies[0].startswith(passed_on)
    assert [reply[:3] for reply in replies[1:]] == ["250", "250"]


@odd
@pytest.mark.parametrize("verb", ["DATA", "."])
def test_odd_rejection_of_a_message_is_passed_on_with_a_code_of_the_grammar(
    run: Run, verb: str, said: str, passed_on: str
) -> None:
    replies = relayed(run, verb, said)
    assert [reply[:3] for reply in replies[:2]] == ["250", "250"]
    assert replies[2].startswith(passed_on)


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "."])
def test_odd_positive_reply_accepts(run: Run, verb: str) -> None:
    assert [reply[:3] for reply in relayed(run, verb, "299 2.0.0 ok")] == ["250"] * 3


@pytest.mark.parametrize(("verb", "said"), [("DATA", "398 x"), ("DATA", "250 ok"), ("RCPT", "398 x"), (".", "399 x")])
def test_odd_intermediate_reply_gives_451(run: Run, verb: str, said: str) -> None:
    """Only 354 accepts DATA, and 3yz is an error elsewhere."""
    assert any(reply.startswith("451 4.4.1") for reply in relayed(run, verb, said))


@pytest.mark.parametrize("said", ["199 x", "600 x", "5711 x", "57 x", "abc x", "571x"])
def test_what_is_no_reply_gives_451(run: Run, said: str) -> None:
    assert relayed(run, "RCPT", said)[0].startswith("451 4.4.1")


@pytest.mark.parametrize("said", ["571 5.7.1 blocked", "498 4.7.1 later", "299 2.0.0 ok"])
def test_odd_reply_gives_451_if_syntax_is_strict(run: Run, said: str) -> None:
    assert relayed(run, "RCPT", said, strict=True)[0].startswith("451 4.4.1")


SECOND = "edward@far.test"


@pytest.mark.parametrize(
    ("first", "second", "passed_on"),
    [
        (None, "552 5.5.3 too many recipients", "452 4.5.3 too many recipients"),
        (None, "552-5.5.3 limit\r\n552 5.5.3 reached", "452 4.5.3 limit reached"),
        (None, "452 4.5.3 too many recipients", "452 4.5.3 too many recipients"),
        (None, "552 5.2.2 mailbox full", "552 5.2.2 mailbox full"),
        (None, "552 too much", "552 5.0.0 too much"),
        (None, "550 5.5.3 too many recipients", "550 5.5.3 too many recipients"),
        ("550 5.1.1 unknown", "552 5.5.3 too many recipients", "552 5.5.3 too many recipients"),
    ],
)
def test_old_code_for_too_many_recipients_is_temporary(
    run: Run, first: str | None, second: str, passed_on: str
) -> None:
    """RFC 5321 section 4.5.3.1.10: the client sends the rest in another transaction.

    Without an accepted recipient there is no rest: the next transaction would fail in the same way.
    """
    replies = {"RCPT 1": first, "RCPT 2": second}
    hop = CountingHop(replies={key: f"{said}\r\n".encode() for key, said in replies.items() if said is not None})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, FAR, SECOND)[:2] == [first or "250 2.1.5 recipient ok", passed_on]

    with hop.listening():
        run(lambda: relay_to(hop.port, client, **IN_CLEAR))


def test_limit_of_recipients_is_temporary_in_each_transaction_with_a_recipient(run: Run) -> None:
    """The accepted recipient of one transaction does not count for the next."""
    said = b"552 5.5.3 too many recipients\r\n"
    hop = CountingHop(replies={"RCPT 2": said, "RCPT 3": said})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            replies = send(smtp, FAR, SECOND)
            assert replies[1] == "452 4.5.3 too many recipients"
            assert replies[2].startswith("250 2.0.0 queued")
            assert send(smtp, FAR, SECOND)[:2] == ["552 5.5.3 too many recipients", "250 2.1.5 recipient ok"]

    with hop.listening():
        run(lambda: relay_to(hop.port, client, **IN_CLEAR))


class CountingHop(ScriptedHop):
    """A next hop with replies to single recipients: ``RCPT 2`` is the second of all connections."""

    rcpts = 0

    def _reply(self, key: str) -> bytes:
        if key == "RCPT":
            self.rcpts += 1
            key = f"RCPT {self.rcpts}"
        return super()._reply(key)


LONG = b"Subject: x\r\n\r\n" + (b"x" * 998 + b"\r\n") * 16_384  # more than two sockets hold


class Impatient(ScriptedHop):
    """A next hop that says ``after_message`` in the middle of the content, and then reads on if *reads*."""

    reads = True

    def _take_content(self, connection: socket.socket, lines: Iterable[bytes]) -> bytes:
        if self.replies.get("."):
            return super()._take_content(connection, lines)
        for number, line in enumerate(lines):
            if number == 1:
                connection.sendall(self.after_message)
                if not self.reads:
                    return b""
            if line == b".\r\n":
                break
        return b"."


@pytest.mark.parametrize("reads", [True, False], ids=["reads the rest", "closes"])
@pytest.mark.parametrize("code", ["552 5.3.4", "451 4.3.0", "550 5.6.0"])
def test_message_rejected_before_its_end_is_rejected_with_that_reply(run: Run, code: str, reads: bool) -> None:
    """Exim rejects a message that is too large while it receives it, and closes the connection."""
    hop = Impatient(after_message=f"{code} message too large\r\n".encode())
    hop.reads = reads

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, LOCAL, FAR, content=LONG)[-1] == f"{code} message too large"
            assert served.mail_of("alice") == []
            hop.replies["."] = b"250 2.0.0 ok\r\n"
            hop.after_message = b""
            assert send(smtp, LOCAL, FAR)[-1].startswith("250")

    with hop.listening():
        run(lambda: relay_to(hop.port, client, **IN_CLEAR))
    assert len(hop.messages) == 1
    assert len(hop.clear) == 2


@pytest.mark.parametrize("said", [b"250 2.0.0 taken\r\n", b"354 go on\r\n", b"421 4.3.2 going down\r\n", b"what?\r\n"])
@pytest.mark.parametrize("reads", [True, False], ids=["reads the rest", "closes"])
def test_message_is_not_accepted_before_its_end(run: Run, said: bytes, reads: bool) -> None:
    hop = Impatient(after_message=said)
    hop.reads = reads

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, LOCAL, FAR, content=LONG)[-1].startswith("451 4.")
            assert served.mail_of("alice") == []

    with hop.listening():
        run(lambda: relay_to(hop.port, client, **IN_CLEAR))
    assert hop.messages == []


ABOUT_THE_SERVER = [
    "503 5.5.1 bad sequence of commands",
    "521 5.3.2 this server accepts no mail",
    "523 encryption needed",
    "524 5.7.11 encryption required for this mechanism",
    "525 5.7.13 account disabled",
    "530 5.7.0 authentication required",
    "534 5.7.9 mechanism too weak",
    "535 5.7.8 authentication credentials invalid",
    "538 5.7.11 encryption required",
    "550 5.7.8 login expired",
    "554 5.7.13 account disabled",
    "530-5.7.57 client not authenticated\r\n530 5.7.57 to send mail",
]
"""Permanent replies that are about this server's session, TLS or login."""


@pytest.mark.parametrize("said", ABOUT_THE_SERVER)
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "."])
def test_reply_about_this_server_never_makes_mail_bounce(run: Run, verb: str, said: str) -> None:
    """The client gets 451 at each step, also after the content, and the next transaction has a new connection."""
    hop = ScriptedHop(replies={verb: f"{said}\r\n".encode()})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            replies = send(smtp, LOCAL, FAR)
            step = 1 if verb in ("MAIL", "RCPT") else 2
            assert replies[step] == "451 4.4.1 next hop unavailable, try again later"
            assert len(served.mail_of("alice")) == (step == 1)  # local recipients get the message without the others
            del hop.replies[verb]
            assert send(smtp, LOCAL, FAR)[-1].startswith("250")

    with hop.listening():
        run(lambda: relay_to(hop.port, client, **IN_CLEAR))
    assert len(hop.clear) == 2


@pytest.mark.parametrize(
    "said",
    [
        "432 4.7.12 password transition needed",
        "454 4.7.1 relay access denied",
        "501 5.1.7 bad sender address",
        "504 5.5.2 need fully-qualified address",
        "550 5.7.1 relaying denied",
        "550 5.7.26 not authenticated by SPF",
        "554 5.7.14 trust relationship required",
        "556 5.1.10 domain accepts no mail",
    ],
)
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "."])
def test_reply_that_is_temporary_or_about_the_mail_is_passed_on(run: Run, verb: str, said: str) -> None:
    assert said in relayed(run, verb, said)


def test_reply_530_to_the_message_makes_next_transaction_try_starttls(run: Run) -> None:
    hop = ScriptedHop(Break.CLOSED, replies={".": b"530 5.7.0 use STARTTLS\r\n"})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, FAR)[-1].startswith("451 4.4.1")
            hop.replies.clear()
            assert send(smtp, FAR)[-1].startswith("250")

    with hop.listening():
        run(lambda: relay_to(hop.port, client, tls_required=False, ssl_context=client_context()))
    assert [verbs[:2] for verbs in hop.commands()] == [["EHLO", "STARTTLS"], ["EHLO", "MAIL"]] * 2
