"""``--relay-to`` and related options: their values, their errors, and relaying between two processes."""

from __future__ import annotations

import smtplib
import socket
import ssl
from pathlib import Path

import attrs
import pytest
import trustme

from mailauth_io import server
from mailauth_io.cli import config, main, relay_option
from mailauth_io.cli.errors import ConfigError
from mailauth_io.cli.parsers import ValueParseError, next_hop
from mailauth_io.cli.settings import RELAY_MECHANISMS
from mailauth_io.server import next_hop as next_hop_module
from tests.serving import LOOPS, messages, run, served

USER = ("--user", "alice:open sesame")
NO_TLS = ("--relay-to", "smtp://u@hop.test", "--relay-password-file", "PASSWORD", "--relay-tls", "none")


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text("hop secret\n")
    return path


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    path = tmp_path / "authority.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


def hop(*words: str | Path) -> server.NextHop:
    """Return the next hop for these command-line arguments."""
    found = relay_option.next_hop(main.settings_of(main.build_parser().parse_args(["serve", *map(str, words)])))
    assert found is not None
    return found


def config_error(*words: str | Path) -> str:
    """Return the error of these command-line arguments, which is one sentence."""
    with pytest.raises(ConfigError) as refused:
        hop(*words)
    text = str(refused.value)
    assert "\n" not in text
    assert ". " not in text
    return text


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("smtp://hop.test", ("hop.test", 25, False, None)),
        ("smtps://hop.test", ("hop.test", 465, True, None)),
        ("smtps://hop.test/", ("hop.test", 465, True, None)),
        ("smtp://hop.test.", ("hop.test.", 25, False, None)),
        ("smtp://192.0.2.1:2525", ("192.0.2.1", 2525, False, None)),
        ("smtp://[2001:db8::1]:587", ("2001:db8::1", 587, False, None)),
        ("smtp://relayuser@hop.test:587", ("hop.test", 587, False, "relayuser")),
        ("smtps://relayuser%40far.test@hop.test", ("hop.test", 465, True, "relayuser@far.test")),
        ("smtps://relayuser@far.test@hop.test", ("hop.test", 465, True, "relayuser@far.test")),
    ],
)
def test_relay_url_gives_host_port_tls_and_user(text: str, fields: tuple[object, ...]) -> None:
    assert attrs.astuple(next_hop(text)) == fields


@pytest.mark.parametrize(
    "text",
    "hop.test hop.test:25 http://hop.test smtp:// smtp://:25 smtp://hop.test:0 smtp://hop.test:65536 smtp://hop.test:x"
    " smtp://hop..test smtp://hop.test.. smtp://. smtp://[hop.test]"
    " smtp://[192.0.2.1] smtp://2001:db8::1 smtp://hop.test/path smtp://hop.test?x"
    " smtp://@hop.test SMTP://hop.test smtp://hop.test\n smtp://h\u00f6p.test smtps://user:secret@hop.test".split(" "),
)
def test_invalid_relay_url_is_rejected_without_quoting_it(text: str) -> None:
    with pytest.raises(
        ValueParseError,
        match=r"^invalid relay URL; use smtp://HOST:PORT or smtps://USER@HOST:PORT, and put the password in a file$",
    ):
        next_hop(text)


def test_password_in_relay_url_is_a_one_line_error_without_it() -> None:
    done = run("serve", *USER, "--relay-to", "smtps://relayuser:secret@hop.test")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stdout + done.stderr


