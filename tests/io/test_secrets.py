"""No secret is shown by a run of all mechanisms, on both sides (architecture.md, invariant 6).

The log at level DEBUG in both formats, the repr of every event, question, answer, command and mechanism, of the server
and of all that it keeps, and every exception with its traceback are searched.  The secrets are the passwords, tokens
and keys, and what proves them: whatever the clients have sent in the exchanges.  ``tests/test_secret_properties.py``
searches the machines alone.

Not searched for is what a client sends as the name of a user: it is logged, as docs/logging.md says.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import secrets
import socket
import ssl
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from mailauth import ACCEPT, Question, pop3, sasl, smtp
from mailauth._client import ClientMachine
from mailauth._machine import Machine
from mailauth.pop3 import commands as pop3_commands
from mailauth.smtp import commands as smtp_commands
from mailauth_io import client, logs, server, stores
from mailauth_io.adapters.connection import AsyncServerConnection
from mailauth_io.cli import main as cli
from mailauth_io.stores import Account, MemoryAccounts
from mailauth_io.stores.credentials import Plain
from tests import serving
from tests.io import loops
from tests.io.logins import context, pop3_login, server_context, smtp_login
from tests.io.server_support import TIMEOUT, Run, at_once, on_both_loops
from tests.test_secret_properties import showing

PASSWORD: Final = 'Ferocious-Kitten-42 %"\\ \u00e9'
WRONG: Final = 'Vicious-Badger-77 %"\\ \u00e9'
TOKEN: Final = "Grinning-Lizard.55"
WRONG_TOKEN: Final = "Grumpy-Tortoise.66"
HOP_PASSWORD: Final = "Sleepy-Dormouse-31"
CORES: Final = ("Ferocious-Kitten-42", "Vicious-Badger-77", TOKEN, WRONG_TOKEN, HOP_PASSWORD)
"""The part of each secret that is the same in every escaped form of a text."""


def forms(secret: bytes) -> Iterator[str]:
    """Yield the texts that show *secret*: as it is, in hexadecimal, in base64 at any offset, and as UTF-16."""
    for data in (secret, secret.decode("latin-1").encode("utf-16-le")):
        yield data.decode("latin-1")
        yield ascii(data)[2:-1]
        yield data.hex()
        yield data.hex().upper()
        yield "".join(f"%{byte:02X}" for byte in data)
        for offset in range(3):
            encoded = base64.b64encode(b"\0" * offset + data)[4 if offset else 0 :].rstrip(b"=")[:-1].decode()
            yield encoded
            yield encoded.replace("+", "-").replace("/", "_")


@attrs.define
class Recorder:
    """Everything that a run has shown, and the secrets in it."""

    texts: list[tuple[str, str]] = attrs.field(factory=list)
    """Where each text is from, and the text."""
    secrets: set[bytes] = attrs.field(factory=lambda: {core.encode() for core in CORES})
    received: dict[Machine[Any], bytearray] = attrs.field(factory=dict)
    """What each server has received."""

    def note(self, place: str, *things: object) -> None:
        for thing in things:
            if not isinstance(thing, bytes):  # the answer to FetchSecret is the password itself
                self.texts += [(place, repr(thing)), (place, str(thing))]

    def note_error(self, place: str, error: BaseException) -> None:
        self.note(place, error, *error.args)
        self.texts.append((place, "".join(traceback.format_exception(error))))

    def leaks(self, texts: Iterable[tuple[str, str]] | None = None) -> list[tuple[str, str]]:
        """Return where a secret is shown, and the text."""
        for data in self.received.values():
            self.secrets.update(_proofs(bytes(data)))
        assert min(map(len, self.secrets)) >= 16, sorted(self.secrets, key=len)[:3]
        found = dict.fromkeys(self.texts if texts is None else texts)
        everything = "\n".join(text for _, text in found)  # most needles are not in it, which is known at once
        needles = {form for secret in self.secrets for form in forms(secret)}
        shown = [needle for needle in needles if needle in everything]
        return [(place, text) for place, text in found if any(needle in text for needle in shown)]


def _proofs(received: bytes) -> Iterator[bytes]:
    """Yield what proves the knowledge of a secret in the lines that a server has received."""
    for line in received.split(b"\r\n"):
        verb, _, argument = line.partition(b" ")
        if verb in (b"APOP", b"AUTH"):
            argument = argument.rpartition(b" ")[2]
        elif verb != b"PASS":
            argument = line
        if verb == b"APOP" and len(argument) == 32:
            yield argument
        try:
            data = base64.b64decode(argument, validate=True)
        except binascii.Error:
            continue
        if any(core.encode() in data for core in CORES):
            yield from (argument, data)
        elif b",p=" in data:  # SCRAM, client-final message
            proof = data.rpartition(b",p=")[2]
            yield from (argument, proof, base64.b64decode(proof))
        elif len(digest := data.rpartition(b" ")[2]) == 32 and not data.startswith(b"n,"):  # CRAM-MD5
            yield from (argument, digest)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Recorder:
    """Record what all machines of this process take and return, all log records, and all derived keys."""
    recorder = Recorder()
    formatters = (logs.TextFormatter(), logs.JsonFormatter())

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            recorder.texts += [("log", formatter.format(record)) for formatter in formatters]
            recorder.note("log", record, record.msg, getattr(record.msg, "fields", None))
            if record.exc_info and record.exc_info[1] is not None:
                recorder.note_error("log", record.exc_info[1])

    caplog.set_level(logging.DEBUG)
    handler = Handler()
    monkeypatch.setattr(logging.getLogger(), "handlers", [*logging.getLogger().handlers, handler])

    def spy(owner: Any, name: str, *, results: bool = False, owners: bool = False) -> None:
        real = getattr(owner, name)

        def spied(self: object, *args: Any, **options: Any) -> Any:
            recorder.note(f"{type(self).__module__}.{name}()", *args, *options.values())
            if owners:
                recorder.note(name, self)
            try:
                result = real(self, *args, **options)
            except Exception as error:
                recorder.note_error(name, error)
                raise
            if results:
                recorder.note(f"{type(self).__module__}.{name}()", result)
            return result

        monkeypatch.setattr(owner, name, spied)

    for owner, name in (
        (smtp.ServerConnection, "answer"),
        (pop3.ServerConnection, "answer"),
        (smtp.ClientConnection, "send"),
        (pop3.ClientConnection, "send"),
        (ClientMachine, "authenticate"),
    ):
        spy(owner, name)
    for command in (smtp_commands.Auth, pop3_commands.Auth, pop3_commands.ArgumentCommand):
        spy(command, "to_wire", owners=True)
    spy(Machine, "next_event", results=True)
    spy(ClientMachine, "next_event", results=True)

    receive_data = Machine.receive_data

    def received(self: Machine[Any], data: bytes) -> None:
        if not isinstance(self, ClientMachine):
            recorder.received.setdefault(self, bytearray()).extend(data)
        receive_data(self, data)

    monkeypatch.setattr(Machine, "receive_data", received)
    derive = hashlib.pbkdf2_hmac

    def derived(hash_name: str, *args: Any) -> bytes:
        salted = derive(hash_name, *args)
        client_key, server_key = (hmac.digest(salted, b"%s Key" % side, hash_name) for side in (b"Client", b"Server"))
        recorder.secrets |= {salted, client_key, server_key, hashlib.new(hash_name, client_key).digest()}
        return salted

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", derived)
    return recorder


def mechanisms(password: str, token: str) -> list[sasl.ClientMechanism]:
    """Return a client of each mechanism that the server offers by SMTP."""
    name, secret = "alice", password.encode()
    entropy = secrets.token_bytes(16)
    return [
        sasl.PlainClient(authentication_identity=name, password=secret),
        sasl.LoginClient(authentication_identity=name, password=secret),
        sasl.CramMd5Client(authentication_identity=name, password=secret),
        sasl.ScramSha1Client(authentication_identity=name, password=secret, entropy=entropy),
        sasl.ScramSha256Client(authentication_identity=name, password=secret, entropy=entropy),
        sasl.OauthBearerClient(token=token.encode(), authorization_identity=name),
        sasl.Xoauth2Client(token=token.encode(), authorization_identity=name),
        sasl.ExternalClient(authorization_identity=name if password == PASSWORD else "bob"),
    ]


def pop3_mechanisms(right: bool) -> list[sasl.ClientMechanism]:
    secret = (PASSWORD if right else WRONG).encode()
    return [
        sasl.UserPassClient(authentication_identity="alice", password=secret),
        sasl.ApopClient(authentication_identity="alice", password=secret),
    ]


class Quoting(Plain):
    """A password whose check fails, with an error that quotes what the client has sent."""

    def check(self, password: bytes) -> bool:
        raise ValueError(f"cannot check {password!r}")


class QuotingTokens(MemoryAccounts):
    """Accounts that fail to check an unknown token, with an error that quotes it."""

    async def token_owner(self, token: bytes) -> str | None:
        owner = await super().token_owner(token)
        if owner is None and token.endswith(b"+"):
            raise LookupError(f"no account has the token {token!r}")
        return owner


def encoded(text: str) -> bytes:
    return base64.b64encode(text.encode())


RAW: Final = WRONG.encode("latin-1")
SMTP_LINES: Final[tuple[tuple[bytes, ...], ...]] = (
    (b"AUTH LOGIN", encoded("alice"), b"*"),
    (b"AUTH LOGIN", encoded("alice"), encoded(WRONG) + b"!"),
    (b"AUTH LOGIN", encoded("alice"), encoded(WRONG) * 1000),
    (b"AUTH PLAIN " + RAW,),
    (b"AUTH PLAIN " + encoded(WRONG) * 1000,),
    (b"AUTH PLAIN " + encoded(f"alice\0{WRONG}"),),
    (b"AUTH PLAIN " + encoded(f"\0alice\0{WRONG}\0more"),),
    (b"AUTH PLAIN " + encoded(f"\0alice\0{WRONG}\u05d0\n"),),
    (b"AUTH " + RAW,),
    (b"AUTH NOSUCH " + encoded(f"\0alice\0{WRONG}"),),
    (b"AUTH CRAM-MD5", encoded(f"alice{WRONG}".replace(" ", ""))),
    (b"AUTH CRAM-MD5 " + encoded(f"alice {WRONG}"),),
    (b"AUTH SCRAM-SHA-256 " + encoded("n,,n=alice,r=nonce"), encoded(f"c=biws,r=nonce,p={WRONG}")),
    (b"AUTH OAUTHBEARER " + encoded(f"n,a=alice,\1auth=Basic {WRONG_TOKEN}\1\1"), b"AQ=="),
    (b"AUTH XOAUTH2 " + encoded(f"user=alice\1auth={WRONG_TOKEN}\1"), b""),
    (b"AUTH XOAUTH2 " + encoded(f"user=alice\1auth=Bearer {WRONG_TOKEN}+\1\1"), b""),
    (b"AUTH PLAIN " + encoded(f"\0broken\0{WRONG}"),),
    (b"AUTH PLAIN " + encoded(f"\0watched\0{WRONG}"),),
    (b"AUTH PLAIN " + encoded(f"\0alice\0{PASSWORD}"), b"AUTH PLAIN " + encoded(f"\0alice\0{PASSWORD}")),
    (RAW, encoded(WRONG), encoded(f"\0alice\0{WRONG}")),
    (b"PASS " + RAW, b"MAIL FROM:<a@b.test> AUTH=" + RAW, b"HELP " + RAW, b"NOOP " + RAW, b"VRFY " + RAW),
)
"""Lines after EHLO, each sequence in a session of its own: malformed, cancelled, too long, or at a wrong place."""

POP3_LINES: Final[tuple[tuple[bytes, ...], ...]] = (
    (b"PASS " + RAW,),
    (b"USER alice", b"USER alice", b"PASS " + RAW, b"PASS " + RAW),
    (b"USER alice", b"PASS " + RAW * 500),
    (b"USER alice", b"PASS " + RAW + b"\0"),
    (b"USER broken", b"PASS " + RAW),
    (b"USER watched", b"PASS " + RAW),
    (b"USER alice", b"PASS " + PASSWORD.encode(), b"PASS " + PASSWORD.encode(), b"USER alice"),
    (b"APOP alice " + RAW,),
    (b"APOP alice " + encoded(WRONG),),
    (b"USER alice", b"NOOP " + RAW, RAW, encoded(WRONG), b"STAT " + RAW),
    *(lines for lines in SMTP_LINES[:-2]),
)


def talk(port: int, tls: ssl.SSLContext, first: Sequence[bytes], lines: Sequence[bytes]) -> None:
    """Send *first* and *lines*, each after the reply to the one before, and close without QUIT."""
    with (
        socket.create_connection(("127.0.0.1", port), TIMEOUT) as clear,
        tls.wrap_socket(clear, server_hostname="localhost") as sock,
        sock.makefile("rb") as replies,
    ):
        for line in (None, *first, *lines):
            if line is not None:
                sock.sendall(line + b"\r\n")
            reply = replies.readline()
            while reply[3:4] == b"-" and reply[:3].isdigit():
                reply = replies.readline()
            if not reply:
                return


async def hop_session(connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
    """Serve the next hop, which has one account and offers SCRAM with channel binding."""
    async for event in connection:
        match event:
            case sasl.FetchScramKeys(authentication_identity="relay", hash_name=hash_name):
                connection.answer(event, sasl.scram_keys(HOP_PASSWORD.encode(), b"salt", 4096, hash_name))
            case sasl.CheckPassword(password=password):
                right = password == HOP_PASSWORD.encode()
                connection.answer(event, ACCEPT if right else sasl.Refusal.BAD_CREDENTIALS)
            case Question():
                question: Question[Any] = event
                connection.answer(question, question.unavailable if isinstance(event, sasl.CheckToken) else ACCEPT)
            case _:
                pass


async def submit(running: server.RunningServer, recorder: Recorder, login: client.Login) -> None:
    recorder.note("client.Login", login)
    try:
        await client.submit(
            b"Subject: x\r\n\r\n", "alice@example.test", ["bob@far.test"],
            host="localhost", port=running.smtps, login=login, ssl_context=context(),
        )  # fmt: skip
    except client.ClientError as error:
        recorder.note_error("client.submit()", error)


async def log_in_with_everything(running: server.RunningServer, recorder: Recorder) -> None:
    """Log in by each mechanism and protocol, with the right secret and with a wrong one."""
    tls = context("alice@example.test")
    in_thread = loops.current().in_thread
    for right in (True, False):
        for log_in in (smtp_login, pop3_login):
            found = mechanisms(PASSWORD if right else WRONG, TOKEN if right else WRONG_TOKEN)
            for mechanism in found if log_in is smtp_login else [*found, *pop3_mechanisms(right)]:
                result = await log_in(running, tls, mechanism, False)
                assert (result == "ok") is right, (mechanism.name, result)
        await submit(running, recorder, client.Login("alice", PASSWORD if right else WRONG))
        await submit(running, recorder, client.Login("alice", token=TOKEN if right else WRONG_TOKEN))
    for lines in SMTP_LINES:
        await in_thread(talk, running.smtps or 0, tls, [b"EHLO c"], lines)
    for lines in POP3_LINES:
        await in_thread(talk, running.pop3s or 0, tls, [], lines)


async def watch(view: server.SessionView, question: Question[Any]) -> server.Decision:
    """An interceptor that sees the secrets, and fails with an error that quotes one."""
    if isinstance(question, sasl.CheckPassword) and question.authentication_identity == "watched":
        raise ValueError(f"cannot decide about {question.password!r}")
    return server.PASS


def serve_with(recorder: Recorder, relay_password: str) -> Callable[[], Awaitable[None]]:
    """Return a coroutine function that runs a server, with a next hop, and all logins."""

    async def main() -> None:
        found = QuotingTokens(
            [
                stores.from_password("alice", PASSWORD.encode()),
                Account(name="bob", credential=Plain(b"another")),
                Account(name="broken", credential=Quoting(PASSWORD.encode())),
            ],
            domains=frozenset({"example.test"}),
            tokens=[("alice", TOKEN.encode())],
            certificate_names=[("email:alice@example.test", "alice")],
        )
        hop_settings = smtp.ServerSettings(
            host_name="localhost", mechanisms=sasl.ALL_MECHANISMS, scram_decoy=sasl.ScramDecoy(key=bytes(16)),
            authentication_required=True,
        )  # fmt: skip
        async with loops.current().adapter.serve_smtp(
            hop_session, hop_settings, ssl_context=server_context(), implicit_tls=True, grace=0.1
        ) as listener:
            hop = server.NextHop(
                host="localhost", port=listener.port, ssl_context=context(), implicit_tls=True,
                login=server.Login(name="relay", password=relay_password.encode()),
            )  # fmt: skip
            kept = server.Stores(
                accounts=found, tokens=found, certificates=found, maildrops=stores.MemoryMaildrops(), outbox=hop,
                decoy_key=PASSWORD.encode(),
            )  # fmt: skip
            config = server.Config(smtp=0, smtps=0, pop3=0, pop3s=0, ssl_context=server_context())
            async with server.serve(
                config, kept, sleep=at_once, on_error=lambda error, peer: recorder.note_error("on_error", error),
                interceptors=[server.Interceptor(watch, secrets=True)],
            ) as running:  # fmt: skip
                recorder.note("configuration", config, kept, hop, running)
                if relay_password == HOP_PASSWORD:
                    await log_in_with_everything(running, recorder)
                else:
                    await submit(running, recorder, client.Login("alice", PASSWORD))
                forms_of_secrets = [form for core in CORES for form in forms(core.encode())]
                assert not showing(running, kept, config, secrets=forms_of_secrets)

    return main


@on_both_loops
def test_no_secret_is_shown_by_any_login(run: Run, recorder: Recorder) -> None:
    for relay_password in (HOP_PASSWORD, HOP_PASSWORD + "?"):
        run(serve_with(recorder, relay_password))
    assert recorder.leaks() == []
    text = "\n".join(text for place, text in recorder.texts if place == "log")
    for protocol, more in (("SMTP", ()), ("POP3", ("USER", "APOP"))):
        for name in (*(each.name for each in mechanisms(PASSWORD, TOKEN)), *more):
            for event in ("login", "login failed"):
                assert any(
                    f" INFO {event} " in line and f"protocol={protocol} " in line and f"mechanism={name} " in line
                    for line in text.splitlines()
                ), (event, protocol, name)
    for seen in ("ValueError at", "LookupError at", "next hop", "interceptor failed", "SCRAM-SHA-256-PLUS"):
        assert any(seen in text for _, text in recorder.texts), seen
    assert len(recorder.secrets) > 60  # responses, digests, proofs and keys


def private(path: Path, content: str) -> str:
    """Write a file that only its owner may read; return its name."""
    path.touch(mode=0o600)
    path.write_text(content, encoding="utf-8")
    return str(path)


def test_commands_with_passwords_from_files_show_none(
    tmp_path: Path, recorder: Recorder, capfd: pytest.CaptureFixture[str]
) -> None:
    """The log and the output of servers and clients, the ready file, and the arguments that other users can see.

    The first server, on asyncio, relays to the second one, on trio, and logs in there.
    """
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    shown: list[tuple[str, str]] = []
    options = ("--log-level", "debug", "--smtps", "0", "--pop3s", "0")
    stored = stores.write_credential("SCRAM-SHA-256", HOP_PASSWORD.encode())
    right, wrong = private(tmp_path / "right", HOP_PASSWORD), private(tmp_path / "wrong", WRONG)
    message = private(tmp_path / "message", "From: alice@example.test\nTo: bob@far.test\n\nbody\n")
    with serving.served(
        second, *options, "--loop", "trio", "--log-format", "json", "--ca-out", str(second / "ca"),
        "--accounts", private(second / "accounts", f"alice:{stored}\n"), "--decoy-key", str(second / "key"),
    ) as hop, serving.served(
        first, *options, "--ca-out", str(first / "ca"), "--relay-ca", str(second / "ca"),
        "--relay-to", f"smtps://alice@localhost:{hop.port('smtps')}", "--relay-password-file", right,
        "--accounts", private(first / "accounts", f"alice:{{PLAIN}}{HOP_PASSWORD}\n"),
    ) as server:  # fmt: skip
        for verb, port, rest in (("send", "smtps", (message,)), ("fetch", "pop3s", ("--maildir", f"{tmp_path}/mail"))):
            for file, status in ((right, 0), (wrong, 77)):
                arguments = (
                    verb, *rest, "--json", "--host", "localhost", "--port", str(server.port(port)),
                    "--ca", str(first / "ca"), "--user", "alice", "--password-file", file,
                )  # fmt: skip
                assert cli.main(arguments) == status
                said = capfd.readouterr()
                assert json.loads(said.out)
                shown.append((verb, said.out + said.err))
        for each, directory in ((server, first), (hop, second)):
            shown.append(("arguments", Path(f"/proc/{each.process.pid}/cmdline").read_bytes().decode()))
            shown.append(("output", "\n".join(each.said)))
            shown.append(("ready file", (directory / "ready.json").read_text()))
    shown += [("log", (directory / "log").read_text()) for directory in (first, second)]
    assert " INFO login failed " in shown[-2][1]
    assert '"event": "login"' in shown[-1][1]
    recorder.secrets |= {part.encode() for part in (*stored.split(",")[-2:], (second / "key").read_text().strip())}
    assert recorder.leaks(shown) == []


@pytest.mark.parametrize(
    "secret", [PASSWORD.encode(), b"\0alice\0" + WRONG.encode(), b"p" * 16], ids=["", "PLAIN", "x"]
)
def test_search_finds_a_secret_in_each_form(recorder: Recorder, secret: bytes) -> None:
    """Otherwise it would prove nothing."""
    recorder.secrets.add(secret)
    for text in (
        secret.decode("latin-1"),
        repr(secret),
        repr([repr(secret)]),
        json.dumps(secret.decode("latin-1")),
        secret.hex(),
        f"name%00{''.join(f'%{byte:02X}' for byte in secret)}",
        *(base64.b64encode(b"x" * offset + secret + b"y").decode() for offset in range(3)),
        *(base64.urlsafe_b64encode(b"x" * offset + secret + b"y").decode() for offset in range(3)),
        repr(secret.decode("latin-1").encode("utf-16-le")),
    ):
        assert recorder.leaks([("here", f"so it is: {text}!"), ("there", "nothing")]) == [
            ("here", f"so it is: {text}!")
        ]
