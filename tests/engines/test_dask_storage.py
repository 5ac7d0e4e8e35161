"""What Dask workers need to see, and what they must not be told: object stores, and directories of another machine."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eigenmill.reduce import PCA, ChangedInputError, ConfigError, Dataset, OutputError, Sink, connect
from eigenmill.reduce.plan import explain
from tests.engines.contract import reference
from tests.engines.dask_processes import Cluster, cluster, run_job
from tests.engines.test_dask_cluster import LEAF, LEAF_BYTES, client_of, in_time
from tests.jobs.conftest import write_vectors
from tests.support.formats import use
from tests.support.progress import At
from tests.support.s3 import client, serving

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("default")  # those of moto and its server

KEY, PLANTED = "PLANTEDkey", "PLANTEDsecret"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": PLANTED}
HIDE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')
"""Runs a command to which a directory is empty, as on a machine that does not share it."""


@pytest.fixture(autouse=True)
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, leaf_bytes=LEAF_BYTES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_vectors(tmp_path / "input", rows=1000, group=LEAF)


@pytest.fixture
def bucket(folder: Path) -> Iterator[tuple[Any, str]]:
    """(client, query of URIs) of a store that holds the input as ``s3://mill/data``."""
    with serving() as endpoint:
        store = client(endpoint, KEY, PLANTED)
        store.create_bucket(Bucket="mill")
        for path in folder.iterdir():
            store.upload_file(str(path), "mill", f"data/{path.name}")
        yield store, f"?endpoint_override={endpoint}&scheme=http&region=us-east-1"


@pytest.mark.slow
def test_workers_bring_their_own_credentials_and_none_is_left_behind(
    bucket: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler, told of every task and logging all it can, has none; nor has anything that was written."""

    def seen(dask_scheduler: Any = None) -> bytes:
        return b"".join(pickle.dumps((key, task.run_spec)) for key, task in dask_scheduler.tasks.items())

    store, query = bucket
    left: dict[str, bytes] = {}

    def uri(name: str, secret: str = "") -> str:
        return f"s3://{secret}mill/{name}{query}"

    monkeypatch.setenv("DASK_LOGGING__DISTRIBUTED", "debug")
    with cluster(tmp_path / "cluster", env=CREDENTIALS) as found:
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        data = Dataset.from_parquet(uri("data"), vector="x", carry=["id"])
        with client_of(found) as client:

            def listen() -> None:
                left[f"tasks {len(left)}"] = client.run_on_scheduler(seen)

            fit = connect("dask", client, work=uri("work"), progress=At(300, listen))
            plan = explain(PCA(5, scale=True), data, fit, Sink(uri("features")))
            left["plan"] = json.dumps([str(plan), plan.as_json()]).encode()
            pca = PCA(5, scale=True).fit(data, engine=fit)
            pca.save(uri("model"))
            write = connect("dask", client, progress=At(300, listen))
            manifest = pca.transform(data).to_parquet(uri("features"), engine=write, part_bytes=1000)
            assert manifest.rows == data.n_rows
            travelled = b"".join(left.values())
            assert not client.run_on_scheduler(os.getenv, "AWS_SECRET_ACCESS_KEY")
            assert b"eigenmill-fold-gram" in travelled
            assert b"eigenmill-write-part" in travelled

            # Given in a URI they would travel: refused, and not repeated.
            theirs = Dataset.from_parquet(uri("data", f"{KEY}:{PLANTED}@"), vector="x")
            with pytest.raises(ConfigError, match="without credentials") as refused:
                PCA(5).fit(theirs, engine=connect("dask", client))
            left["refusal"] = str(refused.value).encode()
        conf = tmp_path / "job.yaml"
        conf.write_text(
            f"input: {{path: '{uri('data')}', vector: x, carry: id}}\nreduce: {{components: 5, scale: true}}\n"
            f"engine: {{kind: dask, address: '{found.address}'}}\n"
            f"output: {{features: '{uri('job/features')}', model: '{uri('job/model')}', "
            f"report: '{uri('job/report.json')}'}}\n"
        )
        job = run_job(["reduce", str(conf), "--json", "--debug"], leaf_bytes=LEAF_BYTES)
        out, log = job.communicate(timeout=300)
        assert job.returncode == 0, out + log
        left["job"] = (out + log).encode()
    names = [entry["Key"] for entry in store.list_objects_v2(Bucket="mill")["Contents"]]
    assert {"model/model.json", "features/_SUCCESS", "job/report.json", "job/model/job.json"} <= set(names)
    for name in names:
        left[name] = store.get_object(Bucket="mill", Key=name)["Body"].read()
    left |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert sum(name.endswith(".log") and len(text) > 2000 for name, text in left.items()) == 3
    for name, content in left.items():
        assert PLANTED.encode() not in content, name
        assert KEY.encode() not in content, name
    expected = PCA(5, scale=True).fit(data, engine=reference())
    assert pca.components_.tobytes() == expected.components_.tobytes()


@pytest.fixture
def elsewhere(tmp_path: Path, folder: Path) -> Iterator[tuple[Cluster, Path, Path]]:
    """(cluster, input, output): its workers see neither of these places as this process does."""
    out = tmp_path / "out"
    out.mkdir()
    if not shutil.which("unshare") or subprocess.run([*HIDE, str(out), "true"], capture_output=True).returncode:
        pytest.skip("this machine gives no mount namespaces to processes")
    with cluster(tmp_path / "cluster", within=[*HIDE, str(folder)]) as found:
        yield found, folder, out


def test_files_that_workers_do_not_see(elsewhere: tuple[Cluster, Path, Path]) -> None:
    found, folder, _ = elsewhere
    data = Dataset.from_parquet(folder, vector="x")
    with client_of(found) as client:
        error = in_time(lambda: PCA(5).fit(data, engine=connect("dask", client)))
    with pytest.raises(ChangedInputError, match=rf"found none at {folder}.*every worker sees"):
        raise error


def test_an_output_that_only_workers_see(elsewhere: tuple[Cluster, Path, Path], tmp_path: Path) -> None:
    """Every worker writes to a place of its own: what is missing here is named, and nothing is declared whole."""
    found, folder, _ = elsewhere
    data = Dataset.from_parquet(shutil.copytree(folder, tmp_path / "copy"), vector="x")
    with client_of(found) as client:
        error = in_time(lambda: data.to_parquet(folder / "out", engine=connect("dask", client), part_bytes=1000))
    with pytest.raises(OutputError, match=r"expected records of 30 parts.*found 0.*every worker sees"):
        raise error
    assert not (folder / "out/_SUCCESS").exists()
