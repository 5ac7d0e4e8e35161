"""Tasks in threads of this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

import pyarrow as pa

from eigenmill.reduce.engines.base import one_blas_thread
from eigenmill.reduce.engines.tasks import Task, Watch
from eigenmill.reduce.rows.blocks import Workspace

T = TypeVar("T")
AHEAD = 4
"""Tasks per worker that may start after the oldest one that runs: states that wait for a slow one would pile up."""


def run_tasks(tasks: Sequence[Task[T]], workers: int, advance: Watch, done: Callable[[int, T], object]) -> None:
    """Run all tasks, at most ``workers`` at once, started in order.

    An error stops all later tasks; those before it go on, so that it is the first task's error that is raised, with
    one worker or many.

    Args:
        tasks: each is made when its turn comes.
        workers: threads; one is the caller's own.
        advance: told of the rows of every block.
        done: called with the number and the result of a task, by the thread that has run it.
    """
    workers = min(workers, len(tasks))
    threads = _Threads(tasks, workers, advance, done)
    if workers <= 1:
        threads.serve()
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix="eigenmill") as pool:
            futures = [pool.submit(threads.serve) for _ in range(workers)]
            try:
                for future in futures:
                    future.result()
            finally:
                # Reached by Ctrl-C too: all stop at their next block.
                if not all(future.done() for future in futures):
                    threads.stop()
    if threads.errors:
        raise threads.errors[min(threads.errors)]


class _StoppedError(Exception):
    """Ends a task after one that has failed."""


class _Threads(Generic[T]):
    """The threads of one run, and where they are.

    Attributes:
        started: tasks that have been started. end: the number of tasks, or of the first one that has failed.
        running: numbers of the tasks that run. errors: by number of the task.
    """

    def __init__(
        self, tasks: Sequence[Task[T]], workers: int, advance: Watch, done: Callable[[int, T], object]
    ) -> None:
        self.tasks, self.workers, self.advance, self.done = tasks, workers, advance, done
        self.turn = threading.Condition()
        self.started, self.end = 0, len(tasks)
        self.running, self.errors = set[int](), dict[int, BaseException]()

    def stop(self) -> None:
        """Let all tasks end at their next block."""
        with self.turn:
            self.end = 0
            self.turn.notify_all()

    def serve(self) -> None:
        """Take tasks until none is left or one fails."""
        try:
            with one_blas_thread():
                workspace = Workspace()
                while (number := self._take()) is not None:
                    with self._running(number):
                        if number < self.end:
                            self.done(number, self.tasks[number](workspace, partial(self._watch, number)))
        finally:
            # What the allocator keeps for a thread that has ended, later threads would not use.
            pa.default_memory_pool().release_unused()

    def _take(self) -> int | None:
        """The number of the next task, when its turn has come."""
        with self.turn:
            number = self.started
            if number >= self.end:
                return None
            self.started += 1
            self.running.add(number)
            while number < self.end and number - min(self.running) > AHEAD * self.workers:
                self.turn.wait()
            return number

    @contextlib.contextmanager
    def _running(self, number: int) -> Iterator[None]:
        """While a task runs: an error is kept, and ends all later tasks."""
        try:
            yield
        except _StoppedError:
            pass
        except BaseException as error:
            with self.turn:
                self.errors[number], self.end = error, min(self.end, number)
        finally:
            with self.turn:
                self.running.discard(number)
                self.turn.notify_all()

    def _watch(self, number: int, rows: int) -> None:
        """Told of every block of a task; raises when the task is to stop."""
        if number >= self.end:
            raise _StoppedError
        self.advance(rows)
