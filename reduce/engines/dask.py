"""The engine on a Dask cluster: any ``distributed.Client``.

Tasks fold aligned runs of leaves where the scheduler puts them, their trees meet eight at a time on the cluster, and
one state comes back. Dask schedules, retries and recomputes what dies with a worker; the result depends on neither.
"""

from __future__ import annotations

import contextlib
import copy
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from distributed import Client, Future, as_completed
from distributed.scheduler import KilledWorker

from reduce.about import versions
from reduce.blocks import Array, Workspace
from reduce.dataset import Dataset
from reduce.engines.base import Progress, Tree, one_blas_thread
from reduce.engines.checkpoint import Checkpoint
from reduce.engines.memory import estimate, format_bytes, parse_bytes
from reduce.engines.ship import pack, unpack
from reduce.engines.tasks import attempt, compare_versions, fold_tasks, merge_trees, total_of, write_tasks
from reduce.errors import ConfigError, DoesNotFitError, EigenmillError, EngineError
from reduce.passes.base import Pass
from reduce.sink import Manifest, Sink

S = TypeVar("S")
R = TypeVar("R")
FAN_IN = 8
"""Trees that meet in one task: a power of two, so that the runs stay aligned."""
TASKS = 4096
"""Most tasks of one scan: enough for a thousand workers, little work for the scheduler."""
PROCESS = 300 << 20
"""Bytes that a worker process holds before it reads."""


