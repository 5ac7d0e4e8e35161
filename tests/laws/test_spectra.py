"""Laws of what a fit says of its own accuracy, on spectra, scales and shapes on which peers lose digits."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

from eigenmill.reduce import PCA, TruncatedSVD
from eigenmill.reduce.errors import ConfigError
from tests.estimators.truth import centred

EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Matrix:
    """What is fitted, as an array, and in the form that is given."""

    X: Any
    sparse: bool

    @property
    def given(self) -> Any:
        return sp.csr_array(self.X) if self.sparse else self.X

    def singular_values(self, kind: Any) -> Any:
        """(d,) of them: a matrix of fewer rows than columns has zeros too, and a residual may be about one of these."""
        A = centred(self.X).astype(np.float64) if kind is PCA else self.X
        found = np.linalg.svd(A, compute_uv=False)
        return np.pad(found, (0, A.shape[1] - len(found)))

    def size(self, kind: Any) -> float:
        """The norm of what is multiplied: beside it the rounding of values is measured."""
        return float(np.linalg.norm(centred(self.X).astype(np.float64) if kind is PCA else self.X))


SPECTRA: dict[str, Any] = {
    "decades": lambda j: 10.0 ** (-j / 3),
    "flat": lambda j: np.ones(len(j)),
    "text": lambda j: 1 / np.sqrt(1 + j),
    "steep": lambda j: 0.8**j,
    "rank3": lambda j: (j < 3) * (3.0 - j),
    "steps": lambda j: 10.0 ** -(j // 5),
    "nothing": lambda j: np.zeros(len(j)),
}


@st.composite
def matrices(draw: st.DrawFn) -> Matrix:
    n, d = draw(st.integers(3, 90)), draw(st.integers(3, 60))
    rng, r = np.random.default_rng(draw(st.integers(0, 999))), min(n, d)
    U, V = (np.linalg.qr(rng.normal(size=(size, r)))[0] for size in (n, d))
    X = (U * SPECTRA[draw(st.sampled_from(sorted(SPECTRA)))](np.arange(r))) @ V.T
    if draw(st.booleans()):
        X = X * (rng.random((n, d)) < draw(st.sampled_from([0.05, 0.3])))
    X = X * 10.0 ** draw(st.sampled_from([0.0, 20.0, -20.0]))
    if draw(st.booleans()):
        X = X * 10.0 ** np.linspace(-6, 6, d)
    if draw(st.booleans()):
        X[:, draw(st.integers(0, d - 1))] += 1e6 * X.std()
    return Matrix(X, draw(st.booleans()))


KINDS = st.sampled_from([PCA, TruncatedSVD])
SOLVERS = st.sampled_from(["sketch", "auto"])


def fitted(model: Any, X: Any) -> tuple[Any, bool]:
    """The model, and whether it has warned."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(X)
    return model, any(issubclass(w.category, ConvergenceWarning) for w in told)


def hold(model: Any, truth: Any, size: float) -> None:
    """Components are orthonormal, and both bounds hold up to what LAPACK's own values and the data carry."""
    s, k = model.singular_values_, len(model.singular_values_)
    own = 64 * EPS * size
    assert np.abs(model.components_ @ model.components_.T - np.eye(k)).max() <= 1e-13
    assert (np.abs(s - truth[:k]) <= model.error_bounds_ + own).all()
    assert (np.abs(s[:, None] - truth).min(axis=1) <= model.residual_bounds_ + own).all()
    assert (np.diff(s) <= own).all()


