"""An engine that counts: scans, rows, writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from reduce.dataset import Dataset


class CountingEngine:
    """Wraps an engine; ``scans`` lists the passes that ran, ``rows`` counts the rows that sources have given."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.scans: list[str] = []
        self.writes = 0
        self.rows = 0

    def run(self, pass_: Any, data: Dataset, *, tree: Any = None) -> Any:
        self.scans.append(type(pass_).__name__)
        return self.engine.run(pass_, self._watched(data), tree=tree)

    def write(self, data: Dataset, sink: Any) -> Any:
        self.writes += 1
        return self.engine.write(self._watched(data), sink)

    def collect(self, data: Dataset) -> Any:
        return self.engine.collect(self._watched(data))

    def memory_limit(self) -> int | None:
        limit: int | None = self.engine.memory_limit()
        return limit

    def _watched(self, data: Dataset) -> Dataset:
        return replace(data, source=WatchedSource(data.source, self._count))  # type: ignore[arg-type]

    def _count(self, fragment: Any, block: Any) -> None:
        self.rows += block.rows


class WatchedSource:
    """A source that tells of each block before it gives it away; ``tell`` may raise."""

    def __init__(self, source: Any, tell: Any) -> None:
        self._source, self._tell = source, tell

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def blocks(self, fragment: Any, height: int, workspace: Any, *, carry: bool) -> Iterator[Any]:
        for block in self._source.blocks(fragment, height, workspace, carry=carry):
            self._tell(fragment, block)
            yield block


def failing_at(data: Dataset, fragment: int, error: BaseException) -> Dataset:
    """``data`` whose fragment of that number raises ``error`` when it is read first, and never again."""
    left = [error]

    def tell(read: Any, block: Any) -> None:
        if read.index == fragment and left:
            raise left.pop()

    return replace(data, source=WatchedSource(data.source, tell))  # type: ignore[arg-type]
