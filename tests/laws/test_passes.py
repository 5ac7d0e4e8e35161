"""Laws of every pass: how rows are cut, grouped, stored and sent changes the last digits at most."""

from __future__ import annotations

import copy
import itertools
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenmill.reduce.errors import ArtifactError
from eigenmill.reduce.passes.base import from_arrays, to_arrays
from eigenmill.reduce.passes.gram import Gram
from eigenmill.reduce.passes.moments import imputed
from eigenmill.reduce.storage.artifact import load_arrays, save_arrays
from eigenmill.reduce.storage.digest import digest_of
from tests.laws.made import KINDS, Case, assert_close, cases, folded, gamma

EACH = pytest.mark.parametrize("kind", KINDS)
FEW = settings(max_examples=30)


def total(pass_: Any, state: Any) -> Any:
    return pass_.finalize(copy.deepcopy(state))


def bytes_of(state: Any) -> str:
    return digest_of(to_arrays(state))


@EACH
@FEW
@given(case=cases(), at=st.integers(0, 60))
def test_merge_equals_whole(kind: str, case: Case, at: int) -> None:
    pass_, n = case.pass_(kind), len(case.X)
    at = min(at, n)
    left, right = folded(pass_, case.blocks(stop=at)), folded(pass_, case.blocks(start=at))
    assert_close(total(pass_, pass_.merge(left, right)), total(pass_, folded(pass_, case.blocks(()))), case.X.dtype)


@EACH
@FEW
@given(case=cases(), a=st.integers(0, 60), b=st.integers(0, 60))
def test_merge_is_associative_within_the_bound(kind: str, case: Case, a: int, b: int) -> None:
    pass_ = case.pass_(kind)
    a, b = sorted((min(a, len(case.X)), min(b, len(case.X))))

    def parts() -> list[Any]:
        return [folded(pass_, case.blocks(start=i, stop=j)) for i, j in ((0, a), (a, b), (b, len(case.X)))]

    x, y, z = parts()
    left = pass_.merge(pass_.merge(x, y), z)
    x, y, z = parts()
    assert_close(total(pass_, left), total(pass_, pass_.merge(x, pass_.merge(y, z))), case.X.dtype)


@EACH
@FEW
@given(case=cases())
def test_the_state_of_no_rows_is_neutral(kind: str, case: Case) -> None:
    pass_ = case.pass_(kind)
    whole = total(pass_, folded(pass_, case.blocks()))
    for first, second in ((pass_.start(), folded(pass_, case.blocks())), (folded(pass_, case.blocks()), pass_.start())):
        assert_close(total(pass_, pass_.merge(first, second)), whole, case.X.dtype)


@EACH
@FEW
@given(case=cases())
def test_folding_leaves_blocks_as_they_are(kind: str, case: Case) -> None:
    pass_, blocks = case.pass_(kind), case.blocks()
    before = pickle.dumps([(b.dense(np.float64).copy(), b.weights) for b in blocks])
    first = bytes_of(folded(pass_, blocks))
    assert pickle.dumps([(b.dense(np.float64).copy(), b.weights) for b in blocks]) == before
    assert bytes_of(folded(pass_, blocks)) == first


@EACH
@FEW
@given(case=cases())
def test_dirty_and_shared_buffers_do_not_show(kind: str, case: Case) -> None:
    """One workspace for all blocks, with the leftovers of another scan in it, gives the bytes of fresh ones."""
    from eigenmill.reduce.rows.blocks import Workspace

    pass_, workspace = case.pass_(kind), Workspace()
    folded(pass_, [case.block(0, len(case.X), workspace)] if len(case.X) else [])
    for buffer in workspace._buffers.values():
        buffer[:] = 0x7F
    edges = sorted({0, len(case.X), *(c for c in case.cuts if c < len(case.X))})
    shared = folded(pass_, (case.block(a, b, workspace) for a, b in itertools.pairwise(edges)))  # type: ignore[arg-type]
    assert bytes_of(shared) == bytes_of(folded(pass_, case.blocks()))