@settings(deadline=None)
@given(
    matrix=matrices(), kind=KINDS, solver=SOLVERS, k=st.integers(1, 12), tol=st.sampled_from([None, 1e-2, 1e-6]),
    scans=st.integers(2, 7), block=st.sampled_from([None, 3]), refine=st.booleans(),
)  # fmt: skip
def test_bounds_are_never_broken(
    matrix: Matrix, kind: Any, solver: str, k: int, tol: float | None, scans: int, block: int | None, refine: bool
) -> None:
    model = kind(k, solver=solver, tol=tol, max_scans=scans, block_size=block, refine=refine, random_state=scans)
    spare = refine + (matrix.sparse and kind is PCA)
    if k > min(matrix.X.shape):
        with pytest.raises(ConfigError, match=r"ask for fewer|max_scans above"):
            fitted(model, matrix.given)
        return
    try:
        model, warned = fitted(model, matrix.given)
    except ConfigError as error:
        short = (block or k) * (scans - spare) < k
        if solver == "sketch" and (("a basis of" in str(error) and block) or short):
            return  # so few vectors, or blocks that shrank on the way, give no k values
        raise
    hold(model, matrix.singular_values(kind), matrix.size(kind))
    assert warned is not model.converged_
    assert model.n_scans_ <= max(scans, 2)


@settings(deadline=None)
@given(matrix=matrices(), kind=KINDS, share=st.floats(0.05, 0.99), most=st.integers(1, 30))
def test_a_share_is_reached_or_refused(matrix: Matrix, kind: Any, share: float, most: int) -> None:
    truth = matrix.singular_values(kind)
    assume(truth[0] > 1e-10 * matrix.size(TruncatedSVD) > 0)
    squares = np.cumsum(truth**2) / (truth**2).sum()
    model = kind(share, solver="sketch", tol=None, max_scans=5, max_components=most)
    if int(np.searchsorted(squares, share - 1e-9)) + 1 > most:
        with pytest.raises(ConfigError, match=f"within max_components={min(most, matrix.X.shape[1])}"):
            fitted(model, matrix.given)
        return
    try:
        model, _ = fitted(model, matrix.given)
    except ConfigError:
        return  # the Ritz values, which are lower bounds, fall short of the share
    k = model.n_components_
    assert k <= most
    hold(model, truth, matrix.size(kind))
    assert squares[k - 1] >= share - 1e-9


@settings(deadline=None)
@given(matrix=matrices(), kind=KINDS, before=st.integers(1, 8), after=st.integers(1, 8), rows=st.integers(2, 40))
def test_a_warm_start_keeps_every_bound(matrix: Matrix, kind: Any, before: int, after: int, rows: int) -> None:
    """Whatever the earlier model was fitted to, and however many components it had."""
    assume(before <= min(rows, *matrix.X.shape))
    assume(after <= min(matrix.X.shape))
    model, _ = fitted(kind(before, solver="sketch", tol=1e-2), Matrix(matrix.X[:rows], matrix.sparse).given)
    model.set_params(n_components=after, warm_start=True, tol=1e-6, max_scans=5)
    model, _ = fitted(model, matrix.given)
    hold(model, matrix.singular_values(kind), matrix.size(kind))


@settings(deadline=None)
@given(matrix=matrices(), k=st.integers(1, 6), seed=st.integers(0, 999))
def test_a_single_scan_is_never_better_than_it_says(matrix: Matrix, k: int, seed: int) -> None:
    assume(k <= min(matrix.X.shape))
    model, _ = fitted(TruncatedSVD(k, solver="sketch", max_scans=1, random_state=seed), matrix.given)
    hold(model, matrix.singular_values(TruncatedSVD), matrix.size(TruncatedSVD))


def test_the_laws_can_fail() -> None:
    """A bound that is a hair too small is found out."""
    X = np.random.default_rng(0).normal(size=(80, 40))
    model = TruncatedSVD(5, solver="sketch", tol=None, max_scans=2).fit(X)
    truth = np.linalg.svd(X, compute_uv=False)
    hold(model, truth, float(np.linalg.norm(X)))
    model.error_bounds_ = np.abs(model.singular_values_ - truth[:5]) * 0.99
    with pytest.raises(AssertionError):
        hold(model, truth, float(np.linalg.norm(X)))
