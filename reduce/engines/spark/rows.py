"""What travels between the driver and Spark's Python workers: rows of bytes, and what the workers do with them.

A result is one row per piece (:mod:`eigenmill.reduce.engines.wire`), an error of ours one row with its kind and
message, so that Spark does not try bad data four times. Functions made here are what Spark pickles: they refer to this
package by name, and hold bytes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from eigenmill.reduce import errors
from eigenmill.reduce.engines.ship import unpack, unpack_common
from eigenmill.reduce.engines.tasks import attempt, compare_versions, merge_trees, total_of
from eigenmill.reduce.engines.wire import from_bytes, joined, pieces, to_bytes
from eigenmill.reduce.errors import EngineError
from eigenmill.reduce.output.sink import PartRecord
from eigenmill.reduce.storage.about import versions

SCHEMA = "key long, piece int, payload binary, error string"
RETRIES = 3
"""How often a task is tried again after an error of the file system that may pass."""
Mapper = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def mapper(shipped: list[bytes], common: bytes, work: Callable[[Any], bytes], expected: dict[str, str]) -> Mapper:
    """For ``mapInArrow`` over a range: ``work`` on the shipped value with each number."""

    def task(key: int) -> bytes:
        check(expected)
        value = unpack(shipped[key], unpack_common(common))
        return attempt(lambda: work(value), RETRIES)

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for key in batch.column(0).to_pylist():
                yield from answer(key, partial(task, key))

    return run


def merger(payload: bytes, total: bool) -> Callable[[Any, pa.Table], pa.Table]:
    """For ``applyInArrow``: the trees of a group as one tree, or as its total."""

    def merge(key: Any, table: pa.Table) -> pa.Table:
        wrong = [e for e in table.column("error").to_pylist() if e is not None]
        group = key[0].as_py()
        if wrong:
            return pa.Table.from_batches([_batch(group, 0, None, min(wrong))])

        def work() -> bytes:
            pass_ = unpack(payload)
            tree = merge_trees(pass_, (from_bytes(p, pass_) for _, p in rows_of(table)))
            return to_bytes(total_of(pass_, tree) if total else tree)

        return pa.Table.from_batches(list(answer(group, work)))

    return merge


def rows_of(table: pa.Table) -> Iterator[tuple[int, bytes]]:
    """(key, payload) of a table of results, in the order of keys."""
    columns = (table.column(c).to_pylist() for c in ("key", "piece", "payload"))
    return joined(zip(*columns, strict=True))


def answer(key: int, work: Callable[[], bytes]) -> Iterator[pa.RecordBatch]:
    """The result of ``work`` as rows, or its error as one."""
    try:
        result = work()
    except errors.EigenmillError as error:
        yield _batch(key, 0, None, json.dumps([f"{key:012d}", type(error).__name__, str(error)]))
        return
    for number, piece in enumerate(pieces(result)):
        yield _batch(key, number, piece, None)


def _batch(key: int, number: int, piece: bytes | None, error: str | None) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "key": pa.array([key], pa.int64()),
            "piece": pa.array([number], pa.int32()),
            "payload": pa.array([piece], pa.binary()),
            "error": pa.array([error], pa.string()),
        }
    )


def check(expected: dict[str, str]) -> None:
    """Refuse to work with other versions than the driver's."""
    compare_versions(expected, _versions(), "a Python worker")


@functools.cache
def _versions() -> dict[str, str]:
    return versions()


def fold(task: Callable[[], Any]) -> bytes:
    """A tree."""
    return to_bytes(task())


def write(task: Callable[[], PartRecord]) -> bytes:
    """The number and rows of a part."""
    record = task()
    return json.dumps([record.index, record.rows]).encode()


def rows(task: Callable[[], Any]) -> bytes:
    """An array."""
    found: bytes = task().tobytes()
    return found


def restored(error: str) -> errors.EigenmillError:
    """The error that a row tells of."""
    _, kind, message = json.loads(error)
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, errors.EigenmillError):
        return found(message)
    return EngineError(message)
