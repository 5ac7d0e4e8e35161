"""Encoding: blocks become Parquet files of one part, row group by row group, in bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from eigenmill.reduce.errors import DataError, SchemaError
from eigenmill.reduce.format import FORMAT_1, Format
from eigenmill.reduce.output.manifest import FileRecord
from eigenmill.reduce.output.parts import Part
from eigenmill.reduce.rows.blocks import Array, Block
from eigenmill.reduce.storage import files

Layout = Literal["list", "columns"]


@dataclass(frozen=True)
class Encoding:
    """What the files of an output look like. Picklable.

    Attributes:
        model: digest of the chain of transforms, in every file's metadata.
        schema: of the files.
        carried: schema of the carried columns, the partition column included.
        n_features, dtype: of the features.
        layout: one fixed-size-list ``column``, or one column per feature.
        column: name of the list column.
        partition_by: the carried column that becomes directories.
        compression: as :class:`~eigenmill.reduce.output.sink.Sink` names it.
        format: sizes of row groups.
    """

    model: str
    schema: pa.Schema
    carried: pa.Schema
    n_features: int
    dtype: str
    layout: Layout
    column: str
    partition_by: str | None
    compression: str
    format: Format = FORMAT_1

    def __getstate__(self) -> dict[str, Any]:
        # As Arrow bytes: pickle forgets name and nullability of a fixed-size list's element (pyarrow 26).
        schemas = {name: getattr(self, name).serialize().to_pybytes() for name in ("schema", "carried")}
        return {**self.__dict__, **schemas}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        for name in ("schema", "carried"):
            self.__dict__[name] = pa.ipc.read_schema(pa.py_buffer(state[name]))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of features."""
        return self.n_features * np.dtype(self.dtype).itemsize

    @property
    def group_rows(self) -> int:
        """Most rows of a row group."""
        return group_rows(self.row_bytes, self.format)


