"""Try the installed package with the command and the programs of the README: ``python -P tools/try_installed.py``.

Run it with the Python of an environment in which only the wheel and pytest are installed (``make release`` does), not
from one that finds src/.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Final

import mailauth

ROOT: Final = Path(__file__).resolve().parent.parent
EXAMPLES: Final = ROOT / "examples"
TIMEOUT: Final = 120.0


def main() -> int:
    location = Path(mailauth.__file__)
    if location.is_relative_to(ROOT / "src"):
        print(f"{location} is the checkout, not the installed package", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        command = str(Path(sys.executable).parent / "mailauth")
        for show_version in ([command, "--version"], [sys.executable, "-m", "mailauth", "--version"]):
            printed = run(folder, *show_version)
            assert version("mailauth") == mailauth.__version__ == printed.split()[-1], printed
        print(run(folder, command, "methods"), end="")
        run(folder, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "session_test.py"))
        submit(folder)
    print(f"mailauth {mailauth.__version__} works as installed in {location.parent.parent}")
    return 0


def run(folder: str, *command: str) -> str:
    """Run *command* in *folder*, and return what it prints.  Raises CalledProcessError if it fails."""
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, check=True).stdout


def submit(folder: str) -> None:
    """Submit a message with the client of the README to its server."""
    command = [sys.executable, "-u", str(EXAMPLES / "server.py")]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            listening = server.stdout.readline()
            port = re.search(r"port (\d+)$", listening)
            assert port is not None, listening
            run(folder, sys.executable, str(EXAMPLES / "client.py"), port[1])
        finally:
            server.terminate()
            printed, _ = server.communicate(timeout=TIMEOUT)
    assert "Down the rabbit-hole." in printed, printed


if __name__ == "__main__":
    sys.exit(main())
