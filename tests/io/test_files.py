"""Files that are read and written as a whole, by the path that the operator names."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mailauth_io import _files
from mailauth_io._files import read_file, read_input, replace_file
from mailauth_io.cli import secret_file, settings_file
from mailauth_io.stores import AccountsError


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text" * 50_000)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for read in (read_file, read_input):
        data, status = read(tmp_path / "link")
        assert data == b"text" * 50_000
        assert status.st_ino == (tmp_path / "file").stat().st_ino


def test_a_file_without_an_end_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "MAX_FILE", 100_000)
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    assert len(read_file(tmp_path / "file")[0]) == 100_000
    (tmp_path / "file").write_bytes(b"x" * 100_001)
    with pytest.raises(OSError, match="it is larger than 100000 bytes"):
        read_file(tmp_path / "file")
    with pytest.raises(OSError, match="it is larger than 100000 bytes"):
        read_input(Path("/dev/zero"))


def test_a_pipe_with_a_writer_is_an_input(tmp_path: Path) -> None:
    """As the shell makes for ``<(command)``, and as ``mkfifo`` makes, whose writer waits for a reader."""
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    writer = threading.Thread(target=path.write_bytes, args=(b"secret\n" * 20_000,))
    writer.start()
    assert read_input(path)[0] == b"secret\n" * 20_000
    writer.join()
    reader, number = os.pipe()
    os.write(number, b"secret\n")
    os.close(number)
    assert secret_file.read_line(Path(f"/dev/fd/{reader}")) == b"secret"
    os.close(reader)


def test_a_pipe_without_a_writer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "PIPE_TIMEOUT", 0.0)
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    with pytest.raises(AccountsError, match="pipe cannot be read: it is a pipe that no program writes to"):
        secret_file.read_line(path)
    (config_error,) = settings_file.read(path).errors
    assert str(config_error) == f"{path}: cannot be read: it is a pipe that no program writes to"


def test_a_device_may_be_the_configuration_file() -> None:
    """``/dev/null`` is an empty one."""
    assert settings_file.read(Path("/dev/null")).errors == ()


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_only_a_regular_file_is_replaced(kind: str, tmp_path: Path) -> None:
    path, target = tmp_path / "folder" / "path", tmp_path / "target"
    path.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(target)
    if kind == "link":
        target.write_bytes(b"precious")
    with pytest.raises(OSError, match="it is not a regular file"):
        replace_file(path, b"new")
    assert os.listdir(path.parent) == ["path"]
    assert target.exists() == (kind == "link")
    assert kind != "link" or target.read_bytes() == b"precious"


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "path"
    replace_file(path, b"old")
    with path.open("rb") as file:
        replace_file(path, b"new")
        assert file.read() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["path"]
