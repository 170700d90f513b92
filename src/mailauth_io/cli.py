"""The ``mailauth`` command: its words, its options, and what it says when they are wrong.

Knows arguments and exit statuses: 0 done, 1 a row of ``methods`` failed, 2 it could not be done as it was asked for.
The work is done elsewhere.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import ipaddress
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from mailauth import LocalProtocolError, smtp

from .certificate_names import KINDS, certificate_name
from .complaint import Complaint

_NUMBER = re.compile(r"[0-9]{1,18}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,4096}=*")
LOOPS = ("asyncio", "trio")
SCHEMES = ("ARGON2ID", "SCRAM-SHA-256", "BLF-CRYPT", "SHA512-CRYPT", "PLAIN")
"""Of ``mailauth passwd``; ARGON2ID holds out longest when the file is stolen, SCRAM-SHA-256 allows SCRAM as well."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; *arguments* are those of the process unless given.  Returns the exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] | None = getattr(options, "run", None)
    if run is None:
        parser.error("say which: serve, passwd or methods (mailauth --help tells more)")
    try:
        status = run(options)
        sys.stdout.flush()
        return status
    except Complaint as complaint:
        print(f"mailauth {options.command}: {complaint}", file=sys.stderr)
        return 2
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # whoever reads no further wants to hear nothing
            print(f"mailauth {options.command}: {error.strerror or error}", file=sys.stderr)
        _give_up_output()
        return 2
    except KeyboardInterrupt:
        return 130


