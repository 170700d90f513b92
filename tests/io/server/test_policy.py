"""The relay policy, which is the same on all ports, and for tolerant and strict syntax."""

from __future__ import annotations

import base64
import poplib

import pytest

from mailauth.grants import Lookup
from mailauth_io import server, stores
from tests.io import server_support
from tests.io.server_support import PASSWORD, Run, Served, accounts, authenticate, meet, on_both_loops

pytestmark = on_both_loops


@pytest.fixture(autouse=True, params=[False, True], ids=["tolerant", "strict"])
def syntax(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_support, "strict_syntax", request.param)


SMTP_PORTS = ["smtp", "starttls", "smtps"]
on_every_smtp_port = pytest.mark.parametrize("port", SMTP_PORTS)


@on_every_smtp_port
def test_mail_command_is_accepted_without_login(run: Run, port: str) -> None:
    def client(served: Served) -> None:
        with served.smtp(port) as smtp:
            assert smtp.mail("anybody@far.test")[0] == 250

    meet(run, client)


@on_every_smtp_port
def test_mail_for_a_local_recipient_is_accepted_without_login(run: Run, port: str) -> None:
    def client(served: Served) -> None:
        with served.smtp(port) as smtp:
            assert smtp.sendmail("anybody@far.test", ["alice@example.test"], "Subject: hello\r\n\r\nbody") == {}
        (text,) = served.mail_of("alice")
        assert text.endswith(b"Subject: hello\r\n\r\nbody\r\n")

    meet(run, client)


@on_every_smtp_port
def test_relaying_without_login_is_rejected_from_the_loopback_address(run: Run, port: str) -> None:
    def client(served: Served) -> None:
        with served.smtp(port) as smtp:
            smtp.mail("alice@example.test")
            assert smtp.rcpt("bob@far.test") == (550, b"5.7.1 relaying denied: authentication required")
            assert smtp.rcpt("bob@example.test")[0] == 250

    meet(run, client)


@pytest.mark.parametrize("path", ["nobody@example.test", "al.ice@example.org", "postmaster@example.test"])
def test_unknown_local_recipient_is_rejected(run: Run, path: str) -> None:
    def client(served: Served) -> None:
        with served.smtp() as smtp:
            smtp.mail("anybody@far.test")
            assert smtp.rcpt(path) == (550, b"5.1.1 no such mailbox here")

    meet(run, client, postmaster=None)


@pytest.mark.parametrize(
    "path", ["alice%far.test@example.test", '"bob@far.test"@example.test', "far.test!bob@example.test"]
)
def test_address_with_embedded_route_is_remote(run: Run, path: str) -> None:
    """Another mailer might relay an address with ``%``, ``!`` or a second ``@``."""

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            smtp.mail("anybody@far.test")
            assert smtp.rcpt(path) == (550, b"5.7.1 relaying denied: authentication required")

    meet(run, client)


@on_every_smtp_port
def test_smtp_login_allows_relaying_only_in_its_session(run: Run, port: str) -> None:
    def client(served: Served) -> None:
        with served.smtp(port) as smtp:
            smtp.login("alice", PASSWORD)
            assert smtp.sendmail("alice@example.test", ["bob@far.test"], "Subject: out\r\n\r\nbody") == {}
        assert not served.may_relay(port)
        (message,) = served.outbox.messages
        assert message.envelope.reverse_path == "alice@example.test"
        assert message.envelope.recipients == ("bob@far.test",)

    meet(run, client, legacy=True)


def test_starttls_discards_the_login(run: Run) -> None:
    """RFC 3207 section 4.2: knowledge obtained before TLS is discarded."""

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            smtp.login("alice", PASSWORD)
            smtp.starttls(context=None)
            smtp.ehlo()
            smtp.mail("alice@example.test")
            assert smtp.rcpt("bob@far.test")[0] == 550

    meet(run, client, legacy=True)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("port", ["stls", "pop3s"])
def test_pop3_login_allows_relaying_on_all_smtp_ports_for_its_address_only(run: Run, port: str, legacy: bool) -> None:
    def client(served: Served) -> None:
        assert not served.may_relay()
        served.log_in(port).quit()
        assert all(served.may_relay(each) for each in SMTP_PORTS)
        assert not served.may_relay(source="127.0.0.2")

    meet(run, client, legacy=legacy)


def test_grant_expires_after_its_lifetime_and_login_makes_another(run: Run) -> None:
    def client(served: Served) -> None:
        served.log_in().quit()
        served.clock.now += 59.9
        assert served.may_relay()
        served.clock.now += 0.1
        assert not served.may_relay()
        served.log_in().quit()
        assert served.may_relay()

    meet(run, client, grant_lifetime=60)


def test_grant_expiry_applies_within_a_session(run: Run) -> None:
    """The grant is looked up at every RCPT that needs it."""

    def client(served: Served) -> None:
        served.log_in().quit()
        with served.smtp() as smtp:
            smtp.mail("alice@example.test")
            assert smtp.rcpt("bob@far.test")[0] == 250
            served.clock.now += 60
            assert smtp.rcpt("carol@far.test")[0] == 550

    meet(run, client, grant_lifetime=60)


def test_sending_does_not_extend_a_grant(run: Run) -> None:
    def client(served: Served) -> None:
        served.log_in().quit()
        served.clock.now += 59
        with served.smtp() as smtp:
            assert smtp.sendmail("alice@example.test", ["bob@far.test"], "x") == {}
        served.clock.now += 1
        assert not served.may_relay()

    meet(run, client, grant_lifetime=60)


