"""``--grants`` and ``mailauth grants``: list and revoke grants in each store, and errors in one sentence."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from redis import ResponseError

from mailauth_io import stores
from mailauth_io.cli import config, grants_option, main as cli, settings_file
from mailauth_io.stores.redis_address import RedisAddress
from mailauth_io.stores.redis_grants import RedisGrants
from mailauth_io.stores.sqlite_grants import SqliteGrants
from tests import serving
from tests.io.config_errors import config_error
from tests.redis_server import PASSWORD, RedisServer, redis_server
from tests.serving import run

HERE = "192.0.2.1"
USER = ("--user", "alice:open sesame")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


def command(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """Run ``mailauth grants`` and return its output."""
    assert cli.main(("grants", *words)) == 0
    said = capfd.readouterr()
    assert said.err == ""
    return said.out


def fill(grants: stores.Grants, *logins: tuple[str, str]) -> None:
    async def main() -> None:
        for address, identity in logins:
            await grants.grant(address, identity)

    with contextlib.closing(grants):
        asyncio.run(main())


def private(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


@pytest.mark.parametrize("action", ["list", "add", "revoke"])
def test_the_help_does_not_offer_grants_in_memory(action: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(("grants", action, "--help"))
    help_text = capfd.readouterr().out
    assert "memory" not in help_text
    assert "0 disables" not in help_text


LOGINS = (("2001:db8::1", "alice"), (HERE, "alice"), (HERE, "bob"), ("192.0.2.2", "alice"))


def in_sqlite(directory: Path, request: pytest.FixtureRequest) -> tuple[stores.Grants, tuple[str, ...]]:
    return SqliteGrants(directory / "grants.db"), ("--grants", f"sqlite:{directory / 'grants.db'}")


def in_redis(directory: Path, request: pytest.FixtureRequest) -> tuple[stores.Grants, tuple[str, ...]]:
    server = request.getfixturevalue("redis")
    with server.client as client:
        client.flushall()
    password = private(directory / "password", PASSWORD + "\n")
    grants = RedisGrants(RedisAddress(path=str(server.socket)), password=PASSWORD)
    return grants, ("--grants", f"redis://127.0.0.1:{server.port}/0", "--redis-password-file", str(password))


Place = Callable[[Path, pytest.FixtureRequest], tuple[stores.Grants, tuple[str, ...]]]


@pytest.mark.parametrize("place", [in_sqlite, in_redis])
def test_grants_are_listed_and_revoked_by_identity_and_by_address(
    place: Place, tmp_path: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    grants, words = place(tmp_path, request)
    fill(grants, *LOGINS)
    head, *rows = command(capfd, "list", *words).splitlines()
    assert head == "ADDRESS      IDENTITY  SECONDS LEFT"
    assert [tuple(row.split()[:2]) for row in rows] == list(LOGINS)
    assert all(1700 < int(row.split()[2]) <= 1800 for row in rows)
    assert command(capfd, "revoke", "::ffff:192.0.2.1", *words) == "revoked 2 grants of 192.0.2.1\n"
    assert command(capfd, "revoke", "Alice@EXAMPLE.test", *words) == "revoked 2 grants of alice\n"
    assert command(capfd, "revoke", "alice", *words) == "revoked 0 grants of alice\n"
    assert command(capfd, "list", *words) == "no grants\n"


def test_revoking_an_address_revokes_its_ipv6_prefix(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The prefix length comes from the configuration file of the servers, or from the flag."""
    path = tmp_path / "grants.db"
    fill(SqliteGrants(path, ipv6_prefix=64), ("2001:db8::1", "alice"))
    file = private(tmp_path / "mailauth.toml", '[grants]\nstore = "sqlite:grants.db"\nipv6_prefix = 64\n')
    words = ("revoke", "2001:db8::2")
    said = config_error(capfd, "grants", *words, "--grants", f"sqlite:{path}")
    assert (
        f"--grants: {path} was made with ipv6_prefix = 64 and nat64_prefixes = [], not with ipv6_prefix = 128" in said
    )
    assert command(capfd, *words, "--config", str(file)) == "revoked 1 grant of 2001:db8::\n"


