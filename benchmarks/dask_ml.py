"""Speed on a warm Dask cluster: eigenmill's Dask engine, its local engine, and dask-ml, in one call.

    python -m benchmarks dask                                # 400,000 x 512, scalar and list columns
    python -m benchmarks dask --rows 4000000 --layout scalar --repeat-peers 0    # 8 GB: the engines alone

The job is that of ``benchmarks.reduction``: standardize + PCA(50) + write features. The cluster has two worker
processes of one thread each and is warm: every side has run once on 2,000 rows. dask-ml is
``StandardScaler`` + ``PCA(50, svd_solver="tsqr")``, the only solver of its that goes with scikit-learn 1.9; it reads
row groups with pyarrow, keeps the rows in the workers' memory, and writes one file for each chunk. It is not one of the
tests' packages: ``pip install --group bench -c constraints.txt``. Rounds go through the cases forwards, then
backwards; ratios are those of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import mill
from benchmarks.data import CACHE, LAYOUTS, Spec, make
from benchmarks.measure import MB, temporary, warm_up
from benchmarks.peers import F32, columns, matrix
from benchmarks.reduction import VARIANCE_TOLERANCE, Runs

CASES = ("local", "dask", "dask-ml")
FASTER, LATER, GROWN = 5.0, 2.0, 1.3
"""Bars: how many times faster than dask-ml; how many seconds, or for ``LARGE`` data times, more than local threads."""
LARGE = 4 << 30
"""Decoded bytes from which the engines are compared by their ratio."""


def dask_ml(client: Any, path: Path, out: Path, *, components: int = 50) -> dict[str, Any]:
    """The job with dask-ml; the features are written as they are computed."""
    import dask
    import dask.array as da
    from dask_ml.decomposition import PCA
    from dask_ml.preprocessing import StandardScaler

    began = time.perf_counter()
    out.mkdir(parents=True)
    chunks, ids = [], []
    for name in sorted(path.glob("*.parquet")):
        metadata, names = pq.read_metadata(name), columns(name)
        width = len(names) if len(names) > 1 else list_width(name)
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            block = dask.delayed(read_group)(name, group, names)
            chunks.append(da.from_delayed(block, (rows, width), np.float32))
            ids.append((name, group))
    X = client.persist(da.concatenate(chunks))
    scaler, pca = StandardScaler(), PCA(components, svd_solver="tsqr")
    Z = scaler.fit_transform(X)
    pca.fit(Z)
    fitted = time.perf_counter()
    features = pca.transform(Z).to_delayed().ravel()
    parts = [
        dask.delayed(write_group)(block, *place, out / f"part-{i:05d}.parquet")
        for i, (block, place) in enumerate(zip(features, ids, strict=True))
    ]
    dask.compute(*parts)
    ended = time.perf_counter()
    return {"fit": fitted - began, "seconds": ended - began, "variance": pca.explained_variance_.tolist()}


def list_width(name: Path) -> int:
    """The width of the list column."""
    return len(next(pq.ParquetFile(name).iter_batches(1, columns=["x"])).column("x")[0])


def read_group(name: Path, group: int, names: Sequence[str]) -> F32:
    """One row group as rows, by one thread as every task of a cluster."""
    return matrix(pq.ParquetFile(name).read_row_group(group, columns=list(names), use_threads=False))


def write_group(features: F32, name: Path, group: int, target: Path) -> None:
    """The features of one row group with their ids."""
    ids = pq.ParquetFile(name).read_row_group(group, columns=["id"]).column("id")
    values = {f"pca{j}": pa.array(column) for j, column in enumerate(np.ascontiguousarray(features.T))}
    pq.write_table(pa.table({"id": ids, **values}), target, compression="zstd")


def run_case(case: str, client: Any, path: Path, out: Path) -> dict[str, Any]:
    from eigenmill.reduce import connect

    if case == "dask-ml":
        return dask_ml(client, path, out)
    engine = connect("dask", client) if case == "dask" else connect("local", workers=2, memory="2GiB")
    return mill.run(path, out, engine=engine)


def run_all(client: Any, spec: Spec, cases: Sequence[str], repeat: int, repeat_peers: int, cache: Path) -> Runs:
    """All rounds on one cluster; every case has been warm before."""
    for wanted in (warm_up(spec), spec):
        make(wanted, cache)
    runs: Runs = defaultdict(list)
    for case in cases:
        with temporary() as out:
            run_case(case, client, cache / warm_up(spec).name, out / "features")
    for file in (cache / spec.name).glob("*.parquet"):  # into the page cache, for everybody alike
        with file.open("rb") as stream:
            while stream.read(16 * MB):
                pass
    for turn in range(max(repeat, repeat_peers)):
        for case in cases if turn % 2 == 0 else cases[::-1]:
            if turn >= (repeat_peers if case == "dask-ml" else repeat):
                continue
            with temporary() as out:
                result = run_case(case, client, cache / spec.name, out / "features")
                written = sorted((out / "features").rglob("*.parquet"))
                result["rows"] = sum(pq.read_metadata(part).num_rows for part in written)
            runs[case].append(result)
            print(
                f"{spec.layout:7s} {case:8s} {result['seconds']:7.2f} s, of these fit {result['fit']:.2f} s", flush=True
            )
    return runs


def verdicts(runs: Runs, spec: Spec) -> Iterator[tuple[str, float, str, bool]]:
    """(what, value, the bar in words, passed)."""
    mid = {case: median(run["seconds"] for run in found) for case, found in runs.items()}
    if {"dask", "dask-ml"} <= mid.keys():
        ratio = mid["dask-ml"] / mid["dask"]
        yield "dask-ml / eigenmill on Dask", ratio, f">= {FASTER:g}", ratio >= FASTER
    if {"dask", "local"} <= mid.keys():
        if spec.nbytes >= LARGE:
            ratio = mid["dask"] / mid["local"]
            yield "Dask engine / local engine", ratio, f"<= {GROWN:g}", ratio <= GROWN
        else:
            later = mid["dask"] - mid["local"]
            yield "Dask engine - local engine, s", later, f"<= {LATER:g}", later <= LATER
    reference = runs["local"][0]["variance"]
    for case, found in runs.items():
        if case != "local":
            error = max(abs(a / b - 1) for a, b in zip(found[0]["variance"], reference, strict=True))
            bar = "= 0, the same bytes" if case == "dask" else f"<= {VARIANCE_TOLERANCE:g}"
            passed = error == 0 if case == "dask" else error <= VARIANCE_TOLERANCE
            yield f"variances, {case} and local", error, bar, passed
        yield f"rows written, {case}", found[0]["rows"], f"= {spec.rows}", found[0]["rows"] == spec.rows


def main(argv: Sequence[str] | None = None) -> None:
    from distributed import Client, LocalCluster

    parser = argparse.ArgumentParser(prog="benchmarks dask", description="the Dask engine, the local one and dask-ml")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--repeat", type=int, default=3, help="rounds of the engines")
    parser.add_argument("--repeat-peers", type=int, default=1, help="rounds of dask-ml")
    parser.add_argument("--layout", action="append", choices=LAYOUTS, help="default: scalar and list")
    parser.add_argument("--memory", default="6GiB", help="limit of one worker")
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    cases = [case for case in CASES if case != "dask-ml" or args.repeat_peers]
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load average before the start {load:.2f}", flush=True)
    kept: dict[str, Any] = {"rows": args.rows, "cores": os.cpu_count(), "load": load, "layouts": {}}
    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "processes": True}
    for layout in args.layout or ["scalar", "list"]:
        spec = Spec(rows=args.rows, layout=layout)
        with (
            warnings.catch_warnings(),
            LocalCluster(**options, dashboard_address="127.0.0.1:0", memory_limit=args.memory) as cluster,
            Client(cluster) as client,
        ):
            warnings.simplefilter("ignore")  # dask-ml's, of what it uses of Dask
            runs = run_all(client, spec, cases, args.repeat, args.repeat_peers, args.cache)
        print(f"\n| {layout}, {spec.rows:,} rows | median s | best s | fit s |\n|---|---:|---:|---:|")
        for case, found in runs.items():
            times, fits = [run["seconds"] for run in found], [run["fit"] for run in found]
            print(f"| {case} ({len(found)} runs) | {median(times):.2f} | {min(times):.2f} | {median(fits):.2f} |")
        print(f"\n| {layout} | measured | bar | |\n|---|---:|---|---|")
        judged = []
        for what, value, bar, passed in verdicts(runs, spec):
            print(f"| {what} | {value:.4g} | {bar} | {'pass' if passed else 'FAIL'} |")
            judged.append({"what": what, "value": value, "bar": bar, "passed": passed})
        print(flush=True)
        kept["layouts"][layout] = {"runs": runs, "verdicts": judged}
    target = args.cache / f"dask-{args.rows}.json"
    target.write_text(json.dumps(kept, indent=1))
    print(f"written: {target}")


if __name__ == "__main__":
    main()
