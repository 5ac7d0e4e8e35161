"""What a recipe may say: steps, reductions, categories, limits; what is refused, and what its file is good for."""

from __future__ import annotations

import datetime
import hashlib
import inspect
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from eigenmill.compress import EntropyPenalty, LearnedStep, Magnitude, Model, Target, TrainSettings, load
from eigenmill.compress.packed.pack import packed_bytes
from eigenmill.compress.training.augment import Affine
from eigenmill.jobs.cli import app
from eigenmill.jobs.recipes import recipe as spec
from eigenmill.jobs.recipes import run as compact
from eigenmill.jobs.recipes.page import page, size_and_error
from eigenmill.jobs.recipes.recipe import Recipe, load_recipe, read_recipe
from eigenmill.jobs.reduction.config import Section
from eigenmill.jobs.shown import exits
from eigenmill.reduce import PCA, Dataset
from eigenmill.reduce.errors import ArtifactError, ConfigError
from tests.compress.made_tables import late
from tests.compress.nets import front, layer, net
from tests.jobs.recipe_runs import RECIPE, invoke

ROOT = Path(__file__).parents[2]


def test_the_other_steps_run_and_the_table_is_printed(conf: Path, tmp_path: Path) -> None:
    recipe = conf.read_text().replace(
        "  - step: prune\n    sparsity: 0.7\n",
        "  - step: prune_neurons\n    keep: 0.5\n  - step: share_weights\n    bits: 4\n",
    )
    conf.write_text(recipe)
    shown = CliRunner().invoke(app, ["compress", str(conf), "--quiet"], env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    for words in ("1 prune_neurons", "2 share_weights", "12-10", "times smaller", "95 % interval", "test rows"):
        assert words in shown.output
    net = load(tmp_path / "out/model.emill")
    assert net.layers[0].weights.shape == (64, 12)
    assert all(len(np.unique(layer.weights)) <= 16 for layer in net.layers)


def test_a_regression_from_a_saved_reduction(digit_files: Path, tmp_path: Path) -> None:
    data = Dataset.from_parquet(digit_files, vector="pixels", carry=["id"])
    PCA(12).fit(data).save(tmp_path / "pca")
    text = f"""\
input: {{path: {digit_files}, vector: pixels}}
label: id
model: {{task: regression, pca: {tmp_path / "pca"}, hidden: []}}
steps: [{{step: train, epochs: 3}}, {{step: fold_projection}}, {{step: factorize, rank: 5}}, {{step: quantize}}]
output: {{path: {tmp_path / "out"}, batches: [1], exports: [c, onnx]}}
"""
    found = compact.run(read_recipe(text, "r.yaml"))
    assert found.after.rmse is not None
    assert found.after.r2 is not None
    same = found.exported.agreement
    assert same is None or same.same == same.rows > 0
    assert {*found.exported.bytes} == {"model.c", "model.onnx"}
    for shown in (page(found), str(found.as_json())):
        assert "nan" not in shown.lower()
    assert found.test_after is None
    assert [stage.widths for stage in found.stages] == [(12, 1), (1,), (1,), (1,)]
    assert Model.restore(tmp_path / "out/stages/00-train.model").task == "regression"


def test_a_figure_of_sizes_and_errors_is_to_scale_and_within_its_frame() -> None:
    points = [("first", 20_000, 0.02), ("smaller", 3000, 0.03), ("smallest", 900, 0.2), ("worse", 4000, 0.11)]
    for some in (points, points[:1], [("without errors", 100, 0.0)]):
        figure = ElementTree.fromstring(size_and_error(some))
        width, height = (float(n) for n in figure.attrib["viewBox"].split()[2:])
        dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in figure.iter("circle")]
        words = [(each.text, float(each.attrib["x"]), float(each.attrib["y"])) for each in figure.iter("text")]
        for x, y in dots + [(x, y) for _, x, y in words]:
            assert 0 <= x <= width
            assert 0 <= y <= height
        # Bytes have a logarithmic scale, errors a linear one, on which the three words at the left stand.
        places = [(np.log(size), x) for (_, size, _), (x, _) in zip(some, dots, strict=True)]
        scale = [(error, y) for (_, _, error), (_, y) in zip(some, dots, strict=True)]
        scale += [(float(str(text)), y - 4) for text, _, y in words[-3:]]
        for pairs in (places, scale):
            a, b = np.array(pairs).T
            if np.ptp(a):
                np.testing.assert_allclose(np.polyval(np.polyfit(a, b, 1), a), b, atol=1)


