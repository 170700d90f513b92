"""What ``mailauth send`` and ``mailauth fetch`` share: the options of the server and the login, and the exit status."""

from __future__ import annotations

import argparse
import getpass
import os
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from .._private_file import AccountsError
from . import parsers, secret_file
from .errors import ConfigError

T = TypeVar("T")

DONE: Final = 0
REJECTED: Final = 1
TEMPORARY: Final = 75
LOGIN_FAILED: Final = 77

EPILOG: Final = (
    "The exit status is 0 if all was done, 1 if the server has rejected a recipient or a message, 2 for invalid "
    "arguments, 75 for a temporary failure (a failed connection, or a 4yz reply), 77 if the login has failed."
)
PASSWORD_VARIABLE: Final = "MAILAUTH_PASSWORD"


def argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Return *parse*, a function of ``parsers``, with the exception that argparse reports."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except parsers.ValueParseError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def add(parser: argparse.ArgumentParser, *, ports: str, user_required: bool) -> None:
    """Add the options.  *ports* are the standard ports, for the help."""
    file = argument(parsers.path)
    parser.epilog = EPILOG
    parser.add_argument("--host", required=True, metavar="NAME", help="name or address of the server")
    port = argument(parsers.number(1, 65535, "port"))
    parser.add_argument("--port", type=port, metavar="NUMBER", help=f"port of the server (default: {ports})")
    parser.add_argument(
        "--tls",
        choices=("implicit", "starttls", "none"),
        default="implicit",
        help="TLS from the start, after STARTTLS or STLS, or none; none exposes the login (default: implicit)",
    )
    parser.add_argument("--ca", type=file, metavar="FILE", help="certificates to trust (default: those of the system)")
    parser.add_argument(
        "--user",
        required=user_required,
        metavar="NAME",
        help="log in with this name; without a file, the password is taken from the environment variable "
        f"{PASSWORD_VARIABLE}, or asked for at the terminal" + ("" if user_required else " (default: no login)"),
    )
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument("--password-file", type=file, metavar="FILE", help="file that contains the password")
    secret.add_argument(
        "--token-file", type=file, metavar="FILE", help="file that contains an access token, for OAUTHBEARER or XOAUTH2"
    )
    parser.add_argument(
        "--mechanism", action="append", default=[], metavar="NAME", type=str.upper,
        help="use only this mechanism, such as PLAIN, for the login (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--channel-binding", choices=("require", "prefer", "none"), default="prefer",
        help="whether SCRAM is bound to the TLS connection; none is for servers that refuse it (default: prefer)",
    )  # fmt: skip
    parser.add_argument(
        "--assume", action="append", default=[], metavar="NAME", type=str.upper,
        help="use this mechanism although the server does not list it (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--no-initial-response", action="store_true",
        help="send the first response of the login only after the server has asked for it",
    )  # fmt: skip
    parser.add_argument(
        "--retry-weaker", action="store_true",
        help="if the server refuses the login, try it with weaker mechanisms too, at most two",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=argument(parsers.seconds), default=60.0, metavar="SECONDS",
        help="seconds to wait for the connection and for each reply (default: 60)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def server(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of the client's functions.  Raises ConfigError."""
    if options.ca is not None and options.tls == "none":
        raise ConfigError("--ca needs TLS; use --tls implicit or --tls starttls")
    context = None
    if options.ca is not None:
        try:
            context = ssl.create_default_context(cafile=options.ca)
        except ssl.SSLError:
            raise ConfigError(f"--ca: {options.ca} has no certificate in PEM format") from None
        except OSError as error:
            raise ConfigError(f"--ca: {options.ca} cannot be read: {error.strerror}") from error
    return {
        "host": options.host,
        "port": options.port,
        "tls": options.tls,
        "ssl_context": context,
        "timeout": options.timeout,
        "login": _login(options),
    }


def _login(options: argparse.Namespace) -> object:
    from ..client import Login

    if options.user is None:
        for name in ("password_file", "token_file"):
            if getattr(options, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} needs --user")
        return None
    token = password = None
    if options.token_file is not None:
        token = _read("--token-file", options.token_file)
    elif options.password_file is not None:
        password = _read("--password-file", options.password_file)
    else:
        password = os.environb.get(PASSWORD_VARIABLE.encode()) or _ask()
    return Login(
        options.user,
        password,
        token=token,
        mechanisms=tuple(options.mechanism),
        channel_binding=options.channel_binding,
        initial_response=not options.no_initial_response,
        assume=options.assume,
        retry_weaker=options.retry_weaker,
    )


def _read(flag: str, path: Path) -> bytes:
    try:
        return secret_file.read_line(path)
    except AccountsError as error:
        raise ConfigError(f"{flag}: {error}") from error


def _ask() -> bytes:
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError(f"no password; use --password-file, or the environment variable {PASSWORD_VARIABLE}")
    try:
        return os.fsencode(getpass.getpass("Password: "))
    except EOFError:
        raise ConfigError("no password was entered") from None


def text_of(error: Exception) -> str:
    """Return the text of a ClientError, with options in place of the arguments that it says to pass."""
    from ..adapters.tls.channel_binding import WITHOUT_HINT
    from ..adapters.tls.verification import NAME_HINT, TRUST_HINT

    text = str(error).replace(TRUST_HINT, "use --ca FILE to trust its CA")
    text = text.replace(WITHOUT_HINT, "use --channel-binding none")
    return text.replace(NAME_HINT, "use a --host that is in the certificate")


def status_of(error: Exception) -> int:
    """Return the exit status for a ClientError."""
    from .. import client

    if isinstance(error, client.ConnectionFailed) or (isinstance(error, client.ServerRejected) and error.temporary):
        return TEMPORARY
    return LOGIN_FAILED if isinstance(error, client.AuthenticationFailed) else REJECTED


def put(line: str) -> None:
    """Write *line* to standard output, with escapes for characters that it cannot encode.  Raises OSError."""
    write((line + "\n").encode(sys.stdout.encoding or "ascii", "backslashreplace"))


def write(data: bytes) -> None:
    """Write all of *data* to standard output.  Raises OSError.

    Nothing remains in a buffer after an error, and with PYTHONUNBUFFERED nothing is lost by an incomplete write.
    """
    sys.stdout.flush()
    descriptor, left = sys.stdout.fileno(), memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


class Progress:
    """A line on standard error that shows the progress; nothing if standard error is not a terminal."""

    def __init__(self) -> None:
        self._width = 0
        self._shown = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Replace the line by *text*; an empty text removes it."""
        if self._shown:
            print(f"\r{text:<{self._width}}", end="" if text else "\r", file=sys.stderr, flush=True)
            self._width = len(text)
