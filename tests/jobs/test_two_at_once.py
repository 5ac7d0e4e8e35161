"""Two or three commands at once, in processes: what is left is one of the serial orders, and who lost was told.

On a local disk, on one where locks do nothing, and on an S3 that shows new objects late.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import multiprocessing
import os
import random
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from eigenmill.jobs.cli import app
from eigenmill.jobs.shown import exits
from eigenmill.reduce import load
from eigenmill.reduce.output.sink import read_manifest
from tests.support.late_s3 import late_s3, uri

pytestmark = pytest.mark.filterwarnings("default")  # those of moto's server
ROWS, D, KEPT = 40, 4, 30
"""Rows and columns of a file, and the rows that the filter of the job keeps."""
TOLD = (exits.OK, exits.BAD_OUTPUT, exits.BAD_USAGE)
COUNT = itertools.count()
PLACES = ("disk", "no locks", "late store")


def write_rows(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    X = np.random.default_rng(seed).normal(size=(ROWS, D)) * np.arange(1, D + 1)
    pq.write_table(pa.table({"id": np.arange(ROWS), **{f"c{j}": X[:, j] for j in range(D)}}), path)


# Processes


def child(arguments: Sequence[str], locks: bool, ready: Any, pipe: Any) -> None:
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    if not locks:
        fcntl.flock = lambda *_: None
    ready.wait()
    result = CliRunner().invoke(app, list(arguments))
    pipe.send((result.exit_code, result.output))


@pytest.fixture(scope="module")
def context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["eigenmill.jobs.cli", "eigenmill.reduce.estimators.store", __name__])
    return context


def at_once(context: Any, commands: Sequence[Sequence[str]], locks: bool = True) -> list[tuple[int, str]]:
    """Exit codes and outputs of commands that begin together."""
    ready, pipes, processes = context.Barrier(len(commands)), [], []
    for arguments in commands:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=child, args=(arguments, locks, ready, theirs))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    found = []
    for pipe in pipes:
        assert pipe.poll(120), "a command did not end"
        found.append(pipe.recv())
    for process in processes:
        process.join()
    return found


def told(found: Sequence[tuple[int, str]]) -> list[bool]:
    """Which commands have lost; each says so, and how."""
    for code, output in found:
        assert code in TOLD, output
        assert code == exits.OK or "expected" in output, output
    return [code != exits.OK for code, _ in found]


class Place:
    """Where outputs go: a directory that can be copied from one with the same files."""

    def __init__(self, kind: str, root: Path, address: str | None) -> None:
        self.kind, self.root, self.address = kind, root, address
        self.locks = kind != "no locks"

    def copy(self, source: Path | None) -> str:
        """A new place, with what is at ``source``; its path or URI."""
        name = f"{self.kind.replace(' ', '-')}-{next(COUNT)}"
        if self.address is None:
            if source is not None:
                shutil.copytree(source, self.root / name, symlinks=True)
            return str(self.root / name)
        if source is not None:
            for path in sorted(p for p in source.rglob("*") if p.is_file()):
                client(self.address).upload_file(str(path), "mill", f"{name}/{path.relative_to(source)}")
        return uri(self.address, name)


def client(address: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": "KEY", "aws_secret_access_key": "WORD", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=f"http://{address}", **keys)


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with late_s3(0.25) as address:
        client(address).create_bucket(Bucket="mill")
        yield address


@pytest.fixture(params=[*PLACES[:2], pytest.param(PLACES[2], marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, space: Path) -> Place:
    """Waiting for a late store takes half a minute a test."""
    return Place(request.param, space, request.getfixturevalue("store") if request.param == "late store" else None)


def below(where: str, name: str) -> str:
    path, mark, query = where.partition("?")
    return f"{path}/{name}{mark}{query}"


# A model


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its state over one file, and three more files."""
    folder = tmp_path_factory.mktemp("begun")
    for number in range(4):
        write_rows(folder / f"data/{number}.parquet", number)
    (folder / "job.yaml").write_text(
        f"input: {{path: {folder}/data/0.parquet, columns: [c0, c1, c2, c3], carry: [id], filters: [[id, '<', 30]]}}\n"
        f"reduce: {{components: 2}}\noutput: {{model: {folder}/out/model, state: true}}\nengine: {{workers: 1}}\n"
    )
    call("reduce", str(folder / "job.yaml"))
    return folder


