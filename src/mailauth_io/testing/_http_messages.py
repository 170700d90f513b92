"""A message as the HTTP API shows it: header fields, texts and parts.

A message of a test may be malformed in any way, so nothing here raises on its content.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message as ParsedEmail
from email.policy import Compat32
from email.utils import getaddresses, parsedate_to_datetime
from html import unescape
from typing import Any, Final, cast

import attrs

from .message import Message

SNIPPET_LENGTH: Final = 200
"""The number of characters of the text of a message that a list shows."""

MAX_PARAMETERS: Final = 16384
"""The number of characters of Content-Type and Content-Disposition that are read."""

_FOLD: Final = re.compile(r"\r?\n[ \t]*|[\r\n]")
_BLANKS: Final = re.compile(r"\s+")
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")
_SEARCH_PUNCTUATION: Final = re.compile(r'[\r\n\t<>",;()\ufeff]')
_BRACKETED: Final = re.compile(r"<([^<>]*)>")
_UNSUBSCRIBE_LINK: Final = re.compile(r"(?:mailto:|https?://)[^\s]+", re.IGNORECASE)
_BLOCKS: Final = frozenset("address article blockquote br dd div dl dt footer h1 h2 h3 h4 h5 h6 header hr li ol p pre "
                           "section table td th title tr ul".split())  # fmt: skip
_MARKUP: Final = re.compile(
    # Each alternative also matches at the end of the text without its end, so the time is linear; "*+" stores no state
    # for each attribute.
    r"<!--(?:-?>|.*?(?:--!?>|\Z))"
    r"|<(?P<hidden>script|style|template)(?=[\s/>]).*?(?:</(?P=hidden)(?=[\s/>])[^>]*>?|\Z)"
    r"|</?(?P<tag>[a-z][^\s/>]*)[^>=]*(?:=(?:\s*\"[^\"]*\"?|\s*'[^']*'?)?[^>=]*)*+>?"
    r"|(?:<[!?]|</(?=[^a-z]))[^>]*>?",
    re.IGNORECASE | re.DOTALL,
)
"""A tag, a comment, or an element whose content is not shown."""
_HREF: Final = re.compile(r"\shref\s*=\s*([\"']?)((?:(?<=\")[^\"]+|(?<=')[^']+|[^\s>\"']+))", re.IGNORECASE)


@attrs.frozen
class Address:
    """A display name and an address; either may be empty."""

    name: str
    address: str

    def to_json(self) -> dict[str, str]:
        return {"Name": self.name, "Address": self.address}

    def __str__(self) -> str:
        return f"{self.name} {self.address}".strip()


@attrs.frozen(kw_only=True)
class Part:
    """A part of a message that is not one of its texts."""

    id: str
    """Its position: ``2.1`` is the first part of the second part."""
    content_type: str
    file_name: str
    content_id: str
    content: bytes = attrs.field(repr=False)

    def to_json(self) -> dict[str, Any]:
        digests = {name: hashlib.new(name, self.content, usedforsecurity=False) for name in ("md5", "sha1", "sha256")}
        return {
            "PartID": self.id,
            "FileName": self.file_name or self.content_id,
            "ContentType": self.content_type,
            "ContentID": self.content_id,
            "Size": len(self.content),
            "Checksums": {name.upper(): digest.hexdigest() for name, digest in digests.items()},
        }


@attrs.frozen(kw_only=True)
class Summary:
    """What lists and searches use of a message."""

    message_id: str
    subject: str
    sender: Address
    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    bcc: tuple[Address, ...]
    reply_to: tuple[Address, ...]
    username: str
    size: int
    attachments: int
    inline: int
    snippet: str
    search_text: str = attrs.field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that a list and a single message have in common."""
        return {
            "MessageID": self.message_id,
            "From": self.sender.to_json(),
            "To": [each.to_json() for each in self.to],
            "Cc": [each.to_json() for each in self.cc],
            "Bcc": [each.to_json() for each in self.bcc],
            "ReplyTo": [each.to_json() for each in self.reply_to],
            "Subject": self.subject,
            "Username": self.username,
            "Tags": [],
            "Size": self.size,
        }


