"""Distributed preprocessing and dimensionality reduction: the same bytes on one machine, on Dask and on Spark.

The public names of :mod:`eigenmill.reduce` stand here as well, and are imported when they are first asked for;
:mod:`eigenmill.compress` trains and packs compact models, :mod:`eigenmill.jobs` is the command line.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eigenmill import compress, jobs, reduce
    from eigenmill.reduce import (
        PCA,
        ArtifactError,
        ChangedInputError,
        Cleaning,
        ConfigError,
        DataError,
        Dataset,
        DoesNotFitError,
        EigenmillError,
        EngineError,
        Manifest,
        MissingValueError,
        OutputError,
        SchemaError,
        Sink,
        Snapshot,
        StandardScaler,
        TruncatedSVD,
        __version__,
        connect,
        load,
    )

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
    "compress",
    "connect",
    "jobs",
    "load",
    "reduce",
]

_PACKAGES = ("compress", "jobs", "reduce")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"eigenmill.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'eigenmill' has no attribute {name!r}")
    globals()[name] = found = getattr(import_module("eigenmill.reduce"), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
