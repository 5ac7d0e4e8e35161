"""Collections that live on a cluster, such as a Spark DataFrame, as data: rows come from there, results go back there.

A collection is a :class:`eigenmill.reduce.dataset.Source` whose rows only its own engine can read. Its partitions are
not files, so results agree with those of files to rounding, not to the byte.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.engines.base import Engine


@runtime_checkable
class Collection(Protocol):
    """What a :class:`eigenmill.reduce.dataset.Source` offers besides when it stands for a cluster's collection."""

    def engine(self) -> Engine:
        """The engine of the cluster that the collection lives on."""

    def applied(self, data: Dataset) -> Any:
        """``data`` (this source and some transforms) as a collection of the same kind, still lazy."""


def source_of(X: Any) -> Any:
    """The source of a Dask array, Dask DataFrame or Spark DataFrame."""
    package = type(X).__module__.partition(".")[0]
    if package == "dask":
        from eigenmill.reduce.engines import dask_frames

        return dask_frames.source_of(X)
    from eigenmill.reduce.engines import spark_frames

    return spark_frames.source_of(X)
