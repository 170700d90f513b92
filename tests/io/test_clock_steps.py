"""The wall clock is set forward and back while a server runs: no mail is lost or replaced, and no login stays."""

from __future__ import annotations

import json
import logging
import poplib
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import pytest

from mailauth import pop3
from mailauth_io import server, stores
from mailauth_io._maildir import STALE_AFTER
from mailauth_io.logs import Event, JsonFormatter, TextFormatter
from tests.io import loops
from tests.io.grant_stores import on_both_loops as async_on_both_loops
from tests.io.log_events import logged
from tests.io.server_support import Clock, Run, Served, accounts, meet, on_both_loops

HOUR, YEARS = 3600.0, 10 * 365.25 * 86_400.0
MESSAGE = b"Subject: tea\r\n\r\nAt six.\r\n"
STEPS: Final[dict[str, Callable[[float], float]]] = {
    "an hour ahead": lambda now: now + HOUR,
    "an hour back": lambda now: now - HOUR,
    "ten years ahead": lambda now: now + YEARS,
    "ten years back": lambda now: now - YEARS,
    "1970": lambda now: 5.25,
    "standing still": lambda now: now,
}


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The wall clock of this process, which stands still until a test sets it."""
    clock = Clock(float(int(time.time())))
    monkeypatch.setattr(time, "time", clock)
    return clock


def deliver(served: Served, number: int) -> None:
    with served.smtp() as smtp:
        assert smtp.sendmail("bob@far.test", ["alice@example.test"], b"X-Number: %d\r\n" % number + MESSAGE) == {}


def numbers(texts: list[bytes]) -> set[int]:
    return {int(re.search(rb"X-Number: ([0-9]+)", text)[1]) for text in texts}  # type: ignore[index]  # each has one


def unique_ids(reader: poplib.POP3) -> set[bytes]:
    return {line.split()[1] for line in reader.uidl()[1]}


@on_both_loops
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_mail_survives_a_step_of_the_wall_clock(
    run: Run, step: Callable[[float], float], wall_clock: Clock, tmp_path: Path
) -> None:
    """Every message stays with its unique-id, none replaces another, and each shows the time of its delivery.

    A maildrop that was open during the step serves its messages, and deletes them.
    """
    kept = server.Stores(accounts=accounts(), maildrops=stores.MaildirMaildrops(tmp_path), outbox=stores.MemoryOutbox())
    started = wall_clock.now

    def use(served: Served) -> None:
        for number in range(3):
            deliver(served, number)
        reader = served.log_in()
        before = unique_ids(reader)
        wall_clock.now = step(started)
        assert numbers([b"\r\n".join(reader.retr(each)[1]) for each in (1, 2, 3)]) == {0, 1, 2}
        for number in range(3, 6):
            deliver(served, number)
        reader.quit()
        texts = served.mail_of("alice")
        assert numbers(texts) == set(range(6))
        dates = [parsedate_to_datetime(text.split(b";\r\n\t")[1].split(b"\r\n")[0].decode()) for text in texts]
        assert sorted(each.timestamp() for each in dates) == sorted(3 * [int(started)] + 3 * [int(wall_clock.now)])
        again = served.log_in()
        assert unique_ids(again) > before
        for each in range(1, 7):
            again.dele(each)
        again.quit()
        assert served.mail_of("alice") == []
        # A grant of the memory store has a clock of its own.
        assert served.may_relay()

    with logged(logging.WARNING) as problems:
        meet(run, use, kept=kept, legacy=True)
    assert problems == []


@on_both_loops
def test_grant_in_memory_ends_by_the_monotonic_clock_only(run: Run, wall_clock: Clock) -> None:
    def use(served: Served) -> None:
        served.log_in().quit()
        for step in STEPS.values():
            wall_clock.now = step(wall_clock.now)
            assert served.may_relay()
        served.clock.now += 1799.0
        assert served.may_relay()
        served.clock.now += 1.0
        assert not served.may_relay()

    meet(run, use, grant_lifetime=1800.0)


@async_on_both_loops
async def test_message_that_a_step_of_the_clock_makes_stale_is_not_acknowledged(
    loop: loops.Loop, wall_clock: Clock, tmp_path: Path
) -> None:
    """A login removes stale files from tmp.  One of them belongs to a delivery that is not complete."""
    maildrops = stores.MaildirMaildrops(tmp_path)
    content = stores.MessageContent.of(MESSAGE, stores.Budget())
    complete, incomplete = [await maildrops.stage("alice", b"", content) for _ in range(2)]
    await complete.commit()
    wall_clock.now += STALE_AFTER + HOUR
    opened = await maildrops.open("alice")
    assert not isinstance(opened, pop3.Unavailable)
    assert len(opened.messages) == 1
    opened.close()
    with pytest.raises(FileNotFoundError):  # the client gets 451
        await incomplete.commit()
    incomplete.discard()


@on_both_loops
def test_failed_logins_are_delayed_while_the_clock_stands_still(run: Run, wall_clock: Clock) -> None:
    """And forgotten when it goes on: a suspended computer does not extend the delay."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    def use(served: Served) -> None:
        def fail() -> None:
            with pytest.raises(poplib.error_proto):
                served.log_in(password="wrong")

        for _ in range(3):
            fail()
        wall_clock.now -= YEARS
        fail()
        served.clock.now += 901.0
        fail()

    meet(run, use, sleep=sleep)
    assert slept == [0.25, 0.5, 1.0]


@pytest.mark.parametrize("now", [0.0, 5.25, 4_294_967_296.5, 32_503_680_000.0])
def test_log_line_has_the_time_of_the_wall_clock(now: float) -> None:
    record = logging.LogRecord("mailauth_io", logging.INFO, "", 1, Event("login", {"peer": "192.0.2.1"}), (), None)
    record.created = now
    shown = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    assert TextFormatter().format(record).startswith(shown)
    assert json.loads(JsonFormatter().format(record))["time"].startswith(shown)
