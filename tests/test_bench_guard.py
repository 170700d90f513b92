"""benchmarks/guard.py: its verdict on a figure, and that each workload does what its name says."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

import guard
import guard_workloads
from guard import Comparison, Verdict, compare, report
from tests.serving import environment


def verdict(recorded: int | None, counted: int) -> Verdict:
    return Comparison(workload="device", recorded=recorded, counted=counted).verdict


@pytest.mark.parametrize(
    ("recorded", "counted", "expected"),
    [
        (100_000, 100_000, Verdict.SAME),
        (100_000, 102_900, Verdict.SAME),
        (100_000, 103_000, Verdict.SAME),
        (100_000, 103_100, Verdict.MORE),
        (100_000, 200_000, Verdict.MORE),
        (100_000, 97_100, Verdict.SAME),
        (100_000, 96_900, Verdict.FEWER),
        (None, 100_000, Verdict.NOT_RECORDED),
    ],
)
def test_verdict_changes_above_three_per_cent_in_either_direction(
    recorded: int | None, counted: int, expected: Verdict
) -> None:
    assert verdict(recorded, counted) is expected


def test_regression_fails_and_is_reported_with_both_figures() -> None:
    text, passed = report("here", compare({"device": 100_000, "relay": 50}, {"device": 103_100, "relay": 50}))
    assert not passed
    assert "FAILED: device takes 103,100 instructions, 3.1% more than the recorded 100,000; the limit is 3%." in text
    assert text.count("FAILED") == 1
    assert guard.TO_RECORD in text


def test_improvement_passes_and_is_reported_with_the_record_command() -> None:
    text, passed = report("here", compare({"device": 100_000}, {"device": 50_000}))
    assert passed
    assert "less than recorded" in text
    assert guard.TO_RECORD in text


def test_change_within_the_limit_passes_without_the_record_command() -> None:
    text, passed = report("here", compare({"device": 100_000}, {"device": 102_900}))
    assert passed
    assert guard.TO_RECORD not in text


def test_missing_record_is_reported_and_passes() -> None:
    text, passed = report("this Python", compare({}, {"device": 103_100, "relay": 50}))
    assert passed
    assert "this Python" in text
    assert "103,100" in text
    assert "NOTHING COMPARED for device, relay" in text
    assert guard.TO_RECORD in text


def test_only_the_unrecorded_workload_is_reported_as_not_compared() -> None:
    text, passed = report("here", compare({"device": 100}, {"device": 110, "relay": 50}))
    assert not passed
    assert "NOTHING COMPARED for relay:" in text


def test_records_contain_exactly_the_workloads() -> None:
    records = json.loads(guard.RECORDS.read_text(encoding="utf-8"))
    assert records
    for combination, figures in records.items():
        assert figures.keys() == guard_workloads.WORKLOADS.keys(), combination


def test_totals_are_parsed_from_callgrind_output() -> None:
    printed = "==19660== Events    : Ir\n==19660== Collected : 1245045328\n==19660== \n==19668== Collected : 42\n"
    assert guard.COLLECTED.findall(printed) == [("19660", "1245045328"), ("19668", "42")]


def codes(sent: list[bytes]) -> list[int]:
    """Return the codes of all complete replies, in order."""
    return [int(code) for code in re.findall(rb"^(\d{3}) ", b"".join(sent), re.MULTILINE)]


def test_device_sends_one_message_and_quits() -> None:
    sent = guard_workloads.device(1)
    assert codes(sent) == [220, 250, 250, 250, 354, 250, 221]
    assert b"queued as 4F1B2C000001" in sent[-2]


def test_submission_logs_in_first() -> None:
    assert codes(guard_workloads.submission(1)) == [220, 250, 235, 250, 250, 354, 250, 221]


def test_groups_sends_the_replies_of_each_group_together() -> None:
    group, final = guard_workloads.groups(2)
    assert codes([group]) == [250] + [250] * 20 + [354]
    assert final == b"250 2.0.0 queued as 4F1B2C000002\r\n"


def test_collection_fetches_and_deletes_two_messages() -> None:
    sent = guard_workloads.collection(1)
    assert len(sent) == 12
    assert all(data.startswith(b"+OK") for data in sent)
    for retrieved in (sent[7], sent[9]):
        assert retrieved.endswith(guard_workloads.STUFFED_KILOBYTE + b".\r\n")


def test_relay_transfers_the_whole_message() -> None:
    assert codes(guard_workloads.relay(1)) == [220, 250, 250, 250, 354, 250, 221]


def test_workload_server_raises_on_a_missing_message_or_rejected_command() -> None:
    server = guard_workloads.SmtpServer()
    with pytest.raises(AssertionError):
        server.check(1, 0)
    with pytest.raises(AssertionError):
        server.receive(b"MAIL FROM:<alice@example.test>\r\n")


def test_program_prints_the_process_ids_to_compare() -> None:
    run = subprocess.run([sys.executable, str(guard.WORKLOADS)], env=environment(), capture_output=True, timeout=60)
    assert run.returncode == 0, run.stderr
    rows = [line.split() for line in run.stdout.decode().splitlines()]
    assert [row[0] for row in rows] == list(guard_workloads.WORKLOADS)
    assert [int(row[1]) for row in rows] == [rounds for _, rounds in guard_workloads.WORKLOADS.values()]
    assert len({process for row in rows for process in row[2:]}) == 2 * len(rows)
