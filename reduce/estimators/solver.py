"""Which solver: a function of rows, columns and parameters, never of memory or workers."""

from __future__ import annotations

from typing import Any

from reduce.errors import ConfigError
from reduce.passes.base import Pass
from reduce.passes.gram import GramPass
from reduce.passes.moments import Intake
from reduce.passes.rows import RowsPass

SOLVERS = ("auto", "gram", "dual")
GRAM_COLUMNS = 20_000
"""Columns up to which ``auto`` forms a d x d matrix. A format constant."""


def choose(solver: str, n_rows: int, n_features: int) -> tuple[str, str]:
    """(solver, reason). ``auto`` takes the smaller of the two Gram matrices."""
    if solver not in SOLVERS:
        raise ConfigError(f"expected solver among {', '.join(SOLVERS)}, found {solver!r}")
    if solver != "auto":
        return solver, "asked for"
    if n_rows < n_features:
        return "dual", f"{n_rows} rows are fewer than {n_features} columns: the n x n Gram matrix is the smaller one"
    if n_features > GRAM_COLUMNS:
        raise ConfigError(
            f"expected at most {GRAM_COLUMNS} columns for an exact solver, found {n_features} and {n_rows} rows; "
            "choose fewer columns, or ask for solver='gram' by name if d x d float64 fits in memory"
        )
    return "gram", f"{n_features} columns: one exact scan for the d x d Gram matrix"


def first_pass(solver: str, intake: Intake) -> Pass[Any, Any]:
    """The pass of a solver. A further solver is one more line here and one pass."""
    return GramPass(intake) if solver == "gram" else RowsPass(intake)
