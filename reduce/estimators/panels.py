"""Products of tall matrices (d, l), a panel of rows at a time and on several cores, with the same bytes on any number.

BLAS keeps to one thread, because its results depend on how many it has. Here the rows are cut into the format's
``panel_groups`` runs whatever the number of threads, each is worked through by panels that stay in cache, and what the
runs have found is added in their order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from eigenmill.reduce.engines.base import Engine
from eigenmill.reduce.format import Format
from eigenmill.reduce.rows.blocks import F64

T = TypeVar("T")


def cores(engine: Engine) -> int:
    """Threads for the products made beside the scans of ``engine``."""
    return min(len(os.sched_getaffinity(0)), engine.workers)


def over_rows(rows: int, threads: int, work: Callable[[slice], T], format: Format) -> list[list[T]]:
    """``work`` on every panel; what it returns, by group."""
    step, height = -(-rows // format.panel_groups) or 1, format.panel_rows

    def group(first: int) -> list[T]:
        last = min(first + step, rows)
        return [work(slice(a, min(a + height, last))) for a in range(first, last, height)]

    starts = range(0, rows, step)
    if threads <= 1 or rows <= height:
        return [group(first) for first in starts]
    with ThreadPoolExecutor(threads, thread_name_prefix="eigenmill-panels") as pool:
        return list(pool.map(group, starts))


def inner(left: Sequence[F64], right: F64, threads: int, format: Format) -> F64:
    """(m, l) ``[left_0, left_1, ...]^T right`` for ``left`` (d, m_i) and ``right`` (d, l)."""
    sizes = np.cumsum([0, *(part.shape[1] for part in left)])
    step = -(-len(right) // format.panel_groups) or 1
    sums = np.zeros((format.panel_groups, int(sizes[-1]), right.shape[1]))

    def work(panel: slice) -> None:
        total = sums[panel.start // step]
        for part, a, b in zip(left, sizes, sizes[1:], strict=False):
            total[a:b] += part[panel].T @ right[panel]

    over_rows(len(right), threads, work, format)
    return np.asarray(sums.sum(axis=0))


def take_out(left: Sequence[F64], coordinates: F64, right: F64, threads: int, format: Format) -> None:
    """``right -= [left_0, left_1, ...] coordinates``, in place."""
    sizes = np.cumsum([0, *(part.shape[1] for part in left)])

    def work(panel: slice) -> None:
        for part, a, b in zip(left, sizes, sizes[1:], strict=False):
            right[panel] -= part[panel] @ coordinates[a:b]

    over_rows(len(right), threads, work, format)


def times(left: Sequence[F64], weights: F64, threads: int, format: Format) -> F64:
    """(d, k) ``[left_0, left_1, ...] weights``."""
    found = np.zeros((len(left[0]), weights.shape[1]))
    take_out(left, -weights, found, threads, format)
    return found


def rotate(tall: F64, weights: F64, threads: int, format: Format) -> F64:
    """``tall`` (d, l) times ``weights`` (l, k), k <= l, written over it; returns its first k columns, contiguous."""
    k = weights.shape[1]
    found = tall if k == tall.shape[1] else np.empty((len(tall), k))

    def work(panel: slice) -> None:
        found[panel] = tall[panel] @ weights

    over_rows(len(tall), threads, work, format)
    return found