@attrs.frozen(kw_only=True)
class Content:
    """A parsed message."""

    summary: Summary
    headers: tuple[tuple[str, str], ...]
    """The fields in their order, unfolded and not decoded."""
    return_path: str
    date: datetime | None
    text: str
    html: str
    inline: tuple[Part, ...]
    attachments: tuple[Part, ...]

    def part(self, part_id: str) -> Part | None:
        """Return the part with this id."""
        return next((part for part in (*self.inline, *self.attachments) if part.id == part_id), None)

    def to_json(self, received: datetime) -> dict[str, Any]:
        """Return the fields of a single message without its id.  *received* is its date if it has none."""
        return {
            **self.summary.to_json(),
            "ReturnPath": self.return_path,
            "Date": timestamp(self.date or received),
            "ListUnsubscribe": self._list_unsubscribe(),
            "Text": self.text,
            "HTML": self.html,
            "Inline": [part.to_json() for part in self.inline if part.file_name or part.content_id],
            "Attachments": [part.to_json() for part in self.attachments if part.file_name or part.content_id],
        }

    def _list_unsubscribe(self) -> dict[str, Any]:
        """Return the links of List-Unsubscribe (RFC 2369), at most one of mail and one of HTTP (RFC 8058)."""
        header = _first(self.headers, "list-unsubscribe")
        found = [link for link in _BRACKETED.findall(header) if _UNSUBSCRIBE_LINK.fullmatch(link)]
        of_mail = [link for link in found if link.lower().startswith("mailto:")]
        errors: list[str] = []
        if header and not found:
            errors.append("no link in <>")
        if len(of_mail) > 1 or len(found) - len(of_mail) > 1:
            errors.append("more than one mail or HTTP link")
        post = _first(self.headers, "list-unsubscribe-post")
        return {"Header": header, "Links": found, "Errors": ", ".join(errors), "HeaderPost": post}


class _Policy(Compat32):
    """Returns header fields as they were parsed.

    Fields with parameters are cut: the standard library needs quadratic time for many parameters.
    """

    def header_fetch_parse(self, name: str, value: str) -> str:
        return value[:MAX_PARAMETERS] if name.lower() in ("content-type", "content-disposition") else value


def parse(message: Message) -> Content:
    """Parse *message*.  A field that cannot be parsed is empty, or has its text as it was sent."""
    raw, envelope = message.raw, message.envelope
    try:
        parsed = message_from_bytes(raw, policy=_Policy())
    except Exception:  # RecursionError for multiparts that are nested very deeply
        head, _, body = raw.replace(b"\r\n", b"\n").partition(b"\n\n")
        fields = re.sub(rb"(?im)^(?:content-[a-z-]+|mime-version):.*\n(?:[ \t].*\n)*", b"", head + b"\n")
        parsed = message_from_bytes(fields + b"\n" + body, policy=_Policy())
    headers = tuple((name, _unfold(_eight_bit(value))) for name, value in parsed.items())
    texts: list[str] = []
    htmls: list[str] = []
    inline: list[Part] = []
    attachments: list[Part] = []
    for part_id, leaf in _leaves(parsed):
        disposition = leaf.get_content_disposition() or ""
        name = _file_name(leaf)
        kind = leaf.get_content_type()
        if kind in ("text/plain", "text/html") and disposition != "attachment" and not name:
            (htmls if kind == "text/html" else texts).append(_text(leaf))
            continue
        part = Part(
            id=part_id,
            content_type=kind if _MEDIA_TYPE.fullmatch(kind) else "application/octet-stream",
            file_name=name,
            content_id=_decode(_eight_bit(leaf.get("content-id") or "")).strip().strip("<>"),
            content=_content(leaf),
        )
        (attachments if disposition == "attachment" or kind == "application/octet-stream" else inline).append(part)
    html = "\n".join(htmls)
    plain = "\n".join(texts)
    text = plain or _html_to_text(html, links=True)
    visible = _html_to_text(html) or plain
    sender = next(iter(_addresses(headers, "from")), None) or Address(_decode(_first(headers, "from")), "")
    to, cc, bcc = (_addresses(headers, name) for name in ("to", "cc", "bcc"))
    reply_to = _addresses(headers, "reply-to")
    subject = _decode(_first(headers, "subject"))
    shown = {each.address.lower() for each in (*to, *cc, *bcc)}
    bcc += tuple(Address("", each) for each in envelope.recipients if each.lower() not in shown)
    searched = (
        sender, subject, *to, *cc, *bcc, *reply_to, envelope.sender, visible,
        *(part.file_name for part in attachments),
    )  # fmt: skip
    return Content(
        summary=Summary(
            message_id=_first(headers, "message-id").strip().strip("<>"),
            subject=subject,
            sender=sender,
            to=to,
            cc=cc,
            bcc=bcc,
            reply_to=reply_to,
            username=envelope.identity or "",
            size=len(raw),
            attachments=len(attachments),
            inline=len(inline),
            snippet=_snippet(visible),
            search_text=searchable(" ".join(map(str, searched))),
        ),
        headers=headers,
        return_path=envelope.sender or sender.address,
        date=_date(_first(headers, "date")),
        text=text,
        html=html,
        inline=tuple(inline),
        attachments=tuple(attachments),
    )


