"""The merge tree: its result depends on the leaves alone, whoever computes them and in whatever order they arrive."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from eigenmill.reduce import PCA, Dataset, StandardScaler, TruncatedSVD, connect
from eigenmill.reduce.engines.base import Merger, Tree, fold_leaf, plan_leaves, restore_tree, tree_arrays
from eigenmill.reduce.passes.base import to_arrays
from eigenmill.reduce.passes.gram import Gram, GramPass
from eigenmill.reduce.passes.intake import Intake
from eigenmill.reduce.passes.moments import MomentsPass
from eigenmill.reduce.passes.rows import RowsPass
from eigenmill.reduce.passes.tsqr import TsqrPass
from eigenmill.reduce.rows.blocks import Workspace
from eigenmill.reduce.rows.cleaning import Cleaning
from eigenmill.reduce.storage.digest import digest_of
from tests.laws.made import gamma
from tests.support.formats import other

D = 3


@dataclass(frozen=True)
class Bracket:
    """A pass whose state is the expression that made it: the strictest law there is."""

    def merge(self, a: str, b: str) -> str:
        return f"({a} {b})"


TINY = other(leaf_bytes=1, max_height=4, min_height=4)
assert TINY.leaf_rows(D) == 2 * D


def passes() -> dict[str, Any]:
    names = ("a", "b", "c")
    intake = Intake(names, np.dtype(np.float64), Cleaning(missing="mean").resolve(names), TINY)
    tsqr = TsqrPass(intake, np.zeros(D), np.full(D, 0.5), np.eye(D))
    return {"moments": MomentsPass(intake), "gram": GramPass(intake), "rows": RowsPass(intake), "tsqr": tsqr}


def rows(n: int, seed: int = 0) -> Any:
    X = np.random.default_rng(seed).normal(size=(n, D)) * [1, 1e-3, 50] + [0, 1e6, 3]
    X[np.random.default_rng(seed + 1).random(X.shape) < 0.1] = np.nan
    return X


def result_digest(pass_: Any, tree: Tree[Any]) -> str:
    result = pass_.finalize(tree.total(pass_))
    return digest_of(result if isinstance(result, np.ndarray) else to_arrays(result))


def aligned_runs(leaves: int, draw: Any) -> list[tuple[int, int]]:
    """Random (level, index) that cover leaves 0 ... leaves - 1."""
    runs, at = [], 0
    while at < leaves:
        most = 0
        while at % (2 << most) == 0 and at + (2 << most) <= leaves:
            most += 1
        level = draw(st.integers(0, most))
        runs.append((level, at >> level))
        at += 1 << level
    return runs


def run_state(pass_: Any, level: int, index: int, leaf: Any) -> Any:
    own: Tree[Any] = Tree()
    merger = Merger(pass_, own)
    for i in range(index << level, (index + 1) << level):
        merger.add(i, leaf(i))
    assert list(own.nodes) == [(level, index)]
    return own.nodes[level, index]


@settings(max_examples=80)
@given(data=st.data(), leaves=st.integers(0, 70), workers=st.integers(1, 4))
def test_one_expression_for_all_orders_splits_and_threads(data: Any, leaves: int, workers: int) -> None:
    pass_: Any = Bracket()
    straight: Tree[Any] = Tree()
    merger = Merger(pass_, straight)
    for i in range(leaves):
        merger.add(i, str(i))
    expected = straight.total(pass_, keep=True) if leaves else None
    assert sorted((i + 1 << m) for m, i in straight.nodes)[-1:] == ([leaves] if leaves else [])

    shuffled: Tree[Any] = Tree()
    order = data.draw(st.permutations(range(leaves)))
    merger = Merger(pass_, shuffled)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda i: merger.add(i, str(i)), order))
    assert shuffled.nodes == straight.nodes

    sent: Tree[Any] = Tree()
    merger = Merger(pass_, sent)
    runs = aligned_runs(leaves, data.draw)
    for level, index in data.draw(st.permutations(runs)):
        merger.add(index, run_state(pass_, level, index, str), level)
    assert sent.nodes == straight.nodes
    if leaves:
        assert sent.total(pass_) == expected


@pytest.mark.parametrize("kind", list(passes()))
@settings(max_examples=8)
@given(data=st.data(), n=st.integers(0, 70 * 2 * D))
def test_one_digest(kind: str, data: Any, n: int) -> None:
    """Random leaf counts, orders, aligned splits and interruptions give the same bytes of the result."""
    pass_, dataset = passes()[kind], Dataset.from_numpy(rows(n), feature_names="abc", format=TINY)
    leaves = plan_leaves(dataset)

    def leaf(i: int) -> Any:
        return fold_leaf(pass_, dataset, leaves[i], Workspace())

    full = sum(leaf.full for leaf in leaves)
    expected = digest_of(0)
    for way in ("straight", "shuffled", "runs", "stopped"):
        tree: Tree[Any] = Tree()
        merger = Merger(pass_, tree)
        order = data.draw(st.permutations(range(full))) if way in ("shuffled", "stopped") else list(range(full))
        if way == "runs":
            for level, index in data.draw(st.permutations(aligned_runs(full, data.draw))):
                merger.add(index, run_state(pass_, level, index, leaf), level)
            order = []
        if way == "stopped":
            for i in order[: data.draw(st.integers(0, full))]:
                merger.add(i, leaf(i))
            tree = restored(pass_, tree)
            merger = Merger(pass_, tree)
        for i in order:
            if not merger.covered(i):
                merger.add(i, leaf(i))
        tree.open = leaf(full) if len(leaves) > full else None
        found = result_digest(pass_, restored(pass_, tree) if way == "runs" else tree)
        expected = found if way == "straight" else expected
        assert found == expected, way


def restored(pass_: Any, tree: Tree[Any]) -> Tree[Any]:
    arrays, meta = tree_arrays(tree)
    again: Tree[Any] = Tree()
    restore_tree({name: a.copy() for name, a in arrays.items()}, meta, pass_.state_type(), again)
    assert again.nodes.keys() == tree.nodes.keys()
    return again


@pytest.mark.parametrize("kind", list(passes()))
@pytest.mark.parametrize("n", [0, 1, 5, 6, 7, 41, 6 * 32, 400])
def test_workers_do_not_show(kind: str, n: int) -> None:
    pass_, dataset = passes()[kind], Dataset.from_numpy(rows(n), feature_names="abc", format=TINY)
    found = set()
    for workers in (1, 2, 3, 8):
        result = connect("local", workers=workers).run(pass_, dataset)
        found.add(digest_of(result if isinstance(result, np.ndarray) else to_arrays(result)))
    assert len(found) == 1


@settings(max_examples=25)
@given(data=st.data(), n=st.integers(1, 200))
def test_free_regrouping_agrees_within_the_bound(data: Any, n: int) -> None:
    pass_ = passes()["gram"]
    X = rows(n)

    def gram(cuts: list[int]) -> Gram:
        edges = [0, *sorted(c for c in cuts if 0 < c < n), n]
        states = [
            fold_leaf(pass_, part, leaf, Workspace())
            for a, b in itertools.pairwise(edges)
            for part in [Dataset.from_numpy(X[a:b], feature_names="abc", format=TINY)]
            for leaf in plan_leaves(part)
        ]
        while len(states) > 1:
            i = data.draw(st.integers(0, len(states) - 2))
            states[i : i + 2] = [pass_.merge(states[i], states[i + 1])]
        result: Gram = pass_.finalize(states[0])
        return result

    a, b = gram([]), gram(data.draw(st.lists(st.integers(0, n), max_size=5)))
    gross = np.maximum(a.gross, b.gross)
    u = gamma(a.terms, np.float64) + gamma(b.terms, np.float64)
    assert (np.tril(abs(a.cross - b.cross)) <= u * np.sqrt(np.outer(gross, gross))).all()


def test_pending_states_are_what_the_memory_model_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that lag behind keep finished neighbours waiting: their states must be in the estimate."""
    from eigenmill.reduce.engines.memory import estimate

    pass_, dataset = passes()["gram"], Dataset.from_numpy(rows(16 * 2 * D), feature_names="abc", format=TINY)
    leaves, most = plan_leaves(dataset), 0
    assert len(leaves) == 16
    # Three threads: one stays in leaf 0, one in leaf 8, the third does all others.
    merger: Merger[Any] = Merger(Bracket(), Tree())  # type: ignore[arg-type]
    for i in [1, *range(2, 8), *range(9, 16)]:
        merger.add(i, str(i))
        most = max(most, len(merger.tree.nodes))
    model = estimate(pass_, dataset, 3)
    state = pass_.sizes(4, dataset.n_rows)[0]
    assert (2 + most) * state <= model.tree + 3 * model.states  # two in flight, the others at rest


