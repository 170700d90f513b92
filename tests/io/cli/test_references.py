"""Stores and interceptors that the configuration file names as ``module:attribute``."""

from __future__ import annotations

import itertools
import re
import smtplib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailauth_io import server, stores
from mailauth_io.cli import config, main as cli, settings_file
from mailauth_io.cli.errors import ConfigError
from tests import serving
from tests.io.config_errors import config_error

ACCOUNTS = """
from mailauth_io import server, stores

accounts = stores.MemoryAccounts({"alice": b"wonderland"})
hop = server.NextHop(host="mail.example.net", port=25, tls_required=False)
nothing = None
broken = [].pop


class Maildrops(stores.MemoryMaildrops):
    pass


class NeedsPath(stores.MemoryMaildrops):
    def __init__(self, path):
        pass


class Things:
    outbox = stores.MemoryOutbox()


def make_grants():
    return stores.MemoryGrants(lifetime=60)


class NoSettings(stores.MemoryGrants):
    def __init__(self):
        super().__init__()
        del self.settings


class WrongSettings(stores.MemoryGrants):
    def __init__(self):
        super().__init__()
        self.settings = {}


def make_nothing():
    return None


class Down(stores.MemoryAccounts):
    def __init__(self):
        super().__init__({})

    def credentials(self):
        raise ConnectionError("database is down")


async def refuse(view, question):
    return server.DROP


class NeedsName:
    def __init__(self, *, name, color="white", **others):
        pass

    def __call__(self, view, question):
        return server.PASS


class NotCallable:
    pass


def needs_path(path):
    return stores.MemoryMaildrops()


async def make_later():
    return stores.MemoryMaildrops()


class PlainFind(stores.MemoryAccounts):
    def __init__(self):
        raise AssertionError("called")

    def find(self, name):
        return None


class Greylist:
    def __call__(self, view, question):
        return server.PASS


wrapped = server.Interceptor(refuse, may_relay=True)
"""

_numbers = itertools.count()

WriteFile = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteFile]:
    """Write a configuration file in which MODULE stands for a new module in the same directory."""
    name = f"configured_stores_{next(_numbers)}"
    (tmp_path / f"{name}.py").write_text(ACCOUNTS)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(text: str) -> Path:
        path = tmp_path / "mailauth.toml"
        path.write_text(text.replace("MODULE", name))
        return path

    yield write
    sys.modules.pop(name, None)


def read(path: Path, *options: str) -> config.ServerSetup:
    return config.read(cli.settings_of(cli.build_parser().parse_args(["serve", "--config", str(path), *options])))


def test_classes_and_functions_are_called_and_other_objects_are_used(write: WriteFile) -> None:
    path = write(
        '[stores]\naccounts = "MODULE:accounts"\nmaildrops = "MODULE:Maildrops"\noutbox = "MODULE:Things.outbox"\n'
        'grants = "MODULE:make_grants"\ntokens = "MODULE:accounts"\ncertificates = "MODULE:accounts"\n'
        "[grants]\nlifetime = 60.0\n"
        '[tls]\nclient_ca = "ca.pem"\n'
        '[server]\ninterceptors = ["MODULE:refuse", "MODULE:Greylist", "MODULE:wrapped"]\n'
    )
    _write_ca(path.parent / "ca.pem")
    setup = read(path)
    kept = setup.stores
    assert isinstance(kept.accounts, stores.MemoryAccounts)
    assert len({id(kept.accounts), id(kept.tokens), id(kept.certificates)}) == 1
    assert type(kept.maildrops).__name__ == "Maildrops"
    assert isinstance(kept.outbox, stores.MemoryOutbox)
    assert isinstance(kept.grants, stores.MemoryGrants)
    assert [each.name for each in setup.interceptors] == ["refuse", "Greylist", "refuse"]
    assert [each.may_relay for each in setup.interceptors] == [False, False, True]
    assert not [warning for warning in setup.warnings if "Not persistent" in warning]


def _write_ca(path: Path) -> None:
    from tests.io.tls import authority

    authority().cert_pem.write_to_path(str(path))


def test_outbox_may_be_a_next_hop(write: WriteFile) -> None:
    assert isinstance(read(write('[stores]\noutbox = "MODULE:hop"\n')).stores.outbox, server.NextHop)


