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

Beside numeric columns, or instead of them, a model may have categories (:mod:`eigenmill.compress.core.categories`).
Their codes come after those of the numbers; a net reads each as inputs of which one is ``hot``, ``hot / spread`` while
training. Such inputs are held as sparse rows, and their product with the first weights adds up the rows that codes
name.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from eigenmill.compress.core.categories import Category, Codes, as_rows, columns_of, is_table, vocabulary_pass
from eigenmill.compress.core.layers import F32
from eigenmill.compress.core.split import Validation
from eigenmill.compress.format import current
from eigenmill.reduce import Dataset
from eigenmill.reduce.engines.base import Engine
from eigenmill.reduce.errors import ConfigError, DataError, MissingValueError, SchemaError
from eigenmill.reduce.passes.intake import Intake, Moments
from eigenmill.reduce.passes.moments import MomentsPass
from eigenmill.reduce.rows.blocks import F64, Block, Workspace
from eigenmill.reduce.rows.cleaning import DROP, ERROR, KEEP, Resolved
from eigenmill.reduce.storage.digest import tagged

RawLike = Any
"""Raw rows from whoever has some: an array, an Arrow table, a DataFrame, a dict of columns, a list of dicts."""
RawRows = Any
"""Raw rows as we hand them on: a float64 array (n, d), or an Arrow table where there are categories."""
Scaled = Any
"""What a net reads while training: float32 (n, width), or a SciPy sparse array where there are categories."""

MAX_BITS, MAX_INPUTS = 16, 1 << 16
RUN = 1024
"""Rows that are taken together, so that what they become on the way to scores stays in the processor's cache."""


