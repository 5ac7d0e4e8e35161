"""PCA as a stage of Spark ML: an Estimator and its Model, for ``pyspark.ml.Pipeline``, around the same passes.

::

    from eigenmill.reduce.spark_ml import EigenmillPCA

    stages = [EigenmillPCA(inputCol="pixels", outputCol="features", k=50, scale=True), LogisticRegression()]
    model = Pipeline(stages=stages).fit(frame)

The model subtracts the mean, which ``pyspark.ml.feature.PCA`` does not, and with ``scale`` it standardizes by itself.
Saved, it is Spark's metadata and beside it a model directory of ours (JSON and safetensors, no pickle), which
:func:`eigenmill.load` reads without Spark.
"""

from __future__ import annotations

import sys
from typing import Any, Self

from pyspark.ml import Estimator, Model
from pyspark.ml.linalg import VectorUDT
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasInputCol, HasOutputCol
from pyspark.ml.util import (
    DefaultParamsReadable,
    DefaultParamsReader,
    DefaultParamsWritable,
    DefaultParamsWriter,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)
from pyspark.sql.types import StructField, StructType

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.engines.spark.frames import source_of
from eigenmill.reduce.errors import ArtifactError, ConfigError
from eigenmill.reduce.estimators.pca import PCA
from eigenmill.reduce.estimators.store import load

# Spark finds the class of a saved stage by the module that it was saved from: `reduce` before there was one name.
sys.modules.setdefault("reduce.spark_ml", sys.modules[__name__])

FOLDER = "eigenmill"
"""Directory of our model within Spark's."""


class _Columns(HasInputCol, HasOutputCol):
    """What Estimator and Model share: the two columns, and how vectors are read."""

    missing: Param[str] = Param(
        Params._dummy(), "missing", "missing values: error, drop, mean or zero", TypeConverters.toString
    )

    def setInputCol(self, value: str) -> Self:  # noqa: N802
        """The column of ML vectors or arrays."""
        return self._set(inputCol=value)  # type: ignore[no-any-return]

    def setOutputCol(self, value: str) -> Self:  # noqa: N802
        """The column of ML vectors that is added."""
        return self._set(outputCol=value)  # type: ignore[no-any-return]

    def _column(self, name: str) -> str:
        if not self.isSet(self.getParam(name)):
            raise ConfigError(f"expected {name} to be set, found none; give {name}= with the name of a column")
        return str(self.getOrDefault(name))


class EigenmillPCA(Estimator, _Columns, DefaultParamsReadable, DefaultParamsWritable):
    """PCA by the passes of eigenmill.

    Args:
        inputCol: a column of ML vectors, or of arrays of numbers.
        outputCol: the column of ML vectors that the model adds.
        k: number of components.
        scale: divide columns by their standard deviation first.
        whiten: give every component unit variance.
        missing: what to do about missing values: ``error``, ``drop``, ``mean`` or ``zero``.
    """

    k: Param[int] = Param(Params._dummy(), "k", "number of components", TypeConverters.toInt)
    scale: Param[bool] = Param(Params._dummy(), "scale", "standardize the columns", TypeConverters.toBoolean)
    whiten: Param[bool] = Param(Params._dummy(), "whiten", "unit variance of components", TypeConverters.toBoolean)

    def __init__(
        self,
        *,
        inputCol: str | None = None,
        outputCol: str | None = None,
        k: int | None = None,
        scale: bool = False,
        whiten: bool = False,
        missing: str = "error",
    ) -> None:
        super().__init__()
        self._setDefault(scale=False, whiten=False, missing="error")
        given = {"inputCol": inputCol, "outputCol": outputCol, "k": k, "scale": scale, "whiten": whiten}
        # Spark takes a None for a value that was set.
        self._set(**{n: v for n, v in (given | {"missing": missing}).items() if v is not None})

    def setK(self, value: int) -> Self:  # noqa: N802
        """Number of components."""
        return self._set(k=value)  # type: ignore[no-any-return]

    def setScale(self, value: bool) -> Self:  # noqa: N802
        """Whether to divide columns by their standard deviation."""
        return self._set(scale=value)  # type: ignore[no-any-return]

    def _fit(self, dataset: object) -> EigenmillPCAModel:
        if not self.isSet(self.k):
            raise ConfigError("expected k to be set, found none; give k= with the number of components")
        chosen = {name: self.getOrDefault(name) for name in ("scale", "whiten")}
        pca = PCA(self.getOrDefault(self.k), **chosen)
        missing, column = self.getOrDefault(self.missing), self._column("inputCol")
        self._column("outputCol")
        pca.fit(Dataset.from_spark(dataset, vector=column, missing=missing))
        return self._copyValues(EigenmillPCAModel(pca))  # type: ignore[no-any-return]


class EigenmillPCAModel(Model, _Columns, MLReadable, MLWritable):
    """A fitted :class:`EigenmillPCA`.

    Attributes:
        pca: the fitted :class:`eigenmill.PCA`.
    """

    def __init__(self, pca: PCA | None = None) -> None:
        super().__init__()
        self._setDefault(missing="error")
        self.pca = pca

    @property
    def _fitted(self) -> PCA:
        if self.pca is None:
            raise ConfigError("expected a fitted model, found an empty one; fit an EigenmillPCA, or load a model")
        return self.pca

    def _transform(self, dataset: object) -> Any:
        d = int(self._fitted.n_features_in_)
        source = source_of(dataset, vector=self._column("inputCol"), n_features=d)
        return source.applied(self._fitted.transform(Dataset(source)), self._column("outputCol"), VectorUDT())

    def transformSchema(self, schema: Any) -> Any:  # noqa: N802
        """The schema with the new column."""
        return StructType([*schema, StructField(self._column("outputCol"), VectorUDT(), False)])

    def write(self) -> MLWriter:
        """A writer of Spark's metadata and our model directory."""
        return _Writer(self)

    @classmethod
    def read(cls) -> MLReader[EigenmillPCAModel]:
        """A reader of what :meth:`write` wrote."""
        return _Reader()


class _Writer(MLWriter):
    def __init__(self, model: EigenmillPCAModel) -> None:
        super().__init__()
        self.model = model

    def saveImpl(self, path: str) -> None:  # noqa: N802
        # Ours first: Spark's metadata make the model complete.
        self.model._fitted.save(_ours(path))
        DefaultParamsWriter.saveMetadata(self.model, path, self.sparkSession)


class _Reader(MLReader[EigenmillPCAModel]):
    def load(self, path: str) -> EigenmillPCAModel:
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        pca = load(_ours(path))
        if not isinstance(pca, PCA):
            raise ArtifactError(
                f"expected a saved PCA in {path}, found {type(pca).__name__}; load it with eigenmill.load"
            )
        model = EigenmillPCAModel(pca)
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model


def _ours(path: str) -> str:
    if path.startswith("file:"):
        path = "/" + path.removeprefix("file:").lstrip("/")
    return f"{path.rstrip('/')}/{FOLDER}"


__all__ = ["EigenmillPCA", "EigenmillPCAModel"]