def call(*arguments: str) -> None:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == exits.OK, result.output


def update(model: str, begun: Path, number: int) -> list[str]:
    return ["update", model, str(begun / f"data/{number}.parquet"), "--workers", "1"]


@pytest.fixture(scope="module")
def orders(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, ...]]:
    """The digest of the model after any files in any order."""
    folder, found = tmp_path_factory.mktemp("orders"), {}
    for size in range(4):
        for order in itertools.permutations((1, 2, 3), size):
            model = folder / f"after{len(found)}"
            shutil.copytree(begun / "out/model", model)
            for number in order:
                call(*update(str(model), begun, number))
            found[load(model).digest_] = order
    return found


@pytest.mark.parametrize("many", [2, 3])
def test_case_f01_updates_of_one_model(
    many: int, place: Place, begun: Path, orders: dict[str, tuple[int, ...]], context: Any
) -> None:
    model = place.copy(begun / "out/model")
    commands = [update(model, begun, number) for number in range(1, many + 1)]
    lost = told(at_once(context, commands, place.locks))
    won = {number for number, each in zip(range(1, many + 1), lost, strict=True) if not each}
    assert set(orders[load(model).digest_]) == won, "who was not told is in the model"
    assert won
    assert place.kind != "disk" or len(won) == many, "where there are locks, one waits"
    for arguments, each in zip(commands, lost, strict=True):
        if each:
            assert [code for code, _ in at_once(context, [arguments], place.locks)] == [exits.OK]
    assert set(orders[load(model).digest_]) == set(range(1, many + 1))
    assert load(model).snapshot().quality.rows == (many + 1) * 30, "by the filter of the job that began the model"


def test_case_f01_saves_of_two_models(place: Place, begun: Path, orders: dict[str, tuple[int, ...]]) -> None:
    """In threads: each save ends as if it were the last or the last but one, and the model is whole all the time."""
    path = place.copy(None)
    base = load(begun / "out/model")
    models = [base.__sklearn_clone__().set_params(n_components=k) for k in (1, 2, 3)]
    for model in models:
        model.fit(np.random.default_rng(0).normal(size=(30, D)))
    digests = {model.save(begun / f"alone-{k}") for k, model in enumerate(models)}
    failures: list[BaseException] = []

    def save(model: Any) -> None:
        try:
            for _ in range(3):
                model.save(path, overwrite=True)
                assert load(path).digest_ in digests
        except BaseException as error:
            failures.append(error)

    with contextlib.nullcontext() if place.locks else pytest.MonkeyPatch.context() as patch:
        if patch is not None:
            patch.setattr(fcntl, "flock", lambda *_: None)
        threads = [threading.Thread(target=save, args=(model,)) for model in models]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert load(path).digest_ in digests


# An output


def test_case_f07_two_jobs_with_one_output(place: Place, begun: Path, context: Any) -> None:
    out = place.copy(None)
    commands = [
        ["transform", str(begun / "out/model"), str(begun / f"data/{number}.parquet"), "--out", out, "--workers", "1"]
        for number in (1, 2)
    ]
    found = at_once(context, commands, place.locks)
    lost = told(found)
    assert sorted(lost) == [False, True], found
    manifest = read_manifest(out)
    assert manifest.input["files"][0]["path"].endswith(f"{1 + lost.index(False)}.parquet")
    assert manifest.rows == KEPT


def test_one_job_twice_with_one_output(place: Place, begun: Path, context: Any) -> None:
    out = place.copy(None)
    command = ["transform", str(begun / "out/model"), str(begun / "data/1.parquet"), "--out", out, "--workers", "1"]
    assert not all(told(at_once(context, [command, command], place.locks)))
    assert [code for code, _ in at_once(context, [command], place.locks)] == [exits.OK]
    assert read_manifest(out).rows == KEPT


