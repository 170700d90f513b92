"""The messages that the server of the test kit has accepted, and those in its maildrops."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from functools import cached_property
from html.parser import HTMLParser
from typing import Any, Final

import attrs

from mailauth import Tls

_URL: Final = re.compile(r"https?://[^\s<>\"']+")
_AFTER_URL: Final = ".,;:!?'\""
"""Characters that belong to the sentence, not to the link, if a link ends with them."""


@attrs.frozen(kw_only=True)
class Envelope:
    """How a message was submitted: the SMTP transaction and its session.

    For example:

        envelope = mail_server.wait_for_message().envelope
        assert envelope.mechanism == "PLAIN" and envelope.tls is not None
    """

    sender: str
    """The reverse-path; empty for the null one."""
    recipients: tuple[str, ...]
    """The accepted recipients, in their order."""
    identity: str | None
    """The authorization identity of the session; None if the client has not logged in."""
    mechanism: str | None
    """The SASL mechanism of the login; None without one."""
    grant: str | None
    """The account whose POP3 login permits the client to relay (POP before SMTP).  None if the client has logged in,
    or if all recipients are local."""
    tls: Tls | None
    """The TLS session; None without TLS."""
    hello: str
    """The name of the client in EHLO or HELO."""
    peer: str
    """The IP address of the client."""
    parameters: Mapping[str, str | None]
    """The parameters of MAIL by keyword, such as ``{"SIZE": "100", "BODY": "8BITMIME"}``."""


class StoredMessage:
    """A message in a maildrop.

    For example:

        mail_server.deliver("alice", b"Subject: tea\\r\\n\\r\\n")
        [message] = mail_server.maildrop("alice")
        assert message.subject == "tea"
    """

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        """The bytes of the message, with CRLF line ends.  In a maildrop, a message received by SMTP begins
        with trace fields."""

    @cached_property
    def email(self) -> EmailMessage:
        """The message as the email package of the standard library parses it."""
        return email.message_from_bytes(self.raw, policy=email.policy.default)

    @property
    def subject(self) -> str:
        """The decoded subject; empty without one."""
        return str(self.email["Subject"] or "")

    @cached_property
    def links(self) -> tuple[str, ...]:
        """The ``http`` and ``https`` URLs in the text and HTML parts, in their order, each once."""
        return tuple(dict.fromkeys(link for part in self.email.walk() for link in _links(part)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.subject!r}>"


class Message(StoredMessage):
    """A message that was accepted by SMTP, as the client sent it, with its envelope.

    For example:

        message = mail_server.wait_for_message(to="bob@far.test")
        assert message.subject == "Reset your password"
        assert message.links == ("https://example.test/reset?token=1",)
    """

    def __init__(self, raw: bytes, envelope: Envelope) -> None:
        super().__init__(raw)
        self.envelope = envelope
        """How it was submitted."""
        self.received = datetime.now(UTC)
        """When it was accepted, by the clock of the system."""

    def __repr__(self) -> str:
        return f"<Message {self.subject!r} to {', '.join(self.envelope.recipients)}>"


class _LinkParser(HTMLParser):
    """Collects the targets of links and the text of an HTML document."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [
            value for name, value in attrs if name in ("href", "src", "action") and value and _URL.match(value)
        ]

    def handle_data(self, data: str) -> None:
        self.links += _links_in_text(data)


def _links(part: EmailMessage) -> list[str]:
    if part.get_content_maintype() != "text" or part.is_attachment():
        return []
    text: Any
    try:
        text = part.get_content()
    except LookupError:  # an unknown charset
        payload: Any = part.get_payload(decode=True)  # bytes
        text = payload.decode("latin-1")
    if part.get_content_subtype() != "html":
        return list(_links_in_text(text))
    parser = _LinkParser()
    parser.feed(text)
    parser.close()
    return parser.links


def _links_in_text(text: str) -> Iterator[str]:
    for found in _URL.findall(text):
        link: str = found.rstrip(_AFTER_URL)
        while link.endswith(")") and link.count(")") > link.count("("):
            link = link[:-1].rstrip(_AFTER_URL)
        yield link
