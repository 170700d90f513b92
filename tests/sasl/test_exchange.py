"""The exchange: base64, ``=``, ``*``, the order of calls and the resulting identity (RFC 4954 section 4)."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import ClassVar

import pytest
from hypothesis import given, strategies as st

from mailauth import ACCEPT, LocalProtocolError, Question
from mailauth.errors import Malformed
from mailauth.sasl import (
    ApopClient,
    ApopServer,
    Authorize,
    Challenge,
    CheckPassword,
    ClientExchange,
    ClientMechanism,
    CramMd5Client,
    CramMd5Server,
    ExternalServer,
    Fault,
    LoginClient,
    LoginServer,
    OauthBearerServer,
    PlainClient,
    PlainServer,
    Refusal,
    ScramDecoy,
    ScramSha1PlusServer,
    ScramSha256Client,
    ScramSha256Server,
    ServerExchange,
    ServerMechanism,
    Step,
    Success,
    UserPassClient,
    UserPassServer,
    Xoauth2Client,
    Xoauth2Server,
    encode_base64,
    scram_keys,
)
from tests.sasl.driver import log_in, log_in_raw

TIMESTAMP = b"<1.2@example.test>"
DECOY = ScramDecoy(key=b"a key that nobody knows")
SERVERS: list[Callable[[], ServerMechanism]] = [
    lambda: PlainServer(tls=False),
    lambda: LoginServer(tls=False),
    lambda: CramMd5Server(challenge=TIMESTAMP, tls=False),
    lambda: UserPassServer(tls=False),
    lambda: ApopServer(timestamp=TIMESTAMP, tls=False),
    lambda: ScramSha256Server(nonce="server", tls=True, decoy=DECOY),
    lambda: ScramSha1PlusServer(nonce="server", tls=True, decoy=DECOY, channel_bindings={"tls-exporter": b"x"}),
    lambda: OauthBearerServer(tls=True),
    lambda: Xoauth2Server(tls=True),
    lambda: ExternalServer(peer_certificate={"serialNumber": "01"}, tls=True),
]
ANSWERS = [
    ACCEPT,
    None,
    b"secret",
    "tim",
    scram_keys(b"secret", b"salt", 4096, "sha1"),
    scram_keys(b"secret", b"salt", 4096),
    *Refusal,
]

PLAIN = base64.b64encode(b"\0tim\0secret")
AS_BOB = base64.b64encode(b"bob\0tim\0secret")


def plain() -> ServerExchange:
    return ServerExchange(PlainServer(tls=True))


# Base64, = and *


def test_initial_response_replaces_empty_challenge() -> None:
    """RFC 4954 section 4."""
    asked = CheckPassword(authentication_identity="tim", password=b"secret", mechanism="PLAIN", tls=True)
    assert plain().begin(PLAIN) == asked
    late = plain()
    assert late.begin(None) == Challenge(b"")
    assert late.receive(PLAIN) == asked


def test_an_equals_sign_is_an_empty_initial_response() -> None:
    """RFC 4954 section 4: the initial response is present and empty, which PLAIN does not allow."""
    assert plain().begin(b"=") is Fault.MALFORMED


def test_equals_sign_as_later_response_is_undecodable() -> None:
    """RFC 4954 section 4: an empty response is sent as an empty line."""
    exchange = plain()
    exchange.begin(None)
    assert exchange.receive(b"=") is Fault.UNDECODABLE


def test_zero_length_initial_response_is_undecodable() -> None:
    assert plain().begin(b"") is Fault.UNDECODABLE


@pytest.mark.parametrize("blanks", [b" ", b"\t", b" \t  "])
def test_blanks_at_the_end_of_a_line_are_ignored_unless_syntax_is_strict(blanks: bytes) -> None:
    """Some microcontrollers send them."""
    asked = plain().begin(PLAIN)
    assert plain().begin(PLAIN + blanks) == asked
    assert plain().begin(b"=" + blanks) is Fault.MALFORMED
    assert plain().begin(blanks) is Fault.UNDECODABLE
    for line, result in ((PLAIN, asked), (b"*", Fault.CANCELLED), (b"", Fault.MALFORMED)):
        exchange, strict = plain(), ServerExchange(PlainServer(tls=True), strict_syntax=True)
        for each in (exchange, strict):
            each.begin(None)
        assert exchange.receive(line + blanks) == result
        assert strict.receive(line + blanks) is Fault.UNDECODABLE
    for line in (PLAIN, b"="):
        assert ServerExchange(PlainServer(tls=True), strict_syntax=True).begin(line + blanks) is Fault.UNDECODABLE


@pytest.mark.parametrize("initial_response", [b"=", b"", b"dGlt", b"*", b"\xff"])
def test_server_first_mechanism_rejects_initial_response(initial_response: bytes) -> None:
    """RFC 4954 section 4: 501."""
    exchange = ServerExchange(CramMd5Server(challenge=TIMESTAMP, tls=False))
    assert exchange.begin(initial_response) is Fault.UNEXPECTED_INITIAL_RESPONSE


def test_a_star_cancels() -> None:
    """RFC 4954 section 4."""
    exchange = plain()
    exchange.begin(None)
    assert exchange.receive(b"*") is Fault.CANCELLED
    with pytest.raises(LocalProtocolError):
        exchange.receive(PLAIN)


def test_star_with_other_characters_is_undecodable() -> None:
    for line in (b" *", b"* *", b"**"):
        exchange = plain()
        exchange.begin(None)
        assert exchange.receive(line) is Fault.UNDECODABLE


# Order of calls


def test_calls_in_wrong_order_raise_and_change_nothing() -> None:
    exchange = plain()
    with pytest.raises(LocalProtocolError):
        exchange.receive(PLAIN)
    with pytest.raises(LocalProtocolError):
        exchange.answer(ACCEPT)
    question = exchange.begin(PLAIN)
    assert exchange.question is question
    for call in (exchange.begin, exchange.receive, exchange.respond):
        with pytest.raises(LocalProtocolError):
            call(PLAIN)
    assert exchange.question is question
    assert exchange.answer(ACCEPT) == Success(authentication_identity="tim", authorization_identity="tim")
    with pytest.raises(LocalProtocolError):
        exchange.answer(ACCEPT)


def test_answered_question_is_not_kept() -> None:
    """architecture.md, invariant 6: the question contains the password."""
    exchange = plain()
    exchange.begin(PLAIN)
    exchange.answer(ACCEPT)
    assert exchange.question is None


@pytest.mark.parametrize("answer", [None, b"secret", True, "yes"])
def test_answer_of_wrong_type_raises_and_question_stays_open(answer: object) -> None:
    exchange = plain()
    question = exchange.begin(PLAIN)
    with pytest.raises(LocalProtocolError):
        exchange.answer(answer)
    assert exchange.question is question
    assert isinstance(exchange.answer(ACCEPT), Success)


@pytest.mark.parametrize("answer", [ACCEPT, True, "secret", bytearray(b"secret")])
def test_secret_of_wrong_type_raises_and_question_stays_open(answer: object) -> None:
    exchange = ServerExchange(CramMd5Server(challenge=TIMESTAMP, tls=False))
    exchange.begin(None)
    question = exchange.receive(base64.b64encode(b"tim " + b"0" * 32))
    with pytest.raises(LocalProtocolError):
        exchange.answer(answer)
    assert exchange.question is question
    assert exchange.answer(None) is Refusal.BAD_CREDENTIALS


@pytest.mark.parametrize("refusal", list(Refusal))
def test_refusal_is_returned_unchanged_and_ends_the_exchange(refusal: Refusal) -> None:
    exchange = plain()
    exchange.begin(PLAIN)
    assert exchange.answer(refusal) is refusal
    assert exchange.question is None
    calls: list[Callable[[], Step]] = [
        lambda: exchange.answer(ACCEPT),
        lambda: exchange.begin(PLAIN),
        lambda: exchange.receive(PLAIN),
        lambda: exchange.respond(b"\0tim\0secret"),
    ]
    for call in calls:
        with pytest.raises(LocalProtocolError, match="the exchange is over"):
            call()


# Authentication and authorization identity


@pytest.mark.parametrize("acting_as", [b"", b"tim"])
def test_same_authorization_identity_is_not_checked(acting_as: bytes) -> None:
    """RFC 4422 section 3.4.1; mutt, git and Java send the name in both fields."""
    exchange = plain()
    exchange.begin(base64.b64encode(acting_as + b"\0tim\0secret"))
    assert exchange.answer(ACCEPT) == Success(authentication_identity="tim", authorization_identity="tim")


def test_other_authorization_identity_is_checked_after_password() -> None:
    """RFC 4422 section 3.4.1."""
    exchange = plain()
    assert isinstance(exchange.begin(AS_BOB), CheckPassword)
    question = exchange.answer(ACCEPT)
    assert question == Authorize(
        authentication_identity="tim", authorization_identity="bob", mechanism="PLAIN", tls=True
    )
    assert exchange.answer(ACCEPT) == Success(authentication_identity="tim", authorization_identity="bob")


def test_authorization_identity_is_not_checked_after_wrong_password() -> None:
    exchange = plain()
    exchange.begin(AS_BOB)
    assert exchange.answer(Refusal.BAD_CREDENTIALS) is Refusal.BAD_CREDENTIALS


def test_authorization_identity_may_be_rejected() -> None:
    exchange = plain()
    exchange.begin(AS_BOB)
    exchange.answer(ACCEPT)
    assert exchange.answer(Refusal.NOT_AUTHORIZED) is Refusal.NOT_AUTHORIZED


def test_authentication_identity_is_set_once_received() -> None:
    exchange = ServerExchange(LoginServer(tls=False))
    assert (exchange.mechanism, exchange.authentication_identity) == ("LOGIN", None)
    exchange.begin(base64.b64encode(b"tim"))
    assert exchange.authentication_identity == "tim"
    assert exchange.receive(b"*") is Fault.CANCELLED
    assert exchange.authentication_identity == "tim"


class LastWord:
    """A mechanism that sends data with its success, as SCRAM does."""

    name: ClassVar[str] = "LAST-WORD"
    client_first: ClassVar[bool] = True
    tls = False
    authentication_identity = "tim"

    def respond(self, response: bytes | None) -> Step:
        return Success(authentication_identity="tim", authorization_identity="bob", data=b"v=proof")

    def resolve(self, answer: object) -> Step:
        raise AssertionError("nothing was asked")


def test_success_data_is_sent_as_separate_challenge() -> None:
    """RFC 4954 section 4: 235 cannot carry data, so it is sent as a challenge.  The client's response to it is
    empty."""
    exchange = ServerExchange(LastWord())
    assert isinstance(exchange.begin(None), Authorize)
    assert exchange.answer(ACCEPT) == Challenge(b"v=proof")
    assert exchange.receive(b"") == Success(authentication_identity="tim", authorization_identity="bob")


def test_response_to_success_data_must_be_empty() -> None:
    exchange = ServerExchange(LastWord())
    exchange.begin(None)
    exchange.answer(ACCEPT)
    assert exchange.receive(b"dGlt") is Fault.MALFORMED


def test_success_data_is_not_sent_if_authorization_is_rejected() -> None:
    exchange = ServerExchange(LastWord())
    exchange.begin(None)
    assert exchange.answer(Refusal.NOT_AUTHORIZED) is Refusal.NOT_AUTHORIZED


# Any bytes

RESPONSES = [
    b"tim",
    b"tim " + b"0" * 32,
    b"n,,n=tim,r=abc",
    b"n,a=bob,n=tim,r=abc",
    b"y,,n=tim,r=abc",
    b"p=tls-exporter,,n=tim,r=abc",
    b"c=biws,r=abcserver,p=" + base64.b64encode(bytes(32)),
    b"c=cD10bHMtZXhwb3J0ZXIsLHg=,r=abcserver,p=" + base64.b64encode(bytes(20)),
    b"n,a=tim,\x01auth=Bearer abc\x01\x01",
    b"user=tim\x01auth=Bearer abc\x01\x01",
    b"\x01",
]
DATA = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=20).map(base64.b64encode),
    st.sampled_from([b"*", b"=", b"", PLAIN, AS_BOB, *RESPONSES, *map(base64.b64encode, RESPONSES)]),
)


@given(st.sampled_from(SERVERS), st.booleans(), st.none() | DATA, st.lists(DATA, max_size=4), st.sampled_from(ANSWERS))
def test_any_data_at_any_step_returns_a_step(
    make: Callable[[], ServerMechanism], raw: bool, first: bytes | None, rest: list[bytes], answer: object
) -> None:
    """architecture.md, invariant 8: no input from the client raises an exception."""
    exchange = ServerExchange(make())
    step = exchange.respond(first) if raw else exchange.begin(first)
    while True:
        assert isinstance(step, Challenge | Question | Success | Refusal | Fault)
        if isinstance(step, Success):
            assert step.authorization_identity
        if isinstance(step, Question):
            assert exchange.question is step
            refusal = step.unavailable
            try:
                step = exchange.answer(answer)
            except LocalProtocolError:
                step = exchange.answer(refusal)
        elif isinstance(step, Challenge) and rest:
            step = exchange.respond(rest.pop()) if raw else exchange.receive(rest.pop())
        else:
            break


# Client side


def test_initial_response_over_limit_is_sent_after_empty_challenge() -> None:
    """RFC 4954 section 4, RFC 5034 section 4: the command line must not exceed its limit."""
    exchange = ClientExchange(PlainClient(authentication_identity="tim", password=b"secret"))
    assert exchange.begin(max_length=len(PLAIN)) == PLAIN
    assert exchange.begin(max_length=len(PLAIN) - 1) is None
    assert not exchange.satisfied
    assert exchange.respond(b"") == PLAIN
    assert exchange.satisfied


PROMPTS = [b"", b"dGlt", b"Username:", b"VXNlcm5hbWU", b"VXNlcm5hbWU6 ", b"go ahead", b"\xff", b"=", b"*"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_first_prompt_before_the_initial_response_may_be_any_text(prompt: bytes) -> None:
    exchange = ClientExchange(PlainClient(authentication_identity="tim", password=b"secret"))
    exchange.begin(max_length=0)
    assert exchange.respond(prompt) == PLAIN
    with pytest.raises(Malformed):
        exchange.respond(b"go ahead")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_of_login_may_be_any_text(prompt: bytes) -> None:
    exchange = ClientExchange(LoginClient(authentication_identity="tim", password=b"secret"))
    assert exchange.begin() is None
    assert exchange.respond(prompt) == b"dGlt"
    assert exchange.respond(prompt) == b"c2VjcmV0"
    assert exchange.satisfied
    with pytest.raises(Malformed):
        exchange.respond(prompt)


def test_prompt_of_several_lines_is_rejected() -> None:
    """The client would not know which line is the prompt."""
    for mechanism in (
        PlainClient(authentication_identity="tim", password=b"secret"),
        LoginClient(authentication_identity="tim", password=b"secret"),
    ):
        exchange = ClientExchange(mechanism)
        exchange.begin(max_length=0)
        with pytest.raises(Malformed):
            exchange.respond(b"User\nname:")


def test_challenges_after_the_first_response_are_strict() -> None:
    scram = ScramSha256Client(authentication_identity="tim", password=b"secret", entropy=bytes(16))
    for mechanism in (scram, Xoauth2Client(authorization_identity="tim", token=b"token")):
        exchange = ClientExchange(mechanism)
        exchange.begin(max_length=0)
        exchange.respond(b"go ahead")
        with pytest.raises(Malformed):
            exchange.respond(b"go ahead")
    cram = ClientExchange(CramMd5Client(authentication_identity="tim", password=b"secret"))
    cram.begin()
    with pytest.raises(Malformed):
        cram.respond(b"PDFAaD4")


def test_with_strict_syntax_prompts_must_be_base64() -> None:
    login = ClientExchange(LoginClient(authentication_identity="tim", password=b"secret"), strict_syntax=True)
    login.begin()
    for line in (b"Username:", b"VXNlcm5hbWU", b"VXNlcm5hbWU6 "):
        with pytest.raises(Malformed):
            login.respond(line)
    assert login.respond(b"VXNlcm5hbWU6") == b"dGlt"
    plain = ClientExchange(PlainClient(authentication_identity="tim", password=b"secret"), strict_syntax=True)
    plain.begin(max_length=0)
    for line in (b"Username:", b"dGlt"):
        with pytest.raises(Malformed):
            plain.respond(line)
    assert plain.respond(b"") == PLAIN


@pytest.mark.parametrize("name", ["LOGIN", "PLAIN", "CRAM-MD5", "SCRAM-SHA-256"])
@given(
    lines=st.lists(
        st.binary(max_size=12) | st.binary(max_size=12).map(encode_base64) | st.sampled_from(PROMPTS), max_size=4
    )
)
def test_where_strict_syntax_accepts_a_challenge_the_response_is_the_same(name: str, lines: list[bytes]) -> None:
    mechanisms: dict[str, Callable[[], ClientMechanism]] = {
        "LOGIN": lambda: LoginClient(authentication_identity="tim", password=b"secret"),
        "PLAIN": lambda: PlainClient(authentication_identity="tim", password=b"secret"),
        "CRAM-MD5": lambda: CramMd5Client(authentication_identity="tim", password=b"secret"),
        "SCRAM-SHA-256": lambda: ScramSha256Client(
            authentication_identity="tim", password=b"secret", entropy=bytes(16)
        ),
    }
    tolerant = ClientExchange(mechanisms[name]())
    strict = ClientExchange(mechanisms[name](), strict_syntax=True)
    assert tolerant.begin(max_length=0) == strict.begin(max_length=0)
    for line in lines:
        try:
            expected = strict.respond(line)
        except Malformed:
            return
        assert tolerant.respond(line) == expected


@pytest.mark.parametrize(
    "client",
    [
        PlainClient(authentication_identity="tim", password=b"secret"),
        LoginClient(authentication_identity="tim", password=b"secret"),
        CramMd5Client(authentication_identity="tim", password=b"secret"),
        UserPassClient(authentication_identity="tim", password=b"secret"),
        ApopClient(authentication_identity="tim", password=b"secret"),
    ],
    ids=lambda client: str(client.name),
)
def test_extra_challenge_is_rejected_and_mechanism_can_be_reused(client: ClientMechanism) -> None:
    for _ in range(2):
        client.respond(None)
        assert client.satisfied == (client.name == "PLAIN")
        while not client.satisfied:
            client.respond(TIMESTAMP)
        with pytest.raises(Malformed):
            client.respond(TIMESTAMP)


# Client against server

SECRETS = st.text(st.characters(blacklist_characters="\0\r\n", blacklist_categories=["Cs"]), min_size=1, max_size=20)
NAMES = st.text(st.characters(blacklist_categories=["Cc", "Cs"]), min_size=1, max_size=20)


@given(NAMES, NAMES, SECRETS, SECRETS)
def test_login_succeeds_if_and_only_if_secrets_match(name: str, other: str, sent: str, kept: str) -> None:
    """For the mechanisms that do not use SASLprep.  The others have their own test."""
    password = sent.encode()
    for known in ({name: sent.encode()}, {name: kept.encode()}, {other: sent.encode()}):
        right = known.get(name) == password
        ends = [
            log_in(LoginClient(authentication_identity=name, password=password), LoginServer(tls=True), known),
            log_in(
                CramMd5Client(authentication_identity=name, password=password),
                CramMd5Server(challenge=TIMESTAMP, tls=True),
                known,
            ),
            log_in_raw(
                UserPassClient(authentication_identity=name, password=password), UserPassServer(tls=True), known
            ),
        ]
        if name.isascii() and sent.isascii():  # APOP clients prepare other text (RFC 6856 section 2.2)
            apop = ApopClient(authentication_identity=name, password=password)
            ends.append(log_in_raw(apop, ApopServer(timestamp=TIMESTAMP, tls=True), known))
        success = Success(authentication_identity=name, authorization_identity=name)
        assert ends == [success if right else Refusal.BAD_CREDENTIALS] * len(ends)
