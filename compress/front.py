"""Front: how a raw row becomes the whole numbers that a net reads. It is part of every model and of its file.

A column j has a lower end ``low[j]`` and a ``step[j]``; a value x becomes the code

    q = min(max(floor((x - low) / step + 1/2), 0), 2**bits - 1)

in double precision. ``low`` and ``step`` are numbers of single precision, so that Python, C and ONNX start from the
same ones. NaN and infinities become the column's ``fill`` code, or are refused where it is -1. With ``shared`` all
columns have one ``low``, ``step`` and ``fill``: pixels of one picture are measured alike, and 784 pairs would cost
more than a small net.

Otherwise a step is the same share of its column's standard deviation, and the codes reach equally far to both sides of
the mean. While training, a net reads ``z = (q - centre) / spread``, of about unit variance; both are one number for
all columns, so that weights which are whole multiples of a step for ``z`` are so for ``q``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from reduce import Dataset
from reduce.blocks import F64
from reduce.cleaning import DROP, ERROR, KEEP
from reduce.engines.base import Engine
from reduce.errors import ConfigError, DataError, MissingValueError, SchemaError
from reduce.passes.moments import Intake, Moments, MomentsPass

Codes = npt.NDArray[np.uint16]
F32 = npt.NDArray[np.float32]

MAX_BITS = 16
OUTLIER = 8.0
"""Codes reach as far as the data does, but no farther than so many standard deviations from the mean."""


@dataclass(frozen=True)
class Front:
    """The input of a model.

    Attributes:
        layout: how ``Dataset.from_parquet`` reads such rows: ``{"vector": name, "n_features": d}`` or
            ``{"columns": names}``; empty for plain arrays.
        n_features: d.
        bits: of a code, 1 to 16.
        low, step: (d,) or (1,), see above.
        fill: (d,) or (1,) code of a missing or infinite value; -1 where it is refused.
        centre, spread: in codes, the same for all columns: what is subtracted and divided while training.
    """

    layout: Mapping[str, Any]
    n_features: int
    bits: int
    low: F32
    step: F32
    fill: npt.NDArray[np.int64]
    centre: float
    spread: float

    @property
    def shared(self) -> bool:
        """Whether all columns are measured alike."""
        return self.n_features > 1 and len(self.low) == 1

    @property
    def top(self) -> int:
        """The largest code."""
        return int((1 << self.bits) - 1)

    @property
    def names(self) -> list[str]:
        """Names of the d inputs."""
        columns = self.layout.get("columns")
        if columns is not None:
            return [str(name) for name in columns]
        prefix = f"{self.layout['vector']}_" if "vector" in self.layout else "x"
        return [f"{prefix}{j}" for j in range(self.n_features)]

    def codes(self, X: Any, where: str = "row 0") -> Codes:
        """The codes (n, d) of raw values X (n, d).

        Raises:
            SchemaError: X has another shape.
            MissingValueError: a value is missing or infinite, and the model has no code for it.
        """
        X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise SchemaError(f"expected rows of {self.n_features} features, found shape {X.shape}; give those columns")
        values = X.astype(np.float64)
        bad = ~np.isfinite(values) if X.dtype.kind == "f" else np.zeros((0, 0), bool)
        if bad.any():
            refused = bad & (self.fill < 0)
            if refused.any():
                row, column = (int(i) for i in np.argwhere(refused)[0])
                raise MissingValueError(
                    f"expected finite numbers in column {self.names[column]!r}, found {values[row, column]} "
                    f"{row} rows after {where}; clean the data, or train with a policy for missing values"
                )
            values[bad] = 0.0
        with np.errstate(over="ignore"):
            values -= self.low.astype(np.float64)
            values /= self.step.astype(np.float64)
        values += 0.5
        np.clip(values, 0, self.top, out=values)
        codes: Codes = values.astype(np.uint16)
        if bad.any():
            codes[bad] = np.broadcast_to(self.fill, codes.shape)[bad]
        return codes

    def scaled(self, codes: Any) -> F32:
        """What a net reads while training: (n, d) float32."""
        return np.asarray((codes.astype(np.float32) - np.float32(self.centre)) / np.float32(self.spread))


def read_front(data: Dataset, engine: Engine, bits: int | None = None) -> Front:
    """The front for rows like those of ``data``, from one scan of moments.

    A vector of small whole numbers is measured alike in all its columns; other columns each on their own.

    Args:
        data: raw rows; its cleaning policy becomes the model's.
        engine: where the scan runs.
        bits: of a code; by default 8 for whole numbers up to 255, else 12.

    Raises:
        ConfigError: the data is transformed or sparse, or its policy cannot be the model's.
        DataError: there are no rows, or a column has no finite value.
    """
    if data.transforms or data.sparse:
        raise ConfigError(
            "expected raw, dense rows, found transformed or sparse ones; give the files themselves, and to "
            "Model.mlp the fitted PCA"
        )
    names = data.feature_names
    policy = data.cleaning.resolve(names)
    if (policy.code == KEEP).any():
        raise ConfigError("expected a policy for missing values other than 'keep'; choose 'mean', 'zero' or a number")
    found: Moments = engine.run(MomentsPass(Intake(names, np.dtype(np.float64), policy)), data)
    return front_of(found, policy, data.source.describe(), names, bits)


def front_of(found: Moments, policy: Any, layout: Mapping[str, Any], names: Sequence[str], bits: int | None) -> Front:
    """The front for columns of known moments and cleaning policy."""
    if not found.rows or (found.count == 0).any():
        column = "" if not found.rows else f" in column {names[int(np.argmin(found.count))]!r}"
        raise DataError(f"expected finite values{column}, found none; give more rows, or leave the column out")
    if bits is not None and not 1 <= bits <= MAX_BITS:
        raise ConfigError(f"expected input bits between 1 and {MAX_BITS}, found {bits}; 8 is usual")
    mean, deviation = found.mean, np.sqrt(found.variance)
    whole = bool((found.low >= 0).all() and (found.high <= 255).all() and found.high.max() > 1)
    alike = "vector" in layout and whole
    kept = bits or (8 if alike else 12)
    top = (1 << kept) - 1
    low: F64
    if alike:
        low, step = np.zeros(1), np.array([max(found.high.max() / top, 1.0)])
        # Zero stays zero where columns are alike: most pixels are blank, and a blank one then costs nothing.
        centre, spread = 0.0, float(np.sqrt(np.mean(found.variance)) / step[0]) or 1.0
    else:
        unit = np.where(deviation > 0, deviation, 1.0)
        reach = float(np.clip(np.max(np.maximum(found.high - mean, mean - found.low) / unit), 1.0, OUTLIER))
        low, step = mean - reach * unit, 2 * reach * unit / top
        centre, spread = top / 2, top / (2 * reach)
    with np.errstate(over="ignore"):
        steps = step.astype(np.float32)
        lows = low.astype(np.float32)
    if not (np.isfinite(lows).all() and np.isfinite(steps).all() and (steps > np.finfo(np.float32).tiny).all()):
        raise DataError(
            "expected columns within the range of single precision, found larger or denser ones; scale the columns"
        )
    refusing = np.isin(policy.code, (ERROR, DROP))
    values = np.where(refusing, 0.0, policy.with_means(found.mean).fill)
    bare = Front(layout, len(names), kept, lows, steps, np.full(1, -1), centre, spread)
    fill = np.where(refusing, -1, bare.codes(values[None])[0].astype(np.int64))
    return replace(bare, fill=fill[:1] if (fill == fill[0]).all() else fill)


__all__ = ["Codes", "Front", "front_of", "read_front"]