@tagged("Front", "layout n_features bits low step fill centre spread categories hot")
@dataclass(frozen=True)
class Front:
    """The input of a model.

    Attributes:
        layout: how ``Dataset.from_parquet`` reads such rows: ``{"vector": name, "n_features": d}`` or
            ``{"columns": names}``; empty for plain arrays.
        n_features: d, the numeric columns.
        bits: of a code, 1 to 16.
        low, step: (d,) or (1,), see above.
        fill: (d,) or (1,) code of a missing or infinite value; -1 where it is refused.
        centre, spread: in codes, the same for all columns: what is subtracted and divided while training.
        categories: columns whose values are names.
        hot: the one input of a category that is not 0.
    """

    layout: Mapping[str, Any]
    n_features: int
    bits: int
    low: F32
    step: F32
    fill: npt.NDArray[np.int64]
    centre: float
    spread: float
    categories: tuple[Category, ...] = ()
    hot: int = 1

    @property
    def shared(self) -> bool:
        """Whether all columns are measured alike."""
        return self.n_features > 1 and len(self.low) == 1

    @property
    def top(self) -> int:
        """The largest code."""
        return int((1 << self.bits) - 1)

    @property
    def width(self) -> int:
        """Inputs of the net: d, and the codes of all categories."""
        return self.n_features + sum(category.width for category in self.categories)

    @property
    def n_codes(self) -> int:
        """Codes of a row: of its numbers, then of its categories."""
        return self.n_features + len(self.categories)

    @property
    def kind(self) -> npt.DTypeLike:
        """The smallest type that holds all codes."""
        small = self.bits <= 8 and all(category.width <= 256 for category in self.categories)
        return np.uint8 if small else np.uint16

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The inputs of each category, from and to."""
        ends = np.cumsum([self.n_features, *(category.width for category in self.categories)]).tolist()
        return list(itertools.pairwise(ends))

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """(c,) the first input of each category."""
        return np.array([start for start, _ in self.spans], np.int64)

    @property
    def carried(self) -> list[str]:
        """The columns that categories read."""
        return columns_of([category.name for category in self.categories])

    @property
    def names(self) -> list[str]:
        """Names of the d numeric inputs."""
        columns = self.layout.get("columns")
        if columns is not None:
            return [str(name) for name in columns]
        prefix = f"{self.layout['vector']}_" if "vector" in self.layout else "x"
        return [f"{prefix}{j}" for j in range(self.n_features)]

    def codes(self, X: RawLike, where: str = "row 0") -> Codes:
        """The codes (n, d) of raw values X (n, d), or of a table of named columns.

        Args:
            X: an array; or an Arrow table, a DataFrame, a dict of columns or of single values, a list of dicts: of
                these the model takes its columns by name. A model with categories takes no array.
            where: the first row, for errors.

        Raises:
            SchemaError: X has another shape, or columns are missing or of other types.
            MissingValueError: a value is missing or infinite, and the model has no code for it.
        """
        if self.categories or is_table(X):
            numbers, named = self.parts(X)
            return np.column_stack([self._numbers(numbers, where), named])
        X = np.asarray(X)
        if X.dtype.kind not in "buif":
            try:
                X = X.astype(np.float64, casting="unsafe" if X.dtype == object else "same_kind")
            except (TypeError, ValueError) as error:
                raise SchemaError(f"expected numbers, found {X.dtype} values: {error}; convert them") from error
        return self._numbers(X, where)

    def block_codes(self, block: Block) -> Codes:
        """The codes of a block that carries the columns of the categories."""
        # Contiguous rows are converted to doubles in runs that stay in cache; others are converted at once.
        rows = block.X if isinstance(block.X, np.ndarray) and block.X.flags.c_contiguous else block.dense(np.float64)
        codes = self._numbers(rows, block.at(0) if block.rows else "")
        return np.column_stack([codes, self._category_codes(block)]) if self.categories else codes

    def _category_codes(self, block: Block) -> Codes:
        if not self.categories:
            return np.empty((block.rows, 0), np.uint16)
        assert block.carried is not None
        carried = block.carried
        return np.column_stack([c.codes(carried.column(c.column)) for c in self.categories])

    def parts(self, X: RawLike) -> tuple[F64, Codes]:
        """Of a table the numbers (n, d), and the codes (n, c) of the categories."""
        if not is_table(X):
            raise SchemaError(
                f"expected a table with the columns {[*self.names, *self.carried][:20]}, found {type(X).__name__}; "
                "give a DataFrame, an Arrow table or a dict of columns"
            )
        data = Dataset.from_arrow(as_rows(X), **(self.layout or {"columns": self.names}), carry=self.carried)
        numbers: list[npt.NDArray[np.floating]] = [np.empty((0, self.n_features))]
        codes, workspace = list[Codes](), Workspace()
        for fragment in data.fragments:
            for block in data.blocks(fragment, workspace, carry=True):
                numbers.append(block.dense(np.float64).copy())
                codes.append(self._category_codes(block))
        return np.concatenate(numbers), np.concatenate([np.empty((0, len(self.categories)), np.uint16), *codes])

    def rows(self, block: Block) -> RawRows:
        """The raw rows of a block, as ``codes`` takes them: an array, or a table of the model's columns."""
        X = block.dense(np.float64)
        if not self.categories or block.carried is None:
            return X
        return self.table(X, [block.carried.column(name) for name in self.carried])

    def table(self, X: npt.NDArray[np.floating], carried: Sequence[pa.Array]) -> pa.Table:
        """A table of the model's columns: numbers X (n, d), and the columns that categories read."""
        if "vector" in self.layout:
            flat = pa.array(np.ascontiguousarray(X).ravel())
            numeric = {str(self.layout["vector"]): pa.FixedSizeListArray.from_arrays(flat, self.n_features)}
        else:
            numeric = {name: pa.array(np.ascontiguousarray(x)) for name, x in zip(self.names, X.T, strict=True)}
        return pa.table(numeric | dict(zip(self.carried, carried, strict=True)))

    def example(self, codes: Codes) -> RawRows:
        """Raw rows that have these codes, as ``codes`` takes them.

        Of parts of dates there are none: such categories keep the code of null or of any other value.
        """
        d = self.n_features
        X = self.low.astype(np.float64) + self.step.astype(np.float64) * codes[:, :d]
        if not self.categories:
            return X
        columns: dict[str, pa.Array] = {name: pa.nulls(len(codes), pa.timestamp("s")) for name in self.carried}
        for j, category in enumerate(self.categories):
            if category.column == category.name:
                columns[category.name] = category.array(codes[:, d + j])
        return self.table(X, list(columns.values()))

    def _numbers(self, X: npt.NDArray[np.generic], where: str) -> Codes:
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise SchemaError(f"expected rows of {self.n_features} features, found shape {X.shape}; give those columns")
        if len(X) <= RUN:
            return self._run(X, 0, where)
        codes: Codes = np.empty(X.shape, np.uint16)
        for a in range(0, len(X), RUN):
            codes[a : a + RUN] = self._run(X[a : a + RUN], a, where)
        return codes

    def _run(self, X: npt.NDArray[np.generic], first: int, where: str) -> Codes:
        """Codes of a run that begins ``first`` rows after ``where``."""
        values = X.astype(np.float64)
        bad = ~np.isfinite(values) if X.dtype.kind == "f" else np.zeros((0, 0), bool)
        if bad.any():
            refused = bad & (self.fill < 0)
            if refused.any():
                row, column = (int(i) for i in np.argwhere(refused)[0])
                raise MissingValueError(
                    f"expected finite numbers in column {self.names[column]!r}, found {values[row, column]} "
                    f"{first + row} rows after {where}; clean the data, or train with a policy for missing values"
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

    def inputs(self, codes: Codes) -> Codes | sparse.csr_array:
        """What an integer net reads: the codes (n, d) themselves, or sparse rows (n, width) if there are categories."""
        return self._sparse(codes[:, : self.n_features], codes, self.hot) if self.categories else codes

    def scaled_inputs(self, codes: Codes) -> Scaled:
        """What a net reads while training: (n, d) float32, or sparse rows (n, width) if there are categories."""
        numbers = codes[:, : self.n_features].astype(np.float32)
        z = (numbers - np.float32(self.centre)) / np.float32(self.spread)
        return self._sparse(z, codes, np.float32(self.hot / self.spread)) if self.categories else z

    def hot_inputs(self, codes: Codes) -> npt.NDArray[np.int64]:
        """(n, c) the inputs of the categories that are hot."""
        return np.asarray(codes[:, self.n_features :].astype(np.int64) + self.starts)

    def _sparse(self, numbers: Codes | F32, codes: Codes, hot: int | np.float32) -> sparse.csr_array:
        n, d = numbers.shape
        place = np.column_stack([np.broadcast_to(np.arange(d), (n, d)), self.hot_inputs(codes)])
        kind = np.float32 if isinstance(hot, np.float32) else np.int64
        values = np.column_stack([numbers.astype(kind), np.full((n, len(self.categories)), hot, kind)])
        ends = np.arange(n + 1) * self.n_codes
        return sparse.csr_array((values.ravel(), place.ravel(), ends), shape=(n, self.width))


def learn_front(
    data: Dataset,
    engine: Engine,
    bits: int | None = None,
    categories: Sequence[str] = (),
    max_categories: int = 1000,
    min_frequency: int = 2,
    split: Validation | None = None,
) -> Front:
    """The front for rows like those of ``data``, from one scan of moments and one of categories.

    A vector of small whole numbers is measured alike in all its columns; other columns each on their own.

    Args:
        data: raw rows; its cleaning policy becomes the model's.
        engine: where the scan runs.
        bits: of a code; by default 8 for whole numbers up to 255, else 12.
        categories: as of ``Model.mlp``.
        max_categories: as of ``Model.mlp``.
        min_frequency: as of ``Model.mlp``.
        split: its held out rows teach no categories.

    Raises:
        ConfigError: the data is transformed or sparse, or its policy cannot be the model's.
        DataError: there are no rows, or a column has no finite value.
        SchemaError: a category is not among the carried columns, or none.
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
    if names:
        found: Moments = engine.run(MomentsPass(Intake(names, np.dtype(np.float64), policy, data.format)), data)
        front = front_of(found, policy, data.source.describe(), names, bits)
    elif categories:
        nothing = np.empty(0, np.float32)
        front = Front(data.source.describe(), 0, 1, nothing, nothing, np.empty(0, np.int64), 0.0, 1.0)
    else:
        raise ConfigError("expected numeric columns or categories, found neither; name some")
    return with_categories(front, data, engine, categories, max_categories, min_frequency, split)


def with_categories(
    front: Front,
    data: Dataset,
    engine: Engine,
    names: Sequence[str],
    max_categories: int,
    min_frequency: int,
    split: Validation | None,
) -> Front:
    """The front with categories, whose values one scan of ``data`` counts; arguments as of :func:`learn_front`."""
    if not names:
        return front
    counts = vocabulary_pass(data.source.carried, names, max_categories, min_frequency, split)
    found: tuple[Category, ...] = engine.run(counts, data)
    # A hot input is as large as a number one standard deviation from its mean.
    front = replace(front, categories=found, hot=max(round(front.spread), 1))
    if front.width > MAX_INPUTS:
        raise ConfigError(
            f"expected at most {MAX_INPUTS} inputs, found {front.width}, with one for each value of a category; lower "
            "max_categories"
        )
    return front


def front_of(
    found: Moments, policy: Resolved, layout: Mapping[str, Any], names: Sequence[str], bits: int | None
) -> Front:
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
        reach = float(np.clip(np.max(np.maximum(found.high - mean, mean - found.low) / unit), 1.0, current().outlier))
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


__all__ = ["Codes", "Front", "front_of", "learn_front", "with_categories"]
