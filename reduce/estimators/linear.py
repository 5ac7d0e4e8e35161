"""What PCA and TruncatedSVD share: a spectrum from one scan, its refinement, and the maps there and back."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.engines.base import Engine
from eigenmill.reduce.errors import ConfigError, DataError
from eigenmill.reduce.estimators import sketch
from eigenmill.reduce.estimators.base import Estimator
from eigenmill.reduce.estimators.inputs import engine_for
from eigenmill.reduce.estimators.scaler import scale_of
from eigenmill.reduce.estimators.solver import Shape, choose, exact_stages
from eigenmill.reduce.estimators.spectrum import Spectrum, of_gram, of_rows, of_rows_refined, refined
from eigenmill.reduce.format import Format
from eigenmill.reduce.method import Bound, Method
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.passes.gram import Gram
from eigenmill.reduce.passes.intake import Intake, Moments
from eigenmill.reduce.passes.moments import MomentsPass, imputed
from eigenmill.reduce.passes.rows import RowsState
from eigenmill.reduce.passes.sketch import Sketch, SketchPass
from eigenmill.reduce.passes.tsqr import TsqrPass
from eigenmill.reduce.plan import Plan, Run
from eigenmill.reduce.rows.blocks import F64
from eigenmill.reduce.rows.transforms import ModelInput, Project, Reconstruct, Residual, Transform
from eigenmill.reduce.sources.base import NumberedNames

PRECISIONS = ("auto", "float64")


class Linear(Estimator):
    """Base of PCA (centred) and TruncatedSVD (not)."""

    _centred: bool
    fitted_attributes: ClassVar[tuple[str, ...]] = (
        *("components_", "singular_values_", "error_bounds_", "explained_variance_", "explained_variance_ratio_"),
        *("mean_", "scale_", "n_components_", "n_samples_", "solver_"),
        *("residual_bounds_", "n_scans_", "converged_"),
    )

    n_components: Any
    scale: bool
    solver: str
    refine: bool
    precision: str
    tol: float | None
    max_scans: int
    max_components: int
    block_size: int | None
    warm_start: bool
    random_state: Any

    components_: F64
    singular_values_: F64
    mean_: F64
    scale_: F64 | None

    def _validate(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"expected precision among {', '.join(PRECISIONS)}, found {self.precision!r}")
        k = self.n_components
        if isinstance(k, bool | np.bool_) or not (k is None or isinstance(k, str | int | float | np.number)):
            raise ConfigError(f"expected n_components an int, a float, a name or None, found {k!r}")
        if isinstance(k, float | np.floating) and not 0 < k < 1:
            raise ConfigError(f"expected n_components between 0 and 1 for a share of the variance, found {k!r}")
        if isinstance(k, int | np.integer) and k < 1:
            raise ConfigError(f"expected n_components >= 1, found {k!r}")
        choose(self.solver, Shape(1, 1, 1, False), self._asked())
        if self.tol is not None and not self.tol > 0:
            raise ConfigError(f"expected tol > 0 or None, found {self.tol!r}")
        for name in ("max_scans", "max_components", "block_size"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1):
                raise ConfigError(f"expected {name} a whole number >= 1, found {value!r}")

    def _dtype(self, data: Dataset) -> np.dtype[Any]:
        """The data's own precision, unless the parameter ``precision`` asks for float64."""
        return np.dtype(np.float64) if self.precision == "float64" else super()._dtype(data)

    def _asked(self) -> int | float | None:
        """The number of components or their share; None when the choice needs every eigenvalue."""
        k = self.n_components
        return None if k is None or isinstance(k, str) else k

    def _method(self, intake: Intake, shape: Shape) -> Method:
        solver, reason = choose(self.solver, shape, self._asked())
        d, most = shape.features, max(min(shape.rows, shape.features), 1)
        k = None if self._whole() else int(self.n_components)
        seed = reserve = None
        if solver == "sketch":
            if k is not None and k > d:
                raise ConfigError(f"expected n_components up to {d} features, found {k}; ask for fewer")
            wanted = self._wanted(d, self._seed(ahead=True), shape.format)
            first = self._moments_first(intake, shape.sparse)
            stages = sketch.stages(wanted, intake, shape, first=first, refine=self.refine)
            most, seed = wanted.most, wanted.seed
            if wanted.scans > 1:
                reserve = sketch.basis(d, wanted.columns, wanted.scans)
        else:
            stages = exact_stages(solver, intake, shape, k, refine=self.refine)
        components = Bound(1, most, "as many as the data need") if k is None else Bound.exact(k)
        return Method(solver, reason, stages, components, partial(self._outline, intake), seed, reserve)

    def _outline(self, intake: Intake, k: int) -> Transform:
        """The transform of ``k`` components, zeros that are never touched."""
        d = len(intake.names)
        input = ModelInput(intake.names, intake.dtype, intake.policy, intake.format)
        return Project(input, np.zeros(d), np.zeros((d, k)), NumberedNames(type(self).__name__.lower(), k))

    def _first_pass(self, plan: Plan, intake: Intake, threads: int) -> Pass[Any, Any]:
        first = super()._first_pass(plan, intake, threads)
        if not isinstance(first, SketchPass):
            return first
        d = len(intake.names)
        return replace(
            first, weights=sketch.start(self._wanted(d, plan.seed, intake.format), d, self._earlier(d), threads)
        )

    def _drawn(self, plan: Plan) -> None:
        if plan.seed is not None:
            self._seed(ahead=False)

    def _seed(self, *, ahead: bool) -> int:
        """Of the sketch solver's random numbers. ``ahead`` leaves a RandomState where it is, for a fit to come."""
        state = self.random_state
        if state is None:
            return 0
        if isinstance(state, int | np.integer):
            return int(state)
        state = check_random_state(state)
        return int((copy.deepcopy(state) if ahead else state).randint(1 << 31))

    def _moments_first(self, intake: Intake, sparse: bool) -> bool:
        return sketch.moments_first(intake, sparse=sparse, centred=self._centred, scale=self.scale)

    def _earlier(self, d: int) -> F64 | None:
        """(d, k) directions of the model as fitted before, for a warm start."""
        components: F64 | None = vars(self).get("components_") if self.warm_start else None
        return components.T if components is not None and components.shape[1] == d else None

    def _wanted(self, d: int, seed: int | None, format: Format) -> sketch.Wanted:
        """What the sketch solver is asked for."""
        k, most = None if self._whole() else int(self.n_components), min(self.max_components, d)
        share, earlier = float(self.n_components) if k is None else 1.0, self._earlier(d)
        before = 0 if earlier is None else earlier.shape[1]
        width = min(self.block_size or sketch.width_of(k, most, d, format), d - before)
        return sketch.Wanted(k, share, most, self.tol, self.max_scans, width, width + before, seed or 0, format)

    def _whole(self) -> bool:
        """Whether choosing the rank needs every eigenvalue."""
        return not isinstance(self.n_components, int | np.integer)

    def _rank(self, spectrum: Spectrum, n: float, d: int) -> int:
        """The number of components to keep."""
        raise NotImplementedError

    def _set_spectrum(self, spectrum: Spectrum, n: float, variances: F64, format: Format) -> None:
        """Set variances and their ratios; ``variances`` (k,) are those of the components, with divisor n."""
        raise NotImplementedError

    def _finish(self, result: Any, intake: Intake, data: Dataset | None, run: Run) -> Moments:
        solver = run.plan.solver
        moments: Moments = result if isinstance(result, Moments) else result.moments
        self._refuse_empty(moments, intake.policy)
        d, n, format = len(intake.names), moments.total, intake.format
        if n <= 1 and self._centred:
            raise DataError(f"expected a sum of weights above 1 (two rows or more), found {n:g}; there is no variance")
        mean, variance, _ = imputed(moments, intake.policy)
        if isinstance(result, Gram):
            mean, variance = result.mean, np.diag(result.cross).copy() / n
        self.mean_, self.scale_ = mean, scale_of(variance) if self.scale else None
        most = int(min(n, d)) if n >= 1 else 1
        if not self._whole() and self.n_components > most:
            raise ConfigError(
                f"expected n_components between 1 and min(n_samples, n_features)={most} with solver={solver!r}, "
                f"found n_components={self.n_components}; ask for fewer"
            )
        self.solver_, self.n_samples_ = solver, int(n) if n == int(n) else n
        self._spread = float((variance if self.scale_ is None else variance / self.scale_**2).sum())
        if solver == "sketch" and data is not None:
            self._iterate(result, moments, mean, variance, intake, data, run)
            return moments
        wanted = None if self._whole() or self.refine else int(self.n_components)
        centre = mean if self._centred else np.zeros(d)
        if isinstance(result, Gram):
            centred = np.tril(result.cross) if not self._centred else None
            spectrum = of_gram(result, self.scale_, intake.dtype, centred=self._centred, k=wanted, format=format)
            if self.refine:
                spectrum = self._refined(spectrum, result, intake, centre, data, run)
        else:
            rows: RowsState = result
            spectrum = (of_rows_refined if self.refine else of_rows)(rows, centre, self.scale_, format)
            centred = None
        k = max(min(self._rank(spectrum, n, d), len(spectrum.values), spectrum.vectors.shape[1]), 1)
        self.n_components_ = k
        kept = spectrum.leading(k)
        self.components_ = np.ascontiguousarray(kept.vectors.T)
        self.singular_values_ = kept.singular_values
        self.error_bounds_ = kept.error_bounds
        # Exact up to rounding: some singular value lies as near as the one of that index.
        self.residual_bounds_ = self.error_bounds_.copy()
        self.n_scans_, self.converged_ = 2 if self.refine and solver == "gram" else 1, True
        self._set_spectrum(spectrum, n, self._variances(kept, centred, result, n), format)
        return moments

    def _iterate(
        self, result: object, moments: Moments, mean: F64, variance: F64, intake: Intake, data: Dataset, run: Run
    ) -> None:
        """The sketch solver, from the result of its first pass."""
        d, n, earlier = len(intake.names), moments.total, self._earlier(len(intake.names))
        wanted = self._wanted(d, run.plan.seed, data.format)
        setting = sketch.setting_of(
            moments, mean, variance, self.scale_, intake, centred=self._centred, sparse=data.sparse
        )
        begun = result if isinstance(result, Sketch) else None
        spare = (begun is None) + self.refine
        fit = sketch.solve(wanted, setting, begun, intake, data, run, earlier, spare)
        k = len(fit.residual_bounds)
        if self.refine:
            wide = replace(intake, dtype=np.dtype(np.float64))
            centre = mean if self._centred else np.zeros(d)
            weights = np.ascontiguousarray(setting.into(fit.spectrum.vectors))
            pivot = setting.pivot
            r = run.scan(TsqrPass(wide, pivot, centre - pivot, weights, mean - centre), data)
            height = data.format.max_height if data.sparse else data.format.block_height(d)
            fit = sketch.with_refined(fit, refined(fit.spectrum, r, fit.terms, height, data.format), k)
        kept = fit.spectrum.leading(k)
        self.n_components_ = k
        self.components_ = np.ascontiguousarray(kept.vectors.T)
        self.singular_values_ = kept.singular_values
        self.error_bounds_, self.residual_bounds_ = fit.error_bounds, fit.residual_bounds
        self.n_scans_, self.converged_ = fit.scans, bool(fit.converged)
        offset = np.zeros(d) if self._centred else mean
        along = setting.into(kept.vectors).T @ offset
        self._set_spectrum(fit.spectrum, n, np.maximum(kept.values / n - along**2, 0.0), data.format)

    def _variances(self, kept: Spectrum, centred: F64 | None, result: Any, n: float) -> F64:
        """(k,) variance of the data along each component, divisor n."""
        if self._centred:
            return kept.values / n
        V = kept.vectors if self.scale_ is None else kept.vectors / self.scale_[:, None]
        if centred is not None:
            lower = centred
            product = lower @ V + np.tril(lower, -1).T @ V
            return np.asarray(np.maximum(np.einsum("ij,ij->j", V, product), 0.0) / n)
        rows: RowsState = result
        y = rows.y + (np.nan_to_num(rows.pivot) - self.mean_)
        if rows.present is not None:
            y *= rows.present  # a gap is filled by the mean
        scores = y @ V
        return np.asarray(rows.weights @ (scores - rows.weights @ scores / n) ** 2 / n)

    def _refined(
        self,
        spectrum: Spectrum,
        result: Gram,
        intake: Intake,
        centre: F64,
        data: Dataset | None,
        run: Run,
    ) -> Spectrum:
        """Full precision by one more scan.

        The leading directions alone are rotated when they stand well above the rounding noise; otherwise small ones
        may hide outside their span, and all directions are.
        """
        if not self._whole() and spectrum.values[self.n_components - 1] > intake.format.refine_above * spectrum.noise:
            spectrum = spectrum.leading(int(self.n_components))
        assert data is not None  # going on from a state is refused
        wide, pivot = replace(intake, dtype=np.dtype(np.float64)), result.pivot
        weights = spectrum.vectors if self.scale_ is None else spectrum.vectors / self.scale_[:, None]
        r = run.scan(TsqrPass(wide, pivot, centre - pivot, np.ascontiguousarray(weights), self.mean_ - centre), data)
        height = intake.format.block_height(len(intake.names))
        return refined(spectrum, r, result.depth, height, intake.format)

    # The maps.

    def _basis(self) -> tuple[F64, F64]:
        """(weights (d, k), basis (k, d)): ``z = (x - mean) @ weights`` and ``x = z @ basis + mean``."""
        scale = np.ones(self.components_.shape[1]) if self.scale_ is None else self.scale_
        return (self.components_ / scale).T, self.components_ * scale

    @property
    def _shift(self) -> F64:
        return self.mean_ if self._centred else np.zeros_like(self.mean_)

    def _output_names(self) -> Sequence[str]:
        return NumberedNames(type(self).__name__.lower(), self.n_components_)

    def _transform(self, input: ModelInput) -> Transform:
        return Project(input, self._shift, self._basis()[0], self._output_names())

    @property
    def _n_features_out(self) -> int:
        return int(self.n_components_)

    def inverse_transform(self, X: object) -> Any:
        """From reduced features (n, k) back to the original columns (n, d), in original units."""
        check_is_fitted(self, "cleaning_")
        data = X if isinstance(X, Dataset) else Dataset.from_numpy(np.asarray(X))
        basis, names = self._basis()[1], self._names
        dtype = np.dtype(np.float32) if data.dtype == np.float32 else np.dtype(np.float64)
        out = data.then(Reconstruct(basis, self._shift, names, dtype))
        return out if isinstance(X, Dataset) else out.to_numpy()

    def reconstruction_error(self, X: object, *, engine: Engine | None = None) -> dict[str, Any]:
        """How far ``inverse_transform(transform(X))`` is from ``X``, in one scan.

        Returns:
            ``rmse`` (d,) per column and ``rmse_total`` over all entries, in original units; ``unexplained``, the
            squared error over the sum of squared deviations from the mean.
        """
        check_is_fitted(self, "cleaning_")
        data = self._dataset(X, None, reset=False)
        weights, basis = self._basis()
        input = ModelInput(self._names, np.dtype(np.float64), self.cleaning_, data.format)
        residual = data.then(Residual(Project(input, self._shift, weights, self._output_names()), basis))
        policy = residual.cleaning.resolve(residual.feature_names)
        intake = Intake(residual.feature_names, np.dtype(np.float64), policy, data.format)
        found: Moments = engine_for(residual, engine).run(MomentsPass(intake), residual)
        squares = found.m2 + found.count * found.mean**2
        spread = float(self.quality_.m2.sum()) * (found.total / self.quality_.total)
        return {
            "rows": found.rows,
            "rmse": np.sqrt(squares / found.count),
            "rmse_total": float(np.sqrt(squares.sum() / found.count.sum())),
            "unexplained": float(squares.sum()) / spread if spread > 0 else 0.0,
        }


__all__ = ["Linear"]
