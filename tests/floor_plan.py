"""The rules of architecture.md, Layers, over syntax trees.

Each rule takes modules and returns a list of violations, as text.  The modules are parsed and not executed.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs

SOURCE: Final = Path(__file__).parent.parent / "src"

PURE: Final = frozenset(
    "__future__ abc attrs base64 binascii bisect codecs collections contextlib enum functools hashlib heapq hmac io"
    " ipaddress itertools math operator re string stringprep struct types typing unicodedata".split()
)
"""All modules that the core may import: none does I/O, waits, or reads a clock or random numbers."""

FROM_IO: Final = frozenset({"IncrementalNewlineDecoder"})
"""All names that the core may use from ``io``: it searches for bare CR and LF."""

IMPURE_NAMES: Final = frozenset({"__import__", "breakpoint", "eval", "exec", "input", "open", "print"})

LAYERS: Final = (
    {"errors"},
    {"_validators", "_patterns", "_unchecked", "_values"},
    {"events"},
    {"_lines", "_dots", "sasl"},
    {"_machine"},
    {"_server", "_client"},
    {"smtp", "pop3"},
)
"""The layers of the core, from the lowest.  A module may import from lower layers, and not from its own."""

NEIGHBOURS: Final = frozenset({("_dots", "_lines")})
"""The exception: ``_dots`` uses the search for bare CR and LF in ``_lines``."""

ASIDE: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset({"errors", "events", "_machine", "_server", "_client"}),
    "addresses": frozenset({"errors", "_validators"}),
    "grants": frozenset({"errors", "_validators", "addresses"}),
    "policy": frozenset({"errors", "_validators", "events", "grants", "smtp.replies", "smtp._grammar"}),
    "proxy": frozenset({"errors", "events", "_validators"}),
}
"""The modules outside the layers, with all modules that each may import ("" is the package itself)."""

INSIDE_A_PROTOCOL: Final = (
    {"_grammar"},
    {"replies", "parameters"},
    {"commands", "maildrop", "_client_content"},
    {"_command_lines", "states", "events"},
    {"_standard_replies", "content"},
    {"verbs"},
    {"settings"},
    {"_fast_path"},
    {"server", "client"},
    {""},
)
"""The layers of smtp and pop3, from the lowest.  The last is the package itself, which exports the public names."""

PLANNED: Final = frozenset(
    {f"mailauth.{part}" for layer in LAYERS for part in layer}
    | {f"mailauth.{part}".rstrip(".") for part in ASIDE}
    | {f"mailauth.{protocol}.{part}" for protocol in ("smtp", "pop3") for layer in INSIDE_A_PROTOCOL for part in layer}
    | {f"mailauth.sasl.{part}" for part in ("messages", "exchange", "offer", "plain", "login", "saslprep")}
)
"""All modules named above, whether they exist or not."""

VOCABULARY: Final = frozenset({"Command", "Notice", "Payload", "Question"})

ADAPTERS: Final = frozenset({"on_asyncio", "on_trio", "adapters"})
"""The places of the adapters: two modules and a package."""
FROM_A_PROTOCOL: Final = frozenset(
    {"ServerConnection", "ServerSettings", "ServerEvent", "ClientConnection", "ClientEvent"}
)
"""All names that an adapter may use from smtp and pop3; ``ServerMachine`` and the like are in lower layers."""

VERBS: Final = (
    "APOP AUTH CAPA DATA DELE EHLO HELO HELP LHLO LIST MAIL NOOP PASS QUIT RCPT RETR RSET STARTTLS STAT STLS TOP UIDL"
    " USER VRFY".split()
)
_VERB: Final = re.compile(rf"\b(?:{'|'.join(VERBS)})\b")
_REPLY: Final = re.compile(r"\b[2-5][0-5][0-9]\b|^(?:\+OK|-ERR)|^\+ ")

ADDRESSES: Final = "mailauth.addresses"
READS_ADDRESSES: Final = frozenset(
    {
        "mailauth.proxy",  # the addresses in a PROXY header
        "mailauth.smtp._grammar",  # address literals
        "mailauth_io._checks",  # networks passed by an application
        "mailauth_io.adapters.tls.certificates",  # the names in a certificate
        "mailauth_io.cli.parsers",  # addresses and networks in settings
    }
)
"""The modules that parse addresses, with the reason.  None of them has a table of peers."""
SHOWS_ADDRESSES: Final = frozenset({"mailauth_io.server.trace"})
"""The modules that write the address of a peer."""
_READERS: Final = frozenset(
    {"ip_address", "ip_network", "ip_interface"}
    | {f"IPv{version}{kind}" for version in (4, 6) for kind in ("Address", "Network", "Interface")}
)
_PARTS: Final = frozenset({"ipv4_mapped", "sixtofour", "teredo", "scope_id", "supernet"})
_TABLE_METHODS: Final = frozenset({"get", "pop", "setdefault", "add", "discard", "remove", "move_to_end"})

_MUTABLE_CALLS: Final = frozenset(
    "bytearray Counter count cycle defaultdict deque dict iter list OrderedDict set WeakKeyDictionary"
    " WeakValueDictionary".split()
)
_READ_ONLY: Final = frozenset({"Mapping", "Sequence", "Set", "AbstractSet", "Collection"})


@attrs.frozen
class Module:
    """A source file: its dotted name, its text, and whether it is the ``__init__`` of a package."""

    name: str
    text: str
    package: bool = False

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def place(self) -> str:
        """The name inside its import package: ``smtp.replies`` for ``mailauth.smtp.replies``, "" for ``mailauth``."""
        return self.name.partition(".")[2]


def read(package: str) -> list[Module]:
    """Return every module of an import package in src."""
    return _read(SOURCE, package)


def read_tools() -> list[Module]:
    """Return every program that is not installed: tests, benchmarks, examples, tools."""
    folders = ("tests", "benchmarks", "examples", "tools")
    return [module for folder in folders for module in _read(SOURCE.parent, folder)]


def _read(root: Path, folder: str) -> list[Module]:
    found = []
    for path in sorted((root / folder).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found.append(Module(name, path.read_text(encoding="utf-8"), is_package))
    return found


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) for every import of a module at run time; ``from a import b`` counts as ``a.b``."""
    here = module.name.split(".") if module.package else module.name.split(".")[:-1]
    tree = module.tree
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{start}.{alias.name}"


