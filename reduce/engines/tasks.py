"""What a worker does: fold an aligned run of leaves, write a part, give rows; and how the trees of many meet.

Every engine is made of these. A task for another process carries only the descriptions of the files it reads, so that
its size does not grow with the data set; which fragments these make is the same everywhere.
"""

from __future__ import annotations

import copy
import logging
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from eigenmill.reduce.engines.base import Merger, Tree, fold_leaf, one_blas_thread, plan_leaves
from eigenmill.reduce.errors import EigenmillError, EngineError
from eigenmill.reduce.output.sink import Part, PartRecord, WriteJob
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.rows.blocks import Array, Workspace
from eigenmill.reduce.sources.matrix import Matrix
from eigenmill.reduce.storage.sequences import OnDemand

S = TypeVar("S")
T = TypeVar("T")
Watch = Callable[[int], None]
"""Told of every block's rows; raises when the task is to stop."""
LASTING = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
log = logging.getLogger("eigenmill")


class Task(ABC, Generic[T]):
    """What a worker does in one go, be it a thread of this process or a process elsewhere. It may run twice."""

    @abstractmethod
    def __call__(self, workspace: Workspace | None = None, watch: Watch | None = None) -> T:
        """The result.

        Args:
            workspace: buffers of the thread, by default new ones.
            watch: told of every block's rows; raises when the task is to stop.
        """


@dataclass(frozen=True)
class FoldTask(Task[Tree[S]]):
    """Fold the leaves that ``fragments`` of ``data`` make; they come after those of ``after``."""

    pass_: Pass[S, Any]
    data: Matrix
    fragments: range
    after: Tree[S]

    def __call__(self, workspace: Workspace | None = None, watch: Watch | None = None) -> Tree[S]:
        tree: Tree[S] = Tree()
        merger, workspace = Merger(self.pass_, tree), workspace or Workspace()
        leaves = plan_leaves(self.data, after=self.after, fragments=self.fragments)
        with one_blas_thread():
            for leaf in leaves:
                # A fold consumes its state, and a task may run twice.
                start = copy.deepcopy(self.after.open) if leaf.continues else None
                state = fold_leaf(self.pass_, self.data, leaf, workspace, start, watch)
                if leaf.full:
                    merger.add(leaf.index, state)
                else:
                    tree.open, tree.open_rows = state, leaf.rows
        tree.leaves = leaves[-1].index + (1 if leaves[-1].full else 0)
        return tree


@dataclass(frozen=True)
class WriteTask(Task[PartRecord]):
    """Write one part of ``job``: the rows of ``fragments`` of ``data``."""

    job: WriteJob
    part: Part
    data: Matrix
    fragments: range

    def __call__(self, workspace: Workspace | None = None, watch: Watch | None = None) -> PartRecord:
        with one_blas_thread():
            fragments, workspace = self.data.fragments, workspace or Workspace()
            with self.job.writing(self.part) as writer:
                for i in self.fragments:
                    for block in self.data.blocks(fragments[i], workspace, carry=True):
                        writer.add(block)
                        if watch is not None:
                            watch(block.rows)
                        del block  # its memory is what the next one is decoded into
        return writer.record


@dataclass(frozen=True)
class RowsTask(Task[Array]):
    """All rows of some fragments of ``data`` as one array (n, d)."""

    data: Matrix
    fragments: range

    def __call__(self, workspace: Workspace | None = None, watch: Watch | None = None) -> Array:
        data, workspace, fragments = self.data, workspace or Workspace(), self.data.fragments
        found = list[Array]()
        with one_blas_thread():
            for i in self.fragments:
                for block in data.blocks(fragments[i], workspace):
                    found.append(block.dense(data.dtype).copy())
                    if watch is not None:
                        watch(block.rows)
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
            merger.take(tree)
            whole.open_rows = whole.open_rows if tree.open is None else tree.open_rows
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


class Tasks(OnDemand[T]):
    """Tasks of one scan, each made when asked for: together they would hold all files and fragments as objects."""

    __slots__ = ("make", "size")

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self.size, self.make = count, make

    def __len__(self) -> int:
        return self.size

    def item(self, index: int) -> T:
        return self.make(index)


def fold_tasks(pass_: Pass[S, Any], data: Matrix, tree: Tree[S], most: int | None = None) -> Tasks[FoldTask[S]]:
    """``data`` cut into at most about ``most`` tasks over aligned runs of 2^g leaves; None for one a leaf, all here."""
    leaves = plan_leaves(data, after=tree)
    size = 0
    while most is not None and len(leaves) >> size > most:
        size += 1
    first, end, cut = leaves.first, leaves.first + len(leaves), Cutter(data, here=most is None)
    before = replace(tree, nodes={})

    def make(number: int) -> FoldTask[S]:
        start = (first >> size) + number << size
        low, high = leaves[max(start, first) - first], leaves[min(start + (1 << size), end) - first - 1]
        part, fragments = cut(low.fragments.start, high.fragments.stop)
        after: Tree[S] = Tree(leaves=low.index) if number else before
        return FoldTask(pass_, part, fragments, after)

    return Tasks((end - 1 >> size) - (first >> size) + 1 if len(leaves) else 0, make)


def write_tasks(data: Matrix, job: WriteJob, *, here: bool = False) -> Tasks[WriteTask]:
    """One task for each pending part; unless they all run ``here``, a task's job knows no part but its own."""
    cut = Cutter(data, here=here)

    def make(number: int) -> WriteTask:
        part = job.pending[number]
        part_data, fragments = cut(part.fragments.start, part.fragments.stop)
        return WriteTask(job if here else replace(job, parts=(part,), pending=(part,)), part, part_data, fragments)

    return Tasks(len(job.pending), make)


def rows_tasks(data: Matrix, most: int | None = None) -> Tasks[RowsTask]:
    """``data`` cut into at most ``most`` runs of fragments; None for one a fragment, all of them here."""
    n = len(data.fragments)
    count, cut = n if most is None else min(n, most), Cutter(data, here=most is None)
    return Tasks(count, lambda i: RowsTask(*cut(n * i // count, n * (i + 1) // count)))


class Cutter:
    """Restricts a data set to the files of a run of fragments, if it is not to stay ``here``, where all are known."""

    def __init__(self, data: Matrix, *, here: bool = False) -> None:
        self.data, self.all, self.here = data, data.fragments, here

    def __call__(self, start: int, stop: int) -> tuple[Matrix, range]:
        """(data of the files of fragments ``start:stop``, which of its fragments these are)."""
        source = self.data.source
        if self.here or not source.files or start == stop:
            return self.data, range(start, stop)
        low, high = self.all[start].file, self.all[stop - 1].file
        first = bisect_left(self.all, low, key=lambda fragment: fragment.file)
        part = replace(self.data, source=source.only(range(low, high + 1)))
        return part, range(start - first, stop - first)
