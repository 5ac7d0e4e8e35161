"""Speed: eigenmill against the floor and scikit-learn, in one call.

    python -m benchmarks.reduction                        # everything, about ten minutes
    python -m benchmarks.reduction --only floor-2 --only eigenmill-2 --layout scalar --repeat 5

The job: 400,000 x 512 float32 in Parquet, standardize + PCA(50) + write features (id carried, zstd). Each run is
a fresh process; rounds go through the cases forwards, then backwards; the table shows medians, and ratios are
ratios of medians. Peers run in the first ``--repeat-peers`` rounds. Every case's 50 variances are compared with
the floor's. Nothing else should run on the machine: the load average before the start is printed and kept.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.data import CACHE, LAYOUTS, Spec, make
from benchmarks.measure import MB, CaseError, measure, warm_up

Runs = dict[str, list[dict[str, Any]]]

OURS = ("floor-1", "eigenmill-1", "floor-2", "eigenmill-2")
PEERS = ("incremental", "in-memory", "randomized")
VARIANCE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Bar:
    """``numerator / denominator`` of median seconds should be at most (or at least) ``bar``."""

    what: str
    numerator: str
    denominator: str
    bar: float
    at_most: bool = False

    def passed(self, ratio: float) -> bool:
        return ratio <= self.bar if self.at_most else ratio >= self.bar


BARS = (
    Bar("eigenmill / floor, 2 workers", "eigenmill-2", "floor-2", 1.25, at_most=True),
    Bar("eigenmill / floor, 1 worker", "eigenmill-1", "floor-1", 1.25, at_most=True),
    Bar("IncrementalPCA / eigenmill", "incremental", "eigenmill-2", 8),
    Bar("in-memory PCA / eigenmill", "in-memory", "eigenmill-2", 2),
    Bar("in-memory randomized PCA / eigenmill", "randomized", "eigenmill-2", 2),
)


def run_case(name: str, spec: Spec, cache: Path) -> dict[str, Any]:
    case, _, workers = name.partition("-")
    if case in ("floor", "eigenmill"):
        return measure(case, spec, cache=cache, workers=int(workers))
    return measure(name, spec, cache=cache)


def run_all(spec: Spec, cases: Sequence[str], repeat: int, repeat_peers: int, cache: Path) -> Runs:
    """All rounds. A case that fails is reported and left out of later rounds."""
    for wanted in (spec, warm_up(spec)):
        make(wanted, cache)
    for file in (cache / spec.name).glob("*.parquet"):  # into the page cache, for everybody alike
        with file.open("rb") as stream:
            while stream.read(16 * MB):
                pass
    runs: Runs = defaultdict(list)
    failed: set[str] = set()
    for turn in range(max(repeat, repeat_peers)):
        for name in cases if turn % 2 == 0 else cases[::-1]:
            if name in failed or turn >= (repeat_peers if name in PEERS else repeat):
                continue
            try:
                result = run_case(name, spec, cache)
            except (CaseError, OSError) as error:
                failed.add(name)
                print(f"{spec.layout:7s} {name:12s} FAILED: {error}", flush=True)
                continue
            runs[name].append(result)
            print(f"{spec.layout:7s} {name:12s} {result['seconds']:7.2f} s", flush=True)
    return runs


def seconds(runs: Runs, name: str) -> float:
    return median(run["seconds"] for run in runs[name])


def gain(runs: Runs, case: str) -> float:
    """One worker's seconds over two workers'."""
    return seconds(runs, f"{case}-1") / seconds(runs, f"{case}-2")


def variance_error(runs: Runs, name: str) -> float:
    """Largest relative difference of the leading variances from the floor's (nan without a floor)."""
    floor = next((runs[f][0]["variance"] for f in OURS if f.startswith("floor") and f in runs), None)
    if floor is None:
        return float("nan")
    return max(abs(a / b - 1) for a, b in zip(runs[name][0]["variance"], floor, strict=True))


def verdicts(runs: Runs, rows: int) -> Iterator[tuple[str, float, str, bool]]:
    """(what, value, the bar in words, passed)."""
    for bar in BARS:
        if bar.numerator in runs and bar.denominator in runs:
            ratio = seconds(runs, bar.numerator) / seconds(runs, bar.denominator)
            yield bar.what, ratio, f"{'<=' if bar.at_most else '>='} {bar.bar:g}", bar.passed(ratio)
    if all(name in runs for name in OURS):
        ours, floor = gain(runs, "eigenmill"), gain(runs, "floor")
        yield "gain of the 2nd worker, eigenmill", ours, f">= {floor:.2f}, the floor's", ours >= floor
    for name in runs:
        # IncrementalPCA is an approximation, and so is the randomized solver: shown, not judged.
        if name.startswith("eigenmill"):
            error = variance_error(runs, name)
            yield (
                f"variances, {name} and floor",
                error,
                f"<= {VARIANCE_TOLERANCE:g}",
                error <= VARIANCE_TOLERANCE,
            )
            written = runs[name][0]["rows"]
            yield f"rows written, {name}", written, f"= {rows}", written == rows


def show(layout: str, rows: int, runs: Runs) -> list[dict[str, Any]]:
    """Print both tables of a layout; the verdicts as records."""
    keys = ("seconds", "fit", "cpu", "process", "rss", "written")
    heads = ("median s", "best s", "fit s", "CPU s", "process s", "peak MB", "MB out", "variances differ")
    print(f"\n| {layout} | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for name in (*OURS, *PEERS):
        if name not in runs:
            continue
        mid = {key: median(run[key] for run in runs[name]) for key in keys}
        best, error = min(run["seconds"] for run in runs[name]), variance_error(runs, name)
        print(
            f"| {name} ({len(runs[name])} runs) | {mid['seconds']:.2f} | {best:.2f} | {mid['fit']:.2f} "
            f"| {mid['cpu']:.2f} | {mid['process']:.2f} | {mid['rss'] / MB:.0f} "
            f"| {mid['written'] / MB:.0f} | {error:.1e} |"
        )
    print(f"\n| {layout} | measured | bar | |\n|---|---:|---|---|")
    records = []
    for what, value, bar, passed in verdicts(runs, rows):
        print(f"| {what} | {value:.4g} | {bar} | {'pass' if passed else 'FAIL'} |")
        records.append({"what": what, "value": value, "bar": bar, "passed": passed})
    print(flush=True)
    return records


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks reduction", description="eigenmill, the floor and scikit-learn")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--repeat", type=int, default=5, help="rounds of floor and eigenmill")
    parser.add_argument("--repeat-peers", type=int, default=1)
    parser.add_argument("--layout", action="append", choices=LAYOUTS, help="default: scalar and list")
    parser.add_argument("--only", action="append", choices=(*OURS, *PEERS), help="cases; default: all")
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    cases = [name for name in (*OURS, *PEERS) if not args.only or name in args.only]
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load average before the start {load:.2f}", flush=True)
    written: dict[str, Any] = {"rows": args.rows, "cores": os.cpu_count(), "load": load, "layouts": {}}
    for layout in args.layout or ["scalar", "list"]:
        spec = Spec(rows=args.rows, layout=layout)
        runs = run_all(spec, cases, args.repeat, args.repeat_peers, args.cache)
        records = show(layout, args.rows, runs)
        written["layouts"][layout] = {"runs": runs, "verdicts": records}
    target = args.cache / "reduction.json"
    target.write_text(json.dumps(written, indent=1))
    print(f"written: {target}")


if __name__ == "__main__":
    main()
