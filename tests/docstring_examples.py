"""The examples in docstrings: where they are, and what is wrong in them.

An example is an indented block at the end of a docstring.  If its lines begin with ``>>>``, doctest runs it.  Otherwise
it is a fragment of a program, or several with an empty line between them; a fragment that begins with ``case`` belongs
to ``match event:``.  A comment after ``client.send(...)`` is the line that is sent.
"""

from __future__ import annotations

import ast
import builtins
import doctest
import hashlib
import importlib
import inspect
import io
import ipaddress
import logging
import re
import secrets
import ssl
import sys
import tempfile
import textwrap
import typing
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final

import attrs

import mailauth
import mailauth_io.client
from mailauth import ClientMachine, Machine, ServerMachine, pop3, smtp
from mailauth_io import adapters

SOURCE: Final = Path(__file__).parent.parent / "src"

OWN: Final = frozenset({"Etrn", "Xtnd"})
"""The classes that an example may use as the reader's own."""

VARIABLES: Final[Mapping[str, tuple[type, ...]]] = {
    "client": (ClientMachine, smtp.ClientConnection, pop3.ClientConnection, adapters.AsyncClientConnection),
    "connection": (ServerMachine, adapters.AsyncServerConnection),
    "machine": (Machine, ServerMachine),
    "stream": (adapters.Stream,),
}
"""The names of objects that examples do not create, with their classes."""

_ROW: Final = re.compile(r"    |$")
_SENT: Final = re.compile(r"client\.send\(.*\)  # (?P<line>.+)$")


def public_modules() -> dict[str, ModuleType]:
    """Return the modules with ``__all__`` whose names have no underscore, by name."""
    found: dict[str, ModuleType] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        private = any(part.startswith("_") for part in name.split("."))
        if not private and "\n__all__" in path.read_text("utf-8"):
            found[name] = importlib.import_module(name)
    return found


def public_objects(modules: Mapping[str, ModuleType]) -> dict[str, Any]:
    """Return the classes and functions of this project that *modules* export, each by its first public name."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for module_name, module in modules.items():
        for name in module.__all__:
            value = getattr(module, name)
            ours = isinstance(value, (type, FunctionType)) and value.__module__.startswith("mailauth")
            if ours and id(value) not in seen:
                seen.add(id(value))
                found[f"{module_name}.{name}"] = value
    return found


def namespace(modules: Mapping[str, ModuleType]) -> dict[str, Any]:
    """Return the names that an example may use: of ``mailauth``, the client, the modules, and the standard library.

    Of several modules with the same last name, it is the one with the shortest: ``smtp`` is ``mailauth.smtp``.
    """
    shortest_last = sorted(modules, key=lambda name: name.count("."), reverse=True)
    standard = (hashlib, io, ipaddress, logging, secrets, ssl, sys, tempfile)
    return {
        **{module.__name__: module for module in standard},
        **{name: getattr(typing, name) for name in ("Any", "ClassVar", "Self", "Unpack")},
        "Path": Path,
        "Set": Set,
        **{name: getattr(mailauth, name) for name in mailauth.__all__},
        **{name: getattr(mailauth_io.client, name) for name in mailauth_io.client.__all__},
        **{name.rpartition(".")[2]: modules[name] for name in shortest_last},
    }


def members(kind: type) -> Iterator[tuple[str, object]]:
    """Yield the public functions and properties of *kind*, those of its base classes in this project included."""
    for base in kind.__mro__:
        if base.__module__.startswith("mailauth"):
            for name, value in tuple(vars(base).items()):
                if not name.startswith("_") and isinstance(value, (FunctionType, classmethod, staticmethod, property)):
                    yield name, getattr(kind, name)


_CODE: Final = re.compile(r"``([^`]*)``")
_CLASS: Final = re.compile(r"\b(?:[A-Z][a-z0-9]+){2,}\b")  # two or more words, such as BudgetExceeded
_MEMBER: Final = re.compile(r"([A-Z]\w+)\.([a-z]\w*)")

STANDARD: Final = frozenset({"EmailMessage", "FileHandler", "IntEnum", "LogRecord", "StreamHandler", "TemporaryFile"})
"""Classes of the standard library, of two or more words, that docstrings name."""


def unknown_names(docstring: str, public: Mapping[str, Any]) -> list[str]:
    """Return the names of classes in *docstring*, and of members such as ``Outbox.stage()``, that are not *public*.

    A name of one word may be another word, so it is not checked, except before a dot.
    """
    words = _CLASS.findall(docstring)
    found = [name for name in words if name not in public and name not in STANDARD and not hasattr(builtins, name)]
    for text in _CODE.findall(docstring):
        member = _MEMBER.match(text)
        if member and member[1] in public and not _has(public[member[1]], member[2]):
            found.append(member[0])
    return found


def example(docstring: str) -> list[str]:
    """Return the lines of the example in *docstring*, without the indentation; an empty list if there is none."""
    lines = inspect.cleandoc(docstring).split("\n")
    start = len(lines)
    while start and _ROW.match(lines[start - 1]):
        start -= 1
    block = lines[start + 1 :] if start < len(lines) and not lines[start] else []
    return textwrap.dedent("\n".join(block)).split("\n") if block else []


def errors(lines: list[str], names: Mapping[str, Any]) -> list[str]:
    """Return what is wrong in the example *lines*; *names* is a ``namespace()``."""
    number = sum(1 for line in lines if line)
    if not 2 <= number <= 5:
        return [f"an example has two to five lines, not {number}"]
    if lines[0].startswith(">>> "):
        return _failures("\n".join(lines), names)
    found: list[str] = []
    defined = dict(names)
    own: set[str] = set()
    for fragment in "\n".join(lines).split("\n\n"):
        try:
            tree = _parse(fragment)
        except SyntaxError as error:
            return [f"{error.msg}: {fragment}"]
        own |= set(_bound(tree))
        found += _unknown(tree, names, own)
        found += _wrong_lines(tree, fragment, defined)
    return found


def _failures(text: str, names: Mapping[str, Any]) -> list[str]:
    output = io.StringIO()
    test = doctest.DocTestParser().get_doctest(text + "\n", dict(names), "example", None, None)
    tree = ast.parse("".join(each.source for each in test.examples))
    found = _unknown(tree, names, set(_bound(tree)))
    result = doctest.DocTestRunner(verbose=False).run(test, out=output.write)
    return [*found, output.getvalue()] if result.failed else found


def _parse(fragment: str) -> ast.Module:
    """Return the tree of *fragment*, in a function, whose body begins in line 1."""
    if fragment.startswith("case "):
        fragment = "match event:\n" + textwrap.indent(fragment, " ")
    tree = ast.parse("async def example():\n" + textwrap.indent(fragment, " "))
    function = tree.body[0]
    assert isinstance(function, ast.AsyncFunctionDef)
    return ast.Module(function.body, [])


def _unknown(tree: ast.Module, names: Mapping[str, Any], own: Set[str]) -> list[str]:
    """Return an error for each name in *tree* that does not exist, and for each call with wrong arguments.

    *own* are the names that the example defines.
    """
    visible = {name: value for name, value in names.items() if name not in own}
    found: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name[0].isupper():
                if name not in visible and name not in own and name not in OWN and not hasattr(builtins, name):
                    found.append(f"unknown name {name}")
            case ast.Attribute(value=ast.Name(id=variable), attr=name) if variable in VARIABLES:
                kinds = VARIABLES[variable]
                if variable not in own and not any(_has(kind, name) for kind in kinds):
                    found.append(f"{variable} has no {name}")
            case ast.Attribute(attr=name):
                value = _resolve(node.value, visible)
                if isinstance(value, (ModuleType, type)) and not _has(value, name):
                    found.append(f"{value.__name__} has no {name}")
            case ast.MatchClass():
                kind = _resolve(node.cls, visible)
                found += [f"{kind.__name__} has no {name}" for name in node.kwd_attrs if kind and not _has(kind, name)]
            case ast.Call():
                found += _wrong_arguments(node, _resolve(node.func, visible))
            case _:
                pass
    return found


def _bound(tree: ast.Module) -> Iterator[str]:
    """Yield the names that *tree* defines."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.MatchAs(name=str(name)):
                yield name
            case _:
                pass


