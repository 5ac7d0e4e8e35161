"""References of ba05dba, unpacked once per session, and a directory to go on from copies of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from tests.golden import make
from tests.golden.library import Library
from tests.support.trees import tree


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


def copied(source: Path, target: Path) -> Path:
    """A copy of a directory, links as links."""
    return Path(shutil.copytree(source, target, symlinks=True))


def of_format_1(folder: Path) -> dict[str, str]:
    """What is below a directory, but when inputs were changed last, which ba05dba did not keep."""
    return {name: found for name, found in tree(folder).items() if not name.endswith("seen.json")}


def same(found: Path, expected: Path) -> None:
    """Both directories hold the same bytes; says which files differ."""
    mine, theirs = of_format_1(found), of_format_1(expected)
    assert sorted(mine) == sorted(theirs)
    assert [name for name in mine if mine[name] != theirs[name]] == []
