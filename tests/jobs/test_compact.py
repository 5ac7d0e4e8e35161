"""eigenmill compress: a recipe runs from the command line, is kept, resumed, and judged apart from the test."""

from __future__ import annotations

import hashlib
import html
import importlib
import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from eigenmill.compress import evaluate
from eigenmill.compress.judging.latency import machine
from eigenmill.jobs.cli import app
from eigenmill.jobs.recipes import run as compact
from eigenmill.jobs.recipes import steps as compact_steps
from eigenmill.jobs.recipes.recipe import read_recipe
from eigenmill.jobs.shown import exits
from eigenmill.reduce import Dataset
from tests.jobs.recipe_runs import RECIPE, invoke, training

ROOT = Path(__file__).parents[2]


def test_it_trains_prunes_quantizes_packs_and_proves(conf: Path, digit_files: Path, tmp_path: Path) -> None:
    found = invoke(str(conf))
    out = tmp_path / "out"
    test = Dataset.from_parquet(digit_files, vector="pixels", carry=["id", "label"], filters=[("id", ">=", 1400)])
    after = evaluate(out / "model.emill", test)
    assert found["test"]["after"]["bytes"] == (out / "model.emill").stat().st_size == after.bytes
    assert found["test"]["after"]["error"] == after.error < 0.1
    assert found["test"]["after"]["float_bytes"] == 4 * (64 * 24 + 24 + 240 + 10)
    assert [stage["name"] for stage in found["stages"]] == ["0 train", "1 prune", "2 train", "3 quantize"]
    assert found["stages"][1]["sparsity"] != [0.0, 0.0]
    assert found["stages"][3]["packed_bytes"] == after.bytes
    assert found["stages"][3]["error"] == found["validation"]["after"]["error"]
    assert found["stages"][1]["nonzero"] < 0.35 * found["stages"][0]["nonzero"]
    backends = {t["backend"] for t in found["test"]["after"]["latency"]}
    assert backends == {"numpy", "onnxruntime", "C -O2"} or not shutil.which("cc")
    assert found["exports"]["bytes"] == {name: (out / name).stat().st_size for name in ("model.c", "model.onnx")}
    assert found["exports"]["agreement"]["same_decided"] == found["exports"]["agreement"]["decided"] > 100
    assert found["exports"]["footprint"]["flash"] > 500 or not shutil.which("cc")
    page = (out / "page.html").read_text()
    for figure in ("size and error", "weights by step and layer", "sparsity by layer"):
        assert f'aria-label="{figure}"' in page
    assert not (out / ".work").exists()
    assert json.loads((out / "report.json").read_text())["stages"] == found["stages"]


