"""GNU SASL's own program on both sides: as a client of the ready server, and as a server of our client mechanisms.

Skips without it; with MAILAUTH_INTEROP=require it fails.  It is met in clear, and for PLAIN behind STARTTLS too, which
it says before any EHLO.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailauth import sasl
from tests.interop.visit import HOST, NAME, PASSWORD, Refused, environment, program, run
from tests.serving import LOOPS, Served, served

LOGINS = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256")
PATIENCE = 30


@pytest.fixture(scope="module", params=LOOPS)
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("gsasl")
    options = ("--loop", request.param, "--legacy", "--user", f"{NAME}:{PASSWORD}", "--ca-out", str(directory / "ca"))
    with served(directory, *options) as server:
        yield server


def gsasl(house: Served, login: str, password: str, home: Path) -> bytes:
    words = ["--smtp", f"--connect={HOST}:{house.port('smtp')}", "--no-starttls", "--quiet"]
    return run("gsasl", [*words, "-m", login, "-a", NAME, "-p", password], home=home)


@pytest.mark.parametrize("login", LOGINS)
def test_it_logs_in_to_our_server(house: Served, login: str, tmp_path: Path) -> None:
    """RFC 4954; in SCRAM it verifies that the server knows the password, too."""
    said = gsasl(house, login, PASSWORD, tmp_path)
    assert b"\n235 2.7.0 " in said
    assert f"login of {NAME} by {login} in clear" in house.log.read_text()


def test_it_logs_in_behind_starttls(house: Served, tmp_path: Path) -> None:
    """RFC 3207."""
    words = ["--smtp", f"--connect=localhost:{house.port('smtp')}", "--starttls", "--quiet", "-m", "PLAIN"]
    trusted = f"--x509-ca-file={house.log.parent / 'ca'}"
    said = run("gsasl", [*words, trusted, "-a", NAME, "-p", PASSWORD], home=tmp_path)
    assert b"\n235 2.7.0 " in said
    assert f"login of {NAME} by PLAIN inside TLS" in house.log.read_text()


@pytest.mark.parametrize("login", LOGINS)
def test_a_wrong_password_is_refused(house: Served, login: str, tmp_path: Path) -> None:
    with pytest.raises(Refused):
        gsasl(house, login, "open poppy", tmp_path)
    assert f"login of {NAME} by {login} in clear" in house.log.read_text()


OURS: dict[str, Callable[[bytes], sasl.ClientMechanism]] = {
    "PLAIN": lambda secret: sasl.PlainClient(authentication_identity=NAME, password=secret),
    "LOGIN": lambda secret: sasl.LoginClient(authentication_identity=NAME, password=secret),
    "CRAM-MD5": lambda secret: sasl.CramMd5Client(authentication_identity=NAME, secret=secret),
    "SCRAM-SHA-1": lambda secret: sasl.ScramSha1Client(
        authentication_identity=NAME, password=secret, entropy=secrets.token_bytes(16)
    ),
    "SCRAM-SHA-256": lambda secret: sasl.ScramSha256Client(
        authentication_identity=NAME, password=secret, entropy=secrets.token_bytes(16)
    ),
}


def trusted(ours: sasl.ClientMechanism, home: Path) -> bool:
    """Whether gsasl, as a server on its standard input and output, takes *ours* for who it says."""
    words = [program("gsasl"), "--server", "--quiet", "-m", ours.name, "-a", NAME, "-p", PASSWORD]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(home)
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().strip() == ours.name.encode()
        response = ours.respond(None)
        begun = ours.client_first
        while challenge := process.stdout.readline():  # a line of base64, empty when it has nothing to say
            if not begun or challenge.strip():
                response = ours.respond(sasl.decode_base64(challenge.strip()))
                begun = True
            process.stdin.write(sasl.encode_base64(response) + b"\n")
            process.stdin.flush()
            if ours.satisfied and not response:
                break  # what follows would be application data
            response = b""
        process.stdin.close()
        return process.wait(PATIENCE) == 0


@pytest.mark.parametrize("login", LOGINS)
def test_our_client_logs_in_to_it(login: str, tmp_path: Path) -> None:
    """In SCRAM ours verifies that gsasl knows the password, too."""
    ours = OURS[login](PASSWORD.encode())
    assert trusted(ours, tmp_path)
    assert ours.satisfied


@pytest.mark.parametrize("login", LOGINS)
def test_our_client_with_a_wrong_password_does_not(login: str, tmp_path: Path) -> None:
    assert not trusted(OURS[login](b"open poppy"), tmp_path)
