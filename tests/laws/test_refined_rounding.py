"""Refined singular values err by no more than they say, in exact arithmetic; vectors are orthonormal and oriented."""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.linalg

from eigenmill.reduce.engines.base import one_blas_thread
from eigenmill.reduce.estimators.sketch import KrylovFit, with_refined
from eigenmill.reduce.estimators.spectrum import Spectrum, of_gram, orient, refined
from eigenmill.reduce.format import FORMAT_1
from eigenmill.reduce.passes.gram import Gram
from eigenmill.reduce.passes.intake import Intake, Moments
from eigenmill.reduce.passes.tsqr import TsqrPass
from eigenmill.reduce.rows.blocks import Block
from eigenmill.reduce.rows.cleaning import Cleaning
from tests.laws import exact

U = 2.0**-53


def from_blocks(blocks: list[Any], Q: Any) -> Spectrum:
    """The refined spectrum of the rows of all blocks, one leaf, on the columns of Q."""
    d = len(Q)
    names = tuple(f"x{j}" for j in range(d))
    intake = Intake(names, np.dtype(np.float64), Cleaning().resolve(names))
    pass_ = TsqrPass(intake, np.zeros(d), np.zeros(d), Q)
    with one_blas_thread():
        r = pass_.finalize(functools.reduce(pass_.fold, map(Block, blocks), pass_.start()))
    total = float(sum(np.linalg.norm(block) ** 2 for block in blocks))
    return refined(
        Spectrum(np.zeros(Q.shape[1]), Q, total, d, np.inf, 0.0), r, len(blocks), max(map(len, blocks)), FORMAT_1
    )


def hold(spectrum: Spectrum, truth: list[Any]) -> None:
    """``truth`` are singular values, within digits."""
    for s, right in zip(spectrum.singular_values, truth, strict=True):
        assert abs(exact.real(s) - right) <= exact.real(spectrum.absolute)


def test_the_product_of_long_rows() -> None:
    """2,048 terms, of which the first one is 1 and each other one just too small to change the sum."""
    d, rows = 2048, 4
    q = np.full(d, np.sqrt(U) * (1 - 2e-3))
    q[0] = np.sqrt(1 - (d - 1) * q[1] ** 2)
    block = np.repeat((1 + 2.0**-10) * q[None], rows, axis=0)
    found = from_blocks([block], q[:, None])
    with exact.digits():
        squares = sum((x * x for x in exact.rationals(block[0])[0]), Fraction(0))
        hold(found, [mpmath.sqrt(rows * exact.real(squares))])


@pytest.mark.parametrize("width", [1, 2])
def test_many_stages(width: int) -> None:
    """Rows that come one by one, each of them just too small to change the norm of those before."""
    stages, small = 1000, np.sqrt(2 * U) * (1 - 1e-7)
    rows = np.zeros((stages, width))
    rows[0, 0], rows[1:, 0] = 1.0, small
    found = from_blocks(list(rows[:, None, :]), np.eye(width))
    with exact.digits():
        square = sum((x[0] * x[0] for x in exact.rationals(rows)), Fraction(0))
        hold(found, [mpmath.sqrt(exact.real(square)), *[mpmath.mpf(0)] * (width - 1)])


def test_a_high_block() -> None:
    """Two equal columns: what the reflection takes of the second is a sum down the block."""
    column = np.full(4096, np.sqrt(U) * (1 - 1e-7))
    column[0] = 1.0
    found = from_blocks([np.stack([column, column], axis=1)], np.eye(2))
    with exact.digits():
        square = sum((x * x for x in exact.rationals(column)[0]), Fraction(0))
        hold(found, [mpmath.sqrt(2 * exact.real(square)), mpmath.mpf(0)])


@pytest.mark.parametrize(("width", "d", "stages", "height"), [(1, 3, 1, 1), (3, 7, 5, 64), (2, 100, 1000, 8192)])
def test_the_bound_is_the_formula_of_the_page(width: int, d: int, stages: int, height: int) -> None:
    """docs/numbers.md: ``(sqrt(l) gamma_d + stages l gamma_m) ||A||_F``, m the height and l, and 4 for norms."""
    before = Spectrum(np.zeros(width), np.eye(d)[:, :width], 49.0, d, np.inf, 0.0)
    found = refined(before, np.diag(np.arange(width, 0, -1.0)), stages, height, FORMAT_1)
    with exact.digits():
        product = mpmath.sqrt(width) * exact.real(exact.gamma(d + 4))
        wanted = 7 * (product + stages * width * exact.real(exact.gamma(height + width)))
        assert found.absolute == pytest.approx(float(wanted), rel=1e-13, abs=0)
    np.testing.assert_array_equal(found.singular_values, np.arange(width, 0, -1.0))
    np.testing.assert_array_equal(found.error_bounds, np.full(width, found.absolute))


