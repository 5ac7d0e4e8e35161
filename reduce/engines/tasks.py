"""What a cluster's task does: fold an aligned run of leaves, merge trees, write a part.

Every engine with workers in other processes is made of these. A task carries only the descriptions of the files it
reads, so that its size does not grow with the data set, and the fragments that the planner has cut.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from reduce.blocks import Array, Block, Workspace
from reduce.dataset import Dataset, Fragment
from reduce.engines.base import Leaf, Merger, Tree, fold_leaf, one_blas_thread, plan_leaves
from reduce.errors import EigenmillError, EngineError
from reduce.passes.base import Pass
from reduce.sink import Job, Part, PartRecord

S = TypeVar("S")
T = TypeVar("T")
LASTING = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
log = logging.getLogger("eigenmill")


@dataclass(frozen=True)
class FoldTask(Generic[S]):
    """Fold ``leaves``, which count in ``fragments`` of ``data``; the first may continue the open state ``start``."""

    pass_: Pass[S, Any]
    data: Dataset
    fragments: tuple[Fragment, ...]
    leaves: tuple[Leaf, ...]
    rows: int
    start: S | None = None

    def __call__(self) -> Tree[S]:
        tree: Tree[S] = Tree()
        merger, workspace = Merger(self.pass_, tree), Workspace()
        with one_blas_thread():
            for leaf in self.leaves:
                # A fold consumes its state, and a task may run twice.
                start = copy.deepcopy(self.start) if leaf.continues else None
                state = fold_leaf(self.pass_, self.data, leaf, workspace, start, fragments=self.fragments)
                if leaf.full:
                    merger.add(leaf.index, state)
                else:
                    tree.open, tree.open_rows = state, leaf.rows
        tree.leaves = self.leaves[-1].index + (1 if self.leaves[-1].full else 0)
        return tree


@dataclass(frozen=True)
class WriteTask:
    """Write one part of ``job``: the rows of ``fragments`` of ``data``."""

    job: Job
    part: Part
    data: Dataset
    fragments: tuple[Fragment, ...]
    rows: int

    def __call__(self) -> PartRecord:
        with one_blas_thread():
            return self.job.write_part(self.part, self._blocks())

    def _blocks(self) -> Iterator[Block]:
        workspace = Workspace()
        for fragment in self.fragments:
            yield from self.data.blocks(fragment, workspace, carry=True)


@dataclass(frozen=True)
class RowsTask:
    """All rows of some fragments of ``data`` as one array (n, d)."""

    data: Dataset
    fragments: tuple[Fragment, ...]

    def __call__(self) -> Array:
        data, workspace = self.data, Workspace()
        with one_blas_thread():
            found = [b.dense(data.dtype).copy() for f in self.fragments for b in data.blocks(f, workspace)]
        return np.concatenate(found) if found else np.empty((0, data.n_features), data.dtype)


def attempt(work: Callable[[], T], retries: int) -> T:
    """The result of ``work``, tried again after an error of the file system that may pass."""
    for left in range(retries, -1, -1):
        try:
            return work()
        except (EigenmillError, OSError) as error:
            cause = error if type(error) is OSError else error.__cause__
            if not left or not isinstance(cause, OSError) or isinstance(cause, LASTING):
                raise
            log.warning("trying again after %s", error)
            time.sleep(0.5 * 2 ** (retries - left))
    raise EngineError("expected retries >= 0, found fewer")


def compare_versions(mine: dict[str, str], theirs: dict[str, str], where: str) -> None:
    """Refuse a worker with other versions of what a result depends on; warn of another CPU kernel or BLAS build."""
    other = {name: theirs.get(name) for name in mine if theirs.get(name) != mine[name]}
    if other.keys() - {"blas"}:
        raise EngineError(
            f"expected { {name: mine[name] for name in other} } on {where}, found {other}; install the same versions"
        )
    if other:
        log.warning("%s runs BLAS %s, here %s: results agree to rounding only", where, theirs["blas"], mine["blas"])


def merge_trees(pass_: Pass[S, Any], trees: Iterable[Tree[S]]) -> Tree[S]:
    """One tree with the leaves of all; where two neighbours of equal size meet, they merge."""
    whole: Tree[S] = Tree()
    merger = Merger(pass_, whole)
    with one_blas_thread():
        for tree in trees:
            for (level, index), state in sorted(tree.nodes.items(), key=lambda item: item[0][1] << item[0][0]):
                merger.add(index, state, level)
            if tree.open is not None:
                whole.open, whole.open_rows = tree.open, tree.open_rows
            whole.leaves = max(whole.leaves, tree.leaves)
    return whole


def take_in(pass_: Pass[S, Any], tree: Tree[S], found: Tree[S]) -> None:
    """Let ``tree`` hold the leaves of ``found`` too; the open leaf is that of ``found``."""
    whole = merge_trees(pass_, [Tree(tree.nodes), found])
    tree.nodes, tree.open, tree.open_rows = whole.nodes, whole.open, whole.open_rows
    tree.leaves = max(tree.leaves, whole.leaves)


def total_of(pass_: Pass[S, Any], tree: Tree[S]) -> Tree[S]:
    """The tree with all its leaves in one state, kept as ``open``."""
    with one_blas_thread():
        return Tree(open=tree.total(pass_))


def fold_tasks(pass_: Pass[S, Any], data: Dataset, tree: Tree[S], most: int) -> list[FoldTask[S]]:
    """``data`` cut into at most about ``most`` tasks over aligned runs of 2^g leaves."""
    leaves = plan_leaves(data, after=tree)
    size = 0
    while len(leaves) >> size > most:
        size += 1
    runs: dict[int, list[Leaf]] = {}
    for leaf in leaves:
        runs.setdefault(leaf.index >> size, []).append(leaf)
    cut = Cutter(data)
    tasks = []
    for run in runs.values():
        first = run[0].fragments.start
        part, fragments = cut(first, run[-1].fragments.stop)
        moved = tuple(
            replace(leaf, fragments=range(leaf.fragments.start - first, leaf.fragments.stop - first)) for leaf in run
        )
        rows = sum(f.rows for f in fragments)
        tasks.append(FoldTask(pass_, part, fragments, moved, rows, tree.open if run[0].continues else None))
    return tasks


def write_tasks(data: Dataset, job: Job) -> list[WriteTask]:
    """One task for each pending part; a task's job knows no part but its own."""
    cut = Cutter(data)
    tasks = []
    for part in job.pending:
        part_data, fragments = cut(part.fragments.start, part.fragments.stop)
        rows = sum(f.rows for f in fragments)
        tasks.append(WriteTask(replace(job, parts=(part,), pending=(part,)), part, part_data, fragments, rows))
    return tasks


def rows_tasks(data: Dataset) -> list[RowsTask]:
    """One task for each fragment."""
    cut = Cutter(data)
    return [RowsTask(*cut(i, i + 1)) for i in range(len(data.fragments))]


class Cutter:
    """Restricts a data set to the files of a run of fragments."""

    def __init__(self, data: Dataset) -> None:
        self.data, self.all = data, data.fragments
        self.first: dict[int, int] = {}
        for i, fragment in enumerate(self.all):
            self.first.setdefault(fragment.file, i)

    def __call__(self, start: int, stop: int) -> tuple[Dataset, tuple[Fragment, ...]]:
        """(data of the files of fragments ``start:stop``, these fragments as it numbers them)."""
        source = self.data.source
        if not source.files or start == stop:
            return self.data, tuple(self.all[start:stop])
        low, high = self.all[start].file, self.all[stop - 1].file
        part = replace(self.data, source=source.only([source.files[f] for f in range(low, high + 1)]))
        first = self.first[low]
        return part, tuple(
            replace(fragment, index=fragment.index - first, file=fragment.file - low)
            for fragment in self.all[start:stop]
        )
