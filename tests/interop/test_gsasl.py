"""GNU SASL's program on both sides: as a client of ``mailauth serve``, and as a server for the client mechanisms.

Skipped if it is not installed; an error with MAILAUTH_INTEROP=require.  It is tested without TLS, and with STARTTLS,
which it sends before any EHLO, for PLAIN and EXTERNAL.  The -PLUS forms are tested between the mechanisms only: gsasl
binds to ``tls-exporter`` and ``tls-unique``, neither of which Python's ssl provides for TLS 1.3.  As a server it cannot
check EXTERNAL.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from mailauth import sasl
from tests.interop.client_config import HOST, NAME, PASSWORD, CommandRejected, environment, program, run
from tests.serving import LOOPS, Login, Served, served

LOGINS = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256")
TIMEOUT = 30


@pytest.fixture(scope="module", params=LOOPS)
def our_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory, authority = tmp_path_factory.mktemp("gsasl"), trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "clients"))
    for name in ("alice", "stranger"):
        issued = authority.issue_cert(f"{name}@example.test")
        issued.private_key_and_cert_chain_pem.write_to_path(str(directory / name))
    with served(
        directory, "--loop", request.param, "--legacy", "--user", f"{NAME}:{PASSWORD}",
        *("--ca-out", str(directory / "ca"), "--client-ca", str(directory / "clients")),
        *("--client-name", f"email:alice@example.test={NAME}"),
    ) as server:  # fmt: skip
        yield server


def gsasl(our_server: Served, login: str, password: str, home: Path) -> bytes:
    words = ["--smtp", f"--connect={HOST}:{our_server.port('smtp')}", "--no-starttls", "--quiet"]
    return run("gsasl", [*words, "-m", login, "-a", NAME, "-p", password], home=home)


@pytest.mark.parametrize("login", LOGINS)
def test_gsasl_logs_in_to_our_server(our_server: Served, login: str, tmp_path: Path) -> None:
    """RFC 4954; with SCRAM gsasl also verifies that the server knows the password."""
    said = gsasl(our_server, login, PASSWORD, tmp_path)
    assert b"\n235 2.7.0 " in said
    assert our_server.logins()[-1] == Login(NAME, login, inside_tls=False)


def inside_tls(our_server: Served, login: str, home: Path, *words: str) -> bytes:
    directory = our_server.log.parent
    words = ("--starttls", f"--x509-ca-file={directory / 'ca'}", "--quiet", "-m", login, *words)
    return run("gsasl", ["--smtp", f"--connect=localhost:{our_server.port('smtp')}", *words], home=home)


def certificate(our_server: Served, name: str) -> list[str]:
    path = our_server.log.parent / name
    return [f"--x509-cert-file={path}", f"--x509-key-file={path}"]


def test_gsasl_logs_in_after_starttls(our_server: Served, tmp_path: Path) -> None:
    """RFC 3207."""
    said = inside_tls(our_server, "PLAIN", tmp_path, "-a", NAME, "-p", PASSWORD)
    assert b"\n235 2.7.0 " in said
    assert our_server.logins()[-1] == Login(NAME, "PLAIN", inside_tls=True)


@pytest.mark.parametrize("acting_as", [[], ["-z", NAME]], ids=["nobody", "itself"])
def test_gsasl_logs_in_with_a_client_certificate(our_server: Served, tmp_path: Path, acting_as: list[str]) -> None:
    """RFC 4422 appendix A: with the certificate only, or with an authorization identity."""
    said = inside_tls(our_server, "EXTERNAL", tmp_path, *certificate(our_server, "alice"), *acting_as)
    assert b"\n235 2.7.0 " in said
    assert our_server.logins()[-1] == Login(NAME, "EXTERNAL", inside_tls=True)


def test_certificate_without_an_account_is_rejected(our_server: Served, tmp_path: Path) -> None:
    with pytest.raises(CommandRejected, match="535"):
        inside_tls(our_server, "EXTERNAL", tmp_path, *certificate(our_server, "stranger"))


@pytest.mark.parametrize("login", LOGINS)
def test_wrong_password_is_rejected(our_server: Served, login: str, tmp_path: Path) -> None:
    with pytest.raises(CommandRejected):
        gsasl(our_server, login, "open poppy", tmp_path)
    assert our_server.logins()[-1] == Login(NAME, login, inside_tls=False, accepted=False)


def _scram(make: type[sasl.ScramSha1Client | sasl.ScramSha256Client]) -> Callable[[bytes], sasl.ClientMechanism]:
    return lambda secret: make(authentication_identity=NAME, password=secret, entropy=secrets.token_bytes(16))


def _plus(
    make: type[sasl.ScramSha1PlusClient | sasl.ScramSha256PlusClient], binding: str
) -> Callable[[bytes], sasl.ClientMechanism]:
    return lambda secret: make(
        authentication_identity=NAME, password=secret, entropy=secrets.token_bytes(16),
        channel_binding=binding, binding_data=CHANNEL,
    )  # fmt: skip


CHANNEL = b"thirty-two octets of the channel"
OURS: dict[str, Callable[[bytes], sasl.ClientMechanism]] = {
    "PLAIN": lambda secret: sasl.PlainClient(authentication_identity=NAME, password=secret),
    "LOGIN": lambda secret: sasl.LoginClient(authentication_identity=NAME, password=secret),
    "CRAM-MD5": lambda secret: sasl.CramMd5Client(authentication_identity=NAME, password=secret),
    "SCRAM-SHA-1": _scram(sasl.ScramSha1Client),
    "SCRAM-SHA-256": _scram(sasl.ScramSha256Client),
    "SCRAM-SHA-1-PLUS by tls-exporter": _plus(sasl.ScramSha1PlusClient, "tls-exporter"),
    "SCRAM-SHA-1-PLUS by tls-unique": _plus(sasl.ScramSha1PlusClient, "tls-unique"),
    "SCRAM-SHA-256-PLUS by tls-exporter": _plus(sasl.ScramSha256PlusClient, "tls-exporter"),
    "SCRAM-SHA-256-PLUS by tls-unique": _plus(sasl.ScramSha256PlusClient, "tls-unique"),
}


def trusted(ours: sasl.ClientMechanism, home: Path, channel: bytes = CHANNEL) -> bool:
    """Return whether gsasl, as a server on its standard input and output, accepts the login of *ours*.

    It asks for the *channel* binding of the -PLUS forms.
    """
    words = [program("gsasl"), "--server", "--quiet", "-m", ours.name, "-a", NAME, "-p", PASSWORD]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(home)
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().strip() == ours.name.encode()
        response = ours.respond(None)
        begun = ours.client_first
        asks = ours.name.endswith("-PLUS")
        while line := process.stdout.readline():  # in base64; empty for no data
            challenge = line.rpartition(b": ")[2].strip()  # a prompt may come first
            if not begun or challenge:
                response = ours.respond(sasl.decode_base64(challenge))
                begun = True
            process.stdin.write(sasl.encode_base64(response) + b"\n")
            if asks:
                process.stdin.write(sasl.encode_base64(channel) + b"\n")
                asks = False
            process.stdin.flush()
            if ours.satisfied and not response:
                break  # further data would belong to the application
            response = b""
        process.stdin.close()
        return process.wait(TIMEOUT) == 0


@pytest.mark.parametrize("login", OURS)
def test_our_client_logs_in_to_gsasl(login: str, tmp_path: Path) -> None:
    """With SCRAM the client also verifies that gsasl knows the password."""
    ours = OURS[login](PASSWORD.encode())
    assert trusted(ours, tmp_path)
    assert ours.satisfied


@pytest.mark.parametrize("login", OURS)
def test_our_client_with_a_wrong_password_is_rejected_by_gsasl(login: str, tmp_path: Path) -> None:
    assert not trusted(OURS[login](b"open poppy"), tmp_path)


@pytest.mark.parametrize("login", [login for login in OURS if "-PLUS" in login])
def test_our_client_with_another_channel_binding_is_rejected_by_gsasl(login: str, tmp_path: Path) -> None:
    """RFC 5802 section 6: a man in the middle."""
    ours = OURS[login](PASSWORD.encode())
    assert not trusted(ours, tmp_path, b"another channel")
    assert not ours.satisfied


@pytest.mark.parametrize(
    ("make", "hash_name"), [(sasl.ScramSha1PlusServer, "sha1"), (sasl.ScramSha256PlusServer, "sha256")]
)
@pytest.mark.parametrize("channel", [CHANNEL, b"another channel"], ids=["the same", "another"])
def test_gsasl_logs_in_to_our_plus_mechanism_only_with_the_same_binding(
    make: type[sasl.ScramSha1PlusServer | sasl.ScramSha256PlusServer], hash_name: str, channel: bytes, tmp_path: Path
) -> None:
    """RFC 5802 section 6, RFC 9266: gsasl as a client on its standard input and output, with channel binding."""
    ours = make(
        nonce=secrets.token_hex(8), tls=True, decoy=sasl.ScramDecoy(key=bytes(16)),
        channel_bindings={"tls-exporter": channel},
    )  # fmt: skip
    keys = sasl.scram_keys(PASSWORD.encode(), secrets.token_bytes(16), 4096, hash_name)
    words = [program("gsasl"), "--client", "--quiet", "-m", ours.name, "-a", NAME, "-p", PASSWORD]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(tmp_path)
    ) as process:
        said, heard = process.stdin, process.stdout
        assert said is not None
        assert heard is not None

        def say(data: bytes) -> None:
            said.write(sasl.encode_base64(data) + b"\n")
            said.flush()

        def hear() -> bytes:
            return sasl.decode_base64(heard.readline().rpartition(b": ")[2].strip())

        assert heard.readline().strip() == ours.name.encode()
        say(CHANNEL)
        question = ours.respond(hear())
        assert isinstance(question, sasl.FetchScramKeys)
        assert question.authentication_identity == NAME
        challenge = ours.resolve(keys)
        assert isinstance(challenge, sasl.Challenge)
        say(challenge.data)
        verdict = ours.respond(hear())
        if channel == CHANNEL:
            assert isinstance(verdict, sasl.Success)
            say(verdict.data)
            assert hear() == b""
            said.write(b"\n")  # the success reply of the protocol
        else:
            assert verdict is sasl.Refusal.BAD_CREDENTIALS
        said.close()
        assert (process.wait(TIMEOUT) == 0) == (channel == CHANNEL)
