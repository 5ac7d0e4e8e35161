"""Every feature layout against a slow and obvious reference, for Arrow tables and for Parquet files."""

from __future__ import annotations

import decimal
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.errors import ConfigError, SchemaError
from eigenmill.reduce.rows.blocks import Columns
from eigenmill.reduce.sources.base import NumberedNames
from eigenmill.reduce.sources.layouts import SPARK_VECTOR
from tests.sources.forms import both, first_block, pair, spark_sparse

NAN = math.nan


NUMBERS: list[tuple[pa.DataType, list[Any], str]] = [
    (pa.int8(), [1, -2, 3], "float32"),
    (pa.uint16(), [1, 2, 65535], "float32"),
    (pa.int32(), [1, -2, 2**31 - 1], "float64"),
    (pa.int64(), [1, -2, 2**53], "float64"),
    (pa.uint64(), [1, 2, 2**53], "float64"),
    (pa.float16(), [np.float16(0.5), np.float16(-2), np.float16(3)], "float32"),
    (pa.float32(), [0.5, -2.0, 3.25], "float32"),
    (pa.float64(), [0.1, -2.0, 3.25], "float64"),
    (pa.bool_(), [True, False, True], "float32"),
    (
        pa.decimal128(12, 3),
        [decimal.Decimal("1.125"), decimal.Decimal("-2.5"), decimal.Decimal("3")],
        "float64",
    ),
    (
        pa.decimal256(50, 3),
        [decimal.Decimal("1.125"), decimal.Decimal("-2.5"), decimal.Decimal("3")],
        "float64",
    ),
]


@pytest.mark.parametrize(
    ("type_", "values", "dtype"), NUMBERS, ids=lambda x: str(x) if isinstance(x, pa.DataType) else ""
)
@pytest.mark.parametrize("nulls", [False, True])
def test_every_numeric_type_is_a_feature(
    type_: pa.DataType, values: list[Any], dtype: str, nulls: bool, tmp_path: Path, whole: Any
) -> None:
    given_ = [*values, None] if nulls else [*values, values[0]]
    table = pa.table({"a": pa.array(given_, type_), "b": pa.array([0.5, 1, 2, 3], pa.float32())})
    expected = [[NAN if v is None else float(v), b] for v, b in zip(given_, [0.5, 1, 2, 3], strict=True)]
    for data in both(table, tmp_path, columns=["a", "b"]):
        assert data.dtype == np.dtype(dtype)
        assert list(data.feature_names) == ["a", "b"]
        np.testing.assert_array_equal(whole(data).X, expected)


def test_all_numeric_types_together_are_one_matrix(tmp_path: Path, whole: Any) -> None:
    table = pa.table({str(t): pa.array(v, t) for t, v, _ in NUMBERS})
    expected = np.array([[float(x) for x in v] for _, v, _ in NUMBERS]).T
    for data in both(table, tmp_path):
        np.testing.assert_array_equal(whole(data).X, expected)


def test_float_columns_of_one_type_are_one_column_major_array(tmp_path: Path) -> None:
    values = np.arange(100, dtype=np.float32)
    table = pa.table({"a": values, "b": values + 1, "n": pa.array([None, *values[1:]], pa.float32())})
    block = first_block(Dataset.from_arrow(table.slice(0, 50)))
    assert block.X.dtype == np.float32
    assert block.X.flags.f_contiguous
    np.testing.assert_array_equal(block.X[:, 1], values[:50] + 1)
    np.testing.assert_array_equal(block.X[:, 2], [NAN, *values[1:50]])


def test_float_columns_of_several_types_are_views(tmp_path: Path) -> None:
    values = np.arange(100, dtype=np.float32)
    table = pa.table({"a": values, "b": values.astype(np.float64) + 1})
    block = first_block(Dataset.from_arrow(table.slice(10, 50)))
    assert isinstance(block.X, Columns)
    assert np.shares_memory(block.X.arrays[0], values)
    np.testing.assert_array_equal(block.X.arrays[1], values[10:60] + 1)


def test_dictionary_encoded_numbers_and_all_null_columns(tmp_path: Path, whole: Any) -> None:
    table = pa.table(
        {
            "d": pa.array([1.5, None, 1.5, 2.5]).dictionary_encode(),
            "i": pa.array([7, 7, 8, None], pa.int16()).dictionary_encode(),
            "n": pa.nulls(4),
        }
    )
    for data in both(table, tmp_path):
        expected = [[1.5, 7, NAN], [NAN, 7, NAN], [1.5, 8, NAN], [2.5, NAN, NAN]]
        np.testing.assert_array_equal(whole(data).X, expected)
        assert data.dtype == np.float64


