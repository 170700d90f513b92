"""The pytest plugin: the fixture and the marker ``mail_server``.  Pytest loads it if this package is installed.

It is not in the package ``testing``, whose modules it imports only when a test uses the fixture.
"""

from __future__ import annotations

import difflib
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from .testing import MailServer, Options

_MARKER: Final = (
    "mail_server(users=, domain=, certificate=, starttls=, legacy=, mechanisms=, max_message_size=, grant_lifetime=,"
    " open_relay=, max_failed_logins=, unused_rules=): the options of the mail server of the test"
    " (see mailauth_io.testing.Options)"
)
_SERVER: Final[pytest.StashKey[MailServer]] = pytest.StashKey()
"""The server of a test, from the set-up of the fixture to its end."""
_PASSED: Final = pytest.StashKey[bool]()
"""Whether the test has run and not failed; absent before that, and if it was interrupted."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", _MARKER)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the transcript to the report of a test that has failed, and tell the fixture whether it has passed."""
    report = yield
    server = item.stash.get(_SERVER, None)
    if server is not None:
        if report.when == "call":
            item.stash[_PASSED] = report.passed and item.stash.get(_PASSED, True)  # a subtest has a report of its own
        if report.failed and "Transcript:" not in report.longreprtext:
            report.sections.append(("Transcript of the mail server", str(server.transcript)))
    return report


@pytest.fixture(scope="session")
def mail_server_of_worker() -> Iterator[MailServer]:
    """The server of this process, for fixtures with a wider scope than a test.  Its ports and its CA do not change.

    The fixture ``mail_server`` clears it before each test.
    """
    server = _new_server()
    server.start()
    yield server
    server.close()


@pytest.fixture
def mail_server(request: pytest.FixtureRequest, mail_server_of_worker: MailServer) -> Iterator[MailServer]:
    """An SMTP and POP3 server, cleared for this test.  Its options are the arguments of the markers ``mail_server``.

    At its end, the test fails if a rule was not used up, a network fault had no effect, or a session raised an
    error.
    """
    server = mail_server_of_worker
    test: pytest.Item = request.node
    server.reset(_options(test))
    test.stash[_SERVER] = server
    if _PASSED in test.stash:  # the test is run again, as pytest-rerunfailures does
        del test.stash[_PASSED]
    yield server
    problem = None
    if test.stash.get(_PASSED, False):
        try:
            server.check()
        except AssertionError as error:
            problem = str(error)
    del test.stash[_SERVER]  # the transcript is in the text of the problem
    if problem is not None:
        pytest.fail(problem, pytrace=False)


def _new_server() -> MailServer:
    try:
        from .testing import MailServer

        return MailServer()
    except ImportError as error:
        reason = str(error)
    pytest.fail(f"the fixture mail_server needs pip install 'mailauth[testing]': {reason}", pytrace=False)


def _options(test: pytest.Item) -> Options:
    """Return the options in the markers of *test*.  A marker of a function adds to those of its class and module.

    Of the markers of one function or class, the last replaces the others: pytest lists the lowest decorator first, base
    classes before the class, and markers of parameters last.

    An invalid marker fails the test, with a message of one line.
    """
    from .testing import Options
    from .testing.options import OptionArguments

    names = list(OptionArguments.__annotations__)
    options: dict[str, Any] = {}
    problem = ""
    for marker in (marker for node in test.listchain() for marker in node.own_markers if marker.name == "mail_server"):
        options |= marker.kwargs
        if marker.args:
            problem = f"options need a name, such as certificate='expired', not {marker.args[0]!r}"
    for name in [name for name in options if name not in names]:
        close = difflib.get_close_matches(name, names, 1)
        choices = f"did you mean {close[0]!r}?" if close else f"use {', '.join(names)}"
        problem = f"unknown option {name!r}; {choices}"
    if not problem:
        try:
            return Options(**options)
        except (TypeError, ValueError) as error:
            problem = str(error)
    pytest.fail(f"the marker mail_server: {problem}", pytrace=False)
