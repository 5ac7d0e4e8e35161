"""Models, packed files, programs and the logs of searches and recipes survive a power failure, as all outputs do."""

from __future__ import annotations

import re
from pathlib import Path

from eigenmill.compress import Model, Samples, Target, search, to_c, to_onnx, train
from eigenmill.jobs.recipes import run as compact
from eigenmill.jobs.recipes.recipe import read_recipe
from tests.support.file_events import FileEvents, holds_after_power_failure, recorded

RECIPE = """\
input: {{path: {data}, vector: pixels, carry: [id]}}
validation: {{share: 0.2, by: id}}
model: {{hidden: [8], seed: 1}}
steps:
  - {{step: train, epochs: 2}}
  - {{step: quantize, bits: 8}}
output: {{path: {out}, batches: [1], exports: []}}
"""


def order(found: FileEvents) -> list[str]:
    """Files in the order in which they got their names; digests as ``*``."""
    return [re.sub(r"[0-9a-f]{12,}", "*", name) for _, name in found.named("rename")]


def test_models_and_exports(small: Model, samples: Samples, tmp_path: Path) -> None:
    start = Model.mlp(None, [8], 10)
    with recorded(tmp_path) as found:
        model = train(start, samples, epochs=2, checkpoint=tmp_path / "checks/point")
        model.save(tmp_path / "models/a")
        small.save(tmp_path / "packed/model.emill")
        to_c(small, tmp_path / "programs/model.c")
        to_onnx(small, tmp_path / "programs/model.onnx")
    holds_after_power_failure(found)
    written = ["models/a", "packed/model.emill", "programs/model.c", "programs/model.onnx"]
    assert order(found) == ["checks/point", "checks/point", *written]


def test_a_search(samples: Samples, tmp_path: Path) -> None:
    with recorded(tmp_path) as found:
        search(
            Model.mlp(None, [8], 10),
            samples,
            Target(max_bytes=900),
            epochs=1,
            trials=2,
            directory=tmp_path / "log/here",
        )
    holds_after_power_failure(found)
    trial = ["log/here/*.checkpoint", "log/here/best.model", "log/here/trials.json"]
    assert order(found) == [*trial, trial[0], trial[2]]


def test_a_recipe(folder: Path, tmp_path: Path) -> None:
    with recorded(tmp_path) as found:
        compact.run(read_recipe(RECIPE.format(data=folder, out=tmp_path / "deep/out"), "recipe.yaml"))
    holds_after_power_failure(found)
    trained = ["deep/out/stages/00-train-*.checkpoint"] * 2
    written = ["stages/00-train.model", "stages/00-train.json", "stages/01-quantize.model", "stages/01-quantize.json"]
    assert [name for name in order(found) if not name.endswith("seen.json")] == [
        *trained,
        *(f"deep/out/{name}" for name in (*written, "model.emill", "report.json")),
    ]
