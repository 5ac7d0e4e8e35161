"""Published tables of accuracy, the same matrices through eigenmill and its peers.

    python -m benchmarks tables            # scikit-learn and Dask beside it
    python -m benchmarks tables --spark    # and Spark's computeSVD (a local session)

**Li, Kluger and Tygert (2016)**: ``A = U S V^T`` with cosine bases ``U_ij = sqrt(2/m) cos(pi (i + 1/2)(j + 1/2)/m)``
and nine spectra. Bars: the spectral norm of what the k components miss at most 1e-7 of ``||A||``, and
``max|V^T V - I|`` at most 5e-13. Every other side gets the same k; Dask's two power iterations with QR.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse.linalg import svds
from sklearn.utils.extmath import randomized_svd

from benchmarks.data import CACHE
from reduce import TruncatedSVD
from reduce.blocks import F64

LI = ((400, 300, 25, 1), (400, 300, 25, 4), (200, 100, 20, 5), (1000, 500, 50, 9))
"""(m, n, k, spectrum)."""
ERROR, ORTHONORMAL = 1e-7, 5e-13

Solver = Callable[[F64, int], F64]
"""From A (m, n) and k: right singular vectors (n, k)."""


def li_spectrum(case: int, k: int) -> F64:
    """(k,) singular values in the order of the paper, cases 1 to 9."""
    i = np.arange(k)
    kind, times = (case - 1) % 3, {0: 1.0, 1: 1e20, 2: 1e-20}[(case - 1) // 3]
    spectrum = (np.exp(np.log(1e-20) * i / (k - 1)), np.sqrt(i + 1.0), np.sqrt(i % 3))[kind]
    return np.asarray(spectrum * times)


def cosine_basis(size: int, k: int) -> F64:
    """(size, k) orthonormal."""
    i, j = np.arange(size)[:, None] + 0.5, np.arange(k)[None, :] + 0.5
    return np.asarray(np.sqrt(2 / size) * np.cos(np.pi * i * j / size))


def ours(A: F64, k: int) -> F64:
    return np.asarray(TruncatedSVD(k, solver="sketch", tol=1e-6, random_state=0).fit(A).components_.T)


def refined(A: F64, k: int) -> F64:
    return np.asarray(TruncatedSVD(k, solver="sketch", tol=1e-6, refine=True, random_state=0).fit(A).components_.T)


def randomized(A: F64, k: int) -> F64:
    return np.asarray(randomized_svd(A, k, random_state=0)[2].T)


def arpack(A: F64, k: int) -> F64:
    return np.asarray(svds(A, k=k, random_state=0)[2][::-1].T)


def compressed(A: F64, k: int) -> F64:
    import dask.array as da

    rows = da.from_array(A, chunks=(-(-len(A) // 4), A.shape[1]))
    return np.asarray(da.linalg.svd_compressed(rows, k, iterator="QR", n_power_iter=2, seed=0)[2].T.compute())


def spark(session: Any) -> Solver:
    from pyspark.mllib.linalg import Vectors
    from pyspark.mllib.linalg.distributed import RowMatrix

    def solve(A: F64, k: int) -> F64:
        rows = session.sparkContext.parallelize([Vectors.dense(row) for row in A], 4)
        return np.asarray(RowMatrix(rows).computeSVD(k, computeU=False).V.toArray())

    return solve


def judged(A: F64, norm: float, solve: Solver, k: int) -> tuple[float, float]:
    """(what the components miss, over ``||A||``; how far they are from orthonormal), nan when a side fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            V = solve(A, k)
    except Exception as error:  # a peer may fail in any way, and that is its result
        print(f"<!-- {solve.__name__}: {type(error).__name__}: {str(error)[:80]} -->")
        return np.nan, np.nan
    missed = float(np.linalg.norm(A / norm - (A / norm @ V) @ V.T, 2))
    return missed, float(np.abs(V.T @ V - np.eye(V.shape[1])).max())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks tables", description="published tables of accuracy")
    parser.add_argument("--spark", action="store_true", help="Spark's computeSVD too")
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    sides: dict[str, Solver] = {
        "eigenmill": ours,
        "eigenmill, refine=True": refined,
        "scikit-learn randomized": randomized,
        "ARPACK": arpack,
        "dask svd_compressed": compressed,
    }
    session = None
    if args.spark:
        from reduce.engines import spark_session

        session = spark_session.session("local[2]")
        sides["Spark computeSVD"] = spark(session)
    records: list[dict[str, Any]] = []
    print("Error over the norm of A, and distance from orthonormal.\n")
    print("| m, n, k, spectrum | " + " | ".join(sides) + " |")
    print("| --- |" + " --- |" * len(sides), flush=True)
    for m, n, k, case in LI:
        sigma = li_spectrum(case, k)
        A, norm = (cosine_basis(m, k) * sigma) @ cosine_basis(n, k).T, float(sigma.max())
        found = {name: judged(A, norm, solve, k) for name, solve in sides.items()}
        records.append({"m": m, "n": n, "k": k, "case": case, "found": found})
        cells = " | ".join(f"{missed:.1e}, {apart:.1e}" for missed, apart in found.values())
        print(f"| {m}, {n}, {k}, {case} | {cells} |", flush=True)
        own = [value for name, value in found.items() if name.startswith("eigenmill")]
        if not all(missed <= ERROR and apart <= ORTHONORMAL for missed, apart in own):
            print("| FAIL: eigenmill is outside the tolerances |")
    if session is not None:
        session.stop()
    target = args.cache / "tables.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(records, indent=1))
    print(f"\nwritten: {target}")


if __name__ == "__main__":
    main()
