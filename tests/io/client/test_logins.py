"""TLS and logins of the clients, against the server of ``mailauth_io.server`` and against broken servers."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from mailauth import sasl
from mailauth_io import client, server, stores
from mailauth_io.client import sync
from tests.io.client.peers import Script, ehlo, pop3_server, smtp_server
from tests.io.scripted_hop import Break, ScriptedHop
from tests.io.server_support import PASSWORD, TIMEOUT, Run, at_once, on_both_loops
from tests.io.tls import client_context, server_context

T = TypeVar("T")

ALICE, BOB = "alice@example.test", "bob@example.test"
MESSAGE = b"Subject: tea\r\n\r\nAt six.\r\n"
TLS_MODES = ("implicit", "starttls", "none")
in_each_tls_mode = pytest.mark.parametrize("tls", TLS_MODES)


def served(run: Run, use: Callable[[server.RunningServer], Awaitable[T]], **options: Any) -> T:
    """Call *use* with a server that has the accounts alice and bob, and a token of alice."""
    accounts = stores.MemoryAccounts({"alice": PASSWORD.encode(), "bob": b"other"}, tokens=[("alice", b"t0ken")])
    kept = server.Stores(
        accounts=accounts, tokens=accounts, maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox()
    )
    settings: dict[str, Any] = {
        "smtp": 0, "smtps": 0, "pop3": 0, "pop3s": 0, "ssl_context": server_context(), "domains": ("example.test",),
        **options,
    }  # fmt: skip

    async def main() -> T:
        async with server.serve(server.Config(**settings), kept, sleep=at_once) as ports:
            return await use(ports)

    return run(main)


def options(ports: server.RunningServer, protocol: str, tls: str, login: client.LoginLike) -> dict[str, Any]:
    port = getattr(ports, f"{protocol}s" if tls == "implicit" else protocol)
    return {
        "host": "127.0.0.1", "port": port, "tls": tls, "login": login, "timeout": TIMEOUT,
        "ssl_context": None if tls == "none" else client_context(),
    }  # fmt: skip


async def send_and_collect(ports: server.RunningServer, tls: str, login: client.LoginLike) -> list[bytes]:
    """Send a message to alice, and collect the messages of alice."""
    result = await client.submit(MESSAGE, ALICE, [ALICE], **options(ports, "smtp", tls, login))
    result.raise_for_rejected()
    async with client.collect(**options(ports, "pop3", tls, login), delete=True) as messages:
        return [message.raw async for message in messages]


@on_both_loops
@in_each_tls_mode
def test_message_is_sent_and_collected(run: Run, tls: str) -> None:
    (raw,) = served(run, lambda ports: send_and_collect(ports, tls, ("alice", PASSWORD)), legacy=tls == "none")
    assert raw.endswith(MESSAGE)


@on_both_loops
@in_each_tls_mode
def test_connection_has_tls_unless_it_is_switched_off(run: Run, tls: str) -> None:
    async def use(ports: server.RunningServer) -> list[bool]:
        login = ("alice", PASSWORD)
        async with client.smtp_client(**options(ports, "smtp", tls, login)) as connected:
            found = [connected.tls is not None]
        async with client.pop3_client(**options(ports, "pop3", tls, login)) as maildrop:
            return [*found, maildrop.tls is not None]

    assert served(run, use, legacy=True) == [tls != "none"] * 2


PASSWORD_MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN")


@on_both_loops
@pytest.mark.parametrize("mechanism", PASSWORD_MECHANISMS)
def test_login_by_one_mechanism(run: Run, mechanism: str) -> None:
    login = client.Login("alice", PASSWORD, mechanisms=(mechanism.lower(),))

    async def use(ports: server.RunningServer) -> None:
        for tls in ("implicit", "starttls"):
            async with client.smtp_client(**options(ports, "smtp", tls, login)) as connected:
                assert mechanism in connected.extensions["AUTH"].split()
            async with client.pop3_client(**options(ports, "pop3", tls, login)):
                pass

    served(run, use, legacy=True)


@on_both_loops
@pytest.mark.parametrize(("tls", "text"), [("implicit", "does not offer SCRAM-SHA-256-PLUS"), ("none", "can be used")])
def test_login_by_a_mechanism_that_is_not_possible(run: Run, tls: str, text: str) -> None:
    login = client.Login("alice", PASSWORD, mechanisms=("SCRAM-SHA-256-PLUS",))

    async def use(ports: server.RunningServer) -> None:
        with pytest.raises(client.NotSupported, match=f"cannot log in: .*{text}"):
            await client.submit(MESSAGE, ALICE, [BOB], **options(ports, "smtp", tls, login))

    served(run, use)


@on_both_loops
@pytest.mark.parametrize("mechanism", ["USER", "APOP"])
def test_login_of_pop3_only(run: Run, mechanism: str) -> None:
    login = client.Login("alice", PASSWORD, mechanisms=(mechanism,))

    async def use(ports: server.RunningServer) -> None:
        for tls in TLS_MODES:
            async with client.pop3_client(**options(ports, "pop3", tls, login)):
                pass
        with pytest.raises(client.NotSupported, match=f"cannot log in: the server does not offer {mechanism}"):
            await client.submit(MESSAGE, ALICE, [BOB], **options(ports, "smtp", "implicit", login))

    served(run, use, legacy=True)


@on_both_loops
@pytest.mark.parametrize("mechanisms", [(), ("OAUTHBEARER",), ("XOAUTH2",)])
def test_login_with_a_token(run: Run, mechanisms: tuple[str, ...]) -> None:
    login = client.Login("alice", token="t0ken", mechanisms=mechanisms)
    served(run, lambda ports: send_and_collect(ports, "implicit", login))


@on_both_loops
@in_each_tls_mode
@pytest.mark.parametrize(
    "login", [("alice", "secret"), ("nobody", "secret"), client.Login("alice", token="secret")], ids=str
)
def test_wrong_password_or_token_is_a_failed_login(run: Run, tls: str, login: Any) -> None:
    if tls == "none" and isinstance(login, client.Login):
        return  # tokens are not offered without TLS

    async def use(ports: server.RunningServer) -> list[client.AuthenticationFailed]:
        found: list[client.AuthenticationFailed] = []
        with pytest.raises(client.AuthenticationFailed, match="rejected the login of") as failure:
            await client.submit(MESSAGE, ALICE, [BOB], **options(ports, "smtp", tls, login))
        found.append(failure.value)
        with pytest.raises(client.AuthenticationFailed, match="rejected the login of") as failure:
            async with client.collect(**options(ports, "pop3", tls, login)):
                pass
        return [*found, failure.value]

    for error in served(run, use, legacy=tls == "none"):
        assert not error.temporary
        assert "secret" not in f"{error!r} {error}"


@on_both_loops
@pytest.mark.parametrize("mechanism", sorted(set(sasl.DEFAULT_MECHANISMS.names) - {"EXTERNAL", "ANONYMOUS"}))
def test_wrong_password_by_each_mechanism(run: Run, mechanism: str) -> None:
    token = mechanism in ("OAUTHBEARER", "XOAUTH2")
    password, secret = (None, "secret") if token else ("secret", None)
    login = client.Login("alice", password, token=secret, mechanisms=(mechanism,))

    async def use(ports: server.RunningServer) -> None:
        with pytest.raises(client.AuthenticationFailed):
            async with client.smtp_client(**options(ports, "smtp", "implicit", login)):
                pass

    served(run, use, legacy=True)


@on_both_loops
def test_message_without_a_login_is_rejected_for_its_remote_recipient(run: Run) -> None:
    async def use(ports: server.RunningServer) -> client.SubmitResult:
        return await client.submit(
            MESSAGE, ALICE, ["dinah@far.test"], host="127.0.0.1", port=ports.smtps, ssl_context=client_context()
        )

    assert [reply.code for reply in served(run, use).replies.values()] == [550]


@on_both_loops
@pytest.mark.parametrize("tls", ["implicit", "starttls"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_untrusted_or_foreign_certificate_is_a_failed_connection(run: Run, tls: str, host: str) -> None:
    """The default context does not trust the test authority, and the certificate is not valid for ::1."""

    async def use(ports: server.RunningServer) -> None:
        for protocol, connect in (("smtp", client.smtp_client), ("pop3", client.pop3_client)):
            arguments = {**options(ports, protocol, tls, ("alice", PASSWORD)), "host": host}
            if host == "127.0.0.1":
                arguments["ssl_context"] = None
            with pytest.raises(client.ConnectionFailed, match="the certificate is not valid: ") as found:
                await connect(**arguments).__aenter__()
            hints = {
                "127.0.0.1": "; pass ssl_context=ssl.create_default_context(cafile=...) to trust its CA",
                "::1": "; pass a host that is in the certificate",
            }
            assert str(found.value).endswith(hints[host])
            assert isinstance(found.value.__cause__, ssl.SSLCertVerificationError)

    served(run, use, hosts=(host,))


@on_both_loops
def test_files_of_the_trusted_cas_are_read_in_a_thread_for_each_connection(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They can change while the program runs, and reading them takes as long as hundreds of replies."""
    threads: list[threading.Thread] = []

    def create_default_context() -> ssl.SSLContext:
        threads.append(threading.current_thread())
        return client_context()

    monkeypatch.setattr(ssl, "create_default_context", create_default_context)

    async def use(ports: server.RunningServer) -> None:
        for tls in ("implicit", "starttls"):
            for protocol, connect in (("smtp", client.smtp_client), ("pop3", client.pop3_client)):
                arguments = options(ports, protocol, tls, ("alice", PASSWORD)) | {"ssl_context": None}
                async with connect(**arguments):
                    pass

    served(run, use)
    assert len(threads) == 4
    assert threading.current_thread() not in threads


