"""Settings: one table for flags and file, errors with file, line and key, and flags that override the file."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest

from mailauth_io.cli import config, main as cli, settings_file
from mailauth_io.cli.errors import ConfigError
from mailauth_io.cli.options import Option
from mailauth_io.cli.parsers import GrantsLocation
from mailauth_io.cli.settings import OPTIONS, Settings

EXAMPLE = Path(__file__).parents[3] / "docs" / "example.toml"
KEY = re.compile(r"#([a-z0-9_]+ = )")
"""A key of the example, commented out.  Its prose begins with ``# ``."""


def written(directory: Path, text: str, mode: int = 0o600) -> Path:
    path = directory / "mailauth.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def settings(*words: str) -> Settings:
    return cli.settings_of(cli.build_parser().parse_args(["serve", *words]))


def errors(directory: Path, text: str, mode: int = 0o600) -> list[str]:
    """Return the errors of a file with *text*, without the name of the file."""
    path = written(directory, text, mode)
    return [str(each).removeprefix(f"{path}") for each in settings_file.read(path).errors]


def test_example_configuration_equals_the_defaults(tmp_path: Path) -> None:
    read = settings_file.read(EXAMPLE)
    assert read.errors == ()
    assert read.settings({}) == Settings()


def test_uncommented_example_has_every_setting_in_order_with_its_default(tmp_path: Path) -> None:
    path = written(tmp_path, KEY.sub(r"\1", EXAMPLE.read_text()))
    document = tomllib.loads(path.read_text())
    assert [(table, key) for table, keys in document.items() for key in keys] == [
        (row.table, row.key) for row in OPTIONS.values()
    ]
    read = settings_file.read(path)
    assert read.errors == ()
    defaults = {name: row.default for name, row in OPTIONS.items() if row.default is not None}
    assert {name: getattr(read.settings({}), name) for name in defaults} == defaults


@pytest.mark.parametrize("name", OPTIONS)
def test_the_example_names_every_flag(name: str) -> None:
    flag = OPTIONS[name].flag
    assert flag is None or re.search(rf"{flag}\b", EXAMPLE.read_text())


def test_no_two_settings_share_a_key_or_a_flag() -> None:
    flags = [row.flag for row in OPTIONS.values() if row.flag]
    assert len({row.title for row in OPTIONS.values()}) == len(OPTIONS)
    assert len(set(flags)) == len(flags)


WORDS: dict[str, tuple[str, Any]] = {
    "hosts": ("::1", ("::1",)),
    "smtp": ("25", 25),
    "max_message": ("65536", 65536),
    "maildir": ("/drops", Path("/drops")),
    "users": ("alice:open sesame", (("alice", b"open sesame"),)),
    "grant_lifetime": ("0.5", 0.5),
    "nat64_prefixes": ("2001:db8:64::/96", (ipaddress.IPv6Network("2001:db8:64::/96"),)),
    "no_grants_from": ("10.0.0.0/8", (ipaddress.ip_network("10.0.0.0/8"),)),
    "grants": ("sqlite:/grants", GrantsLocation(sqlite=Path("/grants"))),
    "loop": ("trio", "trio"),
}


def in_toml(row: Option, word: str) -> str:
    value = f'"{word}"' if row.kind is str else word
    return f"[{row.table}]\n{row.key} = {f'[{value}]' if row.repeatable else value}\n"


@pytest.mark.parametrize("name", WORDS)
def test_flag_and_key_set_the_same_value(name: str, tmp_path: Path) -> None:
    row, (word, value) = OPTIONS[name], WORDS[name]
    assert row.flag is not None
    by_flag = settings(row.flag, word)
    by_file = settings("--config", str(written(tmp_path, in_toml(row, word))))
    assert by_flag == by_file
    assert getattr(by_flag, name) == value
    assert by_file.places == {name: f"{tmp_path / 'mailauth.toml'}:2: [{row.table}] {row.key}"}