def test_relay_url_and_options_determine_tls_requirement_and_verification(password: Path, authority: Path) -> None:
    login = ("--relay-password-file", password)
    weak = hop("--relay-to", "smtp://hop.test")
    assert weak.ssl_context is not None
    assert (weak.tls_required, weak.ssl_context.verify_mode) == (False, ssl.CERT_NONE)
    assert not weak.needs_tls
    named = hop("--relay-to", "smtp://u@hop.test", *login, "--relay-tls", "opportunistic")
    assert (named.tls_required, named.needs_tls) == (False, True)
    for words in (
        ("--relay-to", "smtps://hop.test"),
        ("--relay-to", "smtp://u@hop.test", *login),
        ("--relay-to", "smtp://hop.test", "--relay-tls", "required"),
        ("--relay-to", "smtp://hop.test", "--relay-ca", authority),
    ):
        strong = hop(*words)
        assert strong.ssl_context is not None
        assert strong.tls_required
        assert strong.ssl_context.verify_mode is ssl.CERT_REQUIRED
        assert strong.ssl_context.check_hostname
        assert strong.ssl_context.minimum_version is ssl.TLSVersion.TLSv1_2
    (trusted,) = ssl.create_default_context(cafile=authority).get_ca_certs()
    private = hop("--relay-to", "smtp://hop.test", "--relay-ca", authority).ssl_context
    assert private is not None
    assert private.get_ca_certs() == [trusted]


def test_plaintext_login_requires_tls_none_and_clear_text_login_option(password: Path) -> None:
    login = ("--relay-to", "smtp://u@hop.test", "--relay-password-file", password)
    for words in ((), ("--relay-tls", "required"), ("--relay-tls", "opportunistic")):
        found = hop(*login, *words)
        assert (found.needs_tls, found.clear_text_login) == (True, False)
        assert "requires a user name in the URL and --relay-tls none" in config_error(
            *login, *words, "--relay-clear-text-login"
        )
    none = hop(*login, "--relay-tls", "none")
    assert (none.ssl_context, none.needs_tls, none.clear_text_login) == (None, False, False)
    both = hop(*login, "--relay-tls", "none", "--relay-clear-text-login")
    assert (both.ssl_context, both.needs_tls, both.clear_text_login) == (None, False, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("smtp://u@hop.test",), "Remote mail is relayed to smtp://hop.test:25."),
        (
            ("smtp://hop.test",),
            "Mail is relayed in clear text if TLS is not available; the certificate is not verified.",
        ),
        (("smtp://hop.test", "--relay-tls", "none"), "Remote mail is relayed in clear text, without TLS."),
        (("smtp://u@hop.test", "--relay-tls", "none"), "The login to the relay uses SCRAM, without TLS."),
        (
            ("smtp://u@hop.test", "--relay-tls", "none", "--relay-clear-text-login"),
            "The login to the relay sends the password in clear text.",
        ),
        (
            ("smtp://u@hop.test", "--relay-tls", "opportunistic"),
            "Mail and password are sent to the relay over TLS, but its certificate is not verified.",
        ),
    ],
)
def test_startup_warnings_describe_the_security_of_the_relay(words: tuple[str, ...], says: str, password: Path) -> None:
    more = ("--relay-password-file", str(password)) if "@" in words[0] else ()
    told = relay_option.warnings(
        main.settings_of(main.build_parser().parse_args(["serve", "--relay-to", *words, *more]))
    )
    assert told[-1] == says


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("smtp://mail.test:2525", True),
        ("smtp://MAIL.test.:2525", True),
        ("smtp://mail.test:2526", False),
        ("smtp://other.test:2525", False),
    ],
)
def test_relay_with_the_name_of_the_server_is_a_warning(url: str, warned: bool) -> None:
    words = ("serve", "--relay-to", url, "--domain", "mail.test", "--smtp", "2525")
    told = relay_option.warnings(main.settings_of(main.build_parser().parse_args(words)))
    assert any("if it is this server, remote mail gets 451" in line for line in told) == warned


def test_relay_sessions_are_limited(tmp_path: Path) -> None:
    assert hop("--relay-to", "smtp://hop.test").max_sessions == 20
    assert hop("--relay-to", "smtp://hop.test", "--relay-sessions", "3").max_sessions == 3
    path = tmp_path / "mailauth.toml"
    path.write_text('[relay]\nto = "smtp://hop.test"\nsessions = 5\n')
    assert hop("--config", path).max_sessions == 5
    refused = run("serve", *USER, "--relay-to", "smtp://hop.test", "--relay-sessions", "0")
    assert refused.returncode == 2
    assert "--relay-sessions" in refused.stderr


