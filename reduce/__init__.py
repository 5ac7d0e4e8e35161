"""Standardization, PCA and truncated SVD of data sets too large for one machine.

Public names: data (:class:`Dataset`, :class:`Cleaning`), estimators (:class:`StandardScaler`, :class:`PCA`,
:class:`TruncatedSVD`), what they have learnt (:class:`Snapshot`), where to run (:func:`connect`), saved models
(:func:`load`), output (:class:`Sink`, :class:`Manifest`), and the errors of :mod:`eigenmill.reduce.errors`.
"""

if __name__ != "eigenmill.reduce":
    raise ImportError(
        f"expected 'import eigenmill.reduce', found this package imported as {__name__!r}; "
        "one file must not be two modules: import it from eigenmill"
    )


from importlib import import_module
from typing import TYPE_CHECKING, Any

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.engines import connect
from eigenmill.reduce.errors import (
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
from eigenmill.reduce.output.manifest import Manifest
from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.rows.cleaning import Cleaning
from eigenmill.reduce.storage.about import __version__

if TYPE_CHECKING:
    from eigenmill.reduce.estimators.fitted import Snapshot
    from eigenmill.reduce.estimators.pca import PCA
    from eigenmill.reduce.estimators.scaler import StandardScaler
    from eigenmill.reduce.estimators.store import load
    from eigenmill.reduce.estimators.svd import TruncatedSVD

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
    "Snapshot",
    "StandardScaler",
    "TruncatedSVD",
    "__version__",
    "connect",
    "load",
]

_LATER = {"PCA": "pca", "Snapshot": "fitted", "StandardScaler": "scaler", "TruncatedSVD": "svd", "load": "store"}


def __getattr__(name: str) -> Any:
    # scikit-learn is four fifths of the time of an import, and a cluster's worker processes never need it.
    if name not in _LATER:
        raise AttributeError(f"module 'eigenmill.reduce' has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"eigenmill.reduce.estimators.{_LATER[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
