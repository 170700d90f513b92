"""The ``mailauth`` command: its subcommands, its options and its exit status.

The exit status is 0 for success, 1 if a row of ``mailauth methods`` failed, 2 for an error, and 130 if
the command is interrupted.  ``mailauth serve`` ends with 0 on SIGINT.  ``client_options`` has those of ``send`` and
``fetch``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import mailauth

from . import client_options, parsers, settings
from .errors import ConfigError

SCHEMES = ("ARGON2ID", "SCRAM-SHA-256", "BLF-CRYPT", "SHA512-CRYPT", "PLAIN")
"""The schemes of ``mailauth passwd``: ARGON2ID best resists guessing from a stolen file, SCRAM-SHA-256 allows SCRAM."""

_GRANTS_HELP = {
    "grants": "store that the servers share: sqlite:FILE or redis://HOST:PORT/DATABASE (required, unless the "
    "configuration file names it)",
    "grant_lifetime": "lifetime of an added grant in seconds (default: 1800)",
    "grant_ipv6_prefix": "number of leading bits of an IPv6 address that a grant covers, the same as on the servers",
    "nat64_prefixes": "NAT64 prefix of your network, besides 64:ff9b::/96, the same as on the servers",
}
"""The help of ``mailauth grants`` where that of ``mailauth serve`` does not apply."""

POLICY_PORT = 10_040
_POLICY_SERVICE_HELP = {
    **{name: _GRANTS_HELP[name] for name in ("grants", "grant_ipv6_prefix", "nat64_prefixes")},
    "no_grants_from": "network of proxies or container gateways, whose addresses may not relay by a grant",
    "proxy_from": "network of proxies, whose addresses may not relay by a grant",
}


class Parser(argparse.ArgumentParser):
    """Prints an error in one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")

    def print_help(self, file: Any = None) -> None:
        """Print the help.  The base class ignores the OSError of a closed pipe, which a long text raises at once."""
        print(self.format_help(), end="", file=file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.  *arguments* defaults to those of the process."""
    _open_closed_descriptors()
    parser = build_parser()
    title = parser.prog
    try:
        try:
            options = parser.parse_args(arguments)
        except SystemExit:
            _flush_output()  # of --help and --version
            raise
        run: Callable[[argparse.Namespace], int] | None = getattr(options, "run", None)
        if run is None:
            parser.error(
                "no command given; use serve, send, fetch, check-config, grants, policy-service, passwd, methods or "
                "test-server (see --help)"
            )
        title = f"{parser.prog} {options.command}"
        if sys.stdout is None and run is not _serve:
            raise ConfigError("standard output is closed; redirect it to a file, or to /dev/null")
        status = run(options)
        _flush_output()
        return status
    except ConfigError as config_error:
        print(f"{title}: {config_error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name != "anyio":
            raise
        print(f"{title}: requires the package anyio; run: pip install 'mailauth[server]'", file=sys.stderr)
        return 2
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # the reader has closed the pipe, as head does
            where = "" if error.filename is None else f"{error.filename}: "
            print(f"{title}: {where}{error.strerror or error}", file=sys.stderr)
        _drop_output()
        return 2
    except KeyboardInterrupt:
        return 130


def _open_closed_descriptors() -> None:
    """Open the null device in place of each standard stream that is closed.

    Otherwise a file or a connection gets its number, and what is written to the stream, such as the log, goes there.
    Python has set the stream to None.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")  # print() writes to standard output if the file is None


def _flush_output() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _drop_output() -> None:
    """Redirect standard output to the null device: Python flushes its buffers at exit, which would fail again."""
    if sys.stdout is None:
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def build_parser() -> Parser:
    """Return the parser of the command, with all subcommands."""
    parser = Parser(
        prog="mailauth",
        allow_abbrev=False,
        description="SMTP and POP3 servers with authenticated submission and POP before SMTP, and clients.",
        epilog="Run 'mailauth COMMAND --help' for the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"mailauth {mailauth.__version__}")
    commands = parser.add_subparsers(dest="command", title="commands")
    _add_serve(commands.add_parser("serve", allow_abbrev=False, help="run an SMTP and a POP3 server"))
    _add_send(commands.add_parser("send", allow_abbrev=False, help="submit a message"))
    _add_fetch(commands.add_parser("fetch", allow_abbrev=False, help="retrieve the messages of a maildrop"))
    _add_check_config(commands.add_parser("check-config", allow_abbrev=False, help="check a configuration file"))
    _add_grants(commands.add_parser("grants", allow_abbrev=False, help="list, add or revoke POP-before-SMTP grants"))
    _add_policy_service(
        commands.add_parser("policy-service", allow_abbrev=False, help="tell Postfix which addresses have a grant")
    )
    _add_passwd(commands.add_parser("passwd", allow_abbrev=False, help="print a line for an accounts file"))
    _add_methods(commands.add_parser("methods", allow_abbrev=False, help="demonstrate seven ways to submit mail"))
    _add_test_server(
        commands.add_parser("test-server", allow_abbrev=False, help="run a mail server for tests, with an HTTP API")
    )
    return parser


def _file(text: str) -> Path:
    """Return the path of a file, for argparse."""
    try:
        return parsers.path(text)
    except parsers.ValueParseError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _port(text: str) -> int:
    """Return a port, for argparse."""
    try:
        return parsers.port(text)
    except parsers.ValueParseError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _address(text: str) -> str:
    """Return an IP address, for argparse."""
    try:
        return parsers.address(text)
    except parsers.ValueParseError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _domain(text: str) -> str:
    """Return a domain, for argparse."""
    try:
        return parsers.domain(text)
    except parsers.ValueParseError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _test_user(text: str) -> tuple[str, str]:
    """Return the name of an account and its password, by default ``NAME-password``, for argparse."""
    name, colon, password = text.partition(":")
    return name, password if colon else f"{name}-password"


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run an SMTP and a POP3 server that share accounts, maildrops and grants.  Settings come from flags and from a "
        "configuration file.  A flag overrides the file; a flag that may be repeated replaces the whole list in the "
        "file.  Timeouts and connection limits are set only in the file, in [limits]; docs/example.toml describes all "
        "settings.  SIGHUP reloads the accounts and the certificate; SIGTERM and SIGINT stop the server."
    )
    parser.epilog = "For a test on free ports, with all mail in memory: mailauth serve --user alice:wonderland --legacy"
    parser.add_argument(
        "--config",
        type=_file,
        metavar="FILE",
        help="configuration file in TOML; paths in it are relative to its directory (default: none)",
    )
    settings.add_flags(parser)
    parser.set_defaults(run=_serve)


def _add_send(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Submit a message by SMTP, and print the reply of the server for each recipient.  Bcc fields are removed.  "
        "Progress is shown on standard error if it is a terminal."
    )
    parser.add_argument("file", nargs="?", type=_file, metavar="FILE", help="the message (default: standard input)")
    parser.add_argument(
        "--from",
        dest="sender",
        metavar="ADDRESS",
        help="the sender; '' for none (default: Sender or From of the message)",
    )
    parser.add_argument(
        "--to",
        dest="recipients",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a recipient; may be repeated (default: To, Cc and Bcc of the message)",
    )
    parser.add_argument(
        "--dsn-notify",
        action="append",
        choices=("never", "success", "failure", "delay"),
        default=[],
        help="request a report about this event; may be repeated (default: the server decides)",
    )
    client_options.add(parser, ports="465; 587 with starttls, 25 without TLS", user_required=False)
    parser.set_defaults(run=_send)


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Retrieve all messages of a maildrop by POP3, and store them in a Maildir, or print them in mbox format.  "
        "Progress is shown on standard error if it is a terminal."
    )
    parser.add_argument(
        "--maildir",
        type=_file,
        metavar="DIRECTORY",
        help="store the messages here, and print a line for each (default: print the messages in mbox format)",
    )
    parser.add_argument(
        "--delete", action="store_true", help="delete each message from the server after it is stored or printed"
    )
    client_options.add(parser, ports="995; 110 with starttls or without TLS", user_required=True)
    parser.set_defaults(run=_fetch)


