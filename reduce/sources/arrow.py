"""Arrow to NumPy: numbers, lists of numbers and sparse rows, without a copy where Arrow allows it.

Arrays come as Parquet and users deliver them: sliced, nullable, dictionary-encoded, in an extension type.
Views into Arrow memory are read-only. Missing values become NaN, so integers with nulls become float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from eigenmill.reduce.errors import DataError, SchemaError
from eigenmill.reduce.rows.blocks import Array, Origin

Mask = npt.NDArray[np.bool_]


def unwrapped(type_: pa.DataType) -> pa.DataType:
    """The storage type of an extension type, the value type of a dictionary type, else the type itself."""
    if isinstance(type_, pa.BaseExtensionType):
        return unwrapped(type_.storage_type)
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def number_dtype(type_: pa.DataType) -> np.dtype[Any] | None:
    """The NumPy dtype of the type's values (decimals: float64), or None if it holds no numbers."""
    type_ = unwrapped(type_)
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        dtype: np.dtype[Any] = np.dtype(type_.to_pandas_dtype())
        return dtype
    if pa.types.is_boolean(type_):
        return np.dtype(np.bool_)
    if pa.types.is_decimal(type_):
        return np.dtype(np.float64)
    if pa.types.is_null(type_):
        return np.dtype(np.float32)
    return None


def list_element(type_: pa.DataType) -> pa.DataType | None:
    """What a list type holds, or None if it is no list type."""
    type_ = unwrapped(type_)
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return type_.value_type if any(is_list(type_) for is_list in lists) else None


def plain(type_: pa.DataType) -> pa.DataType:
    """The type with nullable children and one name for list elements: files may differ in these."""
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(pa.field("item", plain(type_.value_type)), type_.list_size)
    if pa.types.is_large_list(type_):
        return pa.large_list(pa.field("item", plain(type_.value_type)))
    if pa.types.is_list(type_):
        return pa.list_(pa.field("item", plain(type_.value_type)))
    if pa.types.is_struct(type_):
        return pa.struct([pa.field(f.name, plain(f.type)) for f in type_])
    return type_


def near_names(name: str, names: Iterable[str]) -> str:
    """A hint for an error message: the most similar names, or the first few if none is similar."""
    names = list(names)
    near = get_close_matches(name, names, n=3)
    if near:
        return f"Hint: did you mean {' or '.join(map(repr, near))}?"
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"It has {', '.join(map(repr, names[:10]))}{more}" if names else "It has no columns"


def weights_field(schema: pa.Schema, name: str, path: str) -> pa.Field:
    """The field of the row weights.

    Raises:
        SchemaError: there is no such column, or it holds no numbers.
    """
    found = field_of(schema, name, "weights", path)
    if number_dtype(found.type) is None:
        raise SchemaError(
            f"expected numbers in the weights column {name!r}, found {found.type} in {path}; give another column"
        )
    return found


def field_of(schema: pa.Schema, name: str, role: str, path: str) -> pa.Field:
    """The field called ``name``.

    Raises:
        SchemaError: there is no such column, or more than one; ``role`` (``columns``, ``carry``) tells whose.
    """
    found = schema.get_all_field_indices(name)
    if len(found) > 1:
        raise SchemaError(
            f"expected one column {name!r} ({role}), found {len(found)} of that name in {path}; rename them"
        )
    if not found:
        raise SchemaError(
            f"expected a column {name!r} ({role}), found none of that name in {path}. {near_names(name, schema.names)}"
        )
    return schema.field(found[0])


def storage(array: pa.Array) -> pa.Array:
    """What lies behind an extension type such as a tensor."""
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def missing_rows(array: pa.Array) -> Mask:
    """(h,) true where the array is null."""
    if array.null_count == 0:
        return np.zeros(len(array), dtype=np.bool_)
    mask: Mask = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def numbers(array: pa.Array) -> Array:
    """A numeric or boolean array as (h,): a view without nulls (booleans: uint8), else floats with NaN."""
    if array.null_count == 0 and (pa.types.is_floating(array.type) or pa.types.is_integer(array.type)):
        view: Array = array.to_numpy()
        return view
    if isinstance(array, pa.ExtensionArray):
        return numbers(array.storage)
    if pa.types.is_dictionary(array.type):
        return numbers(array.dictionary_decode())
    if pa.types.is_boolean(array.type) and array.null_count == 0:
        bits: Array = array.to_numpy(zero_copy_only=False).view(np.uint8)
        return bits
    if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type)):
        array = array.cast(pa.float64())
    filled: Array = array.to_numpy(zero_copy_only=False)
    return filled


