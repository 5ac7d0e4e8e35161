"""Real sparse text: how near the sketch solver comes, and what its two bounds say, beside exact values.

    python -m benchmarks.glosses                      # k = 100 after 5 and 8 scans: the table of docs/bounds.md
    python -m benchmarks.glosses --scans 6 --seed 1
    python -m benchmarks.glosses --seeds 50           # does every bound hold, and every accuracy: worst of all seeds

WordNet's glosses (Debian's package wordnet-base, fetched with apt-get on first use): TF-IDF of the words
``[a-z]{2,}``, in memory as CSR. The exact values are ARPACK's on the same matrix, and the peers are scikit-learn's
``TruncatedSVD``; both sides run in this process, with as many BLAS threads as there are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds
from sklearn.decomposition import TruncatedSVD as Peer
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks.data import CACHE
from reduce import TruncatedSVD

KINDS = ("noun", "verb", "adj", "adv")


def glosses(cache: Path) -> list[str]:
    """The 117,659 short texts, one per meaning."""
    place = cache / "wordnet"
    if not list(place.glob("usr/share/wordnet*/data.noun")):
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", "wordnet-base"], cwd=place, check=True)
        package = max(place.glob("wordnet-base*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), str(place)], check=True)
    folder = next(place.glob("usr/share/wordnet*"))
    texts = []
    for kind in KINDS:
        for line in (folder / f"data.{kind}").read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):  # the licence
                texts.append(line.partition("| ")[2])
    return texts


def exact(matrix: Any, k: int) -> tuple[Any, float]:
    """(singular values in descending order, seconds) by ARPACK."""
    began = time.perf_counter()
    found = np.sort(svds(matrix, k=k, return_singular_vectors=False, random_state=0))[::-1]
    return found, time.perf_counter() - began


ASKED = {5: 1e-2, 8: 1e-3}
"""Relative error that every singular value has to keep, by scans."""


def over_seeds(matrix: Any, k: int, seeds: int, scans: Sequence[int]) -> list[dict[str, Any]]:
    """Fits with every seed; how often a bound is broken, the worst and the tightest of all.

    ``residual_bounds_`` claims that *some* singular value lies that near, so it is held against ``k`` + 60 of them.
    """
    every = exact(matrix, k + 60)[0]
    true, records = every[:k], []
    print(
        "| scans | seeds | true error, worst | median seed | `error_bounds_` broken | `residual_bounds_` broken |",
        end="",
    )
    print(" error bound / error, least | largest error bound | largest residual bound |")
    print("| --- |" + " --- |" * 8, flush=True)
    for allowed in scans:
        errors, broken, lost, tight, wide, near = [], 0, 0, np.inf, 0.0, 0.0
        for seed in range(seeds):
            svd = TruncatedSVD(k, solver="sketch", tol=None, max_scans=allowed, random_state=seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                svd.fit(matrix)
            s = svd.singular_values_
            error, least = np.abs(s - true), 1e-12 * true
            errors.append(float((error / true).max()))
            broken += int((error > svd.error_bounds_ + least).sum())
            lost += int((np.abs(s[:, None] - every).min(axis=1) > svd.residual_bounds_ + least).sum())
            tight = min(tight, float((svd.error_bounds_ / np.maximum(error, least)).min()))
            wide = max(wide, float((svd.error_bounds_ / s).max()))
            near = max(near, float((svd.residual_bounds_ / s).max()))
            print(f"{allowed} scans, seed {seed}: {errors[-1]:.1e}, {broken}, {lost}", file=sys.stderr, flush=True)
        records.append({"scans": allowed, "errors": errors, "broken": broken, "lost": lost, "tight": tight})
        middle = float(np.median(errors))
        told = f"{broken} of {k * seeds} | {lost} of {k * seeds} | {tight:.2g} | {wide:.2g} | {near:.1e}"
        print(f"| {allowed} | {seeds} | {max(errors):.1e} | {middle:.1e} | {told} |", flush=True)
        if broken or lost or max(errors) > ASKED.get(allowed, np.inf):
            print("| FAIL: a bound is broken, or an error is above what is asked |")
    return records


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks glosses", description="the sketch solver on real sparse text")
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--scans", type=int, action="append", help="default: 5 and 8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=0, help="check the bounds with so many seeds, and nothing else")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    matrix = sparse.csr_array(TfidfVectorizer(token_pattern=r"[a-z]{2,}").fit_transform(glosses(args.cache)))
    if args.seeds:
        found = over_seeds(matrix, args.k, args.seeds, args.scans or [5, 8])
        (args.cache / "glosses-seeds.json").write_text(json.dumps(found, indent=1))
        return
    true, seconds = exact(matrix, args.k)
    print(f"{matrix.shape[0]:,} x {matrix.shape[1]:,}, {matrix.nnz:,} stored, k = {args.k}, seed {args.seed}\n")
    print("| | scans | true error | `residual_bounds_` | `error_bounds_` | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(f"| ARPACK | | | | | {seconds:.1f} |", flush=True)
    records: list[dict[str, Any]] = [{"case": "ARPACK", "seconds": seconds}]
    for scans in args.scans or [5, 8]:
        svd = TruncatedSVD(args.k, solver="sketch", tol=None, max_scans=scans, random_state=args.seed)
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            svd.fit(matrix)
        seconds = time.perf_counter() - began
        s = svd.singular_values_
        told = [abs(s - true) / true, svd.residual_bounds_ / s, svd.error_bounds_ / s]
        worst = [float(values.max()) for values in told]
        records.append({"case": "sketch", "scans": svd.n_scans_, "worst": worst, "seconds": seconds})
        print(
            f"| sketch | {svd.n_scans_} | {worst[0]:.1e} | {worst[1]:.1e} | {worst[2]:.2g} | {seconds:.1f} |",
            flush=True,
        )
        if (np.abs(s - true) > svd.error_bounds_).any():
            print("| error_bounds_ is below a true error: FAIL | | | | | |")
    for iterations in () if args.no_peers else (5, 10):
        began = time.perf_counter()
        peer = Peer(args.k, n_iter=iterations, random_state=args.seed).fit(matrix)
        seconds = time.perf_counter() - began
        error = float((abs(peer.singular_values_ - true) / true).max())
        records.append({"case": f"scikit-learn, n_iter={iterations}", "error": error, "seconds": seconds})
        print(f"| scikit-learn, n_iter={iterations} | | {error:.1e} | | | {seconds:.1f} |", flush=True)
    target = args.cache / "glosses.json"
    target.write_text(json.dumps(records, indent=1))
    print(f"\nwritten: {target}")


if __name__ == "__main__":
    main()