def _give_up_output() -> None:
    """Python writes what is left in its buffers once more at exit: it must not fail again there."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def build_parser() -> Parser:
    """Every word and option of the command."""
    parser = Parser(prog="mailauth", allow_abbrev=False, description="Mail servers and clients that prove who you are.")
    parser.add_argument("--version", action="version", version=f"mailauth {_version()}")
    commands = parser.add_subparsers(dest="command", title="commands")
    _add_serve(commands.add_parser("serve", allow_abbrev=False, help="run an SMTP and a POP3 server"))
    _add_passwd(commands.add_parser("passwd", allow_abbrev=False, help="write a line of an accounts file"))
    _add_methods(commands.add_parser("methods", allow_abbrev=False, help="show the seven ways to submit mail at work"))
    return parser


def _version() -> str:
    try:
        return importlib.metadata.version("mailauth")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run an SMTP and a POP3 server that share accounts, maildrops and grants."
    add = parser.add_argument
    add("--host", action="append", type=_address, metavar="ADDR", help="address to listen on, repeatable (127.0.0.1)")
    for name in ("smtp", "smtps", "pop3", "pop3s"):
        add(f"--{name}", type=_port, metavar="PORT", help="0: any free port; no port given: all four, any free port")
    add("--domain", action="append", type=_domain, metavar="NAME", help="domain served here, repeatable (example.test)")
    add("--user", action="append", type=_user, metavar="NAME:PASSWORD", help="an account for trials, repeatable")
    add(
        "--accounts", type=Path, metavar="FILE", help="accounts in Dovecot's passwd-file format, read again on a change"
    )
    add("--token", action="append", type=_token, metavar="NAME:TOKEN", help="a bearer token for trials, repeatable")
    add("--postmaster", metavar="NAME", help="the account that takes the postmaster's mail (the first one)")
    add("--maildir", type=Path, metavar="DIR", help="maildrops: DIR/NAME is a Maildir (in memory)")
    add("--outbox", type=Path, metavar="DIR", help="a Maildir for mail to be sent on (in memory)")
    add("--max-message", type=_octets, default=26_214_400, metavar="OCTETS", help="size of a message (26214400)")
    add("--cert", type=Path, metavar="FILE", help="certificate chain in PEM (a throw-away one for localhost)")
    add("--key", type=Path, metavar="FILE", help="its private key in PEM")
    add("--ca-out", type=Path, metavar="FILE", help="write what a client must trust, for the throw-away certificate")
    add("--client-ca", type=Path, metavar="FILE", help="who certifies clients, in PEM: they log in by EXTERNAL")
    add(
        "--client-name", action="append", type=_client_name, metavar="KIND:NAME=ACCOUNT",
        help="whose account a client certificate opens, repeatable; KIND is email, DNS or CN",
    )  # fmt: skip
    add("--legacy", action="store_true", help="allow clear-text and MD5 methods outside TLS")
    add("--grant-lifetime", type=_seconds, default=1800.0, metavar="SECONDS", help="1800; 0: no grants")
    add("--grant-ipv6-prefix", type=_prefix, default=128, metavar="N", help="bits of an IPv6 address that count (128)")
    add("--loop", choices=LOOPS, default="asyncio", help="what the server runs on (asyncio)")
    add("--ready-file", type=Path, metavar="FILE", help="JSON with the ports and the pid, there when all ports listen")
    parser.set_defaults(run=_serve)


def _add_passwd(parser: argparse.ArgumentParser) -> None:
    parser.description = "Ask for a password, and print the line for it of an accounts file (serve --accounts FILE)."
    parser.add_argument("name", metavar="NAME", help="the account")
    parser.add_argument(
        "--scheme", type=str.upper, choices=SCHEMES, default=SCHEMES[0], help=f"how it is stored ({SCHEMES[0]})"
    )
    parser.set_defaults(run=_passwd)


def _add_methods(parser: argparse.ArgumentParser) -> None:
    parser.description = "Submit mail in seven ways on loopback, watch the wire, and print what could be read on it."
    parser.add_argument("--loop", choices=LOOPS, help="one loop only (both)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.set_defaults(run=_methods)


# What the words ask for is imported when it is asked for: `mailauth --version` needs no server.


def _serve(options: argparse.Namespace) -> int:
    from . import serve

    serve.serve(options)
    return 0


def _passwd(options: argparse.Namespace) -> int:
    from . import passwd

    passwd.write(options.name, options.scheme)
    return 0


def _methods(options: argparse.Namespace) -> int:
    from . import methods

    return methods.main(loops=(options.loop,) if options.loop else LOOPS, as_json=options.json)


def _address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no IP address") from None
    return text


def _port(text: str) -> int:
    return _number(text, 0, 65535, "port")


def _octets(text: str) -> int:
    return _number(text, 65_536, 2**40, "number of octets")  # RFC 5321 section 4.5.3.1.7


def _prefix(text: str) -> int:
    return _number(text, 1, 128, "prefix length")


def _number(text: str, least: int, most: int, what: str) -> int:
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no {what} from {least} to {most}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, 0 or more")
    return seconds


def _domain(text: str) -> str:
    try:
        smtp.Mailbox("somebody", text)
    except LocalProtocolError:
        raise argparse.ArgumentTypeError(f"{text!r} is no domain") from None
    return text.lower()


def _user(text: str) -> tuple[str, bytes]:
    name, colon, password = text.partition(":")
    if not colon:
        # Not quoted: what stands there may well be a password.
        raise argparse.ArgumentTypeError("write NAME:PASSWORD, with a colon between the two")
    return name, os.fsencode(password)


def _token(text: str) -> tuple[str, bytes]:
    name, colon, token = text.partition(":")
    if not colon or not _TOKEN.fullmatch(token):
        # Not quoted, as above.
        raise argparse.ArgumentTypeError("write NAME:TOKEN, the token of letters, digits and -._~+/ (RFC 6750)")
    return name, token.encode("ascii")


def _client_name(text: str) -> tuple[str, str]:
    written, equals, account = text.rpartition("=")
    kind, colon, name = written.partition(":")
    if not (equals and colon and name and account) or kind not in KINDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no KIND:NAME=ACCOUNT with a KIND of {', '.join(KINDS)}")
    return certificate_name(kind, name), account
