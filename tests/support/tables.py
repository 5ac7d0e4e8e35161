"""Arrays as columns of a table."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def vectors(X: Any) -> pa.FixedSizeListArray:
    """The rows of ``X`` as one column of lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), X.shape[1])


def columns(X: Any, prefix: str = "x") -> dict[str, Any]:
    """The columns of ``X`` by name: x0, x1, ..."""
    return {f"{prefix}{j}": X[:, j] for j in range(X.shape[1])}
