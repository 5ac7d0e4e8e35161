"""Sparse rows are the dense ones: for every pass, with every cut, weight and bound, to the rounding of centred rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from eigenmill.reduce.passes.moments import MomentsPass
from eigenmill.reduce.passes.sketch import SketchPass
from eigenmill.reduce.rows.blocks import Block, Origin, Workspace
from tests.laws.made import KINDS, Case, assert_close, folded, gamma

FEW = settings(max_examples=40)
FILLS = ("one", "under half", "half", "all but one", "full")
EMPTY = 8
"""Columns without an entry beside each one that has some: no block is dense enough to be taken dense."""


@dataclass(frozen=True)
class SparseCase(Case):
    """A case whose CSR form stores, beside all values other than 0, the zeros that ``zeros`` (n, d) names."""

    zeros: Any = None

    def block(self, a: int, b: int, workspace: Workspace | None = None) -> Block:
        if self.form != "csr":
            return super().block(a, b, workspace)
        X = self.X[a:b]
        at = np.nonzero((X != 0) | self.zeros[a:b])
        weights = None if self.weights is None else self.weights[a:b].astype(np.float64)
        return Block(sparse.csr_array((X[at], at), shape=X.shape), weights, None, Origin(row=a), Workspace())


def entries(fill: str, n: int) -> int:
    """Rows of ``n`` that have an entry; half is the fewest with which a column is thick."""
    return {"one": 1, "under half": (n - 1) // 2, "half": (n + 1) // 2, "all but one": n - 1, "full": n}[fill]


@st.composite
def sparse_cases(draw: Any, *, most: int = 40) -> SparseCase:
    n = draw(st.integers(1, most))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    kinds = draw(st.lists(st.sampled_from(FILLS), min_size=1, max_size=4))
    d = len(kinds) * (1 + EMPTY)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    X, zeros = np.zeros((n, d), dtype), np.zeros((n, d), dtype=bool)
    for fill, j in zip(kinds, rng.choice(d, len(kinds), replace=False), strict=True):
        at = rng.choice(n, entries(fill, n), replace=False)
        centre, spread = draw(st.sampled_from([0.0, 1e3, -1e6, 1 / 3])), draw(st.sampled_from([0.0, 1.0, 1e-3]))
        X[at, j] = centre + spread * rng.normal(size=len(at))
        zeros[at, j] = draw(st.booleans())
        X[at[: draw(st.sampled_from([0, 0, 1]))], j] = 0
    X *= draw(st.sampled_from([1, 1, 1e25, 1e-25] if dtype is np.float32 else [1]))
    weights = rng.integers(0, 4, n).astype(float) if draw(st.booleans()) else None
    return SparseCase(X, weights, "csr", tuple(draw(st.lists(st.integers(0, most), max_size=3))), "error", zeros)


def limits(d: int, draw: Any) -> tuple[Any, Any]:
    """Bounds of the columns: none, around 0, above 0, and below 0."""
    kinds = draw(st.lists(st.sampled_from([(-np.inf, np.inf), (-2, 5), (0, 5), (0.5, 5), (-5, -0.5)]), min_size=1))
    chosen = [kinds[j % len(kinds)] for j in range(d)]
    return np.array([low for low, _ in chosen], float), np.array([high for _, high in chosen], float)


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(case=sparse_cases(), data=st.data())
def test_sparse_rows_are_the_dense_ones(kind: str, clipped: bool, case: SparseCase, data: Any) -> None:
    pass_, X = case.pass_(kind), case.X.astype(float)
    if clipped:
        low, high = limits(case.d, data.draw)
        pass_ = replace(pass_, intake=replace(pass_.intake, policy=pass_.intake.policy.with_limits(low, high)))
        X = np.clip(X, low, high)
    a, b = (pass_.finalize(folded(pass_, replace(case, form=form).blocks())) for form in ("csr", "rows"))
    if kind == "tsqr":  # its pivot is a whole number, so that thin columns have values up to 1/2
        size = np.linalg.norm(X - pass_.pivot - pass_.offset) ** 2 + X.size
        np.testing.assert_allclose(a.T @ a, b.T @ b, rtol=0, atol=1e-13 * size)
    else:
        assert_close(a, b, case.X.dtype)


@FEW
@given(case=sparse_cases())
def test_a_mean_far_from_zero_costs_two_bits_at_most(case: SparseCase) -> None:
    """Products, means and variances against long double, by bounds that know the centred rows alone.

    A column with entries in a share q of the rows has ``mean^2 <= q / (1 - q) variance``: about 0 for q < 1/2, and
    about the mean of its entries for the others, the squares are at most twice those about the mean.
    """
    case = replace(case, weights=None, cuts=())
    X, n = case.X.astype(np.longdouble), len(case.X)
    Y = X - X.mean(axis=0)
    P = np.random.default_rng(n).normal(size=(case.d, 3))
    u, size = 2 * gamma(24, case.X.dtype), np.linalg.norm(Y.astype(float), axis=0)
    found = folded(pass_ := SketchPass(case.intake(), P), case.blocks())
    result = pass_.finalize(found)
    room = 2 * u * np.outer(size * np.linalg.norm(size), np.linalg.norm(P, axis=0))
    assert (abs(result.products - Y.T @ (Y @ P)) <= room).all()
    for moments in (
        result.moments,
        MomentsPass(case.intake()).finalize(folded(MomentsPass(case.intake()), case.blocks())),
    ):
        assert moments is not None
        assert (abs(moments.m2 - (Y**2).sum(axis=0)) <= 2 * u * size**2).all()
        assert (abs(moments.mean - X.mean(axis=0)) <= u * size / np.sqrt(n) + 2.0**-52 * abs(X.mean(axis=0))).all()


@pytest.mark.parametrize("n", [1, 7, 10, 4096])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.1, 1e6 / 3])
def test_a_constant_column_has_no_variance_and_one_row_less_costs_no_digits(n: int, dtype: Any, value: float) -> None:
    X = np.zeros((n, 16), dtype)
    X[:, 3], X[1:, 9] = value, value
    case = SparseCase(X, None, "csr", (), "error", np.zeros_like(X, bool))
    pass_ = SketchPass(case.intake(), np.full((16, 1), 0.1))
    found = pass_.finalize(folded(pass_, case.blocks()))
    assert found.moments is not None
    assert found.moments.m2[3] == 0
    square = (n - 1) / n * float(X[0, 3]) ** 2
    np.testing.assert_allclose(found.moments.m2[9], square, rtol=1e-14)
    assert found.products[3, 0] == 0
    np.testing.assert_allclose(found.products[9, 0], 0.1 * square, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize(("first", "second"), [(-5e24, 0.0), (1e-16, 1e-16 + 1e-23)])
def test_deviations_beyond_the_precision_are_multiplied_in_double(first: float, second: float) -> None:
    """Values that float32 can square, of which the second block's deviate from the first one's by what it cannot."""
    X = np.zeros((2, 16), np.float32)
    X[0, 7], X[1, 7] = first, second
    case = SparseCase(X, None, "csr", (1,), "error", np.zeros_like(X, bool))
    pass_ = SketchPass(case.intake(), np.ones((16, 1)))
    found = pass_.finalize(folded(pass_, case.blocks()))
    right = (float(X[0, 7]) - float(X[1, 7])) ** 2 / 2
    np.testing.assert_allclose(found.products[7, 0], right, rtol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 100])
def test_a_column_is_thick_from_half_of_the_rows_on(n: int) -> None:
    """Pivots are part of every result: the mean of the entries of a thick column, 0 of a thin one."""
    counts = [0, (n - 1) // 2, (n + 1) // 2, n]
    X = np.zeros((n, 40))
    for j, count in enumerate(counts):
        X[n - count :, j] = np.arange(1, count + 1)
    case = SparseCase(X, None, "csr", (), "error", np.zeros_like(X, bool))
    state = folded(MomentsPass(case.intake()), case.blocks())
    right = [(count + 1) / 2 if 2 * count >= n else 0 for count in counts]
    np.testing.assert_array_equal(state.pivot[:4], right)
    np.testing.assert_array_equal(state.pivot[4:], 0)


def test_rows_of_no_weight_choose_no_pivot() -> None:
    X = np.zeros((6, 16))
    X[:, 3] = 1e6 + np.arange(6)
    case = SparseCase(X, np.array([0, 0, 1, 1, 2, 0]), "csr", (2,), "error", np.zeros_like(X, bool))
    state = folded(MomentsPass(case.intake()), case.blocks())
    assert state.pivot[3] == 1e6 + 3
    assert MomentsPass(case.intake()).finalize(state).m2[3] == 0 + 1 + 2 * 4 - 4 * 1.25**2


def test_extrema_are_those_of_all_rows() -> None:
    """A zero that is not stored is a value, and there is none in a column that is stored whole."""
    X = np.zeros((4, 32))
    X[:, 0], X[:, 1] = [5, 3, 4, 9], [-5, -3, -4, -9]
    X[1:, 2], X[1:, 3], X[0, 4] = 7, -7, -2
    zeros = np.zeros_like(X, bool)
    zeros[:, 5] = True
    case = SparseCase(X, None, "csr", (2,), "error", zeros)
    found = MomentsPass(case.intake()).finalize(folded(MomentsPass(case.intake()), case.blocks()))
    np.testing.assert_array_equal(found.low[:7], [3, -9, 0, -7, -2, 0, 0])
    np.testing.assert_array_equal(found.high[:7], [9, -3, 7, 0, 0, 0, 0])
