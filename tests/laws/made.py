"""Matrices for the laws, drawn with everything that a data set may have, as blocks of one's own cut."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from scipy import sparse

from eigenmill.reduce.passes.gram import Gram, GramPass
from eigenmill.reduce.passes.intake import Intake, Moments
from eigenmill.reduce.passes.moments import MomentsPass, imputed
from eigenmill.reduce.passes.rows import RowsPass, RowsState
from eigenmill.reduce.passes.sketch import Sketch, SketchPass
from eigenmill.reduce.passes.tsqr import TsqrPass
from eigenmill.reduce.rows.blocks import Block, Columns, Origin, Workspace
from eigenmill.reduce.rows.cleaning import Cleaning

KINDS = ("moments", "gram", "rows", "tsqr", "sketch")
FORMS = ("rows", "columns", "fortran", "csr")


@dataclass(frozen=True)
class Case:
    """A matrix X (n, d) with NaN for gaps, weights (n,) or None, how blocks hold it, and where they are cut."""

    X: Any
    weights: Any
    form: str
    cuts: tuple[int, ...]
    missing: Any

    @property
    def d(self) -> int:
        return int(self.X.shape[1])

    def intake(self) -> Intake:
        names = tuple(f"x{j}" for j in range(self.d))
        return Intake(names, self.X.dtype, Cleaning(missing=self.missing).resolve(names))

    def pass_(self, kind: str) -> Any:
        intake = self.intake()
        if kind == "tsqr":
            Q = np.linalg.qr(np.random.default_rng(self.d).normal(size=(self.d, self.d)))[0]
            here = np.isfinite(self.X)
            pivot = np.where(here, self.X, 0).sum(axis=0) / np.maximum(here.sum(axis=0), 1)
            return TsqrPass(
                Intake(intake.names, np.dtype(np.float64), intake.policy), np.round(pivot), pivot - np.round(pivot), Q
            )
        if kind == "sketch":
            return SketchPass(intake, np.random.default_rng(self.d).normal(size=(self.d, 3)), *self.known(intake))
        return {"moments": MomentsPass, "gram": GramPass, "rows": RowsPass}[kind](intake)

    def known(self, intake: Intake) -> tuple[Any, Any]:
        """Pivot and gap of a sketch, which needs an earlier scan when the mean fills gaps."""
        if self.missing != "mean":
            return None, None
        first = MomentsPass(intake)
        mean = np.nan_to_num(imputed(first.finalize(folded(first, self.blocks(()))), intake.policy)[0])
        pivot = mean.astype(self.X.dtype).astype(np.float64)
        return pivot, mean - pivot

    def block(self, a: int, b: int, workspace: Workspace | None = None) -> Block:
        X = self.X[a:b]
        matrix: Any = X.copy()
        if self.form == "columns":
            matrix = Columns([column.copy() for column in X.T], len(X))
        elif self.form == "fortran":
            matrix = np.asfortranarray(X)
        elif self.form == "csr":
            matrix = sparse.csr_array(X)
        weights = None if self.weights is None else self.weights[a:b].astype(np.float64)
        return Block(matrix, weights, None, Origin(row=a), workspace or Workspace())

    def blocks(self, cuts: tuple[int, ...] | None = None, start: int = 0, stop: int | None = None) -> list[Block]:
        stop = len(self.X) if stop is None else stop
        edges = [start, *sorted({c for c in (self.cuts if cuts is None else cuts) if start < c < stop}), stop]
        return [self.block(a, b) for a, b in itertools.pairwise(edges) if b > a]


@st.composite
def cases(draw: Any, *, policies: tuple[Any, ...] = ("error", "drop", "mean", "zero", 2.5), most: int = 60) -> Case:
    n, d = draw(st.integers(0, most)), draw(st.integers(1, 4))
    dtype = draw(st.sampled_from([np.float64, np.float32]))
    mean = draw(st.sampled_from([0.0, 1.0, 1e3] if dtype is np.float32 else [0.0, 1.0, 1e8]))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    X = rng.normal(size=(n, d)) * rng.choice([1.0, 1e-3, 30.0], size=d) + mean * rng.choice([0.0, 1.0], size=d)
    if draw(st.booleans()):
        X[:, 0] = 14.62
    form = draw(st.sampled_from(FORMS))
    if form == "csr":
        X[rng.random(X.shape) < 0.5] = 0
    missing = draw(st.sampled_from(policies))
    if missing != "error":
        X[rng.random(X.shape) < draw(st.sampled_from([0.0, 0.1, 0.6]))] = np.nan
    weights = rng.integers(0, 4, n).astype(float) if draw(st.booleans()) else None
    cuts = tuple(draw(st.lists(st.integers(0, most), max_size=6)))
    return Case(X.astype(dtype), weights, form, cuts, missing)


def folded(pass_: Any, blocks: list[Block], state: Any = None) -> Any:
    state = pass_.start() if state is None else state
    for block in blocks:
        state = pass_.fold(state, block)
    return state


def gamma(terms: int, dtype: Any) -> float:
    u = float(np.finfo(dtype).eps) / 2
    return terms * u / (1 - terms * u)


def assert_close(a: Any, b: Any, dtype: Any, terms: int = 100) -> None:
    """Two results of one matrix agree within twice Higham's bound for sums of ``terms`` terms (2002, section 3.5).

    Per entry of a cross product that is ``2 gamma_terms sqrt(gross_j gross_k)``, ``gross`` being the squares about
    the pivots; means may differ by ``gamma_terms sqrt(gross / n)`` and the rounding of the mean itself.
    """
    u = 2 * gamma(terms, dtype)
    if isinstance(a, Gram):
        gross = np.maximum(a.gross, b.gross)
        assert abs(a.n - b.n) <= 1e-12 * a.n
        np.testing.assert_array_less(np.tril(abs(a.cross - b.cross)), u * np.sqrt(np.outer(gross, gross)) + 1e-300)
        room = u * np.sqrt(gross / max(a.n, 1)) + 4e-16 * abs(a.mean) + 1e-300
        np.testing.assert_array_less(abs(a.mean - b.mean), room)
        assert_close(a.moments, b.moments, dtype, terms)
    elif isinstance(a, Moments):
        assert (a.rows, a.total) == (b.rows, b.total)
        for name in ("count", "low", "high", "missing", "infinite"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        # Deviations from a pivot are at most the range of the column.
        seen = a.count > 0
        reach = np.where(seen, abs(a.low) + abs(a.high), 0) if not seen.all() else a.high - a.low
        np.testing.assert_array_less(abs(a.m2 - b.m2)[seen], (u * a.count * reach**2 + 1e-300)[seen])
        room = u * reach + 4e-16 * abs(np.nan_to_num(a.mean)) + 1e-300
        np.testing.assert_array_less(abs(a.mean - b.mean)[seen], room[seen])
    elif isinstance(a, RowsState):
        np.testing.assert_array_equal(a.weights, b.weights)
        # A value is a deviation from one pivot, and another one after a merge: errors are relative to the range.
        room = 4 * float(np.finfo(dtype).eps) * max(float(np.nanmax(abs(values_of(a)), initial=0)), 1e-300)
        np.testing.assert_allclose(values_of(a), values_of(b), atol=room)
        assert_close(a.moments, b.moments, dtype, terms)
    elif isinstance(a, Sketch):
        assert abs(a.n - b.n) <= 1e-12 * a.n
        # Three random columns show the size of the matrix; deviations were taken from one pivot or the other.
        gross = max(np.linalg.norm(a.products) + r.n * np.abs(r.offset).max(initial=0) ** 2 for r in (a, b))
        np.testing.assert_allclose(a.products, b.products, rtol=0, atol=20 * u * gross + 1e-300)
        room = u * np.sqrt(10 * gross / max(a.n, 1)) + 4e-16 * abs(a.mean) + 1e-300
        np.testing.assert_array_less(abs(a.mean - b.mean), room)
        if a.moments is not None:
            assert_close(a.moments, b.moments, dtype, terms)
    else:
        scale = max(float(np.linalg.norm(a)), 1e-300)
        np.testing.assert_allclose(a.T @ a, b.T @ b, atol=1e-13 * scale**2)
        np.testing.assert_allclose(*(np.linalg.svd(r, compute_uv=False) for r in padded(a, b)), atol=1e-13 * scale)


def padded(a: Any, b: Any) -> list[Any]:
    rows = max(len(a), len(b))
    return [np.concatenate([r, np.zeros((rows - len(r), r.shape[1]))]) for r in (a, b)]


def values_of(state: RowsState) -> Any:
    """The rows that a state stands for, NaN where a value is missing."""
    y = state.y + np.nan_to_num(state.pivot)
    return y if state.present is None else np.where(state.present, y, np.nan)
