"""Seconds at equal accuracy: every side has to bring each of k singular values of the glosses within 1e-3.

    python -m benchmarks equal                   # eigenmill, scikit-learn, ARPACK and Spark's computeSVD
    python -m benchmarks equal --limit 150       # stop Spark after so many seconds

The data are in memory on every side, as CSR or as rows of an RDD, and so is no Parquet. scikit-learn gets the
smallest ``n_iter`` that is accurate enough: found once, without a clock, and kept in ``equal-iterations.json``.
Spark's ``computeSVD`` has no such choice: it stops at 1e-10. Its session (local[2]) is warmed by a small one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from scipy import sparse
from sklearn.decomposition import TruncatedSVD as Peer

from benchmarks.data import CACHE
from benchmarks.glosses import exact, weighted
from benchmarks.measure import RESULT
from benchmarks.spark import started
from eigenmill.reduce import TruncatedSVD

ACCURACY = 1e-3
"""Relative error that no singular value may exceed."""
BARS = {"scikit-learn": 2.0, "Spark": 30.0}
"""Their seconds over those of eigenmill, at least."""
SCANS = 6
"""The fewest scans of eigenmill that are accurate enough on the glosses."""
PARTITIONS = 4


def far(found: Any, true: Any) -> float:
    """The largest relative error."""
    return float((np.abs(np.sort(found)[::-1] - true) / true).max())


def fewest(matrix: Any, true: Any, oversamples: int, seed: int, most: int = 200) -> int:
    """The smallest ``n_iter`` of scikit-learn's randomized solver, by its own steps, looked at after each of them."""
    width = len(true) + oversamples
    Q = np.random.RandomState(seed).normal(size=(matrix.shape[1], width))
    flipped = matrix.T
    for done in range(most):
        if done >= 5:
            found = scipy.linalg.svdvals(np.asarray(flipped @ np.linalg.qr(matrix @ Q)[0]))[: len(true)]
            if far(found, true) <= ACCURACY:
                return done
        Q = scipy.linalg.lu(matrix @ Q, permute_l=True)[0]
        Q = scipy.linalg.lu(flipped @ Q, permute_l=True)[0]
    raise RuntimeError(f"expected {ACCURACY:g} within {most} iterations, found less")


def kept_fewest(matrix: Any, true: Any, oversamples: int, seed: int, cache: Path) -> int:
    place, name = cache / "equal-iterations.json", f"k={len(true)} oversamples={oversamples} seed={seed}"
    kept: dict[str, int] = json.loads(place.read_text()) if place.exists() else {}
    if name not in kept:
        kept[name] = fewest(matrix, true, oversamples, seed)
        place.write_text(json.dumps(kept, indent=1))
    return kept[name]


def of_spark(place: Path, k: int) -> None:
    """Spark's seconds and singular values of the CSR matrix in ``place``, printed; in a process of its own.

    Once with its rows cached in the JVM, once called plainly: it runs a job per product, which fetches them anew.
    """
    from pyspark.mllib.linalg import SparseVector
    from pyspark.mllib.linalg.distributed import RowMatrix

    session = started()

    def solve(matrix: Any, count: int, *, cached: bool) -> dict[str, Any]:
        d, ends = matrix.shape[1], matrix.indptr
        rows = [SparseVector(d, matrix.indices[a:b], matrix.data[a:b]) for a, b in itertools.pairwise(ends)]
        table = RowMatrix(session.sparkContext.parallelize(rows, PARTITIONS), len(rows), d)
        if cached:
            table._java_matrix_wrapper._java_model.rows().cache().count()
        began = time.perf_counter()
        found = table.computeSVD(count, computeU=False).s.toArray()
        return {"cached": cached, "seconds": time.perf_counter() - began, "values": found.tolist()}

    matrix = sparse.csr_array(sparse.load_npz(place))
    matrix.sort_indices()
    solve(matrix[:2_000, :2_000], 5, cached=True)
    print(RESULT + json.dumps([solve(matrix, k, cached=cached) for cached in (True, False)]), flush=True)
    session.stop()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks equal", description="seconds at equal accuracy on sparse text")
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3, help="of eigenmill, whose median counts")
    parser.add_argument("--limit", type=float, help="seconds after which Spark is stopped")
    parser.add_argument("--no-spark", action="store_true")
    parser.add_argument("--search", action="store_true", help="find scikit-learn's iterations, and time nothing")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--spark-child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.spark_child:
        of_spark(args.spark_child, args.k)
        return
    matrix = weighted(args.cache)
    true, arpack = exact(matrix, args.k)
    iterations = {extra: kept_fewest(matrix, true, extra, args.seed, args.cache) for extra in (10,)}
    if args.search:
        print(iterations)
        return
    print(f"{matrix.shape[0]:,} x {matrix.shape[1]:,}, {matrix.nnz:,} stored, k = {args.k}, seed {args.seed}\n")
    print("| | largest error | seconds | times ours | bar |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    records: list[dict[str, Any]] = []

    def row(name: str, error: float | None, seconds: float, bar: float | None = None, *, stopped: bool = False) -> None:
        times = seconds / records[0]["seconds"] if records else 1.0
        records.append({"side": name, "error": error, "seconds": seconds, "times": times, "stopped": stopped})
        sign = "> " if stopped else ""
        met = "" if bar is None else f">= {bar:g}: {'met' if times >= bar else 'FAIL'}"
        told = "" if error is None else f"{error:.1e}"
        print(f"| {name} | {told} | {sign}{seconds:.1f} | {sign}{times:.1f} | {met} |", flush=True)

    taken, svd = [], TruncatedSVD(args.k, solver="sketch", tol=None, max_scans=SCANS, random_state=args.seed)
    for _ in range(args.repeats):
        began = time.perf_counter()
        svd.fit(matrix)
        taken.append(time.perf_counter() - began)
    error = far(svd.singular_values_, true)
    row(f"eigenmill, {SCANS} scans", error, float(np.median(taken)))
    if error > ACCURACY:
        print(f"| FAIL: above {ACCURACY:g} |")
    for extra, count in iterations.items():
        began = time.perf_counter()
        peer = Peer(args.k, n_iter=count, n_oversamples=extra, random_state=args.seed).fit(matrix)
        seconds = time.perf_counter() - began
        name = f"scikit-learn randomized, n_iter={count}, n_oversamples={extra}"
        row(name, far(peer.singular_values_, true), seconds, BARS["scikit-learn"])
    row("ARPACK (to the last digit)", 0.0, arpack)
    if not args.no_spark:
        place = args.cache / "equal.npz"
        sparse.save_npz(place, matrix, compressed=False)
        command = [sys.executable, "-m", "benchmarks", "equal", "-k", str(args.k), "--spark-child", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=args.limit)
        except subprocess.TimeoutExpired:
            row("Spark computeSVD, stopped", None, float(args.limit), BARS["Spark"], stopped=True)
        else:
            lines = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
            if done.returncode or not lines:
                raise RuntimeError(f"Spark failed with exit code {done.returncode}\n{done.stderr[-3000:]}")
            for told in json.loads(lines[-1].removeprefix(RESULT)):
                name = f"Spark computeSVD, {'rows cached in the JVM' if told['cached'] else 'called plainly'}"
                row(name, far(told["values"], true), told["seconds"], BARS["Spark"])
    target = args.cache / "equal.json"
    target.write_text(json.dumps(records, indent=1))
    print(f"\nwritten: {target}")


if __name__ == "__main__":
    main()
