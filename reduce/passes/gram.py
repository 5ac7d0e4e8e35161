"""The centred cross product of all columns, in one scan together with their moments. State: about d^2 / 2 numbers.

A leaf sums ``Y^T Y`` and ``1^T Y`` about its pivot, ``Y = X - pivot``; when it leaves the fold it is centred once,
and centred states merge by the matrix form of Chan, Golub and LeVeque (1983):
``M = M_a + M_b + (n_a n_b / n) d d^T`` with ``d = (pivot_b - pivot_a) + (offset_b - offset_a)``.

Only the lower trapezoids of row panels are stored and multiplied (:func:`panels`), so the symmetric half costs
neither memory nor time, and the product of one panel stays in cache while it is added in float64.

Mean imputation is exact and in the same scan. With y = x - centre where a value is present and 0 where it is
missing, and m the 0/1 mask, a state that has met a missing value also carries the pair sums ``C_jk = sum y_j m_k``
and pair counts ``N_jk = sum m_j m_k``; moving the centre by -t then is
``P_jk += t_k C_jk + t_j C_kj + t_j t_k N_jk`` and ``C_jk += t_j N_jk``. At the end the centre is each column's own
mean, where imputed entries deviate by 0, so P is the cross product of the imputed matrix.

Rounding: forming a product of h rows and summing blocks and states commits at most ``gamma_m |Y|^T |Y|`` elementwise
(Higham 2002, section 3.5), m = h + the depth of the sums. The state carries ``gross``, the diagonal of what was
summed before centring, and ``depth``; by Cauchy-Schwarz the error of any entry is at most
``gamma_m sqrt(gross_j gross_k)``, and its spectral norm at most ``gamma_m sum(gross)`` (see estimators/spectrum.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.passes.intake import Intake, Moments, Shifted, merge_moments
from eigenmill.reduce.rows.blocks import F64, Block, Workspace
from eigenmill.reduce.rows.cleaning import MEAN
from eigenmill.reduce.storage.digest import tagged


def panels(packed: F64, d: int, rows: int) -> Iterator[tuple[int, int, F64]]:
    """``(a, b, P[a:b, :b])`` for every panel of ``rows`` rows of a packed lower half."""
    start = 0
    for a in range(0, d, rows):
        b = min(a + rows, d)
        size = (b - a) * b
        yield a, b, packed[start : start + size].reshape(b - a, b)
        start += size


def packed_size(d: int, rows: int) -> int:
    """Numbers in the packed lower half of a d x d matrix, by panels of ``rows`` rows: d (d + rows) / 2 at most."""
    return sum((min(a + rows, d) - a) * min(a + rows, d) for a in range(0, d, rows))


@tagged("GramState", "moments n height depth pivot offset sums gross products pair_sums pair_counts")
@dataclass
class GramState:
    """Cross products of the cleaned rows about ``pivot + offset``; ``sums`` is 0 once the state is centred."""

    moments: Moments
    n: float
    height: int
    depth: int
    pivot: F64
    offset: F64
    sums: F64
    gross: F64
    products: F64
    pair_sums: F64 | None
    pair_counts: F64 | None

    @property
    def counts(self) -> F64:
        """(d,) weight of the values present in each column."""
        return np.full(len(self.pivot), self.n) if self.pair_counts is None else np.diag(self.pair_counts).copy()


@tagged("Gram", "moments n pivot offset cross gross terms depth")
@dataclass
class Gram:
    """The result: everything that second moments can tell.

    Attributes:
        moments: what was read, per column, before filling.
        n: sum of the weights of the rows kept.
        pivot, offset: (d,) the mean of the cleaned columns is their sum.
        cross: (d, d) centred cross product; only the lower triangle is defined.
        depth: blocks and merges on the longest way of a row into the sums.
        gross, terms: rounding of ``cross`` is at most ``gamma(terms) sqrt(gross_j gross_k)`` per entry.
    """

    moments: Moments
    n: float
    pivot: F64
    offset: F64
    cross: F64
    gross: F64
    terms: int
    depth: int

    @property
    def mean(self) -> F64:
        return self.pivot + self.offset


@tagged("GramPass", "intake")
@dataclass(frozen=True)
class GramPass(Pass[GramState, Gram]):
    """Moments and centred cross products in one scan; the result is :class:`Gram`."""

    intake: Intake

    @property
    def _panel(self) -> int:
        """Rows of a panel."""
        return self.intake.format.gram_panel

    def start(self) -> GramState:
        d = len(self.intake.names)
        pivot, offset, sums, gross = np.zeros((4, d))
        products = np.zeros(packed_size(d, self._panel))
        return GramState(Moments.empty(d), 0.0, 0, 0, pivot, offset, sums, gross, products, None, None)

    def fold(self, state: GramState, block: Block) -> GramState:
        taken = self.intake.take(state.moments, block, squares=False)
        if taken is None:
            return state
        # A column that so far was only filled chooses its pivot when it first shows a value of its own.
        pivot = np.nan_to_num(state.moments.pivot)
        if state.n and (pivot != state.pivot).any():
            _shift(state, state.pivot - pivot, self._panel)
        state.pivot = pivot
        gain, sums, diagonal = _multiply(state, taken, block.workspace, self._panel)
        if not taken.counted:
            state.moments.add(np.full(len(sums), gain), sums, diagonal)
        state.n += gain
        state.sums += sums
        state.gross += diagonal
        state.height, state.depth = max(state.height, len(taken.y)), state.depth + 1
        return state

    def merge(self, a: GramState, b: GramState) -> GramState:
        centre(a, self._panel)
        centre(b, self._panel)
        moments = merge_moments(a.moments, b.moments)
        if b.n == 0 or a.n == 0:
            kept = a if b.n == 0 else b
            kept.moments = moments
            return kept
        return _merge(a, b, moments, self._panel)

    def finalize(self, state: GramState) -> Gram:
        centre(state, self._panel)
        d = len(state.pivot)
        cross = np.zeros((d, d))
        for a, b, panel in panels(state.products, d, self._panel):
            cross[a:b, :b] = panel
        terms = state.height + state.depth + 8
        return Gram(state.moments, state.n, state.pivot, state.offset, cross, state.gross, terms, state.depth)

    def sizes(self, height: int, rows: int) -> tuple[int, int, int]:
        d, item = len(self.intake.names), self.intake.dtype.itemsize
        pairs = bool((self.intake.policy.code == MEAN).any())
        state = 8 * packed_size(d, self._panel) + 16 * d * d * pairs
        scratch = min(self._panel, d) * d * (item + 8) + self.intake.scratch(height)
        return state, scratch + (item + 8) * d * d * pairs, state + 32 * d * d

    def state_type(self) -> type[GramState]:
        return GramState


def _multiply(state: GramState, taken: Shifted, workspace: Workspace, rows: int) -> tuple[float, F64, F64]:
    """Add one block's products to ``state``; returns its weight, column sums (d,) and squares (d,)."""
    y, w = taken.y, taken.weights
    h, d = y.shape
    root = np.ones(h, dtype=y.dtype)
    if w is not None:
        root = np.sqrt(w).astype(y.dtype)
        y *= root[:, None]
    product = workspace.array("product", (min(rows, d) * d,), y.dtype)
    diagonal = np.zeros(d)
    for a, b, panel in panels(state.products, d, rows):
        left = y.T[a:b]
        square = np.matmul(left, left.T, out=product[: (b - a) ** 2].reshape(b - a, b - a))
        panel[:, a:] += square
        diagonal[a:b] = np.diagonal(square)
        if a:
            panel[:, :a] += np.matmul(left, y[:, :a], out=product[: (b - a) * a].reshape(b - a, a))
    gain = float(h if w is None else w.sum())
    if taken.present is not None and state.pair_sums is None:
        _promote(state)
    if state.pair_sums is not None and state.pair_counts is not None:
        mask = np.ones_like(y) if taken.present is None else taken.present.astype(y.dtype)
        mask *= root[:, None]
        state.pair_sums += y.T @ mask
        state.pair_counts += mask.T @ mask
    return gain, (root @ y).astype(np.float64), diagonal


