"""Rename identifiers and modules according to ``tools/rename.tsv``: ``python tools/rename.py [--check]``.

The files are changed as syntax trees.  A row of the table has the columns ``old``, ``new``, ``kind`` and, optionally,
``under``: the folders and files, separated by commas, that the row applies to.  The kinds:

* ``name``: every identifier, and keys and strings that consist of it, also in comments and documentation;
* ``bare``: the same, except after a dot and as a keyword argument;
* ``member``: ``owner.old``, an attribute of *owner*; *new* is the new attribute without the owner;
* ``module``: a dotted module name; its file is moved.

In prose, a word is renamed only if it is clearly code: in backquotes, or with an underscore or an inner capital.
``--check`` changes nothing and lists the scopes in which a new name is already used.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import libcst as cst

ROOT: Final = Path(__file__).resolve().parent.parent
TABLE: Final = ROOT / "tools" / "rename.tsv"
FOLDERS: Final = ("src", "tests", "examples", "benchmarks", "tools", "docs")
TEXTS: Final = (".md", ".toml", ".json")
MARKED: Final = re.compile(r"^```python\n.*?^```$|``[^`\n]+``|`[^`\n]+`|(?<!\*)\*\w+\*(?!\*)", re.MULTILINE | re.DOTALL)
"""Code in a text: a block of Python, text in backquotes, or the *name* of a parameter."""


class Row(NamedTuple):
    old: str
    new: str
    kind: str
    under: tuple[str, ...]

    def applies_to(self, path: str) -> bool:
        return not self.under or any(path == place or path.startswith(place.rstrip("/") + "/") for place in self.under)


class Names(NamedTuple):
    """The renames that apply to one file."""

    anywhere: dict[str, str]
    bare: dict[str, str]
    members: dict[tuple[str, str], str]
    modules: dict[str, str]

    @classmethod
    def for_file(cls, rows: Iterable[Row], path: str) -> Names:
        names = cls({}, {}, {}, {})
        for row in rows:
            if not row.applies_to(path):
                continue
            match row.kind:
                case "name":
                    names.anywhere[row.old] = row.new
                case "bare":
                    names.bare[row.old] = row.new
                case "member":
                    owner, old = row.old.rsplit(".", 1)
                    names.members[owner, old] = row.new
                case "module":
                    names.modules[row.old] = row.new
                case other:
                    sys.exit(f"{TABLE}: unknown kind {other!r}; use name, bare, member or module")
        return names

    def _dotted(self, text: str) -> str:
        """Modules, their files, and members."""
        for old, new in self.modules.items():
            text = re.sub(rf"(?<![\w.]){re.escape(old)}(?![\w-])", new, text)
            old_file, new_file = (dotted.partition(".")[2].replace(".", "/") + ".py" for dotted in (old, new))
            text = re.sub(rf"(?<!\w){re.escape(old_file)}\b", new_file, text)
        for (owner, old), new in self.members.items():
            text = re.sub(rf"\b{owner}\.{old}\b", f"{owner}.{new}", text)
        return text

    def in_code(self, text: str) -> str:
        """Rename in *text*, which is code."""
        text = self._dotted(text)
        either = {**self.bare, **self.anywhere}
        return re.sub(r"(?<![\w-])[A-Za-z_]\w*(?![\w-])", lambda found: either.get(found[0], found[0]), text)

    def in_prose(self, text: str) -> str:
        """Rename in *text*, which is prose: only marked code and words that cannot be English."""
        text = MARKED.sub(lambda found: self.in_code(found[0]), text)
        text = self._dotted(text)
        either = {**self.bare, **self.anywhere}

        def renamed(found: re.Match[str]) -> str:
            word = found[0]
            return either.get(word, word) if not is_english(word) else word

        return re.sub(r"(?<![\w-])[A-Za-z_]\w*(?![\w-])", renamed, text)


def is_english(word: str) -> bool:
    return "_" not in word and not any(letter.isupper() for letter in word[1:])


def imported_modules(code: str, package: str, names: Names) -> dict[str, str]:
    """Return the renamed modules that *code* imports by ``from package import module``, unless it uses the new name."""
    used = set(re.findall(r"\b\w+\b", code))
    last = {tuple(old.split(".")[-2:]): new.rsplit(".", 1)[-1] for old, new in names.modules.items()}
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            folder = (node.module or package).rsplit(".", 1)[-1]
            found |= {a.name: last[folder, a.name] for a in node.names if not a.asname and (folder, a.name) in last}
    return {old: new for old, new in found.items() if new not in used}


class Renamer(cst.CSTTransformer):
    def __init__(self, names: Names, package: str) -> None:
        self.names = names
        self.package = package
        """The dotted package of this file, for relative imports."""
        self._untouched: set[cst.Name] = set()

    def visit_Attribute(self, node: cst.Attribute) -> None:
        self._untouched.add(node.attr)

    def visit_Arg(self, node: cst.Arg) -> None:
        if node.keyword is not None:
            self._untouched.add(node.keyword)

    def leave_Name(self, original: cst.Name, updated: cst.Name) -> cst.Name:
        word = original.value
        new = self.names.anywhere.get(word)
        if new is None and original not in self._untouched:
            new = self.names.bare.get(word)
        return updated.with_changes(value=new) if new else updated

    def leave_Attribute(self, original: cst.Attribute, updated: cst.Attribute) -> cst.Attribute:
        value = original.value
        owner = (
            value.value if isinstance(value, cst.Name) else value.attr.value if isinstance(value, cst.Attribute) else ""
        )
        new = self.names.members.get((owner, original.attr.value))
        return updated.with_changes(attr=cst.Name(new)) if new else updated

    def leave_SimpleString(self, original: cst.SimpleString, updated: cst.SimpleString) -> cst.SimpleString:
        text = original.value
        body = original.raw_value
        if re.fullmatch(r"[A-Za-z_]\w*", body):
            new = self.names.anywhere.get(body) if "b" not in original.prefix else None
            return updated.with_changes(value=text.replace(body, new)) if new else updated
        return updated.with_changes(value=self.names.in_prose(text))

    def leave_FormattedStringText(
        self, original: cst.FormattedStringText, updated: cst.FormattedStringText
    ) -> cst.FormattedStringText:
        return updated.with_changes(value=self.names.in_prose(original.value))

    def leave_Comment(self, original: cst.Comment, updated: cst.Comment) -> cst.Comment:
        return updated.with_changes(value=self.names.in_prose(original.value))

    def leave_Import(self, original: cst.Import, updated: cst.Import) -> cst.Import:
        written = [cst.Module([]).code_for_node(alias.name) for alias in updated.names]
        aliases = [
            alias.with_changes(name=self._dotted(self._module(name))) if self._module(name) != name else alias
            for alias, name in zip(updated.names, written, strict=True)
        ]
        return updated.with_changes(names=aliases)

    def leave_ImportFrom(self, original: cst.ImportFrom, updated: cst.ImportFrom) -> cst.ImportFrom:
        dots = len(original.relative)
        written = cst.Module([]).code_for_node(original.module) if original.module else ""
        base = self.package.split(".")[: len(self.package.split(".")) - dots + 1] if dots else []
        whole = ".".join([*base, written] if written else base)
        new_whole = self._module(whole)
        changed = updated
        if new_whole != whole and written:
            new_base = self._module(".".join(base)).split(".") if dots else []
            new_written = new_whole.split(".")[len(new_base) :]
            changed = changed.with_changes(module=self._dotted(".".join(new_written)))
        if not isinstance(original.names, cst.ImportStar):
            aliases = []
            for before, alias in zip(original.names, changed.names, strict=True):  # type: ignore[arg-type]
                assert isinstance(before.name, cst.Name)
                full = f"{whole}.{before.name.value}"
                member = self.names.members.get((whole.rsplit(".", 1)[-1], before.name.value))
                if full in self.names.modules:
                    alias = alias.with_changes(name=cst.Name(self.names.modules[full].rsplit(".", 1)[-1]))
                    if before.asname is None and before.name.value not in self.names.bare:
                        alias = alias.with_changes(asname=cst.AsName(cst.Name(before.name.value)))
                elif member:
                    alias = alias.with_changes(name=cst.Name(member))
                aliases.append(alias)
            changed = changed.with_changes(names=aliases)
        return changed

    def _module(self, dotted: str) -> str:
        for old, new in self.names.modules.items():
            if dotted == old or dotted.startswith(f"{old}."):
                return new + dotted[len(old) :]
        return dotted

    @staticmethod
    def _dotted(dotted: str) -> cst.Name | cst.Attribute:
        node = cst.parse_expression(dotted)
        assert isinstance(node, cst.Name | cst.Attribute)
        return node


def read_rows() -> list[Row]:
    """Return the rows that are not applied yet: those after the last line ``# applied``."""
    rows: list[Row] = []
    for line in TABLE.read_text().splitlines():
        if line == "# applied":
            rows.clear()
        elif line and not line.startswith("#"):
            old, new, kind, *under = line.split("\t")
            rows.append(Row(old, new, kind, tuple(under[0].split(",")) if under else ()))
    return rows


