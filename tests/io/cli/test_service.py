"""The systemd unit in the documentation and the configuration in the README are valid."""

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
UNIT = ROOT / "docs" / "mailauth.service"
EXAMPLE = ROOT / "docs" / "example.toml"


def unit() -> dict[str, list[str]]:
    """Return the values of each key in the unit.  A key may occur more than once."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def test_unit_exec_start_is_a_valid_command() -> None:
    (command,) = unit()["ExecStart"]
    program, *words = shlex.split(command)
    assert Path(program).name == "mailauth"
    assert [word for word in words if word.endswith(".toml")] == ["/etc/mailauth/mailauth.toml"]
    words = [str(EXAMPLE) if word.endswith(".toml") else word for word in words]
    assert main.settings_of(main.build_parser().parse_args(words)).places == {}


def test_unit_restricts_capabilities_user_and_file_system() -> None:
    found = unit()
    assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == ["CAP_NET_BIND_SERVICE"]
    assert found["User"] == ["mailauth"]
    assert found["ProtectSystem"] == ["strict"]
    assert found["NoNewPrivileges"] == ["yes"]
    assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert found["StateDirectory"] == ["mailauth"]


def test_systemd_analyze_verify_accepts_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed here")
    path = tmp_path / UNIT.name
    (program, *_) = shlex.split(unit()["ExecStart"][0])
    path.write_text(UNIT.read_text().replace(program, sys.executable))  # systemd-analyze requires an existing program
    done = subprocess.run([analyze, "verify", str(path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_readme_configuration_is_valid(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    path = tmp_path / "mailauth.toml"
    path.write_text(text)
    read = settings_file.read(path)
    assert read.errors == ()
    assert read.settings({}).accounts == tmp_path / "accounts"
