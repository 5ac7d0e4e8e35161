"""Per-column moments: count, mean, variance, extrema, missing and non-finite values. State: O(d)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.passes.intake import Intake, Moments, merge_moments
from eigenmill.reduce.passes.thin import thin_rows
from eigenmill.reduce.rows.blocks import F64, Block, dense_slices
from eigenmill.reduce.rows.cleaning import FILL, KEEP, Resolved
from eigenmill.reduce.storage.digest import tagged


@tagged("MomentsPass", "intake")
@dataclass(frozen=True)
class MomentsPass(Pass[Moments, Moments]):
    """Moments of every column in one scan; the result is :class:`Moments`."""

    intake: Intake

    @property
    def sparse_height(self) -> int:
        return self.intake.format.max_height

    def start(self) -> Moments:
        return Moments.empty(len(self.intake.names))

    def fold(self, state: Moments, block: Block) -> Moments:
        if not block.sparse:
            self.intake.take(state, block, squares=True)
        elif thin_rows(self.intake, state, block, squares=True) is None:
            for piece in dense_slices(block, self.intake.format):
                self.intake.take(state, piece, squares=True)
        return state

    def merge(self, a: Moments, b: Moments) -> Moments:
        return merge_moments(a, b)

    def finalize(self, state: Moments) -> Moments:
        return state.settle()

    def sizes(self, height: int, rows: int) -> tuple[int, int, int]:
        d = len(self.intake.names)
        return 96 * d, 64 * d + self.intake.scratch(min(height, self.intake.format.block_height(d))), 0

    def state_type(self) -> type[Moments]:
        return Moments


def imputed(moments: Moments, policy: Resolved) -> tuple[F64, F64, F64]:
    """(mean, population variance, n), each (d,), of the columns after the policy has filled the gaps.

    A gap filled by the mean adds nothing to the sum of squares; a gap filled by a number is a group of equal values,
    combined by the same formula as two states. Under ``keep``, n is the count of the values present.
    """
    filled, kept = policy.code == FILL, policy.code == KEEP
    n = np.where(kept, moments.count, moments.total)
    gaps = moments.total - moments.count
    whole = replace(moments, **{f: getattr(moments, f).copy() for f in ("count", "offset", "m2", "pivot")})
    # A column without a single value has its fill as pivot, so that it comes out as that constant exactly.
    whole.pivot[moments.count == 0] = np.where(filled, policy.fill, 0.0)[moments.count == 0]
    count = np.where(filled, gaps, 0.0)
    shift = np.where(filled, policy.fill - whole.pivot, 0.0)
    whole.combine(count, np.where(count > 0, shift - whole.offset, 0.0), np.zeros_like(count))
    mean = np.where(n > 0, whole.pivot + whole.offset, np.nan)
    variance = np.divide(whole.m2, n, out=np.full_like(n, np.nan), where=n > 0)
    return mean, variance, n
