"""The embedded engine: threads of this process fold leaves; Arrow and BLAS release the GIL.

With ``work=`` a directory, the merge tree is saved there every ``save_every`` seconds, when a scan ends and when it
is interrupted, and a later run of the same pass over the same input goes on from it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from eigenmill.reduce.engines.base import (
    Engine,
    Merger,
    Progress,
    Session,
    Tree,
    one_blas_thread,
    plan_leaves,
    scan_name,
    told_scan,
)
from eigenmill.reduce.engines.checkpoint import Checkpoint
from eigenmill.reduce.engines.ledger import LEDGER
from eigenmill.reduce.engines.local.kept import Kept
from eigenmill.reduce.engines.memory import Work, estimate, parse_bytes, refusal, within
from eigenmill.reduce.engines.tasks import Watch, fold_tasks, rows_tasks, write_tasks
from eigenmill.reduce.engines.threads import run_tasks
from eigenmill.reduce.errors import ConfigError, DoesNotFitError
from eigenmill.reduce.output.manifest import Manifest
from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.rows.blocks import Array
from eigenmill.reduce.sources.matrix import Matrix
from eigenmill.reduce.storage.places import absolute
from eigenmill.reduce.storage.sequences import Subset

S = TypeVar("S")
R = TypeVar("R")


class LocalEngine(Engine):
    """Runs passes in threads of this process.

    Args:
        workers: threads; by default the number of CPUs this process may use.
        memory: budget of the whole process, bytes or text such as ``"2GiB"``. A plan that needs more with every
            number of workers is refused before any data is read; fewer workers are taken when that helps. Scans that
            run at once share it, and one for which too little is left waits (:mod:`eigenmill.reduce.engines.ledger`).
        work: directory for checkpoints of scans in progress; none by default.
        disk: bytes in ``work``, or text such as ``"20GiB"``, for decoded blocks that memory has no room for between
            the scans of an iteration; none by default. They vanish with the fit, however it ends.
        save_every: seconds between checkpoints.
        progress: told of scans and rows.
    """

    kind = "local"

    def __init__(
        self,
        workers: int | None = None,
        memory: int | str | None = None,
        *,
        work: str | os.PathLike[str] | None = None,
        disk: int | str | None = None,
        save_every: float = 30.0,
        progress: Progress | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"expected workers >= 1, found {workers}")
        self._workers = workers or len(os.sched_getaffinity(0))
        self.memory = parse_bytes(memory)
        self.work = None if work is None else Path(absolute(work))
        self.disk = parse_bytes(disk) or 0
        if self.disk and self.work is None:
            raise ConfigError("expected work= with disk=, found none; name a directory on a local disk")
        self.save_every = save_every
        self.progress = progress

    def __repr__(self) -> str:
        return f"LocalEngine(workers={self.workers}, memory={self.memory})"

    @property
    def workers(self) -> int:
        return self._workers

    def memory_limit(self) -> int | None:
        return self.memory

    def spare(self, peak: int) -> tuple[int, int]:
        return 0 if self.memory is None else max(self.memory - peak, 0), self.disk

    def session(self, reserve: int | None = None, need: int = 0) -> LocalSession:
        return LocalSession(self, reserve, need)


class LocalSession(Session):
    """Scans in threads of this process, with what is decoded kept between them when ``reserve`` is given."""

    engine: LocalEngine

    def __init__(self, engine: LocalEngine, reserve: int | None = None, need: int = 0) -> None:
        super().__init__(engine)
        self._kept = None if reserve is None else Kept(engine.work, engine.disk)
        self._claim = None if engine.memory is None else LEDGER.open(engine.memory, reserve, need)

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
        if self._claim is not None:
            LEDGER.close(self._claim)

    def run(self, pass_: Pass[S, R], data: Matrix, *, tree: Tree[S] | None = None) -> R:
        with self._claimed(pass_, data) as (workers, room):
            data = data if self._claim is None else within(pass_, data)
            if self._kept is not None and data.source.files and (room or self.engine.disk or self._kept.bytes):
                data = self._kept.over(data, room)
            keep, tree = tree is not None, Tree() if tree is None else tree
            with told_scan(self.engine.progress, scan_name(pass_), data.n_rows) as advance, one_blas_thread():
                self._fold(pass_, data, tree, workers, advance)
                return pass_.finalize(tree.total(pass_, keep=keep))

    def write(self, data: Matrix, sink: Sink) -> Manifest:
        writing = sink.writing(data)
        with self._claimed(writing, data) as (workers, _):
            data = data if self._claim is None else within(writing, data)
            job = sink.open(data)
            rows = sum(part.rows for part in job.pending)
            with told_scan(self.engine.progress, "write", rows) as advance, one_blas_thread():
                run_tasks(write_tasks(data, job, here=True), workers, advance, lambda number, record: None)
            return job.commit()

    def collect(self, data: Matrix) -> Array:
        parts: list[Array] = [np.empty((0, data.n_features), data.dtype)] * len(data.fragments)
        with one_blas_thread():
            run_tasks(rows_tasks(data), self.engine.workers, lambda rows: None, parts.__setitem__)
        return np.concatenate(parts) if parts else np.empty((0, data.n_features), data.dtype)

    @contextlib.contextmanager
    def _claimed(self, work: Work, data: Matrix) -> Iterator[tuple[int, int]]:
        """(workers for a scan, bytes for further blocks that are kept), claimed until the scan ends."""
        claim, kept = self._claim, self._kept
        if claim is None:
            yield self.engine.workers, 0
            return
        if kept is not None and LEDGER.crowded:
            kept.forget_all()

        @lru_cache
        def size(workers: int) -> int:
            return estimate(work, data, workers, process=0).peak

        def refused(process: int) -> DoesNotFitError:
            return refusal(estimate(work, data, 1, process=process), data, claim.limit)

        try:
            yield LEDGER.begin(claim, size, self.engine.workers, 0 if kept is None else kept.bytes, refused)
        finally:
            LEDGER.end(claim, 0 if kept is None else kept.bytes)

    def _fold(self, pass_: Pass[S, Any], data: Matrix, tree: Tree[S], workers: int, advance: Watch) -> None:
        merger, work, every = Merger(pass_, tree), self.engine.work, self.engine.save_every
        checkpoint = None if work is None else Checkpoint(work, pass_, data, tree, merger.lock, every)
        tasks, leaves = fold_tasks(pass_, data, tree), plan_leaves(data, after=tree)
        if not tasks or (checkpoint is not None and checkpoint.resume()):
            return
        tree.open = None  # the first task has it, and goes on from it

        def done(number: int, found: Tree[S]) -> None:
            merger.take(found)
            if checkpoint is not None:
                checkpoint.save_if_due()

        try:
            left = (i for i in range(len(tasks)) if not merger.covered(leaves.first + i))
            run_tasks(Subset(tasks, left), workers, advance, done)
        except BaseException:
            if checkpoint is not None:
                checkpoint.save_if_due(now=True)
            raise
        last = leaves[-1]
        tree.leaves, tree.open_rows = last.index + last.full, 0 if last.full else last.rows
        if checkpoint is not None:
            checkpoint.save(whole=True)
