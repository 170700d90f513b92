"""benchmarks/before_login.py runs and prints the columns that it documents.  The figures are not checked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import before_login
from tests.serving import environment

PROGRAM = Path(before_login.__file__)


def test_login_returns_the_commands_of_a_failed_login_attempt() -> None:
    assert before_login.login("smtp", "PLAIN", "ordinary").data == b"AUTH PLAIN\r\nAGFsaWNlAHdyb25n\r\n"
    assert before_login.login("pop3", "USER", "ordinary").data == b"USER alice\r\nPASS w\r\n"


def test_every_mechanism_is_measured_with_every_input_on_both_protocols() -> None:
    cases = {(case.protocol, case.row, case.column) for case in before_login.logins()}
    inputs = [*before_login.INPUTS, before_login.BROKEN]
    expected = {
        (protocol, mechanism, title)
        for protocol in ("smtp", "pop3")
        for mechanism in before_login.RESPONSES
        for title in inputs
    }
    assert expected <= cases


@pytest.mark.parametrize(("name", "size"), [("U+FDFA name", 255), ("U+3316", 255), ("long ASCII", 255)])
def test_long_names_have_the_maximum_accepted_length(name: str, size: int) -> None:
    assert size - 3 < len(before_login.INPUTS[name][0]) <= size


def test_program_prints_every_mechanism_and_delays_on_both_loops() -> None:
    run = subprocess.run(
        [sys.executable, str(PROGRAM), "--quick"], env=environment(), capture_output=True, text=True, timeout=110
    )
    assert run.returncode == 0, run.stderr
    for mechanism in (*before_login.RESPONSES, "USER", "APOP"):
        assert mechanism in run.stdout
    for loop in before_login.LOOPS:
        for scheme in (before_login.PLAIN, *before_login.QUICK.hashed):
            assert f"{loop}, accounts of {scheme}: quiet" in run.stdout
    assert re.search(r"^Target: .*: not checked: --quick is only a test run\.$", run.stdout, re.MULTILINE)
    assert "MISSED" not in run.stdout


def test_missed_target_is_marked_only_if_judge_is_set(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = before_login.Delays(median=1, p95=1, longest=1, loop=0, threads=0, waited=0)
    slow = before_login.Delays(median=50, p95=50, longest=50, loop=1, threads=1, waited=0)
    for judge in (True, False):
        assert not before_login.show_delays("slow", slow, quiet, None, judge=judge)
        assert ("MISSED" in capsys.readouterr().out) == judge
