"""What a test that fails prints: the cause comes first, and the transcript once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Final

import pytest

from tests.io.testing import failing_tests

# The first line of each failure, or its beginning, without the type of the exception; by the test in failing_tests.py.
CAUSES: Final = {
    name: " ".join(text.split())
    for name, text in re.findall(
        r"^(\w+)\n((?: +.*\n)+)",
        r"""
wrong_password
    no message: the server replied '535 5.7.8 authentication credentials invalid' to AUTH LOGIN as 'alice'
    with 'guess': the password is wrong, or the account does not exist
expired_token
    no message: the server replied '535 5.7.8 authentication credentials invalid' to AUTH XOAUTH2: the token
    is unknown or has expired
untrusted_ca
    no message: the TLS handshake failed: the client does not trust the CA of the server; use
    mail_server.ca_file or mail_server.ssl_context (unknown ca)
expired_certificate
    no message: the TLS handshake failed: the client rejected the certificate because it has expired
    (certificate expired)
certificate_of_another_host
    no message: the TLS handshake failed: the client rejected the certificate; perhaps it is for another host
    (bad certificate)
other_recipient
    no message: another message arrived: to bob@far.test, not carol@far.test
other_subject
    no message: another message arrived: subject 'tea', not 'Tea'
returned_before
    no message: it was already returned: each message is returned once; see mail_server.messages
no_connection
    no message: no client has connected; check the host and the port, and that the code was called
smtps_without_tls
    no message: the client connected to smtps_port, but did not begin TLS; for STARTTLS or no TLS, use smtp_port
client_that_closes_without_an_alert
    no message: the client closed the connection during the TLS handshake; perhaps it rejected the certificate,
    or it did not begin with TLS and needs smtp_port
ehlo_to_smtps
    no message: the TLS handshake failed: the client did not begin with TLS, which smtps_port and
    pop3s_port require
tls_to_smtp
    no message: the client began with TLS on smtp_port; use smtps_port, or STARTTLS
smtp_to_pop3
    no message: a client connected to pop3_port, which is POP3; SMTP is on smtp_port and smtps_port
relaying_without_login
    no message: the server replied '550 5.7.1 relaying denied: authentication required' to RCPT
    TO:<carol@far.test>
unknown_recipient
    no message: the server replied '550 5.1.1 no such mailbox here' to RCPT TO:<nobody@example.test>
starttls_and_no_ehlo
    no message: the client completed the TLS handshake, but sent no EHLO after it
login_is_not_complete
    no message: the client began a login by CRAM-MD5, but did not complete it
login_and_no_mail
    no message: the client logged in by CRAM-MD5, but sent no MAIL
no_login_without_tls
    no message: the client sent EHLO, but no MAIL; the server offers no AUTH
message_too_large
    no message: the server replied '552 5.3.4 message size exceeds limit' to MAIL FROM:<alice@example.test>
    size=70025
no_retry
    no message: a rule replied '451 simulated by the test' to RCPT TO:<carol@far.test>, and the client did
    not try again
drop
    no message: a rule replied DROP to DATA
stall
    no message: a rule replied STALL to MAIL FROM:<alice@example.test>
refused_greeting
    no message: a rule replied '554 simulated by the test' to the connection
network_fault
    no message: the client closed the connection without sending EHLO; network faults: reset_peer()
unused_network_fault
    network.limit_data(1000000) has affected no connection: only
second_message_fails
    no message: the server replied '535 5.7.8 authentication credentials invalid' to AUTH LOGIN as 'alice'
    with 'guess': the password is wrong, or the account does not exist
message_is_not_complete
    no message: the client closed the connection before the end of the message