def impurities(core: Iterable[Module]) -> list[str]:
    """Check that the core does no I/O, does not wait, and reads no clock and no random numbers."""
    found = []
    for module in core:
        for line, target in imports(module):
            root, _, rest = target.partition(".")
            if root == "mailauth":
                continue
            if root not in PURE:
                found.append(f"{module.name}:{line} imports {target}")
            elif root == "io" and rest and rest not in FROM_IO:
                found.append(f"{module.name}:{line} takes {target}")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Name) and node.id in IMPURE_NAMES:
                found.append(f"{module.name}:{node.lineno} uses {node.id}")
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "io" and node.attr not in FROM_IO:
                found.append(f"{module.name}:{node.lineno} takes {ast.unparse(node)}")
            elif isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await):
                found.append(f"{module.name}:{node.lineno} is async")
    return found


def wrong_way(core: Iterable[Module]) -> list[str]:
    """Check that imports go one way, and that every module has a layer."""
    modules = list(core)
    names = {module.name for module in modules}
    found = []
    for module in modules:
        part, _, rest = module.place.partition(".")
        if _layer(LAYERS, part) is None and part not in ASIDE:
            found.append(f"{module.name} is in no layer")
            continue
        if part in {"smtp", "pop3"} and _layer(INSIDE_A_PROTOCOL, rest) is None:
            found.append(f"{module.name} is in no layer")
            continue
        for line, target in imports(module):
            if target.partition(".")[0] == "mailauth_io":
                found.append(f"{module.name}:{line} imports {target}")
            elif target.partition(".")[0] == "mailauth":
                wanted = _module_of(target, names | PLANNED).partition(".")[2]
                if not _may(part, rest, wanted):
                    found.append(f"{module.name}:{line} imports {wanted or 'mailauth'}")
    return found


