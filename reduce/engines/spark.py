"""The engine on Spark: any ``SparkSession``, classic or Connect, by the DataFrame API alone.

``range`` gives one row per task, ``mapInArrow`` lets a Python worker read its Parquet files itself (rows do not go
through the JVM), and ``applyInArrow`` merges trees in groups. Errors of ours come back as rows, so that Spark does
not try bad data four times; everything else Spark retries.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.functions import col, floor

from reduce import errors
from reduce.about import versions
from reduce.blocks import Array, Workspace
from reduce.dataset import Dataset
from reduce.engines.base import Progress, Tree, one_blas_thread
from reduce.engines.checkpoint import Checkpoint
from reduce.engines.memory import estimate, format_bytes, parse_bytes
from reduce.engines.ship import pack, unpack
from reduce.engines.tasks import attempt, compare_versions, fold_tasks, merge_trees, total_of, write_tasks
from reduce.engines.wire import from_bytes, joined, pieces, to_bytes
from reduce.errors import ConfigError, DoesNotFitError, EngineError
from reduce.passes.base import Pass
from reduce.sink import Manifest, PartRecord, Sink

S = TypeVar("S")
R = TypeVar("R")
TASKS = 1024
"""Most tasks of one scan."""
FAN_IN = 8
"""Trees that meet in one group: a power of two, so that the runs stay aligned. Two, when states are large."""
AT_ONCE = 64 << 20
"""Bytes of states up to which the driver takes all trees without a round of merging."""
RETRIES = 3
"""How often a task is tried again after an error of the file system that may pass."""
PROCESS = 300 << 20
"""Bytes that a Python worker holds before it reads."""
SCHEMA = "key long, piece int, payload binary, error string"


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
        self.work = None if work is None else str(work)

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
        rows = sum(task.rows for task in tasks)
        with self._stage(name, rows):
            found: Tree[S] = Tree()
            if tasks:
                shipped, payload = [pack(task, self.work) for task in tasks], pack(pass_, self.work)
                frame = self._map(shipped, _fold)
                total = not keep and not tree.nodes
                state = pass_.sizes(0, data.n_rows)[0]
                count, fan = len(tasks), FAN_IN if state * FAN_IN < AT_ONCE else 2
                while count > 1 and count * state > AT_ONCE:
                    count = -(-count // fan)
                    merge = _merger(payload, total and count == 1)
                    group = floor(col("key") / fan).cast("long").alias("group")
                    frame = frame.groupBy(group).applyInArrow(merge, SCHEMA)
                trees = (from_bytes(p, pass_) for _, p in self._collect(frame, f"{name} of {rows} rows"))
                found = merge_trees(pass_, trees)
            if self.progress is not None:
                self.progress.advance(rows)
        if tasks:
            whole = merge_trees(pass_, [Tree(tree.nodes), found])
            tree.nodes, tree.open, tree.open_rows = whole.nodes, whole.open, whole.open_rows
            tree.leaves = max(tree.leaves, whole.leaves)

    def write(self, data: Dataset, sink: Sink) -> Manifest:
        self._admit(None, data)
        job = sink.open(data)
        tasks = write_tasks(data, job)
        rows = sum(task.rows for task in tasks)
        with self._stage("write", rows):
            if tasks:
                frame = self._map([pack(task, self.work) for task in tasks], _write)
                for _, payload in self._collect(frame, f"write of {rows} rows"):
                    json.loads(payload)
            if self.progress is not None:
                self.progress.advance(rows)
        return job.commit()

    def collect(self, data: Dataset) -> Array:
        """All rows of ``data`` as one array (n, d) in this process: for data that fits, such as reduced features."""
        self._admit(None, data)
        count = len(data.fragments)
        if not count:
            return np.empty((0, data.n_features), data.dtype)
        frame = self._map([pack((data, i), self.work) for i in range(count)], _rows)
        found = [np.frombuffer(p, data.dtype) for _, p in self._collect(frame, "collect")]
        return np.concatenate(found).reshape(-1, data.n_features)

    # Spark.

    def _map(self, shipped: Sequence[bytes], work: Callable[[bytes], bytes]) -> Any:
        """A frame with the result of ``work`` on every shipped task, one Spark task each."""
        return self.session.range(0, len(shipped), 1, len(shipped)).mapInArrow(
            _mapper(list(shipped), work, versions()), SCHEMA
        )

    def _collect(self, frame: Any, description: str) -> Iterator[tuple[int, bytes]]:
        """(key, payload) of a frame of results, in order; an error row is raised."""
        with self._described(description):
            try:
                table = frame.toArrow()
            except PySparkException as error:
                raise _explained(error) from error
            except Exception as error:
                # py4j's and gRPC's own errors, when the driver's JVM or the Connect server is gone.
                if type(error).__module__.partition(".")[0] in ("py4j", "grpc") or isinstance(error, OSError):
                    raise EngineError(f"expected a Spark cluster that answers, found {error!r}; run again") from error
                raise
        wrong = [e for e in table.column("error").to_pylist() if e is not None]
        if wrong:
            raise _restored(min(wrong))
        columns = (table.column(c).to_pylist() for c in ("key", "piece", "payload"))
        return joined(zip(*columns, strict=True))

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


# In the Python workers.


def _mapper(
    shipped: list[bytes], work: Callable[[bytes], bytes], expected: dict[str, str]
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def task(key: int) -> bytes:
        compare_versions(expected, versions(), "a Python worker")
        return attempt(lambda: work(shipped[key]), RETRIES)

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for key in batch.column(0).to_pylist():
                yield from _answer(key, partial(task, key))

    return run


def _merger(payload: bytes, total: bool) -> Callable[[Any, pa.Table], pa.Table]:
    def merge(key: Any, table: pa.Table) -> pa.Table:
        wrong = [e for e in table.column("error").to_pylist() if e is not None]
        group = key[0].as_py()
        if wrong:
            return pa.Table.from_batches([_batch(group, 0, None, min(wrong))])

        def work() -> bytes:
            pass_ = unpack(payload)
            columns = (table.column(c).to_pylist() for c in ("key", "piece", "payload"))
            trees = (from_bytes(p, pass_) for _, p in joined(zip(*columns, strict=True)))
            tree = merge_trees(pass_, trees)
            return to_bytes(total_of(pass_, tree) if total else tree)

        return pa.Table.from_batches(list(_answer(group, work)))

    return merge


def _answer(key: int, work: Callable[[], bytes]) -> Iterator[pa.RecordBatch]:
    try:
        result = work()
    except errors.EigenmillError as error:
        yield _batch(key, 0, None, json.dumps([f"{key:012d}", type(error).__name__, str(error)]))
        return
    for number, piece in enumerate(pieces(result)):
        yield _batch(key, number, piece, None)


def _batch(key: int, number: int, piece: bytes | None, error: str | None) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "key": pa.array([key], pa.int64()),
            "piece": pa.array([number], pa.int32()),
            "payload": pa.array([piece], pa.binary()),
            "error": pa.array([error], pa.string()),
        }
    )


def _fold(payload: bytes) -> bytes:
    return to_bytes(unpack(payload)())


def _write(payload: bytes) -> bytes:
    record: PartRecord = unpack(payload)()
    return json.dumps([record.index, record.rows]).encode()


def _rows(payload: bytes) -> bytes:
    data, i = unpack(payload)
    workspace = Workspace()
    with one_blas_thread():
        return b"".join(b.dense(data.dtype).tobytes() for b in data.blocks(data.fragments[i], workspace))


def _restored(error: str) -> errors.EigenmillError:
    _, kind, message = json.loads(error)
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, errors.EigenmillError):
        return found(message)
    return EngineError(message)


def _explained(error: Exception) -> EngineError:
    text = str(error)
    if "ModuleNotFoundError" in text and ("'reduce'" in text or "No module named 'reduce" in text):
        return EngineError(
            "expected eigenmill in every Python worker, found none; install it there, or give the zip of `make dist` "
            "to spark-submit --py-files"
        )
    last = " ".join([line for line in text.splitlines() if line.strip()][-1:])
    return EngineError(f"expected the Spark job to end, found {type(error).__name__}: {last[:500]}; see its log")