def _resolve(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Return the module, class or function that *node* names; None if it is something else."""
    match node:
        case ast.Name(id=name) if name not in VARIABLES:
            return names.get(name)
        case ast.Attribute(value=value, attr=name):
            return getattr(_resolve(value, names), name, None)
        case _:
            return None


def _has(value: ModuleType | type, name: str) -> bool:
    fields = attrs.fields_dict(value) if isinstance(value, type) and attrs.has(value) else {}
    return hasattr(value, name) or name in fields or name in getattr(value, "__annotations__", {})


def _wrong_arguments(call: ast.Call, function: Any) -> list[str]:
    starred = any(isinstance(each, ast.Starred) for each in call.args) or any(
        each.arg is None for each in call.keywords
    )
    ours = isinstance(function, (type, FunctionType)) and function.__module__.startswith("mailauth")
    if not ours or starred or (isinstance(function, type) and issubclass(function, Exception)):
        return []  # an exception may have the constructor of a built-in class, which has no signature
    try:
        inspect.signature(function).bind(*call.args, **{str(each.arg): each.value for each in call.keywords})
    except TypeError as error:
        return [f"{ast.unparse(call)}: {error}"]
    return []


def _wrong_lines(tree: ast.Module, fragment: str, defined: dict[str, Any]) -> list[str]:
    """Return an error for each ``client.send(command)  # line`` whose command is sent as another line.

    What the fragment defines before is executed, and added to *defined*.
    """
    comments = [found["line"] for found in map(_SENT.search, fragment.split("\n")) if found]
    found: list[str] = []
    for statement in tree.body if comments or "class " in fragment else ():
        if isinstance(statement, (ast.Assign, ast.ClassDef)):
            exec(compile(ast.Module([statement], []), "example", "exec"), defined)
        for node in ast.walk(statement):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="client"), attr="send"), args=[argument]):
                    command = eval(compile(ast.Expression(argument), "example", "eval"), defined)
                    sent, expected = command.to_wire(), comments.pop(0).encode() + b"\r\n"
                    found += [] if sent == expected else [f"sent as {sent!r}, not {expected!r}"]
                case _:
                    pass
    return found