def _module_of(target: str, names: set[str]) -> str:
    """Return the module that *target* names, or that defines it."""
    head = target.rpartition(".")[0]
    return target if target in names or head not in names else head


def _layer(layers: tuple[set[str], ...], part: str) -> int | None:
    return next((number for number, layer in enumerate(layers) if part in layer), None)


def _may(part: str, rest: str, wanted: str) -> bool:
    if part in ASIDE:
        return wanted in ASIDE[part]
    wanted_part, _, wanted_rest = wanted.partition(".")
    if part != wanted_part:
        if (part, wanted_part) in NEIGHBOURS:
            return True
        mine, theirs = _layer(LAYERS, part), _layer(LAYERS, wanted_part)
        return mine is not None and theirs is not None and theirs < mine
    if part == "sasl":
        return _may_inside_sasl(rest, wanted_rest)
    mine, theirs = _layer(INSIDE_A_PROTOCOL, rest), _layer(INSIDE_A_PROTOCOL, wanted_rest)
    return mine is not None and theirs is not None and theirs < mine


def _may_inside_sasl(part: str, wanted: str) -> bool:
    """Each mechanism is one file and imports no other; ``offer``, ``_password_mechanisms`` and the package import all.

    ``saslprep`` is not a mechanism; any mechanism may import it.
    """
    if part == "":
        return True
    if part == "messages" or wanted in {"", "exchange", "offer", "_password_mechanisms"}:
        return False
    return wanted.startswith("_") or wanted in {"messages", "saslprep"} or part in {"offer", "_password_mechanisms"}


def not_empty(module: Module) -> list[str]:
    """Check that Question, Notice, Payload and Command have no fields, so that they add nothing to an event."""
    classes = {node.name: node for node in module.tree.body if isinstance(node, ast.ClassDef)}
    found = [f"{name} is missing" for name in sorted(VOCABULARY - set(classes))]
    for name in sorted(VOCABULARY & set(classes)):
        slots = False
        for node in classes[name].body:
            if isinstance(node, ast.Assign) and ast.unparse(node) == "__slots__ = ()":
                slots = True
            elif name == "Question" and isinstance(node, ast.FunctionDef) and node.name == "unavailable":
                pass
            elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                found.append(f"{name} holds {ast.unparse(node).splitlines()[0]}")
        if not slots:
            found.append(f"{name} lacks __slots__ = ()")
    return found


def mutable_state(core: Iterable[Module]) -> list[str]:
    """Check that no module or class of the core has mutable state, which would outlive a connection."""
    found = []
    for module in core:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Global):
                found.append(f"{module.name}:{node.lineno} rebinds {', '.join(node.names)}")
            elif isinstance(node, ast.FunctionDef):
                decorators = {ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list}
                if any(name.rpartition(".")[2] in {"cache", "lru_cache"} for name in decorators):
                    found.append(f"{module.name}:{node.lineno} caches {node.name}")
            elif isinstance(node, ast.Module | ast.ClassDef):
                found += [f"{module.name}:{line} binds what can change" for line in _mutable_bindings(node)]
    return found


def _mutable_bindings(scope: ast.Module | ast.ClassDef) -> Iterator[int]:
    for node in scope.body:
        if isinstance(node, ast.Assign) and _is_mutable(node.value) and ast.unparse(node.targets[0]) != "__all__":
            yield node.lineno
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            if _is_mutable(node.value) and not _reads_only(ast.unparse(node.annotation)):
                yield node.lineno


def _is_mutable(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2] in _MUTABLE_CALLS
    return isinstance(
        value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp | ast.GeneratorExp
    )


def _reads_only(annotation: str) -> bool:
    inner = re.fullmatch(r"(?:typing\.)?(?:Final|ClassVar)\[(.*)\]", annotation, re.DOTALL)
    kind = (inner[1] if inner else annotation).partition("[")[0].rpartition(".")[2]
    return kind in _READ_ONLY


