"""What is published survives a power failure: the order in which it was written, synced, named, and others removed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import fs as pafs

from eigenmill.jobs.daily import stages as daily
from eigenmill.jobs.reduction.config import read_job
from eigenmill.jobs.reduction.run import run as run_job
from eigenmill.reduce import PCA, Dataset, connect
from eigenmill.reduce.output import versions
from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.storage import files
from eigenmill.reduce.storage.array_file import save_arrays
from eigenmill.reduce.storage.artifact import save_model
from eigenmill.reduce.storage.chain import FOLDER
from tests.jobs.conftest import job_text, write_vectors
from tests.jobs.days import DAYS, write_day, write_three_days
from tests.sink.made import Scaled, made, run
from tests.support.file_events import FileEvents, holds_after_power_failure, recorded

ARRAYS = {"a": np.arange(12.0).reshape(3, 4)}


def order(found: FileEvents, *, chains: bool = False) -> list[str]:
    """Files in the order in which they got their names, ``-`` before those that were removed; digests as ``*``.

    Probes are left out, hints beside outputs, and what belongs to chains unless it is asked for.
    """
    signs = {"rename": "", "remove": "-"}
    named = [(what, name) for what, name in found.named(*signs) if chains or FOLDER not in name.split("/")]
    named = [(what, name) for what, name in named if ".probe." not in name and not name.endswith("seen.json")]
    return [signs[what] + re.sub(r"-[0-9a-f]{16}(?=[./])", "-*", name) for what, name in named]


def test_a_file_is_written_synced_named_and_its_directory_synced(tmp_path: Path) -> None:
    with recorded(tmp_path) as found:
        files.write_bytes(pafs.LocalFileSystem(), str(tmp_path / "a"), b"content")
        files.write_bytes(pafs.LocalFileSystem(), str(tmp_path / "a"), b"other")
    assert found.events == [("write", "a"), ("sync", "a"), ("rename", "a"), ("sync", ".")] * 2


def test_directories_are_synced_into_those_above(tmp_path: Path) -> None:
    with recorded(tmp_path) as found:
        files.write_bytes(pafs.LocalFileSystem(), str(tmp_path / "b/c/a"), b"")
    assert found.events == [
        *(("mkdir", "b"), ("sync", "."), ("mkdir", "b/c"), ("sync", "b")),
        *(("write", "b/c/a"), ("sync", "b/c/a"), ("rename", "b/c/a"), ("sync", "b/c")),
    ]


def test_an_output(tmp_path: Path) -> None:
    """Parts, then their records, then the manifest, then the marker; only then what the job needed goes."""
    with recorded(tmp_path) as found:
        run(Sink(tmp_path / "out", part_bytes=2000), made(200))
    holds_after_power_failure(found)
    parts = [(f"out/part-0000{i}.parquet", f"out/_parts/0000{i}.json") for i in range(2)]
    assert order(found) == [
        *("out/_job.json", *parts[0], *parts[1], "out/_manifest.json", "out/_SUCCESS"),
        *("-out/_parts/00001.json", "-out/_parts/00000.json", "-out/_job.json"),
    ]


def test_a_partitioned_output(tmp_path: Path) -> None:
    with recorded(tmp_path) as found:
        run(Sink(tmp_path / "out", partition_by="kind"), made(50))
    holds_after_power_failure(found)
    parts = [f"out/kind=k{i}/part-00000.parquet" for i in range(5)]
    assert order(found)[: 1 + 5 + 3] == [
        *("out/_job.json", *parts, "out/_parts/00000.json", "out/_manifest.json", "out/_SUCCESS")
    ]


@pytest.mark.parametrize("before", [1, 2])
def test_a_version_is_whole_before_it_is_published(tmp_path: Path, before: int) -> None:
    """And what it replaces goes when the exchange is synced, not before."""
    sink = Sink(tmp_path / "out", overwrite=True)
    for factor in range(before):
        run(sink, made(50).then(Scaled(5, factor=1.0 + factor)))
    with recorded(tmp_path) as found:
        run(sink, made(50).then(Scaled(5, factor=9.0)))
    new, part = f".out.v00000{before}", "part-00000.parquet"
    taken = found.events.index(("rename", f"{new}/{part}"))  # its name, as all is written
    holds_after_power_failure(FileEvents(found.root, found.events[:taken]))
    written = ["_job.json", f"{part}.aside", "_parts/00000.json", "_manifest.json", "_SUCCESS"]
    assert order(found)[:8] == [
        *[f"{new}/{name}" for name in written],
        *(f"-{new}/_parts/00000.json", f"-{new}/_job.json", f"{new}/{part}"),
    ]
    # The exchange shows as other content under the same names.
    exchanged = found.events[taken + 1 :]
    assert exchanged[0] == ("sync", new)
    assert ("write", f"out/{part}") in exchanged[1 : exchanged.index(("sync", "."))]
    gone = [at for at, (what, name) in enumerate(exchanged) if what == "remove" and name.startswith(".out.v000001")]
    assert (not gone) == (before == 1)
    assert all(at > exchanged.index(("sync", ".")) for at in gone)
    assert ("rename", f"{new}/{part}.aside") in exchanged[exchanged.index(("sync", ".")) :]


def test_a_link_is_synced_where_directories_cannot_change_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "exchange", lambda a, b: False)
    sink = Sink(tmp_path / "out", overwrite=True)
    run(sink, made(50))
    with recorded(tmp_path) as found:
        run(sink, made(60))
    moved = [event for event in found.events if event[1] in ("out", ".out.v000002", ".") and event[0] != "write"]
    assert moved.pop() == ("sync", ".out.v000002")  # where files are put aside
    assert moved[-4:] == [("link", "out"), ("rename", ".out.v000002"), ("rename", "out"), ("sync", ".")]


def test_a_model_with_its_state(tmp_path: Path) -> None:
    """``model.json`` names the files beside it: it comes after them, and goes before what it named earlier."""
    with recorded(tmp_path) as found:
        save_model(tmp_path / "m", "pca", {"k": 1}, ARRAYS, {}, {"s": ARRAYS})
    holds_after_power_failure(found)
    files_ = ["m/arrays-*.safetensors", "m/state-*.safetensors", "m/model.json"]
    assert order(found) == files_
    other = {"a": ARRAYS["a"] + 1}
    with recorded(tmp_path) as found:
        save_model(tmp_path / "m", "pca", {"k": 2}, other, {}, {"s": other}, overwrite=True)
    holds_after_power_failure(found)
    made, attempt = order(found, chains=True), "m/_generations/00000001"
    assert made[:3] == [name.replace("m/", f"{attempt}-*/") for name in files_]
    assert made[3:7] == [f"{attempt}.json", *files_], "the record holds; what is seen of it follows"
    assert sorted(made[7:]) == ["-m/arrays-*.safetensors", "-m/state-*.safetensors"]


def test_a_scan_is_saved_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Dataset.from_numpy(np.random.default_rng(0).normal(size=(3000, 4)))
    with recorded(tmp_path) as found, connect("local", workers=1, work=tmp_path / "work", save_every=1e-9) as engine:
        PCA(2, solver="gram").fit(data, engine=engine)
    holds_after_power_failure(found)
    assert len([name for name in order(found) if not name.startswith("-")]) >= 1
    with recorded(tmp_path) as found:
        save_arrays(tmp_path / "checks/point", ARRAYS, {"scan": 1})
    holds_after_power_failure(found)
    assert order(found) == ["checks/point"]


def test_a_day(tmp_path: Path) -> None:
    """The record of a stage comes after all that it writes, the pointer before the record that says it was moved."""
    source, day = write_three_days(tmp_path), DAYS[0]
    place = tmp_path / "out"
    place.mkdir()
    stages: list[tuple[Callable[..., Any], list[str]]] = [
        (daily.fit, ["daily.json", "model/arrays-*.safetensors", "model/state-*.safetensors", "model/model.json"]),
        (daily.gate, [f"versions/v0001/{name}" for name in ("model/arrays-*.safetensors", "model/model.json")]),
        (daily.project, []),
        (daily.publish, ["published.json", "published"]),
    ]
    stages[1][1].append("versions/v0001/version.json")
    features = f"versions/v0001/features/day={day}"
    names = ["_job.json", "part-00000.parquet", "_parts/00000.json", "_manifest.json", "_SUCCESS"]
    stages[2][1].extend([*(f"{features}/{name}" for name in names), *(f"-{features}/{names[i]}" for i in (2, 0))])
    for stage, files_ in stages:
        with recorded(place) as found:
            stage(source, day)
        holds_after_power_failure(found)
        assert order(found) == [*files_, f"days/{day}/{stage.__name__}.json"]


def test_the_next_day_and_a_day_that_is_opened_again(tmp_path: Path) -> None:
    """A pointer that is replaced, a model with its state that is replaced, and a day that is no longer done."""
    source = write_three_days(tmp_path)
    daily.run_day(source, DAYS[0])
    for stage in (daily.fit, daily.gate, daily.project, daily.publish):
        with recorded(tmp_path / "out") as found:
            stage(source, DAYS[1])
        holds_after_power_failure(found)
    write_day(tmp_path, DAYS[0], 9, name="b")
    with recorded(tmp_path / "out") as found:
        daily.fit(source, DAYS[0])
    holds_after_power_failure(found)
    written = ["model/arrays-*.safetensors", "model/state-*.safetensors", "model/model.json"]
    gone = ["-model/arrays-*.safetensors", "-model/state-*.safetensors"]
    assert order(found)[:3] == written
    assert sorted(order(found)[3:5]) == gone
    assert order(found)[5:] == [f"-days/{DAYS[0]}/publish.json", f"days/{DAYS[0]}/fit.json"]


def test_a_job(tmp_path: Path) -> None:
    """``job.json`` names the model, and the record of the chain names both; the report tells of all, and comes last."""
    write_vectors(tmp_path / "data")
    job = read_job(job_text(tmp_path / "data", tmp_path / "out"), "job.yaml", ["output.part_bytes=1GiB"])
    with recorded(tmp_path) as found:
        run_job(job)
    holds_after_power_failure(found)
    assert [name for name in order(found, chains=True) if name[0] != "-" and "/." not in name] == [
        *("out/model/arrays-*.safetensors", "out/model/model.json", "out/model/job.json"),
        "out/model/_generations/00000001.json",
        *("out/features/_job.json", "out/features/part-00000.parquet", "out/features/_parts/00000.json"),
        *("out/features/_manifest.json", "out/features/_SUCCESS", "out/report.json"),
    ]
