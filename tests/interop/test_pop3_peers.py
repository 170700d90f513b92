"""Our POP3 client with real servers: Cyrus, Courier, Dovecot, mailutils, popa3d and solid-pop3d; and LMTP with Cyrus.

Skipped if they are not unpacked (``unpack_servers.sh``), which is an error with MAILAUTH_INTEROP=require; also skipped
without root.
"""

from __future__ import annotations

import secrets
import smtplib
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import attrs
import pytest

from mailauth import MessageChunk, pop3, sasl, smtp
from mailauth_io import client
from mailauth_io.client import TlsMode
from mailauth_io.client.sync import pop3_client as blocking_client
from tests.interop.client_config import HOST
from tests.interop.peers import NAME, PASSWORD, Peer, Recipe
from tests.interop.pop3_peers import CYRUS, DOVECOT, MAILUTILS, POPA3D, SOLID_POP3D
from tests.interop.smtp_peers import COURIER
from tests.io import loops
from tests.io.logins import pop3_login, replied
from tests.io.server_support import Run, on_both_loops, run_on_asyncio
from tests.io.tls import authority, client_context

Start = Callable[[Recipe], Peer]


def in_mbox(peer: Peer, *messages: bytes) -> None:
    peer.fill(messages)


def in_maildir(peer: Peer, *messages: bytes) -> None:
    peer.fill(messages, maildir=f"mail/{NAME}/Maildir")


def by_lmtp(peer: Peer, *messages: bytes) -> None:
    """Delete all messages, and deliver the new ones."""
    assert peer.ports.pop3 is not None
    assert peer.lmtp is not None
    with blocking_client(host=HOST, port=peer.ports.pop3, tls="none", login=(NAME, PASSWORD)) as maildrop:
        for listed in maildrop.listing():
            maildrop.delete(listed.number)
    with smtplib.LMTP(HOST, peer.lmtp, "client.test") as lmtp:
        for message in messages:
            lmtp.sendmail("bob@example.org", [NAME], message, ["BODY=8BITMIME"])


@attrs.frozen(kw_only=True)
class Expected:
    """What a server offers and replies."""

    recipe: Recipe
    fill: Callable[..., None]
    mechanisms: tuple[str, ...]
    """Inside TLS, if the server has it, for a client with a certificate; those that mailauth implements."""
    capabilities: frozenset[str]
    """Before STLS; those that mailauth uses."""
    in_use: str | None
    """The response code of a login while another session has the maildrop open; None if that is allowed."""
    code: str
    """The response code of a wrong password."""
    appended: bytes = b""
    """What it adds to each message: the empty line between two messages of the mbox."""