@on_both_loops
def test_call_can_be_cancelled_while_the_files_of_the_trusted_cas_are_read(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, readable = threading.Event(), threading.Event()

    def create_default_context() -> ssl.SSLContext:
        reading.set()
        assert readable.wait(TIMEOUT)
        return client_context()

    monkeypatch.setattr(ssl, "create_default_context", create_default_context)

    async def cancel(scope: anyio.CancelScope) -> None:
        await anyio.to_thread.run_sync(reading.wait, TIMEOUT)
        scope.cancel()

    async def main() -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(cancel, group.cancel_scope)
                await client.submit(MESSAGE, ALICE, [BOB], host="127.0.0.1", port=1)
            assert not readable.is_set()
        finally:
            readable.set()

    run(main)


def test_call_without_an_event_loop_does_not_wait_for_the_files_of_the_trusted_cas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their disk may not respond."""
    readable = threading.Event()
    waits: list[bool] = []

    def create_default_context() -> ssl.SSLContext:
        waits.append(readable.wait(TIMEOUT))
        return client_context()

    monkeypatch.setattr(ssl, "create_default_context", create_default_context)
    try:
        with pytest.raises(client.ConnectionFailed, match="timed out"):
            sync.submit(MESSAGE, ALICE, [BOB], host="127.0.0.1", port=1, timeout=0.05)
        assert waits == []
    finally:
        readable.set()


@on_both_loops
@pytest.mark.parametrize("broken", Break)
def test_nothing_is_sent_in_clear_text_if_starttls_fails(run: Run, broken: Break) -> None:
    hop = ScriptedHop(broken)
    with hop.listening(), pytest.raises(client.ClientError) as found:
        run(
            lambda: client.submit(
                MESSAGE, ALICE, [BOB], host="127.0.0.1", port=hop.port, tls="starttls", login=("alice", "secret"),
                ssl_context=client_context(), timeout=TIMEOUT,
            )
        )  # fmt: skip
    assert set(hop.commands()[0]) <= {"EHLO", "STARTTLS", "QUIT"}
    assert all(data == b"" for data in hop.inside)
    expected = {
        Break.NOT_OFFERED: client.NotSupported, Break.REFUSED: client.ServerRejected,
        Break.UNKNOWN: client.ServerRejected, Break.GOING_DOWN: client.ServerRejected,
    }  # fmt: skip
    assert type(found.value) is expected.get(broken, client.ConnectionFailed)


@on_both_loops
@pytest.mark.parametrize("said", [b"-ERR what?\r\n", b"+OK\r\n+OK injected\r\n", b"+OK\r\n"])
def test_nothing_is_sent_in_clear_text_if_stls_fails(run: Run, said: bytes) -> None:
    async def main() -> None:
        async with client.collect(
            host="127.0.0.1", port=peer.port, tls="starttls", login=("alice", "secret"), timeout=timeout
        ):
            pass

    expected = client.ServerRejected if said.startswith(b"-ERR") else client.ConnectionFailed
    timeout = 0.2 if said == b"+OK\r\n" else TIMEOUT  # after this one, the server waits for the end of a line
    with pop3_server({"STLS": said}) as peer, pytest.raises(expected):
        run(main)
    assert set(peer.verbs()) <= {"STLS", "QUIT"} or b"\x16\x03" in peer.heard[1].encode("latin-1")


@on_both_loops
def test_implicit_tls_with_a_server_in_clear_text_is_a_failed_connection(run: Run) -> None:
    with smtp_server({}) as peer, pytest.raises(client.ConnectionFailed, match="cannot connect to "):
        run(lambda: client.submit(MESSAGE, ALICE, [BOB], host="127.0.0.1", port=peer.port, timeout=TIMEOUT))


@on_both_loops
def test_refused_connection_is_named(run: Run, free_port: int) -> None:
    expected = f"cannot connect to 127.0.0.1 port {free_port}: Connection refused"
    with pytest.raises(client.ConnectionFailed, match=f"^{expected}$") as found:
        run(lambda: client.submit(MESSAGE, ALICE, [BOB], host="127.0.0.1", port=free_port))
    assert isinstance(found.value.__cause__, ConnectionRefusedError)


@on_both_loops
@pytest.mark.parametrize(
    "script",
    [
        {"AUTH": b"334 !!!\r\n"},
        {"AUTH": b"334 " + b"A" * 60_000 + b"\r\n"},
        {"AUTH": b"250 what?\r\n"},
        {"EHLO": ehlo("AUTH SCRAM-SHA-256")},
    ],
    ids=["challenge", "long", "code", "scram"],
)
def test_server_that_violates_the_login_is_a_failed_connection(run: Run, script: Script) -> None:
    """A success reply before SCRAM has verified the server counts as a violation."""
    with smtp_server(script) as peer, pytest.raises(client.ClientError) as found:
        run(
            lambda: client.submit(
                MESSAGE, ALICE, [BOB], host="127.0.0.1", port=peer.port, tls="none", login=("alice", "secret"),
                timeout=TIMEOUT,
            )
        )  # fmt: skip
    assert not isinstance(found.value, client.NotSupported)
    assert "secret" not in str(found.value)
    assert "MAIL" not in peer.verbs()
