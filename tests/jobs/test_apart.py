"""No output is ever an input, for every command; and a job that is run again says by what it knows its input."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eigenmill.jobs.shown import exits
from eigenmill.reduce import PCA, Dataset
from eigenmill.reduce.errors import ConfigError
from tests.estimators.test_rewritten import rewrite, touch
from tests.sources.made_files import put, rows
from tests.support.trees import tree

Call = Callable[..., Any]


def message(result: Any) -> str:
    return str(json.loads(result.stdout)["error"]["message"])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Data, a model with its state, and its features."""
    put(tmp_path / "data/a.parquet", rows(0))
    data = Dataset.from_parquet(tmp_path / "data")
    model = PCA(2, solver="gram").fit(data, keep_state=True)
    model.save(tmp_path / "model", state=True)
    model.transform(data).to_parquet(tmp_path / "features")
    return tmp_path


def job(place: Path, path: str, **output: str) -> Path:
    written = json.dumps({name: str(place / where) for name, where in output.items()})
    conf = place / "job.yaml"
    conf.write_text(f"input: {{path: '{place}/{path}'}}\nreduce: {{components: 2}}\noutput: {written}\n")
    return conf


JOBS: list[tuple[str, dict[str, str]]] = [
    ("data", {"features": "data/out"}),
    ("data", {"features": "out", "report": "data/report.json"}),
    ("data", {"features": "out", "report": "data/a.parquet"}),
    ("data", {"features": "out", "report": "out/part-00000.parquet"}),
    ("data", {"model": "new", "report": "new/model.json"}),
    ("data", {"features": "out", "report": "job.yaml"}),
    ("data/*.parquet", {"features": "data/out.parquet"}),
    ("*/*.parquet", {"features": "out"}),
    ("**", {"features": "a/b/c"}),
    ("**/*.parquet", {"features": "out"}),
    ("{data,features}", {"features": "features/more"}),
    ("up/data", {"features": "data/out"}),
    ("data", {"features": "up/data/out"}),
    ("linked", {"features": "features"}),
    ("data", {"features": "round"}),
    ("data", {"report": "pipe", "model": "new"}),
]


@pytest.mark.parametrize(("path", "output"), JOBS)
def test_case_f04_outputs_that_are_inputs_are_refused(
    path: str, output: dict[str, str], place: Path, eigenmill: Call
) -> None:
    os.symlink(".", place / "up")
    os.symlink("round", place / "round")
    os.mkfifo(place / "pipe")  # not a device: where it were not refused, a test run by root would replace it
    (place / "linked").mkdir()
    os.symlink("../features", place / "linked/f")
    before = tree(place / "data")
    for command in ("reduce", "explain"):
        result = eigenmill(command, job(place, path, **output), "--json", code=exits.BAD_USAGE)
        assert "output." in message(result)
    assert tree(place / "data") == before
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("path", "output"),
    [
        ("data", {"features": "out", "model": "out/_model", "report": "report.json"}),
        ("data/*.parquet", {"features": "data/out", "report": "data/report.json"}),
        ("*/a.parquet", {"features": "out"}),
        ("data", {"features": "data/_out"}),
    ],
)
def test_outputs_apart_are_written_twice(path: str, output: dict[str, str], place: Path, eigenmill: Call) -> None:
    conf = job(place, path, **output)
    for _ in range(2):
        assert json.loads(eigenmill("reduce", conf, "--json").stdout)["files"] == 1


def test_case_f04_every_command_refuses_its_input_as_output(place: Path, eigenmill: Call) -> None:
    model, data, features = place / "model", place / "data", place / "features"
    (place / "texts").mkdir()
    (place / "texts/a.txt").write_text("words and words")
    (place / "daily.yaml").write_text(
        f"input: {{path: '{data}/{{day}}'}}\nreduce: {{components: 2}}\noutput: {{path: {data}}}\n"
    )
    (place / "recipe.yaml").write_text(
        f"input: {{path: {data}}}\nsteps: [{{step: train}}, {{step: quantize}}]\noutput: {{path: {data}/compact}}\n"
    )
    before = tree(place)
    for command in (
        ["transform", model, data, "--out", data],
        ["transform", model, data, "--out", data / "z"],
        ["transform", model, f"{place}/*", "--out", place / "z"],
        ["transform", model, data, "--out", model],
        ["reconstruct", model, features, "--out", features / "back"],
        ["reconstruct", model, features, "--out", data / "back", "--against", data],
        ["update", model, place],
        ["predict", place / "m.emill", data, "--out", data / "p"],
        ["compress", place / "recipe.yaml"],
        ["daily", "run", "--config", place / "daily.yaml", "--day", "2026-11-01"],
    ):
        assert "expected" in message(eigenmill(*command, "--json", code=exits.BAD_USAGE)), command
    assert tree(place) == before