def test_what_refining_leaves_of_earlier_bounds() -> None:
    """A refined value is a lower bound but for its own rounding, 1/8 here; the upper bounds from before stay.

    What some singular value was near to before may lie on the other side of the refined one.
    """
    before, refined_to, bounds, near = [4.0, 3.0, 2.0], [4.25, 3.5, 1.9375], [0.5, 0.25, 0.0], [0.125, 0.0, 0.5]
    absolute = 0.125
    old = Spectrum(np.array(before) ** 2, np.eye(3), 29.0, 3, 0.0, 0.0)
    fit = KrylovFit(old, np.array(near), np.array(bounds), 3, True, 10)
    new = Spectrum(np.array(refined_to) ** 2, np.eye(3), 29.0, 3, 0.0, 0.0, absolute=absolute)
    found = with_refined(fit, new, 3)
    # 4 + 0.5 is 0.25 above 4.25, 2 is 1/16 above, and 3 + 0.25 is not above 3.5.
    assert found.error_bounds.tolist() == [0.25 + absolute, absolute, 0.0625 + absolute]
    # Some singular value lies at 4 - 0.125, at 3, at 1.5 or 2.5.
    assert found.residual_bounds.tolist() == [0.375, 0.5, 0.5625]
    assert found.spectrum is new
    fewer = with_refined(KrylovFit(old, np.array(near[:2]), np.array(bounds[:2]), 3, True, 10), new, 2)
    assert fewer.error_bounds.tolist() == found.error_bounds.tolist()[:2]


def test_vectors_that_lapack_leaves_askew_are_set_upright(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some pairs LAPACK's vectors may be off by 1e-13; here by 1e-6, of which the square is left."""
    d, k, eigh = 40, 6, scipy.linalg.eigh
    askew = 1e-6 * np.ones((k, k))

    def disturbed(*args: Any, **options: Any) -> Any:
        values, vectors = eigh(*args, **options)
        assert vectors.shape == (d, k)
        return values, vectors + vectors @ askew

    A = np.diag(np.arange(d, 0, -1.0))
    gram = Gram(Moments.empty(d), 50.0, np.zeros(d), np.zeros(d), A, np.ones(d), 1, 1)
    monkeypatch.setattr("eigenmill.reduce.estimators.spectrum.scipy.linalg.eigh", disturbed)
    found = of_gram(gram, None, np.dtype(np.float64), centred=True, k=k)
    off = found.vectors.T @ found.vectors - np.eye(k)
    assert np.abs(off).max() <= 3 * (k * 1e-6) ** 2
    np.testing.assert_allclose(found.vectors, np.eye(d)[:, :k], atol=3 * (k * 1e-6) ** 2)


@pytest.mark.parametrize(
    ("column", "sign"),
    [
        ([0.1, -0.7, 0.7], -1),  # of two that are equal the first decides
        ([0.1, 0.7, -0.7], 1),
        ([-0.7 * (1 - 9e-7), 0.7, 0.1], -1),  # and of two within 1e-6 of the largest
        ([0.7 * (1 - 9e-7), -0.7, 0.1], 1),
        ([-0.7 * (1 - 1.1e-6), 0.7, 0.1], 1),  # beyond, the largest
        ([0.7 * (1 - 1.1e-6), -0.7, 0.1], -1),
        ([0.7, -0.7 * (1 + 9e-7), 0.1], 1),  # wherever it stands
        ([0.7, -0.7 * (1 + 1.1e-6), 0.1], -1),
        ([0.0, 0.0, -1.0], -1),
        ([0.0, 0.0, 0.0], 1),
    ],
)
def test_the_sign_of_a_vector(column: list[float], sign: int) -> None:
    given = np.array(column)[:, None]
    assert orient(given, FORMAT_1).tobytes() == (sign * given).tobytes()
    # Each column for itself.
    others = orient(np.concatenate([-given, np.full((3, 1), 9.0), 1e-3 * given], axis=1), FORMAT_1)
    np.testing.assert_array_equal(others[:, 1:], np.concatenate([np.full((3, 1), 9.0), sign * 1e-3 * given], axis=1))
    if any(column):
        np.testing.assert_array_equal(others[:, :1], sign * given)
