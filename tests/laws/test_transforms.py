"""Transforms: a mean of any size costs no digits, and sparse rows come out as dense ones do."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from eigenmill.reduce import PCA, StandardScaler
from eigenmill.reduce.rows.blocks import Block
from eigenmill.reduce.rows.cleaning import Cleaning, Resolved
from eigenmill.reduce.rows.transforms import ModelInput, Project, Standardize, Unscale
from tests.laws.made import gamma

FEW = settings(max_examples=60)
UNIT = 8
"""Distance of neighbouring float32 numbers from 2^26 on."""


# The second half of the shift


@settings(max_examples=20)  # each of them fits twice
@given(
    steps=st.lists(st.integers(0, 2), min_size=2, max_size=40).filter(lambda steps: len(set(steps)) > 1),
    sign=st.sampled_from([1, -1]),
)
def test_a_mean_beyond_2_to_the_24_standard_deviations_is_subtracted_exactly(steps: list[int], sign: int) -> None:
    """Such a mean lies between two numbers of float32: what its rounding leaves is subtracted after it."""
    X = sign * (2**26 + UNIT * np.array(steps, np.float64)).astype(np.float32)[:, None]
    exact = [Fraction(int(x)) for x in X[:, 0]]
    mean = sum(exact) / len(exact)
    variance = float(sum((x - mean) ** 2 for x in exact) / len(exact))
    right = np.array([float(x - mean) for x in exact])[:, None]
    scaler = StandardScaler().fit(X)
    assert scaler.transform(X).dtype == np.float32
    # Reached by all but mean_ itself, a float64 number: 2^-27 of 2^26 is half.
    rounding = float(abs(Fraction(float(scaler.mean_[0])) - mean))
    assert rounding <= 2.0**-27
    u = 4 * np.finfo(np.float32).eps
    np.testing.assert_allclose(scaler.transform(X), right / np.sqrt(variance), rtol=u, atol=rounding)
    model = PCA(1).fit(X)
    np.testing.assert_allclose(model.transform(X) * model.components_[0, 0], right, rtol=u, atol=2 * rounding)


def test_two_neighbours_become_one_and_minus_one() -> None:
    X = np.array([2**26, 2**26 + UNIT], np.float32)[:, None]
    np.testing.assert_array_equal(StandardScaler().fit_transform(X), [[-1], [1]])
    np.testing.assert_array_equal(StandardScaler(with_std=False).fit_transform(X), [[-4], [4]])
    np.testing.assert_array_equal(abs(PCA(1).fit_transform(X)), [[4], [4]])


# Sparse equals dense


@dataclass(frozen=True)
class Rows:
    """A block whose first columns have entries in a share of the rows, and the mean of a model."""

    X: Any
    mean: Any
    weights: Any

    def input(self, policy: Resolved | None = None) -> ModelInput:
        names = tuple(f"x{j}" for j in range(self.X.shape[1]))
        return ModelInput(names, self.X.dtype, policy or Cleaning().resolve(names))

    def both(self, transform: Any) -> tuple[Any, Any]:
        """What the transform makes of the rows held sparse and held dense, dense."""
        a, b = transform(Block(sparse.csr_array(self.X))), transform(Block(self.X.copy()))
        return a.dense(np.float64), b.dense(np.float64)


@st.composite
def sparse_rows(draw: Any) -> Rows:
    h, dtype = draw(st.integers(1, 40)), draw(st.sampled_from([np.float32, np.float64]))
    shares = draw(st.lists(st.sampled_from(["few", "half", "full"]), max_size=3))
    d = 9 * len(shares) + 1
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    X, mean = np.zeros((h, d), dtype), np.zeros(d)
    for j, share in enumerate(shares):
        at = rng.choice(h, {"few": (h - 1) // 2, "half": (h + 1) // 2, "full": h}[share], replace=False)
        centre = draw(st.sampled_from([0.0, 1.0, -1e6, 1e6]))
        X[at, j] = centre + rng.normal(size=len(at))
        mean[j] = draw(st.sampled_from([X[:, j].astype(float).mean(), centre, 0.0]))
    return Rows(X, mean, rng.normal(size=(d, 3)))


@FEW
@given(rows=sparse_rows())
def test_only_columns_with_few_values_feel_their_mean(rows: Rows) -> None:
    """An entry is at most wrong by the rounding of deviations where half of the rows have a value, else of values."""
    project = Project(rows.input(), rows.mean, rows.weights, ("a", "b", "c"))
    X, W = rows.X.astype(np.longdouble), rows.weights.astype(np.longdouble)
    thick = 2 * (rows.X != 0).sum(axis=0) >= len(X)
    size = np.where(thick, abs(X - rows.mean), abs(X) + abs(rows.mean)).astype(float)
    room = 2 * gamma(16, rows.X.dtype) * size @ abs(rows.weights)
    room += 2 * gamma(16, np.float64) * abs(rows.mean) @ abs(rows.weights)
    for found in rows.both(project):
        assert (abs(found - (X - rows.mean) @ W) <= room).all()


@pytest.mark.parametrize("h", [1, 2, 3, 8, 9, 1000])
def test_a_column_of_which_half_the_rows_have_values_keeps_their_digits(h: int) -> None:
    """The rows of a model whose mean is 1e6, of which this block has as few as a thick column may have."""
    X, mean = np.zeros((h, 16), np.float32), np.zeros(16)
    steps = np.arange((h + 1) // 2, dtype=np.float32) / 16
    X[: len(steps), 5], mean[5] = 1e6 + steps, 1e6
    rows = Rows(X, mean, np.full((16, 1), 1 / 3))
    project = Project(rows.input(), mean, rows.weights, ("a",))
    assert project.takes(Block(sparse.csr_array(X)))
    for found in rows.both(project):
        np.testing.assert_allclose(found[: len(steps), 0], steps / 3, rtol=1e-6)


@FEW
@given(rows=sparse_rows(), bounds=st.sampled_from([None, (-1, 2), (1, 3), (-3, -1)]), centred=st.booleans())
def test_scaling_gives_the_same_bytes(rows: Rows, bounds: Any, centred: bool) -> None:
    names = rows.input().names
    given_ = rows.input(Cleaning(clip=bounds).resolve(names))
    scale = 1 + abs(rows.weights[:, 0])
    mean = rows.mean if centred else None
    for transform in (Standardize(given_, mean, scale), Standardize(given_, mean, None)):
        np.testing.assert_array_equal(*rows.both(transform))
    # Dense rows are multiplied in float64, sparse ones in their own precision.
    rounding = 0 if centred else 2 * np.finfo(rows.X.dtype).eps
    np.testing.assert_allclose(*rows.both(Unscale(names, mean, scale, rows.X.dtype)), rtol=rounding)
    project = Project(given_, rows.mean, rows.weights, ("a", "b", "c"))
    if bounds is not None:
        np.testing.assert_array_equal(*rows.both(project))


def test_only_the_thick_columns_are_made_dense() -> None:
    """2,000 rows of 20,000 columns are 160 MB dense in float32; the two thick columns 16 KB."""
    rng = np.random.default_rng(3)
    X = sparse.random_array((2_000, 20_000), density=1e-3, rng=rng, format="csr", dtype=np.float32)
    X = sparse.csr_array(sparse.hstack([X, np.full((2_000, 2), 1e6, np.float32)]))
    mean = np.asarray(X.mean(axis=0, dtype=np.float64)).ravel()
    names = tuple(map(str, range(X.shape[1])))
    project = Project(
        ModelInput(names, np.dtype(np.float32), Cleaning().resolve(names)),
        mean,
        rng.normal(size=(len(names), 2)),
        ("a", "b"),
    )
    project(Block(X[:1]))
    tracemalloc.start()
    try:
        project(Block(X))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
