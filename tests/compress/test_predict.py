"""The packed file alone predicts: on files, with carried columns, the same bytes again, and without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from eigenmill.compress import Model, load, pack, quantize, train
from eigenmill.compress.packed.predict import predictions
from eigenmill.jobs.cli import app
from eigenmill.reduce import Dataset, Sink, connect
from eigenmill.reduce.errors import ConfigError, DataError, SchemaError
from tests.compress.conftest import OPTIMIZER, read, write
from tests.engines.counting import failing_at
from tests.support.formats import use
from tests.support.trees import stamps, tree

ROOT = Path(__file__).parents[2]


@pytest.fixture
def packed_file(small: Model, tmp_path: Path) -> Path:
    pack(small, tmp_path / "model.emill")
    return tmp_path / "model.emill"


def test_labels_and_probabilities_beside_what_is_carried(packed_file: Path, digits: Any, tmp_path: Path) -> None:
    _, _, X, y = digits
    net = load(packed_file)
    data = predictions(net, write(tmp_path / "new", X, y, 60), carry=["id", "label"])
    data.to_parquet(tmp_path / "out", layout="columns", names=data.feature_names)
    found = pq.read_table(tmp_path / "out")
    assert found.column_names == ["id", "label", "prediction", *(f"p_{k}" for k in range(10))]
    np.testing.assert_array_equal(found["id"], np.arange(len(X)))
    np.testing.assert_array_equal(found["prediction"], net.predict(X))
    sure = np.stack([found[f"p_{k}"].to_numpy() for k in range(10)], axis=1)
    np.testing.assert_allclose(sure, net.predict_proba(X), rtol=1e-6)
    nothing = predictions(net, tmp_path / "new").to_parquet(tmp_path / "bare", layout="list", column="p")
    assert [name for name, _ in nothing.schema] == ["prediction", "p"]


def test_an_interrupted_write_goes_on_to_the_same_bytes(
    packed_file: Path, digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, X, y = digits
    folder = write(tmp_path / "new", X, y, 60)

    def save(out: Path) -> Any:
        return predictions(load(packed_file), folder, carry=["id"]).to_parquet(
            out, engine=connect("local", workers=1), part_bytes=1
        )

    use(monkeypatch, leaf_bytes=8 * 64 * 60)
    whole = save(tmp_path / "whole")
    calls, true = [0], type(load(packed_file)).scores_of

    def stop(self: Any, codes: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return true(self, codes)

    monkeypatch.setattr("eigenmill.compress.core.integer.WholeNet.scores_of", stop)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "out")
    assert not (tmp_path / "out/_SUCCESS").exists()
    assert save(tmp_path / "out").as_json() == whole.as_json()


def test_any_engine_writes_the_same(packed_file: Path, digits: Any, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    _, _, X, y = digits
    folder = write(tmp_path / "new", X, y, 60)
    data = predictions(load(packed_file), folder, carry=["id"])
    here = connect("local").write(data, Sink(tmp_path / "local"))
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        there = connect("dask", client).write(data, Sink(tmp_path / "dask"))
    assert here.as_json()["parts"] == there.as_json()["parts"]


@pytest.mark.filterwarnings("default")  # those of pyspark
def test_the_command_on_spark_goes_on_to_the_bytes_of_the_local_engine(
    packed_file: Path, digits: Any, spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, X, y = digits
    folder = write(tmp_path / "new", X, y, 60)
    use(monkeypatch, leaf_bytes=8 * 64 * 60, part_least=1, part_most=1)  # a part for every fragment

    def command(out: str, *more: str, code: int = 0) -> str:
        arguments = ["predict", packed_file, folder, "--out", tmp_path / out, "--carry", "id,label", *more]
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        assert done.exit_code == code, done.output
        return done.output

    command("local", "--workers", "1")
    data = predictions(load(packed_file), folder, carry=["id", "label"])
    sink = Sink(tmp_path / "spark", layout="columns", names=list(data.feature_names))
    with pytest.raises(DataError, match="just once"):
        connect("spark", spark).write(failing_at(data, len(data.fragments) // 2, DataError("just once")), sink)
    before = stamps(tmp_path / "spark", "part-*")
    assert 0 < len(before) < 4
    assert not (tmp_path / "spark/_SUCCESS").exists()
    command("spark", "--engine", "spark")
    found, expected = (tree(tmp_path / o) for o in ("spark", "local"))
    assert found == expected
    assert sum(name.startswith("part-") for name in found) == 4
    assert before.items() <= stamps(tmp_path / "spark", "part-*").items(), "what was there is not written again"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    assert "expected no --workers with --engine spark" in command("x", "--engine", "spark", "--workers", "2", code=2)
    assert "expected an engine among local, dask, spark" in command("x", "--engine", "ray", code=2)


def test_text_labels_values_and_columns(digits: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=300), rng.normal(size=300)
    table = pa.table({"a": a, "b": b, "kind": np.where(a > b, "über", "unter"), "size": a + 2 * b})
    pq.write_table(table, tmp_path / "t.parquet")
    for label, task in (("kind", "classification"), ("size", "regression")):
        data = Dataset.from_parquet(tmp_path / "t.parquet", columns=["b", "a"], carry=[label])
        model = train(Model.linear(task=task), data, label=label, epochs=60, optimizer=OPTIMIZER)
        model = quantize(model, data, label=label)
        pack(model, tmp_path / f"{label}.emill")
        made = predictions(load(tmp_path / f"{label}.emill"), tmp_path / "t.parquet", carry=[label])
        made.to_parquet(tmp_path / label, layout="columns", names=made.feature_names)
        found = pq.read_table(tmp_path / label)
        if task == "regression":
            assert found.column_names == ["size", "prediction"]
            assert np.corrcoef(found["prediction"], a + 2 * b)[0, 1] > 0.99
        else:
            assert found.column_names == ["kind", "prediction", "p_unter", "p_über"]
            assert np.mean(np.array(found["prediction"]) == np.array(found["kind"])) > 0.95


def test_it_needs_no_torch_and_no_coder(packed_file: Path, digits: Any, tmp_path: Path) -> None:
    _, _, X, y = digits
    folder = write(tmp_path / "new", X, y)
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'constriction', 'onnxruntime', 'onnx', 'zstandard'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from eigenmill.jobs.cli import main\n"
        f"sys.argv = ['eigenmill', 'predict', {str(packed_file)!r}, {str(folder)!r}, '--out', "
        f"{str(tmp_path / 'out')!r}, '--carry', 'id', '--json']\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = pq.read_table(tmp_path / "out")
    np.testing.assert_array_equal(found["prediction"], load(packed_file).predict(X))


def test_what_does_not_fit_is_refused(packed_file: Path, small: Model, digits: Any, tmp_path: Path) -> None:
    _, _, X, y = digits
    folder = write(tmp_path / "new", X, y)
    with pytest.raises(ConfigError, match="other names than"):
        predictions(load(packed_file), folder, column="id", carry=["id"])
    with pytest.raises(SchemaError):
        predictions(load(packed_file), write(tmp_path / "narrow", X[:, :5].copy(), y)).to_numpy()
    assert read(folder).carried.names == ["id", "label"]
