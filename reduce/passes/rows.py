"""The concatenated rows themselves: for data with fewer rows than columns, whose n x n Gram is the small one.

State: the rows, dense or CSR, n x d numbers; the plan refuses it when that does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.passes.intake import Intake, Moments, merge_moments
from eigenmill.reduce.rows.blocks import F64, Block, Floats
from eigenmill.reduce.storage.digest import tagged


@tagged("RowsState", "moments pivot y weights present")
@dataclass
class RowsState:
    """Cleaned rows minus ``pivot`` (float64; 0 where missing), their mask and weights."""

    moments: Moments
    pivot: F64
    y: Floats
    weights: F64
    present: npt.NDArray[np.bool_] | None


@tagged("RowsPass", "intake")
@dataclass(frozen=True)
class RowsPass(Pass[RowsState, RowsState]):
    """Keep every row in one scan; the result is :class:`RowsState` over all rows."""

    intake: Intake

    def start(self) -> RowsState:
        d = len(self.intake.names)
        return RowsState(Moments.empty(d), np.full(d, np.nan), np.empty((0, d)), np.empty(0), None)

    def fold(self, state: RowsState, block: Block) -> RowsState:
        taken = self.intake.take(state.moments, block, squares=True)
        if taken is None:
            return state
        h = len(taken.y)
        fresh = RowsState(
            Moments.empty(len(state.pivot)),
            state.moments.pivot.copy(),
            taken.y.astype(np.float64),
            np.ones(h) if taken.weights is None else taken.weights.astype(np.float64),
            None if taken.present is None else taken.present.copy(),
        )
        return self._join(state, fresh, state.moments)

    def merge(self, a: RowsState, b: RowsState) -> RowsState:
        return self._join(a, b, merge_moments(a.moments, b.moments))

    def finalize(self, state: RowsState) -> RowsState:
        return state

    def sizes(self, height: int, rows: int) -> tuple[int, int, int]:
        d = len(self.intake.names)
        # All workers' states together hold every row once; joining two copies them.
        whole = 8 * rows * d
        return whole, whole + self.intake.scratch(height), 2 * whole + 40 * rows * rows + (64 << 20)

    def state_type(self) -> type[RowsState]:
        return RowsState

    @staticmethod
    def _join(a: RowsState, b: RowsState, moments: Moments) -> RowsState:
        present = None
        if a.present is not None or b.present is not None:
            masks = [np.ones(s.y.shape, dtype=bool) if s.present is None else s.present for s in (a, b)]
            present = np.concatenate(masks)
        pivot = np.where(np.isnan(a.pivot), b.pivot, a.pivot)
        move = np.where(np.isnan(a.pivot) | np.isnan(b.pivot), 0.0, b.pivot - pivot)
        y = b.y
        if move.any():
            y = y + move if b.present is None else np.where(b.present, y + move, 0.0)
        return RowsState(moments, pivot, np.concatenate([a.y, y]), np.concatenate([a.weights, b.weights]), present)


def column_panels(d: int, rows: int, size: int) -> Iterator[slice]:
    """Slices of columns whose dense float64 form of ``rows`` rows stays near ``size`` bytes."""
    width = max(size // (8 * max(rows, 1)), 1)
    for a in range(0, d, width):
        yield slice(a, min(a + width, d))
