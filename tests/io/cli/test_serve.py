"""``mailauth serve`` as a process: what it prints, where it listens, and a clean end on a signal."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import os
import poplib
import signal
import smtplib
import socket
import ssl
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mailauth_io import methods
from mailauth_io.cli import main as cli
from tests import certificate_files
from tests.serving import ALL_LOOPS, command, environment, messages, run, served

USER = ("--user", "alice:open sesame:2")


def trusted(path: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(path))


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loop", ALL_LOOPS)
def test_serve_listens_on_all_ports_and_exits_cleanly_on_signal(loop: str, end: signal.Signals, tmp_path: Path) -> None:
    """A client with an open session gets 421."""
    with served(tmp_path, "--loop", loop, *USER, end=end) as server, contextlib.ExitStack() as stack:
        assert server.ports["pid"] == server.process.pid
        for name in ("smtp", "smtps", "pop3", "pop3s"):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port(name)), 10))
        client = stack.enter_context(smtplib.SMTP("127.0.0.1", server.port("smtp"), "client.test", timeout=30))
        client.ehlo()
        server.process.send_signal(end)
        assert client.getreply()[0] == 421
    assert "Ready." in server.said


@pytest.mark.parametrize("loop", ALL_LOOPS)
def test_sighup_reloads_accounts_and_certificate_and_keeps_valid_sessions(loop: str, tmp_path: Path) -> None:
    now = time.time()
    cert, key = certificate_files.write(tmp_path, not_before=now - 3600, not_after=now + 86400)
    accounts = tmp_path / "accounts"
    accounts.touch(0o600)
    accounts.write_text("alice:{PLAIN}one\nbob:{PLAIN}two\n")
    words = ("--loop", loop, "--accounts", str(accounts), "--cert", str(cert), "--key", str(key))
    with served(tmp_path, *words) as server:
        server.wait_for("WARNING certificate warning=")  # it expires in one day
        shown = cert.read_bytes()
        context = ssl.create_default_context(cadata=shown.decode())
        with (
            smtplib.SMTP_SSL("127.0.0.1", server.port("smtps"), timeout=30, context=context) as hers,
            smtplib.SMTP_SSL("127.0.0.1", server.port("smtps"), timeout=30, context=context) as his,
        ):
            hers.login("alice", "one")
            his.login("bob", "two")
            accounts.write_text("alice:{PLAIN}one\ncarol:{PLAIN}three\n")
            certificate_files.write(tmp_path, not_before=now - 3600, not_after=now + 100 * 86400)
            assert hers.noop()[0] == 250
            server.process.send_signal(signal.SIGHUP)
            assert his.getreply()[0] == 421
            assert hers.noop()[0] == 250
            context = ssl.create_default_context(cadata=cert.read_text())
            with smtplib.SMTP_SSL("127.0.0.1", server.port("smtps"), timeout=30, context=context) as another:
                another.login("carol", "three")
            cert.write_text("none")
            server.process.send_signal(signal.SIGHUP)
            server.wait_for("keeping the previous certificate: ")
            with smtplib.SMTP_SSL("127.0.0.1", server.port("smtps"), timeout=30, context=context) as another:
                another.login("carol", "three")
            assert hers.noop()[0] == 250
    assert server.log.read_text().count("INFO reload\n") == 2


@pytest.mark.parametrize("loop", ALL_LOOPS)
def test_sigterm_ends_the_server_while_the_next_hop_is_checked(loop: str, tmp_path: Path) -> None:
    """It had no effect until the next hop had replied, or the timeout for the check had passed."""
    ready = tmp_path / "ready.json"
    with socket.create_server(("127.0.0.1", 0)) as hop:
        hop.settimeout(60)
        words = ("--loop", loop, *USER, "--smtp", "0", "--relay-to", f"smtp://127.0.0.1:{hop.getsockname()[1]}")
        with subprocess.Popen(
            command("serve", *words, "--relay-tls", "none", "--ready-file", str(ready)),
            env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as server:  # fmt: skip
            try:
                silent, _ = hop.accept()
                server.terminate()
                said, _ = server.communicate(timeout=60)
                silent.close()
            finally:
                server.kill()
    assert (server.returncode, said) == (0, "")
    assert not ready.exists()


def test_sighup_during_the_imports_does_not_end_the_server() -> None:
    """As from ``systemctl reload``, directly after ``systemctl start``; and systemd takes it for a clean exit."""
    program = """