def test_what_a_recipe_leaves_out_has_the_default_of_the_library() -> None:
    pairs: list[tuple[type[Section], Any]] = [
        (spec.AffineSpec, Affine),
        (spec.MagnitudeSpec, Magnitude),
        (spec.LearnedStepSpec, LearnedStep),
        (spec.EntropyPenaltySpec, EntropyPenalty),
        (spec.TargetSpec, Target),
        (spec.TrainingStep, TrainSettings),
    ]
    for section, made in pairs:
        given = inspect.signature(made).parameters.values()
        defaults = {each.name: each.default for each in given if each.default is not each.empty}
        own = {name: each.default for name, each in section.model_fields.items() if not each.is_required()}
        shared = (own.keys() & defaults.keys()) - {"optimizer", "augment"}
        assert shared
        assert {name: own[name] for name in shared} == {name: defaults[name] for name in shared}


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("sparsity: 0.7", "sparsty: 0.7", 16, "of this section, found 'sparsty'; did you mean 'sparsity'?"),
        (
            "epochs: 12",
            "epoch: 12",
            13,
            "steps.0.epoch: expected a key of this section, found 'epoch'; did you mean 'epochs'?",
        ),
        ("lr: 0.05", "rate: 0.05", 14, "found 'rate'; it knows name, lr, momentum, beta1, beta2, weight_decay"),
        ("step: prune\n", "step: prume\n", 15, "steps.1: expected a step among train, prune, regrow, prune_neurons"),
        ("bits: 6", "bits: 60", 20, "steps.3.bits: expected a number <= 16 or a list, found 60"),
        ("lr: 0.05", "lr: '5e-2'", 14, "steps.0.optimizer.lr: expected a number, found '5e-2'; write 0.05 for the num"),
        ("hidden: [24]", "hiden: [24]", 10, "model.hiden: expected a key of this section, found 'hiden'; did you mean"),
        ("step: train\n    epochs: 12", "step: os.system\n    epochs: 12", 12, "expected a step among train, prune"),
        ("vector: pixels", "vectr: pixels", 3, "input.vectr: expected a key of this section, found 'vectr'; did you"),
    ],
)
def test_errors_name_the_line(old: str, new: str, line: int, said: str) -> None:
    text = RECIPE.format(data="data", out="out")
    assert old in text
    with pytest.raises(ConfigError) as caught:
        read_recipe(text.replace(old, new), "r.yaml")
    first = str(caught.value)
    assert f"r.yaml:{line}: " in first
    assert said in first


def test_errors_of_a_run_have_exit_codes_and_lines(conf: Path, tmp_path: Path) -> None:
    said = invoke(str(conf), "--set", "steps.0.optimizer.momentum=0.5", "--set", "steps.0.optimizer.name=adam", code=2)
    assert "momentum" in said["error"]["message"]
    assert "steps" in said["error"]["message"]
    assert invoke(str(tmp_path / "none.yaml"), code=exits.BAD_USAGE)["error"]["exit_code"] == exits.BAD_USAGE
    assert invoke(str(conf), "--set", f"input.path={tmp_path / 'none'}", code=exits.BAD_DATA)
    assert "learned_step" in invoke(str(conf), "--set", "steps.0.entropy_penalty={}", code=2)["error"]["message"]
    assert "first step train" in invoke(str(conf), "--set", "steps=[{step: quantize}]", code=2)["error"]["message"]


def test_recipes_of_the_repository_are_valid() -> None:
    found = [load_recipe(path).recipe for path in sorted((ROOT / "conf").glob("mnist_compact*.yaml"))]
    assert [type(recipe) for recipe in found] == [Recipe, Recipe]
    assert "path" in found[0].echo()["output"]


def test_predict_reads_the_file_and_writes_parquet(finished: Path, digit_files: Path, tmp_path: Path) -> None:
    model = str(finished / "model.emill")
    args = ["predict", model, str(digit_files), "--out", str(tmp_path / "p"), "--carry", "id,label"]
    written = CliRunner().invoke(app, [*args, "--json"])
    assert written.exit_code == 0, written.output
    table = pq.read_table(tmp_path / "p")
    assert np.mean(np.array(table["prediction"]) == np.array(table["label"])) > 0.9
    assert CliRunner().invoke(app, args).exit_code == 0  # the same again
    refused = CliRunner().invoke(
        app, ["predict", str(finished / "report.json"), str(digit_files), "--out", str(tmp_path / "q"), "--json"]
    )
    assert refused.exit_code == exits.DAMAGED


FLIGHTS = """\
input:
  path: {data}
  columns: [distance]
  categories: [city, weekday(when), hour(when)]
  missing: mean
label: late
model: {{hidden: [8]}}
steps:
  - {{step: train, epochs: 6, optimizer: {{name: adam, lr: 0.02}}}}
  - {{step: quantize, bits: 8}}
output:
  path: {out}
  batches: [1]
  exports: [c, onnx]
"""


