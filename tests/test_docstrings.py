"""``help()`` explains the public API: each class has an example that is true, each function and method a docstring."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import attrs
import pytest

from mailauth import pop3, smtp
from mailauth_io import adapters, server, stores
from tests.docstring_examples import (
    errors,
    example,
    members,
    namespace,
    public_modules,
    public_objects,
    unknown_names,
)

MODULES = public_modules()
OBJECTS = public_objects(MODULES)
CLASSES = {name: value for name, value in OBJECTS.items() if isinstance(value, type)}
NAMES = namespace(MODULES)


@pytest.mark.parametrize("name", CLASSES)
def test_a_public_class_has_a_docstring_with_an_example(name: str) -> None:
    docstring = vars(CLASSES[name]).get("__doc__") or ""
    lines = example(docstring)
    assert lines, (
        f"{name} has no example at the end of its docstring; if there is one, write 'For example:' before it:"
        " help() shows it without its indentation if no other line of the docstring has less"
    )
    assert errors(lines, NAMES) == []


def test_an_example_of_a_function_is_true() -> None:
    functions = {name: value for name, value in OBJECTS.items() if not isinstance(value, type)}
    examples = {name: lines for name, value in functions.items() if (lines := example(value.__doc__ or ""))}
    assert examples.keys() >= {"mailauth.addresses.normalize_address"}
    assert {name: found for name, lines in examples.items() if (found := errors(lines, NAMES))} == {}


def test_no_two_classes_have_the_same_example() -> None:
    texts = ["\n".join(example(value.__doc__ or "")) for value in CLASSES.values()]
    assert [text for text in texts if texts.count(text) > 1] == []


def test_each_public_function_and_method_has_a_docstring() -> None:
    missing = [name for name, value in OBJECTS.items() if not inspect.getdoc(value)]
    for name, kind in CLASSES.items():
        missing += [f"{name}.{member}" for member, value in members(kind) if not inspect.getdoc(value)]
    assert missing == []


CONFIGURATION = [
    *(smtp.ServerSettings, smtp.ClientSettings, pop3.ServerSettings, pop3.ClientSettings),
    *(adapters.Limits, server.Config, server.Stores, server.NextHop, server.Timeouts),
]
"""The classes that users fill in.  ``help()`` shows the docstring of a class, and not those of its fields."""


@pytest.mark.parametrize("kind", CONFIGURATION, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_help_of_a_configuration_explains_each_field(kind: type[attrs.AttrsInstance]) -> None:
    explained = re.findall(r"^(\w+)\n    [\w`*]", inspect.getdoc(kind) or "", re.MULTILINE)
    assert explained == [field.alias for field in attrs.fields(kind) if field.init]


def test_keys_of_toml_in_the_docstring_of_config_exist() -> None:
    """docs/example.toml has every setting.  A field without a key has its own name there."""
    docstring = inspect.getdoc(server.Config) or ""
    example = Path(__file__).parents[1] / "docs" / "example.toml"
    sections = re.split(r"^\[(\w+)\]$", example.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    keys = {
        section: set(re.findall(r"^#(\w+) = ", text, re.MULTILINE))
        for section, text in zip(sections[::2], sections[1::2], strict=True)
    }
    named = re.findall(r"^(\w+)\n(?:    .*\n)*?(?:    .*)?In TOML:\s+``\[(\w+)\]\s+(\w+)``", docstring, re.MULTILINE)
    assert len(named) == docstring.count("In TOML:") == 8
    assert [(section, key) for _, section, key in named if key not in keys[section]] == []
    others = {field.alias for field in attrs.fields(server.Config)} - {field for field, _, _ in named}
    assert others <= set().union(*keys.values())


def test_a_docstring_names_only_public_classes() -> None:
    """A reader must be able to find, raise and catch what it names."""
    everything = {name: getattr(module, name) for module in MODULES.values() for name in module.__all__}
    found: dict[str, list[str]] = {}
    for name, value in OBJECTS.items():
        public = {**everything, **vars(MODULES[name.rpartition(".")[0]])}  # smtp and pop3 have names in common
        found[name] = unknown_names(inspect.getdoc(value) or "", public)
        for member, function in members(value) if isinstance(value, type) else ():
            found[f"{name}.{member}"] = unknown_names(inspect.getdoc(function) or "", public)
    assert {name: unknown for name, unknown in found.items() if unknown} == {}


def test_a_name_that_is_not_public_is_found() -> None:
    public = {name: getattr(stores, name) for name in ("Outbox", "BudgetExceeded")}
    assert unknown_names("May raise BudgetExceeded or DeliveryRefused.", public) == ["DeliveryRefused"]
    assert unknown_names("See ``Outbox.stage()`` and ``Outbox.store(x)``.", public) == ["Outbox.store"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("client.send(smtp.Rset())  # RSET", "two to five lines, not 1"),
        ("case smtp.Rcpt() as question\n    pass", "expected ':'"),
        ("client.send(smtp.Rset())  # NOOP\npass", r"sent as b'RSET\r\n', not b'NOOP\r\n'"),
        ("if ready:\n    client.send(smtp.Nop())", "has no Nop"),
        ("case smtp.Rcpt(recipient=mailbox):\n    pass", "Rcpt has no recipient"),
        ("case smtp.Rcpt() as question:\n    connection.accept(question)", "connection has no accept"),
        ("case Question() as question:\n    connection.answer(question, ACCEPTED)", "unknown name ACCEPTED"),
        ("reply = smtp.Reply(550, status='5.1.1')\nprint(reply)", "unexpected keyword argument 'status'"),
        ("mail = smtp.Mail()\nclient.machine.send(mail)", "argument: 'reverse_path'"),
        (">>> smtp.Reply(250).positive\nFalse", "Expected:\n    False\nGot:\n    True"),
        (">>> smtp.Reply(250).negative\nFalse", "has no attribute 'negative'"),
    ],
)
def test_an_error_in_an_example_is_found(text: str, error: str) -> None:
    assert error in "\n".join(errors(text.split("\n"), NAMES))


@pytest.mark.parametrize(
    ("docstring", "lines"),
    [
        ("Text.\n\n    More.\n\n        one\n        two\n    ", ["one", "two"]),
        ("Text,\n    more.\n\n        one:\n            two\n\n        six\n    ", ["one:", "    two", "", "six"]),
        ("Text.\n\n        shown by help() without indentation\n    ", []),
        ("Text.\n\n        one\n\n    More.\n    ", []),
        ("Text.\n    * item\n      of two lines\n    ", []),
        ("Text.", []),
    ],
)
def test_an_example_is_the_indented_block_at_the_end(docstring: str, lines: list[str]) -> None:
    assert example(docstring) == lines