# Going on from a state


@pytest.mark.parametrize(
    "make",
    [
        lambda: PCA(2),
        lambda: TruncatedSVD(2),
        lambda: PCA(2, scale=True),
        StandardScaler,
        lambda: PCA(2, solver="dual"),
    ],
)
@settings(max_examples=8)
@given(data=st.data())
def test_array_partial_fits_agree_with_the_fit(make: Any, data: Any) -> None:
    X = np.nan_to_num(rows(data.draw(st.integers(8, 90))))
    cuts = sorted(data.draw(st.lists(st.integers(3, len(X) - 1), max_size=4, unique=True)))
    model = make()
    edges = [0, *cuts, len(X)]
    for a, b in itertools.pairwise(edges):
        if hasattr(model, "solver") and model.solver == "auto":
            model.solver = "gram"
        model.partial_fit(X[a:b])
    whole = make().fit(X)
    for name in ("mean_", "scale_", "var_", "explained_variance_"):
        value = getattr(whole, name, None)
        if value is not None:
            # Eigenvalues are known relative to the first one.
            room = 1e-13 * value.max() if name == "explained_variance_" else 0
            np.testing.assert_allclose(getattr(model, name), value, rtol=1e-12, atol=room, err_msg=name)
    if hasattr(whole, "singular_values_"):
        apart, bounds = abs(model.singular_values_ - whole.singular_values_), model.error_bounds_ + whole.error_bounds_
        assert (apart <= np.maximum(1e-12 * whole.singular_values_, bounds)).all()
    assert model.quality_.rows == whole.quality_.rows


