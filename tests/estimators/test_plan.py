"""A fit runs its plan: what is exact in it is counted, what is bounded holds, what does not fit is not begun."""

from __future__ import annotations

import itertools
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from eigenmill.reduce import (
    PCA,
    ConfigError,
    Dataset,
    DoesNotFitError,
    Sink,
    StandardScaler,
    TruncatedSVD,
    connect,
    scan,
)
from eigenmill.reduce.engines import ledger, tasks
from eigenmill.reduce.engines.kinds import Cluster
from eigenmill.reduce.method import Bound
from eigenmill.reduce.plan import Outcome, explain
from tests.engines.counting import CountingEngine

RNG = np.random.default_rng
N, D = 6000, 30


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Rows with five strong directions, in three files of three row groups."""
    folder = tmp_path_factory.mktemp("plan")
    X = RNG(0).normal(size=(N, 5)) @ RNG(1).normal(size=(5, D)) * 5 + RNG(2).normal(size=(N, D)) + 10
    for f in range(3):
        part = X[f * N // 3 : (f + 1) * N // 3]
        table = pa.table({f"c{j}": part[:, j] for j in range(D)})
        pq.write_table(table, folder / f"{f}.parquet", row_group_size=N // 9)
    return Dataset.from_parquet(folder)


MODELS = {
    "gram": PCA(3),
    "share": PCA(0.9, scale=True),
    "rank": TruncatedSVD(None),
    "refined": PCA(3, refine=True),
    "refined share": TruncatedSVD(0.99, refine=True),
    "dual": TruncatedSVD(3, solver="dual", refine=True),
    "sketch": PCA(3, solver="sketch"),
    "narrow": PCA(7, solver="sketch", block_size=2),
    "all scans": TruncatedSVD(3, solver="sketch", tol=None, max_scans=4, refine=True, scale=True),
    "one scan": TruncatedSVD(3, solver="sketch", max_scans=1),
    "sketched share": PCA(0.9, solver="sketch", max_components=20, block_size=4),
    "scaler": StandardScaler(),
}


@pytest.mark.parametrize("clip_sd", [None, 3.0])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_fit_keeps_to_its_plan(
    model: Any, clip_sd: float | None, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves, fold = [], tasks.fold_leaf
    monkeypatch.setattr(tasks, "fold_leaf", lambda *args, **kw: (leaves.append(1), fold(*args, **kw))[1])
    model, data = clone(model), data.with_cleaning(clip_sd=clip_sd)
    engine, sink = CountingEngine(connect("local", workers=2)), Sink(tmp_path / "out", part_bytes=9000)
    plan = model.plan(data, engine=engine, sink=sink)
    assert (engine.scans, engine.rows) == ([], 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(data, engine=engine, plan=plan)
    manifest = engine.write(model.transform(data), sink)
    names = [name.removesuffix("Pass").lower() for name in engine.scans]
    k = None if isinstance(model, StandardScaler) else model.n_components_
    parts = len(manifest.parts)
    outcome = Outcome(getattr(model, "solver_", "moments"), [*names, "write"], N, k, parts)
    assert plan.misses(outcome) == []
    assert len(leaves) == plan.leaves * len(names)
    assert engine.rows == plan.rows * (len(names) + 1)
    known = plan.with_components(k or D)
    assert known.misses(outcome) == []
    assert known.output is not None
    assert (known.output.parts.least, known.output.parts.most) == (parts, parts)
    # The order is the plan's, too.
    ran = [name for name, _ in itertools.groupby([*names, "write"])]
    assert ran == [name for name, _ in itertools.groupby(each.name for each in plan.scans)]


def test_what_lies_outside_of_a_plan_is_named(data: Dataset) -> None:
    plan = PCA(3, solver="sketch", max_scans=6).plan(data, sink=Sink("none"))
    assert plan.misses(Outcome()) == []
    assert plan.misses(Outcome("gram", ["gram"] + ["sketch"] * 7, N + 1, 4, 2, plan.peak + 1)) == [
        f"expected 0 to {N:,} rows, found {N + 1:,}",
        "expected 3 components, found 4",
        "expected 1 files written, found 2",
        f"expected 0 to {plan.peak:,} bytes of memory, found {plan.peak + 1:,}",
        "expected 0 scans called gram, found 1",
        "expected 1 to 6 scans called sketch, found 7",
        "expected 1 scans called write, found 0",
        "expected the solver sketch, found gram",
    ]


@pytest.mark.parametrize(
    ("model", "scans"),
    [
        (PCA(7, solver="sketch", block_size=2), Bound(4, 16)),
        (PCA(7, solver="sketch", block_size=2, max_scans=3), Bound(3, 3)),
        (PCA(3, solver="sketch", scale=True, refine=True), Bound(1, 14)),
        (PCA(3, solver="sketch", max_scans=1), Bound(1, 1)),
        (TruncatedSVD(0.5, solver="sketch"), Bound(1, 16)),
        (PCA(3), Bound(0, 0)),
    ],
    ids=str,
)
def test_how_many_products_an_iteration_makes_is_bounded(model: Any, scans: Bound, data: Dataset) -> None:
    found = model.plan(data).times("sketch")
    assert (found.least, found.most) == (scans.least, scans.most)


def test_both_ends_of_the_bound_are_met() -> None:
    """Rows of rank 1 are known after two products; from noise all that are allowed learn nothing."""
    line = np.outer(RNG(3).normal(size=400), RNG(4).normal(size=60))
    few = TruncatedSVD(1, solver="sketch", block_size=1).fit(line)
    assert few.n_scans_ == 2
    noise = TruncatedSVD(6, solver="sketch", block_size=3, tol=1e-12, max_scans=4)
    with pytest.warns(ConvergenceWarning):
        noise.fit(RNG(5).normal(size=(400, 60)))
    assert noise.n_scans_ == noise.plan(RNG(5).normal(size=(400, 60))).times("sketch").most == 4


def test_a_warm_start_is_planned_with_the_vectors_that_it_brings(data: Dataset) -> None:
    model = PCA(6, solver="sketch", warm_start=True, block_size=4, max_scans=4, tol=None)
    cold = model.plan(data)
    model.fit(data)
    warm = model.plan(data)
    assert (cold.times("sketch").least, warm.times("sketch").least) == (2, 1)
    assert warm.scans[0].held > cold.scans[0].held


def test_planning_draws_no_random_numbers(data: Dataset) -> None:
    state, other = np.random.RandomState(3), np.random.RandomState(3)
    model, same = (PCA(3, solver="sketch", random_state=each) for each in (state, other))
    plans = [model.plan(data) for _ in range(3)]
    assert {plan.seed for plan in plans} == {np.random.RandomState(3).randint(1 << 31)}
    # Explained or not, and with a plan given or made, the fits of a sequence are the same ones.
    for _ in range(2):
        model.fit(data, plan=model.plan(data))
        same.fit(data)
        np.testing.assert_array_equal(model.components_, same.components_)
    assert state.randint(1 << 31) == other.randint(1 << 31)
    fixed = PCA(3, solver="sketch", random_state=int(plans[0].seed or 0)).fit(data)
    first = PCA(3, solver="sketch", random_state=np.random.RandomState(3)).fit(data)
    np.testing.assert_array_equal(fixed.components_, first.components_)
    assert PCA(3, solver="sketch").plan(data).seed == 0
    assert PCA(3, solver="gram", random_state=7).plan(data).seed is None


def test_a_plan_of_something_else_is_refused(data: Dataset) -> None:
    model = PCA(3)
    plan = model.plan(data)
    with pytest.raises(ConfigError, match="the plan of this estimator for this Dataset"):
        PCA(4).fit(data, plan=plan)
    with pytest.raises(ConfigError, match="the plan of this estimator for this Dataset"):
        model.fit(data.with_cleaning(missing="zero"), plan=plan)


def test_planning_leaves_the_estimator_as_it_was(data: Dataset) -> None:
    model = StandardScaler()
    before = dict(vars(model))
    model.plan(data)
    model.plan(np.ones((5, 3)))
    assert vars(model) == before


def test_seconds_are_measured_when_somebody_asks(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(scan, "products_per_second", lambda dtype: asked.append(dtype) or 1e9)
    engine = connect("local", workers=1)
    plan = explain(PCA(3), data, engine, Sink("none"))
    PCA(3).fit(data, engine=engine)
    assert asked == []
    assert plan.seconds > 0
    assert set(asked) == {"float64"}


def test_what_a_later_scan_has_no_room_for_is_refused_before_the_first(data: Dataset) -> None:
    wide = Dataset.from_numpy(RNG(0).normal(size=(900, 800)))
    model = PCA(5, solver="gram", refine=True)
    gram, tsqr = model.plan(wide, engine=connect("local", workers=1)).scans
    assert tsqr.peak > gram.peak
    limit = (gram.peak + tsqr.peak) // 2
    engine = CountingEngine(connect("local", workers=1, memory=limit))
    engine.spare = engine.engine.spare  # type: ignore[method-assign]
    with pytest.raises(DoesNotFitError, match=re.escape("the tsqr scan needs")):
        model.fit(wide, engine=engine)
    assert engine.scans == []


def test_going_on_with_a_refinement_is_refused_before_reading(data: Dataset) -> None:
    model = PCA(3, refine=True).fit(data, keep_state=True)
    engine = CountingEngine(connect("local", workers=1))
    later = replace(data, source=data.source.only([0]))
    assert later.n_rows == N // 3
    with pytest.raises(ConfigError, match="refine=False when going on"):
        PCA(3, refine=True).fit(RNG(0).normal(size=(50, 4)), keep_state=True).partial_fit(
            RNG(1).normal(size=(50, 4)), engine=engine
        )
    assert engine.scans == []
    assert model.state() is not None


def test_a_cluster_that_is_not_there_is_planned_too(data: Dataset) -> None:
    plan = explain(PCA(0.9), data, Cluster("dask", 4, 2, 4 << 30), Sink("none", part_bytes=9000))
    assert [each.load.tasks for each in plan.scans if each.load] == [plan.leaves, plan.output.parts.most]  # type: ignore[union-attr]
    assert plan.fits
    told = plan.as_json()
    assert told["components"] == {"least": 1, "most": D, "rule": plan.components.rule}
    assert told["scans"][0]["times"] == 1
    assert told["parts"] == plan.output.parts.most == 3  # type: ignore[union-attr]


def test_what_other_sessions_hold_is_not_what_the_process_holds(monkeypatch: pytest.MonkeyPatch, data: Dataset) -> None:
    """A fit beside them waits for its turn; it is not refused because they are there."""
    held = 300 << 20
    monkeypatch.setattr(ledger, "resident", lambda: held)
    model, engine = PCA(3), connect("local", workers=1, memory="1GiB")
    alone = model.plan(data, engine=engine)
    claim = ledger.LEDGER.open(1 << 30)
    try:
        claim.bytes, held = 700 << 20, 1000 << 20
        beside = model.plan(data, engine=engine)
    finally:
        ledger.LEDGER.close(claim)
    assert beside.fits
    assert (beside.place.process, beside.peak) == (alone.place.process, alone.peak)


def test_states_that_are_kept_are_counted_beside_the_result(data: Dataset) -> None:
    """They stay while a copy of them becomes the result, and while later scans run."""
    model, engine = PCA(3, refine=True), connect("local", workers=1)
    without, kept = (model.plan(data, engine=engine, keep_state=keep) for keep in (False, True))
    state = without.scans[0].task.sizes(0, N)[0]  # type: ignore[union-attr]
    nodes = without.leaves.bit_length() + 1
    assert (without.keep_state, kept.keep_state) == (False, True)
    assert kept.scans[0].memory.finalize - without.scans[0].memory.finalize == 2 * nodes * state
    assert kept.scans[1].held - without.scans[1].held == nodes * state


def test_a_plan_says_whether_the_state_is_kept(data: Dataset) -> None:
    X = RNG(0).normal(size=(50, 4))
    assert PCA(2).plan(X).keep_state
    assert not PCA(2, solver="dual").plan(X).keep_state
    assert not PCA(2).plan(data).keep_state
    model = PCA(3)
    plan = model.plan(data, keep_state=True)
    with pytest.raises(ConfigError, match="the plan of this estimator for this Dataset"):
        model.fit(data, plan=plan, keep_state=False)
    assert model.fit(data, plan=plan).state() is not None
    assert model.fit(data, plan=model.plan(data)).state() is None
