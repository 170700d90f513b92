"""``mailauth methods``: every row succeeds, and fails if a part is broken.

The tests put one fault at a time into the bench.  Each must give exit status 1, and name the row and the reason.
"""

from __future__ import annotations

import ast
import itertools
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest

from mailauth.grants import Grant, Lookup
from mailauth_io import methods, server, stores
from mailauth_io.adapters.tls.certificates import temporary_certificate
from mailauth_io.cli import main as cli
from mailauth_io.methods.client_config import HOST, ClientConfig, Clients
from mailauth_io.methods.measure import Bench, Clock
from mailauth_io.methods.outcome import Columns, Outcome
from mailauth_io.methods.report import table
from mailauth_io.methods.rows import ROWS, Login, Row, TlsMode
from mailauth_io.stores import MemoryGrants
from mailauth_io.stores.credentials import Plain
from tests.serving import LOOPS, run

ALL_IN_DESIGN = """
1 POP3 server | clear | clear | clear | nothing
2 POP3 server | clear | digest | clear | nothing
3 POP3 server | TLS | TLS | TLS | certificate
4 SMTP server | clear (base64) | clear (base64) | clear | nothing
5 SMTP server | clear (base64) | clear (base64) | clear | nothing
6 SMTP server | clear (base64) | digest | clear | nothing
7 SMTP server | TLS | TLS | TLS | certificate
"""


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(certificate=temporary_certificate(), another=temporary_certificate())


def row(number: int, tls_mode: TlsMode) -> Row:
    """Return the first row of method *number* with that TLS mode."""
    return next(row for row in ROWS if row.number == number and row.tls_mode is tls_mode)