def protocol_in(adapters: Iterable[Module]) -> list[str]:
    """Check that an adapter names no verb, no reply and no event of a protocol."""
    found = []
    for module in adapters:
        if module.place.partition(".")[0] not in ADAPTERS:
            continue
        tree = module.tree
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and id(node) not in docstrings and _speaks(node.value):
                found.append(f"{module.name}:{node.lineno} contains {node.value!r}")
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"smtp", "pop3"}:
                if node.attr not in FROM_A_PROTOCOL:
                    found.append(f"{module.name}:{node.lineno} uses {ast.unparse(node)}")
        for line, target in imports(module):
            if (inside := re.fullmatch(r"mailauth\.(?:smtp|pop3)\.(.*)", target)) and inside[1] not in FROM_A_PROTOCOL:
                found.append(f"{module.name}:{line} uses {target}")
    return found


def _speaks(value: object) -> bool:
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, str):
        return bool(_VERB.search(value) or _REPLY.search(value))
    return isinstance(value, int) and not isinstance(value, bool) and bool(re.fullmatch(r"[2-5][0-5][0-9]", str(value)))


TABLES_OF_CONNECTIONS: Final = frozenset({"mailauth_io.testing.mail_server", "mailauth_io.testing._current_test"})
"""The modules that may have a Peer as a key: it has a port, so each connection has its own."""


def own_address_keys(modules: Iterable[Module]) -> list[str]:
    """Check that only ``mailauth.addresses`` decides what one address is (architecture.md, invariant 4).

    No other module takes an address apart, and no table has the text of an address as its key.
    """
    found = []
    for module in modules:
        if module.name == ADDRESSES:
            continue
        keys_allowed = module.name in TABLES_OF_CONNECTIONS
        for line, target in imports(module):
            if target == f"{ADDRESSES}.normalize_address" and module.name not in SHOWS_ADDRESSES:
                found.append(f"{module.name}:{line} imports normalize_address, which is no key")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and module.name not in READS_ADDRESSES:
                name = ast.unparse(node.func).rpartition(".")[2]
                if name in _READERS:
                    found.append(f"{module.name}:{node.lineno} calls {name}")
            if isinstance(node, ast.Attribute) and node.attr in _PARTS and module.name not in READS_ADDRESSES:
                found.append(f"{module.name}:{node.lineno} uses {node.attr}")
            keys = [] if keys_allowed else _raw_keys(node)
            found += [f"{module.name}:{key.lineno} has {ast.unparse(key)} as a key" for key in keys]
    return found


def _raw_keys(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the keys of *node*, if it uses a table, that are the address of a peer."""
    keys: list[ast.expr] = []
    if isinstance(node, ast.Subscript):
        keys = [node.slice]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _TABLE_METHODS:
        keys = node.args[:1]
    elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        keys = [node.left]
    for key in keys:
        parts = key.elts if isinstance(key, ast.Tuple) else [key]
        for part in parts:
            text = ast.unparse(part)
            if text in {"address", "peer"} or re.search(r"\bpeer(\.address)?$", text):
                yield part


def undeclared(modules: Iterable[Module], declared: frozenset[str]) -> list[str]:
    """Check that every import is of this project, the standard library, or a dependency in pyproject.toml."""
    listed = list(modules)
    beside = {module.name.rpartition(".")[2] for module in listed}  # a program can import from its own directory
    known = {"mailauth", "mailauth_io", "tests", "examples", "tools"} | beside | sys.stdlib_module_names | declared
    return [
        f"{module.name}:{line} imports {target}"
        for module in listed
        for line, target in imports(module)
        if target.partition(".")[0] not in known
    ]


def private_imports(modules: Iterable[Module]) -> list[str]:
    """Check that no module imports a private module of another package: ``a._b`` is only for modules below ``a``."""
    found = []
    for module in modules:
        for line, target in imports(module):
            package, private, _ = f".{target}".partition("._")
            if private and not f".{module.name}.".startswith(f"{package}.") and target.startswith("mailauth"):
                found.append(f"{module.name}:{line} imports {target}")
    return found


def bound_to_a_loop(modules: Iterable[Module], *, allowed: frozenset[str]) -> list[str]:
    """Only the modules at the places *allowed* know which event loop runs."""
    return [
        f"{module.name}:{line} imports {target}"
        for module in modules
        if module.place not in allowed
        for line, target in imports(module)
        if target.partition(".")[0] in {"asyncio", "trio"}
    ]
