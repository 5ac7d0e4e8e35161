"""The command line in this process: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from eigenmill.jobs import cli
from eigenmill.jobs.shown import exits
from eigenmill.jobs.spark_submit import COMMANDS
from eigenmill.reduce import PCA, Dataset, load
from tests.jobs.conftest import FILES, ROWS, D, job_text, write_vectors
from tests.support.trees import tree


def columns(folder: Path, n: int = 3000, d: int = 6) -> Path:
    """One file of ``d`` float columns and an id, in small pages."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    table = pa.table({"id": np.arange(n)} | {f"c{j}": rng.normal(size=n) * (j + 1) for j in range(d)})
    pq.write_table(table, folder / "a.parquet", row_group_size=1000)
    return folder


def wipe_pages(path: Path) -> None:
    """Zeros in the place of all data; the footer stays."""
    content = bytearray(path.read_bytes())
    footer = int.from_bytes(content[-8:-4], "little") + 8
    content[4:-footer] = bytes(len(content) - footer - 4)
    path.write_bytes(content)


def error(result: Any) -> dict[str, Any]:
    """The one JSON object on standard output."""
    found: dict[str, Any] = json.loads(result.stdout)["error"]
    return found


def test_a_job_writes_features_model_and_report(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    result = eigenmill("reduce", job)
    assert "Done" in result.stdout
    assert result.stderr == ""
    out = tmp_path / "out"
    table = pq.read_table(out / "features")
    assert table.column_names == ["id", "label", "features"]
    assert table["id"].to_pylist() == list(range(FILES * ROWS))
    model = load(out / "model")
    expected = PCA(5, scale=True, random_state=0).fit(Dataset.from_parquet(tmp_path / "data", vector="x"))
    np.testing.assert_array_equal(model.components_, expected.components_)
    assert sorted(p.name for p in out.iterdir()) == ["features", "model", "report.json"]  # no checkpoints are left
    report = json.loads((out / "report.json").read_text())
    assert (report["status"], report["rows"], report["components"]) == ("complete", FILES * ROWS, 5)
    assert [(s["name"], s["rows"]) for s in report["scans"]] == [("gram", FILES * ROWS), ("write", FILES * ROWS)]
    assert report["digests"]["model"] == model.digest_
    assert report["digests"]["output"] == json.loads((out / "features/_manifest.json").read_text())["digest"]
    assert set(report["seconds"]) == {"plan", "fit", "save", "write", "total"}
    assert report["bytes"]["read"] == 2 * report["bytes"]["input"] > 0
    assert report["bytes"]["written"] == sum(p.stat().st_size for p in (out / "features").glob("*.parquet"))
    assert report["peak_memory"] > 10 << 20
    assert report["quality"]["missing"] == 0
    assert report["job"]["reduce"]["components"] == 5
    assert {"eigenmill", "numpy", "pyarrow", "blas", "python"} <= set(report["versions"])


def test_run_again_it_verifies_and_says_so(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    eigenmill("reduce", job)
    before = tree(tmp_path / "out")
    assert "Nothing to do" in eigenmill("reduce", job).stdout
    assert json.loads(eigenmill("reduce", job, "--json").stdout)["status"] == "unchanged"
    assert tree(tmp_path / "out") == before


def test_json_is_the_report(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    printed = json.loads(eigenmill("reduce", job, "--json").stdout)
    assert printed == json.loads((tmp_path / "out/report.json").read_text())


def test_set_and_engine_override(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    found = json.loads(
        eigenmill("reduce", job, "--set", "reduce.components=2", "--set", "output.dtype=float64", "--json").stdout
    )
    assert found["components"] == 2
    assert found["output"]["names"][-1][1].startswith("fixed_size_list<element: double")
    assert error(eigenmill("reduce", job, "--engine", "cloud", "--json", code=exits.BAD_USAGE))["message"].startswith(
        "--set engine.kind=cloud: engine.kind: expected one of local"
    )


def test_another_job_in_the_same_place_is_refused_before_it_reads(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    eigenmill("reduce", job)
    before = tree(tmp_path / "out")
    for path in (tmp_path / "data").iterdir():
        wipe_pages(path)
    message = error(eigenmill("reduce", job, "--set", "reduce.components=3", "--json", code=exits.BAD_OUTPUT))[
        "message"
    ]
    assert "n_components=5 instead of 3" in message
    assert tree(tmp_path / "out") == before
    message = error(eigenmill("reduce", job, "--set", "output.model=null", "--json", code=exits.BAD_OUTPUT))["message"]
    assert "another job" in message
    assert "over another input" in message


def test_overwrite_replaces_model_and_features(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    eigenmill("reduce", job)
    again = ["reduce", job, "--set", "reduce.components=3", "--set", "output.overwrite=true", "--json"]
    assert json.loads(eigenmill(*again).stdout)["status"] == "complete"
    assert load(tmp_path / "out/model").n_components_ == 3
    assert pq.read_table(tmp_path / "out/features")["features"].type.list_size == 3
    assert json.loads(eigenmill(*again).stdout)["status"] == "unchanged"


def test_a_lost_part_is_noticed(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    eigenmill("reduce", job)
    next((tmp_path / "out/features").glob("*.parquet")).unlink()
    eigenmill("reduce", job, code=exits.BAD_OUTPUT)


def test_features_alone_and_model_alone(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    eigenmill("reduce", job, "--set", "output.model=null")
    assert not (tmp_path / "out/model").exists()
    eigenmill("reduce", job, "--set", "output.features=null")
    assert (tmp_path / "out/model/model.json").exists()
    assert json.loads(eigenmill("reduce", job, "--json").stdout)["fitted"] is False  # the model of the job is taken


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("output.features={}/out/model/_x/../f", "expected output.features apart from output.model"),
        ("output.features={}/data/features", "expected output.features apart from input.path"),
        ("output.model={}/data", "expected output.model apart from input.path"),
    ],
)
def test_outputs_that_lie_in_the_way_are_refused(
    eigenmill: Any, job: Path, tmp_path: Path, setting: str, said: str
) -> None:
    result = eigenmill("reduce", job, "--json", "--set", setting.format(tmp_path), code=exits.BAD_USAGE)
    assert said in error(result)["message"] or "apart from" in error(result)["message"]


def test_a_model_may_hide_in_the_features(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    place = f"output.model={tmp_path}/out/features/_model"
    eigenmill("reduce", job, "--set", place)
    assert "Nothing to do" in eigenmill("reduce", job, "--set", place).stdout


# explain


def test_explain_reads_footers_only(eigenmill: Any, tmp_path: Path) -> None:
    data = columns(tmp_path / "data")
    wipe_pages(data / "a.parquet")
    conf = tmp_path / "job.yaml"
    conf.write_text(f"input: {{path: {data}, carry: id}}\noutput: {{features: {tmp_path}/f, model: {tmp_path}/m}}\n")
    shown = eigenmill("explain", conf).stdout
    assert "gram: 6 columns: one exact scan" in shown
    plan = json.loads(eigenmill("explain", conf, "--json").stdout)
    assert (plan["rows"], plan["features"], [s["name"] for s in plan["scans"]]) == (3000, 6, ["gram", "write"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "job.yaml"]
    assert error(eigenmill("reduce", conf, "--json", code=exits.BAD_DATA))["kind"] == "DataError"
    assert not (tmp_path / "m").exists()
    assert not (tmp_path / "f").exists()


def test_a_plan_that_does_not_fit_says_what_would(eigenmill: Any, job: Path) -> None:
    small = ["--set", "engine.memory=100MiB"]
    result = eigenmill("explain", job, *small, code=exits.DOES_NOT_FIT)
    assert "Does not fit" in result.stdout
    assert "give memory=" in result.stderr
    assert json.loads(eigenmill("explain", job, *small, "--json", code=exits.DOES_NOT_FIT).stdout)["fits"] is False
    assert "give memory=" in error(eigenmill("reduce", job, *small, "--json", code=exits.DOES_NOT_FIT))["message"]


def test_explain_plans_for_a_cluster_that_is_not_there(eigenmill: Any, job: Path) -> None:
    shown = eigenmill("explain", job, "--set", "engine.workers=null", "--engine", "dask", "--workers-hint", 8).stdout
    assert "On dask: 8 workers of 1 threads" in shown
    command = ["explain", job, "--set", "engine.workers=null", "--workers-hint", "8", "--json"]
    plan = json.loads(eigenmill(*command, "--engine", "dask").stdout)
    assert plan["cluster"] == {"kind": "dask", "workers": 8, "threads": 1, "memory": None, "link": 125e6}
    assert plan["scans"][0]["load"]["tasks"] == plan["leaves"]
    assert plan["scans"][1]["load"]["tasks"] == plan["parts"]
    assert "expected a cluster of kind dask or spark" in error(eigenmill(*command, code=exits.BAD_USAGE))["message"]


# Exit codes


def test_wrong_usage(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    assert error(eigenmill("reduce", tmp_path / "none.yaml", "--json", code=2))["kind"] == "ConfigError"
    assert "No such option" in error(eigenmill("reduce", job, "--wrong", "--json", code=2))["message"]
    assert "No such option" in eigenmill("reduce", job, "--wrong", code=2).stderr
    assert eigenmill("reduce", tmp_path / "none.yaml", code=2).stderr.startswith("error: expected a job file")


def test_bad_data(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    message = error(eigenmill("reduce", job, "--json", "--set", "input.vector=y", code=3))["message"]
    assert "'y'" in message
    eigenmill("reduce", job, "--set", f"input.path={tmp_path}/nowhere", code=3)


def test_output_that_cannot_be_written(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for key in ("features", "model"):
        eigenmill("reduce", job, "--set", f"output.{key}={tmp_path}/file/x", code=exits.BAD_OUTPUT)


def test_a_damaged_model(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    eigenmill("reduce", job)
    arrays = next((tmp_path / "out/model").glob("arrays-*"))
    content = bytearray(arrays.read_bytes())
    content[-3] ^= 1
    arrays.write_bytes(content)
    for command in (["inspect", tmp_path / "out/model"], ["reduce", job]):
        assert error(eigenmill(*command, "--json", code=exits.DAMAGED))["kind"] == "ArtifactError"
    eigenmill("transform", tmp_path / "nothing", tmp_path / "data", "--out", tmp_path / "z", code=exits.DAMAGED)


def test_the_unexpected(eigenmill: Any, job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("at s3://user:SECRET@bucket")

    monkeypatch.setattr(cli, "run", fail)
    result = eigenmill("reduce", job, code=exits.FAILED)
    assert "RuntimeError: at s3://***@bucket; --debug shows where" in result.stderr
    assert "Traceback" not in result.output
    debugged = eigenmill("reduce", job, "--debug", code=exits.FAILED).output
    assert "Traceback" in debugged
    assert "SECRET" not in debugged
    assert error(eigenmill("reduce", job, "--json", code=1)) == {
        "kind": "RuntimeError",
        "message": "at s3://***@bucket",
        "exit_code": 1,
    }


def test_interrupted(eigenmill: Any, job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", stop)
    assert "the same command goes on from there" in eigenmill("reduce", job, code=130).stderr
    assert error(eigenmill("reduce", job, "--json", code=130))["exit_code"] == 130


@pytest.mark.parametrize("place", ["input.path", "output.features", "output.model", "output.report"])
def test_no_message_holds_credentials(eigenmill: Any, job: Path, place: str) -> None:
    uri = "nosuch://user:SECRET@host/path?token=SECRET"
    result = eigenmill("reduce", job, "--debug", "--set", f"{place}={uri}", code=exits.BAD_USAGE)
    assert "SECRET" not in result.output


# The other commands


def test_help_version_and_schema(eigenmill: Any) -> None:
    text = eigenmill("--help").stdout
    assert all(
        command in text
        for command in ("reduce", "explain", "inspect", "transform", "reconstruct", "update", "text", "demo")
    )
    assert "Exit codes" in text
    for command in ("reduce", "explain", "inspect", "transform", "reconstruct", "update", "text", "demo", "schema"):
        assert "Example: eigenmill" in eigenmill(command, "--help").stdout
    assert eigenmill("--version").stdout.startswith("eigenmill 0.")
    assert "Reduction" in json.loads(eigenmill("schema").stdout)["$defs"]


def test_inspect_counts_gaps_of_all_kinds(eigenmill: Any, tmp_path: Path) -> None:
    table = pa.table(
        {
            "a": [1.0, None, float("nan"), float("inf"), 3.0],
            "b": [2.0] * 5,
            "c": pa.array([None] * 5, pa.float64()),
            "d": [1, 2, 3, 4, 5],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found = json.loads(eigenmill("inspect", tmp_path / "t.parquet", "--json").stdout)
    a, b, c, d = found["columns"]
    assert (a["n"], a["missing"], a["non_finite"], a["min"], a["max"], a["mean"], a["sd"]) == (
        2,
        2,
        1,
        1.0,
        3.0,
        2.0,
        1.0,
    )
    assert (b["constant"], b["sd"], a["constant"]) == (True, 0.0, False)
    assert (c["n"], c["missing"], c["mean"]) == (0, 5, None)
    assert (d["mean"], d["missing"]) == (3.0, 0)
    assert found["quality"]["columns_with_gaps"] == 2
    text = eigenmill("inspect", tmp_path / "t.parquet", "--columns", "a, b", "--rows", "1").stdout
    assert "... and 1 columns more" in text


def test_inspect_of_a_job_a_model_and_an_output(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    eigenmill("reduce", job)
    of_job = json.loads(eigenmill("inspect", job, "--json").stdout)
    of_model = json.loads(eigenmill("inspect", tmp_path / "out/model", "--json").stdout)
    of_output = json.loads(eigenmill("inspect", tmp_path / "out/features", "--json").stdout)
    assert of_job["quality"] == of_model["quality"]
    assert (len(of_job["columns"]), of_model["model"]["components"], len(of_output["columns"])) == (D, 5, 5)
    assert of_output["output"]["rows"] == FILES * ROWS
    assert "PCA at" in eigenmill("inspect", tmp_path / "out/model").stdout
    assert "Output at" in eigenmill("inspect", tmp_path / "out/features").stdout
    assert "Quality of 3,600 rows" in eigenmill("inspect", tmp_path / "data", "--vector", "x").stdout


def test_transform_new_files(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    eigenmill("reduce", job)
    eigenmill("transform", tmp_path / "out/model", tmp_path / "data", "--out", tmp_path / "z", "--layout", "columns")
    again, first = pq.read_table(tmp_path / "z"), pq.read_table(tmp_path / "out/features")
    assert again.column_names[:3] == ["id", "label", "pc_0001"]
    stacked = np.stack([again[f"pc_{j:04d}"].to_numpy() for j in range(1, 6)], axis=1)
    np.testing.assert_array_equal(stacked, np.stack(first["features"].to_numpy()))
    other = ["transform", tmp_path / "out/model", tmp_path / "data", "--out", tmp_path / "y", "--carry", "id"]
    assert [name for name, _ in json.loads(eigenmill(*other, "--json").stdout)["schema"]] == ["id", "features"]


@pytest.mark.parametrize("layout", ["list", "columns"])
def test_reconstruct_with_its_error(eigenmill: Any, job: Path, tmp_path: Path, layout: str) -> None:
    eigenmill("reduce", job, "--set", f"output.layout={layout}", "--set", "output.partition_by=label")
    out = tmp_path / "out"
    result = eigenmill(
        "reconstruct",
        out / "model",
        out / "features",
        "--out",
        tmp_path / "back",
        "--against",
        tmp_path / "data",
        "--json",
    )
    found = json.loads(result.stdout)
    assert found["errors"] == json.loads((tmp_path / "back/_reconstruction.json").read_text())
    back, data = pq.read_table(tmp_path / "back"), pq.read_table(tmp_path / "data")
    order = np.argsort(back["id"].to_numpy())
    X, Y = np.stack(data["x"].to_numpy()).astype(float), np.stack(back["x"].to_numpy())[order]
    np.testing.assert_array_equal(back["label"].to_numpy()[order], data["label"].to_numpy())
    assert np.sqrt(((X - Y) ** 2).mean()) == pytest.approx(found["errors"]["rmse_total"], rel=1e-5)
    np.testing.assert_allclose(np.sqrt(((X - Y) ** 2).mean(axis=0)), list(found["errors"]["rmse"].values()), rtol=1e-4)
    text = eigenmill(
        "reconstruct", out / "model", out / "features", "--out", tmp_path / "b2", "--against", tmp_path / "data"
    )
    assert "Error of reconstruction" in text.stdout


def test_reconstruct_named_columns_and_foreign_features(eigenmill: Any, tmp_path: Path) -> None:
    data, conf = columns(tmp_path / "data"), tmp_path / "job.yaml"
    conf.write_text(
        f"input: {{path: {data}, columns: [c0, c1, c2, c3], carry: id}}\nreduce: {{components: 4}}\n"
        f"output: {{features: {tmp_path}/f, model: {tmp_path}/m, dtype: float64}}\n"
    )
    eigenmill("reduce", conf)
    eigenmill("reconstruct", tmp_path / "m", tmp_path / "f", "--out", tmp_path / "back", "--dtype", "float64")
    back, original = pq.read_table(tmp_path / "back"), pq.read_table(data)
    assert back.column_names == ["id", "c0", "c1", "c2", "c3"]
    np.testing.assert_allclose(back["c2"].to_numpy(), original["c2"].to_numpy(), atol=1e-12)
    eigenmill(
        "reduce",
        conf,
        "--set",
        f"output.model={tmp_path}/m2",
        "--set",
        f"output.features={tmp_path}/f2",
        "--set",
        "reduce.components=3",
    )
    message = error(
        eigenmill("reconstruct", tmp_path / "m", tmp_path / "f2", "--out", tmp_path / "b", "--json", code=3)
    )["message"]
    assert "features made by this model" in message
    assert (
        "--vector or --columns"
        in error(eigenmill("reconstruct", tmp_path / "m", data, "--out", tmp_path / "b", "--json", code=2))["message"]
    )
    eigenmill("reconstruct", tmp_path / "m", data, "--out", tmp_path / "b", "--columns", "c0,c1,c2,c3")


def test_update_equals_a_fit_of_all_files(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    daily = ["--set", "output.features=null", "--set", "output.state=true"]
    eigenmill("reduce", job, *daily, "--set", f"input.path=[{tmp_path}/data/0.parquet, {tmp_path}/data/1.parquet]")
    found = json.loads(eigenmill("update", tmp_path / "out/model", tmp_path / "data", "--json").stdout)
    assert (found["files"], found["rows"], found["total_files"], found["changed"]) == (1, ROWS, 3, True)
    eigenmill("reduce", job, *daily, "--set", f"output.model={tmp_path}/whole")
    parts = {n: c for n, c in tree(tmp_path / "out/model").items() if n.startswith("arrays-")}
    assert parts == {n: c for n, c in tree(tmp_path / "whole").items() if n.startswith("arrays-")}
    again = eigenmill("update", tmp_path / "out/model", tmp_path / "data")
    assert "has seen all of it already" in again.stdout


def test_update_needs_a_state(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    eigenmill("reduce", job)
    message = error(eigenmill("update", tmp_path / "out/model", tmp_path / "data", "--json", code=2))["message"]
    assert "output.state: true" in message


def test_weights_and_filters_of_the_job_hold_for_updates(eigenmill: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for f in range(2):
        columns_ = {
            "a": rng.normal(size=200),
            "b": rng.normal(size=200),
            "w": rng.integers(0, 3, 200),
            "day": np.full(200, f),
        }
        pq.write_table(pa.table(columns_), tmp_path / f"data/{f}.parquet")
    conf = tmp_path / "job.yaml"
    conf.write_text(
        f"input: {{path: {tmp_path}/data, columns: [a, b], weights: w, filters: [[a, '<', 1.0]]}}\n"
        f"reduce: {{components: 2}}\noutput: {{model: {tmp_path}/whole, state: true}}\n"
    )
    eigenmill("reduce", conf)
    eigenmill("reduce", conf, "--set", f"output.model={tmp_path}/m", "--set", f"input.path={tmp_path}/data/0.parquet")
    eigenmill("update", tmp_path / "m", tmp_path / "data/1.parquet")
    np.testing.assert_array_equal(load(tmp_path / "m").components_, load(tmp_path / "whole").components_)


def test_more_files_make_another_job(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    eigenmill("reduce", job)
    write_vectors(tmp_path / "data", files=4)
    message = error(eigenmill("reduce", job, "--json", code=exits.BAD_OUTPUT))["message"]
    assert "another input of 3600 rows" in message


def test_the_job_text_of_these_tests_is_valid(tmp_path: Path) -> None:
    assert "workers" in job_text(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("reduce={{method: scale}}", "method PCA instead of StandardScaler"),
        ("reduce.scale=false", "scale=True instead of False"),
        ("input.missing=mean", "another cleaning policy"),
        ("input.clip=[0, 100]", "another cleaning policy"),
        ("input.clip_sd=3", None),
        ("input={{path: {}/data, columns: [id, label]}}", "other features"),
    ],
)
def test_a_model_of_another_job_is_told_apart(
    eigenmill: Any, job: Path, tmp_path: Path, changed: str, said: str | None
) -> None:
    alone = ["reduce", job, "--json", "--set", "output.features=null"]
    eigenmill(*alone)
    message = error(eigenmill(*alone, "--set", changed.format(tmp_path), code=exits.BAD_OUTPUT))["message"]
    # What cannot be told beforehand is refused when the model is saved.
    assert said is None or said in message


def test_other_carried_columns_make_the_same_model(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    eigenmill("reduce", job)
    other = ["--set", "input.carry=[id]", "--set", f"output.features={tmp_path}/other", "--json"]
    found = json.loads(eigenmill("reduce", job, *other).stdout)
    assert (found["fitted"], found["digests"]["model"]) == (True, load(tmp_path / "out/model").digest_)


def test_a_damaged_note_of_the_job_costs_a_fit_and_no_more(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    eigenmill("reduce", job)
    before = tree(tmp_path / "out")
    for content in ("{", "[]", '{"format": "eigenmill-fitted", "wrong": 1}'):
        (tmp_path / "out/model/job.json").write_text(content)
        found = json.loads(eigenmill("reduce", job, "--json").stdout)
        assert (found["status"], found["fitted"]) == ("complete", True)
        assert [each.endswith("the model is fitted again") for each in found["remade"]] == [True]
        after = tree(tmp_path / "out")
        assert {**after, "report.json": ""} == {**before, "report.json": ""}


def test_checkpoints_go_where_the_job_says(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    eigenmill("reduce", job, "--set", f"engine.work={tmp_path}/work")
    assert list((tmp_path / "work").iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    eigenmill(
        "reduce", job, "--set", f"engine.work={tmp_path}/file", "--set", "output.model=null", code=exits.BAD_OUTPUT
    )


def test_spark_submit_starts_the_commands_that_take_an_engine() -> None:
    group: Any = typer.main.get_command(cli.app)
    taking = {name for name, command in group.commands.items() if any(p.name == "engine" for p in command.params)}
    assert set(COMMANDS) == taking - {"explain"}  # which reads metadata only


def test_case_d06_transform_filters_as_the_job_does(eigenmill: Any, job: Path, tmp_path: Path) -> None:
    """The input of the job gives the features of the job; so do the other commands that read by its ``job.json``."""
    at, out = tmp_path / "data", tmp_path / "out"
    eigenmill("reduce", job, "--set", "input.filters=[[label, '!=', 1]]")
    eigenmill("transform", out / "model", at, "--out", tmp_path / "z")
    z, expected = (pq.read_table(path).to_pydict() for path in (tmp_path / "z", out / "features"))
    assert z == expected
    assert set(z["label"]) == {0, 2}
    eigenmill("transform", out / "model", at, "--out", tmp_path / "all", "--all-rows")
    assert set(pq.read_table(tmp_path / "all")["label"].to_pylist()) == {0, 1, 2}


@pytest.mark.parametrize("given", [["--columns", "id,label"], ["--columns", "id", "--columns", "label"]])
def test_case_d06_columns_may_be_repeated(eigenmill: Any, vectors: Path, given: list[str]) -> None:
    found = json.loads(eigenmill("inspect", vectors, *given, "--json").stdout)
    assert [column["name"] for column in found["columns"]] == ["id", "label"]


def test_case_d06_carried_columns_may_be_repeated(eigenmill: Any, job: Path, vectors: Path, tmp_path: Path) -> None:
    eigenmill("reduce", job)
    model = tmp_path / "out/model"
    for given, names in [(["label", "id"], ["label", "id"]), ([""], [])]:
        options = [word for name in given for word in ("--carry", name)]
        eigenmill("transform", model, vectors, "--out", tmp_path / f"z{len(names)}", *options)
        assert pq.read_table(tmp_path / f"z{len(names)}").column_names == [*names, "features"]


def test_case_d05_what_commands_print_names_one_model(eigenmill: Any, job: Path, vectors: Path, tmp_path: Path) -> None:
    """Its digest is that of model.json; what outputs hold is told of the model, too."""
    report = json.loads(eigenmill("reduce", job, "--json").stdout)
    model, z, back = tmp_path / "out/model", tmp_path / "z", tmp_path / "back"
    digest = json.loads((model / "model.json").read_text())["digest"]
    shown = json.loads(eigenmill("inspect", model, "--json").stdout)["model"]
    written = json.loads(eigenmill("transform", model, vectors, "--out", z, "--json").stdout)
    again = json.loads(eigenmill("reconstruct", model, z, "--out", back, "--json").stdout)["output"]
    digests = [report["digests"]["model"], shown["digest"], written["model_digest"], again["model_digest"]]
    assert digests == [digest] * 4
    inspected = json.loads(eigenmill("inspect", z, "--json").stdout)["output"]
    footer = pq.read_metadata(z / "part-00000.parquet").metadata[b"eigenmill.model"].decode()
    assert inspected["model"] == footer == written["model"] == shown["transforms"]["float32"]
    assert digest in eigenmill("transform", model, vectors, "--out", z).stdout
    assert footer in eigenmill("inspect", z).stdout
    assert footer in eigenmill("inspect", model).stdout


def test_case_d05_a_packed_model_is_known_by_its_file(eigenmill: Any, tmp_path: Path) -> None:
    packed = Path(__file__).parents[1] / "compress/golden/net-0-huffman.emill"
    inspected = json.loads(eigenmill("inspect", packed, "--json").stdout)
    names = inspected["input"]["layout"]["columns"]
    pq.write_table(pa.table({name: [1.0, 2.0] for name in names}), tmp_path / "data.parquet")
    options = [packed, tmp_path / "data.parquet", "--out", tmp_path / "out"]
    assert json.loads(eigenmill("predict", *options, "--json").stdout)["model_digest"] == inspected["sha256"]
    assert inspected["sha256"] in eigenmill("predict", *options).stdout
