"""Seconds: what ``explain`` says of a fit and of a write, beside what they take here and on two Dask workers.

    python -m benchmarks seconds                        # list columns, 200,000 x 512
    python -m benchmarks seconds --rows 400000 --layout scalar

Each scan runs once before it is timed, over a fresh output, and then ``--repeat`` times; the fastest counts. Run it on
a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.data import CACHE, LAYOUTS, Spec, feature_names, make
from eigenmill.reduce import PCA, Dataset, Sink, connect
from eigenmill.reduce.engines.kinds import Cluster
from eigenmill.reduce.plan import explain


def fastest(work: Callable[[], Any], repeat: int) -> float:
    """Seconds of the fastest of so many runs, after one that does not count."""
    times = []
    for _ in range(repeat + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def sides(data: Dataset, engine: Any, out: Path, repeat: int) -> dict[str, tuple[float, float]]:
    """(predicted, measured) seconds of the fit and of the write."""
    model, target = PCA(50, scale=True), out / "written"
    place = engine.cluster or engine
    if isinstance(place, Cluster):
        place = replace(place, link=float("inf"))  # all on one machine
    plan = explain(model, data, place, Sink(target))
    gram, write = plan.scans
    fitted = fastest(lambda: model.fit(data, engine=engine), repeat)
    features = model.transform(data)

    def writing() -> None:
        shutil.rmtree(target, ignore_errors=True)
        engine.write(features, Sink(target))

    return {"fit": (gram.seconds, fitted), "write": (write.seconds, fastest(writing, repeat))}


def main(argv: Sequence[str] | None = None) -> None:
    from distributed import Client, LocalCluster

    parser = argparse.ArgumentParser(prog="benchmarks seconds", description="seconds: predicted and measured")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--layout", choices=LAYOUTS, default="list")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    spec = Spec(rows=args.rows, features=args.features, layout=args.layout, row_group=12_500)
    path = make(spec, args.cache)
    data = Dataset.from_parquet(
        path, **({"vector": "x"} if args.layout != "scalar" else {"columns": feature_names(spec.features)})
    )
    found: dict[str, Any] = {}
    for workers in (1, 2):
        found[f"local, {workers} threads"] = sides(data, connect("local", workers=workers), args.cache, args.repeat)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        found["Dask, 2 processes"] = sides(data, connect("dask", client), args.cache, args.repeat)
    print(f"\n| {spec.name} | fit: predicted s | measured | write: predicted s | measured |")
    print("|---|---:|---:|---:|---:|")
    for side, each in found.items():
        print(f"| {side} | {' | '.join(f'{p:.2f} | {m:.2f}' for p, m in each.values())} |", flush=True)
    (args.cache / "seconds.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
