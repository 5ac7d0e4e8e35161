"""Where rows of a file lie, for errors: row group and row, whatever a filter has left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from eigenmill.reduce.rows.blocks import Origin


@dataclass(frozen=True, slots=True)
class FileOrigin(Origin):
    """A place in a run of row groups, ``first`` rows after its start; ``kept`` are those a filter left."""

    spans: tuple[tuple[int, int], ...] = ()
    first: int = 0
    kept: npt.NDArray[np.intp] | None = None

    def at(self, offset: int = 0) -> str:
        return locate(
            self.path, self.spans, self.first + (offset if self.kept is None else int(self.kept[offset]))
        ).at()

    def joined(self, pieces: Sequence[tuple[int, int, FileOrigin]]) -> FileOrigin:
        """The origin of pieces put together: of each the rows before it, how many it has, and where it lies."""
        ends = accumulate((rows for _, rows, _ in pieces), initial=pieces[0][0])
        if all(each.kept is None and before == end for (before, _, each), end in zip(pieces, ends, strict=False)):
            return self
        kept = [before + (np.arange(rows) if each.kept is None else each.kept) for before, rows, each in pieces]
        return replace(self, first=self.first - pieces[0][0], kept=np.concatenate(kept))


def locate(path: str, spans: Sequence[tuple[int, int]], position: int) -> Origin:
    """Row ``position`` of consecutive row groups, given as pairs of index and rows."""
    for group, rows in spans:
        if position < rows:
            return Origin(path, group, position)
        position -= rows
    return Origin(path, None, position)