def test_grants_command_rejects_a_store_in_memory(capfd: pytest.CaptureFixture[str]) -> None:
    said = config_error(capfd, "grants", "list")
    assert "only by their own server; set a SQLite file or a Redis URL with --grants" in said
    assert "list|add|revoke" in config_error(capfd, "grants")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--grants", "sqlite:none/grants.db"), "--grants: none/grants.db does not exist"),
        (("--grants", "sqlite:"), "invalid path: ''"),
        (("--grants", "remote"), "use memory, sqlite:FILE, redis://HOST:PORT/DATABASE, rediss://"),
        (("--grants", "redis://:hunter2@127.0.0.1:x"), "use memory, sqlite:FILE, redis://HOST:PORT/DATABASE"),
        (("--grants", "redis://127.0.0.1", "--redis-password-file", "none"), "none cannot be read: No such file"),
        (("--redis-password-file", "none"), "--redis-password-file: requires a Redis URL in --grants"),
        (("--grant-lifetime", "0"), "--grant-lifetime: 0 disables grants"),
        (("--grants", "redis://:hunter2@127.0.0.1:1"), "cannot access the grants in redis://127.0.0.1:1/0: Error 111"),
    ],
)  # fmt: skip
def test_invalid_options_are_reported_in_one_line(
    words: tuple[str, ...], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said = config_error(capfd, "grants", "list", *words)
    assert says in said
    assert "hunter2" not in said


def test_revoke_rejects_an_invalid_identity_or_address(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    SqliteGrants(tmp_path / "g").close()
    for whose in ("a b", "alice@else where.test", "al ice@elsewhere.test", "@elsewhere.test", "192.0.2.1/24"):
        said = config_error(capfd, "grants", "revoke", whose, "--grants", f"sqlite:{tmp_path / 'g'}")
        assert f"invalid identity or address: {whose!r}; " in said


@pytest.mark.parametrize("place", [in_sqlite, in_redis])
def test_grants_with_a_longer_lifetime_are_listed_and_kept(
    place: Place, tmp_path: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command needs the lifetime of the servers neither to list nor to add grants."""
    grants, words = place(tmp_path, request)
    grants.close()
    command(capfd, "add", *words, "--grant-lifetime", "3600", HERE, "alice")
    command(capfd, "add", *words, "192.0.2.2", "bob")
    rows = [row.split() for row in command(capfd, "list", *words).splitlines()[1:]]
    assert [row[1] for row in rows] == ["alice", "bob"]
    assert 3500 < int(rows[0][2]) <= 3600
    assert 1700 < int(rows[1][2]) <= 1800


@pytest.mark.parametrize("place", [in_sqlite, in_redis])
def test_grants_of_logins_at_another_server_are_added(
    place: Place, tmp_path: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    """Their identities need not be accounts of this server.  ``revoke`` takes what ``add`` took."""
    grants, words = place(tmp_path, request)
    grants.close()
    added = command(capfd, "add", *words, "::ffff:192.0.2.1", "Alice@EXAMPLE.test")
    assert added == "added a grant of alice at 192.0.2.1 for 1800 seconds\n"
    added = command(capfd, "add", *words, "64:ff9b::192.0.2.1", "Bob.Jones@Elsewhere.test")
    assert added == "added a grant of bob.jones@elsewhere.test at 64:ff9b::c000:201 for 1800 seconds\n"
    rows = command(capfd, "list", *words).splitlines()[1:]
    assert [row.split()[:2] for row in rows] == [
        ["192.0.2.1", "alice"],
        ["64:ff9b::c000:201", "bob.jones@elsewhere.test"],
    ]
    assert command(capfd, "revoke", *words, "bob.jones@ELSEWHERE.test").startswith("revoked 1 grant of ")
    assert command(capfd, "revoke", *words, "192.0.2.1").startswith("revoked 1 grant of ")


def test_add_makes_a_grant_with_the_settings_of_the_configuration_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The lifetime, the prefixes, and the excluded networks of the servers."""
    network = IPv6Network("2001:db8:64::/96")
    SqliteGrants(tmp_path / "g", ipv6_prefix=64, nat64_prefixes=[network]).close()
    file = private(
        tmp_path / "mailauth.toml",
        '[grants]\nstore = "sqlite:g"\nlifetime = 60.0\nipv6_prefix = 64\nnat64_prefixes = ["2001:db8:64::/96"]\n'
        'never_from = ["10.0.0.0/8"]\n[listen]\nproxy_from = ["198.51.100.7"]\n',
    )
    words = ("add", "--config", str(file))
    assert command(capfd, *words, "2001:db8::2", "alice") == "added a grant of alice at 2001:db8:: for 60 seconds\n"
    assert "at 2001:db8:64::1 for" in command(capfd, *words, "2001:db8:64::1", "alice")
    for address in ("::ffff:10.0.0.1", "198.51.100.7"):
        assert command(capfd, *words, address, "alice") == f"no grant: {address} is in an excluded network\n"
    assert len(command(capfd, "list", "--config", str(file)).splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("192.0.2.256", "alice"), "invalid IP address '192.0.2.256'; use one such as 192.0.2.1"),
        (("192.0.2.1", ""), "invalid identity: ''; use up to 64 letters"),
        (("192.0.2.1", "alice\nbob"), "invalid identity: 'alice\\nbob'; "),
        (("192.0.2.1", "alice@b..test"), "invalid identity: "),
        (("192.0.2.1",), "the following arguments are required: IDENTITY"),
    ],
)
def test_add_rejects_an_invalid_address_or_identity(
    words: tuple[str, ...], says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    SqliteGrants(tmp_path / "g").close()
    assert says in config_error(capfd, "grants", "add", "--grants", f"sqlite:{tmp_path / 'g'}", *words)
    assert command(capfd, "list", "--grants", f"sqlite:{tmp_path / 'g'}") == "no grants\n"


# Another user, such as that of Dovecot's post-login script.

OWNER, SCRIPT, STRANGER, GROUP = 65_001, 65_002, 65_003, 65_100
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run programs as other users")


PROGRAM = """
import contextlib, io, os, pathlib, sys, tempfile
from mailauth_io.cli import main
from mailauth_io.stores.sqlite_grants import SqliteGrants
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    SqliteGrants(pathlib.Path(folder, "g")).close()
    main.main(["grants", "add", "--grants", f"sqlite:{folder}/g", "192.0.2.1", "alice"])
user, group = map(int, sys.argv[1:3])
os.umask(0o077)
os.setgroups([])
os.setgid(group)
os.setuid(user)
os.chdir("/")
sys.exit(main.main(sys.argv[3:]))
"""
"""Runs the command as another user.  That user may have no access to the Python of the tests, so a first run as root
imports all modules."""


def run_as(user: int, *arguments: str, group: int = 65_200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(user), str(group), *arguments],
        env=serving.environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory of OWNER that others may enter: tmp_path is below one that they may not."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, OWNER, 65_200)
        os.chmod(name, 0o755)
        yield Path(name)


@as_root
def test_permission_problem_of_another_user_is_named(folder: Path) -> None:
    """Everything that may be missing: the file, its directory, and the files beside it."""
    path = folder / "grants.db"
    words = ("grants", "add", "--grants", f"sqlite:{path}", "192.0.2.1", "alice")
    path.touch(mode=0o600)
    os.chown(path, OWNER, 65_200)

    def complaint() -> str:
        done = run_as(SCRIPT, *words, group=GROUP)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        return done.stderr

    end = "run this as the owner, or share the file with a group (docs/grants.md)\n"
    assert complaint() == (
        f"mailauth grants: --grants: user {SCRIPT} may not read and write {folder} "
        f"(owner {OWNER}, group 65200, mode 755); {end}"
    )
    os.chown(folder, OWNER, GROUP)
    folder.chmod(0o2770)
    assert f"may not read and write {path} (owner {OWNER}, group 65200, mode 600)" in complaint()
    os.chown(path, OWNER, GROUP)
    path.chmod(0o660)
    Path(f"{path}-shm").touch(mode=0o600)
    assert f"may not read and write {path}-shm (owner root, group {GROUP}, mode 600)" in complaint()


@as_root
def test_file_can_be_shared_with_a_group(folder: Path) -> None:
    """As docs/grants.md describes: the server and the script of another user, whoever opens the file first."""
    path = folder / "grants.db"
    os.chown(folder, OWNER, GROUP)
    folder.chmod(0o2770)
    path.touch()
    os.chown(path, OWNER, GROUP)
    path.chmod(0o660)
    store = ("--grants", f"sqlite:{path}")
    for user in (OWNER, SCRIPT, OWNER):
        done = run_as(user, "grants", "add", *store, "192.0.2.1", f"user{user}", group=GROUP)
        assert (done.returncode, done.stderr) == (0, "")
    keep = sqlite3.connect(path)  # so that the files beside it stay
    with contextlib.closing(keep):
        keep.execute("SELECT * FROM grants").fetchall()
        done = run_as(SCRIPT, "grants", "add", *store, "192.0.2.9", "carol", group=GROUP)
        assert (done.returncode, done.stderr) == (0, "")
        beside = {each.name: each.stat() for each in folder.iterdir()}
    assert beside.keys() == {"grants.db", "grants.db-wal", "grants.db-shm"}
    assert {(each.st_gid, stat.S_IMODE(each.st_mode)) for each in beside.values()} == {(GROUP, 0o660)}
    assert run_as(STRANGER, "grants", "list", *store).returncode == 2


def test_command_arguments_quoted_by_redis_are_not_shown() -> None:
    """If ``rename-command`` has removed AUTH, the error quotes its arguments, the password among them."""
    error = ResponseError("unknown command `AUTH`, with args beginning with: `mail`, `hunter2`, ")
    assert grants_option.describe_error(error) == "unknown command `AUTH`"


def test_wrong_redis_password_is_reported_without_showing_it(
    redis: RedisServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("grants", "list", "--grants", f"redis://127.0.0.1:{redis.port}")
    assert "/0: Authentication required" in config_error(capfd, *words)
    said = config_error(capfd, *words, "--redis-password-file", str(private(tmp_path / "p", "hunter2")))
    assert "/0: invalid username-password pair" in said
    assert "hunter2" not in said


def test_file_that_is_not_a_database_is_reported_without_traceback(tmp_path: Path) -> None:
    done = run("grants", "list", "--grants", f"sqlite:{private(tmp_path / 'g', 'no database' * 100)}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.endswith(": file is not a database\n")


# The settings of ``mailauth serve``.


def settings_complaint(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    return config_error(capfd, "serve", *USER, *words)


def test_serve_rejects_an_unusable_grants_store(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.umask", lambda mask: 0o022)
    missing = tmp_path / "none"
    said = settings_complaint(capfd, "--grants", f"sqlite:{missing / 'g'}")
    assert said == f"mailauth serve: --grants: {missing} is not a writable directory\n"
    shared = private(tmp_path / "g", "")
    shared.chmod(0o644)
    said = settings_complaint(capfd, "--grants", f"sqlite:{shared}")
    assert said.startswith(f"mailauth serve: --grants: {shared} is accessible to other users; run: chmod 600 {shared} ")
    password = private(tmp_path / "password", "hunter2\n")
    password.chmod(0o644)
    said = settings_complaint(capfd, "--grants", "redis://127.0.0.1", "--redis-password-file", str(password))
    assert f"run: chmod 600 {password}" in said
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "redis" else object())
    assert "mailauth[redis]" in settings_complaint(capfd, "--grants", "redis://127.0.0.1")
    assert "invalid network: '10.0.0.1/8'" in settings_complaint(capfd, "--no-grants-from", "10.0.0.1/8")


def test_check_config_checks_the_store_without_creating_it(tmp_path: Path) -> None:
    path = private(tmp_path / "mailauth.toml", '[grants]\nstore = "sqlite:g"\n')
    told = settings_file.read(path).settings({})
    assert config.check(told) == ()
    assert not (tmp_path / "g").exists()
    shared = grants_option.shared(told)
    assert isinstance(shared, SqliteGrants)
    shared.close()
    assert (tmp_path / "g").exists()
    (tmp_path / "g").chmod(0o640)
    (found,) = config.check(told)
    assert str(found).startswith(f"{path}:2: [grants] store: {tmp_path / 'g'} is accessible to other users")


def test_redis_password_in_the_url_is_rejected_or_warned_about(tmp_path: Path) -> None:
    """Other users may be able to read the configuration file, and can see the command line."""
    path = private(tmp_path / "mailauth.toml", '[grants]\nstore = "redis://:hunter2@127.0.0.1"\n')
    (found,) = config.check(settings_file.read(path).settings({}))
    assert (
        str(found) == f"{path}:2: [grants] store: the URL must not contain a password; use [grants] redis_password_file"
    )
    told = cli.settings_of(cli.build_parser().parse_args(["serve", *USER, "--grants", "redis://:hunter2@127.0.0.1"]))
    assert "hunter2" not in repr(told)
    serving = config.read(told)
    assert any("The Redis password is on the command line" in warning for warning in serving.warnings)
    assert "hunter2" not in repr(serving)


def test_password_file_without_exactly_one_line_of_utf_8_is_rejected(tmp_path: Path) -> None:
    file = private(tmp_path / "p", "")
    path = private(tmp_path / "mailauth.toml", '[grants]\nstore = "redis://127.0.0.1"\nredis_password_file = "p"\n')
    (found,) = config.check(settings_file.read(path).settings({}))
    assert str(found) == f"{path}:3: [grants] redis_password_file: {file} is empty; write the password to it"
    file.write_bytes(b"\xff")
    (found,) = config.check(settings_file.read(path).settings({}))
    assert str(found).endswith("is not valid UTF-8")
    file.write_text("one\ntwo\n")
    (found,) = config.check(settings_file.read(path).settings({}))
    assert str(found).endswith(f"{file} has more than one line; write only the password to it")
    file.write_text("hunter2\n")
    shared = grants_option.shared(settings_file.read(path).settings({}))
    assert isinstance(shared, RedisGrants)
    assert shared._redis.connection_pool.connection_kwargs["password"] == "hunter2"
    shared.close()
