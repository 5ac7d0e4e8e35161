"""The Dask engine against clusters of real processes: jobs, workers that come and go, and everything that can break."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eigenmill.jobs.shown import exits
from eigenmill.reduce import PCA, Dataset, EngineError, connect
from eigenmill.reduce.format import Format
from tests.engines.commands import agree
from tests.engines.contract import bytes_of, pass_of, reference
from tests.engines.dask_processes import ROOT, Cluster, cluster, end, run_job
from tests.jobs.conftest import D, write_vectors
from tests.support.formats import other, use
from tests.support.progress import At
from tests.support.tables import vectors
from tests.support.trees import tree

distributed = pytest.importorskip("distributed")
SchedulerPlugin = distributed.diagnostics.plugin.SchedulerPlugin

LEAF = 100
LEAF_BYTES = LEAF * D * 8
"""A leaf is 100 rows: many tasks over few bytes."""
PLANTED = "PLANTEDsecret"


@pytest.fixture(autouse=True)
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, leaf_bytes=LEAF_BYTES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("input") / "data", rows=3000, group=LEAF)


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers that no test kills."""
    with cluster(tmp_path_factory.mktemp("steady"), env={"AWS_SECRET_ACCESS_KEY": PLANTED}) as c:
        yield c


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Cluster]:
    """Two workers for one test."""
    with cluster(tmp_path / "cluster") as found:
        yield found


def client_of(found: Cluster, workers: int = 2) -> Any:
    client = distributed.Client(found.address, set_as_default=False)
    client.wait_for_workers(workers, timeout=300)
    return client


def opened(folder: Path) -> Dataset:
    return Dataset.from_parquet(folder, vector="x", carry=["id", "label"])


def job_file(folder: Path, out: Path) -> Path:
    path = out.with_suffix(".yaml")
    path.write_text(
        f"input: {{path: {folder}, vector: x, carry: [id, label]}}\nreduce: {{components: 5, scale: true}}\n"
        f"output: {{features: {out}/features, model: {out}/model, report: {out}/report.json, part_bytes: 1KiB}}\n"
    )
    return path


def on(found: Cluster) -> list[str]:
    """Options of a job that runs there."""
    return ["--engine", "dask", "--set", f"engine.address={found.address}"]


def finish(arguments: list[str]) -> None:
    """Run a job that must end well."""
    job = run_job(arguments, leaf_bytes=LEAF_BYTES)
    out, log = job.communicate(timeout=300)
    assert job.returncode == 0, out + log


# What works


def test_a_job_gives_the_bytes_of_the_local_engine(steady: Cluster, folder: Path, tmp_path: Path) -> None:
    for name, more in (("local", []), ("dask", on(steady))):
        finish(["reduce", str(job_file(folder, tmp_path / name)), *more])
    for part in ("features", "model"):
        found, expected = (tree(tmp_path / name / part) for name in ("dask", "local"))
        assert found == expected
        assert len(found) > (60 if part == "features" else 2)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")], "the work directory is gone"


@pytest.mark.slow
def test_the_other_commands_give_the_bytes_of_the_local_engine(steady: Cluster, tmp_path: Path) -> None:
    def call(arguments: list[str]) -> None:
        env = {"DASK_SCHEDULER_ADDRESS": steady.address}
        job = run_job([*arguments, "--engine", "dask", "--quiet"], leaf_bytes=LEAF_BYTES, env=env)
        out, log = job.communicate(timeout=300)
        assert job.returncode == 0, out + log

    agree(tmp_path, call)


def test_a_client_made_from_an_address_is_closed(steady: Cluster, folder: Path) -> None:
    """And one that was given is not, nor is the cluster."""

    def others(dask_scheduler: Any = None) -> int:
        return len(dask_scheduler.clients)

    data = opened(folder)
    with client_of(steady) as client:
        before = client.run_on_scheduler(others)
        engine = connect("dask", steady.address)
        for _ in range(2):  # a closed engine opens again when it is used
            assert client.run_on_scheduler(others) == before
            with engine:
                assert client.run_on_scheduler(others) == before + 1
                PCA(2).fit(data, engine=engine)
                assert client.run_on_scheduler(others) == before + 1
            wait_for(lambda: client.run_on_scheduler(others) == before)
        PCA(2).fit(data, engine=engine)
        engine.close()
        wait_for(lambda: client.run_on_scheduler(others) == before)
        given = connect("dask", client)
        given.close()
        PCA(2).fit(data, engine=given)


