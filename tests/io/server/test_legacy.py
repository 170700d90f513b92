"""Logins without TLS: with ``legacy`` all mechanisms, otherwise none that reveals a password or its digest."""

from __future__ import annotations

import base64
import poplib
import smtplib

import pytest

from tests.io.server_support import PASSWORD, Run, Served, authenticate, meet, on_both_loops
from tests.io.tls import client_context

pytestmark = on_both_loops

MECHANISMS = ["PLAIN", "LOGIN", "CRAM-MD5"]
PLAIN = base64.b64encode(f"\0alice\0{PASSWORD}".encode()).decode()


def said(pop3: poplib.POP3, command: str) -> bytes:
    """Send a command that poplib does not support; return the first line of the response."""
    pop3.sock.sendall(command.encode() + b"\r\n")
    return pop3.file.readline()


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(("port", "legacy"), [("smtp", True), ("starttls", False), ("smtps", False), ("smtps", True)])
def test_smtp_offers_every_mechanism_with_tls_or_legacy(run: Run, mechanism: str, port: str, legacy: bool) -> None:
    def client(served: Served) -> None:
        with served.smtp(port) as smtp:
            assert mechanism in smtp.esmtp_features["auth"].split()
            assert authenticate(smtp, mechanism) == 235
            smtp.mail("alice@example.test")
            assert smtp.rcpt("bob@far.test")[0] == 250

    meet(run, client, legacy=legacy)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_smtp_without_tls_neither_offers_nor_accepts_a_login(run: Run, mechanism: str) -> None:
    """architecture.md, invariant 3: refused before any 334, with and without an initial response."""

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            assert "auth" not in smtp.esmtp_features
            assert "starttls" in smtp.esmtp_features
            for argument in (mechanism, f"{mechanism} {PLAIN}"):
                assert smtp.docmd("AUTH", argument)[0] >= 500

    meet(run, client)


def test_pop3_without_tls_neither_offers_nor_accepts_a_login(run: Run) -> None:
    def client(served: Served) -> None:
        pop3 = served.pop3()
        assert b"<" not in pop3.getwelcome()
        capabilities = pop3.capa()
        assert "STLS" in capabilities
        assert not {"USER", "SASL"} & set(capabilities)
        for command in ("USER alice", "APOP alice " + "0" * 32, "AUTH PLAIN", f"AUTH PLAIN {PLAIN}", "AUTH CRAM-MD5"):
            assert said(pop3, command).startswith(b"-ERR")
        pop3.quit()

    meet(run, client)


def test_apop_is_rejected_before_and_after_stls_without_legacy(run: Run) -> None:
    """The timestamp in the greeting would have been sent without TLS."""

    def client(served: Served) -> None:
        pop3 = served.pop3()
        assert b"<" not in pop3.getwelcome()
        assert said(pop3, "APOP alice " + "0" * 32).startswith(b"-ERR")
        pop3.stls(context=client_context())
        assert said(pop3, "APOP alice " + "0" * 32).startswith(b"-ERR")
        pop3.user("alice")
        pop3.pass_(PASSWORD)
        pop3.quit()

    meet(run, client)


@pytest.mark.parametrize(("port", "legacy"), [("pop3", True), ("stls", True), ("pop3s", False), ("pop3s", True)])
def test_apop_is_accepted_with_implicit_tls_or_legacy(run: Run, port: str, legacy: bool) -> None:
    def client(served: Served) -> None:
        pop3 = served.pop3(port)
        pop3.apop("alice", PASSWORD)
        pop3.quit()
        assert served.may_relay()

    meet(run, client, legacy=legacy)


@pytest.mark.parametrize(("port", "legacy"), [("pop3", True), ("stls", False), ("pop3s", False)])
def test_pop3_offers_user_and_sasl_with_tls_or_legacy(run: Run, port: str, legacy: bool) -> None:
    def client(served: Served) -> None:
        pop3 = served.pop3(port)
        capabilities = pop3.capa()
        assert "USER" in capabilities
        assert set(MECHANISMS) <= set(capabilities["SASL"])
        pop3.user("alice")
        pop3.pass_(PASSWORD)
        pop3.quit()

    meet(run, client, legacy=legacy)


@pytest.mark.parametrize("name", ["alice", "ALICE", "alice@example.test", "Alice@Example.ORG"])
def test_login_accepts_every_name_of_a_mailbox(run: Run, name: str) -> None:
    def client(served: Served) -> None:
        for mechanism in MECHANISMS:
            with served.smtp("smtps") as smtp:
                authenticate(smtp, mechanism, name)
        served.log_in(name=name).quit()

    meet(run, client)


@pytest.mark.parametrize("name", ["alice@elsewhere.test", "alicia", "alice@", "@example.test", "../alice"])
def test_login_rejects_other_names(run: Run, name: str) -> None:
    def client(served: Served) -> None:
        for mechanism in MECHANISMS:
            with served.smtp("smtps") as smtp, pytest.raises(smtplib.SMTPAuthenticationError):
                authenticate(smtp, mechanism, name)
        with pytest.raises(poplib.error_proto):
            served.log_in(name=name)

    meet(run, client)


def test_unknown_name_gets_the_same_reply_as_a_wrong_password(run: Run) -> None:
    def client(served: Served) -> None:
        said = []
        for name in ("alice", "nobody"):
            with served.smtp("smtps") as smtp:
                response = base64.b64encode(f"\0{name}\0wrong".encode()).decode()
                replies: list[object] = [smtp.docmd("AUTH", f"PLAIN {response}")]
            with pytest.raises(poplib.error_proto) as refused:
                served.log_in(name=name, password="wrong")
            said.append([*replies, str(refused.value)])
        assert said[0] == said[1]

    meet(run, client)


@pytest.mark.parametrize("legacy", [False, True])
def test_only_the_named_mechanisms_are_offered_and_accepted(run: Run, legacy: bool) -> None:
    """In both protocols, with and without TLS."""

    def client(served: Served) -> None:
        for port in ("smtp", "smtps"):
            with served.smtp(port) as smtp:
                offered = smtp.esmtp_features.get("auth", "").split()
                assert offered == (["PLAIN"] if legacy or port == "smtps" else [])
                assert smtp.docmd("AUTH", "CRAM-MD5")[0] >= 500
        with served.smtp("smtps") as smtp:
            assert authenticate(smtp, "PLAIN") == 235
        pop3 = served.pop3("pop3s")
        assert b"<" not in pop3.getwelcome()
        assert pop3.capa()["SASL"] == ["PLAIN"]
        assert "USER" in pop3.capa()
        pop3.quit()
        served.log_in().quit()

    meet(run, client, legacy=legacy, mechanisms=("PLAIN", "USER"))


def test_no_mechanism_means_no_login(run: Run) -> None:
    def client(served: Served) -> None:
        with served.smtp("smtps") as smtp:
            assert "auth" not in smtp.esmtp_features
        pop3 = served.pop3("pop3s")
        assert not {"USER", "SASL"} & set(pop3.capa())
        with pytest.raises(poplib.error_proto):
            pop3.user("alice")
        pop3.close()

    meet(run, client, mechanisms=())
