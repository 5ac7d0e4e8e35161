"""How filters are known in digests: by the bytes of format 1 while pyarrow makes them, then by their conditions."""

from __future__ import annotations

import datetime
import decimal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from eigenmill.reduce import Dataset, OutputError, Sink
from eigenmill.reduce.sources import filters
from eigenmill.reduce.sources.filters import row_filter

SCHEMA = pa.schema(
    [("a", pa.float64()), ("b", pa.int64()), ("s", pa.string()), ("d", pa.date32()), ("t", pa.timestamp("us"))]
)
FORMAT_1: dict[str, tuple[Any, str]] = {
    "equal": ([("a", "=", 3)], "3a8f56867ebfd04ce363e47d6c32a123"),
    "ranges": ([("a", "<", 3.5), ("b", ">=", -1)], "88ee4b47b977d0051ff53029209ea253"),
    "text": ([("s", "==", "x")], "24c363d2b287fd43bb40ffeac6b138fd"),
    "among": ([("a", "in", [1, 2, 3])], "7191976736b2e36f9ac6c718f1324433"),
    "not among": ([("s", "not in", {"x"})], "2db7690faf6197fac436d0742bf9b0c4"),
    "either": ([[("a", "<", 60)], [("a", ">=", 70), ("b", "!=", 1)]], "875ecc8c0bba306a1e1894bd1c45e433"),
    "date": ([("d", ">", datetime.date(2024, 1, 2))], "d912de6f5923c72a8139b653bc1c5780"),
    "time": ([("t", "<", datetime.datetime(2024, 1, 2, 3, 4))], "fab7b9102d5c564b91fd8e6919713b5b"),
    "decimal": ([("a", "<", decimal.Decimal("1.50"))], "d02ecaf90ebc98b69e8558c5075e3925"),
    "list of an expression": (pc.field("a").isin([1, 2]), "526f836e7ccace822ef734fad93d4390"),
    "function": (pc.match_substring(pc.field("s"), "x"), "9934e980a549acf6e0df365f4970060f"),
    "kleene": ((pc.field("a") > 1) & ~(pc.field("b") < 2), "3ac4e03b1397c4cb83ff510aa9483483"),
}
"""Filters, and the digests that ba05dba gives them: with pyarrow 18.1, 20, 22 and 26 they are the same."""


@pytest.fixture
def another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pyarrow that makes other bytes than format 1 has."""
    monkeypatch.setattr(filters, "keeps_format_1", lambda: False)
    monkeypatch.setattr(pa, "__version__", "99.0.0")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    X = np.arange(40.0)
    for name in ("a", "b"):
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(pa.table({"a": X, "b": np.arange(40)}), tmp_path / f"data/{name}.parquet", row_group_size=10)
    return tmp_path


def of(given: Any) -> filters.RowFilter:
    found = row_filter(given, SCHEMA)
    assert found is not None
    return found


@pytest.mark.parametrize("name", FORMAT_1)
def test_format_1(name: str) -> None:
    given, digest = FORMAT_1[name]
    assert filters.keeps_format_1()
    assert (of(given).digest, of(given).bound) == (digest, "")


@pytest.mark.usefixtures("another")
def test_conditions_are_known_by_themselves_under_another_pyarrow() -> None:
    """One digest for one meaning, and none that depends on pyarrow."""
    same = [
        [("a", "=", 3), ("s", "in", {"x", "y"})],
        [("a", "==", 3), ("s", "in", ["x", "y"])],
        [[("a", "==", 3), ("s", "in", ("x", "y"))]],
    ]
    assert {of(given).digest for given in same} == {"4235436459f1c1ff14cc41673cd8852e"}
    assert {of(given).bound for given in same} == {""}
    others = [given for given, _ in FORMAT_1.values() if isinstance(given, list)]
    others += [[("a", "=", 3.0)], [("s", "=", "2024-01-02")], [("s", "in", ["y", "x"])]]
    assert len({of(given).digest for given in [same[0], *others]}) == len(others) + 1


@pytest.mark.usefixtures("another")
def test_an_expression_is_bound_to_its_pyarrow() -> None:
    for given in (pc.field("a") > 3, [("a", ">", pa.scalar(3.0))]):
        assert of(given).bound == "-pyarrow-99.0.0"
        assert filters.bound_to(f"00ff{of(given).bound}") == "99.0.0"


def test_sets_of_text_have_one_order_in_every_process() -> None:
    code = (
        "import pyarrow as pa; from eigenmill.reduce.sources.filters import row_filter\n"
        "print(row_filter([('s', 'in', set('abcdefgh'))], pa.schema([('s', pa.string())])).digest)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert found == {of([("s", "in", list("abcdefgh"))]).digest + "\n"}


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("given", [pc.field("b") < 15, [("b", "<", 15)]], ids=["expression", "conditions"])
def test_an_output_that_another_pyarrow_began(
    finished: bool, given: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened() -> Dataset:
        return Dataset.from_parquet(place / "data", columns=["a"], filters=given)

    def write() -> str:
        data = opened()
        return data.to_parquet(place / "out").key if finished else Sink(place / "out").open(data).key

    with monkeypatch.context() as patch:
        patch.setattr(filters, "keeps_format_1", lambda: False)
        patch.setattr(pa, "__version__", "98.0.0")
        first = write()
        assert write() == first
        patch.setattr(pa, "__version__", "99.0.0")
        if isinstance(given, list):
            assert write() == first
            return
        with pytest.raises(OutputError, match=r"bytes of one pyarrow, 98\.0\.0 there and 99\.0\.0 here: if it is this"):
            write()
    with pytest.raises(OutputError, match=r"bytes of one pyarrow, 98\.0\.0 there and \d+\.\d+\.\d+ here"):
        write()


def test_other_jobs_are_not_told_of_pyarrow(place: Path) -> None:
    Sink(place / "out").open(Dataset.from_parquet(place / "data", columns=["a"], filters=[("b", "<", 15)]))
    with pytest.raises(OutputError) as found:
        Sink(place / "out").open(Dataset.from_parquet(place / "data", columns=["a"], filters=[("b", "<", 16)]))
    assert "pyarrow" not in str(found.value)
