"""The systemd units in the documentation and the configuration in the README are valid."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mailauth_io.cli import main, settings_file

ROOT = Path(__file__).parents[3]
SERVER = ROOT / "docs" / "mailauth.service"
POLICY_SERVICE = ROOT / "docs" / "mailauth-policy.service"
EXAMPLE = ROOT / "docs" / "example.toml"

each_unit = pytest.mark.parametrize("path", [SERVER, POLICY_SERVICE], ids=lambda path: path.name)


def unit(path: Path) -> dict[str, list[str]]:
    """Return the values of each key in the unit.  A key may occur more than once."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", path.read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


@each_unit
def test_unit_exec_start_is_a_valid_command(path: Path) -> None:
    (command,) = unit(path)["ExecStart"]
    program, *words = shlex.split(command)
    assert Path(program).name == "mailauth"
    assert [word for word in words if word.endswith(".toml")] == ["/etc/mailauth/mailauth.toml"]
    words = [str(EXAMPLE) if word.endswith(".toml") else word for word in words]
    assert main.settings_of(main.build_parser().parse_args(words)).places == {}


@each_unit
def test_unit_restricts_capabilities_user_and_file_system(path: Path) -> None:
    found = unit(path)
    assert found["CapabilityBoundingSet"] == ["CAP_NET_BIND_SERVICE" if path == SERVER else ""]
    assert found.get("AmbientCapabilities", [""]) == found["CapabilityBoundingSet"]
    assert found["User"] == ["mailauth"]
    assert found["ProtectSystem"] == ["strict"]
    assert found["NoNewPrivileges"] == ["yes"]
    assert found["StateDirectory"] == ["mailauth"]
    assert found["ReadWritePaths"] == ["-/var/lib/mailauth-grants"]


def test_unit_of_the_server_reloads_it() -> None:
    assert unit(SERVER)["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


@each_unit
def test_systemd_analyze_verify_accepts_the_unit(path: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed here")
    copy = tmp_path / path.name
    (program, *_) = shlex.split(unit(path)["ExecStart"][0])
    copy.write_text(path.read_text().replace(program, sys.executable))  # systemd-analyze requires an existing program
    done = subprocess.run([analyze, "verify", str(copy)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_readme_configuration_is_valid(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    path = tmp_path / "mailauth.toml"
    path.write_text(text)
    read = settings_file.read(path)
    assert read.errors == ()
    assert read.settings({}).accounts == tmp_path / "accounts"
