"""The snippets of docs/compress.md run, in order, as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from eigenmill.jobs.cli import app
from eigenmill.jobs.recipes.recipe import Kind, load_recipe
from tests.compress.conftest import write
from tests.compress.made_tables import late

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/compress.md").read_text()


def test_the_snippets_run(digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, Xt, yt = digits
    write(tmp_path / "data/train", X, y)
    write(tmp_path / "data/test", Xt, yt)
    flights = late().rename_columns({"city": "origin", "when": "date"})
    flights = flights.set_column(0, "distance", flights["distance"].fill_null(5.0))
    (tmp_path / "data/flights").mkdir()
    pq.write_table(flights, tmp_path / "data/flights/part-0.parquet")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/compress.md", "exec"), names)
    assert names["found"].error < 0.15
    assert names["found"].bytes == (tmp_path / "model.emill").stat().st_size
    assert names["estimator"].n_bytes_ == (tmp_path / "cancer.emill").stat().st_size <= 5000
    assert names["best"].met
    assert (tmp_path / "predictions/_SUCCESS").exists()
    assert {"model.c", "model.onnx"} <= {path.name for path in tmp_path.iterdir()}


def test_commands_files_and_steps_exist() -> None:
    commands = {command.name for command in app.registered_commands}
    for line in re.findall(r"^eigenmill (.*)$", PAGE, re.MULTILINE):
        words = line.split("#")[0].split()
        assert words[0] in commands | {"demo", "compress", "predict"}
        if words[0] == "compress":
            load_recipe(ROOT / words[1], [words[i + 1] for i, word in enumerate(words) if word == "--set"])
    listed = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    kinds = {kind.model_fields["step"].annotation.__args__[0]: kind for kind in Kind.__args__}  # type: ignore[union-attr]
    assert listed == set(kinds)
    for name, row in re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|", PAGE, re.MULTILINE):
        assert set(re.findall(r"`(\w+)`", row)) == set(kinds[name].model_fields) - {"step"}