def group_rows(row_bytes: int, format: Format) -> int:
    """Most rows of a row group whose features take so many bytes a row."""
    return min(max(format.group_bytes // max(row_bytes, 1), 1), format.group_rows)


def _parquet_writer(encoding: Encoding, file: BinaryIO) -> pq.ParquetWriter:
    """Dictionaries and statistics for carried columns only: features are noise to both.

    Plain encoding, for byte-stream splitting saves 9 % of a list column, nothing of scalar columns, and not
    every reader knows it. zstd at level 1 is as fast as no compression (0.47 s for 400,000 x 50 float32).
    """
    columns = leaves(pa.schema([field for field in encoding.schema if field.name in encoding.carried.names]))
    return pq.ParquetWriter(
        file,
        encoding.schema,
        compression=encoding.compression,
        compression_level=encoding.format.zstd_level if encoding.compression == "zstd" else None,
        use_dictionary=columns or False,
        write_statistics=columns or False,
    )


def leaves(schema: pa.Schema) -> list[str]:
    """Parquet's dotted names of a schema's leaf columns; refuses types that Parquet does not know."""
    out = pa.BufferOutputStream()
    try:
        pq.ParquetWriter(out, schema).close()
    except pa.ArrowNotImplementedError as error:
        raise SchemaError(f"expected carried columns that Parquet can hold, found: {error}; leave it out") from error
    found = pq.ParquetFile(pa.BufferReader(out.getvalue())).schema
    return [found.column(i).path for i in range(len(found))]


class GatheredRows:
    """Rows gathered for a row group: features copied into an array, carried columns into an Arrow stream."""

    def __init__(self, encoding: Encoding, capacity: int) -> None:
        self._encoding, self._list = encoding, encoding.layout == "list"
        self._carried = pa.schema([f for f in encoding.schema if f.name in encoding.carried.names])
        self._features = self._empty(max(capacity, 1))
        self._clear()

    def _empty(self, rows: int) -> Array:
        k = self._encoding.n_features
        return np.empty((rows, k) if self._list else (k, rows), self._encoding.dtype)

    def _clear(self) -> None:
        self.count = 0
        self._out = pa.BufferOutputStream()
        self._stream: Any = None  # opened with the first rows: an empty stream has a size

    @property
    def carried_bytes(self) -> int:
        return int(self._out.tell())

    @property
    def nbytes(self) -> int:
        return self.count * self._encoding.n_features * self._features.itemsize + self.carried_bytes

    def add(self, X: Array, carried: pa.RecordBatch | None) -> None:
        """Appends rows: X (h, k) of any order, and the carried columns of the files' schema."""
        stop = self.count + len(X)
        capacity = self._features.shape[0 if self._list else 1]
        if stop > capacity:
            old, self._features = self._features, self._empty(max(stop, 2 * capacity))
            if self._list:
                self._features[: self.count] = old[: self.count]
            else:
                self._features[:, : self.count] = old[:, : self.count]
        if self._list:
            self._features[self.count : stop] = X
        else:
            self._features[:, self.count : stop] = X.T
        if len(self._carried):
            if self._stream is None:
                self._stream = pa.ipc.new_stream(self._out, self._carried)
            self._stream.write_batch(carried)
        self.count = stop

    def table(self) -> pa.Table:
        """The rows as a table over this buffer, valid until the next :meth:`add`; none are left."""
        columns, features, encoding = [], self._features, self._encoding
        if self._stream is not None:
            self._stream.close()
            columns = pa.ipc.open_stream(self._out.getvalue()).read_all().columns
        if self._list:
            flat = pa.array(features[: self.count].reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, type=encoding.schema.field(encoding.column).type))
        else:
            columns += [pa.array(column[: self.count]) for column in features]
        self._clear()
        return pa.Table.from_arrays(columns, schema=encoding.schema)


def matrix(encoding: Encoding, block: Block) -> Array:
    """The block's features, dense, in the dtype to be written."""
    with np.errstate(over="raise"):
        try:
            X = block.X if isinstance(block.X, np.ndarray) else block.dense(encoding.dtype, name="sink")
            return X.astype(encoding.dtype, copy=False)
        except FloatingPointError as error:
            raise DataError(
                f"expected features within the range of {encoding.dtype}, found larger ones in the "
                f"{block.rows} rows from {block.origin.at()}; write dtype='float64'"
            ) from error


class PartFile:
    """One Parquet file of a part, open for row groups."""

    def __init__(self, path: str, writer: pq.ParquetWriter) -> None:
        self.path, self.writer, self.rows = path, writer, 0

    def write(self, rows: GatheredRows, group_rows: int | None = None) -> None:
        """Writes what has been gathered, as one row group or as several of ``group_rows`` rows."""
        count = rows.count
        if count:
            with files.storage_errors(self.path):
                self.writer.write_table(rows.table(), row_group_size=group_rows or count)
        self.rows += count


@dataclass(frozen=True)
class PartFiles:
    """Where the files of one part go, and the records of those that are there.

    On disk their names have that ``ending`` beyond what the records say.
    """

    fs: pafs.FileSystem
    directory: str
    encoding: Encoding
    part: Part
    ending: str = ""
    written: list[FileRecord] = field(default_factory=list)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[PartFile]:
        """The file ``name``, published when the ``with`` statement ends well."""
        path = f"{self.directory}/{name}{self.ending}"
        with files.draft(self.fs, path) as made:
            with files.storage_errors(path):
                writer = _parquet_writer(self.encoding, made.file)
            try:
                file = PartFile(path, writer)
                yield file
                labels = {"eigenmill.model": self.encoding.model, "eigenmill.part": str(self.part.index)}
                with files.storage_errors(path):
                    writer.add_key_value_metadata(labels)
                    writer.close()
            except BaseException:
                writer.is_open = False  # the file will not be published: nothing is left to be written when this goes
                raise
        self.written.append(FileRecord(name, file.rows, made.written.bytes, made.written.sha256))


class WholePart:
    """A part as one file: its blocks go into row groups as they come."""

    def __init__(self, out: PartFiles, file: PartFile) -> None:
        self.encoding, self.file = out.encoding, file
        self.rows = GatheredRows(out.encoding, min(out.encoding.group_rows, out.part.rows))

    def add(self, block: Block) -> None:
        """Takes a block's rows; writes every row group that is full."""
        X, rows, limit, start = matrix(self.encoding, block), self.rows, self.encoding.group_rows, 0
        while start < len(X):
            stop = min(start + limit - rows.count, len(X))
            rows.add(X[start:stop], None if block.carried is None else block.carried[start:stop])
            if rows.count == limit or rows.carried_bytes >= self.encoding.format.group_bytes:
                self.file.write(rows)
            start = stop


@contextlib.contextmanager
def whole_part(out: PartFiles) -> Iterator[WholePart]:
    """Writes a part as one file."""
    with out.file(f"{out.part.name}.parquet") as file:
        made = WholePart(out, file)
        yield made
        file.write(made.rows)
