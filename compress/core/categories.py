"""Categories: columns of text, whole numbers or booleans whose values are names, and how they become codes.

A model lists its categories by name, beside its numeric columns. A name is that of a column, or a part of a date or
time in a column: ``month(date)``, of ``year``, ``month`` (1 to 12), ``day`` (1 to 31), ``weekday`` (0 is Monday) and
``hour``. Before the first training one scan of the data (:class:`VocabularyPass`) counts the values of each, and the
most frequent ones become its vocabulary, which the packed file holds, sorted. A value is then a code:

    0           any other value: too rare for the vocabulary, or never seen while training
    1 ... K     the place of the value in the vocabulary
    K + 1       null, if there were nulls while training; without any, a null is code 0

The net reads a category as K + 1 (or K + 2) inputs of which one is ``hot`` and all others are 0, so its first layer
adds up the rows of its weights that the codes name; the inputs themselves are never made. ``hot`` is a whole number
of about the size of a standard deviation of the numeric columns' codes, and 1 where there are none. Values that
occurred once only are left out of the vocabulary (``min_frequency``): what is seen once stands for what is yet unseen
(Good 1953), so code 0 is trained too. Where nothing trains it, its weights are 0, and the column says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eigenmill.compress.core.split import Validation
from eigenmill.compress.format import FORMAT_1, current
from eigenmill.reduce.errors import ConfigError, DataError, SchemaError
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.rows.blocks import Block
from eigenmill.reduce.sources.tables import as_table, pandas_table
from eigenmill.reduce.storage.digest import tagged

Kind = Literal["whole", "text", "boolean"]
Value = bool | int | str
Codes = npt.NDArray[np.uint8 | np.uint16]

MAX_CATEGORIES = 1 << 15
"""Of one column. Half of what two bytes count, so that null has a place."""
MAX_TEXT = 1000
"""Bytes of a value in UTF-8; longer ones count as others."""
TYPES: dict[Kind, pa.DataType] = {"whole": pa.int64(), "text": pa.string(), "boolean": pa.bool_()}

_PARTS = {
    "year": pc.year,
    "month": pc.month,
    "day": pc.day,
    "weekday": pc.day_of_week,
    "hour": pc.hour,
}
_PART = re.compile(rf"({'|'.join(_PARTS)})\((.+)\)", re.DOTALL)


@tagged("Category", "name kind values nulls")
@dataclass(frozen=True)
class Category:
    """One category and its vocabulary.

    Attributes:
        name: of the column, or of a part of it as in ``month(date)``.
        kind: of its values.
        values: (K,) the vocabulary, ascending; text by its bytes in UTF-8.
        nulls: whether null has a code of its own.
    """

    name: str
    kind: Kind
    values: tuple[Value, ...]
    nulls: bool

    @property
    def column(self) -> str:
        """The column that is read."""
        return column_of(self.name)

    @property
    def width(self) -> int:
        """How many codes there are."""
        return len(self.values) + 1 + self.nulls

    @property
    def null(self) -> int:
        """The code of null."""
        return self.width - 1 if self.nulls else 0

    @property
    def unlisted_value(self) -> Value | None:
        """A value of code 0."""
        if self.kind == "text":
            return f"{self.values[-1]}_" if self.values else ""
        if self.kind == "whole":
            return next((v for v in range(len(self.values) + 1) if v not in set(self.values)), None)
        return next((v for v in (False, True) if v not in self.values), None)

    @cached_property
    def _known(self) -> pa.Array:
        return pa.array(self.values, TYPES[self.kind])

    def codes(self, column: pa.Array) -> Codes:
        """The codes (n,) of a column's values.

        Raises:
            SchemaError: they are of another kind.
        """
        found = category_values(column, self.name, self.kind)
        places = pc.add(pc.fill_null(pc.index_in(found, value_set=self._known), -1), 1)
        codes = np.asarray(places.to_numpy(zero_copy_only=False)).astype(np.uint16)
        if found.null_count:
            codes[np.asarray(found.is_null().to_numpy(zero_copy_only=False))] = self.null
        return codes

    def array(self, codes: Codes) -> pa.Array:
        """Values (n,) that have these codes."""
        table = pa.array([self.unlisted_value, *self.values, *([None] if self.nulls else [])], TYPES[self.kind])
        return table.take(pa.array(codes))


def column_of(name: str) -> str:
    """The column that a category reads."""
    part = _PART.fullmatch(name)
    return part[2] if part else name


def columns_of(names: Sequence[str]) -> list[str]:
    """The columns that categories read, each once."""
    return list(dict.fromkeys(column_of(name) for name in names))


def kind_of(type_: pa.DataType, name: str) -> Kind:
    """What the values of a column are.

    Raises:
        SchemaError: they are no categories.
    """
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if _PART.fullmatch(name):
        if pa.types.is_timestamp(type_) or pa.types.is_date(type_) or pa.types.is_time(type_):
            return "whole"
        raise SchemaError(f"expected dates or times for {name!r}, found {type_}; convert the column to timestamps")
    if pa.types.is_boolean(type_):
        return "boolean"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return "whole"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return "text"
    raise SchemaError(
        f"expected text, whole numbers or booleans in the category {name!r}, found {type_}; convert the column, or "
        "leave it out"
    )


def category_values(column: pa.Array, name: str, kind: Kind | None = None) -> pa.Array:
    """The values of a category as int64, string or bool, of ``kind`` if that is known already.

    Raises:
        SchemaError: they are of another kind, or numbers that are not whole.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), TYPES[kind or "text"])
    found = kind_of(column.type, name)
    if kind is not None and found != kind:
        raise SchemaError(f"expected {kind} values in the category {name!r}, found {column.type}; convert the column")
    part = _PART.fullmatch(name)
    try:
        if part:
            column = _PARTS[part[1]](column)
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        return column.cast(TYPES[found])
    except pa.ArrowException as error:
        raise SchemaError(
            f"expected {found} values in the category {name!r}, found others: {error}; convert the column"
        ) from error