def test_server_has_no_interceptors_and_stores_of_its_own_by_default(write: WriteFile) -> None:
    setup = read(write(""))
    assert setup.interceptors == ()
    assert isinstance(setup.stores.maildrops, stores.MemoryMaildrops)
    assert (setup.stores.tokens, setup.stores.certificates, setup.stores.grants) == (None, None, None)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "lifetime: 1800 is not the setting of MODULE:make_grants, 60; use the same in both"),
        ("ipv6_prefix = 64", "ipv6_prefix: 64 is not the setting of MODULE:make_grants, 128; use the same in both"),
        (
            'nat64_prefixes = ["2001:db8:64::/96"]',
            "nat64_prefixes: [2001:db8:64::/96] is not the setting of MODULE:make_grants, []; use the same in both",
        ),
    ],
)
def test_grant_settings_of_the_file_must_be_those_of_the_store(line: str, says: str, write: WriteFile) -> None:
    lifetime = "lifetime = 60.0\n" if line else ""
    path = write(f'[stores]\ngrants = "MODULE:make_grants"\n[grants]\n{lifetime}{line}\n')
    module = next(path.parent.glob("configured_stores_*.py")).stem
    with pytest.raises(ConfigError, match=re.escape(says.replace("MODULE", module))):
        read(path)


def test_grants_of_a_module_are_not_built_if_grants_are_disabled(write: WriteFile) -> None:
    assert read(write('[stores]\ngrants = "MODULE:make_grants"\n[grants]\nlifetime = 0.0\n')).stores.grants is None


REQUIRES = "is called without arguments, but requires"
ERRORS = [
    (
        'maildrops = "MODULE:NeedsPath"',
        f"MODULE:NeedsPath {REQUIRES} path; name an object, or a class or function that requires none",
    ),
    ('maildrops = "MODULE:needs_path"', f"MODULE:needs_path {REQUIRES} path; name an object"),
    ('maildrops = "MODULE:make_later"', "MODULE:make_later is a coroutine function, but no event loop runs yet"),
    (
        'accounts = "MODULE:PlainFind"',
        "find() of MODULE:PlainFind must be a coroutine function, defined with async def; see Accounts in",
    ),
    ('accounts = "missing_module:accounts"', "cannot import missing_module: ModuleNotFoundError: No module named 'mis"),
    ('accounts = "MODULE:missing"', "MODULE has no missing; use module:attribute"),
    ('accounts = "MODULE:accounts.missing"', "MODULE has no accounts.missing; use module:attribute"),
    ('maildrops = "MODULE:accounts"', "MODULE:accounts has no method open, stage; see Maildrops in mailauth_io.stores"),
    ('maildrops = "MODULE:nothing"', "MODULE:nothing has no method open, stage; see Maildrops in mailauth_io.stores"),
    ('outbox = "MODULE:Things"', "MODULE:Things has no method stage; see Outbox in mailauth_io.stores"),
    ('grants = "MODULE:accounts"', "MODULE:accounts has no method grant, revoke_identity"),
    ('tokens = "MODULE:hop"', "MODULE:hop has no method token_owner"),
    ('certificates = "MODULE:hop"', "MODULE:hop has no method certificate_owners"),
    (
        'maildrops = "MODULE:Maildrops"\n[mail]\nmaildir = "m"',
        "replaces [mail] maildir; remove one of [stores] m",
    ),
    ('outbox = "MODULE:hop"\n[mail]\noutbox = "m"', "replaces [mail] outbox; remove one of [stores] outbox"),
    ('accounts = "MODULE:accounts"\n[accounts]\nusers = ["a:b"]', "replaces [accounts] users; remove one of"),
    ('grants = "MODULE:make_grants"\n[grants]\nstore = "sqlite:g"', "replaces [grants] store; remove one of"),
]
"""Errors that need no call: check-config finds them too."""

CALL_ERRORS = [
    ('maildrops = "MODULE:make_nothing"', "MODULE:make_nothing has no method open, stage"),
    ('grants = "MODULE:NoSettings"', "MODULE:NoSettings has no attribute settings; see Grants in mailauth_io.stores"),
    ('grants = "MODULE:WrongSettings"', "the settings of MODULE:WrongSettings must be a GrantSettings of mailauth_io"),
    ('accounts = "MODULE:broken"', "MODULE:broken() failed: IndexError: pop from empty list"),
    ('accounts = "MODULE:Down"', "MODULE:Down failed in credentials(): ConnectionError: database is down"),
    ('accounts = "MODULE:accounts"\n[mail]\npostmaster = "a b"', None),
]


