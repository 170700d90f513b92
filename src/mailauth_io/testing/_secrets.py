"""The passwords and tokens that clients send without TLS."""

from __future__ import annotations

import binascii
import contextlib
import re
from collections.abc import Mapping, Sequence

import attrs

from .transcript import CLIENT, ConnectionTranscript


@attrs.frozen
class ClearSecret:
    """A password or token that a client has sent without TLS.

    For example:

        for secret in mail_server.secrets_in_clear:
            print(secret.user, secret.command)
    """

    user: str
    """The account."""
    secret: str = attrs.field(repr=False)
    """The password or the token."""
    command: str
    """The line that contains it, possibly in base64."""
    protocol: str
    """``"SMTP"`` or ``"POP3"``."""


def find_secret(
    line: bytes, connection: ConnectionTranscript, passwords: Mapping[str, str], tokens: Mapping[bytes, str]
) -> ClearSecret | None:
    """Return the secret in *line*, the last one from the client of *connection*; None without one.

    *passwords* are those of the accounts by name, and *tokens* the accounts by token.
    """
    owners: dict[bytes, list[str]] = {}
    for name, password in passwords.items():
        owners.setdefault(password.encode(), []).append(name)
    owners |= {token: [name] for token, name in tokens.items()}
    for part in _secret_parts(line):
        if part.decode("utf-8", "replace") in passwords and _is_name_of_login(connection):
            continue  # an account whose password is its name
        if (users := owners.get(part)) is not None:
            user = users[0] if len(users) == 1 else _named_last(users, connection)
            return ClearSecret(user, part.decode(), line.decode("ascii", "backslashreplace"), connection.protocol)
    return None


def _secret_parts(line: bytes) -> list[bytes]:
    """Return the parts of a command or a SASL response that may be a password or a token, the likeliest first."""
    verb, _, argument = line.partition(b" ")
    parts = [argument] if verb.upper() == b"PASS" else []
    encoded = line.rpartition(b" ")[2]
    encoded += b"=" * (-len(encoded) % 4)  # some clients leave the padding out
    with contextlib.suppress(binascii.Error):
        decoded = binascii.a2b_base64(encoded, strict_mode=True)
        for part in (*reversed(re.split(rb"[\0\1]", decoded)), decoded):  # a name precedes its password
            parts += [part, part.rpartition(b" ")[2]]  # "auth=Bearer TOKEN"
    return parts


def _is_name_of_login(connection: ConnectionTranscript) -> bool:
    """Return whether the last line of the client has the user name of the mechanism LOGIN."""
    lines = [line.data.upper() for line in connection.lines[-5:] if line.source == CLIENT]
    return lines[-1:] != [] and (lines[-1].startswith(b"AUTH LOGIN ") or lines[-2:-1] == [b"AUTH LOGIN"])


def _named_last(users: Sequence[str], connection: ConnectionTranscript) -> str:
    """Return the one of *users* whose name the client has sent last, as a part of a login."""
    for line in reversed(connection.lines):
        if line.source == CLIENT:
            parts = {part.lower() for part in (line.data.rpartition(b" ")[2], *_secret_parts(line.data))}
            for user in users:
                if user.encode() in parts:
                    return user
    return users[0]
