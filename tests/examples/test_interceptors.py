"""The examples of interceptors: each as a program with real clients, and greylisting with a clock of its own."""

from __future__ import annotations

import asyncio
import json
import poplib
import re
import smtplib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from examples import greylisting, honeypot, sender_policy
from mailauth import Question, Tls, pop3, smtp
from mailauth_io import server
from mailauth_io.adapters import Peer
from tests.examples import programs
from tests.examples.scripted import smtp_server
from tests.io import loops
from tests.io.server_support import Served, authenticate, meet, run_on_asyncio
from tests.serving import LOOPS

MESSAGE = "Subject: test\r\n\r\nDown the rabbit-hole.\r\n"


def client(port: int) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", port, "client.test", timeout=programs.TIMEOUT)


# Greylisting


def test_greylisting_defers_an_unknown_sender(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with programs.listening("greylisting.py", errors=errors) as port, client(port) as remote:
        for _ in range(2):
            with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
                remote.sendmail("bob@far.test", "alice@example.test", MESSAGE)
            assert caught.value.recipients["alice@example.test"][0] == 451
    with programs.listening("greylisting.py", "--wait", "0", errors=errors) as port, client(port) as remote:
        assert remote.sendmail("bob@far.test", "alice@example.test", MESSAGE) == {}


@attrs.define
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def attempt(greylist: greylisting.Greylist, address: str, sender: str = "bob@far.test") -> server.Decision:
    view = server.SessionView(
        protocol="SMTP",
        connection_id="0",
        peer=Peer(address, 1),
        tls=None,
        identity=None,
        mail=smtp.Mail(reverse_path=smtp.Mailbox.parse(sender)),
    )

    async def ask() -> server.Decision:
        return await greylist(view, smtp.Rcpt(forward_path=smtp.Mailbox.parse("alice@example.test")))

    return run_on_asyncio(ask)


def test_greylisting_knows_networks_and_senders_after_the_wait() -> None:
    clock = Clock()
    greylist = greylisting.Greylist(wait=300, clock=clock)
    assert attempt(greylist, "192.0.2.1") == greylisting.LATER
    assert attempt(greylist, "2001:db8::1%eth0") == greylisting.LATER
    clock.now = 299
    assert attempt(greylist, "192.0.2.2") == greylisting.LATER
    clock.now = 300
    assert attempt(greylist, "192.0.2.3") == server.PASS
    assert attempt(greylist, "2001:db8::2") == server.PASS
    assert attempt(greylist, "192.0.2.3", "carol@far.test") == greylisting.LATER
    assert attempt(greylist, "198.51.100.1") == greylisting.LATER


def test_greylisting_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greylisting, "MAX_TRIPLES", 2)
    greylist = greylisting.Greylist(wait=300, clock=Clock())
    for number in range(5):
        attempt(greylist, "192.0.2.1", f"bob{number}@far.test")
    assert [sender for _, sender, _ in greylist.first_seen] == ["bob3@far.test", "bob4@far.test"]
    for number in (1, 2):
        attempt(greylist, f"198.51.{number}.1")
    assert [network for network, _, _ in greylist.first_seen] == ["198.51.1.0/24", "198.51.2.0/24"]
    assert list(greylist.by_network) == ["198.51.1.0/24", "198.51.2.0/24"]