def test_an_interrupted_scan_is_not_left_on_the_cluster(steady: Cluster, folder: Path) -> None:
    def ours(dask_scheduler: Any = None) -> list[str]:
        return [str(key) for key in dask_scheduler.tasks if "eigenmill" in str(key)]

    def interrupt() -> None:
        raise KeyboardInterrupt

    with client_of(steady) as client:
        for row in (1, 1500):
            with pytest.raises(KeyboardInterrupt):
                PCA(2).fit(opened(folder), engine=connect("dask", client, progress=At(row, interrupt)))
            wait_for(lambda: not client.run_on_scheduler(ours))


@pytest.mark.slow
def test_workers_join_and_leave_meanwhile(mortal: Cluster, folder: Path, tmp_path: Path) -> None:
    data = opened(folder)
    expected = PCA(5, scale=True).fit(data, engine=reference())

    with client_of(mortal) as client:

        def join() -> None:
            mortal.add()
            client.wait_for_workers(3, timeout=300)

        def leave() -> None:
            mortal.workers[0].send_signal(signal.SIGTERM)
            mortal.workers[0].wait(60)

        for name, act in (("join", join), ("leave", leave)):
            watch = At(1000, act)
            engine = connect("dask", client, progress=watch)
            pca = PCA(5, scale=True).fit(data, engine=engine)
            assert watch.done
            assert pca.components_.tobytes() == expected.components_.tobytes(), name
        watch = At(3000, mortal.workers[1].kill)
        engine = connect("dask", client, progress=watch)
        expected.transform(data).to_parquet(tmp_path / "dask", engine=engine, part_bytes=1000)
        assert watch.done
        assert len(client.scheduler_info()["workers"]) == 1
    expected.transform(data).to_parquet(tmp_path / "local", engine=reference(), part_bytes=1000)
    assert tree(tmp_path / "dask") == tree(tmp_path / "local")


def leaves_of(rows: int, d: int) -> Format:
    """Leaves of so few rows that wide data has several: at least 2 d rows otherwise."""
    return other(leaf_bytes=8 * d * rows, leaf_rows_per_column=0)


def test_a_large_shared_array_survives_its_readers(mortal: Cluster, tmp_path: Path) -> None:
    """Above 32 MiB an array goes through ``work=``; a worker that joins after a death reads it there as well."""
    d, k = 3000, 1500
    rows = np.random.default_rng(0).normal(size=(480, d)).astype(np.float32)
    table = pa.table({"v": vectors(rows)})
    pq.write_table(table, tmp_path / "wide.parquet", row_group_size=10)
    data = Dataset.from_parquet(tmp_path / "wide.parquet", format=leaves_of(20, d))
    pass_ = pass_of("tsqr", data)
    pass_ = type(pass_)(pass_.intake, np.zeros(d), np.ones(d), np.eye(d)[:, :k])
    with client_of(mortal) as client:

        def replace_worker() -> None:
            mortal.workers[0].kill()
            mortal.add()

        with pytest.raises(Exception, match="expected work="):
            connect("dask", client).run(pass_, data)
        watch = At(100, replace_worker)
        found = connect("dask", client, work=tmp_path / "work", progress=watch).run(pass_, data)
        assert watch.done
        expected = reference().run(pass_, data)
    assert bytes_of(found) == bytes_of(expected)
    assert [p.suffix for p in (tmp_path / "work").iterdir()].count(".shared") == 1


