"""How often the data is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eigenmill.reduce import PCA, Dataset, Sink, StandardScaler, TruncatedSVD, connect
from tests.engines.counting import CountingEngine
from tests.support.tables import columns

N = 1000


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    X = np.random.default_rng(0).normal(size=(N, 5))
    pq.write_table(pa.table(columns(X, "f")), tmp_path / "t.parquet", row_group_size=100)
    return Dataset.from_parquet(tmp_path / "t.parquet")


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine(connect("local", workers=2))


@pytest.mark.parametrize(
    ("model", "scans"),
    [
        (PCA(3), ["GramPass"]),
        (PCA(3, scale=True), ["GramPass"]),
        (PCA(3, scale=True, whiten=True), ["GramPass"]),
        (PCA(0.9), ["GramPass"]),
        (PCA("mle"), ["GramPass"]),
        (PCA("denoise"), ["GramPass"]),
        (PCA(3, solver="dual", refine=True), ["RowsPass"]),
        (PCA(3, scale=True, refine=True), ["GramPass", "TsqrPass"]),
        (TruncatedSVD(3, scale=True), ["GramPass"]),
        (TruncatedSVD(3, refine=True), ["GramPass", "TsqrPass"]),
        (StandardScaler(), ["MomentsPass"]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("clip_sd", [None, 3.0])
@pytest.mark.parametrize("missing", ["error", "mean"])
def test_scans_of_a_fit(
    model: Any, scans: list[str], clip_sd: float | None, missing: str, data: Dataset, engine: CountingEngine
) -> None:
    model.fit(data.with_cleaning(clip_sd=clip_sd, missing=missing), engine=engine)
    assert engine.scans == (["MomentsPass"] if clip_sd else []) + scans
    assert engine.rows == N * len(engine.scans)


def test_one_scan_to_write(data: Dataset, engine: CountingEngine, tmp_path: Path) -> None:
    scaler = StandardScaler().fit(data, engine=engine)
    pca = PCA(2).fit(scaler.transform(data), engine=engine)
    features = pca.transform(scaler.transform(data))
    assert (len(engine.scans), engine.rows, engine.writes) == (2, 2 * N, 0)
    manifest = engine.write(features, Sink(tmp_path / "out"))
    assert (engine.writes, engine.rows, manifest.rows) == (1, 3 * N, N)
    engine.write(features, Sink(tmp_path / "out"))
    assert engine.rows == 3 * N  # nothing was left to do


def test_scores_and_errors_take_one_scan(data: Dataset, engine: CountingEngine) -> None:
    pca = PCA(2).fit(data, engine=engine)
    pca.score(data, engine=engine)
    pca.reconstruction_error(data, engine=engine)
    assert engine.scans == ["GramPass", "MomentsPass", "MomentsPass"]
    assert engine.rows == 3 * N
