"""Decoded blocks kept between the scans of an iteration, in memory and on disk: fewer decoded, the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eigenmill.reduce import Dataset, TruncatedSVD
from eigenmill.reduce.engines.kept import Kept
from eigenmill.reduce.engines.local import LocalEngine
from eigenmill.reduce.errors import ConfigError, DataError
from eigenmill.reduce.parquet import ParquetSource
from tests.estimators.made_files import dense_parquet, sparse_parquet
from tests.estimators.truth import thin


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
    monkeypatch.setattr("eigenmill.reduce.engines.kept.os.pwrite", full)
    assert fit("1GiB") > whole
    assert named == []


def full(*_: Any) -> int:
    raise OSError(28, "No space left on device")


def test_a_disk_that_loses_kept_blocks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X = thin(9000, 300, 0.05, seed=35)
    data = Dataset.from_parquet(sparse_parquet(tmp_path / "a.parquet", X), sparse=("indices", "values", 300))
    monkeypatch.setattr("eigenmill.reduce.engines.kept.os.preadv", lambda *_: 0)
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