@tagged("Counted", "entries nulls taken")
@dataclass
class ValueCounts:
    """How often the values of each category occur.

    Attributes:
        entries: an Arrow stream of ``category`` (a place in the list), ``value`` (as text) and ``count``, by bytes.
        nulls: (c,) rows with null.
        taken: (c,) how much of each count was taken off to keep to ``counted`` values; 0 when counts are exact.
    """

    entries: npt.NDArray[np.uint8]
    nulls: npt.NDArray[np.int64]
    taken: npt.NDArray[np.int64]


_ENTRY = pa.schema([("category", pa.int32()), ("value", pa.string()), ("count", pa.int64())])


def _entry_bytes(table: pa.Table) -> npt.NDArray[np.uint8]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _ENTRY) as writer:
        writer.write_table(table.combine_chunks())
    return np.frombuffer(sink.getvalue(), np.uint8)


def _entries(state: ValueCounts) -> pa.Table:
    if not state.entries.size:
        return _ENTRY.empty_table()
    return pa.ipc.open_stream(pa.py_buffer(state.entries.tobytes())).read_all()


@tagged("VocabularyPass", "names kinds most least counted split")
@dataclass(frozen=True)
class VocabularyPass(Pass[ValueCounts, tuple[Category, ...]]):
    """Counts the values of categories in one scan; the result is the list of :class:`Category`.

    At most ``counted`` values of each are held, of ``entry_bytes`` on average. Beyond that the next smaller count is
    taken off all, and those left with none are let go (Misra and Gries 1982; mergeable, Agarwal et al. 2012, section
    3): a count is then too small by at most n / counted where values are no longer than that, and a value that is
    frequent is never lost. Then only values whose count exceeds what was taken off, and so that of any value let go,
    enter the vocabulary.

    Args:
        names: of the categories.
        kinds: of their values.
        most: values of each vocabulary.
        least: rows below which a value is not in it.
        counted: see above.
        split: rows that it holds out by a column are not counted.
    """

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    most: int
    least: int
    counted: int = FORMAT_1.counted
    split: Validation | None = None

    carries = True

    def start(self) -> ValueCounts:
        nothing, zeros = np.empty(0, np.uint8), np.zeros(len(self.names), np.int64)
        return ValueCounts(nothing, zeros, zeros.copy())

    def fold(self, state: ValueCounts, block: Block) -> ValueCounts:
        assert block.carried is not None
        carried = block.carried
        if self.split is not None and self.split.by is not None:
            carried = carried.filter(pa.array(~self.split.held_out(block, 0)))
        nulls, parts = np.zeros(len(self.names), np.int64), []
        for j, name in enumerate(self.names):
            values = category_values(carried.column(column_of(name)), name, self.kinds[j])
            nulls[j] = values.null_count
            values = values.drop_null()
            if self.kinds[j] == "text":
                values = values.filter(pc.less_equal(pc.binary_length(values), MAX_TEXT))
            counts = pc.value_counts(values)
            texts = counts.field("values").cast(pa.string())
            place = pa.array(np.full(len(texts), j, np.int32))
            parts.append(pa.table([place, texts, counts.field("counts").cast(pa.int64())], schema=_ENTRY))
        new = ValueCounts(_entry_bytes(pa.concat_tables(parts)), nulls, np.zeros(len(self.names), np.int64))
        return self.merge(state, new)

    def merge(self, a: ValueCounts, b: ValueCounts) -> ValueCounts:
        both = pa.concat_tables([_entries(a), _entries(b)])
        sums = both.group_by(["category", "value"]).aggregate([("count", "sum")])
        table = pa.table([sums["category"], sums["value"], sums["count_sum"]], schema=_ENTRY)
        table = table.sort_by([("category", "ascending"), ("value", "ascending")])
        taken = a.taken + b.taken
        place, counts = table["category"].to_numpy(), table["count"].to_numpy().copy()
        sizes = pc.binary_length(table["value"]).to_numpy()
        most = current().entry_bytes * self.counted
        for j in range(len(self.names)):
            mine = np.flatnonzero(place == j)
            if len(mine) <= self.counted and sizes[mine].sum() <= most:
                continue
            mine = mine[np.argsort(-counts[mine], kind="stable")]
            kept = min(self.counted, int((np.cumsum(sizes[mine]) <= most).sum()))
            less = int(counts[mine[kept]])
            counts[mine] -= less
            taken[j] += less
        table = table.set_column(2, _ENTRY.field(2), pa.array(counts)).filter(pa.array(counts > 0))
        return ValueCounts(_entry_bytes(table), a.nulls + b.nulls, taken)

    def finalize(self, state: ValueCounts) -> tuple[Category, ...]:
        """The vocabularies.

        Raises:
            DataError: a category has no value, or so many that none is known to be frequent.
        """
        table, found = _entries(state), []
        for j, (name, kind) in enumerate(zip(self.names, self.kinds, strict=True)):
            mine = table.filter(pc.equal(table["category"], j))
            counts, taken = mine["count"].to_numpy(), int(state.taken[j])
            if not len(mine) and not state.nulls[j] and not taken:
                raise DataError(f"expected values in the category {name!r}, found none; give more rows")
            # Sorted by value before, and stable: of equal counts the first values are kept.
            order = np.argsort(-counts, kind="stable")[: self.most]
            least = max(self.least, taken + 1) if taken else self.least
            kept = mine.take(pa.array(order[counts[order] >= least]))
            if taken and not len(kept):
                raise DataError(
                    f"expected values that occur again and again in the category {name!r}, found more different ones "
                    f"than the {self.counted} that are counted at a time, none of them frequent; leave the column out, "
                    "or make it coarser"
                )
            values = kept["value"].cast(TYPES[kind]).to_pylist()
            values.sort(key=lambda value: value.encode() if isinstance(value, str) else value)
            found.append(Category(name, kind, tuple(values), bool(state.nulls[j])))
        return tuple(found)

    def sizes(self, height: int, rows: int) -> tuple[int, int, int]:
        # 24 bytes beside each value hold its count, its category, and the end of its text.
        state = (current().entry_bytes + 24) * len(self.names) * min(rows, self.counted)
        return state, 4 * state + 64 * height * len(self.names), 4 * state

    def state_type(self) -> type[ValueCounts]:
        return ValueCounts


