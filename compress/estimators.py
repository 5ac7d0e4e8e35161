"""CompactClassifier and CompactRegressor: the way to a small packed model, as scikit-learn estimators."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from eigenmill.compress.core.categories import columns_of
from eigenmill.compress.core.data import gather
from eigenmill.compress.core.front import RawLike
from eigenmill.compress.core.layers import Predicted, Task, softmax
from eigenmill.compress.core.model import Model, whole_net
from eigenmill.compress.packed.pack import pack
from eigenmill.compress.search import Search, Target, search
from eigenmill.reduce import Dataset
from eigenmill.reduce.errors import ConfigError, DataError, SchemaError
from eigenmill.reduce.sources.tables import pandas_table

STEPS = 2_000
"""Optimizer steps of a training, when no number of epochs is asked for: few rows want more epochs."""
STEPS_AN_EPOCH, MAX_BATCH = 1_000, 2_048
"""Many rows make larger batches, not more steps."""
HELD_FROM, FEW = 200, 2_000
"""Rows from which on some are held out to judge trials by (with fewer, all of them judge), and from which on a tenth of
them is enough for that; of fewer it is a fifth."""
PIXELS = 16
"""Columns from which on small whole numbers are taken for pixels, all measured alike."""


class _Compact(BaseEstimator):  # type: ignore[misc]
    """What both share: the data set, the search, the packed file."""

    task: ClassVar[Task]

    def __init__(
        self,
        max_bytes: int = 5000,
        *,
        hidden: Sequence[int] = (32,),
        epochs: int | None = None,
        trials: int = 8,
        seconds: float | None = None,
        missing: str | float = "error",
        categories: str | Sequence[str] = "auto",
        forget: float = 0.0,
        random_state: int = 0,
    ) -> None:
        self.max_bytes = max_bytes
        self.hidden = hidden
        self.epochs = epochs
        self.trials = trials
        self.seconds = seconds
        self.missing = missing
        self.categories = categories
        self.forget = forget
        self.random_state = random_state

    def _check_input(self, X: RawLike, y: object, **options: object) -> tuple[RawLike, npt.NDArray[Any]]:
        """X and y as checked; a DataFrame with categories stays one."""
        self.categories_ = self._category_columns(X)
        if not self.categories_:
            checked: tuple[RawLike, npt.NDArray[Any]] = validate_data(
                self, X, y, dtype=np.float64, ensure_all_finite=self._ensure_finite(), **options
            )
            return checked
        read = columns_of(self.categories_)
        numbers = X.drop(columns=read)
        names = [str(name) for name in numbers.columns]
        # scikit-learn checks labels beside a matrix only: where no column holds numbers, it gets zeros.
        given = numbers if names else np.zeros((len(X), 1))
        options |= {"dtype": np.float64, "ensure_all_finite": self._ensure_finite()}
        values, labels = validate_data(self, given, y, **options)
        frame = X[read].assign(**dict(zip(names, values.T[: len(names)], strict=True)))
        self.n_features_in_, self.feature_names_in_ = X.shape[1], np.array([str(n) for n in X.columns], object)
        return frame, labels

    def _category_columns(self, X: RawLike) -> tuple[str, ...]:
        """The columns whose values are names."""
        frame = hasattr(X, "iloc") and hasattr(X, "columns")
        if isinstance(self.categories, str):
            if self.categories != "auto":
                raise ConfigError(f"expected categories 'auto' or a list of columns, found {self.categories!r}")
            return tuple(str(n) for n, t in X.dtypes.items() if t.kind == "O") if frame else ()
        asked = tuple(str(name) for name in self.categories)
        unknown = [name for name in columns_of(asked) if not frame or name not in X.columns]
        if unknown:
            raise SchemaError(f"expected a DataFrame with the columns {unknown}, found none such; give categories=()")
        return asked

    def _search(self, X: RawLike, y: npt.NDArray[np.generic], class_weight: str | None) -> Search:
        if not isinstance(self.random_state, int | np.integer):
            raise ConfigError(f"expected a whole number as random_state, found {self.random_state!r}; give a seed")
        n = len(X)
        seed = int(self.random_state)
        widths = [int(width) for width in self.hidden]
        model = Model.mlp(None, widths, task=self.task, categories=self.categories_, seed=seed)
        validation = None if n < HELD_FROM else 0.2 if n < FEW else 0.1
        data = self._dataset(X, y)
        samples = gather(model, data, data.source.carried.names[0], validation=validation, seed=seed)
        batch = int(np.clip(n // 16, 8, max(128, min(n // STEPS_AN_EPOCH, MAX_BATCH))))
        epochs = self.epochs or int(np.clip(STEPS * batch // max(n, 1), 20, 400))
        found = search(
            model,
            samples,
            Target(max_bytes=self.max_bytes),
            epochs=epochs,
            trials=self.trials,
            seconds=self.seconds,
            batch=batch,
            lr=5e-3,
            forget=self.forget,
            class_weight=class_weight,
            seed=seed,
        )
        if not found.met:
            warnings.warn(
                f"expected a file of at most {self.max_bytes} bytes, found {found.best.bytes} after "
                f"{len(found.trials)} trials; raise max_bytes or trials, or give fewer columns",
                ConvergenceWarning,
                stacklevel=3,
            )
        return found

    def _dataset(self, X: RawLike, y: npt.NDArray[np.generic]) -> Dataset:
        """The rows as a table of named columns; pixels as one column of lists."""
        if self.categories_:
            frame = pandas_table(X)
            label = "y"
            while label in frame.column_names:
                label += "_"
            read = columns_of(self.categories_)
            names = [name for name in frame.column_names if name not in read]
            table, carry = frame.append_column(label, pa.array(y)), [label, *read]
            return Dataset.from_arrow(table, columns=names, carry=carry, missing=self.missing)
        d = X.shape[1]
        values = X[np.isfinite(X)]
        whole = d >= PIXELS and values.size > 0 and bool((values >= 0).all() and (values <= 255).all())
        if whole and bool((values == np.rint(values)).all()) and values.max() > 1:
            rows = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(X).ravel()), d)
            table = pa.table({"x": rows, "y": y})
            return Dataset.from_arrow(table, vector="x", n_features=d, carry=["y"], missing=self.missing)
        names = [str(name) for name in getattr(self, "feature_names_in_", [f"x{j}" for j in range(d)])]
        label = "y"
        while label in names:
            label += "_"
        table = pa.table({**{name: X[:, j] for j, name in enumerate(names)}, label: y})
        return Dataset.from_arrow(table, columns=names, carry=[label], missing=self.missing)

    def _finish(self, found: Search, model: Model) -> None:
        self.search_ = found
        self.model_ = model
        self.n_bytes_ = found.best.bytes

    def _scores(self, X: RawLike) -> npt.NDArray[np.float64]:
        """Logits or values (n, outputs), as the packed file gives them."""
        check_is_fitted(self)
        if not self.categories_:
            X = validate_data(self, X, reset=False, dtype=np.float64, ensure_all_finite=self._ensure_finite())
        return whole_net(self.model_).decision(X)

    def _ensure_finite(self) -> bool | str:
        return True if self.missing == "error" else "allow-nan"

    def pack(self, path: str | os.PathLike[str]) -> int:
        """Write the model as one file, which :func:`eigenmill.compress.load` reads; returns its bytes."""
        check_is_fitted(self)
        return pack(self.model_, path)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing != "error"
        return tags


class CompactClassifier(ClassifierMixin, _Compact):  # type: ignore[misc]
    """The classifier with the fewest errors found whose packed file has at most ``max_bytes``.

    Args:
        max_bytes: of the file that :meth:`pack` writes. When no trial is so small the smallest is kept, with a warning.
        hidden: widths of the hidden layers with which the search begins; none for a linear model.
        epochs: of every trial; by default about 2,000 steps.
        trials: most models that are tried; fewer when three in a row bring nothing.
        seconds: no trial begins after so long.
        missing: what to do about NaN: ``"error"``, ``"mean"``, ``"zero"`` or a number; it is part of the file.
        categories: columns of a DataFrame whose values are names; by default those of text and of pandas' categories.
            Missing ones are a value of their own. A list may name parts of dates, such as ``"month(date)"``.
        forget: share of the categories' values that count as unseen while training, so that new ones do no harm; as of
            :func:`eigenmill.compress.train`.
        balanced: count rare classes as much as frequent ones.
        random_state: the seed.

    Attributes:
        classes_: the labels.
        model_: the quantized :class:`~eigenmill.compress.Model`; ``search_`` the trials; ``n_bytes_`` the size of the
        file.
    """

    task: ClassVar[Task] = "classification"

    def __init__(
        self,
        max_bytes: int = 5000,
        *,
        hidden: Sequence[int] = (32,),
        epochs: int | None = None,
        trials: int = 8,
        seconds: float | None = None,
        missing: str | float = "error",
        categories: str | Sequence[str] = "auto",
        forget: float = 0.0,
        balanced: bool = False,
        random_state: int = 0,
    ) -> None:
        super().__init__(
            max_bytes,
            hidden=hidden,
            epochs=epochs,
            trials=trials,
            seconds=seconds,
            missing=missing,
            categories=categories,
            forget=forget,
            random_state=random_state,
        )
        self.balanced = balanced

    def fit(self, X: RawLike, y: npt.ArrayLike) -> Self:
        """Search for a model of X (n, d) and labels y (n,).

        Raises:
            DataError: a label is missing, there is one class only, or X has missing values and ``missing="error"``.
            ConfigError: a parameter is out of range, or the loss is no longer finite.
        """
        _refuse_missing(y)
        X, y = self._check_input(X, y)
        check_classification_targets(y)
        self.classes_, places = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(
                f"expected at least two classes, found 1 class only: {self.classes_.tolist()}; give rows of another"
            )
        found = self._search(X, places.astype(np.int64), "balanced" if self.balanced else None)
        labels = tuple(self.classes_.tolist())
        alike = {type(label) for label in labels} in ({int}, {str}, {bool})
        model = replace(found.model, labels=labels) if alike else found.model
        self._finish(found, model)
        return self

    def decision_function(self, X: RawLike) -> npt.NDArray[np.float64]:
        """Scores (n, classes); of two classes (n,), above 0 for the second."""
        scores = self._scores(X)
        return np.asarray(scores[:, 1] - scores[:, 0]) if scores.shape[1] == 2 else scores

    def predict_proba(self, X: RawLike) -> npt.NDArray[np.float64]:
        """Probabilities (n, classes)."""
        return softmax(self._scores(X))

    def predict(self, X: RawLike) -> Predicted:
        """Labels (n,)."""
        scores = self._scores(X)
        return np.asarray(self.classes_[scores.argmax(axis=1)])


class CompactRegressor(RegressorMixin, _Compact):  # type: ignore[misc]
    """A regressor whose packed file has at most ``max_bytes``; parameters as of :class:`CompactClassifier`."""

    task: ClassVar[Task] = "regression"

    def fit(self, X: RawLike, y: npt.ArrayLike) -> Self:
        """Search for a model of X (n, d) and values y (n,).

        Raises:
            DataError: a value is missing, or X has missing values and ``missing="error"``.
            ConfigError: a parameter is out of range, or the loss is no longer finite.
        """
        _refuse_missing(y)
        X, y = self._check_input(X, y, y_numeric=True)
        found = self._search(X, column_or_1d(y, warn=True).astype(np.float64), None)
        self._finish(found, found.model)
        return self

    def predict(self, X: RawLike) -> npt.NDArray[np.float64]:
        """Values (n,)."""
        return self._scores(X)[:, 0]


def _refuse_missing(y: object) -> None:
    """Labels without nulls: None and NaN would else become a class of their own."""
    held = np.asarray(y, dtype=object) if y is not None else np.empty(0, object)
    row = next((i for i, value in enumerate(held) if _null(value)), None) if held.ndim == 1 else None
    if row is not None:
        raise DataError(f"expected a label in every row, found NaN or none in row {row} of y; leave such rows out")


def _null(value: object) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas' NA answers no comparison
        return True


__all__ = ["CompactClassifier", "CompactRegressor"]
