"""What tasks on a cluster are made of: they may run twice, their results arrive in any order, errors may pass."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eigenmill.reduce import DataError, connect
from eigenmill.reduce.engines.base import Tree, tree_arrays
from eigenmill.reduce.engines.tasks import attempt, compare_versions, fold_tasks
from eigenmill.reduce.engines.wire import from_bytes, joined, pieces, to_bytes
from eigenmill.reduce.errors import ChangedInputError, EngineError, OutputError
from eigenmill.reduce.storage.digest import digest_of
from tests.engines.contract import KINDS, open_input, pass_of
from tests.support.formats import use


def digest_of_tree(tree: Tree[Any]) -> str:
    arrays, meta = tree_arrays(tree)
    return digest_of([{name: arrays[name] for name in sorted(arrays)}, meta])


# A cluster runs a task again whenever it likes: on a slow worker's behalf, or because a result was lost.


@pytest.fixture
def tiny_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, leaf_bytes=1)  # a leaf is 12 rows


@pytest.mark.usefixtures("tiny_leaves")
@pytest.mark.parametrize("kind", KINDS)
def test_a_fold_that_goes_on_from_an_open_leaf_may_run_twice(kind: str, tmp_path: Path) -> None:
    data = open_input("missing", tmp_path)
    pass_, yesterday = pass_of(kind, data), Tree[Any]()
    connect("local", workers=1).run(pass_, replace(data, source=data.source.only(range(1))), tree=yesterday)
    assert yesterday.open is not None
    assert yesterday.open_rows
    before = digest_of_tree(yesterday)
    task = fold_tasks(pass_, replace(data, source=data.source.only(range(1, 3))), yesterday, 1)[0]
    first, second = digest_of_tree(task()), digest_of_tree(task())
    assert first == second
    assert digest_of_tree(yesterday) == before


@pytest.mark.usefixtures("tiny_leaves")
@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_survives_the_way_to_the_driver(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, tree = open_input("missing", tmp_path), Tree[Any]()
    pass_ = pass_of(kind, data)
    connect("local", workers=1).run(pass_, data, tree=tree)
    monkeypatch.setattr("eigenmill.reduce.engines.wire.PIECE", 100)
    rows = [(0, i, piece) for i, piece in enumerate(pieces(to_bytes(tree)))]
    assert len(rows) > 2
    ((_, payload),) = joined(reversed(rows))
    assert digest_of_tree(from_bytes(payload, pass_)) == digest_of_tree(tree)


def test_pieces_arrive_in_any_order_and_more_than_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eigenmill.reduce.engines.wire.PIECE", 3)
    payloads = {key: bytes(range(size)) for key, size in {10: 40, 9: 4, 2: 0, 0: 3}.items()}
    rows = [(key, i, piece) for key, payload in payloads.items() for i, piece in enumerate(pieces(payload))]
    assert [sum(row[0] == key for row in rows) for key in payloads] == [14, 2, 1, 1]
    draw = random.Random(0)
    for _ in range(20):
        # Of a task that ran twice, all pieces come twice, or the second time only some, before the worker died.
        again = draw.sample(rows, draw.randint(0, len(rows)))
        assert list(joined(draw.sample([*rows, *again], len(rows) + len(again)))) == sorted(payloads.items())


# Errors of the file system that may pass.


class Failing:
    """Work that raises each of ``errors`` in turn, then gives 42; ``calls`` counts."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = iter(errors), 0

    def __call__(self) -> int:
        self.calls += 1
        for error in self.errors:
            raise error
        return 42


def caused(error: Exception, cause: Exception | None) -> Exception:
    error.__cause__ = cause
    return error


PASSING: dict[str, Callable[[], Exception]] = {
    "of the system": lambda: OSError(5, "the store does not answer"),
    "of ours, for a store that does not answer": lambda: caused(DataError("cannot read"), OSError(5, "no answer")),
    "of ours, for a connection that was reset": lambda: caused(DataError("cannot read"), ConnectionResetError("peer")),
    "of ours about an output, for the same": lambda: caused(OutputError("cannot write"), TimeoutError("store")),
}
"""Made anew for each attempt, as a traceback grows with every raise."""

