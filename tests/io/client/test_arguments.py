"""Invalid arguments of the clients: refused before a connection is made, with a text that says what to pass."""

from __future__ import annotations

import ssl
from collections.abc import Coroutine
from typing import Any

import pytest

from mailauth_io import client
from mailauth_io.client._server import Server
from tests.io.client.peers import pop3_server, smtp_server
from tests.io.server_support import TIMEOUT, run_on_asyncio
from tests.test_secret_properties import SECRET, showing

BOB = "bob@example.org"
GOOD: dict[str, Any] = {"host": "127.0.0.1", "port": 1, "login": ("alice", "secret"), "tls": "none"}


def submitting(**options: Any) -> Coroutine[Any, Any, object]:
    return client.submit(b"x", BOB, [BOB], **{**GOOD, **options})


async def collecting(**options: Any) -> None:
    async with client.collect(**{**GOOD, **options}):
        pass


@pytest.mark.parametrize("start", [submitting, collecting])
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"host": ""}, ValueError, "host must be the name or the IP address of a server, not ''"),
        ({"host": "a b"}, ValueError, "host must be"),
        ({"host": "a\nb"}, ValueError, "host must be"),
        ({"host": None}, ValueError, "host must be"),
        ({"host": "a" * 64 + ".test"}, ValueError, "host must be"),
        ({"host": "a..test"}, ValueError, "host must be"),
        ({"port": 0}, ValueError, "port must be a number from 1 to 65535, or None for the standard port, not 0"),
        ({"port": 65536}, ValueError, "port must be"),
        ({"port": "25"}, ValueError, "port must be"),
        ({"port": True}, ValueError, "port must be"),
        ({"tls": True}, ValueError, 'tls must be "implicit", "starttls" or "none", not True'),
        ({"tls": ssl.create_default_context()}, ValueError, "tls must be"),
        ({"tls": ["none"]}, ValueError, "tls must be"),
        ({"ssl_context": True}, TypeError, "ssl_context must be an SSLContext or None, not bool; use ssl."),
        ({"ssl_context": ssl.create_default_context()}, ValueError, 'with tls="none" no ssl_context is used'),
        ({"timeout": 0}, ValueError, "timeout must be a positive number of seconds, not 0"),
        ({"timeout": float("nan")}, ValueError, "timeout must be"),
        ({"timeout": None}, ValueError, "timeout must be"),
        ({"timeout": True}, ValueError, "timeout must be"),
        ({"login": "alice"}, TypeError, r"login must be a tuple \(name, password\), a Login or None, not str"),
        ({"login": ["alice", "secret"]}, TypeError, "login must be a tuple"),
        ({"login": ("alice", "secret", "x")}, TypeError, "login must be a tuple"),
        ({"login": ("alice", None)}, ValueError, "needs a password or a token"),
        ({"login": ("alice", 5)}, TypeError, "password or token must be a string or bytes, not int"),
        ({"login": (b"alice", "secret")}, TypeError, "name must be a string, not bytes"),
        ({"login": ("alice\0", "secret")}, ValueError, "the login cannot be sent: "),
        ({"login": ("alice", "secret\0")}, ValueError, "the login cannot be sent: "),
        ({"login": ("alice", "secret\udcff")}, ValueError, "must not contain surrogates; pass bytes"),
    ],
)  # fmt: skip
def test_invalid_arguments(start: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as found:
        run_on_asyncio(lambda: start(**options))
    assert "secret" not in f"{found.value} {found.value!r}"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"login": None}, TypeError, "login must be a tuple .name, password. or a Login; POP3 needs one"),
        ({"skip": "id-1"}, TypeError, r"skip must be a set of unique-ids, such as \{'id-1'\}, not a string"),
        ({"skip": 5}, TypeError, "skip must be a set of unique-ids, not int"),
    ],
)
def test_invalid_arguments_of_collect(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        run_on_asyncio(lambda: collecting(**options))


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({}, ValueError, "needs a password or a token, and not both"),
        ({"password": "a", "token": "b"}, ValueError, "needs a password or a token, and not both"),
        ({"password": "a", "mechanisms": "PLAIN"}, TypeError, "mechanisms must be a tuple of names"),
        ({"password": "a", "mechanisms": ("PLAIN", "CRAM")}, ValueError, "of a password is called 'CRAM'; use SCRAM"),
        ({"password": "a", "mechanisms": ("XOAUTH2",)}, ValueError, "no mechanism of a password is called 'XOAUTH2'"),
        ({"token": "a", "mechanisms": ("X-PIN",)}, ValueError, r"of your own needs connect\(\) and authenticate\(\)"),
        ({"token": "a", "mechanisms": ("PLAIN",)}, ValueError, "of a token is called 'PLAIN'; use OAUTHBEARER, "),
        ({"token": ""}, ValueError, "the login cannot be sent: "),
    ],
)  # fmt: skip
def test_invalid_login(fields: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        client.Login("alice", **fields)


def test_no_secret_in_a_repr() -> None:
    logins = [client.Login("alice", SECRET), client.Login("alice", token=SECRET)]
    assert not showing(*logins, *(Server(host="mail.example.org", login=login) for login in logins))


@pytest.mark.parametrize("start", [submitting, collecting])
@pytest.mark.parametrize("said", [b"535 no\r\n", b"-ERR no\r\n", b"421 no\r\n", b"what?\r\n"])
def test_no_secret_in_an_error(start: Any, said: bytes) -> None:
    serving = smtp_server({"AUTH": said}) if start is submitting else pop3_server({"PASS": said})
    with serving as peer, pytest.raises(client.ClientError) as found:
        run_on_asyncio(lambda: start(port=peer.port, login=("alice", SECRET), timeout=TIMEOUT))
    assert not showing(found.value, found.value.__cause__, str(found.value))


@pytest.mark.parametrize("secret", ["wonder\udcffland", "wonder\0land", "wonderland\n", ""])
@pytest.mark.parametrize("kind", ["password", "token"])
def test_error_of_a_login_has_no_context_that_contains_the_secret(secret: str, kind: str) -> None:
    """Programs that report exceptions follow ``__context__`` even if it is suppressed."""
    try:
        client.Login("alice", secret) if kind == "password" else client.Login("alice", token=secret)
    except ValueError as found:
        error: BaseException | None = found
        while error is not None:
            assert "wonder" not in repr(vars(error)) + repr(error.args) + repr(getattr(error, "object", ""))
            error = error.__context__


def test_type_errors_name_the_type_and_not_the_value() -> None:
    for build in (
        lambda: client.Login("alice", "x", mechanisms=["wonderland"]),  # type: ignore[arg-type]  # the error
        lambda: client.Dsn(notify=["wonderland"]),  # type: ignore[arg-type]  # the error
        lambda: client.envelope(b"", b"wonderland", ["bob@example.org"]),  # type: ignore[arg-type]  # the error
    ):
        with pytest.raises(TypeError) as found:
            build()
        assert "wonderland" not in str(found.value)
