"""The R factor of ``A Q`` by a tall-skinny QR tree (Demmel, Grigori, Hoemmen, Langou 2012). State: l x l numbers.

A is the cleaned, centred and scaled matrix and Q (d, l) has orthonormal columns. Each block multiplies and stacks
``[R; A_b Q]`` and keeps the R of its QR factorisation, which is backward stable: singular values of R are those of
``A Q`` to about eps sigma_1 (Higham 2002, section 19.3), where a Gram matrix would lose all below sqrt(eps) sigma_1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.passes.intake import Intake, Moments
from eigenmill.reduce.passes.thin import thin_rows
from eigenmill.reduce.rows.blocks import F64, Block, dense_slices
from eigenmill.reduce.storage.digest import tagged


@tagged("TsqrState", "r")
@dataclass
class TsqrState:
    """R (min(rows, l), l) upper triangular."""

    r: F64


@tagged("TsqrPass", "intake pivot offset weights gap")
@dataclass(frozen=True)
class TsqrPass(Pass[TsqrState, F64]):
    """R of ``sqrt(w) * ((X - pivot) - offset) @ weights``; ``weights`` (d, l) is Q over the scale.

    A gap that the mean fills enters the product as ``gap`` (d,), or as 0 (centred data).
    The intake's dtype should be float64: this scan is made for digits.
    """

    intake: Intake
    pivot: F64
    offset: F64
    weights: F64
    gap: F64 | None = None

    @property
    def sparse_height(self) -> int:
        return self.intake.format.max_height

    @cached_property
    def _moved(self) -> F64:
        """(l,) what the offset adds to every row of the product."""
        return np.asarray(self.offset @ self.weights)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_moved"}

    def start(self) -> TsqrState:
        return TsqrState(np.empty((0, self.weights.shape[1])))

    def fold(self, state: TsqrState, block: Block) -> TsqrState:
        moments = Moments.empty(len(self.pivot))
        moments.pivot = self.pivot.copy()
        thin = thin_rows(self.intake, moments, block, squares=False)
        if thin is not None:
            if not thin.rows:
                return state
            z = thin.times(self.weights) - self._moved
            if thin.weights is not None:
                z *= np.sqrt(thin.weights)[:, None]
            return TsqrState(_r(np.concatenate([state.r, z])))
        for piece in dense_slices(block, self.intake.format) if block.sparse else (block,):
            state = self._fold_dense(state, moments, piece)
        return state

    def _fold_dense(self, state: TsqrState, moments: Moments, block: Block) -> TsqrState:
        taken = self.intake.take(moments, block, squares=True)
        if taken is None:
            return state
        y = taken.y
        y -= self.offset
        if taken.present is not None:
            y[:] = np.where(taken.present, y, 0.0 if self.gap is None else self.gap)
        if taken.weights is not None:
            y *= np.sqrt(taken.weights)[:, None]
        return TsqrState(_r(np.concatenate([state.r, y @ self.weights])))

    def merge(self, a: TsqrState, b: TsqrState) -> TsqrState:
        return TsqrState(_r(np.concatenate([a.r, b.r])))

    def finalize(self, state: TsqrState) -> F64:
        return state.r

    def sizes(self, height: int, rows: int) -> tuple[int, int, int]:
        d, k = self.weights.shape
        return (
            8 * k * k,
            8 * d * k + 24 * (height + k) * k + self.intake.scratch(min(height, self.intake.format.block_height(d))),
            16 * k * k,
        )

    def state_type(self) -> type[TsqrState]:
        return TsqrState


def _r(stacked: F64) -> F64:
    return np.asarray(np.linalg.qr(stacked, mode="r"))