def vocabulary_pass(
    schema: pa.Schema, names: Sequence[str], most: int, least: int, split: Validation | None = None
) -> VocabularyPass:
    """The pass for categories of columns of these types.

    Raises:
        ConfigError: a limit is out of range, or a category is named twice.
        SchemaError: a column is missing, or of the wrong type.
    """
    if not 1 <= most <= MAX_CATEGORIES or least < 1:
        raise ConfigError(
            f"expected max_categories of 1 to {MAX_CATEGORIES}, min_frequency of at least 1, found {most} and {least}"
        )
    missing = [column for column in columns_of(names) if column not in schema.names]
    if missing:
        raise SchemaError(
            f"expected the columns {missing} of categories among the carried ones, found {schema.names}; add them to "
            "carry="
        )
    kinds = [kind_of(schema.field(column_of(name)).type, name) for name in names]
    return VocabularyPass(tuple(names), tuple(kinds), most, least, split=split)


# Raw rows in memory


def is_table(X: object) -> bool:
    """Whether X holds named columns: a dict, an Arrow table or batch, a DataFrame, or a list of dicts."""
    named = isinstance(X, Mapping | pa.Table | pa.RecordBatch) or hasattr(X, "columns")
    return named or (isinstance(X, list) and bool(X) and isinstance(X[0], Mapping))


def as_rows(X: object) -> pa.Table:
    """Named columns as an Arrow table; a dict of single values is one row.

    Raises:
        SchemaError: a column has no common type.
    """
    try:
        if isinstance(X, list):
            return pa.Table.from_pylist(X)
        if isinstance(X, Mapping):
            single = all(isinstance(v, str) or not hasattr(v, "__len__") for v in X.values())
            return pa.table({n: pa.array([v] if single else v, from_pandas=True) for n, v in X.items()})
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise SchemaError(f"expected columns of one type and length, found: {error}; convert them") from error
    return pandas_table(X) if hasattr(X, "iloc") else as_table(X)


def take_rows(X: Any, rows: npt.NDArray[np.intp]) -> Any:
    """Some of the raw rows, in an array or table of their own."""
    return X.take(pa.array(rows)) if isinstance(X, pa.Table) else np.ascontiguousarray(X[rows])


def join_rows(parts: Sequence[Any]) -> Any:
    """Raw rows one after the other, as one array or table."""
    return pa.concat_tables(parts).combine_chunks() if isinstance(parts[0], pa.Table) else np.concatenate(parts)


__all__ = [
    "Category",
    "VocabularyPass",
    "as_rows",
    "columns_of",
    "is_table",
    "join_rows",
    "take_rows",
    "vocabulary_pass",
]