CAPA = frozenset({"TOP", "UIDL", "USER", "STLS", "PIPELINING"})
SERVERS = {
    "Cyrus": Expected(
        recipe=CYRUS, fill=by_lmtp, in_use=None, code="AUTH",
        mechanisms=("SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "APOP", "PLAIN", "LOGIN", "USER"),
        capabilities=CAPA | {"SASL", "RESP-CODES", "AUTH-RESP-CODE"},
    ),
    "Courier": Expected(
        recipe=COURIER, fill=in_maildir, in_use=None, code="",
        mechanisms=("CRAM-MD5", "PLAIN", "LOGIN", "USER", "EXTERNAL"), capabilities=CAPA | {"SASL", "UTF8"},
    ),
    "Dovecot": Expected(
        recipe=DOVECOT, fill=in_maildir, in_use="IN-USE", code="AUTH",
        mechanisms=("SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "APOP", "PLAIN", "LOGIN", "USER", "EXTERNAL"),
        capabilities=CAPA | {"SASL", "RESP-CODES", "AUTH-RESP-CODE"},
    ),
    "mailutils": Expected(
        recipe=MAILUTILS, fill=in_mbox, in_use="IN-USE", code="AUTH",
        mechanisms=("APOP", "USER"), capabilities=CAPA | {"RESP-CODES", "AUTH-RESP-CODE"},
    ),
    "popa3d": Expected(
        recipe=POPA3D, fill=in_mbox, in_use=None, code="", mechanisms=("USER",), capabilities=frozenset(),
    ),
    "solid-pop3d": Expected(
        recipe=SOLID_POP3D, fill=in_mbox, in_use=None, code="", mechanisms=("APOP", "USER"),
        capabilities=frozenset(), appended=b"\r\n",
    ),
}  # fmt: skip
KNOWN = frozenset().union(*(each.capabilities for each in SERVERS.values()))
WITH_TLS = ("Cyrus", "Courier", "Dovecot", "mailutils")

every_server = pytest.mark.parametrize("name", SERVERS)
every_password_login = pytest.mark.parametrize(
    ("name", "mechanism"),
    [(name, each) for name, server in SERVERS.items() for each in server.mechanisms if each != "EXTERNAL"],
)


def session(
    peer: Peer, tls: TlsMode | None = None, *, password: str = PASSWORD, mechanisms: tuple[str, ...] = ("USER",)
) -> AbstractAsyncContextManager[client.Pop3Client]:
    """Connect, by default with STLS if the server has TLS, and log in."""
    tls = tls or ("starttls" if peer.ports.pop3s else "none")
    port = peer.ports.pop3s if tls == "implicit" else peer.ports.pop3
    login = client.Login(NAME, password, mechanisms=mechanisms)
    context = None if tls == "none" else client_context()
    return client.pop3_client(host=HOST, port=port, tls=tls, ssl_context=context, login=login, timeout=20)


def make_message(body: bytes) -> bytes:
    return b"From: bob@example.org\r\nSubject: " + secrets.token_hex(8).encode() + b"\r\n\r\n" + body


BODY = (
    b".\r\n..\r\n.dot\r\n\r\n"
    + b"x" * 990
    + b"\r\n \r\n"
    + "grün\r\n".encode()
    + bytes(range(0xA0, 0x100))
    + b"\r\nend\r\n"
)
MODES: dict[TlsMode, tuple[str, ...]] = {"none": tuple(SERVERS), "starttls": WITH_TLS, "implicit": WITH_TLS}


@on_both_loops
@pytest.mark.parametrize(("tls", "name"), [(tls, name) for tls, names in MODES.items() for name in names])
def test_messages_are_collected_and_deleted(start: Start, run: Run, tls: TlsMode, name: str) -> None:
    """Dots, long lines, whitespace and bytes above 127 arrive as they were stored."""
    peer, sent = start(SERVERS[name].recipe), [make_message(BODY), make_message(b""), make_message(b".\r\n")]
    SERVERS[name].fill(peer, *sent)
    port = peer.ports.pop3s if tls == "implicit" else peer.ports.pop3
    context = None if tls == "none" else client_context()
    login = client.Login(NAME, PASSWORD, mechanisms=("PLAIN", "USER"))

    async def collect() -> list[client.CollectedMessage]:
        async with client.collect(
            host=HOST, port=port, tls=tls, ssl_context=context, login=login, delete=True, timeout=20
        ) as messages:
            return [message async for message in messages]

    async def main() -> None:
        collected = await collect()
        assert [message.email["Subject"] for message in collected] == [
            each.split(b"\r\n")[1][9:].decode() for each in sent
        ]
        for message, original in zip(collected, sent, strict=True):
            assert message.complete
            assert message.unique_id
            assert message.raw.partition(b"\r\n\r\n")[2] == original.partition(b"\r\n\r\n")[2] + SERVERS[name].appended
        assert await collect() == []

    run(main)


@every_server
def test_offered_capabilities_are_those_known(start: Start, name: str) -> None:
    """popa3d and solid-pop3d do not know CAPA."""
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        async with session(peer, "none") as maildrop:
            assert KNOWN & maildrop.capabilities.keys() == SERVERS[name].capabilities

    run_on_asyncio(main)


@on_both_loops
@every_password_login
def test_login_by_each_password_mechanism(start: Start, run: Run, name: str, mechanism: str) -> None:
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        async with session(peer, "none", mechanisms=(mechanism,)) as maildrop:
            assert (await maildrop.execute(pop3.Noop())).positive

    run(main)


@pytest.mark.parametrize(
    ("name", "mechanism"),
    [(name, each) for name in WITH_TLS for each in SERVERS[name].mechanisms if each != "EXTERNAL"],
)
def test_login_by_each_password_mechanism_inside_tls(start: Start, name: str, mechanism: str) -> None:
    """Cyrus offers -PLUS too, so it would take the flag ``y`` for a downgrade."""
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        async with session(peer, mechanisms=(mechanism,)) as maildrop:
            assert maildrop.tls is not None
            assert (await maildrop.execute(pop3.Noop())).positive

    run_on_asyncio(main)


@pytest.mark.parametrize("name", [name for name, each in SERVERS.items() if "SASL" in each.capabilities])
def test_offered_mechanisms_are_those_known(start: Start, name: str) -> None:
    """Inside TLS, without a client certificate.  Only Cyrus offers -PLUS."""
    peer = start(SERVERS[name].recipe)
    usable = {"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"}

    async def main() -> None:
        async with session(peer) as maildrop:
            offered = set(maildrop.capabilities["SASL"].split())
            assert offered & usable == usable.intersection(SERVERS[name].mechanisms)
            plus = {each for each in offered if each.endswith("-PLUS")}
            assert plus == ({"SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"} if name == "Cyrus" else set())

    run_on_asyncio(main)


@every_server
def test_login_by_the_strongest_mechanism(start: Start, name: str) -> None:
    """Without TLS; no mechanism is named."""
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        async with session(peer, "none", mechanisms=()) as maildrop:
            assert (await maildrop.execute(pop3.Stat())).positive

    run_on_asyncio(main)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("name", WITH_TLS)
def test_login_by_the_strongest_mechanism_inside_tls(start: Start, name: str, tls: TlsMode) -> None:
    """With Cyrus, SCRAM-SHA-256-PLUS with ``tls-unique``, the only channel binding that it has."""
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        async with session(peer, tls, mechanisms=()) as maildrop:
            assert (await maildrop.execute(pop3.Stat())).positive

    run_on_asyncio(main)


@on_both_loops
@pytest.mark.parametrize("upgrade", [False, True], ids=["implicit", "upgraded"])
@pytest.mark.parametrize("name", ["Courier", "Dovecot"])
def test_login_by_certificate(start: Start, run: Run, name: str, upgrade: bool) -> None:
    """RFC 4422 appendix A."""
    peer = start(SERVERS[name].recipe)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    authority().issue_cert(NAME, common_name=NAME).configure_cert(context)

    async def main() -> None:
        external = sasl.ExternalClient(authorization_identity=NAME)
        assert await pop3_login(peer.ports, context, external, upgrade) == "ok"

    run(main)


@every_server
def test_wrong_password_is_rejected(start: Start, name: str) -> None:
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        with pytest.raises(client.AuthenticationFailed) as caught:
            async with session(peer, "none", password="open poppy"):
                pass
        assert isinstance(caught.value.reply, pop3.Reply)
        assert caught.value.reply.response_code == SERVERS[name].code

    run_on_asyncio(main)


@on_both_loops
@every_server
def test_messages_are_listed_and_marks_removed(start: Start, run: Run, name: str) -> None:
    """LIST, UIDL, TOP, RETR, DELE and RSET; a message that does not exist is an error, and the session goes on."""
    peer = start(SERVERS[name].recipe)
    SERVERS[name].fill(peer, make_message(b"one\r\n\r\n.\r\nfour\r\n"), make_message(b"two\r\n"))

    async def main() -> None:
        async with session(peer) as maildrop:
            first, second = await maildrop.listing()
            assert (first.number, second.number) == (1, 2)
            assert first.unique_id
            assert len(await maildrop.retrieve(2)) >= second.size
            assert (await maildrop.top(1, 3)).endswith(b"\r\n\r\none\r\n\r\n.\r\n")
            assert (await maildrop.top(1)).partition(b"\r\n\r\n")[2] == b""
            await maildrop.delete(1)
            with pytest.raises(client.ServerRejected):
                await maildrop.retrieve(1)
            await maildrop.undelete()
            with pytest.raises(client.ServerRejected):
                await maildrop.delete(3)
            assert (await maildrop.retrieve(1)).endswith(b"\r\n.\r\nfour\r\n" + SERVERS[name].appended)
        async with session(peer) as maildrop:
            assert len(await maildrop.listing()) == 2

    run(main)


@pytest.mark.parametrize("name", [name for name, each in SERVERS.items() if each.in_use is not None])
def test_maildrop_that_is_in_use_rejects_the_login(start: Start, name: str) -> None:
    """RFC 2449 section 8.1.2."""
    peer = start(SERVERS[name].recipe)
    SERVERS[name].fill(peer, make_message(b"one\r\n"))

    async def main() -> None:
        async with session(peer) as maildrop:
            with pytest.raises(client.ServerRejected) as caught:
                async with session(peer):
                    pass
            assert isinstance(caught.value.reply, pop3.Reply)
            assert caught.value.reply.response_code == SERVERS[name].in_use
            assert len(await maildrop.listing()) == 1

    run_on_asyncio(main)


@on_both_loops
@every_server
def test_pipelined_commands_get_their_own_replies(start: Start, run: Run, name: str) -> None:
    """They are in one write if the server offers PIPELINING.  QUIT is answered, and the connection ends."""
    peer = start(SERVERS[name].recipe)
    SERVERS[name].fill(peer, make_message(b"one\r\n"))
    replies: list[tuple[str, bool]] = []

    async def main() -> None:
        connect = loops.current().adapter.connect
        settings = pop3.ClientSettings(tls_required=False)
        async with await connect(
            lambda tls: pop3.ClientConnection(settings, tls=tls), HOST, peer.ports.pop3 or 0
        ) as connection:
            await replied(connection)
            connection.send(pop3.Capa())
            await replied(connection)
            connection.authenticate(sasl.UserPassClient(authentication_identity=NAME, password=PASSWORD.encode()))
            async for event in connection:
                assert isinstance(event, sasl.Authenticated)
                break
            for command in (
                pop3.Stat(), pop3.List(), pop3.Uidl(number=1), pop3.Retrieve(number=1), pop3.Dele(number=7),
                pop3.Noop(), pop3.Quit(),
            ):  # fmt: skip
                connection.send(command)
            async for event in connection:
                if not isinstance(event, MessageChunk):
                    assert isinstance(event, pop3.ReplyReceived)
                    replies.append((type(event.command).__name__, event.reply.positive))

    run(main)
    names = ("Stat", "List", "Uidl", "Retrieve", "Dele", "Noop", "Quit")
    assert replies == [(each, each != "Dele") for each in names]


@on_both_loops
def test_lmtp_replies_for_each_recipient(start: Start, run: Run) -> None:
    """RFC 2033: Cyrus replies to the final dot once for each accepted recipient."""
    peer = start(CYRUS)
    by_lmtp(peer)
    codes: list[int] = []

    async def main() -> None:
        connect = loops.current().adapter.connect
        async with await connect(lambda tls: smtp.ClientConnection(tls=tls), HOST, peer.lmtp or 0) as connection:
            await replied(connection)
            connection.send(smtp.Hello(domain="client.test", lmtp=True))
            await replied(connection)
            connection.send(smtp.Mail(reverse_path=smtp.Mailbox.parse("bob@example.org")))
            for name in (f"{NAME}@mail.example.test", f"{NAME}@mail.example.test", "unknown@mail.example.test"):
                connection.send(smtp.Rcpt(forward_path=smtp.Mailbox.parse(name)))
            for _ in range(4):
                await replied(connection)
            connection.send(smtp.Data())
            await replied(connection)
            connection.send(MessageChunk(data=make_message(b".\r\nlmtp\r\n")))
            connection.send(smtp.MessageComplete())
            connection.send(smtp.Quit())
            async for event in connection:
                assert isinstance(event, smtp.ReplyReceived)
                codes.append(event.reply.code)

    run(main)
    assert codes == [250, 250, 221]