@pytest.mark.parametrize(("text", "expected"), [*ERRORS, *CALL_ERRORS])
def test_unusable_store_is_one_sentence_at_the_start(
    text: str, expected: str | None, write: WriteFile, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(f"[stores]\n{text}\n")
    path.chmod(0o600)
    module = next(path.parent.glob("configured_stores_*.py")).stem
    found = config_error(capfd, "serve", "--config", str(path))
    if expected is None:
        assert ":4: [mail] postmaster: unknown account: 'a b'" in found
    else:
        assert f": [stores] {text.partition(' ')[0]}: {expected.replace('MODULE', module)}" in found


@pytest.mark.parametrize(("text", "expected"), ERRORS)
def test_check_config_reports_unusable_stores(
    text: str, expected: str, write: WriteFile, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(f"[stores]\n{text}\n")
    path.chmod(0o600)
    module = next(path.parent.glob("configured_stores_*.py")).stem
    assert cli.main(["check-config", str(path)]) == 2
    first = capfd.readouterr().out.splitlines()[0]
    assert first.startswith(f"{path}:2: [stores] {text.partition(' ')[0]}: {expected.replace('MODULE', module)}")


def test_check_config_calls_nothing(write: WriteFile, capfd: pytest.CaptureFixture[str]) -> None:
    text = '[stores]\naccounts = "MODULE:broken"\n[server]\ninterceptors = ["MODULE:Greylist", "MODULE:wrapped"]\n'
    path = write(text)
    assert cli.main(["check-config", str(path)]) == 0
    assert capfd.readouterr().out == f"{path}: OK\n"


def test_check_config_reports_every_reference(write: WriteFile, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(
        '[stores]\naccounts = "MODULE:a"\noutbox = "MODULE:b"\n[server]\n'
        'interceptors = ["MODULE:c", "MODULE:refuse", "MODULE:accounts"]\n'
    )
    assert cli.main(["check-config", str(path)]) == 2
    lines = [line.removeprefix(f"{path}:") for line in capfd.readouterr().out.splitlines()]
    assert [line.split(": ")[:2] for line in lines] == [
        ["2", "[stores] accounts"],
        ["3", "[stores] outbox"],
        ["5", "[server] interceptors"],
        ["5", "[server] interceptors"],
    ]
    assert "is MemoryAccounts; it must be a function of a view and a question, or a server.Interceptor" in lines[3]


INTERCEPTOR_ERRORS = [
    ("NeedsName", "MODULE:NeedsName is called without arguments, but requires name; name an object, or a class or"),
    ("NotCallable", "MODULE:NotCallable is a class without __call__(); it must be a function of a view and a question"),
]


@pytest.mark.parametrize(("name", "expected"), INTERCEPTOR_ERRORS)
def test_unusable_class_of_an_interceptor_is_one_sentence(
    name: str, expected: str, write: WriteFile, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(f'[server]\ninterceptors = ["MODULE:{name}"]\n')
    module = next(path.parent.glob("configured_stores_*.py")).stem
    assert cli.main(["check-config", str(path)]) == 2
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith(f"{path}:2: [server] interceptors: {expected.replace('MODULE', module)}")
    assert config_error(capfd, "serve", "--config", str(path)).strip() == f"mailauth serve: {line}"


@pytest.mark.parametrize("text", ["mymodule", "mymodule:", ":accounts", "my-module:a", "a:b:c", "a:b c"])
def test_invalid_reference_is_an_error_with_its_line(text: str, write: WriteFile) -> None:
    path = write(f'[stores]\naccounts = "{text}"\n')
    assert [str(each) for each in settings_file.read(path).errors] == [
        f"{path}:2: [stores] accounts: invalid reference: {text!r}; use module:attribute, such as mymodule:name"
    ]


def test_file_beside_the_configuration_replaces_no_installed_module(write: WriteFile, tmp_path: Path) -> None:
    (tmp_path / "tomllib.py").write_text("raise RuntimeError\n")
    with pytest.raises(ConfigError, match="tomllib has no accounts"):
        read(write('[stores]\naccounts = "tomllib:accounts"\n'))
    assert sys.path[-1] == str(tmp_path)


def test_client_ca_and_certificates_must_be_set_together(write: WriteFile) -> None:
    path = write('[stores]\ncertificates = "MODULE:accounts"\n')
    with pytest.raises(ConfigError, match=r"\[tls\] client_ca and \[stores\] certificates must be set together"):
        read(path)


def test_grants_command_uses_the_store_of_a_module(write: WriteFile, capfd: pytest.CaptureFixture[str]) -> None:
    path = write('[stores]\ngrants = "MODULE:make_grants"\n')
    assert cli.main(["grants", "list", "--config", str(path)]) == 0
    assert capfd.readouterr().out == "no grants\n"


@pytest.mark.parametrize("loop", serving.LOOPS)
def test_mailauth_serve_uses_the_stores_and_interceptors_of_a_module(loop: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from mailauth import smtp\n"
        "from mailauth_io import server, stores\n"
        'accounts = stores.MemoryAccounts({"dinah": b"wonderland"})\n'
        "async def no_mail(view, question):\n"
        '    return smtp.Reply(550, "5.7.1", "no mail today") if isinstance(question, smtp.Mail) else server.PASS\n'
    )
    path = tmp_path / "mailauth.toml"
    path.write_text(
        '[stores]\naccounts = "own:accounts"\n[server]\ninterceptors = ["own:no_mail"]\n[accounts]\nlegacy = true\n'
        '[mail]\npostmaster = "dinah"\n'
    )
    with (
        serving.started(tmp_path, "--config", str(path), "--loop", loop) as served,
        smtplib.SMTP("127.0.0.1", served.port("smtp"), timeout=30) as client,
    ):
        client.login("dinah", "wonderland")
        assert client.mail("dinah@example.test") == (550, b"5.7.1 no mail today")


def test_unknown_postmaster_of_a_store_is_one_sentence(write: WriteFile, capfd: pytest.CaptureFixture[str]) -> None:
    path = write('[stores]\naccounts = "MODULE:accounts"\n[mail]\npostmaster = "bob"\n[listen]\nsmtp = 0\n')
    done = serving.run("serve", "--config", str(path))
    module = next(path.parent.glob("configured_stores_*.py")).stem
    assert (done.returncode, done.stderr) == (
        2,
        f"mailauth serve: {path}:4: [mail] postmaster: unknown account: 'bob'; use an account of {module}:accounts\n",
    )


ENTERED = """
import sys
from mailauth_io import stores

class Store(stores.MemoryAccounts):
    def __init__(self):
        super().__init__({"alice": b"wonderland"})

    async def __aenter__(self):
        print("entered", file=sys.stdout, flush=True)
        FAIL

    async def __aexit__(self, *error):
        print("left", file=sys.stdout, flush=True)


both = Store()


class Grants(stores.MemoryGrants):
    async def __aenter__(self):
        print("grants entered", file=sys.stdout, flush=True)

    async def __aexit__(self, *error):
        print("grants left", file=sys.stdout, flush=True)

    def close(self):
        print("grants closed", file=sys.stdout, flush=True)
"""


@pytest.mark.parametrize("loop", serving.LOOPS)
def test_store_that_is_a_context_manager_is_entered_once_and_left(loop: str, tmp_path: Path) -> None:
    (tmp_path / "entered.py").write_text(ENTERED.replace("FAIL", "return self").replace("stdout", "stderr"))
    path = tmp_path / "mailauth.toml"
    path.write_text('[stores]\naccounts = "entered:both"\ntokens = "entered:both"\ngrants = "entered:Grants"\n')
    with serving.served(tmp_path, "--config", str(path), "--loop", loop) as served:
        pass
    printed = served.log.read_text()
    lines = [line for line in printed.splitlines() if line.startswith(("entered", "left", "grants"))]
    assert lines == ["entered", "grants entered", "grants left", "left", "grants closed"]


@pytest.mark.parametrize("error", ["raise OSError(13, 'Permission denied')", "raise LookupError('no such table')"])
def test_store_that_cannot_be_entered_is_one_sentence(error: str, tmp_path: Path) -> None:
    (tmp_path / "entered.py").write_text(ENTERED.replace("FAIL", error))
    path = tmp_path / "mailauth.toml"
    path.write_text('[stores]\naccounts = "entered:both"\n[listen]\nsmtp = 0\n')
    done = serving.run("serve", "--config", str(path))
    reason = "PermissionError: [Errno 13] Permission denied" if "OSError" in error else "LookupError: no such table"
    expected = f"mailauth serve: {path}:2: [stores] accounts: entered:both failed in __aenter__(): {reason}\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_grants_command_enters_and_leaves_its_store(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "entered_by_grants.py").write_text(ENTERED.replace("FAIL", "return self"))
    path = tmp_path / "mailauth.toml"
    path.write_text('[stores]\ngrants = "entered_by_grants:Grants"\n')
    assert cli.main(["grants", "list", "--config", str(path)]) == 0
    assert capfd.readouterr().out == "grants entered\ngrants left\ngrants closed\nno grants\n"
