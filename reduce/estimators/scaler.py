"""StandardScaler: moments in one scan."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.base import OneToOneFeatureMixin
from sklearn.utils.validation import check_is_fitted

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.estimators.base import Estimator
from eigenmill.reduce.estimators.solver import Shape
from eigenmill.reduce.method import Bound, Method, Stage
from eigenmill.reduce.passes.intake import Intake, Moments
from eigenmill.reduce.passes.moments import MomentsPass, imputed
from eigenmill.reduce.plan import Run
from eigenmill.reduce.rows.blocks import F64
from eigenmill.reduce.rows.transforms import ModelInput, Standardize, Transform, Unscale


def scale_of(variance: F64) -> F64:
    """(d,) standard deviations, with 1 for constant columns: scikit-learn's rule, on variances exact for them."""
    scale = np.sqrt(variance)
    found: F64 = np.where((scale == 0) | np.isnan(scale), 1.0, scale)
    return found


class StandardScaler(OneToOneFeatureMixin, Estimator):
    """Centre every column to mean 0 and scale it to standard deviation 1.

    The statistics come from one scan by a pairwise update that loses no digits however large the mean (Chan, Golub
    and LeVeque 1983). Missing values in arrays are ignored and passed on, as in scikit-learn; a Dataset follows its
    own policy (``missing="keep"`` for the same).

    Args:
        with_mean: subtract the mean; not for sparse data, which it would fill.
        with_std: divide by the standard deviation (divisor n); constant columns are divided by 1.

    Attributes:
        mean_: (d,) means, or None when neither is asked for.
        var_: (d,) variances with divisor n, or None without ``with_std``.
        scale_: (d,) what columns are divided by, or None.
        n_samples_seen_: rows; (d,) counts of the values present when these differ.
        quality_: what was read, per column.
    """

    fitted_attributes = ("mean_", "var_", "scale_", "n_samples_seen_")
    kind = "StandardScaler"
    _array_policy: ClassVar[str] = "keep"
    _least_rows: ClassVar[int] = 1

    def __init__(self, *, with_mean: bool = True, with_std: bool = True) -> None:
        self.with_mean = with_mean
        self.with_std = with_std

    def _method(self, intake: Intake, shape: Shape) -> Method:
        self._refuse_sparse(shape.sparse)
        d, work = shape.features, 4.0 * shape.stored
        stage = Stage(MomentsPass(intake), "for means and variances", work)
        input = ModelInput(intake.names, intake.dtype, intake.policy, intake.format)
        outline = Standardize(input, np.zeros(d) if self.with_mean else None, np.zeros(d))
        return Method("moments", "one scan", (stage,), Bound.exact(d), lambda _: outline)

    def _dataset(self, X: object, sample_weight: object, *, reset: bool) -> Dataset:
        data = super()._dataset(X, sample_weight, reset=reset)
        self._refuse_sparse(data.sparse)
        return data

    def _refuse_sparse(self, sparse: bool) -> None:
        if self.with_mean and sparse:
            raise ConfigError("Cannot center sparse matrices: pass with_mean=False, which keeps them sparse")

    def _accepts_sparse(self) -> bool:
        return not self.with_mean

    def _finish(self, result: Moments, intake: Intake, data: Dataset | None, run: Run) -> Moments:
        self._refuse_empty(result, intake.policy)
        mean, variance, n = imputed(result, intake.policy)
        self.mean_ = mean if self.with_mean or self.with_std else None
        self.var_ = variance if self.with_std else None
        self.scale_ = scale_of(variance) if self.with_std else None
        counts = n.astype(np.int64) if (n == n.astype(np.int64)).all() else n
        self.n_samples_seen_ = counts if (counts != counts[:1]).any() else counts[0].item()
        return result

    def _transform(self, input: ModelInput) -> Transform:
        return Standardize(input, self.mean_ if self.with_mean else None, self.scale_)

    def _collect(self, data: Dataset) -> Any:
        return data.to_sparse() if data.source.sparse and not self.with_mean else data.to_numpy()

    def inverse_transform(self, X: object) -> Any:
        """Back to the original units: ``X * scale_ + mean_``; arrays give arrays, a Dataset a Dataset."""
        check_is_fitted(self, "cleaning_")
        data = self._dataset(X, None, reset=False)
        undo = Unscale(tuple(self._names), self.mean_ if self.with_mean else None, self.scale_, data.dtype)
        out = data.then(undo)
        return out if isinstance(X, Dataset) else self._collect(out)


__all__ = ["StandardScaler", "scale_of"]
