"""The centred product ``A^T (A Q)`` in one scan, for data too wide for a d x d matrix. State: d x l numbers.

Every block computes ``z = Y_b P`` and adds ``Y_b^T z``, where ``Y_b`` are its cleaned rows about the leaf's pivot and
P (d, l) is Q over the scale; nothing of the size of the rows is kept, and the state is updated in place. A leaf also
sums ``s = 1^T Y_b``. Moving its centre by -t is, for the product ``G = Y^T Y P``,
``G += s (t^T P) + t (s^T P) + n t (t^T P)``, so that a leaf is centred once, when it leaves the fold, and centred
states merge as cross products do (Chan, Golub and LeVeque 1983):
``G = G_a + G_b + (n_a n_b / n) d (d^T P)`` with ``d = (pivot_b - pivot_a) + (offset_b - offset_a)``.
Nowhere is a large mean subtracted from a large product.

The result is the product of the *unscaled* centred rows with P: the caller divides by the scale, and adds
``n m (m^T P)`` for data that is not to be centred. Moments are kept beside it as long as no earlier scan has found
them (``pivot`` is None), and with them the exact trace.

Sparse blocks are never made dense (:mod:`eigenmill.reduce.passes.thin`), unless they are nearly so or need mending.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.passes.intake import Intake, Moments, merge_moments
from eigenmill.reduce.passes.thin import Thin, thin_rows
from eigenmill.reduce.rows.blocks import F64, Block, Floats, dense_slices
from eigenmill.reduce.storage.digest import tagged


@tagged("SketchState", "moments n height depth pivot offset sums products")
@dataclass
class SketchState:
    """Product of the cleaned rows about ``pivot + offset``; ``sums`` is 0 once the state is centred."""

    moments: Moments
    n: float
    height: int
    depth: int
    pivot: F64
    offset: F64
    sums: F64
    products: F64


@tagged("Sketch", "moments n pivot offset products weights terms")
@dataclass
class Sketch:
    """The result.

    Attributes:
        moments: what was read, per column, before filling; None if an earlier scan has told.
        n: sum of the weights of the rows kept.
        pivot, offset: (d,) the mean of the cleaned columns is their sum.
        products: (d, l) ``(X - mean)^T W (X - mean) P``.
        weights: (d, l) P.
        terms: rounded additions on the longest way of a row into the products.
    """

    moments: Moments | None
    n: float
    pivot: F64
    offset: F64
    products: F64
    weights: F64
    terms: int

    @property
    def mean(self) -> F64:
        return self.pivot + self.offset


@tagged("SketchPass", "intake weights pivot gap")
@dataclass(frozen=True)
class SketchPass(Pass[SketchState, Sketch]):
    """One product with ``weights`` P (d, l).

    Args:
        intake: cleans and shifts.
        weights: (d, l), Q over the scale.
        pivot: (d,) centre near the columns' means, when an earlier scan has found them; by default every leaf takes
            one from its first rows.
        gap: (d,) what a gap that the mean fills deviates by from the pivot; needed under that policy.
    """

    intake: Intake
    weights: F64
    pivot: F64 | None = None
    gap: F64 | None = None

    @property
    def sparse_height(self) -> int:
        return self.intake.format.max_height

    @cached_property
    def _rounded(self) -> Floats:
        """The weights in the precision of the products."""
        return self.weights.astype(self.intake.dtype, copy=False)

    @cached_property
    def _spare(self) -> list[F64]:
        """Products of states that have merged: fresh memory would cost as much as adding a leaf's products up."""
        return []

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_rounded", "_spare")}

    def start(self) -> SketchState:
        d, width = self.weights.shape
        moments = Moments.empty(d)
        pivot, offset, sums = np.zeros((3, d))
        if self.pivot is not None:
            moments.pivot, pivot = self.pivot.copy(), self.pivot.copy()
        try:
            products = self._spare.pop()
            products.fill(0.0)
        except IndexError:
            products = np.zeros((d, width))
        return SketchState(moments, 0.0, 0, 0, pivot, offset, sums, products)

    def fold(self, state: SketchState, block: Block) -> SketchState:
        taken = thin_rows(self.intake, state.moments, block, squares=self.pivot is None)
        if taken is not None:
            if taken.rows:
                self._follow(state)
                self._add_thin(state, taken)
            return state
        for piece in dense_slices(block, self.intake.format) if block.sparse else (block,):
            self._add_dense(state, piece)
        return state

    def merge(self, a: SketchState, b: SketchState) -> SketchState:
        moments = merge_moments(a.moments, b.moments)
        if b.n == 0 or a.n == 0:
            kept = a if b.n == 0 else b
            kept.moments = moments
            return kept
        n = a.n + b.n
        steps = [a.sums / a.n, b.sums / b.n]
        a.offset += steps[0]
        apart = (b.pivot - a.pivot) + (b.offset + steps[1] - a.offset)
        left = np.stack([-a.sums, -b.sums, apart * (a.n * b.n / n)], axis=1)
        self._add(a.products, left, np.stack([*steps, apart]) @ self.weights, b.products)
        a.offset += apart * (b.n / n)
        a.sums = np.zeros_like(a.sums)
        a.moments, a.n, a.height, a.depth = moments, n, max(a.height, b.height), max(a.depth, b.depth) + 1
        self._spare.append(b.products)
        return a

    def finalize(self, state: SketchState) -> Sketch:
        self._spare.clear()
        self._centre(state)
        terms = state.height + state.depth + 8
        moments = state.moments.settle() if self.pivot is None else None
        return Sketch(moments, state.n, state.pivot, state.offset, state.products, self.weights, terms)

    def sizes(self, height: int, rows: int) -> tuple[int, int, int]:
        d, width = self.weights.shape
        state = 8 * d * width + 144 * d
        # The weights in the data's precision, the product of one block's rows, and that of its columns.
        scratch = (self.intake.dtype.itemsize + 8) * (d + height) * width
        scratch += self.intake.scratch(min(height, self.intake.format.block_height(d)))
        # Then the product and the next block: two copies of each while they are made orthogonal to a basis.
        return state, scratch, state + 32 * d * width

    def state_type(self) -> type[SketchState]:
        return SketchState

    def _follow(self, state: SketchState) -> None:
        """Move the products to the pivot that the moments have chosen since."""
        if np.array_equal(state.pivot, state.moments.pivot):
            return
        pivot = np.nan_to_num(state.moments.pivot)
        move = state.pivot - pivot
        if state.n and move.any():
            self._shift(state, move)
        state.pivot = pivot

    def _add_thin(self, state: SketchState, taken: Thin) -> None:
        z = taken.times(self._rounded)
        w = np.ones(len(z)) if taken.weights is None else taken.weights
        if taken.weights is not None:
            z *= w[:, None]
        taken.add(state.products, z)
        at, sums = taken.sums(w)
        state.sums[at] += sums
        self._count(state, len(z), float(w.sum()))

    def _add_dense(self, state: SketchState, block: Block) -> None:
        taken = self.intake.take(state.moments, block, squares=self.pivot is None)
        if taken is None:
            return
        self._follow(state)
        y, w = taken.y, taken.weights
        if taken.present is not None and self.gap is not None:
            y[:] = np.where(taken.present, y, self.gap.astype(y.dtype))
        z = y @ (self._rounded if y.dtype == self.intake.dtype else self.weights)
        ones = np.ones(len(y), dtype=y.dtype) if w is None else w.astype(y.dtype)
        if w is not None:
            z *= ones[:, None]
        state.products += np.matmul(y.T, z, out=_room(block, y, z))
        state.sums += ones @ y
        self._count(state, len(y), float(len(y) if w is None else w.sum()))

    @staticmethod
    def _count(state: SketchState, height: int, gain: float) -> None:
        state.n += gain
        state.height, state.depth = state.height + height, state.depth + 1

    def _centre(self, state: SketchState) -> None:
        """Move the state's centre to its mean, in place; a centred state stays as it is."""
        if state.n and state.sums.any():
            step = state.sums / state.n
            self._add(state.products, -state.sums[:, None], (step @ self.weights)[None])
            state.offset += step
            state.sums = np.zeros_like(state.sums)

    def _shift(self, state: SketchState, t: F64) -> None:
        """Replace every deviation y by y + t."""
        left = np.stack([state.sums, t], axis=1)
        self._add(state.products, left, np.stack([t, state.sums + state.n * t]) @ self.weights)
        state.sums = state.sums + state.n * t

    def _add(self, target: F64, left: F64, right: F64, other: F64 | None = None) -> None:
        add_low_rank(target, left, right, self.intake.format.panel_rows, other)


def add_low_rank(target: F64, left: F64, right: F64, rows: int, other: F64 | None = None) -> None:
    """``target += left right``, and ``other`` too, in place, ``rows`` at a time, which stay in cache."""
    for a in range(0, len(target), rows):
        panel = slice(a, a + rows)
        if other is not None:
            target[panel] += other[panel]
        target[panel] += left[panel] @ right


def _room(block: Block, y: Floats, z: Floats) -> Floats:
    room: Floats = block.workspace.array("sketch", (y.shape[1], z.shape[1]), y.dtype)
    return room