def verdicts(bench: Bench, rows: tuple[Row, ...], loop: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run *rows* with a fault in the bench.  All must fail.  Returns the line printed about each failure."""
    assert methods.main((loop,), as_json=False, bench=attrs.evolve(bench, rows=rows)) == 1
    printed = capsys.readouterr().out.splitlines()
    troubles = []
    for broken in rows:
        (line,) = (line for line in printed if line.startswith(f"{broken} on {loop} failed: "))
        troubles.append(line)
    assert printed[-1] == f"0 of {len(rows)} rows are as expected."
    return troubles


def test_rows_cover_the_seven_methods_with_each_login_and_tls_mode() -> None:
    rows = {(row.number, row.login, row.tls_mode) for row in ROWS}
    assert rows == {
        (1, Login.USER, TlsMode.CLEAR),
        (2, Login.APOP, TlsMode.CLEAR),
        (3, Login.USER, TlsMode.IMPLICIT),
        (3, Login.USER, TlsMode.UPGRADE),
        (4, Login.PLAIN, TlsMode.CLEAR),
        (5, Login.LOGIN, TlsMode.CLEAR),
        (6, Login.CRAM_MD5, TlsMode.CLEAR),
        *(
            (7, login, tls_mode)
            for login in (Login.PLAIN, Login.LOGIN, Login.CRAM_MD5)
            for tls_mode in (TlsMode.IMPLICIT, TlsMode.UPGRADE)
        ),
    }
    assert len(ROWS) == len(rows)


def test_every_row_gives_the_expected_columns_on_both_loops() -> None:
    """Run the whole command as a user does, and compare its columns with the expected table."""
    done = run("methods", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    outcomes = json.loads(done.stdout)
    expected = dict(line.split(" ", 1) for line in ALL_IN_DESIGN.strip().splitlines())
    columns = [field.name for field in attrs.fields(Columns)]
    assert [(each["method"], each["loop"]) for each in outcomes] == [(row.name, loop) for row in ROWS for loop in LOOPS]
    for each in outcomes:
        assert " | ".join(each[column] for column in columns) == expected[str(each["number"])]
        assert (each["worked"], each["error"]) == (True, "")


def test_loop_option_selects_one_loop_and_default_is_both(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []

    def main(loops: tuple[str, ...], *, as_json: bool) -> int:
        asked.append((loops, as_json))
        return 0

    monkeypatch.setattr(methods, "main", main)
    assert cli.main(["methods"]) == cli.main(["methods", "--loop", "trio", "--json"]) == 0
    assert asked == [(("asyncio", "trio"), False), (("trio",), True)]


def test_exit_status_is_1_without_rows(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert methods.main(("asyncio",), as_json=False, bench=attrs.evolve(bench, rows=())) == 1


# Broken parts, used one at a time.


class EverybodyMayRelay(MemoryGrants):
    async def find(self, address: str) -> Grant:
        return Grant(address=address, identity="anybody", expires=math.inf)


class WhoeverLoggedInOpensAll(MemoryGrants):
    async def grant(self, address: str, identity: str) -> int:
        return await super().grant("0.0.0.0", identity)

    async def find(self, address: str) -> Lookup:
        return await super().find("0.0.0.0")


class AnyPassword(Plain):
    def check(self, password: bytes) -> bool:
        return True


class AnyPasswordWillDo(stores.MemoryAccounts):
    async def find(self, name: str) -> stores.Account | None:
        account = await super().find(name)
        if account is None or not isinstance(account.credential, Plain):
            return account
        return attrs.evolve(account, credential=AnyPassword(account.credential.password))


class AltersMessages:
    def __init__(self) -> None:
        self._outbox = stores.MemoryOutbox()

    @property
    def messages(self) -> tuple[stores.RelayedMessage, ...]:
        return self._outbox.messages

    async def stage(self, envelope: stores.Envelope, head: bytes, content: stores.MessageContent) -> stores.Staged:
        data = b"".join(content.chunks)
        altered = stores.MessageContent.of(data.replace(b"spaces   \r\n", b"spaces\r\n"), content.budget)
        return await self._outbox.stage(envelope, head, altered)


class LosesMessages(stores.MemoryOutbox):
    @property
    def messages(self) -> tuple[stores.RelayedMessage, ...]:
        return super().messages[1:]


@attrs.frozen
class Otherwise:
    """Clients that use another configuration than the row requires."""

    clients: Clients
    change: Callable[[ClientConfig], ClientConfig]

    @property
    def name(self) -> str:
        return self.clients.name

    async def submit(
        self, client_config: ClientConfig, *, recipient: str, content: bytes, authenticate: bool, source: str = HOST
    ) -> int:
        return await self.clients.submit(
            self.change(client_config), recipient=recipient, content=content, authenticate=authenticate, source=source
        )

    async def collect(self, client_config: ClientConfig) -> bytes:
        return await self.clients.collect(self.change(client_config))


def all_otherwise(bench: Bench, change: Callable[[ClientConfig], ClientConfig]) -> tuple[Clients, ...]:
    return tuple(Otherwise(clients, change) for clients in bench.clients)


@asynccontextmanager
async def running_without_tls(
    config: server.Config, kept: server.Stores, clock: Clock
) -> AsyncIterator[server.RunningServer]:
    """Run servers that use clear text on the ports for implicit TLS too, and do not offer STARTTLS or STLS."""
    clear = attrs.evolve(config, smtp=0, smtps=None, pop3=0, pop3s=None, ssl_context=None, legacy=True)
    async with server.serve(clear, kept, clock=clock) as ports:
        yield attrs.evolve(ports, smtps=ports.smtp, pop3s=ports.pop3)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_open_relay_is_found(bench: Bench, loop: str, capsys: pytest.CaptureFixture[str]) -> None:
    broken = attrs.evolve(bench, grants=lambda lifetime, clock: EverybodyMayRelay(lifetime=lifetime))
    rows = (row(1, TlsMode.CLEAR), row(3, TlsMode.UPGRADE), row(4, TlsMode.CLEAR), row(7, TlsMode.IMPLICIT))
    for trouble in verdicts(broken, rows, loop, capsys):
        assert "relaying before authentication: expected a 5xx reply, got 250" in trouble


@pytest.mark.parametrize("loop", LOOPS)
def test_a_grant_without_expiry_is_found(bench: Bench, loop: str, capsys: pytest.CaptureFixture[str]) -> None:
    broken = attrs.evolve(bench, grants=lambda lifetime, clock: MemoryGrants(lifetime=lifetime * 1e3, clock=clock))
    rows = (row(1, TlsMode.CLEAR), row(2, TlsMode.CLEAR), row(3, TlsMode.IMPLICIT))
    for trouble in verdicts(broken, rows, loop, capsys):
        assert "submission with an expired grant: expected a 5xx reply, got 250" in trouble


@pytest.mark.parametrize("loop", LOOPS)
def test_a_grant_that_ends_too_soon_is_found(bench: Bench, loop: str, capsys: pytest.CaptureFixture[str]) -> None:
    broken = attrs.evolve(bench, grants=lambda lifetime, clock: MemoryGrants(lifetime=lifetime / 2, clock=clock))
    (trouble,) = verdicts(broken, (row(1, TlsMode.CLEAR),), loop, capsys)
    assert "in the last second of the grant: rejected with 550" in trouble


@pytest.mark.parametrize("loop", LOOPS)
def test_a_grant_for_every_address_is_found(bench: Bench, loop: str, capsys: pytest.CaptureFixture[str]) -> None:
    broken = attrs.evolve(bench, grants=lambda lifetime, clock: WhoeverLoggedInOpensAll(lifetime=lifetime, clock=clock))
    rows = (row(1, TlsMode.CLEAR), row(2, TlsMode.CLEAR), row(3, TlsMode.UPGRADE))
    for trouble in verdicts(broken, rows, loop, capsys):
        assert "submission from 127.0.0.2: expected a 5xx reply, got 250" in trouble


@pytest.mark.parametrize("loop", LOOPS)
def test_acceptance_of_any_password_is_found(bench: Bench, loop: str, capsys: pytest.CaptureFixture[str]) -> None:
    broken = attrs.evolve(bench, accounts=AnyPasswordWillDo)
    rows = (row(1, TlsMode.CLEAR), row(4, TlsMode.CLEAR), row(5, TlsMode.CLEAR), row(7, TlsMode.UPGRADE))
    for trouble in verdicts(broken, rows, loop, capsys):
        assert "login with a wrong password: not rejected" in trouble


@pytest.mark.parametrize("loop", LOOPS)
def test_tls_missing_on_both_sides_is_found_in_recorded_traffic(
    bench: Bench, loop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All steps succeed; only the record shows the fault."""
    clients = all_otherwise(bench, lambda client_config: attrs.evolve(client_config, tls_mode=TlsMode.CLEAR))
    broken = attrs.evolve(bench, running=running_without_tls, clients=clients)
    rows = tuple(row(number, tls_mode) for number in (3, 7) for tls_mode in (TlsMode.IMPLICIT, TlsMode.UPGRADE))
    for trouble in verdicts(broken, rows, loop, capsys):
        assert "message on the wire is 'clear' with the mailauth clients, expected 'TLS'" in trouble
        assert "password on the wire is 'clear" in trouble
        assert "name on the wire is 'clear" in trouble
        assert "server proved by is 'nothing'" in trouble


@pytest.mark.parametrize("loop", LOOPS)
def test_tls_missing_on_the_server_is_found_by_the_clients(
    bench: Bench, loop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = attrs.evolve(bench, running=running_without_tls)
    for trouble in verdicts(broken, (row(3, TlsMode.UPGRADE), row(7, TlsMode.UPGRADE)), loop, capsys):
        assert "with the standard library, mail for a local recipient without authentication" in trouble
        assert "with the mailauth clients, mail for a local recipient without authentication" in trouble


@pytest.mark.parametrize("loop", LOOPS)
def test_certificate_that_does_not_authenticate_the_server_is_found(
    bench: Bench, loop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = attrs.evolve(bench, another=bench.certificate)
    for trouble in verdicts(broken, (row(3, TlsMode.IMPLICIT), row(7, TlsMode.UPGRADE)), loop, capsys):
        assert "server proved by is 'nothing' with the standard library, expected 'certificate'" in trouble


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("number", "instead", "seen"), [(2, Login.USER, "clear"), (6, Login.PLAIN, "clear (base64)")])
def test_a_digest_replaced_by_the_password_is_found(
    number: int, instead: Login, seen: str, bench: Bench, loop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = attrs.evolve(
        bench, clients=all_otherwise(bench, lambda client_config: attrs.evolve(client_config, login=instead))
    )
    (trouble,) = verdicts(broken, (row(number, TlsMode.CLEAR),), loop, capsys)
    for clients in ("the standard library", "the mailauth clients"):
        assert f"password on the wire is {seen!r} with {clients}, expected 'digest'" in trouble


@pytest.mark.parametrize("loop", LOOPS)
def test_a_login_at_the_wrong_server_is_found(bench: Bench, loop: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A client of a POP before SMTP row logs in with AUTH.  The trace header shows that the SMTP server checked it."""

    @attrs.frozen
    class ByAuth(Otherwise):
        async def submit(
            self, client_config: ClientConfig, *, recipient: str, content: bytes, authenticate: bool, source: str = HOST
        ) -> int:
            own = source == HOST and content.startswith((b"Subject: submission after", b"Subject: submission in"))
            changed = attrs.evolve(client_config, login=Login.PLAIN) if own else client_config
            return await self.clients.submit(
                changed, recipient=recipient, content=content, authenticate=own, source=source
            )

    broken = attrs.evolve(
        bench, clients=tuple(ByAuth(clients, lambda client_config: client_config) for clients in bench.clients)
    )
    (trouble,) = verdicts(broken, (row(1, TlsMode.CLEAR),), loop, capsys)
    assert "credentials checked by is 'SMTP server'" in trouble


@pytest.mark.parametrize("loop", LOOPS)
def test_an_altered_message_is_found(bench: Bench, loop: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (row(1, TlsMode.CLEAR), row(4, TlsMode.CLEAR), row(7, TlsMode.IMPLICIT))
    for trouble in verdicts(attrs.evolve(bench, outbox=AltersMessages), rows, loop, capsys):
        assert "the outbox: a message is not the one that was submitted" in trouble


@pytest.mark.parametrize("loop", LOOPS)
def test_a_lost_message_is_found(bench: Bench, loop: str, capsys: pytest.CaptureFixture[str]) -> None:
    (trouble,) = verdicts(attrs.evolve(bench, outbox=LosesMessages), (row(6, TlsMode.CLEAR),), loop, capsys)
    assert "the outbox: has 0 messages, expected 1" in trouble


def test_unexpected_exception_fails_only_its_row(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """An unexpected exception does not stop the other rows, and prints no traceback."""
    calls = itertools.count()

    def accounts(known: Mapping[str, bytes]) -> stores.Accounts:
        if next(calls) == 0:
            raise ValueError("no accounts today")
        return bench.accounts(known)

    broken = attrs.evolve(bench, accounts=accounts, rows=(row(4, TlsMode.CLEAR), row(5, TlsMode.CLEAR)))
    assert methods.main(("asyncio",), as_json=False, bench=broken) == 1
    printed = capsys.readouterr()
    failure, last = printed.out.splitlines()[-2:]
    assert failure.endswith(", unexpected error: ValueError('no accounts today')")
    assert last == "1 of 2 rows are as expected."
    assert "Traceback" not in printed.out + printed.err


def test_table_is_aligned_and_lists_failures() -> None:
    columns = Columns("SMTP server", "clear (base64)", "digest", "clear", "nothing")
    good = Outcome(row=ROWS[0], loop="asyncio", columns=columns)
    bad = Outcome(row=ROWS[1], loop="trio", columns=None, error="login: refused")
    lines = table([good, bad]).splitlines()
    assert len({line.index("asyncio" if "asyncio" in line else "trio") for line in lines[2:4]}) == 1
    assert lines[2].endswith("yes")
    assert lines[3].endswith("NO")
    assert lines[-2:] == [
        "2 APOP before SMTP on trio failed: login: refused",
        "1 of 2 rows are as expected.",
    ]


def test_only_compare_imports_the_expected_columns() -> None:
    """Only ``compare`` imports the expected columns."""
    readers = set()
    for path in Path(methods.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                if any("expected" in name.lower() for name in names):
                    readers.add(path.name)
    assert readers == {"compare.py"}
