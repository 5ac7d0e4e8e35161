"""Which solver: a function of rows, columns, stored numbers, parameters and format, never of memory or workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.format import FORMAT_1, Format
from eigenmill.reduce.method import Stage
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.passes.gram import GramPass
from eigenmill.reduce.passes.intake import Intake
from eigenmill.reduce.passes.moments import MomentsPass
from eigenmill.reduce.passes.rows import RowsPass
from eigenmill.reduce.passes.tsqr import TsqrPass

SOLVERS = ("auto", "gram", "dual", "sketch")
TOL, SCANS, COMPONENTS = 1e-3, 16, 500
"""What the iteration is asked for by default: accuracy, scans allowed, components that a share may take."""


@dataclass(frozen=True)
class Shape:
    """n, d, the numbers stored (n d when dense), whether rows are sparse, the format: all that the choice may see."""

    rows: int
    features: int
    stored: int
    sparse: bool
    format: Format = FORMAT_1

    @classmethod
    def of(cls, data: Dataset, rows: int) -> Shape:
        """That of ``data`` with ``rows`` rows, those before it included."""
        return cls(rows, data.n_features, data.stored, data.sparse, data.format)


def choose(solver: str, shape: Shape, wanted: int | float | None) -> tuple[str, str]:
    """(solver, reason).

    ``wanted`` is the number of components, or a share below 1, or None when every eigenvalue is needed. ``auto``
    takes an exact solver where it is cheap or needed, and iterates on data that are wide in both directions.
    """
    if solver not in SOLVERS:
        raise ConfigError(f"expected solver among {', '.join(SOLVERS)}, found {solver!r}")
    if solver == "sketch" and wanted is None:
        raise ConfigError(
            "expected n_components as a number or a share of the variance with solver='sketch', found one that needs "
            "every eigenvalue; give a number, or solver='gram'"
        )
    if solver != "auto":
        return solver, "asked for"
    n, d, format = shape.rows, shape.features, shape.format
    if n < d:
        if wanted is None or n * d <= format.dual_numbers:
            return "dual", f"{n} rows are fewer than {d} columns: the n x n Gram matrix is the smaller one"
        return "sketch", f"{n} rows of {d} columns are too many to keep: a Krylov space, one scan per step"
    if d > format.wide:
        if wanted is None:
            raise ConfigError(
                f"expected at most {format.wide} columns for an exact solver, found {d} and {n} rows; give "
                "n_components as a number or a share, or ask for solver='gram' by name if d x d float64 fits in memory"
            )
        return "sketch", f"{d} columns are too many for a d x d matrix: a Krylov space, one scan per step"
    if d > format.gram_always and wanted is not None and wanted >= 1:
        width = int(wanted) + max(format.extra_columns, int(wanted) // format.usual_share)
        cost = format.sparse_cost if shape.sparse else 1
        iterated = format.usual_scans * 4.0 * shape.stored * width * cost
        exact = float(n) * d * d + 4.0 * d**3
        if format.gain * iterated < exact:
            return "sketch", f"{wanted} of {d} columns: a Krylov space takes {iterated / exact:.0%} of the d x d work"
    return "gram", f"{d} columns: one exact scan for the d x d Gram matrix"


PASSES: dict[str, Callable[[Intake], Pass[Any, Any]]] = {"gram": GramPass, "dual": RowsPass, "moments": MomentsPass}
"""The pass of every solver that takes one scan, and whose state can go on."""


def exact_stages(solver: str, intake: Intake, shape: Shape, k: int | None, *, refine: bool) -> tuple[Stage, ...]:
    """The stages of ``gram`` or ``dual`` for ``k`` components, or as many as the data need (None)."""
    n, d = shape.rows, shape.features
    if solver == "dual":
        return (Stage(RowsPass(intake), "to gather the rows, which the n x n products are made of", float(n) * n * d),)
    gram = Stage(GramPass(intake), "to form the d x d matrix of products", float(n) * d * d)
    # All directions are turned when small values may hide outside the span of the leading ones. Held meanwhile: the
    # products, twice for a plain SVD, and the directions.
    return (gram, refinement(intake, n, d, k or min(n, d), held=24 * d * d)) if refine else (gram,)


def refinement(intake: Intake, n: int, width: int, usual: int, *, held: int) -> Stage:
    """The scan that takes ``width`` directions at most, ``usual`` ones as a rule, to full precision."""
    d, wide = len(intake.names), replace(intake, dtype=np.dtype(np.float64))
    pass_ = TsqrPass(wide, np.zeros(d), np.zeros(d), np.zeros((d, width)))
    return Stage(pass_, "to take singular values to full precision", 2.0 * n * usual * (d + usual), held=held)
