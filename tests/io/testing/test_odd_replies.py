"""The odd replies: each means to our own clients what its ``meaning`` says.  The machines are driven in memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final, TypeAlias

import attrs
import pytest

from mailauth import (
    BeginTls,
    ClientMachine,
    Closed,
    MessageChunk,
    NeedData,
    RemoteProtocolError,
    Send,
    pop3,
    sasl,
    smtp,
)
from mailauth.pop3.commands import Pass, User
from mailauth.smtp.commands import Auth
from mailauth_io.testing import odd_replies
from mailauth_io.testing.odd_replies import OddReply

Machine: TypeAlias = smtp.ClientConnection | pop3.ClientConnection

Settings: TypeAlias = Mapping[str, Callable[[], Machine]]
"""How a client of each protocol is made."""

STRICT: Final[Settings] = {
    "SMTP": lambda: smtp.ClientConnection(smtp.ClientSettings(strict_syntax=True)),
    "POP3": lambda: pop3.ClientConnection(pop3.ClientSettings(strict_syntax=True)),
}
TOLERANT: Final[Settings] = {"SMTP": smtp.ClientConnection, "POP3": pop3.ClientConnection}

NOTICE: Final = "Use of this system by others is prohibited. | "

ERROR: Final = "error"
"""RemoteProtocolError."""
WAITS: Final = "waits"
"""The reply is not complete: NeedData, with a timeout."""
CLOSED: Final = "closed"

SMTP_RESULTS: Final[Mapping[str, tuple[str, ...]]] = {
    "GREETING_WITHOUT_TEXT": ("220",),
    "GREETING_WITHOUT_HOST": ("220 Service ready",),
    "GREETING_OF_A_FIREWALL": ("220 *****************************0*2******0***********************2****0*00",),
    "GREETING_IN_MANY_LINES": ("220 mx.example ESMTP | " + NOTICE * 58 + "ready",),
    "GREETING_AFTER_AN_EMPTY_LINE": ("220 mx.example ESMTP",),
    "GREETING_TWICE": ("220 proxy.example ESMTP", ERROR),
    "GREETING_WITH_LATE_REFUSAL": ("521 mx.example ESMTP | 5.7.1 client [192.0.2.1] is blocked by dnsbl.example",),
    "GREETING_WITH_DIFFERENT_CODES": (ERROR,),
    "GREETING_REFUSED": ("554 <5.7.1> No SMTP service here for 192.0.2.1",),
    "GREETING_REFUSED_WITH_553": ("553 <5.3.0> Your address is listed, see http://dnsbl.example/?192.0.2.1",),
    "GREETING_BUSY": ("421 <4.7.0> mx.example has too many connections from 192.0.2.1",),
    "GREETING_IN_LATIN_1": ("220 mx.example Serveur de messagerie pr?t, bienvenue ? tous",),
    "GREETING_IN_UTF_8": (f"220 mx.example {'?' * 16} {'?' * 12} {'?' * 10}",),
    "GREETING_WITH_LF": (WAITS,),
    "GREETING_WITH_BARE_CR": (ERROR,),
    "GREETING_WITH_NUL": (ERROR,),
    "GREETING_OF_600_BYTES": ("220 mx.example " + "x" * 583,),
    "GREETING_OF_100_KB": (ERROR,),
    "GREETING_OF_HTTP": (ERROR,),
    "GREETING_OF_TLS": (WAITS,),
    "GREETING_OF_SSH": (ERROR,),
    "GREETING_OF_POP3": (ERROR,),
    "EHLO_IN_ONE_LINE": ("250 mx.example",),
    "EHLO_WITHOUT_TEXT": ("250",),
    "EHLO_ENDS_WITH_CODE_AND_SPACE": ("250 mx.example | SIZE 10240000 | ",),
    "EHLO_ENDS_WITH_CODE_ALONE": ("250 mx.example | SIZE 10240000 | ",),
    "EHLO_WITHOUT_LAST_LINE": (WAITS,),
    "EHLO_IN_LOWER_CASE": ("250 mx.example | auth plain login | size 10240000 | starttls",),
    "EHLO_WITH_AUTH_AND_EQUALS": ("250 mx.example | AUTH=PLAIN LOGIN",),
    "EHLO_WITH_AUTH_TWICE": ("250 mx.example | AUTH PLAIN | AUTH=LOGIN | AUTH CRAM-MD5",),
    "EHLO_WITH_TABS": ("250 mx.example | AUTH\tPLAIN\tLOGIN | SIZE\t10240000",),
    "EHLO_WITH_SPACES": ("250 mx.example  | AUTH  PLAIN   LOGIN  | STARTTLS  | SIZE  10240000 ",),
    "EHLO_WITH_EMPTY_LINES": ("250 mx.example |  | SIZE 10240000 |   | HELP",),
    "EHLO_WITH_SIZE_WITHOUT_NUMBER": ("250 mx.example | SIZE",),
    "EHLO_WITH_SIZE_0": ("250 mx.example | SIZE 0",),
    "EHLO_WITH_SIZE_IN_TWO_LINES": ("250 mx.example | SIZE | 50000000 | 8BITMIME",),
    "EHLO_WITH_HUGE_SIZE": ("250 mx.example | SIZE 18446744073709551616",),
    "EHLO_WITH_GARBLED_KEYWORDS": ("250 mx.example | XXXXXXXA | AUTH PLAIN LOGIN | XXXB",),
    "EHLO_WITHOUT_CODES": ("250 mx.example", ERROR),
    "EHLO_WITH_DIFFERENT_CODES": (ERROR,),
    "EHLO_WITH_LATE_REFUSAL": ("550 mx.example | SIZE 10240000 | 5.7.1 Access denied",),
    "EHLO_OF_300_LINES": (ERROR,),
    "EHLO_IN_LATIN_1": ("250 mx.example gr??t client.example | SIZE 10240000",),
    "EHLO_UNKNOWN": ("500 unknown command: XXXX client.example",),
    "STARTTLS_ACCEPTED_WITH_250": (ERROR,),
    "STARTTLS_WITH_TEXT_AFTER_IT": (ERROR,),
    "STARTTLS_UNAVAILABLE": ("454 <4.7.0> TLS is not available now",),
    "AUTH_PROMPT_WITHOUT_SPACE": ("sends YWxpY2U=", WAITS),
    "AUTH_PROMPT_WITH_EQUALS": ("sends YWxpY2U=", WAITS),
    "AUTH_PROMPT_IN_CLEAR_TEXT": ("sends YWxpY2U=", WAITS),
    "AUTH_PROMPT_WITHOUT_PADDING": ("sends YWxpY2U=", WAITS),
    "AUTH_PROMPT_WITH_NUL": ("sends YWxpY2U=", WAITS),
    "AUTH_PROMPT_WITH_FREE_TEXT": ("sends AGFsaWNlAHNlc2FtZQ==", WAITS),
    "AUTH_PROMPT_IN_TWO_LINES": ("sends *", WAITS),
    "AUTH_CHALLENGE_NOT_IN_BASE64": ("sends *", WAITS),
    "AUTH_ACCEPTED_WITHOUT_TEXT": ("logged in by PLAIN",),
    "AUTH_ACCEPTED_WITH_CHALLENGE": ("logged in by PLAIN",),
    "AUTH_ACCEPTED_WITH_250": (ERROR,),
    "AUTH_REFUSED_IN_GBK": (f"login refused: 535 Error: {'?' * 16}",),
    "AUTH_REFUSED_WITH_OTHER_CLASS": ("login refused: 535 4.7.8 Authentication failed",),
    "MAIL_WITHOUT_TEXT": ("250",),
    "MAIL_REFUSED_WITH_498": ("498 <4.7.1> try again in five minutes",),
    "MAIL_ANSWERED_BY_421": ("421 <4.4.2> mx.example timed out",),
    "RCPT_WITHOUT_SPACE": (ERROR,),
    "RCPT_WITH_TWO_REPLIES": ("250 <2.1.5> Ok", ERROR),
    "RCPT_WITH_CONTROL_CHARACTERS": (ERROR,),
    "RCPT_REFUSED_WITH_571": ("571 <5.7.1> Delivery not authorized, message refused",),
    "RCPT_REFUSED_WITH_POSITIVE_STATUS": ("550 2.1.5 User unknown",),
    "RCPT_REFUSED_WITH_PERMANENT_STATUS": ("450 5.7.1 Greylisted, see http://greylist.example/",),
    "RCPT_REFUSED_WITH_552": ("552 <5.5.3> Too many recipients",),
    "RCPT_REFUSED_IN_LINES_WITH_DIFFERENT_STATUS": ("550 5.1.1 no such user | 5.7.1 and you are blocked",),
    "DATA_WITHOUT_TEXT": ("354",),
    "DATA_IN_TWO_LINES": ("354 end the message with a dot | go ahead",),
    "DATA_ACCEPTED_WITH_250": (ERROR,),
    "DATA_ANSWERED_BY_421": ("421 <4.3.0> temporary problem, try again later",),
    "MESSAGE_ACCEPTED_WITHOUT_TEXT": ("250",),
    "MESSAGE_ACCEPTED_TWICE": ("250", ERROR),
    "MESSAGE_REFUSED_WITH_599": ("599 <5.7.1> message content rejected",),
    "MESSAGE_ANSWERED_BY_3YZ": (ERROR,),
    "MESSAGE_ANSWERED_BY_421": ("421 <4.7.0> mx.example closing, message not accepted",),
    "RSET_WITH_LF": (WAITS,),
    "NOOP_AFTER_AN_EMPTY_LINE": ("250 <2.0.0> Ok",),
    "NOOP_AFTER_20_EMPTY_LINES": (ERROR,),
    "NOOP_OF_ONLY_DIGITS": (ERROR,),
    "NOOP_OUT_OF_RANGE": (ERROR,),
    "NOOP_IN_UTF_16": (WAITS,),
    "QUIT_ANSWERED_BY_250": ("250 <2.0.0> Ok", CLOSED),
    "QUIT_REFUSED": ("502 <5.5.1> command not implemented", CLOSED),
}
"""What a client does.  Brackets are around an enhanced status code; without them it is only text."""

MESSAGE: Final = "Subject: lunch\r\n\r\nAt noon?\r\n"

POP3_RESULTS: Final[Mapping[str, tuple[str, ...]]] = {
    "GREETING_WITHOUT_TEXT": ("+OK",),
    "GREETING_IN_LOWER_CASE": (ERROR,),
    "GREETING_WITHOUT_SPACE": (ERROR,),
    "GREETING_AFTER_AN_EMPTY_LINE": ("+OK POP3 ready",),
    "GREETING_WITH_TIMESTAMP_FIRST": ("+OK <1896.697170952@pop.example> POP3 ready",),
    "GREETING_WITH_NAME_IN_BRACKETS": ("+OK POP3 server ready <pop.example.test>",),
    "GREETING_WITH_TIMESTAMP_WITHOUT_BRACKETS": ("+OK POP3 ready 1462299066.1311785279@pop.example",),
    "GREETING_WITH_OPEN_BRACKET": ("+OK POP3 ready <1896.697170952@pop.example",),
    "GREETING_WITH_TWO_TIMESTAMPS": ("+OK <1.2@proxy.example> <3.4@pop.example>",),
    "GREETING_WITH_TIMESTAMP_IN_UTF_8": ("+OK POP3 ready <1896.697170952@b??ro.example>",),
    "GREETING_WITH_TOKEN": ("+OK The Microsoft Exchange POP3 service is ready. [UABPAFAALgBFAFgAQQBNAFAATABFAA==]",),
    "GREETING_REFUSED": ("-ERR <SYS/TEMP> too many connections from 192.0.2.1",),
    "GREETING_IN_LATIN_1": ("+OK Serveur pr?t, bienvenue ? tous",),
    "GREETING_WITH_LF": (WAITS,),
    "GREETING_WITH_BARE_CR": ("+OK POP3?ready",),
    "GREETING_OF_100_KB": (ERROR,),
    "GREETING_OF_SMTP": (ERROR,),
    "GREETING_OF_IMAP": (ERROR,),
    "GREETING_OF_HTTP": (ERROR,),
    "GREETING_OF_TLS": (WAITS,),
    "CAPA_REFUSED_WITHOUT_TEXT": ("-ERR",),
    "CAPA_NOT_TERMINATED": (WAITS,),
    "CAPA_ONLY_STATUS": (WAITS,),
    "CAPA_WITH_LF": (WAITS,),
    "CAPA_WITH_BLANKS": ("+OK | TOP  |  UIDL | SASL\tPLAIN  LOGIN ",),
    "CAPA_WITH_EMPTY_LINES": ("+OK |  | TOP |  | UIDL",),
    "CAPA_IN_LOWER_CASE": ("+OK | top | uidl | sasl plain",),
    "CAPA_WITH_SASL_TWICE": ("+OK | SASL PLAIN | USER | SASL LOGIN",),
    "CAPA_WITH_DOT_BEFORE_A_NAME": ("+OK | .EXAMPLE | UIDL",),
    "STLS_WITH_TEXT_AFTER_IT": (ERROR,),
    "STLS_REFUSED": ("-ERR TLS is active already",),
    "USER_WITHOUT_TEXT": ("sends PASS sesame", WAITS),
    "USER_UNKNOWN": ("login refused: -ERR sorry, no mailbox for alice here",),
    "PASS_REFUSED_WITH_PLUS": (ERROR,),
    "PASS_REFUSED_WITH_UNKNOWN_CODE": ("login refused: -ERR <X-BLOCKED/WEB> log in to the web site first",),
    "PASS_REFUSED_WITH_TEXT_IN_BRACKETS": ("login refused: -ERR [login failed] wrong password",),
    "PASS_REFUSED_WITHOUT_TEXT": ("login refused: -ERR",),
    "PASS_REFUSED_IN_GBK": (f"login refused: -ERR {'?' * 8}",),
    "AUTH_PROMPT_WITHOUT_SPACE": ("sends AGFsaWNlAHNlc2FtZQ==", WAITS),
    "AUTH_PROMPT_WITH_FREE_TEXT": ("sends AGFsaWNlAHNlc2FtZQ==", WAITS),
    "AUTH_PROMPT_WITH_OK": (ERROR,),
    "AUTH_CHALLENGE_NOT_IN_BASE64": ("sends *", WAITS),
    "STAT_WITH_MORE_FIELDS": ("+OK 2 320 0 0",),
    "STAT_WITH_TEXT": ("+OK 2 320 octets in your maildrop",),
    "STAT_WITHOUT_NUMBERS": ("+OK",),
    "STAT_WITH_NEGATIVE_NUMBERS": ("+OK 2 -2147483328",),
    "STAT_TWICE": ("+OK 2 320", ERROR),
    "LIST_WITH_TEXT_AFTER_THE_SIZE": ("+OK 2 messages | 1 120 octets | 2 200 octets",),
    "LIST_WITH_NEGATIVE_SIZE": ("+OK | 1 -1 | 2 200",),
    "LIST_NOT_TERMINATED": (WAITS,),
    "LIST_OF_AN_EMPTY_MAILDROP_REFUSED": ("-ERR no messages",),
    "UIDL_WITH_TAB": ("+OK | 1\twhqtswO00WBw418f9t5JxYwZ | 2\tQhdPYR:00WBw1Ph7x7",),
    "UIDL_WITH_SPACES": ("+OK | 1   whqtswO00WBw418f9t5JxYwZ | 2   QhdPYR:00WBw1Ph7x7 ",),
    "UIDL_WITH_LONG_ID": (f"+OK | 1 {'a' * 200} | 2 {'a' * 199}b",),
    "UIDL_WITH_OTHER_CHARACTERS": (r"+OK | 1 caf\xc3\xa9 | 2 caf\xc3\xa8",),
    "UIDL_WITH_EQUAL_IDS": ("+OK | 1 5d41402abc4b2a76 | 2 5d41402abc4b2a76",),
    "UIDL_WITHOUT_ID": ("+OK | 1 | 2 QhdPYR:00WBw1Ph7x7",),
    "UIDL_REFUSED": ("-ERR Unknown command",),
    "RETR_WITHOUT_DOT_STUFFING": ("content Subject: dots\r\n\r\nhidden\r\n", "+OK", ERROR),
    "RETR_NOT_TERMINATED": ("content " + MESSAGE.removesuffix("\r\n"), WAITS),
    "RETR_WITH_DOT_AND_CR": ("content " + MESSAGE.removesuffix("\r\n"), WAITS),
    "RETR_WITH_LF": ("content Subject: lunch\n\nAt noon?\n.\nBob\n\r\n", "+OK"),
    "RETR_WITH_EMPTY_LINE_AT_THE_END": (f"content {MESSAGE}\r\n", "+OK 28 octets"),
    "RETR_WITH_WRONG_SIZE": (f"content {MESSAGE}", "+OK 7 octets"),
    "RETR_OF_AN_EMPTY_MESSAGE": ("+OK 0 octets",),
    "RETR_WITH_ERROR_IN_THE_MESSAGE": ("content Subject: lunch\r\n-ERR [SYS/TEMP] read error\r\n", "+OK"),
    "RETR_WITH_NUL": ("content Subject: lunch\r\n\r\nAt\0noon?\r\n", "+OK"),
    "RETR_WITH_LONG_LINE": (f"content Subject: lunch\r\n\r\n{'x' * 20_000}\r\n", "+OK"),
    "RETR_REFUSED_WITH_UNKNOWN_CODE": ("-ERR <X-VIRUS> message is infected",),
    "TOP_WITH_WHOLE_MESSAGE": ("content Subject: lunch\r\n\r\n" + "At noon?\r\n" * 1_000, "+OK"),
    "DELE_WITHOUT_TEXT": ("+OK",),
    "NOOP_WITH_LONG_TEXT": ("+OK " + "x" * 594,),
    "NOOP_AFTER_AN_EMPTY_LINE": ("+OK",),
    "NOOP_AFTER_A_TLS_RECORD": (ERROR,),
    "NOOP_ANSWERED_BY_AUTOLOGOUT": ("-ERR <SYS/TEMP> logged out after ten minutes",),
    "RSET_IN_LINES": ("+OK maildrop has 2 messages", ERROR),
    "QUIT_WITH_ERROR": ("-ERR <SYS/TEMP> some deleted messages not removed", CLOSED),
    "QUIT_WITH_LF": (WAITS,),
}
"""What a client does.  Brackets are around a response code, and content is without dot-stuffing."""

EXTENSIONS: Final[Mapping[str, Mapping[str, list[str]]]] = {
    "EHLO_IN_ONE_LINE": {},
    "EHLO_WITHOUT_TEXT": {},
    "EHLO_ENDS_WITH_CODE_AND_SPACE": {"SIZE": ["10240000"]},
    "EHLO_ENDS_WITH_CODE_ALONE": {"SIZE": ["10240000"]},
    "EHLO_WITHOUT_LAST_LINE": {},
    "EHLO_IN_LOWER_CASE": {"AUTH": ["plain", "login"], "SIZE": ["10240000"], "STARTTLS": []},
    "EHLO_WITH_AUTH_AND_EQUALS": {"AUTH": ["PLAIN", "LOGIN"]},
    "EHLO_WITH_AUTH_TWICE": {"AUTH": ["PLAIN", "LOGIN", "CRAM-MD5"]},
    "EHLO_WITH_TABS": {"AUTH": ["PLAIN", "LOGIN"], "SIZE": ["10240000"]},
    "EHLO_WITH_SPACES": {"AUTH": ["PLAIN", "LOGIN"], "SIZE": ["10240000"], "STARTTLS": []},
    "EHLO_WITH_EMPTY_LINES": {"SIZE": ["10240000"], "HELP": []},
    "EHLO_WITH_SIZE_WITHOUT_NUMBER": {"SIZE": []},
    "EHLO_WITH_SIZE_0": {"SIZE": ["0"]},
    "EHLO_WITH_SIZE_IN_TWO_LINES": {"SIZE": [], "50000000": [], "8BITMIME": []},
    "EHLO_WITH_HUGE_SIZE": {"SIZE": ["18446744073709551616"]},
    "EHLO_WITH_GARBLED_KEYWORDS": {"XXXXXXXA": [], "AUTH": ["PLAIN", "LOGIN"], "XXXB": []},
    "EHLO_WITHOUT_CODES": {},
    "EHLO_WITH_DIFFERENT_CODES": {},
    "EHLO_WITH_LATE_REFUSAL": {},
    "EHLO_OF_300_LINES": {},
    "EHLO_IN_LATIN_1": {"SIZE": ["10240000"]},
    "EHLO_UNKNOWN": {},
}
"""What the client knows after each reply to EHLO."""

CAPABILITIES: Final[Mapping[str, Mapping[str, list[str]]]] = {
    "CAPA_REFUSED_WITHOUT_TEXT": {},
    "CAPA_NOT_TERMINATED": {},
    "CAPA_ONLY_STATUS": {},
    "CAPA_WITH_LF": {},
    "CAPA_WITH_BLANKS": {"TOP": [], "UIDL": [], "SASL": ["PLAIN", "LOGIN"]},
    "CAPA_WITH_EMPTY_LINES": {"TOP": [], "UIDL": []},
    "CAPA_IN_LOWER_CASE": {"TOP": [], "UIDL": [], "SASL": ["plain"]},
    "CAPA_WITH_SASL_TWICE": {"SASL": ["PLAIN", "LOGIN"], "USER": []},
    "CAPA_WITH_DOT_BEFORE_A_NAME": {".EXAMPLE": [], "UIDL": []},
}
"""What the client knows after each response to CAPA."""

NOT_POSITIVE: Final[Mapping[str, frozenset[str]]] = {
    "SMTP": frozenset({
        *("GREETING_REFUSED", "GREETING_REFUSED_WITH_553", "GREETING_BUSY", "GREETING_OF_HTTP", "GREETING_OF_TLS"),
        *("GREETING_OF_SSH", "GREETING_OF_POP3", "EHLO_UNKNOWN", "STARTTLS_UNAVAILABLE", "AUTH_REFUSED_IN_GBK"),
        *("AUTH_REFUSED_WITH_OTHER_CLASS", "MAIL_REFUSED_WITH_498", "MAIL_ANSWERED_BY_421", "RCPT_REFUSED_WITH_571"),
        *("RCPT_REFUSED_WITH_POSITIVE_STATUS", "RCPT_REFUSED_WITH_PERMANENT_STATUS", "RCPT_REFUSED_WITH_552"),
        *("RCPT_REFUSED_IN_LINES_WITH_DIFFERENT_STATUS", "RCPT_WITH_CONTROL_CHARACTERS", "DATA_ANSWERED_BY_421"),
        *("MESSAGE_REFUSED_WITH_599", "MESSAGE_ANSWERED_BY_421", "MESSAGE_ANSWERED_BY_3YZ", "NOOP_OUT_OF_RANGE"),
        "QUIT_REFUSED",
    }),
    "POP3": frozenset({
        *("GREETING_REFUSED", "GREETING_OF_SMTP", "GREETING_OF_IMAP", "GREETING_OF_HTTP", "GREETING_OF_TLS"),
        *("CAPA_REFUSED_WITHOUT_TEXT", "STLS_REFUSED", "USER_UNKNOWN", "PASS_REFUSED_WITH_UNKNOWN_CODE"),
        *("PASS_REFUSED_WITH_TEXT_IN_BRACKETS", "PASS_REFUSED_WITHOUT_TEXT", "PASS_REFUSED_IN_GBK"),
        *("LIST_OF_AN_EMPTY_MAILDROP_REFUSED", "UIDL_REFUSED", "RETR_REFUSED_WITH_UNKNOWN_CODE"),
        *("NOOP_AFTER_A_TLS_RECORD", "NOOP_ANSWERED_BY_AUTOLOGOUT", "QUIT_WITH_ERROR"),
    }),
}  # fmt: skip

ALL: Final = (*odd_replies.smtp.ALL.values(), *odd_replies.pop3.ALL.values())
RESULTS: Final = {"SMTP": SMTP_RESULTS, "POP3": POP3_RESULTS}
MODULES: Final[Mapping[str, ModuleType]] = {"SMTP": odd_replies.smtp, "POP3": odd_replies.pop3}

each_reply: Final = pytest.mark.parametrize("odd", ALL, ids=lambda odd: f"{odd.protocol}-{odd.name}")


# The client at each step

CREDENTIALS: Final[dict[str, Any]] = {"authentication_identity": "alice", "password": b"sesame"}
MAILBOX: Final = smtp.Mailbox("alice", "example.test")
TRANSACTION: Final = (
    smtp.Mail(reverse_path=MAILBOX),
    smtp.Rcpt(forward_path=MAILBOX),
    smtp.Data(),
    smtp.MessageComplete(),
)
EHLO_REPLY: Final = b"250-mx.example\r\n250-STARTTLS\r\n250 AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256\r\n"
CAPA_REPLY: Final = b"+OK\r\nSASL PLAIN CRAM-MD5\r\nUSER\r\nSTLS\r\n.\r\n"


LOGIN_PROMPTS: Final = frozenset({
    *("AUTH_PROMPT_WITHOUT_SPACE", "AUTH_PROMPT_WITH_EQUALS", "AUTH_PROMPT_IN_CLEAR_TEXT", "AUTH_PROMPT_IN_TWO_LINES"),
    *("AUTH_PROMPT_WITHOUT_PADDING", "AUTH_PROMPT_WITH_NUL"),
})  # fmt: skip
"""The replies of SMTP for a login by LOGIN."""
NOT_BASE64: Final = "AUTH_CHALLENGE_NOT_IN_BASE64"
"""The reply of either protocol for a login by CRAM-MD5.  The others are for PLAIN."""


def mechanism(step: type[Any], name: str) -> sasl.ClientMechanism:
    """Return the mechanism for which the reply *name* is made."""
    if name == NOT_BASE64:
        return sasl.CramMd5Client(**CREDENTIALS)
    if step is Auth and name in LOGIN_PROMPTS:
        return sasl.LoginClient(**CREDENTIALS)
    return sasl.PlainClient(**CREDENTIALS)


def smtp_client(machine: smtp.ClientConnection, step: type[Any], name: str) -> smtp.ClientConnection:
    """Bring *machine* to the point at which the reply to *step* is due."""
    if step is smtp.Connected:
        return machine
    feed(machine, b"220 mx.example\r\n")
    machine.send(smtp.Hello(domain="client.example"))
    if step is smtp.Hello:
        return machine
    feed(machine, EHLO_REPLY)
    if step is Auth:
        # Either a prompt or the last reply is odd.
        machine.authenticate(mechanism(step, name), initial_response=not name.startswith("AUTH_PROMPT"))
        return machine
    for command in TRANSACTION:
        if not any(isinstance(each, step) for each in TRANSACTION):
            break
        machine.send(command)
        if isinstance(command, step):
            return machine
        feed(machine, b"354 go ahead\r\n" if isinstance(command, smtp.Data) else b"250 ok\r\n")
    machine.send(step())
    return machine


def pop3_client(machine: pop3.ClientConnection, step: type[Any], name: str) -> pop3.ClientConnection:
    """Bring *machine* to the point at which the reply to *step* is due."""
    if step is pop3.Connected:
        return machine
    feed(machine, b"+OK\r\n")
    if step in (User, Pass):
        machine.authenticate(pop3.UserPassClient(**CREDENTIALS))
        if step is Pass:
            feed(machine, b"+OK\r\n")
        return machine
    machine.send(pop3.Capa())
    if step is pop3.Capa:
        return machine
    feed(machine, CAPA_REPLY)
    if step is pop3.Stls:
        machine.send(pop3.Stls())
        return machine
    if step is pop3.Auth:
        machine.authenticate(mechanism(step, name), initial_response=False)
        return machine
    machine.authenticate(sasl.PlainClient(**CREDENTIALS))
    feed(machine, b"+OK\r\n")
    match step:
        case pop3.Retrieve:
            machine.send(pop3.Retrieve(number=1, lines=0 if name.startswith("TOP") else None))
        case pop3.Dele:
            machine.send(pop3.Dele(number=1))
        case _:
            machine.send(step())
    return machine


def client(odd: OddReply, settings: Settings = TOLERANT, step: Any = None) -> Machine:
    """Return a client that waits for *odd*, or, if *step* is given, for the reply at another step."""
    machine = settings[odd.protocol]()
    step = step or odd.step
    if isinstance(machine, smtp.ClientConnection):
        smtp_client(machine, step, odd.name)
    else:
        pop3_client(machine, step, odd.name)
    list(events(machine))  # the command is written
    return machine


def events(machine: ClientMachine[Any]) -> Iterator[Any]:
    """Yield events until the machine needs data or is closed.  Each wait has an end."""
    while not isinstance(event := machine.next_event(), NeedData):
        yield event
        if isinstance(event, Closed | BeginTls):
            return
    assert 0 < event.timeout <= 1_200


def feed(machine: Machine, data: bytes) -> None:
    list(events(machine))
    machine.receive_data(data)
    list(events(machine))


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def outcome(machine: Machine, data: bytes, size: int) -> list[Any]:
    """Return the events after *data*, which arrives in pieces of *size* bytes, with the content in one piece.

    The last is the RemoteProtocolError, if there was one.
    """
    found: list[Any] = []
    try:
        for piece in pieces(data, size):
            machine.receive_data(piece)
            for event in events(machine):
                if isinstance(event, MessageChunk) and found and isinstance(found[-1], MessageChunk):
                    event = MessageChunk(data=found.pop().data + event.data)
                found.append(event)
                if isinstance(event, Closed | BeginTls):
                    return found
    except RemoteProtocolError as error:
        found.append(error)
    return found


def shown(event: Any) -> str:
    """Return *event* as the tables above write it."""
    match event:
        case RemoteProtocolError():
            return ERROR
        case Closed():
            return CLOSED
        case Send(data=data):
            return f"sends {data.decode('ascii').rstrip()}"
        case MessageChunk(data=data):
            return f"content {data.decode('latin-1')}"
        case sasl.Authenticated():
            return f"logged in by {event.mechanism}"
        case smtp.AuthenticationRejected() | pop3.AuthenticationRejected():
            return f"login refused: {shown_reply(event.reply)}"
        case smtp.ReplyReceived() | pop3.ReplyReceived():
            return shown_reply(event.reply)
        case _:
            raise AssertionError(event)


def shown_reply(reply: smtp.Reply | pop3.Reply) -> str:
    if isinstance(reply, smtp.Reply):
        code, status, lines = str(reply.code), reply.enhanced_status_code, reply.text.split("\n")
    else:
        code, status = "+OK" if reply.positive else "-ERR", reply.response_code
        lines = [reply.text, *(reply.lines or ())]
    first = " ".join(part for part in (code, status and f"<{status}>", lines[0]) if part)
    return " | ".join([first, *lines[1:]])


def expected(odd: OddReply) -> list[str]:
    return [each for each in RESULTS[odd.protocol][odd.name] if each != WAITS]


# What each reply means


@each_reply
def test_reply_means_what_is_documented(odd: OddReply) -> None:
    """However it is split: pieces of 7 bytes end at other places of a reply than those of 999."""
    sizes = (len(odd.data), 999, 7) if len(odd.data) > 10_000 else (len(odd.data), 7, 1)
    # TLS begins after the first line, if it arrives alone.
    for size in sizes[:1] if odd.step in (smtp.StartTls, pop3.Stls) else sizes:
        found = outcome(client(odd), odd.data, size)
        assert [shown(event) for event in found] == expected(odd)
        replies = [event for event in found if isinstance(event, smtp.ReplyReceived | pop3.ReplyReceived)]
        if odd.step not in (smtp.Connected, pop3.Connected):
            assert [type(event.command) for event in replies] == [odd.step] * len(replies)


@each_reply
def test_end_of_the_connection_ends_the_wait(odd: OddReply) -> None:
    """A client that waits for the rest of a reply gets no result.  To QUIT, no result is needed."""
    machine = client(odd)
    found = outcome(machine, odd.data, 1_000_000)
    end: list[Any] = []
    try:
        machine.receive_data(b"")
        end += events(machine)
    except RemoteProtocolError as error:
        end.append(error)
    last = RESULTS[odd.protocol][odd.name][-1]
    if found and isinstance(found[-1], RemoteProtocolError):
        assert end == [found[-1]]
    elif last == WAITS and odd.name != "QUIT_WITH_LF":
        assert [shown(event) for event in end] == [ERROR]
    else:
        assert [shown(event) for event in end] == [CLOSED]


@pytest.mark.parametrize("name", EXTENSIONS)
def test_extensions_after_a_reply_to_ehlo(name: str) -> None:
    machine = client(odd_replies.smtp.ALL[name])
    outcome(machine, odd_replies.smtp.ALL[name].data, 1_000_000)
    assert isinstance(machine, smtp.ClientConnection)
    offered = {keyword: parameters.split() for keyword, parameters in machine.extensions.items() if keyword}
    assert offered == EXTENSIONS[name]


def test_each_reply_to_ehlo_and_capa_is_in_a_table() -> None:
    assert EXTENSIONS.keys() == {name for name, odd in odd_replies.smtp.ALL.items() if odd.step is smtp.Hello}
    assert CAPABILITIES.keys() == {name for name, odd in odd_replies.pop3.ALL.items() if odd.step is pop3.Capa}


@pytest.mark.parametrize("name", CAPABILITIES)
def test_capabilities_after_a_response_to_capa(name: str) -> None:
    machine = client(odd_replies.pop3.ALL[name])
    outcome(machine, odd_replies.pop3.ALL[name].data, 1_000_000)
    assert isinstance(machine, pop3.ClientConnection)
    assert {tag: arguments.split() for tag, arguments in machine.capabilities.items()} == CAPABILITIES[name]


@pytest.mark.parametrize("name", [name for name, odd in odd_replies.pop3.ALL.items() if odd.step is pop3.Connected])
def test_apop_is_offered_for_a_valid_timestamp_only(name: str) -> None:
    """RFC 1939 section 7, CVE-2007-1558."""
    machine = client(odd_replies.pop3.ALL[name])
    outcome(machine, odd_replies.pop3.ALL[name].data, 1_000_000)
    assert isinstance(machine, pop3.ClientConnection)
    valid = name == "GREETING_WITH_TIMESTAMP_FIRST"
    assert machine.timestamp == (b"<1896.697170952@pop.example>" if valid else None)


@pytest.mark.parametrize("name", ["STARTTLS_WITH_TEXT_AFTER_IT", "STLS_WITH_TEXT_AFTER_IT"])
def test_text_after_the_reply_that_begins_tls_is_not_read_after_the_handshake(name: str) -> None:
    """The first line alone begins the handshake, so the rest is what the error is about."""
    odd = next(each for each in ALL if each.name == name)
    machine = client(odd)
    first, rest = odd.data.split(b"\r\n", 1)
    assert [type(event) for event in outcome(machine, first + b"\r\n", 100)] == [BeginTls]
    assert rest.endswith(b"\r\n")


def test_scram_does_not_accept_235_with_its_last_message() -> None:
    """RFC 5802 section 5: without the server's signature in a challenge, the server is not authenticated."""
    odd = odd_replies.smtp.AUTH_ACCEPTED_WITH_CHALLENGE
    machine = smtp.ClientConnection()
    feed(machine, b"220 mx.example\r\n")
    machine.send(smtp.Hello(domain="client.example"))
    feed(machine, EHLO_REPLY)
    machine.authenticate(sasl.ScramSha256Client(**CREDENTIALS, entropy=bytes(32)))
    list(events(machine))
    assert [shown(event) for event in outcome(machine, odd.data, 1_000_000)] == [ERROR]


