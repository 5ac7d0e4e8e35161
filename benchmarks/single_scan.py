"""One scan at equal memory: the Nystroem approximation of ``A^T A`` beside the sketch of Tropp and others (2019).

    python -m benchmarks single_scan

Their sketch (section 2 of the paper; here with real Gaussian maps) is ``X = Upsilon A`` (k, n), ``Y = A Omega`` (m, k)
and ``Z = Phi A Psi`` (s, s): k (m + n) + s^2 numbers, of which m k grow with the rows. Ours is ``A^T A Q``: n l.
Both get the same number T, theirs with the largest k that leaves s >= 2 k + 1. The matrices are those of section
7.3.1 (``benchmarks tables``). Shown are medians over seeds, at rank 10: how much more than the best ``A - A V V^T`` has
in the Frobenius norm, for V of either side; the largest relative error of a singular value; and the error that each
side tells over the true one: our bound, without chance (``trace - sum lambda_j(N)``), and their estimate by 10
Gaussian probes (section 6).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import CACHE
from benchmarks.tables import TROPP, tropp_matrices
from eigenmill.reduce import TruncatedSVD
from eigenmill.reduce.rows.blocks import F64

BUDGETS = (12, 24, 48, 96)
"""Numbers kept over m + n."""
PROBES = 10

Told = tuple[F64, F64, float]
"""Singular values (k,), right vectors (n, k), and the Frobenius norm that the side says is missed."""


def ours(A: F64, rank: int, numbers: int, seed: int) -> Told:
    width = numbers // A.shape[1]
    model = TruncatedSVD(rank, solver="sketch", max_scans=1, tol=None, block_size=width, random_state=seed).fit(A)
    s = model.singular_values_
    return s, model.components_.T, float(np.sqrt(max(np.sum(A * A) - np.sum(s**2), 0.0)))


def three_sketches(A: F64, rank: int, numbers: int, seed: int) -> Told:
    m, n = A.shape
    k = max(k for k in range(rank, numbers // (m + n) + 1) if numbers - k * (m + n) >= (2 * k + 1) ** 2)
    s = min(int(np.sqrt(numbers - k * (m + n))), m, n)
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(k, m)) @ A, A @ rng.normal(size=(n, k))
    Phi, Psi, probes = rng.normal(size=(s, m)), rng.normal(size=(n, s)), rng.normal(size=(PROBES, m))
    Q, P = np.linalg.qr(Y)[0], np.linalg.qr(X.T)[0]
    core = np.linalg.lstsq(Phi @ Q, Phi @ A @ Psi, rcond=None)[0]
    core = np.linalg.lstsq(Psi.T @ P, core.T, rcond=None)[0].T
    U, values, Vt = np.linalg.svd(core)
    values, V = values[:rank], P @ Vt[:rank].T
    left = probes @ A - ((probes @ Q) @ U[:, :rank] * values) @ V.T
    return values, V, float(np.sqrt((left**2).sum() / PROBES))


def judged(A: F64, true: Any, told: Told) -> tuple[float, float, float]:
    """(excess of ``||A - A V V^T||_F``, largest relative error of a value, told over true missed norm)."""
    values, V, says = told
    missed = float(np.linalg.norm(A - (A @ V) @ V.T))
    rank = len(values)
    return (
        missed / np.linalg.norm(true[rank:]) - 1,
        float((abs(values - true[:rank]) / true[:rank]).max()),
        says / missed,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks single_scan", description="one scan at equal memory")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    rank, records = TROPP[1], list[dict[str, Any]]()
    print("Excess, error of a value, told over true error: ours; Tropp and others.\n")
    print("| matrix | " + " | ".join(f"T = {budget} (m + n)" for budget in BUDGETS) + " |")
    print("| --- |" + " --- |" * len(BUDGETS), flush=True)
    for name, A, _ in tropp_matrices():
        true, cells = np.linalg.svd(A, compute_uv=False), []
        for budget in BUDGETS:
            found = {
                side.__name__: np.median(
                    [judged(A, true, side(A, rank, budget * sum(A.shape), seed)) for seed in range(args.seeds)], axis=0
                ).tolist()
                for side in (ours, three_sketches)
            }
            records.append({"matrix": name, "budget": budget, "found": found})
            cells.append("; ".join(f"{a:.0e}, {b:.0e}, {c:.2f}" for a, b, c in found.values()))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    target = args.cache / "single_scan.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(records, indent=1))
    print(f"\nwritten: {target}")


if __name__ == "__main__":
    main()