def test_flag_overrides_file_and_replaces_list(tmp_path: Path) -> None:
    path = written(tmp_path, '[listen]\nhosts = ["127.0.0.2", "127.0.0.3"]\nsmtp = 25\n[accounts]\nlegacy = true\n')
    told = settings("--config", str(path), "--host", "::1", "--no-legacy", "--pop3", "0")
    assert (told.hosts, told.smtp, told.pop3, told.legacy) == (("::1",), 25, 0, False)
    assert set(told.places) == {"smtp"}
    assert settings("--config", str(path)).legacy
    assert settings("--legacy").legacy


def test_path_in_file_is_relative_to_its_directory_but_path_in_flag_is_not(tmp_path: Path) -> None:
    path = written(tmp_path, '[mail]\nmaildir = "drops"\noutbox = "/out"\n')
    assert settings("--config", str(path)).maildir == tmp_path / "drops"
    assert settings("--config", str(path)).outbox == Path("/out")
    assert settings("--config", str(path), "--maildir", "drops").maildir == Path("drops")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[listen]\nhost = []\n", [":2: [listen] host: unknown key; did you mean hosts?"]),
        ("[grants]\nx = 1\n", [":2: [grants] x: unknown key; use one of ..."]),
        ("\n[listne]\nsmtp = 25\n", [":2: [listne]: unknown table; did you mean listen?"]),
        ("smtp = 25\n", [":1: smtp: outside of any table; move it below [listen]"]),
        ("x = 25\n", [":1: x: unknown table; use one of ..."]),
        ("listen = 25\n", [":1: listen: must be a table; write [listen]"]),
        ("[[listen]]\nsmtp = 25\n", [":1: listen: must be a table; write [listen]"]),
        ('[listen]\nsmtp = "25"\n', [":2: [listen] smtp: must be an integer"]),
        ("[listen]\nsmtp = 25.0\n", [":2: [listen] smtp: must be an integer"]),
        ("[listen]\nsmtp = true\n", [":2: [listen] smtp: must be an integer"]),
        ("[listen]\nsmtp = 65536\n", [":2: [listen] smtp: invalid port: '65536'; use 0 to 65535"]),
        ("[listen]\nsmtp = -1\n", [":2: [listen] smtp: invalid port: '-1'; use 0 to 65535"]),
        ('[listen]\nhosts = "::1"\n', [
            ":2: [listen] hosts: must be an array; each element must be a string in quotes",
        ]),
        ("[listen]\nhosts = [1]\n", [":2: [listen] hosts: must be an array; each element must be a string in quotes"]),
        ('[listen]\nhosts = ["::1", "x"]\n', [
            ":2: [listen] hosts: invalid IP address: 'x'; use one such as 192.0.2.1 or 2001:db8::1"
        ]),
        ("[listen]\nhosts = []\n", [":2: [listen] hosts: must not be empty; remove it to use the default"]),
        ("[accounts]\nlegacy = 1\n", [":2: [accounts] legacy: must be true or false"]),
        ("[grants]\nlifetime = nan\n", [
            ":2: [grants] lifetime: invalid number of seconds: 'nan'; use a finite number, 0 or more"
        ]),
        ("[grants]\nlifetime = true\n", [":2: [grants] lifetime: must be a number"]),
        ('[tls]\nkey = ""\n', [":2: [tls] key: invalid path: ''; use the name of a file or directory"]),
        ('[accounts]\nusers = ["x"]\n', [
            ":2: [accounts] users: invalid account; use NAME:PASSWORD, with a colon between name and password"
        ]),
        ('# [listen]\n[ "listen" ] # here\n\n "smtp"= -1\n', [":4: [listen] smtp: invalid port: '-1'; use 0 to 65535"]),
        ("listen.smtp = -1\n", [":1: [listen] smtp: invalid port: '-1'; use 0 to 65535"]),
        ("\nlisten = { pop3 = -1 }\n", [":2: [listen] pop3: invalid port: '-1'; use 0 to 65535"]),
        ("[listen]\nsmtp = -1\n[mail]\nsmtp = 1\n[listen.pop3]\nx=1\n", [
            ":2: [listen] smtp: invalid port: '-1'; use 0 to 65535",
            ":4: [mail] smtp: unknown key; use one of ...",
            ":5: [listen] pop3: must be an integer",
        ]),
        ("[listen]\nsmtp = \n", [":2: invalid TOML: "]),
        ("[listen]\nsmtp = 25\nsmtp = 26\n", [":3: invalid TOML: "]),
        ("[listen]\nhosts = [\n", [":2: invalid TOML: "]),
    ],
)  # fmt: skip
def test_an_error_names_file_line_and_key(text: str, expected: list[str], tmp_path: Path) -> None:
    found = [re.sub(r"(; use one of ).+", r"\1...", line) for line in errors(tmp_path, text)]
    # The description of a syntax error comes from tomllib and may change.
    assert [re.sub(r"(invalid TOML: ).+", r"\1", line) for line in found] == expected