def test_zero_grant_lifetime_disables_grants(run: Run) -> None:
    """A configured grant store is not used."""
    grants = Grants()

    def client(served: Served) -> None:
        served.log_in().quit()
        assert not served.may_relay()

    meet(run, client, grant_lifetime=0)
    meet(run, client, grant_lifetime=0, kept=kept_with(grants))
    assert grants.made == []


@pytest.mark.parametrize(("name", "password"), [("alice", "wrong"), ("nobody", PASSWORD), ("", PASSWORD)])
def test_failed_login_makes_no_grant(run: Run, name: str, password: str) -> None:
    def client(served: Served) -> None:
        with pytest.raises(poplib.error_proto):
            served.log_in(name=name, password=password)
        assert not served.may_relay()

    meet(run, client)


def test_login_makes_a_grant_if_the_maildrop_is_in_use(run: Run) -> None:
    """The login itself was successful."""

    def client(served: Served) -> None:
        first = served.log_in()
        served.clock.now += 60
        assert not served.may_relay()
        with pytest.raises(poplib.error_proto, match=r"\[IN-USE\]"):
            served.log_in()
        assert served.may_relay()
        first.quit()

    meet(run, client, grant_lifetime=60)


class Grants(stores.MemoryGrants):
    """A grant store that records the grants made, and can be made to fail."""

    def __init__(self, *, failing: bool = False) -> None:
        super().__init__()
        self.failing = failing
        self.made: list[tuple[str, str]] = []

    async def find(self, address: str) -> Lookup:
        if self.failing:
            raise OSError(5, "Input/output error")
        return await super().find(address)

    async def grant(self, address: str, identity: str) -> int:
        self.made.append((address, identity))
        if self.failing:
            raise OSError(5, "Input/output error")
        return await super().grant(address, identity)


def kept_with(grants: stores.Grants) -> server.Stores:
    return server.Stores(
        accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox(), grants=grants
    )


@pytest.mark.parametrize("name", ["alice", "ALICE@example.ORG"])
def test_grant_has_canonical_name_and_is_made_before_the_reply(run: Run, name: str) -> None:
    grants = Grants()

    def client(served: Served) -> None:
        pop3 = served.log_in(name=name)
        assert grants.made == [("127.0.0.1", "alice")]
        pop3.quit()

    meet(run, client, kept=kept_with(grants))


def test_revoke_identity_and_revoke_address_remove_grants(run: Run) -> None:
    grants = Grants()

    def client(served: Served) -> None:
        for name, password in (("alice", PASSWORD), ("bob", "other")):
            served.log_in(name=name, password=password).quit()

    meet(run, client, kept=kept_with(grants))

    async def main() -> None:
        await grants.revoke_identity("bob")
        assert await grants.find("127.0.0.1") is not None
        await grants.revoke_identity("alice")
        assert await grants.find("127.0.0.1") is None
        await grants.grant("127.0.0.1", "alice")
        await grants.revoke_address("127.0.0.1")
        assert await grants.find("127.0.0.1") is None

    run(main)


def test_rcpt_gets_451_if_the_grant_store_fails(run: Run) -> None:
    """451, because a 550 would bounce the mail.  Local mail needs no grant."""

    def client(served: Served) -> None:
        served.log_in().quit()
        with served.smtp() as smtp:
            smtp.mail("alice@example.test")
            assert smtp.rcpt("bob@far.test") == (451, b"4.7.1 cannot check relay permission, try again later")
            assert smtp.rcpt("bob@example.test")[0] == 250

    meet(run, client, kept=kept_with(Grants(failing=True)))


def test_authorization_identity_of_another_user_is_rejected(run: Run) -> None:
    """A user may only act as himself."""

    def client(served: Served) -> None:
        with served.smtp("smtps") as smtp:
            for name, code in (("bob", 535), ("alice", 235)):
                response = base64.b64encode(f"{name}\0alice\0{PASSWORD}".encode()).decode()
                assert smtp.docmd("AUTH", f"PLAIN {response}")[0] == code

    meet(run, client)


def test_log_gives_the_grant_or_identity_that_allowed_relaying(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mailauth_io.server")

    def client(served: Served) -> None:
        served.log_in(name="bob", password="other").quit()
        for logged_in in (False, True):
            with served.smtp("smtps") as smtp:
                if logged_in:
                    authenticate(smtp, "PLAIN")
                smtp.sendmail("someone@far.test", ["alice@example.test", "b@far.test"], "x")
        served.clock.now += 10_000
        with served.smtp() as smtp:
            smtp.mail("someone@far.test")
            assert smtp.rcpt("b@far.test")[0] == 550

    meet(run, client)
    lines = [record.getMessage() for record in caplog.records]
    by_grant, by_identity = [line for line in lines if line.startswith("message ")]
    assert " reason=GRANT by=bob reply=" in by_grant
    assert " mechanism=" not in by_grant
    assert " mechanism=PLAIN " in by_identity
    assert " reason=IDENTITY by=alice reply=" in by_identity
    (refused,) = [line for line in lines if line.startswith("recipient refused ")]
    assert ' recipient=b@far.test reason=NO_GRANT reply="550 5.7.1 ' in refused
