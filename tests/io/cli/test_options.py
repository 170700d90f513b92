"""Invalid arguments end the command with one sentence on standard error and exit status 2."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import ssl
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import trustme

from mailauth_io import server, stores
from mailauth_io.adapters.tls import certificates
from mailauth_io.cli import config, main, serve
from mailauth_io.cli.errors import ConfigError
from mailauth_io.cli.settings import OPTIONS
from mailauth_io.server import Authenticator
from mailauth_io.server._state import ServerState
from tests import serving
from tests.io import file_calls, loops
from tests.io.config_errors import config_error
from tests.io.server_support import Clock

USER = ("--user", "alice:open sesame")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def read(*options: str) -> config.ServerSetup:
    """Return the setup for these options of ``mailauth serve``, without starting a process."""
    return config.read(main.settings_of(main.build_parser().parse_args(["serve", *options])))


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> object:
    """Restore umask, signal handlers and logging, which ``serve`` sets for the process, here that of the tests."""
    import signal

    for name in ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    mask = os.umask(0o077)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    os.umask(mask)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "serve, send, fetch, check-config, grants, policy-service, passwd or methods"),
        (("server",), "invalid choice"),
        (("--verbose",), "--verbose"),
        (("serve", "--verbose"), "--verbose"),
        (("serve", "extra"), "extra"),
        (("serve", "--smt", "25"), "--smt"),
        (("serve", "--smtp"), "--smtp"),
        (("serve", "--smtp", "x"), "invalid port"),
        (("serve", "--smtp", "-1"), "invalid port"),
        (("serve", "--smtp", "\u0662\u0665"), "invalid port"),
        (("serve", "--smtps", "65536"), "invalid port"),
        (("serve", "--pop3", "1.5"), "invalid port"),
        (("serve", "--pop3s", ""), "invalid port"),
        (("serve", "--smtp", "2525", "--pop3s", "2525"), "--pop3s: 2525 is also the port of --smtp; use another port"),
        (("serve", "--host", "mail.example.test"), "invalid IP address"),
        (("serve", "--host", "127.0.0.1:25"), "invalid IP address"),
        (("serve", "--domain", "example..test"), "invalid domain"),
        (("serve", "--domain", ""), "invalid domain"),
        (("serve", "--domain", "b\u00fccher.test"), "A-label"),
        (("serve", "--user", "alice"), "NAME:PASSWORD"),
        (("serve", "--token", "t0ken"), "NAME:TOKEN"),
        (("serve", "--token", "alice:t0 ken"), "NAME:TOKEN"),
        (("serve", "--failure-delay", "2.5"), "use 0 to 2"),
        (("serve", "--failure-delay", "nan"), "invalid number of seconds"),
        (("serve", "--client-name", "a@x=alice"), "KIND:NAME=ACCOUNT"),
        (("serve", "--client-name", "email:a@x"), "KIND:NAME=ACCOUNT"),
        (("serve", "--client-name", "IP:192.0.2.1=alice"), "email, DNS, CN"),
        (("serve", "--max-message", "many"), "size in bytes"),
        (("serve", "--max-message", "0"), "size in bytes"),
        (("serve", "--max-message", "65535"), "size in bytes"),
        (("serve", "--grant-lifetime", "-1"), "seconds"),
        (("serve", "--grant-lifetime", "inf"), "seconds"),
        (("serve", "--grant-lifetime", "31536001"), "use 0 to 31536000"),
        (("serve", "--grant-lifetime", "1" + "0" * 400), "seconds"),
        (("grants", "list", "--grant-lifetime", "1e9"), "use 0 to 31536000"),
        (("serve", "--grant-lifetime", "soon"), "seconds"),
        (("serve", "--grant-ipv6-prefix", "129"), "prefix"),
        (("serve", "--grant-ipv6-prefix", "0"), "prefix"),
        (("serve", "--loop", "curio"), "asyncio"),
        (("serve", "--config", ""), "argument --config: invalid path: ''"),
        (("grants", "list", "--config", ""), "argument --config: invalid path: ''"),
        (("check-config", ""), "argument FILE: invalid path: ''"),
        (("serve", "--ready-file", ""), "argument --ready-file: invalid path: ''"),
        (("serve", "--grants", "sqlite:"), "argument --grants: invalid path: ''"),
        (("methods", "--loop", "curio"), "asyncio"),
        (("methods", "--xml"), "--xml"),
    ],
)
def test_invalid_argument_is_reported_in_one_line(
    arguments: tuple[str, ...], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert says in config_error(capfd, *arguments)


@pytest.mark.parametrize(
    ("users", "says"),
    [
        (("alice:",), "no password"),
        ((":secret",), "not a valid mailbox name"),
        (("../alice:secret",), "not a valid mailbox name"),
        (("al ice:secret",), "not a valid mailbox name"),
        ((f"{'a' * 65}:secret",), "not a valid mailbox name"),
        (("alice@elsewhere.test:secret",), "not a valid mailbox name"),
        (("alice:one", "ALICE:two"), "same mailbox"),
        (("alice:one", "alice@example.test:two"), "same mailbox"),
    ],
)
def test_invalid_account_is_reported_without_its_password(
    users: tuple[str, ...], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said = config_error(capfd, "serve", *(word for user in users for word in ("--user", user)))
    assert says in said
    assert "secret" not in said
    assert "two" not in said


def test_user_without_a_colon_is_not_quoted_in_the_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert "sesame" not in config_error(capfd, "serve", "--user", "sesame")


def test_user_splits_at_the_first_colon_and_keeps_blanks() -> None:
    options = main.build_parser().parse_args(["serve", "--user", "alice: open:sesame "])
    assert main.settings_of(options).users == (("alice", b" open:sesame "),)


def test_file_of_the_decoy_key_is_created_once_and_then_read(tmp_path: Path) -> None:
    path, accounts = tmp_path / "decoy-key", tmp_path / "accounts"
    accounts.touch(mode=0o600)
    accounts.write_text(f"alice:{stores.write_credential('SCRAM-SHA-256', b'open sesame')}\n")
    options = ("--accounts", str(accounts))
    without = read(*options)
    assert without.stores.decoy_key is None
    assert [warning for warning in without.warnings if "--decoy-key" in warning]
    setups = [read(*options, "--decoy-key", str(path)) for _ in range(2)]
    keys = {setup.stores.decoy_key for setup in setups}
    assert keys == {path.read_bytes().removesuffix(b"\n")}
    assert [len(key) for key in keys if key is not None] == [64]
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.iterdir()) == [accounts, path]  # no temporary file is left
    assert not [warning for setup in setups for warning in setup.warnings if "decoy" in warning]


def test_processes_that_start_together_get_one_decoy_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "decoy-key"
    real = os.link

    def link(source: str, target: Path) -> None:
        monkeypatch.setattr(os, "link", real)
        found.append(read(*USER, "--decoy-key", str(path)).stores.decoy_key)  # another process comes first
        real(source, target)

    found: list[bytes | None] = []
    monkeypatch.setattr(os, "link", link)
    found.append(read(*USER, "--decoy-key", str(path)).stores.decoy_key)
    assert found[0] == found[1] == path.read_bytes().removesuffix(b"\n")


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"secret\n", 0o600, "is too short for a key; remove the file"),
        (b"", 0o600, "is empty"),
        (b"k" * 64, 0o644, "is accessible to other users; run: chmod 600"),
        (None, 0o600, "is not a writable directory"),
    ],
)
def test_invalid_decoy_key(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes | None, mode: int, says: str
) -> None:
    path = tmp_path / "none" / "key"
    if content is not None:
        path.parent.mkdir()
        path.touch(mode)
        path.write_bytes(content)
        path.chmod(mode)
    toml = tmp_path / "mailauth.toml"
    toml.touch(mode=0o600)
    toml.write_text(f'[accounts]\nusers = ["alice:open sesame"]\ndecoy_key = "{path}"\n')
    assert main.main(["check-config", str(toml)]) == 2
    assert f":3: [accounts] decoy_key: {path} {'cannot be created: ' * (content is None)}" in (
        said := capfd.readouterr().out
    )
    assert says in said
    said = config_error(capfd, "serve", *USER, "--decoy-key", str(path))
    assert said.startswith(f"mailauth serve: --decoy-key: {path} ")


def test_postmaster_must_be_an_account(capfd: pytest.CaptureFixture[str]) -> None:
    assert "unknown account: 'bob'" in config_error(capfd, "serve", *USER, "--postmaster", "bob")


def test_warning_about_secrets_on_the_command_line(tmp_path: Path) -> None:
    """Other users can see them in the list of processes.  In a file they cannot, so there is no warning."""

    def warned(*options: str) -> list[str]:
        return [line for line in read(*options).warnings if "on the command line" in line]

    users = (*USER, "--user", "bob:x")
    (warning,) = warned(*users)
    assert "--accounts" in warning
    assert "[accounts] users" in warning
    (_, warning) = warned(*USER, "--token", "alice:t0ken")
    assert "[accounts] tokens" in warning
    toml = tmp_path / "mailauth.toml"
    toml.touch(mode=0o600)
    toml.write_text('[accounts]\nusers = ["alice:open sesame"]\ntokens = ["alice:t0ken"]\n')
    assert not warned("--config", str(toml))
    assert len(warned("--config", str(toml), *USER)) == 1
    assert not any("sesame" in warning or "t0ken" in warning for warning in read(*USER).warnings)


def test_postmaster_setting_has_no_effect_beside_an_account_of_this_name() -> None:
    users = ("--user", "alice:x", "--user", "postmaster:y")
    says = "--postmaster has no effect: the account postmaster receives this mail."
    assert says in read(*users, "--postmaster", "alice").warnings
    for options in ((), ("--postmaster", "Postmaster@example.test")):
        assert says not in read(*users, *options).warnings


def test_postmaster_is_the_first_account_unless_named() -> None:
    users = (*USER, "--user", "bob:open poppy")
    assert read(*users).config.postmaster == "alice"
    assert read(*users, "--postmaster", "BOB@example.test").config.postmaster == "bob"


def test_all_four_ports_are_the_default_and_given_ports_replace_them() -> None:
    all_four, some = read(*USER).config, read(*USER, "--smtp", "0", "--pop3s", "9950").config
    assert (all_four.smtp, all_four.smtps, all_four.pop3, all_four.pop3s) == (0, 0, 0, 0)
    assert (some.smtp, some.smtps, some.pop3, some.pop3s) == (0, None, None, 9950)


def test_unset_options_have_their_default_values() -> None:
    serving_ = read(*USER)
    settings = serving_.config
    assert (settings.hosts, settings.domains) == (("127.0.0.1",), ("example.test",))
    assert (settings.max_message_size, settings.legacy) == (26_214_400, False)
    assert (settings.grant_lifetime, settings.grant_ipv6_prefix) == (1800, 128)
    assert serving_.loop == "asyncio"


def test_hosts_domains_and_limits_are_set_in_the_config() -> None:
    options = (
        "--host 127.0.0.1 --host ::1 --domain A.test --domain b.test --max-message 70000 --grant-lifetime 0 --legacy"
    )
    settings = read(*USER, *options.split()).config
    assert (settings.hosts, settings.domains) == (("127.0.0.1", "::1"), ("a.test", "b.test"))
    assert (settings.max_message_size, settings.grant_lifetime, settings.legacy) == (70_000, 0, True)


def accounts_file(directory: Path, text: str = "alice:{PLAIN}open sesame\n", mode: int = 0o600) -> str:
    path = directory / "accounts"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_accounts_file_and_user_option_can_be_combined(tmp_path: Path) -> None:
    setup = read("--user", "bob:open poppy", "--accounts", accounts_file(tmp_path))
    assert setup.config.postmaster == "bob"
    accounts = Authenticator(setup.stores.accounts)

    async def main() -> None:
        assert await accounts.check_password("alice", b"open sesame")
        assert await accounts.check_password("bob", b"open poppy")
        assert not await accounts.check_password("bob", b"open sesame")

    loops.named("asyncio").run(main)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602])
def test_accounts_file_accessible_to_other_users_is_rejected(
    mode: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "accessible to other users" in config_error(capfd, "serve", "--accounts", accounts_file(tmp_path, mode=mode))


def test_missing_accounts_file_is_rejected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "No such file" in config_error(capfd, "serve", "--accounts", str(tmp_path / "none"))


def test_directory_as_accounts_file_is_rejected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path) in config_error(capfd, "serve", "--accounts", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sesame\n", "no colon"),
        ("alice:open sesame\n", "no password scheme"),
        ("alice:{SSHA}c2VzYW1l\n", "an unknown password scheme"),
        ("alice:{ARGON2ID}sesame\n", "an invalid"),
        ("alice:{PLAIN}\n", "no password"),
    ],
)
def test_invalid_accounts_file_is_rejected_without_showing_secrets(
    text: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = accounts_file(tmp_path, text)
    said = config_error(capfd, "serve", "--accounts", path)
    assert f"--accounts: line 1 of {path} has {says}" in said
    assert "sesame" not in said
    assert "c2VzYW1l" not in said


def test_account_in_both_the_file_and_an_option_is_rejected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "same mailbox" in config_error(capfd, "serve", *USER, "--accounts", accounts_file(tmp_path))


@pytest.fixture
def pair(authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key, as files."""
    made = authority.issue_cert("localhost")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made.cert_chain_pems[0].write_to_path(str(certificate))
    key.touch(mode=0o600)
    key.write_bytes(made.private_key_pem.bytes())
    return certificate, key