def test_carried_and_weight_columns_are_no_features_by_default(tmp_path: Path, whole: Any) -> None:
    table = pa.table({"id": ["x", "y"], "a": [1.0, 2.0], "w": pa.array([3, None]), "__index_level_0__": [5, 6]})
    for data in both(table, tmp_path, carry="id", weights="w"):
        assert list(data.feature_names) == ["a"]
        assert dict(data.source.describe()) == {"columns": ["a"]}
        read = whole(data)
        np.testing.assert_array_equal(read.weights, [3, NAN])
        assert read.carried.to_pydict() == {"id": ["x", "y"]}
        assert whole(data, carry=False).carried is None


def test_the_users_order_of_columns_is_kept(tmp_path: Path, whole: Any) -> None:
    table = pa.table({"a": [1.0, 2.0], "b": [3.0, 4.0], "c": [5.0, 6.0], "s": ["u", "v"], "t": ["w", "x"]})
    for data in both(table, tmp_path, columns=["c", "a"], carry=["t", "b", "s", "c"]):
        read = whole(data)
        np.testing.assert_array_equal(read.X, [[5, 1], [6, 2]])
        assert read.carried.to_pydict() == {"t": ["w", "x"], "b": [3, 4], "s": ["u", "v"], "c": [5, 6]}
        assert read.carried.column_names == ["t", "b", "s", "c"]


def test_the_dtype_can_be_chosen() -> None:
    table = pa.table({"a": [1.0, 2.0]})
    assert Dataset.from_arrow(table).dtype == np.float64
    assert Dataset.from_arrow(table, dtype="float32").dtype == np.float32
    with pytest.raises(ConfigError, match="float32 or float64"):
        Dataset.from_arrow(table, dtype="int8")


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        (pa.array(["1", "2"]), "encode it as numbers"),
        (pa.array([0, 1], pa.date32()), "encode it as numbers"),
        (pa.array([0, 1], pa.timestamp("us")), "encode it as numbers"),
        (pa.array([0, 1], pa.duration("s")), "encode it as numbers"),
        (pa.array([{"x": 1}, {"x": 2}]), "encode it as numbers"),
        (pa.array([[1.0], [2.0]]), "vector="),
        (pa.array(["1", "2"]).dictionary_encode(), "encode it as numbers"),
    ],
)
def test_what_is_no_number_is_refused_with_file_and_column(column: pa.Array, hint: str, tmp_path: Path) -> None:
    table = pa.table({"a": [1.0, 2.0], "what": column})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(SchemaError, match=rf"'what'.*t\.parquet.*{hint}"):
        Dataset.from_parquet(tmp_path / "t.parquet", columns=["a", "what"])
    with pytest.raises(SchemaError, match=r"numeric columns only, found 'what'.*t\.parquet.*carry="):
        Dataset.from_parquet(tmp_path / "t.parquet")
    assert Dataset.from_parquet(tmp_path / "t.parquet", carry=["what"]).n_features == 1


def test_missing_columns_name_near_ones(tmp_path: Path) -> None:
    pq.write_table(pa.table({"pixel": [1.0], "label": [1]}), tmp_path / "t.parquet")
    with pytest.raises(SchemaError, match=r"'pixels' \(columns\).*t\.parquet\. Hint: did you mean 'pixel'\?"):
        Dataset.from_parquet(tmp_path / "t.parquet", columns=["pixels"])
    with pytest.raises(SchemaError, match=r"'lable' \(carry\).*'label'"):
        Dataset.from_parquet(tmp_path / "t.parquet", carry=["lable"])
    with pytest.raises(SchemaError, match=r"'zzz' \(weights\).*It has 'pixel', 'label'"):
        Dataset.from_parquet(tmp_path / "t.parquet", weights="zzz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["a"], "vector": "v"}, "columns and vector"),
        ({"columns": []}, "at least one"),
        ({"columns": ["a", "a"]}, "every column once in columns"),
        ({"carry": ["s", "s"]}, "every column once in carry"),
        ({"sparse": ("i", "v")}, "n_features with sparse"),
        ({"sparse": ("i", "v", 3), "n_features": 4}, "one number of features"),
        ({"sparse": "iv"}, "sparse="),
        ({"vector": "v", "n_features": 0}, "n_features >= 1"),
        ({"columns": ["a"], "n_features": 1}, "vector or sparse only"),
    ],
)
def test_contradictions_are_config_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Dataset.from_arrow(pa.table({"a": [1.0]}), **options)


