"""What clusters cost, by kind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """How a kind of cluster runs a scan, and what that costs.

    Attributes:
        tasks: most tasks of one scan: enough for a thousand workers, little work for the scheduler.
        per_core, few: tasks of a scan for every core, and on a small cluster; None where a task costs next to nothing.
        fan_in: trees that meet in one task: a power of two, so that the runs stay aligned; two, when states are large.
        large_state: bytes from which a state is large.
        at_once: bytes of states up to which the driver takes all trees without a round of merging; None for never.
        shuffles: whether trees are merged without a look at where they are.
        nodes: tasks of a scan beside those that read and merge.
        round_parts: parts of an output that are written at a time; None for all.
        dispatch: seconds of the scheduler for one task.
        start: seconds that a scan of a warm cluster takes at least: measured over the local engine, on one machine.
    """

    tasks: int
    per_core: int | None
    few: int
    fan_in: int
    large_state: int
    at_once: int | None
    shuffles: bool
    nodes: int
    round_parts: int | None
    dispatch: float
    start: float

    def most_tasks(self, cores: int | None) -> int:
        """Into how many tasks a scan is cut at most, on a cluster of so many cores, if that is known."""
        if self.per_core is None or cores is None:
            return self.tasks
        return min(self.tasks, max(self.per_core * cores, self.few))

    def trees_of(self, state: int) -> int:
        """How many trees with a state of so many bytes meet in one task."""
        return self.fan_in if state < self.large_state else 2

    def merges(self, trees: int, state: int) -> bool:
        """Whether so many trees meet on the cluster once more before they come to the driver."""
        return trees > 1 and (self.at_once is None or trees * state > self.at_once)


DASK = Costs(
    tasks=4096,
    per_core=None,
    few=0,
    fan_in=8,
    large_state=32 << 20,  # it travels between worker and client, not through the scheduler
    at_once=None,
    shuffles=False,
    nodes=2,  # the pass itself is a task; the leaves left over meet in a last one
    round_parts=None,
    dispatch=1e-3,
    start=0.2,
)

SPARK = Costs(
    tasks=1024,
    per_core=16,  # each costs a tenth of a second there
    few=32,
    fan_in=8,
    large_state=8 << 20,
    at_once=64 << 20,
    shuffles=True,
    nodes=0,
    round_parts=1024,
    dispatch=5e-3,
    start=0.8,
)
