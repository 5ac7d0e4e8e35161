"""The plan of a job: which solver and why, how many scans, how much memory and time. Only metadata is read.

Scans and bytes follow from the files; memory from the same model that refuses a scan
(:mod:`eigenmill.reduce.engines.memory`); time from the arithmetic of the passes, a quick measurement of this machine's
matrix product, and rates of decoding and writing that are typical of Parquet (``DECODE``, ``ENCODE``), so expect it to
be right within a factor of two: two threads of one processor are not twice as fast as one. On a cluster the links of
the workers are counted too, as 1 Gbit/s each (``Cluster.link``), and the scheduler's time for a scan and for each task
(``benchmarks/seconds.py``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.engines.base import Engine, one_blas_thread, plan_leaves
from eigenmill.reduce.engines.costs import Cluster
from eigenmill.reduce.engines.load import START, Load, fold_load, worker_memory, write_load
from eigenmill.reduce.engines.memory import Memory, estimate, format_bytes
from eigenmill.reduce.estimators import sketch
from eigenmill.reduce.estimators.base import Estimator
from eigenmill.reduce.estimators.linear import Linear
from eigenmill.reduce.estimators.solver import Shape, choose
from eigenmill.reduce.parts import Part, plan_parts
from eigenmill.reduce.passes.moments import Intake, MomentsPass
from eigenmill.reduce.passes.tsqr import TsqrPass
from eigenmill.reduce.sink import Sink

DECODE = 0.6e9
"""Decoded bytes per second and thread."""
ENCODE = 0.15e9
"""Bytes of features written per second and thread."""


@dataclass(frozen=True)
class Scan:
    """One pass over the input, or the write.

    Attributes:
        name: moments, gram, rows, tsqr or write.
        reads_bytes: encoded bytes that are read.
        seconds: estimated duration.
        memory: estimated peak, by what takes it; on a cluster, that of one worker process.
        load: what the scan asks of a cluster, if there is one.
    """

    name: str
    reads_bytes: int
    seconds: float
    memory: Memory
    load: Load | None = None

    @property
    def peak(self) -> int:
        """Bytes of the process that must have them: this one, or a worker."""
        return self.memory.peak if self.load is None else self.load.worker_bytes


@dataclass(frozen=True)
class Cache:
    """Decoded blocks that an iteration keeps between its scans, at most, in bytes: in memory, the rest on local disk.

    What neither has room for is decoded again by every scan.
    """

    memory: int
    disk: int

    def __str__(self) -> str:
        tiers = ((self.memory, "in memory"), (self.disk, "on disk"))
        return " and ".join(f"{format_bytes(size)} {where}" for size, where in tiers if size) or "none"


@dataclass(frozen=True)
class Plan:
    """What a job will do. ``str(plan)`` is a short text; :meth:`as_json` everything."""

    solver: str
    reason: str
    rows: int
    features: int
    dtype: str
    files: int
    fragments: int
    leaves: int
    encoded_bytes: int
    decoded_bytes: int
    block_height: int
    scans: tuple[Scan, ...]
    components: int | None
    output_bytes: int
    parts: int
    memory_limit: int | None
    advice: str | None
    cluster: Cluster | None = None
    cache: Cache | None = None

    @property
    def seconds(self) -> float:
        return sum(scan.seconds for scan in self.scans)

    @property
    def peak(self) -> int:
        return max((scan.peak for scan in self.scans), default=0)

    @property
    def fits(self) -> bool:
        return self.memory_limit is None or self.peak <= self.memory_limit

    def as_json(self) -> dict[str, Any]:
        plain = asdict(self)
        for scan, entry in zip(self.scans, plain["scans"], strict=True):
            entry["memory"]["peak"] = scan.peak
        return {**plain, "seconds": self.seconds, "peak": self.peak, "fits": self.fits}

    def __str__(self) -> str:
        scans = ", ".join(scan.name for scan in self.scans)
        budget = "" if self.memory_limit is None else f" of {format_bytes(self.memory_limit)}"
        return (
            f"{self.solver} ({self.reason}): {len(self.scans)} scans ({scans}) of {format_bytes(self.encoded_bytes)} "
            f"in {self.fragments} fragments, about {self.seconds:.0f} s and {format_bytes(self.peak)}{budget} of memory"
            + ("" if self.cache is None else f"; decoded blocks kept: {self.cache}")
        )


def explain(
    estimator: Estimator, data: Dataset, engine: Engine | Cluster | None = None, sink: Sink | None = None
) -> Plan:
    """The plan of fitting ``estimator`` to ``data`` and, with a ``sink``, of writing the features there.

    In the place of an engine a :class:`eigenmill.reduce.engines.load.Cluster` will do: one that is not there yet.
    """
    from eigenmill.reduce.engines import connect

    engine = engine or connect("local")
    estimator._validate()
    cluster = engine if isinstance(engine, Cluster) else engine.cluster
    limit = engine.memory if isinstance(engine, Cluster) else engine.memory_limit()
    wanted = engine.workers
    policy = data.cleaning.resolve(data.feature_names)
    if data.cleaning.clip_sd is not None:
        unlimited = np.full(data.n_features, np.inf)
        policy = policy.with_limits(-unlimited, unlimited)
    intake = Intake(data.feature_names, estimator._dtype(data), policy, data.format)
    d, n = data.n_features, data.n_rows
    shape = Shape.of(data, n)
    solver, reason = estimator._solver(shape), "one scan"
    if isinstance(estimator, Linear):
        reason = choose(estimator.solver, shape, estimator._asked())[1]
    k = _components(estimator, d, n)
    passes: list[tuple[str, Any, float]] = []
    if data.cleaning.clip_sd is not None:
        passes.append(("moments", MomentsPass(intake), 4.0 * n * d))
    if isinstance(estimator, Linear) and solver == "sketch":
        passes += _sketches(estimator, intake, shape)
    else:
        flops = {"gram": float(n) * d * d, "dual": float(n) * n * d, "moments": 4.0 * n * d}[solver]
        passes.append((solver if solver != "dual" else "rows", estimator._pass(solver, intake, shape), flops))
    if getattr(estimator, "refine", False) and solver in ("gram", "sketch"):
        wide = replace(intake, dtype=np.dtype(np.float64))
        # Zeros that are never touched take no memory.
        tsqr = TsqrPass(wide, np.zeros(d), np.zeros(d), np.zeros((d, k)))
        passes.append(("tsqr", tsqr, 2.0 * n * k * (d + k)))
    files = data.source.files
    encoded = sum(f.encoded for f in files)
    decoded = n * len(data.source.names) * data.source.dtype.itemsize
    if data.source.sparse:
        decoded = data.stored * (4 + data.source.dtype.itemsize)
    rate = _flops(intake.dtype)
    at = _Place(data, wanted, limit, cluster, encoded)
    scans = [at.scan(name, pass_, decoded / DECODE + work / rate) for name, pass_, work in passes]
    item = 8 if sink is not None and sink.dtype == "float64" else data.dtype.itemsize
    output, parts = 0, 0
    if sink is not None:
        output = n * k * item
        planned = plan_parts(data.fragments, k, item, sink.part_bytes, data.format)
        parts = len(planned)
        seconds = decoded / DECODE + 2.0 * n * d * k / rate + output / ENCODE
        scans.append(at.scan("write", None, seconds, planned))
    over = [scan for scan in scans if limit is not None and scan.peak > limit]
    advice = None
    if over:
        need = max(scan.peak for scan in over)
        who = "one worker" if cluster is None else "a worker process"
        advice = (
            f"the {over[0].name} scan needs {format_bytes(need)} with {who}; "
            f"give memory='{format_bytes(need * 1.02).replace(' ', '')}', or choose fewer columns"
        )
    return Plan(
        solver,
        reason,
        n,
        d,
        data.dtype.name,
        len(files),
        len(data.fragments),
        len(plan_leaves(data)),
        encoded,
        decoded,
        data.format.block_height(len(data.source.names)),
        tuple(scans),
        k if isinstance(estimator, Linear) else d,
        output,
        parts,
        limit,
        advice,
        cluster,
        _cache(scans, decoded, engine) if data.source.files and solver == "sketch" else None,
    )


def _cache(scans: Sequence[Scan], decoded: int, engine: Engine | Cluster) -> Cache | None:
    """What the engine keeps of ``decoded`` bytes beside its largest scan; None on clusters, or for a single scan."""
    if isinstance(engine, Cluster) or len(scans) < 2:
        return None
    room = engine.spare(max(scan.peak for scan in scans if scan.name != "write"))
    if room is None:
        return None
    memory, disk = min(room[0], decoded), room[1]
    return Cache(memory, min(disk, decoded - memory))


def _sketches(estimator: Linear, intake: Intake, shape: Shape) -> list[tuple[str, Any, float]]:
    """The scans of a Krylov space: as many as are allowed, or as it usually takes."""
    wanted = estimator._wanted(shape.features, shape.format)
    work = 4.0 * shape.stored * wanted.width * (shape.format.sparse_cost if shape.sparse else 1)
    first = estimator._moments_first(intake, shape.sparse)
    most = max(wanted.scans - first - estimator.refine, 1)
    pass_ = sketch.planned(intake, wanted, most)
    moments = [("moments", MomentsPass(intake), 4.0 * shape.stored)] if first else []
    return [*moments, *[("sketch", pass_, work)] * min(most, shape.format.usual_scans)]


def _components(estimator: Estimator, d: int, n: int) -> int:
    """The number of components, or its largest possible value."""
    k = getattr(estimator, "n_components", d)
    return int(k) if isinstance(k, int | np.integer) else max(min(d, n), 1)


@dataclass(frozen=True)
class _Place:
    """Where scans of ``data`` run: in this process with up to ``wanted`` threads, or on a cluster."""

    data: Dataset
    wanted: int
    limit: int | None
    cluster: Cluster | None
    encoded: int

    def scan(self, name: str, pass_: Any, work: float, parts: Sequence[Part] = ()) -> Scan:
        """The scan of ``work`` seconds of one thread."""
        if self.cluster is not None:
            return self._on_cluster(self.cluster, name, pass_, work, parts)
        # As many workers as the limit allows, or one when none fits.
        choices = (estimate(pass_, self.data, workers) for workers in range(self.wanted, 0, -1))
        memory = next((m for m in choices if self.limit is None or m.peak <= self.limit), None)
        memory = memory or estimate(pass_, self.data, 1)
        return Scan(name, self.encoded, work / memory.workers, memory)

    def _on_cluster(self, cluster: Cluster, name: str, pass_: Any, work: float, parts: Sequence[Part]) -> Scan:
        if pass_ is None:
            load = write_load(self.data, cluster, self.encoded, parts)
        else:
            load = fold_load(pass_, self.data, cluster, self.encoded)
        threads = max(min(cluster.workers * cluster.threads, load.tasks), 1)
        links = max(min(cluster.workers, load.tasks), 1)
        scan = max(work / threads, self.encoded / (links * cluster.link), load.scheduler_seconds)
        memory = worker_memory(cluster.kind, pass_, self.data, cluster.threads)[0]
        return Scan(name, self.encoded, START[cluster.kind] + scan + load.merge_seconds, memory, load)


def _flops(dtype: np.dtype[Any]) -> float:
    """Multiply-adds of a symmetric product per second and thread, counted as n d^2 for an n x d matrix."""
    a = np.ones((256, 2048), dtype=dtype)
    with one_blas_thread():
        a @ a.T
        best = np.inf
        for _ in range(3):
            start = time.perf_counter()
            a @ a.T
            best = min(best, time.perf_counter() - start)
    return float(256 * 256 * 2048 / best)
