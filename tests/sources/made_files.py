"""Parquet files that a listing cannot tell apart: one size and one footer, other rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from eigenmill.reduce.sources.footers import read_footer

COLUMNS = 5
ROWS, GROUP = 6_000, 2_000
CHANGES = ("order", "signs", "columns", "values")


def rows(seed: int, count: int = ROWS) -> npt.NDArray[np.float64]:
    """(n, d) of which some rows never change, so that neither a row group's extrema nor the file's end do."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((count, COLUMNS))
    X[-3000:] = 0.5
    X[::GROUP], X[1::GROUP] = 9, -9
    return X


def changed(X: npt.NDArray[np.float64], how: str, seed: int) -> npt.NDArray[np.float64]:
    """Other rows with the statistics of ``X`` in every column."""
    rng, Y = np.random.default_rng(seed), X.copy()
    middle = np.flatnonzero((np.abs(X) < 8).all(axis=1) & (X != 0.5).any(axis=1))
    if how == "order":
        Y[middle] = rng.permutation(Y[middle])
    elif how == "signs":
        Y[middle] *= rng.choice([-1.0, 1.0], size=Y[middle].shape)
    elif how == "columns":
        Y[middle] = Y[middle][:, rng.permutation(COLUMNS)]
    else:
        Y[middle] = rng.standard_normal(Y[middle].shape)
    return Y


def put(path: Path, X: npt.NDArray[np.float64], **options: Any) -> None:
    """Write rows so that their bytes take as much room whatever they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    table = pa.table({f"x{j}": column for j, column in enumerate(X.T)})
    pq.write_table(table, path, **{**plain, "row_group_size": GROUP, **options})


def footer(path: Path) -> tuple[int, str]:
    """What format 1 knows of a file."""
    with pa.OSFile(str(path)) as file:
        found = read_footer(file, str(path))
    return found.size, found.digest
