"""Data too wide for a d x d matrix: the sketch solver beside dask and scikit-learn, and beside the bare cost of a scan.

    python -m benchmarks wide dense                    # 200,000 x 10,000 float32, k = 50, within memory="2GiB"
    python -m benchmarks wide sparse                   # 2,000,000 x 1,000,000 with 100 M numbers, within "8GiB"
    python -m benchmarks wide dense --rows 40000
    python -m benchmarks wide cache                    # decoding beside reading the kept blocks, by layout

Every case runs in a process of its own; seconds are its own, memory is the peak that the system saw. Errors of the
dense part are those of sigma_50 beside a fit to 1e-7 by its residual bounds; every side gets the fewest scans or
iterations that reach 1e-4. Results are written as they come. The data are made on first use.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import CACHE, Spec, make
from benchmarks.measure import RESULT, peak
from eigenmill.reduce.engines.local.kept import Kept
from eigenmill.reduce.estimators.sketch import width_of
from eigenmill.reduce.format import CURRENT
from eigenmill.reduce.rows.blocks import Workspace

K, RANK, SEED = 50, 100, 20240601
SMALL, BAR = (16_000, 1_000), 1e-4
"""Rows and columns on which scans and iterations are chosen, and the error of sigma_50 that they must reach."""
CHUNK = 4_000
ENTRIES = 50
"""Numbers in a sparse row."""


def dense_data(cache: Path, rows: int, features: int) -> Path:
    """``rows`` x ``features`` float32 as lists: sigma_j falls like 100 / sqrt(j) times the noise."""
    place = cache / f"wide-{rows}x{features}"

    def part(index: int) -> pa.Table:
        rng = np.random.default_rng([SEED, index])
        height = min(CHUNK, rows - index * CHUNK)
        noise = float(np.sqrt(rows) + np.sqrt(features))
        spectrum = 100 * noise / np.sqrt(np.arange(1, RANK + 1)) / np.sqrt(rows * features)
        right = np.random.default_rng(SEED).standard_normal((RANK, features), dtype=np.float32)
        X = (rng.standard_normal((height, RANK)) * spectrum).astype(np.float32) @ right
        X += rng.standard_normal((height, features), dtype=np.float32)
        offsets = np.arange(height + 1, dtype=np.int32) * features
        return pa.table({"x": pa.ListArray.from_arrays(offsets, X.ravel())})

    # Random floats hardly compress, and a dictionary of them only costs time.
    return made(place, -(-rows // CHUNK), part, row_group_size=500, use_dictionary=False, compression="none")


def sparse_data(cache: Path, rows: int, features: int) -> Path:
    """Rows of 50 entries; the j-th column is taken with a probability like 1 / j, and some columns go together."""
    place, height = cache / f"sparse-{rows}x{features}", 10 * CHUNK

    def part(index: int) -> pa.Table:
        rng = np.random.default_rng([SEED, index])
        h = min(height, rows - index * height)
        column = np.exp(rng.random((h, ENTRIES)) * np.log(features)) - 1
        topic = rng.integers(0, 200, (h, 1)) * (features // 400)  # half of a row comes from its topic
        column[:, ::2] = column[:, ::2] / 20 + topic
        column = np.sort(np.minimum(column.astype(np.int32), features - 1), axis=1)
        offsets = np.arange(h + 1, dtype=np.int32) * ENTRIES
        values = rng.random(h * ENTRIES, dtype=np.float32) + np.float32(0.5)
        lists = [pa.ListArray.from_arrays(offsets, flat) for flat in (column.ravel(), values)]
        return pa.table(lists, ["indices", "values"])

    return made(place, -(-rows // height), part, row_group_size=height)


def made(place: Path, parts: int, part: Callable[[int], pa.Table], **options: Any) -> Path:
    """The directory of the parts, written unless it is complete."""
    if not (place / "_COMPLETE").exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for index in range(parts):
            pq.write_table(part(index), place / f"{index:05}.parquet", **options)
        (place / "_COMPLETE").touch()
    return place


def loaded(place: Path, rows: int, features: int) -> Any:
    """All of a dense data set in memory."""
    X = np.empty((rows, features), np.float32)
    for index, file in enumerate(sorted(place.glob("*.parquet"))):
        column = pq.read_table(file)["x"].combine_chunks()
        part = column.values.to_numpy().reshape(-1, features)
        X[index * CHUNK : index * CHUNK + len(part)] = part
    return X


def eigenmill(
    place: Path, rows: int, features: int, *, tol: float | None, scans: int, memory: str, sparse: bool,
    disk: str | None = None, work: str | None = None, block: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    from eigenmill.reduce import Dataset, TruncatedSVD, connect

    class Timed:
        """Notes how long every scan takes."""

        def __init__(self) -> None:
            self.seconds = list[float]()

        def begin(self, stage: str, rows: int, size: int) -> Timed:
            self.began = time.perf_counter()
            return self

        def advance(self, rows: int) -> None:
            pass

        def end(self) -> None:
            self.seconds.append(time.perf_counter() - self.began)

    began, timed = time.perf_counter(), Timed()
    layout: dict[str, Any] = {"sparse": ("indices", "values", features)} if sparse else {"vector": "x"}
    engine = connect("local", memory=memory, progress=timed, disk=disk, work=work)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tol=None, or a budget of scans that is meant
        svd = TruncatedSVD(K, solver="sketch", tol=tol, max_scans=scans, block_size=block, random_state=0)
        svd.fit(Dataset.from_parquet(str(place), **layout), engine=engine)
    s = svd.singular_values_
    told = {"scans": svd.n_scans_, "residual": float((svd.residual_bounds_ / s).max()), "each": timed.seconds}
    cpu = time.process_time()
    return {"seconds": time.perf_counter() - began, "cpu": cpu, "sigma": s.tolist(), **told}


def scikit(place: Path, rows: int, features: int, *, iterations: int) -> dict[str, Any]:
    from sklearn.decomposition import TruncatedSVD

    X = loaded(place, rows, features)
    began = time.perf_counter()
    svd = TruncatedSVD(K, n_iter=iterations, random_state=0).fit(X)
    return {"seconds": time.perf_counter() - began, "sigma": svd.singular_values_.tolist()}


def dask(place: Path, rows: int, features: int, *, iterations: int) -> dict[str, Any]:
    import dask.array as da

    def part(file: str) -> Any:
        return pq.read_table(file)["x"].combine_chunks().values.to_numpy().reshape(-1, features)

    from dask import delayed

    began = time.perf_counter()
    arrays, at = [], 0
    for file in sorted(place.glob("*.parquet")):
        height = min(CHUNK, rows - at)
        arrays.append(da.from_delayed(delayed(part)(str(file)), (height, features), dtype=np.float32))
        at += height
    X = da.concatenate(arrays)
    _, s, _ = da.linalg.svd_compressed(X, K, iterator="QR", n_power_iter=iterations, seed=0)
    sigma = s.compute().tolist()
    return {"seconds": time.perf_counter() - began, "sigma": sigma}


def bare(place: Path, rows: int, features: int, *, width: int) -> dict[str, Any]:
    """Decoding and two sparse products, file by file in two threads, nothing else: what a scan cannot do without."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    from scipy import sparse

    P = np.random.default_rng(0).standard_normal((features, width), dtype=np.float32)

    def part(file: Path) -> tuple[float, float]:
        began = time.perf_counter()
        table = pq.read_table(file)
        indices, values = (table[name].combine_chunks() for name in ("indices", "values"))
        data, columns = values.values.to_numpy(), indices.values.to_numpy()
        X = sparse.csr_array((data, columns, indices.offsets.to_numpy()), shape=(len(table), features))
        decoded = time.perf_counter()
        # Transposed, whole columns of zeros need no room.
        X.T[np.unique(columns)] @ (X @ P)
        return decoded - began, time.perf_counter() - decoded

    began = time.perf_counter()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        told = np.array(list(pool.map(part, sorted(place.glob("*.parquet")))))
    decoding, products = told.sum(axis=0)
    return {"seconds": time.perf_counter() - began, "decoding": decoding, "products": products}


