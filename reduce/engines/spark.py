"""The engine on Spark: any ``SparkSession``, classic or Connect, by the DataFrame API alone.

``range`` gives one row per task, ``mapInArrow`` lets a Python worker read its Parquet files itself (rows do not go
through the JVM), and ``applyInArrow`` merges trees in groups. Errors of ours come back as rows, so that Spark does
not try bad data four times; everything else Spark retries.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.functions import col, floor, lit

from reduce.about import versions
from reduce.blocks import Array
from reduce.dataset import Dataset
from reduce.engines.base import Progress, Tree, one_blas_thread
from reduce.engines.checkpoint import Checkpoint
from reduce.engines.memory import estimate, format_bytes, parse_bytes
from reduce.engines.ship import Common, pack, refuse_secrets
from reduce.engines.spark_frames import FrameSource
from reduce.engines.spark_rows import SCHEMA, fold, mapper, merger, restored, rows, rows_of, write
from reduce.engines.tasks import fold_tasks, merge_trees, rows_tasks, write_tasks
from reduce.engines.wire import from_bytes
from reduce.errors import ConfigError, DoesNotFitError, EngineError
from reduce.passes.base import Pass
from reduce.sink import Manifest, Sink

S = TypeVar("S")
R = TypeVar("R")
TASKS = 1024
"""Most tasks of one scan."""
FAN_IN = 8
"""Trees that meet in one group: a power of two, so that the runs stay aligned. Two, when states are large."""
AT_ONCE = 64 << 20
"""Bytes of states up to which the driver takes all trees without a round of merging."""
COLLECTED = "eigenmill_features"
PROCESS = 300 << 20
"""Bytes that a Python worker holds before it reads."""


class SparkEngine:
    """Runs passes in the Python workers of a Spark cluster.

    Args:
        session: a ``pyspark.sql.SparkSession``, classic or Connect. It stays the caller's.
        memory: budget of one executor's Python workers together; by default ``spark.executor.pyspark.memory`` or
            ``spark.executor.memoryOverhead`` when they are set.
        work: directory that this process and all executors see, for arrays above 32 MiB and finished scans.
        progress: told of scans and, at their end, rows.
    """

    def __init__(
        self,
        session: SparkSession,
        memory: int | str | None = None,
        *,
        work: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        if not hasattr(session, "range") or not hasattr(session, "conf"):
            raise ConfigError(f"expected a SparkSession, found {type(session).__name__}")
        self.session, self.memory, self.progress = session, parse_bytes(memory), progress
        self.work = None if work is None else os.fspath(work)
        if self.work is not None:
            refuse_secrets(self.work, None)
            # Workers run in directories of their own.
            self.work = self.work if "://" in self.work else os.path.abspath(self.work)

    def __repr__(self) -> str:
        return f"SparkEngine({type(self.session).__module__}, memory={self.memory})"

    @property
    def workers(self) -> int:
        """Python workers of one executor, by its cores."""
        return int(self._conf("spark.executor.cores") or 1)

    def memory_limit(self) -> int | None:
        return self.memory or self._limit()[1]

    def run(self, pass_: Pass[S, R], data: Dataset, *, tree: Tree[S] | None = None) -> R:
        self._admit(pass_, data)
        keep, tree = tree is not None, Tree() if tree is None else tree
        saved = None
        if self.work is not None and not isinstance(data.source, FrameSource):
            saved = Checkpoint(self.work, pass_, data, tree, form="tree" if keep or tree.nodes else "total")
        if saved is None or not saved.resume():
            self._fold(pass_, data, tree, keep=keep)
            if saved is not None:
                saved.save(whole=True)
        with one_blas_thread():
            return pass_.finalize(tree.total(pass_, keep=keep))

    def _fold(self, pass_: Pass[S, Any], data: Dataset, tree: Tree[S], *, keep: bool) -> None:
        name = type(pass_).__name__.removesuffix("Pass").lower()
        if isinstance(data.source, FrameSource):
            close_leaf(pass_, tree)
            count, n = len(data.fragments), data.n_rows
            frame = data.source.folded(pass_, data, tree.leaves, self.work, SCHEMA) if count else None
        else:
            tasks = fold_tasks(pass_, data, tree, TASKS)
            count, n = len(tasks), sum(task.rows for task in tasks)
            frame = self._map(tasks, fold) if count else None
        with self._stage(name, n):
            found: Tree[S] = Tree()
            if frame is not None:
                total = not keep and not tree.nodes
                state = pass_.sizes(0, data.n_rows)[0]
                fan, payload = FAN_IN if state * FAN_IN < AT_ONCE else 2, pack(pass_, self.work)
                while count > 1 and count * state > AT_ONCE:
                    count = -(-count // fan)
                    # The last round takes all: a DataFrame may have more partitions than when its rows were counted.
                    group = (lit(0) if count == 1 else floor(col("key") / fan)).cast("long").alias("group")
                    frame = frame.groupBy(group).applyInArrow(merger(payload, total and count == 1), SCHEMA)
                trees = (from_bytes(p, pass_) for _, p in self._collect(frame, f"{name} of {n} rows"))
                found = merge_trees(pass_, trees)
            if self.progress is not None:
                self.progress.advance(n)
        if frame is not None:
            whole = merge_trees(pass_, [Tree(tree.nodes), found])
            tree.nodes, tree.open, tree.open_rows = whole.nodes, whole.open, whole.open_rows
            tree.leaves = max(tree.leaves, whole.leaves)

    def write(self, data: Dataset, sink: Sink) -> Manifest:
        if isinstance(data.source, FrameSource):
            raise ConfigError(
                "expected Parquet files for a resumable output, found a Spark DataFrame; "
                "write with Spark: model.transform(frame).write.parquet(path)"
            )
        self._admit(None, data)
        job = sink.open(data)
        tasks = write_tasks(data, job)
        n = sum(task.rows for task in tasks)
        with self._stage("write", n):
            if tasks:
                for _ in self._collect(self._map(tasks, write), f"write of {n} rows"):
                    pass
            if self.progress is not None:
                self.progress.advance(n)
        return job.commit()

    def collect(self, data: Dataset) -> Array:
        """All rows of ``data`` as one array (n, d) in this process: for data that fits, such as reduced features."""
        if isinstance(data.source, FrameSource):
            table = self._table(data.source.applied(data, COLLECTED).select(COLLECTED), "collect")
            values = table.column(COLLECTED).combine_chunks().flatten().to_numpy(zero_copy_only=False)
            return np.asarray(values, data.dtype).reshape(-1, data.n_features)
        self._admit(None, data)
        tasks = rows_tasks(data)
        if not tasks:
            return np.empty((0, data.n_features), data.dtype)
        found = [np.frombuffer(p, data.dtype) for _, p in self._collect(self._map(tasks, rows), "collect")]
        return np.concatenate(found).reshape(-1, data.n_features)

    # Spark.

    def _map(self, tasks: Sequence[Any], work: Callable[[Any], bytes]) -> Any:
        """A frame with the result of ``work`` on every task, one Spark task each."""
        common = Common()
        shipped = [pack(task, self.work, common) for task in tasks]
        return self.session.range(0, len(shipped), 1, len(shipped)).mapInArrow(
            mapper(shipped, common.pack(), work, versions()), SCHEMA
        )

    def _collect(self, frame: Any, description: str) -> Iterator[tuple[int, bytes]]:
        """(key, payload) of a frame of results, in order; an error row is raised."""
        table = self._table(frame, description)
        wrong = [e for e in table.column("error").to_pylist() if e is not None]
        if wrong:
            raise restored(min(wrong))
        return rows_of(table)

    def _table(self, frame: Any, description: str) -> Any:
        with self._described(description):
            try:
                return frame.toArrow()
            except PySparkException as error:
                raise _explained(error) from error
            except Exception as error:
                # py4j's and gRPC's own errors, when the driver's JVM or the Connect server is gone.
                if type(error).__module__.partition(".")[0] in ("py4j", "grpc") or isinstance(error, OSError):
                    raise EngineError(f"expected a Spark cluster that answers, found {error!r}; run again") from error
                raise

    @contextlib.contextmanager
    def _described(self, description: str) -> Iterator[None]:
        """What the Spark UI shows for the jobs in this block."""
        context = getattr(self.session, "_sc", None)
        if context is None:
            self.session.addTag("eigenmill")
        else:
            context.setJobGroup("eigenmill", f"eigenmill: {description}")
        try:
            yield
        finally:
            if context is None:
                self.session.removeTag("eigenmill")
            else:
                context.setLocalProperty("spark.jobGroup.id", None)
                context.setLocalProperty("spark.job.description", None)

    def _conf(self, name: str) -> str | None:
        value: str | None = self.session.conf.get(name, None)
        return value

    def _limit(self) -> tuple[str, int | None]:
        for name in ("spark.executor.pyspark.memory", "spark.executor.memoryOverhead"):
            value = self._conf(name)
            if value:
                text = value.strip().upper().removesuffix("B").removesuffix("I")
                # Spark's units are binary, and a bare number means MiB.
                return name, parse_bytes(text + "iB" if text[-1:].isalpha() else text + "MiB")
        return "spark.executor.memoryOverhead", None

    def _admit(self, pass_: Pass[Any, Any] | None, data: Dataset) -> None:
        name, limit = self._limit()
        limit = self.memory or limit
        if limit is None:
            return
        cores = self.workers
        need = cores * estimate(pass_, data, 1, process=PROCESS).scan
        if need > limit:
            raise DoesNotFitError(
                f"expected a plan within {format_bytes(limit)} for the Python workers of an executor, found that "
                f"{cores} cores need {format_bytes(need)}; set {name}={-(-need * 102 // 100 >> 20)}m, "
                "or fewer spark.executor.cores"
            )

    @contextlib.contextmanager
    def _stage(self, name: str, rows: int) -> Iterator[None]:
        if self.progress is not None:
            self.progress.begin(name, rows, 0)
        try:
            yield
        finally:
            if self.progress is not None:
                self.progress.end()


def close_leaf(pass_: Pass[S, Any], tree: Tree[S]) -> None:
    """Make the open leaf of a tree a complete one: partitions begin leaves of their own."""
    if tree.open is not None:
        whole = merge_trees(pass_, [Tree(tree.nodes), Tree({(0, tree.leaves): tree.open}, leaves=tree.leaves + 1)])
        tree.nodes, tree.open, tree.open_rows, tree.leaves = whole.nodes, None, 0, tree.leaves + 1


def _explained(error: Exception) -> EngineError:
    text = str(error)
    if "ModuleNotFoundError" in text and ("'reduce'" in text or "No module named 'reduce" in text):
        return EngineError(
            "expected eigenmill in every Python worker, found none; install it there, or give the zip of `make dist` "
            "to spark-submit --py-files"
        )
    last = " ".join([line for line in text.splitlines() if line.strip()][-1:])
    return EngineError(f"expected the Spark job to end, found {type(error).__name__}: {last[:500]}; see its log")
