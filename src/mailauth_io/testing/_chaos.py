"""The chaos triggers of the HTTP API: each rejects a percentage of MAIL, RCPT or AUTH."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import attrs

from mailauth import smtp

from .mail_server import MailServer

DEFAULT_CODES: Final[Mapping[str, int]] = {"Sender": 451, "Recipient": 451, "Authentication": 535}
"""The triggers with their default codes."""

_STEPS: Final[Mapping[str, type]] = {"Sender": smtp.Mail, "Recipient": smtp.Rcpt, "Authentication": smtp.Auth}
_TEXTS: Final = {"Sender": "sender", "Recipient": "recipient", "Authentication": "login"}


class ChaosError(ValueError):
    """A trigger is invalid.  The text says what to use instead."""


@attrs.frozen
class Trigger:
    """A reply code, and how many of a hundred commands get it."""

    error_code: int
    probability: int = 0

    def to_json(self) -> dict[str, int]:
        return {"ErrorCode": self.error_code, "Probability": self.probability}


class Chaos:
    """The triggers of a mail server.

    They are deterministic: a probability of 25 rejects the fourth command, the eighth and so on.  Command *n* since the
    triggers were set is rejected if ``n * probability / 100`` reaches the next whole number.
    """

    def __init__(self, server: MailServer) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._triggers = {name: Trigger(code) for name, code in DEFAULT_CODES.items()}
        self._counts = dict.fromkeys(DEFAULT_CODES, 0)
        self._installed: set[tuple[str, int]] = set()

    def to_json(self) -> dict[str, dict[str, int]]:
        with self._lock:
            return {name: trigger.to_json() for name, trigger in self._triggers.items()}

    def set(self, triggers: Mapping[str, Any]) -> None:
        """Set all triggers and restart their counts.  A trigger that is absent, and one with code 0, gets its default.

        Raises ChaosError, and changes nothing, if one is invalid.
        """
        names = {name.lower(): name for name in DEFAULT_CODES}
        found = {name: Trigger(code) for name, code in DEFAULT_CODES.items()}
        for key, value in triggers.items():
            name = names.get(key.lower())
            if name is not None and value is not None:
                found[name] = _trigger(name, value)
        with self._lock:
            self._triggers = found
            self._counts = dict.fromkeys(DEFAULT_CODES, 0)
            missing = {(name, each.error_code) for name, each in found.items() if each.probability} - self._installed
            self._installed |= missing
        for name, code in sorted(missing):
            self._server.on(_STEPS[name], where=self._condition(name, code)).reply(
                _reply(name, code)
            ).always().optional()

    def _condition(self, name: str, code: int) -> Callable[[Any], bool]:
        """Return the condition of the rule that replies *code*.  Only the rule with the code that is set counts."""

        def where(command: Any) -> bool:
            with self._lock:
                trigger = self._triggers[name]
                if trigger.error_code != code or not trigger.probability:
                    return False
                before = self._counts[name] * trigger.probability // 100
                self._counts[name] += 1
                return self._counts[name] * trigger.probability // 100 > before

        return where


def _trigger(name: str, value: Any) -> Trigger:
    if not isinstance(value, dict):
        raise ChaosError(f'{name} must be an object such as {{"ErrorCode": 451, "Probability": 50}}')
    fields = {key.lower(): each for key, each in cast("dict[str, Any]", value).items()}
    code = _integer(name, "ErrorCode", fields.get("errorcode")) or DEFAULT_CODES[name]
    probability = _integer(name, "Probability", fields.get("probability"))
    if not 400 <= code <= 599:
        raise ChaosError(f"{name}: the ErrorCode must be between 400 and 599")
    if not 0 <= probability <= 100:
        raise ChaosError(f"{name}: the Probability must be between 0 and 100")
    return Trigger(code, probability)


def _integer(name: str, field: str, value: Any) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise ChaosError(f"{name}: {field} must be an integer")
    return value


def _reply(name: str, code: int) -> smtp.Reply | bytes:
    text = f"{_TEXTS[name]} rejected by a chaos trigger"
    if code // 10 % 10 > 5:  # a Reply cannot be sent with such a code (RFC 5321 section 4.2)
        return f"{code} {text}\r\n".encode()
    return smtp.Reply(code, text=text)
