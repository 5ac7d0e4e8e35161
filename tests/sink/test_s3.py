"""An S3 of one's own on loopback."""

from __future__ import annotations

import pickle

import boto3
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs

from eigenmill.reduce.errors import ArtifactError, OutputError
from eigenmill.reduce.output.manifest import read_manifest
from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.storage import artifact, files
from tests.sink.made import Scaled, made, run, write_parts
from tests.support.s3 import serving
from tests.support.trees import tree

pytestmark = pytest.mark.filterwarnings("default")  # those of moto and its server


@pytest.fixture(scope="module")
def endpoint():
    with serving() as address:
        yield address


@pytest.fixture
def bucket(endpoint, request):
    name = "b" + str(abs(hash(request.node.name)))
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    resource = boto3.resource("s3", endpoint_url=f"http://{endpoint}", **keys)
    resource.create_bucket(Bucket=name)
    return resource.Bucket(name)


@pytest.fixture
def s3(endpoint):
    return pafs.S3FileSystem(
        access_key="k", secret_key="s", endpoint_override=endpoint, scheme="http", region="us-east-1"
    )


def keys(bucket):
    return sorted(o.key for o in bucket.objects.all() if not o.key.endswith("/"))


def test_the_same_bytes_as_on_a_disk(bucket, s3, tmp_path):
    data = made(500).then(Scaled(5))
    local = Sink(tmp_path / "out", part_bytes=2000)
    remote = Sink(f"{bucket.name}/dir/out", filesystem=s3, part_bytes=2000)
    assert run(local, data) == run(remote, data)
    assert keys(bucket) == [f"dir/out/{name}" for name in sorted(tree(tmp_path / "out"))]
    for name in tree(tmp_path / "out"):
        assert bucket.Object(f"dir/out/{name}").get()["Body"].read() == (tmp_path / "out" / name).read_bytes()
    assert pq.read_table(f"{bucket.name}/dir/out", filesystem=s3).num_rows == 500
    assert read_manifest(f"{bucket.name}/dir/out", s3).rows == 500


def test_a_uri_and_a_partitioned_output(bucket, endpoint, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    uri = f"s3://{bucket.name}/out?endpoint_override={endpoint}&scheme=http&region=us-east-1"
    data = made(200)
    job = pickle.loads(pickle.dumps(Sink(uri, partition_by="kind").open(data)))
    write_parts(job, data)
    manifest = job.commit()
    assert run(Sink(uri, partition_by="kind"), data) == manifest
    assert [k for k in keys(bucket) if "=" in k] == [f"out/kind=k{i}/part-00000.parquet" for i in range(5)]


def test_continuing_refusing_and_damage(bucket, s3):
    data = made(500).then(Scaled(5))
    sink = Sink(f"{bucket.name}/out", filesystem=s3, part_bytes=2000)
    job = sink.open(data)
    write_parts(job, data, job.parts[:2])
    assert [p.index for p in sink.open(data).pending] == [2, 3, 4]
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="another"):
            Sink(sink.path, filesystem=s3, part_bytes=2000, overwrite=overwrite).open(made(500))
    bucket.put_object(Key="out/part-00001.parquet", Body=b"of another model")
    with pytest.raises(OutputError, match=r"part-00001\.parquet"):
        sink.open(data)
    bucket.Object("out/_parts/00001.json").delete()
    run(sink, data)
    bucket.put_object(Key="out/part-00099.parquet", Body=b"of whom?")
    with pytest.raises(OutputError, match=r"part-00099\.parquet"):
        sink.open(data)


def test_an_exception_while_encoding_opens_nothing(bucket, s3, monkeypatch):
    def broken():
        yield from made(50).source.blocks(made(50).fragments[0], 10, None, carry=True)  # type: ignore[arg-type]

    data = made(500)
    job = Sink(f"{bucket.name}/out", filesystem=s3).open(data)
    monkeypatch.setattr(pq.ParquetWriter, "write_table", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_parts(job, data)
    assert keys(bucket) == ["out/_job.json"]


def test_a_bucket_that_is_not_there(s3):
    with pytest.raises(OutputError, match="nobucket"):
        run(Sink("nobucket/out", filesystem=s3), made(50))


def test_models(bucket, s3):
    import numpy as np

    path = f"{bucket.name}/model"
    arrays = {"a": np.arange(6.0).reshape(2, 3)}
    digest = artifact.save_model(path, "pca", {"k": 1}, arrays, {}, {"s": arrays}, filesystem=s3)
    assert artifact.load_model(path, s3).digest == digest
    np.testing.assert_array_equal(artifact.load_state(path, s3).states["s"]["a"], arrays["a"])
    artifact.save_model(path, "pca", {"k": 2}, arrays, {}, overwrite=True, filesystem=s3)
    assert len(keys(bucket)) == 2
    artifact.save_arrays(f"{path}/check", arrays, {"scan": 1}, s3)
    assert artifact.load_arrays(f"{path}/check", s3)[1] == {"scan": 1}
    bucket.put_object(Key="model/check", Body=b"half")
    with pytest.raises(ArtifactError, match="check"):
        artifact.load_arrays(f"{path}/check", s3)
    assert files.exists(s3, f"{path}/model.json")
