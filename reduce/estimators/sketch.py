"""The iterative solver: a block Krylov space of ``A^T A``, one scan per product (passes/sketch.py).

Moments come first, in a scan of their own, when the start needs them: to scale, to fill gaps by the mean, and to
centre sparse rows. Otherwise they come with the first product.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.estimators.bounds import upper_bounds
from eigenmill.reduce.estimators.krylov import Steps, iterate, orthonormal, residual_bounds
from eigenmill.reduce.estimators.nystrom import Nystroem, nystroem
from eigenmill.reduce.estimators.panels import cores
from eigenmill.reduce.estimators.solver import Shape, refinement
from eigenmill.reduce.estimators.spectrum import Spectrum, gamma, orient
from eigenmill.reduce.format import Format
from eigenmill.reduce.method import Bound, Stage
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.passes.intake import Intake, Moments
from eigenmill.reduce.passes.moments import MomentsPass
from eigenmill.reduce.passes.sketch import Sketch, SketchPass, add_low_rank
from eigenmill.reduce.passes.thin import known_pivot
from eigenmill.reduce.plan import Run
from eigenmill.reduce.rows.blocks import F64
from eigenmill.reduce.rows.cleaning import MEAN


@dataclass(frozen=True)
class Wanted:
    """What is asked of the solver.

    Attributes:
        k: number of values, or None for the fewest whose squares reach ``share`` of the trace, at most ``most``.
        tol: relative accuracy of singular values; None uses all scans.
        scans: scans allowed, that of moments and that of a refinement included.
        width: Gaussian columns of the start; ``columns``: with those of an earlier model.
        seed: of the start.
        format: of all that follows.
    """

    k: int | None
    share: float
    most: int
    tol: float | None
    scans: int
    width: int
    columns: int
    seed: int
    format: Format


@dataclass(frozen=True)
class Setting:
    """What the moments tell of A: how products of raw columns become products of A.

    Attributes:
        n, mean: sum of weights, and means (d,).
        scale: (d,) or None. centred: whether A has its means subtracted.
        trace: of ``A^T A``.
        pivot, gap: of :class:`SketchPass`.
        gross: squared Frobenius norm of what is multiplied, about the pivot and about 0.
        spread: of the part about the pivot, which alone is multiplied in the data's precision.
        panel: rows of a product of A that are worked on at a time.
    """

    n: float
    mean: F64
    scale: F64 | None
    centred: bool
    trace: float
    pivot: F64
    gap: F64 | None
    gross: float
    spread: float
    panel: int

    def into(self, Q: F64) -> F64:
        return Q if self.scale is None else Q / self.scale[:, None]

    def product(self, found: Sketch, weights: F64) -> F64:
        """``A^T A Q`` of the sketch with ``weights`` = Q over the scale. Consumes its products."""
        Z = found.products
        if not self.centred:
            mean = found.mean
            add_low_rank(Z, (found.n * mean)[:, None], (mean @ weights)[None], self.panel)
        if self.scale is not None:
            Z /= self.scale[:, None]
        return Z


@dataclass(frozen=True)
class KrylovFit:
    """The leading singular triplets and what is known of them."""

    spectrum: Spectrum
    residual_bounds: F64
    error_bounds: F64
    scans: int
    converged: bool
    terms: int


def width_of(k: int | None, most: int, d: int, format: Format) -> int:
    """Columns of the start: a quarter more than the values wanted, at least 10 more; a quarter of an unknown number."""
    extra, share = format.extra_columns, format.start_share
    wanted = k + max(extra, k // share) if k is not None else most // share + extra
    return min(wanted, d)


def basis(d: int, width: int, products: int) -> int:
    """Bytes of the basis of ``d`` columns that so many products make, and of one of them."""
    return 8 * d * min(width * (products + 1), d)


def gaussian(seed: int, purpose: str, d: int, width: int) -> F64:
    """(d, width) standard normal numbers, the same everywhere for the same seed and purpose."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())]).normal(size=(d, width))


