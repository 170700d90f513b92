"""``mailauth test-server``: what it prints, mail from SMTP to HTTP and POP3, how it ends, and its errors."""

from __future__ import annotations

import contextlib
import json
import os
import poplib
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from mailauth_io.cli import main as cli, test_server
from tests import serving, waiting
from tests.io.config_errors import config_error

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
TIMEOUT = 30.0
MESSAGE = "From: {sender}\r\nTo: {recipient}\r\nSubject: {subject}\r\n\r\nhello\r\n"


@attrs.frozen
class TestServer:
    __test__ = False

    process: subprocess.Popen[str]
    said: dict[str, Any]

    @property
    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.said["ca"])
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    def send(self, subject: str = "tea", recipient: str = "bob@example.test", *, login: bool = True) -> None:
        account = self.said["users"][0]
        with smtplib.SMTP(self.said["host"], self.said["smtp_port"], timeout=TIMEOUT) as client:
            if login:
                client.starttls(context=self.context)
                client.login(account["name"], account["password"])
            sender = account["address"]
            text = MESSAGE.format(sender=sender, recipient=recipient, subject=subject)
            client.sendmail(sender, [recipient], text)

    def http(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.said["http_url"] + path, data=data, method=method)
        with OPENER.open(request, timeout=TIMEOUT) as response:
            answer = response.read()
            return json.loads(answer) if response.headers["Content-Type"] == "application/json" else answer.decode()


@contextlib.contextmanager
def started(tmp_path: Path, *options: str, ends: bool = True) -> Iterator[TestServer]:
    """Run the command; at the end, send SIGTERM if *ends*, and check the exit status and that no more was printed."""
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            serving.command("test-server", *options), env=serving.environment(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        ) as process,
    ):  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (tmp_path / "log").read_text()
            yield TestServer(process, json.loads(line))
            if ends:
                process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT) == 0
            assert (process.stdout.read(), (tmp_path / "log").read_text()) == ("", "")
        finally:
            process.kill()


def test_line_says_where_the_server_is_and_who_can_log_in(tmp_path: Path) -> None:
    with started(tmp_path, "--user", "alice", "--user", "carol:a:b c", "--domain", "Example.org") as server:
        said = dict(server.said)
        ports = [said.pop(f"{name}_port") for name in ("smtp", "smtps", "pop3", "pop3s", "http")]
        assert len(set(ports)) == 5
        ca_file = Path(said.pop("ca_file"))
        assert ca_file.read_text() == said.pop("ca")
        assert said == {
            "host": "localhost",
            "http_url": f"http://127.0.0.1:{ports[-1]}",
            "domain": "example.org",
            "users": [
                {"name": "alice", "address": "alice@example.org", "password": "alice-password"},
                {"name": "carol", "address": "carol@example.org", "password": "a:b c"},
            ],
        }
        with smtplib.SMTP_SSL("localhost", ports[1], context=server.context, timeout=TIMEOUT) as client:
            client.login("carol", "a:b c")
        client_of_pop3s = poplib.POP3_SSL("localhost", ports[3], context=server.context, timeout=TIMEOUT)
        client_of_pop3s.user("carol")
        client_of_pop3s.pass_("a:b c")
        client_of_pop3s.quit()
    assert not ca_file.exists()