def _add_check_config(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Check a configuration file for mailauth serve --config, and the files that it names.  Print warnings and OK, "
        "or one line for each error, with exit status 2.  No port is opened and no file is written."
    )
    parser.add_argument("file", type=_file, metavar="FILE", help="configuration file in TOML")
    parser.set_defaults(run=_check_config)


def _add_grants(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "List, add or revoke grants in a store that servers share, a SQLite file or Redis.  A grant allows a client "
        "address to relay for a time after a POP3 login.  Name the store with --grants or --config after the action."
    )
    acts = parser.add_subparsers(dest="act", title="actions", metavar="list|add|revoke", required=True)
    shown = acts.add_parser("list", allow_abbrev=False, help="print all active grants")
    ended = acts.add_parser("revoke", allow_abbrev=False, help="revoke the grants of an account or of an address")
    ended.add_argument(
        "whose",
        metavar="IDENTITY|ADDRESS",
        help="account or IP address whose grants are revoked",
    )
    made = acts.add_parser("add", allow_abbrev=False, help="add a grant for a login at another server")
    made.description = (
        "Add a grant, for the post-login script of another POP3 or IMAP server such as Dovecot.  Its lifetime, and the "
        "networks that get no grants, are those of the configuration file, if one is given."
    )
    made.add_argument("address", metavar="ADDRESS", help="IP address from which the client has logged in")
    made.add_argument("identity", metavar="IDENTITY", help="who has logged in; need not be an account of this server")
    for act in (shown, made, ended):
        act.add_argument(
            "--config", type=_file, metavar="FILE", help="configuration file of the servers, in TOML (default: none)"
        )
        settings.add_flags(
            act,
            ("domains", "grant_lifetime", "grant_ipv6_prefix", "nat64_prefixes", "grants", "redis_password"),
            help=_GRANTS_HELP,
        )
        act.set_defaults(run=_grants)


