"""What every engine shares: the merge tree, the one-thread BLAS limit, engines and their sessions.

The merge tree is a binary counter over leaf indices. Node (m, i) is the state of leaves ``i 2^m ... (i+1) 2^m - 1``;
two neighbours of equal size make one of the next size, whoever computed them and in whatever order they arrive, so
the sequence of floating-point operations depends on the leaves alone. A last leaf that is not full stays apart, as
the *open* leaf, because rows appended later continue it.
"""

from __future__ import annotations

import contextlib
import copy
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NoReturn, Protocol, Self, TypeVar

from threadpoolctl import OpenBLASController, ThreadpoolController

from eigenmill.reduce.engines.costs import Costs
from eigenmill.reduce.engines.kinds import Cluster, costs_of
from eigenmill.reduce.errors import ArtifactError, EngineError
from eigenmill.reduce.output.manifest import Manifest
from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.passes.base import Pass, from_arrays, to_arrays
from eigenmill.reduce.rows.blocks import Array, Workspace
from eigenmill.reduce.sources.catalog import runs_of
from eigenmill.reduce.sources.matrix import Matrix
from eigenmill.reduce.storage.sequences import Integers, OnDemand

S = TypeVar("S")
R = TypeVar("R")


@dataclass
class Tree(Generic[S]):
    """The counter's nodes and the open leaf.

    Attributes:
        nodes: complete states by (level, index).
        open: state of the last, unfinished leaf, or None.
        open_rows: rows (by metadata) that the open leaf holds.
        leaves: complete leaves, all of them within ``nodes`` once a scan has ended.
    """

    nodes: dict[tuple[int, int], S] = field(default_factory=dict)
    open: S | None = None
    open_rows: int = 0
    leaves: int = 0

    def total(self, pass_: Pass[S, Any], *, keep: bool = False) -> S:
        """All leaves as one state, smaller subtrees first; ``keep`` leaves the tree usable at the price of a copy."""
        stack = [self.nodes[k] for k in sorted(self.nodes, key=lambda k: k[1] << k[0])]
        if self.open is not None:
            stack.append(self.open)
        if not stack:
            return pass_.start()
        if keep:
            stack = copy.deepcopy(stack)
        total = stack.pop()
        while stack:
            total = pass_.merge(stack.pop(), total)
        return total


class Merger(Generic[S]):
    """Adds leaf states to a tree from many threads; a merge runs in the thread that completed the pair."""

    def __init__(self, pass_: Pass[S, Any], tree: Tree[S]) -> None:
        self.pass_, self.tree, self.lock = pass_, tree, threading.Lock()

    def add(self, index: int, state: S, level: int = 0) -> None:
        """Add the state of a leaf, or of the complete node (level, index)."""
        while True:
            with self.lock:
                sibling = self.tree.nodes.pop((level, index ^ 1), None)
                if sibling is None:
                    self.tree.nodes[level, index] = state
                    return
            state = self.pass_.merge(state, sibling) if index % 2 == 0 else self.pass_.merge(sibling, state)
            level, index = level + 1, index // 2

    def take(self, found: Tree[S]) -> None:
        """Add the states of a tree, its open leaf included."""
        for (level, index), state in sorted(found.nodes.items(), key=lambda item: item[0][1] << item[0][0]):
            self.add(index, state, level)
        if found.open is not None:
            self.tree.open = found.open

    def covered(self, leaf: int) -> bool:
        """Whether a complete node holds this leaf."""
        return any(leaf >> level == index for level, index in self.tree.nodes)


@dataclass(frozen=True)
class Leaf:
    """One task: fold ``fragments`` (indices) into a state; ``full`` leaves enter the tree, the last may stay open."""

    index: int
    fragments: range
    rows: int
    full: bool
    continues: bool = False


class Leaves(OnDemand[Leaf]):
    """The leaves of a scan, by the end of each in fragments and its rows: a few bytes a leaf.

    ``first`` is the index of the first one, which begins with fragment ``start`` and may continue an open leaf; only
    the last one may not be ``full``.
    """

    __slots__ = ("continues", "first", "full", "rows", "start", "stops")

    def __init__(
        self, first: int, start: int, stops: Integers, rows: Integers, *, full: bool, continues: bool = False
    ) -> None:
        self.first, self.start, self.stops, self.rows = first, start, stops, rows
        self.full, self.continues = full, continues

    def __len__(self) -> int:
        return len(self.stops)

    def item(self, index: int) -> Leaf:
        fragments = range(int(self.stops[index - 1]) if index else self.start, int(self.stops[index]))
        full = self.full or index + 1 < len(self)
        return Leaf(self.first + index, fragments, int(self.rows[index]), full, self.continues and index == 0)


