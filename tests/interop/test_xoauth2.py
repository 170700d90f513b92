"""curl, getmail and poplib with XOAUTH2.  curl prefers OAUTHBEARER if it is offered too, so only XOAUTH2 is offered.

Skipped without curl; an error with MAILAUTH_INTEROP=require.
"""

from __future__ import annotations

import base64
import email
import poplib
import ssl
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from mailauth import ACCEPT, MessageChunk, Notice, pop3, sasl, smtp
from mailauth_io.adapters.connection import AsyncServerConnection
from tests.interop.client_config import NAME, TOKEN, ClientConfig, CommandRejected
from tests.interop.fetchers import getmail_collect, getmail_knows_tokens
from tests.interop.foreign import curl_collect, curl_submit
from tests.io import loops
from tests.io.server_support import Run, on_both_loops
from tests.io.tls import authority, server_context

MESSAGE = b"From: bob@example.test\r\nSubject: waiting\r\n\r\nA letter\r\n.\r\n.dot\r\n"
MECHANISMS = sasl.ALL_MECHANISMS.only("XOAUTH2")


LONG_TOKEN = "ya29." + "t0ken" * 239
"""1,200 bytes, as long as those of Google and Microsoft."""


def owner(question: sasl.CheckToken) -> str | sasl.Refusal:
    known = question.token in (TOKEN.encode(), LONG_TOKEN.encode())
    return NAME if known else sasl.Refusal.BAD_CREDENTIALS