def test_certificate_with_its_key_is_accepted(pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    context = read(*USER, "--cert", str(certificate), "--key", str(key)).config.ssl_context
    assert context is not None


@pytest.mark.parametrize("option", ["--cert", "--key"])
def test_certificate_and_key_must_be_set_together(
    option: str, pair: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert "together" in config_error(capfd, "serve", *USER, option, str(pair[0]))


def test_key_that_others_can_read_is_rejected(pair: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    certificate, key = pair
    key.chmod(0o644)
    said = config_error(capfd, "serve", *USER, "--cert", str(certificate), "--key", str(key))
    assert f"{key} is accessible to other users" in said


@pytest.mark.parametrize("missing", [0, 1])
def test_missing_certificate_or_key_is_rejected(
    missing: int, pair: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    pair[missing].unlink()
    said = config_error(capfd, "serve", *USER, "--cert", str(pair[0]), "--key", str(pair[1]))
    assert str(pair[missing]) in said


def test_key_that_does_not_match_the_certificate_is_rejected(
    pair: tuple[Path, Path], authority: trustme.CA, capfd: pytest.CaptureFixture[str]
) -> None:
    certificate, key = pair
    key.write_bytes(authority.issue_cert("localhost").private_key_pem.bytes())
    assert "does not match" in config_error(capfd, "serve", *USER, "--cert", str(certificate), "--key", str(key))


def test_invalid_certificate_file_is_rejected(pair: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    certificate, key = pair
    certificate.write_text("certificate")
    assert "PEM" in config_error(capfd, "serve", *USER, "--cert", str(certificate), "--key", str(key))


def test_ca_out_with_a_configured_certificate_is_rejected(
    pair: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("--cert", str(pair[0]), "--key", str(pair[1]), "--ca-out", str(tmp_path / "authority"))
    assert "--ca-out" in config_error(capfd, "serve", *USER, *words)


@pytest.mark.parametrize("option", ["--ca-out", "--ready-file", "--maildir", "--outbox"])
def test_unwritable_path_is_rejected(option: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert option in config_error(capfd, "serve", *USER, option, str(tmp_path / "file" / "below"))


@pytest.mark.parametrize("kind", ["pipe", "link", "dangling link", "socket", "directory", "link to a directory"])
@pytest.mark.parametrize("option", ["--ready-file", "--ca-out"])
def test_an_output_file_that_is_not_a_regular_file_is_refused_and_kept(
    option: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is replaced, and a root process would replace even a device such as /dev/null."""
    directory, target = tmp_path / "directory", tmp_path / "target"
    directory.mkdir()
    path = directory / "ready"
    monkeypatch.chdir(directory)  # the path of a socket has at most 107 bytes
    with contextlib.ExitStack() as stack:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(path.name)
        elif kind == "directory":
            path.mkdir()
        else:
            path.symlink_to(target)
            if kind == "link":
                target.write_text("target")
            elif kind == "link to a directory":
                target.mkdir()
        before = path.lstat()
        with pytest.raises(ConfigError, match=f"^{option}: {path} [^\n]*$"):
            read(*USER, "--smtp", "0", option, str(path))
    assert os.path.samestat(path.lstat(), before)
    assert path.lstat().st_mtime_ns == before.st_mtime_ns
    assert os.listdir(directory) == ["ready"]


@pytest.mark.parametrize("option", ["--ready-file", "--ca-out"])
def test_an_output_file_that_cannot_be_replaced_leaves_no_temporary_file(
    option: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    file_calls.before(monkeypatch, "rename", refuse)
    path = tmp_path / "file"
    said = config_error(capfd, "serve", *USER, "--smtp", "0", option, str(path))
    assert said == f"mailauth serve: {option}: {path} cannot be written: Operation not permitted\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("loop", serving.LOOPS)
def test_a_ready_file_of_another_user_is_named(
    loop: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a directory such as /tmp, only its owner can remove it."""

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "unlink", refuse)
    path = tmp_path / "ready"
    path.touch()
    said = config_error(capfd, "serve", *USER, "--loop", loop, "--smtp", "0", "--ready-file", str(path))
    assert said == f"mailauth serve: --ready-file: {path} cannot be written: Operation not permitted\n"


def test_ready_file_write_error_names_the_configuration_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file, the error begins with line and key, not with the flag."""

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(serve, "replace_file", full)
    file = tmp_path / "mailauth.toml"
    file.write_text('[process]\nready_file = "ready"\n')
    reason = f"{tmp_path / 'ready'} cannot be written: No space left on device"
    said = config_error(capfd, "serve", *USER, "--smtp", "0", "--config", str(file))
    assert said == f"mailauth serve: {file}:2: [process] ready_file: {reason}\n"


def test_maildir_that_is_a_file_is_rejected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert "--maildir" in config_error(capfd, "serve", *USER, "--maildir", str(tmp_path / "file"))


@pytest.mark.parametrize("loop", serving.LOOPS)
@pytest.mark.parametrize("name", ["smtp", "smtps", "pop3", "pop3s"])
def test_port_in_use_is_rejected(loop: str, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        free = [word for port_name in ("smtp", "pop3") if port_name != name for word in (f"--{port_name}", "0")]
        said = config_error(capfd, "serve", *USER, "--loop", loop, *free, f"--{name}", str(port))
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in said


@pytest.mark.parametrize("loop", serving.LOOPS)
def test_address_of_another_host_is_rejected(loop: str, capfd: pytest.CaptureFixture[str]) -> None:
    """RFC 5737: 192.0.2.0/24 is reserved for documentation."""
    said = config_error(capfd, "serve", *USER, "--loop", loop, "--host", "192.0.2.1", "--smtp", "0")
    assert "cannot listen on 192.0.2.1 port 0: " in said


def test_missing_trustme_error_names_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:

    monkeypatch.setitem(sys.modules, "trustme", None)
    assert "mailauth[trial]" in config_error(capfd, "serve", *USER)
    assert "mailauth[trial]" in config_error(capfd, "methods", "--loop", "asyncio")


def test_missing_trio_error_names_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:

    monkeypatch.setitem(sys.modules, "trio", None)
    assert "mailauth[trio]" in config_error(capfd, "serve", *USER, "--loop", "trio")
    assert "mailauth[trio]" in config_error(capfd, "methods")


def test_warnings_report_data_in_memory_and_weak_logins(tmp_path: Path) -> None:
    everything = " ".join(read(*USER).warnings)
    assert "maildrops, outbox, grants" in everything
    assert "Logins without TLS are not allowed." in everything
    kept = " ".join(read(*USER, "--legacy", "--maildir", str(tmp_path / "m"), "--outbox", str(tmp_path / "o")).warnings)
    assert "Not persistent (in memory only): grants." in kept
    for method in ("USER", "APOP", "PLAIN", "LOGIN", "CRAM-MD5"):
        assert method in kept
    off = " ".join(read(*USER, "--grant-lifetime", "0").warnings)
    assert "Grants are disabled" in off
    assert "maildrops, outbox." in off
    no_accounts = "No accounts, so there are no mailboxes, and no login is possible"
    assert f"{no_accounts}: set --user or --accounts." in read().warnings
    (tmp_path / "permitting.py").write_text("def permit(view, question): ...\n")
    (tmp_path / "mailauth.toml").write_text('[server]\ninterceptors = ["permitting:permit"]\n')
    intercepted = read("--config", str(tmp_path / "mailauth.toml"))
    assert f"{no_accounts} unless an interceptor accepts it: set " in " ".join(intercepted.warnings)


def test_mechanisms_limit_the_offer_and_the_warnings() -> None:
    assert read(*USER).config.mechanisms == server.MECHANISMS == OPTIONS["mechanisms"].default
    some = read(*USER, "--legacy", "--mechanism", "PLAIN", "--mechanism", "USER")
    assert some.config.mechanisms == ("PLAIN", "USER")
    assert "Logins without TLS are allowed: USER, PLAIN." in some.warnings
    assert not [warning for warning in some.warnings if "SCRAM" in warning or "CRAM-MD5" in warning]
    assert (
        "--legacy has no effect: without TLS, none of the mechanisms (XOAUTH2) works with every account."
        in read(*USER, "--legacy", "--mechanism", "XOAUTH2").warnings
    )


def test_legacy_with_a_mechanism_that_no_account_supports_has_no_effect(tmp_path: Path) -> None:
    path = accounts_file(tmp_path, f"alice:{stores.write_credential('SCRAM-SHA-256', b'open sesame')}\n")
    warnings = read("--accounts", path, "--legacy", "--mechanism", "CRAM-MD5").warnings
    assert (
        "--legacy has no effect: without TLS, none of the mechanisms (CRAM-MD5) works with every account." in warnings
    )
    assert not [warning for warning in warnings if warning.startswith("Logins without TLS")]


@pytest.mark.parametrize(
    ("mechanism", "scheme", "listen", "possible"),
    [
        ("CRAM-MD5", "SHA512-CRYPT", "", False),
        ("SCRAM-SHA-256", "SHA512-CRYPT", "", False),
        ("SCRAM-SHA-1", "SCRAM-SHA-256", "", False),
        ("XOAUTH2", "PLAIN", "", False),
        ("USER", "PLAIN", "smtp = 25", False),
        ("USER", "PLAIN", "smtp = 25\npop3 = 110", True),
        ("USER", "PLAIN", "", True),
        ("SCRAM-SHA-256", "SCRAM-SHA-256", "", True),
        ("CRAM-MD5", "PLAIN", "", True),
        ("PLAIN", "SHA512-CRYPT", "", True),
    ],
)
def test_check_config_reports_mechanisms_that_let_nobody_log_in(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], mechanism: str, scheme: str, listen: str, possible: bool
) -> None:
    accounts_file(tmp_path, f"alice:{stores.write_credential(scheme, b'open sesame')}\n")
    path = tmp_path / "mailauth.toml"
    path.write_text(f'[accounts]\nfile = "accounts"\nmechanisms = ["{mechanism}"]\n[listen]\n{listen}\n')
    status = main.main(["check-config", str(path)])
    reported = (
        f"{path}:3: [accounts] mechanisms: No login is possible: none of the mechanisms ({mechanism}) is supported by "
        "every account and by the protocols of the ports; add PLAIN, which works with every stored password\n"
    )
    assert (status, capfd.readouterr().out) == ((0, f"{path}: OK\n") if possible else (2, reported))


def test_tokens_let_accounts_log_in(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mailauth.toml"
    path.write_text('[accounts]\nusers = ["a:b"]\ntokens = ["a:t"]\nmechanisms = ["XOAUTH2"]\n')
    path.chmod(0o600)
    assert (main.main(["check-config", str(path)]), capfd.readouterr().out) == (0, f"{path}: OK\n")


def test_unknown_mechanism_is_rejected(capfd: pytest.CaptureFixture[str]) -> None:
    assert "argument --mechanism: invalid value: 'plain'; use one of PLAIN, LOGIN" in config_error(
        capfd, "serve", "--mechanism", "plain"
    )
    expected = "unknown mechanism 'GSSAPI'; use some of PLAIN, LOGIN, .* needs a session of its own [(]docs/sasl.md[)]"
    with pytest.raises(ValueError, match=expected):
        server.Config(mechanisms=("GSSAPI",))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--reuse-port: requires fixed ports; set at least one port, and none to 0"),
        (("--smtp", "2525", "--pop3", "0"), "--reuse-port: requires fixed ports; set at least one port, and none to 0"),
        (
            ("--smtp", "2525"),
            "--reuse-port: processes cannot share data in memory; configure storage for maildrops, outbox, grants",
        ),
        (("--smtp", "2525", "--outbox", "o", "--grants", "sqlite:g"), "configure storage for maildrops\n"),
        (("--smtp", "2525", "--maildir", "m", "--grants", "sqlite:g"), "configure storage for outbox\n"),
        (("--smtp", "2525", "--maildir", "m", "--outbox", "o"), "configure storage for grants\n"),
        (("--pop3", "2525", "--maildir", "m"), "configure storage for grants\n"),  # only SMTP uses the outbox
        (
            ("--smtp", "2525", "--maildir", "m", "--outbox", "o", "--grant-lifetime", "0"),
            "--reuse-port: each process would have its own temporary certificate; set --cert and --key",
        ),
    ],
)
def test_reuse_port_requires_fixed_ports_and_shared_data(
    words: tuple[str, ...], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert says in config_error(capfd, "serve", *USER, "--reuse-port", *words)


def test_reuse_port_is_rejected_only_if_the_system_lacks_it(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cert = authority.issue_cert("localhost")
    cert.private_key_pem.write_to_path(tmp_path / "key")
    (tmp_path / "key").chmod(0o600)
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    kept = ("--maildir", str(tmp_path / "m"), "--outbox", str(tmp_path / "o"), "--grants", f"sqlite:{tmp_path / 'g'}")
    words = (*USER, "--smtp", "2525", *kept, "--cert", str(tmp_path / "cert"), "--key", str(tmp_path / "key"))
    serving = read(*words, "--reuse-port")
    assert serving.config.reuse_port
    assert not any("in memory" in warning for warning in serving.warnings)
    assert serving.stores.grants is not None
    serving.stores.grants.close()
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    assert "not supported on this system" in config_error(capfd, "serve", *words, "--reuse-port")


def exposed(*words: str) -> list[str]:
    serving = read(*USER, *words)
    if serving.stores.grants is not None:
        serving.stores.grants.close()
    return [warning for warning in serving.warnings if "other users can replace" in warning]


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("option", ["--maildir", "--outbox", "--grants", "--accounts"])
def test_path_below_a_folder_that_all_users_can_write_to_is_warned_about(
    option: str, link: bool, tmp_path: Path
) -> None:
    """They could put a folder or a file of their own in its place.  In a folder such as /tmp they cannot, unless it is
    already theirs."""
    directory = tmp_path / "open"
    (directory / "mine").mkdir(parents=True)
    (directory / "mine" / "path").touch(0o600) if option == "--accounts" else None
    (tmp_path / "link").symlink_to(directory / "mine")
    path = (tmp_path / "link" if link else directory / "mine") / "path"
    words = (option, f"sqlite:{path}" if option == "--grants" else str(path))
    assert exposed(*words) == []
    directory.chmod(0o1777)
    assert exposed(*words) == []
    directory.chmod(0o777)
    assert exposed(*words) == [f"{option}: other users can replace {path}, because all users can write to {directory}."]
    if os.geteuid() == 0:
        directory.chmod(0o1777)
        os.chown(directory / "mine", 12_345, -1)
        reason = f"{directory / 'mine'} belongs to another user, and all users can write to {directory}"
        assert exposed(*words) == [f"{option}: other users can replace {path}, because {reason}."]


def test_maildir_that_all_users_can_write_to_is_warned_about(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail").chmod(0o777)
    assert len(exposed("--maildir", str(tmp_path / "mail"))) == 1


def test_ca_out_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    """A hard link to it keeps its content.  The mode may let other users read it."""
    path = tmp_path / "authority"
    path.write_bytes(b"old")
    path.chmod(0o644)
    os.link(path, tmp_path / "hard link")
    read(*USER, "--ca-out", str(path))
    assert path.read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert (tmp_path / "hard link").read_bytes() == b"old"


def test_ca_out_replaced_by_a_link_after_the_check_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, target = tmp_path / "authority", tmp_path / "target"
    target.write_bytes(b"precious")
    made = certificates.temporary_certificate

    def late(addresses: Sequence[str]) -> certificates.TemporaryCertificate:
        path.symlink_to(target)
        return made(addresses)

    monkeypatch.setattr(certificates, "temporary_certificate", late)
    with pytest.raises(ConfigError, match=f"^--ca-out: {path} cannot be written: it is not a regular file$"):
        read(*USER, "--ca-out", str(path))
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder"])
@pytest.mark.parametrize("option", ["--cert", "--key", "--client-ca", "--relay-ca", "--accounts"])
def test_input_file_that_is_not_a_regular_file_is_a_config_error(
    option: str,
    kind: str,
    pair: tuple[Path, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pipe has no writer: reading it would not end.  The device has no end either."""
    path = tmp_path / "path"
    monkeypatch.chdir(tmp_path)  # the path of a socket has at most 107 bytes
    if kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir(mode=0o700)
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
        path.chmod(0o600)
    options = {"--cert": str(pair[0]), "--key": str(pair[1])}
    if option == "--client-ca":
        options["--client-name"] = "CN:x=alice"
    if option == "--relay-ca":
        options["--relay-to"] = "smtps://127.0.0.1:1"
    options[option] = str(path)
    said = config_error(capfd, "serve", *USER, *(word for pair in options.items() for word in pair))
    reason = "it is a socket" if kind == "socket" else "it is not a regular file"
    assert said == f"mailauth serve: {option}: {path} cannot be read: {reason}\n"


def test_certificate_and_key_may_be_links(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """As those that certbot makes."""
    (tmp_path / "live").mkdir()
    for name, path in zip(("cert", "key"), pair, strict=True):
        (tmp_path / "live" / name).symlink_to(path)
    serving = read(*USER, "--cert", str(tmp_path / "live" / "cert"), "--key", str(tmp_path / "live" / "key"))
    assert serving.certificate is not None


@pytest.mark.parametrize(("user", "warned"), [(0, True), (1000, False)])
def test_running_as_root_is_warned_about(user: int, warned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert ("Running as root" in " ".join(read(*USER).warnings)) is warned


def test_invalid_token_is_not_quoted_in_the_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert "sesame" not in config_error(capfd, "serve", "--token", "sesame")


@pytest.mark.parametrize(
    "words", [("--token", "bob:t0ken"), ("--client-name", "CN:x=bob", "--client-ca", "x"), ("--token", ":t0ken")]
)
def test_token_or_certificate_for_an_unknown_account_is_rejected(
    words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    said = config_error(capfd, "serve", *USER, *words)
    assert "unknown account" in said
    assert "t0ken" not in said


def proofs_of(setup: config.ServerSetup) -> frozenset[stores.Proof]:
    return ServerState.of(setup.config, setup.stores, Clock()).authenticator.proofs


def test_token_option_enables_login_by_token() -> None:
    proofs = proofs_of(read(*USER, "--token", "Alice@example.test:t0ken"))
    assert stores.Proof.TOKEN in proofs
    assert stores.Proof.TOKEN not in proofs_of(read(*USER))


def test_client_ca_option_requests_client_certificates(authority: trustme.CA, tmp_path: Path) -> None:
    certificates = tmp_path / "clients.pem"
    authority.cert_pem.write_to_path(str(certificates))
    words = ("--client-ca", str(certificates), "--client-name", "email:a@Example.test=alice")
    serving_ = read(*USER, *words)
    assert serving_.config.ssl_context is not None
    assert serving_.config.ssl_context.verify_mode is ssl.CERT_OPTIONAL
    assert stores.Proof.CERTIFICATE in proofs_of(serving_)
    without = read(*USER).config.ssl_context
    assert without is not None
    assert without.verify_mode is ssl.CERT_NONE


def test_client_ca_and_client_name_must_be_set_together(capfd: pytest.CaptureFixture[str]) -> None:
    assert "must be set together" in config_error(capfd, "serve", *USER, "--client-ca", "x")
    assert "must be set together" in config_error(capfd, "serve", *USER, "--client-name", "CN:x=alice")


@pytest.mark.parametrize(
    ("text", "says"), [(None, "cannot be read"), ("certificate", "contains no certificates in PEM")]
)
def test_missing_or_invalid_client_ca_is_rejected(
    text: str | None, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clients.pem"
    if text is not None:
        path.write_text(text)
    said = config_error(capfd, "serve", *USER, "--client-ca", str(path), "--client-name", "CN:x=alice")
    assert f"--client-ca: {path} {says}" in said


def test_warnings_report_unavailable_mechanisms_and_mixed_schemes(tmp_path: Path) -> None:
    crypt = "bob:{BLF-CRYPT}$2y$05$wQy/3Oy/wVrzX/bYBv.m8.KNe8n9cH7lPzt.EqwsaAUEDrvC5O3Ei\n"
    plain = "alice:{PLAIN}open sesame\n"
    hashed = " ".join(read("--accounts", accounts_file(tmp_path, crypt)).warnings)
    timing_warning = " ".join(read("--accounts", accounts_file(tmp_path, plain + crypt)).warnings)
    for warnings in (hashed, timing_warning):
        assert "CRAM-MD5, APOP and SCRAM-SHA-1 are not available: " in warnings
        assert "SCRAM-SHA-256 is not available: " in warnings
    assert "different schemes or costs" in timing_warning
    assert "different schemes or costs" not in hashed
    assert not any("not available" in warning for warning in read(*USER).warnings)


@pytest.mark.parametrize("password", ["\U0001f511", "\u00ad", os.fsdecode(b"caf\xe9")])
def test_password_that_is_invalid_for_scram_disables_scram(password: str) -> None:
    """RFC 4013 section 2.5: unassigned in Unicode 3.2, empty after mapping, or not valid UTF-8."""
    serving_ = read(*USER, "--user", f"bob:{password}")
    proofs = proofs_of(serving_)
    assert not proofs & {stores.Proof.SCRAM_SHA_1, stores.Proof.SCRAM_SHA_256}
    assert proofs >= {stores.Proof.PASSWORD, stores.Proof.SECRET}
    assert [warning for warning in serving_.warnings if "RFC 4013" in warning]
    assert "SCRAM-SHA-256" not in serving_.config.smtp_settings(proofs).mechanisms


@pytest.mark.parametrize(("password", "says"), [(b"won\tderland", True), (b"a\xc2\x85", True), (b"wonderland", False)])
def test_warning_reports_password_that_plain_refuses(tmp_path: Path, password: bytes, says: bool) -> None:
    path = Path(accounts_file(tmp_path, ""))
    path.write_bytes(b"alice:{PLAIN}" + password + b"\n")
    found = [warning for warning in read("--accounts", str(path)).warnings if "PLAIN refuses the password" in warning]
    assert bool(found) == says


@pytest.mark.parametrize("strict", [False, True])
def test_warning_reports_latin_1_password_if_syntax_is_strict(tmp_path: Path, strict: bool) -> None:
    path = Path(accounts_file(tmp_path, ""))
    path.write_bytes(b"alice:{PLAIN}gr\xfcn\n")
    warnings = read("--accounts", str(path), *(["--strict"] if strict else [])).warnings
    assert any("SCRAM is not available" in warning for warning in warnings)
    assert any("PLAIN and USER refuse the password" in warning for warning in warnings) == strict


def test_warnings_report_mechanisms_unavailable_with_stored_keys(tmp_path: Path) -> None:
    path = accounts_file(tmp_path, f"alice:{stores.write_credential('SCRAM-SHA-256', b'open sesame')}\n")
    warnings = " ".join(read("--accounts", path).warnings)
    assert "CRAM-MD5, APOP and SCRAM-SHA-1 are not available: " in warnings
    assert "SCRAM-SHA-256 is not available" not in warnings


@pytest.mark.parametrize(
    ("words", "title"),
    [
        (["serve", "--user", "alice:wonderland"], "mailauth serve"),
        (["serve", "--grants", "redis://127.0.0.1/0"], "mailauth"),  # needed to read the URL
        (["check-config", "/dev/null"], "mailauth check-config"),
        (["grants", "list", "--grants", "sqlite:grants"], "mailauth grants"),
        (["passwd", "alice"], "mailauth passwd"),
        (["methods"], "mailauth methods"),
    ],
)
def test_missing_extra_is_one_sentence(words: list[str], title: str) -> None:
    ended = serving.run_without_anyio(*words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"{title}: requires the package anyio; run: pip install 'mailauth[server]'\n"


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], *([verb, "--help"] for verb in ("send", "fetch", "serve", "check-config"))]
)
def test_help_needs_no_extra(words: list[str]) -> None:
    ended = serving.run_without_anyio(*words)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "mailauth" in ended.stdout


def test_missing_module_other_than_anyio_is_not_reported_as_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, scheme: str) -> None:
        raise ModuleNotFoundError("No module named 'tea'", name="tea")

    monkeypatch.setattr("mailauth_io.cli.passwd.write", write)
    with pytest.raises(ModuleNotFoundError):
        main.main(["passwd", "alice"])