def test_invalid_utf8_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mailauth.toml"
    path.write_bytes(b"[listen]\n# \xff\n")
    assert [str(each) for each in settings_file.read(path).errors] == [
        f"{path}:2: not valid UTF-8; save the file as UTF-8"
    ]


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 20_000, "a = " + "{a=" * 20_000, "[mail]\nmax_message = " + "9" * 5_000]
)
def test_excessive_nesting_or_digits_are_an_error(text: str, tmp_path: Path) -> None:
    assert errors(tmp_path, text) == [": nested too deeply, or a number has too many digits; simplify the file"]


def test_very_long_hexadecimal_number_is_an_error(tmp_path: Path) -> None:
    """Hexadecimal numbers are parsed at any length, but Python limits the length of a decimal one."""
    text = "[mail]\nmax_message = 0x" + "f" * 5_000
    assert errors(tmp_path, text) == [":2: [mail] max_message: must be an integer"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
    ],
)
def test_ipv4_mapped_network_is_converted_to_ipv4(written: str, meant: str) -> None:
    """IPv4-mapped clients count as IPv4, so an IPv6 network would match no client, and a login would make a grant."""
    told = settings("--no-grants-from", written, "--proxy-from", written)
    assert told.no_grants_from == told.proxy_from == (ipaddress.ip_network(meant),)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        (config_error,) = settings_file.read(path).errors
        assert str(config_error).startswith(f"{path}: cannot be read: ")


@pytest.mark.parametrize("key", ["users", "tokens"])
def test_secret_in_a_file_accessible_to_other_users_is_an_error(key: str, tmp_path: Path) -> None:
    text = f'[accounts]\n{key} = ["alice:sesame"]\n'
    assert errors(tmp_path, text) == []
    (config_error,) = errors(tmp_path, text, mode=0o640)
    assert config_error.startswith(
        f":2: [accounts] {key}: contains a secret, but other users can read or change this file; run: "
    )


def test_repr_contains_no_secret(tmp_path: Path) -> None:
    path = written(tmp_path, '[accounts]\nusers = ["alice:sesame"]\ntokens = ["alice:sesame"]\n')
    read = settings_file.read(path)
    assert "sesame" not in f"{read!r} {read.settings({})!r}"
    assert attrs.asdict(read.settings({}))["users"] == (("alice", b"sesame"),)


def test_check_reports_errors_with_the_line_of_their_key(tmp_path: Path) -> None:
    path = written(tmp_path, '[accounts]\nfile = "accounts"\n[tls]\ncertificate = "c.pem"\n')
    told = settings("--config", str(path))
    assert [str(each) for each in config.check(told)] == [
        f"{path}:2: [accounts] file: {tmp_path / 'accounts'} cannot be read: No such file or directory",
        f"{path}:4: [tls] certificate: [tls] certificate and [tls] key must be set together; set both or neither",
    ]
    with pytest.raises(ConfigError, match=re.escape(f"{path}:2: [accounts] file: ")):
        config.read(told)


def test_check_config_prints_every_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "[listen]\nsmtp = -1\npop3 = -1\n")
    assert cli.main(["check-config", str(path)]) == 2
    assert capfd.readouterr().out == (
        f"{path}:2: [listen] smtp: invalid port: '-1'; use 0 to 65535\n"
        f"{path}:3: [listen] pop3: invalid port: '-1'; use 0 to 65535\n"
    )