def test_mail_is_read_over_http_and_by_pop3(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        assert [user["name"] for user in server.said["users"]] == ["alice", "bob"]
        assert server.http("GET", "/readyz") == ""
        server.send("first")
        server.send("second", "carol@far.test")
        listed = server.http("GET", "/api/v1/messages")
        assert [message["Subject"] for message in listed["messages"]] == ["second", "first"]
        assert {message["Username"] for message in listed["messages"]} == {"alice"}
        found = server.http("GET", "/api/v1/search?query=to:carol")
        assert [message["ID"] for message in found["messages"]] == [listed["messages"][0]["ID"]]
        text = MESSAGE.format(sender="alice@example.test", recipient="bob@example.test", subject="first")
        assert server.http("GET", f"/api/v1/message/{listed['messages'][1]['ID']}/raw") == text
        assert server.http("GET", "/view/latest.txt") == "hello\r\n"
        client = poplib.POP3("localhost", server.said["pop3_port"], timeout=TIMEOUT)
        client.apop("bob", "bob-password")
        assert b"Subject: first" in client.retr(1)[1]
        client.quit()
        assert server.http("DELETE", "/api/v1/messages", {"IDs": [listed["messages"][0]["ID"]]}) == "ok"
        assert [message["Subject"] for message in server.http("GET", "/api/v1/messages")["messages"]] == ["first"]
        assert server.http("DELETE", "/api/v1/messages") == "ok"
        assert server.http("GET", "/api/v1/messages")["total"] == 0
        server.send("third")
        assert server.http("GET", "/api/v1/message/latest")["Subject"] == "third"


def test_chaos_rejects_commands(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        server.http("PUT", "/api/v1/chaos", {"Recipient": {"ErrorCode": 452, "Probability": 50}})
        server.send("first")
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            server.send("second")
        assert refused.value.recipients["bob@example.test"][0] == 452
        server.send("third")
        server.http("PUT", "/api/v1/chaos", {"Sender": {"Probability": 100}})
        with pytest.raises(smtplib.SMTPSenderRefused) as sender_refused:
            server.send("fourth")
        assert sender_refused.value.smtp_code == 451
        server.http("PUT", "/api/v1/chaos", {"Sender": {"ErrorCode": 599, "Probability": 100}})  # not in the grammar
        with pytest.raises(smtplib.SMTPSenderRefused) as sender_refused:
            server.send("fifth")
        assert sender_refused.value.smtp_code == 599
        server.http("PUT", "/api/v1/chaos", {"Authentication": {"ErrorCode": 454, "Probability": 100}})
        with pytest.raises(smtplib.SMTPAuthenticationError) as login_refused:
            server.send("sixth")
        assert login_refused.value.smtp_code == 454
        server.http("PUT", "/api/v1/chaos", {})
        server.send("seventh")
        subjects = [message["Subject"] for message in server.http("GET", "/api/v1/messages")["messages"]]
        assert subjects == ["seventh", "third", "first"]


def test_options_for_tls_reach_the_server(tmp_path: Path) -> None:
    with started(tmp_path, "--certificate", "expired", "--no-legacy") as server:
        with pytest.raises(ssl.SSLCertVerificationError) as invalid:
            server.send()
        assert invalid.value.verify_message == "certificate has expired"
        with smtplib.SMTP("localhost", server.said["smtp_port"], timeout=TIMEOUT) as client:
            client.ehlo()
            assert not client.has_extn("auth")
    with (
        started(tmp_path, "--starttls", "stripped") as server,
        smtplib.SMTP("localhost", server.said["smtp_port"], timeout=TIMEOUT) as client,
    ):
        client.ehlo()
        assert (client.has_extn("starttls"), client.has_extn("auth")) == (False, True)


def test_mail_for_other_domains_needs_a_login_unless_it_is_an_open_relay(tmp_path: Path) -> None:
    with started(tmp_path) as server, pytest.raises(smtplib.SMTPRecipientsRefused):
        server.send(recipient="carol@far.test", login=False)
    with started(tmp_path, "--open-relay") as server:
        server.send(recipient="carol@far.test", login=False)
        [message] = server.http("GET", "/api/v1/messages")["messages"]
        assert [to["Address"] for to in message["To"]] == ["carol@far.test"]


def test_api_is_reached_by_a_name_that_was_given(tmp_path: Path) -> None:
    with started(tmp_path, "--http-name", "mail", "--http-name", "Mail.example") as server:
        for name in ("mail:8025", "mail.example"):
            request = urllib.request.Request(server.said["http_url"] + "/readyz", headers={"Host": name})
            with OPENER.open(request, timeout=TIMEOUT) as response:
                assert response.status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_although_clients_are_connected(number: signal.Signals, tmp_path: Path) -> None:
    with started(tmp_path, ends=False) as server, contextlib.ExitStack() as stack:
        for name in ("smtp", "pop3", "http"):
            address = ("localhost", server.said[f"{name}_port"])
            stack.enter_context(socket.create_connection(address, timeout=TIMEOUT))
        server.process.send_signal(number)
        assert server.process.wait(TIMEOUT) == 0


def test_end_of_standard_input_ends_it_only_with_the_option(tmp_path: Path) -> None:
    with started(tmp_path, "--until-eof", ends=False) as server:
        assert server.process.stdin is not None
        server.process.stdin.write("ignored\n")
        server.process.stdin.flush()
        server.send()
        server.process.stdin.close()
        assert server.process.wait(TIMEOUT) == 0
    with started(tmp_path) as server:
        assert server.process.stdin is not None
        server.process.stdin.close()
        server.send()


def test_server_exits_when_the_test_runner_dies(tmp_path: Path) -> None:
    """The runner is killed, so it cannot end the server, but the system closes its end of the pipe."""
    program = (
        "import subprocess, sys, time\n"
        "server = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "print(server.stdout.readline().decode(), end='', flush=True)\n"
        "server.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *serving.command("test-server", "--until-eof")],
        env=serving.environment(), stdout=subprocess.PIPE, text=True,
    ) as runner:  # fmt: skip
        assert runner.stdout is not None
        said = json.loads(runner.stdout.readline())
        with socket.create_connection(("localhost", said["smtp_port"]), timeout=TIMEOUT) as connection:
            assert connection.recv(4) == b"220 "
            runner.kill()
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass


def test_ports_and_address_are_those_of_the_options(tmp_path: Path) -> None:
    names = ("smtp", "smtps", "pop3", "pop3s", "http")
    with started(tmp_path) as other:
        ports = {name: str(other.said[f"{name}_port"]) for name in names}
        for name in ("smtps", "http"):
            process = serving.run("test-server", f"--{name}-port", ports[name])
            assert (process.returncode, process.stdout) == (2, "")
            assert process.stderr == (
                f"mailauth test-server: cannot listen on 127.0.0.1 port {ports[name]}: Address already in use\n"
            )
        address = "127.3.2.1"  # no other program uses it, so the ports of the other server are free there
        options = [word for name in names for word in (f"--{name}-port", ports[name])]
        (tmp_path / "second").mkdir()
        with started(tmp_path / "second", "--host", address, *options) as server:
            assert {name: str(server.said[f"{name}_port"]) for name in names} == ports
            assert (server.said["host"], server.said["http_url"]) == (address, f"http://{address}:{ports['http']}")
            assert server.http("GET", "/livez") == ""
            with smtplib.SMTP(address, server.said["smtp_port"], timeout=TIMEOUT) as client:
                assert client.noop()[0] == 250


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--smtp-port", "x"), "argument --smtp-port: invalid port"),
        (("--http-port", "65536"), "argument --http-port: invalid port"),
        (("--host", "example.org"), "argument --host: invalid IP address"),
        (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1: "),
        (("--domain", "a b"), "argument --domain: invalid domain"),
        (("--user", "alice", "--user", "alice:secret"), "--user: the account 'alice' is given twice"),
        (("--user", "../alice"), "'../alice' is not the name of an account"),
        (("--user", "alice:"), "the password of 'alice' "),
        (("--certificate", "good"), "argument --certificate: invalid choice"),
        (("--starttls", "on"), "argument --starttls: invalid choice"),
        (("--no-such",), "--no-such"),
        (("extra",), "extra"),
    ],
)
def test_invalid_option_is_reported_in_one_sentence(
    arguments: tuple[str, ...], says: str, capfd: pytest.CaptureFixture[str], restored_process: object
) -> None:
    said = config_error(capfd, "test-server", "--until-eof", *arguments)  # so that it ends if it starts after all
    assert says in said
    assert "secret" not in said


@pytest.mark.parametrize("package", ["anyio", "trustme"])
def test_missing_package_is_reported_in_one_sentence(package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from mailauth_io.__main__ import main\nsys.exit(main(['test-server']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], env=serving.environment(), capture_output=True, text=True, timeout=TIMEOUT
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"mailauth test-server: requires the package {package}; run: pip install 'mailauth[testing]'\n"


def test_page_has_all_options_and_all_keys(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "commands.md").read_text(encoding="utf-8")
    section = page[page.index("## A server for tests") :]
    with pytest.raises(SystemExit):
        cli.main(("test-server", "--help"))
    options = set(re.findall(r"--[a-z][a-z0-9-]+", capfd.readouterr().out)) - {"--help"}
    assert options == set(re.findall(r"--[a-z][a-z0-9-]+", section))
    with started(tmp_path) as server:
        rows = re.findall(r"^\| (`.*?) \|", section[: section.index("| option |")], re.MULTILINE)
        assert set(server.said) == {key for row in rows for key in re.findall(r"`(\w+)`", row)}
        for row in re.findall(r"^\| (`(?:GET|PUT|DELETE) .*?) \|", section, re.MULTILINE):
            for path in re.findall(r"`GET (/[^`]*)`", row):
                status = _status(server, path.replace("ID", "latest").replace("PART", "1").replace("...", "x"))
                assert status in ((200, ""), (404, "Message not found")), path


def _status(server: TestServer, path: str) -> tuple[int, str]:
    try:
        server.http("GET", path)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    return 200, ""


def test_signal_handlers_are_there_before_the_server_is_ready(restored_process: object) -> None:
    with test_server._stop_socket() as stopped:
        signal.raise_signal(signal.SIGTERM)
        test_server._write_and_wait(b"", stopped, until_eof=False)  # returns at once
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_standard_output_that_cannot_be_written_ends_it(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log, open("/dev/full", "w") as full:
        status = subprocess.run(
            serving.command("test-server"), env=serving.environment(), stdin=subprocess.DEVNULL, stdout=full,
            stderr=log, timeout=TIMEOUT, check=False,
        ).returncode  # fmt: skip
    assert (status, (tmp_path / "log").read_text()) == (2, "mailauth test-server: No space left on device\n")


@pytest.mark.parametrize("ended_by", ["signal", "end of standard input"])
def test_standard_output_that_nobody_reads_does_not_keep_it_running(tmp_path: Path, ended_by: str) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, bytes(4096)):
            pass
    os.set_blocking(writer, True)
    log = tmp_path / "log"
    with log.open("w") as errors, subprocess.Popen(
        serving.command("test-server", "--until-eof"), env=serving.environment() | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE, stdout=writer, stderr=errors,
    ) as process:  # fmt: skip
        try:
            waiting.wait_until(lambda: list(tmp_path.glob("mailauth-testing-*/*")))
            if ended_by == "signal":
                process.send_signal(signal.SIGTERM)
            else:
                assert process.stdin is not None
                process.stdin.close()
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
            os.close(reader)
            os.close(writer)
    assert log.read_text() == ""