@EACH
@FEW
@given(case=cases(), at=st.integers(0, 60))
def test_states_are_arrays(kind: str, case: Case, at: int) -> None:
    """A state that went through arrays is the same, and folds, merges and ends as the original does."""
    pass_, at = case.pass_(kind), min(at, len(case.X))
    state = folded(pass_, case.blocks(stop=at))
    arrays = to_arrays(state)
    again = from_arrays(pass_.state_type(), {name: a.copy() for name, a in arrays.items()})
    assert type(again) is pass_.state_type()
    assert bytes_of(again) == bytes_of(state)
    rest = case.blocks(start=at)
    assert bytes_of(folded(pass_, rest, again)) == bytes_of(folded(pass_, rest, copy.deepcopy(state)))
    again = from_arrays(pass_.state_type(), arrays)
    merged = [pass_.merge(s, folded(pass_, rest)) for s in (again, folded(pass_, case.blocks(stop=at)))]
    assert bytes_of(merged[0]) == bytes_of(merged[1])
    assert digest_of(
        to_arrays(pass_.finalize(merged[0])) if kind != "tsqr" else pass_.finalize(merged[0])
    ) == digest_of(to_arrays(pass_.finalize(merged[1])) if kind != "tsqr" else pass_.finalize(merged[1]))


@EACH
def test_states_are_files(kind: str, tmp_path: Any) -> None:
    X = np.random.default_rng(0).normal(size=(30, 3))
    X[4, 1] = np.nan
    case = Case(X, None, "rows", (10,), "mean")
    pass_ = case.pass_(kind)
    state = folded(pass_, case.blocks())
    save_arrays(tmp_path / "s", to_arrays(state), {})
    arrays, _ = load_arrays(tmp_path / "s")
    assert bytes_of(from_arrays(pass_.state_type(), arrays)) == bytes_of(state)
    needed = next(iter(arrays))
    with pytest.raises(ArtifactError, match=needed):
        from_arrays(pass_.state_type(), {name: a for name, a in arrays.items() if name != needed})


@EACH
@FEW
@given(case=cases())
def test_passes_and_states_travel(kind: str, case: Case) -> None:
    pass_ = case.pass_(kind)
    twin = pickle.loads(pickle.dumps(pass_))
    assert digest_of(twin) == digest_of(pass_)
    state = folded(twin, case.blocks())
    assert bytes_of(pickle.loads(pickle.dumps(state))) == bytes_of(folded(pass_, case.blocks()))
    assert len(pickle.dumps(pass_)) < 4000


@EACH
@FEW
@given(case=cases())
def test_sizes_cover_the_state(kind: str, case: Case) -> None:
    pass_ = case.pass_(kind)
    state, scratch, final = pass_.sizes(max(len(case.X), 1), len(case.X))
    held = sum(a.nbytes for a in to_arrays(folded(pass_, case.blocks())).values())
    assert held <= state + 40 * len(case.X) + 400 * case.d  # the rest is O(n + d)
    assert scratch >= 0
    assert final >= 0


@pytest.mark.parametrize("missing", ["error", "mean"])
@pytest.mark.parametrize("kind", ["moments", "gram", "tsqr", "sketch"])
def test_sizes_cover_what_a_fold_takes(kind: str, missing: Any) -> None:
    X = np.random.default_rng(0).normal(size=(4000, 12))
    X[::7, 3] = np.nan if missing == "mean" else 0
    case = Case(X, None, "dense", (), missing)
    pass_ = case.pass_(kind)
    start, (state, scratch, _) = pass_.start(), pass_.sizes(len(X), len(X))
    (block,) = case.blocks()
    tracemalloc.start()
    try:
        pass_.fold(start, block)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken <= state + scratch + X.nbytes + 100_000


@pytest.mark.parametrize("kind", ["moments", "gram", "tsqr", "sketch"])
@FEW
@given(case=cases())
def test_weights_are_repeats(kind: str, case: Case) -> None:
    weights = np.ones(len(case.X)) if case.weights is None else case.weights
    repeated = Case(np.repeat(case.X, weights.astype(int), axis=0), None, case.form, case.cuts, case.missing)
    pass_ = case.pass_(kind)
    a, b = (total(pass_, folded(pass_, c.blocks())) for c in (case, repeated))
    if kind != "tsqr" and getattr(a, "moments", a) is not None:
        for one, other in ((getattr(a, "moments", a), getattr(b, "moments", b)),):
            one.rows, one.missing, one.infinite = (
                other.rows,
                other.missing,
                other.infinite,
            )  # rows are rows, not weights
    assert_close(a, b, case.X.dtype, terms=300)


