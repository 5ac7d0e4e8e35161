"""What one scan tells: the Nystroem approximation of M = ``A^T A`` from ``Z = M Q`` (Tropp and others 2017).

``N = Z (Q^T Z)^+ Z^T`` is at most M in the order of symmetric matrices, and its trace and that of M are known. So
``lambda_j(N) <= lambda_j(M) <= lambda_j(N) + trace(M) - trace(N)``: an error estimate without chance. N is one power
of M nearer than Ritz values of Q. Proofs: docs/bounds.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from eigenmill.reduce.estimators.krylov import Krylov
from eigenmill.reduce.rows.blocks import F64


@dataclass(frozen=True)
class Nystroem:
    """The l leading eigenpairs of N.

    Attributes:
        values: (l,) in descending order.
        weights: (m, l) eigenvectors in coordinates of the basis, its last block included.
        swell: how many times larger an error of Z may be in N.
    """

    values: F64
    weights: F64
    swell: float


def nystroem(krylov: Krylov) -> Nystroem:
    """From a basis of one product: ``Z = K F`` with F = [C; B], and ``Q^T Z = C``."""
    factors = krylov.columns[0]
    width = factors.shape[1]
    core = factors[:width]
    sizes, turned = scipy.linalg.eigh((core + core.T) / 2, driver="evd")
    kept = sizes > krylov.format.cutoff * max(sizes[-1], 0.0)
    half = (factors @ turned[:, kept]) / np.sqrt(sizes[kept])
    values, weights = scipy.linalg.eigh(half @ half.T, driver="evd")
    swell = 4 * float(values[-1] / sizes[kept][0]) if kept.any() else 1.0
    return Nystroem(np.maximum(values[::-1][:width], 0.0), weights[:, ::-1][:, :width], max(swell, 1.0))
