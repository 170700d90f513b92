"""Write the public API to docs/api.txt, or check that the file is up to date: ``python tools/api.py [--check]``.

The public API is what the ``__all__`` of each public module names.  A module is public if no part of its name begins
with an underscore and it has an ``__all__``.  The check also fails if a public signature mentions a type that is not
public: a reader of ``help()`` could not find it.  griffe reads the sources, and imports nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import griffe

ROOT: Final = Path(__file__).resolve().parent.parent
API: Final = ROOT / "docs" / "api.txt"
PACKAGES: Final = ("mailauth", "mailauth_io")


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/api.txt, the list of the public API.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is not up to date")
    check = parser.parse_args().check
    modules = list(public_modules())
    public = frozenset(target.path for module in modules for _, target in _exported(module))
    errors = private_types(modules, public | {module.path for module in modules})
    text = "".join(f"{line}\n" for line in api(modules, public))
    if not check:
        API.write_text(text, encoding="utf-8")
    elif not API.exists() or API.read_text(encoding="utf-8") != text:
        errors.append(
            "docs/api.txt is not up to date: if the change of the public API is meant, run .venv/bin/python"
            " tools/api.py, and describe the change in CHANGELOG.md"
        )
    for error in errors:
        print(error, file=sys.stderr)
    return 1 if errors else 0


def public_modules() -> Iterator[griffe.Module]:
    """Yield the public modules, packages before their modules."""
    loader = griffe.GriffeLoader(search_paths=[str(ROOT / "src")])
    packages = [loader.load(package) for package in PACKAGES]
    loader.resolve_aliases(implicit=True, external=False)
    for package in packages:
        assert isinstance(package, griffe.Module)
        yield from _public(package)


def _public(module: griffe.Module) -> Iterator[griffe.Module]:
    if module.exports is not None:
        yield module
    for name, member in sorted(module.members.items()):
        if not member.is_alias and isinstance(member, griffe.Module) and not name.startswith("_"):
            yield from _public(member)


def _exported(module: griffe.Module) -> Iterator[tuple[str, griffe.Object]]:
    for export in sorted(map(str, module.exports or ())):
        member = module.members.get(export)
        if member is None:
            raise SystemExit(f"{module.path}.__all__ names {export}, which does not exist")
        target = member.final_target if isinstance(member, griffe.Alias) else member
        yield export, target


def private_types(modules: list[griffe.Module], public: frozenset[str]) -> list[str]:
    """Return an error for each public signature that mentions a type of ours that is not in *public*."""
    errors: set[str] = set()
    for module in modules:
        for name, target in _exported(module):
            for where, expression in _expressions(target):
                for part in expression.iterate(flat=True):
                    path = _canonical(part, module) if isinstance(part, griffe.ExprName) else ""
                    if path.startswith("mailauth") and path not in public and not _is_type_variable(path):
                        errors.add(f"{module.path}.{name}{where}: {path} is not public; export it, or use another type")
    return sorted(errors)


def _canonical(name: griffe.ExprName, module: griffe.Module) -> str:
    """Return the full name of the object that *name* refers to, where it is defined."""
    path = name.canonical_path
    try:
        found = module.modules_collection[path]
    except KeyError:
        return path
    return found.final_target.path if isinstance(found, griffe.Alias) else found.path


def _is_type_variable(path: str) -> bool:
    return len(path.rpartition(".")[2].removesuffix("s")) == 1


def _expressions(target: griffe.Object) -> Iterator[tuple[str, griffe.Expr]]:
    """Yield the annotations in the public part of *target*, with the place of each.

    A base class may be private: what it adds is listed with the class.
    """
    if isinstance(target, griffe.Function):
        for parameter in target.parameters:
            if isinstance(parameter.annotation, griffe.Expr):
                yield f"({parameter.name})", parameter.annotation
        if isinstance(target.returns, griffe.Expr):
            yield "()", target.returns
    elif isinstance(target, griffe.Attribute):
        if isinstance(target.annotation, griffe.Expr):
            yield "", target.annotation
            if target.annotation.canonical_path == "typing.TypeAlias" and isinstance(target.value, griffe.Expr):
                yield "", target.value
    elif isinstance(target, griffe.Class):
        for name, member in target.members.items():
            if _is_public_member(name) and not isinstance(member, griffe.Alias):
                for where, expression in _expressions(member):
                    yield f".{name}{where}", expression


def _is_public_member(name: str) -> bool:
    return not name.startswith("_") or name in ("__init__", "__call__", "__aenter__", "__iter__", "__aiter__")


def api(modules: list[griffe.Module], public: frozenset[str]) -> Iterator[str]:
    """Yield the lines of docs/api.txt."""
    yield "# The public API, written by tools/api.py.  See docs/stability.md for what may change."
    home = {target.path: other.path for other in reversed(modules) for _, target in _exported(other)}
    for module in modules:
        yield ""
        yield f"[{module.path}]"
        for name, target in _exported(module):
            if home[target.path] != module.path:
                yield f"{name} = {home[target.path]}.{target.name}"
            else:
                yield from _described(name, target, "", public)


def _described(name: str, target: griffe.Object, indent: str, public: frozenset[str]) -> Iterator[str]:
    """Yield the lines about *target*: for a class, its public members and those of base classes that are private."""
    if isinstance(target, griffe.Class):
        bases = ", ".join(map(str, target.bases))
        yield f"{indent}class {name}({bases})" if bases else f"{indent}class {name}"
        for member_name, member in sorted(target.all_members.items()):
            found = member.final_target if isinstance(member, griffe.Alias) else member
            listed_with_base = found.parent is not None and found.parent is not target and found.parent.path in public
            if _is_public_member(member_name) and not listed_with_base:
                yield from _described(member_name, found, f"{indent}    ", public)
    elif isinstance(target, griffe.Function):
        returns = "" if target.returns is None else f" -> {target.returns}"
        kind = "async def" if "async" in target.labels else "def"
        yield f"{indent}{kind} {name}({_parameters(target)}){returns}"
    elif isinstance(target, griffe.Attribute):
        annotation = "" if target.annotation is None else str(target.annotation)
        if annotation and "class-attribute" in target.labels and "instance-attribute" not in target.labels:
            annotation = f"ClassVar[{annotation}]"  # griffe removes it; an instance attribute may be a property
        yield f"{indent}{name}{annotation and f': {annotation}'}"
    else:
        yield f"{indent}module {name}"


def _parameters(function: griffe.Function) -> str:
    """Return the parameters in the notation of Python."""
    parts: list[str] = []
    star = False
    for parameter in function.parameters:
        kind = parameter.kind
        prefix = ""
        if kind is griffe.ParameterKind.var_positional:
            prefix, star = "*", True
        elif kind is griffe.ParameterKind.var_keyword:
            prefix = "**"
        elif kind is griffe.ParameterKind.keyword_only and not star:
            parts.append("*")
            star = True
        annotation = "" if parameter.annotation is None else f": {parameter.annotation}"
        default = "" if parameter.default is None or prefix else f" = {parameter.default}"
        parts.append(f"{prefix}{parameter.name}{annotation}{default}")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
