"""Real sparse text: how near the sketch solver comes, and what its two bounds say, beside exact values.

    python -m benchmarks.glosses                      # k = 100 after 5 and 8 scans: the table of docs/bounds.md
    python -m benchmarks.glosses --scans 6 --seed 1

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


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks glosses", description="the sketch solver on real sparse text")
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--scans", type=int, action="append", help="default: 5 and 8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    matrix = sparse.csr_array(TfidfVectorizer(token_pattern=r"[a-z]{2,}").fit_transform(glosses(args.cache)))
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
