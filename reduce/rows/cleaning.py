"""Cleaning: what happens to missing and outlying values before the mathematics sees a row.

The order is fixed: clip first (a bound turns an infinity into a finite value), then the missing-value policy.
Nulls and NaN are *missing*; what is still infinite after clipping counts as *non-finite* and falls under the
same policy, except under ``keep``, which (as in scikit-learn) lets NaN through and refuses infinities.

A :class:`Cleaning` is what a user asks for; :class:`Resolved` is the same per column, with what was learnt
(means, clipping limits at k standard deviations) frozen into it, and travels inside the fitted model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from eigenmill.reduce.errors import ConfigError, MissingValueError
from eigenmill.reduce.rows.blocks import F64, Block, Floats
from eigenmill.reduce.storage.digest import tagged

Mask = npt.NDArray[np.bool_]
Policy = Literal["error", "drop", "mean", "zero", "keep"] | float
POLICIES = ("error", "drop", "mean", "zero", "keep")
ERROR, DROP, MEAN, FILL, KEEP = range(5)


@tagged("Cleaning", "missing clip clip_sd")
@dataclass(frozen=True)
class Cleaning:
    """The policy of a data set.

    Args:
        missing: ``"error"`` (default), ``"drop"`` the row, ``"mean"``, ``"zero"``, a number, or ``"keep"`` (only
            for StandardScaler); or a mapping from column name to one of these, with ``"*"`` for all others.
        clip: bounds ``(low, high)`` for every column, or a mapping from column name to bounds.
        clip_sd: clip at mean +- ``clip_sd`` standard deviations, which costs one scan of moments before the fit.
    """

    missing: Policy | Mapping[str, Policy] = "error"
    clip: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None
    clip_sd: float | None = None

    def __post_init__(self) -> None:
        policies = self.missing.values() if isinstance(self.missing, Mapping) else [self.missing]
        for policy in policies:
            _code(policy)
        bounds = [] if self.clip is None else self.clip.values() if isinstance(self.clip, Mapping) else [self.clip]
        for bound in bounds:
            low, high = (float(b) for b in bound)
            if not low < high:
                raise ConfigError(f"expected clip=(low, high) with low < high, found ({low}, {high})")
        if self.clip_sd is not None and not self.clip_sd > 0:
            raise ConfigError(f"expected clip_sd > 0, found {self.clip_sd}")

    def resolve(self, names: Sequence[str]) -> Resolved:
        """The policy per column; unknown column names are refused."""
        d = len(names)
        code, fill = np.full(d, ERROR, dtype=np.int8), np.full(d, np.nan)
        position: dict[str, int] = {}
        if isinstance(self.missing, Mapping) or isinstance(self.clip, Mapping):
            position = {name: j for j, name in enumerate(names)}
        if isinstance(self.missing, Mapping):
            code[:], fill[:] = _code(self.missing.get("*", "error"))
            for name, policy in self.missing.items():
                if name != "*":
                    j = _find(name, position, "missing")
                    code[j], fill[j] = _code(policy)
        else:
            code[:], fill[:] = _code(self.missing)
        low, high = None, None
        if self.clip is not None:
            low, high = np.full(d, -np.inf), np.full(d, np.inf)
            if isinstance(self.clip, Mapping):
                for name, bound in self.clip.items():
                    j = _find(name, position, "clip")
                    low[j], high[j] = bound
            else:
                low[:], high[:] = self.clip
        return Resolved(code, fill, low, high)


@tagged("Resolved", "code fill low high")
@dataclass(frozen=True)
class Resolved:
    """Per column: policy ``code`` (d,), ``fill`` (d,; NaN where it is yet to be learnt), bounds (d,) or None."""

    code: npt.NDArray[np.int8]
    fill: F64
    low: F64 | None = None
    high: F64 | None = None

    @property
    def clips(self) -> bool:
        return self.low is not None

    def covers(self, low: F64, high: F64) -> bool:
        """Whether columns between ``low`` and ``high`` (d,) need no clipping."""
        if self.low is None or self.high is None:
            return True
        return bool((low >= self.low).all() and (high <= self.high).all())

    def with_limits(self, low: F64, high: F64) -> Resolved:
        """The bounds narrowed to ``low`` and ``high`` (d,)."""
        if self.low is not None and self.high is not None:
            low, high = np.maximum(low, self.low), np.minimum(high, self.high)
        return replace(self, low=low, high=high)

    def with_means(self, means: F64) -> Resolved:
        """The policy with what mean imputation fills in, frozen."""
        return replace(self, fill=np.where(self.code == MEAN, means, self.fill))


def mend(block: Block, X: Floats, policy: Resolved, names: Sequence[str]) -> tuple[Block, Floats, Mask]:
    """Clip ``X`` (h, d) in place, refuse what the policy refuses, drop rows.

    Returns the block of the rows kept, their values, and the mask of gaps (h', d) that are still to be filled.
    """
    if policy.low is not None:
        np.clip(X, policy.low, policy.high, out=X, casting="unsafe")
    bad, code = ~np.isfinite(X), policy.code
    refused = bad & ((code == ERROR) | ((code == KEEP) & ~np.isnan(X)))
    if refused.any():
        row, column = (int(i) for i in np.argwhere(refused)[0])
        value = "a missing value (null or NaN)" if np.isnan(X[row, column]) else f"{X[row, column]}"
        raise MissingValueError(
            f"expected finite numbers in column {names[column]!r}, found {value} at {block.at(row)} "
            f"(NaN, infinity or a value too large for {X.dtype}); "
            "clean the data or choose missing='drop', 'mean', 'zero' or a number"
        )
    dropping = code == DROP
    if dropping.any():
        keep = np.asarray(~bad[:, dropping].any(axis=1))
        if not keep.all():
            return block.take(keep), X[keep], bad[keep]
    return block, X, bad


def _find(name: str, position: Mapping[str, int], option: str) -> int:
    if name not in position:
        raise ConfigError(f"{option} names the column {name!r}, which is not among the {len(position)} feature columns")
    return position[name]


def _code(policy: Policy) -> tuple[int, float]:
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise ConfigError(f"expected missing to be one of {', '.join(POLICIES)} or a number, found {policy!r}")
        return {"error": ERROR, "drop": DROP, "mean": MEAN, "zero": FILL, "keep": KEEP}[policy], (
            0.0 if policy == "zero" else np.nan
        )
    if isinstance(policy, bool) or not np.isfinite(policy):
        raise ConfigError(f"expected missing to be one of {', '.join(POLICIES)} or a finite number, found {policy!r}")
    return FILL, float(policy)


__all__ = ["Cleaning", "Resolved"]
