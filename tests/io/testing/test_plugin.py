"""The pytest plugin: its options, what tests share, and what it costs in projects that do not use it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mailauth_io.testing import MailServer, Options

XDIST = ("-p", "xdist.plugin", "-n", "2")


def run_pytest(directory: Path, source: str, *options: str) -> str:
    """Run the tests in *source* in another process, and return what pytest prints.

    It loads no other plugins than those in *options*, and has no configuration of this project.
    """
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (directory / "test_it.py").write_text(textwrap.dedent(source))
    command = [sys.executable, "-m", "pytest", "--color=no", "--strict-markers", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-p", "mailauth_io.pytest_plugin", *options],
        cwd=directory,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    return done.stdout


def outcome(output: str) -> str:
    """Return the last line without the time, such as ``1 passed``."""
    found = re.fullmatch(r"=+ (.*) in .*s =+", output.splitlines()[-1])
    assert found is not None, output
    return found[1]


# In projects that do not use the fixture


def test_pytest_finds_the_plugin() -> None:
    [entry_point] = importlib.metadata.entry_points(group="pytest11", name="mailauth")
    assert entry_point.value == "mailauth_io.pytest_plugin"


def test_plugin_imports_nothing_until_the_fixture_is_used(tmp_path: Path) -> None:
    source = """
        import sys

        def test_it():
            loaded = {name for name in sys.modules if name.partition(".")[0] in ("mailauth", "mailauth_io")}
            assert loaded == {"mailauth_io", "mailauth_io.pytest_plugin"}
            assert not sys.modules.keys() & {"anyio", "asyncio", "attrs", "ssl", "trio", "trustme"}
    """
    assert outcome(run_pytest(tmp_path, source)) == "1 passed"


@pytest.mark.parametrize("missing", ["anyio", "trustme"])
def test_plugin_says_what_to_install(tmp_path: Path, missing: str) -> None:
    source = f"""
        import sys

        sys.modules[{missing!r}] = None  # import fails

        def test_without_server():
            pass

        def test_with_server(mail_server):
            pass
    """
    output = run_pytest(tmp_path, source)
    assert outcome(output) == "1 passed, 1 error"
    sentence = r"^the fixture mail_server needs pip install 'mailauth\[testing\]': (.*)"
    [reason] = re.findall(sentence, output, re.MULTILINE)
    assert missing in reason
    assert "Traceback" not in output
    assert "pytest_plugin.py" not in output


def test_marker_and_fixture_are_described(tmp_path: Path) -> None:
    markers = run_pytest(tmp_path, "", "--markers")
    [described] = re.findall(r"^@pytest\.mark\.mail_server\((.*?)\)", markers, re.MULTILINE)
    assert described.replace("=", "").split(", ") == list(Options.__annotations__)
    assert "An SMTP and POP3 server, cleared for this test." in run_pytest(tmp_path, "", "--fixtures")


# Options


class TestMarkers:
    pytestmark = pytest.mark.mail_server(users=["carol"], domain="far.test")

    def test_class_has_options(self, mail_server: MailServer) -> None:
        assert mail_server.users == ("carol",)
        assert mail_server.address("carol") == "carol@far.test"

    @pytest.mark.mail_server(domain="example.org", legacy=False)
    def test_function_adds_options_and_replaces_others(self, mail_server: MailServer) -> None:
        assert mail_server.options == Options(users=["carol"], domain="example.org", legacy=False)

    @pytest.mark.parametrize("kind", [pytest.param("expired", marks=pytest.mark.mail_server(certificate="expired"))])
    def test_parameter_adds_options(self, mail_server: MailServer, kind: str) -> None:
        assert mail_server.options.certificate == kind
        assert mail_server.users == ("carol",)


class TestMarkersOfSubclass(TestMarkers):
    pytestmark = pytest.mark.mail_server(domain="example.net")

    def test_class_has_options(self, mail_server: MailServer) -> None:
        assert mail_server.options == Options(users=["carol"], domain="example.net")


@pytest.mark.mail_server(users=["dave"])
@pytest.mark.mail_server(users=["carol"], domain="far.test")
@pytest.mark.parametrize(
    "user", ["dave", pytest.param("erin", marks=pytest.mark.mail_server(users=["erin"], domain="example.org"))]
)
def test_parameter_replaces_options_of_function_and_upper_decorator_those_of_lower(
    mail_server: MailServer, user: str
) -> None:
    assert mail_server.options == Options(users=[user], domain={"dave": "far.test", "erin": "example.org"}[user])


def test_options_of_another_test_are_gone(mail_server: MailServer) -> None:
    assert mail_server.options == Options()


def test_module_has_options(tmp_path: Path) -> None:
    source = """
        import pytest

        pytestmark = pytest.mark.mail_server(users={"carol": "secret"})

        def test_function(mail_server):
            assert mail_server.password("carol") == "secret"

        class TestClass:
            def test_method(self, mail_server):
                assert mail_server.users == ("carol",)
    """
    assert outcome(run_pytest(tmp_path, source)) == "2 passed"


# What tests share


def test_tests_share_only_the_ports_and_the_ca(tmp_path: Path) -> None:
    source = """
        import contextlib
        import poplib
        import smtplib

        import pytest

        from mailauth import smtp
        from mailauth_io.testing import STALL

        shared = []

        def ports(server):
            return server.smtp_port, server.smtps_port, server.pop3_port, server.pop3s_port, server.ca_file

        @pytest.mark.mail_server(certificate="untrusted", starttls="stripped", unused_rules="ignore")
        def test_first(mail_server):
            client = smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30)
            client.login("alice", "alice-password")
            client.sendmail("alice@example.test", ["bob@example.test", "carol@far.test"], b"Subject: tea\\r\\n\\r\\n")
            maildrop = poplib.POP3(mail_server.host, mail_server.pop3_port, timeout=30)
            maildrop.user("bob")
            maildrop.pass_("bob-password")
            mail_server.on(smtp.Noop).reply(451)
            mail_server.on(smtp.Rset).reply(STALL)
            mail_server.network.limit_data(10)
            mail_server.clock.advance(1000)
            client.putcmd("rset")
            assert mail_server.messages and mail_server.maildrop("bob") and mail_server.grants
            assert mail_server.secrets_in_clear and len(mail_server.transcript) == 2
            shared.append((ports(mail_server), mail_server.clock(), mail_server.issue_token("alice"), client, maildrop))
            raise RuntimeError("leave everything open")

        def test_second(mail_server):
            [(before, time, token, client, maildrop)] = shared
            assert ports(mail_server) == before
            assert mail_server.clock() < time
            assert mail_server.transcript.connections == mail_server.messages == mail_server.grants == ()
            assert mail_server.maildrop("bob") == mail_server.secrets_in_clear == ()
            for abandoned in (client, maildrop):  # the server has closed the connections
                with contextlib.suppress(ConnectionResetError):
                    assert abandoned.sock.recv(1) == b""
                abandoned.close()
            with smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30) as client:
                client.starttls(context=mail_server.ssl_context)
                client.ehlo()
                login = f"user=alice\\1auth=Bearer {token}\\1\\1"
                assert client.noop()[0] == client.rset()[0] == 250
                with pytest.raises(smtplib.SMTPAuthenticationError):
                    client.auth("XOAUTH2", lambda challenge=None: "" if challenge else login)
                client.mail("alice@example.test")
                assert client.rcpt("carol@far.test")[0] == 550  # there is no grant
    """
    assert outcome(run_pytest(tmp_path, source)) == "1 failed, 1 passed"


def test_workers_of_xdist_have_different_ports(tmp_path: Path) -> None:
    source = """
        import json
        import pathlib
        import smtplib

        def test_it(mail_server, worker_id):
            ports = mail_server.smtp_port, mail_server.smtps_port, mail_server.pop3_port, mail_server.pop3s_port
            with smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30) as client:
                client.sendmail("", [mail_server.address("alice")], f"Subject: {worker_id}\\r\\n\\r\\n")
            assert [message.subject for message in mail_server.messages] == [worker_id]
            pathlib.Path(f"{worker_id}.json").write_text(json.dumps([*ports, mail_server.ca_file]))
    """
    assert outcome(run_pytest(tmp_path, source, *XDIST, "--dist", "each")) == "2 passed"
    found = [value for path in tmp_path.glob("gw*.json") for value in json.loads(path.read_text())]
    assert len(found) == len(set(found)) == 10


# The end of a test


@pytest.mark.parametrize("end", ["raise KeyboardInterrupt", "pytest.exit('enough')"])
def test_unused_rule_of_an_interrupted_test_is_not_reported(tmp_path: Path, end: str) -> None:
    source = f"""
        import pytest

        from mailauth import smtp

        def test_passes(mail_server):
            pass

        def test_interrupted(mail_server):
            mail_server.on(smtp.Rcpt).reply(451)
            {end}
    """
    output = run_pytest(tmp_path, source)
    assert outcome(output) == "1 passed" or "_pytest.outcomes.Exit: enough" in output
    assert "was never used" not in output


def test_unused_rule_is_reported_once(tmp_path: Path) -> None:
    bodies = {
        "passes": "pass",
        "fails": "raise RuntimeError",
        "is_skipped": "pytest.skip()",
        "is_expected_to_fail": "pytest.xfail()",
        "checks": "mail_server.check()",
        "resets": "mail_server.reset()",
    }
    tests = [
        f"def test_{name}(mail_server):\n    mail_server.on(smtp.Noop).reply(451)\n    {body}\n"
        for name, body in bodies.items()
    ]
    source = "\n\n".join(["import pytest\nfrom mailauth import smtp\n", *tests])
    output = run_pytest(tmp_path, source, "-rA")
    assert sorted(re.findall(r"^([A-Z]+) .*::test_(\w+)", output, re.MULTILINE)) == [
        ("ERROR", "passes"), ("FAILED", "checks"), ("FAILED", "fails"), ("PASSED", "passes"), ("PASSED", "resets"),
        ("XFAIL", "is_expected_to_fail"),
    ]  # fmt: skip
    assert outcome(output) == "2 failed, 2 passed, 1 skipped, 1 xfailed, 1 error"


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="needs the fixture subtests")
def test_unused_rule_is_not_reported_if_a_subtest_has_failed(tmp_path: Path) -> None:
    source = """
        from mailauth import smtp

        def test_parts(mail_server, subtests):
            mail_server.on(smtp.Noop).reply(451)
            with subtests.test():
                raise RuntimeError
    """
    output = run_pytest(tmp_path, source)
    assert "RuntimeError" in output
    assert "was never used" not in output


# Fixtures and classes of the user


@pytest.fixture
def carol(mail_server: MailServer) -> str:
    return mail_server.address("carol")


@pytest.mark.mail_server(users=["carol"])
def test_fixture_of_the_user_has_the_options_of_the_test(carol: str) -> None:
    assert carol == "carol@example.test"


def test_server_that_a_test_asks_for(request: pytest.FixtureRequest) -> None:
    server: MailServer = request.getfixturevalue("mail_server")
    assert server.users == ("alice", "bob")


def test_transcript_is_shown_however_the_server_was_obtained(tmp_path: Path) -> None:
    source = """
        def test_it(request):
            request.getfixturevalue("mail_server")
            raise RuntimeError
    """
    assert run_pytest(tmp_path, source).count("Transcript of the mail server") == 1


def test_fixture_with_a_wider_scope(tmp_path: Path) -> None:
    source = """
        import pytest

        @pytest.fixture(scope="session")
        def port(mail_server_of_worker):
            return mail_server_of_worker.smtp_port

        def test_it(port, mail_server):
            assert port == mail_server.smtp_port
    """
    assert outcome(run_pytest(tmp_path, source)) == "1 passed"


def test_unittest(tmp_path: Path) -> None:
    source = """
        import smtplib
        import unittest

        import pytest

        from mailauth import smtp
        from mailauth_io.testing import mail_server

        class WithFixture(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _mail_server(self, mail_server):
                self.server = mail_server

            @pytest.mark.mail_server(users=["carol"])
            def test_options(self):
                self.assertEqual(self.server.users, ("carol",))

            def test_unused_rule(self):
                self.server.on(smtp.Noop).reply(451)

        class WithoutPytest(unittest.TestCase):
            def setUp(self):
                self.server = self.enterContext(mail_server(users=["carol"]))

            def test_message(self):
                with smtplib.SMTP(self.server.host, self.server.smtp_port, timeout=30) as client:
                    client.sendmail("", [self.server.address("carol")], b"Subject: tea\\r\\n\\r\\n")
                self.assertEqual(self.server.wait_for_message(to="carol@example.test").subject, "tea")
    """
    output = run_pytest(tmp_path, source)
    assert outcome(output) == "3 passed, 1 error"
    assert "on(smtp.Noop).reply(451) was never used: no session reached NOOP" in output