def list_rows(array: pa.Array, width: int, column: str, origin: Origin) -> Array:
    """Lists of ``width`` numbers as (h, width), row-major; a null list is a row of NaN.

    Raises:
        SchemaError: a list has another length.
    """
    array = storage(array)
    h, missing = len(array), missing_rows(array)
    if pa.types.is_fixed_size_list(array.type):
        if array.type.list_size != width:
            raise wrong_length(column, width, array.type.list_size, origin.at())
        matrix = numbers(array.values.slice(array.offset * width, h * width)).reshape(h, width)
        return _with_missing(matrix[~missing], missing) if missing.any() else matrix
    offsets = array.offsets.to_numpy()
    lengths = np.diff(offsets)
    wrong = (lengths != width) & ~missing
    if wrong.any():
        row = int(np.argmax(wrong))
        raise wrong_length(column, width, int(lengths[row]), origin.at(row))
    if not missing.any():
        return numbers(array.values.slice(int(offsets[0]) if h else 0, h * width)).reshape(h, width)
    return _with_missing(numbers(array.flatten()).reshape(h - int(missing.sum()), width), missing)


def _with_missing(present: Array, missing: Mask) -> Array:
    dtype = present.dtype if present.dtype.kind == "f" else np.dtype(np.float64)
    matrix = np.full((len(missing), present.shape[1]), np.nan, dtype=dtype)
    matrix[~missing] = present
    return matrix


def wrong_length(column: str, width: int, found: int, where: str) -> SchemaError:
    """The error for a row of another length than the first."""
    return SchemaError(
        f"expected {width} numbers in every row of column {column!r}, found {found} in {where}; "
        "pad or drop such rows when the file is written, or say n_features= if the first row is the wrong one"
    )


def sparse_rows(
    indices: pa.Array,
    values: pa.Array,
    width: int,
    dtype: np.dtype[Any],
    column: str,
    origin: Origin,
    *,
    full: Mask | None = None,
) -> sparse.csr_array:
    """Lists of indices and of values, row by row, as CSR (h, width) of ``dtype`` in canonical form.

    Indices are sorted, duplicates summed, explicit zeros kept. A row that is null in both is missing: it
    holds ``width`` NaN, like a missing row of any other layout. Rows where ``full`` (h,) is true list all
    ``width`` values and no indices.

    Raises:
        DataError: a row has more indices or more values, or an index is null or outside ``[0, width)``.
    """
    indices, values = storage(indices), storage(values)
    missing = missing_rows(values)
    counts, listed = _lengths(values), _lengths(indices)
    full = np.zeros_like(missing) if full is None else full & ~missing
    wrong = np.where(full, listed != 0, (listed != counts) | (missing_rows(indices) != missing))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"expected as many indices as values in every row of {column}, found {listed[row]} and "
            f"{counts[row]} in {origin.at(row)}; repair the row, or make both null if it is missing"
        )
    wrong = full & (counts != width)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise wrong_length(column, width, int(counts[row]), origin.at(row))

    positions = _positions(indices, listed, width, column, origin)
    data = numbers(values.flatten()).astype(dtype, copy=False)
    whole = full | missing
    if whole.any():
        counts = np.where(missing, width, counts)
        filled = np.full(int(counts.sum()), np.nan, dtype=dtype)
        filled[np.repeat(~missing, counts)] = data
        columns = np.empty(len(filled), dtype=np.int64)
        columns[np.repeat(~whole, counts)] = positions
        columns[np.repeat(whole, counts)] = np.tile(np.arange(width), int(whole.sum()))
        data, positions = filled, columns
    indptr = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    # Indices of 64 bits only where they are needed: all that is done with sparse rows is reading them.
    size = np.int32 if max(width, len(data)) <= np.iinfo(np.int32).max else np.int64
    positions, indptr = positions.astype(size, copy=False), indptr.astype(size)
    matrix = sparse.csr_array((data, positions, indptr), shape=(len(counts), width))
    if not matrix.has_canonical_format:
        matrix = matrix.copy()  # Arrow's memory is read-only, and both of these work in place
        matrix.sum_duplicates()
    return matrix


def _lengths(lists: pa.Array) -> npt.NDArray[np.int64]:
    """(h,) lengths of lists; 0 for a null one, whatever lies behind it."""
    if pa.types.is_fixed_size_list(lists.type):
        lengths = np.full(len(lists), lists.type.list_size, dtype=np.int64)
    else:
        lengths = np.diff(lists.offsets.to_numpy()).astype(np.int64, copy=False)
    lengths[missing_rows(lists)] = 0
    return lengths


def _positions(indices: pa.Array, listed: Array, width: int, column: str, origin: Origin) -> Array:
    """All indices of the rows in one array, checked."""
    flat = indices.flatten()
    bad = missing_rows(flat)
    positions = numbers(flat)
    if len(positions) and not bad.any() and (positions.min() < 0 or positions.max() >= width):
        bad = (positions < 0) | (positions >= width)
    if bad.any():
        entry = int(np.argmax(bad))
        row = int(np.repeat(np.arange(len(listed)), listed)[entry])
        raise DataError(
            f"expected indices from 0 to {width - 1} in {column}, found {flat[entry].as_py()} in "
            f"{origin.at(row)}; repair the row, or give the right n_features"
        )
    return positions
