"""The engine on Spark: any ``SparkSession``, classic or Connect, by the DataFrame API alone.

``range`` gives one row per task, ``mapInArrow`` lets a Python worker read its Parquet files itself (rows do not go
through the JVM), and ``applyInArrow`` merges trees in groups. Errors of ours come back as rows, so that Spark does
not try bad data four times; everything else Spark retries.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.functions import col, floor, lit

from eigenmill.reduce.engines.base import ClusterEngine, Progress, Session, Tree, scan_name, told_scan
from eigenmill.reduce.engines.checkpoint import scanned
from eigenmill.reduce.engines.load import worker_memory
from eigenmill.reduce.engines.memory import Work, format_bytes, parse_bytes
from eigenmill.reduce.engines.ship import Common, pack, workplace
from eigenmill.reduce.engines.spark.frames import FrameSource
from eigenmill.reduce.engines.spark.rows import SCHEMA, fold, mapper, merger, restored, rows, rows_of, write
from eigenmill.reduce.engines.spark.watch import watched
from eigenmill.reduce.engines.tasks import fold_tasks, merge_trees, rows_tasks, take_in, write_tasks
from eigenmill.reduce.engines.wire import from_bytes
from eigenmill.reduce.errors import ConfigError, DoesNotFitError, EngineError
from eigenmill.reduce.output.sink import Manifest, Sink
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.rows.blocks import Array
from eigenmill.reduce.sources.matrix import Matrix
from eigenmill.reduce.storage.about import versions

S = TypeVar("S")
R = TypeVar("R")
COLLECTED = "eigenmill_features"


class SparkEngine(ClusterEngine):
    """Runs passes in the Python workers of a Spark cluster.

    Args:
        session: a ``pyspark.sql.SparkSession``, classic or Connect. It stays the caller's.
        memory: budget of one executor's Python workers together; by default ``spark.executor.pyspark.memory`` or
            ``spark.executor.memoryOverhead`` when they are set.
        work: directory that this process and all executors see, for arrays above 32 MiB and finished scans.
        patience: seconds for which the cluster may have no executor before a scan ends with an error.
        progress: told of scans and, at their end, rows.
    """

    kind = "spark"

    def __init__(
        self,
        session: SparkSession,
        memory: int | str | None = None,
        *,
        work: str | os.PathLike[str] | None = None,
        patience: float = 120.0,
        progress: Progress | None = None,
    ) -> None:
        if not hasattr(session, "range") or not hasattr(session, "conf"):
            raise ConfigError(f"expected a SparkSession, found {type(session).__name__}")
        super().__init__()
        self.spark, self.memory, self.progress = session, parse_bytes(memory), progress
        self.work, self.patience = workplace(work), patience

    def __repr__(self) -> str:
        return f"SparkEngine({type(self.spark).__module__}, memory={self.memory})"

    @property
    def workers(self) -> int:
        # Python workers of one executor: how many of these there are may change.
        return int(self.setting("spark.executor.cores") or 1)

    def memory_limit(self) -> int | None:
        # What Spark's own settings allow is compared before every scan, by an error that names the setting.
        return self.memory

    def session(self, reserve: int | None = None, need: int = 0) -> SparkScans:
        return SparkScans(self)

    def watched(self, group: str, call: Callable[[], S]) -> S:
        """What ``call`` returns, which asks the cluster; a cluster that is gone or says no is an error of ours."""
        self._stay()
        try:
            return watched(self.spark, group, call, self.patience)
        except PySparkException as error:
            raise _explained(error) from error
        except Exception as error:
            # py4j's and gRPC's own errors, when the driver's JVM or the Connect server is gone.
            if type(error).__module__.partition(".")[0] in ("py4j", "grpc") or isinstance(error, OSError):
                raise EngineError(f"expected a Spark cluster that answers, found {error!r}; run again") from error
            raise

    def setting(self, name: str) -> str | None:
        """One of Spark's settings."""
        value: str | None = self.watched("", lambda: self.spark.conf.get(name, None))
        return value