def test_relay_password_is_read_from_file_without_line_end(password: Path) -> None:
    assert hop("--relay-to", "smtps://relayuser@hop.test", "--relay-password-file", password).login == server.Login(
        name="relayuser", password=b"hop secret"
    )


def test_relay_mechanism_is_one_of_the_known_ones(password: Path, tmp_path: Path) -> None:
    login = ("--relay-to", "smtps://u@hop.test", "--relay-password-file", password)
    assert hop(*login).mechanism is None
    assert RELAY_MECHANISMS == next_hop_module.MECHANISMS
    for name in RELAY_MECHANISMS:
        assert hop(*login, "--relay-mechanism", name).mechanism == name
    path = tmp_path / "mailauth.toml"
    path.write_text('[relay]\nto = "smtps://u@hop.test"\npassword_file = "password"\nmechanism = "LOGIN"\n')
    assert hop("--config", path).mechanism == "LOGIN"
    refused = run("serve", *USER, *map(str, login), "--relay-mechanism", "APOP")
    assert refused.returncode == 2
    assert "use one of SCRAM-SHA-256-PLUS, " in refused.stderr


def test_strict_applies_to_the_relay(tmp_path: Path) -> None:
    assert not hop("--relay-to", "smtp://hop.test").strict_syntax
    assert hop("--relay-to", "smtp://hop.test", "--strict").strict_syntax
    path = tmp_path / "mailauth.toml"
    path.write_text('[relay]\nto = "smtp://hop.test"\n[server]\nstrict = true\n')
    assert hop("--config", path).strict_syntax


def test_relay_password_that_only_other_mechanisms_can_send_is_an_error(password: Path) -> None:
    password.write_bytes(b"gr\xfcn\n")
    login = ("--relay-password-file", password, "--relay-to")
    assert hop(*login, "smtps://u@hop.test").login == server.Login(name="u", password=b"gr\xfcn")
    for words in (("smtp://u@hop.test", "--relay-tls", "none"), ("smtps://u@hop.test", "--relay-mechanism", "PLAIN")):
        said = config_error(*login, *words)
        assert said.startswith("--relay-password-file: ")
        assert "cannot send this user name and password" in said