LASTING: dict[str, Callable[[], Exception]] = {
    "data": lambda: DataError("wrong"),
    "changed data": lambda: caused(ChangedInputError("changed"), ValueError("footer")),
    "an output of another job": lambda: OutputError("belongs to another job"),
    "no file": lambda: FileNotFoundError(2, "gone"),
    "no file, in words of ours": lambda: caused(DataError("cannot read"), FileNotFoundError(2, "gone")),
    "no permission": lambda: PermissionError(13, "denied"),
    "no permission, in words of ours": lambda: caused(OutputError("cannot write"), PermissionError(13, "denied")),
    "no directory": lambda: caused(OutputError("cannot write"), NotADirectoryError(20, "file")),
    "a directory": lambda: caused(DataError("cannot read"), IsADirectoryError(21, "directory")),
    "a defect": lambda: ZeroDivisionError("division"),
}


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits, which take no time."""
    found: list[float] = []
    monkeypatch.setattr("eigenmill.reduce.engines.tasks.time.sleep", found.append)
    return found


@pytest.mark.parametrize("kind", PASSING)
def test_what_may_pass_is_tried_again(kind: str, slept: list[float], caplog: pytest.LogCaptureFixture) -> None:
    work = Failing(*(PASSING[kind]() for _ in range(3)))
    with caplog.at_level(logging.WARNING, "eigenmill"):
        assert attempt(work, 3) == 42
    assert (work.calls, slept) == (4, [0.5, 1.0, 2.0])
    assert len(caplog.records) == 3
    assert all(str(PASSING[kind]()) in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("retries", [0, 1, 2])
def test_as_often_as_was_asked(kind: str, retries: int, slept: list[float]) -> None:
    errors = [PASSING[kind]() for _ in range(retries + 1)]
    work = Failing(*errors)
    with pytest.raises(type(errors[-1])) as found:
        attempt(work, retries)
    assert found.value is errors[-1]
    assert (work.calls, slept) == (retries + 1, [0.5, 1.0][:retries])


@pytest.mark.parametrize("kind", LASTING)
def test_what_lasts_is_told_at_once(kind: str, slept: list[float]) -> None:
    error = LASTING[kind]()
    work = Failing(error)
    with pytest.raises(type(error)) as found:
        attempt(work, 3)
    assert found.value is error
    assert (work.calls, slept) == (1, [])


def test_an_error_that_lasts_ends_the_trying(slept: list[float]) -> None:
    work = Failing(OSError(5, "no answer"), DataError("wrong"), OSError(5, "no answer"))
    with pytest.raises(DataError, match="wrong"):
        attempt(work, 3)
    assert (work.calls, slept) == (2, [0.5])


# Versions of workers.

MINE = {"eigenmill": "1.0", "numpy": "2.4.6", "pyarrow": "26.0.0", "blas": "openblas 0.3.30 Haswell"}


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    with caplog.at_level(logging.WARNING, "eigenmill"):
        yield lambda: [record.getMessage() for record in caplog.records]


def test_equal_versions_are_taken_in_silence(warned: Any) -> None:
    compare_versions(MINE, dict(MINE), "a worker")
    compare_versions(MINE, {**MINE, "scipy": "1.17"}, "a worker")  # a worker may tell of more
    assert warned() == []


def test_another_kernel_is_a_warning(warned: Any) -> None:
    compare_versions(MINE, {**MINE, "blas": "openblas 0.3.30 Zen"}, "the worker w-1")
    (message,) = warned()
    assert "the worker w-1 runs BLAS openblas 0.3.30 Zen, here openblas 0.3.30 Haswell" in message


@pytest.mark.parametrize("blas", [MINE["blas"], "openblas 0.3.30 Zen"])
@pytest.mark.parametrize(("name", "version"), [("numpy", "2.4.5"), ("eigenmill", "1.0.1"), ("pyarrow", None)])
def test_another_version_is_refused(name: str, version: str | None, blas: str, warned: Any) -> None:
    theirs = {**MINE, "blas": blas, name: version}
    if version is None:
        del theirs[name]
    with pytest.raises(EngineError, match=f"{name}.*{MINE[name]}.*on the worker w-1, found .*install the same"):
        compare_versions(MINE, theirs, "the worker w-1")  # type: ignore[arg-type]
    assert warned() == []


def test_fewer_retries_than_none(slept: list[float]) -> None:
    with pytest.raises(EngineError, match="retries >= 0"):
        attempt(lambda: np.zeros(1), -1)