@pytest.mark.parametrize(("first", "second"), [("smtp", "smtps"), ("smtp", "pop3s"), ("smtps", "pop3")])
def test_check_config_detects_a_port_that_is_used_twice(
    first: str, second: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, f"[listen]\n{first} = 2525\n{second} = 2525\n")
    assert cli.main(["check-config", str(path)]) == 2
    assert capfd.readouterr().out == (
        f"{path}:3: [listen] {second}: 2525 is also the port of [listen] {first}; use another port\n"
    )
    with pytest.raises(ConfigError, match="2525 is also the port of"):
        config.read(settings("--config", str(path)))


def test_port_of_a_flag_and_of_a_file_may_not_be_the_same(tmp_path: Path) -> None:
    told = settings("--config", str(written(tmp_path, "[listen]\npop3 = 2525\n")), "--smtp", "2525")
    with pytest.raises(ConfigError, match=re.escape(":2: [listen] pop3: 2525 is also the port of --smtp; use another")):
        config.read(told)


def test_free_ports_may_be_requested_for_several_services(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "[listen]\nsmtp = 0\npop3 = 0\n")
    assert cli.main(["check-config", str(path)]) == 0
    assert capfd.readouterr().out == f"{path}: OK\n"


def test_check_config_reads_referenced_files_and_creates_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "accounts").touch(0o600)
    (tmp_path / "accounts").write_text("alice:{PLAIN}open sesame\n")
    path = written(
        tmp_path,
        '[accounts]\nfile = "accounts"\n[mail]\nmaildir = "a/b"\noutbox = "out"\n[tls]\nca_out = "ca"\n'
        '[process]\nready_file = "ready"\n',
    )
    assert cli.main(["check-config", str(path)]) == 0
    assert capfd.readouterr().out == f"{path}: OK\n"
    (tmp_path / "accounts").write_text("alice:{SSHA}c2VzYW1l\n")
    (tmp_path / "out").touch()
    assert cli.main(["check-config", str(path)]) == 2
    said = capfd.readouterr().out
    assert said.startswith(f"{path}:2: [accounts] file: line 1 of {tmp_path / 'accounts'}")
    assert f"\n{path}:5: [mail] outbox: {tmp_path / 'out'} is not a writable directory\n" in said
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["accounts", "mailauth.toml", "out"]


def test_check_config_reports_errors_in_settings_and_in_referenced_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Errors that only follow from others are left out: here, that the postmaster has no account."""
    (tmp_path / "accounts").touch(0o600)
    (tmp_path / "accounts").write_text("alice\nbob:{PLAIN}x\ncarol:{NONE}x\n")
    text = '[accounts]\n{}file = "accounts"\n[mail]\npostmaster = "x"\n[tls]\ncertificate = "c"\n[listen]\nx = 1\n'
    path = written(tmp_path, text.format(""))
    assert cli.main(["check-config", str(path)]) == 2
    lines = capfd.readouterr().out.splitlines()
    assert [line.removeprefix(f"{path}:").split(": ")[0] for line in lines] == ["8", "2", "2", "6"]
    assert "line 1 of " in lines[1]
    assert "line 3 of " in lines[2]
    path.write_text(text.format("x = 1\n"))
    assert cli.main(["check-config", str(path)]) == 2
    lines = capfd.readouterr().out.splitlines()
    assert [line.removeprefix(f"{path}:").split(": ")[0] for line in lines] == ["2", "9", "7"]


def test_checks_refer_only_to_existing_tables() -> None:
    assert set().union(*config.CHECKS.values()) <= {row.table for row in OPTIONS.values()}


def test_serve_reports_only_the_first_error_of_an_invalid_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "[listen]\nsmtp = -1\npop3 = -1\n")
    assert cli.main(["serve", "--config", str(path)]) == 2
    assert capfd.readouterr().err == f"mailauth serve: {path}:2: [listen] smtp: invalid port: '-1'; use 0 to 65535\n"