control_characters
    no message: the server replied '500 5.5.2 invalid characters in command' to MAIL
    FROM:<\x1b[31m@far.test>
wait_in_coroutine
    no message: the server replied '535 5.7.8 authentication credentials invalid' to AUTH LOGIN as 'alice'
    with 'guess': the password is wrong, or the account does not exist
unused_rule
    on(smtp.Rcpt, to='bob@far.test').reply(451) was never used: RCPT was reached once, with to='carol@far.test'
rule_that_is_not_reached
    on(pop3.Retrieve, number=2).reply(pop3.Unavailable.TEMPORARY) was never used: no session reached RETR or
    TOP
rule_after_another
    on(smtp.Rcpt, to='carol@far.test').reply(451) was never used: RCPT was reached once, and another rule
    replied
retry_is_missing
    on(smtp.Rcpt, to='carol@far.test').reply(451, 451, PASS) was used 1 of 3 times
goes_on_in_clear_text
    assert (ClearSecret(
mail_is_deleted
    assert [] == ['one']
error_of_the_client
    smtplib.SMTPAuthenticationError: (535, b'5.7.8 authentication credentials invalid')
set_up_fails
    no message: another message arrived: to bob@far.test, not carol@far.test
misspelled_option
    the marker mail_server: unknown option 'certificat'; did you mean 'certificate'?
unknown_option
    the marker mail_server: unknown option 'colour'; use users, domain, certificate,
option_without_name
    the marker mail_server: options need a name, such as certificate='expired', not 'expired'
wrong_value
    the marker mail_server: users must be names or a dict of passwords, such as ('alice', 'bob'), not 'alice'
""",
        re.MULTILINE,
    )
}

WITHOUT_SERVER = ("misspelled_option", "unknown_option", "option_without_name", "wrong_value")


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run failing_tests.py, and return what pytest prints about each test."""
    directory = tmp_path_factory.mktemp("failures")
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\npython_files = *_tests.py\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-c", directory / "pytest.ini", "--rootdir", directory, "--color=no"),
            *("-p", "no:cacheprovider", "-p", "mailauth_io.pytest_plugin", "--import-mode=importlib"),
            str(failing_tests.__file__),
        ],
        cwd=directory,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1, done.stdout
    reports = done.stdout.partition("short test summary info")[0]
    headings = re.compile(r"^_{3,} (?:ERROR at (?:setup|teardown) of )?test_(\w+) _{3,}\n", re.MULTILINE)
    _, *parts = headings.split(re.sub(r"^=+ \w+ =+\n", "", reports, flags=re.MULTILINE))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_each_failure_is_known(failures: dict[str, str]) -> None:
    assert set(failures) == set(CAUSES)


@pytest.mark.parametrize("name", CAUSES)
def test_first_line_names_the_cause(failures: dict[str, str], name: str) -> None:
    """Lines of a traceback come before it only if there is something to see in the code of the test."""
    report = failures[name]
    found = re.search(r"^E +(?:AssertionError: )?(.*)", report, re.MULTILINE)
    first = report.splitlines()[0] if found is None else found[1]
    assert first.startswith(CAUSES[name])


@pytest.mark.parametrize("name", sorted(CAUSES.keys() - WITHOUT_SERVER))
def test_transcript_is_shown_once(failures: dict[str, str], name: str) -> None:
    report = failures[name]
    assert report.count("Transcript:") + report.count("Transcript of the mail server") == 1, report


@pytest.mark.parametrize("name", WITHOUT_SERVER)
def test_error_of_a_marker_is_one_line(failures: dict[str, str], name: str) -> None:
    assert len(failures[name].splitlines()) == 1


def test_control_sequences_are_escaped(failures: dict[str, str]) -> None:
    assert "\x1b" not in "".join(failures.values())
    assert r"\x1b[31m" in failures["control_characters"]


@pytest.mark.parametrize("name", ["wait_in_coroutine", "wrong_password"])
def test_traceback_ends_in_the_test(failures: dict[str, str], name: str) -> None:
    assert "mailauth_io/testing/" not in failures[name]
    assert "anyio/to_thread.py" not in failures[name].partition("no message:")[0].partition("await mail_server")[2]
