"""Checks that need environments of their own: ``.venv/bin/nox --list`` shows them, and ``nox -s NAME`` runs one.

``make test`` is enough while you work.  CI runs it, the default sessions that run tests at the same time, and
``make docs``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import nox

PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")

RUN_PROGRAMS: Final = (
    *"bench_guard benchmarks before_login client_page gateway_page packaging readme testing_page".split(),
)
READ_FILES: Final = ("conformance", "docs_site", "floor_plan")  # these find the same on every Python
COUNT_BYTES: Final = ("smtp/test_memory.py", "pop3/test_memory.py")  # so do these
LEFT_OUT: Final = frozenset(f"tests/test_{name}.py" for name in (*RUN_PROGRAMS, *READ_FILES))
FAST: Final = (
    *("-m", "not strict_syntax", "tests/smtp", "tests/pop3", "tests/sasl"),
    *(f"--ignore=tests/{name}" for name in ("sasl/test_saslprep_tables.py", *COUNT_BYTES)),
    *(name for name in sorted(map(str, Path("tests").glob("test_*.py"))) if name not in LEFT_OUT),
)
"""The tests of the core without those that run programs, check files, count memory, or run a second time with strict
syntax; ``nox -s tests -- tests`` runs all tests."""

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["tests", "oldest", "docs"]
nox.options.error_on_missing_interpreters = False  # also in CI: a machine may have only one Python
nox.options.download_python = "never"

if shutil.which("pyenv"):  # its python3.12 works only if this variable lists a 3.12; the first one listed is python3
    listed = [["pyenv", "version-name"], ["pyenv", "versions", "--bare"]]
    found = [subprocess.run(command, capture_output=True, text=True).stdout.split() for command in listed]
    os.environ["PYENV_VERSION"] = ":".join(dict.fromkeys(version for versions in found for version in versions))


def install(session: nox.Session, *arguments: str) -> None:
    """Install this checkout and what *arguments* name.  pip would also compile the modules that nothing imports."""
    session.install("--no-compile", "--editable", ".[all]", *arguments)


def run_tests(session: nox.Session) -> None:
    session.run(
        "python", "-m", "pytest", "-q", "-n", "auto", *(session.posargs or FAST), env={"HYPOTHESIS_PROFILE": "quick"}
    )


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Test the core on each installed Python, with the newest releases of all dependencies."""
    install(session, "--group", "test")
    run_tests(session)


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """Test the core on the oldest Python with the oldest releases that pyproject.toml allows."""
    constraints = Path(session.create_tmp()) / "constraints.txt"
    constraints.write_text("\n".join(oldest_releases()), encoding="utf-8")
    install(session, "--group", "test", "--constraint", str(constraints))
    run_tests(session)


def oldest_releases() -> list[str]:
    """Return a constraint for each dependency of the package and of its tests: the lower bound as the version.

    The tests need a newer pytest than the test kit does; their bound counts.
    """
    settings = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    lines += settings["dependency-groups"]["test"]
    bounds = (re.fullmatch(r"([\w-]+)(?:\[.*\])?>=([\w.]+)(?:;.*)?", line) for line in lines)
    return sorted(f"{name}=={version}" for name, version in {bound[1]: bound[2] for bound in bounds if bound}.items())


@nox.session
def newest(session: nox.Session) -> None:
    """Test with the newest releases, pre-releases included, to see early what will break; not run in CI."""
    install(session, "--pre", "--group", "test")
    run_tests(session)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types and the list of the public API, as ``make test`` does."""
    install(session, "--group", "dev")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("pyright", "--pythonpath", f"{session.bin}/python")
    session.run("python", "tools/api.py", "--check")


@nox.session
def docs(session: nox.Session) -> None:
    """Make the HTML documentation; a warning is an error."""
    install(session, "--group", "docs")
    session.run("sphinx-build", "-q", "-E", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def release(session: nox.Session) -> None:
    """Build the sdist and the wheel in dist/, install the wheel in a fresh environment, and try it; upload nothing."""
    shutil.rmtree("dist", ignore_errors=True)
    session.install("--group", "release")
    session.run("python", "-m", "build", "--outdir", "dist")
    files = sorted(map(str, Path("dist").iterdir()))
    session.run("twine", "check", "--strict", *files)
    (wheel,) = (name for name in files if name.endswith(".whl"))
    fresh = Path(session.create_tmp()).resolve() / "fresh"
    session.run("python", "-m", "venv", "--clear", str(fresh))
    python = str(fresh / "bin" / "python")
    session.run(python, "-m", "pip", "install", "--quiet", f"{wheel}[all]", "pytest", external=True)
    session.run(python, "-P", "tools/try_installed.py", external=True, env={"PYTHONPATH": None})


@nox.session
def nightly(session: nox.Session) -> None:
    """Run the examples in other languages with ``mailauth test-server``: needs Node.js, npm and Java; not run in CI."""
    install(session)
    examples = Path("examples/other_languages").resolve()
    session.run("java", str(examples / "java" / "Example.java"), external=True)
    node = Path(session.create_tmp()).resolve() / "node"
    shutil.rmtree(node, ignore_errors=True)
    shutil.copytree(examples / "node", node, ignore=shutil.ignore_patterns("node_modules"))
    session.chdir(node)
    session.run("npm", "install", "--no-audit", "--no-fund", external=True)
    session.run("npm", "test", external=True)