def _add_policy_service(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run a policy service for Postfix, for check_policy_service in smtpd_relay_restrictions: a client may relay if "
        "its address has a grant.  It listens on 127.0.0.1.  Use the configuration file of the servers that make the "
        "grants, and run it as their user.  docs/grants.md describes the settings of Postfix."
    )
    parser.add_argument(
        "--config", type=_file, metavar="FILE", help="configuration file of the servers, in TOML (default: none)"
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=POLICY_PORT,
        metavar="PORT",
        help=f"port to listen on, 0 for a free one (default: {POLICY_PORT})",
    )
    names = ("grant_ipv6_prefix", "nat64_prefixes", "no_grants_from", "proxy_from", "grants", "redis_password")
    settings.add_flags(parser, (*names, "log_format", "log_level", "loop"), help=_POLICY_SERVICE_HELP)
    parser.set_defaults(run=_policy_service)


def _add_passwd(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Ask for a password, and print a line for an accounts file (mailauth serve --accounts FILE).  If standard "
        "input is not a terminal, its first line is the password."
    )
    parser.epilog = "Example: mailauth passwd alice >> accounts && chmod 600 accounts"
    parser.add_argument("name", metavar="NAME", help="name of the account")
    parser.add_argument(
        "--scheme",
        type=str.upper,
        choices=SCHEMES,
        default=SCHEMES[0],
        help="password scheme; PLAIN stores the password in clear text and works with all mechanisms, SCRAM-SHA-256 "
        "works with SCRAM-SHA-256 and with those that send the password (PLAIN, LOGIN, USER), the others work only "
        f"with those that send the password (default: {SCHEMES[0]})",
    )
    parser.set_defaults(run=_passwd)