def test_rejection_of_too_many_recipients_is_temporary() -> None:
    machine = client(odd_replies.smtp.RCPT_REFUSED_WITH_552)
    (event,) = outcome(machine, odd_replies.smtp.RCPT_REFUSED_WITH_552.data, 1_000_000)
    assert event.temporary


@each_reply
def test_strict_client_accepts_no_more_than_a_tolerant_one(odd: OddReply) -> None:
    """It may report an error earlier; what it reports before that is the same."""
    tolerant = expected(odd)
    found = [shown(event) for event in outcome(client(odd, STRICT), odd.data, 1_000_000)]
    if ERROR in found or "sends *" in found:
        assert found[:-1] == tolerant[: len(found) - 1]
    else:
        assert found == tolerant


STEPS: Final = {
    protocol: tuple(dict.fromkeys(odd.step for odd in module.ALL.values())) for protocol, module in MODULES.items()
}


@each_reply
def test_reply_at_another_step_raises_nothing_else(odd: OddReply) -> None:
    for settings in (TOLERANT, STRICT):
        for step in STEPS[odd.protocol]:
            for event in outcome(client(odd, settings, step), odd.data, len(odd.data)):
                assert isinstance(event, BeginTls) or shown(event)


# The catalogue


@pytest.mark.parametrize("protocol", MODULES)
def test_catalogue_has_each_constant_under_its_name(protocol: str) -> None:
    constants = {name: value for name, value in vars(MODULES[protocol]).items() if isinstance(value, OddReply)}
    assert dict(MODULES[protocol].ALL) == constants
    assert [name for name, odd in constants.items() if odd.name != name or odd.protocol != protocol] == []
    assert set(MODULES[protocol].__all__) == {"ALL", *constants}
    assert RESULTS[protocol].keys() == constants.keys()
    assert len({(odd.step, odd.data) for odd in constants.values()}) == len(constants)


