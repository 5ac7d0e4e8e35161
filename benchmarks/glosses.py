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
from eigenmill.reduce import TruncatedSVD

KINDS = ("noun", "verb", "adj", "adv")


def glosses(cache: Path) -> list[str]:
    """The 117,659 short texts, one per meaning."""
    place = cache / "wordnet"
    if not list(place.glob("usr/share/wordnet*/data.noun")):
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", "wordnet-base"], cwd=place, check=True)
        package = max(place.glob("wordnet-base*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), str(place)], check=True)
    return [text for kind in KINDS for text in of_kind(cache, kind)]


def of_kind(cache: Path, kind: str) -> list[str]:
    """Those of one of :data:`KINDS`, once they are there."""
    folder = next((cache / "wordnet").glob("usr/share/wordnet*"))
    lines = (folder / f"data.{kind}").read_text(encoding="utf-8").splitlines()
    return [line.partition("| ")[2] for line in lines if not line.startswith(" ")]  # those are the licence


def weighted(cache: Path) -> Any:
    """(117,659, 53,920) TF-IDF of the words of the glosses, CSR."""
    return sparse.csr_array(TfidfVectorizer(token_pattern=r"[a-z]{2,}").fit_transform(glosses(cache)))


def exact(matrix: Any, k: int) -> tuple[Any, float]:
    """(singular values in descending order, seconds) by ARPACK."""
    began = time.perf_counter()
    found = np.sort(svds(matrix, k=k, return_singular_vectors=False, random_state=0))[::-1]
    return found, time.perf_counter() - began


ASKED = {5: 1e-2, 8: 1e-3}
"""Relative error that every singular value has to keep, by scans."""


def over_seeds(matrix: Any, k: int, seeds: range, scans: Sequence[int], target: Path) -> None:
    """Fits with every seed; each goes to ``target`` as a line of JSON once done, and one there already is not repeated.

    ``residual_bounds_`` claims that *some* singular value lies that near, so it is held against ``k`` + 60 of them.
    """
    every = exact(matrix, k + 60)[0]
    true, least = every[:k], 1e-12 * every[:k]
    for seed in seeds:
        for allowed in scans:
            if (allowed, seed) in fits_in(target, k):
                continue
            svd = TruncatedSVD(k, solver="sketch", tol=None, max_scans=allowed, random_state=seed).fit(matrix)
            s, error = svd.singular_values_, np.abs(svd.singular_values_ - true)
            some = np.abs(s[:, None] - every).min(axis=1)
            record = {
                "k": k,
                "scans": allowed,
                "seed": seed,
                "error": float((error / true).max()),
                "broken": int((error > svd.error_bounds_ + least).sum()),
                "lost": int((some > svd.residual_bounds_ + least).sum()),
                "tight": (svd.error_bounds_ / np.maximum(error, least)).tolist(),
                "upper": (svd.error_bounds_ / s).tolist(),
                "near": (svd.residual_bounds_ / s).tolist(),
            }
            with target.open("a") as file:
                file.write(json.dumps(record) + "\n")
    summarize(list(fits_in(target, k).values()), scans)


def fits_in(target: Path, k: int) -> dict[tuple[int, int], dict[str, Any]]:
    """What :func:`over_seeds` has done so far, by scans and seed."""
    lines = target.read_text().splitlines() if target.exists() else []
    return {(fit["scans"], fit["seed"]): fit for fit in map(json.loads, lines) if fit["k"] == k}


def summarize(fits: Sequence[dict[str, Any]], scans: Sequence[int]) -> None:
    """Print the worst of all seeds; bounds are relative to the value."""
    print(
        "| scans | seeds | true error, worst (median seed) | `error_bounds_` broken | `residual_bounds_` broken |",
        end="",
    )
    print(" `error_bounds_`: first, middle, last value | largest `residual_bounds_` | error bound / error, least |")
    print("| --- |" + " --- |" * 7)
    for allowed in scans:
        of = [fit for fit in fits if fit["scans"] == allowed]
        errors, values = [fit["error"] for fit in of], sum(len(fit["upper"]) for fit in of)
        broken, lost = (f"{sum(fit[kind] for fit in of)} of {values:,}" for kind in ("broken", "lost"))
        upper, near, tight = (np.array([fit[kind] for fit in of]) for kind in ("upper", "near", "tight"))
        worst = upper.max(axis=0)
        told = ", ".join(f"{worst[j]:.2g}" for j in (0, len(worst) // 2 - 1, -1))
        accuracy = f"{max(errors):.1e} ({np.median(errors):.1e})"
        least = f"{near.max():.1e} | {tight.min():.2g}"
        print(f"| {allowed} | {len(of)} | {accuracy} | {broken} | {lost} | {told} | {least} |")
        if any(fit["broken"] or fit["lost"] for fit in of) or max(errors) > ASKED.get(allowed, np.inf):
            print("| FAIL: a bound is broken, or an error is above what is asked |")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks glosses", description="the sketch solver on real sparse text")
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--scans", type=int, action="append", help="default: 5 and 8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=0, help="check the bounds with so many seeds, and nothing else")
    parser.add_argument("--first", type=int, default=0, help="of those seeds, to share the work among processes")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    matrix = weighted(args.cache)
    if args.seeds:
        seeds, target = range(args.first, args.seeds), args.cache / "glosses-seeds.jsonl"
        over_seeds(matrix, args.k, seeds, args.scans or [5, 8], target)
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