# Days

DAYS = ("2026-11-01", "2026-11-02")


def daily(folder: Path, out: str) -> Path:
    for number, day in enumerate(DAYS):
        write_rows(folder / f"days/day={day}/a.parquet", number)
    name = folder / f"{abs(hash(out))}.yaml"
    name.write_text(
        f"input: {{path: '{folder}/days/day={{day}}', columns: [c0, c1, c2, c3], carry: [id]}}\n"
        f"reduce: {{components: 2, solver: gram}}\noutput: {{path: '{out}'}}\nengine: {{workers: 1}}\n"
    )
    return name


def published(out: str) -> tuple[str, set[str]]:
    """The digest of the model that goes on, and the days of the pointer."""
    from eigenmill.jobs.daily.records import Place as Days
    from eigenmill.jobs.daily.records import Pointer

    pointer = Days(out).read(Pointer)
    return load(below(out, "model")).digest_, set(pointer.days if pointer is not None else ())


@pytest.mark.parametrize("same_day", [True, False])
def test_case_f01_days_at_once(same_day: bool, place: Place, space: Path, context: Any) -> None:
    expected = set()
    for order in (DAYS, DAYS[::-1]):
        alone = str(space / f"alone-{order[0]}")
        for day in order[: 1 if same_day else 2]:
            call("daily", "run", "--config", str(daily(space, alone)), "--day", day)
        expected.add(published(alone)[0])
    out = place.copy(None)
    days = [DAYS[0], DAYS[0] if same_day else DAYS[1]]
    commands = [["daily", "run", "--config", str(daily(space, out)), "--day", day] for day in days]
    lost = told(at_once(context, commands, place.locks))
    if place.kind == "disk":
        assert lost == [False, False], "one waits for the other"
    done = {day for day, each in zip(days, lost, strict=True) if not each}
    assert done <= published(out)[1]
    for _ in range(2):  # who was told runs again; a day that another has begun comes first
        for command in commands:
            at_once(context, [command], place.locks)
    assert [code for code, _ in at_once(context, commands[:1], place.locks)] == [exits.OK]
    digest, all_days = published(out)
    assert digest in expected
    assert all_days == set(days)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_random_commands_at_once(
    seed: int, begun: Path, orders: dict[str, tuple[int, ...]], context: Any, space: Path, store: str
) -> None:
    """Pairs and triples of update, save, transform, reduce and overwrite on one model and one output."""
    rng = random.Random(seed)
    kind = rng.choice(PLACES)
    place = Place(kind, space, store if kind == "late store" else None)
    model, out = place.copy(begun / "out/model"), place.copy(None)
    overwrite = ["--overwrite"] if kind != "late store" and rng.random() < 0.5 else []
    data = [str(begun / f"data/{number}.parquet") for number in range(4)]
    known = [
        *(update(model, begun, number) for number in (1, 2, 3)),
        *(["transform", model, data[n], "--out", out, "--workers", "1", *overwrite] for n in (1, 2)),
        ["reduce", str(begun / "job.yaml"), "--set", f"output.model={model}", "--set", "output.overwrite=true"],
    ]
    commands = rng.sample(known, rng.choice((2, 2, 3)))
    found = at_once(context, commands, place.locks)
    lost = told(found)
    updated = {int(Path(c[2]).stem) for c, each in zip(commands, lost, strict=True) if c[0] == "update" and not each}
    fitted = any(c[0] == "reduce" for c in commands)
    now = set(orders[load(model).digest_])
    assert now == updated or (fitted and now <= updated), found
    written = [c for c, each in zip(commands, lost, strict=True) if c[0] == "transform" and not each]
    if written:
        manifest = read_manifest(out)
        assert any(manifest.input["files"][0]["path"] == c[2] for c in written)
        assert json.dumps(manifest.versions)
