"""Which files a tree stands for: random trees of files, links, loops, pipes against a plain model of the rule."""

from __future__ import annotations

import fnmatch
import logging
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenmill.reduce import Dataset
from eigenmill.reduce.errors import ConfigError, DataError, SchemaError
from eigenmill.reduce.sources import apart
from eigenmill.reduce.sources.discovery import braces, discover
from tests.conftest import in_memory
from tests.sources.made_files import put

NAMES = ("a", "b", "_c", ".d", "e.parquet")


def test_case_b10_a_dangling_link_is_an_error_that_names_it(tmp_path: Path) -> None:
    put(tmp_path / "data/day=1/x.parquet", np.ones((3, 5)))
    os.symlink(tmp_path / "mount/day=2", tmp_path / "data/day=2")
    for path in ("data", "data/day=*", "data/**/*.parquet", "data/day=2"):
        with pytest.raises(DataError, match=r"data/day=2, found a link that leads nowhere \(to .*mount/day=2\)"):
            Dataset.from_parquet(tmp_path / path)


def test_case_b10_a_link_to_a_sibling_counts_rows_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "data/b.parquet", np.ones((3, 5)))
    os.symlink("b.parquet", tmp_path / "data/a.parquet")
    for path in ("data", "data/*", "data/*.parquet", "data/{a,b}.parquet"):
        caplog.clear()
        data = Dataset.from_parquet(tmp_path / path)
        assert (data.n_rows, next(iter(data.source.files)).path) == (3, "b.parquet")
        assert "1 name(s)" in caplog.text
        assert "data/a.parquet; every file counts once" in caplog.text
    assert Dataset.from_parquet(tmp_path / "data/a.parquet").n_rows == 3
    with pytest.raises(SchemaError, match=r"b\.parquet more than once"):
        discover([tmp_path / "data/a.parquet", tmp_path / "data/b.parquet"])


def test_case_f04_a_link_to_a_directory_above_does_not_multiply_rows(tmp_path: Path) -> None:
    put(tmp_path / "data/x.parquet", np.ones((3, 5)))
    put(tmp_path / "data/sub/y.parquet", np.ones((4, 5)))
    os.symlink(".", tmp_path / "data/loop")
    os.symlink("../..", tmp_path / "data/sub/up")
    for path in ("data", "data/**", "data/**/*.parquet"):
        assert Dataset.from_parquet(tmp_path / path).n_rows == 7


@pytest.mark.parametrize("path", ["data", "data/*", "data/p"])
def test_case_f11_pipes_sockets_devices_and_loops_are_refused_before_they_are_opened(path: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    put(data / "x.parquet", np.ones((3, 5)))
    os.mkfifo(data / "p")
    with pytest.raises(DataError, match="data/p, found a pipe"):
        discover(tmp_path / path)
    os.unlink(data / "p")
    os.symlink("/dev/zero", data / "p")
    with pytest.raises(DataError, match="data/p, found a device"):
        discover(tmp_path / path)
    os.unlink(data / "p")
    os.symlink("q", data / "p")
    os.symlink("p", data / "q")
    with pytest.raises(DataError, match="data/p, found a link that leads back to itself"):
        discover(tmp_path / path)
    os.unlink(data / "p")
    os.unlink(data / "q")
    with socket.socket(socket.AF_UNIX) as ear:
        ear.bind(os.path.relpath(data / "p"))
        with pytest.raises(DataError, match="data/p, found a socket"):
            discover(tmp_path / path)


def test_what_is_hidden_or_does_not_match_is_not_looked_at(tmp_path: Path) -> None:
    data = tmp_path / "data"
    put(data / "x.parquet", np.ones((3, 5)))
    os.symlink("nowhere", data / "_old")
    os.mkfifo(data / ".pipe")
    assert len(discover(data).files) == 1
    os.symlink("nowhere", data / "README")
    assert len(discover(data / "*.parquet").files) == 1


# Names


def test_case_b13_variables_stand_for_their_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "data/x.parquet", np.ones((3, 5)))
    monkeypatch.setenv("ROOT", str(tmp_path))
    monkeypatch.setenv("KIND", "dat")
    monkeypatch.delenv("UNSET", raising=False)
    assert Dataset.from_parquet("${ROOT}/${KIND}a").n_rows == 3
    Dataset.from_parquet("${ROOT}/data").to_parquet("${ROOT}/out")
    assert (tmp_path / "out/_SUCCESS").exists()
    for path in ("${UNSET}/data", "s3://${UNSET}/x"):
        with pytest.raises(ConfigError, match="variable UNSET, found none"):
            discover(path)
    put(tmp_path / "$ROOT ${UNSET}/x.parquet", np.ones((4, 5)))  # there is a directory of this very name
    assert Dataset.from_parquet(tmp_path / "$ROOT ${UNSET}").n_rows == 4
    assert Dataset.from_parquet(tmp_path / "$ROOT ${UNSET}/*.parquet").n_rows == 4


