"""Decoded blocks kept between the scans of an iteration, in memory and on disk: fewer decoded, the same bytes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eigenmill.reduce import Dataset, TruncatedSVD
from eigenmill.reduce.engines.local.engine import LocalEngine
from eigenmill.reduce.engines.local.kept import Kept
from eigenmill.reduce.errors import ConfigError, DataError
from eigenmill.reduce.rows.blocks import Workspace
from eigenmill.reduce.sources.parquet import ParquetSource
from tests.estimators.made_files import dense_parquet, sparse_parquet
from tests.estimators.truth import thin
from tests.support.formats import other
from tests.support.tables import columns


@pytest.mark.parametrize("memory", ["4GiB", "partly", None])
def test_blocks_are_kept_between_scans_where_memory_allows(
    memory: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = thin(9000, 1200, 0.01, seed=33)
    data = Dataset.from_parquet(sparse_parquet(tmp_path / "a.parquet", X), sparse=("indices", "values", 1200))
    plain = TruncatedSVD(4, solver="sketch", tol=None, max_scans=5).fit(data)
    decoded, kept, blocks = list[int](), list[Kept](), ParquetSource.blocks

    def counted(self: Any, fragment: Any, *args: Any, **options: Any) -> Any:
        decoded.append(fragment.index)
        return blocks(self, fragment, *args, **options)

    def room(self: Kept, data: Dataset, room: int) -> Dataset:
        kept.append(self)
        return over(self, data, int(X.nnz * 6) - self.bytes if memory == "partly" else room)

    over = Kept.over
    monkeypatch.setattr(ParquetSource, "blocks", counted)
    monkeypatch.setattr(Kept, "over", room)
    engine = LocalEngine(memory="4GiB" if memory else None)
    again = TruncatedSVD(4, solver="sketch", tol=None, max_scans=5).fit(data, engine=engine)
    # The first scan fills, and four go without what is kept.
    assert [fragment.rows for fragment in data.fragments] == [6750, 2250]
    found = {index: decoded.count(index) for index in range(2)}
    if memory == "partly":
        assert found == {0: 5, 1: 1}
    else:
        assert set(found.values()) == ({1} if memory else {5})
    assert again.components_.tobytes() == plain.components_.tobytes()
    assert not any(each.bytes or each._blocks for each in kept), "they vanish with the fit"


@pytest.mark.parametrize("layout", ["sparse", "lists", "columns"])
def test_what_memory_has_no_room_for_is_kept_on_disk(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = thin(9000, 300, 0.05, seed=35)
    if layout == "sparse":
        data = Dataset.from_parquet(sparse_parquet(tmp_path / "a.parquet", X), sparse=("indices", "values", 300))
    else:
        file = dense_parquet(tmp_path / "a.parquet", X.toarray().astype(np.float32), layout == "lists")
        options: Any = {"vector": "x"} if layout == "lists" else {"columns": [f"c{j}" for j in range(300)]}
        data = Dataset.from_parquet(file, weights="w", **options)
    model, decoded, blocks = TruncatedSVD(4, solver="sketch", tol=None, max_scans=4), list[int](), ParquetSource.blocks
    plain = model.fit(data).components_.tobytes()
    work, whole, named = tmp_path / "w", len(data.fragments), list[str]()

    def counted(self: Any, fragment: Any, *args: Any, **options: Any) -> Any:
        decoded.append(fragment.index)
        # The file has no name: all that may be seen are checkpoints.
        named.extend(path.name for path in work.glob("tmp*"))
        return blocks(self, fragment, *args, **options)

    def fit(disk: str) -> int:
        """How many fragments the fit decodes."""
        decoded.clear()
        shutil.rmtree(work, ignore_errors=True)
        assert model.fit(data, engine=LocalEngine(work=work, disk=disk)).components_.tobytes() == plain
        return len(decoded)

    monkeypatch.setattr(ParquetSource, "blocks", counted)
    assert fit("1GiB") == whole
    assert fit("100kB") == 4 * whole
    # Some in memory and some on disk, within one fragment too; then a disk that is full before it should be.
    over, room = Kept.over, int(X.nnz * 4)
    monkeypatch.setattr(Kept, "over", lambda self, data, _: over(self, data, room - self.bytes))
    assert fit("1GiB") == whole
    monkeypatch.setattr("eigenmill.reduce.engines.local.kept.os.pwrite", full)
    assert fit("1GiB") > whole
    assert named == []


def full(*_: Any) -> int:
    raise OSError(28, "No space left on device")


BLOCK = 16 * 4 * 8
"""Bytes of a block of ``few``."""


@pytest.fixture
def few(tmp_path: Path) -> Dataset:
    """Row groups of 80, 48 and 16 rows of 4 columns, each a fragment: 5, 3 and 1 blocks of 16 rows."""
    X = np.random.default_rng(0).normal(size=(144, 4))
    with pq.ParquetWriter(tmp_path / "few.parquet", pa.table(columns(X, "c")).schema) as writer:
        for a, b in ((0, 80), (80, 128), (128, 144)):
            writer.write_table(pa.table({f"c{j}": X[a:b, j] for j in range(4)}))
    data = Dataset.from_parquet(tmp_path / "few.parquet", format=other(max_height=16, leaf_bytes=1))
    assert [fragment.rows for fragment in data.fragments] == [80, 48, 16]
    return data


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The fragments that are read from files."""
    found, blocks = list[int](), ParquetSource.blocks

    def counted(self: Any, fragment: Any, *args: Any, **options: Any) -> Any:
        found.append(fragment.index)
        return blocks(self, fragment, *args, **options)

    monkeypatch.setattr(ParquetSource, "blocks", counted)
    return found


