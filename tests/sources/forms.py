"""Small tables in every form that the tests of layouts read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.rows.blocks import Workspace


def first_block(data: Dataset, height: int = 1000) -> Any:
    return next(iter(data.source.blocks(data.fragments[0], height, Workspace(), carry=True)))


def both(table: pa.Table, path: Path, **options: Any) -> list[Dataset]:
    """The table in memory, sliced out of a larger one, and in a file of three row groups."""
    padded = pa.concat_tables([table.slice(0, 1), table, table.slice(0, 1)]).combine_chunks().slice(1, table.num_rows)
    pq.write_table(table, path / "t.parquet", row_group_size=max(table.num_rows // 3, 1))
    return [
        Dataset.from_arrow(table, **options),
        Dataset.from_arrow(padded, **options),
        Dataset.from_parquet(path / "t.parquet", **options),
    ]


# Scalars


def spark_dense(values: list[float | None]) -> dict[str, Any]:
    return {"type": 1, "size": None, "indices": None, "values": values}


def spark_sparse(size: int, entries: dict[int, float | None]) -> dict[str, Any]:
    return {"type": 0, "size": size, "indices": list(entries), "values": list(entries.values())}


def pair(indices: list[Any], values: list[Any], kind: pa.DataType | None = None) -> pa.Table:
    return pa.table(
        {"i": pa.array(indices, pa.list_(kind or pa.int64())), "x": pa.array(values, pa.list_(pa.float32()))}
    )