def test_greylisting_keeps_the_entries_of_other_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may try any number of senders.  If it could fill the table, no other mail would arrive."""
    monkeypatch.setattr(greylisting, "MAX_TRIPLES", 5)
    monkeypatch.setattr(greylisting, "MAX_PER_NETWORK", 3)
    clock = Clock()
    greylist = greylisting.Greylist(wait=300, clock=clock)
    assert attempt(greylist, "198.51.100.1") == greylisting.LATER
    for number in range(10):
        assert attempt(greylist, f"192.0.2.{number}", f"bob{number}@far.test") == greylisting.LATER
    clock.now = 300
    assert attempt(greylist, "198.51.100.1") == server.PASS
    assert attempt(greylist, "192.0.2.1", "bob9@far.test") == server.PASS
    assert attempt(greylist, "192.0.2.1", "bob6@far.test") == greylisting.LATER


# Honeypot


def test_honeypot_accepts_everything_and_delivers_nothing(tmp_path: Path) -> None:
    with programs.started("honeypot.py", errors=tmp_path / "errors") as (program, port):
        assert program.stdout is not None
        ports = json.loads(program.stdout.readline())
        with client(port) as anyone:
            assert anyone.sendmail("a@far.test", ["b@far.test", "c@other.test"], MESSAGE) == {}
        with client(port) as user:
            user.login("root", "123456")
            assert user.sendmail("root@mail.example.test", "d@far.test", MESSAGE) == {}
        pop = poplib.POP3("127.0.0.1", ports["pop3"], timeout=programs.TIMEOUT)
        pop.user("admin")
        pop.pass_("secret word")
        assert pop.stat() == (0, 0)
        pop.quit()
        lines = [json.loads(program.stdout.readline()) for _ in range(4)]
    first, login, second, pop3_login = lines
    size = len(MESSAGE)
    assert first == {
        "event": "message", "protocol": "SMTP", "peer": "127.0.0.1", "identity": None, "sender": "a@far.test",
        "recipients": ["b@far.test", "c@other.test"], "size": size,
    }  # fmt: skip
    assert (login["event"], login["name"]) == ("login", "root")
    assert (second["identity"], second["recipients"], second["size"]) == ("root", ["d@far.test"], size)
    assert (pop3_login["protocol"], pop3_login["name"], pop3_login["mechanism"]) == ("POP3", "admin", "USER")
    assert not {"123456", "secret word"} & {str(value) for line in lines for value in line.values()}


# Sender policy


def test_sender_policy_allows_only_the_own_address(tmp_path: Path) -> None:
    users = ("--user", "alice:wonderland", "--user", "bob:builder")
    with programs.started("sender_policy.py", *users, errors=tmp_path / "errors") as (program, port):
        assert program.stdout is not None
        pop3_port = int(program.stdout.readline().removeprefix("POP3 on port "))
        with client(port) as other_server:
            assert other_server.sendmail("bob@example.test", "alice@example.test", MESSAGE) == {}
        with client(port) as alice:
            alice.login("alice", "wonderland")
            for sender, code in (
                ("bob@example.test", 553),
                ("alice@far.test", 553),
                ("Alice@EXAMPLE.test", 250),
                ("", 250),
            ):
                assert [alice.mail(sender)[0], alice.rcpt("dinah@far.test")[0], alice.rset()[0]] == [250, code, 250]
            assert alice.sendmail("alice@example.test", "dinah@far.test", MESSAGE) == {}
        pop = poplib.POP3("127.0.0.1", pop3_port, timeout=programs.TIMEOUT)
        pop.user("bob")
        pop.pass_("builder")
        pop.quit()
        with client(port) as bob:
            bob.ehlo()
            for sender, recipient, code in (
                ("alice@example.test", "dinah@far.test", 553),
                ("alice@example.test", "alice@example.test", 553),
                ("bob@example.test", "dinah@far.test", 250),
            ):
                assert [bob.mail(sender)[0], bob.rcpt(recipient)[0], bob.rset()[0]] == [250, code, 250]


# Command lines


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (greylisting.main, ["--port"]),
        (honeypot.main, ["--smtp"]),
        (sender_policy.main, ["--user", "alice:wonderland", "--smtp"]),
    ],
)
def test_a_port_in_use_is_reported(
    main: Callable[[list[str]], int], arguments: list[str], free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, str(free_port)]) == 1
    assert capsys.readouterr().err.startswith("Cannot serve: ")


def test_invalid_users_of_the_sender_policy_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        sender_policy.main(["--user", "alice"])
    assert "use NAME:PASSWORD" in capsys.readouterr().err
    assert sender_policy.main(["--user", "a b:c"]) == 1
    assert capsys.readouterr().err.startswith("Cannot serve: ")


# docs/interceptors.md


def documented() -> str:
    """Return the functions of the page as one module."""
    page = (programs.ROOT / "docs" / "interceptors.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return "\n\n".join(block for block in blocks if "def " in block)


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("192.0.2.7", True), ("::ffff:192.0.2.7", True), ("198.51.100.1", False)],
)
def test_the_address_check_in_the_documentation_works(address: str, local: bool) -> None:
    names: dict[str, Any] = {}
    exec(documented(), names)

    def decision(question: Question[Any], tls: Tls | None = None) -> object:
        view = server.SessionView(protocol="SMTP", connection_id="1", peer=Peer(address, 25), tls=tls, identity=None)
        return asyncio.run(names["only_local"](view, question))

    if local:
        assert decision(smtp.Connected()) == decision(pop3.Connected()) == server.PASS
    else:
        refused = decision(smtp.Connected())
        assert isinstance(refused, smtp.Reply)
        assert refused.code == 554
        assert decision(pop3.Connected()) is pop3.Unavailable.PERMANENT
    assert decision(smtp.Connected(), Tls(version="TLSv1.3", cipher="x")) == server.PASS


@pytest.mark.parametrize("loop", LOOPS)
def test_interceptor_with_another_sender_in_the_documentation_works(loop: str) -> None:
    place = 'host="smtp.provider.example",'
    page = documented()
    assert page.count(place) == 1
    with smtp_server({"RCPT lory@far.test": b"550 5.1.1 no such user\r\n"}) as provider:
        names: dict[str, Any] = {}
        exec(page.replace(place, f'host="127.0.0.1", port={provider.port}, tls="none",'), names)

        def client(served: Served) -> None:
            with served.smtp("smtps") as device:
                authenticate(device, "PLAIN")
                assert device.sendmail("root@localhost", ["dinah@far.test"], MESSAGE) == {}
                with pytest.raises(smtplib.SMTPDataError) as caught:
                    device.sendmail("root@localhost", ["dinah@far.test", "lory@far.test"], MESSAGE)
                assert caught.value.smtp_code == 550

        meet(loops.named(loop).run, client, interceptors=[names["submit_as_office"]])
    assert [message.partition(b"Subject")[0][:8] for message in provider.messages] == [b"Received"] * 2
    assert {line for line in provider.heard if line.startswith("MAIL")} == {"MAIL FROM:<office@example.org>"}


def test_hourly_limit_in_the_documentation_counts_messages_of_each_user() -> None:
    """By a login or a grant, in any spelling; mail from other servers is not counted."""
    names: dict[str, Any] = {}
    exec(documented(), names)
    clock = Clock()
    limit = names["HourlyLimit"](2, clock=clock)

    def client(served: Served) -> None:
        def send(name: str = "") -> int:
            with served.smtp("starttls") as remote:
                if name:
                    authenticate(remote, "PLAIN", name)
                assert remote.mail("alice@example.test")[0] == 250
                assert remote.rcpt("carol@example.test")[0] == 250
                try:
                    return remote.data(MESSAGE)[0]
                except smtplib.SMTPDataError as error:
                    return error.smtp_code

        assert [send() for _ in range(3)] == [250] * 3
        assert [send("alice"), send("Alice@Example.test"), send("alice")] == [250, 250, 452]
        clock.now = 3599.0
        served.log_in(name="alice").quit()  # a grant
        assert send() == 452
        clock.now = 3600.0
        assert [send(), send("alice"), send("alice")] == [250, 250, 452]
        assert list(limit.begun) == ["alice"]

    meet(run_on_asyncio, client, interceptors=[limit])


def test_functions_in_the_documentation_work() -> None:
    names: dict[str, Any] = {}
    exec(documented(), names)

    def client(served: Served) -> None:
        with served.smtp() as remote:
            assert [remote.mail("")[0], remote.rcpt("alice@example.test")[0], remote.rset()[0]] == [250, 550, 250]
        codes = []
        for _ in range(4):
            try:
                with served.smtp() as remote:
                    remote.sendmail("bob@far.test", ["alice@example.test"], MESSAGE)
                    codes.append(250)
            except smtplib.SMTPServerDisconnected:
                codes.append(0)
            except smtplib.SMTPDataError as error:
                codes.append(error.smtp_code)
        assert codes == [0, 250, 452, 250]

    meet(run_on_asyncio, client, interceptors=[names["no_bounces"], names["fail_three_times"]])
