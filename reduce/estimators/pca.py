"""PCA: principal components of centred, optionally standardized data."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from sklearn.utils.validation import check_is_fitted

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.engines.base import Engine
from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.estimators.inputs import engine_for
from eigenmill.reduce.estimators.linear import Linear
from eigenmill.reduce.estimators.solver import COMPONENTS, SCANS, TOL
from eigenmill.reduce.estimators.spectrum import Spectrum, minka_rank, optimal_threshold, rank_for_share
from eigenmill.reduce.format import Format
from eigenmill.reduce.passes.intake import Intake, Moments
from eigenmill.reduce.passes.moments import MomentsPass
from eigenmill.reduce.rows.blocks import F64
from eigenmill.reduce.rows.transforms import LogLikelihood, ModelInput


class PCA(Linear):
    """Principal component analysis: exact, in one scan, and for wide data iterated, with bounds of its error.

    The centred cross product of all columns is accumulated about a pivot and merged without loss of digits, so a
    mean of 1e8 standard deviations does no harm. That is for dense or sparse data up to a few thousand columns, or
    with fewer rows than columns; beyond, a Krylov space takes one scan per step.

    Args:
        n_components: how many components to keep: an int; a float in (0, 1), the share of the variance to reach;
            ``None``, the numerical rank; ``"mle"``, Minka's (2000) choice; ``"denoise"``, Gavish and Donoho's (2014)
            optimal hard threshold for unknown noise.
        scale: standardize every column first (divisor n), folded into the same scan. Equals
            ``make_pipeline(StandardScaler(), PCA())``; components are in standardized units.
        whiten: give every component unit variance. Directions below the numerical rank come out as 0.
        solver: ``"gram"`` forms the d x d cross product; ``"dual"`` keeps the rows and forms the n x n one;
            ``"sketch"`` iterates, one scan per step, for data too wide for both; ``"auto"`` chooses by the metadata
            and the parameters alone.
        refine: one more scan (TSQR) for singular values and vectors to full precision: without it values below about
            1e-8 of the largest are noise (1e-4 for float32 products).
        precision: ``"auto"`` multiplies in the data's own precision and accumulates in float64; ``"float64"``
            converts float32 data first.
        tol: relative accuracy of singular values that the sketch solver stops at, by ``residual_bounds_``; ``None``
            uses all ``max_scans``. Not reaching it is a ConvergenceWarning.
        max_scans: scans of the sketch solver, those of moments and refinement included. With a single product
            (``max_scans=1``, for data that can be read once) the Nystroem approximation is taken, and its bounds hold
            always. It is not the sketch of Tropp and others (2019), which keeps a row for every row of the data.
        max_components: most components that it tries for a share.
        block_size: Gaussian vectors per scan; by default a quarter more than ``n_components``, at least 10 more.
        warm_start: let it start from ``components_`` of the fit before, besides random vectors.
        random_state: where the random vectors of the sketch solver start.

    Attributes:
        n_scans_, converged_: of the fit. residual_bounds_: (k,) some true singular value lies that near.
        components_: (k, d) principal axes, orthonormal rows; the entry of largest magnitude is positive.
        explained_variance_: (k,) variances along them, divisor n - 1.
        explained_variance_ratio_: (k,) shares of the total variance.
        singular_values_: (k,) singular values of the centred (scaled) data.
        error_bounds_: (k,) bounds of their absolute errors (Weyl; Higham 2002, section 3.5).
        mean_: (d,) means. scale_: (d,) standard deviations, or None.
        noise_variance_: mean variance of the directions left out.
        n_components_, n_samples_, n_features_in_, feature_names_in_: as in scikit-learn.
        solver_: the solver used. quality_: what was read, per column. cleaning_: the policy as learnt.
    """

    kind = "PCA"
    _centred = True
    fitted_attributes = (*Linear.fitted_attributes, "noise_variance_", "_floor")

    def __init__(
        self,
        n_components: int | float | Literal["mle", "denoise"] | None = None,
        *,
        scale: bool = False,
        whiten: bool = False,
        solver: Literal["auto", "gram", "dual", "sketch"] = "auto",
        refine: bool = False,
        precision: Literal["auto", "float64"] = "auto",
        tol: float | None = TOL,
        max_scans: int = SCANS,
        max_components: int = COMPONENTS,
        block_size: int | None = None,
        warm_start: bool = False,
        random_state: object = None,
    ) -> None:
        self.n_components = n_components
        self.scale = scale
        self.whiten = whiten
        self.solver = solver
        self.refine = refine
        self.precision = precision
        self.tol = tol
        self.max_scans = max_scans
        self.max_components = max_components
        self.block_size = block_size
        self.warm_start = warm_start
        self.random_state = random_state

    def _validate(self) -> None:
        super()._validate()
        if isinstance(self.n_components, str) and self.n_components not in ("mle", "denoise"):
            raise ConfigError(f"expected n_components 'mle' or 'denoise', found {self.n_components!r}")

    def _rank(self, spectrum: Spectrum, n: float, d: int) -> int:
        k = self.n_components
        if k is None:
            return spectrum.rank
        if k == "mle":
            if n < d:
                raise ConfigError(f"n_components='mle' needs n_samples >= n_features, found {n:g} < {d}")
            return minka_rank(spectrum.values / (n - 1), n)
        if k == "denoise":
            size = max(int(min(n - 1, d)), 1)
            values = spectrum.singular_values[:size]
            return int((values > optimal_threshold(values, max(int(n) - 1, 1), d)).sum())
        if isinstance(k, float | np.floating):
            return rank_for_share(spectrum.values / spectrum.total, float(k)) if spectrum.total > 0 else 1
        return int(k)

    def _set_spectrum(self, spectrum: Spectrum, n: float, variances: F64, format: Format) -> None:
        k, divisor = len(variances), n - 1
        total = spectrum.total
        self.explained_variance_ = spectrum.values[:k] / divisor
        self.explained_variance_ratio_ = spectrum.values[:k] / total if total > 0 else np.zeros(k)
        left = int(min(n, len(self.mean_))) - k
        rest = max(total - float(spectrum.values[:k].sum()), 0.0)
        # Below the noise of the sum there is nothing left, only rounding.
        rest = 0.0 if rest <= format.sum_noise * len(self.mean_) * np.finfo(np.float64).eps * total else rest
        self.noise_variance_ = rest / left / divisor if left > 0 else 0.0
        self._floor = spectrum.noise / divisor

    def _basis(self) -> tuple[F64, F64]:
        weights, basis = super()._basis()
        if not self.whiten:
            return weights, basis
        deviation = np.sqrt(self.explained_variance_)
        kept = self.explained_variance_ > self._floor
        return weights * np.where(kept, 1 / np.where(kept, deviation, 1.0), 0.0), basis * deviation[:, None]

    # The probabilistic model of Tipping and Bishop (1999). With ``scale`` it is that of the standardized columns.

    def get_covariance(self) -> F64:
        """(d, d) model covariance ``W^T (L - s2 I) W + s2 I``; of the standardized columns when ``scale``."""
        check_is_fitted(self, "cleaning_")
        excess = np.maximum(self.explained_variance_ - self.noise_variance_, 0.0)
        covariance = (self.components_.T * excess) @ self.components_
        covariance.flat[:: len(covariance) + 1] += self.noise_variance_
        return np.asarray(covariance)

    def get_precision(self) -> F64:
        """(d, d) inverse of :meth:`get_covariance`, by the basis where there is noise to divide by."""
        check_is_fitted(self, "cleaning_")
        if self.noise_variance_ == 0:
            return np.asarray(np.linalg.pinv(self.get_covariance(), hermitian=True))
        inverse = 1 / np.maximum(self.explained_variance_, self.noise_variance_) - 1 / self.noise_variance_
        precision = (self.components_.T * inverse) @ self.components_
        precision.flat[:: len(precision) + 1] += 1 / self.noise_variance_
        return np.asarray(precision)

    def score_samples(self, X: object) -> Any:
        """Log-likelihood of each row: an array (n,) for arrays, a Dataset of one column for a Dataset."""
        check_is_fitted(self, "cleaning_")
        data = self._dataset(X, None, reset=False)
        out = data.then(self._likelihood(data.format))
        return out if isinstance(X, Dataset) else out.to_numpy()[:, 0]

    def score(self, X: object, y: object = None, *, engine: Engine | None = None) -> float:
        """Mean log-likelihood of the rows, in one scan."""
        check_is_fitted(self, "cleaning_")
        data = self._dataset(X, None, reset=False)
        data = data.then(self._likelihood(data.format))
        names = data.feature_names
        pass_ = MomentsPass(Intake(names, np.dtype(np.float64), data.cleaning.resolve(names), data.format))
        found: Moments = engine_for(data, engine).run(pass_, data)
        return float(found.mean[0])

    def _likelihood(self, format: Format) -> LogLikelihood:
        d, k, noise = len(self.mean_), self.n_components_, self.noise_variance_
        variances = np.maximum(self.explained_variance_, noise)
        seen = variances > max(self._floor, 0.0)
        across = d - k if noise > 0 else 0
        logs = float(np.log(variances[seen]).sum()) + (across * np.log(noise) if across else 0.0)
        return LogLikelihood(
            ModelInput(self._names, np.dtype(np.float64), self.cleaning_, format),
            self.mean_,
            self.scale_,
            self.components_,
            np.where(seen, 1 / np.where(seen, variances, 1.0), 0.0),
            1 / noise if noise > 0 else 0.0,
            -0.5 * ((int(seen.sum()) + across) * np.log(2 * np.pi) + logs),
        )
