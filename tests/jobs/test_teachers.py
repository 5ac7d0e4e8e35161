"""Recipes with teachers: trained or loaded, asked once, kept, shared, and learnt from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")

from safetensors.numpy import save_file

from eigenmill.compress import Model, load
from eigenmill.jobs.recipes import run as compact
from eigenmill.jobs.recipes.recipe import load_recipe, read_recipe
from eigenmill.reduce.errors import ArtifactError, ConfigError, SchemaError
from tests.compress.made_tables import late
from tests.jobs.recipe_runs import invoke, training

AUGMENT = "{name: affine, height: 8, width: 8, shift: 0.6, turn: 6, zoom: 0.05, shear: 4}"
ROOT = Path(__file__).parents[2]
RECIPE = """\
input:
  path: {data}
  vector: pixels
  carry: [id]
  filters: [[id, "<", 1400]]
validation: {{share: 0.2}}
test:
  path: {data}
  filters: [[id, ">=", 1400]]
model: {{hidden: [12], seed: 1}}
teachers:
  members:
    - hidden: [64]
      steps: &learn
        - {{step: train, epochs: 12, optimizer: {{name: momentum, lr: 0.05, momentum: 0.9}}}}
        - {{step: prune, sparsity: 0.2}}
    - {{hidden: [48], seed: 3, steps: *learn}}
  copies: 2
  augment: {augment}
  dtype: uint8
steps:
  - step: distill
    epochs: 8
    optimizer: {{name: adam, lr: 0.01}}
    share: 0.8
    temperature: 3
    learned_step: {{bits: 5, start: 1.0}}
    entropy_penalty: {{weight: 1.0e-5}}
  - step: quantize
    bits: 5
output:
  path: {out}
  batches: [1]
"""


def recipe(data: Path, out: Path) -> str:
    return RECIPE.format(data=data, out=out, augment=AUGMENT)


@pytest.fixture(scope="module")
def finished(digit_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the recipe, run once."""
    out = tmp_path_factory.mktemp("taught") / "out"
    compact.run(read_recipe(recipe(digit_files, out), "recipe.yaml"))
    return out


@pytest.fixture
def conf(digit_files: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe(digit_files, tmp_path / "out"))
    return path


