"""A certificate that is renewed while the server runs: the next handshake uses it, unless it is invalid."""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
import trustme

from mailauth_io.adapters.tls.certificate_validity import Validity, validity
from mailauth_io.adapters.tls.certificates import server_context
from mailauth_io.adapters.tls.channel_binding import BindingContext, channel_bindings
from mailauth_io.cli import config, main as cli, renewal
from mailauth_io.cli.errors import ConfigError
from mailauth_io.cli.renewal import RenewingContext
from tests.certificate_files import DAY, write
from tests.io import loops
from tests.io.grant_stores import on_both_loops
from tests.io.server_support import Clock

NOW = time.time()


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("not_before", "not_after"),
    [
        ("2026-01-31T12:00:00", "2049-12-31T23:59:59"),  # two digits of the year
        ("1950-01-01", "1999-12-31"),
        ("2049-01-01", "2050-01-01"),  # four digits: RFC 5280 section 4.1.2.5.2
        ("2050-01-01", "9999-12-31T23:59:59"),
    ],
)
def test_validity_returns_not_before_and_not_after_of_certificate(
    not_before: str, not_after: str, tmp_path: Path
) -> None:
    """RFC 5280 section 4.1.2.5."""
    certificate, _ = write(tmp_path, not_before=seconds(not_before), not_after=seconds(not_after))
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    assert validity(der) == Validity(not_before=seconds(not_before), not_after=seconds(not_after))
    for end in range(0, len(der), 7):
        assert validity(der[:end]) is None


@pytest.mark.parametrize("data", [b"", b"\x30", b"\x30\x80", b"\x30\x03\x30\x01\x02", bytes(8)])
def test_validity_returns_none_for_invalid_der(data: bytes) -> None:
    assert validity(data) is None


def test_renewing_context_keeps_minimum_tls_version() -> None:
    """RFC 8996.  The default minimum of a new context differs between systems."""

    def make() -> BindingContext:
        made = server_context()
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        return made

    assert RenewingContext.of(make, ()).minimum_version is ssl.TLSVersion.TLSv1_3


def options(cert: Path, key: Path) -> list[str]:
    return ["--user", "alice:open sesame", "--cert", str(cert), "--key", str(key)]


@pytest.mark.parametrize(("not_before", "not_after", "says"), [(-2, -1, "expired on "), (1, 2, "is not valid before ")])
def test_certificate_outside_its_validity_period_is_a_config_error(
    not_before: int, not_after: int, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cert, key = write(tmp_path, not_before=NOW + not_before * DAY, not_after=NOW + not_after * DAY)
    settings = cli.settings_of(cli.build_parser().parse_args(["serve", *options(cert, key)]))
    with pytest.raises(ConfigError, match=f"^--cert: the certificate in {cert} {says}"):
        config.read(settings)
    path = tmp_path / "mailauth.toml"
    path.write_text('[tls]\ncertificate = "certificate.pem"\nkey = "key.pem"\n')
    assert cli.main(["check-config", str(path)]) == 2
    assert capfd.readouterr().out.startswith(f"{path}:2: [tls] certificate: the certificate in {cert} {says}")


class Files:
    """A certificate and a key that can be replaced, a context that loads them, and a clock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Clock(NOW)
        self.write(days=90)
        settings = cli.settings_of(cli.build_parser().parse_args(["serve", *options(self.cert, self.key)]))
        self.context = RenewingContext.of(lambda: config._context(settings), [self.cert, self.key], self.clock)

    def write(self, *, days: float) -> None:
        """Write a new certificate and key, old enough to be loaded."""
        self.cert, self.key = write(self.directory, not_before=NOW - 100 * DAY, not_after=NOW + days * DAY)
        self.rest()

    def rest(self) -> None:
        for path in (self.cert, self.key):
            os.utime(path, (NOW - 60, NOW - 60))

    @property
    def written(self) -> bytes:
        return ssl.PEM_cert_to_DER_cert(self.cert.read_text())


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def step_handshake(context: ssl.SSLContext, between: Callable[[], None] = lambda: None) -> tuple[bytes, ssl.SSLObject]:
    """Make a handshake in memory, with *between* called before its last step.

    Return the certificate that the client received, and the server's TLS object.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(up, down, server_side=True)
    client = trusting.wrap_bio(down, up)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    between()
    client.do_handshake()
    server.do_handshake()
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return shown, server


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]