@pytest.mark.parametrize(
    ("data", "mode", "says"),
    [
        (b"", 0o600, "is empty; write the password to it"),
        (b"\n", 0o600, "is empty; write the password to it"),
        (b"one\ntwo\n", 0o600, "has more than one line"),
        (b"one\rtwo", 0o600, "has more than one line"),
        (b"\0\n", 0o600, "must"),
        (b"hop secret\n", 0o644, "chmod 600"),
        (None, 0o600, "No such file"),
    ],
)
def test_invalid_relay_password_file_is_an_error_without_the_password(
    data: bytes | None, mode: int, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "secret"
    if data is not None:
        path.write_bytes(data)
        path.chmod(mode)
    said = config_error("--relay-to", "smtps://relayuser@hop.test", "--relay-password-file", path)
    assert said.startswith("--relay-password-file: ")
    assert says in said
    assert "hop secret" not in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--relay-to", "smtp://hop.test", "--outbox", "OUT"), "remove one of --relay-to and --outbox"),
        (("--relay-to", "smtp://localhost:2525", "--smtp", "2525"), "this server itself"),
        (("--relay-to", "smtp://localhost.:2525", "--smtp", "2525"), "this server itself"),
        (("--relay-to", "smtp://LOCALHOST:2525", "--host", "::1", "--smtp", "2525"), "this server itself"),
        (("--relay-to", "smtp://localhost:2525", "--host", "0.0.0.0", "--smtp", "2525"), "this server itself"),
        (("--relay-to", "smtp://127.0.0.2:2525", "--host", "0.0.0.0", "--smtp", "2525"), "this server itself"),
        (("--relay-to", "smtp://0.0.0.0:2525", "--host", "0.0.0.0", "--smtp", "2525"), "this server itself"),
        (("--relay-to", "smtps://[::1]:465", "--host", "::", "--smtps", "465"), "this server itself"),
        (("--relay-to", "smtps://[0::1]:465", "--host", "::1", "--smtps", "465"), "this server itself"),
        (("--relay-to", "smtps://relayuser@hop.test"), "must be set together"),
        (("--relay-to", "smtps://hop.test", "--relay-password-file", "PASSWORD"), "must be set together"),
        (("--relay-password-file", "PASSWORD"), "requires --relay-to"),
        (("--relay-ca", "CA"), "requires --relay-to"),
        (("--relay-tls", "required"), "requires --relay-to"),
        (("--relay-to", "smtps://hop.test", "--relay-tls", "opportunistic"), "smtps:// always uses TLS"),
        (("--relay-to", "smtps://hop.test", "--relay-tls", "none"), "smtps:// always uses TLS"),
        (("--relay-to", "smtp://hop.test", "--relay-ca", "CA", "--relay-tls", "none"), "must be required"),
        (("--relay-clear-text-login",), "requires --relay-to"),
        (("--relay-mechanism", "PLAIN"), "requires --relay-to"),
        (("--relay-to", "smtps://hop.test", "--relay-mechanism", "PLAIN"), "requires a user name"),
        ((*NO_TLS, "--relay-mechanism", "PLAIN"), "PLAIN without TLS requires --relay-clear-text-login"),
        ((*NO_TLS, "--relay-mechanism", "CRAM-MD5"), "CRAM-MD5 without TLS requires --relay-clear-text-login"),
        ((*NO_TLS, "--relay-mechanism", "SCRAM-SHA-1-PLUS"), "SCRAM-SHA-1-PLUS requires TLS; use SCRAM-SHA-1"),
        (("--relay-to", "smtp://hop.test", "--relay-tls", "none", "--relay-clear-text-login"), "requires a user name"),
        (
            ("--relay-to", "smtps://u@hop.test", "--relay-clear-text-login"),
            "requires a user name in the URL and --relay-tls none",
        ),
        (("--relay-to", "smtp://hop.test", "--relay-ca", "CA", "--relay-tls", "opportunistic"), "must be required"),
        (("--relay-to", "smtp://hop.test", "--relay-ca", "MISSING"), "No such file"),
        (("--relay-to", "smtp://hop.test", "--relay-ca", "PASSWORD"), "no certificates in PEM"),
    ],
)
def test_conflicting_or_incomplete_relay_options_are_rejected(
    words: tuple[str, ...], says: str, tmp_path: Path, password: Path, authority: Path
) -> None:
    places = {"OUT": tmp_path / "out", "PASSWORD": password, "CA": authority, "MISSING": tmp_path / "missing"}
    assert says in config_error(*(places.get(word, word) for word in words))
    assert not (tmp_path / "out").exists()


def test_relay_settings_in_a_file_are_read_and_errors_give_line_and_key(tmp_path: Path, password: Path) -> None:
    path = tmp_path / "mailauth.toml"
    path.write_text('[relay]\nto = "smtps://relayuser@hop.test"\npassword_file = "password"\nca = "missing"\n')
    assert f"{path}:4: [relay] ca:" in run("check-config", str(path)).stdout
    path.write_text('[relay]\nto = "smtps://relayuser@hop.test"\npassword_file = "password"\n')
    assert hop("--config", path).login == server.Login(name="relayuser", password=b"hop secret")


def test_relay_to_another_server_on_this_host_is_accepted() -> None:
    for words in (
        ("--smtp", "2526"),
        ("--smtp", "2525", "--host", "192.0.2.1"),
        ("--smtp", "2525", "--host", "127.0.0.2"),
        ("--smtp", "2525", "--host", "::"),
        ("--pop3", "2525"),
    ):
        assert hop("--relay-to", "smtp://127.0.0.1:2525", *words).port == 2525


