"""The data-quality table: what was found in every column of an input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from eigenmill.jobs.reduction.results import Column
from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.engines.base import Engine
from eigenmill.reduce.passes.intake import Intake, Moments
from eigenmill.reduce.passes.moments import MomentsPass
from eigenmill.reduce.rows.cleaning import Cleaning


def columns(found: Moments, names: Sequence[str]) -> list[Column]:
    """The table of ``found``, in the order of the columns."""
    sd = np.sqrt(found.variance)
    return [
        Column(
            names[j],
            _plain(found.count[j]) or 0,
            int(found.missing[j]),
            int(found.infinite[j]),
            _plain(found.low[j]),
            _plain(found.high[j]),
            _plain(found.mean[j]),
            _plain(sd[j]),
            bool(found.low[j] == found.high[j]),
        )
        for j in range(len(names))
    ]


def summary(table: Sequence[Column], rows: int, listed: int = 20) -> dict[str, Any]:
    """The table in a few numbers, and the ``listed`` columns with most gaps."""
    gaps = sorted((c for c in table if c.missing or c.non_finite), key=lambda c: -(c.missing + c.non_finite))
    return {
        "rows": rows,
        "columns": len(table),
        "missing": sum(c.missing for c in table),
        "non_finite": sum(c.non_finite for c in table),
        "columns_with_gaps": len(gaps),
        "constant_columns": sum(c.constant for c in table),
        "empty_columns": sum(c.n == 0 for c in table),
        "most_gaps": [{"name": c.name, "missing": c.missing, "non_finite": c.non_finite} for c in gaps[:listed]],
    }


def measure(data: Dataset, engine: Engine) -> Moments:
    """The moments of the raw columns in one scan; gaps are counted whatever they are, and left out."""
    # Under "mean" the pass counts gaps of both kinds and refuses none; nothing is filled in, for no mean is used.
    policy = Cleaning(missing="mean").resolve(data.feature_names)
    return engine.run(MomentsPass(Intake(data.feature_names, np.dtype(np.float64), policy, data.format)), data)


def _plain(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


__all__ = ["columns", "measure", "summary"]