def searchable(text: str) -> str:
    """Return *text* as it is compared: without case, punctuation of addresses, and repeated blanks."""
    return _BLANKS.sub(" ", _SEARCH_PUNCTUATION.sub(" ", text)).strip().casefold()


def timestamp(value: datetime) -> str:
    """Return *value* in the format of RFC 3339, with milliseconds only if it has any."""
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return value.isoformat(timespec="milliseconds" if value.microsecond else "seconds").replace("+00:00", "Z")


def canonical_name(name: str) -> str:
    """Return the name of a header field with a capital at the beginning of each word: ``Message-Id``."""
    return "-".join(word.capitalize() for word in name.split("-"))


def _leaves(message: ParsedEmail) -> Iterator[tuple[str, ParsedEmail]]:
    """Yield each part that contains no others, with its id.  An attached message is one part."""
    waiting = [("0", message)]
    while waiting:  # without recursion, as multiparts may be nested deeply
        part_id, part = waiting.pop()
        if not part.is_multipart() or part.get_content_maintype() != "multipart":
            yield part_id, part
            continue
        prefix = "" if part_id == "0" else f"{part_id}."
        numbered = [(f"{prefix}{number}", child) for number, child in enumerate(_children(part), start=1)]
        waiting += reversed(numbered)


def _content(leaf: ParsedEmail) -> bytes:
    """Return the decoded content of *leaf*."""
    if leaf.is_multipart():  # message/rfc822 and similar types
        try:
            return b"".join(child.as_bytes() for child in _children(leaf))
        except Exception:  # the generator of the standard library raises many kinds
            return b""
    try:
        decoded = leaf.get_payload(decode=True)  # without decode=True, it raises for some character sets
    except (ValueError, LookupError, TypeError):
        return b""
    return decoded if isinstance(decoded, bytes) else b""


def _children(message: ParsedEmail) -> list[ParsedEmail]:
    children = cast("list[object]", message.get_payload())
    return [child for child in children if isinstance(child, ParsedEmail)]


def _text(leaf: ParsedEmail) -> str:
    """Return the decoded text of *leaf*, read as UTF-8 if its character set is not known."""
    content = _content(leaf)
    try:
        return content.decode(leaf.get_content_charset() or "utf-8")
    except (ValueError, LookupError):
        return content.decode("utf-8", "replace")


def _file_name(leaf: ParsedEmail) -> str:
    try:
        return _decode(_unfold(_eight_bit(leaf.get_filename() or "")))
    except (ValueError, LookupError, TypeError):
        return ""


def _eight_bit(value: str) -> str:
    """Return a header field with bytes that are not ASCII decoded as UTF-8 (RFC 6532)."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _unfold(value: str) -> str:
    return _FOLD.sub(" ", value).strip()


def _decode(value: str) -> str:
    """Return *value* with its encoded words decoded (RFC 2047)."""
    if "=?" not in value:
        return value
    try:
        return str(make_header(decode_header(value)))
    except (ValueError, LookupError, AssertionError):
        return value


def _first(headers: Sequence[tuple[str, str]], name: str) -> str:
    return next((value for each, value in headers if each.lower() == name), "")


def _addresses(headers: Sequence[tuple[str, str]], name: str) -> tuple[Address, ...]:
    values = [value for each, value in headers if each.lower() == name]
    try:
        pairs = getaddresses(values)
    except RecursionError:  # comments or groups that are nested deeply
        return ()
    found = (Address(_decode(display), address) for display, address in pairs)
    return tuple(each for each in found if each.address)


def _date(value: str) -> datetime | None:
    try:
        return parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _snippet(text: str) -> str:
    shown = _BLANKS.sub(" ", text.replace("\ufeff", " ")).strip()
    return shown if len(shown) <= SNIPPET_LENGTH else shown[:SNIPPET_LENGTH] + "..."


def _html_to_text(html: str, *, links: bool = False) -> str:
    """Return the text that a browser shows; with *links*, a link is ``text ( URL )``."""
    found: list[str] = []
    position, target = 0, ""
    for markup in _MARKUP.finditer(html):
        found.append(_BLANKS.sub(" ", html[position : markup.start()]))
        position = markup.end()
        tag = (markup["tag"] or "").lower()
        if tag in _BLOCKS:
            found.append("\n")
        elif tag == "a" and links:
            found.append(target)
            href = _HREF.search(markup[0])
            target = f" ( {_BLANKS.sub(' ', href[2].strip())} )" if href else ""
    found += (_BLANKS.sub(" ", html[position:]), target)
    lines = (_BLANKS.sub(" ", _unescape(line)).strip() for line in "".join(found).split("\n"))
    return "\n".join(line for line in lines if line)


def _unescape(text: str) -> str:
    try:
        return unescape(text)
    except ValueError:  # a number with thousands of digits
        return text
