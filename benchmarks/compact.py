"""The article's case: 784-128-10 on MNIST, before and after, by the two recipes in conf/; means of three seeds.

    python -m benchmarks compact                     # both recipes, seeds 0, 1 and 2: about 15 minutes on one core
    python -m benchmarks compact --seed 0 --recipe mnist_compact

60,000 digits to train on, a tenth of them held out to judge the steps by, 10,000 test digits that each finished file
is scored on once. All figures are those of the file: decoded, and run as the integer model. What is done stays in
build/bench/compact and is not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.data import CACHE
from eigenmill.compress.judging.latency import machine
from eigenmill.jobs.demo.digits import FULL, prepare
from eigenmill.jobs.recipes.recipe import load_recipe
from eigenmill.jobs.recipes.report import CompactReport
from eigenmill.jobs.recipes.run import run
from eigenmill.jobs.recipes.show import before_and_after
from eigenmill.jobs.shown import console
from eigenmill.jobs.shown.show import grid

CONF = Path(__file__).parent.parent / "conf"
BARS = {"mnist_compact": 20.0, "mnist_compact_full": 60.0}
"""Times smaller than 407 KB that a recipe must be, with at most 0.1 points of error more than in single precision."""
MORE_ERROR = 0.001


def case(recipe: str, seed: int, data: str, cache: Path) -> CompactReport:
    """One recipe, one seed."""
    places = [f"input.path={data}", f"test.path={data}", f"output.path={cache}/compact/{recipe}-{seed}"]
    return run(load_recipe(CONF / f"{recipe}.yaml", [*places, f"model.seed={seed}"]))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks compact", description="784-128-10 on MNIST, before and after")
    parser.add_argument("--seed", type=int, action="append", help="default: 0, 1 and 2")
    parser.add_argument("--recipe", choices=list(BARS), action="append", help="default: both")
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    digits = prepare(args.cache, small=False, notice=console.notice)
    if digits.kind is not FULL:
        raise SystemExit("expected all of MNIST, found none; check the network")
    shown = Console(width=140)
    table = grid("recipe", "seed", "bytes", "times smaller", "float error", "error", "more", title="On the test digits")
    records: list[dict[str, Any]] = []
    failed = False
    for recipe in args.recipe or list(BARS):
        rows: list[dict[str, Any]] = []
        for seed in args.seed or [0, 1, 2]:
            found = case(recipe, seed, digits.path, args.cache)
            before, after = found.test_before, found.test_after
            assert before is not None
            assert after is not None
            if not rows:
                shown.print(f"{recipe}, seed {seed}", before_and_after(before, after, tested=True, machine=machine()))
            row = {"recipe": recipe, "seed": seed, "bytes": after.bytes, "ratio": after.ratio}
            rows.append(row | {"float_error": before.error, "error": after.error})
        averages = {name: mean([row[name] for row in rows]) for name in ("bytes", "ratio", "float_error", "error")}
        rows.append({"recipe": recipe, "seed": "mean", **averages})
        for row in rows:
            more = row["error"] - row["float_error"]
            figures = [f"{row['bytes']:,.0f}", f"{row['ratio']:.1f}"]
            figures += [f"{100 * value:.2f} %" for value in (row["float_error"], row["error"])]
            table.add_row(row["recipe"], str(row["seed"]), *figures, f"{100 * more:+.2f}")
        kept = averages["ratio"] >= BARS[recipe] and averages["error"] <= averages["float_error"] + MORE_ERROR + 1e-12
        failed |= not kept
        table.add_row("", "", f"bar: {BARS[recipe]:.0f} times, +0.10 points", "met" if kept else "MISSED", "", "", "")
        records += rows
    shown.print(table)
    target = args.cache / "compact.json"
    target.write_text(json.dumps(records, indent=1))
    print(f"written: {target}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
