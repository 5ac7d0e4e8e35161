"""Every job file in conf/ is valid; the local ones run on small data of their kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eigenmill.jobs.demo.demo import job_text
from eigenmill.jobs.reduction import texts as text
from eigenmill.jobs.reduction.config import load_job
from eigenmill.jobs.reduction.run import run
from tests.jobs.conftest import write_vectors

CONF = Path(__file__).parents[2] / "conf"
# Those of test_daily and test_recipes.
OTHERS = ("daily", "flights_compact", "mnist_compact", "mnist_compact_full", "mnist_front")
JOBS = sorted(path for path in CONF.glob("*.yaml") if path.stem not in OTHERS)


def _measurements(folder: Path) -> None:
    rng, n = np.random.default_rng(0), 500
    temperature, humidity, pressure, voltage = (rng.normal(20, 5, n) for _ in range(4))
    temperature[::50], humidity[::70], pressure[3], voltage[7] = np.nan, np.nan, np.nan, -1
    temperature[1] = np.inf
    names = np.where(np.arange(n) % 9 == 0, "test", "roof")
    table = {"temperature": temperature, "humidity": humidity, "pressure": pressure, "voltage": voltage}
    pq.write_table(pa.table({**table, "sensor": names, "time": np.arange(n)}), folder / "data/measurements/a.parquet")


def _terms(folder: Path) -> None:
    rng, n = np.random.default_rng(0), 150
    index = [np.sort(rng.choice(2000, 12, replace=False)).astype(np.int32) for _ in range(n)]
    counts = [rng.integers(1, 9, 12).astype(np.float32) for _ in range(n)]
    table = pa.table({"document": [f"d{i}" for i in range(n)], "index": pa.array(index), "count": pa.array(counts)})
    pq.write_table(table, folder / "data/terms/a.parquet")


def _glosses(folder: Path) -> None:
    place, rng = folder / "data/texts", np.random.default_rng(0)
    place.mkdir()
    for kind in ("noun", "verb"):
        lines = [" ".join(f"word{'abcdefghij'[i]}" * 2 for i in rng.integers(0, 10, 9)) for _ in range(80)]
        lines = [f"{line} {chr(97 + i % 26)}{chr(97 + i // 26)}{kind}" for i, line in enumerate(lines)]
        (place / f"{kind}.txt").write_text("\n".join(lines))
    text.write(place, folder / "data/glosses", hashing=text.Hashing(512), workers=1)


def _table(folder: Path) -> None:
    n = 60
    values = {name: pa.array([None if i % 7 == j else float(i * j) for i in range(n)]) for j, name in enumerate("abc")}
    pq.write_table(pa.table({**values, "id": np.arange(n), "count": np.arange(n) % 3}), folder / "data/table/a.parquet")


def _digits(folder: Path) -> None:
    rng, n = np.random.default_rng(0), 200
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(rng.integers(0, 255, n * 784).astype(np.uint8)), 784)
    table = pa.table({"id": np.arange(n), "label": np.arange(n) % 10, "pixels": pixels})
    pq.write_table(table, folder / "demo-out/mnist/data/a.parquet")


MAKE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "mnist": ("demo-out/mnist/data", _digits),
    "quality": ("data/measurements", _measurements),
    "svd_sparse": ("data/terms", _terms),
    "glosses": ("data", _glosses),
    "scale": ("data/table", _table),
    "incremental": ("data/daily", lambda folder: write_vectors(folder / "data/daily") and None),
}

SMALLER = {"glosses": ["input.sparse.n_features=512"]}
"""What is changed for the small data."""


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_it_is_valid(path: Path) -> None:
    load_job(path)


@pytest.mark.parametrize("name", sorted(MAKE))
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, make = MAKE[name]
    (tmp_path / place).mkdir(parents=True)
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    # What other tests have left in this process does not count.
    monkeypatch.setattr("eigenmill.reduce.engines.ledger.resident", lambda: 300 << 20)
    report = run(load_job(CONF / f"{name}.yaml", SMALLER.get(name, [])))
    assert report.status == "complete"
    again = run(load_job(CONF / f"{name}.yaml", SMALLER.get(name, [])))
    assert (again.status, again.digests, again.scans) == ("unchanged", report.digests, [])
    if name == "quality":
        assert report.quality["non_finite"] == 1
        assert report.quality["missing"] > 10
        assert [scan.name for scan in report.scans] == ["moments", "gram", "write"]
    if name == "scale":
        assert [column for column, _ in report.output.names] == ["id", "a", "b", "c"]


def test_all_but_the_remote_ones_run() -> None:
    assert {path.stem for path in JOBS} == {*MAKE, "s3", "dask", "spark"}


def test_mnist_is_the_job_of_the_demonstration() -> None:
    def parsed(text: str, tmp: Any = None) -> dict[str, Any]:
        import yaml

        job: dict[str, Any] = yaml.safe_load(text)
        return {"reduce": job["reduce"], "input": job["input"], "engine": job["engine"]}

    assert parsed((CONF / "mnist.yaml").read_text()) == parsed(job_text(Path("demo-out/mnist"), 784))