def test_two_columns_of_one_name_are_refused() -> None:
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["a", "a"])
    with pytest.raises(SchemaError, match="expected one column 'a'"):
        Dataset.from_arrow(table)


# Vectors

LISTS = [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.int16(), 3), pa.list_(pa.int8(), 3)]


@pytest.mark.parametrize("type_", LISTS, ids=str)
def test_list_columns_are_matrices(type_: pa.DataType, tmp_path: Path, whole: Any) -> None:
    rows: list[Any] = [[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0]]
    table = pa.table({"v": pa.array(rows, type_)})
    for data in both(table, tmp_path):
        assert data.feature_names == NumberedNames("v_", 3)
        assert dict(data.source.describe()) == {"vector": "v", "n_features": 3}
        block = first_block(data)
        assert isinstance(block.X, np.ndarray)
        assert block.X.flags.c_contiguous
        np.testing.assert_array_equal(whole(data, height=4).X, rows)


@pytest.mark.parametrize("type_", LISTS, ids=str)
def test_null_elements_and_null_lists_are_missing(type_: pa.DataType, tmp_path: Path, whole: Any) -> None:
    rows: list[Any] = [None, [1, None, 1], [0, 0, 1], None, [1, 0, 0], [None] * 3]
    table = pa.table({"v": pa.array(rows, type_)})
    expected = [[NAN] * 3 if r is None else [NAN if x is None else float(x) for x in r] for r in rows]
    for data in both(table, tmp_path, vector="v"):
        np.testing.assert_array_equal(whole(data, height=4).X, expected)
        np.testing.assert_array_equal(whole(data, height=1).X, expected)


def test_lists_without_nulls_are_views_also_of_slices() -> None:
    values = np.arange(60, dtype=np.float32)
    for lists in (
        pa.FixedSizeListArray.from_arrays(pa.array(values), 3),
        pa.ListArray.from_arrays(pa.array(np.arange(0, 61, 3), pa.int32()), pa.array(values)),
    ):
        block = first_block(Dataset.from_arrow(pa.table({"v": lists.slice(5, 10)})))
        assert np.shares_memory(block.X, values)
        np.testing.assert_array_equal(block.X, values.reshape(20, 3)[5:15])


def test_a_null_list_may_hide_values_in_memory(whole: Any) -> None:
    mask, values = pa.array([False, True, False]), pa.array([1.0, 2, 9, 9, 5, 6])
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 4, 6], pa.int32()), values, mask=mask)
    np.testing.assert_array_equal(whole(Dataset.from_arrow(pa.table({"v": lists}))).X, [[1, 2], [NAN, NAN], [5, 6]])


def test_tensor_columns(tmp_path: Path, whole: Any) -> None:
    cube = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    table = pa.table({"image": pa.FixedShapeTensorArray.from_numpy_ndarray(cube)})
    for data in both(table, tmp_path):
        np.testing.assert_array_equal(whole(data).X, cube.reshape(4, 6))


def test_ragged_lists_name_file_row_group_and_row(tmp_path: Path, whole: Any) -> None:
    rows = [[1.0, 2.0]] * 7 + [[1.0]] + [[1.0, 2.0]] * 2
    pq.write_table(pa.table({"v": rows}), tmp_path / "t.parquet", row_group_size=5)
    data = Dataset.from_parquet(tmp_path / "t.parquet")
    for height in (1, 2, 3, 1000):
        with pytest.raises(SchemaError, match=r"expected 2 .*'v', found 1 in .*t\.parquet, row group 1, row 2;"):
            whole(data, height=height)
    with pytest.raises(SchemaError, match=r"expected 2 .*'v', found 1 in <table>, row 7;"):
        whole(Dataset.from_arrow(pa.table({"v": rows})))
    with pytest.raises(SchemaError, match=r"expected 3 .* found 2 in .*row group 0, row 0;"):
        whole(Dataset.from_parquet(tmp_path / "t.parquet", vector="v", n_features=3))


def test_a_width_that_cannot_be_found_must_be_given(tmp_path: Path, whole: Any) -> None:
    table = pa.table({"v": pa.array([None, None], pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "t.parquet")
    for make in (lambda **k: Dataset.from_arrow(table, **k), lambda **k: Dataset.from_parquet(tmp_path, **k)):
        with pytest.raises(SchemaError, match="say n_features="):
            make(vector="v")
        assert np.isnan(whole(make(vector="v", n_features=4)).X).all()
    with pytest.raises(SchemaError, match="empty first one"):
        Dataset.from_arrow(pa.table({"v": [[], [1.0]]}), vector="v")


def test_a_fixed_width_contradicts_another_n_features() -> None:
    table = pa.table({"v": pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2))})
    with pytest.raises(SchemaError, match="n_features=3"):
        Dataset.from_arrow(table, vector="v", n_features=3)