@attrs.define
class OurServer:
    """What two servers received, and from which user."""

    content: bytes = b""
    strict: bool = False
    logins: list[str] = attrs.field(factory=list)

    @staticmethod
    def relayed(identity: str | None) -> smtp.Verdict:
        return ACCEPT if identity else smtp.Reply(550, "5.7.1", "log in first")

    async def submission(self, connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        async for event in connection:
            match event:
                case sasl.CheckToken():
                    connection.answer(event, owner(event))
                case sasl.Authenticated(mechanism=mechanism, identity=identity):
                    self.logins.append(f"{identity} by {mechanism}")
                case smtp.Rcpt():
                    connection.answer(event, self.relayed(connection.identity))
                case MessageChunk(data=data):
                    self.content += data
                case smtp.Connected() | smtp.Mail() | smtp.Data() | smtp.StartTls():
                    connection.answer(event, ACCEPT)
                case smtp.MessageComplete():
                    connection.answer(event, ACCEPT)
                case Notice():
                    pass
                case _:
                    raise AssertionError(f"{event!r} is not expected")

    async def maildrop(self, connection: AsyncServerConnection[pop3.ServerEvent]) -> None:
        async for event in connection:
            match event:
                case sasl.CheckToken():
                    connection.answer(event, owner(event))
                case sasl.Authenticated(mechanism=mechanism, identity=identity):
                    self.logins.append(f"{identity} by {mechanism}")
                case pop3.OpenMaildrop():
                    messages = (pop3.Message(size=len(MESSAGE), unique_id="1"),)
                    connection.answer(event, pop3.Maildrop(messages=messages))
                case pop3.Retrieve():
                    connection.answer(event, pop3.Content(data=MESSAGE))
                case pop3.Connected() | pop3.Stls():
                    connection.answer(event, ACCEPT)
                case Notice():
                    pass
                case _:
                    raise AssertionError(f"{event!r} is not expected")


def visited(
    run: Run, our_server: OurServer, protocol: str, tls_mode: str, client_config: Callable[[int], bytes]
) -> bytes:
    """Return what a client collects, run in a thread, from a port of *protocol*."""

    async def main() -> bytes:
        adapter, implicit = loops.current().adapter, tls_mode == "implicit"
        if protocol == "smtp":
            settings = smtp.ServerSettings(mechanisms=MECHANISMS, starttls=True)
            serving = adapter.serve_smtp(
                our_server.submission, settings, ssl_context=server_context(), implicit_tls=implicit
            )
        else:
            of_pop3 = pop3.ServerSettings(mechanisms=MECHANISMS, stls=True, strict_syntax=our_server.strict)
            serving = adapter.serve_pop3(
                our_server.maildrop, of_pop3, ssl_context=server_context(), implicit_tls=implicit
            )
        async with serving as listener:
            return await loops.current().in_thread(client_config, listener.port)

    return run(main)


def asked(scratch: Path, tls_mode: str, token: str, port: int) -> ClientConfig:
    trusted = scratch / "authority.pem"
    authority().cert_pem.write_to_path(str(trusted))
    return ClientConfig(port=port, tls_mode=tls_mode, login="XOAUTH2", trusted=trusted, scratch=scratch, token=token)


@on_both_loops
@pytest.mark.parametrize("tls_mode", ["upgrade", "implicit"])
def test_curl_submits_a_message_with_a_token(run: Run, tls_mode: str, tmp_path: Path) -> None:
    our_server, message = OurServer(), b"Subject: sent\r\n\r\nHello\r\n.\r\nBye\r\n"

    def client_config(port: int) -> bytes:
        curl_submit(asked(tmp_path, tls_mode, TOKEN, port), message)
        return b""

    visited(run, our_server, "smtp", tls_mode, client_config)
    assert our_server.logins == [f"{NAME} by XOAUTH2"]
    assert our_server.content == message


@on_both_loops
@pytest.mark.parametrize("tls_mode", ["upgrade", "implicit"])
def test_curl_retrieves_a_message_with_a_token(run: Run, tls_mode: str, tmp_path: Path) -> None:
    our_server = OurServer()
    text = visited(run, our_server, "pop3", tls_mode, lambda port: curl_collect(asked(tmp_path, tls_mode, TOKEN, port)))
    assert our_server.logins == [f"{NAME} by XOAUTH2"]
    assert email.message_from_bytes(text)["Subject"] == "waiting"
    assert text == MESSAGE


@on_both_loops
def test_getmail_retrieves_a_message_with_a_long_token(run: Run, tmp_path: Path) -> None:
    """Until 6.19.10 it sends the token with AUTH in one line, and later versions do it if AUTH alone is refused."""
    config = asked(tmp_path, "implicit", LONG_TOKEN, 0)
    if not getmail_knows_tokens(config):
        pytest.skip("this getmail has no XOAUTH2 for POP3")
    our_server = OurServer()
    text = visited(run, our_server, "pop3", "implicit", lambda port: getmail_collect(attrs.evolve(config, port=port)))
    assert our_server.logins == [f"{NAME} by XOAUTH2"]
    assert text == MESSAGE.replace(b"\r\n", b"\n")


@on_both_loops
@pytest.mark.parametrize(("strict", "accepted"), [(False, True), (True, False)])
def test_poplib_logs_in_with_a_long_token_in_one_line(run: Run, strict: bool, accepted: bool, tmp_path: Path) -> None:
    """This is the command that programs based on poplib, such as getmail, send."""
    our_server = OurServer(strict=strict)
    response = base64.b64encode(f"user={NAME}\1auth=Bearer {LONG_TOKEN}\1\1".encode()).decode("ascii")
    trusted = asked(tmp_path, "implicit", LONG_TOKEN, 0).trusted

    def client_config(port: int) -> bytes:
        client = poplib.POP3_SSL("localhost", port, timeout=30, context=ssl.create_default_context(cafile=trusted))
        try:
            return client._shortcmd(f"AUTH XOAUTH2 {response}")  # type: ignore[attr-defined,no-any-return]  # as getmail
        except poplib.error_proto as error:
            return bytes(error.args[0])
        finally:
            client.quit()

    answer = visited(run, our_server, "pop3", "implicit", client_config)
    assert answer.startswith(b"+OK" if accepted else b"-ERR command line too long")
    assert our_server.logins == ([f"{NAME} by XOAUTH2"] if accepted else [])


@on_both_loops
@pytest.mark.parametrize(("protocol", "challenge"), [("smtp", "334"), ("pop3", "+")])
def test_wrong_token_is_rejected(run: Run, protocol: str, challenge: str, tmp_path: Path) -> None:
    """The server reports the error as JSON, and curl ends with "login denied" (67)."""
    our_server = OurServer()
    output: list[str] = []

    def client_config(port: int) -> bytes:
        going = asked(tmp_path, "implicit", "wr0ng", port)
        going.file(".curlrc", "verbose")
        with pytest.raises(CommandRejected) as caught:
            curl_collect(going) if protocol == "pop3" else curl_submit(going, b"\r\n")
        output.append(str(caught.value))
        return b""

    visited(run, our_server, protocol, "implicit", client_config)
    assert our_server.logins == []
    assert our_server.content == b""
    json = sasl.encode_base64(b'{"status":"401","schemes":"bearer"}').decode("ascii")
    assert f"< {challenge} {json}\\r\\n" in output[0]
    assert output[0].startswith("curl ended with 67: ")
