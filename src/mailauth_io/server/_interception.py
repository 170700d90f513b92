"""Calls the interceptors of a server, and checks what they return."""

from __future__ import annotations

import inspect
import math
from typing import Any, Final, cast

import anyio
import attrs

from mailauth import Accept, Question, pop3, sasl, smtp

from .._event_loop import is_task_cancelled
from ..logs import place, shown
from .interceptors import Answer, Decision, Delay, Drop, Interceptor, Pass, SessionView

LOGIN_QUESTIONS: Final = (
    sasl.CheckPassword,
    sasl.FetchSecret,
    sasl.FetchScramKeys,
    sasl.CheckToken,
    sasl.CheckExternal,
    sasl.Authorize,
)


async def call(interceptor: Interceptor, view: SessionView, question: Question[Any]) -> Decision:
    """Return the decision of *interceptor* on *question*.

    Raises what the function raises, TimeoutError if it takes too long, and TypeError or ValueError if what it returns
    cannot answer *question*.
    """
    decision: Any = None
    with anyio.move_on_after(interceptor.timeout) as scope:
        decision = interceptor.function(view, question if interceptor.secrets else without_secrets(question))
        if inspect.isawaitable(decision):
            decision = await decision
    if scope.cancelled_caught:
        raise TimeoutError(f"no decision within {interceptor.timeout:g} seconds")
    final = decision.then if isinstance(decision, Delay) else decision
    if not isinstance(final, Pass | Drop):
        _check_answer(question, final)
    return decision  # type: ignore[no-any-return]  # checked above


def ends_session(error: BaseException) -> bool:
    """Return whether *error* is not a failure of an interceptor: Ctrl-C, or the cancellation of the session itself.

    SystemExit, and the cancellation of another task that the interceptor has awaited, are failures.
    """
    if isinstance(error, Exception):
        return False
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        if group.subgroup(KeyboardInterrupt) is not None:
            return True
    elif isinstance(error, KeyboardInterrupt):
        return True
    try:
        return anyio.current_effective_deadline() == -math.inf or is_task_cancelled()
    except RuntimeError:  # there is no event loop any more, and the session is closed as a generator is
        return True


def without_secrets(question: Question[Any]) -> Question[Any]:
    """Return *question*, or a copy of it with an empty password or token."""
    match question:
        case sasl.CheckPassword():
            return attrs.evolve(question, password=b"")
        case sasl.CheckToken():
            return attrs.evolve(question, token=b"")
        case _:
            return question


def without_message(interceptor: Interceptor, question: Question[Any], error: BaseException) -> Exception:
    """Return an exception for ``on_error`` in place of *error*, with its class and place only.

    Its message or traceback may contain a secret, or it is not an Exception, such as SystemExit.
    """
    return RuntimeError(
        f"interceptor {interceptor.name} failed at {type(question).__name__}: {type(error).__name__} at {place(error)}"
    )


def _check_answer(question: Question[Any], answer: object) -> None:
    """Raise TypeError or ValueError, with a text that contains no secret, if *answer* cannot answer *question*."""
    wanted, text = _answers(question)
    if not isinstance(answer, wanted):
        raise TypeError(
            f"the decision on {type(question).__name__} must be PASS, DROP, a Delay, {text};"
            f" not {type(answer).__name__}"
        )
    if answer == "":
        raise ValueError("the identity must not be empty; use sasl.Refusal.BAD_CREDENTIALS to refuse the login")
    if isinstance(answer, smtp.Reply):
        first = answer.code // 100
        if first == 3:
            raise ValueError(f"{answer.code} cannot answer a question; use 2yz to accept, 4yz or 5yz to reject")
        if answer.enhanced_status_code and answer.enhanced_status_code[0] != str(first):
            raise ValueError(f"the enhanced status code of {answer} does not match its code; use the same first digit")
    if isinstance(question, sasl.FetchScramKeys) and isinstance(answer, sasl.ScramKeys):
        size = 20 if question.hash_name == "sha1" else 32
        if len(answer.stored_key) != size:
            raise ValueError(f"the keys for {question.hash_name} must have {size} bytes; use sasl.scram_keys()")


def _answers(question: Question[Any]) -> tuple[tuple[type[Any], ...], str]:
    """Return the types of the answers to *question*, and their names."""
    match question:
        case sasl.CheckPassword() | sasl.Authorize():
            return (Accept, sasl.Refusal), "ACCEPT or a sasl.Refusal"
        case sasl.FetchSecret():
            return (bytes, sasl.Refusal), "bytes or a sasl.Refusal"
        case sasl.FetchScramKeys():
            return (sasl.ScramKeys, sasl.Refusal), "sasl.ScramKeys or a sasl.Refusal"
        case sasl.CheckToken() | sasl.CheckExternal():
            return (str, sasl.Refusal), "the identity as a str, or a sasl.Refusal"
        case smtp.VerdictQuestion() | smtp.MessageComplete():
            return (Accept, smtp.Reply), "ACCEPT or an smtp.Reply"
        case _:
            return (Accept, pop3.Unavailable), "ACCEPT or a pop3.Unavailable"


def is_negative(answer: Answer) -> bool:
    """Return whether *answer* rejects what the client wants."""
    if isinstance(answer, smtp.Reply):
        return not answer.positive
    return isinstance(answer, pop3.Unavailable | sasl.Refusal)


def shown_decision(decision: Answer | Drop) -> object:
    """Return *decision* for the log, without the secrets that some answers contain."""
    match decision:
        case Drop():
            return "DROP"
        case pop3.Unavailable() | sasl.Refusal():
            return decision.name
        case smtp.Reply():
            return decision
        case _:
            return "ACCEPT"


def described(view: SessionView, question: Question[Any]) -> dict[str, Any]:
    """Return the fields of the log that tell whose mail *question* is about, and which."""
    mail = question if isinstance(question, smtp.Mail) else view.mail
    message = view.message
    recipients = ",".join(str(each.forward_path) for each in view.recipients)
    return {
        "queue_id": None if message is None else message.queue_id,
        "sender": None if mail is None else shown("" if mail.reverse_path is None else str(mail.reverse_path)),
        "recipient": shown(str(question.forward_path)) if isinstance(question, smtp.Rcpt) else None,
        "recipients": None if message is None else shown(recipients),
        "size": None if message is None else message.size,
        "identity": shown(view.identity),
        "grant": shown(view.grant),
    }
