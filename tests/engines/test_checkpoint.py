"""Checkpoints of the local engine: when they are written, of which scans, and that none is torn."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eigenmill.reduce import DataError, Dataset, connect
from eigenmill.reduce.engines.base import Tree
from tests.engines.contract import bytes_of, open_input, pass_of, reference
from tests.engines.counting import WatchedSource, failing_at
from tests.support.formats import use


@pytest.fixture(autouse=True)
def tiny_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, leaf_bytes=1)  # a leaf is 12 rows: two row groups


def states(work: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(work.glob("**/*.state"))]


def watched(data: Dataset, tell: Any) -> Dataset:
    return replace(data, source=WatchedSource(data.source, tell))  # type: ignore[arg-type]


def part_of(data: Dataset, files: range) -> Dataset:
    return replace(data, source=data.source.only(files))


@pytest.mark.parametrize("kind", ["gram", "rows"])
@pytest.mark.parametrize("past", ["nodes and an open leaf", "an open leaf", "nodes"])
def test_a_scan_that_goes_on_from_a_day_is_saved_only_when_whole(kind: str, past: str, tmp_path: Path) -> None:
    """The leaves of that day could not be folded again, if its states were in flight when the scan was stopped."""
    data, work = open_input("missing", tmp_path), tmp_path / "work"
    pass_ = pass_of(kind, data)

    def yesterday() -> Tree[Any]:
        tree: Tree[Any] = Tree()
        reference().run(pass_, part_of(data, range(1)), tree=tree)
        assert tree.nodes
        assert tree.open is not None
        if past == "an open leaf":
            tree.nodes, tree.leaves = {}, 0
        elif past == "nodes":
            tree.open, tree.open_rows = None, 0
        return tree

    today = part_of(data, range(1, 3))
    whole = bytes_of(reference().run(pass_, today, tree=yesterday()))
    engine = connect("local", workers=1, work=work, save_every=0)
    with pytest.raises(DataError, match="just once"):
        engine.run(pass_, failing_at(today, 11, DataError("just once")), tree=yesterday())
    assert states(work) == []
    assert bytes_of(engine.run(pass_, today, tree=yesterday())) == whole
    assert len(states(work)) == 1
    # What is whole is taken over, for this past alone.
    never = failing_at(today, 0, DataError("never"))
    assert bytes_of(engine.run(pass_, never, tree=yesterday())) == whole
    with pytest.raises(DataError, match="never"):
        engine.run(pass_, never)


@pytest.mark.parametrize("save_every", [0.0, 1e9])
def test_a_stopped_scan_reads_only_what_was_not_at_rest(save_every: float, tmp_path: Path) -> None:
    data, work = open_input("scalar", tmp_path), tmp_path / "work"
    pass_ = pass_of("gram", data)
    engine = connect("local", workers=1, work=work, save_every=save_every)
    with pytest.raises(DataError, match="just once"):
        engine.run(pass_, failing_at(data, 11, DataError("just once")))
    assert len(states(work)) == 1
    read = list[int]()
    found = engine.run(pass_, watched(data, lambda fragment, block: read.append(fragment.index)))
    assert bytes_of(found) == bytes_of(reference().run(pass_, data))
    assert sorted(set(read)) == list(range(read[0], len(data.fragments)))
    assert read[0] in (10, 11)  # a leaf is two fragments


def test_it_is_saved_when_the_time_has_come_and_not_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that gains 10 s with every leaf; saves are due when more than 30 s have gone by."""
    data, work = open_input("scalar", tmp_path), tmp_path / "work"
    pass_, now = pass_of("gram", data), [0.0]
    monkeypatch.setattr("eigenmill.reduce.engines.checkpoint.time.monotonic", lambda: now[0])
    seen, read = list[tuple[float, bytes]](), itertools.count()

    def tell(fragment: Any, block: Any) -> None:
        if next(read) % 2 == 0:  # the first block of a leaf
            seen.extend((now[0], content) for content in states(work))
            now[0] += 10.0

    connect("local", workers=1, work=work, save_every=30.0).run(pass_, watched(data, tell))
    first = dict[bytes, float]()
    for time, content in seen:
        first.setdefault(content, time)
    # At 30 s it was not yet due, nor 30 s after the first save.
    assert list(first.values()) == [40.0, 80.0]
    assert len(states(work)) == 1
    assert states(work)[0] not in first


class Nodes(dict[Any, Any]):
    """The nodes of a tree, which note whether another thread changes them while they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.reading, self.reads, self.torn = False, 0, threading.Event()

    def items(self) -> Any:
        self.reading = True
        if len(self):
            self.reads += 1
            if self.reads < 6:
                self.torn.wait(0.1)  # time enough for a thread that does not wait
        found = list(super().items())
        self.reading = False
        return found

    def __iter__(self) -> Iterator[Any]:
        return iter([key for key, _ in self.items()])

    def pop(self, *args: Any) -> Any:
        if self.reading:
            self.torn.set()
        return super().pop(*args)

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.reading:
            self.torn.set()
        super().__setitem__(key, value)


def test_no_leaf_enters_the_tree_while_it_is_saved(tmp_path: Path) -> None:
    data, tree = open_input("scalar", tmp_path), Tree[Any]()
    pass_ = pass_of("gram", data)
    tree.nodes = nodes = Nodes()
    found = connect("local", workers=2, work=tmp_path / "work", save_every=0.0).run(pass_, data, tree=tree)
    assert nodes.reads > 5
    assert not nodes.torn.is_set()
    assert bytes_of(found) == bytes_of(reference().run(pass_, data))
