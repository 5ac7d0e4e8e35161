"""Exact arithmetic for laws of rounding: rationals of what floats hold, and mpmath where a root is wanted."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import mpmath
import numpy as np

UNIT = {np.dtype(np.float32): Fraction(1, 1 << 24), np.dtype(np.float64): Fraction(1, 1 << 53)}
"""The unit roundoff u: no sum or product errs by more, relative to its size."""
DIGITS = 60

Rows = list[list[Fraction]]


def rationals(X: Any) -> Rows:
    """The numbers of a matrix of floats, as they are."""
    return [[Fraction(float(x)) for x in row] for row in np.atleast_2d(X)]


def gamma(terms: int, dtype: Any = np.float64) -> Fraction:
    """Higham's bound of ``terms`` roundings, one after the other."""
    product = terms * UNIT[np.dtype(dtype)]
    return product / (1 - product)


def means(rows: Rows) -> list[Fraction]:
    return [sum(column, Fraction(0)) / len(rows) for column in zip(*rows, strict=True)]


def cross(rows: Rows, centre: list[Fraction] | None = None) -> Rows:
    """(d, d) cross product of the rows about ``centre``, by default their means."""
    centre = means(rows) if centre is None else centre
    moved = [[x - c for x, c in zip(row, centre, strict=True)] for row in rows]
    columns = list(zip(*moved, strict=True))
    return [[sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0)) for b in columns] for a in columns]


def real(x: Any) -> Any:
    """A rational or a float as a number of 60 digits; only within :func:`digits`."""
    return mpmath.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else mpmath.mpf(float(x))


def digits() -> Any:
    """The context in which mpmath has enough of them."""
    return mpmath.workdps(DIGITS)


def eigenvalues(M: Rows) -> list[Any]:
    """Of a symmetric matrix, descending; within :func:`digits`."""
    found = mpmath.eigsy(mpmath.matrix([[real(x) for x in row] for row in M]), eigvals_only=True)
    return sorted(found, reverse=True)


def singular_values(rows: Rows, centre: list[Fraction] | None = None) -> list[Any]:
    """Of the rows about ``centre``, by default their means; descending, (d,); within :func:`digits`."""
    return [mpmath.sqrt(max(value, 0)) for value in eigenvalues(cross(rows, centre))]
