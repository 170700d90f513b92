"""Any value in any field of any command: either the constructor rejects it, or the command is one line on the wire that
the peer parses to an equal command.

The classes and their fields are found by introspection, so new commands are tested without a change here.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, get_args, get_origin, get_type_hints

import attrs
import pytest
from hypothesis import given, strategies as st

from mailauth import ACCEPT, Command, LocalProtocolError, MessageChunk, NeedData, Question, Send, Tls, pop3, sasl, smtp
from mailauth.errors import Malformed
from mailauth.pop3.verbs import ROWS as POP3_ROWS
from mailauth.smtp._command_lines import split_line
from mailauth.smtp.replies import join_lines, parse_line
from mailauth.smtp.verbs import ROWS
from tests.pop3.drive import Application, client as pop3_client, pull, said, settle
from tests.smtp.drive import LEFT_OPEN, converse, exact, greeted, serve

TLS: Final = Tls(version="TLSv1.3")
CONTENT: Final = (MessageChunk, smtp.MessageComplete)
"""The commands that write message content instead of a line."""


def leaves(kind: type[Any]) -> Iterator[type[Any]]:
    """Return the subclasses of *kind* in this package that have no subclasses."""
    below = [
        found for found in kind.__subclasses__() if vars(sys.modules[found.__module__]).get(found.__name__) is found
    ]
    below = [found for found in below if found.__module__.startswith("mailauth.")]
    if not below:
        yield kind
    for found in below:
        yield from leaves(found)


COMMANDS: Final = sorted(set(leaves(Command)), key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
LINES: Final = [kind for kind in COMMANDS if kind not in CONTENT]
CLIENTS: Final = [kind for name, kind in sorted(vars(sasl).items()) if name.endswith("Client")]
VALUES: Final = [
    *(smtp.Mailbox, smtp.OriginalRecipient, smtp.Reply, smtp.PerRecipient),
    *(pop3.Reply, pop3.Message, pop3.Maildrop, pop3.Content),
]

SOME: Final = (
    *(smtp.Mailbox("a", "b.example"), "client.example", "rfc822", "PLAIN", 250, True),
    *(b"sixteen.octets.and.more", (ACCEPT,), None),
)
"""A value for each field without a default."""


def fields(kind: type[Any]) -> dict[str, attrs.Attribute[Any]]:
    """Return the fields of the constructor, by the name of the argument."""
    return {str(field.alias): field for field in attrs.fields(kind) if field.init}


def refusal(kind: type[Any], arguments: dict[str, Any]) -> LocalProtocolError | None:
    try:
        kind(**arguments)
    except LocalProtocolError as error:
        return error
    return None


def example(kind: type[Any]) -> dict[str, Any]:
    """Return the minimum of arguments that a *kind* needs."""
    needed = tuple(name for name, field in fields(kind).items() if field.default is attrs.NOTHING)
    for names in (needed, *((*needed, name) for name in fields(kind) if name not in needed)):
        for values in itertools.product(SOME, repeat=len(names)):
            arguments = dict(zip(names, values, strict=True))
            if refusal(kind, arguments) is None:
                return arguments
    raise AssertionError(f"nothing in SOME fits into {kind.__name__}: add a value")


EXAMPLES: Final = {kind: example(kind) for kind in (*COMMANDS, *CLIENTS, *VALUES)}

PIECES: Final = (
    *("a", "b.example", "@", "<", ">", " ", "=", "+", ",", ";", ".", '"', "\\", "[192.0.2.1]", "1", "-", "x" * 70),
    *("\r\n", "\r", "\n", "\0", "\t", "\x7f", "\x85", "\u2028", "é", "\udc80", "例え"),
    *(
        "PLAIN",
        "XPLAINX",
        "SIZE=1",
        "SMTPUTF8",
        "X-KEY",
        "RCPT TO:<c@d>",
        "NEVER",
        "8BITMIME",
        "250",
        "5.7.1",
        "[AUTH]",
    ),
)
texts = st.sampled_from(PIECES) | st.lists(st.sampled_from(PIECES), max_size=4).map("".join) | st.text(max_size=9)
data = texts.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=20)
numbers = st.sampled_from([-1, 0, 1, 200, 559, 600, 10**10 - 1, 10**10, 10**20 - 1, 10**20]) | st.integers()
mailboxes = st.sampled_from(
    [
        *(smtp.Mailbox("a", "b"), smtp.Mailbox("Postmaster", ""), smtp.Mailbox("a> SIZE=1 <b", "c.example")),
        *(smtp.Mailbox('"\\', "[192.0.2.1]"), smtp.Mailbox("pelé", "例え.example")),
    ]
)
addresses = st.builds(smtp.OriginalRecipient, st.sampled_from(["rfc822", "UTF-8"]), st.sampled_from(["a b+=", "@"]))
GOOD: Final[dict[Any, st.SearchStrategy[Any]]] = {
    str: texts,
    bytes: data,
    int: numbers,
    bool: st.booleans(),
    type(None): st.none(),
    type(ACCEPT): st.just(ACCEPT),
    smtp.Mailbox: mailboxes,
    smtp.OriginalRecipient: addresses,
    smtp.Reply: st.just(smtp.Reply(451)),
    pop3.Message: st.builds(pop3.Message, size=st.just(1), unique_id=st.sampled_from("ab")),
    **{kind: st.sampled_from(kind) for kind in (smtp.Body, smtp.Ret, smtp.Notify)},
}
"""For each type, valid values of a field of that type."""

bad = st.one_of(*GOOD.values(), st.floats(allow_nan=False), st.just(object()), st.lists(texts, max_size=2))


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    """Return values of the declared type of a field."""
    parts = [of_type(part) for part in get_args(hint) if part is not ...]
    if get_origin(hint) is tuple:
        return st.lists(parts[0], max_size=3).map(tuple)
    if get_origin(hint) is frozenset:
        return st.frozensets(parts[0], max_size=3)
    if get_origin(hint) is Mapping:
        return st.dictionaries(st.sampled_from(["X-KEY", "Y", "SIZE", "x", "X=1"]) | texts, parts[1], max_size=2)
    return st.one_of(parts) if parts else GOOD[hint]


@st.composite
def any_arguments(draw: st.DrawFn, kind: type[Any], name: str) -> dict[str, Any]:
    """Draw any value for the field *name*, mostly of its type.  The other fields are valid; a bool may be either."""
    switches = {name: draw(st.booleans()) for name, field in fields(kind).items() if field.type in (bool, "bool")}
    value = of_type(get_type_hints(kind)[fields(kind)[name].name])
    return {**EXAMPLES[kind], **switches, name: draw(draw(st.sampled_from([value, value, bad, st.tuples(bad)])))}


def build(kind: type[Any], arguments: dict[str, Any]) -> Any:
    """Return a *kind*, or None if the constructor raised an error that names a field."""
    error = refusal(kind, arguments)
    if error is not None:
        assert any(name in str(error) for name in arguments)
        return None
    return kind(**arguments)


def each_field(*kinds: type[Any]) -> pytest.MarkDecorator:
    rows = [
        pytest.param(kind, name, id=f"{kind.__module__.split('.')[1]}.{kind.__name__}.{name}")
        for kind in kinds
        for name in fields(kind)
    ]
    return pytest.mark.parametrize(("kind", "name"), rows)


def each(*kinds: type[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: f"{kind.__module__.split('.')[1]}.{kind.__name__}")


# Clients in every state

EVERY_EXTENSION: Final = (
    *("PIPELINING", "SIZE 0", "8BITMIME", "BINARYMIME", "CHUNKING", "SMTPUTF8", "DSN", "REQUIRETLS", "STARTTLS"),
    "AUTH PLAIN",
)
MAIL: Final = smtp.Mail(reverse_path=None, smtputf8=True)
RCPT: Final = smtp.Rcpt(forward_path=smtp.Mailbox("a", "b"))


def smtp_client(*sent: Command, tls: Tls | None = TLS) -> Callable[[], smtp.ClientConnection]:
    return lambda: greeted(*EVERY_EXTENSION, tls=tls).send(*sent).forget().client


def logged_in() -> pop3.ClientConnection:
    connection = pop3_client(tls=TLS)
    connection.authenticate(sasl.UserPassClient(authentication_identity="alice", password=b"secret"))
    for _ in range(2):
        pull(connection)
        connection.receive_data(b"+OK\r\n")
    pull(connection)
    return connection


STATES: Final[dict[str, list[Callable[[], Any]]]] = {
    "smtp": [smtp_client(), smtp_client(MAIL), smtp_client(MAIL, RCPT), smtp_client(tls=None)],
    "pop3": [pop3_client, logged_in],
}
"""For each protocol, clients in enough states that each command is allowed in one of them."""


def written(connection: Any) -> bytes:
    """Return the output of *connection*."""
    sent = b""
    while not isinstance(event := connection.next_event(), NeedData):
        sent += event.data if isinstance(event, Send) else b""
    return sent


def client_for(command: Command) -> Any:
    """Return a client that has queued *command*, or None if no state allows it."""
    for make in STATES[type(command).__module__.split(".")[1]]:
        connection = make()
        try:
            connection.send(command)
        except LocalProtocolError:
            assert written(connection) == b""
            continue
        return connection
    return None


SENDABLE: Final = [kind for kind in LINES if client_for(kind(**EXAMPLES[kind])) is not None]


def test_introspection_finds_the_commands() -> None:
    """Otherwise the tests below would check nothing."""
    assert {smtp.Mail, smtp.Rcpt, smtp.Hello, pop3.Retrieve, pop3.Uidl, *CONTENT} <= set(COMMANDS)
    assert {kind.__name__ for kind in set(LINES) - set(SENDABLE)} == {"Auth", "Bdat", "User", "Pass", "Apop"}
    assert {sasl.PlainClient, sasl.ScramSha256PlusClient, sasl.Xoauth2Client} <= set(CLIENTS)


# When a value is built


@each_field(*COMMANDS, *CLIENTS, *VALUES)
def test_every_field_rejects_a_value_of_the_wrong_type(kind: type[Any], name: str) -> None:
    assert name in str(refusal(kind, {**EXAMPLES[kind], name: object()}))


def read_back(kind: type[Any], line: bytes, command: Any) -> object:
    """Return the command that a server parses from *line*; for a verb without a class, the words of *command*."""
    if isinstance(command, smtp.GenericCommand | pop3.GenericCommand):
        name, _, argument = line.decode("ascii").partition(" ")
        return attrs.evolve(command, verb=name, argument=argument)
    if ".smtp." in kind.__module__:
        assert not line.endswith(b" ")
        name, argument = split_line(line, smtputf8=True)
        return ROWS[name].parse(argument)
    verb, _, rest = line.partition(b" ")
    return POP3_ROWS[verb.decode()].parse(rest)


@each_field(*LINES)
@given(data=st.data())
def test_command_is_rejected_or_is_one_line_that_parses_back(kind: type[Any], name: str, data: st.DataObject) -> None:
    """RFC 5321 section 4.1, RFC 1939 section 3."""
    command = build(kind, data.draw(any_arguments(kind, name)))
    if command is None:
        return
    line = command.to_wire()
    assert re.fullmatch(rb"[^\r\n\0]+\r\n", line)
    if kind in SENDABLE:
        connection = client_for(command)
        rows = ROWS if ".smtp." in kind.__module__ else POP3_ROWS
        if isinstance(command, smtp.GenericCommand | pop3.GenericCommand) and command.verb in rows:
            assert connection is None  # the verb has a class
        else:
            assert connection is not None
            assert written(connection) == line
    not_sent = {"source_route": (), "deleting": False}
    expected = attrs.evolve(command, **{name: value for name, value in not_sent.items() if hasattr(command, name)})
    assert exact(read_back(kind, line[:-2], command)) == exact(expected)


PARSED: Final = [kind for kind in LINES if hasattr(kind, "parse")]
ARGUMENTS: Final = (
    *("FROM:<a@b>", "FROM:<>", "TO:<a@b>", "TO:<Postmaster>", "FROM:<", "TO:<", "@b", "@[192.0.2.1],", "@[x]", ":"),
    *(" SIZE=1", " BODY=8BITMIME", " AUTH=", " ENVID=", " NOTIFY=", " ORCPT=rfc822;", " ORCPT=utf-8;", " X=", "+41"),
    *("PLAIN", "1 LAST", "2 0"),
)
arguments = st.lists(st.sampled_from(ARGUMENTS) | st.sampled_from(PIECES), max_size=5).map("".join)


def check_parsed(kind: type[Any], argument: str) -> bool:
    """Return whether *argument* can be parsed and sent.  If so, the constructor accepts the same fields."""
    try:
        text = argument if ".smtp." in kind.__module__ else argument.encode("utf-8", "surrogatepass")
        command = kind.parse(text)
        line = command.to_wire()
    except (Malformed, LocalProtocolError):
        return False
    built = kind(**{alias: getattr(command, field.name) for alias, field in fields(kind).items()})
    assert built == command
    assert built.to_wire() == line or "." in line.decode().partition("@")[0]  # dots need quotes in the constructor
    return True


@each(*PARSED)
@given(argument=arguments)
def test_what_is_parsed_and_can_be_sent_is_accepted_by_the_constructor(kind: type[Any], argument: str) -> None:
    """architecture.md, invariant 11: a parser does not validate again, so that it is fast, and must not accept more."""
    check_parsed(kind, argument)


@pytest.mark.parametrize(
    "path",
    [
        *("<ü@b.test>", "<a@ü.test>", "<a@b.test> X=ü", "<@[x]:a@b.test>", "<@[1.2.3.4.5]:a@b.test>"),
        f"<@{'x' * 256}:a@b.test>",
    ],
)
def test_mail_that_the_constructor_rejects_cannot_be_parsed_and_sent(path: str) -> None:
    assert not check_parsed(smtp.Mail, f"FROM:{path}")


@pytest.mark.parametrize("path", ["<@r.test,@[192.0.2.1]:a@b.test>", "<ü@b.test> SMTPUTF8", "<a..b@b.test>"])
def test_mail_that_the_constructor_accepts_can_be_parsed_and_sent(path: str) -> None:
    assert check_parsed(smtp.Mail, f"FROM:{path}")


def test_client_does_not_send_a_parsed_mail_that_lacks_smtputf8() -> None:
    """RFC 6531 section 3.4.  Nothing is queued."""
    connection = smtp_client()()
    with pytest.raises(LocalProtocolError, match="requires smtputf8=True"):
        connection.send(smtp.Mail.parse("FROM:<ü@b.test>"))
    assert written(connection) == b""


@each_field(*CONTENT, *VALUES)
@given(data=st.data())
def test_value_is_accepted_or_rejected_by_the_name_of_its_field(
    kind: type[Any], name: str, data: st.DataObject
) -> None:
    error = refusal(kind, data.draw(any_arguments(kind, name)))
    assert error is None or name in str(error)


@each_field(*CLIENTS)
@given(data=st.data())
def test_client_mechanism_is_rejected_or_sends_no_cr_lf_or_nul(kind: type[Any], name: str, data: st.DataObject) -> None:
    """RFC 4954 section 4, RFC 5034 section 4; the arguments of USER, PASS and APOP are not in base64."""
    mechanism = build(kind, data.draw(any_arguments(kind, name)))
    if mechanism is None:
        return
    exchange = sasl.ClientExchange(mechanism)
    if kind in (sasl.UserPassClient, sasl.ApopClient):
        said = [exchange.respond_raw(None), exchange.respond_raw(b"<a@b>")]
    else:
        said = [exchange.begin() or b""]
        with contextlib.suppress(Malformed):  # the mechanism rejects the challenge
            said += [exchange.respond(sasl.encode_base64(challenge)) for challenge in (b"a", b"b")]
    assert not {*b"\r\n\0"} & {*b"".join(said)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: smtp.Rcpt(forward_path="a@b>\r\nRCPT TO:<c@d"),  # type: ignore[arg-type]  # under test
            "forward_path must be a Mailbox, not str; use Mailbox.parse(...)",
        ),
        (
            lambda: smtp.Mail(reverse_path="a@b"),  # type: ignore[arg-type]  # under test
            "reverse_path must be a Mailbox or None, not str; use Mailbox.parse(...)",
        ),
        (
            lambda: smtp.Reply("250", "", ""),  # type: ignore[arg-type]  # under test
            "code must be an int, not str; use int(...)",
        ),
        (
            lambda: sasl.PlainClient(authentication_identity="alice", password="x"),  # type: ignore[arg-type]  # under test
            "password must be bytes, not str; use .encode()",
        ),
        (
            lambda: smtp.MessageComplete(recipients=["a@b"]),  # type: ignore[arg-type]  # under test
            "recipients must be a tuple, not list; use tuple(...)",
        ),
        (
            lambda: smtp.Mail(reverse_path=None, body="8BITMIME"),  # type: ignore[arg-type]  # under test
            "body must be a Body or None, not str; use a member such as Body.SEVEN_BIT",
        ),
        (lambda: smtp.Mail(reverse_path=None, size=True), "size must be an int or None, not bool; use int(...)"),
        (
            lambda: smtp.Mail(reverse_path=None, parameters={"SIZE": "1"}),
            "parameters: SIZE has its own field; use size=",
        ),
        (lambda: smtp.Reply(10**5000), "code: a reply code must be 200 to 599"),
    ],
)
def test_error_message_names_the_field_and_the_expected_value(make: Callable[[], object], message: str) -> None:
    with pytest.raises(LocalProtocolError, match=re.escape(message)):
        make()


@each_field(*COMMANDS, *CLIENTS)
def test_no_error_message_contains_a_secret(kind: type[Any], name: str) -> None:
    for secret in (b"Ferocious-Kitten-42\r\n", "Ferocious-Kitten-42\r\n", ("Ferocious-Kitten-42",)):
        assert "Kitten" not in str(refusal(kind, {**EXAMPLES[kind], name: secret}))


# The check before a line is queued

NO_LINE: Final = (
    b"NOOP\r\nQUIT\r\n",
    b"NOOP\nQUIT\r\n",
    b"NOOP\rQUIT\r\n",
    b"NO\0OP\r\n",
    b"NOOP",
    b"",
    "NOOP\r\n",
    None,
)


@each(*SENDABLE)
@pytest.mark.parametrize("line", NO_LINE)
def test_subclass_that_writes_other_than_one_line_is_rejected(kind: type[Any], line: object) -> None:
    """Nothing is queued, and the client is unchanged."""
    tampered = type("Tampered", (kind,), {"__module__": kind.__module__, "to_wire": lambda self: line})
    good = kind(**EXAMPLES[kind])
    used = 0
    for make in STATES[kind.__module__.split(".")[1]]:
        connection, fresh = make(), make()
        try:
            fresh.send(good)
        except LocalProtocolError:
            continue
        used += 1
        with pytest.raises(LocalProtocolError, match="CRLF"):
            connection.send(tampered(**EXAMPLES[kind]))
        assert written(connection) == b""
        connection.send(good)
        assert written(connection) == written(fresh) == good.to_wire()
    assert used


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        (smtp.Hello(domain="c"), "domain", "c\r\nMAIL FROM:<>"),
        (smtp.Noop(), "argument", "\r\nQUIT"),
        (smtp.Vrfy(argument="a"), "argument", "a\nQUIT"),
        (smtp.Rcpt(forward_path=smtp.Mailbox("a", "b")), "forward_path", "a@b>\r\nRCPT TO:<c@d"),
        (smtp.Rcpt(forward_path=smtp.Mailbox("a", "b")), "parameters", {"X": "\r\nDATA"}),
        (smtp.Mail(reverse_path=None), "size", "1\r\nDATA"),
        (smtp.Mail(reverse_path=None), "auth", "a\r\nDATA"),
        (pop3.Dele(number=1), "number", "1\r\nDELE 2"),
        (pop3.Uidl(number=1), "number", "1\0"),
        (pop3.Retrieve(number=1, lines=0), "lines", "0\r\nDELE 1"),
    ],
)
def test_command_with_a_tampered_field_is_not_sent(command: Any, name: str, value: object) -> None:
    tampered = attrs.evolve(command)
    object.__setattr__(tampered, name, value)
    for make in STATES[type(command).__module__.split(".")[1]]:
        connection, fresh = make(), make()
        with pytest.raises((LocalProtocolError, ValueError, TypeError)):
            connection.send(tampered)
        assert written(connection) == b""
        if client_takes(fresh, command):
            connection.send(command)
            assert written(connection) == written(fresh)


def client_takes(connection: Any, command: Command) -> bool:
    try:
        connection.send(command)
    except LocalProtocolError:
        return False
    return True


class Talkative:
    """A mechanism of an application, with given responses."""

    name: ClassVar[str] = ""
    client_first: ClassVar[bool] = True
    satisfied = True

    def __init__(self, *responses: bytes) -> None:
        self._responses = list(responses)

    def respond(self, challenge: bytes | None) -> bytes:
        return self._responses.pop(0)


def talkative(name: str, *responses: bytes) -> Talkative:
    """Return a mechanism with this name, which is in its class."""
    mechanism: Talkative = type("Named", (Talkative,), {"name": name})(*responses)
    return mechanism


ALICE: Final = sasl.UserPassClient(authentication_identity="alice", password=b"secret")


@pytest.mark.parametrize("name", [b"alice\r\nDELE 1", b"a\nb", b"a\0b", b""])
def test_user_name_cannot_inject_a_command(name: bytes) -> None:
    connection = pop3_client()
    with pytest.raises(LocalProtocolError, match="argument"):
        connection.authenticate(talkative("USER", name))
    assert written(connection) == b""
    connection.authenticate(ALICE)
    assert written(connection) == b"USER alice\r\n"


def test_user_name_cannot_inject_a_command_with_validators_disabled() -> None:
    """The check before a line is queued does not depend on them."""
    connection = pop3_client()
    with attrs.validators.disabled(), pytest.raises(LocalProtocolError, match="CRLF"):
        connection.authenticate(talkative("USER", b"alice\r\nDELE 1"))
    assert written(connection) == b""
    connection.authenticate(ALICE)
    assert written(connection) == b"USER alice\r\n"


def test_password_cannot_inject_a_command() -> None:
    """The login has ended, and another is possible."""
    connection = pop3_client()
    connection.authenticate(talkative("USER", b"alice", b"s3cret\r\nDELE 1"))
    assert written(connection) == b"USER alice\r\n"
    connection.receive_data(b"+OK\r\n")
    with pytest.raises(LocalProtocolError, match="argument") as raised:
        connection.next_event()
    assert "s3cret" not in str(raised.value)
    assert written(connection) == b""
    connection.authenticate(ALICE)
    assert written(connection) == b"USER alice\r\n"


def test_mechanism_name_cannot_inject_a_command() -> None:
    session = greeted("AUTH XPLAINX plain")
    for name in ("plain", "XPLAINX\r\nMAIL"):
        with pytest.raises(LocalProtocolError):
            session.client.authenticate(talkative(name, b"x"))
    assert session.pull().sends == []
    session.client.authenticate(talkative("XPLAINX", b"x\r\ny"))
    assert session.pull().data == b"AUTH XPLAINX eA0KeQ==\r\n"


# The replies of a server


@each_field(smtp.Reply)
@given(data=st.data())
def test_smtp_reply_is_rejected_or_parses_as_one_reply(kind: type[Any], name: str, data: st.DataObject) -> None:
    """RFC 5321 section 4.2."""
    reply = build(smtp.Reply, data.draw(any_arguments(smtp.Reply, name)))
    if reply is not None and reply.code // 10 % 10 > 5:
        with pytest.raises(LocalProtocolError):
            reply.to_wire()
    elif reply is not None:
        rows = reply.to_wire().split(b"\r\n")
        assert rows.pop() == b""
        read = [parse_line(row) for row in rows]
        assert [last for _, last, _ in read] == [False] * (len(rows) - 1) + [True]
        assert join_lines(reply.code, [text for _, _, text in read]).code == reply.code


@each_field(pop3.Reply)
@given(data=st.data())
def test_pop3_reply_is_rejected_or_is_one_reply(kind: type[Any], name: str, data: st.DataObject) -> None:
    """RFC 1939 section 3."""
    reply = build(pop3.Reply, data.draw(any_arguments(pop3.Reply, name)))
    if reply is not None:
        rows = reply.to_wire().split(b"\r\n")
        assert rows.pop() == b""
        assert not {*b"\r\n\0"} & {*b"".join(rows)}
        assert (b"." in rows[1:]) is (reply.lines is not None)
        assert len(rows) == 1 + (0 if reply.lines is None else len(reply.lines) + 1)


def changed(text: str) -> smtp.Reply:
    reply = smtp.Reply(250, "", "ok")
    object.__setattr__(reply, "text", text)
    return reply


CLIENT_SAYS: Final = (b"EHLO c\r\n", b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<a@b>\r\n", b"DATA\r\n", b"x\r\n.\r\n")


class OwnReply(smtp.Reply):
    """A subclass, as an application may define one."""


def test_answer_of_a_subclass_that_cannot_be_sent_changes_nothing() -> None:
    """As for a Reply itself: the transaction stays open, and another answer is accepted."""
    session = serve(*CLIENT_SAYS, settings=smtp.ServerSettings(), answers={smtp.MessageComplete: LEFT_OPEN})
    assert session.question is not None
    assert isinstance(session.machine, smtp.ServerConnection)
    for reply in (OwnReply(571, "5.7.1", "blocked"), smtp.Reply(571, "5.7.1", "blocked")):
        with pytest.raises(LocalProtocolError, match="with_standard_code"):
            session.machine.answer(session.question, reply)
        assert session.machine.mail is not None
    session.machine.answer(session.question, OwnReply(250, "2.0.0", "stored"))


@pytest.mark.parametrize("reply", [changed("ok\r\n250 ok"), changed("a\rb"), changed("a\0b")])
@pytest.mark.parametrize("asked", [smtp.Connected, smtp.Mail, smtp.Rcpt, smtp.Data, smtp.MessageComplete])
@pytest.mark.parametrize("lmtp", [False, True])
def test_tampered_answer_cannot_inject_a_reply(asked: type[Question[Any]], reply: smtp.Reply, lmtp: bool) -> None:
    """The question stays open, and another answer is accepted."""
    lines = (b"LHLO c\r\n", *CLIENT_SAYS[1:]) if lmtp else CLIENT_SAYS
    session = serve(*lines, settings=smtp.ServerSettings(lmtp=lmtp), answers={asked: LEFT_OPEN})
    before = session.data
    assert session.question is not None
    with pytest.raises(LocalProtocolError, match="reply"):
        session.server.answer(session.question, reply)
    assert session.pull().data == before
    assert session.answer(ACCEPT).data != before


@pytest.mark.parametrize("unique_id", ["a\r\n2 b", "a\rb", "a\nb", "a\0b"])
def test_tampered_unique_id_cannot_inject_a_line(unique_id: str) -> None:
    """RFC 1939 section 7; the question stays open."""
    message = pop3.Message(size=1, unique_id="a")
    object.__setattr__(message, "unique_id", unique_id)
    connection = pop3.ServerConnection(pop3.ServerSettings(), entropy=bytes(32), tls=TLS)
    connection.receive_data(b"USER alice\r\nPASS wonderland\r\n")
    events = settle(connection, Application(), pause_at=pop3.OpenMaildrop)
    opening = events[-1]
    assert isinstance(opening, pop3.OpenMaildrop)
    with pytest.raises(LocalProtocolError, match="unique-id"):
        connection.answer(opening, pop3.Maildrop(messages=(message,)))
    connection.answer(opening, pop3.Maildrop())
    connection.receive_data(b"UIDL\r\n")
    assert said(settle(connection, Application())).endswith(b"+OK unique-ids follow\r\n.\r\n")


@given(st.lists(st.sampled_from([b"a", b".", b"\r\n", b"\r", b"\n", b"\0", b".\r\n", b"QUIT\r\n"]), max_size=9))
def test_content_is_rejected_or_received_unchanged(pieces: list[bytes]) -> None:
    """RFC 5321 section 4.5.2: no part of it is read as a command."""
    server = serve(settings=smtp.ServerSettings())
    client = greeted("PIPELINING")
    server.receive(b"EHLO client.example\r\n").forget()
    for command in (smtp.Mail(reverse_path=None), RCPT, smtp.Data()):
        client.send(command)
    converse(client, server)
    content = b"".join(pieces)
    try:
        client.send(MessageChunk(data=content), smtp.MessageComplete())
    except LocalProtocolError:
        return
    converse(client, server)
    assert server.content == content if content.endswith(b"\r\n") or not content else content + b"\r\n"
    assert len(server.of(smtp.MessageComplete)) == 1
    assert not server.of(smtp.Quit)