class DaskEngine:
    """Runs passes on the workers of a Dask cluster.

    Args:
        client: a ``distributed.Client``, or the address of a scheduler. The cluster stays the caller's.
        memory: budget of one worker process; by default the workers' own limit.
        work: directory that this process and all workers see, for arrays above 32 MiB and finished scans.
        retries: how often a task is tried again after an error that may pass, such as a store that does not answer;
            what is wrong with the data is not. Tasks of workers that die are run elsewhere by Dask.
        progress: told of scans and rows.
    """

    def __init__(
        self,
        client: Client | str,
        memory: int | str | None = None,
        *,
        work: str | os.PathLike[str] | None = None,
        retries: int = 3,
        progress: Progress | None = None,
    ) -> None:
        if isinstance(client, str):
            try:
                client = Client(client, timeout=10)
            except OSError as error:
                raise EngineError(f"expected a Dask scheduler at {client}, found {error}; start it first") from error
        if not isinstance(client, Client):
            raise ConfigError(f"expected a distributed.Client or an address, found {type(client).__name__}")
        self.client, self.memory = client, parse_bytes(memory)
        self.work = None if work is None else str(work)
        self.retries, self.progress = retries, progress
        self._checked: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"DaskEngine({self.client.scheduler.address if self.client.scheduler else None!r})"

    @property
    def workers(self) -> int:
        """Threads of all workers."""
        return sum(w["nthreads"] for w in self._workers().values())

    def memory_limit(self) -> int | None:
        limits = [w["memory_limit"] for w in self._workers().values() if w["memory_limit"]]
        return self.memory or (min(limits) if limits else None)

    def run(self, pass_: Pass[S, R], data: Dataset, *, tree: Tree[S] | None = None) -> R:
        self._admit(pass_, data)
        keep, tree = tree is not None, Tree() if tree is None else tree
        saved = None
        if self.work is not None:
            saved = Checkpoint(self.work, pass_, data, tree, form="tree" if keep or tree.nodes else "total")
        if saved is None or not saved.resume():
            self._fold(pass_, data, tree, keep=keep)
            if saved is not None:
                saved.save(whole=True)
        with one_blas_thread():
            return pass_.finalize(tree.total(pass_, keep=keep))

    def _fold(self, pass_: Pass[S, Any], data: Dataset, tree: Tree[S], *, keep: bool) -> None:
        name = type(pass_).__name__.removesuffix("Pass").lower()
        tasks = fold_tasks(pass_, data, tree, TASKS)
        with self._stage(name, tasks):
            payload = pack(pass_, self.work)
            trees = self._submit(f"fold-{name}", _call, [(pack(task, self.work), self.retries) for task in tasks])
            self._watch(trees, tasks)
            while len(trees) > 1:
                groups = [trees[i : i + FAN_IN] for i in range(0, len(trees), FAN_IN)]
                trees = self._submit(f"merge-{name}", _merge, [(payload, group) for group in groups])
            if trees and not keep and not tree.nodes:
                trees = self._submit(f"total-{name}", _total, [(payload, tree) for tree in trees])
            found = self._results(trees)
        if found:
            whole = merge_trees(pass_, [Tree(tree.nodes), found[0]])
            tree.nodes, tree.open, tree.open_rows = whole.nodes, whole.open, whole.open_rows
            tree.leaves = max(tree.leaves, whole.leaves)

    def write(self, data: Dataset, sink: Sink) -> Manifest:
        self._admit(None, data)
        job = sink.open(data)
        tasks = write_tasks(data, job)
        with self._stage("write", tasks):
            records = self._submit("write-part", _call, [(pack(task, self.work), self.retries) for task in tasks])
            self._watch(records, tasks)
            self._results(records)
        return job.commit()

    def collect(self, data: Dataset) -> Array:
        """All rows of ``data`` as one array (n, d) in this process: for data that fits, such as reduced features."""
        self._admit(None, data)
        payloads = [(pack((data, i), self.work),) for i in range(len(data.fragments))]
        found = self._results(self._submit("collect", _rows, payloads))
        return np.concatenate(found) if found else np.empty((0, data.n_features), data.dtype)

    # Dask.

    def _workers(self) -> dict[str, Any]:
        return dict(self.client.scheduler_info(n_workers=-1)["workers"])

    def _admit(self, pass_: Pass[Any, Any] | None, data: Dataset) -> None:
        """Refuse before anything is read: a cluster without workers, other versions, too little memory."""
        with self._alive():
            if not self._workers():
                self.client.wait_for_workers(1, timeout=30)
            workers = self._workers()
            fresh = frozenset(workers) - self._checked
            if fresh:
                self._check_versions(sorted(fresh))
                self._checked = frozenset(workers)
        for address, worker in workers.items():
            limit = self.memory or worker["memory_limit"]
            need = estimate(pass_, data, worker["nthreads"], process=PROCESS)
            if limit and need.scan > limit:
                raise DoesNotFitError(
                    f"expected a plan within {format_bytes(limit)} on the worker {address}, found that its "
                    f"{worker['nthreads']} threads need {format_bytes(need.scan)}; start workers with fewer threads "
                    "or more memory"
                )

    def _check_versions(self, addresses: list[str]) -> None:
        try:
            theirs = self.client.run(versions, workers=addresses)
        except ModuleNotFoundError as error:
            raise EngineError(f"expected eigenmill on every worker, found {error}; install it there") from error
        for address, found in theirs.items():
            compare_versions(versions(), found, f"the worker {address}")

    def _submit(self, name: str, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Future]:
        token = uuid.uuid4().hex[:8]
        with self._alive():
            return [
                self.client.submit(function, *args, key=f"eigenmill-{name}-{token}-{i}", pure=False)
                for i, args in enumerate(arguments)
            ]

    def _watch(self, futures: list[Future], tasks: Sequence[Any]) -> None:
        rows = {future.key: task.rows for future, task in zip(futures, tasks, strict=True)}
        with self._alive():
            for future in as_completed(futures):
                if future.status == "error":
                    self._raise(future, futures)
                if self.progress is not None:
                    self.progress.advance(rows[future.key])

    def _results(self, futures: list[Future]) -> list[Any]:
        with self._alive():
            return list(self.client.gather(futures))

    def _raise(self, failed: Future, futures: list[Future]) -> None:
        error = failed.exception()
        self.client.cancel(futures)
        if isinstance(error, KilledWorker):
            raise EngineError(
                f"expected workers that stay alive, found that {error}; look into their logs, most often memory"
            ) from error
        raise error

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """What Dask raises when its cluster is gone, as an EngineError."""
        try:
            yield
        except (TimeoutError, OSError, RuntimeError) as error:
            if isinstance(error, EigenmillError):
                raise
            raise EngineError(
                f"expected a Dask cluster that answers, found {error!r}; check the scheduler, then run again to go on"
            ) from error

    @contextlib.contextmanager
    def _stage(self, name: str, tasks: Sequence[Any]) -> Iterator[None]:
        if self.progress is not None:
            self.progress.begin(name, sum(task.rows for task in tasks), 0)
        try:
            yield
        finally:
            if self.progress is not None:
                self.progress.end()


# On the workers.


def _call(payload: bytes, retries: int) -> Any:
    return attempt(lambda: unpack(payload)(), retries)


def _merge(payload: bytes, trees: list[Tree[Any]]) -> Tree[Any]:
    # A merge consumes its states, and Dask may run it again on the ones it keeps.
    return merge_trees(unpack(payload), copy.deepcopy(trees))


def _total(payload: bytes, tree: Tree[Any]) -> Tree[Any]:
    return total_of(unpack(payload), copy.deepcopy(tree))


def _rows(payload: bytes) -> Array:
    data, i = unpack(payload)
    workspace = Workspace()
    with one_blas_thread():
        blocks = [b.dense(data.dtype).copy() for b in data.blocks(data.fragments[i], workspace)]
    return np.concatenate(blocks) if blocks else np.empty((0, data.n_features), data.dtype)
