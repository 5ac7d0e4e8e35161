"""Reading a data set whole, the plain way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.rows.blocks import Block, Workspace


@dataclass
class Whole:
    """All rows of a data set: X (n, d) float64, weights (n,) or None, the carried table or None."""

    X: Any
    weights: Any
    carried: pa.Table | None
    blocks: list[int]


def read_whole(data: Dataset, *, height: int | None = None, carry: bool = True) -> Whole:
    workspace, d = Workspace(), data.n_features
    parts: list[Any] = [np.empty((0, d))]
    weights: list[Any] = []
    carried: list[pa.RecordBatch] = []
    sizes: list[int] = []
    for fragment in data.fragments:
        stream = (
            data.blocks(fragment, workspace, carry=carry)
            if height is None
            else data.source.blocks(fragment, height, workspace, carry=carry)
        )
        for block in stream:
            assert isinstance(block, Block)
            assert block.rows > 0
            parts.append(block.dense(np.float64).copy())
            sizes.append(block.rows)
            if block.weights is not None:
                assert block.weights.dtype == np.float64
                weights.append(block.weights.copy())
            if block.carried is not None:
                assert block.carried.num_rows == block.rows
                carried.append(block.carried)
    table = pa.Table.from_batches(carried, data.source.carried) if carry and len(data.source.carried) else None
    return Whole(np.concatenate(parts), np.concatenate(weights) if weights else None, table, sizes)


@pytest.fixture
def whole() -> Callable[..., Whole]:
    return read_whole