@pytest.mark.parametrize("loop", LOOPS)
def test_server_relays_to_another_and_replies_451_if_it_is_unavailable(loop: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    password, ca, maildir = tmp_path / "secret", second / "ca.pem", second / "mail"
    password.touch(mode=0o600)
    password.write_text("hop secret\n")
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    words = ("--loop", loop, *USER, "--legacy", "--relay-to", f"smtps://relayuser@localhost:{port}")

    def submit(smtp: int, *recipients: str) -> dict[str, tuple[int, bytes]]:
        with smtplib.SMTP("127.0.0.1", smtp, "client.test", timeout=20) as client:
            client.login("alice", "open sesame")
            return client.sendmail("alice@example.test", [*recipients], b"Subject: far\r\n\r\nbody\r\n")

    with bound:
        ca.write_bytes(trustme.CA().cert_pem.bytes())
        with served(first, *words, "--relay-password-file", str(password), "--relay-ca", str(ca)) as near:
            assert any("is not available" in line for line in near.said)
            with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
                submit(near.port("smtp"), "dinah@far.test")
            assert refused.value.recipients["dinah@far.test"][0] == 451
            assert "hop secret" not in near.log.read_text()

    far_words = (
        "--domain",
        "far.test",
        "--user",
        "relayuser:hop secret",
        "--user",
        "dinah:x",
        "--maildir",
        str(maildir),
    )
    with served(second, "--loop", loop, *far_words, "--ca-out", str(ca)) as far:
        to = f"smtps://relayuser@localhost:{far.port('smtps')}"
        more = ("--relay-to", to, "--relay-password-file", str(password), "--relay-ca", str(ca))
        with served(first, "--loop", loop, *USER, "--legacy", *more) as near:
            assert not any("is not available" in line for line in near.said)
            assert any(f"Remote mail is relayed to smtps://localhost:{far.port('smtps')}" in line for line in near.said)
            assert set(submit(near.port("smtp"), "dinah@far.test", "nobody@far.test")) == {"nobody@far.test"}
            assert "hop secret" not in near.log.read_text()
        assert len(messages(maildir / "dinah")) == 1


RELAY = '[relay]\nto = "smtp://hop.test"\n'


@pytest.mark.parametrize(
    ("mail", "warned"),
    [("", True), ('maildir = "drops"\n', False), ("local_delivery = false\n", False)],
    ids=["memory", "maildir", "relay only"],
)
def test_relaying_with_local_mail_in_memory_is_a_warning(
    mail: str, warned: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The mail is accepted, and lost when the server stops."""
    path = tmp_path / "mailauth.toml"
    path.write_text(f"{RELAY}[mail]\n{mail}")
    assert main.main(["check-config", str(path)]) == 0
    text = (
        "Mail for example.test and postmaster is not relayed: it is kept in memory and lost at exit. "
        "Set [mail] maildir, or turn off [mail] local_delivery to relay it."
    )
    assert capfd.readouterr().out == (f"{path}: warning: {text}\n" if warned else "") + f"{path}: OK\n"
    made = config.read(main.settings_of(main.build_parser().parse_args(["serve", "--config", str(path)])))
    assert (text in made.warnings) == warned
    assert made.config.local_delivery == (mail != "local_delivery = false\n")


def test_nothing_is_said_about_local_mail_in_memory_without_a_relay(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mailauth.toml"
    path.write_text("")
    assert main.main(["check-config", str(path)]) == 0
    assert capfd.readouterr().out == f"{path}: OK\n"


def test_postmaster_cannot_be_set_without_local_delivery(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without it, the first account is not the postmaster either."""
    path = tmp_path / "mailauth.toml"
    path.write_text('[mail]\nlocal_delivery = false\npostmaster = "alice"\n')
    words = ["serve", "--config", str(path), *USER]
    with pytest.raises(ConfigError, match=r"3: \[mail\] postmaster: cannot be set without \[mail\] local_delivery"):
        config.read(main.settings_of(main.build_parser().parse_args(words)))
    path.write_text("[mail]\nlocal_delivery = false\n")
    assert config.read(main.settings_of(main.build_parser().parse_args(words))).config.postmaster is None