def test_a_recipe_with_categories(tmp_path: Path) -> None:
    data, out = tmp_path / "flights", tmp_path / "out"
    data.mkdir()
    rows = late()
    pq.write_table(rows, data / "part-0.parquet")
    (tmp_path / "late.yaml").write_text(FLIGHTS.format(data=data, out=out))
    report = compact.run(load_recipe(tmp_path / "late.yaml"))
    assert report.after.error < 0.25
    if report.exported.agreement is not None:
        assert report.exported.agreement.difference < 1e-5
    new = rows.drop_columns(["late"]).append_column("id", pa.array(np.arange(len(rows))))
    pq.write_table(new, tmp_path / "new.parquet")
    given = ["predict", str(out / "model.emill"), str(tmp_path / "new.parquet"), "--out", str(tmp_path / "p")]
    done = CliRunner().invoke(app, [*given, "--carry", "id", "--quiet"])
    assert done.exit_code == 0, done.output
    found = pq.read_table(tmp_path / "p")
    assert found.column_names == ["id", "prediction", "p_False", "p_True"]
    np.testing.assert_array_equal(found["prediction"], load(out / "model.emill").predict(rows))
    assert np.mean(np.asarray(found["prediction"]) == rows["late"].to_numpy()) > 0.75
    told = json.loads(CliRunner().invoke(app, ["inspect", str(out / "model.emill"), "--json"]).stdout)
    assert told["format"] == 2
    assert [c["name"] for c in told["categories"]] == ["city", "weekday(when)", "hour(when)"]
    assert sum(told["sections"].values()) == told["bytes"]


def test_the_recipe_of_flights_judges_by_a_month_that_is_new(tmp_path: Path) -> None:
    rows = late(9000).rename_columns({"city": "origin", "when": "date"})
    rows = rows.set_column(0, "distance", rows["distance"].fill_null(5.0)).append_column("destination", rows["origin"])
    month = pc.month(rows["date"])
    for name, part in (("train", pc.less(month, 6)), ("test", pc.equal(month, 6))):
        (tmp_path / name).mkdir()
        pq.write_table(rows.filter(part), tmp_path / name / "part-0.parquet")
    changes = [f"input.path={tmp_path}/train", f"test.path={tmp_path}/test", f"output.path={tmp_path}/out"]
    changes += ["validation.by=date", "validation.since=2001-05-01", "output.batches=[1]", "output.exports=[]"]
    changes += [f"steps.{i}.{what}" for i in (0, 1) for what in ("batch=64", "optimizer.lr=0.02", "epochs=3")]
    report = compact.run(load_recipe(ROOT / "conf/flights_compact.yaml", changes))
    found = load(tmp_path / "out" / "model.emill")
    assert found.front.categories[0].values == (1, 2, 3, 4)
    held = rows.filter(pc.equal(month, 5))
    assert report.after.rows == len(held)
    assert report.after.error == pytest.approx(np.mean(found.predict(held) != held["late"].to_numpy()))
    assert report.test_after is not None
    assert report.test_after.auc is not None
    assert report.test_after.auc > 0.75


@pytest.mark.parametrize("since", ["2001-12-01", "'2001-12-01'", "2001-12-01T00:00:00"])
def test_rows_since_a_day_judge_a_recipe(since: str, tmp_path: Path) -> None:
    rows = late()
    pq.write_table(rows, tmp_path / "data.parquet")
    text = FLIGHTS.format(data=tmp_path / "data.parquet", out=tmp_path / "out")
    split = f"validation: {{by: when, since: {since}}}"
    source = read_recipe(f"{text.replace('[c, onnx]', '[]')}{split}\n", "late.yaml")
    report = compact.run(source)
    held = pc.greater_equal(rows["when"], pa.scalar(datetime.datetime(2001, 12, 1), rows["when"].type))
    assert report.after.rows == pc.sum(held).as_py() > 100


def test_inspect_says_what_is_in_the_file(finished: Path, tmp_path: Path) -> None:
    file = finished / "model.emill"
    told = CliRunner().invoke(app, ["inspect", str(file), "--json"])
    assert told.exit_code == 0, told.output
    found, net = json.loads(told.stdout), load(file)
    assert found["bytes"] == file.stat().st_size == sum(found["sections"].values())
    assert found["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found["labels"] == list(range(10))
    assert found["input"]["layout"] == {"vector": "pixels", "n_features": 64}
    assert [layer["nonzero"] for layer in found["layers"]] == [np.count_nonzero(la.weights) for la in net.layers]
    assert max(layer["weight_bits"] for layer in found["layers"]) == 6
    shown = CliRunner().invoke(app, ["inspect", str(file)])
    assert shown.exit_code == 0
    assert "layer 1" in shown.stdout
    size, times = re.findall(r"([\d,]+) bytes; ([\d.]+) times less than in single precision", shown.stdout)[0]
    single = sum(la.weights.astype(np.float32).nbytes + la.bias.astype(np.float32).nbytes for la in net.layers)
    assert int(size.replace(",", "")) == file.stat().st_size
    assert float(times) == pytest.approx(single / file.stat().st_size, rel=1e-4)
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "bad.emill").write_bytes(damaged)
    for name, message in (("bad.emill", "found another digest"), ("none.emill", "expected a packed model at")):
        refused = CliRunner().invoke(app, ["inspect", str(tmp_path / name), "--json"])
        assert refused.exit_code == exits.code_of(ArtifactError(""))
        assert message in json.loads(refused.stdout)["error"]["message"]


