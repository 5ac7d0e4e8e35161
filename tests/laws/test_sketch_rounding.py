"""What the iterative solver adds to its bounds for rounding, in exact arithmetic."""

from __future__ import annotations

import functools
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning

from eigenmill.reduce import PCA, TruncatedSVD
from eigenmill.reduce.engines.base import one_blas_thread
from eigenmill.reduce.estimators.sketch import Setting, Wanted, setting_of, start
from eigenmill.reduce.format import FORMAT_1
from eigenmill.reduce.passes.intake import Intake, Moments
from eigenmill.reduce.passes.moments import MomentsPass, imputed
from eigenmill.reduce.passes.sketch import SketchPass
from eigenmill.reduce.rows.blocks import Block
from eigenmill.reduce.rows.cleaning import Cleaning
from tests.laws import exact
from tests.laws.test_gram_rounding import CASES, Case

RNG = np.random.default_rng


# What is multiplied


def setting(X: Any, scale: Any, *, centred: bool, sparse: bool) -> Setting:
    names = tuple(f"x{j}" for j in range(X.shape[1]))
    intake = Intake(names, X.dtype, Cleaning().resolve(names))
    pass_ = MomentsPass(intake)
    moments: Moments = pass_.finalize(pass_.fold(pass_.start(), Block(sp.csr_array(X) if sparse else X)))
    mean, variance, _ = imputed(moments, intake.policy)
    return setting_of(moments, mean, variance, scale, intake, centred=centred, sparse=sparse)


def columns() -> Any:
    """Means that float32 holds and others; columns of mostly zeros, of few, and of none."""
    ulp = np.float32(2.0**-22)
    X = RNG(0).normal(size=(64, 6)).astype(np.float32)
    X[:, 0] = 2 + ulp * (np.arange(64) % 2)  # a mean between two neighbours: half of what is multiplied
    X[:, 1] = 3e6 + ulp * 2**21 * (np.arange(64) % 2)
    X[:, 2] *= np.arange(64) % 8 == 0
    X[:, 3] = 1 + 0.1 * X[:, 3] * (np.arange(64) % 5 != 0)
    X[:, 4] = 7.5
    return X


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("scale", [None, [2.0**-24, 4.0, 1.0, 0.5, 3.0, 1.0]])
@pytest.mark.parametrize("centred", [True, False])
def test_gross_is_the_size_of_what_is_multiplied(centred: bool, scale: Any, sparse: bool, dtype: Any) -> None:
    X = columns().astype(dtype)
    found = setting(X, None if scale is None else np.array(scale), centred=centred, sparse=sparse)
    rows, factors = exact.rationals(X), scale or [1.0] * 6

    def squares(centre: Any) -> float:
        cross = exact.cross(rows, centre)
        return float(sum((cross[j][j] / Fraction(f) ** 2 for j, f in enumerate(factors)), Fraction(0)))

    spread = squares([Fraction(float(p)) for p in found.pivot])
    trace = squares(None if centred else [Fraction(0)] * 6)
    near = 1e-6 if dtype is np.float32 else 1e-12
    assert found.spread == pytest.approx(spread, rel=near)
    assert found.trace == pytest.approx(trace, rel=near)
    assert found.gross == pytest.approx(spread + (0.0 if centred else trace), rel=near)
    if dtype is np.float32 and scale is not None:
        assert spread > 1.3 * squares(None), "a pivot that is not the mean"


def product(case: Case) -> Any:
    """(d, d) the centred cross product as the iteration has it, and its terms."""
    d = len(case.rows[0])
    names = tuple(f"x{j}" for j in range(d))
    intake = Intake(names, np.dtype(case.dtype), Cleaning(missing=case.missing).resolve(names))
    pass_ = SketchPass(intake, np.eye(d))
    with one_blas_thread():
        blocks = [[Block(np.array(rows, dtype=case.dtype)) for rows in leaf] for leaf in case.leaves]
        states = [functools.reduce(pass_.fold, leaf, pass_.start()) for leaf in blocks]
        return pass_.finalize(functools.reduce(pass_.merge, states))


@pytest.mark.parametrize("name", CASES)
def test_no_product_errs_by_more_than_its_terms(name: str) -> None:
    """The rows of :mod:`tests.laws.test_gram_rounding`, which see to it that every addition loses."""
    case = CASES[name]()
    found, truth, gross = product(case), exact.cross(case.rows), case.gram().gross
    for j, row in enumerate(truth):
        for k, right in enumerate(row):
            error = abs(Fraction(float(found.products[j, k])) - right)
            size = Fraction(float(gross[j])) * Fraction(float(gross[k]))
            assert error**2 <= exact.gamma(found.terms, case.dtype) ** 2 * size, (j, k)