import importlib.abc, os, signal, sys

class HangUp(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "mailauth_io.cli.main":
            os.kill(os.getpid(), signal.SIGHUP)

sys.meta_path.insert(0, HangUp())
from mailauth_io.__main__ import main
sys.exit(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "serve", "--help"],
        env=environment(), stdout=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0


@pytest.mark.parametrize("loop", ALL_LOOPS)
def test_only_requested_ports_are_open(loop: str, tmp_path: Path) -> None:
    with served(tmp_path, "--loop", loop, *USER, "--pop3s", "0") as server:
        assert {name: port is not None for name, port in server.ports.items()} == {
            "smtp": False, "smtps": False, "pop3": False, "pop3s": True, "pid": True,
        }  # fmt: skip
        assert f"POP3S {server.port('pop3s')}" in server.said[0]


def test_every_host_has_the_same_ports(tmp_path: Path) -> None:
    hosts = ("127.0.0.1", "127.0.0.5")
    with served(tmp_path, *USER, *(word for host in hosts for word in ("--host", host)), "--smtp", "0") as server:
        for host in hosts:
            with smtplib.SMTP(host, server.port("smtp"), "client.test", timeout=30) as client:
                assert client.ehlo()[0] == 250


@pytest.mark.parametrize("loop", ALL_LOOPS)
def test_temporary_certificate_is_trusted_only_with_ca_out(loop: str, tmp_path: Path) -> None:
    authority = tmp_path / "authority.pem"
    words = ("--host", "127.0.0.1", "--host", "127.0.0.5", "--ca-out", str(authority))
    with served(tmp_path, "--loop", loop, *USER, *words) as server:
        for host, name in (("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "localhost"), ("127.0.0.5", "127.0.0.5")):
            with (
                socket.create_connection((host, server.port("pop3s")), 10) as plain,
                trusted(authority).wrap_socket(plain, server_hostname=name) as connection,
            ):
                assert connection.recv(4) == b"+OK "
        with pytest.raises(ssl.SSLCertVerificationError):
            smtplib.SMTP_SSL("127.0.0.1", server.port("smtps"), timeout=30, context=ssl.create_default_context())


@pytest.mark.parametrize("loop", ALL_LOOPS)
def test_login_without_tls_is_not_offered_without_legacy(loop: str, tmp_path: Path) -> None:
    """architecture.md, invariant 3: USER is rejected, and the greeting has no timestamp for APOP."""
    authority = tmp_path / "authority.pem"
    with served(tmp_path, "--loop", loop, *USER, "--ca-out", str(authority)) as server:
        assert any("Logins without TLS are not allowed" in line for line in server.said)
        with smtplib.SMTP("127.0.0.1", server.port("smtp"), "client.test", timeout=30) as client:
            client.ehlo()
            assert not client.has_extn("auth")
            client.starttls(context=trusted(authority))
            client.ehlo()
            assert set(client.esmtp_features["auth"].split()) == {
                "PLAIN",
                "LOGIN",
                "CRAM-MD5",
                "SCRAM-SHA-1",
                "SCRAM-SHA-256",
            }
        with contextlib.closing(poplib.POP3("127.0.0.1", server.port("pop3"), timeout=30)) as reader:
            assert b"<" not in reader.getwelcome()
            with pytest.raises(poplib.error_proto):
                reader.user("alice")
            reader.stls(context=trusted(authority))
            reader.user("alice")
            reader.pass_("open sesame:2")
            reader.quit()


@pytest.mark.parametrize("loop", ALL_LOOPS)
def test_mail_is_stored_in_maildirs_not_accessible_to_other_users(loop: str, tmp_path: Path) -> None:
    maildrops, outbox = tmp_path / "maildrops", tmp_path / "outbox"
    words = ("--legacy", "--maildir", str(maildrops), "--outbox", str(outbox))
    with served(tmp_path, "--loop", loop, *USER, *words) as server:
        with smtplib.SMTP("127.0.0.1", server.port("smtp"), "client.test", timeout=30) as client:
            client.sendmail("bob@elsewhere.test", ["Alice@EXAMPLE.test"], b"Subject: one\r\n\r\nlocal\r\n")
            client.login("alice@example.test", "open sesame:2")
            client.sendmail("alice@example.test", ["bob@elsewhere.test"], b"Subject: two\r\n\r\nrelayed\r\n")
        ((local,), (relayed,)) = messages(maildrops / "alice"), messages(outbox)
        assert local.endswith(b"\nSubject: one\n\nlocal\n")
        assert relayed.endswith(b"\nSubject: two\n\nrelayed\n")
        assert b"X-Envelope-To: bob@elsewhere.test" in relayed
    for path in (*maildrops.rglob("*"), *outbox.rglob("*"), maildrops, outbox, tmp_path / "ready.json"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_log_contains_queue_id_of_the_reply(tmp_path: Path) -> None:
    with (
        served(tmp_path, *USER) as server,
        smtplib.SMTP("127.0.0.1", server.port("smtp"), "client.test", timeout=30) as client,
    ):
        client.ehlo()
        client.mail("bob@elsewhere.test")
        client.rcpt("alice@example.test")
        code, text = client.data(b"Subject: one\r\n\r\nlocal\r\n")
    assert code == 250
    assert text.decode().split()[-1] in server.log.read_text()


def test_failed_start_removes_stale_ready_file(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    ready.write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = run("serve", *USER, "--smtp", str(other.getsockname()[1]), "--ready-file", str(ready))
    assert done.returncode == 2
    assert not ready.exists()


def test_version_option_prints_the_version_of_the_distribution() -> None:
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"mailauth {importlib.metadata.version('mailauth')}\n"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), ""),
        (OSError(errno.ENOSPC, "No space left"), "No space left"),
        (
            OSError(errno.EACCES, "Permission denied", "/etc/mailauth/accounts"),
            "/etc/mailauth/accounts: Permission denied",
        ),
    ],
)
def test_output_error_causes_no_traceback(
    error: OSError, says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A closed pipe, as in ``mailauth methods | head -1``, or a full disk."""

    def gone(loops: object, *, as_json: bool) -> int:
        raise error

    given_up: list[bool] = []
    monkeypatch.setattr(methods, "main", gone)
    monkeypatch.setattr(cli, "_drop_output", lambda: given_up.append(True))
    assert cli.main(["methods"]) == 2
    assert capfd.readouterr().err == (f"mailauth methods: {says}\n" if says else "")
    assert given_up


def run_with(redirections: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command with *redirections* of the shell."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *command(*arguments)],
        env={name: value for name, value in environment().items() if name != "PYTHONUNBUFFERED"},
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [("check-config", "file"), ("grants", "list"), ("passwd", "alice"), ("methods", "--loop", "asyncio")]
)
def test_a_closed_standard_output_is_one_sentence(arguments: tuple[str, ...]) -> None:
    done = run_with(">&-", *arguments)
    expected = f"mailauth {arguments[0]}: standard output is closed; redirect it to a file, or to /dev/null\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_a_closed_standard_input_is_one_sentence() -> None:
    done = run_with("<&-", "passwd", "alice")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("mailauth passwd: standard input is closed")


def test_an_error_is_not_written_to_standard_output_if_standard_error_is_closed() -> None:
    done = run_with("2>&-", "serve", "--config", "missing")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("serve", "--help"), ("check-config", "missing")])
def test_a_closed_pipe_is_exit_status_2_without_a_traceback(arguments: tuple[str, ...]) -> None:
    """As in ``mailauth serve --help | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command(*arguments),
            env={name: value for name, value in environment().items() if name != "PYTHONUNBUFFERED"},
            stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (2, "")


@pytest.mark.parametrize("loop", ALL_LOOPS)
def test_a_server_whose_output_is_a_closed_pipe_ends_without_a_traceback(loop: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command("serve", "--loop", loop, *USER, "--smtp", "0"),
            env=environment(), stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr


def test_no_file_or_connection_of_a_server_has_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """What is written to standard error, such as the log, would go there."""
    ready = tmp_path / "ready.json"
    server = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command("serve", *USER, "--ready-file", str(ready))],
        env=environment(),
    )  # fmt: skip
    with server:
        try:
            deadline = time.monotonic() + 30
            while not ready.exists():
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert [os.readlink(f"/proc/{server.pid}/fd/{number}") for number in range(3)] == [os.devnull] * 3
            server.terminate()
            assert server.wait(30) == 0
        finally:
            server.kill()
