"""Collections that live on a cluster, such as a Spark DataFrame, as data: rows come from there, results go back there.

A collection is a :class:`eigenmill.reduce.source_base.Source` whose rows only its own engine can read. Its partitions
are not files, so results agree with those of files to rounding, not to the byte.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from eigenmill.reduce.engines.base import Engine
from eigenmill.reduce.matrix import Matrix


@runtime_checkable
class Collection(Protocol):
    """What a :class:`eigenmill.reduce.source_base.Source` offers besides when it stands for a cluster's collection."""

    def engine(self) -> Engine:
        """The engine of the cluster that the collection lives on."""

    def applied(self, data: Matrix) -> Any:
        """``data`` (this source and some transforms) as a collection of the same kind, still lazy."""


ROOMS = {"dask": "eigenmill.reduce.engines.dask_frames", "pyspark": "eigenmill.reduce.engines.spark_frames"}
"""Packages whose collections are taken as data, and the optional module that reads each."""


def source_of(X: Any, **options: Any) -> Any:
    """The source of a Dask array, Dask DataFrame or Spark DataFrame; options are those of its room."""
    return import_module(ROOMS[package_of(X)]).source_of(X, **options)


def package_of(X: Any) -> str:
    """The package that the class of ``X`` comes from."""
    return type(X).__module__.partition(".")[0]
