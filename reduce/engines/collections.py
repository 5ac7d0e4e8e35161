"""Collections that live on a cluster, such as a Spark DataFrame, as data: rows come from there, results go back there.

Their partitions are not files, so results agree with those of files to rounding, not to the byte.
"""

from __future__ import annotations

from abc import abstractmethod
from importlib import import_module
from typing import Any, ClassVar

from eigenmill.reduce.engines.kinds import ENGINES
from eigenmill.reduce.sources.base import Source
from eigenmill.reduce.sources.matrix import Matrix

FEATURES = "features"
"""The column that a transform adds."""


class Collection(Source):
    """A source whose rows only the engine of its own cluster reads.

    Attributes:
        home: the word of that engine, as of :func:`eigenmill.reduce.connect`.
    """

    home: ClassVar[str]

    @abstractmethod
    def connection(self) -> Any:
        """What that engine connects through to reach the rows: ``connect(home, ...)`` takes it."""

    @abstractmethod
    def applied(self, data: Matrix, column: str = FEATURES) -> Any:
        """``data`` (this source and some transforms) as a collection of the same kind, still lazy.

        ``column`` holds the features where a row of them is one value.
        """


ROOMS = {kind.package: kind.collections for kind in ENGINES.values() if kind.package and kind.collections}
"""Packages whose collections are taken as data, and the optional module that reads each."""


def source_of(X: object, package: str, **options: object) -> Collection:
    """The source of a Dask array, Dask DataFrame or Spark DataFrame; options are those of the package's room."""
    source: Collection = import_module(ROOMS[package]).source_of(X, **options)
    return source


def package_of(X: object) -> str:
    """The package that the class of ``X`` comes from."""
    return type(X).__module__.partition(".")[0]
