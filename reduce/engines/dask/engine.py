"""The engine on a Dask cluster: any ``distributed.Client``.

One graph per scan: tasks fold aligned runs of leaves where the scheduler puts them, their trees meet on the cluster as
soon as enough neighbours are there, and one state comes back. Dask schedules, retries and recomputes what dies with
a worker; the result depends on neither. This process holds the descriptions of tasks and nothing of their results.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import lru_cache
from typing import Any, Self, TypeVar

import dask
import numpy as np
from dask import delayed
from dask.sizeof import sizeof
from distributed import Client, Future
from distributed.scheduler import KilledWorker, NoValidWorkerError

from eigenmill.reduce.engines.base import ClusterEngine, Progress, Session, Tree, scan_name, told_scan, tree_arrays
from eigenmill.reduce.engines.checkpoint import scanned
from eigenmill.reduce.engines.dask.collections import Partitions
from eigenmill.reduce.engines.kinds import Cluster
from eigenmill.reduce.engines.load import worker_memory
from eigenmill.reduce.engines.memory import Work, format_bytes, parse_bytes
from eigenmill.reduce.engines.ship import Common, pack, unpack, unpack_common, workplace
from eigenmill.reduce.engines.tasks import (
    attempt,
    compare_versions,
    fold_tasks,
    merge_trees,
    rows_tasks,
    take_in,
    total_of,
    write_tasks,
)
from eigenmill.reduce.errors import ConfigError, DoesNotFitError, EngineError
from eigenmill.reduce.output.sink import Manifest, Sink
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.rows.blocks import Array
from eigenmill.reduce.sources.matrix import Matrix
from eigenmill.reduce.storage.about import versions

S = TypeVar("S")
R = TypeVar("R")
POLL = 5.0
"""Seconds without news after which the cluster is asked whether it is still there."""
ANSWER = 30.0
"""Seconds in which a scheduler must answer, however much it has to do."""

CLOSING = 2.0
"""Seconds that ending a connection may take."""
log = logging.getLogger("eigenmill")


def _not_cancelled(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


class DaskEngine(ClusterEngine):
    """Runs passes on the workers of a Dask cluster.

    Args:
        client: a ``distributed.Client``, which stays the caller's, or the address of a scheduler: then the first use,
            or entering the engine, connects, and :meth:`close`, or leaving it, ends the connection.
        memory: budget of one worker process; by default the workers' own limit.
        work: directory that this process and all workers see, for arrays above 32 MiB and finished scans.
        retries: how often a task is tried again after an error that may pass, such as a store that does not answer,
            and after Dask has given it up because several workers died with it; what is wrong with the data is not.
        patience: seconds to wait for a worker when there is none.
        progress: told of scans and, as tasks end, of rows.
    """

    kind = "dask"

    def __init__(
        self,
        client: Client | str,
        memory: int | str | None = None,
        *,
        work: str | os.PathLike[str] | None = None,
        retries: int = 3,
        patience: float = 30.0,
        progress: Progress | None = None,
    ) -> None:
        if not isinstance(client, Client | str):
            raise ConfigError(f"expected a distributed.Client or an address, found {type(client).__name__}")
        super().__init__()
        self._given, self.memory = client, parse_bytes(memory)
        self.work = workplace(work)
        self.retries, self.patience, self.progress = retries, patience, progress
        self._opened: Client | None = None
        self._opening = threading.Lock()

    def __repr__(self) -> str:
        given = self._given
        if not isinstance(given, str):
            given = given.scheduler.address if given.scheduler else None
        return f"DaskEngine({given!r})"

    def __enter__(self) -> Self:
        _ = self.client
        return self

    @property
    def client(self) -> Client:
        """The client that was given, or one of its own for the address.

        Raises:
            EngineError: no scheduler answers there.
        """
        self._stay()
        if not isinstance(self._given, str):
            return self._given
        with self._opening:
            if self._opened is None:
                try:
                    self._opened = Client(self._given, timeout=10, set_as_default=False)
                except (OSError, ValueError) as error:
                    raise EngineError(
                        f"expected a Dask scheduler at {self._given}, found {error}; start it first"
                    ) from error
            return self._opened

    @property
    def workers(self) -> int:
        return sum(w["nthreads"] for w in workers_of(self.client).values())

    @property
    def cluster(self) -> Cluster:
        workers = workers_of(self.client)
        threads = max((w["nthreads"] for w in workers.values()), default=1)
        return Cluster(self.kind, max(len(workers), 1), threads, self._limit(workers))

    def memory_limit(self) -> int | None:
        return self._limit(workers_of(self.client))

    def _limit(self, workers: dict[str, Any]) -> int | None:
        limits = [w["memory_limit"] for w in workers.values() if w["memory_limit"]]
        return self.memory or (min(limits) if limits else None)

    def session(self, reserve: int | None = None, need: int = 0) -> DaskSession:
        return DaskSession(self)

    def close(self) -> None:
        """Close the client, if this engine made it from an address; a scheduler that is gone does not matter."""
        with self._opening:
            client, self._opened = self._opened, None
        if client is not None:
            # The client would log, with a traceback, that this ends its attempts to find a dead scheduler.
            logger = logging.getLogger("distributed.client")
            logger.addFilter(_not_cancelled)
            try:
                with contextlib.suppress(OSError, TimeoutError, CancelledError):
                    client.close(timeout=CLOSING)
            finally:
                logger.removeFilter(_not_cancelled)


class DaskSession(Session):
    """Scans of a cluster: the workers it has found are of our versions."""

    engine: DaskEngine

    def __init__(self, engine: DaskEngine) -> None:
        super().__init__(engine)
        self.client = engine.client
        self._checked: frozenset[str] = frozenset()

    def run(self, pass_: Pass[S, R], data: Matrix, *, tree: Tree[S] | None = None) -> R:
        self._admit(pass_, data)
        return scanned(self.engine.work, pass_, data, tree, lambda tree, keep: self._fold(pass_, data, tree, keep=keep))

    def _fold(self, pass_: Pass[S, Any], data: Matrix, tree: Tree[S], *, keep: bool) -> None:
        name, costs = scan_name(pass_), self.engine.costs
        tasks = fold_tasks(pass_, data, tree, costs.tasks)
        state = pass_.sizes(0, data.n_rows)[0]
        fan = costs.trees_of(state)
        with told_scan(self.engine.progress, name, data.n_rows) as advance:
            graph = _Graph(f"fold-{name}", tasks, self.engine)
            merged, level = graph.nodes, 0
            whole = graph.node("pass", delayed(_identity), [pack(pass_, self.engine.work)])[0] if tasks else None
            while len(merged) > 1:
                groups = [merged[i : i + fan] for i in range(0, len(merged), fan)]
                merged, level = graph.node(f"merge-{name}-{level}", delayed(_merge), groups, whole), level + 1
            if merged and not keep and not tree.nodes:
                merged = graph.node(f"total-{name}", delayed(_total), merged, whole)
            found = self._compute(graph, merged, advance, direct=state >= costs.large_state)
        if found:
            take_in(pass_, tree, found[0])

    def write(self, data: Matrix, sink: Sink) -> Manifest:
        self._admit(sink.writing(data), data)
        job = sink.open(data)
        with told_scan(self.engine.progress, "write", sum(part.rows for part in job.pending)) as advance:
            self._compute(_Graph("write-part", write_tasks(data, job), self.engine), [], advance)
        return job.commit()

    def collect(self, data: Matrix) -> Array:
        self._admit(None, data)
        graph = _Graph("collect", rows_tasks(data, self.engine.costs.tasks), self.engine)
        found = self._compute(graph, graph.nodes, lambda rows: None)
        return np.concatenate(found) if found else np.empty((0, data.n_features), data.dtype)

    # Dask.

    def _compute(
        self, graph: _Graph, wanted: Sequence[Any], advance: Callable[[int], None], *, direct: bool = False
    ) -> list[Any]:
        """Run a graph to its end; what ``wanted`` nodes give."""
        if not graph.all:
            return []
        with self._alive(), large_graphs():
            futures: list[Future] = self.client.compute(graph.all)
        counts = {future.key: count for future, count in zip(futures, graph.rows, strict=False)}
        pending = {future.key: future for future in futures}
        results = [pending[node.key] for node in wanted]
        futures.clear()
        try:
            self._watch(pending, counts, advance)
        except BaseException:
            # By Ctrl-C too: nobody waits for the rest.
            self._cancel([*pending.values(), *results])
            raise
        with self._alive():
            return list(self.client.gather(results, direct=direct or None))

    def _cancel(self, futures: list[Future]) -> None:
        try:
            self.client.cancel(futures)
        except Exception as error:
            log.info("the cluster has not been told that a scan has ended: %r", error)

    def _watch(self, pending: dict[str, Future], counts: dict[str, int], advance: Callable[[int], None]) -> None:
        """Wait until all are done, letting go of each one that is, and tell of its rows; raises an error that lasts."""
        told: queue.SimpleQueue[Future] = queue.SimpleQueue()
        lives = dict.fromkeys(pending, self.engine.retries)
        for future in pending.values():
            future.add_done_callback(told.put)
        lost: list[Future] = []
        alone = time.monotonic()
        while pending:
            try:
                future = told.get(timeout=POLL)
            except queue.Empty:
                alone = self._still_there(alone)
                for found in [f for f in lost if f.status != "lost"]:
                    lost.remove(found)
                    found.add_done_callback(told.put)
                continue
            status = future.status
            if status == "lost":
                lost.append(future)  # its worker died with the result: Dask makes it again, and does not call back
                continue
            alone = time.monotonic()
            if status == "pending":
                continue  # tried again meanwhile, for the sake of another one
            if status == "finished":
                if future.key in counts:
                    advance(counts.pop(future.key))
                # What the client no longer asks for the cluster forgets as soon as it is merged.
                pending.pop(future.key, None)
                continue
            if status != "error":
                raise EngineError(
                    "expected a Dask cluster that answers, found that it has cancelled this scan; "
                    "check the scheduler, then run again to go on"
                )
            error = future.exception()
            if not isinstance(error, KilledWorker) or not lives[future.key]:
                raise _explained(error)
            lives[future.key] -= 1
            with self._alive():
                self.client.retry([future])
            for other in [f for f in pending.values() if f.status == "pending"]:
                other.add_done_callback(told.put)

    def _still_there(self, alone: float) -> float:
        """Ask a silent cluster for its workers; the time since when there have been none."""
        if self.client.status not in ("running", "connecting"):
            raise EngineError(f"expected a Dask cluster that answers, found the client {self.client.status}; run again")
        with self._alive():
            if workers_of(self.client):
                return time.monotonic()
        if time.monotonic() - alone > self.engine.patience:
            raise self._abandoned()
        return alone

    def _abandoned(self) -> EngineError:
        return EngineError(
            f"expected workers at {self.client.scheduler.address}, found none for {self.engine.patience:.0f} s; "
            "start some with `dask worker`, then run again to go on"
        )

    def _admit(self, work: Work, data: Matrix) -> None:
        """Refuse before anything is read: a cluster without workers, other versions, too little memory."""
        with self._alive():
            workers = workers_of(self.client)
            if not workers:
                with contextlib.suppress(TimeoutError):
                    self.client.wait_for_workers(1, timeout=self.engine.patience)
                workers = workers_of(self.client)
                if not workers:
                    raise self._abandoned()
            fresh = frozenset(workers) - self._checked
            if fresh:
                self._check_versions(sorted(fresh))
                self._checked = frozenset(workers)
        memory = self.engine.memory
        # Workers of one size need one estimate, be they a thousand.
        for threads, limit in sorted({(w["nthreads"], memory or w["memory_limit"]) for w in workers.values()}):
            need = worker_memory(self.engine.costs, work, data, threads)[1]
            if limit and need > limit:
                raise DoesNotFitError(
                    f"expected a plan within {format_bytes(limit)} on every worker, found that {threads} threads need "
                    f"{format_bytes(need)}; start workers with fewer threads or more memory"
                )

    def _check_versions(self, addresses: list[str]) -> None:
        theirs = self.client.run(versions, workers=addresses, on_error="return")
        for address, found in theirs.items():
            if isinstance(found, OSError):
                continue  # it has left meanwhile
            if isinstance(found, BaseException):
                raise EngineError(
                    f"expected eigenmill on the worker {address}, found {found!r}; install the same versions there"
                ) from found
            compare_versions(versions(), found, f"the worker {address}")

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """What Dask raises when its cluster is gone, as an EngineError."""
        try:
            yield
        except (EngineError, ConfigError):
            raise
        except (TimeoutError, OSError, RuntimeError, CancelledError) as error:
            raise EngineError(
                f"expected a Dask cluster that answers, found {error!r}; check the scheduler, then run again to go on"
            ) from error


def workers_of(client: Client) -> dict[str, Any]:
    """What the scheduler knows of its workers, by address."""
    scheduler = client.scheduler
    if scheduler is None:
        raise OSError("no connection to the scheduler")
    found = client.sync(scheduler.identity, n_workers=-1, callback_timeout=ANSWER)
    return dict(found["workers"])


_large_lock = threading.Lock()
_large_depth = 0
_large: Any = None


@contextlib.contextmanager
def large_graphs() -> Iterator[None]:
    """Let Dask take graphs of any size without a warning: arrays that all tasks share travel in the graph, once.

    Its threshold is of the whole process, as filters of warnings are: the first thread that comes lifts it, and the
    last one that goes puts it back.
    """
    global _large_depth, _large
    with _large_lock:
        if _large_depth == 0:
            _large = dask.config.set({"distributed.admin.large-graph-warning-threshold": 1 << 60})
        _large_depth += 1
    try:
        yield
    finally:
        with _large_lock:
            _large_depth -= 1
            if _large_depth == 0:
                _large.__exit__(None, None, None)


class _Graph:
    """The nodes of one scan, named so that the dashboard tells what runs.

    Attributes:
        nodes: one for each task.
        all: these, and all that is computed from them.
        rows: of each task.
    """

    def __init__(self, name: str, tasks: Sequence[Any], engine: DaskEngine) -> None:
        self.token = uuid.uuid4().hex[:8]
        self.rows: list[int] = []
        common, shipped, gathered = Common(), list[bytes](), list[Any]()
        for task in tasks:
            read = [task.data.fragments[i] for i in task.fragments]
            shipped.append(pack(task, engine.work, common))
            self.rows.append(sum(fragment.rows for fragment in read))
            gathered.append((read, task.data.source.parts(read)) if _gathers(task.data) else ())
        shared: Any = []
        if common.objects:
            # A task and not a scatter: what a dead worker held is made again.
            key = f"eigenmill-shared-{self.token}"
            shared = delayed(unpack_common, pure=False)(common.pack(), dask_key_name=key)
        self.all: list[Any] = []
        call, expected = delayed(_call, pure=False), versions()
        self.nodes = self.node(name, call, shipped, shared, engine.retries, expected, extra=gathered)

    def node(
        self, name: str, function: Any, items: Sequence[Any], *arguments: Any, extra: Sequence[Any] | None = None
    ) -> list[Any]:
        """One node of ``function`` for every item."""
        extras: Sequence[Any] = [()] * len(items) if extra is None else [(e,) for e in extra]
        nodes = [
            function(item, *arguments, *more, dask_key_name=f"eigenmill-{name}-{self.token}-{i}")
            for i, (item, more) in enumerate(zip(items, extras, strict=True))
        ]
        self.all += nodes
        return nodes


def _gathers(data: Matrix) -> bool:
    """Whether the rows are partitions of a collection."""
    return isinstance(data.source, Partitions)


def _explained(error: BaseException) -> BaseException:
    """What a task raised, or what Dask says about it, as an error of ours where it is one of the cluster."""
    if isinstance(error, KilledWorker):
        return EngineError(
            f"expected workers that stay alive, found that {error}; look into their logs, most often memory"
        )
    if isinstance(error, NoValidWorkerError):
        return EngineError(f"expected workers that may run every task, found {error}")
    if isinstance(error, ImportError | AttributeError):
        return EngineError(f"expected this version of eigenmill on every worker, found {error!r}; install it there")
    return error


# On the workers.


def _size(tree: Tree[Any]) -> int:
    """The scheduler is told how large a state is: it merges where most of it lies, and sees memory as it is."""
    return sum(array.nbytes for array in tree_arrays(tree)[0].values())


sizeof.register(Tree, _size)


def _identity(value: object) -> Any:
    return value


@lru_cache(maxsize=64)
def _same_versions(expected: tuple[tuple[str, str], ...]) -> None:
    compare_versions(dict(expected), versions(), "a worker")


def _call(
    payload: bytes, common: list[object], retries: int, expected: dict[str, str], gathered: Sequence[object] = ()
) -> Any:
    # Workers may join at any time.
    _same_versions(tuple(expected.items()))

    def work() -> Any:
        task = unpack(payload, common)
        if _gathers(task.data):
            source = task.data.source.loaded(*gathered)
            task = replace(task, data=replace(task.data, source=source), fragments=range(len(source.fragments)))
        return task()

    return attempt(work, retries)


def _merge(trees: list[Tree[Any]], payload: bytes) -> Tree[Any]:
    # A merge consumes its states, and Dask may run it again on the ones it keeps.
    return merge_trees(unpack(payload), copy.deepcopy(trees))


def _total(tree: Tree[Any], payload: bytes) -> Tree[Any]:
    return total_of(unpack(payload), copy.deepcopy(tree))