def test_teachers_are_trained_asked_once_and_learnt_from(finished: Path, conf: Path, tmp_path: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    assert report["teachers"]["error"] < report["validation"]["after"]["error"] < 0.2
    assert report["test"]["after"]["error"] < 0.2
    small = load(finished / "model.emill")
    assert small.front.layout["vector"] == "pixels"
    (path,) = (finished / "teachers").glob("taught-*.parquet")
    rows = pq.read_table(path)
    assert rows.column_names == ["pixels", "id", "label", "teacher", "held_out"]
    held = rows["held_out"].to_numpy()
    assert rows.num_rows == 1400 + 2 * (1400 - held.sum())
    # What both said of a row itself, which copies follow.
    whole = rows.filter(rows["held_out"])
    X = whole["pixels"].combine_chunks().flatten().to_numpy().reshape(-1, 64)
    members = [Model.restore(finished / f"teachers/{i}-01-prune.model") for i in range(2)]
    assert [member.layers[0].n_out for member in members] == [64, 48]
    said = np.mean([np.log(member.predict_proba(X)) for member in members], axis=0)
    np.testing.assert_allclose(whole["teacher"].combine_chunks().flatten().to_numpy(), said.ravel(), atol=1e-4)
    # Rows held out by their number are no copies of rows that were trained on.
    assert set(whole["id"].to_pylist()).isdisjoint(rows.filter(np.logical_not(held))["id"].to_pylist())
    # A second run finds everything; another student finds what the teachers have said.
    shutil.copytree(finished, tmp_path / "out")
    again = invoke(str(conf))
    assert [stage["resumed"] for stage in again["stages"]] == [True, True]
    assert again["teachers"] == report["teachers"]
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/teachers").iterdir()}
    for change in ("model.hidden=[16]", "steps.0.share=0.5"):
        other = invoke(
            str(conf),
            *("--set", change, "--set", f"output.path={tmp_path / change[:5]}"),
            *("--set", f"teachers.path={tmp_path / 'out/teachers'}"),
        )
        assert [stage["resumed"] for stage in other["stages"]] == [False, False]
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/teachers").iterdir()} == before


STOPS = {
    "a teacher's training": "teachers/1-00-train-*.checkpoint",
    "the student's training": "stages/00-distill-*.checkpoint",
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", STOPS)
def test_killed_it_goes_on_to_the_same_bytes(moment: str, conf: Path, finished: Path, tmp_path: Path) -> None:
    process = training(conf, tmp_path / "out" / STOPS[moment])
    try:
        process.wait()
    finally:
        process.kill()
    assert not (tmp_path / "out/model.emill").exists()
    invoke(str(conf))
    for path in ("model.emill", *(str(p.relative_to(finished)) for p in (finished / "teachers").glob("*.parquet"))):
        assert (tmp_path / "out" / path).read_bytes() == (finished / path).read_bytes()


def test_killed_while_teachers_speak_it_leaves_no_part_and_goes_on(
    conf: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished / "teachers", tmp_path / "out/teachers")
    (path,) = (tmp_path / "out/teachers").glob("taught-*")
    whole = path.read_bytes()
    path.unlink()
    true, asked = Model.scores, [0]

    def stopping(self: Model, X: Any) -> Any:
        asked[0] += 1
        if asked[0] > 3:
            raise KeyboardInterrupt
        return true(self, X)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "scores", stopping)
        with pytest.raises(KeyboardInterrupt):
            compact.run(load_recipe(conf))
    assert not list((tmp_path / "out/teachers").glob("*.parquet*"))
    compact.run(load_recipe(conf))
    assert path.read_bytes() == whole
    assert (tmp_path / "out/model.emill").read_bytes() == (finished / "model.emill").read_bytes()


def test_teachers_come_from_files_of_four_kinds(
    finished: Path,
    digit_files: Path,
    tmp_path: Path,
) -> None:
    from onnx import helper, numpy_helper, save

    rng = np.random.default_rng(0)
    weights = rng.normal(size=(64, 10)).astype(np.float32) / 8
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.zeros(10, np.float32), "b")]
    ends = [helper.make_tensor_value_info(n, 1, ["n", d]) for n, d in (("x", 64), ("y", 10))]
    save(helper.make_model(helper.make_graph([gemm], "net", ends[:1], ends[1:], constants)), tmp_path / "t.onnx")
    save_file(
        {"0.weight": np.ascontiguousarray(weights.T), "0.bias": np.zeros(10, np.float32)}, tmp_path / "t.safetensors"
    )
    shutil.copy(finished / "model.emill", tmp_path / "t.emill")
    shutil.copy(finished / "teachers/0-00-train.model", tmp_path / "t.model")
    text = recipe(digit_files, tmp_path / "out")
    head, tail = text.index("  members:"), text.index("  copies: 2")
    said = {}
    for ending in ("onnx", "safetensors", "emill", "model"):
        members = f"  members: [{{path: {tmp_path / f't.{ending}'}}}]\n"
        out = tmp_path / f"out-{ending}"
        changed = (text[:head] + members + text[tail:]).replace(str(tmp_path / "out"), str(out))
        compact.run(read_recipe(changed.replace("epochs: 8", "epochs: 1"), "recipe.yaml"))
        (path,) = (out / "teachers").glob("taught-*.parquet")
        rows = pq.read_table(path)
        whole = rows.filter(rows["held_out"])
        X = whole["pixels"].combine_chunks().flatten().to_numpy().reshape(-1, 64)
        said[ending] = X, whole["teacher"].combine_chunks().flatten().to_numpy().reshape(-1, 10)
    for ending in ("onnx", "safetensors"):
        X, found = said[ending]
        logits = X.astype(np.float64) @ weights
        np.testing.assert_allclose(found, logits - np.logaddexp.reduce(logits, axis=1)[:, None], atol=1e-3)
    for ending, teacher in (("emill", load(tmp_path / "t.emill")), ("model", Model.restore(tmp_path / "t.model"))):
        X, found = said[ending]
        np.testing.assert_allclose(found, np.log(teacher.predict_proba(X)), atol=1e-4)


