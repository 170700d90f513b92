"""The tests and programs in docs/testing.md run, and its tables have every option, step, answer and attribute."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import django
import pytest

from mailauth import pop3, smtp
from mailauth_io import testing
from mailauth_io.server import Config
from mailauth_io.testing.rules import POP3_STEPS, SMTP_STEPS
from tests.examples.programs import ROOT, TIMEOUT, environment

PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
BLOCKS: list[str] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
[OUTPUT] = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def with_text(text: str) -> str:
    """Return the only block that contains *text*."""
    [block] = [block for block in BLOCKS if text in block]
    return block


PROGRAM = with_text("print(error)")
ASYNC = with_text("async def ")
UNITTEST = with_text("import unittest")
DJANGO = with_text("import override_settings")
MAILERS = with_text("MAILERS=")
SUITE = "\n\n".join(block for block in BLOCKS if block not in (PROGRAM, ASYNC, UNITTEST, DJANGO, MAILERS))
"""The tests that the page calls one file."""


OPTIONS = {"anyio": (), "asyncio": ("-o", "asyncio_default_fixture_loop_scope=function"), "trio": ()}
"""The options that each plugin for async tests needs."""


def run_tests(text: str, folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run *text* with pytest and only the plugins that *options* load; the last line of the output is the result."""
    (folder / "test_page.py").write_text(text, encoding="utf-8")
    unused = [f"no:{plugin}" for plugin in OPTIONS if plugin not in options]
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "--strict-markers", "-p", "no:cacheprovider"]
    command += [argument for name in unused for argument in ("-p", name)]
    arguments = [argument for option in options for argument in OPTIONS[option]]
    return subprocess.run(
        [*command, *arguments, "test_page.py"],
        env=environment(**variables),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def passed(run: subprocess.CompletedProcess[str]) -> int:
    """Return the number of tests that have passed, if no other result and no warning was reported."""
    found = re.match(r"(\d+) passed in ", run.stdout.splitlines()[-1])
    assert found is not None, run.stdout + run.stderr
    return int(found[1])


def test_tests_of_the_page_pass(tmp_path: Path) -> None:
    assert passed(run_tests(SUITE, tmp_path)) == 25


def test_shortest_example_needs_no_other_block(tmp_path: Path) -> None:
    assert len([line for line in BLOCKS[0].splitlines() if line]) == 5
    assert passed(run_tests(BLOCKS[0], tmp_path)) == 1


WITHOUT_RETRY = {
    "if attempts == 1:": "if True:",
    "token = refresh()": "refresh()",
    "        client.quit()": "        if messages:\n            client.dele(1)\n        client.quit()",
}
WITHOUT_TLS = {"client.starttls(context=server.ssl_context)": ""}


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        (
            WITHOUT_RETRY,
            {
                "test_recipient_is_tried_again_after_451",
                "test_lost_connection_is_tried_again",
                "test_connection_that_is_reset_is_tried_again",
                "test_token_is_refreshed",
                "test_mail_is_kept",
            },
        ),
        (
            WITHOUT_TLS,
            {"test_expired_certificate_is_rejected", "test_no_password_is_sent_if_starttls_is_missing"},
        ),
    ],
)
def test_tests_of_the_page_detect_a_wrong_client(changes: Mapping[str, str], failed: set[str], tmp_path: Path) -> None:
    text = SUITE
    for right, wrong in changes.items():
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    result = run_tests(text, tmp_path)
    assert set(re.findall(r"^FAILED test_page\.py::(\w+)", result.stdout, re.MULTILINE)) == failed, result.stdout


@pytest.mark.parametrize(("plugin", "number"), [("anyio", 2), ("asyncio", 1), ("trio", 1)])
def test_async_test_passes_with_each_plugin(plugin: str, number: int, tmp_path: Path) -> None:
    """On asyncio and trio with the plugin of anyio."""
    if plugin != "anyio":
        assert f"`pytest.mark.{plugin}`" in PAGE
    assert ASYNC.count("pytest.mark.anyio") == 1
    assert passed(run_tests(ASYNC.replace("pytest.mark.anyio", f"pytest.mark.{plugin}"), tmp_path, plugin)) == number


def run_unittest(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "test_page.py").write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "unittest", "test_page"],
        env=environment(),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_unittest_example_passes(tmp_path: Path) -> None:
    run = run_unittest(UNITTEST, tmp_path)
    assert run.returncode == 0, run.stderr
    assert "Ran 1 test in " in run.stderr


def test_unittest_example_reports_an_unused_rule_of_each_test(tmp_path: Path) -> None:
    rule = "        self.server.on(smtp.Rset).reply(451)\n"
    tests = f"    def test_first(self):\n{rule}\n    def test_second(self):\n{rule}"
    run = run_unittest(f"from mailauth import smtp\n{UNITTEST}\n{tests}", tmp_path)
    assert re.findall(r"^FAIL: (\w+)", run.stderr, re.MULTILINE) == ["test_first", "test_second"], run.stderr