def test_nothing_of_a_credential_travels(steady: Cluster, folder: Path, tmp_path: Path) -> None:
    """Client and workers have one in their environments; the scheduler, told of every task, sees none of it."""

    def seen(dask_scheduler: Any = None) -> bytes:
        return b"".join(pickle.dumps((key, task.run_spec)) for key, task in dask_scheduler.tasks.items())

    data, travelled = opened(folder), b""
    with client_of(steady) as client, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED)

        def listen() -> None:
            nonlocal travelled
            travelled += client.run_on_scheduler(seen)

        for secret in (f"s3://key:{PLANTED}@bucket/out", f"s3://bucket/out?secret_key={PLANTED}"):
            with pytest.raises(Exception, match="without credentials") as refused:
                connect("dask", client, work=secret)
            assert PLANTED not in str(refused.value)
        fit = connect("dask", client, work=tmp_path / "work", progress=At(500, listen))
        pca = PCA(5, scale=True).fit(data, engine=fit)
        pca.save(tmp_path / "model")
        write = connect("dask", client, progress=At(500, listen))
        pca.transform(data).to_parquet(tmp_path / "out", engine=write, part_bytes=1000)
    assert b"eigenmill-fold-gram" in travelled
    assert b"eigenmill-write-part" in travelled
    assert PLANTED.encode() not in travelled
    places = [p for root in (tmp_path, steady.folder) for p in root.rglob("*") if p.is_file()]
    assert len(places) > 60
    for place in places:
        assert PLANTED.encode() not in place.read_bytes(), place


# What breaks


@pytest.mark.slow
def test_no_scheduler(folder: Path, tmp_path: Path) -> None:
    engine = connect("dask", "tcp://127.0.0.1:1", patience=1.0)
    with (
        pytest.raises(EngineError, match=r"expected a Dask scheduler at tcp://127\.0\.0\.1:1, found .*; start"),
        engine,
    ):
        pass
    job = run_job(
        ["reduce", str(job_file(folder, tmp_path / "out")), "--engine", "dask", "--set", "engine.address=tcp://[::1]:1"]
    )
    log = job.communicate(timeout=300)[1]
    assert (job.returncode, "expected a Dask scheduler" in " ".join(log.split())) == (exits.NO_CLUSTER, True), log
    assert "Traceback" not in log


@pytest.mark.slow
def test_other_versions_and_no_package_at_all(mortal: Cluster, folder: Path, tmp_path: Path) -> None:
    data = opened(folder)
    with client_of(mortal) as client:
        shutil.copytree(ROOT / "src", tmp_path / "old")
        about = tmp_path / "old/eigenmill/reduce/about.py"
        about.write_text(about.read_text().replace('__version__ = "', '__version__ = "0.0.'))
        mortal.leaf_bytes = None
        for place, words in (
            ("old", r"found {'eigenmill': '0\.0\.0\.1\.0'}; install"),
            ("none", r"found .*eigenmill.*; inst"),
        ):
            (tmp_path / place).mkdir(exist_ok=True)
            if place == "none":
                (tmp_path / place / "sitecustomize.py").write_text(WITHOUT)
            engine = connect("dask", client)
            worker = mortal.add(env={"PYTHONPATH": str(tmp_path / place)})
            client.wait_for_workers(3, timeout=300)
            with pytest.raises(EngineError, match=r"expected .*eigenmill.*worker tcp://.*" + words):
                PCA(5).fit(data, engine=engine)
            end(worker)
            wait_for(lambda: len(client.scheduler_info()["workers"]) == 2)
        # One that joins in the middle is found by its first task.
        rows = PCA(5).fit(data, engine=connect("dask", client)).quality_.rows
        assert rows == data.n_rows


WITHOUT = """import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name == "eigenmill":
            raise ModuleNotFoundError("No module named 'eigenmill'")
sys.meta_path.insert(0, Without())
"""


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def fit(data: Dataset, engine: Any, out: Path) -> None:
    PCA(5).fit(data, engine=engine)


def write(data: Dataset, engine: Any, out: Path) -> None:
    data.to_parquet(out, engine=engine, part_bytes=1000)