def test_a_second_run_finds_everything_done_and_scores_no_test(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "out/test.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    packed = hashlib.sha256((tmp_path / "out/model.emill").read_bytes()).hexdigest()
    assert [line["name"] for line in lines] == ["00-train.model", "model.emill"]
    assert lines[1]["file"] == packed == lines[1]["found"]["file"]
    with monkeypatch.context() as patch:
        patch.setattr(compact_steps, "train", None)
        again = invoke(str(done))
    assert all(stage["resumed"] for stage in again["stages"])
    assert again["test"] == {"before": lines[0]["found"], "after": lines[1]["found"]}
    assert len(log.read_text().splitlines()) == 2
    other = invoke(str(done), "--set", "steps.3.bits=5")
    assert [stage["resumed"] for stage in other["stages"]] == [True, True, True, False]
    assert [json.loads(line)["file"] for line in log.read_text().splitlines()][2:] == [other["test"]["after"]["file"]]


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ([], {"packed_bytes": 3, "weight_bytes": 9, "_read": 3}),
        (["output.coder=huffman"], {"packed_bytes": 4, "weight_bytes": 12, "_read": 4}),
        (
            ["target.max_bytes=9", "target.trials=2", "target.epochs=1"],
            {"packed_bytes": 5, "weight_bytes": 15, "_read": 5},
        ),
    ],
    ids=["three steps", "another coder", "and two trials of a search"],
)
def test_every_model_is_packed_once(
    more: list[str], found: dict[str, int], digit_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And read once; of a net of two layers that may read a picture the first one is coded twice, the last once."""
    counts, module = Counter[str](), importlib.import_module("eigenmill.compress.packed.pack")

    def counting(name: str, true: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: (counts.update([name]), true(*given, **named))[1]

    for name in found:
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    text = RECIPE.replace("  - step: train\n    epochs: 6\n", "").replace("epochs: 12", "epochs: 1")
    recipe = read_recipe(text.format(data=digit_files, out=tmp_path / "out"), "recipe.yaml", more)
    assert len(recipe.recipe.steps) == 3
    assert compact.run(recipe).after.bytes == (tmp_path / "out/model.emill").stat().st_size
    assert counts == found
    counts.clear()
    compact.run(recipe)
    assert counts["packed_bytes"] == counts["_read"] == 1  # all steps are done; the file is written again


def test_the_same_file_is_scored_again_on_other_test_rows(done: Path, digit_files: Path, tmp_path: Path) -> None:
    log = tmp_path / "out/test.jsonl"
    before = log.read_text().splitlines()
    other = invoke(str(done), "--set", 'test.filters=[[id, ">=", 1500]]')
    assert other["test"]["after"]["rows"] == other["test"]["before"]["rows"] == 297
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["file"] for line in lines[2:]] == [line["file"] for line in lines[:2]]
    assert len({(line["file"], line["data"]) for line in lines}) == len(lines) == 4
    log.write_text("\n".join([before[0], before[1][: len(before[1]) // 2]]))  # as a kill leaves it
    for _ in range(2):
        assert invoke(str(done))["test"]["after"]["rows"] == 397
    mended = log.read_text().splitlines()
    assert mended[0] == before[0]
    assert [json.loads(line)["file"] for line in mended[2:]] == [lines[1]["file"]]


def test_stages_and_search_never_read_the_test_rows(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, Any]] = []
    stages, dataset = compact.run_steps, compact._dataset
    monkeypatch.setattr(compact, "run_steps", lambda *a: (opened.append(("stages", None)), stages(*a))[1])
    monkeypatch.setattr(
        compact, "_dataset", lambda *a, **k: (opened.append(("data", k.get("filters"))), dataset(*a, **k))[1]
    )
    invoke(str(done))
    assert [name for name, _ in opened] == ["data", "stages", "data"]
    assert opened[2][1] == [("id", ">=", 1400)]


@pytest.mark.parametrize("with_", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_goes_on_to_the_same_bytes(
    with_: signal.Signals, conf: Path, finished: Path, tmp_path: Path
) -> None:
    code, output, errors = training(conf, tmp_path / "out/stages/02-train-*.checkpoint").stop(with_)
    assert code == exits.INTERRUPTED, errors
    assert json.loads(output)["error"]["exit_code"] == exits.INTERRUPTED
    assert not (tmp_path / "out/model.emill").exists()
    stale = tmp_path / "out/stages/02-train-another.checkpoint"
    stale.write_bytes(b"what a recipe with another step has left")
    resumed = invoke(str(conf))
    assert not stale.exists()
    assert [stage["resumed"] for stage in resumed["stages"]] == [True, True, False, False]
    assert resumed["stages"][3]["packed_bytes"] == (finished / "model.emill").stat().st_size
    assert (tmp_path / "out/model.emill").read_bytes() == (finished / "model.emill").read_bytes()


def test_a_target_starts_a_search_and_one_that_is_met_does_not(done: Path, tmp_path: Path) -> None:
    plain = invoke(str(done), "--set", "target.max_bytes=100000")
    assert plain["search"] is None
    short = ["--set", "target.epochs=8", "--set", "target.trials=5"]
    found = invoke(str(done), "--set", "target.max_bytes=500", *short)
    assert found["search"]["met"]
    assert (tmp_path / "out/model.emill").stat().st_size <= 500
    assert found["search"]["best"]["bytes"] == (tmp_path / "out/model.emill").stat().st_size
    assert "trial 0" in (tmp_path / "out/page.html").read_text()


def test_a_limit_of_time_is_shown_with_all_that_it_depends_on(done: Path, tmp_path: Path) -> None:
    asked = ["target.max_latency_us=900000", "target.max_bytes=90000", "target.batch=3", "target.quantile=0.9"]
    options = [word for one in (*asked, "target.trials=1", "target.epochs=1") for word in ("--set", one)]
    shown = CliRunner().invoke(app, ["compress", str(done), "--quiet", *options], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    report = json.loads((tmp_path / "out/report.json").read_text())
    took, here = report["search"]["best"]["latency_us"], machine()
    assert 0 < took < 900_000
    assert report["machine"] == report["search"]["machine"] == here
    assert report["target"]["backend"] == "numpy"
    wanted = f"time of numpy, 3 rows a call, quantile 0.9, one thread, on {here}"
    lines = [" ".join(line.split()) for line in shown.output.splitlines()]
    assert f"{wanted} 900,000.0 µs {took:,.1f} µs" in lines
    assert f"times of a call, one thread of: {here}" in lines
    assert "The target is met after 1 trials" in lines
    assert html.escape(f"{wanted}, at most 900,000.0 µs: {took:,.1f} µs") in (tmp_path / "out/page.html").read_text()
