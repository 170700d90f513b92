"""examples/xclient.py: a proxy that is trusted speaks for its clients, with smtplib and with the client of mailauth."""

from __future__ import annotations

import asyncio
import ipaddress
import smtplib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples import xclient
from examples.xclient import Unavailable, XClient
from mailauth import Malformed, smtp
from mailauth_io.on_asyncio import connect, serve_smtp
from tests.examples import programs
from tests.smtp.drive import serve

MESSAGE = b"Subject: test\r\n\r\nhi\r\n"
SAID = "XCLIENT"


@contextmanager
def proxied(tmp_path: Path, trusted: str) -> Iterator[tuple[smtplib.SMTP, list[str]]]:
    """Yield a client of the running program, and a list that gets the lines that it prints at the end."""
    printed: list[str] = []
    with programs.started("xclient.py", "--trust", trusted, errors=tmp_path / "errors") as (program, port):
        with smtplib.SMTP("127.0.0.1", port, timeout=programs.TIMEOUT) as client:
            client.ehlo()
            yield client, printed
        program.terminate()
        assert program.stdout is not None
        printed += program.stdout.read().splitlines()


def test_xclient_sets_the_client_address_and_restarts_the_session(tmp_path: Path) -> None:
    with proxied(tmp_path, "127.0.0.0/8") as (client, printed):
        assert client.esmtp_features["xclient"] == "NAME ADDR PORT PROTO HELO LOGIN"
        assert client.docmd(SAID, "ADDR=192.0.2.1 NAME=spike.porcupine.org") == (220, b"localhost ESMTP")
        assert client.mail("a@b.test")[0] == 503  # EHLO is due
        client.ehlo()
        client.sendmail("a@b.test", ["c@d.test"], MESSAGE)
        assert client.docmd(SAID, "addr=ipv6:2001:DB8::1 Name=[tempunavail] LOGIN=a+2Bb")[0] == 220
        client.ehlo()
        client.sendmail("a@b.test", ["c@d.test"], MESSAGE)
        assert client.docmd(SAID, "ADDR=[UNAVAILABLE]")[0] == 220
        client.ehlo()
        client.sendmail("a@b.test", ["c@d.test"], MESSAGE)
    size = len(MESSAGE)
    assert printed == [
        f"{size} bytes from 192.0.2.1 ADDR=192.0.2.1 NAME=spike.porcupine.org",
        f"{size} bytes from 2001:db8::1 ADDR=2001:db8::1 LOGIN=a+b",
        f"{size} bytes from 0.0.0.0 LOGIN=a+b",
    ]


def test_xclient_from_an_untrusted_peer_is_rejected_with_550(tmp_path: Path) -> None:
    with proxied(tmp_path, "192.0.2.0/24") as (client, printed):
        assert client.docmd(SAID, "ADDR=192.0.2.1")[0] == 550
        assert client.docmd(SAID, "ADDR=192.0.2.1") == (550, b"5.7.0 XCLIENT is for trusted proxies only")
        client.sendmail("a@b.test", ["c@d.test"], MESSAGE)  # the session has not restarted
    assert printed == [f"{len(MESSAGE)} bytes from 127.0.0.1"]


def test_xclient_during_a_transaction_is_rejected_with_503(tmp_path: Path) -> None:
    with proxied(tmp_path, "127.0.0.1") as (client, _):
        client.mail("a@b.test")
        assert client.docmd(SAID, "ADDR=192.0.2.1")[0] == 503
        client.rset()
        assert client.docmd(SAID, "ADDR=192.0.2.1")[0] == 220


@pytest.mark.parametrize(
    "argument",
    [
        "", "ADDR", "ADDR=", "ADDR=x", "ADDR=2001:db8::1", "ADDR=IPV6:192.0.2.1", "COLOUR=red", "PORT=70000", "PORT=-1",
        "PROTO=HTTP", "NAME=a+0D+0A", "NAME=a+2", "NAME=a=b", "NAME=a  HELO=b", "NAME=a NAME=b",
    ],
)  # fmt: skip
def test_malformed_xclient_is_rejected_with_501(argument: str) -> None:
    with pytest.raises(Malformed):
        XClient.parse(argument)
    line = f"XCLIENT {argument}".rstrip().encode("ascii")
    session = serve(b"EHLO c\r\n" + line + b"\r\n", settings=smtp.ServerSettings(verbs=(xclient.XCLIENT,)))
    assert session.codes == [220, 250, 501]


@pytest.mark.parametrize(
    "command",
    [
        XClient(
            {"ADDR": "192.0.2.1", "PORT": "25", "PROTO": "ESMTP", "NAME": "a.test", "HELO": "b c=d", "LOGIN": "e+f"}
        ),
        XClient({"ADDR": "2001:db8::1", "NAME": Unavailable.PERMANENTLY, "HELO": Unavailable.TEMPORARILY}),
    ],
)
def test_xclient_command_serializes_and_parses(command: XClient) -> None:
    line = command.to_wire()
    assert line.endswith(b"\r\n")
    assert XClient.parse(line[8:-2].decode("ascii")) == command


def test_client_sends_xclient_with_the_verb_definition_of_the_server() -> None:
    command = XClient({"ADDR": "192.0.2.7", "PORT": "1234"})
    server = xclient.ProxiedServer([ipaddress.ip_network("127.0.0.1")])
    settings = smtp.ClientSettings(verbs=(xclient.XCLIENT,))

    async def main() -> list[smtp.ClientEvent]:
        events = []
        async with (
            serve_smtp(server.session, smtp.ServerSettings(verbs=(xclient.XCLIENT,))) as listener,
            await connect(smtp.ClientConnection(settings), "127.0.0.1", listener.port) as client,
        ):
            events.append(await anext(client))
            for each in (smtp.Hello(domain="c"), command, smtp.Hello(domain="c"), smtp.Noop()):
                client.send(each)
                events.append(await anext(client))
        return events

    replies = [event for event in asyncio.run(main()) if isinstance(event, smtp.ReplyReceived)]
    assert [event.reply.code for event in replies] == [220, 250, 220, 250, 250]
    assert replies[2].command is command


def test_port_in_use_is_reported_in_one_line(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert xclient.main(["--port", str(free_port)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Cannot serve: ")
    assert err.count("\n") == 1
