"""Where one thread's time goes in the floor's two scans: decode, copy, BLAS, write.

    python -m benchmarks.stages [--layout scalar] [--repeat 3]

The floor's own pieces are called one after the other with a clock between them: CPU seconds of the one thread,
median over the repetitions. The last line is the same fit written plainly, a fresh array for every block: what
the floor's tuning is worth.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import floor
from benchmarks.data import CACHE, LAYOUTS, Spec, make
from benchmarks.measure import temporary

COMPONENTS = 50


class Clock:
    """CPU seconds of this thread by stage: ``lap(name)`` books the time since the last lap."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.last = time.thread_time()

    def lap(self, stage: str) -> None:
        now = time.thread_time()
        self.seconds[stage] += now - self.last
        self.last = now


def batches(data: floor.Input, unit: floor.Unit, clock: Clock, stage: str, *extra: str) -> Iterator[Any]:
    """The unit's batches, each booked under ``stage``."""
    for batch in data.decode(unit, *extra):
        clock.lap(stage)
        yield batch
    clock.lap(stage)


def job(data: floor.Input, out: Path) -> dict[str, float]:
    """Both scans."""
    pivot, clock = data.pivot(), Clock()
    gram = floor.Gram(data.scalar, pivot)
    clock.lap("fit: solve")
    for unit in data.units:
        for batch in batches(data, unit, clock, "fit: decode"):
            block = gram.buffer.fill(batch)
            clock.lap("fit: copy and shift")
            gram.add(block, batch.num_rows)
            clock.lap("fit: BLAS")
    model = floor.solve(gram.n, gram.sum, gram.cross, COMPONENTS)
    clock.lap("fit: solve")

    tallest = max(unit.rows for unit in data.units)
    projection = floor.Projection(data.scalar, pivot, model.matrix, model.offset, tallest)
    for unit in data.units:
        row, ids = 0, []
        for batch in batches(data, unit, clock, "write: decode", "id"):
            block = projection.buffer.fill(batch)
            clock.lap("write: copy and shift")
            projection.project(block, row, batch.num_rows)
            clock.lap("write: BLAS")
            ids.append(batch.column("id"))
            row += batch.num_rows
        floor.write_part(out / f"part-{unit.index:05d}.parquet", ids, projection.features[:row])
        clock.lap("write: encode and write parts")
    return clock.seconds


def plain(data: floor.Input) -> float:
    """CPU seconds of the Gram scan with a fresh array per block."""
    began, total, cross = time.thread_time(), 0.0, 0.0
    for unit in data.units:
        for batch in data.decode(unit):
            if data.scalar:
                X = np.column_stack([column.to_numpy() for column in batch.columns])
            else:
                X = np.array(batch.column("x").flatten().to_numpy().reshape(batch.num_rows, -1))
            total = total + X.sum(axis=0, dtype=np.float64)
            cross = cross + (X.T @ X).astype(np.float64)
    return time.thread_time() - began


def table(path: Path, repeat: int) -> dict[str, float]:
    """Stage -> CPU seconds, in the order in which stages happen."""
    data, runs = floor.Input.open(path), []
    with threadpool_limits(1, "blas"):
        for _ in range(repeat):
            with temporary() as out:
                seconds = job(data, out)
            runs.append({**seconds, "fit, written plainly": plain(data)})
    medians = {stage: median(run[stage] for run in runs) for stage in runs[0]}
    fit = {stage: medians[stage] for stage in medians if stage.startswith("fit: ")}
    write = {stage: medians[stage] for stage in medians if stage.startswith("write: ")}
    rest = {stage: medians[stage] for stage in medians if stage not in fit | write}
    return {**fit, "fit": sum(fit.values()), **write, "write": sum(write.values()), **rest}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks stages", description="where one thread's time goes")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--layout", action="append", choices=LAYOUTS, help="default: scalar and list")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    layouts = args.layout or ["scalar", "list"]
    tables = [table(make(Spec(rows=args.rows, layout=layout), args.cache), args.repeat) for layout in layouts]
    print(f"\n| one thread, CPU seconds | {' | '.join(layouts)} |\n|---|{'---:|' * len(layouts)}")
    for stage in tables[0]:
        print(f"| {stage} | {' | '.join(f'{t[stage]:.2f}' for t in tables)} |")


if __name__ == "__main__":
    main()