@FEW
@given(case=cases(policies=("mean",)))
def test_imputing_folded_in_equals_imputing_first(case: Case) -> None:
    pass_ = case.pass_("gram")
    found: Gram = total(pass_, folded(pass_, case.blocks()))
    X = case.X.astype(np.longdouble)
    w = np.ones(len(X)) if case.weights is None else case.weights
    X, w = X[w > 0], w[w > 0]
    here = ~np.isnan(X)
    count = (w[:, None] * here).sum(axis=0)
    if not len(X) or not (count > 0).all():
        return
    mean = (w[:, None] * np.where(here, X, 0)).sum(axis=0) / count
    mean += (w[:, None] * np.where(here, X - mean, 0)).sum(axis=0) / count
    y = np.where(here, X - mean, 0)
    truth = ((y * w[:, None]).T @ y).astype(np.float64)
    room = 2 * gamma(2 * len(X) + 60, case.X.dtype) * np.sqrt(np.outer(found.gross, found.gross))
    np.testing.assert_array_less(np.tril(abs(found.cross - truth)), room + 1e-300)
    np.testing.assert_allclose(
        np.diag(found.cross) / found.n,
        imputed(found.moments, case.intake().policy)[1],
        rtol=1e-4,
        atol=1e-9 * (1 + room.max()),
    )


@FEW
@given(case=cases(policies=("zero", 2.5, "drop")))
def test_filling_and_dropping_equal_doing_so_first(case: Case) -> None:
    X, w = case.X, case.weights
    if case.missing == "drop":
        keep = ~np.isnan(X).any(axis=1)
        X, w = X[keep], None if w is None else w[keep]
    else:
        X = np.where(np.isnan(X), np.asarray(0 if case.missing == "zero" else case.missing, X.dtype), X)
    clean = Case(X, w, "rows", (), "error")
    a: Gram = total(case.pass_("gram"), folded(case.pass_("gram"), case.blocks()))
    b: Gram = total(clean.pass_("gram"), folded(clean.pass_("gram"), clean.blocks()))
    gross = np.maximum(a.gross, b.gross)
    assert a.n == b.n
    np.testing.assert_array_less(
        np.tril(abs(a.cross - b.cross)), 2 * gamma(200, X.dtype) * np.sqrt(np.outer(gross, gross)) + 1e-300
    )
    if a.n:
        mean, variance, _ = imputed(a.moments, case.intake().policy)
        np.testing.assert_allclose(mean, b.mean, rtol=1e-6, atol=1e-6 * np.sqrt(gross / a.n).max())
        np.testing.assert_allclose(variance, np.diag(b.cross) / b.n, rtol=1e-4, atol=1e-5 * gross.max() / a.n)


@given(
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([np.float32, np.float64]),
    form=st.sampled_from(["rows", "columns", "csr"]),
)
@FEW
def test_clipping_equals_clipping_first(seed: int, dtype: Any, form: str) -> None:
    from dataclasses import replace

    rng = np.random.default_rng(seed)
    X = (rng.standard_t(2, size=(50, 3)) * 3).astype(dtype)
    X[rng.random(X.shape) < 0.1] = np.inf
    X[rng.random(X.shape) < 0.1] = -np.inf
    case, clean = Case(X, None, form, (7, 20), "error"), Case(np.clip(X, -2, 5), None, "rows", (), "error")
    pass_ = case.pass_("gram")
    limits = np.full(3, -2.0), np.full(3, 5.0)
    pass_ = replace(pass_, intake=replace(pass_.intake, policy=pass_.intake.policy.with_limits(*limits)))
    a, b = (
        total(pass_, folded(pass_, case.blocks())),
        total(clean.pass_("gram"), folded(clean.pass_("gram"), clean.blocks())),
    )
    gross = np.maximum(a.gross, b.gross)
    np.testing.assert_array_less(
        np.tril(abs(a.cross - b.cross)), 2 * gamma(200, dtype) * np.sqrt(np.outer(gross, gross))
    )
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(a.moments.infinite, np.isinf(X).sum(axis=0))
    finite = np.where(np.isfinite(X), X, np.nan)
    np.testing.assert_array_equal(a.moments.high, np.nanmax(finite, axis=0))