@pytest.mark.parametrize(
    "make", [lambda: PCA(2), lambda: TruncatedSVD(2), StandardScaler, lambda: PCA(2, solver="dual")]
)
@settings(max_examples=8)
@given(data=st.data(), full=st.booleans())
def test_going_on_gives_the_bytes_of_the_fit(make: Any, data: Any, full: bool) -> None:
    """On arrays whose cut falls between fragments: the same leaves, so the same bytes, an open leaf included."""
    X = np.nan_to_num(rows(data.draw(st.integers(12, 120))))
    if hasattr(make(), "solver"):
        whole_model = make().set_params(solver=make().solver if make().solver == "dual" else "gram")
    else:
        whole_model = make()
    whole = Dataset.from_numpy(X)
    # Fragments smaller than a leaf, as row groups are.
    step = 6 if full else data.draw(st.sampled_from([2, 4, 5]))

    def dataset(a: int, b: int) -> Dataset:
        source = whole.source
        part = type(source)(X[a:b])  # type: ignore[call-arg]
        fragments = range(0, b - a, step)
        one = whole.fragments[0]
        part.fragments = tuple(  # type: ignore[misc]
            dataclasses.replace(one, index=i, start=s, stop=min(s + step, b - a), rows=min(step, b - a - s))
            for i, s in enumerate(fragments)
        )
        return Dataset(part)

    cuts = sorted({c // step * step for c in data.draw(st.lists(st.integers(step, len(X) - 1), max_size=4))} - {0})
    edges = [0, *cuts, len(X)]
    model: Any = None
    for a, b in itertools.pairwise(edges):
        if model is None:
            model = clone(whole_model).fit(dataset(a, b), keep_state=True)
        else:
            model.partial_fit(dataset(a, b))
    fit = whole_model.fit(dataset(0, len(X)))
    for name, value in vars(fit).items():
        if name.endswith("_") and isinstance(value, np.ndarray):
            assert getattr(model, name).tobytes() == value.tobytes(), name
    assert digest_of(to_arrays(model.quality_)) == digest_of(to_arrays(fit.quality_))


def test_merges_run_outside_the_lock() -> None:
    """A slow merge must not keep other threads from handing in their leaves."""
    inside, go = threading.Event(), threading.Event()

    class Slow(Bracket):
        def merge(self, a: str, b: str) -> str:
            inside.set()
            assert go.wait(300)
            return super().merge(a, b)

    merger: Merger[Any] = Merger(Slow(), Tree())  # type: ignore[arg-type]
    merger.add(0, "0")
    thread = threading.Thread(target=merger.add, args=(1, "1"))
    thread.start()
    assert inside.wait(300)
    merger.add(2, "2")
    assert merger.covered(2)
    assert not merger.covered(0)  # in flight: not at rest
    go.set()
    thread.join()
    assert merger.covered(0)
    assert merger.covered(1)