def test_names_in_a_file_are_data_to_the_terminal(tmp_path: Path) -> None:
    labels = ("[/x]", "[red]b[/red]", "\x1b[31mc\x1b]0;t\x07", ":smile:", "\u202ed\r")
    columns = ["[bold]", "[/]", "\x1b[2J"]
    made = net(front(3), layer(3, 5, 9, bits=0), labels=labels)
    path = tmp_path / "hostile.emill"
    path.write_bytes(packed_bytes(replace(made, front=replace(made.front, layout={"columns": columns}))))
    shown = CliRunner().invoke(app, ["inspect", str(path)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "5 labels: [/x], [red]b[/red], \\x1b[31mc\\x1b]0;t\\x07, :smile:, \\u202ed\\r" in shown.output
    assert "3 features: [bold], [/], \\x1b[2J" in shown.output
    wrong = CliRunner().invoke(
        app, ["predict", str(path), str(tmp_path / "no\x1b[2Jwhere"), "--out", str(tmp_path / "o")]
    )
    assert wrong.exit_code == exits.BAD_DATA
    assert "\\x1b[2J" in wrong.output
    assert "\x1b" not in shown.output + wrong.output


def test_the_schema_of_recipes() -> None:
    told = CliRunner().invoke(app, ["schema", "recipe"])
    assert told.exit_code == 0
    assert json.loads(told.stdout) == Recipe.model_json_schema()
    refused = CliRunner().invoke(app, ["schema", "recipes", "--json"])
    assert refused.exit_code == exits.code_of(ConfigError(""))


def test_pooling_augmentation_and_regrowth_by_name(digit_files: Path, tmp_path: Path) -> None:
    """Means of 2 x 2 pixels are read; shifted digits teach; pruned weights come back where asked."""
    text = RECIPE.format(data=digit_files, out=tmp_path / "out").replace(
        "model: {hidden: [24], seed: 1}", "model: {hidden: [24], seed: 1, pooling: {height: 8, width: 8}}"
    )
    text = text.replace("  - step: quantize\n", "  - step: regrow\n    share: 0.5\n  - step: quantize\n")
    text = text.replace(
        "    epochs: 12\n", "    epochs: 12\n    augment: {name: affine, height: 8, width: 8, shift: 0.5, turn: 5}\n"
    )
    text = text.replace("sparsity: 0.7", "sparsity: 0.4")
    found = compact.run(read_recipe(text, "recipe.yaml"))
    stages = tmp_path / "out/stages"
    models = {path.stem: Model.restore(path) for path in stages.glob("*.model")}
    first, pruned, grown = models["00-train"], models["02-train"], models["03-regrow"]
    assert first.layers[0].frozen
    assert first.layers[0].n_out == 16
    assert found.after.error < 0.35
    masks = [[la.mask for la in model.layers if la.mask is not None] for model in (pruned, grown)]
    held, opened = (sum(int((~mask).sum()) for mask in each) for each in masks)
    assert abs(opened - held / 2) <= 1
    plain = text.replace("    augment: {name: affine, height: 8, width: 8, shift: 0.5, turn: 5}\n", "").replace(
        "/out", "/plain"
    )
    compact.run(read_recipe(plain, "recipe.yaml"))
    other = Model.restore(tmp_path / "plain/stages/00-train.model")
    assert not np.array_equal(first.layers[1].weights, other.layers[1].weights)


def test_one_first_layer_only(digit_files: Path, tmp_path: Path) -> None:
    text = RECIPE.format(data=digit_files, out=tmp_path / "out").replace(
        "seed: 1}", "seed: 1, pca: p, pooling: {height: 8, width: 8}}"
    )
    with pytest.raises(ConfigError, match=r"pca, pooling or dct as first layer; found pca and pooling"):
        read_recipe(text, "recipe.yaml")
    text = RECIPE.format(data=digit_files, out=tmp_path / "out").replace(
        "seed: 1}", "seed: 1, dct: {height: 8, width: 8}}"
    )
    with pytest.raises(ConfigError, match="either block or count"):
        read_recipe(text, "recipe.yaml")
