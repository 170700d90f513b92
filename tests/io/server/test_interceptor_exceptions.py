"""Interceptors that raise exceptions which are no Exception: what ends the session, and what is only their failure."""

from __future__ import annotations

import asyncio
import logging
import warnings
from typing import Any

import anyio
import pytest

from mailauth import Question, sasl, smtp
from mailauth_io.server import PASS, Decision, Interceptor, SessionView, _interception
from tests.io.intercepting import begins_with, run_smtp
from tests.io.server_support import PASSWORD, Run, on_both_loops, run_on_asyncio


def raising(kind: type[Question[Any]], error: BaseException) -> Interceptor:
    async def interceptor(view: SessionView, question: Question[Any]) -> Decision:
        if isinstance(question, kind):
            raise error
        return PASS

    return Interceptor(interceptor)


def replies_of(run: Run, interceptor: Interceptor) -> dict[str, str]:
    """Return the replies to a client; fail if the exception ends the server instead."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pytest.PytestUnraisableExceptionWarning)
            return run_smtp(run, interceptor)[0]
    except BaseException as error:
        raise AssertionError("the server has ended") from error


@on_both_loops
@pytest.mark.parametrize("kind", [smtp.Connected, smtp.Rcpt, smtp.MessageComplete])
def test_interceptor_that_exits_makes_the_question_unavailable(run: Run, kind: type[Question[Any]]) -> None:
    """A library calls ``sys.exit()``, for one message of one client."""
    replies = replies_of(run, raising(kind, SystemExit(1)))
    assert begins_with(list(replies.values())[-1], "421" if kind is smtp.Connected else "451")


@on_both_loops
def test_interceptor_that_raises_a_base_exception_makes_the_question_unavailable(run: Run) -> None:
    """For example an outcome of pytest, a trio.Cancelled from another loop, or a group that contains one."""
    replies = replies_of(run, raising(smtp.Rcpt, BaseExceptionGroup("several", [GeneratorExit()])))
    assert begins_with(replies["RCPT"], "451")


def test_interceptor_that_awaits_a_cancelled_task_makes_the_question_unavailable() -> None:
    """A pool of connections cancels its tasks; the session itself is not cancelled."""

    async def interceptor(view: SessionView, question: Question[Any]) -> Decision:
        if isinstance(question, smtp.Rcpt):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        return PASS

    replies = replies_of(run_on_asyncio, Interceptor(interceptor))
    assert begins_with(replies["RCPT"], "451")


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit, SystemExit])
def test_no_secret_of_a_base_exception_is_logged(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def interceptor(view: SessionView, question: Question[Any]) -> Decision:
        if isinstance(question, sasl.CheckPassword):
            raise kind(f"the password was {question.password.decode()}")
        return PASS

    replies_of(run_on_asyncio, Interceptor(interceptor, secrets=True))
    assert PASSWORD not in caplog.text


@on_both_loops
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), BaseExceptionGroup("several", [KeyboardInterrupt()])], ids=["one", "group"]
)
def test_keyboard_interrupt_ends_the_session(run: Run, error: BaseException) -> None:
    async def main() -> bool:
        return _interception.ends_session(error)

    assert run(main)


@on_both_loops
def test_cancellation_of_the_session_ends_it(run: Run) -> None:
    async def main() -> list[bool]:
        found: list[bool] = []
        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                await anyio.sleep_forever()
            except BaseException as error:
                found.append(_interception.ends_session(error))
                raise
        return found

    assert run(main) == [True]


def test_cancellation_of_the_task_ends_the_session() -> None:
    async def main() -> bool:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            found = _interception.ends_session(error)
            task.uncancel()
            return found
        return False

    assert run_on_asyncio(main)


def test_session_that_is_closed_without_an_event_loop_ends() -> None:
    """GeneratorExit in a coroutine that is discarded: it must not go on."""
    assert _interception.ends_session(GeneratorExit())
