"""An engine that counts: scans, rows, writes."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.engines.base import Engine, Session
from eigenmill.reduce.errors import DataError
from eigenmill.reduce.sources.base import Source, StandIn
from eigenmill.reduce.sources.discovery import join


class Wrapped(Engine):
    """An engine around another one, whose sessions are ``made`` around its sessions."""

    kind = "wrapped"

    def __init__(self, engine: Engine) -> None:
        self.engine, self.progress = engine, engine.progress

    @property
    def workers(self) -> int:
        return self.engine.workers

    def memory_limit(self) -> int | None:
        return self.engine.memory_limit()

    def session(self, reserve: int | None = None, need: int = 0) -> Session:
        return self.made(self.engine.session(reserve, need))

    def made(self, session: Session) -> Session:
        raise NotImplementedError


class WrappedSession(Session):
    """Sees the scans of a session before they run."""

    def __init__(self, engine: Any, session: Session) -> None:
        super().__init__(engine)
        self.session = session

    def close(self) -> None:
        self.session.close()

    def run(self, pass_: Any, data: Dataset, *, tree: Any = None) -> Any:
        return self.session.run(pass_, self.engine.seen(data, pass_), tree=tree)

    def write(self, data: Dataset, sink: Any) -> Any:
        return self.session.write(self.engine.seen(data, None), sink)

    def collect(self, data: Dataset) -> Any:
        return self.session.collect(self.engine.seen(data, None))


class CountingEngine(Wrapped):
    """Wraps an engine; ``scans`` lists the passes that ran, ``rows`` counts the rows that sources have given.

    The scan of the number ``stop`` (from 1) is interrupted before it begins.
    """

    def __init__(self, engine: Any, stop: int | None = None) -> None:
        super().__init__(engine)
        self.stop, self.scans = stop, list[str]()
        self.writes = 0
        self.rows = 0

    def made(self, session: Session) -> Session:
        return CountingSession(self, session)

    def seen(self, data: Dataset, pass_: Any) -> Dataset:
        if pass_ is not None:
            self.scans.append(type(pass_).__name__)
            if len(self.scans) == self.stop:
                raise KeyboardInterrupt
        return replace(data, source=WatchedSource(data.source, self._count))

    def _count(self, fragment: Any, block: Any) -> None:
        self.rows += block.rows


class CountingSession(WrappedSession):
    def write(self, data: Dataset, sink: Any) -> Any:
        self.engine.writes += 1
        return super().write(data, sink)


class FailingScans(Wrapped):
    """Wraps an engine; ``scans`` lists the passes; the data of those numbered ``which`` (from 1) raise."""

    def __init__(self, engine: Any, which: Sequence[int], message: str) -> None:
        super().__init__(engine)
        self.which, self.message = which, message
        self.scans: list[str] = []

    def made(self, session: Session) -> Session:
        return WrappedSession(self, session)

    def seen(self, data: Dataset, pass_: Any) -> Dataset:
        self.scans.append(type(pass_).__name__)
        if len(self.scans) in self.which:
            data = failing_at(data, len(data.fragments) // 2, DataError(self.message))
        return data


class WatchedSource(StandIn):
    """A source that tells of each block before it gives it away; ``tell`` may raise."""

    def __init__(self, source: Source, tell: Any) -> None:
        super().__init__(source)
        self._tell = tell

    def only(self, files: Any) -> WatchedSource:
        return WatchedSource(self.source.only(files), self._tell)

    def blocks(self, fragment: Any, height: int, workspace: Any, *, carry: bool) -> Iterator[Any]:
        for block in self.source.blocks(fragment, height, workspace, carry=carry):
            self._tell(fragment, block)
            yield block


@dataclass(frozen=True)
class FailOnce:
    """Raises at the first block of one fragment, once in all processes: a marker file remembers."""

    path: str
    start: int
    error: BaseException
    marker: str

    def __call__(self, fragment: Any, block: Any) -> None:
        if block.origin.path == self.path and fragment.start == self.start and not os.path.exists(self.marker):
            Path(self.marker).touch()
            raise self.error


@dataclass(frozen=True)
class Dawdle:
    """Leaves a file in ``folder`` for every block, and then takes its time."""

    folder: str
    seconds: float

    def __call__(self, fragment: Any, block: Any) -> None:
        Path(self.folder, uuid.uuid4().hex).touch()
        time.sleep(self.seconds)


def failing_at(data: Dataset, fragment: int, error: BaseException) -> Dataset:
    """``data`` whose fragment of that number raises ``error`` when it is read first, and never again."""
    chosen: Any = data.fragments[fragment]
    source: Any = data.source
    marker = os.path.join(tempfile.mkdtemp(), "failed")
    tell = FailOnce(join(source.root, source.files[chosen.file].path), chosen.start, error, marker)
    return replace(data, source=WatchedSource(source, tell))
