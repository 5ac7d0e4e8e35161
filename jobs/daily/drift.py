"""Drift between two fitted models, and the alignment of a new one to the features of an old one.

A gate compares what the data was when a model was published with what it is now: means, variances, and the space
that the kept components span.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize

from eigenmill.jobs.daily.config import Drift
from eigenmill.reduce.estimators.fitted import Snapshot
from eigenmill.reduce.rows.blocks import F64
from eigenmill.reduce.rows.transforms import Align
from eigenmill.reduce.sources.base import NumberedNames


@dataclass(frozen=True)
class Measure:
    """One measure of drift.

    Attributes:
        value: the largest change; None for one without bound, as of a constant column that is constant no longer.
        bound: what it must not pass; None when nobody asks.
        column: the column that has changed most, if it belongs to one.
    """

    value: float | None
    bound: float | None
    column: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the bound is passed."""
        return self.bound is not None and (self.value is None or self.value > self.bound)

    def as_json(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {**vars(self), "passed": self.passed}


def measure(published: Snapshot, candidate: Snapshot, bounds: Drift) -> dict[str, Measure]:
    """How far ``candidate`` is from ``published``; both are PCA or TruncatedSVD with the same columns.

    Returns:
        ``mean``: the largest change of a column's mean, in standard deviations (divisor n) that the published model
        has seen. ``log_variance``: the largest change of the logarithm of a column's variance. ``angle``: the largest
        principal angle between the spans of the components, in degrees (Björck and Golub 1973; each basis in the
        units of its own model, standardized or not). Means and variances are those of the values as read, finite and
        clipped, before gaps are filled.
    """
    old, new = published.quality, candidate.quality
    was, now = old.variance, new.variance
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.abs(new.mean - old.mean) / np.sqrt(was)
        logs = np.abs(np.log(now) - np.log(was))
    names = published.names
    angles = scipy.linalg.subspace_angles(published["components_"].T, candidate["components_"].T)
    return {
        "mean": _largest(np.where(_same(new.mean, old.mean), 0.0, means), bounds.mean, names),
        "log_variance": _largest(np.where(_same(now, was), 0.0, logs), bounds.log_variance, names),
        "angle": Measure(float(np.degrees(angles.max())), bounds.angle),
    }


def _same(a: F64, b: F64) -> npt.NDArray[np.bool_]:
    """Where two columns of numbers are equal, or both without a value."""
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)), dtype=np.bool_)


def _largest(changes: F64, bound: float | None, names: Sequence[str]) -> Measure:
    # A value where there was none, or a variance where there was none, is a change without bound.
    changes = np.where(np.isnan(changes), np.inf, changes)
    worst = int(np.argmax(changes))
    value = float(changes[worst])
    return Measure(value if np.isfinite(value) else None, bound, str(names[worst]))


@dataclass(frozen=True)
class Alignment:
    """How the components of a model become columns: column j is component ``permutation[j]`` times ``signs[j]``.

    Attributes:
        permutation: (k,) component numbers from 0.
        signs: (k,) of 1 and -1.
        cosines: (k,) between the direction behind column j and the one behind the old column j: 1 for the same.
    """

    permutation: tuple[int, ...]
    signs: tuple[int, ...]
    cosines: tuple[float, ...]

    def transform(self, dtype: np.dtype[Any]) -> Align:
        """The alignment as a row-local transform of features."""
        k = len(self.permutation)
        order, signs = np.asarray(self.permutation, dtype=np.int64), np.asarray(self.signs, dtype=np.float64)
        return Align(order, signs, NumberedNames("aligned", k), dtype)

    @property
    def inverse(self) -> Alignment:
        """How columns become components again."""
        order = np.argsort(self.permutation)
        signs, cosines = (tuple(values[j] for j in order) for values in (self.signs, self.cosines))
        return Alignment(tuple(map(int, order)), signs, cosines)

    def as_json(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {"permutation": list(self.permutation), "signs": list(self.signs), "cosines": list(self.cosines)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Alignment:
        """The inverse of :meth:`as_json`."""
        return cls(tuple(value["permutation"]), tuple(value["signs"]), tuple(value["cosines"]))


def align(published: Snapshot, before: Alignment | None, candidate: Snapshot) -> Alignment:
    """The order and signs in which the features of ``candidate`` are closest to those of ``published``.

    Every new component goes to the column of the old one that it resembles most: the assignment with the largest sum
    of absolute cosines between the directions (Kuhn 1955). ``before`` is how the published features were aligned.
    """
    old = published["components_"]
    if before is not None:
        old = old[list(before.permutation)] * np.asarray(before.signs, dtype=np.float64)[:, None]
    cosines = old @ candidate["components_"].T
    _, order = scipy.optimize.linear_sum_assignment(-np.abs(cosines))
    chosen = cosines[np.arange(len(order)), order]
    signs = np.where(chosen < 0, -1, 1)
    found = [float(value) for value in np.abs(chosen)]
    return Alignment(tuple(map(int, order)), tuple(map(int, signs)), tuple(found))


__all__ = ["Alignment", "Measure", "align", "measure"]
