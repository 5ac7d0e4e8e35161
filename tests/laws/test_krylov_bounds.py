"""Bounds of Ritz values, in exact arithmetic and with an input for every term. Theorems: docs/bounds.md."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.stats

from eigenmill.reduce.estimators.bounds import by_start, by_trace
from eigenmill.reduce.estimators.krylov import Krylov, Ritz, residual_bounds
from eigenmill.reduce.estimators.nystrom import nystroem
from tests.laws import exact

EPS = 2.0**-52


# Some singular value is near.


def test_a_residual_tells_how_near_a_singular_value_is() -> None:
    """``sqrt(theta - r)`` or ``sqrt(theta + r)`` may be the nearest one: the farther of the two, and no more."""
    values = np.array([0.0, 1e-30, 2.0**-60, 1e-9, 0.25, 1.0, 3.0, 1e12])
    with exact.digits():
        for r in (0.0, 1e-28, 1e-9, 0.25, 0.3, 1.0, 2.0):
            for share in (0.0, 0.5, 1.0):  # of it in the residual, the rest is rounding
                found = residual_bounds(values, np.full(len(values), r * share), r * (1 - share))
                for value, bound in zip(values, found, strict=True):
                    theta, width = exact.real(value), exact.real(r)
                    s = mpmath.sqrt(theta)
                    need = max(s - mpmath.sqrt(max(theta - width, 0)), mpmath.sqrt(theta + width) - s)
                    assert need * (1 - 8 * EPS) <= exact.real(bound) + 4 * EPS * s * (theta <= width)
                    assert exact.real(bound) <= need * (1 + 8 * EPS) + 4 * EPS * s * (theta <= width)


# The singular value of that index, by the trace.


def ritz(theta: Any, coupling: Any) -> Ritz:
    return Ritz(np.array(theta, dtype=float), np.eye(len(theta)), np.array(coupling, dtype=float))


@pytest.mark.parametrize(
    ("theta", "coupling", "rest"),
    [
        ([0], [[0]], [[5]]),  # all lies outside of the basis: the trace is what the bound has to be
        ([1], [[0]], [[5]]),
        ([10], [[1]], [[1]]),
        ([10], [[4]], [[3]]),
        ([100], [[30]], [[10]]),
        ([10, 9], [[1, 1]], [[1]]),
        ([10, 4], [[0, 3]], [[3]]),
        ([12, 5, 1], [[3, 1, 0], [0, 2, 1]], [[2, 1], [1, 3]]),
        ([40, 30, 20], [[9, 0, 0]], [[3]]),
        ([40, 30, 20], [[0, 0, 7]], [[3]]),
    ],
)
def test_what_the_basis_leaves_out_bounds_every_value(theta: Any, coupling: Any, rest: Any) -> None:
    """M is ``[[Theta, G^T], [G, C]]``, in whole numbers; only the trace of C is known."""
    k, G, C = len(theta), np.array(coupling), np.array(rest)
    M = np.block([[np.diag(theta), G.T], [G, C]])
    found = by_trace(ritz(theta, coupling), k, float(np.trace(M)))
    with exact.digits():
        truth = exact.eigenvalues(exact.rationals(M))
        assert min(truth) >= 0
        for right, bound in zip(truth[:k], found, strict=True):
            assert right <= exact.real(bound) * (1 + 8 * EPS)
    assert (found <= np.array(theta) + np.trace(C)).all()


def test_the_bound_by_the_trace_is_no_larger_than_the_page_has_it() -> None:
    """One value: ``max(mu, theta + g^2 / (mu - left))`` with mu the value itself, where it is above twice the rest."""
    assert by_trace(ritz([10], [[1]]), 1, 11.0)[0] == pytest.approx(10 + 1 / 9, rel=1e-14)
    assert by_trace(ritz([10], [[6]]), 1, 14.0)[0] == pytest.approx(14.0, rel=1e-14)
    assert by_trace(ritz([10], [[1]]), 1, 16.0)[0] == 16.0  # the rest may be larger than mu allows
    assert by_trace(ritz([10], [[0]]), 1, 9.0)[0] == 10.0  # a trace that rounding has made too small


# The same by the Gaussian start.


def tangents(most: int, d: int, width: int) -> list[Any]:
    """F_i for i = 1 ... most, false with probability at most ``1e-10 / most`` each, as docs/bounds.md has them."""
    chance = mpmath.mpf(10) ** -10 / (2 * most)
    found = []
    for i in range(1, most + 1):
        inverse = mpmath.e * mpmath.sqrt(width) / (width - i + 1) * chance ** (-mpmath.mpf(1) / (width - i + 1))
        found.append(inverse * (mpmath.sqrt(d - i) + mpmath.sqrt(i) + mpmath.sqrt(-2 * mpmath.log(chance))))
    return found


def gap_free(F: Any, steps: int) -> Any:
    """The smallest of ``x (1 + F^2 / T^2(2 x - 1))`` over x from 1 to 1,001."""
    if steps == 1:
        return 1 + F**2

    def at(x: Any) -> Any:
        return x * (1 + (F / mpmath.cosh((steps - 1) * mpmath.acosh(2 * x - 1))) ** 2)

    low, high = mpmath.mpf(1), mpmath.mpf(1001)
    for _ in range(200):  # one minimum, and no other, in the logarithm of x
        a, b = low * (high / low) ** 0.382, low * (high / low) ** 0.618
        low, high = (low, b) if at(a) < at(b) else (a, high)
    return min(at(low), at(mpmath.mpf(1)))


@pytest.mark.parametrize(("d", "width"), [(2, 5), (50, 5), (50, 8), (1000, 14), (53_920, 125)])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_the_bound_by_the_start_is_the_formula_of_the_page(d: int, width: int, steps: int) -> None:
    most = min(width - 4, d - 1)
    theta = np.array([10.0 ** (-3 * j) for j in range(most + 1)])[: min(most + 1, 9)]
    found = by_start(theta, d, width, steps)
    with exact.digits():
        F, known = tangents(most, d, width), min(len(theta), most)
        free = [exact.real(t) * gap_free(f, steps) for t, f in zip(theta, F, strict=False)]
        wanted = list(free)
        for j in range(known):
            for i in range(j + 1, known):
                if theta[j] > free[i]:
                    cheb = mpmath.cosh((steps - 1) * mpmath.acosh(2 * exact.real(theta[j]) / free[i] - 1))
                    wanted[j] = min(wanted[j], exact.real(theta[j]) * (1 + (F[i - 1] / cheb) ** 2))
        for bound, right in zip(found[:known], wanted, strict=True):
            assert right * (1 - 1e-9) <= exact.real(bound) <= right * (1 + 1e-2)  # x is one of 600
    assert np.isinf(found[known:]).all()


def test_a_gap_is_made_use_of() -> None:
    theta = np.array([1.0, 1e-12, 1e-13])
    near, far = by_start(theta, 50, 8, 4), by_start(theta[:1], 50, 8, 4)
    assert near[0] < 1 + 1e-6 < far[0]
    # Below the first value, and below the second one.
    assert by_start(theta[:2], 50, 6, 6)[0] < 1 + 1e-6
    assert by_start(np.array([1.0, 0.9, 1e-13]), 50, 8, 6)[1] < 0.9 * (1 + 1e-6)


def test_too_narrow_a_start_bounds_nothing() -> None:
    assert np.isinf(by_start(np.ones(3), 50, 4, 5)).all()
    assert np.isinf(by_start(np.ones(2), 1, 9, 5)).all()


@pytest.mark.parametrize(("d", "width"), [(2, 5), (10, 5), (1000, 5), (1000, 20), (10, 100)])
def test_the_start_fails_as_rarely_as_promised(d: int, width: int) -> None:
    """Of one row against d - 1 others the ratio of norms has Fisher's distribution."""
    most = min(width - 4, d - 1)
    F = float(np.sqrt(by_start(np.ones(1), d, width, 1)[0] - 1))
    assert scipy.stats.f.sf(F**2 * width / (d - 1), d - 1, width) <= 1e-10 / most


