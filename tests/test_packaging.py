"""The sdist and the wheel contain what they should, and their metadata is true."""

from __future__ import annotations

import email.message
import email.parser
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import mailauth

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str], email.message.Message]:
    """Return the names in the sdist, the names in the wheel, and the metadata of the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=True
    )
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as archive:
        top = f"mailauth-{mailauth.__version__}/"
        in_sdist = {name.removeprefix(top) for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as package:
        in_wheel = set(package.namelist())
        metadata = package.read(f"mailauth-{mailauth.__version__}.dist-info/METADATA").decode()
    return in_sdist, in_wheel, email.parser.Parser().parsestr(metadata)


Distributions = tuple[set[str], set[str], email.message.Message]


def test_wheel_contains_the_packages_and_nothing_else(distributions: Distributions) -> None:
    _, names, _ = distributions
    modules = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"mailauth/py.typed", "mailauth_io/py.typed", "mailauth/__main__.py"} <= names
    assert {name for name in names if ".dist-info/" not in name} == modules


def test_wheel_has_license_and_command(distributions: Distributions) -> None:
    _, names, _ = distributions
    assert {name.partition(".dist-info/")[2] for name in names if ".dist-info/" in name} == {
        *("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }


def test_sdist_contains_what_its_tests_and_pages_need(distributions: Distributions) -> None:
    names, _, _ = distributions
    needed = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "Makefile", "noxfile.py"]
    needed += ["src/mailauth/py.typed", "tests/conftest.py", "docs/conf.py", "docs/example.toml", "examples/server.py"]
    assert set(needed) <= names
    assert [name for name in names if name.startswith((".venv", ".nox", "docs/_build"))] == []


def test_version_of_the_distribution_is_the_one_of_the_package(distributions: Distributions) -> None:
    _, _, metadata = distributions
    assert metadata["Version"] == mailauth.__version__


def test_metadata_has_links_to_the_project(distributions: Distributions) -> None:
    _, _, metadata = distributions
    links = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))
    assert set(links) == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith("https://github.com/mailauth/mailauth") for url in links.values())


def test_extra_all_has_the_requirements_of_the_other_extras(distributions: Distributions) -> None:
    _, _, metadata = distributions
    requirements: dict[str, set[str]] = {extra: set() for extra in metadata.get_all("Provides-Extra", [])}
    for line in metadata.get_all("Requires-Dist", []):
        requirement, _, extra = line.partition("; extra == ")
        if extra:
            requirements[extra.strip("'")].add(requirement)
    everything = requirements.pop("all")
    testing = requirements.pop("testing")  # the command needs all of it except pytest
    assert testing == requirements["server"] | requirements["trial"] | {"pytest>=8"}
    assert set(requirements) == {"server", "trio", "trial", "hashes", "redis", "uvloop"}
    assert everything == set().union(*requirements.values())


def test_classifiers_name_the_operating_systems(distributions: Distributions) -> None:
    """The core and the adapters do not depend on the system; the server and the command are for POSIX."""
    _, _, metadata = distributions
    classifiers = metadata.get_all("Classifier", [])
    assert {"Operating System :: OS Independent", "Operating System :: POSIX", "Typing :: Typed"} <= set(classifiers)
