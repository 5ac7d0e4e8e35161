"""The plan of a fit and of writing its features: one immutable object, made from metadata alone.

An estimator says how it would go about data of some shape (:class:`Method`: a solver and its stages); here scans,
tasks, memory and costs are counted for the place where it is to run. ``fit`` makes a plan and runs it;
:func:`explain` gives it to whoever asks. **Every field is exact or a** :class:`Bound`, which what happens lies within
(:meth:`Plan.misses`); memory is the worst case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from eigenmill.reduce.engines.base import Engine, Session, Tree, plan_leaves, scan_name
from eigenmill.reduce.engines.kinds import Cluster
from eigenmill.reduce.engines.memory import estimate, format_bytes
from eigenmill.reduce.errors import DoesNotFitError
from eigenmill.reduce.method import ONCE, Bound, Method
from eigenmill.reduce.output.parts import plan_parts
from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.scan import Place, Scan, Work
from eigenmill.reduce.sources.matrix import Matrix


@dataclass(frozen=True)
class Output:
    """What is written.

    Attributes:
        bytes: of the features, before they are encoded.
        parts: runs of fragments.
        files: one a part, or one for each value in it when the output is partitioned.
    """

    bytes: Bound
    parts: Bound
    files: Bound


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
class Outcome:
    """What a run that did everything itself has come to, in the terms of its plan; None where that is not known.

    Attributes:
        solver: that was used.
        scans: their names, each as often as it ran, the write included.
        rows: read. components: columns of the features.
        files: written.
        peak: bytes of memory.
    """

    solver: str | None = None
    scans: Sequence[str] | None = None
    rows: int | None = None
    components: int | None = None
    files: int | None = None
    peak: int | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """What a job will do. ``str(plan)`` is a short text; :meth:`as_json` everything.

    Attributes:
        rows: by the metadata, before filters and weights of 0: the most that a scan reads.
        features, dtype, files, fragments, leaves, block_height: of the input, as it is cut.
        encoded_bytes, decoded_bytes: of the input, for one scan.
        scans: in order, the write last.
        components: columns of the features.
        output: what is written, if anything is.
        advice: what does not fit, and what would; None for a plan that fits.
        cache: decoded blocks that are kept between scans, if any can be.
        method: of the estimator. place: where it runs.
        data, sink, parameters, keep_state: what it is the plan of.
    """

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
    components: Bound
    output: Output | None
    advice: str | None
    cache: Cache | None
    method: Method = field(repr=False)
    place: Place = field(repr=False)
    data: Matrix = field(repr=False)
    sink: Sink | None = field(repr=False)
    parameters: Mapping[str, Any] = field(repr=False)
    keep_state: bool = field(default=False, repr=False)

    @property
    def solver(self) -> str:
        return self.method.solver

    @property
    def reason(self) -> str:
        """Why this solver."""
        return self.method.reason

    @property
    def seed(self) -> int | None:
        """Of the solver's random numbers, drawn once."""
        return self.method.seed

    @property
    def memory_limit(self) -> int | None:
        """Bytes that a process may use."""
        return self.place.limit

    @property
    def cluster(self) -> Cluster | None:
        return self.place.cluster

    @property
    def seconds(self) -> float:
        """Estimate of it all, with as many scans as usual; a matrix product is measured when the first one asks."""
        return sum(scan.seconds * scan.usual for scan in self.scans)

    @property
    def peak(self) -> int:
        """Bytes of the process that needs most, this one or a worker."""
        return max((scan.peak for scan in self.scans), default=0)

    @property
    def fits(self) -> bool:
        return self.memory_limit is None or self.peak <= self.memory_limit

    @property
    def need(self) -> int:
        """Bytes that the largest scan of the fit takes with one worker, beside what is reserved to its end."""
        if self.method.reserve is None:
            return 0
        peaks = (estimate(stage.pass_, self.data, 1, process=stage.held).peak for stage in self.method.stages)
        return max(peaks) - self.method.reserve

    @property
    def n_scans(self) -> Bound:
        """Scans in all, the write included."""
        return Bound(sum(scan.times.least for scan in self.scans), sum(scan.times.most for scan in self.scans))

    def times(self, name: str) -> Bound:
        """How many scans of this name there are."""
        found = [scan.times for scan in self.scans if scan.name == name]
        return Bound(sum(times.least for times in found), sum(times.most for times in found))

    def refuse(self, budget: str) -> None:
        """Refuse a plan that does not fit within its ``budget``, which is named so.

        Raises:
            DoesNotFitError: it takes more than the limit; says what would fit.
        """
        if not self.fits:
            raise DoesNotFitError(f"expected a plan within {budget}, found that {self.advice}")

    def with_components(self, k: int) -> Plan:
        """The plan once the number of components is known, after the fit: then what is written is known as well."""
        known = replace(self.method, components=Bound.exact(k))
        fitting = tuple(scan for scan in self.scans if scan.name != "write")
        output, writing = written(known, self.data, self.place, self.sink, fitting, keep_state=self.keep_state)
        return replace(self, method=known, components=known.components, output=output, scans=(*fitting, *writing))

    def misses(self, outcome: Outcome) -> list[str]:
        """Where ``outcome`` lies outside of the plan, one sentence each; none when all is as planned."""
        told: list[tuple[str, int | None, Bound]] = [
            ("rows", outcome.rows, Bound(0, self.rows)),
            ("components", outcome.components, self.components),
            ("files written", outcome.files, Bound.exact(0) if self.output is None else self.output.files),
            ("bytes of memory", outcome.peak, Bound(0, self.peak)),
        ]
        if outcome.scans is not None:
            ran = Counter(outcome.scans)
            names = sorted({*ran, *(scan.name for scan in self.scans)})
            told += [(f"scans called {name}", ran[name], self.times(name)) for name in names]
        wrong = [f"expected {b} {what}, found {n:,}" for what, n, b in told if n is not None and n not in b]
        if outcome.solver not in (None, self.solver):
            wrong.append(f"expected the solver {self.solver}, found {outcome.solver}")
        return wrong

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; a number that is not exact is an object of ``least``, ``most`` and ``rule``."""
        names = [f.name for f in fields(self) if f.repr and f.name not in ("scans", "components", "output")]
        names += ["solver", "reason", "seed", "memory_limit", "cluster", "seconds", "peak", "fits"]
        values = {name: getattr(self, name) for name in names}
        output = self.output or Output(*[Bound.exact(0)] * 3)
        bounds = {"components": self.components, "output_bytes": output.bytes, "parts": output.parts}
        bounds |= {"output_files": output.files, "n_scans": self.n_scans}
        return {
            **{name: asdict(value) if is_dataclass(value) else value for name, value in values.items()},  # type: ignore[arg-type]
            **{name: bound.as_json() for name, bound in bounds.items()},
            "scans": [scan.as_json() for scan in self.scans],
        }

    def __str__(self) -> str:
        names = ", ".join(scan.name if scan.times == ONCE else f"{scan.times} {scan.name}" for scan in self.scans)
        budget = "" if self.memory_limit is None else f" of {format_bytes(self.memory_limit)}"
        return (
            f"{self.solver} ({self.reason}): {self.n_scans} scans ({names}) of {format_bytes(self.encoded_bytes)} "
            f"in {self.fragments} fragments, about {self.seconds:.0f} s and {format_bytes(self.peak)}{budget} of memory"
            + ("" if self.cache is None else f"; decoded blocks kept: {self.cache}")
        )


class Plannable(Protocol):
    """What can be planned: every estimator."""

    def plan(self, X: object, *, engine: Engine | Cluster | None = None, sink: Sink | None = None) -> Plan:
        """The plan of fitting to ``X`` and of writing the features to ``sink``."""


def explain(
    estimator: Plannable, data: object, engine: Engine | Cluster | None = None, sink: Sink | None = None
) -> Plan:
    """The plan of fitting ``estimator`` to ``data`` and, with a ``sink``, of writing the features there.

    In the place of an engine a :class:`eigenmill.reduce.engines.kinds.Cluster` will do: one that is not there yet.
    """
    return estimator.plan(data, engine=engine, sink=sink)


# The planner


def plan_of(
    method: Method,
    data: Matrix,
    engine: Engine | Cluster,
    sink: Sink | None = None,
    *,
    dtype: np.dtype[Any],
    parameters: Mapping[str, Any],
    keep_state: bool = False,
) -> Plan:
    """The plan of ``method`` over ``data``, and of writing the features.

    Args:
        method: what the estimator wants.
        data: what is to be read; only metadata are.
        engine: where, or a cluster that is not there yet.
        sink: of the features, if they are to be written.
        dtype: precision of the products.
        parameters: of the estimator.
        keep_state: whether the fit keeps what it goes on from.
    """
    place, source = Place.of(engine), data.source
    decoded = data.n_rows * len(source.names) * source.dtype.itemsize
    if source.sparse:
        decoded = data.stored * (4 + source.dtype.itemsize)
    encoded = sum(f.encoded for f in source.files)
    fitting = tuple(
        Scan.of(stage, data, place, Work(stage.products, decoded, dtype.name), encoded) for stage in method.stages
    )
    output, writing = written(method, data, place, sink, fitting, keep_state=keep_state)
    scans = (*fitting, *writing)
    return Plan(
        rows=data.n_rows,
        features=data.n_features,
        dtype=data.dtype.name,
        files=len(source.files),
        fragments=len(data.fragments),
        leaves=len(plan_leaves(data)),
        encoded_bytes=encoded,
        decoded_bytes=decoded,
        block_height=data.format.block_height(len(source.names)),
        scans=scans,
        components=method.components,
        output=output,
        advice=_advice(method, scans, place, data),
        cache=None if isinstance(engine, Cluster) else _cache(method, fitting, decoded, data, engine),
        method=method,
        place=place,
        data=data,
        sink=sink,
        parameters=parameters,
        keep_state=keep_state,
    )


def written(
    method: Method, data: Matrix, place: Place, sink: Sink | None, fitting: Sequence[Scan], *, keep_state: bool = False
) -> tuple[Output | None, tuple[Scan, ...]]:
    """(what is written, the scan that writes it) of the features; nothing without a ``sink``."""
    if sink is None:
        return None, ()
    k, n = method.components, data.n_rows
    model = method.outline(k.most)
    item = np.dtype(sink.dtype or model.dtype).itemsize
    few, many = (plan_parts(data.fragments, count, item, sink.part_bytes, data.format) for count in (k.least, k.most))
    parts = Bound(len(few), len(many), "as many as the components take")
    files = parts if sink.partition_by is None else Bound(0, n, "one for each value in each part")
    output = Output(Bound(n * k.least * item, n * k.most * item, parts.rule), parts, files)
    # The fitted model's own numbers, those of its transform, and these once more in the precision of the blocks.
    held = 3 * sum(value.nbytes for value in vars(model).values() if isinstance(value, np.ndarray))
    if keep_state:
        held += max(scan.memory.tree + scan.memory.states for scan in fitting)
    features = data.then(model)
    writing = sink.writing(features)
    memory, peak = place.memory(writing, features, held)
    first = fitting[0]
    work = replace(first.work, products=2.0 * n * data.n_features * k.most, written=output.bytes.most)
    why = "to multiply and to write the features"
    scan = Scan("write", why, ONCE, 1, first.reads_bytes, memory, peak, work, place, data, writing, parts=many)
    return output, (scan,)


def _advice(method: Method, scans: Sequence[Scan], place: Place, data: Matrix) -> str | None:
    """What does not fit, and what would; None when all does."""
    limit = place.limit
    over = [i for i, scan in enumerate(scans) if limit is not None and scan.peak > limit]
    if not over or limit is None:
        return None
    scan, stage = scans[over[0]], next(iter(method.stages[over[0] :]), None)
    enough = f"memory='{format_bytes(max(scan.peak for scan in scans) * 1.02).replace(' ', '')}'"
    need = f"needs {format_bytes(scan.peak)} with {'one worker' if place.cluster is None else 'a worker process'}"
    if stage is None or stage.refusal is None:
        return f"the {scan.name} scan {need}; give {enough}, or choose fewer columns"
    what, instead = stage.refusal(lambda pass_, held: place.memory(pass_, data, held)[1], limit)
    return f"{what} {need}; give {instead}or {enough}"


def _cache(method: Method, fitting: Sequence[Scan], decoded: int, data: Matrix, engine: Engine) -> Cache | None:
    """What the engine keeps of ``decoded`` bytes beside its largest scan; None where nothing is read twice."""
    room = engine.spare(max(scan.peak for scan in fitting))
    if room is None or method.reserve is None or not data.source.files:
        return None
    memory = min(room[0], decoded)
    return Cache(memory, min(room[1], decoded - memory))


# Running it


S = TypeVar("S")
R = TypeVar("R")


class Run:
    """The scans of one fit in a session of its engine: each is one that the plan has, and no more of them."""

    def __init__(self, plan: Plan, session: Session) -> None:
        self.plan, self.session, self.ran = plan, session, Counter[str]()

    @property
    def engine(self) -> Engine:
        return self.session.engine

    def scan(self, pass_: Pass[S, R], data: Matrix, *, tree: Tree[S] | None = None) -> R:
        """One scan of ``data``; see :meth:`eigenmill.reduce.engines.base.Session.run`."""
        name = scan_name(pass_)
        self.ran[name] += 1
        assert self.ran[name] <= self.plan.times(name).most, f"the plan has {self.plan.times(name)} scans called {name}"
        return self.session.run(pass_, data, tree=tree)
