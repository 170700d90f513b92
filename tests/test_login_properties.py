"""SCRAM, tokens and certificates in SMTP and POP3, with a client and a server connected without sockets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, TypeAlias

import attrs
import pytest

from mailauth import (
    ACCEPT,
    Command,
    ExtensionQuestion,
    LocalProtocolError,
    NeedData,
    Question,
    RemoteProtocolError,
    Send,
    Tls,
    pop3,
    sasl,
    smtp,
)

ENTROPY: Final = bytes(range(32))
BINDINGS: Final = {"tls-exporter": b"what the TLS layer exported"}
CERTIFICATE: Final = {"serialNumber": "01"}
BARE: Final = Tls(version="TLSv1.3")
BOUND: Final = Tls(version="TLSv1.3", channel_bindings=BINDINGS)
CERTIFIED: Final = Tls(version="TLSv1.3", peer_certificate=CERTIFICATE)
DECOY: Final = sasl.ScramDecoy(key=b"a key that nobody knows")
PASSWORD: Final = b"wonderland"

Server: TypeAlias = smtp.ServerConnection | pop3.ServerConnection | smtp.ServerConnection | pop3.ServerConnection
Client: TypeAlias = smtp.ClientConnection | pop3.ClientConnection


@attrs.frozen
class Protocol:
    """The differences between SMTP and POP3 in these tests."""

    name: str
    server: Callable[[Tls | None], Server]
    client: Callable[[Tls | None], Client]
    first: Command
    """The command that lists the mechanisms offered."""

    @property
    def yes(self) -> bytes:
        return b"235 " if self.name == "smtp" else b"+OK "


SMTP: Final = Protocol(
    "smtp",
    lambda tls: smtp.ServerConnection(
        smtp.ServerSettings(
            mechanisms=sasl.ALL_MECHANISMS,
            mechanisms_without_tls=frozenset(sasl.ALL_MECHANISMS.names),
            scram_decoy=DECOY,
        ),
        entropy=ENTROPY,
        tls=tls,
    ),
    lambda tls: smtp.ClientConnection(tls=tls),
    smtp.Hello(domain="client.example"),
)
POP3: Final = Protocol(
    "pop3",
    lambda tls: pop3.ServerConnection(
        pop3.ServerSettings(
            mechanisms=pop3.ALL_MECHANISMS,
            mechanisms_without_tls=frozenset(pop3.ALL_MECHANISMS.names),
            scram_decoy=DECOY,
        ),
        entropy=ENTROPY,
        tls=tls,
    ),
    lambda tls: pop3.ClientConnection(tls=tls),
    pop3.Capa(),
)
both = pytest.mark.parametrize("protocol", [SMTP, POP3], ids=lambda protocol: str(protocol.name))


def usual(question: Question[Any]) -> object:
    """An application with one account, alice, which has a password, a token and a certificate."""
    match question:
        case sasl.CheckPassword(authentication_identity=who, password=password):
            return ACCEPT if (who, password) == ("alice", PASSWORD) else sasl.Refusal.BAD_CREDENTIALS
        case sasl.FetchScramKeys(authentication_identity="alice", hash_name=hash_name):
            return sasl.scram_keys(PASSWORD, b"salt", 4096, hash_name)
        case sasl.FetchSecret() | sasl.FetchScramKeys():
            return None
        case sasl.CheckToken(token=token):
            return "alice" if token == PASSWORD else sasl.Refusal.BAD_CREDENTIALS
        case sasl.CheckExternal(peer_certificate=certificate):
            return "alice" if certificate == CERTIFICATE else sasl.Refusal.BAD_CREDENTIALS
        case sasl.Authorize():
            return sasl.Refusal.NOT_AUTHORIZED
        case pop3.OpenMaildrop():
            return pop3.Maildrop()
    return ACCEPT


class Wire:
    """A client and a server, the bytes that each has sent, and the events of the client."""

    def __init__(
        self, protocol: Protocol, tls: Tls | None = BARE, instead: Mapping[type, object] | None = None
    ) -> None:
        self.protocol = protocol
        self.server: Server = protocol.server(tls)
        self.client = protocol.client(tls)
        self.instead = instead or {}
        self.asked: list[Question[Any]] = []
        self.from_server: list[bytes] = []
        self.from_client: list[bytes] = []
        self.told: list[object] = []
        self.noticed: list[object] = []

    def answer(self, question: Question[Any]) -> object:
        return self.instead.get(type(question), usual(question))

    def run(self) -> Wire:
        while self._run_server() | self._run_client():
            pass
        return self

    def _run_server(self) -> bool:
        busy = False
        while not isinstance(event := self.server.next_event(), NeedData):
            busy = True
            if isinstance(event, Send):
                self.from_server.append(event.data)
                self.client.receive_data(event.data)
            elif isinstance(event, Question):
                self.asked.append(event)
                question: Question[Any] = event
                if isinstance(question, ExtensionQuestion) and type(question) not in self.instead:
                    self.server.decline(question)
                else:
                    self.server.answer(question, self.answer(question))
            else:
                self.noticed.append(event)
        return busy

    def _run_client(self) -> bool:
        busy = False
        while not isinstance(event := self.client.next_event(), NeedData):
            busy = True
            if isinstance(event, Send):
                self.from_client.append(event.data)
                self.server.receive_data(event.data)
            else:
                self.told.append(event)
        return busy

    def log_in(self, *mechanisms: sasl.ClientMechanism) -> Wire:
        self.run()
        self.client.send(self.protocol.first)
        self.run()
        self.client.authenticate(*mechanisms)
        return self.run()

    @property
    def succeeded(self) -> bool:
        return isinstance(self.told[-1], sasl.Authenticated)


def pulled(machine: Server | Client) -> bytes:
    """Return the output of *machine* up to the next NeedData."""
    said = b""
    while not isinstance(event := machine.next_event(), NeedData):
        said += event.data if isinstance(event, Send) else b""
    return said


def scram_256(password: bytes = PASSWORD, *, who: str = "alice", acting_as: str = "") -> sasl.ScramSha256Client:
    return sasl.ScramSha256Client(
        authentication_identity=who, password=password, entropy=ENTROPY, authorization_identity=acting_as
    )


def scram_1(password: bytes = PASSWORD) -> sasl.ScramSha1Client:
    return sasl.ScramSha1Client(authentication_identity="alice", password=password, entropy=ENTROPY)


def plus_1(password: bytes = PASSWORD) -> sasl.ScramSha1PlusClient:
    return sasl.ScramSha1PlusClient(
        authentication_identity="alice",
        password=password,
        entropy=ENTROPY,
        channel_binding="tls-exporter",
        binding_data=BINDINGS["tls-exporter"],
    )


def plus_256(password: bytes = PASSWORD, *, data: bytes = BINDINGS["tls-exporter"]) -> sasl.ScramSha256PlusClient:
    return sasl.ScramSha256PlusClient(
        authentication_identity="alice",
        password=password,
        entropy=ENTROPY,
        channel_binding="tls-exporter",
        binding_data=data,
    )


LOGINS: Final[Mapping[str, tuple[Callable[[bytes], sasl.ClientMechanism], Tls]]] = {
    "SCRAM-SHA-1": (scram_1, BARE),
    "SCRAM-SHA-256": (scram_256, BARE),
    "SCRAM-SHA-1-PLUS": (plus_1, BOUND),
    "SCRAM-SHA-256-PLUS": (plus_256, BOUND),
    "OAUTHBEARER": (lambda token: sasl.OauthBearerClient(token=token, authorization_identity="alice"), BARE),
    "XOAUTH2": (lambda token: sasl.Xoauth2Client(token=token, authorization_identity="alice"), BARE),
}


@both
@pytest.mark.parametrize("name", LOGINS)
def test_login_succeeds_only_if_the_secrets_match(protocol: Protocol, name: str) -> None:
    make, tls = LOGINS[name]
    right = Wire(protocol, tls).log_in(make(PASSWORD))
    assert right.succeeded
    assert right.server.identity == "alice"
    assert sasl.Authenticated(mechanism=name, identity="alice") in right.noticed
    wrong = Wire(protocol, tls).log_in(make(b"looking-glass"))
    assert not wrong.succeeded
    assert wrong.server.identity is None


@both
def test_external_login_requires_the_right_certificate(protocol: Protocol) -> None:
    """RFC 4422 appendix A: the empty initial response is ``=``."""
    wire = Wire(protocol, CERTIFIED).log_in(sasl.ExternalClient())
    assert wire.succeeded
    assert wire.server.identity == "alice"
    assert wire.from_client[1] == b"AUTH EXTERNAL =\r\n"
    other = Tls(version="TLSv1.3", peer_certificate={"serialNumber": "02"})
    assert not Wire(protocol, other).log_in(sasl.ExternalClient()).succeeded


@both
def test_scram_ends_with_server_signature_empty_response_and_reply(protocol: Protocol) -> None:
    """RFC 4954 section 4, RFC 5034 section 4; as mutt and gsasl expect."""
    wire = Wire(protocol).log_in(scram_256())
    assert wire.from_client[-1] == b"\r\n"
    proof, reply = wire.from_server[-2:]
    head, _, line = proof.partition(b" ")
    assert head == (b"334" if protocol is SMTP else b"+")
    assert sasl.decode_base64(line.strip()).startswith(b"v=")
    assert reply.startswith(protocol.yes)


@both
def test_equal_authorization_identity_needs_no_authorization(protocol: Protocol) -> None:
    """mutt sends ``n,a=alice,``."""
    wire = Wire(protocol).log_in(scram_256(acting_as="alice"))
    assert wire.succeeded
    assert not any(isinstance(question, sasl.Authorize) for question in wire.asked)
    refused = Wire(protocol).log_in(scram_256(acting_as="bob"))
    assert isinstance(refused.asked[-1], sasl.Authorize)
    assert not refused.succeeded


@both
def test_rejected_token_is_reported_in_json_before_the_reply(protocol: Protocol) -> None:
    """RFC 7628 section 3.2.3: 334 or ``+`` with JSON, ``AQ==``, then the rejection."""
    client = sasl.OauthBearerClient(token=b"wrong", authorization_identity="alice")
    wire = Wire(protocol).log_in(client)
    json, reply = wire.from_server[-2:]
    assert sasl.decode_base64(json.split(b" ")[1].strip()).startswith(b'{"status":"invalid_token"')
    assert wire.from_client[-1] == b"AQ==\r\n"
    assert reply.startswith(b"535 5.7.8 " if protocol is SMTP else b"-ERR [AUTH] ")
    assert client.failure is not None


@both
@pytest.mark.parametrize(
    ("make", "tls", "kind"),
    [
        (lambda: scram_256(), BARE, sasl.FetchScramKeys),
        (lambda: sasl.OauthBearerClient(token=PASSWORD), BARE, sasl.CheckToken),
        (lambda: sasl.ExternalClient(), CERTIFIED, sasl.CheckExternal),
    ],
)
def test_unavailable_store_is_a_temporary_failure(
    protocol: Protocol, make: Callable[[], sasl.ClientMechanism], tls: Tls, kind: type
) -> None:
    """454 4.7.0, [SYS/TEMP]: the credentials are not rejected."""
    wire = Wire(protocol, tls, instead={kind: sasl.Refusal.TEMPORARY}).log_in(make())
    assert wire.from_server[-1].startswith(b"454 4.7.0 " if protocol is SMTP else b"-ERR [SYS/TEMP] ")


@both
def test_client_raises_on_success_without_server_signature(protocol: Protocol) -> None:
    """RFC 5802 section 5: success before ``v=`` is not accepted."""
    client = protocol.client(BARE)
    client.receive_data(b"220 s\r\n" if protocol is SMTP else b"+OK s\r\n")
    pulled(client)
    client.send(protocol.first)
    client.receive_data(
        b"250-s\r\n250 AUTH SCRAM-SHA-256\r\n" if protocol is SMTP else b"+OK\r\nSASL SCRAM-SHA-256\r\n.\r\n"
    )
    pulled(client)
    client.authenticate(scram_256())
    client.receive_data(b"235 2.7.0 welcome\r\n" if protocol is SMTP else b"+OK welcome\r\n")
    with pytest.raises(RemoteProtocolError):
        pulled(client)


def offered(wire: Wire) -> set[str]:
    wire.run()
    wire.client.send(wire.protocol.first)
    wire.run()
    (line,) = (
        line
        for line in wire.from_server[-1].decode().split("\r\n")
        if line.startswith(("250-AUTH ", "250 AUTH ", "SASL "))
    )
    return set(line.split()[1:]) - {"AUTH"}


@both
@pytest.mark.parametrize(
    ("tls", "more"),
    [
        (None, set()),
        (BARE, set()),
        (BOUND, {"SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"}),
        (CERTIFIED, {"EXTERNAL"}),
        (attrs.evolve(BOUND, peer_certificate=CERTIFICATE), {"SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS", "EXTERNAL"}),
    ],
)
def test_mechanisms_unusable_on_a_connection_are_not_offered_or_accepted(
    protocol: Protocol, tls: Tls | None, more: set[str]
) -> None:
    """-PLUS only with channel binding data, EXTERNAL only with a client certificate."""
    special = {"SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS", "EXTERNAL"}
    assert offered(Wire(protocol, tls)) == set(sasl.ALL_MECHANISMS.names) - special | more
    for name in special - more:
        server = Wire(protocol, tls).run().server
        server.receive_data(b"EHLO c\r\n" if protocol is SMTP else b"CAPA\r\n")
        server.receive_data(f"AUTH {name}\r\n".encode())
        replies = pulled(server)
        assert replies.split(b"\r\n")[-2].startswith(b"504 5.5.4 " if protocol is SMTP else b"-ERR ")


@both
def test_removal_of_plus_mechanisms_from_the_offer_is_detected(protocol: Protocol) -> None:
    """RFC 5802 section 6: a client that supports channel binding says so in its proof."""
    honest = Wire(protocol, BOUND).log_in(plus_256(), scram_256())
    assert honest.succeeded
    assert b"-PLUS" in b"".join(honest.from_client)
    misled = sasl.ScramSha256Client(
        authentication_identity="alice", password=PASSWORD, entropy=ENTROPY, could_bind=True
    )
    assert not Wire(protocol, BOUND).log_in(misled).succeeded
    assert Wire(protocol, BARE).log_in(misled).succeeded
    assert not Wire(protocol, BOUND).log_in(plus_256(data=b"another channel")).succeeded


@both
def test_unknown_identity_gets_the_same_salt_in_every_session(protocol: Protocol) -> None:
    """architecture.md, invariant 6; the nonces of the sessions differ, the salt for an unknown name does not."""

    def challenge() -> bytes:
        wire = Wire(protocol).log_in(scram_256(who="nobody"))
        assert not wire.succeeded
        line = next(data for data in wire.from_server if data.startswith((b"334 cj", b"+ cj")))
        return sasl.decode_base64(line.split(b" ")[1].strip()).split(b",", 1)[1]

    assert challenge() == challenge()


# Settings, and what an application does not know


@pytest.mark.parametrize("settings", [smtp.ServerSettings, pop3.ServerSettings])
def test_settings_with_scram_need_a_decoy(
    settings: type[smtp.ServerSettings] | type[pop3.ServerSettings],
) -> None:
    """Otherwise the salt would reveal which accounts exist."""
    with pytest.raises(LocalProtocolError):
        settings(mechanisms=sasl.ALL_MECHANISMS)
    settings(mechanisms=sasl.ALL_MECHANISMS.only("OAUTHBEARER", "EXTERNAL", "PLAIN"))
    settings(mechanisms=sasl.ALL_MECHANISMS, scram_decoy=DECOY)


@attrs.frozen
class CheckTicket(ExtensionQuestion[str | sasl.Refusal]):
    """A question from outside the library: whose ticket is this?"""

    ticket: bytes

    @property
    def unavailable(self) -> sasl.Refusal:
        return sasl.Refusal.TEMPORARY


@attrs.define
class TicketServer:
    """A mechanism from outside the library."""

    tls: bool
    authentication_identity: str | None = None

    name: ClassVar[str] = "X-TICKET"
    client_first: ClassVar[bool] = True

    def respond(self, response: bytes | None) -> sasl.Step:
        return sasl.Challenge(b"") if response is None else CheckTicket(response)

    def resolve(self, answer: object) -> sasl.Step:
        if isinstance(answer, sasl.Refusal):
            return answer
        return sasl.Success(authentication_identity=str(answer))


class TicketClient:
    name: ClassVar[str] = "X-TICKET"
    client_first: ClassVar[bool] = True
    satisfied = True

    def respond(self, challenge: bytes | None) -> bytes:
        return b"ticket 7"


def ticket_server(protocol: Protocol) -> Server:
    mechanisms = sasl.Mechanisms({"X-TICKET": lambda context: TicketServer(context.tls)})
    if protocol is SMTP:
        return smtp.ServerConnection(smtp.ServerSettings(mechanisms=mechanisms), entropy=ENTROPY, tls=BARE)
    return pop3.ServerConnection(pop3.ServerSettings(mechanisms=mechanisms), entropy=ENTROPY, tls=BARE)


@both
def test_a_declined_question_is_a_temporary_failure(protocol: Protocol) -> None:
    """An application that does not know a question of a login calls decline(); the session continues."""
    wire = Wire(protocol)
    wire.server = ticket_server(protocol)
    wire.log_in(TicketClient())
    assert wire.from_server[-1].startswith(b"454 4.7.0 " if protocol is SMTP else b"-ERR [SYS/TEMP] ")
    assert wire.asked[-1] == CheckTicket(b"ticket 7")
    assert wire.server.identity is None
    assert wire.log_in(TicketClient()).asked.count(CheckTicket(b"ticket 7")) == 2


@both
def test_custom_mechanism_can_use_its_own_question(protocol: Protocol) -> None:
    wire = Wire(protocol, instead={CheckTicket: "alice"})
    wire.server = ticket_server(protocol)
    assert wire.log_in(TicketClient()).succeeded
    assert wire.server.identity == "alice"