CASES: dict[str, Callable[..., dict[str, Any]]] = {"eigenmill": eigenmill, "scikit": scikit, "dask": dask, "bare": bare}


def measure(case: str, place: Path, rows: int, features: int, **options: Any) -> dict[str, Any]:
    """The case's result and ``rss``, its process's peak in bytes; ``failed`` is what it printed when it ended badly."""
    request = {"case": case, "place": str(place), "rows": rows, "features": features, "options": options}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.wide", "case", json.dumps(request)], capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    if done.returncode or not lines:
        return {"case": case, **options, "failed": (done.stderr or f"exit code {done.returncode}").strip()[-300:]}
    return {"case": case, **options, **json.loads(lines[-1].removeprefix(RESULT))}


def dense(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every side with the fewest scans or iterations that reach ``BAR``: what a small matrix needs, or more."""
    rows, features = args.rows or 200_000, args.features or 10_000
    place, small = dense_data(args.cache, rows, features), dense_data(args.cache, *SMALL)
    target = args.cache / f"wide-dense-{rows}.json"
    shared: dict[str, Any] = {"memory": args.memory or "2GiB", "sparse": False}
    sides: dict[str, tuple[str, int, int, dict[str, Any]]] = {"eigenmill": ("scans", 2, 1, {"tol": None, **shared})}
    if not args.no_peers:
        sides |= {"scikit": ("iterations", 4, 2, {}), "dask": ("iterations", 4, 2, {})}
    sides = {case: side for case, side in sides.items() if args.only in (None, case)}
    if args.disk:
        sides["eigenmill"][3].update(disk=args.disk, work=str(args.cache))
    if args.block:
        sides["eigenmill"][3].update(block=args.block)

    small_truth = measure("eigenmill", small, *SMALL, tol=1e-7, scans=12, **shared)
    steps = {}
    for case, (name, first, step, options) in sides.items():
        steps[case] = first
        while told(measure(case, small, *SMALL, **{name: steps[case]}, **options), small_truth)["error"] > BAR:
            steps[case] += step
    print(f"{rows:,} x {features:,} float32, k = {K}; on {SMALL[0]:,} x {SMALL[1]:,} it takes {steps}\n")
    print("| | error of sigma_50 | scans | seconds | peak memory, MiB |\n| --- | --- | --- | --- | --- |")
    if args.only and target.exists():
        found = json.loads(target.read_text())
    else:
        found = [measure("eigenmill", place, rows, features, tol=1e-7, scans=12, **shared)]
        found[0] = show(told(found[0], found[0]))
    truth = found[0]
    for case, (name, _, step, options) in sides.items():
        while True:
            found.append(show(told(measure(case, place, rows, features, **{name: steps[case]}, **options), truth)))
            target.write_text(json.dumps(found, indent=1))
            if not found[-1].get("error", 0.0) > BAR:
                break
            steps[case] += step
    print(f"\nwritten: {target}")
    return found


def sparse(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows, features = args.rows or 2_000_000, args.features or 1_000_000
    place = sparse_data(args.cache, rows, features)
    print(f"{rows:,} x {features:,} with {rows * ENTRIES:,} numbers in float32, k = {K}\n")
    print("| | residual | scans | seconds | peak memory, MiB |\n| --- | --- | --- | --- | --- |")
    least = measure("bare", place, rows, features, width=width_of(K, K, features, CURRENT))
    found = [show(least)]
    target = args.cache / f"wide-sparse-{rows}.json"
    options = {"tol": None, "scans": args.scans or 3, "memory": args.memory or "8GiB", "sparse": True}
    found.append(show(measure("eigenmill", place, rows, features, **options)))
    target.write_text(json.dumps(found, indent=1))
    if "each" in found[1] and "seconds" in least:
        each = ", ".join(f"{seconds:.1f}" for seconds in found[1]["each"])
        print(
            f"\nseconds of each scan: {each}; bare: {least['seconds']:.1f} "
            f"({least['decoding']:.1f} thread-seconds decoding, {least['products']:.1f} two products)"
        )
    print(f"\nwritten: {target}")
    return found


def cache(args: argparse.Namespace) -> None:
    """Seconds of one thread to go through all blocks: decoded, decoded and kept on disk, kept on disk, in memory."""
    from eigenmill.reduce import Dataset

    layouts: dict[str, tuple[Path, dict[str, Any]]] = {
        "lists, 40,000 x 10,000": (dense_data(args.cache, 40_000, 10_000), {"vector": "x"}),
        "columns, 400,000 x 512": (make(Spec(), args.cache), {"carry": "id"}),
        "sparse rows, 200,000 x 50": (
            sparse_data(args.cache, 200_000, 1_000_000),
            {"sparse": ("indices", "values", 1_000_000)},
        ),
    }
    print("| layout | MB decoded | decoded, s | decoded and kept, s | from disk, s | from memory, s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (place, options) in layouts.items():
        data = Dataset.from_parquet(str(place), **options)
        height = data.format.max_height if data.sparse else None

        def scan(source: Dataset, height: int | None = height) -> float:
            workspace, began = Workspace(), time.perf_counter()
            for fragment in source.fragments:
                for block in source.blocks(fragment, workspace, height=height):
                    del block
            return time.perf_counter() - began

        scan(data)
        seconds = [scan(data)]
        for disk, memory in ((8 << 30, 0), (0, 8 << 30)):
            kept = Kept(args.cache, disk)
            first = scan(kept.over(data, memory))
            seconds += [first] if disk else []
            seconds.append(scan(kept.over(data, 0)))
            size = kept.bytes or kept.disk_bytes
            kept.close()
        print(f"| {name} | {size / 1e6:,.0f} | " + " | ".join(f"{s:.2f}" for s in seconds) + " |", flush=True)


def told(found: dict[str, Any], truth: dict[str, Any]) -> dict[str, Any]:
    """``found`` with ``error``, the relative one of sigma_50 beside the fit ``truth``."""
    if "sigma" not in found or "sigma" not in truth:
        return {"error": np.nan, **found}
    return {**found, "error": abs(found["sigma"][K - 1] / truth["sigma"][K - 1] - 1)}


def show(found: dict[str, Any]) -> dict[str, Any]:
    """Print one line of the table; returns ``found``."""
    name = found["case"] + (f", {found['iterations']} iterations" if "iterations" in found else "")
    if "failed" in found:
        print(f"| {name} | {found['failed']} | | | |", flush=True)
        return found
    error = found.get("error", found.get("residual", np.nan))
    scans, mib = found.get("scans", ""), found["rss"] >> 20
    print(f"| {name} | {error:.1e} | {scans} | {found['seconds']:.1f} | {mib:,} |", flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks wide", description="the sketch solver on wide data")
    parser.add_argument("part", choices=["dense", "sparse", "cache", "case"])
    parser.add_argument("request", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--features", type=int)
    parser.add_argument("--memory")
    parser.add_argument("--scans", type=int, help="of the sparse part")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--only", help="one side of the dense part, added to the results that are there")
    parser.add_argument("--disk", help="room for kept blocks, such as 10GiB")
    parser.add_argument("--block", type=int, help="columns of eigenmill's block, by default its own choice")
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    if args.part == "case":
        request = json.loads(args.request)
        size = (Path(request["place"]), request["rows"], request["features"])
        result = CASES[request["case"]](*size, **request["options"])
        print(RESULT + json.dumps({**result, "rss": peak()}))
        return
    {"dense": dense, "sparse": sparse, "cache": cache}[args.part](args)


if __name__ == "__main__":
    main()