def files() -> Iterable[Path]:
    for folder in FOLDERS:
        yield from (p for p in sorted((ROOT / folder).rglob("*")) if p.suffix in (".py", *TEXTS))
    yield from (ROOT / name for name in ("README.md", "CHANGELOG.md", "pyproject.toml"))


def package_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parent.parts
    return ".".join(parts[1:] if parts[:1] == ("src",) else parts)


def clashes(tree: ast.AST, names: Names) -> Iterable[tuple[int, str, str, str]]:
    """Yield the line and name of each scope that uses both an old name and its new name, and the two names."""
    scopes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module, ast.Call)
    for scope in ast.walk(tree):
        if not isinstance(scope, scopes):
            continue
        used = set()
        for node in ast.walk(scope):
            match node:
                case ast.Name(id=word) | ast.arg(arg=word) | ast.FunctionDef(name=word) | ast.ClassDef(name=word):
                    used.add(word)
                case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=word):
                    used.add("self." + word)
                case _:
                    pass
        for old, new in {**names.bare, **names.anywhere}.items():
            for prefix in ("", "self."):
                if prefix + old in used and prefix + new in used:
                    yield getattr(scope, "lineno", 0), getattr(scope, "name", "module"), old, new


def move_modules(rows: Iterable[Row]) -> None:
    for row in rows:
        if row.kind != "module":
            continue
        for base in (ROOT / "src", ROOT):
            old, new = (base.joinpath(*dotted.split(".")) for dotted in (row.old, row.new))
            if old.with_suffix(".py").exists() or old.is_dir():
                suffix = "" if old.is_dir() else ".py"
                source, target = Path(f"{old}{suffix}"), Path(f"{new}{suffix}")
                target.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["git", "mv", source, target], cwd=ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rename identifiers and modules according to tools/rename.tsv.")
    parser.add_argument(
        "--check", action="store_true", help="change nothing, list the scopes where a new name is already used"
    )
    check = parser.parse_args().check
    rows = read_rows()
    for path in files():
        relative = str(path.relative_to(ROOT))
        if relative == "tools/rename.py":
            continue
        names = Names.for_file(rows, relative)
        if not path.exists():
            continue
        before = path.read_text()
        if path.suffix != ".py":
            after = names.in_prose(before)
        elif check:
            for line, scope, old, new in clashes(ast.parse(before), names):
                print(f"{relative}:{line}: {scope} uses {old} and {new}")
            continue
        else:
            names = names._replace(bare={**imported_modules(before, package_of(path), names), **names.bare})
            after = cst.parse_module(before).visit(Renamer(names, package_of(path))).code
        if after != before and not check:
            path.write_text(after)
    if not check:
        move_modules(rows)


if __name__ == "__main__":
    main()
