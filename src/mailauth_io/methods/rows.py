"""The rows of the table: the seven methods, each with all its TLS modes and mechanisms."""

from __future__ import annotations

import enum
from typing import Final

import attrs


class Login(enum.Enum):
    """How the client authenticates.  The value is the name of the command or mechanism."""

    USER = "USER"
    APOP = "APOP"
    PLAIN = "PLAIN"
    LOGIN = "LOGIN"
    CRAM_MD5 = "CRAM-MD5"

    @property
    def by_pop3(self) -> bool:
        """Whether the client logs in by POP3 before it uses SMTP, and not by SMTP."""
        return self in (Login.USER, Login.APOP)


class TlsMode(enum.Enum):
    """How the client uses TLS."""

    CLEAR = "clear text"
    IMPLICIT = "implicit TLS"
    UPGRADE = "STARTTLS"
    """STARTTLS in SMTP, STLS in POP3."""


@attrs.frozen
class Row:
    """One row of the table: a method with one TLS mode and one mechanism."""

    number: int
    """The number of the method, 1 to 7."""
    name: str
    login: Login
    tls_mode: TlsMode

    def __str__(self) -> str:
        return f"{self.number} {self.name}"


ROWS: Final = (
    Row(1, "POP before SMTP", Login.USER, TlsMode.CLEAR),
    Row(2, "APOP before SMTP", Login.APOP, TlsMode.CLEAR),
    Row(3, "POPS before SMTPS", Login.USER, TlsMode.IMPLICIT),
    Row(3, "POP before SMTP, STLS and STARTTLS", Login.USER, TlsMode.UPGRADE),
    Row(4, "SMTP AUTH PLAIN", Login.PLAIN, TlsMode.CLEAR),
    Row(5, "SMTP AUTH LOGIN", Login.LOGIN, TlsMode.CLEAR),
    Row(6, "SMTP AUTH CRAM-MD5", Login.CRAM_MD5, TlsMode.CLEAR),
    Row(7, "SMTPS AUTH PLAIN", Login.PLAIN, TlsMode.IMPLICIT),
    Row(7, "SMTPS AUTH LOGIN", Login.LOGIN, TlsMode.IMPLICIT),
    Row(7, "SMTPS AUTH CRAM-MD5", Login.CRAM_MD5, TlsMode.IMPLICIT),
    Row(7, "SMTP AUTH PLAIN, STARTTLS", Login.PLAIN, TlsMode.UPGRADE),
    Row(7, "SMTP AUTH LOGIN, STARTTLS", Login.LOGIN, TlsMode.UPGRADE),
    Row(7, "SMTP AUTH CRAM-MD5, STARTTLS", Login.CRAM_MD5, TlsMode.UPGRADE),
)
