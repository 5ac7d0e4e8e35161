"""What cannot be written is refused before anything is read, fitted or replaced, with the documented exit code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eigenmill.compress.packed.pack import load
from eigenmill.jobs.daily import stages as daily
from eigenmill.reduce.errors import OutputError
from eigenmill.reduce.sources.parquet import ParquetSource
from tests.jobs.conftest import write_vectors
from tests.jobs.days import DAYS, config, write_day
from tests.support.trees import tree

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose rows have been read."""
    found: list[str] = []
    blocks = ParquetSource.blocks

    def reading(self: Any, fragment: Any, *args: Any, **options: Any) -> Any:
        found.append(self.files[fragment.file].path)
        return blocks(self, fragment, *args, **options)

    monkeypatch.setattr(ParquetSource, "blocks", reading)
    return found


@pytest.fixture
def store() -> Iterator[Any]:
    """An object store in memory, where nothing can be moved."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory
    memory.store.clear()


def contents(store: Any) -> dict[str, bytes]:
    return {name: store.cat_file(name) for name in store.find("/")}


@pytest.mark.parametrize(
    ("which", "said"),
    [("features", "overwriting needs a local file system"), ("model", "so that two at once are told apart")],
)
def test_case_d04_overwriting_on_a_store(
    eigenmill: Any, job: Path, store: Any, scans: list[str], which: str, said: str
) -> None:
    """Exit code 5 while the model is still the old one."""
    at = ["--set", f"output.{which}=memory://out/{which}"]
    eigenmill("reduce", job, *at)
    before = contents(store)
    scans.clear()
    again = [*at, "--set", "reduce.components=3", "--set", "output.overwrite=true"]
    assert said in " ".join(eigenmill("reduce", job, *again, code=5).stderr.split())
    assert contents(store) == before
    assert not scans
    eigenmill("reduce", job, *at, "--set", "output.overwrite=true")
    assert contents(store) == before


def test_case_d04_days_on_a_store_without_a_conditional_put(tmp_path: Path, store: Any) -> None:
    """Two runs at once could not be told apart there, so none begins."""
    write_day(tmp_path, DAYS[0], 0)
    source = config(tmp_path, output={"path": "memory://out"})
    before = contents(store)
    with pytest.raises(OutputError, match=r"so that two at once are told apart, which is refused here: .*obstore"):
        daily.fit(source, DAYS[0])
    assert contents(store) == before


@pytest.mark.parametrize("which", ["features", "model", "report"])
def test_case_d04_a_file_where_a_directory_must_be(
    eigenmill: Any, job: Path, tmp_path: Path, scans: list[str], which: str
) -> None:
    (tmp_path / "taken").write_text("")
    found = eigenmill("reduce", job, "--set", f"output.{which}={tmp_path}/taken/here/it", code=5)
    assert "which is no directory" in " ".join(found.stderr.split())
    assert not scans
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("which", ["features", "model"])
def test_case_d04_features_of_another_input(
    eigenmill: Any, job: Path, tmp_path: Path, scans: list[str], which: str
) -> None:
    eigenmill("reduce", job)
    (tmp_path / "data/2.parquet").unlink()
    before = tree(tmp_path / "out")
    scans.clear()
    eigenmill("reduce", job, "--set", f"output.{which}={tmp_path}/other", code=5)
    assert not scans
    assert tree(tmp_path / "out") == before


COLUMNS = {
    "many": (pa.array([f"k{i}" for i in range(4097)]), 2, "at most 4096 values of 'key' within a part, found 4097"),
    "numbers": (pa.array(np.arange(4097)), 2, "at most 4096 values of 'key' within a part, found 4097"),
    "uuid": (
        pa.array([bytes([i % 256]) * 16 for i in range(4097)], pa.binary(16)).cast(pa.uuid()),
        2,
        "found extension",
    ),
    "binary": (pa.array([b"a"] * 4097), 2, "found binary"),
    "empty": (pa.array(["a", ""] * 2048 + ["b"]), 3, "comes back as it was, found ''"),
    "missing": (None, 2, "to be one of the carried columns"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_case_f13_partition_columns(eigenmill: Any, tmp_path: Path, scans: list[str], name: str) -> None:
    values, code, message = COLUMNS[name]
    X = np.random.default_rng(0).normal(size=(4097, 3))
    columns = {f"x{j}": X[:, j] for j in range(3)} | ({} if values is None else {"key": values})
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    carry = [] if values is None else ["key"]
    (tmp_path / "job.yaml").write_text(
        f"input: {{path: {tmp_path}/data.parquet, columns: [x0, x1, x2], carry: {carry}}}\n"
        f"output: {{features: {tmp_path}/out, model: {tmp_path}/model, partition_by: key}}\n"
    )
    found = eigenmill("reduce", tmp_path / "job.yaml", code=code)
    assert message in " ".join(found.stderr.split())
    assert not scans
    assert not list(tmp_path.glob("out*"))
    assert not list(tmp_path.glob("model*"))


def test_rows_that_a_filter_drops_do_not_count(eigenmill: Any, tmp_path: Path) -> None:
    keys, X = [f"k{i}" for i in range(5000)], np.random.default_rng(0).normal(size=(5000, 3))
    columns = {f"x{j}": X[:, j] for j in range(3)} | {"key": keys, "n": np.arange(5000)}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    (tmp_path / "job.yaml").write_text(
        f"input: {{path: {tmp_path}/data.parquet, columns: [x0, x1, x2], carry: key, filters: [[n, <, 4096]]}}\n"
        f"output: {{features: {tmp_path}/out, model: {tmp_path}/model, partition_by: key}}\n"
    )
    eigenmill("reduce", tmp_path / "job.yaml")
    assert len(list((tmp_path / "out").glob("key=*"))) == 4096


@pytest.mark.parametrize("overwrite", [False, True])
def test_case_f13_a_model_on_new_data(
    eigenmill: Any, job: Path, tmp_path: Path, scans: list[str], overwrite: bool
) -> None:
    """Neither is an output begun that nobody could finish, nor one replaced."""
    write_vectors(tmp_path / "many", files=1, rows=4097, group=4097)
    eigenmill("reduce", job)
    out = tmp_path / ("out/features" if overwrite else "z")
    before = tree(tmp_path)
    scans.clear()
    options = ["--partition-by", "id", "--out", out, *(["--overwrite"] if overwrite else [])]
    found = eigenmill("transform", tmp_path / "out/model", tmp_path / "many", *options, code=2)
    assert "at most 4096 values of 'id' within a part" in " ".join(found.stderr.split())
    assert not scans
    assert tree(tmp_path) == before


@pytest.mark.parametrize("command", ["transform", "reconstruct", "predict", "daily", "compress"])
def test_case_d04_every_command_asks_first(
    eigenmill: Any, job: Path, tmp_path: Path, scans: list[str], command: str
) -> None:
    """A file lies where the directory must be: exit code 5, and nothing has been read."""
    taken, out = tmp_path / "taken", tmp_path / "taken/here/it"
    taken.write_text("")
    data, model, packed = tmp_path / "data", tmp_path / "out/model", ROOT / "tests/compress/golden/net-0-huffman.emill"
    arguments: dict[str, list[Any]] = {
        "transform": [model, data, "--out", out],
        "reconstruct": [model, tmp_path / "out/features", "--out", out],
        "predict": [packed, tmp_path / "columns.parquet", "--out", out],
        "daily": ["run", "--config", tmp_path / "days/daily.yaml", "--day", DAYS[0]],
        "compress": [ROOT / "conf/mnist_compact.yaml", "--set", f"input.path={data}", "--set", f"output.path={out}"],
    }
    if command in ("transform", "reconstruct"):
        eigenmill("reduce", job)
    write_day(tmp_path / "days", DAYS[0], 0)
    config(tmp_path / "days", output={"path": str(out)})
    names = load(packed).front.layout["columns"]
    pq.write_table(pa.table({name: [1.0, 2.0] for name in names}), tmp_path / "columns.parquet")
    scans.clear()
    eigenmill(command, *arguments[command], code=5)
    assert not scans
