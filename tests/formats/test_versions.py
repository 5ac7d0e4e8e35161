"""Files of a newer version are refused in a sentence, with the exit code of their kind; caches are made again, aloud.

One case for every kind of file that is read again. The reader is the one that the commands use.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eigenmill.jobs.daily import records
from eigenmill.jobs.reduction.fitted import FORMAT, load_fitted
from eigenmill.jobs.reduction.meter import told_of_remade
from eigenmill.jobs.shown import exits
from eigenmill.reduce import PCA, Dataset, Sink, connect, load
from eigenmill.reduce.engines.base import Tree
from eigenmill.reduce.engines.checkpoint import Checkpoint
from eigenmill.reduce.engines.tasks import write_tasks
from eigenmill.reduce.errors import EigenmillError
from eigenmill.reduce.output.manifest import read_manifest
from eigenmill.reduce.passes.intake import Intake
from eigenmill.reduce.passes.moments import MomentsPass
from eigenmill.reduce.storage.array_file import load_arrays, save_arrays


def data() -> Dataset:
    return Dataset.from_numpy(np.random.default_rng(0).normal(size=(30, 4)))


@dataclass(frozen=True)
class Kind:
    """A kind of file: how to write one, where it is then, how it is read again, and the exit code of a refusal."""

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    code: int | None
    said: str


def output(place: Path) -> Path:
    data().to_parquet(place / "out", part_bytes=300)
    return place / "out/_manifest.json"


def begun(place: Path) -> Path:
    job = Sink(place / "out", part_bytes=300).open(data())
    assert job.pending
    return place / "out/_job.json"


def part(place: Path) -> Path:
    job = Sink(place / "out", part_bytes=300).open(data())
    write_tasks(data(), job)[0]()
    return place / "out/_parts/00000.json"


def saved(place: Path) -> Path:
    PCA(2).fit(data(), keep_state=True).save(place / "model", state=True)
    return place / "model/model.json"


def scan(place: Path) -> tuple[Any, Dataset, Path]:
    rows = data()
    names = rows.feature_names
    return MomentsPass(Intake(names, np.dtype(np.float64), rows.cleaning.resolve(names))), rows, place / "work"


def checkpoint(place: Path) -> Path:
    pass_, rows, work = scan(place)
    connect("local", workers=1, work=work).run(pass_, rows)
    (path,) = work.glob("*.state")
    return path


def resumed(place: Path) -> None:
    pass_, rows, work = scan(place)
    assert Checkpoint(work, pass_, rows, Tree()).resume() is False
    assert list(work.glob("*.state")) == []


def note(place: Path) -> Path:
    """As an earlier version left it: not yet in a chain, whose digest would tell first."""
    (place / "model").mkdir()
    (place / "model/job.json").write_text(json.dumps({"format": FORMAT, "key": "k", "model": "m"}))
    return place / "model/job.json"


def daily(kind: type[records.Record], *values: Any) -> Kind:
    def write(place: Path) -> Path:
        records.Place(str(place)).write(kind(*values))
        return place / kind.name

    return Kind(write, lambda place: records.Place(str(place)).read(kind), exits.BAD_OUTPUT, "of version 1 or 2, found")


def packed(place: Path) -> Path:
    from eigenmill.compress import Model, pack, quantize, train

    X, y = np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32), np.arange(90) % 2
    model = train(Model.mlp(None, [3], 2), (X, y), epochs=1, validation=None)
    model.save(place / "m.model")
    pack(quantize(model, (X, y)), place / "m.emill")
    return place / "m.emill"


def unpack(place: Path) -> Any:
    from eigenmill.compress import load

    return load(place / "m.emill")


def restored(place: Path) -> Any:
    from eigenmill.compress import Model

    return Model.restore(place / "m.model")


KINDS: dict[str, Kind] = {
    "manifest": Kind(
        output, lambda p: read_manifest(p / "out"), exits.BAD_OUTPUT, "eigenmill-output of version 1, found"
    ),
    "output, to go on": Kind(output, lambda p: output(p), exits.BAD_OUTPUT, "eigenmill-output of version 1, found"),
    "job": Kind(begun, begun, exits.BAD_OUTPUT, "eigenmill-output-job of version 1, found"),
    "record of a part": Kind(part, begun, None, "is written again"),
    "model": Kind(saved, lambda p: load(p / "model"), exits.DAMAGED, "eigenmill-model of version 1, found"),
    "state": Kind(
        saved, lambda p: load(p / "model").partial_fit(data()), exits.DAMAGED, "constants of a format up to 1, found"
    ),
    "checkpoint": Kind(checkpoint, resumed, None, "begins anew"),
    "note of a job": Kind(
        note, lambda p: load_fitted(str(p / "model")), exits.DAMAGED, "(eigenmill-fitted), found something else"
    ),
    "settings of days": daily(records.Settings, {}),
    "fit of a day": daily(records.Fit, "2026-11-01", [], 3, "m"),
    "gate": daily(records.Gate, "2026-11-01", "m", None, None, {}),
    "projection": daily(records.Project, "2026-11-01", "m", 1, [], {}),
    "publication": daily(records.Publish, "2026-11-01", "m", 1),
    "version": daily(records.Version, 1, "2026-11-01", "m", "d", None, None),
    "pointer": daily(records.Pointer, 1, "m", "d", "f", {}),
    "packed file": Kind(packed, unpack, exits.DAMAGED, "load it with the eigenmill that packed it"),
    "compact model": Kind(packed, restored, exits.DAMAGED, "eigenmill-arrays 1, found 'eigenmill-arrays 2'"),
}


def newer(name: str, path: Path) -> None:
    """Turn a file into one of the next version."""
    if name == "packed file":
        content = path.read_bytes()
        path.write_bytes(content[:5] + b"\x09" + content[6:])
    elif name in ("checkpoint", "compact model"):
        path = path.with_suffix(".model") if name == "compact model" else path
        arrays, meta = load_arrays(path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("eigenmill.reduce.storage.array_file.CHECKPOINT", "eigenmill-arrays 2")
            save_arrays(path, arrays, meta)
    elif name == "state":
        changed = {"version": 2, "unheard_of": 5}
        model = load(path.parent)
        record = model.state()
        assert record is not None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("eigenmill.reduce.format.Format.changes", lambda self: changed)
            model.save(path.parent, state=True, overwrite=True)
    else:
        value = json.loads(path.read_text())
        key = next((key for key in ("version_of_format", "version") if key in value), "version")
        path.write_text(json.dumps({**value, key: value.get(key, 1) + 1}))


@pytest.mark.parametrize("name", KINDS)
def test_a_newer_file_is_refused_or_made_again(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = KINDS[name]
    newer(name, known.write(tmp_path))
    with caplog.at_level(logging.WARNING, "eigenmill"), told_of_remade() as remade:
        if known.code is None:
            known.read(tmp_path)
            assert known.said in caplog.text
            assert [known.said in each for each in remade] == [True]
            return
        with pytest.raises(EigenmillError, match=r"^expected .*found") as found:
            known.read(tmp_path)
    assert known.said in str(found.value)
    assert exits.code_of(found.value) == known.code
    assert remade == []


def test_every_kind_of_daily_record_is_here() -> None:
    kinds = {each.name for each in records.Record.__subclasses__()}
    assert len(kinds) == sum(each.said == "of version 1 or 2, found" for each in KINDS.values())