def plan_leaves(data: Matrix, *, after: Tree[Any] | None = None, fragments: range | None = None) -> Leaves:
    """The leaves of ``data``; its rows come after those of the tree, whose open leaf the first one continues.

    ``fragments`` are a run of its fragments that begins where a leaf does, by default all.
    """
    target = data.format.leaf_rows(data.n_features)
    held = after.open_rows if after else 0
    stops, rows, full = runs_of(data.fragments, target, among=fragments, held=held)
    start = 0 if fragments is None else fragments.start
    continues = bool(after and after.open is not None)
    return Leaves(after.leaves if after else 0, start, stops, rows, full=full, continues=continues)


def fold_leaf(
    pass_: Pass[S, Any],
    data: Matrix,
    leaf: Leaf,
    workspace: Workspace,
    start: S | None = None,
    progress: Callable[[int], None] | None = None,
) -> S:
    """The one loop in which a block meets a pass; every engine's task runs it."""
    state, fragments = pass_.start() if start is None else start, data.fragments
    height = pass_.sparse_height if data.sparse else None
    for i in leaf.fragments:
        for block in data.blocks(fragments[i], workspace, carry=pass_.carries, height=height):
            state = pass_.fold(state, block)
            if progress is not None:
                progress(block.rows)
            del block  # its memory is what the next one is decoded into
    return state


