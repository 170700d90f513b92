"""Why no message has arrived: the text of the AssertionError of ``wait_for_message()``."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from .._checks import check_function, check_type, type_name
from .message import Message
from .rules import same_address
from .transcript import CLIENT_CLOSED, NOT_SENT, NOTE, RULE, SERVER, TLS_FAILED, ConnectionTranscript, Transcript

CLOSEST: Final = 3
"""The number of messages that are shown: those that differ least from the wanted one."""

_NO_TLS: Final = "the client did not begin with TLS, which smtps_port and pop3s_port require"

_TLS_CAUSES: Final = {
    "unknown ca": "the client does not trust the CA of the server; use mail_server.ca_file or mail_server.ssl_context",
    "certificate expired": "the client rejected the certificate because it has expired",
    "bad certificate": "the client rejected the certificate; perhaps it is for another host",
    "certificate unknown": "the client rejected the certificate",
    "http request": "the client sent an HTTP request",
    "wrong version number": _NO_TLS,
    "record layer failure": _NO_TLS,
    "packet length too long": _NO_TLS,
    "no shared cipher": "the client and the server have no cipher suite in common",
    "unsupported protocol": "the client and the server have no TLS version in common",
}
"""What the reasons that OpenSSL gives for a failed handshake mean for a test."""

_CLIENT_HELLO: Final = r"\x16\x03"
"""The beginning of a TLS handshake, as a transcript shows it."""

_SAME_PURPOSE: Final[Mapping[str, tuple[str, ...]]] = {"AUTH": ("AUTH",), "EHLO": ("HELO",), "STARTTLS": ("MAIL",)}
"""For each verb, the commands whose later success makes its rejection irrelevant."""


@attrs.frozen(kw_only=True)
class Wanted:
    """What ``wait_for_message()`` looks for.  None: any."""

    to: str | None = None
    sender: str | None = None
    subject: str | re.Pattern[str] | None = None
    where: Callable[[Message], bool] | None = None

    def __attrs_post_init__(self) -> None:
        """Raise TypeError for what no message can match."""
        use = "one address, such as 'bob@far.test'"
        check_type("to", self.to, str, use=use, optional=True)
        check_type("sender", self.sender, str, use=use, optional=True)
        subject: object = getattr(self.subject, "pattern", self.subject)
        if not (subject is None or isinstance(subject, str)):
            kind = type_name(self.subject)
            raise TypeError(f"subject must be a str or a pattern of str, not {kind}; use re.compile('...')")
        if self.where is not None:
            check_function("where", self.where)

    def differences(self, message: Message) -> list[str]:
        """Return the differences between *message* and the wanted one, without calling ``where``."""
        envelope = message.envelope
        found: list[str] = []
        if self.to is not None and not any(same_address(self.to, address) for address in envelope.recipients):
            found.append(f"to {', '.join(envelope.recipients)}, not {self.to}")
        if self.sender is not None and not same_address(self.sender, envelope.sender):
            found.append(f"from {envelope.sender or '<>'}, not {self.sender}")
        if isinstance(self.subject, re.Pattern):
            if not self.subject.search(message.subject):
                found.append(f"subject {message.subject!r} does not match {self.subject.pattern!r}")
        elif self.subject is not None and self.subject != message.subject:
            found.append(f"subject {message.subject!r}, not {self.subject!r}")
        return found

    def matches(self, message: Message) -> bool:
        """Return whether *message* is a wanted one."""
        return not self.differences(message) and (self.where is None or self.where(message))

    def __str__(self) -> str:
        subject = self.subject.pattern if isinstance(self.subject, re.Pattern) else self.subject
        parts = {"to": self.to, "sender": self.sender, "subject": subject}
        shown = [f"{name}={value!r}" for name, value in parts.items() if value is not None]
        if self.where is not None:
            shown.append(f"where={getattr(self.where, '__name__', self.where)}")
        return f"a message with {', '.join(shown)}" if shown else "any message"


def explain(
    wanted: Wanted,
    timeout: float,
    messages: Sequence[Message],
    returned: Sequence[Message],
    transcript: Transcript,
    faults: Sequence[str],
) -> str:
    """Return the text for a wait that ended without a message: the cause, the closest messages and the transcript.

    The cause is in the first line, since the summary of pytest shows only this line.  *faults* are the network
    faults that have had an effect: if one closes a connection, the server sees only that the connection has ended.
    """
    ranked = sorted(messages, key=lambda message: len(wanted.differences(message)))
    cause = _cause(wanted, ranked, returned, transcript)
    if faults:
        cause += f"; network faults: {', '.join(faults)}"
    parts = [f"no message: {cause}", f"Waited {timeout:g} seconds for {wanted}."]
    if ranked:
        parts.append(f"Messages that arrived ({len(ranked)}), the closest first:")
        parts += [f"  {message!r}: {_difference(message, wanted, returned)}" for message in ranked[:CLOSEST]]
    parts += ["Transcript:", str(transcript)]
    return "\n".join(parts)


def _difference(message: Message, wanted: Wanted, returned: Sequence[Message]) -> str:
    differences = wanted.differences(message)
    if message in returned:
        differences.append("already returned by an earlier wait_for_message()")
    elif not differences and wanted.where is not None:
        differences.append("where() returned false")
    return "; ".join(differences)


def _cause(wanted: Wanted, ranked: Sequence[Message], returned: Sequence[Message], transcript: Transcript) -> str:
    if any(not wanted.differences(message) and message in returned for message in ranked):
        return "it was already returned: each message is returned once; see mail_server.messages"
    if not transcript.connections:
        return "no client has connected; check the host and the port, and that the code was called"
    sessions = [_SmtpSession(connection) for connection in transcript if connection.protocol == "SMTP"]
    if not sessions:
        return _only_pop3(transcript.connections[-1])
    refusal = None if wanted.to is None else _refusal_of(wanted.to, sessions)
    if refusal is not None and refusal.reply.startswith("5"):
        return _describe(refusal)
    if (failure := sessions[-1].failure) is not None:
        return failure
    if refusal is not None:
        return _describe(refusal)
    if ranked:
        return f"another message arrived: {_difference(ranked[0], wanted, returned)}"
    return "the last message got a positive reply, but is not in mail_server.messages"


def _refusal_of(recipient: str, sessions: Sequence[_SmtpSession]) -> _Exchange | None:
    """Return the last RCPT with *recipient*, if the server has refused it."""
    for session in reversed(sessions):
        for exchange in reversed(session.exchanges):
            if exchange.verb == "RCPT" and f"<{recipient.lower()}>" in exchange.command.lower():
                return exchange if _is_negative(exchange.reply) else None
    return None


def _only_pop3(connection: ConnectionTranscript) -> str:
    if connection.commands:
        return "no client has connected to SMTP, only to POP3"
    return f"a client connected to {connection.service}_port, which is POP3; SMTP is on smtp_port and smtps_port"


@attrs.define
class _Exchange:
    """A command, or the content of a message, and what the server has replied.  The first one is the greeting."""

    command: str = ""
    responses: list[str] = attrs.field(factory=list[str])
    """What the client has sent after 334."""
    replies: list[str] = attrs.field(factory=list[str])
    notes: list[str] = attrs.field(factory=list[str])
    tls: bool = False
    incomplete: bool = False
    """Content of a chunk that is not the last one."""

    @property
    def verb(self) -> str:
        return self.command.partition(" ")[0].upper()

    @property
    def reply(self) -> str:
        """The last line of the last reply, which ends the exchange; empty without a reply."""
        return self.replies[-1] if self.replies else ""

    @property
    def is_content(self) -> bool:
        return self.command.startswith("<content")

    @property
    def is_last_chunk(self) -> bool:
        return self.verb == "BDAT" and self.command.upper().endswith(" LAST")

    @property
    def delivers(self) -> bool:
        """Whether a positive reply means that the server has accepted a message."""
        return (self.is_content and not self.incomplete) or self.verb == "DATA" or self.is_last_chunk

    @property
    def by_rule(self) -> bool:
        sent = not any(note.startswith(NOT_SENT) for note in self.notes)
        return sent and any(note.startswith(RULE) for note in self.notes)

    def __str__(self) -> str:
        """The command as the cause shows it."""
        if self.is_content:
            return "the end of the content"
        verb, _, argument = self.command.partition(" ")
        if verb.upper() == "AUTH":
            return f"AUTH {self.mechanism}{_login(self.mechanism, [*argument.split()[1:], *self.responses])}"
        if verb.upper() in ("MAIL", "RCPT"):
            keyword, colon, path = argument.partition(":")  # "from:" and "to:" in some versions of smtplib
            return f"{verb} {keyword}".upper() + colon + path
        return verb.upper()

    @property
    def mechanism(self) -> str:
        return self.command.partition(" ")[2].partition(" ")[0].upper()


class _SmtpSession:
    """The commands and replies of one SMTP session, from its transcript."""

    def __init__(self, connection: ConnectionTranscript) -> None:
        self.connection = connection
        self.exchanges = [_Exchange()]
        for line in tuple(connection.lines):
            current = self.exchanges[-1]
            if line.source == SERVER:
                current.replies.append(line.printable)
            elif line.source == NOTE:
                current.notes.append(line.printable)
            elif current.reply.startswith("334"):
                current.responses.append(line.printable)
            else:
                after_chunk = current.verb == "BDAT" and not current.is_last_chunk
                self.exchanges.append(_Exchange(line.printable, tls=line.tls, incomplete=after_chunk))

    @property
    def failure(self) -> str | None:
        """Why the session has not sent a message; None if the last one was accepted."""
        successes: set[str] = set()  # the commands after the exchange, and their verbs
        for exchange in reversed(self.exchanges):
            if exchange.delivers and exchange.reply.startswith("2"):
                return None
            for note in exchange.notes:
                if note.startswith(TLS_FAILED):
                    return _tls_failure(note.removeprefix(TLS_FAILED).strip(" :"), self.connection.service)
            if exchange.command.startswith(_CLIENT_HELLO):
                return "the client began with TLS on smtp_port; use smtps_port, or STARTTLS"
            refused = _is_negative(exchange.reply) or (exchange.by_rule and not exchange.reply)
            if refused and not successes & {exchange.command.upper(), *_SAME_PURPOSE.get(exchange.verb, ())}:
                return _describe(exchange)
            if exchange.reply[:1] in ("2", "3"):
                successes |= {exchange.command.upper(), exchange.verb}
        return self._unfinished({exchange.verb for exchange in self.exchanges})

    def _unfinished(self, verbs: set[str]) -> str:
        """Return why no message has arrived, although the server has rejected nothing."""
        closed = any(CLIENT_CLOSED in exchange.notes for exchange in self.exchanges)
        port = f"{self.connection.service}_port"
        if self.connection.service == "smtps" and self.connection.tls is None:
            return "the client connected to smtps_port, but did not begin TLS; for STARTTLS or no TLS, use smtp_port"
        last_verb = self.exchanges[-1].verb
        if closed and self.connection.tls is not None and last_verb in ("", "STARTTLS"):
            return "the client closed the connection after the TLS handshake; perhaps it rejected the certificate"
        if not verbs & {"EHLO", "HELO"}:
            return (
                "the client closed the connection without sending EHLO"
                if closed
                else f"the client connected to {port}, but sent no EHLO"
            )
        if "MAIL" not in verbs:
            return self._no_mail()
        if "RCPT" not in verbs:
            return "the client sent MAIL, but no RCPT"
        if not verbs & {"DATA", "BDAT"}:
            return "the client sent RCPT, but no DATA"
        if closed:
            return "the client closed the connection before the end of the message"
        return "the message is not complete: the end of the content has not arrived"

    def _no_mail(self) -> str:
        """Return what the client did last, before the MAIL that it did not send."""
        last = next(exchange for exchange in reversed(self.exchanges) if exchange.verb in ("EHLO", "HELO", "STARTTLS"))
        if last.verb == "STARTTLS":
            if self.connection.tls is not None:
                return "the client completed the TLS handshake, but sent no EHLO after it"
            return "the client sent STARTTLS, but did not complete the TLS handshake"
        logins = [
            exchange for exchange in self.exchanges if exchange.verb == "AUTH" and exchange.reply[:1] in ("2", "3")
        ]
        if logins and logins[-1].reply.startswith("3"):
            return f"the client began a login by {logins[-1].mechanism}, but did not complete it"
        if logins:
            return f"the client logged in by {logins[-1].mechanism}, but sent no MAIL"
        offered = {reply[4:].split(" ")[0].upper() for reply in last.replies[1:]}
        expected = ("AUTH",) if last.tls else ("STARTTLS", "AUTH")
        missing = [name for name in expected if name not in offered]
        reason = f"; the server offers no {' and no '.join(missing)}" if missing else ""
        return f"the client sent {last.verb}, but no MAIL{reason}"


def _describe(exchange: _Exchange) -> str:
    """Return what has happened in *exchange*, which was not successful."""
    step = str(exchange) if exchange.command else "the connection"
    if not exchange.reply:
        rule = next(note for note in exchange.notes if note.startswith(RULE))
        return f"a rule replied{rule.removeprefix(RULE)} to {step}"
    cause = f"{'a rule' if exchange.by_rule else 'the server'} replied {exchange.reply!r} to {step}"
    if exchange.verb == "AUTH" and exchange.reply.startswith("535") and not exchange.by_rule:
        if exchange.mechanism in ("XOAUTH2", "OAUTHBEARER"):
            return f"{cause}: the token is unknown or has expired"
        return f"{cause}: the password is wrong, or the account does not exist"
    if exchange.reply.startswith("4") and not exchange.reply.startswith("421"):
        return f"{cause}, and the client did not try again"
    return cause


def _is_negative(reply: str) -> bool:
    return re.match("[45][0-9][0-9]", reply) is not None


def _tls_failure(reason: str, service: str) -> str:
    if "closed the connection" in reason:  # asyncio, and some libraries, do so without an alert
        cause = "the client closed the connection during the TLS handshake; perhaps it rejected the certificate"
        return f"{cause}, or it did not begin with TLS and needs smtp_port" if service == "smtps" else cause
    reason = re.sub(r"^.*\balert ", "", reason)  # the name of the protocol before it differs between OpenSSL's versions
    meaning = _TLS_CAUSES.get(reason)
    return f"the TLS handshake failed: {meaning} ({reason})" if meaning else f"the TLS handshake failed: {reason}"


def _login(mechanism: str, responses: Sequence[str]) -> str:
    """Return the account, and for PLAIN and LOGIN the password, that *responses* contain; empty if they are not valid.

    The passwords are those of a test.
    """
    decoded: list[str] = []
    for response in responses:
        try:
            decoded.append(binascii.a2b_base64(response, strict_mode=True).decode())
        except ValueError:
            return ""
    match mechanism, decoded:
        case "PLAIN", [text] if text.count("\0") == 2:
            name, password = text.split("\0")[1:]
        case "LOGIN", [name, password]:
            pass
        case "CRAM-MD5", [text]:
            return f" as {text.rpartition(' ')[0]!r}"
        case _:
            return ""
    return f" as {name!r} with {password!r}"