def test_case_b13_braces_stand_for_each_of_their_items(tmp_path: Path) -> None:
    for number, name in enumerate(("2026-01/x", "2026-02/x", "2026-03/x")):
        put(tmp_path / f"data/{name}.parquet", np.ones((10**number, 5)))
    rows = lambda path: Dataset.from_parquet(tmp_path / "data" / path).n_rows  # noqa: E731
    assert rows("2026-{01,03}") == 101
    assert rows("2026-{0{1,2},03}/*.parquet") == 111
    assert rows("{2026-01,2026-0*}/x.parquet") == 111
    with pytest.raises(SchemaError, match=r"nothing at .*2026-04"):
        rows("2026-{01,04}")
    put(tmp_path / "data/{2026-01,2026-02}/x.parquet", np.ones((7, 5)))
    assert rows("{2026-01,2026-02}") == 7
    assert braces("a{day}b") == braces("a{}b") == []


def test_case_b13_a_name_that_is_there_is_no_pattern(tmp_path: Path) -> None:
    put(tmp_path / "run[1]/a.parquet", np.ones((3, 5)))
    put(tmp_path / "run1/a.parquet", np.ones((4, 5)))
    assert Dataset.from_parquet(tmp_path / "run[1]").n_rows == 3
    assert Dataset.from_parquet(tmp_path / "run[1]/*.parquet").n_rows == 3


# Against a model


class Tree:
    """A tree as a dict: names to None (a file), a dict (a directory), ``"pipe"``, or the path that a link leads to."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def make(self, at: Path, content: Any = None) -> None:
        content = self.content if content is None else content
        at.mkdir()
        for name, held in content.items():
            if held is None:
                (at / name).write_bytes(b"")
            elif isinstance(held, dict):
                self.make(at / name, held)
            elif held == "pipe":
                os.mkfifo(at / name)
            else:
                os.symlink(held, at / name)

    def at(self, path: tuple[str, ...], hops: int = 0) -> tuple[tuple[str, ...], Any]:
        """Where a path really leads, and what is there; KeyError where nothing is."""
        real: tuple[str, ...] = ()
        here: Any = self.content
        for name in path:
            if name == ".":
                continue
            if name == "..":
                real, here = self.at(real[:-1])
                continue
            if not isinstance(here, dict):
                raise KeyError(name)
            held = here[name]
            if isinstance(held, str) and held != "pipe":
                if hops > 40:
                    raise KeyError(name)
                real, here = self.at((*real, *held.split("/")), hops + 1)
            else:
                real, here = (*real, name), held
        return real, here

    def files(self) -> set[tuple[str, ...]]:
        """Real paths of all visible files, each once; KeyError or ValueError where the rule refuses the tree."""
        found, seen, waiting = set[tuple[str, ...]](), set[tuple[str, ...]](), [()]
        while waiting:
            real, here = self.at(waiting.pop())
            if real in seen:
                continue
            seen.add(real)
            for name in here:
                if name[0] in "_.":
                    continue
                lies, held = self.at((*real, name))
                if held == "pipe":
                    raise ValueError(name)
                if held is None:
                    found.add(lies)
                else:
                    waiting.append((*real, name))
        return found


LEAVES = st.sampled_from([None, None, None, "pipe", ".", "..", "a", "b", "../a", "../b/a", "e.parquet", "../_c"])
CONTENT = st.recursive(
    st.dictionaries(st.sampled_from(NAMES), LEAVES, max_size=4),
    lambda inner: st.dictionaries(st.sampled_from(NAMES), st.one_of(LEAVES, inner), max_size=4),
    max_leaves=8,
)


def escapes(content: dict[str, Any], depth: int = 0) -> bool:
    """Whether a link may lead out of the tree."""
    return any(
        escapes(held, depth + 1) if isinstance(held, dict) else isinstance(held, str) and held.count("..") > depth
        for held in content.values()
    )


@settings(max_examples=300)
@given(content=CONTENT.filter(lambda content: not escapes(content)))
def test_random_trees(content: dict[str, Any]) -> None:
    tree = Tree(content)
    try:
        expected: set[tuple[str, ...]] | None = tree.files()
    except (KeyError, ValueError):
        expected = None
    logging.getLogger("eigenmill").setLevel(logging.ERROR)
    try:
        with in_memory() as place:
            tree.make(place / "tree")
            try:
                found = discover(place / "tree")
            except DataError:
                assert not expected
                return
            names = [os.path.join(found.root, file) for file in found.files]
            reals = [tuple(os.path.relpath(os.path.realpath(name), place / "tree").split("/")) for name in names]
            assert len(set(reals)) == len(reals)
            assert set(reals) == expected
            assert names == sorted(names)
    finally:
        logging.getLogger("eigenmill").setLevel(logging.NOTSET)


# Patterns and outputs

PARTS = st.sampled_from(["a", "b", "*", "a*", "**", "_a", "[ab]"])


@settings(max_examples=300)
@given(
    pattern=st.lists(PARTS, min_size=1, max_size=4), names=st.lists(st.sampled_from(["a", "b", "ab", "_a"]), min_size=1)
)
def test_what_a_pattern_covers_is_what_it_finds(pattern: list[str], names: list[str]) -> None:
    """A file is covered if and only if reading the pattern finds it."""
    if not any(fnmatch.translate(part) != fnmatch.translate(part.strip("*[]")) for part in pattern):
        pattern = ["*", *pattern]
    with in_memory() as place:
        file = place.joinpath(*names)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
        try:
            found = len(discover(place / "/".join(pattern)).files) == 1
        except SchemaError:
            found = False
        assert apart.covers(pattern, names) == found
