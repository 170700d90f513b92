"""Measure how long imports take, compared with the import of attrs, on which mailauth depends.

Each row is a new process that imports one module, less the time of a process that imports nothing: user and system CPU
time, the minimum of 15 rounds.  Python has written the bytecode before.

  python benchmarks/imports.py [--quick]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import Final

NOTHING: Final = "pass"
ATTRS: Final = "import attrs"
MODULES: Final = (
    "mailauth.smtp", "mailauth.pop3", "mailauth", "mailauth_io.on_asyncio", "mailauth_io.on_trio",
)  # fmt: skip
ROUNDS: Final = 15
ENVIRONMENT: Final = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds(program: str) -> float:
    """Return the CPU time of a Python process that runs *program*."""
    process = subprocess.Popen([sys.executable, "-c", program], env=ENVIRONMENT)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{program!r} failed")
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round")
    rounds = 1 if parser.parse_args().quick else ROUNDS
    programs = {NOTHING: NOTHING, "attrs": ATTRS, **{module: f"import {module}" for module in MODULES}}
    for program in programs.values():
        seconds(program)  # writes the bytecode
    least = dict.fromkeys(programs, float("inf"))
    for _ in range(rounds):
        for name, program in programs.items():
            least[name] = min(least[name], seconds(program))
    attrs_alone = max(least["attrs"] - least[NOTHING], 1e-3)
    print("| import | milliseconds | / attrs |\n| --- | --: | --: |")
    for name in ("attrs", *MODULES):
        alone = least[name] - least[NOTHING]
        print(f"| {name} | {alone * 1e3:.0f} | {alone / attrs_alone:.1f} |")


if __name__ == "__main__":
    main()
