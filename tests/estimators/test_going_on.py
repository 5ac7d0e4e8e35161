"""A model that goes on from its saved state equals the full fit over all files, to the byte."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eigenmill.reduce import PCA, ChangedInputError, ConfigError, Dataset, StandardScaler, TruncatedSVD, connect, load
from eigenmill.reduce.errors import MissingValueError
from tests.support.formats import use
from tests.support.progress import Recorder, Scan
from tests.support.trees import tree

NAMES = [f"c{j}" for j in range(7)]


@pytest.fixture(autouse=True)
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, leaf_bytes=8 * 7 * 40)


def write(path: Path, rows: int, seed: int, *, missing: bool = False, bad: bool = False) -> None:
    X = np.random.default_rng(seed).standard_normal((rows, 7)) * np.arange(1, 8) + 100
    if missing:
        X[::7, 3] = np.nan
    if bad:
        X[rows // 2, 2] = np.inf
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(zip(NAMES, X.T, strict=True))), path, row_group_size=23)


def model_bytes(model: Any, path: Path) -> dict[str, str]:
    model.save(path)
    return tree(path)


MODELS = [
    lambda: PCA(4, scale=True, solver="gram"),
    lambda: PCA(4, solver="dual"),
    lambda: TruncatedSVD(3, solver="gram"),
    lambda: StandardScaler(),
]


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("days", [(1, 1, 1), (2, 1), (1, 2), (3,)])
@pytest.mark.parametrize("policy", ["error", "mean"])
def test_day_by_day_equals_the_full_fit_to_the_byte(
    make: Any, days: tuple[int, ...], policy: str, tmp_path: Path
) -> None:
    files = [tmp_path / f"data/{i}.parquet" for i in range(sum(days))]
    for i, file in enumerate(files):
        write(file, 101 + 40 * i, i, missing=policy == "mean" and i == 1)
    full = make().fit(Dataset.from_parquet([str(f) for f in files], columns=NAMES, missing=policy))
    seen = days[0]
    first = Dataset.from_parquet([str(f) for f in files[:seen]], columns=NAMES, missing=policy)
    model = make().fit(first, keep_state=True, engine=connect("local", workers=2))
    for day, count in enumerate(days[1:]):
        model.save(tmp_path / f"day{day}", state=True)
        model = load(tmp_path / f"day{day}")
        seen += count
        model.partial_fit(Dataset.from_parquet([str(f) for f in files[:seen]], columns=NAMES, missing=policy))
    assert model_bytes(model, tmp_path / "went-on") == model_bytes(full, tmp_path / "full")


def test_only_the_new_files_are_read(tmp_path: Path) -> None:
    write(tmp_path / "data/a.parquet", 100, 0)
    model = PCA(2, solver="gram").fit(Dataset.from_parquet(tmp_path / "data", columns=NAMES), keep_state=True)
    write(tmp_path / "data/b.parquet", 50, 1)
    told = Recorder()
    model.partial_fit(str(tmp_path / "data"), engine=connect("local", progress=told))
    assert told.planned == [("gram", 50)]
    before = model.mean_.copy()
    model.partial_fit(str(tmp_path / "data"))
    np.testing.assert_array_equal(model.mean_, before)
    assert model.n_samples_ == 150


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "data/a.parquet", 100, 0)
    model = PCA(2, solver="gram").fit(Dataset.from_parquet(tmp_path / "data", columns=NAMES), keep_state=True)
    write(tmp_path / "data/a.parquet", 100, 1)
    with pytest.raises(ChangedInputError, match=r"a\.parquet"):
        model.partial_fit(str(tmp_path / "data"))


def test_a_vanished_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "data/a.parquet", 100, 0)
    write(tmp_path / "data/b.parquet", 100, 1)
    model = PCA(2, solver="gram").fit(Dataset.from_parquet(tmp_path / "data", columns=NAMES), keep_state=True)
    os.unlink(tmp_path / "data/a.parquet")
    with pytest.raises(ChangedInputError, match="gone"):
        model.partial_fit(str(tmp_path / "data"))


def test_a_late_file_is_appended_with_a_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "data/b.parquet", 100, 0)
    model = PCA(2, solver="gram").fit(Dataset.from_parquet(tmp_path / "data", columns=NAMES), keep_state=True)
    write(tmp_path / "data/a.parquet", 60, 1)
    with caplog.at_level(logging.WARNING, "eigenmill"):
        model.partial_fit(str(tmp_path / "data"))
    assert "a.parquet" in caplog.text
    order = [str(tmp_path / "data" / f"{n}.parquet") for n in "ba"]
    full = PCA(2, solver="gram").fit(Dataset.from_parquet(order, columns=NAMES))
    np.testing.assert_array_equal(model.components_, full.components_)


def test_bad_new_data_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 100, 0)
    write(tmp_path / "b.parquet", 100, 1, bad=True)
    write(tmp_path / "c.parquet", 100, 2)
    model = PCA(2, solver="gram").fit(Dataset.from_parquet([str(tmp_path / "a.parquet")]), keep_state=True)
    with pytest.raises(MissingValueError, match=r"b\.parquet"):
        model.partial_fit(Dataset.from_parquet([str(tmp_path / "b.parquet")]))
    model.partial_fit(Dataset.from_parquet([str(tmp_path / "c.parquet")]))
    full = PCA(2, solver="gram").fit(Dataset.from_parquet([str(tmp_path / f"{n}.parquet") for n in "ac"]))
    np.testing.assert_array_equal(model.components_, full.components_)


def test_a_model_without_state_says_so(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 100, 0)
    model = PCA(2).fit(Dataset.from_parquet(tmp_path / "a.parquet"))
    with pytest.raises(ConfigError, match="keep_state=True"):
        model.save(tmp_path / "model", state=True)
    model.save(tmp_path / "model")
    with pytest.raises(ConfigError, match="keep_state=True"):
        load(tmp_path / "model").partial_fit(str(tmp_path / "a.parquet"))


def test_going_on_refuses_when_the_full_fit_would_take_another_solver(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 5, 0)
    write(tmp_path / "b.parquet", 50, 1)
    model = PCA(2).fit(Dataset.from_parquet(tmp_path / "a.parquet"), keep_state=True)
    assert model.solver_ == "dual"
    with pytest.raises(ConfigError, match="gram"):
        model.partial_fit(str(tmp_path / "b.parquet"))


def test_a_file_that_changes_between_scans_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 200, 0)

    def rewrite(scan: Scan) -> None:
        if not scan.calls and len(scan.recorder.scans) == 2:
            write(tmp_path / "a.parquet", 200, 9)

    data = Dataset.from_parquet(tmp_path / "a.parquet", clip_sd=3.0)
    with pytest.raises(ChangedInputError, match=r"a\.parquet"):
        PCA(2).fit(data, engine=connect("local", progress=Recorder(rewrite)))