def test_name_begins_with_the_step() -> None:
    names = {Auth: "AUTH", pop3.Auth: "AUTH", smtp.MessageComplete: "MESSAGE", pop3.Retrieve: "RETR TOP"}
    for odd in ALL:
        usual = "GREETING" if odd.step in (smtp.Connected, pop3.Connected) else getattr(odd.step, "verb", "")
        assert odd.name.split("_")[0] in names.get(odd.step, usual).split()


def test_catalogue_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        odd_replies.smtp.ALL["X"] = ALL[0]  # type: ignore[index]


@pytest.mark.parametrize("protocol", MODULES)
def test_positive_replies_are_known_by_their_first_bytes(protocol: str) -> None:
    """The test server carries out the command if the reply is positive."""
    found = {odd.name for odd in MODULES[protocol].ALL.values() if not odd.positive}
    assert found == NOT_POSITIVE[protocol]


def test_challenges_are_known_by_their_first_bytes_or_marked() -> None:
    """The test server sends them in place of its own challenge, and the others in place of its last reply."""
    answered = [odd for odd in ALL if odd.step in (Auth, pop3.Auth) and RESULTS[odd.protocol][odd.name][-1] == WAITS]
    marked = [odd_replies.pop3.AUTH_PROMPT_WITH_OK]
    assert {odd for odd in ALL if odd.challenge} == {*answered, *marked}