def start(wanted: Wanted, d: int, earlier: F64 | None, threads: int = 1) -> F64:
    """(d, l) orthonormal start: ``earlier`` (d, k) directions of another model, and Gaussian ones."""
    fresh = gaussian(wanted.seed, "sketch start", d, wanted.width)
    if earlier is not None:
        fresh = np.concatenate([earlier, fresh], axis=1)[:, :d]
    return orthonormal(fresh, threads, wanted.format)[0]


def moments_first(intake: Intake, *, sparse: bool, centred: bool, scale: bool) -> bool:
    """Whether the start has to wait for a scan of moments."""
    return scale or (sparse and centred) or bool((intake.policy.code == MEAN).any())


def stages(wanted: Wanted, intake: Intake, shape: Shape, *, first: bool, refine: bool) -> tuple[Stage, ...]:
    """The stages of an iteration: moments ``first`` if it needs them, the products, and a refinement if asked for.

    Raises:
        ConfigError: the scans allowed leave none for a product.
    """
    d, products = shape.features, wanted.scans - first - refine
    if products < 1:
        raise ConfigError(f"expected max_scans above {first + refine} for this fit, found {wanted.scans}; allow more")
    # As many as the basis needs for the values; fewer never do, and more are made only while they tell something new.
    least = min(-(-(wanted.k or 1) // wanted.columns), products)
    rule = f"until singular values are within tol={wanted.tol:g}" if wanted.tol is not None else "while any are left"
    found = Stage(
        _template(intake, wanted.columns),
        "to multiply the basis, a block of vectors at a time",
        4.0 * shape.stored * wanted.columns * (shape.format.sparse_cost if shape.sparse else 1),
        times=Bound(least, products, f"{rule}, at most max_scans in all"),
        usual=products if wanted.tol is None else min(products, max(shape.format.usual_scans, least)),
        held=_held(d, wanted.columns, products),
        refusal=partial(_refusal, wanted, intake, products),
    )
    k = wanted.k or wanted.most
    keep = min(_kept(k, wanted.format), d)
    # Beside the directions: what the first product was made of.
    after = refinement(intake, shape.rows, keep, k, held=8 * d * (keep + 2 * wanted.columns + 24))
    before = Stage(MomentsPass(intake), "to know means and scales before the start", 4.0 * shape.stored)
    return (*((before,) if first else ()), found, *((after,) if refine else ()))


def _template(intake: Intake, columns: int) -> SketchPass:
    """A pass with as many vectors as a start has, for plans: zeros never touched take no memory."""
    return SketchPass(intake, np.zeros((len(intake.names), columns)))


def _held(d: int, columns: int, products: int) -> int:
    """Bytes held beside the last product: the basis; moments, means, pivots and scales count, of a million columns."""
    return basis(d, columns, products) + 8 * d * 24


def _refusal(
    wanted: Wanted, intake: Intake, products: int, need: Callable[[Pass[Any, Any], int], int], limit: int
) -> tuple[str, str]:
    """A basis does not fit: which, and the block that would."""
    d, columns = len(intake.names), wanted.columns
    low, high = 0, columns
    while high - low > 1:
        middle = (low + high) // 2
        fits = need(_template(intake, middle), _held(d, middle, products)) <= limit
        low, high = (middle, high) if fits else (low, middle)
    enough = low and low * products >= (wanted.k or 1)
    what = f"a basis of {products + 1} blocks of {columns} vectors of {d} columns"
    return what, f"block_size={low}, a smaller max_scans, " if enough else "fewer components, "


def setting_of(
    moments: Moments, mean: F64, variance: F64, scale: F64 | None, intake: Intake, *, centred: bool, sparse: bool
) -> Setting:
    """From ``moments``, and the ``mean`` and population ``variance`` (d,) of the columns once their gaps are filled."""
    n = moments.total
    squares = n * variance if centred else n * (variance + mean**2)
    if sparse:
        pivot = known_pivot(mean, variance, intake.dtype)
    else:
        rounded = mean.astype(intake.dtype).astype(np.float64)
        pivot = np.where(np.isfinite(rounded), rounded, 0.0)
    about = n * (variance + (mean - pivot) ** 2)
    if scale is not None:
        squares, about = squares / scale**2, about / scale**2
    gap = mean - pivot if (intake.policy.code == MEAN).any() else None
    trace, spread = float(squares.sum()), float(about.sum())
    gross = spread + (0.0 if centred else trace)
    return Setting(n, mean, scale, centred, trace, pivot, gap, gross, spread, intake.format.panel_rows)


def solve(
    wanted: Wanted, setting: Setting, begun: Sketch | None, intake: Intake, data: Dataset, run: Run,
    earlier: F64 | None, spare: int,
) -> KrylovFit:  # fmt: skip
    """The leading spectrum of A.

    Args:
        wanted: what is asked for.
        setting: from the moments.
        begun: the first product, if it came with the moments.
        intake: of every scan.
        data: what is scanned.
        run: makes the scans.
        earlier: (d, k) directions to start with.
        spare: scans used otherwise.
    """
    d, terms, format = len(intake.names), 0, wanted.format

    def multiply(Q: F64) -> F64:
        nonlocal terms
        weights = setting.into(Q)
        found: Sketch = run.scan(SketchPass(intake, weights, setting.pivot, setting.gap), data)
        terms = max(terms, found.terms)
        return setting.product(found, weights)

    if begun is None:
        first, block = None, start(wanted, d, earlier, cores(run.engine))
    else:
        block, terms = begun.weights, begun.terms
        first = setting.product(begun, begun.weights)

    def noise(top: float) -> float:
        return format.noise * float(np.sqrt(d) * np.finfo(np.float64).eps) * top + _single(intake, setting, top)

    least, products = min(wanted.k or 1, d), wanted.scans - spare

    def count(values: F64) -> int | None:
        if wanted.k is not None:
            return wanted.k if len(values) >= wanted.k else None
        rounding = format.sum_noise * d * np.finfo(float).eps
        reached = np.flatnonzero(np.cumsum(values) >= wanted.share * setting.trace * (1 - rounding))
        return int(reached[0]) + 1 if len(reached) and reached[0] < wanted.most else None

    steps = iterate(
        multiply,
        block,
        first,
        count=count,
        least=least,
        tol=-1.0 if wanted.tol is None else wanted.tol,
        noise=noise,
        products=products,
        refill=lambda i: gaussian(wanted.seed, f"sketch refill {i}", d, min(wanted.width, d)),
        threads=cores(run.engine),
        format=format,
    )
    if products == 1:
        steps.krylov.extend()
        found = nystroem(steps.krylov)
        return _fit_once(wanted, setting, found, count(found.values), steps, intake, terms, spare)
    return _fit(wanted, setting, steps, intake, terms, spare)


def _fit_once(
    wanted: Wanted, setting: Setting, found: Nystroem, k: int | None, steps: Steps, intake: Intake, terms: int,
    spare: int,
) -> KrylovFit:  # fmt: skip
    """All that one product tells; the trace bounds how far it may be off."""
    d, scans, values = len(intake.names), 1 + spare, found.values
    if k is None:
        raise _too_few(wanted, setting, values, scans)
    unit = float(np.finfo(np.float64).eps) / 2
    rounding = gamma(terms + d, unit) * setting.gross * np.sqrt(len(values))
    rounding = (rounding + _single(intake, setting, float(values[0]))) * found.swell
    theta = values[:k]
    s = np.sqrt(theta)
    left = max(setting.trace - float(values.sum()), 0.0) + rounding * (1 + len(values))
    off = np.maximum(np.sqrt(theta + left) - s, s - np.sqrt(np.maximum(theta - rounding, 0.0)))
    keep = min(len(values), _kept(k, wanted.format), d)
    vectors = orient(steps.krylov.vectors(found.weights[:, :keep]), wanted.format)
    size = int(min(max(setting.n, 1), d)) if setting.n == int(setting.n) else d
    top = float(values[0])
    apart = wanted.format.noise * np.sqrt(d) * unit * 2 * top
    spectrum = Spectrum(values[:keep], vectors, setting.trace, size, rounding, apart)
    # Values below the rounding are not asked for accuracy, as those below the noise are not in an iteration.
    told = theta > rounding
    reached = float((off[told] / s[told]).max(initial=0.0))
    converged = wanted.tol is None or reached <= wanted.tol
    if not converged:
        _warn(wanted, reached, scans)
    return KrylovFit(spectrum, off, off, scans, converged, terms)


def _kept(k: int, format: Format) -> int:
    """Directions that a refinement of ``k`` may turn among."""
    return k + max(format.extra_columns, k // format.kept_share)


def _warn(wanted: Wanted, reached: float, scans: int) -> None:
    warnings.warn(
        f"expected singular values to {wanted.tol:g} of their size, found {reached:.2g} by their residuals "
        f"after {scans} scans; give more max_scans or a larger tol (error_bounds_ and residual_bounds_ say more)",
        ConvergenceWarning,
        stacklevel=3,
    )


def _fit(wanted: Wanted, setting: Setting, steps: Steps, intake: Intake, terms: int, spare: int) -> KrylovFit:
    ritz, k, d = steps.ritz, steps.k, len(intake.names)
    scans = steps.products + spare
    if k is None:
        raise _too_few(wanted, setting, ritz.values, scans)
    unit = float(np.finfo(np.float64).eps) / 2
    rounding = gamma(terms + d, unit) * setting.gross * np.sqrt(len(ritz.values))
    rounding += _single(intake, setting, float(ritz.values[0]))
    theta = ritz.values[:k]
    near = residual_bounds(theta, ritz.residuals[:k], rounding)
    most = upper_bounds(ritz, k, setting.trace + rounding, d, wanted.width, steps.products, wanted.format)
    above = np.sqrt(most + rounding)
    below = np.sqrt(np.maximum(theta - rounding, 0.0))
    s = np.sqrt(theta)
    # More directions than wanted, where there are: a refinement turns small ones among them.
    keep = min(len(ritz.values), _kept(k, wanted.format), d)
    vectors = orient(steps.krylov.vectors(ritz.weights[:, :keep]), wanted.format)
    size = int(min(max(setting.n, 1), d)) if setting.n == int(setting.n) else d
    top = float(ritz.values[0])
    apart = wanted.format.noise * np.sqrt(d) * unit * 2 * top
    spectrum = Spectrum(ritz.values[:keep], vectors, setting.trace, size, rounding, apart)
    converged = wanted.tol is None or steps.reached <= wanted.tol
    if not converged:
        _warn(wanted, steps.reached, scans)
    return KrylovFit(spectrum, near, np.maximum(above - s, s - below), scans, converged, terms)


def _single(intake: Intake, setting: Setting, top: float) -> float:
    """The resolution of products in float32, beside eigenvalues up to ``top``."""
    if intake.dtype != np.float32:
        return 0.0
    return intake.format.single_noise * float(np.finfo(np.float32).eps) * min(top, setting.spread)


def _too_few(wanted: Wanted, setting: Setting, values: F64, scans: int) -> ConfigError:
    if wanted.k is not None:
        return ConfigError(
            f"expected a basis of {wanted.k} vectors, found {len(values)} after {scans} scans; "
            "give more max_scans or a larger block_size"
        )
    share = float(values[: wanted.most].sum()) / setting.trace if setting.trace > 0 else 0.0
    return ConfigError(
        f"expected n_components={wanted.share:g} of the variance within max_components={wanted.most}, found "
        f"{share:.4f} with {min(wanted.most, len(values))} components after {scans} scans; "
        "give a larger max_components or max_scans, or a smaller share"
    )


def with_refined(fit: KrylovFit, spectrum: Spectrum, k: int) -> KrylovFit:
    """The fit with singular values of A on the span of its vectors, from a QR factorisation.

    They still are lower bounds; the upper ones stay, where they do not contradict them.
    """
    s, before = spectrum.singular_values[:k], fit.spectrum.singular_values[:k]
    above = np.maximum(before + fit.error_bounds - s, 0.0) + spectrum.absolute
    near = fit.residual_bounds + np.abs(s - before)
    return replace(fit, spectrum=spectrum, error_bounds=above, residual_bounds=near)
