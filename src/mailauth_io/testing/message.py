"""The messages that the server of the test kit has accepted, and those in its maildrops."""

from __future__ import annotations

import email
import email.parser
import email.policy
import html
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from functools import cached_property
from typing import Any, Final

import attrs

from mailauth import Tls

_URL: Final = re.compile(r"https?://[^\s<>\"']+")
_AFTER_URL: Final = ".,;:!?'\""
"""Characters that belong to the sentence, not to the link, if a link ends with them."""

_TAG: Final = re.compile(r"<([A-Za-z][^\s/>]*+)")
_ATTRIBUTE: Final = re.compile(r"[\s/]*+([^\s/>][^\s/>=]*+)(\s*+=\s*+)?+")
"""The name of an attribute, and what is between it and the value."""
_UNQUOTED: Final = re.compile(r"[^\s>]*+")
_OTHER_MARKUP: Final = (("<!--", "-->"), ("<!", ">"), ("<?", ">"), ("</", ">"))
_END_OF_RAW_TEXT: Final = {name: re.compile(f"</{name}", re.IGNORECASE) for name in ("script", "style")}


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
        return str(self._header["Subject"] or "")

    @cached_property
    def _header(self) -> EmailMessage:
        # Not of ``email``: the body may be large, or nested too deeply to be parsed.
        parser = email.parser.BytesParser(policy=email.policy.default)
        return parser.parsebytes(self.raw, headersonly=True)

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


def _links(part: EmailMessage) -> list[str]:
    if part.get_content_maintype() != "text" or part.is_attachment():
        return []
    text: Any
    try:
        text = part.get_content()
    except (LookupError, ValueError):  # an unknown charset, or one that cannot decode this text
        payload: Any = part.get_payload(decode=True)  # bytes
        text = payload.decode("latin-1")
    return list(_links_in_html(text) if part.get_content_subtype() == "html" else _links_in_text(text))


def _links_in_text(text: str) -> Iterator[str]:
    return map(_without_punctuation, _URL.findall(text))


def _without_punctuation(link: str) -> str:
    """Return *link* without the end of the sentence, and without the closing parentheses that it does not open."""
    unopened = link.count(")") - link.count("(")
    end = len(link)
    while end:
        last = link[end - 1]
        if last == ")" and unopened > 0:
            unopened -= 1
        elif last not in _AFTER_URL:
            break
        end -= 1
    return link[:end]


def _links_in_html(text: str) -> Iterator[str]:
    """Return the links in the attributes and in the text of an HTML document.

    The time is proportional to its length, whatever it contains; that of ``html.parser`` is not, in many versions.
    Markup without an end reaches to the end of the document, as in a browser.
    """
    position = 0
    while position < len(text):
        start = text.find("<", position)
        if start < 0:
            start = len(text)
        yield from _links_in_text(html.unescape(text[position:start]))
        tag = _TAG.match(text, start)
        if tag is None:
            position = _end_of_other_markup(text, start)
            continue
        position, links = _read_attributes(text, tag.end())
        yield from links
        if (end_tag := _END_OF_RAW_TEXT.get(tag[1].lower())) is not None:
            found = end_tag.search(text, position)
            end = len(text) if found is None else found.start()
            yield from _links_in_text(text[position:end])
            position = end


def _end_of_other_markup(text: str, start: int) -> int:
    """Return where the comment, declaration or end tag at *start* ends; after the ``<`` if it is text."""
    for begin, end in _OTHER_MARKUP:
        if text.startswith(begin, start):
            found = text.find(end, start + 2)  # "<!-->" is a whole comment
            return len(text) if found < 0 else found + len(end)
    return start + 1


def _read_attributes(text: str, position: int) -> tuple[int, list[str]]:
    """Return where the tag ends whose attributes begin at *position*, and the links in them."""
    links: list[str] = []
    while (name := _ATTRIBUTE.match(text, position)) is not None:
        position = name.end()
        if name[2] is None:
            continue  # without a value
        quote = text[position : position + 1]
        if quote in ('"', "'"):
            end = text.find(quote, position + 1)
            if end < 0:
                return len(text), []
            value, position = text[position + 1 : end], end + 1
        else:
            found = _UNQUOTED.match(text, position)
            assert found is not None
            value, position = found[0], found.end()
        value = html.unescape(value).strip()
        if name[1].lower() in ("href", "src", "action") and _URL.match(value):
            links.append(value)
    end = text.find(">", position)
    return (len(text), []) if end < 0 else (end + 1, links)
