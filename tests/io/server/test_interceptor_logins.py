"""Interceptors at logins: answers to their questions, what they may see, and what is logged and counted."""

from __future__ import annotations

import base64
import contextlib
import logging
import re
import smtplib
from typing import Any

import attrs
import pytest

from mailauth import ACCEPT, Question, sasl
from mailauth_io import server, stores
from mailauth_io.server import DROP, PASS, Decision, Delay, Interceptor, SessionView
from tests.io.intercepting import (
    at,
    deciding,
    events,
    fail,
    kept_stores,
    plain,
    run_session,
    run_smtp,
    submit,
)
from tests.io.logins import Login, by_both_protocols, context, refused, server_context, smtp_login
from tests.io.server_support import (
    PASSWORD,
    Run,
    Served,
    at_once,
    meet,
    on_both_loops,
    run_on_asyncio,
)


@on_both_loops
@pytest.mark.parametrize("secrets", [False, True])
@pytest.mark.parametrize("protocol", ["SMTP", "POP3"])
def test_interceptor_sees_passwords_only_with_secrets(
    run: Run, protocol: str, secrets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[sasl.CheckPassword] = []
    shown: list[str] = []

    async def look(view: SessionView, question: Question[Any]) -> Decision:
        shown.append(repr((view, question)))
        if isinstance(question, sasl.CheckPassword):
            seen.append(question)
        return PASS

    _, _, done = run_session(run, protocol, sasl.CheckPassword, Interceptor(look, secrets=secrets))
    assert done
    ((identity, password),) = [(question.authentication_identity, question.password) for question in seen]
    assert (identity, password) == ("alice", PASSWORD.encode() if secrets else b"")
    encoded = plain().decode()
    for text in (*shown, *(record.getMessage() for record in caplog.records)):
        assert PASSWORD not in text
        assert encoded not in text


@on_both_loops
@pytest.mark.parametrize("secrets", [False, True])
def test_exception_that_quotes_a_password_is_neither_logged_nor_reported(
    run: Run, secrets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def quote(view: SessionView, question: Question[Any]) -> Decision:
        if isinstance(question, sasl.CheckPassword):
            raise LookupError(f"wrong: {question.password!r}")
        return PASS

    reported: list[Exception] = []
    replies, _ = run_smtp(run, Interceptor(quote, secrets=secrets), on_error=lambda error, peer: reported.append(error))
    assert replies["AUTH"].startswith("454 4.7.0")
    (error,) = reported
    if secrets:
        assert re.match(
            r"interceptor test_exception\S+quote failed at CheckPassword: LookupError at test_interceptor_", str(error)
        )
        assert (type(error), error.__cause__, error.__context__, error.__traceback__) == (RuntimeError, *[None] * 3)
    else:
        assert (type(error), str(error)) == (LookupError, "wrong: b''")
    (event,) = events(caplog, "interceptor failed")
    assert event["reason"] == ("LookupError" if secrets else "LookupError: wrong: b''")
    assert "test_interceptor_logins.py" in str(event["at"])
    formatter = logging.Formatter()
    assert not [record for record in caplog.records if PASSWORD in formatter.format(record)]


@on_both_loops
@pytest.mark.parametrize("secrets", [False, True])
@pytest.mark.parametrize("mechanism", ["OAUTHBEARER", "XOAUTH2"])
def test_interceptor_answers_bearer_tokens(run: Run, secrets: bool, mechanism: str) -> None:
    """The answer is the identity.  A refusal is counted and delayed once."""
    seen: list[bytes] = []
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def check(view: SessionView, question: Question[Any]) -> Decision:
        if not isinstance(question, sasl.CheckToken):
            return PASS
        seen.append(question.token)
        return "alice" if len(seen) > 2 else sasl.Refusal.TOO_WEAK

    bearer = {
        "OAUTHBEARER": b"n,,\x01auth=Bearer se-cret\x01\x01",
        "XOAUTH2": b"user=alice\x01auth=Bearer se-cret\x01\x01",
    }[mechanism]

    def client(served: Served) -> list[int]:
        codes = []
        with served.smtp("smtps") as remote:
            for _ in range(3):
                code, _ = remote.docmd("AUTH", f"{mechanism} {base64.b64encode(bearer).decode()}")
                codes.append(remote.docmd("AQ==" if mechanism == "OAUTHBEARER" else "")[0] if code == 334 else code)
        return codes

    kept = attrs.evolve(kept_stores(), tokens=stores.MemoryAccounts({}))
    codes = meet(run, client, kept=kept, interceptors=[Interceptor(check, secrets=secrets)], sleep=sleep)
    assert codes[0] // 100 == codes[1] // 100 == 5
    assert codes[2] == 235
    assert seen == [b"se-cret" if secrets else b""] * 3
    assert len(slept) == 1  # the first failure has no delay


def log_in(
    run: Run, login: Login, mechanism: sasl.ClientMechanism, *interceptors: Interceptor | server.InterceptorFunction
) -> str:
    """Log in as a client whose certificate belongs to alice; return ``ok``, or the code of the refusal."""
    known = stores.MemoryAccounts(
        {"alice": PASSWORD.encode(), "bob": b"other"}, certificate_names=[("email:a@example.test", "alice")]
    )
    kept = attrs.evolve(kept_stores(), accounts=known, certificates=known)
    config = server.Config(smtp=0, smtps=0, pop3=0, pop3s=0, ssl_context=server_context())

    async def main() -> str:
        async with server.serve(config, kept, sleep=at_once, interceptors=interceptors) as ports:
            return await login(ports, context("a@example.test"), mechanism, False)

    return run(main)


def temporary(login: Login) -> str:
    return "454" if login is smtp_login else "SYS/TEMP"


def identities(caplog: pytest.LogCaptureFixture) -> list[object]:
    return [event["identity"] for event in events(caplog, "login")]


@on_both_loops
@by_both_protocols
def test_interceptor_maps_a_client_certificate_to_an_account(
    run: Run, login: Login, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[object] = []

    def check(view: SessionView, question: Question[Any]) -> Decision:
        if not isinstance(question, sasl.CheckExternal):
            return PASS
        seen.append((question.authorization_identity, question.peer_certificate["subjectAltName"]))
        return "bob"

    assert log_in(run, login, sasl.ExternalClient(), check) == "ok"
    assert log_in(run, login, sasl.ExternalClient(authorization_identity="bob"), check) == "ok"
    assert log_in(run, login, sasl.ExternalClient()) == "ok"
    assert identities(caplog) == ["bob", "bob", "alice"]
    names = (("email", "a@example.test"),)
    assert seen == [("", names), ("bob", names)]


@on_both_loops
@by_both_protocols
def test_interceptor_refuses_a_client_certificate(run: Run, login: Login, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for decision in (sasl.Refusal.BAD_CREDENTIALS, Delay(1, then=sasl.Refusal.BAD_CREDENTIALS)):
        assert log_in(run, login, sasl.ExternalClient(), deciding(sasl.CheckExternal, decision)) == refused(login)
    for interceptor in (at(sasl.CheckExternal, fail), deciding(sasl.CheckExternal, ACCEPT)):
        assert log_in(run, login, sasl.ExternalClient(), interceptor) == temporary(login)
    assert identities(caplog) == []
    reasons = [event["reason"] for event in events(caplog, "login failed")]
    assert reasons == ["BAD_CREDENTIALS"] * 2 + ["TEMPORARY"] * 2


@on_both_loops
@by_both_protocols
def test_interceptor_decides_who_may_act_as_another_user(
    run: Run, login: Login, caplog: pytest.LogCaptureFixture
) -> None:
    """The server allows users to act only as themselves."""
    caplog.set_level(logging.INFO)
    seen: list[tuple[str, str]] = []

    def allow_bob(view: SessionView, question: Question[Any]) -> Decision:
        if not isinstance(question, sasl.Authorize):
            return PASS
        seen.append((question.authentication_identity, question.authorization_identity))
        return ACCEPT if question.authorization_identity == "bob" else sasl.Refusal.NOT_AUTHORIZED

    def plain_as(identity: str, password: str = PASSWORD) -> sasl.PlainClient:
        return sasl.PlainClient(
            authentication_identity="alice", password=password.encode(), authorization_identity=identity
        )

    assert log_in(run, login, plain_as("bob"), allow_bob) == "ok"
    assert (
        log_in(
            run,
            login,
            sasl.ExternalClient(authorization_identity="bob"),
            deciding(sasl.CheckExternal, "alice"),
            allow_bob,
        )
        == "ok"
    )
    assert identities(caplog) == ["bob", "bob"]
    assert log_in(run, login, plain_as("carol"), allow_bob) == refused(login)
    assert seen == [("alice", "bob"), ("alice", "bob"), ("alice", "carol")]
    assert log_in(run, login, plain_as("bob", "wrong"), allow_bob) == refused(login)
    assert len(seen) == 3  # not asked after a wrong password
    assert log_in(run, login, plain_as("bob")) == refused(login)
    assert log_in(run, login, plain_as("bob"), at(sasl.Authorize, fail)) == temporary(login)
    assert len(identities(caplog)) == 2


@on_both_loops
def test_interceptor_provides_the_secret_for_cram_md5(run: Run) -> None:
    def client(served: Served) -> int:
        with served.smtp("smtps") as remote:
            remote.user, remote.password = "stranger", "told to nobody"
            return remote.auth("CRAM-MD5", remote.auth_cram_md5)[0]

    assert meet(run, client, interceptors=[deciding(sasl.FetchSecret, b"told to nobody")]) == 235


@pytest.mark.parametrize("decision", [sasl.Refusal.BAD_CREDENTIALS, DROP], ids=str)
@on_both_loops
def test_refused_login_is_logged_counted_and_delayed(
    run: Run, decision: Decision, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    def client(served: Served) -> None:
        for _ in range(3):
            submit(served)

    meet(run, client, interceptors=[deciding(sasl.CheckPassword, decision)], sleep=sleep)
    reason = "ENDED" if decision is DROP else "BAD_CREDENTIALS"
    assert [(event["identity"], event["reason"]) for event in events(caplog, "login failed")] == [("alice", reason)] * 3
    assert len(slept) == (0 if decision is DROP else 2)  # a closed connection has no reply to delay


@on_both_loops
def test_dropped_logins_are_counted(run: Run) -> None:
    """The next login from the same address is delayed as after failed ones."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    def client(served: Served) -> None:
        submit(served)
        for mechanism, data in (("XOAUTH2", b"user=alice\x01auth=Bearer t\x01\x01"), ("CRAM-MD5", b"")):
            with served.smtp("smtps") as remote, contextlib.suppress(smtplib.SMTPServerDisconnected):
                remote.docmd("AUTH", f"{mechanism} {base64.b64encode(data).decode()}".rstrip())
                remote.docmd(base64.b64encode(b"alice " + b"0" * 32).decode())
        with served.smtp("smtps") as remote:
            assert remote.docmd("AUTH", f"PLAIN {plain(password='wrong').decode()}")[0] == 535

    kept = attrs.evolve(kept_stores(), tokens=stores.MemoryAccounts({}))
    decisions: list[Decision] = [DROP, PASS]
    interceptors = [
        at(sasl.CheckPassword, lambda: decisions.pop(0)),
        deciding(sasl.CheckToken, DROP),
        deciding(sasl.FetchSecret, DROP),
    ]
    meet(run, client, kept=kept, interceptors=interceptors, sleep=sleep)
    assert slept == [1.0]  # half of the maximum, after three failures


@on_both_loops
def test_accepted_login_of_an_unknown_name_opens_a_maildrop_and_makes_no_grant(run: Run) -> None:
    def client(served: Served) -> bool:
        pop = served.log_in(name="no one here", password="anything")
        assert pop.stat() == (0, 0)
        pop.quit()
        return served.may_relay()

    assert not meet(run, client, interceptors=[deciding(sasl.CheckPassword, ACCEPT)])


def test_wrong_scram_keys_and_empty_identities_are_rejected(caplog: pytest.LogCaptureFixture) -> None:
    keys = sasl.scram_keys(b"secret", salt=b"salt", iterations=4096, hash_name="sha1")
    first = base64.b64encode(b"n,,n=alice,r=nonce").decode()

    def client(served: Served) -> list[int]:
        with served.smtp("smtps") as remote:
            wrong = remote.docmd("AUTH", f"SCRAM-SHA-256 {first}")[0]
            bearer = base64.b64encode(b"user=alice\x01auth=Bearer t\x01\x01").decode()
            return [wrong, remote.docmd("AUTH", f"XOAUTH2 {bearer}")[0]]

    kept = attrs.evolve(kept_stores(), tokens=stores.MemoryAccounts({}))
    interceptors = [deciding(sasl.FetchScramKeys, keys), deciding(sasl.CheckToken, "")]
    assert meet(run_on_asyncio, client, kept=kept, interceptors=interceptors) == [454, 454]
    reasons = [str(event["reason"]) for event in events(caplog, "interceptor failed")]
    assert "must have 32 bytes" in reasons[0]
    assert "must not be empty" in reasons[1]
