"""The options of ``mailauth serve``, read without starting a process."""

from __future__ import annotations

from pathlib import Path

from mailauth_io.cli import config, main

USER = ("--user", "alice:open sesame")


def read(*options: str) -> config.ServerSetup:
    """Return the setup for these options of ``mailauth serve``, without starting a process."""
    return config.read(main.settings_of(main.build_parser().parse_args(["serve", *options])))


def accounts_file(directory: Path, text: str = "alice:{PLAIN}open sesame\n", mode: int = 0o600) -> str:
    path = directory / "accounts"
    path.write_text(text)
    path.chmod(mode)
    return str(path)