def exactly(lam: list[Any], start: Any, steps: int) -> tuple[list[Any], list[Any]]:
    """Ritz values of ``steps`` products of the diagonal matrix with ``start`` (d, l), and the true F_i for i <= l."""
    d, width = start.shape
    omega = mpmath.matrix(start.tolist())
    K = mpmath.matrix([[omega[r, c] * lam[r] ** p for p in range(steps) for c in range(width)] for r in range(d)])
    lower = mpmath.inverse(mpmath.cholesky(K.T * K))
    theta = mpmath.eigsy(lower * (K.T * mpmath.diag(lam) * K) * lower.T, eigvals_only=True)
    F = []
    for i in range(1, width + 1):
        top, rest = omega[:i, :], omega[i:, :]
        ratio = rest * top.T * mpmath.inverse(top * top.T)
        F.append(mpmath.sqrt(max(mpmath.eigsy(ratio.T * ratio, eigvals_only=True))))
    return sorted(theta, reverse=True), F


def bounds_of(lam: Any, start: Any, steps: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any, Any]]:
    """(Ritz value, eigenvalue, bound), with the norms F_i of this start in the place of those that chance allows."""
    d, width = start.shape
    theta, F = exactly([exact.real(x) for x in lam], start, steps)
    norms = np.array([float(f) for f in F])
    monkeypatch.setattr("eigenmill.reduce.estimators.bounds._tangents", lambda *_: norms)
    found = by_start(np.array([float(t) for t in theta[:width]]), d, width + 4, steps)
    return [(t, exact.real(v), exact.real(b)) for t, v, b in zip(theta, lam, found, strict=False)]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_theorem_holds_for_starts_however_bad(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, width, sharp = np.random.default_rng(5), 2, 0
    with exact.digits():
        for _ in range(60):
            d = int(rng.integers(width * steps + 1, width * steps + 4))
            lam = np.r_[1.0, np.sort(rng.random(d - 1) ** rng.integers(1, 9))[::-1]]
            start = rng.normal(size=(d, width)) * 10 ** rng.uniform(-1, 1.5, size=(d, 1))
            for theta, value, bound in bounds_of(lam, start, steps, monkeypatch):
                assert value <= bound * (1 + 1e-12)
                sharp += value - theta > (bound - theta) / 2
    assert sharp > 5 or steps > 1


def test_a_polynomial_has_a_degree_less_than_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two products of a start that hardly knows the first vector: with one degree more the bound would be false."""
    lam = [1.0, 0.08214628609, 0.04441298607, 0.01393225969, 0.0007982973]
    start = np.array([[1.0], [-37.71522948], [-253.683476], [-80.202371], [124.147093]])
    with exact.digits():
        ((theta, value, bound),) = bounds_of(lam, start, 2, monkeypatch)
        assert value <= bound
        assert theta < value / 16


# The basis.


def multiplied(M: Any, start: Any, products: int) -> Krylov:
    krylov = Krylov(np.linalg.qr(start)[0])
    for _ in range(products):
        krylov.absorb(M @ krylov.block)
    return krylov


@pytest.mark.parametrize("size", [1.0, 2.0**-80, 2.0**80])
def test_a_basis_ends_where_rounding_begins(size: float) -> None:
    """Of rank 3: the second product leads nowhere new, whatever the unit; 1e-13 of the largest is not nowhere."""
    rng = np.random.default_rng(0)
    V = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    low = (V[:, :3] * [3.0, 2.0, 1.0]) @ V[:, :3].T * size
    krylov = multiplied(low, rng.normal(size=(30, 5)), 2)
    assert [part.shape[1] for part in (krylov.basis[0], krylov.basis[1], krylov.block)] == [5, 3, 0]
    np.testing.assert_allclose(krylov.ritz().values[:4] / size, [3, 2, 1, 0], atol=1e-14)
    # Eight products of a block of one: each new direction is a hundredth of the last.
    steep = (V * 100.0 ** -np.arange(30.0)) @ V.T * size
    krylov = multiplied(steep, V[:, :8].sum(axis=1, keepdims=True), 5)
    assert krylov.size == 5
    got = krylov.ritz()
    while krylov.block.shape[1]:
        krylov.absorb(steep @ krylov.block)
        assert krylov.size <= 10, "what is below rounding of the first product is not multiplied"
    # Beside the largest value a residual is told to 16 EPS.
    with exact.digits():
        K, M = mpmath.matrix(np.concatenate(krylov.basis[:5], axis=1).tolist()), mpmath.matrix(steep.tolist())
        vectors = K * mpmath.matrix(got.weights.tolist())
        for j in range(5):
            v = vectors[:, j]
            true = mpmath.norm(M * v - exact.real(got.values[j]) * v)
            assert abs(true - exact.real(got.residuals[j])) <= 16 * EPS * size


@pytest.mark.parametrize("coupled", [64.0, 1e3, 1e5])
def test_a_direction_above_rounding_stays_in_the_basis(coupled: float) -> None:
    """A coupling of so many EPS beside the largest value: left out, the residual of its block would be lost."""
    M = np.diag([1.0, 0.5, 0.25])
    M[2, 0] = M[0, 2] = coupled * EPS
    krylov = multiplied(M, np.eye(3)[:, :2], 1)
    assert krylov.block.shape == (3, 1)
    assert krylov.ritz().residuals.max() == pytest.approx(coupled * EPS, rel=1e-12)


@pytest.mark.parametrize("coupled", [0.0, 1.0, 16.0])
def test_a_direction_of_rounding_leaves_the_basis(coupled: float) -> None:
    M = np.diag([1.0, 0.5, 0.25])
    M[2, 0] = M[0, 2] = coupled * EPS
    assert multiplied(M, np.eye(3)[:, :2], 1).block.shape == (3, 0)


# A single product.


@pytest.mark.parametrize("times", [-0.9, -0.5, -1e-3, 1e-3, 0.5, 1.0, 2.0, 2.9])
@pytest.mark.parametrize("lean", [1e-3, 0.1, 0.7])
@pytest.mark.parametrize("others", [0, 1, 2])
def test_an_error_of_the_product_swells_no_more_than_is_said(times: float, lean: float, others: int) -> None:
    """One vector of Q leans from an eigenvector; its product errs along itself, by up to three times its own share."""
    d = others + 2
    M = np.diag([*[1.0] * (others + 1), 0.0])
    Q = np.zeros((d, others + 1))
    Q[:others, :others] = np.eye(others)
    Q[others:, others] = lean, np.sqrt(1 - lean**2)
    error = np.zeros_like(Q)
    error[:, others] = times * lean**2 * Q[:, others]
    krylov = Krylov(Q)
    krylov.absorb(M @ Q + error)
    krylov.extend()
    found = nystroem(krylov)
    off = np.abs(np.sort(found.values)[::-1] - 1.0).max()
    assert off <= found.swell * abs(times) * lean**2 * (1 + 1e-9)
    assert off > abs(times) / 4 or lean > 1e-3  # a million times the error
