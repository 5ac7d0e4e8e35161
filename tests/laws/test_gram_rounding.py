"""The rounding of a Gram matrix is within its bound, in exact arithmetic, on inputs made to come near it.

A sum that stands at 1 loses a term just below half a unit in its last place, every time. Rows are arranged so that one
term of the bound after the other carries nearly the whole error: without that term the bound would be false.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest

from eigenmill.reduce.engines.base import one_blas_thread
from eigenmill.reduce.estimators.spectrum import Spectrum, of_gram
from eigenmill.reduce.passes.gram import Gram, GramPass
from eigenmill.reduce.passes.intake import Intake, Moments
from eigenmill.reduce.rows.blocks import Block
from eigenmill.reduce.rows.cleaning import Cleaning
from tests.laws import exact

MANY = 600


@dataclass(frozen=True)
class Case:
    """Leaves of blocks of rows; a state for each leaf, merged from left to right.

    ``terms`` is what the way of a row into the sums takes at most: rows of a block, blocks of a leaf, merges, and 8.
    """

    leaves: list[list[Any]]
    terms: int
    dtype: Any = np.float64
    missing: Any = "error"

    @property
    def rows(self) -> exact.Rows:
        X = np.concatenate([np.asarray(block) for leaf in self.leaves for block in leaf])
        return exact.rationals(X if self.missing == "error" else np.nan_to_num(X, nan=float(self.missing)))

    def gram(self) -> Gram:
        d = np.shape(self.leaves[0][0])[1]
        names = tuple(f"x{j}" for j in range(d))
        pass_ = GramPass(Intake(names, np.dtype(self.dtype), Cleaning(missing=self.missing).resolve(names)))
        with one_blas_thread():
            states = [functools.reduce(pass_.fold, map(self._block, leaf), pass_.start()) for leaf in self.leaves]
            return pass_.finalize(functools.reduce(pass_.merge, states))

    def _block(self, rows: Any) -> Block:
        return Block(np.array(rows, dtype=self.dtype))


def lost(total: float, count: int = 1) -> float:
    """y such that ``total + count y^2`` rounds to ``total``, and hardly smaller than it has to be."""
    return float(np.sqrt(np.spacing(total) / 2 / count) * (1 - 1e-7))


def single(values: Any, copies: int = 1) -> list[Any]:
    """A block for each value: a row of ``copies`` equal columns."""
    return [np.full((1, copies), value) for value in values]


def high_block(dtype: Any, rows: int = 256) -> Any:
    """(rows, 2) of mean 0: a 1, and so many times -v that every square added to the first loses half a unit."""
    bits = 24 if dtype is np.float32 else 53
    near = range((1 << bits) // (rows - 1), (1 << bits) // (rows - 1) + 20_000)
    # v = m / 2^bits has the square m^2 / 2^(bits + 1) in units of the last place of 1.
    fraction = {m: m * m % (1 << bits + 1) for m in near}
    m = max((m for m in near if fraction[m] < 1 << bits), key=fraction.__getitem__)
    v = m * 2.0**-bits
    column = np.array([1.0, *[-v] * (rows - 2), (rows - 2) * v - 1.0], dtype=dtype)
    assert sum(map(Fraction, column.tolist())) == 0
    return np.stack([column, column], axis=1)


def scattered(count: int) -> list[float]:
    """0, the root of 2, and more values: n of them and the next add ``n / (n + 1)`` of their squared distance."""
    values, mean = [0.0, 2**0.5], 2**-0.5
    for n in range(2, 2 + count):
        values.append(mean + (-1) ** n * lost(1.0) * float(np.sqrt((n + 1) / n)))
        mean += (values[-1] - mean) / (n + 1)
    return values


SLOW = [0.0, 1.0, *[lost(1.0)] * MANY]
"""One value a block: the first makes the pivot 0."""
CASES: dict[str, Callable[[], Case]] = {
    "rows of a block": lambda: Case([[high_block(np.float64)]], 256 + 1 + 8),
    "rows of a block in float32": lambda: Case([[high_block(np.float32)]], 256 + 1 + 8, np.float32),
    "a high block, then a low one": lambda: Case([[high_block(np.float64)], single([0.0], 2)], 256 + 2 + 8),
    "a low block, then a high one": lambda: Case([single([0.0], 2), [high_block(np.float64)]], 256 + 2 + 8),
    "two blocks of a leaf": lambda: Case([[high_block(np.float64), np.zeros((1, 2))]], 256 + 2 + 8),
    "blocks of a leaf": lambda: Case([single(SLOW)], 1 + (MANY + 2) + 8),
    "a long leaf, then a short one": lambda: Case([single(SLOW), single([0.0])], 1 + (MANY + 3) + 8),
    "a short leaf, then a long one": lambda: Case([single([0.0]), single(SLOW)], 1 + (MANY + 3) + 8),
    # Leaves of mean 0: what they hold themselves is added.
    "merges": lambda: Case([[np.array([[y], [-y]])] for y in (0.5**0.5, *[lost(1.0, 2)] * MANY)], 2 + (1 + MANY) + 8),
    # Leaves of one row: all that is added are the squares of their distances.
    "distances of leaves": lambda: Case([single([x]) for x in scattered(MANY)], 1 + (2 + MANY) + 8),
    # A column of gaps that are filled by 0 has the pivot 0, until it shows a value.
    "a pivot that moves": lambda: Case([[[[np.nan]], [[1e3 + 0.1]], [[1e3 + 0.2]]]], 1 + 3 + 8, missing=0.0),
    # The gap is filled by 1, and 2 away from the pivot -1: more than two deviations of 1 come to.
    "a pivot that moves away from a fill": lambda: Case(
        [[[[np.nan]], [[-1.0]], *single([-1.0 + lost(4.0)] * MANY)]], 1 + (MANY + 2) + 8, missing=1.0
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_no_entry_errs_by_more_than_the_bound(name: str) -> None:
    case = CASES[name]()
    gram, truth = case.gram(), exact.cross(case.rows)
    assert gram.terms == case.terms
    for j, row in enumerate(truth):
        for k in range(j + 1):
            error = abs(Fraction(float(gram.cross[j, k])) - row[k])
            gross = Fraction(float(gram.gross[j])) * Fraction(float(gram.gross[k]))
            assert error**2 <= exact.gamma(gram.terms, case.dtype) ** 2 * gross, (j, k)


def hold(spectrum: Spectrum, truth: list[Any]) -> None:
    """Eigenvalues and singular values err by no more than is said; ``truth`` are eigenvalues, within digits."""
    assert len(spectrum.values) == len(truth)
    bound = exact.real(spectrum.bound)
    for value, error_bound, right in zip(spectrum.values, spectrum.error_bounds, truth, strict=True):
        assert abs(exact.real(value) - right) <= bound
        s, sigma = mpmath.sqrt(exact.real(value)), mpmath.sqrt(max(right, 0))
        assert abs(s - sigma) <= exact.real(error_bound)


@pytest.mark.parametrize("scale", [None, 2.0**-7, 2.0**9])
@pytest.mark.parametrize("name", CASES)
def test_no_value_errs_by_more_than_its_bound(name: str, scale: float | None) -> None:
    case = CASES[name]()
    factors = None if scale is None else np.full(len(case.rows[0]), scale)
    spectrum = of_gram(case.gram(), factors, np.dtype(case.dtype), centred=True, k=None)
    with exact.digits():
        hold(spectrum, [value / (scale or 1.0) ** 2 for value in exact.eigenvalues(exact.cross(case.rows))])


def test_rows_that_are_not_centred_again_count_as_summed() -> None:
    """Seven values near the pivot, whose sum of squares errs by 3 units in the rounding of their mean alone."""
    near = [764774991416444.0 + x for x in (1, 0, 0, 0, 1, 0, 1)]
    case = Case([[np.array([[1 + x * 2.0**-52] for x in near])]], 7 + 1 + 8)
    spectrum = of_gram(case.gram(), None, np.dtype(np.float64), centred=False, k=None)
    with exact.digits():
        hold(spectrum, exact.eigenvalues(exact.cross(case.rows, [Fraction(0)])))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [None, [0.5, 4.0, 1.0]])
@pytest.mark.parametrize("centred", [True, False])
def test_the_bound_is_the_formula_of_the_page(centred: bool, scale: Any, dtype: Any) -> None:
    """docs/numbers.md: gamma of the terms times the sum of ``gross``, and d eps lambda_1 of the eigensolver."""
    factor, mean, gross = scale or [1.0] * 3, [1.0, -2.0, 0.5], [20.0, 10.0, 5.0]
    gram = Gram(Moments.empty(3), 4.0, np.array(mean), np.zeros(3), np.diag([16.0, 9.0, 4.0]), np.array(gross), 30, 2)
    found = of_gram(gram, None if scale is None else np.array(scale), np.dtype(dtype), centred=centred, k=None)
    more = [0.0 if centred else 4.0 * m * m for m in mean]
    total = sum((g + m) / f**2 for g, m, f in zip(gross, more, factor, strict=True))
    top = max(found.values)
    wanted = exact.gamma(30, dtype) * Fraction(total) + 3 * 2 * exact.UNIT[np.dtype(np.float64)] * Fraction(float(top))
    assert found.bound == pytest.approx(float(wanted), rel=1e-13, abs=0)
    assert found.total == sum((c + m) / f**2 for c, m, f in zip((16.0, 9.0, 4.0), more, factor, strict=True))


def test_a_singular_value_is_as_far_off_as_its_eigenvalue_allows() -> None:
    """Weyl: the eigenvalue may have moved by the bound either way, down to 0. No smaller error bound would do."""
    grid = [0.0, 1e-30, 2.0**-60, 2.0**-40, 1e-9, 2.0**-20, 0.25, 1.0, 3.0]
    with exact.digits():
        for bound in (2.0**-40, 1e-9, 0.25):
            values = np.array(sorted({*grid, bound, bound * (1 - 1e-3), bound * (1 + 1e-3)}, reverse=True))
            spectrum = Spectrum(values, np.eye(len(values)), 9.0, len(values), bound, 0.0)
            for value, found in zip(values, spectrum.error_bounds, strict=True):
                s = mpmath.sqrt(exact.real(value))
                ends = [mpmath.sqrt(max(exact.real(value) + move * exact.real(bound), 0)) for move in (-1, 1)]
                need = max(abs(s - end) for end in ends)
                assert need * (1 - mpmath.mpf(2) ** -50) <= exact.real(found) <= 2 * need
            at = list(values).index(bound)
            assert spectrum.error_bounds[at] == pytest.approx(np.sqrt(bound), rel=1e-15, abs=0)
            least = Spectrum(values, np.eye(len(values)), 9.0, len(values), bound, 0.0, absolute=1e-12)
            assert (least.error_bounds == np.minimum(spectrum.error_bounds, 1e-12)).all()


def test_the_cases_come_near_their_bounds() -> None:
    """Half the bound would not do, for sums whose order does not hang on the kernels of a BLAS."""
    for name in ("blocks of a leaf", "a short leaf, then a long one", "merges", "distances of leaves"):
        case = CASES[name]()
        error = abs(Fraction(float(case.gram().cross[0, 0])) - exact.cross(case.rows)[0][0])
        assert error > exact.gamma(case.terms) * Fraction(float(case.gram().gross[0])) / 2, name
