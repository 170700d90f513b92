"""The number of connections when the process has few file descriptors."""

from __future__ import annotations

import resource
from contextlib import ExitStack
from pathlib import Path

import pytest

from mailauth import pop3
from mailauth_io import server, stores
from mailauth_io.limits import Limits
from mailauth_io.server._descriptors import POP3_SESSION, RESERVED, fit_connections, fit_limits
from tests.io import loops
from tests.io.by_hand import read_line
from tests.io.descriptors import Process
from tests.io.grant_stores import on_both_loops
from tests.io.interruptions import open_descriptors
from tests.io.line_echo import dial
from tests.io.server_support import accounts

INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limits", "after", "fixed"),
    [
        ((1_024, 1_048_576), (5_100, 1_048_576), False),
        ((1_024, INFINITE), (5_100, INFINITE), False),
        ((5_100, 5_100), (5_100, 5_100), False),
        ((INFINITE, INFINITE), (INFINITE, INFINITE), False),
        ((8_000, 10_000), (8_000, 10_000), False),
        ((5_100, 10_000), (5_100, 10_000), True),
    ],
)
def test_soft_limit_is_raised_as_far_as_needed(
    limits: tuple[int, int],
    after: tuple[int, int],
    fixed: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    process = Process(monkeypatch, *limits, fixed=fixed)
    assert fit_connections(5_000, descriptors=1, reserved=100) == 5_000
    assert process.limits == after
    assert not caplog.records


@pytest.mark.parametrize(
    ("limits", "descriptors", "connections", "fixed"),
    [
        ((1_024, 1_024), 1, 924, False),
        ((1_024, 1_024), 2, 462, False),
        ((256, 1_024), 1, 924, False),
        ((1_024, 1_048_576), 1, 924, True),
        ((1_024, INFINITE), 2, 462, True),
        ((64, 64), 1, 16, False),
        ((3, 3), 2, 1, False),
    ],
)
def test_connections_are_limited_by_the_hard_limit(
    limits: tuple[int, int],
    descriptors: int,
    connections: int,
    fixed: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The rest is for files: without it, whoever has the connections would stop the mail of all others."""
    Process(monkeypatch, *limits, fixed=fixed)
    assert fit_connections(5_000, descriptors=descriptors, reserved=100, advice="or ask") == connections
    (line,) = caplog.messages
    assert line.startswith(f'descriptors warning="at most {connections} connections instead of 5000, because')
    assert f"allow {5_000 * descriptors + 100} (ulimit -n, LimitNOFILE of systemd) or ask" in line


def test_fewer_connections_than_the_limit_allows_are_not_changed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Process(monkeypatch, 64, 64)
    assert fit_connections(10, descriptors=1, reserved=100) == 10
    assert not caplog.records


def test_one_address_has_at_most_half_of_the_connections_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    Process(monkeypatch, 1_024, 1_024)
    outbox = server.NextHop(host="mail.example.test", port=25, tls_required=False, max_sessions=30)
    both = server.Config(hosts=("127.0.0.1", "::1"), smtp=0, pop3=0)
    only_smtp = server.Config(smtp=0, limits=Limits(connections_per_address=4))
    assert fit_limits(both, outbox) == Limits(
        connections=(1_024 - RESERVED - 4 - 30) // 3, connections_per_address=(1_024 - RESERVED - 4 - 30) // 6
    )
    assert fit_limits(only_smtp, None) == Limits(connections=1_024 - RESERVED - 1, connections_per_address=4)


@on_both_loops
async def test_session_that_sends_a_message_has_as_many_descriptors_as_are_counted(
    loop: loops.Loop, tmp_path: Path
) -> None:
    """A client that does not read the message keeps its file open."""
    new = tmp_path / "alice" / "new"
    new.mkdir(parents=True)
    (new / "1").write_bytes(b"Subject: x\n\n" + 99_999 * b"line\n")
    before = open_descriptors()
    opened = await stores.MaildirMaildrops(tmp_path).open("alice")
    assert not isinstance(opened, pop3.Unavailable)
    await opened.read(1)
    assert len(open_descriptors()) - len(before) == POP3_SESSION - 1
    opened.close()


@on_both_loops
async def test_server_leaves_descriptors_for_files(
    loop: loops.Loop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = server.Stores(accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox())
    Process(monkeypatch, RESERVED + 41, RESERVED + 41)
    monkeypatch.setattr("mailauth_io.server._descriptors.RESERVED", RESERVED * 2)  # then it is a quarter
    connections = (RESERVED + 41) // 4
    async with server.serve(server.Config(smtp=0), kept) as running:

        def clients() -> None:
            assert running.smtp is not None
            with ExitStack() as stack:
                for _ in range(connections // 2):
                    assert read_line(stack.enter_context(dial(running.smtp))).startswith(b"220 ")
                assert read_line(stack.enter_context(dial(running.smtp))).startswith(b"421 ")

        await loop.in_thread(clients)
    assert [record.getMessage().split()[0] for record in caplog.records if record.levelname == "WARNING"] == [
        "descriptors", "logins", "connection",
    ]  # fmt: skip
