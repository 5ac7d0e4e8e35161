from __future__ import annotations

import json
import pickle
import shutil
import threading

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs as pafs

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.errors import OutputError
from eigenmill.reduce.output.manifest import read_manifest
from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.storage import plain
from tests.sink.made import MadeSource, Scaled, drawn, made, run, write_parts
from tests.support.trees import tree

LOCAL = pafs.LocalFileSystem()


@pytest.fixture
def data():
    return made(500).then(Scaled(5))


@pytest.fixture
def sink(tmp_path):
    return Sink(tmp_path / "out", part_bytes=2000)


def test_what_is_left_at_the_end(sink, data, tmp_path):
    manifest = run(sink, data)
    parts = [f"part-{i:05d}.parquet" for i in range(5)]
    assert sorted(tree(tmp_path)) == [f"out/{name}" for name in ("_SUCCESS", "_manifest.json", *parts)]
    assert read_manifest(sink.path) == manifest
    text = (tmp_path / "out" / "_manifest.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(json.dumps(manifest.as_json())) == json.loads(text)
    assert [(part.index, part.rows, [file.path for file in part.files]) for part in manifest.parts] == [
        (i, 100, [name]) for i, name in enumerate(parts)
    ]
    digests = {file.path: file.sha256 for part in manifest.parts for file in part.files}
    assert digests == {name: tree(tmp_path / "out")[name] for name in parts}


def test_a_finished_output_is_returned_as_it_is(sink, data, tmp_path):
    manifest = run(sink, data)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    job = sink.open(data)
    assert job.pending == ()
    assert job.finished == manifest
    assert job.commit() == manifest
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("done", [0, 1, 3, 5])
def test_an_unfinished_output_is_continued(sink, data, tmp_path, done):
    run(Sink(tmp_path / "whole", part_bytes=2000), data)
    job = sink.open(data)
    write_parts(job, data, job.parts[:done])
    again = sink.open(data)
    assert [p.index for p in again.pending] == list(range(done, 5))
    write_parts(again, data)
    again.commit()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert again.commit() == read_manifest(sink.path)


def test_two_workers_may_write_the_same_part(sink, data, tmp_path):
    run(Sink(tmp_path / "whole", part_bytes=2000), data)
    job = pickle.loads(pickle.dumps(sink.open(data)))
    threads = [threading.Thread(target=write_parts, args=(job, data)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pickle.loads(pickle.dumps(job)).commit()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_worker_gets_the_exact_schema(tmp_path):
    """Pickle forgets that the values of a carried fixed-size list are never null."""
    kind = pa.list_(pa.field("element", pa.float32(), nullable=False), 2)
    table = pa.table({"pair": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(40, np.float32)), type=kind)})
    data = Dataset(MadeSource(np.ones((20, 2)), table))
    for name, send in (("a", lambda x: x), ("b", lambda x: pickle.loads(pickle.dumps(x)))):
        job = Sink(tmp_path / name).open(data)
        write_parts(send(job), send(data))
        job.commit()
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_commit_before_all_parts(sink, data):
    job = sink.open(data)
    write_parts(job, data, job.parts[:3])
    with pytest.raises(OutputError, match=r"records of 5 parts.*found 3; write the parts \[3, 4\]"):
        job.commit()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("change", ["model", "input", "option", "carried"])
def test_another_job_is_refused(sink, data, tmp_path, finished, change):
    job = sink.open(data)
    write_parts(job, data, job.parts if finished else job.parts[:2])
    if finished:
        job.commit()
    before = tree(tmp_path)
    other, asked = data, sink
    if change == "model":
        other = made(500).then(Scaled(5, factor=3.0))
    elif change == "input":
        other = made(500, tag="x").then(Scaled(5))
    elif change == "carried":
        other = made(500, carry=False).then(Scaled(5))
    else:
        asked = Sink(sink.path, part_bytes=2000, layout="columns")
    with pytest.raises(OutputError, match=r"another job .* choose another path, or write with overwrite=True"):
        asked.open(other)
    assert tree(tmp_path) == before


def test_foreign_files_are_refused_even_for_overwriting(data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.csv").write_text("1")
    before = tree(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"found files such as precious\.csv; choose another path"):
            Sink(out, overwrite=overwrite).open(data)
    assert tree(tmp_path) == before
    assert list(before) == ["out/precious.csv"]
    with pytest.raises(OutputError, match="found a file"):
        Sink(out / "precious.csv").open(data)
    (out / "precious.csv").unlink()
    (out / "_SUCCESS").write_text("")  # hidden files alone are in nobody's way
    run(Sink(out), data)


def test_a_part_of_another_model_is_found(sink, data, tmp_path):
    other = Sink(tmp_path / "other", part_bytes=2000)
    run(other, made(500).then(Scaled(5, factor=-2.0)))
    for finish in (False, True):
        job = sink.open(data)
        write_parts(job, data)
        if finish:
            job.commit()
        shutil.copy(tmp_path / "other" / "part-00003.parquet", tmp_path / "out" / "part-00003.parquet")
        with pytest.raises(OutputError, match=r"part-00003\.parquet to have .* a part of another output"):
            sink.open(data)
        if not finish:
            (tmp_path / "out" / "_parts" / "00003.json").unlink()  # as the message says
    replaced = run(Sink(sink.path, part_bytes=2000, overwrite=True), data)
    assert run(sink, data) == replaced


@pytest.mark.parametrize("change", ["truncate", "remove", "flip"])
@pytest.mark.parametrize("finish", [True, False])
def test_a_damaged_part_is_found(sink, data, tmp_path, change, finish):
    job = sink.open(data)
    write_parts(job, data)
    if finish:
        job.commit()
    path = tmp_path / "out" / "part-00001.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.unlink()
    if change != "remove":
        path.write_bytes(content if change == "flip" else content[:-1])
    with pytest.raises(OutputError, match=r"part-00001\.parquet"):
        sink.open(data)


def test_extra_files_are_found(sink, data, tmp_path):
    job = sink.open(data)
    write_parts(job, data, job.parts[:2])
    (tmp_path / "out" / "part-00004.parquet").write_bytes(b"left by a killed attempt")
    assert len(sink.open(data).pending) == 3
    write_parts(job, data)
    (tmp_path / "out" / "part-00005.parquet").write_bytes(b"of whom?")
    with pytest.raises(OutputError, match=r"found part-00005\.parquet, which readers"):
        job.commit()
    with pytest.raises(OutputError, match=r"found part-00005\.parquet, which readers"):
        sink.open(data)
    (tmp_path / "out" / "part-00005.parquet").unlink()
    job.commit()


def test_records(sink, data, tmp_path):
    job = sink.open(data)
    write_parts(job, data)
    records = tmp_path / "out" / "_parts"
    (records / "00001.json").write_text("{")
    assert [p.index for p in sink.open(data).pending] == [1]
    other = Sink(tmp_path / "other", part_bytes=2000)
    write_parts(other.open(made(500)), made(500))
    shutil.copy(tmp_path / "other" / "_parts" / "00001.json", records / "00001.json")
    with pytest.raises(OutputError, match=r"00001\.json to be of this job"):
        sink.open(data)
    shutil.copy(records / "00002.json", records / "00001.json")
    with pytest.raises(OutputError, match=r"found the record of part 2"):
        sink.open(data)


def rewrite(path, change):
    value = json.loads(path.read_text())
    change(value)
    del value["digest"]
    path.write_text(json.dumps({**value, "digest": plain.digest(value)}))


@pytest.mark.parametrize(
    "name", ["../x.parquet", "/etc/passwd", "a/../../x", "a//b", "", "_x", ".x", "a\\..\\b", "a\0"]
)
def test_manifests_that_point_elsewhere(sink, data, tmp_path, name):
    run(sink, data)
    manifest = tmp_path / "out" / "_manifest.json"
    rewrite(manifest, lambda value: value["parts"][0]["files"][0].update(path=name))
    with pytest.raises(OutputError, match="inside the output directory"):
        read_manifest(sink.path)
    with pytest.raises(OutputError, match="inside the output directory"):
        sink.open(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(version=2),
        lambda v: v.update(format="x"),
        lambda v: v.update(rows=-1),
        lambda v: v.update(rows=501),
        lambda v: v.update(rows=True),
        lambda v: v.update(extra=1),
        lambda v: v.pop("key"),
        lambda v: v["parts"].pop(),
        lambda v: v["parts"].append(3),
        lambda v: v["parts"][0].update(source=[[1]]),
        lambda v: v["parts"][0].update(rows=1),
        lambda v: v["parts"][0]["files"].append({}),
        lambda v: v.update(schema=[1]),
        lambda v: v.update(schema=[[1, 2]]),
        lambda v: v.update(transforms=[{}]),
    ],
)
def test_manifests_that_are_not_right(sink, data, tmp_path, change):
    run(sink, data)
    rewrite(tmp_path / "out" / "_manifest.json", change)
    with pytest.raises(OutputError, match=r"_manifest\.json"):
        read_manifest(sink.path)


def test_a_damaged_manifest_or_job(sink, data, tmp_path):
    job = sink.open(data)
    description = tmp_path / "out" / "_job.json"
    text = description.read_text()
    description.write_text(text.replace('"list"', '"tape"'))
    with pytest.raises(OutputError, match=r"_job\.json to match its key"):
        sink.open(data)
    with pytest.raises(OutputError, match=r"_job\.json to match its key"):
        write_parts(job, data) or job.commit()
    description.write_text(text)
    job.commit()
    manifest = tmp_path / "out" / "_manifest.json"
    manifest.write_text(manifest.read_text().replace('"list"', '"tape"'))
    with pytest.raises(OutputError, match="to have the digest"):
        read_manifest(sink.path)
    with pytest.raises(OutputError, match="found no _manifest"):
        read_manifest(tmp_path)


def test_commit_of_a_job_that_someone_replaced(sink, data, tmp_path):
    job = sink.open(data)
    write_parts(job, data)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(OutputError, match=r"found no _job\.json"):
        job.commit()
    Sink(sink.path).open(made(300))
    with pytest.raises(OutputError, match="another job"):
        job.commit()


def test_memory_is_an_upper_bound_of_what_is_gathered(sink, data):
    job, writing = sink.open(data), sink.writing(data)
    largest = max(p.rows for p in job.parts) * 5 * 4
    assert writing.parts == len(job.parts)
    assert writing.memory == 3 * largest + (8 << 20) + (8 << 20 if len(data.carried) else 0)
    one = Sink(sink.path, part_bytes=1 << 40)
    assert one.writing(data, 10).memory - one.writing(data, 5).memory == 3 * data.n_rows * 5 * 4
    assert drawn(data, job.parts[0])


def test_a_partitioned_part_and_one_for_a_store_are_planned_with_what_they_hold(tmp_path):
    data = made(40_000, k=200)
    whole = data.n_rows * 200 * 4  # 30.5 MiB: more than a row group, less than what a partitioned part gathers
    path, memory = tmp_path / "out", pafs._MockFileSystem()
    for sink, gathered in (
        (Sink(path, part_bytes=1 << 40), 3 * (8 << 20)),
        (Sink(path, part_bytes=1 << 40, partition_by="kind"), 3 * whole),
        (Sink("out", filesystem=memory, part_bytes=1 << 40), 3 * (8 << 20) + whole),
    ):
        assert sink.writing(data).memory == gathered + (16 << 20)