def test_django_example_passes(tmp_path: Path) -> None:
    (tmp_path / "page_settings.py").write_text("SECRET_KEY = 'unused'\n", encoding="utf-8")
    (tmp_path / "conftest.py").write_text("import django\n\ndjango.setup()\n", encoding="utf-8")  # as pytest-django
    # The later definition of the fixture is used.  Each Django runs the fixture that it does not warn about.
    text = f"{DJANGO}\n\n{MAILERS}" if django.VERSION[:2] >= (6, 1) else DJANGO
    assert passed(run_tests(text, tmp_path, DJANGO_SETTINGS_MODULE="page_settings")) == 1


def test_program_prints_what_the_page_shows() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment(), capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert run.stderr == ""
    assert run.stdout.lower() == OUTPUT.lower(), run.stdout  # smtplib of some versions sends "from:" and "to:"


# Tables


def table(*header: str) -> list[list[str]]:
    """Return the rows of the only table that begins with *header*."""
    start = "| " + " | ".join(header) + " |"
    [rows] = re.findall(rf"^{re.escape(start)}\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows.splitlines()]


def names(cell: str) -> list[str]:
    """Return the names in a cell: ``latency`` of ``latency(seconds)``."""
    return re.findall(r"`(\w+)[^`]*`", cell)


def test_options_and_their_defaults_are_those_of_the_class() -> None:
    rows = table("option", "meaning", "default")
    assert [names(row[0]) for row in rows] == [[field.name] for field in attrs.fields(testing.Options)]
    defaults = {row[0].strip("`"): row[2].strip("`") for row in rows}
    for field in attrs.fields(testing.Options):
        if field.default is not None:
            options: dict[str, Any] = {field.name: eval(defaults[field.name], {})}
            assert testing.Options(**options) == testing.Options()
    assert defaults["mechanisms"] == "all"
    assert defaults["max_message_size"] == f"{Config().max_message_size // 2**20} MiB"


@pytest.mark.parametrize(("module", "steps"), [(smtp, SMTP_STEPS), (pop3, POP3_STEPS)])
def test_steps_and_their_fields_exist(module: ModuleType, steps: Mapping[type[Any], str]) -> None:
    rows = table(f"step of `{module.__name__}`", "when", "fields")
    assert {getattr(module, name) for row in rows for name in names(row[0])} == set(steps)
    for row in rows:
        kinds = [getattr(module, name) for name in names(row[0])]
        for field in names(row[2]):
            assert any(accepts(kind, field) for kind in kinds), f"{row[0]}: {field}"


def accepts(step: type[Any], field: str) -> bool:
    """Return whether a rule for *step* can have a condition for *field*."""
    conditions: dict[str, Any] = {field: "bob@far.test"}
    try:
        testing.Rule(step, **conditions)
    except TypeError:
        return False
    return True


def test_answers_are_accepted_at_their_step() -> None:
    answers = [code for row in table("answer", "effect") for code in re.findall("`([^`]*)`", row[0])]
    assert len(answers) == 10
    scope = {"smtp": smtp, "pop3": pop3, **{name: getattr(testing, name) for name in testing.__all__}}
    for code in answers:
        step = pop3.Stat if "pop3" in code else smtp.Rcpt
        testing.Rule(step).reply(eval(code, scope))
    assert {member.name for member in testing.Action} | {"DROP", "PASS"} <= set(answers)


def test_attributes_exist_and_all_are_shown() -> None:
    """Those of the server in the table, those of messages in the text after it."""
    shown = {name for row in table("attribute", "value") for name in names(row[0])}
    with testing.mail_server() as server:
        public = {name for name in dir(server) if not name.startswith("_")}
    assert public - shown == {"close", "options", "start", "wait_for_message_async"}
    assert shown <= public
    [text] = re.findall(r"^(A message has .*?)\n\n", PAGE, re.MULTILINE | re.DOTALL)
    message, envelope = ({*names(part)} for part in text.split(". The envelope"))
    stored = {name for name in dir(testing.StoredMessage(b"")) if not name.startswith("_")}
    assert message == stored | {"EmailMessage", "datetime", "received", "envelope"}
    assert envelope == {field.name for field in attrs.fields(testing.Envelope)}


def test_every_attribute_that_a_migration_names_exists() -> None:
    found = set(re.findall(r"\b(?:mail_server|message(?:\.envelope)?)\.(\w+)", PAGE.partition("### Migration")[2]))
    assert {"smtps_port", "wait_for_message", "recipients", "raw"} <= found
    known = {*dir(testing.MailServer), "ca_file", "network", *dir(testing.StoredMessage(b"")), "envelope"}
    assert found - known - {field.name for field in attrs.fields(testing.Envelope)} == set()


def test_methods_of_the_network_and_their_parameters_exist() -> None:
    rows = table("method", "effect")
    assert [names(row[0])[0] for row in rows] == ["latency", "bandwidth", "slicer", "reset_peer", "limit_data"]
    for row in rows:
        method = getattr(testing.Network, names(row[0])[0])
        parameters = re.findall(r"[(,] ?(\w+)", row[0])
        assert set(parameters) <= set(inspect.signature(method).parameters)