def test_teachers_that_do_not_fit_are_refused_with_their_line(
    conf: Path,
    finished: Path,
    digit_files: Path,
    tmp_path: Path,
) -> None:
    def refused(*changes: str, match: str) -> None:
        with pytest.raises((ConfigError, SchemaError, ArtifactError), match=match):
            compact.run(load_recipe(conf, changes))

    refused("teachers.members=[{path: a.emill, hidden: [3]}]", match="a path alone")
    refused("teachers.members=[{hidden: [3]}]", match="either steps or path")
    refused("teachers.members=[{path: a.pt}]", match=r"named .emill, .model, .onnx or .safetensors; found a.pt")
    refused("teachers.members=[{steps: [{step: prune, sparsity: 0.5}]}]", match="a first step train")
    refused("teachers.augment=null", match="augment beside copies")
    refused("teachers=null", match="teachers and a step distill together")
    refused("steps.0.step=train", match=r"expected a key of this section|teachers and a step distill")
    refused("teachers.members=[{path: nowhere.emill}]", match=r"expected a teacher at nowhere.emill")
    refused(
        f"teachers.members=[{{path: {finished / 'model.emill'}}}]", 'input.filters=[[id, "<", 1400], [label, "<", 7]]',
        match="found a classification of",
    )  # fmt: skip


def test_a_search_learns_from_the_teachers_too(conf: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "out")
    trials = ["--set", "target.epochs=4", "--set", "target.trials=2", "--set", "target.max_bytes=200"]
    taught = invoke(str(conf), *trials)["search"]["trials"]
    alone = invoke(str(conf), *trials, "--set", "steps.0.share=0.0")["search"]["trials"]
    assert taught[0]["candidate"] == alone[0]["candidate"]
    known = [(t["bytes"], t["error"]) for t in taught], [(t["bytes"], t["error"]) for t in alone]
    assert known[0] != known[1]


LATE = """\
input:
  path: {data}
  columns: [distance]
  categories: [city, "weekday(when)", "hour(when)"]
  missing: mean
  filters: [[distance, "<", 9.5]]
label: late
model: {{hidden: []}}
teachers:
  members:
    - hidden: [24]
      steps: [{{step: train, epochs: 10, optimizer: {{name: adam, lr: 0.01}}}}]
steps:
  - {{step: distill, epochs: 15, optimizer: {{name: adam, lr: 0.01}}, share: 1.0}}
  - {{step: quantize}}
output: {{path: {out}, exports: [c, onnx], batches: [1]}}
"""


def test_categories_are_taught(tmp_path: Path) -> None:
    data = tmp_path / "late.parquet"
    pq.write_table(late(), data)
    report = compact.run(read_recipe(LATE.format(data=data, out=tmp_path / "out"), "late.yaml"))
    assert report.taught is not None
    assert report.after.error < report.taught + 0.05 < 0.3
    small, new = load(tmp_path / "out/model.emill"), late(seed=1)
    assert np.mean(small.predict(new) == new["late"].to_numpy()) > 0.75


def test_the_front_in_conf_runs_on_small_digits(digit_files: Path, tmp_path: Path) -> None:
    """The recipe of the published point, its digits, nets and epochs made smaller."""
    path = ROOT / "conf/mnist_front.yaml"
    load_recipe(path)
    text = path.read_text()
    for old, new in (
        ("demo-out/mnist/data", str(digit_files)), ("60000", "1400"),
        ("height: 28, width: 28", "height: 8, width: 8, shift: 0.6"),
        ("out/front", str(tmp_path / "out")), ("800, 400", "48"), ("epochs: 40", "epochs: 6"), ("[64, 32]", "[16]"),
        ("batch: 256", "batch: 64"),
        ("copies: 6", "copies: 2"),
        ("epochs: 20", "epochs: 8"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    variants = {"pooled": "model.pooling={height: 8, width: 8}", "waved": "model.dct={height: 8, width: 8, block: 5}"}
    for name in ("out", *variants):
        changes = [f"output.path={tmp_path / name}", *([variants[name]] if name in variants else [])]
        report = compact.run(read_recipe(text, "front.yaml", changes))
        assert report.after.error < 0.6
        assert load(report.path).layers[0].weights.shape[1] == {"out": 16, "pooled": 16, "waved": 25}[name]
        assert load(report.path).front.layout["vector"] == "pixels"
        assert {"model.c", "model.onnx"} <= set(report.exported.bytes)
    assert len(list((tmp_path / "out-teachers").glob("taught-*.parquet"))) == 1
