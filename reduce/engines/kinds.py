"""The table of engines: a word for each kind, where its class is, and what its clusters cost."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from eigenmill.reduce.engines.costs import DASK, SPARK, Costs
from eigenmill.reduce.errors import ConfigError

LINK = 125e6
"""Bytes per second over the network into or out of one worker: 1 Gbit/s."""


@dataclass(frozen=True)
class Kind:
    """One kind of engine: where its class is, and what it is made with.

    Attributes:
        module, name: of the class, which is imported when it is asked for.
        client: what it connects through, in words; None for an engine of this process.
        costs: of its cluster; None for an engine of this process.
        package: whose collections are data that only this engine reads; ``collections``: the module that does.
    """

    module: str
    name: str
    client: str | None = None
    costs: Costs | None = None
    package: str | None = None
    collections: str | None = None

    def sessions(self) -> ModuleType:
        """The module that opens (``session``) and ends (``stop``) sessions for commands that are given none."""
        return import_module(f"{self.module.rpartition('.')[0]}.session")

    def load(self) -> Any:
        """The class."""
        return getattr(import_module(self.module), self.name)


ENGINES = {
    "local": Kind("eigenmill.reduce.engines.local.engine", "LocalEngine"),
    "dask": Kind(
        "eigenmill.reduce.engines.dask.engine",
        "DaskEngine",
        "connect('dask', client) with a distributed.Client or a scheduler's address",
        DASK,
        "dask",
        "eigenmill.reduce.engines.dask.collections",
    ),
    "spark": Kind(
        "eigenmill.reduce.engines.spark.engine",
        "SparkEngine",
        "connect('spark', session) with a SparkSession",
        SPARK,
        "pyspark",
        "eigenmill.reduce.engines.spark.frames",
    ),
}
"""All engines by the word for their kind, which is also the extra that installs what they need."""


@dataclass(frozen=True)
class Cluster:
    """A cluster to plan for: ``workers`` processes of ``threads`` threads, each within ``memory`` bytes if given.

    ``link`` is what the network carries into or out of one worker, in bytes per second.
    """

    kind: str
    workers: int
    threads: int = 1
    memory: int | None = None
    link: float = LINK

    def __post_init__(self) -> None:
        clusters = [word for word, kind in ENGINES.items() if kind.costs is not None]
        if self.kind not in clusters or self.workers < 1 or self.threads < 1:
            raise ConfigError(
                f"expected a cluster of kind {' or '.join(clusters)} with workers and threads >= 1, found "
                f"{self.kind!r} with workers={self.workers}, threads={self.threads}; set engine.kind or --engine"
            )

    @property
    def costs(self) -> Costs:
        """What it costs."""
        return costs_of(self.kind)


def costs_of(kind: str) -> Costs:
    """What a cluster of this kind costs."""
    costs = ENGINES[kind].costs
    if costs is None:
        raise ConfigError(f"expected a cluster, found the engine {kind!r}, which runs in this process")
    return costs
