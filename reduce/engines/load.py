"""What a scan asks of a cluster: tasks, bytes over the network, memory of driver and workers, work of the scheduler.

Tasks are counted exactly, for the cut is the engines' own; descriptions are measured on a sample; what moves is counted
from the merge tree: of the trees that meet in one task all but one come from another worker.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from eigenmill.reduce.engines.base import Tree
from eigenmill.reduce.engines.costs import Costs
from eigenmill.reduce.engines.kinds import Cluster
from eigenmill.reduce.engines.memory import RESERVE, Memory, Work, estimate
from eigenmill.reduce.engines.ship import Common, pack
from eigenmill.reduce.engines.tasks import Cutter, RowsTask, fold_tasks
from eigenmill.reduce.output.parts import Part
from eigenmill.reduce.output.sink import Writing
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.sources.matrix import Matrix

T = TypeVar("T")
PROCESS = 300 << 20
"""Bytes that a worker process holds before it reads."""
MERGE = 1e9
"""Bytes of states merged per second and thread."""
WRAPPING = 400
"""Bytes that Dask's key, function and our versions add to the description of a task."""
SAMPLE = 24
"""Tasks whose descriptions are measured."""


@dataclass(frozen=True)
class Load:
    """One scan on a cluster.

    Attributes:
        tasks: that read, or write.
        merges: tasks in which states meet.
        read_bytes: encoded bytes from storage to the workers.
        described_bytes: descriptions of tasks, from the driver through the scheduler.
        moved_bytes: states from worker to worker, about.
        returned_bytes: states that come to the driver.
        driver_bytes: memory of the driver at its peak.
        worker_bytes: memory of one worker process at its peak.
        scheduler_seconds: work of the scheduler, which goes on beside the scan.
        merge_seconds: from the last task that reads to the result.
    """

    tasks: int
    merges: int
    read_bytes: int
    described_bytes: int
    moved_bytes: int
    returned_bytes: int
    driver_bytes: int
    worker_bytes: int
    scheduler_seconds: float
    merge_seconds: float


def worker_memory(costs: Costs, work: Work, data: Matrix, threads: int) -> tuple[Memory, int]:
    """(what the scan takes, peak in bytes of a worker process that also merges) with so many threads."""
    found = estimate(work, data, threads, process=PROCESS)
    if not isinstance(work, Pass) or len(data.fragments) <= 1:
        return found, found.scan
    state = work.sizes(0, data.n_rows)[0]
    return found, max(found.scan, PROCESS + RESERVE + threads * 2 * costs.trees_of(state) * state)


def fold_load(pass_: Pass[Any, Any], data: Matrix, cluster: Cluster, encoded: int) -> Load:
    """The load of one scan of ``data``, whose files hold ``encoded`` bytes."""
    costs = cluster.costs
    tasks = fold_tasks(pass_, data, Tree(), costs.most_tasks(cluster.workers * cluster.threads))
    state, _, final = pass_.sizes(0, data.n_rows)
    rounds, returned = _rounds(costs, len(tasks), state)
    fan = costs.trees_of(state)
    entering = [len(tasks), *rounds][: len(rounds)]
    moved = round(sum(_travelling(cluster, n, fan) for n in entering) * state)
    # The rounds follow each other, and a group's trees come over one link.
    waits = sum(_travelling(cluster, n, fan) / -(-n // fan) / cluster.link + fan / MERGE for n in entering)
    described, common = _described(tasks)
    # Where there are such nodes at all, what tasks have in common is one.
    merges = sum(rounds) + (costs.nodes + common if costs.nodes and tasks else 0)
    return Load(
        tasks=len(tasks),
        merges=merges,
        read_bytes=encoded,
        described_bytes=described,
        moved_bytes=moved,
        returned_bytes=returned * state,
        driver_bytes=PROCESS + RESERVE + 2 * described + max(2 * returned * state, final),
        worker_bytes=worker_memory(costs, pass_, data, cluster.threads)[1],
        scheduler_seconds=(len(tasks) + merges) * costs.dispatch,
        merge_seconds=(waits + returned / cluster.link) * state,
    )


def write_load(
    data: Matrix, cluster: Cluster, encoded: int, parts: Sequence[Part], writing: Writing | None = None
) -> Load:
    """The load of writing ``data`` in these parts; no state comes back, and nothing moves between workers."""
    cut = Cutter(data)
    picked = [RowsTask(*cut(p.fragments.start, p.fragments.stop)) for p in _sample(parts)]
    tasks, described = len(parts), _described(picked, len(parts))[0]
    held, costs = described, cluster.costs
    if costs.round_parts is not None:
        # Several parts are written in one task.
        full, rest = divmod(len(parts), costs.round_parts)
        most = costs.most_tasks(cluster.workers * cluster.threads)
        tasks = full * most + min(rest, most)
        held = _described(picked, costs.round_parts if full else rest)[0]
    return Load(
        tasks=tasks,
        merges=0,
        read_bytes=encoded,
        described_bytes=described,
        moved_bytes=0,
        returned_bytes=0,
        driver_bytes=PROCESS + RESERVE + 2 * held,
        worker_bytes=worker_memory(costs, writing, data, cluster.threads)[1],
        scheduler_seconds=tasks * costs.dispatch,
        merge_seconds=0.0,
    )


def _rounds(costs: Costs, trees: int, state: int) -> tuple[list[int], int]:
    """(tasks of each round of merging, trees that come to the driver)."""
    rounds: list[int] = []
    while costs.merges(trees, state):
        trees = -(-trees // costs.trees_of(state))
        rounds.append(trees)
    return rounds, trees


def _travelling(cluster: Cluster, trees: int, fan: int) -> float:
    """How many of so many trees come from another worker to where they meet, in groups of ``fan``."""
    full, rest = divmod(trees, fan)
    if cluster.costs.shuffles:
        return trees * (1 - 1 / cluster.workers)
    # Dask merges where most of a group lie; no worker holds many more than its share.
    share = -(-trees // cluster.workers)
    return sum(n * (size - min(_most(size, cluster.workers), share)) for n, size in ((full, fan), (1, rest)) if size)


@lru_cache(maxsize=64)
def _most(items: int, places: int) -> float:
    """Of so many items, put down at random, how many the fullest place is expected to hold."""
    expected = 0.0
    for bound in range(items):
        # No place holds more than ``bound``: a coefficient of (1 + x + ... x^bound / bound!)^places.
        one = np.array([1 / math.factorial(j) if j <= bound else 0.0 for j in range(items + 1)])
        ways = np.eye(1, items + 1)[0]
        for _ in range(places):
            ways = np.convolve(ways, one)[: items + 1]
        expected += 1 - ways[items] * math.factorial(items) / float(places) ** items
    return expected


def _sample(items: Sequence[T]) -> Sequence[T]:
    return items[:: max(len(items) // SAMPLE, 1)]


def _described(tasks: Sequence[Any], count: int | None = None) -> tuple[int, bool]:
    """(bytes of the descriptions of ``count`` tasks, by default these, from a few of them; if they share any)."""
    if not tasks:
        return 0, False
    picked, common = _sample(tasks), Common()
    each = WRAPPING + sum(len(pack(task, None, common)) for task in picked) / len(picked)
    return round(each * (len(tasks) if count is None else count)) + len(common.pack()), bool(common.objects)