def tree_arrays(tree: Tree[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A tree's arrays by name and its counters."""
    arrays: dict[str, Any] = {}
    for (level, index), state in tree.nodes.items():
        arrays.update(to_arrays(state, f"{level}/{index}/"))
    if tree.open is not None:
        arrays.update(to_arrays(tree.open, "open/"))
    return arrays, {"open_rows": tree.open_rows, "leaves": tree.leaves}


def restore_tree(arrays: dict[str, Any], meta: dict[str, Any], kind: type[S], tree: Tree[S]) -> None:
    """Fill ``tree`` from :func:`tree_arrays`' result."""
    prefixes = {name.rsplit("/", 1)[0] for name in arrays}
    try:
        for prefix in prefixes:
            state = from_arrays(kind, arrays, prefix + "/")
            if prefix == "open":
                tree.open = state
            else:
                level, index = (int(part) for part in prefix.split("/"))
                tree.nodes[level, index] = state
        tree.open_rows, tree.leaves = int(meta["open_rows"]), int(meta["leaves"])
    except (KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"expected a saved merge tree, found one without {error}; fit again") from error


class ScanProgress(Protocol):
    """Told of one scan, from the threads that run it."""

    def advance(self, rows: int) -> None: ...
    def end(self) -> None: ...


class Progress(Protocol):
    """Told of every scan. Scans of several threads may run at once: each tells what ``begin`` has returned to it."""

    def begin(self, stage: str, rows: int, size: int) -> ScanProgress: ...


def scan_name(pass_: Pass[Any, Any]) -> str:
    """What progress and dashboards call a scan."""
    return type(pass_).__name__.removesuffix("Pass").lower()


@contextlib.contextmanager
def told_scan(progress: Progress | None, stage: str, rows: int) -> Iterator[Callable[[int], None]]:
    """Tell ``progress``, if there is one, of a scan of ``rows`` rows; gives what is called with rows that are done."""
    if progress is None:
        yield lambda rows: None
        return
    scan = progress.begin(stage, rows, 0)
    try:
        yield scan.advance
    finally:
        scan.end()


class Session(ABC):
    """What belongs to one run of an engine: one scan, or all scans of a fit. A context manager, for one thread.

    An engine is configuration; what its runs keep, reserve, have checked and count lives here, so that any number of
    sessions of one engine may be open at once.

    Attributes:
        engine: whose session it is.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def run(self, pass_: Pass[S, R], data: Matrix, *, tree: Tree[S] | None = None) -> R:
        """One scan of ``data``. A given ``tree`` is continued and left complete, for a later day."""

    @abstractmethod
    def write(self, data: Matrix, sink: Sink) -> Manifest:
        """One scan that writes every row of ``data``; returns the manifest."""

    @abstractmethod
    def collect(self, data: Matrix) -> Array:
        """All rows of ``data`` as one array (n, d) in this process: for data that fits, such as reduced features."""

    def close(self) -> None:  # noqa: B027 - most keep nothing
        """Let go of what the session keeps."""


class Engine(ABC):
    """Decides where a pass runs, and nothing else: configuration that opens nothing until it is entered or used.

    Any number of threads may use one engine at once, for any data, and again after an error or Ctrl-C. As a context
    manager it closes what it has opened itself; used once more, it opens that again.

    Attributes:
        kind: the word that :func:`eigenmill.reduce.engines.connect` knows it by.
        progress: told of scans and rows.
    """

    kind: ClassVar[str]
    progress: Progress | None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    @abstractmethod
    def workers(self) -> int:
        """Threads that compute, of all processes."""

    @property
    def cluster(self) -> Cluster | None:
        """What there is to plan for; None when all runs in this process, or what a cluster has is not known."""
        return None

    @abstractmethod
    def memory_limit(self) -> int | None:
        """Bytes that one process may use, or None."""

    def spare(self, peak: int) -> tuple[int, int] | None:
        """Bytes of memory and of disk for decoded blocks, beside a scan that takes ``peak`` bytes of memory.

        None where no blocks are kept, because it is not known which process reads a leaf again.
        """
        return None

    @abstractmethod
    def session(self, reserve: int | None = None, need: int = 0) -> Session:
        """A session, for scans that belong together.

        Args:
            reserve: bytes that the caller will hold by the last scan, when the scans read the same files: what
                :meth:`spare` has room for is then decoded once.
            need: bytes that the largest of them takes with one worker beside what the process holds, and beside
                ``reserve``, where it is known: sessions that run at once share ``memory=``, and one that has claimed
                what it needs does not wait for others between its scans.
        """

    def run(self, pass_: Pass[S, R], data: Matrix, *, tree: Tree[S] | None = None) -> R:
        """One scan of ``data`` in a session of its own, as :meth:`Session.run`."""
        with self.session() as session:
            return session.run(pass_, data, tree=tree)

    def write(self, data: Matrix, sink: Sink) -> Manifest:
        """One scan that writes every row of ``data``, in a session of its own; returns the manifest."""
        with self.session() as session:
            return session.write(data, sink)

    def collect(self, data: Matrix) -> Array:
        """All rows of ``data`` as one array (n, d) in this process, as :meth:`Session.collect`."""
        with self.session() as session:
            return session.collect(data)

    def close(self) -> None:  # noqa: B027 - most open nothing
        """Let go of what the engine has opened itself; a client or session that it was given stays open."""


class ClusterEngine(Engine):
    """An engine of a cluster, which belongs to the process that has made it: it is neither pickled nor forked."""

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def costs(self) -> Costs:
        """What a scan costs there."""
        return costs_of(self.kind)

    def __reduce__(self) -> NoReturn:
        raise EngineError(
            f"expected a {self.kind} engine to stay in its process, found it being pickled; send what the engine is "
            f"made with, and call connect({self.kind!r}, ...) there"
        )

    def _stay(self) -> None:
        """Refuse a process that has inherited the engine by a fork: its threads and connections are the parent's."""
        if os.getpid() != self._process:
            raise EngineError(
                f"expected a {self.kind} engine in the process that has made it, found it in a fork; "
                f"call connect({self.kind!r}, ...) in this one"
            )


_limit_lock = threading.Lock()
_limit_depth = 0
_limit: Any = None
_libraries: Any = None


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run BLAS with one thread: results would depend on the thread count otherwise, and threads fold leaves already.

    The limit is process-wide and reference-counted, because threadpoolctl's own limits race inside pool threads.
    OpenMP counts for every thread apart, and a BLAS built on it does too: every thread that computes enters here.
    """
    global _limit_depth, _limit, _libraries
    with _limit_lock:
        if _limit_depth == 0:
            _free_control()
            _libraries = ThreadpoolController()
            _limit = _libraries.limit(limits=1, user_api="blas")
        _limit_depth += 1
        openmp = [(each, each.num_threads) for each in _libraries.lib_controllers if each.user_api == "openmp"]
    for library, _ in openmp:
        library.set_num_threads(1)
    try:
        yield
    finally:
        for library, before in openmp:
            library.set_num_threads(before)
        with _limit_lock:
            _limit_depth -= 1
            if _limit_depth == 0:
                _free_control()
                _limit.restore_original_limits()
                _free_control()
                _limit = _libraries = None


def _free_control() -> None:
    """Let this thread set the limit: threadpoolctl 3.8 obeys only the first living thread that ever set one."""
    clear = getattr(OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)