class SparkScans(Session):
    """Scans of a Spark session."""

    engine: SparkEngine

    def __init__(self, engine: SparkEngine) -> None:
        super().__init__(engine)
        self.spark = engine.spark

    def run(self, pass_: Pass[S, R], data: Matrix, *, tree: Tree[S] | None = None) -> R:
        self._admit(pass_, data)
        work = None if isinstance(data.source, FrameSource) else self.engine.work
        return scanned(work, pass_, data, tree, lambda tree, keep: self._fold(pass_, data, tree, keep=keep))

    def _fold(self, pass_: Pass[S, Any], data: Matrix, tree: Tree[S], *, keep: bool) -> None:
        name, n, costs = scan_name(pass_), data.n_rows, self.engine.costs
        tasks: Sequence[Any] = ()
        if isinstance(data.source, FrameSource):
            close_leaf(pass_, tree)
            many = len(data.fragments)
        else:
            tasks = fold_tasks(pass_, data, tree, costs.most_tasks(self._cores()))
            many = len(tasks)
        state = pass_.sizes(0, n)[0]
        fan, total, payload = costs.trees_of(state), not keep and not tree.nodes, pack(pass_, self.engine.work)

        def merged() -> Any:
            if isinstance(data.source, FrameSource):
                frame = data.source.folded(pass_, data, tree.leaves, self.engine.work, SCHEMA)
            else:
                frame = self._map(tasks, fold, many)
            count = many
            while costs.merges(count, state):
                count = -(-count // fan)
                # The last round takes all: a DataFrame may have more partitions than when its rows were counted.
                group = (lit(0) if count == 1 else floor(col("key") / fan)).cast("long").alias("group")
                frame = frame.groupBy(group).applyInArrow(merger(payload, total and count == 1), SCHEMA)
            return frame

        with told_scan(self.engine.progress, name, n) as advance:
            trees = self._collect(merged, f"{name} of {n} rows") if many else iter(())
            found = merge_trees(pass_, (from_bytes(p, pass_) for _, p in trees))
            advance(n)
        if many:
            take_in(pass_, tree, found)

    def write(self, data: Matrix, sink: Sink) -> Manifest:
        if isinstance(data.source, FrameSource):
            raise ConfigError(
                "expected Parquet files for a resumable output, found a Spark DataFrame; "
                "write with Spark: model.transform(frame).write.parquet(path)"
            )
        self._admit(sink.writing(data), data)
        job = sink.open(data)
        with told_scan(self.engine.progress, "write", sum(part.rows for part in job.pending)) as advance:
            # In rounds: every task is sent the descriptions of all tasks of its Spark job.
            size = self.engine.costs.round_parts or len(job.pending)
            for start in range(0, len(job.pending), size):
                pending = job.pending[start : start + size]
                tasks, n = write_tasks(data, replace(job, pending=pending)), sum(part.rows for part in pending)
                for _ in self._collect(partial(self._map, tasks, write), f"write of {n} rows"):
                    pass
                advance(n)
        return job.commit()

    def collect(self, data: Matrix) -> Array:
        if isinstance(data.source, FrameSource):
            source = data.source
            table = self._table(lambda: source.applied(data, COLLECTED).select(COLLECTED), "collect")
            values = table.column(COLLECTED).combine_chunks().flatten().to_numpy(zero_copy_only=False)
            return np.asarray(values, data.dtype).reshape(-1, data.n_features)
        self._admit(None, data)
        tasks = rows_tasks(data, self.engine.costs.tasks)
        if not tasks:
            return np.empty((0, data.n_features), data.dtype)
        found = [np.frombuffer(p, data.dtype) for _, p in self._collect(partial(self._map, tasks, rows), "collect")]
        return np.concatenate(found).reshape(-1, data.n_features)

    # Spark.

    def _map(self, tasks: Sequence[Any], work: Callable[[Any], bytes], most: int | None = None) -> Any:
        """A frame with the result of ``work`` on every task: at most ``most`` Spark tasks, each does some in a row."""
        common = Common()
        shipped = [pack(task, self.engine.work, common) for task in tasks]
        cut = min(len(shipped), most or self.engine.costs.most_tasks(self._cores()))
        run = mapper(shipped, common.pack(), work, versions())
        return self.spark.range(0, len(shipped), 1, cut).mapInArrow(run, SCHEMA)

    def _collect(self, frame: Callable[[], Any], description: str) -> Iterator[tuple[int, bytes]]:
        """(key, payload) of the frame of results that ``frame`` makes, in order; an error row is raised."""
        table = self._table(frame, description)
        wrong = [e for e in table.column("error").to_pylist() if e is not None]
        if wrong:
            raise restored(min(wrong))
        return rows_of(table)

    def _table(self, frame: Callable[[], Any], description: str) -> Any:
        group = f"eigenmill-{uuid.uuid4().hex[:8]}"

        def collect() -> Any:
            # In the thread that runs the job, for Spark keeps both per thread. The frame is made there, too, for on
            # Connect pyspark asks the server for settings when it makes a column.
            context = getattr(self.spark, "_sc", None)
            if context is None:
                self.spark.addTag("eigenmill")
                self.spark.addTag(group)
            else:
                context.setJobGroup(group, f"eigenmill: {description}")
            return frame().toArrow()

        return self.engine.watched(group, collect)

    def _cores(self) -> int | None:
        """Cores of the cluster; None when they come and go, or a Connect client cannot see them."""
        context = getattr(self.spark, "_sc", None)
        if context is None or (self.engine.setting("spark.dynamicAllocation.enabled") or "false").lower() == "true":
            return None
        return int(context.defaultParallelism)

    def _limit(self) -> tuple[str, int | None]:
        for name in ("spark.executor.pyspark.memory", "spark.executor.memoryOverhead"):
            value = self.engine.setting(name)
            if value:
                text = value.strip().upper().removesuffix("B").removesuffix("I")
                # Spark's units are binary, and a bare number means MiB.
                return name, parse_bytes(text + "iB" if text[-1:].isalpha() else text + "MiB")
        return "spark.executor.memoryOverhead", None

    def _admit(self, work: Work, data: Matrix) -> None:
        name, limit = self._limit()
        limit = self.engine.memory or limit
        if limit is None:
            return
        cores = self.engine.workers
        need = cores * worker_memory(self.engine.costs, work, data, 1)[1]
        if need > limit:
            raise DoesNotFitError(
                f"expected a plan within {format_bytes(limit)} for the Python workers of an executor, found that "
                f"{cores} cores need {format_bytes(need)}; set {name}={-(-need * 102 // 100 >> 20)}m, "
                "or fewer spark.executor.cores"
            )


def close_leaf(pass_: Pass[S, Any], tree: Tree[S]) -> None:
    """Make the open leaf of a tree a complete one: partitions begin leaves of their own."""
    if tree.open is not None:
        take_in(pass_, tree, Tree({(0, tree.leaves): tree.open}, leaves=tree.leaves + 1))


def _explained(error: Exception) -> EngineError:
    text = str(error)
    missing = re.search(r"ModuleNotFoundError: No module named '([^'.]+)", text)
    if missing and missing[1] == "eigenmill":
        return EngineError(
            "expected eigenmill in every Python worker, found none; install it there, or give the zip of `make dist` "
            "to spark-submit --py-files"
        )
    if missing:
        return EngineError(
            f"expected the dependencies of eigenmill in every Python worker, found no {missing[1]}; install it in "
            "the Python that PYSPARK_PYTHON names there"
        )
    last = " ".join([line for line in text.splitlines() if line.strip()][-1:])
    return EngineError(f"expected the Spark job to end, found {type(error).__name__}: {last[:500]}; see its log")
