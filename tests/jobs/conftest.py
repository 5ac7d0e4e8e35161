"""Small inputs and jobs over them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from eigenmill.jobs.cli import app
from eigenmill.jobs.recipes import run as compact
from eigenmill.jobs.recipes.recipe import read_recipe
from tests.jobs.recipe_runs import RECIPE
from tests.support import tables

D, ROWS, FILES = 24, 1200, 3


def write_vectors(folder: Path, *, files: int = FILES, rows: int = ROWS, group: int = 400, seed: int = 0) -> Path:
    """Files of ``id``, ``label`` and a vector ``x`` of 24 bytes with five directions in it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(5, D))
    for f in range(files):
        X = (
            (rng.normal(size=(rows, 5)) @ directions * 10 + rng.normal(size=(rows, D)) + 100)
            .clip(0, 255)
            .astype(np.uint8)
        )
        ids, labels = np.arange(rows) + f * rows, (np.arange(rows) % 3).astype(np.int8)
        table = pa.table({"id": ids, "label": labels, "x": tables.vectors(X)})
        pq.write_table(table, folder / f"{f}.parquet", row_group_size=group)
    return folder


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    return write_vectors(tmp_path / "data")


@pytest.fixture
def three_days(tmp_path: Path) -> Any:
    """A day-by-day job over three days of data."""
    from tests.jobs.days import write_three_days  # which takes from here

    return write_three_days(tmp_path)


@pytest.fixture
def job(tmp_path: Path, vectors: Path) -> Path:
    """A job over ``vectors`` that writes all there is."""
    path = tmp_path / "job.yaml"
    path.write_text(job_text(vectors, tmp_path / "out"))
    return path


def job_text(data: Path, out: Path, **engine: Any) -> str:
    engine = {"workers": 2, **engine}
    return "\n".join(
        [
            f"input: {{path: {data}, vector: x, carry: [id, label]}}",
            "reduce: {method: pca, components: 5, scale: true}",
            f"output: {{features: {out}/features, model: {out}/model, report: {out}/report.json, part_bytes: 1KiB}}",
            f"engine: {json.dumps(engine)}",
        ]
    )


Call = Callable[..., Any]


@pytest.fixture
def eigenmill() -> Call:
    """The command line in this process: returns what typer's runner does."""
    runner = CliRunner()

    def call(*arguments: Any, code: int = 0) -> Any:
        result = runner.invoke(app, [str(a) for a in arguments])
        assert result.exit_code == code, result.output
        return result

    return call


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small digits that scikit-learn has, as Parquet."""
    from sklearn.datasets import load_digits

    from tests.compress.conftest import write

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.data))
    X, y = found.data[order].astype(np.uint8), found.target[order]
    return write(tmp_path_factory.mktemp("compact") / "data", X, y, 400)


@pytest.fixture
def conf(digit_files: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(data=digit_files, out=tmp_path / "out"))
    return path


@pytest.fixture(scope="session")
def finished(digit_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the recipe, run once."""
    out = tmp_path_factory.mktemp("finished") / "out"
    compact.run(read_recipe(RECIPE.format(data=digit_files, out=out), "recipe.yaml"))
    return out


@pytest.fixture
def done(conf: Path, finished: Path, tmp_path: Path) -> Path:
    """The recipe, after it has run in another place."""
    shutil.copytree(finished, tmp_path / "out")
    return conf