@pytest.mark.parametrize("column", [pa.array([["a"]]), pa.array([1.0]), pa.array([[[1.0]]])])
def test_vectors_must_hold_numbers(column: pa.Array) -> None:
    with pytest.raises(SchemaError, match=r"lists of numbers in column 'v', found"):
        Dataset.from_arrow(pa.table({"v": column}), vector="v")


def test_one_vector_column_is_taken_but_not_beside_scalars() -> None:
    table = pa.table({"v": [[1.0, 2.0]], "label": [1]})
    assert Dataset.from_arrow(table, carry=["label"]).n_features == 2
    with pytest.raises(SchemaError, match=r"'v' \(list"):
        Dataset.from_arrow(table)


# Any table, any layout


def reference(rows: list[Any], width: int) -> np.ndarray[Any, Any]:
    """One cell at a time."""
    X = np.zeros((len(rows), width))
    for i, row in enumerate(rows):
        if row is None:
            X[i] = NAN
        elif isinstance(row, dict):
            for j, value in row["entries"]:
                X[i, j] += NAN if value is None else value
        else:
            for j, value in enumerate(row):
                X[i, j] = NAN if value is None else value
    return X


number = st.one_of(st.none(), st.integers(-100, 100).map(lambda i: i / 4))


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Table, dict[str, Any], np.ndarray[Any, Any]]:
    n, d = draw(st.integers(1, 25)), draw(st.integers(1, 5))
    listed = st.lists(number, min_size=d, max_size=d)
    entries = st.lists(st.tuples(st.integers(0, d - 1), number), max_size=2 * d)
    once = st.lists(st.tuples(st.integers(0, d - 1), number), max_size=d, unique_by=lambda e: e[0])

    def rows(one: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(st.one_of(one, one, st.none()), min_size=n, max_size=n))

    layout = draw(st.sampled_from(["columns", "list", "large", "fixed", "spark", "pair"]))
    if layout == "columns":
        dense = draw(st.lists(listed, min_size=n, max_size=n))
        type_ = draw(st.sampled_from([pa.float32(), pa.float64(), pa.decimal128(9, 2)]))
        cast = (lambda v: decimal.Decimal(v)) if pa.types.is_decimal(type_) else float
        columns = {f"c{j}": pa.array([None if r[j] is None else cast(r[j]) for r in dense], type_) for j in range(d)}
        return pa.table(columns), {}, reference(dense, d)
    if layout in ("list", "large", "fixed"):
        type_ = {
            "list": pa.list_(pa.float32()),
            "large": pa.large_list(pa.float64()),
            "fixed": pa.list_(pa.float32(), d),
        }[layout]
        dense = rows(listed)
        return pa.table({"v": pa.array(dense, type_)}), {"vector": "v", "n_features": d}, reference(dense, d)
    if layout == "spark":
        mixed = rows(st.one_of(listed, once.map(lambda e: {"entries": sorted(e, key=lambda x: x[0])})))
        stored = [
            None
            if r is None
            else spark_sparse(d, dict(r["entries"]))
            if isinstance(r, dict)
            else {"type": 1, "size": None, "indices": None, "values": r}
            for r in mixed
        ]
        return (
            pa.table({"f": pa.array(stored, SPARK_VECTOR)}),
            {"vector": "f", "n_features": d},
            reference(mixed, d),
        )
    some = rows(entries.map(lambda e: {"entries": e}))
    table = pair(
        [None if r is None else [j for j, _ in r["entries"]] for r in some],
        [None if r is None else [v for _, v in r["entries"]] for r in some],
    )
    return table, {"sparse": ("i", "x", d)}, reference(some, d)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=tables(),
    height=st.integers(1, 30),
    groups=st.integers(1, 30),
    start=st.integers(0, 5),
    split=st.integers(0, 25),
)
def test_any_table_in_any_layout_equals_the_reference(
    case: Any, height: int, groups: int, start: int, split: int, tmp_path: Path, whole: Any
) -> None:
    table, options, expected = case
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=groups)
    np.testing.assert_array_equal(
        whole(Dataset.from_parquet(tmp_path / "t.parquet", **options), height=height).X, expected
    )
    chunked = pa.concat_tables([table.slice(0, split), table.slice(split)]).slice(start)
    np.testing.assert_array_equal(whole(Dataset.from_arrow(chunked, **options), height=height).X, expected[start:])
