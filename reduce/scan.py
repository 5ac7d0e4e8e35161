"""A scan of a plan: where it runs, what it takes, and how long about.

Memory follows from the same model that refuses a scan (:mod:`eigenmill.reduce.engines.memory`); time, which is
estimated only when somebody asks for it, from the arithmetic of the passes, a quick measurement of this machine's
matrix product, and rates of decoding and writing that are typical of Parquet (``DECODE``, ``ENCODE``), so expect it
to be right within a factor of two: two threads of one processor are not twice as fast as one. On a cluster the links
of the workers are counted too, as 1 Gbit/s each (``Cluster.link``), and the scheduler's time for a scan and for each
task (``benchmarks/seconds.py``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from eigenmill.reduce.engines.base import Engine, one_blas_thread
from eigenmill.reduce.engines.kinds import Cluster
from eigenmill.reduce.engines.ledger import LEDGER
from eigenmill.reduce.engines.load import Load, fold_load, worker_memory, write_load
from eigenmill.reduce.engines.memory import Memory, estimate
from eigenmill.reduce.engines.memory import Work as Task
from eigenmill.reduce.method import Bound, Stage
from eigenmill.reduce.output.parts import Part
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.sources.matrix import Matrix

DECODE = 0.6e9
"""Decoded bytes per second and thread."""
GROWTH = 32 << 20
"""Bytes that a process comes to hold between its plan and its last scan: modules and what the allocator keeps."""
ENCODE = 0.15e9
"""Bytes of features written per second and thread."""


@dataclass(frozen=True)
class Place:
    """Where scans run: in up to ``threads`` threads of one process, or on a cluster.

    Attributes:
        threads: of the process.
        limit: bytes that a process may use, or None.
        process: bytes that this one will hold when it reads, but for those of sessions that run.
        cluster: the cluster, or None.
        here: whether it is this process.
    """

    threads: int
    limit: int | None
    process: int
    cluster: Cluster | None
    here: bool

    @classmethod
    def of(cls, engine: Engine | Cluster) -> Place:
        if isinstance(engine, Cluster):
            return cls(engine.workers * engine.threads, engine.memory, 0, engine, here=False)
        here = engine.spare(0) is not None
        return cls(engine.workers, engine.memory_limit(), LEDGER.held() + GROWTH, engine.cluster, here)

    def memory(self, work: Task, data: Matrix, held: int = 0, kept: int = 0) -> tuple[Memory, int]:
        """(peak of a scan by what takes it, peak in bytes).

        ``held`` is what this process holds beside the scan, ``kept`` what it holds beside the result.
        """
        if self.cluster is not None:
            return worker_memory(self.cluster.costs, work, data, self.cluster.threads)
        # As many workers as the limit allows, or one when none fits.
        for workers in range(self.threads, 0, -1):
            found = estimate(work, data, workers, process=self.process + held)
            found = replace(found, finalize=found.finalize + kept)
            if self.limit is None or found.peak <= self.limit:
                break
        return found, found.peak


@dataclass(frozen=True)
class Work:
    """What one scan does: multiply-adds in ``dtype``, bytes decoded, bytes of features written."""

    products: float
    decoded: int
    dtype: str
    written: int = 0

    @property
    def seconds(self) -> float:
        """Of one thread, about; this machine's matrix product is measured when the first one asks."""
        return self.decoded / DECODE + self.products / products_per_second(self.dtype) + self.written / ENCODE


@dataclass(frozen=True, eq=False)
class Scan:
    """Passes over the input of one kind, or the write.

    Attributes:
        name: moments, gram, rows, sketch, tsqr or write.
        why: what it is for.
        times: how often; ``usual``: as a rule.
        reads_bytes: encoded bytes that one scan reads.
        memory: estimated peak, by what takes it; on a cluster, that of one worker process.
        peak: bytes of the process that must have them: this one, or a worker, where states meet too.
        work, place, data, task, parts: what it does, and where; the task is a pass, or what a write takes.
        held: bytes that the process of the fit holds besides.
    """

    name: str
    why: str
    times: Bound
    usual: int
    reads_bytes: int
    memory: Memory
    peak: int
    work: Work = field(repr=False)
    place: Place = field(repr=False)
    data: Matrix = field(repr=False)
    task: Task = field(repr=False)
    held: int = 0
    parts: Sequence[Part] = field(default=(), repr=False)

    @classmethod
    def of(cls, stage: Stage, data: Matrix, place: Place, work: Work, encoded: int) -> Scan:
        """The scan of a stage; one reads ``encoded`` bytes."""
        needed, peak = place.memory(stage.pass_, data, stage.held, stage.kept)
        told = (stage.name, stage.why, stage.times, stage.usual, encoded)
        return cls(*told, needed, peak, work, place, data, stage.pass_, stage.held + stage.kept)

    @cached_property
    def load(self) -> Load | None:
        """What one scan asks of a cluster, if there is one; descriptions of tasks are measured when the first asks."""
        cluster = self.place.cluster
        if cluster is None:
            return None
        if not isinstance(self.task, Pass):
            return write_load(self.data, cluster, self.reads_bytes, self.parts, self.task)
        found = fold_load(self.task, self.data, cluster, self.reads_bytes)
        return replace(found, driver_bytes=found.driver_bytes + self.held)

    @property
    def seconds(self) -> float:
        """Estimated duration of one scan."""
        cluster, load = self.place.cluster, self.load
        if cluster is None or load is None:
            return self.work.seconds / self.memory.workers
        threads = max(min(cluster.workers * cluster.threads, load.tasks), 1)
        links = max(min(cluster.workers, load.tasks), 1)
        scan = max(self.work.seconds / threads, self.reads_bytes / (links * cluster.link), load.scheduler_seconds)
        return cluster.costs.start + scan + load.merge_seconds

    def as_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("name", "why", "usual", "reads_bytes", "seconds")}
        memory = {**asdict(self.memory), "peak": self.peak}
        load = None if self.load is None else asdict(self.load)
        return {**plain, "times": self.times.as_json(), "memory": memory, "load": load}


@lru_cache(maxsize=4)
def products_per_second(dtype: str) -> float:
    """Multiply-adds of a symmetric product per second and thread, counted as n d^2 for an n x d matrix; measured."""
    a = np.ones((256, 2048), dtype=dtype)
    with one_blas_thread():
        a @ a.T
        best = np.inf
        for _ in range(3):
            start = time.perf_counter()
            a @ a.T
            best = min(best, time.perf_counter() - start)
    return float(256 * 256 * 2048 / best)
