"""What the estimators share: arrays and data sets as input, state that can go on, saving and loading.

In scikit-learn's way an estimator is an ordinary class, its parameters are plain values, and fitted attributes end
in an underscore. Arrays, sparse matrices and data frames are validated by scikit-learn and give arrays; a Dataset, a
path or an Arrow table is taken as it is, and ``transform`` gives another lazy Dataset.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from eigenmill.reduce.dataset import Dataset, as_dataset
from eigenmill.reduce.engines.base import Engine, Tree, one_blas_thread
from eigenmill.reduce.engines.collections import Collection
from eigenmill.reduce.engines.kinds import Cluster
from eigenmill.reduce.errors import ConfigError, DataError
from eigenmill.reduce.estimators.fitted import Snapshot
from eigenmill.reduce.estimators.inputs import engine_for, is_lazy, kept_state, lazy_data_passes_by
from eigenmill.reduce.estimators.panels import cores
from eigenmill.reduce.estimators.record import StateRecord, fingerprint, refuse, rows_not_seen
from eigenmill.reduce.estimators.saving import save
from eigenmill.reduce.estimators.solver import Shape
from eigenmill.reduce.format import Format, current
from eigenmill.reduce.method import Method, Stage, keeping
from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.passes.intake import Intake, Moments
from eigenmill.reduce.passes.moments import MomentsPass
from eigenmill.reduce.plan import Plan, Run, plan_of
from eigenmill.reduce.rows.cleaning import KEEP, MEAN, Resolved
from eigenmill.reduce.rows.transforms import ModelInput, Transform
from eigenmill.reduce.sources import seen
from eigenmill.reduce.sources.catalog import Files
from eigenmill.reduce.storage.about import versions


class Estimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base of PCA, TruncatedSVD and StandardScaler: everything but their algebra."""

    kind: ClassVar[str]
    """What a model file calls it, whatever the class is called."""
    _array_policy: ClassVar[str] = "error"
    _least_rows: ClassVar[int] = 2
    fitted_attributes: ClassVar[tuple[str, ...]]
    """The fitted attributes of a :class:`Snapshot`, beside those that all estimators have."""

    n_features_in_: int
    quality_: Moments
    cleaning_: Resolved
    digest_: str | None = None
    """That of the saved model, after loading it."""

    _names: Sequence[str]
    _layout: Mapping[str, Any]
    _dtype_: np.dtype[Any]
    _seen: Mapping[str, Any]
    _record: StateRecord | None = None
    _read_record: Callable[[], StateRecord] | None = None

    # What a subclass gives.

    def _method(self, intake: Intake, shape: Shape) -> Method:
        """How data of this shape, by the metadata, are fitted."""
        raise NotImplementedError

    def _first_pass(self, plan: Plan, intake: Intake, threads: int) -> Pass[Any, Any]:
        """The solver's first pass, made of the one that was planned."""
        first: Pass[Any, Any] = replace(plan.method.first.pass_, intake=intake)  # type: ignore[type-var]
        return first

    def _finish(self, result: Any, intake: Intake, data: Dataset | None, run: Run) -> Moments:
        """Set the fitted attributes; ``data`` is None when it cannot be scanned again. Returns the moments read."""
        raise NotImplementedError

    def _transform(self, input: ModelInput) -> Transform:
        """The fitted model as a row-local transform."""
        raise NotImplementedError

    def _accepts_sparse(self) -> bool:
        return True

    def _validate(self) -> None:
        """Refuse bad parameters (at fit, as scikit-learn does)."""

    # Plan.

    def plan(
        self,
        X: object,
        *,
        engine: Engine | Cluster | None = None,
        sink: Sink | None = None,
        keep_state: bool | None = None,
    ) -> Plan:
        """What ``fit(X)`` will do and, with a ``sink``, writing the features there; only metadata is read.

        Args:
            X: as of :meth:`fit`.
            engine: where to run; or a :class:`eigenmill.reduce.engines.kinds.Cluster`, which need not be there.
            sink: of the features.
            keep_state: as of :meth:`fit`.

        Raises:
            ConfigError: the parameters do not suit the data.
        """
        self._validate()
        data = as_dataset(X) if is_lazy(X) else Dataset.from_numpy(X, missing=self._array_policy)
        return self._plan(data, engine_for(data, engine), sink, keep=kept_state(X, keep_state))

    def _plan(
        self,
        data: Dataset,
        engine: Engine | Cluster,
        sink: Sink | None = None,
        record: StateRecord | None = None,
        *,
        keep: bool | None,
    ) -> Plan:
        """The plan for ``data``, which may go on from a ``record``; ``keep=None`` keeps a state that is small."""
        dtype, rows, policy = self._dtype(data), data.n_rows, self._policy(data)
        intake = Intake(data.feature_names, dtype, policy, data.format)
        stage, unlimited = None, np.full(data.n_features, np.inf)
        if record is not None:
            # Rows of a wider type than the first ones are not cut down to theirs.
            intake, rows = replace(intake, dtype=np.promote_types(record.dtype, dtype)), record.rows + rows
            intake = replace(intake, policy=record.policy)
        elif data.cleaning.clip_sd is not None:
            why = f"to learn limits at {data.cleaning.clip_sd:g} standard deviations"
            stage = Stage(MomentsPass(intake), why, 4.0 * data.stored)
            intake = replace(intake, policy=policy.with_limits(-unlimited, unlimited))
        method = self._method(intake, Shape.of(data, rows))
        if stage is not None:
            method = replace(method, stages=(stage, *method.stages), limits=True)
        if keep is None:
            keep = method.solver not in ("dual", "sketch")
        if keep and method.solver != "sketch":
            method = keeping(method, data, rows, None if record is None else record.tree)
        parameters = self.get_params(deep=False)
        return plan_of(method, data, engine, sink, dtype=intake.dtype, parameters=parameters, keep_state=keep)

    def _taken(self, plan: Plan, data: Dataset, keep_state: bool | None) -> Plan:
        """A plan that was made before, if it is one for this."""
        same = plan.data is data and plan.parameters == self.get_params(deep=False)
        if not same or keep_state not in (None, plan.keep_state):
            raise ConfigError("expected the plan of this estimator for this Dataset, found another; make a new one")
        return plan

    def _drawn(self, plan: Plan) -> None:
        """Told that the random numbers of ``plan`` are used now."""

    # Fit.

    def fit(
        self,
        X: object,
        y: object = None,
        sample_weight: object = None,
        *,
        engine: Engine | None = None,
        keep_state: bool | None = None,
        plan: Plan | None = None,
    ) -> Self:
        """Fit to ``X``.

        Args:
            X: (n, d) array, SciPy sparse matrix or data frame; or a Dataset, a Parquet path, an Arrow table.
            y: ignored.
            sample_weight: (n,) frequencies, for arrays; a Dataset names its column of weights itself.
            engine: where to run; by default this process with all its CPUs.
            keep_state: keep what :meth:`partial_fit` and ``save(state=True)`` go on from: some d x d matrices, or
                with the dual solver the rows. By default kept for arrays, unless it is the rows. The sketch
                solver has nothing to keep: use ``warm_start``.
            plan: that of :meth:`plan` for this Dataset and engine, to be run; by default it is made now.

        Raises:
            DoesNotFitError: the plan takes more memory than the engine may use; nothing has been read.
        """
        self._validate()
        data = self._dataset(X, sample_weight, reset=True)
        engine = engine_for(data, engine)
        if plan is None:
            plan = self._plan(data, engine, keep=kept_state(X, keep_state))
        else:
            plan = self._taken(plan, data, keep_state)
        return self._run(plan, data, engine, None)

    def partial_fit(
        self, X: object, y: object = None, sample_weight: object = None, *, engine: Engine | None = None
    ) -> Self:
        """Go on from what has been seen.

        With files, after ``fit(..., keep_state=True)`` or after loading a model saved with its state: files already
        seen are skipped, changed or vanished ones are refused, and the result equals to the byte the full fit over
        all files in the order in which they were seen. With arrays each call adds its rows, and the result agrees
        with the full fit to about 1e-12.
        """
        self._validate()
        record = self.state()
        if record is None:
            if "cleaning_" in vars(self):
                raise ConfigError(
                    "expected a model that has kept its state, found one without; "
                    "fit with keep_state=True, or load a model saved with state=True"
                )
            data = self._dataset(X, sample_weight, reset=True)
        else:
            data, record = rows_not_seen(self._dataset(X, sample_weight, reset=False), record)
            if not data.fragments:
                return self
        engine = engine_for(data, engine)
        return self._run(self._plan(data, engine, record=record, keep=True), data, engine, record)

    def _run(self, plan: Plan, data: Dataset, engine: Engine, record: StateRecord | None) -> Self:
        """Do what ``plan`` says, going on from a ``record`` if there is one."""
        refuse(plan, record)
        self._drawn(plan)
        with engine.session(plan.method.reserve, plan.need) as session:
            run = Run(plan, session)
            if record is None:
                record = StateRecord(Tree(), (), 0, "", self._limited(data, run), self._dtype(data), data.format)
            intake = Intake(data.feature_names, record.dtype, record.policy, data.format)
            with one_blas_thread():  # a start that is random is made orthonormal, and all results follow from it
                wide = replace(intake, dtype=np.promote_types(record.dtype, self._dtype(data)))
                pass_ = self._first_pass(plan, wide, cores(engine))
            again = data if record.rows == 0 else None
            # A copy, so that bad new data leaves what was known untouched.
            tree = copy.deepcopy(record.tree) if plan.keep_state else None
            result = run.scan(pass_, data, tree=tree)
            with one_blas_thread():  # eigh and its like differ between 1 and 2 threads
                moments = self._finish(result, intake, again, run)
        source, rows = data.source, record.rows + data.n_rows
        files = Files(chain(record.files, seen.absolute_files(source)))
        record = StateRecord(tree or record.tree, files, rows, plan.solver, record.policy, record.dtype, record.format)
        self.quality_ = moments
        self.cleaning_ = record.policy.with_means(moments.mean)
        self._layout, self._dtype_ = dict(source.describe()), data.dtype
        self._seen = fingerprint(record.files, rows)
        self._record, self._read_record, self.digest_ = record if plan.keep_state else None, None, None
        return self

    # The fitted model as plain values.

    def state(self) -> StateRecord | None:
        """What :meth:`partial_fit` goes on from: kept since the fit, or read from the saved model now; None if neither.

        Raises:
            ArtifactError: the state that was saved is damaged.
        """
        if self._record is None and self._read_record is not None:
            self._record = self._read_record()
        return self._record

    def snapshot(self) -> Snapshot:
        """The fitted model as one record; its arrays are views of the attributes, not copies."""
        check_is_fitted(self, "cleaning_")
        arrays: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for name in self.fitted_attributes:
            value = vars(self)[name]
            if isinstance(value, np.ndarray):
                arrays[name] = value.view()
                arrays[name].flags.writeable = False
            else:
                values[name] = value.item() if isinstance(value, np.generic) else value
        return Snapshot(
            kind=self.kind,
            parameters=self.get_params(deep=False),
            arrays=arrays,
            values=values,
            names=self._names,
            cleaning=self.cleaning_,
            quality=self.quality_,
            layout=dict(self._layout),
            dtype=np.dtype(self._dtype_),
            fingerprint=dict(self._seen),
            has_state=self._record is not None or self._read_record is not None,
            versions=versions(),
            digest=self.digest_,
        )

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot, state: Callable[[], StateRecord] | None = None) -> Self:
        """The estimator that the snapshot was made of.

        Args:
            snapshot: of an estimator of this class.
            state: reads what :meth:`partial_fit` goes on from, once that is asked for; by default there is none.
        """
        model = cls(**snapshot.parameters)
        for name in cls.fitted_attributes:
            value = snapshot[name]
            # What was a view of another model's attributes must not be changed through this one.
            own = not isinstance(value, np.ndarray) or value.flags.writeable
            setattr(model, name, value if own else value.copy())
        model.quality_, model.cleaning_, model.digest_ = snapshot.quality, snapshot.cleaning, snapshot.digest
        model._names, model.n_features_in_ = snapshot.names, len(snapshot.names)
        if not model._numbered:
            model.feature_names_in_ = np.asarray(snapshot.names, dtype=object)
        model._layout, model._seen, model._dtype_ = dict(snapshot.layout), dict(snapshot.fingerprint), snapshot.dtype
        model._read_record = state
        return model

    def as_transform(self, dtype: npt.DTypeLike = np.float64, format: Format | None = None) -> Transform:
        """The fitted model as a row-local transform of raw rows (n, d), in float32 or float64."""
        check_is_fitted(self, "cleaning_")
        return self._transform(ModelInput(self._names, np.dtype(dtype), self.cleaning_, format or current()))

    # Data in.

    def _dataset(self, X: Any, sample_weight: Any, *, reset: bool) -> Dataset:
        """``X`` as a Dataset; names and number of features are recorded (``reset``) or compared."""
        if is_lazy(X):
            if sample_weight is not None:
                raise ConfigError("expected sample_weight with arrays only; name a column of weights in the Dataset")
            data = as_dataset(X) if reset else self._read(X)
            if reset:
                self.n_features_in_ = data.n_features
                self._names = data.feature_names
                if not self._numbered:
                    self.feature_names_in_ = np.asarray(list(data.feature_names), dtype=object)
                else:
                    self.__dict__.pop("feature_names_in_", None)
                return data
            return self._aligned(data)
        X = validate_data(
            self,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            accept_sparse="csr",
            ensure_all_finite="allow-nan" if self._array_policy == "keep" else True,
            ensure_min_samples=self._least_rows if reset else 1,
        )
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
        names = vars(self).get("feature_names_in_")
        data = Dataset.from_numpy(
            X, feature_names=None if names is None else list(names), weights=sample_weight, missing=self._array_policy
        )
        if reset:
            self._names = data.feature_names
        return data

    @property
    def _numbered(self) -> bool:
        return not isinstance(self._names, tuple)

    def _read(self, X: object) -> Dataset:
        """Files and Spark DataFrames are read in the layout that the model was fitted on."""
        if isinstance(X, str | os.PathLike):
            return Dataset.from_parquet(X, **self._layout)
        if type(X).__module__.startswith("pyspark."):
            return Dataset.from_spark(X, **self._layout)
        return as_dataset(X)

    def _aligned(self, data: Dataset) -> Dataset:
        if data.n_features != self.n_features_in_:
            raise DataError(
                f"expected {self.n_features_in_} features, found {data.n_features}; "
                "give the columns that the model was fitted on"
            )
        mine, theirs = self._names, data.feature_names
        if isinstance(mine, tuple) and isinstance(theirs, tuple) and mine != theirs:
            wrong = next((a, b) for a, b in zip(mine, theirs, strict=True) if a != b)
            raise DataError(
                f"expected the feature columns in the order of the fit, found {wrong[1]!r} in place of {wrong[0]!r}; "
                "give columns=list(model.feature_names_in_)"
            )
        return data

    def _dtype(self, data: Dataset) -> np.dtype[Any]:
        """Precision of the products."""
        return data.dtype

    def _policy(self, data: Dataset) -> Resolved:
        """The cleaning policy per column, before anything is learnt."""
        policy = data.cleaning.resolve(data.feature_names)
        if (policy.code == KEEP).any() and self._array_policy != "keep":
            raise ConfigError(
                f"expected missing='error', 'drop', 'mean', 'zero' or a number for {type(self).__name__}, "
                "found 'keep', which only StandardScaler takes"
            )
        return policy

    def _limited(self, data: Dataset, run: Run) -> Resolved:
        """The cleaning policy per column; limits at k standard deviations cost one scan of moments."""
        policy, reach = self._policy(data), data.cleaning.clip_sd
        if reach is None:
            return policy
        moments = run.scan(MomentsPass(Intake(data.feature_names, self._dtype(data), policy, data.format)), data)
        away = reach * np.sqrt(moments.variance)
        # A column without a value has no limits; a constant one is its own.
        low, high = moments.mean - away, moments.mean + away
        return policy.with_limits(np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high))

    def _refuse_empty(self, moments: Moments, policy: Resolved) -> None:
        """Refuse data without columns or rows, and columns that mean imputation has nothing to learn from."""
        if not len(moments.count):
            raise DataError("expected at least one feature column, found none; name the columns to read")
        if 0 < moments.total < 1:
            raise DataError(
                f"expected a sum of weights of at least 1, found {moments.total:g}; weights are frequencies"
            )
        if moments.total <= 0:
            raise DataError(f"expected at least one row with all its values, found none among {moments.rows} rows read")
        empty = (moments.count == 0) & (policy.code == MEAN)
        if empty.any():
            name = self._names[int(np.argmax(empty))]
            raise DataError(
                f"expected a value to learn the mean of column {name!r} from, found {moments.rows} rows without one; "
                "leave the column out or fill it with a number"
            )

    # Data out.

    def transform(self, X: object) -> Any:
        """Reduced features of ``X`` (n, d): an array (n, k) for arrays, a lazy Dataset for a Dataset or path."""
        check_is_fitted(self, "cleaning_")
        data = self._dataset(X, None, reset=False)
        out = data.then(self.as_transform(self._dtype(data), data.format))
        if isinstance(data.source, Collection) and not isinstance(X, Dataset):
            return data.source.applied(out)
        return out if is_lazy(X) else self._collect(out)

    def fit_transform(
        self, X: object, y: object = None, sample_weight: object = None, *, engine: Engine | None = None
    ) -> Any:
        """``fit(X).transform(X)``."""
        return self.fit(X, y, sample_weight, engine=engine).transform(X)

    def _collect(self, data: Dataset) -> Any:
        return data.to_numpy()

    def save(self, path: str | os.PathLike[str], *, state: bool = False, overwrite: bool = False) -> str:
        """Write the model as a directory (JSON and safetensors, no code) and return its digest.

        Args:
            path: a new directory, or one that holds this same model.
            state: also what :meth:`partial_fit` goes on from; needs ``fit(..., keep_state=True)``.
            overwrite: replace another model.
        """
        check_is_fitted(self, "cleaning_")
        record = self.state() if state else None
        if state and record is None:
            raise ConfigError("expected a model that has kept its state, found one without; fit with keep_state=True")
        return save(self.snapshot(), record, path, overwrite=overwrite)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self._accepts_sparse()
        tags.input_tags.allow_nan = self._array_policy == "keep"
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self) -> Any:
        state = super().__getstate__()
        for name in ("_record", "_read_record"):
            state.pop(name, None)
        return state


Estimator.transform = lazy_data_passes_by(Estimator.transform)  # type: ignore[method-assign]
Estimator.fit_transform = lazy_data_passes_by(Estimator.fit_transform)  # type: ignore[method-assign]
