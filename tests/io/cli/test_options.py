"""Invalid arguments end the command with one sentence on standard error and exit status 2."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import trustme

from mailauth_io.adapters.tls import certificates
from mailauth_io.cli import main, serve
from mailauth_io.cli.errors import ConfigError
from tests import serving
from tests.io import file_calls
from tests.io.cli_options import USER, read
from tests.io.config_errors import config_error

pytestmark = pytest.mark.usefixtures("restored_process")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "serve, send, fetch, check-config, grants, policy-service, passwd, methods or test-server"),
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


@pytest.mark.parametrize("words", [("serve", *USER), ("methods",), ("policy-service", "--grants", "sqlite:grants")])
def test_missing_uvloop_error_names_the_extra_to_install(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert "mailauth[uvloop]" in config_error(capfd, *words, "--loop", "uvloop")


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
