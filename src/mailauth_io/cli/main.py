"""The ``mailauth`` command: its words, its options, and what it says when they are wrong.

Knows arguments and exit statuses: 0 done, 1 a row of ``methods`` failed, 2 it could not be done as it was asked for.
The work is done elsewhere.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from . import settings
from .errors import ConfigError

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
        parser.error("say which: serve, check-config, grants, passwd or methods (mailauth --help tells more)")
    try:
        status = run(options)
        sys.stdout.flush()
        return status
    except ConfigError as config_error:
        print(f"mailauth {options.command}: {config_error}", file=sys.stderr)
        return 2
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # whoever reads no further wants to hear nothing
            print(f"mailauth {options.command}: {error.strerror or error}", file=sys.stderr)
        _drop_output()
        return 2
    except KeyboardInterrupt:
        return 130


def _drop_output() -> None:
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
    _add_check_config(
        commands.add_parser("check-config", allow_abbrev=False, help="say what is wrong with a configuration file")
    )
    _add_grants(commands.add_parser("grants", allow_abbrev=False, help="list or revoke who may relay after a login"))
    _add_passwd(commands.add_parser("passwd", allow_abbrev=False, help="write a line of an accounts file"))
    _add_methods(commands.add_parser("methods", allow_abbrev=False, help="show the seven ways to submit mail at work"))
    return parser


def _version() -> str:
    try:
        return importlib.metadata.version("mailauth")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run an SMTP and a POP3 server that share accounts, maildrops and grants.  A flag comes before the file, and "
        "flags that can be repeated take the place of the file's whole list."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML, for all that flags can say")
    settings.add_flags(parser)
    parser.set_defaults(run=_serve)


def _add_check_config(parser: argparse.ArgumentParser) -> None:
    parser.description = "Say what is wrong with a configuration file (serve --config FILE); opens no port."
    parser.add_argument("file", type=Path, metavar="FILE", help="the file, and those that it names, are read")
    parser.set_defaults(run=_check_config)


def _add_grants(parser: argparse.ArgumentParser) -> None:
    parser.description = "List or revoke grants that servers share; by their flags, or by the file of their settings."
    acts = parser.add_subparsers(dest="act", title="acts", metavar="list|revoke", required=True)
    shown = acts.add_parser("list", allow_abbrev=False, help="print every grant that lives")
    ended = acts.add_parser("revoke", allow_abbrev=False, help="end the grants of an identity or of an address")
    ended.add_argument("whose", metavar="IDENTITY|ADDRESS", help="the account, everywhere; or the address, everybody")
    for act in (shown, ended):
        act.add_argument("--config", type=Path, metavar="FILE", help="settings of the servers, in TOML")
        settings.add_flags(act, ("domains", "grant_lifetime", "grant_ipv6_prefix", "grants", "redis_password"))
        act.set_defaults(run=_grants)


def _add_passwd(parser: argparse.ArgumentParser) -> None:
    parser.description = "Ask for a password, and print the line for it of an accounts file (serve --accounts FILE)."
    parser.add_argument("name", metavar="NAME", help="the account")
    parser.add_argument(
        "--scheme", type=str.upper, choices=SCHEMES, default=SCHEMES[0], help=f"how it is stored ({SCHEMES[0]})"
    )
    parser.set_defaults(run=_passwd)


def _add_methods(parser: argparse.ArgumentParser) -> None:
    parser.description = "Submit mail in seven ways on loopback, watch the wire, and print what could be read on it."
    parser.add_argument("--loop", choices=settings.LOOPS, help="one loop only (both)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.set_defaults(run=_methods)


# What the words ask for is imported when it is asked for: `mailauth --version` needs no server.


def settings_of(options: argparse.Namespace) -> settings.Settings:
    """What ``mailauth serve`` was told, by its flags and by the file they name.  Raises Complaint."""
    from . import settings_file

    written = settings_file.FileSettings() if options.config is None else settings_file.read(options.config)
    return written.settings(settings.given(options))


def _serve(options: argparse.Namespace) -> int:
    from . import serve

    serve.serve(settings_of(options))
    return 0


def _check_config(options: argparse.Namespace) -> int:
    from . import config, settings_file

    written = settings_file.read(options.file)
    errors = written.errors + config.check(written.valid_settings({}), written.broken)
    for config_error in errors:
        print(config_error)
    if errors:
        return 2
    print(f"{options.file}: fine")
    return 0


def _grants(options: argparse.Namespace) -> int:
    from . import grants_command

    grants_command.run(settings_of(options), revoked=getattr(options, "whose", None))
    return 0


def _passwd(options: argparse.Namespace) -> int:
    from . import passwd

    passwd.write(options.name, options.scheme)
    return 0


def _methods(options: argparse.Namespace) -> int:
    from . import methods

    return methods.main(loops=(options.loop,) if options.loop else settings.LOOPS, as_json=options.json)
