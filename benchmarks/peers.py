"""scikit-learn on the same files: standardize + PCA(50) + features. Features are computed, not written.

Each case is ``run(path, out) -> result`` and runs in a process of its own (``benchmarks.measure``), with as many
BLAS and Arrow threads as the library takes by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.decomposition import PCA, IncrementalPCA
from sklearn.preprocessing import StandardScaler

F32 = npt.NDArray[np.float32]


def matrix(table: pa.Table | pa.RecordBatch) -> F32:
    """The features as (n, d) in rows; lists without a copy where Arrow holds them in one piece."""
    if "x" in table.column_names:
        column = table.column("x")
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        return column.flatten().to_numpy(zero_copy_only=False).reshape(table.num_rows, -1)
    X = np.empty((table.num_rows, table.num_columns), np.float32)
    for j, column in enumerate(table.columns):
        X[:, j] = column.to_numpy()
    return X


def columns(file: Path) -> list[str]:
    return [name for name in pq.read_schema(file).names if name != "id"]


def row_groups(path: Path) -> Iterator[F32]:
    """One row group (25,000 rows) at a time."""
    for name in sorted(path.glob("*.parquet")):
        file = pq.ParquetFile(name)
        for group in range(file.num_row_groups):
            yield matrix(file.read_row_group(group, columns=columns(name)))


def whole(path: Path) -> F32:
    """All rows. File by file into one array: the table and the array are never both complete."""
    files = sorted(path.glob("*.parquet"))
    n, X, at = sum(pq.read_metadata(file).num_rows for file in files), np.empty((0, 0), np.float32), 0
    for file in files:
        part = matrix(pq.read_table(file, columns=columns(file)))
        if at == 0:
            X = np.empty((n, part.shape[1]), np.float32)
        X[at : at + len(part)] = part
        at += len(part)
    return X


def incremental(path: Path, out: Path, *, components: int = 50) -> dict[str, Any]:
    """StandardScaler and IncrementalPCA by ``partial_fit``: three scans, one of them to transform."""
    began = time.perf_counter()
    scaler, pca = StandardScaler(), IncrementalPCA(components)
    for X in row_groups(path):
        scaler.partial_fit(X)
    for X in row_groups(path):
        pca.partial_fit(scaler.transform(X))
    fitted = time.perf_counter()
    for X in row_groups(path):
        pca.transform(scaler.transform(X))
    return report(began, fitted, pca)


def in_memory(path: Path, out: Path, *, components: int = 50, solver: str = "covariance_eigh") -> dict[str, Any]:
    """StandardScaler (in place) and PCA on one array; reading it is on the clock."""
    began = time.perf_counter()
    X = whole(path)
    X = StandardScaler(copy=False).fit_transform(X)
    pca = PCA(components, svd_solver=solver, random_state=0).fit(X)
    fitted = time.perf_counter()
    pca.transform(X)
    return report(began, fitted, pca)


def randomized(path: Path, out: Path, *, components: int = 50) -> dict[str, Any]:
    """The same with the randomized solver."""
    return in_memory(path, out, components=components, solver="randomized")


def report(began: float, fitted: float, pca: Any) -> dict[str, Any]:
    ended = time.perf_counter()
    return {"fit": fitted - began, "seconds": ended - began, "variance": pca.explained_variance_.tolist()}


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "incremental": incremental,
    "in-memory": in_memory,
    "randomized": randomized,
}
