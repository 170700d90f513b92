"""The rules of architecture.md, Layers: I/O, import order, empty base classes, state, protocol in adapters.

For each rule, one test applies it to the source, and another checks that it detects a violation.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import tomllib
from types import ModuleType

import pytest

import mailauth
from mailauth import Command, Notice, Payload, Question, pop3, sasl, smtp
from tests.floor_plan import (
    SOURCE,
    Module,
    bound_to_a_loop,
    imports,
    impurities,
    mutable_state,
    not_empty,
    own_address_keys,
    private_imports,
    protocol_in,
    read,
    read_tools,
    undeclared,
    wrong_way,
)

CORE = [module for module in read("mailauth") if module.name != "mailauth.__main__"]  # it runs the command
IO = read("mailauth_io")

KNOWS_ITS_LOOP = frozenset({"on_asyncio", "on_trio"})


def core(place: str, text: str) -> list[Module]:
    """Return a core with one file."""
    return [Module(f"mailauth.{place}".rstrip("."), text, package=place in {"", "sasl", "smtp", "pop3"})]


def loaded_by(*statements: str) -> set[str]:
    """Return the modules in ``sys.modules`` after *statements* in a new Python process."""
    program = "; ".join([*statements, "import sys", "print(*sys.modules)"])
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", program]
    return set(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.split())


def test_the_checker_reads_the_real_files() -> None:
    assert {"mailauth", "mailauth.events", "mailauth.smtp.replies"} <= {module.name for module in CORE}
    (messages,) = [module for module in CORE if module.name == "mailauth.sasl.messages"]
    assert {"mailauth.events.Question", "mailauth.events.Notice"} <= {target for _, target in imports(messages)}


# No I/O


def test_core_does_no_io() -> None:
    """It imports only attrs and modules of the standard library that do no I/O and do not wait."""
    assert impurities(CORE) == []


@pytest.mark.parametrize(
    "statement",
    [
        *(f"import {name}" for name in "socket ssl asyncio trio threading time random secrets os logging".split()),
        "import os.path",
        "from time import monotonic",
        "import importlib",
        "import io\nio.open('/etc/passwd')",
        "from io import open as look",
        "def late():\n    import socket",
        "__import__('socket')",
        "open('/etc/passwd')",
        "async def f(): ...",
    ],
)
def test_io_in_the_core_is_detected(statement: str) -> None:
    assert len(impurities([Module("mailauth.smtp.server", statement)])) == 1


@pytest.mark.parametrize(
    "statement", ["import hmac", "import io\nio.IncrementalNewlineDecoder(None, False)", "from .. import smtp"]
)
def test_import_without_io_is_not_reported(statement: str) -> None:
    assert impurities([Module("mailauth.smtp.server", statement)]) == []


# Import order


def test_core_imports_follow_the_layer_order() -> None:
    assert wrong_way(CORE) == []


@pytest.mark.parametrize(
    ("place", "statement"),
    [
        ("errors", "from .events import Why"),
        ("events", "from ._lines import Lines"),
        ("_lines", "from ._dots import Dots"),
        ("_dots", "from .sasl import Step"),
        ("_machine", "from .smtp import replies"),
        ("_machine", "import mailauth.pop3.events"),
        ("sasl.messages", "from ..smtp.replies import Reply"),
        ("sasl.messages", "from .plain import PlainServer"),
        ("sasl.plain", "from .exchange import ServerExchange"),
        ("sasl.plain", "from .login import LoginServer"),
        ("sasl.exchange", "from .plain import PlainServer"),
        ("sasl.plain", "from .._machine import Machine"),
        ("smtp.server", "from ..pop3 import replies"),
        ("smtp.server", "from .client import ClientConnection"),
        ("smtp.server", "from . import client"),
        ("pop3.client", "from .server import ServerConnection"),
        ("pop3.server", "from ..smtp._grammar import Mailbox"),
        ("smtp._grammar", "from .replies import Reply"),
        ("smtp.replies", "from .commands import Mail"),
        ("smtp.commands", "from .states import State"),
        ("smtp.states", "from .events import Refused"),
        ("smtp.events", "from .server import ServerConnection"),
        ("smtp.server", "from . import ServerSettings"),
        ("grants", "from .policy import RelayPolicy"),
        ("policy", "from .smtp.commands import Rcpt"),
        ("policy", "from .smtp import Reply"),
        ("policy", "from ._machine import Machine"),
        ("", "from . import smtp"),
        ("smtp.server", "import mailauth_io"),
        ("smtp.server", "def late():\n    from mailauth_io import server"),
    ],
)
def test_import_against_the_layer_order_is_detected(place: str, statement: str) -> None:
    assert len(wrong_way(core(place, statement))) == 1


@pytest.mark.parametrize("place", ["utils", "smtp.helpers", "pop3.misc"])
def test_module_in_no_layer_is_detected(place: str) -> None:
    assert wrong_way([Module(f"mailauth.{place}", "")]) == [f"mailauth.{place} is in no layer"]


@pytest.mark.parametrize(
    ("place", "statement"),
    [
        ("policy", "from .smtp.replies import Reply"),
        ("policy", "from .grants import Grant"),
        ("smtp.server", "from ..sasl import Refusal"),
        ("smtp.server", "from .events import Refused"),
        ("smtp.commands", "from . import replies"),
        ("sasl", "from .exchange import ServerExchange"),
        ("sasl.offer", "from .plain import PlainServer"),
        ("sasl._password_mechanisms", "from .plain import PlainClient"),
    ],
)
def test_allowed_import_is_not_reported(place: str, statement: str) -> None:
    """Allowed imports are not reported."""
    assert wrong_way(core(place, statement)) == []


def test_sasl_imports_neither_smtp_nor_pop3() -> None:
    loaded = loaded_by("import mailauth.sasl")
    assert "mailauth.sasl" in loaded
    assert not {"mailauth.smtp", "mailauth.pop3"} & loaded


def test_imported_protocol_is_detected() -> None:
    assert "mailauth.smtp" in loaded_by("import mailauth.sasl", "import mailauth.smtp")


def test_mailauth_io_imports_no_private_module_of_another_package() -> None:
    assert private_imports(IO) == []


@pytest.mark.parametrize(
    ("place", "statement", "reported"),
    [
        ("cli.send_command", "from ..client._message import envelope", True),
        ("cli.fetch_command", "from ..stores._maildir import StagedFile", True),
        ("cli.main", "import mailauth_io.stores._maildir", True),
        ("cli.main", "from mailauth._machine import Machine", True),
        ("stores.maildir_outbox", "from ._maildir import sweep", False),
        ("adapters.tls.layer", "from ..._checks import check_type", False),
    ],
)
def test_import_of_a_private_module_is_detected(place: str, statement: str, reported: bool) -> None:
    assert bool(private_imports([Module(f"mailauth_io.{place}", statement)])) is reported


# The base classes of events


def test_question_notice_payload_and_command_are_empty() -> None:
    (events,) = [module for module in CORE if module.name == "mailauth.events"]
    assert not_empty(events) == []


@pytest.mark.parametrize(
    ("text", "offence"),
    [
        ("class Notice: ...", "Notice lacks __slots__ = ()"),
        ("class Notice:\n    __slots__ = ()\n    code = 1", "Notice holds code = 1"),
        ("class Notice:\n    __slots__ = ()\n    def f(self): ...", "Notice holds def f(self):"),
        ("class Notice:\n    __slots__ = ('code',)", "Notice holds __slots__ = ('code',)"),
    ],
)
def test_non_empty_event_base_class_is_detected(text: str, offence: str) -> None:
    rest = "\n".join(f"class {name}:\n    __slots__ = ()" for name in ("Command", "Payload", "Question"))
    assert offence in not_empty(Module("mailauth.events", f"{text}\n{rest}"))


def test_missing_event_base_class_is_detected() -> None:
    assert "Question is missing" in not_empty(Module("mailauth.events", ""))


@pytest.mark.parametrize("package", [mailauth, sasl, smtp, pop3])
def test_no_event_except_mail_and_rcpt_has_a_dict(package: ModuleType) -> None:
    """This is the purpose of the empty slots: an event has only its fields."""
    words = (Command, Notice, Payload, Question)
    events = [kind for _, kind in inspect.getmembers(package, inspect.isclass) if issubclass(kind, words)]
    assert events
    # An SMTP server creates these two for most lines; without slots they are created at half the cost.
    assert {kind for kind in events if kind.__dictoffset__} <= {smtp.Mail, smtp.Rcpt}


# No module state


def test_the_core_holds_no_mutable_state() -> None:
    assert mutable_state(CORE) == []


@pytest.mark.parametrize(
    "text",
    [
        "seen = {}",
        "seen: dict[str, int] = {}",
        "SEEN: Final = []",
        "SEEN: Final[list[int]] = [1]",
        "counter = itertools.count()",
        "counter = [n for n in range(3)]",
        "class C:\n    seen: ClassVar[set[str]] = set()",
        "def f():\n    global counter",
        "@functools.lru_cache(maxsize=9)\ndef f(): ...",
        "class C:\n    @cache\n    def f(self): ...",
    ],
)
def test_mutable_state_is_detected(text: str) -> None:
    assert len(mutable_state([Module("mailauth._lines", text)])) == 1


@pytest.mark.parametrize(
    "text",
    ["T: Final[Mapping[str, int]] = {'a': 1}", "T: Final = frozenset({'a'})", "T = (1, 2)", "def f():\n    seen = {}"],
)
def test_constants_and_local_variables_are_not_reported(text: str) -> None:
    assert mutable_state([Module("mailauth._lines", text)]) == []


# The adapters


def test_adapters_contain_no_protocol_details() -> None:
    adapters = {"mailauth_io.on_asyncio", "mailauth_io.on_trio", "mailauth_io.adapters.tls.layer"}
    assert adapters <= {module.name for module in IO}
    assert protocol_in(IO) == []


@pytest.mark.parametrize(
    "text",
    [
        "x = b'STARTTLS'",
        "x = 'the client said EHLO'",
        "x = b'421 closing'",
        "x = 220",
        "x = b'+OK'",
        "x = f'{y} -> QUIT'",
        "def f(event):\n    return isinstance(event, smtp.Mail)",
        "from mailauth.smtp import Mail",
        "from mailauth.pop3.replies import OK",
    ],
)
def test_protocol_details_in_an_adapter_are_detected(text: str) -> None:
    assert len(protocol_in([Module("mailauth_io.on_trio", text)])) == 1


def test_protocol_name_in_an_adapter_docstring_is_not_reported() -> None:
    text = '"""STARTTLS on a live stream."""\nfrom mailauth.smtp import ServerConnection\nLIMIT = 65536'
    assert protocol_in([Module("mailauth_io.on_trio", text)]) == []


# What one address is


def test_one_module_decides_what_one_address_is() -> None:
    """``grant_key`` and ``limit_key`` are used by every table that is kept by address."""
    assert own_address_keys([*CORE, *IO]) == []
    users: dict[str, set[str]] = {"grant_key": set(), "numeric_grant_key": set(), "limit_key": set()}
    for module in [*CORE, *IO]:
        for _, target in imports(module):
            if target.startswith("mailauth.addresses."):
                users.setdefault(target.rpartition(".")[2], set()).add(module.name)
    stores = {"mailauth_io.stores.sqlite_grants", "mailauth_io.stores.redis_grants"}
    assert users["grant_key"] >= {*stores, "mailauth_io.stores.grants", "mailauth_io.cli.grants_command"}
    assert users["numeric_grant_key"] == {"mailauth.grants"}
    tables = {"mailauth_io.limits", "mailauth_io.server._failed_logins"}
    assert users["limit_key"] >= {*tables, "mailauth_io.server.state"}


@pytest.mark.parametrize(
    "text",
    [
        "from mailauth.addresses import normalize_address",
        "key = ipaddress.ip_address(peer.address)",
        "key = IPv6Network((number, 64))",
        "key = address.ipv4_mapped or address",
        "self.failed[address] += 1",
        "self.failed[address, name] = now",
        "count = self.failed.get(peer.address, 0)",
        "self.seen.add(connection.peer.address)",
        "refused = connection.peer.address in self.seen",
    ],
)
def test_table_with_its_own_idea_of_an_address_is_detected(text: str) -> None:
    assert len(own_address_keys([Module("mailauth_io.server.new_table", text)])) == 1


@pytest.mark.parametrize(
    "text",
    [
        "from mailauth.addresses import limit_key\nself.failed[limit_key(address)] += 1",
        "def f(address: IPv4Address | IPv6Address) -> dict[IPv6Network, int]: ...",
        "excluded = is_within(peer.address, networks)",
    ],
)
def test_use_of_the_keys_is_not_reported(text: str) -> None:
    assert own_address_keys([Module("mailauth_io.server.new_table", text)]) == []


IMPORTED_AS = {"libpass": "passlib"}
"""Packages whose module has a different name."""


def declared() -> tuple[frozenset[str], frozenset[str]]:
    """Return the modules that pyproject.toml installs: with all extras, and with the development dependencies too."""
    settings = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    extras = settings["project"]["optional-dependencies"]
    apart = [line for lines in extras.values() for line in lines if not line.startswith("mailauth[")]
    installed = [*settings["project"]["dependencies"], *apart]
    groups = [line for group in settings["dependency-groups"].values() for line in group if isinstance(line, str)]
    names = [
        frozenset(IMPORTED_AS.get(name, name) for name in (re.split(r"[^a-z0-9]", line)[0] for line in lines))
        for lines in (installed, groups)
    ]
    return names[0], names[0] | names[1]


def test_every_dependency_is_declared() -> None:
    """The core needs attrs; the others come with extras, libpass as passlib; tests need the groups."""
    installed, developing = declared()
    assert installed == {"attrs", "anyio", "trio", "trustme", "passlib", "redis", "uvloop", "pytest"}
    assert undeclared([*CORE, *IO], installed) == []
    assert undeclared(read_tools(), developing) == []


def test_only_the_plugin_imports_pytest() -> None:
    """pytest comes with no extra that ``all`` has, and ``mailauth test-server`` does not need it."""
    users = {module.name for module in IO for _, target in imports(module) if target.partition(".")[0] == "pytest"}
    assert users == {"mailauth_io.pytest_plugin"}


def test_undeclared_dependency_is_detected() -> None:
    assert len(undeclared([Module("mailauth_io.cli.main", "import click")], frozenset({"trio"}))) == 1


def test_asyncio_server_does_not_import_trio() -> None:
    """trio is an extra, and may be missing on a server that uses asyncio."""
    assert "trio" not in loaded_by("import mailauth_io.on_asyncio, mailauth_io.server, mailauth_io.cli.main")


OTHERS = {
    "adapters": {"asyncio", "trio", "anyio"},
    "on_asyncio": {"trio", "anyio"},
    "on_trio": {"mailauth_io.on_asyncio", "anyio"},
}
"""What each part of the adapters must not load."""


@pytest.mark.parametrize("name", OTHERS)
def test_adapter_imports_no_other_event_loop_and_no_server(name: str) -> None:
    loaded = loaded_by(f"import mailauth_io.{name}")
    assert f"mailauth_io.{name}" in loaded
    server = {module for module in loaded if module.startswith(("mailauth_io.server", "mailauth_io.stores"))}
    assert (loaded & OTHERS[name]) | server == set()


def test_server_imports_no_optional_store_or_hash_library() -> None:
    """A server that keeps its grants in memory needs neither database, and no hash but those of hashlib."""
    loaded = loaded_by("import mailauth_io.server, mailauth_io.stores")
    assert "mailauth_io.stores.protocols" in loaded
    assert not {"sqlite3", "redis", "passlib"} & loaded
    assert "sqlite3" in loaded_by("import mailauth_io.stores.sqlite_grants")


def test_cli_does_not_import_the_methods_demonstration() -> None:
    loaded = loaded_by("import mailauth_io.cli.main, mailauth_io.cli.serve")
    assert "mailauth_io.server" in loaded
    assert not {name for name in loaded if name.startswith("mailauth_io.methods")}


def test_server_and_stores_are_independent_of_the_event_loop() -> None:
    parts = {"adapters", "server", "stores", "methods", "cli", "_workers"}
    neutral = [module for module in IO if module.place.partition(".")[0] in parts]
    assert neutral
    assert bound_to_a_loop(neutral, allowed=KNOWS_ITS_LOOP) == []


def test_event_loop_import_in_the_server_is_detected() -> None:
    assert len(bound_to_a_loop([Module("mailauth_io.server.sessions", "import asyncio")], allowed=KNOWS_ITS_LOOP)) == 1
    assert bound_to_a_loop([Module("mailauth_io.on_asyncio", "import asyncio")], allowed=KNOWS_ITS_LOOP) == []


@pytest.mark.parametrize(("mine", "other"), [("asyncio", "trio"), ("trio", "asyncio")])
def test_adapter_imports_only_its_own_event_loop(mine: str, other: str) -> None:
    (adapter,) = [module for module in IO if module.place == f"on_{mine}"]
    roots = {target.partition(".")[0] for _, target in imports(adapter)}
    assert mine in roots
    assert other not in roots
