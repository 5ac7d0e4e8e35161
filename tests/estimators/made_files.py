"""Matrices written as Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from tests.support.tables import columns, vectors


def sparse_parquet(path: Path, X: Any, groups: int = 4) -> Path:
    """X in a file of so many row groups, as pairs of lists."""
    X = sp.csr_array(X)
    offsets = pa.array(X.indptr.astype(np.int32))
    indices = pa.ListArray.from_arrays(offsets, pa.array(X.indices.astype(np.int64)))
    values = pa.ListArray.from_arrays(offsets, pa.array(X.data))
    pq.write_table(pa.table({"indices": indices, "values": values}), path, row_group_size=-(-X.shape[0] // groups))
    return path


def dense_parquet(path: Path, X: Any, lists: bool) -> Path:
    """X in a file of row groups of 2,000 rows, as lists or columns, with weights ``w``."""
    column = vectors(X)
    table = pa.table({"x": column} if lists else columns(X, "c"))
    pq.write_table(table.append_column("w", pa.array(1.0 + np.arange(len(X)) % 3)), path, row_group_size=2000)
    return path
