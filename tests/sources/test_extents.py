"""Pages, dictionaries and extents of column chunks, beside what Arrow reads."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eigenmill.reduce import DataError, Dataset
from eigenmill.reduce.format import Format
from eigenmill.reduce.rows.blocks import Workspace
from eigenmill.reduce.sources import pieces
from eigenmill.reduce.sources.extents import fixed_row
from eigenmill.reduce.sources.pages import longest_value, pages


@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", "gzip", "brotli", "lz4"])
def test_pages_and_the_longest_value_are_found(codec: str, tmp_path: Path) -> None:
    rng = random.Random(codec)
    values = ["a" * rng.choice([0, 1, 5, 3000]) + str(i) for i in range(2000)] + ["b" * rng.randint(1, 3_000_000)]
    table = pa.table({"text": pa.array(values * 2), "x": np.random.default_rng(0).random(len(values) * 2)})
    pq.write_table(table, tmp_path / "t.parquet", compression=codec, dictionary_pagesize_limit=1 << 30)
    group = pq.read_metadata(tmp_path / "t.parquet").row_group(0)
    with pa.OSFile(str(tmp_path / "t.parquet")) as file:
        for j in range(2):
            chunk = group.column(j)
            start = chunk.dictionary_page_offset
            found = pages(file, start, start + chunk.total_compressed_size, 10**6)
            assert sum(page.values for page in found[1:]) == chunk.num_values
            assert found[-1].start + found[-1].compressed == start + chunk.total_compressed_size
        first = pages(file, group.column(0).dictionary_page_offset, 1 << 40, 1)[0]
        assert longest_value(file, first, group.column(0).compression) == max(map(len, values))


def test_other_bytes_are_no_header() -> None:
    """Headers of any bytes come to an end, and most are refused."""
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        with pa.BufferReader(rng.bytes(3000)) as file:
            try:
                assert all(page.size >= 0 for page in pages(file, 0, 3000, 3))
            except DataError:
                refused += 1
    assert refused > 200


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (pa.float64(), 8.125),
        (pa.bool_(), 0.25),
        (pa.decimal128(10, 2), 16.125),
        (pa.null(), 1.0),
        (pa.string(), None),
        (pa.list_(pa.int8(), 3), None),
        (pa.dictionary(pa.int8(), pa.string()), None),
    ],
    ids=str,
)
def test_rows_of_numbers_are_alike(kind: pa.DataType, row: float | None) -> None:
    assert fixed_row(kind) == row


LISTS = [None if i % 50 == 7 else [float(i)] * 3 for i in range(1000)]
SPARSE = [sorted({i % 9, i * i % 9}) if i % 31 else [] for i in range(1000)]
VALUES = [[float(k + j) for k in row] for j, row in enumerate(SPARSE)]
GAPS = pa.array([i if i > 600 else None for i in range(1000)])
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "scalars": ({"a": np.arange(1000.0), "b": np.arange(1000.0)[::-1]}, {"columns": ["a", "b"]}),
    "mixed": ({"a": GAPS, "b": np.ones(1000)}, {"columns": ["a", "b"]}),
    "lists": ({"v": LISTS}, {"vector": "v", "n_features": 3}),
    "sparse": ({"i": SPARSE, "v": VALUES}, {"sparse": ("i", "v", 9)}),
}


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_pieces_make_the_same_blocks(
    form: str, filtered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns, read = FORMS[form]
    table = {**columns, "w": np.arange(1000) % 5 + 1.0, "text": [f"{i:050d}" for i in range(1000)]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet", row_group_size=300, use_dictionary=False)
    more = {"filters": [("text", ">", f"{130:050d}"), ("w", "!=", 3)]} if filtered else {}
    data = Dataset.from_parquet(tmp_path, carry=["text"], weights="w", format=Format(max_height=256), **read, **more)

    def blocks() -> list[tuple[object, ...]]:
        found, workspace = [], Workspace()
        for fragment in data.fragments:
            for block in data.blocks(fragment, workspace, carry=True):
                dense, order = (
                    block.dense(np.float64).copy(),
                    getattr(getattr(block.X, "flags", None), "c_contiguous", ""),
                )
                places = [block.at(row) for row in range(block.rows)]
                kind = type(block.X), getattr(block.X, "dtype", ""), order
                found.append((dense.tobytes(), dense.shape, kind, block.weights.tobytes(), block.carried, places))
        return found

    whole = blocks()
    monkeypatch.setattr(pieces, "WHOLE", 1)
    monkeypatch.setattr(pieces, "BATCH", 1000)
    assert pieces.piece_rows(256, 54) == 16
    assert blocks() == whole