def _promote(state: GramState) -> None:
    """Give a state that has met no missing value its pair sums and counts."""
    d = len(state.sums)
    state.pair_sums = np.repeat(state.sums[:, None], d, axis=1)
    state.pair_counts = np.full((d, d), state.n)


def centre(state: GramState, rows: int) -> None:
    """Move the state's centre to its mean, in place; a centred state stays as it is."""
    counts = state.counts
    step = np.divide(state.sums, counts, out=np.zeros_like(state.sums), where=counts > 0)
    if step.any():
        if state.pair_sums is None:
            for a, b, panel in panels(state.products, len(step), rows):
                panel -= np.outer(state.n * step[a:b], step[:b])
        else:
            _shift(state, -step, rows)
        state.offset += step
        state.sums = np.zeros_like(state.sums)


def _shift(state: GramState, t: F64, rows: int) -> None:
    """Replace every deviation y by y + t where a value is present."""
    sums, counts = state.pair_sums, state.pair_counts
    state.gross += 2 * np.abs(t * state.sums) + state.counts * t**2
    for a, b, panel in panels(state.products, len(t), rows):
        if sums is None or counts is None:
            panel += np.outer(state.sums[a:b], t[:b])
            panel += np.outer(t[a:b], state.n * t[:b] + state.sums[:b])
        else:
            panel += sums[a:b, :b] * t[:b]
            panel += t[a:b, None] * sums[:b, a:b].T
            panel += np.outer(t[a:b], t[:b]) * counts[a:b, :b]
    state.sums = state.sums + state.counts * t
    if sums is not None and counts is not None:
        sums += t[:, None] * counts


def _merge(a: GramState, b: GramState, moments: Moments, rows: int) -> GramState:
    paired = a.pair_sums is not None or b.pair_sums is not None
    if paired:
        for state in (a, b):
            if state.pair_sums is None:
                _promote(state)
    n, count_a, count_b = a.n + b.n, a.counts, b.counts
    fresh = count_a == 0
    a.pivot[fresh], a.offset[fresh] = b.pivot[fresh], b.offset[fresh]
    apart = np.where((count_a > 0) & (count_b > 0), (b.pivot - a.pivot) + (b.offset - a.offset), 0.0)
    both = np.maximum(count_a + count_b, 1e-300)
    if paired:
        _shift(a, -apart * (count_b / both), rows)
        _shift(b, apart * (count_a / both), rows)
        a.sums = np.zeros_like(a.sums)  # about the common centre the two sums cancel
        a.pair_sums, a.pair_counts = a.pair_sums + b.pair_sums, a.pair_counts + b.pair_counts  # type: ignore[operator]
        a.products += b.products
    else:
        a.products += b.products
        for i, j, panel in panels(a.products, len(apart), rows):
            panel += np.outer(apart[i:j] * (a.n * b.n / n), apart[:j])
    a.offset += apart * (count_b / both)
    a.gross += b.gross + (count_a * count_b / both) * apart**2
    a.moments, a.n, a.height, a.depth = moments, n, max(a.height, b.height), max(a.depth, b.depth) + 1
    return a
