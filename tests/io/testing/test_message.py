"""Messages of the test kit: their parts, and the links in them."""

from __future__ import annotations

from email.message import EmailMessage

import pytest

from mailauth_io.testing import StoredMessage


def text(content: str, *, subtype: str = "plain") -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = "Grüße"
    message.set_content(content, subtype=subtype)
    return message


@pytest.mark.parametrize(
    ("content", "links"),
    [
        ("no link", ()),
        ("See https://example.test/a?b=1&c=%20#d.", ("https://example.test/a?b=1&c=%20#d",)),
        ("(http://a.test/x) and <http://b.test/y>, 'http://c.test'!", ("http://a.test/x", "http://b.test/y", "http://c.test")),
        ("https://example.test/page_(1)", ("https://example.test/page_(1)",)),
        ("(see https://example.test/page_(1))", ("https://example.test/page_(1)",)),
        ("twice http://a.test http://a.test", ("http://a.test",)),
        ("ftp://a.test mailto:b@c.test", ()),
        ("https://example.test/" + "x" * 200, ("https://example.test/" + "x" * 200,)),
    ],
)  # fmt: skip
def test_links_in_text(content: str, links: tuple[str, ...]) -> None:
    assert StoredMessage(text(content + "\n").as_bytes()).links == links


def test_links_in_html() -> None:
    message = text(
        '<a href="https://a.test/?x=1&amp;y=2">go</a> <img src=\'http://b.test/i.png\'> <a href="/relative">r</a>'
        " and https://c.test/text <!-- http://comment.test --> <a href=https://d.test/unquoted>q</a>",
        subtype="html",
    )
    assert StoredMessage(message.as_bytes()).links == (
        "https://a.test/?x=1&y=2", "http://b.test/i.png", "https://c.test/text", "https://d.test/unquoted",
    )  # fmt: skip


def test_links_of_both_alternatives_come_once_and_attachments_have_none() -> None:
    message = text("https://a.test/reset\n")
    message.add_alternative('<a href="https://a.test/reset">reset</a>', subtype="html")
    message.add_attachment("https://attached.test\n", filename="notes.txt")
    assert StoredMessage(message.as_bytes()).links == ("https://a.test/reset",)


def test_decoded_subject_and_content() -> None:
    message = StoredMessage(text("ä\n").as_bytes())
    assert message.subject == "Grüße"
    assert message.email.get_content() == "ä\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n",
        b"no header",
        b"Subject\r\n\r\n",
        b"\xff\xfe: \xff\r\n\r\n\xff",
        b"Content-Type: text/plain; charset=x-none\r\n\r\nhttp://a.test \xff\r\n",
        b"Content-Type: multipart/mixed\r\n\r\n",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Transfer-Encoding: base64\r\n\r\n!!\r\n",
    ],
)
def test_broken_message_has_all_properties(raw: bytes) -> None:
    message = StoredMessage(raw)
    assert isinstance(message.subject, str)
    assert isinstance(message.links, tuple)
    assert repr(message).startswith("<StoredMessage ")
