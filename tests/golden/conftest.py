"""References of ba05dba, unpacked once per session, and a directory to go on from copies of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from eigenmill.reduce.storage.chain import FOLDER
from tests.golden import make
from tests.golden.library import Library


@pytest.fixture(scope="session")
def lib() -> Library:
    """Today's code."""
    return Library("eigenmill.")


@pytest.fixture(scope="session")
def golden(session_space: Path) -> Callable[[str], Path]:
    """A function that gives the directory with the references of a room; they are not to be changed."""
    return lru_cache(lambda room: make.unpack(room, session_space / "golden" / room))


@pytest.fixture(scope="session")
def today(lib: Library, session_space: Path) -> Callable[[str], Path]:
    """A function that gives the directory of a room as today's code writes it."""

    def write(room: str) -> Path:
        make.in_directory(lib, room, session_space / "today" / room)
        return session_space / "today" / room

    return lru_cache(write)


@pytest.fixture
def place(space: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test, with the inputs."""
    monkeypatch.chdir(space)
    os.symlink(make.INPUTS, "inputs")
    return space


def tree(folder: Path) -> dict[str, bytes]:
    """All bytes below a directory, and where links lead.

    Left out are the chains of what changes, which ba05dba did not write, and the digests that daily records have since.
    """
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if FOLDER in path.relative_to(folder).parts:
            continue
        if path.is_symlink():
            found[name] = b"-> " + os.fsencode(os.readlink(path))
        elif path.is_file():
            found[name] = of_first_version(path.read_bytes())
    return found


def of_first_version(content: bytes) -> bytes:
    """A record of a day-by-day job as ba05dba writes it; other content as it is."""
    if b'"eigenmill-daily' not in content[:2000]:
        return content
    record = json.loads(content)
    record.pop("digest", None)
    return json.dumps({**record, "version_of_format": 1}, sort_keys=True).encode()


def copied(source: Path, target: Path) -> Path:
    """A copy of a directory, links as links."""
    return Path(shutil.copytree(source, target, symlinks=True))


def same(found: Path, expected: Path) -> None:
    """Both directories hold the same bytes; says which files differ."""
    mine, theirs = tree(found), tree(expected)
    assert sorted(mine) == sorted(theirs)
    assert [name for name in mine if mine[name] != theirs[name]] == []


def written(folder: Path) -> dict[Path, tuple[int, int]]:
    """For each file that is not a link what changes when it is written again; chains left out."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and FOLDER not in path.parts
    ]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
