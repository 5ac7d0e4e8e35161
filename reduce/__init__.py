"""Standardization, PCA and truncated SVD of data sets too large for one machine.

Public names: data (:class:`Dataset`, :class:`Cleaning`), estimators (:class:`StandardScaler`, :class:`PCA`,
:class:`TruncatedSVD`), where to run (:func:`connect`), saved models (:func:`load`), output (:class:`Sink`,
:class:`Manifest`), and the errors of :mod:`reduce.errors`.
"""

from typing import TYPE_CHECKING, Any

from reduce.about import __version__
from reduce.cleaning import Cleaning
from reduce.dataset import Dataset
from reduce.engines import connect
from reduce.errors import (
    ArtifactError,
    ChangedInputError,
    ConfigError,
    DataError,
    DoesNotFitError,
    EigenmillError,
    EngineError,
    MissingValueError,
    OutputError,
    SchemaError,
)
from reduce.manifest import Manifest
from reduce.sink import Sink

if TYPE_CHECKING:
    from reduce.estimators.pca import PCA
    from reduce.estimators.scaler import StandardScaler
    from reduce.estimators.store import load
    from reduce.estimators.svd import TruncatedSVD

__all__ = [
    "PCA",
    "ArtifactError",
    "ChangedInputError",
    "Cleaning",
    "ConfigError",
    "DataError",
    "Dataset",
    "DoesNotFitError",
    "EigenmillError",
    "EngineError",
    "Manifest",
    "MissingValueError",
    "OutputError",
    "SchemaError",
    "Sink",
    "StandardScaler",
    "TruncatedSVD",
    "__version__",
    "connect",
    "load",
]

_LATER = {"PCA": "pca", "StandardScaler": "scaler", "TruncatedSVD": "svd", "load": "store"}


def __getattr__(name: str) -> Any:
    # scikit-learn is four fifths of the time of an import, and a cluster's worker processes never need it.
    if name not in _LATER:
        raise AttributeError(f"module 'reduce' has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = found = getattr(import_module(f"reduce.estimators.{_LATER[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