def _add_methods(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Submit mail in seven ways on the loopback interface, record the traffic, and print what an eavesdropper could "
        "read.  The exit status is 1 if a row of the table fails."
    )
    parser.add_argument("--loop", choices=settings.LOOPS, help="event loop to use (default: asyncio and trio)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.set_defaults(run=_methods)


def _add_test_server(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run an SMTP and a POP3 server for tests in any language, with the part of Mailpit's HTTP API that test "
        "helpers use.  When it is ready, it prints one line of JSON to standard output: the ports, the URL of the API, "
        "the CA and the accounts.  It keeps all mail in memory, and runs until SIGINT or SIGTERM.  docs/commands.md "
        "describes it."
    )
    parser.add_argument(
        "--host",
        type=_address,
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on (default: 127.0.0.1)",
    )
    for name, what in {
        "smtp": "SMTP", "smtps": "SMTP with implicit TLS", "pop3": "POP3", "pop3s": "POP3 with implicit TLS",
        "http": "the HTTP API",
    }.items():  # fmt: skip
        parser.add_argument(
            f"--{name}-port", type=_port, default=0, metavar="PORT", help=f"port of {what} (default: any free port)"
        )
    parser.add_argument(
        "--http-name",
        dest="http_names",
        action="append",
        type=_domain,
        default=[],
        metavar="NAME",
        help="host name in the URLs of clients, such as that of a container; may be repeated (default: localhost only)",
    )
    parser.add_argument(
        "--user",
        dest="users",
        action="append",
        type=_test_user,
        default=[],
        metavar="NAME[:PASSWORD]",
        help="account, with the password NAME-password by default; may be repeated (default: alice and bob)",
    )
    parser.add_argument(
        "--domain", type=_domain, default="example.test", help="domain of the accounts (default: example.test)"
    )
    parser.add_argument(
        "--no-legacy",
        dest="legacy",
        action="store_false",
        help="accept passwords and MD5 digests only after TLS (default: also without)",
    )
    parser.add_argument(
        "--open-relay",
        action="store_true",
        help="accept mail for other domains without a login, as mail catchers do (default: refuse it)",
    )
    parser.add_argument(
        "--certificate",
        choices=("valid", "expired", "wrong_host", "untrusted"),
        default="valid",
        help="certificate to present (default: valid)",
    )
    parser.add_argument(
        "--starttls",
        choices=("offered", "stripped", "injected"),
        default="offered",
        help="whether STARTTLS and STLS are offered, are not, or are followed by an injected reply (default: offered)",
    )
    parser.add_argument(
        "--until-eof",
        action="store_true",
        help="also exit at the end of standard input; with a pipe from the test runner, that is when the runner ends",
    )
    parser.set_defaults(run=_test_server)


# Each command imports what it needs when it runs: `mailauth --version` does not import the server, and `mailauth send`
# and `mailauth fetch` work without anyio, the package of the extra `server`.


def settings_of(options: argparse.Namespace) -> settings.Settings:
    """Return the settings from the flags and from the file of ``--config``.  Raises ConfigError."""
    from . import settings_file

    written = settings_file.FileSettings() if options.config is None else settings_file.read(options.config)
    return written.settings(settings.given(options))


def _serve(options: argparse.Namespace) -> int:
    from . import serve

    serve.serve(settings_of(options))
    return 0


def _send(options: argparse.Namespace) -> int:
    from . import send_command

    return send_command.run(options)


def _fetch(options: argparse.Namespace) -> int:
    from . import fetch_command

    return fetch_command.run(options)


def _check_config(options: argparse.Namespace) -> int:
    from . import config, settings_file

    written = settings_file.read(options.file)
    errors = written.errors + config.check(written.valid_settings({}), written.broken)
    for config_error in errors:
        print(config_error)
    if errors:
        return 2
    for warning in config.lost_mail(written.settings({})):
        print(f"{options.file}: warning: {warning}")
    print(f"{options.file}: OK")
    return 0


def _grants(options: argparse.Namespace) -> int:
    from . import grants_command

    found = settings_of(options)
    if options.act == "add":
        grants_command.add(found, options.address, options.identity)
    elif options.act == "revoke":
        grants_command.revoke(found, options.whose)
    else:
        grants_command.list_grants(found)
    return 0


def _policy_service(options: argparse.Namespace) -> int:
    from . import policy_service

    policy_service.run(settings_of(options), options.port)
    return 0


def _passwd(options: argparse.Namespace) -> int:
    from . import passwd

    passwd.write(options.name, options.scheme)
    return 0


def _methods(options: argparse.Namespace) -> int:
    from .. import methods

    try:
        return methods.main(loops=(options.loop,) if options.loop else ("asyncio", "trio"), as_json=options.json)
    except ImportError as error:
        raise ConfigError(str(error)) from error


def _test_server(options: argparse.Namespace) -> int:
    from . import test_server

    return test_server.run(options)
