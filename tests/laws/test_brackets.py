"""The brackets of the merge tree, spelled out: which state meets which is part of every result, and never changes.

``brackets.txt`` holds them for 1 to 40 leaves, named ``a`` to ``N``, each without and with an open leaf after them,
which bears a stroke: ``a'``, ``a``, ``(ab')``, ``(ab)`` ... They are the reference; no code under test made them.
"""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eigenmill.reduce import Dataset, connect
from eigenmill.reduce.engines.base import Merger, Tree, one_blas_thread
from eigenmill.reduce.engines.tasks import fold_tasks, merge_trees, take_in, total_of
from eigenmill.reduce.passes.base import Pass
from tests.support.formats import other

LEAVES = 40
NAMES = string.ascii_letters
ROWS = 2
"""Rows of a leaf."""


@dataclass(frozen=True)
class SpellPass(Pass[str, str]):
    """A pass whose state is the expression that made it; rows are numbered, and a leaf is named by its rows."""

    def start(self) -> str:
        return ""

    def fold(self, state: str, block: Any) -> str:
        for row in np.asarray(block.dense(np.float64)).ravel().astype(int):
            leaf, last = NAMES[row // ROWS], row % ROWS == ROWS - 1
            assert state == (f"{leaf}'" if last else ""), "rows out of order, or of another leaf"
            state = leaf if last else f"{leaf}'"
        return state

    def merge(self, a: str, b: str) -> str:
        return f"({a}{b})"

    def finalize(self, state: str) -> str:
        return state

    def sizes(self, height: int, rows: int) -> tuple[int, int, int]:
        return 100, 0, 100

    def state_type(self) -> type[str]:
        return str


CASES = [(n, is_open) for n in range(LEAVES + 1) for is_open in (False, True) if n or is_open]
"""How many leaves are full, and whether another one is open."""


@pytest.fixture(scope="module")
def spelled() -> dict[tuple[int, bool], str]:
    lines = Path(__file__).with_name("brackets.txt").read_text().splitlines()
    return dict(zip(CASES, lines, strict=True))


TINY = other(leaf_bytes=1)
assert TINY.leaf_rows(1) == ROWS


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with one_blas_thread():  # looked for once, not for each of many scans
        yield


def numbered(n: int, is_open: bool) -> Any:
    return np.arange(ROWS * n + is_open, dtype=float)[:, None]


@pytest.mark.parametrize("workers", [1, 3])
def test_of_one_scan(spelled: Any, workers: int) -> None:
    engine, pass_ = connect("local", workers=workers), SpellPass()
    for case in CASES:
        found: str = engine.run(pass_, Dataset.from_numpy(numbered(*case), format=TINY))
        assert found == spelled[case], case


def test_of_leaves_in_any_order(spelled: Any) -> None:
    pass_, draw = SpellPass(), random.Random(0)
    with ThreadPoolExecutor(3) as pool:
        for n, is_open in CASES:
            tree: Tree[str] = Tree()
            merger = Merger(pass_, tree)
            order = draw.sample(range(n), n)
            list(pool.map(lambda i, merger=merger: merger.add(i, NAMES[i]), order))
            tree.open = f"{NAMES[n]}'" if is_open else None
            assert tree.total(pass_, keep=True) == spelled[n, is_open], order
            assert tree.total(pass_) == spelled[n, is_open], order


def test_of_leaves_from_the_middle() -> None:
    """Nodes lie in the order of their leaves, not of their sizes or numbers."""
    pass_, tree = SpellPass(), Tree[str]()
    merger = Merger(pass_, tree)
    for i in (9, 4, 7, 3, 5, 8, 6):
        merger.add(i, NAMES[i])
    assert tree.nodes == {(0, 3): "d", (2, 1): "((ef)(gh))", (1, 4): "(ij)"}
    assert tree.total(pass_) == "(d(((ef)(gh))(ij)))"


@pytest.mark.parametrize("most", [1, 3, 16])
def test_of_tasks_on_a_cluster(spelled: Any, most: int) -> None:
    """Each folds a run of leaves; their trees meet in any order, in one step or by groups."""
    pass_, draw = SpellPass(), random.Random(most)
    for case in CASES:
        tasks = fold_tasks(pass_, Dataset.from_numpy(numbered(*case), format=TINY), Tree(), most)
        trees = [task() for task in draw.sample(list(tasks), len(tasks))]
        while len(trees) > 1:
            size = draw.randint(2, 4)
            trees = [merge_trees(pass_, trees[i : i + size]) for i in range(0, len(trees), size)]
        assert total_of(pass_, trees[0]).open == spelled[case], case


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A file for every row, so that days may end within a leaf."""
    folder, X = tmp_path_factory.mktemp("rows"), numbered(LEAVES, True)[:, 0]
    paths = [folder / f"{i:03d}.parquet" for i in range(len(X))]
    for path, value in zip(paths, X, strict=True):
        pq.write_table(pa.table({"x": [value]}), path)
    return paths


@pytest.mark.parametrize("kind", ["local", "tasks"])
def test_of_trees_that_go_on_from_day_to_day(spelled: Any, kind: str, files: list[Path]) -> None:
    pass_, draw, engine = SpellPass(), random.Random(7), connect("local", workers=2)
    data = Dataset.from_parquet([str(path) for path in files], columns=["x"], format=TINY)
    for days in (2, 2, 2, 3, 5, 9, len(files)):
        tree: Tree[str] = Tree()
        ends = [*sorted(draw.sample(range(1, len(files)), days - 1)), len(files)]
        for start, stop in itertools.pairwise([0, *ends]):
            day = replace(data, source=data.source.only(range(start, stop)))
            if kind == "local":
                found: str = engine.run(pass_, day, tree=tree)
            else:
                take_in(pass_, tree, merge_trees(pass_, [task() for task in fold_tasks(pass_, day, tree, 3)]))
                found = tree.total(pass_, keep=True)
            assert found == spelled[stop // ROWS, bool(stop % ROWS)], ends