@each_reply
def test_meaning_says_who_sends_it_and_what_a_client_does(odd: OddReply) -> None:
    assert odd.meaning.startswith(("From ", "To TOP, from "))
    assert odd.meaning.endswith(".")
    assert odd.meaning.count(".  ") >= 1
    assert re.search(r"\b[Cc]lients?\b", odd.meaning)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"name": b"X"}, TypeError, "name must be a str"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"name": "lower"}, ValueError, "such as GREETING_WITHOUT_TEXT, not 'lower'"),
        ({"name": "TWO WORDS"}, ValueError, "such as GREETING_WITHOUT_TEXT"),
        ({"step": smtp.Noop()}, TypeError, "such as smtp.Rcpt"),
        ({"step": "NOOP"}, TypeError, "such as smtp.Rcpt, not 'NOOP'"),
        ({"step": int}, TypeError, "such as smtp.Rcpt"),
        ({"step": sasl.CheckPassword}, TypeError, "such as smtp.Rcpt"),
        ({"data": "250 ok\r\n"}, TypeError, r"data must be bytes, not str; use .encode\(\)"),
        ({"data": b""}, ValueError, "use STALL"),
        ({"challenge": 1}, TypeError, "challenge must be a bool"),
        ({"meaning": None}, TypeError, "meaning must be a str"),
        ({"meaning": ""}, ValueError, "meaning must not be empty"),
    ],
)
def test_wrong_field_is_refused_with_what_to_pass(changes: dict[str, Any], error: type[Exception], says: str) -> None:
    fields = {"name": "X", "step": smtp.Noop, "data": b"250 ok\r\n", "meaning": "From nobody."}
    assert OddReply(**fields).protocol == "SMTP"  # type: ignore[arg-type]  # values of several types in one dict
    with pytest.raises(error, match=says):
        OddReply(**{**fields, **changes})


def test_odd_reply_is_a_value() -> None:
    odd = odd_replies.pop3.RETR_WITH_NUL
    assert attrs.evolve(odd) == odd
    assert hash(attrs.evolve(odd)) == hash(odd)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        odd.data = b""  # type: ignore[misc]


def test_repr_does_not_show_all_of_a_long_reply() -> None:
    assert "data=<102400 bytes that begin with b'220 mx.example xxx" in repr(odd_replies.smtp.GREETING_OF_100_KB)
    assert r"data=b'250 2.0.0 Ok\n'" in repr(odd_replies.smtp.RSET_WITH_LF)
    assert max(len(repr(odd)) for odd in ALL) < 1_000


def test_two_replies_of_one_name_are_refused() -> None:
    odd = odd_replies.pop3.RETR_WITH_NUL
    with pytest.raises(ValueError, match="two replies have the name RETR_WITH_NUL"):
        odd_replies._odd_reply.by_name([odd, attrs.evolve(odd, data=b"+OK\r\n")])