def test_handshake_after_a_check_uses_new_certificate(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    before = files.written
    assert step_handshake(files.context)[0] == before
    files.write(days=90)
    assert step_handshake(files.context)[0] == before  # there was no check
    files.context.check_files()
    shown, server = step_handshake(files.context)
    assert shown == files.written != before
    assert isinstance(server.context, type(files.context._current))
    assert server.context.channel_bindings == channel_bindings(files.written) != {}
    assert warnings(caplog) == [f'INFO certificate warning="reloaded {files.cert}"']


@on_both_loops
async def test_files_are_checked_in_a_thread(
    loop: loops.Loop, files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Handshakes and the event loop do not wait for a disk.  Any failure is logged, and the next check tries again."""
    monkeypatch.setattr(renewal, "INTERVAL", 0.001)
    make, before, reading, go_on, failures = files.context._make, files.written, anyio.Event(), threading.Event(), [1]

    def slow() -> BindingContext:
        anyio.from_thread.run_sync(reading.set)
        go_on.wait()
        if failures:
            failures.pop()
            raise RuntimeError("broken")
        return make()

    files.context._make = slow
    files.write(days=90)
    async with anyio.create_task_group() as group:
        group.start_soon(files.context.keep_current)
        await reading.wait()
        assert step_handshake(files.context)[0] == before
        go_on.set()
        while step_handshake(files.context)[0] != files.written:
            await anyio.sleep(0)
        group.cancel_scope.cancel()
    told = f'ERROR certificate warning="{files.cert} cannot be checked: RuntimeError: broken"'
    assert [line for line in warnings(caplog) if line.startswith("ERROR")] == [told]


def test_handshake_in_progress_continues_with_previous_certificate(files: Files) -> None:
    before = files.written

    def renew() -> None:
        files.write(days=90)
        files.context.check_files(at_once=True)

    assert step_handshake(files.context, renew)[0] == before
    assert step_handshake(files.context)[0] == files.written


def test_tls_session_is_not_resumed_after_removal_of_client_ca(tmp_path: Path) -> None:
    """RFC 8446 section 4.6.1: a ticket carries the identity of the client, which is not verified again."""
    servers, first, second = trustme.CA(), trustme.CA(), trustme.CA()
    authorities = tmp_path / "authorities.pem"
    own = servers.issue_cert("mx.test")

    def make() -> BindingContext:
        made = server_context()
        own.configure_cert(made)
        made.load_verify_locations(cafile=authorities)
        made.verify_mode = ssl.CERT_OPTIONAL
        return made

    first.cert_pem.write_to_path(str(authorities))
    context = RenewingContext.of(make, [authorities])
    alice = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    servers.configure_trust(alice)
    first.issue_cert("alice@mx.test").configure_cert(alice)

    def connect(session: ssl.SSLSession | None) -> tuple[ssl.SSLObject, ssl.SSLObject]:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = context.wrap_bio(up, down, server_side=True)
        client = alice.wrap_bio(down, up, server_hostname="mx.test", session=session)
        for step in (client, server, client):
            with contextlib.suppress(ssl.SSLWantReadError):
                step.do_handshake()
        server.do_handshake()
        server.write(b"x")
        assert client.read(1) == b"x"  # the ticket comes before it
        return client, server

    client, server = connect(None)
    assert server.getpeercert()
    again, _ = connect(client.session)
    assert again.session_reused
    second.cert_pem.write_to_path(str(authorities))
    context.check_files(at_once=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(client.session)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda files: files.cert.write_text("none"), "must be a certificate"),
        (lambda files: files.cert.unlink(), "cannot be read: No such file"),
        (lambda files: files.key.chmod(0o644), "is accessible to other users"),
        (lambda files: files.write(days=-1), "expired on"),
        (lambda files: pipe(files.cert), "cannot be read: it is not a regular file"),
        (lambda files: pipe(files.key), "cannot be read: it is not a regular file"),
    ],
)
def test_invalid_certificate_is_logged_once_and_previous_one_is_kept(
    spoil: Callable[[Files], None], says: str, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    before = files.written
    spoil(files)
    for _ in range(3):
        files.context.check_files(at_once=True)
    assert step_handshake(files.context)[0] == before
    (told,) = warnings(caplog)
    assert told.startswith('ERROR certificate warning="keeping the previous certificate: --')
    assert says in told
    for path in (files.cert, files.key):
        path.unlink(missing_ok=True)
    files.write(days=90)
    files.context.check_files(at_once=True)
    assert step_handshake(files.context)[0] == files.written


def pipe(path: Path) -> None:
    """Replace *path* with a pipe that nobody writes to: reading it would block the event loop for ever."""
    path.unlink()
    os.mkfifo(path, 0o600)


def test_files_removed_during_reload_keep_previous_certificate(
    files: Files, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal program may move the files at that moment.  The server must keep running."""
    before = files.written

    def gone(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    files.write(days=90)
    with monkeypatch.context() as patched:
        patched.setattr(BindingContext, "load_cert_chain", gone)
        files.context.check_files(at_once=True)
    assert step_handshake(files.context)[0] == before
    (told,) = warnings(caplog)
    assert "cannot be read: No such file" in told
    files.context.check_files()  # the files have not changed since
    assert step_handshake(files.context)[0] == files.written != before


def test_a_certificate_that_is_not_valid_yet_is_used_when_it_is(
    files: Files, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files do not change at that moment."""
    monkeypatch.setattr(time, "time", lambda: files.clock.now)
    before = files.written
    write(files.directory, not_before=NOW + DAY, not_after=NOW + 90 * DAY)
    files.rest()
    for _ in range(2):
        files.context.check_files()
    assert step_handshake(files.context)[0] == before
    files.clock.now += 2 * DAY
    files.context.check_files()
    assert step_handshake(files.context)[0] == files.written != before
    (told,) = warnings(caplog)
    assert "is not valid before " in told


def test_new_certificate_is_not_used_until_its_key_is_replaced(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """While only one of the two files is new, they do not match."""
    before, key = files.written, files.key.read_bytes()
    files.write(days=90)
    new_key = files.key.read_bytes()
    files.key.write_bytes(key)
    files.rest()
    files.context.check_files()
    assert step_handshake(files.context)[0] == before
    files.key.write_bytes(new_key)
    files.rest()
    files.context.check_files()
    assert step_handshake(files.context)[0] == files.written
    assert "does not match the certificate" in caplog.text


def test_recently_written_certificate_is_skipped_except_by_immediate_check(files: Files) -> None:
    before = files.written
    files.write(days=90)
    os.utime(files.cert, (files.clock.now, files.clock.now))
    files.context.check_files()
    assert step_handshake(files.context)[0] == before
    files.context.check_files(at_once=True)
    assert step_handshake(files.context)[0] == files.written


def test_near_certificate_expiry_is_logged_once_a_day(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    for days in (90, 15, 13.5, 13.4, 12.9, 0.1, -0.9):
        files.clock.now = NOW + (90 - days) * DAY
        files.context.check_files()
    told = warnings(caplog)
    assert [line.split(" warning=")[0] for line in told] == ["WARNING certificate"] * 3
    assert [" expires on " in line for line in told] == [True, True, False]
    assert " expired on " in told[2]


def test_expiry_warning_is_repeated_after_the_clock_was_set_back(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """The first warning was logged while the clock was ten years ahead."""
    for days in (-3650, 5, 4.9, 3):
        files.clock.now = NOW + (90 - days) * DAY
        files.context.check_files()
    assert [" expires on " in line for line in warnings(caplog)] == [False, True, True]