STAGES = pytest.mark.parametrize("stage", [fit, write])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("how", "stage"),
    [("dies", fit), ("dies", write), pytest.param("hangs", fit, marks=pytest.mark.slow)],
)
def test_a_scheduler_that_is_gone(
    how: str, stage: Any, mortal: Cluster, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eigenmill.reduce.engines.dask.engine.ANSWER", 2.0)
    data, client = opened(folder), client_of(mortal)

    def gone() -> None:
        if how == "dies":
            end(mortal.scheduler)
        else:
            os.kill(mortal.scheduler.pid, signal.SIGSTOP)

    found = in_time(lambda: stage(data, connect("dask", client, progress=At(300, gone)), tmp_path / "out"))
    with pytest.raises(EngineError, match=r"expected a Dask cluster that answers, found .*run again to go on"):
        raise found
    assert not (tmp_path / "out/_SUCCESS").exists()
    end(mortal.scheduler)
    client.close(timeout=2)


class Dying(SchedulerPlugin):  # type: ignore[misc]
    """Kills its scheduler at the first result of a task whose key begins so."""

    def __init__(self, key: str) -> None:
        self.key = key

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if finish == "memory" and str(key).startswith(self.key):
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["eigenmill-fold-gram", "eigenmill-merge-gram", "eigenmill-write-part"])
def test_a_job_whose_cluster_dies(key: str, folder: Path, tmp_path: Path) -> None:
    """It ends by itself, says why, and goes on with another cluster to the bytes of the local engine."""
    path = str(job_file(folder, tmp_path / "out"))
    with cluster(tmp_path / "first") as first:
        with client_of(first) as client:
            client.register_plugin(Dying(key))
        job = run_job(["reduce", path, *on(first)], leaf_bytes=LEAF_BYTES)
        log = job.communicate(timeout=300)[1]
        assert first.scheduler.wait(10) == -signal.SIGKILL
    words = " ".join(log.split())
    assert (job.returncode, "expected a Dask cluster that answers" in words) == (exits.NO_CLUSTER, True), log
    assert "run again to go on" in words
    assert "Traceback" not in log
    assert not (tmp_path / "out/features/_SUCCESS").exists()
    assert (tmp_path / "out/model/model.json").exists() == (key == "eigenmill-write-part")
    with cluster(tmp_path / "second") as second:
        finish(["reduce", path, *on(second)])
    finish(["reduce", str(job_file(folder, tmp_path / "local"))])
    for part in ("features", "model"):
        assert tree(tmp_path / "out" / part) == tree(tmp_path / "local" / part)


@pytest.mark.slow
@STAGES
def test_all_workers_are_gone(stage: Any, mortal: Cluster, folder: Path, tmp_path: Path) -> None:
    data = opened(folder)
    with client_of(mortal) as client:

        def gone() -> None:
            for worker in mortal.workers:
                end(worker)

        for row in (300, 0):
            engine = connect("dask", client, patience=1.0, progress=At(row, gone))
            found = in_time(lambda engine=engine: stage(data, engine, tmp_path / "out"))
            with pytest.raises(EngineError, match=r"expected workers at tcp://.*, found none for 1 s; start some"):
                raise found
        assert not (tmp_path / "out/_SUCCESS").exists()
        # Workers that come back finish what is left.
        for _ in range(2):
            mortal.add()
        client.wait_for_workers(2, timeout=300)
        stage(data, connect("dask", client), tmp_path / "out")


def in_time(act: Callable[[], Any]) -> BaseException:
    """The error that ``act`` ends with; fails when it hangs."""
    found: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(300)
    assert not thread.is_alive(), "it hangs"
    assert found, "it ended well"
    return found[0]


# Sizes


@pytest.mark.slow
def test_a_state_larger_than_a_message(tmp_path: Path) -> None:
    """d = 8,000: one state is 260 MB."""
    d = 8000
    rows = np.random.default_rng(0).integers(0, 255, (1200, d), dtype=np.uint8)
    table = pa.table({"v": vectors(rows)})
    pq.write_table(table, tmp_path / "wide.parquet", row_group_size=100)
    data = Dataset.from_parquet(tmp_path / "wide.parquet", format=leaves_of(300, d))
    pass_ = pass_of("gram", data)
    assert pass_.sizes(0, data.n_rows)[0] > 250 << 20
    with cluster(tmp_path / "cluster", memory="5GiB") as found, client_of(found) as client:
        assert bytes_of(connect("dask", client).run(pass_, data)) == bytes_of(reference().run(pass_, data))