@pytest.mark.parametrize(("size", "near", "rounds"), [(1.0, 1e-6, True), (2.0**70, 1e-14, False)])
def test_a_start_is_rounded_for_rows_of_float32_unless_their_squares_leave_its_range(
    size: float, near: float, rounds: bool
) -> None:
    half = RNG(3).integers(-9, 9, size=(40, 6))
    X = (size * np.concatenate([half, -half])).astype(np.float32)  # a mean of 0, with no rounding
    names = tuple(f"x{j}" for j in range(6))
    intake = Intake(names, X.dtype, Cleaning().resolve(names))

    def found(weights: Any) -> Any:
        pass_ = SketchPass(intake, weights)
        return pass_.finalize(pass_.fold(pass_.start(), Block(X.copy()))).products / size**2

    weights = RNG(4).normal(size=(6, 3))
    truth = 2 * half.T @ half @ weights
    np.testing.assert_allclose(found(weights), truth, rtol=0, atol=near * np.abs(truth).max())
    assert np.array_equal(found(weights), found(weights.astype(np.float32).astype(np.float64))) == rounds


# Whole fits


def fitted(model: Any, X: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scans", [1, 3])
def test_a_basis_that_leaves_nothing_out_still_errs_by_rounding(scans: int, dtype: Any, seed: int) -> None:
    """Residuals and the rest of the trace vanish: all that is left of the bounds is what products round."""
    rng, d = RNG(seed), 5
    U, V = (np.linalg.qr(rng.normal(size=(rows, d)))[0] for rows in (12, d))
    X = ((U * np.logspace(0, -6 if dtype is np.float64 else -2, d)) @ V.T).astype(dtype)
    model = fitted(TruncatedSVD(d, solver="sketch", tol=None, max_scans=scans, random_state=seed), X)
    with exact.digits():
        truth = exact.singular_values(exact.rationals(X), [Fraction(0)] * d)
        off = [abs(exact.real(s) - right) for s, right in zip(model.singular_values_, truth, strict=True)]
        for error, s, bound, near in zip(
            off, model.singular_values_, model.error_bounds_, model.residual_bounds_, strict=True
        ):
            assert error <= exact.real(bound)
            assert min(abs(exact.real(s) - right) for right in truth) <= exact.real(near)
    assert max(off) > 1e-13 * float(np.linalg.norm(X)), "there is an error to be bounded"


@pytest.mark.parametrize("seed", range(6))
def test_the_error_of_a_product_is_counted_as_often_as_a_leaning_start_swells_it(seed: int) -> None:
    """One scan from one vector that meets the rows at a thousandth: the value errs by a thousand roundings."""
    q = start(Wanted(1, 1.0, 3, None, 1, 1, 1, seed, FORMAT_1), 3, None)[:, 0]
    rng = RNG(seed)
    side = np.cross(q, rng.normal(size=3))
    X = rng.normal(size=(6, 1)) * (side / np.linalg.norm(side) + 1e-3 * q)
    model = fitted(TruncatedSVD(1, solver="sketch", tol=None, max_scans=1, block_size=1, random_state=seed), X)
    with exact.digits():
        right = exact.singular_values(exact.rationals(X), [Fraction(0)] * 3)[0]
        assert abs(exact.real(model.singular_values_[0]) - right) <= exact.real(model.error_bounds_[0])


def test_a_mean_costs_float32_no_digits_of_what_lies_beside_it() -> None:
    """It is not multiplied: the resolution of products is that of the deviations."""
    X = (1e4 + RNG(0).normal(size=(500, 6)) * [9, 8, 7, 6, 5, 4]).astype(np.float32)
    model = fitted(TruncatedSVD(3, solver="sketch", tol=None, max_scans=4), X)
    assert model.singular_values_[0] > 1e3 * model.singular_values_[1]
    assert (model.residual_bounds_[1:] < 1e-3).all()


@pytest.mark.parametrize("kind", [PCA, TruncatedSVD])
@pytest.mark.parametrize("rank", [3, 20])
@pytest.mark.parametrize("options", [{}, {"refine": True}, {"max_scans": 1}, {"tol": 1e-3}], ids=str)
def test_a_unit_changes_nothing_but_itself(options: Any, rank: int, kind: Any) -> None:
    """Every number is exact under powers of two: whatever is compared with an absolute size would show."""
    X = RNG(1).normal(size=(60, rank)) @ RNG(2).normal(size=(rank, 30))
    found = [
        fitted(kind(3, solver="sketch", **{"tol": None, "max_scans": 6, **options}), X * 2.0**power)
        for power in (0, -100, 100)
    ]
    for model, power in zip(found, (0, -100, 100), strict=True):
        assert model.n_scans_ == found[0].n_scans_
        for name in ("singular_values_", "error_bounds_", "residual_bounds_"):
            np.testing.assert_array_equal(getattr(model, name) * 2.0**-power, getattr(found[0], name), err_msg=name)
        np.testing.assert_array_equal(model.components_, found[0].components_)


def test_an_iteration_ends_with_the_rank_of_the_rows() -> None:
    X = RNG(1).normal(size=(60, 3)) @ RNG(2).normal(size=(3, 30))
    assert fitted(TruncatedSVD(3, solver="sketch", tol=None, max_scans=20), X).n_scans_ == 2