def test_case_f04_a_write_refuses_a_place_in_which_its_input_lies(place: Path) -> None:
    os.symlink("data", place / "link")
    for out in ("data", "link"):
        with pytest.raises(ConfigError, match="expected the input apart from the output"):
            Dataset.from_parquet(place / "data").to_parquet(place / out)


def test_case_f03_a_job_run_again_says_by_what_it_knows_its_input(place: Path, eigenmill: Call) -> None:
    path = place / "data/a.parquet"
    conf = job(place, "data", features="out", model="new")
    again = ["--set", "input.verify=content"]
    eigenmill("reduce", conf)
    assert "size, footer and time of change" in " ".join(eigenmill("reduce", conf).stdout.split())
    assert json.loads(eigenmill("reduce", conf, "--json").stdout)["known_by"] == "hint"
    touch(path)
    assert "changed last" in message(eigenmill("reduce", conf, "--json", code=exits.BAD_OUTPUT))
    eigenmill("reduce", conf, "--set", "output.overwrite=true", *again)
    touch(path)
    assert "verified" in eigenmill("reduce", conf, *again).stdout
    rewrite(path)
    assert "SHA-256" in message(eigenmill("reduce", conf, "--json", code=exits.BAD_OUTPUT))


def test_case_f03_update_does_not_take_other_rows_for_those_it_has_seen(place: Path, eigenmill: Call) -> None:
    update = ["update", place / "model", place / "data", "--json"]
    assert json.loads(eigenmill(*update).stdout)["changed"] is False
    rewrite(place / "data/a.parquet")
    assert "changed last" in message(eigenmill(*update, code=exits.BAD_DATA))


def test_case_f03_a_day_that_was_rewritten_is_not_the_day_that_was_fitted(tmp_path: Path, eigenmill: Call) -> None:
    path = tmp_path / "data/day=2026-11-01/a.parquet"
    put(path, rows(0))
    conf = tmp_path / "daily.yaml"
    conf.write_text(
        f"input: {{path: '{tmp_path}/data/day={{day}}'}}\nreduce: {{components: 2}}\noutput: {{path: {tmp_path}/out}}\n"
    )
    day = ["--config", conf, "--day", "2026-11-01", "--json"]
    eigenmill("daily", "run", *day)
    assert not any(done["changed"] for done in json.loads(eigenmill("daily", "run", *day).stdout))
    rewrite(path)
    for stage in ("fit", "project"):
        assert "changed last" in message(eigenmill("daily", stage, *day, code=exits.BAD_DATA))


def test_case_b11_an_equal_file_of_another_day_counts(tmp_path: Path, eigenmill: Call) -> None:
    for day in (1, 2):
        put(tmp_path / f"{day}/a.parquet", np.array([[1.0] * 5, [2.0] * 5, [4.0] * 5]))
    PCA(1, solver="gram").fit(Dataset.from_parquet(tmp_path / "1"), keep_state=True).save(
        tmp_path / "model", state=True
    )
    found = json.loads(eigenmill("update", tmp_path / "model", tmp_path / "2", "--json").stdout)
    assert (found["files"], found["rows"], found["total_rows"]) == (1, 3, 6)


def test_case_f03_a_recipe_does_not_take_steps_made_of_other_rows(place: Path, eigenmill: Call) -> None:
    pytest.importorskip("torch")
    conf = place / "recipe.yaml"
    conf.write_text(
        f"input: {{path: {place}/data, columns: [x0, x1, x2, x3]}}\nlabel: x4\n"
        "model: {task: regression, hidden: [3]}\nsteps: [{step: train, epochs: 1}, {step: quantize}]\n"
        f"output: {{path: {place}/compact}}\n"
    )
    eigenmill("compress", conf, "--quiet")
    before = (place / "compact/model.emill").read_bytes()
    eigenmill("compress", conf, "--quiet")
    rewrite(place / "data/a.parquet")
    assert "changed last" in message(eigenmill("compress", conf, "--json", code=exits.BAD_OUTPUT))
    assert (place / "compact/model.emill").read_bytes() == before
