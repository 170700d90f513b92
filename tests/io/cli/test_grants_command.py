"""``--grants`` and ``mailauth grants``: list and revoke grants in each store, and errors in one sentence."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import ResponseError

from mailauth_io import stores
from mailauth_io.cli import config, grants_option, main as cli, settings_file
from mailauth_io.stores.redis_address import RedisAddress
from mailauth_io.stores.redis_grants import RedisGrants
from mailauth_io.stores.sqlite_grants import SqliteGrants
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


@pytest.mark.parametrize("action", ["list", "revoke"])
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
    assert command(capfd, *words, "--grants", f"sqlite:{path}") == "revoked 0 grants of 2001:db8::2\n"
    assert command(capfd, *words, "--config", str(file)) == "revoked 1 grant of 2001:db8::\n"


def test_grants_command_rejects_a_store_in_memory(capfd: pytest.CaptureFixture[str]) -> None:
    said = config_error(capfd, "grants", "list")
    assert "only by their own server; set a SQLite file or a Redis URL with --grants" in said
    assert "list|revoke" in config_error(capfd, "grants")


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
    for whose in ("a b", "alice@elsewhere.test", "192.0.2.1/24"):
        said = config_error(capfd, "grants", "revoke", whose, "--grants", f"sqlite:{tmp_path / 'g'}")
        assert f"invalid identity or address: {whose!r}; " in said


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
    assert said == f"mailauth serve: --grants: {shared} is accessible to other users; run: chmod 600 {shared}\n"
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
