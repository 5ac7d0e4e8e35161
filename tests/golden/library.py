"""What the rooms are written with: the packages by name, a count of rows read, and ways to stop a run."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from tests.support.progress import Recorder, Scan

HERE = "/proc/self/cwd"
"""The working directory as an absolute path that is the same for everybody."""


class StoppedError(Exception):
    """Stands for whatever stops a run."""


class Counter(Recorder):
    """Stops a run at will.

    Args:
        stop: (scan, rows): stop in the scan with that number, from 1, as soon as it has seen so many rows.
    """

    def __init__(self, stop: tuple[int, int] | None = None) -> None:
        super().__init__(self._stop)
        self.stop = stop

    def _stop(self, scan: Scan) -> None:
        if self.stop is not None and self.stop[0] == len(self.scans) and scan.rows >= self.stop[1]:
            raise StoppedError


class Library:
    """The packages under test: ``prefix`` is empty for the kept wheel, ``eigenmill.`` for today's code."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.reduce = self.module("reduce")

    def module(self, name: str) -> Any:
        return importlib.import_module(self.prefix + name)

    def data(self, path: str | list[str] = "small", **options: Any) -> Any:
        """One of the inputs, or a list of files below them."""
        found: Any = f"{HERE}/inputs/{path}" if isinstance(path, str) else [f"{HERE}/inputs/{each}" for each in path]
        return self.reduce.Dataset.from_parquet(found, **options)

    def engine(self, **options: Any) -> Any:
        return self.reduce.connect("local", **{"workers": 1, **options})

    def command(self, *arguments: str, code: int = 0) -> Any:
        """What a command prints with ``--json``, run in this process."""
        from typer.testing import CliRunner

        result = CliRunner().invoke(self.module("jobs.cli").app, [*arguments, "--json"])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)


def stopped(run: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """A call that must not come to its end."""
    try:
        run(*arguments, **options)
    except StoppedError:
        return
    raise AssertionError("expected the run to be stopped, found it finished")


@contextlib.contextmanager
def stop_before(pattern: str, number: int = 1) -> Iterator[None]:
    """No file appears any more from the ``number``-th one on whose path is like ``pattern``."""
    replace, left = os.replace, number

    def refuse(source: Any, target: Any, **options: Any) -> None:
        nonlocal left
        left -= left > 0 and fnmatchcase(os.fspath(target), pattern)
        if not left:
            raise StoppedError
        replace(source, target, **options)

    os.replace = refuse
    try:
        yield
    finally:
        os.replace = replace
    assert not left, f"expected {number} files like {pattern}, found {left} fewer"


@contextlib.contextmanager
def files_written() -> Iterator[list[str]]:
    """The paths of all files that appear meanwhile, in order."""
    replace, found = os.replace, list[str]()

    def tell(source: Any, target: Any, **options: Any) -> None:
        replace(source, target, **options)
        found.append(os.fspath(target))

    os.replace = tell
    try:
        yield found
    finally:
        os.replace = replace


@contextlib.contextmanager
def no_time() -> Iterator[None]:
    """Whatever is done takes 0 seconds: what says how long it took is the same each time."""
    clock = time.perf_counter
    time.perf_counter = lambda: 0.0
    try:
        yield
    finally:
        time.perf_counter = clock
