"""TruncatedSVD: leading singular vectors of data that is not centred."""

from __future__ import annotations

from typing import Literal

import numpy as np

from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.estimators.linear import Linear
from eigenmill.reduce.estimators.solver import COMPONENTS, SCANS, TOL
from eigenmill.reduce.estimators.spectrum import Spectrum, rank_for_share
from eigenmill.reduce.format import Format
from eigenmill.reduce.rows.blocks import F64


class TruncatedSVD(Linear):
    """Truncated singular value decomposition; the data is not centred and may be sparse.

    It is exact and takes one scan up to a few thousand columns, and is iterated, with bounds of its error, beyond.

    Args:
        n_components: how many components to keep: an int; a float in (0, 1), the share of the squared Frobenius norm
            to reach; ``None``, the numerical rank.
        scale: divide every column by its standard deviation first (without centring), folded into the same scan.
        solver, refine, precision, tol, max_scans, max_components, block_size, warm_start, random_state: as of
            :class:`eigenmill.PCA`.

    Attributes:
        n_scans_, converged_: of the fit. residual_bounds_: (k,) some true singular value lies that near.
        components_: (k, d) right singular vectors; the entry of largest magnitude is positive.
        singular_values_: (k,) singular values. error_bounds_: (k,) bounds of their absolute errors.
        explained_variance_: (k,) variances of the transformed data, divisor n (they are not sorted).
        explained_variance_ratio_: (k,) the same over the total variance of the columns.
    """

    kind = "TruncatedSVD"
    _centred = False

    def __init__(
        self,
        n_components: int | float | None = 2,
        *,
        scale: bool = False,
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
        if isinstance(self.n_components, str):
            raise ConfigError(f"expected n_components an int, a float or None, found {self.n_components!r}")

    def _rank(self, spectrum: Spectrum, n: float, d: int) -> int:
        k = self.n_components
        if k is None:
            return spectrum.rank
        if isinstance(k, float | np.floating):
            return rank_for_share(spectrum.values / spectrum.total, float(k)) if spectrum.total > 0 else 1
        return int(k)

    def _set_spectrum(self, spectrum: Spectrum, n: float, variances: F64, format: Format) -> None:
        self.explained_variance_ = variances
        total = self._spread
        self.explained_variance_ratio_ = variances / total if total > 0 else np.zeros(len(variances))
