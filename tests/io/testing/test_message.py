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


@pytest.mark.parametrize(
    ("content", "links"),
    [
        ("http://x.test/" + ")" * 300_000, ("http://x.test/",)),
        ("http://x.test/" + ")." * 150_000, ("http://x.test/",)),
        ("(http://x.test/(" + ")" * 300_000, ("http://x.test/()",)),
    ],
    ids=["parentheses", "sentences", "opened"],
)
def test_time_for_links_in_text_is_linear(content: str, links: tuple[str, ...]) -> None:
    assert StoredMessage(b"\r\n" + content.encode() + b"\r\n").links == links


@pytest.mark.parametrize(
    "markup", ["<a", "<a ", "<!--", "<!", "</", "<?", "<", "&", "<a href=", "<a ='", '<a x="y', "<![CDATA[", "<a x  "]
)
def test_time_for_links_in_html_is_linear(markup: str) -> None:
    content = 'Content-Type: text/html\r\n\r\n<a href="http://x.test/">x</a>' + markup * 300_000
    assert StoredMessage(content.encode()).links == ("http://x.test/",)


@pytest.mark.parametrize(
    ("content", "links"),
    [
        ("<A HREF = 'http://a.test' disabled><br/>http://b.test", ("http://a.test", "http://b.test")),
        ("<img alt='a > b' src=http://a.test/>", ("http://a.test/",)),
        ("<script>f('http://a.test', '<a href=\"x')</SCRIPT><a href=http://b.test>", ("http://a.test", "http://b.test")),
        ("1 < 2 <3 http://a.test <!doctype html><?php http://no.test ?>http://b.test", ("http://a.test", "http://b.test")),
        ("http://a.test</a href='http://no.test'><!-- <a href='http://no.test'> -->", ("http://a.test",)),
        ("http://a.test <!-- http://no.test", ("http://a.test",)),
        ("<!-->http://a.test<!---><a href='http://b.test'><!-- --> <!-- http://no.test", ("http://a.test", "http://b.test")),
        ("<a href=' http://a.test\n'>", ("http://a.test",)),
        ("<SCRIPT>f('http://a.test', '<!--')</script><a href=http://b.test>", ("http://a.test", "http://b.test")),
        ("<style>a[b='<!--']</STYLE><!-- --><a href='http://a.test/?a&amp;b'>", ("http://a.test/?a&b",)),
        ("<<!-- http://no.test --><a disabled href='http://a.test'>", ("http://a.test",)),
        ("http://a.test <a href='http://no.test' x='", ("http://a.test",)),
        ("http://a.test <a href='http://no.test' x", ("http://a.test",)),
        ("<!-- a > b <a href='http://no.test'> --><a href='http://a.test'>", ("http://a.test",)),
        ("http://a.test <a href='http://no.test", ("http://a.test",)),
        ("<a href='&#104;ttp://a.test/?a&amp;b'>http://b.test/?a&amp;b", ("http://a.test/?a&b", "http://b.test/?a&b")),
    ],
)  # fmt: skip
def test_html_is_read_as_a_browser_reads_it(content: str, links: tuple[str, ...]) -> None:
    assert StoredMessage(f"Content-Type: text/html\r\n\r\n{content}".encode()).links == links


@pytest.mark.parametrize("charset", ["idna", "punycode", "undefined", "a\0b", "no-such-charset"])
def test_links_of_a_text_whose_charset_cannot_decode_it(charset: str) -> None:
    content = f'Content-Type: text/plain; charset="{charset}"\r\n\r\nhttp://x.test/ '.encode() + b"\xff\r\n"
    assert StoredMessage(content).links == ("http://x.test/",)


def test_subject_of_a_message_that_is_nested_too_deeply() -> None:
    message = StoredMessage(b"Subject: deep\r\n" + b"Content-Type: message/rfc822\r\n\r\n" * 3_000)
    assert message.subject == "deep"
    assert repr(message) == "<StoredMessage 'deep'>"