def scan(data: Dataset, which: tuple[int, ...] = (0, 1, 2)) -> list[bytes]:
    """The numbers of every block, fragment by fragment."""
    blocks = (b for i in which for b in data.blocks(data.fragments[i], Workspace()))
    found = [block.dense(np.float64).tobytes() for block in blocks]
    assert all(len(each) == BLOCK for each in found)
    return found


def test_the_room_of_a_fragment_that_is_given_up_goes_to_the_next(few: Dataset, decoded: list[int]) -> None:
    """Four of the five blocks of the first would fit; the three of the second do, and the one of the third."""
    kept, plain = Kept(), scan(few)
    assert scan(kept.over(few, 4 * BLOCK)) == plain
    assert kept.bytes == 4 * BLOCK
    decoded.clear()
    # Room that has come since is not taken twice for what is kept already.
    assert scan(kept.over(few, 0)) == plain
    assert (decoded, kept.bytes) == ([0], 4 * BLOCK)
    assert scan(kept.over(few, 4 * BLOCK)) == plain
    assert kept.bytes == 4 * BLOCK
    decoded.clear()
    assert scan(kept.over(few, 5 * BLOCK)) == plain
    assert kept.bytes == 9 * BLOCK
    assert scan(kept.over(few, 0)) == plain
    assert decoded == [0]
    kept.close()
    assert kept.bytes == 0


def test_of_a_fragment_on_both_only_the_memory_is_given_back(few: Dataset, decoded: list[int], tmp_path: Path) -> None:
    """Of the first, two blocks fit into memory and two on disk, the fifth nowhere; the disk is not used again."""
    plain, one = scan(few), Kept(tmp_path / "one", 1 << 20)
    assert scan(one.over(few, 0), (2,)) == plain[8:]
    message = one.disk_bytes
    assert BLOCK < message < BLOCK + (4 << 10)
    one.close()
    kept = Kept(tmp_path / "work", BLOCK + (4 << 10) + message * 3 // 2)
    assert scan(kept.over(few, 2 * BLOCK)) == plain
    assert (kept.bytes, kept.disk_bytes) == (BLOCK, 2 * message)
    decoded.clear()
    assert scan(kept.over(few, 0)) == plain
    assert decoded == [0, 1]
    kept.close()


def test_after_a_full_disk_none_is_written_and_what_is_there_serves(
    few: Dataset, decoded: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, plain, writes, pwrite = Kept(tmp_path / "work", 1 << 30), scan(few), list[int](), os.pwrite

    def filling(handle: int, data: Any, offset: int) -> int:
        writes.append(len(data))
        return pwrite(handle, data, offset) if len(writes) < 8 else full()  # of the last block of the first fragment

    monkeypatch.setattr("eigenmill.reduce.engines.local.kept.os.pwrite", filling)
    assert scan(kept.over(few, 0), (1, 0, 2)) == plain[5:8] + plain[:5] + plain[8:]
    assert len(writes) == 8
    for _ in range(2):
        decoded.clear()
        assert scan(kept.over(few, 0)) == plain
        assert decoded == [0, 2]
    assert len(writes) == 8
    # Memory is kept in as before.
    assert scan(kept.over(few, BLOCK)) == plain
    decoded.clear()
    assert scan(kept.over(few, 0)) == plain
    assert (decoded, len(writes), kept.bytes) == ([0], 8, BLOCK)
    kept.close()


def test_a_disk_that_loses_kept_blocks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X = thin(9000, 300, 0.05, seed=35)
    data = Dataset.from_parquet(sparse_parquet(tmp_path / "a.parquet", X), sparse=("indices", "values", 300))
    monkeypatch.setattr("eigenmill.reduce.engines.local.kept.os.preadv", lambda *_: 0)
    with pytest.raises(DataError, match="found 0; the disk of the work directory has failed"):
        TruncatedSVD(4, solver="sketch", tol=1e-9).fit(data, engine=LocalEngine(work=tmp_path / "w", disk="1GiB"))
    with pytest.raises(ConfigError, match="expected work= with disk="):
        LocalEngine(disk="1GiB")


def test_explain_names_what_is_kept_and_where(tmp_path: Path) -> None:
    from eigenmill.reduce.plan import Cache, explain

    X = thin(9000, 1200, 0.01, seed=33)
    data = Dataset.from_parquet(sparse_parquet(tmp_path / "a.parquet", X), sparse=("indices", "values", 1200))
    model, work = TruncatedSVD(4, solver="sketch", max_scans=5), tmp_path / "w"
    plan = explain(model, data, LocalEngine(memory="4GiB", work=work, disk="1GiB"))
    assert plan.cache == Cache(plan.decoded_bytes, 0)
    assert f"decoded blocks kept: {plan.cache}" in str(plan)
    assert explain(model, data, LocalEngine(work=work, disk="1GiB")).cache == Cache(0, plan.decoded_bytes)
    assert explain(model, data, LocalEngine(work=work, disk="1kB")).cache == Cache(0, 1000)
    assert str(explain(model, data, LocalEngine()).cache) == "none"
    assert explain(TruncatedSVD(4, solver="gram"), data, LocalEngine(memory="4GiB")).cache is None
