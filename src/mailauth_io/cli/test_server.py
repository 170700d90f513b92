"""``mailauth test-server``: the mail server of the test kit, for tests in other languages."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from .errors import ConfigError

if TYPE_CHECKING:
    from ..testing import MailServer
    from ..testing.http_api import HttpApi

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_STDIN: Final = 0
_STDOUT: Final = 1
_EXTRA: Final = "pip install 'mailauth[testing]'"


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, or until the end of standard input with ``--until-eof``.

    Raises ConfigError if an option is invalid, a package is not installed, or it cannot listen.
    """
    with _stop_socket() as stopped:
        try:
            from .. import testing
        except ModuleNotFoundError as error:
            raise ConfigError(f"requires the package {error.name}; run: {_EXTRA}") from error
        with contextlib.ExitStack() as stack:
            server = _start(testing, options, stack)
            api = _start_http(server, options, stack)
            line = json.dumps(_description(server, api)).encode() + b"\n"
            _write_and_wait(line, stopped, until_eof=options.until_eof)
    return 0


def _start(testing: Any, options: argparse.Namespace, stack: contextlib.ExitStack) -> MailServer:
    from ..adapters.tls.certificates import TrustmeMissing

    ports = {name: getattr(options, f"{name}_port") for name in ("smtp", "smtps", "pop3", "pop3s")}
    try:
        chosen = testing.Options(
            **({"users": _users(options.users)} if options.users else {}),
            domain=options.domain,
            legacy=options.legacy,
            open_relay=options.open_relay,
            certificate=options.certificate,
            starttls=options.starttls,
        )
        server: MailServer = testing.MailServer(address=options.host, ports=ports)
        stack.callback(server.close)
        server.start(chosen)
    except TrustmeMissing as error:
        raise ConfigError(f"requires the package trustme; run: {_EXTRA}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(error.strerror or str(error)) from error
    return server


def _start_http(server: MailServer, options: argparse.Namespace, stack: contextlib.ExitStack) -> HttpApi:
    from ..testing.http_api import HttpApi

    try:
        return stack.enter_context(HttpApi(server, host=options.host, port=options.http_port, names=options.http_names))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"cannot listen on {options.host} port {options.http_port}: {reason}") from error


def _users(given: list[tuple[str, str]]) -> dict[str, str]:
    """Return the passwords by name.  Raises ConfigError if a name occurs twice."""
    found: dict[str, str] = {}
    for name, password in given:
        if name in found:
            raise ConfigError(f"--user: the account {name!r} is given twice")
        found[name] = password
    return found


def _description(server: MailServer, api: HttpApi) -> dict[str, Any]:
    """Return what a test needs to know about the server."""
    with open(server.ca_file, encoding="ascii") as file:
        authority = file.read()
    return {
        "host": server.host,
        "smtp_port": server.smtp_port,
        "smtps_port": server.smtps_port,
        "pop3_port": server.pop3_port,
        "pop3s_port": server.pop3s_port,
        "http_port": api.port,
        "http_url": api.url,
        "ca_file": server.ca_file,
        "ca": authority,
        "domain": server.domain,
        "users": [
            {"name": name, "address": server.address(name), "password": server.password(name)} for name in server.users
        ],
    }


@contextlib.contextmanager
def _stop_socket() -> Generator[socket.socket]:
    """Yield a socket that is readable from the first signal on.  At the end, further signals are ignored."""
    stopped, wakeup = socket.socketpair()
    with stopped, wakeup:
        wakeup.setblocking(False)
        before = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda number, frame: None)
        try:
            yield stopped
        finally:
            signal.set_wakeup_fd(before)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)


def _write_and_wait(line: bytes, stopped: socket.socket, *, until_eof: bool) -> None:
    """Write *line* to standard output; wait for a signal, or for the end of standard input if *until_eof*.

    The wait also ends if the line is not read.  What is read from standard input is discarded.
    """
    sources = [stopped.fileno(), _STDIN] if until_eof else [stopped.fileno()]
    while True:
        readable, writable, _ = select.select(sources, [_STDOUT] if line else [], [])
        if writable:
            line = line[os.write(_STDOUT, line[: select.PIPE_BUF]) :]  # more could wait for the reader
        if stopped.fileno() in readable:
            return
        if _STDIN in readable:
            with contextlib.suppress(OSError):  # the terminal was closed
                if os.read(_STDIN, 65536):
                    continue
            return
