"""The embedded engine: threads of this process fold leaves; Arrow and BLAS release the GIL.

With ``work=`` a directory, the merge tree is saved there every ``save_every`` seconds, when a scan ends and when it
is interrupted, and a later run of the same pass over the same input goes on from it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from eigenmill.reduce.blocks import Array, Workspace
from eigenmill.reduce.catalog import Fragment, Some
from eigenmill.reduce.engines.base import (
    Engine,
    Leaf,
    Merger,
    Progress,
    Session,
    Tree,
    fold_leaf,
    one_blas_thread,
    plan_leaves,
    scan_name,
    staged,
)
from eigenmill.reduce.engines.checkpoint import Checkpoint
from eigenmill.reduce.engines.kept import Kept
from eigenmill.reduce.engines.memory import estimate, parse_bytes, resident, workers_that_fit
from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.manifest import Manifest
from eigenmill.reduce.matrix import Matrix
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.places import absolute
from eigenmill.reduce.sink import Sink

S = TypeVar("S")
R = TypeVar("R")
T = TypeVar("T")
AHEAD = 4
Watch = Callable[[int], None]
"""Told of every block's rows; raises when the scan is to stop."""


class LocalEngine(Engine):
    """Runs passes in threads of this process.

    Args:
        workers: threads; by default the number of CPUs this process may use.
        memory: budget of the whole process, bytes or text such as ``"2GiB"``. A plan that needs more with every
            number of workers is refused before any data is read; fewer workers are taken when that helps.
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

    def session(self, reserve: int | None = None) -> LocalSession:
        return LocalSession(self, reserve)


class LocalSession(Session):
    """Scans in threads of this process, with what is decoded kept between them when ``reserve`` is given."""

    engine: LocalEngine

    def __init__(self, engine: LocalEngine, reserve: int | None = None) -> None:
        super().__init__(engine)
        self._kept: Kept | None = None
        if reserve is not None:
            self._kept, self._held = Kept(engine.work, engine.disk), resident() + reserve

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()

    def run(self, pass_: Pass[S, R], data: Matrix, *, tree: Tree[S] | None = None) -> R:
        engine, process = self.engine, None
        if self._kept is not None:
            # The allocator still has what the last scan has freed, and this one takes it again: counted as held by
            # the process it would leave room for fewer workers.
            held = self._held + self._kept.bytes
            process = min(resident(), held)
        workers = workers_that_fit(pass_, data, engine.workers, engine.memory, process)
        if self._kept is not None and data.source.files:
            memory, disk = engine.spare(estimate(pass_, data, workers, process=held).peak)
            if memory or disk or self._kept.bytes:
                data = self._kept.over(data, memory)
        keep, tree = tree is not None, Tree() if tree is None else tree
        leaves = plan_leaves(data, after=tree)
        with staged(engine.progress, scan_name(pass_), data.n_rows), one_blas_thread():
            self._fold(pass_, data, leaves, tree, workers)
            return pass_.finalize(tree.total(pass_, keep=keep))

    def write(self, data: Matrix, sink: Sink) -> Manifest:
        workers = workers_that_fit(None, data, self.engine.workers, self.engine.memory)
        job = sink.open(data)
        rows = sum(part.rows for part in job.pending)
        with staged(self.engine.progress, "write", rows), one_blas_thread():
            self._map(partial(job.write_part, data), job.pending, min(workers, max(len(job.pending), 1)))
        return job.commit()

    def collect(self, data: Matrix) -> Array:
        parts: list[Array] = [np.empty((0, data.n_features), data.dtype)] * len(data.fragments)

        def task(fragment: Fragment, workspace: Workspace, watch: Watch) -> None:
            blocks = [b.dense(data.dtype).copy() for b in data.blocks(fragment, workspace)]
            parts[fragment.index] = np.concatenate(blocks) if blocks else parts[fragment.index]

        with one_blas_thread():
            self._map(task, data.fragments, self.engine.workers)
        return np.concatenate(parts) if parts else np.empty((0, data.n_features), data.dtype)

    def _fold(self, pass_: Pass[S, Any], data: Matrix, leaves: Sequence[Leaf], tree: Tree[S], workers: int) -> None:
        merger = Merger(pass_, tree)
        work, every = self.engine.work, self.engine.save_every
        checkpoint = None if work is None else Checkpoint(work, pass_, data, tree, merger.lock, every)
        if not leaves or (checkpoint is not None and checkpoint.resume()):
            return
        continued, tree.open = tree.open, None

        def task(leaf: Leaf, workspace: Workspace, watch: Watch) -> None:
            state = fold_leaf(pass_, data, leaf, workspace, continued if leaf.continues else None, watch)
            if leaf.full:
                merger.add(leaf.index, state)
            else:
                tree.open = state
            if checkpoint is not None:
                checkpoint.save_if_due()

        try:
            left = (i for i, leaf in enumerate(leaves) if not merger.covered(leaf.index))
            self._map(task, Some(leaves, left), workers)
        except BaseException:
            if checkpoint is not None:
                checkpoint.save_if_due(now=True)
            raise
        last = leaves[-1]
        tree.leaves = last.index + (1 if last.full else 0)
        tree.open_rows = 0 if last.full else last.rows
        if checkpoint is not None:
            checkpoint.save(whole=True)

    def _map(self, task: Callable[[T, Workspace, Watch], Any], items: Sequence[T], workers: int) -> None:
        """Run ``task`` on every item, at most ``workers`` at once, started in order.

        An error stops all later items; those before it go on, so that it is the first item's error that is raised,
        with one worker or many. No item starts more than ``AHEAD`` per worker after the oldest that runs: states that
        wait for a slow one would pile up.
        """
        progress, turn = self.engine.progress, threading.Condition()
        running, errors = set[int](), dict[int, BaseException]()
        started, end = 0, len(items)

        def watch_of(number: int) -> Watch:
            def watch(rows: int) -> None:
                if number >= end:
                    raise _StoppedError
                if progress is not None:
                    progress.advance(rows)

            return watch

        def loop() -> None:
            try:
                with one_blas_thread():
                    serve()
            finally:
                # What the allocator keeps for a thread that has ended, later threads would not use.
                pa.default_memory_pool().release_unused()

        def serve() -> None:
            nonlocal started, end
            workspace = Workspace()
            while True:
                with turn:
                    number = started
                    if number >= end:
                        return
                    started += 1
                    running.add(number)
                    while number < end and number - min(running) > AHEAD * workers:
                        turn.wait()

                try:
                    if number < end:
                        task(items[number], workspace, watch_of(number))
                except _StoppedError:
                    return
                except BaseException as error:
                    with turn:
                        errors[number], end = error, min(end, number)
                    return
                finally:
                    with turn:
                        running.discard(number)
                        turn.notify_all()

        if min(workers, len(items)) <= 1:
            loop()
        else:
            with ThreadPoolExecutor(min(workers, len(items)), thread_name_prefix="eigenmill") as pool:
                futures = [pool.submit(loop) for _ in range(min(workers, len(items)))]
                try:
                    for future in futures:
                        future.result()
                finally:
                    # Reached by Ctrl-C too: all stop at their next block.
                    if not all(future.done() for future in futures):
                        with turn:
                            end = 0
                            turn.notify_all()
        if errors:
            raise errors[min(errors)]


class _StoppedError(Exception):
    """Ends an item after one that has failed."""
