"""Memory: the peak resident set of eigenmill's whole job, seen from outside the process.

    python -m benchmarks.memory                 # n and 10 n rows; row groups of 600 MB (20 GB of disk); the promise
    python -m benchmarks.memory --only promise  # planned and measured, for shapes that are hard to plan
    python -m benchmarks.memory --only growth --layout scalar
    python -m benchmarks.memory --huge          # 20.9 GB, fitted and written within memory="1GiB" (slow)
    python -m benchmarks.memory --side floor    # the same for the floor, which promises nothing

The parent reads ``VmHWM`` of the child: everything resident counts, the interpreter, its libraries and mapped
pages of files too. The peaks of equal runs differ by some 3 %: growth is judged by medians of ``--repeat`` runs.
``--clean`` deletes each data set after its run.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import promise
from benchmarks.data import CACHE, LAYOUTS, Spec, make
from benchmarks.measure import MB, measure, warm_up

GROWTH = 1.05
HUGE_ROWS = 10_200_000
TALL = 300_000  # rows of 2,048 bytes: row groups of 614 MB
GIB = 1 << 30


class Bench:
    """Runs the job of one side and keeps the results."""

    def __init__(self, side: str, workers: int, cache: Path, clean: bool) -> None:
        self.side, self.workers, self.cache, self.clean = side, workers, cache, clean
        self.records: list[dict[str, Any]] = []

    def peak(self, what: str, spec: Spec, memory: str = "2GiB") -> int:
        """Make the data, run the job, print and keep one line; the peak in bytes."""
        for wanted in (spec, warm_up(spec)):
            make(wanted, self.cache)
        options: dict[str, Any] = {"workers": self.workers}
        if self.side == "eigenmill":
            options["memory"] = memory
        result = measure(self.side, spec, cache=self.cache, **options)
        if self.clean:
            shutil.rmtree(self.cache / spec.name)
        result.pop("variance")
        self.records.append({"what": what, "data": spec.name, "memory": memory, **result})
        print(
            f"| {what} | {spec.layout} | {spec.rows:,} | {spec.nbytes / 1e9:.1f} | {memory} "
            f"| {result['seconds']:.1f} | {result['rss'] / MB:.0f} |",
            flush=True,
        )
        if result["rows"] != spec.rows:
            self.verdict("rows written", result["rows"], f"= {spec.rows}", False)
        return int(result["rss"])

    def verdict(self, what: str, value: float, bar: str, passed: bool) -> None:
        self.records.append({"what": what, "value": value, "bar": bar, "passed": passed})
        print(f"| {what}: {value:.4g}, bar {bar}: {'pass' if passed else 'FAIL'} | | | | | | |", flush=True)


def growth(bench: Bench, spec: Spec, repeat: int, times: int = 10) -> None:
    """Ten times the rows, the same peak."""
    tall = replace(spec, rows=spec.rows * times)
    peaks = [(bench.peak("n rows", spec), bench.peak(f"{times} n rows", tall)) for _ in range(repeat)]
    small, large = (median(side) for side in zip(*peaks, strict=True))
    bench.verdict(f"growth, {spec.layout}", large / small, f"< {GROWTH}", large / small < GROWTH)


def tall(bench: Bench, spec: Spec) -> None:
    """Row groups larger than what a worker may hold stream in blocks: the peak stays below one row group."""
    peak = bench.peak("row groups of 600 MB", replace(spec, rows=2 * TALL, row_group=TALL))
    bar = TALL * spec.features * 4
    bench.verdict(f"peak / row group, {spec.layout}", peak / bar, "< 1", peak < bar)


def huge(bench: Bench, spec: Spec, rows: int = HUGE_ROWS) -> None:
    """20.9 GB within 1 GiB."""
    peak = bench.peak("huge", replace(spec, rows=rows), memory="1GiB")
    bench.verdict(f"peak of {spec.layout} in GiB", peak / GIB, "<= 1", peak <= GIB)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks memory", description="peak resident set of the whole job")
    parser.add_argument("--rows", type=int, default=400_000, help="n")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each size whose medians give the growth")
    parser.add_argument("--layout", action="append", choices=LAYOUTS, help="default: scalar and list")
    parser.add_argument("--only", choices=("growth", "tall", "promise"))
    parser.add_argument("--huge", action="store_true", help="the 20.9 GB data set instead; default layout: scalar")
    parser.add_argument("--huge-rows", type=int, default=HUGE_ROWS)
    parser.add_argument("--side", choices=("eigenmill", "floor"), default="eigenmill")
    parser.add_argument("--clean", action="store_true", help="delete each data set after its run")
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    if not args.huge and args.only in (None, "promise"):
        promise.table()
    if args.only == "promise":
        return
    bench = Bench(args.side, args.workers, args.cache, args.clean)
    print(f"| {args.side}, {args.workers} workers | layout | rows | GB | memory= | seconds | peak MB |")
    print("|---|---|---:|---:|---|---:|---:|", flush=True)
    for layout in args.layout or (["scalar"] if args.huge else ["scalar", "list"]):
        spec = Spec(rows=args.rows, layout=layout)
        if args.huge:
            huge(bench, spec, args.huge_rows)
            continue
        if args.only != "tall":
            growth(bench, spec, args.repeat)
        if args.only != "growth":
            tall(bench, spec)
    target = args.cache / ("memory-huge.json" if args.huge else "memory.json")
    target.write_text(json.dumps(bench.records, indent=1))
    print(f"\nwritten: {target}")


if __name__ == "__main__":
    main()
