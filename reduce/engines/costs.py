"""What clusters cost, and what there is of one to plan for."""

from __future__ import annotations

from dataclasses import dataclass

from eigenmill.reduce.errors import ConfigError

TASKS = {"dask": 4096, "spark": 1024}
"""Most tasks of one scan: enough for a thousand workers, little work for the scheduler."""
LINK = 125e6
"""Bytes per second over the network into or out of one worker: 1 Gbit/s."""


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
        if self.kind not in TASKS or self.workers < 1 or self.threads < 1:
            raise ConfigError(
                f"expected a cluster of kind {' or '.join(TASKS)} with workers and threads >= 1, found {self.kind!r} "
                f"with workers={self.workers}, threads={self.threads}; set engine.kind or --engine"
            )
