"""Which iteration: block Krylov beside subspace iteration, plain and shifted, at equal scans.

    python -m benchmarks krylov            # flat (WordNet's glosses), steep and clustered spectra

All start from the same Gaussian block of l columns and multiply it by M = ``A^T A`` once per scan. Errors are the
largest relative ones of k singular values. Subspace iteration keeps the last block and its product only: l vectors
instead of l times the scans. Shifted: ``M - s`` in place of M, s half the smallest Ritz value, taken anew after each
product and never lowered (dashSVD: Feng, Yu and Xie, ACM TOMS Algorithm 1043).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from benchmarks.data import CACHE
from benchmarks.glosses import exact, weighted
from eigenmill.reduce.estimators.krylov import Krylov, orthonormal
from eigenmill.reduce.rows.blocks import F64

Multiply = Callable[[F64], F64]


def krylov(multiply: Multiply, start: F64, scans: int, k: int) -> list[F64]:
    """(k,) singular values after every scan; ``start`` is orthonormal."""
    space, found = Krylov(start), []
    for _ in range(scans):
        if space.block.shape[1]:
            space.absorb(multiply(space.block))
        found.append(np.sqrt(space.ritz().values[:k]))
    return found


def subspace(multiply: Multiply, start: F64, scans: int, k: int, *, shifted: bool) -> list[F64]:
    """(k,) singular values after every scan."""
    Q, shift, found = start, 0.0, []
    for _ in range(scans):
        Z = multiply(Q)
        theta = np.maximum(np.linalg.eigvalsh(Q.T @ Z)[::-1], 0.0)
        found.append(np.sqrt(theta[:k]))
        if shifted:
            shift = max(shift, theta[-1] / 2)
            Z -= shift * Q
        Q = orthonormal(Z)[0]
    return found


def spectra(cache: Path, k: int) -> dict[str, tuple[Multiply, int, F64]]:
    """By name: the product with M, its size and the k leading singular values."""
    text = weighted(cache)
    flipped = sparse.csr_array(text.T)

    def diagonal(sigma: F64) -> tuple[Multiply, int, F64]:
        # A Gaussian start does not tell one orthogonal basis from another.
        return lambda Q: sigma[:, None] ** 2 * Q, len(sigma), sigma[:k]

    j = np.arange(5_000.0)
    return {
        "text": (lambda Q: flipped @ (text @ Q), text.shape[1], exact(text, k)[0]),
        "1 / sqrt(j)": diagonal(1 / np.sqrt(1 + j)),
        "steep: 0.95^j": diagonal(np.maximum(0.95**j, 1e-12)),
        "clustered: 10 of a size": diagonal(0.8 ** (j // 10) + 1e-3 * np.linspace(1, 0, len(j))),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks krylov", description="which iteration, at equal scans")
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--width", type=int, default=120, help="columns of the block")
    parser.add_argument("--scans", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    shown = [scan for scan in (3, 5, 8, 12, 16) if scan <= args.scans]
    print(f"k = {args.k}, l = {args.width}, seed {args.seed}\n")
    print("| spectrum | iteration | " + " | ".join(f"{scan} scans" for scan in shown) + " |")
    print("| --- | --- |" + " --- |" * len(shown), flush=True)
    records: list[dict[str, Any]] = []
    for name, (multiply, d, true) in spectra(args.cache, args.k).items():
        start = np.random.default_rng(args.seed).normal(size=(d, args.width))
        start = np.linalg.qr(start)[0]
        for kind, found in {
            "block Krylov": krylov(multiply, start, args.scans, args.k),
            "shifted subspace": subspace(multiply, start, args.scans, args.k, shifted=True),
            "subspace": subspace(multiply, start, args.scans, args.k, shifted=False),
        }.items():
            errors = [float((np.abs(s - true) / true).max()) for s in found]
            records.append({"spectrum": name, "iteration": kind, "errors": errors})
            print(f"| {name} | {kind} | " + " | ".join(f"{errors[scan - 1]:.1e}" for scan in shown) + " |", flush=True)
    target = args.cache / "krylov.json"
    target.write_text(json.dumps(records, indent=1))
    print(f"\nwritten: {target}")


if __name__ == "__main__":
    main()
