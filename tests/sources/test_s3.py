"""An S3 of one's own: moto's server on loopback, real requests, dummy credentials."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.errors import ChangedInputError, DataError, SchemaError
from tests.support.s3 import client, serving

KEY, SECRET = "dummy-key", "dummy-secret"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture
def s3(endpoint: str) -> fs.S3FileSystem:
    client(endpoint, KEY, SECRET).create_bucket(Bucket="bucket")
    filesystem = fs.S3FileSystem(
        endpoint_override=endpoint, scheme="http", access_key=KEY, secret_key=SECRET, region="us-east-1"
    )
    for day in (1, 2):
        table = pa.table({"a": np.arange(100.0) + 100 * day, "id": [f"{day}/{i}" for i in range(100)]})
        pq.write_table(table, f"bucket/in/day={day}/part.parquet", filesystem=filesystem, row_group_size=30)
    with filesystem.open_output_stream("bucket/in/_SUCCESS") as stream:
        stream.write(b"")
    return filesystem


def expected() -> Any:
    return np.concatenate([np.arange(100.0) + 100, np.arange(100.0) + 200])[:, None]


@pytest.mark.parametrize(
    "path",
    ["bucket/in", "bucket/in/", "s3://bucket/in", "bucket/in/*/part.parquet", "s3://bucket/*/**/*.parquet"],
)
def test_a_file_system_that_was_given(s3: fs.S3FileSystem, path: str, whole: Any) -> None:
    data = Dataset.from_parquet(path, filesystem=s3, carry=["id", "day"])
    data = pickle.loads(pickle.dumps(data))
    read = whole(data)
    np.testing.assert_array_equal(read.X, expected())
    assert read.carried["day"].to_pylist() == [1] * 100 + [2] * 100
    assert SECRET not in repr(data)
    assert SECRET not in str(data.source.describe())


def test_a_uri_with_credentials_from_the_environment(
    s3: fs.S3FileSystem, endpoint: str, monkeypatch: pytest.MonkeyPatch, whole: Any
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    query = f"?endpoint_override={endpoint}&scheme=http&region=us-east-1"
    for path in (f"s3://bucket/in{query}", f"s3://bucket/in/day=*/*.parquet{query}"):
        data = Dataset.from_parquet(path, carry=["id"])
        sent = pickle.dumps(data)
        assert SECRET.encode() not in sent
        np.testing.assert_array_equal(whole(pickle.loads(sent)).X, expected())


def test_a_dataset_on_s3(s3: fs.S3FileSystem, whole: Any) -> None:
    dataset = ds.dataset("bucket/in", filesystem=s3, partitioning="hive")
    data = Dataset.from_pyarrow(dataset, columns="a", carry="day", filters=[("day", "=", 2), ("a", ">=", 290)])
    np.testing.assert_array_equal(whole(data).X, np.arange(290.0, 300.0)[:, None])


def test_errors_on_s3(s3: fs.S3FileSystem, whole: Any) -> None:
    with pytest.raises(SchemaError, match="found nothing at bucket/nope"):
        Dataset.from_parquet("bucket/nope", filesystem=s3)
    data = Dataset.from_parquet("bucket/in", filesystem=s3, carry="id")
    s3.delete_file("bucket/in/day=2/part.parquet")
    with pytest.raises(ChangedInputError, match=r"found none at bucket/in/day=2/part\.parquet"):
        whole(data)
    with s3.open_output_stream("bucket/in/day=2/part.parquet") as stream:
        stream.write(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"bucket/in/day=2/part\.parquet"):
        Dataset.from_parquet("bucket/in", filesystem=s3, carry="id")
    with s3.open_output_stream("bucket/in/_delta_log/0.json") as stream:
        stream.write(b"{}")
    for path in ("bucket/in", "bucket/in/day=1", "bucket/in/*/part.parquet", "bucket"):
        with pytest.raises(SchemaError, match="Delta table in bucket/in"):
            Dataset.from_parquet(path, filesystem=s3, carry="id")
    s3.delete_dir("bucket/in/_delta_log")
