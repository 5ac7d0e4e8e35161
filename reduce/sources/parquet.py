"""Parquet files as a source: footers are read in parallel to plan, and again by whoever reads a fragment.

Planning keeps a few numbers per file: rows per row group, sizes, and a digest of the footer. A footer holds
the place, size and statistics of every column chunk, so a file that was written anew has another one; reading
a fragment compares it first. Files are read, not memory-mapped: it is as fast, memory stays bounded, and a
file that shrinks meanwhile is an error instead of a signal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import repeat
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eigenmill.reduce.errors import ChangedInputError, ConfigError, DataError, SchemaError
from eigenmill.reduce.format import FORMAT_1, Format, current
from eigenmill.reduce.rows.blocks import F64, Block, Origin, Workspace
from eigenmill.reduce.sources.arrow import field_of, numbers, plain, weights_field
from eigenmill.reduce.sources.catalog import FileInfo, Files, Fragment, Fragments
from eigenmill.reduce.sources.discovery import Listing, PartitionValue, join
from eigenmill.reduce.sources.extents import (
    PAGE,
    Extent,
    Extents,
    Reading,
    fixed_row,
    indices_of,
    leaves_of,
    reading,
    row_extent,
)
from eigenmill.reduce.sources.filters import RowFilter, constant, row_filter
from eigenmill.reduce.sources.footers import Footer, all_dense, info_of, miscounted, parquet_errors, read_footer
from eigenmill.reduce.sources.layouts import LaidOut, Layout, Scalars, SparkVector, Vector, Wanted, choose
from eigenmill.reduce.sources.origins import FileOrigin, locate
from eigenmill.reduce.sources.pieces import Gathered, check, piece_rows
from eigenmill.reduce.storage import links
from eigenmill.reduce.storage.digest import digest_of
from eigenmill.reduce.storage.files import digest_file
from eigenmill.reduce.storage.places import Store

Verify = Literal["hints", "content"]
"""By what a file is known to be the one that was seen before: see :mod:`eigenmill.reduce.sources.seen`."""
READ = 128 << 10
"""Bytes per read of a column chunk. Streams a row group of any size in bounded memory (tried)."""
READS, LEAST_READ = 16 << 20, 32 << 10
"""Bytes of such reads of all columns together, and of one: on a local disk, many columns have smaller ones."""
PIECE = 1 << 20
"""Bytes of lists decoded at a time: they stay in cache, and no allocator gives them back to the system (tried)."""
READERS = (4, 32)
"""Threads that read footers, of a local disk and of a store: they wait for that more than they compute."""


@dataclass(frozen=True, kw_only=True)
class ParquetSource(LaidOut):
    """Parquet files of one schema. Small and picklable: descriptions only, no open files.

    Attributes:
        store: the file system.
        root: the directory that ``files`` are relative to.
        files: what is known of each file, in order.
        layout: which columns make the matrix.
        carried: schema of the columns that travel along, hive keys included.
        weights: the column of row weights.
        where: the rows to keep.
        keys: per file, the hive keys that ``carried`` or ``where`` need.
        listed: whether the files are all that directories or patterns hold.
        format: by which the rows are cut. It travels, so that a worker cuts as the planner did.
        varying: those of the columns whose rows may differ in their bytes.
        extents: what decoding such columns takes, and columns of large pages. It does not travel.
        allowed: what may be decoded at a time, when that is bounded.
    """

    store: Store = field(repr=False)
    root: str
    files: Sequence[FileInfo]
    layout: Layout
    carried: pa.Schema
    weights: str | None = None
    where: RowFilter | None = None
    keys: tuple[Mapping[str, PartitionValue], ...] = ()
    listed: bool = False
    format: Format = FORMAT_1
    varying: pa.Schema = field(default_factory=lambda: pa.schema([]), compare=False, repr=False)
    extents: Mapping[str, Extent] = field(default_factory=dict, compare=False, repr=False)
    allowed: Reading | None = field(default=None, compare=False, repr=False)

    @property
    def stored_columns(self) -> int:
        return len(self.columns(carry=False))

    @property
    def values(self) -> int:
        if not self.sparse:
            return super().values
        values = self.files.values if isinstance(self.files, Files) else [f.values for f in self.files]
        return min(sum(map(int, values)), super().values)

    @property
    def row_values(self) -> float:
        """Numbers of a sparse row, the mean of the row group that has most."""
        known = self.extents.get(self.layout.columns[-1])
        return super().row_values if known is None else known.values

    def within(self, allowed: Reading) -> ParquetSource:
        return replace(self, allowed=allowed)

    def reading(self, height: int, rows: int, *, carry: bool) -> Reading:
        names, dense = self.columns(carry=carry), set() if self.sparse else {*self.layout.columns}
        extents = {n: self.extents.get(n) or self._extent(n, rows) for n in names if n not in dense}
        found = reading(extents, self.carried.names if carry else (), height, rows, self.format.carried_bytes)
        large = {name: self.extents[name].pages for name in dense & self.extents.keys()}
        usual = (len(dense) - len(large)) * PAGE, rows * len(self.names) * self.dtype.itemsize
        return replace(
            found, pages=found.pages + sum(large.values()) + (2 * min(usual) if len(large) < len(dense) else 0)
        )

    def _extent(self, name: str, rows: int) -> Extent:
        """Of a column whose rows are alike."""
        row = self._fixed(name)
        return Extent(row, row, 2 * min(PAGE, int(rows * row)))

    @cached_property
    def fragments(self) -> Sequence[Fragment]:
        """Files without rows have none."""
        return Fragments(self.files, self.format.leaf_rows(len(self.names)))

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name not in ("fragments", "digest")}
        return {**kept, "extents": {}}

    @cached_property
    def digest(self) -> str:
        where = None if self.where is None else self.where.digest
        found = digest_of([self.files, self.layout, str(self.carried), self.weights, where, self.keys])
        return found + ("" if self.where is None else self.where.bound)

    def only(self, files: Sequence[int]) -> ParquetSource:
        """The same source over some of its files, by their numbers."""
        keys = tuple(self.keys[i] for i in files) if self.keys else ()
        return replace(self, files=Files(self.files[i] for i in files), keys=keys)

    def content(self, file: int) -> str:
        path = join(self.root, self.files[file].path)
        with parquet_errors(path):
            return digest_file(self.store.filesystem, path).sha256

    def real(self, paths: Iterable[str]) -> Iterator[str]:
        return iter(paths) if self.store.remote else links.reals(paths)

    def real_files(self) -> Iterator[str]:
        if self.store.remote:
            return iter(())
        return links.reals(join(self.root, file.path) for file in self.files)

    def blocks(self, fragment: Fragment, height: int, workspace: Workspace, *, carry: bool) -> Iterator[Block]:
        """As promised by :class:`~eigenmill.reduce.sources.base.Source`; a filter makes blocks shorter, or leaves none.

        Raises:
            ChangedInputError: the file is not the planned one.
            DataError: it cannot be read, or its rows are not what they should be.
        """
        return self._stream(fragment, height, workspace, carry=carry)

    def _keys(self, file: int) -> Mapping[str, PartitionValue]:
        return self.keys[file] if self.keys else {}

    def _step(
        self, height: int, columns: Sequence[str], file: pa.NativeFile, metadata: pq.FileMetaData, groups: Sequence[int]
    ) -> int:
        """Rows that are decoded at a time for blocks of ``height`` rows: fewer where rows are long."""
        if isinstance(self.layout, Vector) and self.where is None and not {*columns} & {*self.carried.names}:
            fit = max(PIECE // (self.layout.dtype.itemsize * max(self.layout.width, 1)), 1)
            return min(height, 1 << (fit.bit_length() - 1))
        row, varying, dense = 0.0, {*self.varying.names}, {*self.layout.columns}
        leaves = leaves_of(metadata) if varying else []
        for name in columns:  # in order: sums are rounded
            if name in varying:
                at, type_ = indices_of(leaves, name), self.varying.field(name).type
                row += max(row_extent(metadata.row_group(g), at, type_, file).row for g in groups)
            elif name not in dense:
                row += self._fixed(name)
        return piece_rows(height, row)

    def _fixed(self, name: str) -> float:
        """Bytes of a row of a column whose rows are alike."""
        schema = self.carried if name in self.carried.names else self.where.schema if self.where else pa.schema([])
        return (fixed_row(schema.field(name).type) if name in schema.names else None) or 8.0

    def _gathered(
        self, height: int, step: int, metadata: pq.FileMetaData, groups: Sequence[int], workspace: Workspace
    ) -> Gathered | None:
        """What puts pieces of ``step`` rows together; None where they are blocks themselves."""
        if height == step or height % step:
            return None
        by_rows, values = not isinstance(self.layout, Scalars), 0
        if self.sparse:
            last = indices_of(leaves_of(metadata), self.layout.columns[-1])[-1]
            values = sum(metadata.row_group(g).column(last).num_values for g in groups)
        return Gathered(height, self.format.carried_bytes, workspace, by_rows=by_rows, values=values)

    def _stream(self, fragment: Fragment, height: int, workspace: Workspace, *, carry: bool) -> Iterator[Block]:
        """The fragment as blocks of ``height`` rows, decoded as many at a time as their bytes allow."""
        planned, keys, columns = self.files[fragment.file], self._keys(fragment.file), self.columns(carry=carry)
        path = join(self.root, planned.path)
        with self._open(path, planned) as (file, footer):
            groups: Sequence[int] = range(fragment.start, fragment.stop)
            if self.where is not None:
                groups = self.where.surviving(footer.tail, keys, range(fragment.start, fragment.stop))
            if not groups:
                return
            spans, metadata = tuple((group, planned.rows[group]) for group in groups), footer.metadata
            step = self._step(height, columns, file, metadata, groups)
            gathered = self._gathered(height, step, metadata, groups, workspace)
            with parquet_errors(path):
                reader = pq.ParquetFile(
                    file,
                    metadata=metadata,
                    pre_buffer=False,
                    buffer_size=READ if self.store.remote else min(READ, max(READS // len(columns), LEAST_READ)),
                    page_checksum_verification=True,
                )
                batches = reader.iter_batches(step, row_groups=list(groups), columns=list(columns), use_threads=False)
            dense = set() if self.sparse else {*self.layout.columns}
            planned_for = [name for name in columns if name not in dense]
            done, asis = 0, None
            while done < sum(rows for _, rows in spans):
                start = locate(path, spans, done)
                with parquet_errors(start.at()):
                    batch = next(batches, None)
                if batch is None or batch.num_rows == 0:
                    raise DataError(
                        f"expected more rows, found the end of the data in {start.at()}; write the file again"
                    )
                if asis is None:
                    asis = batch.schema.names == list(columns)
                if not asis:
                    batch = batch.select(columns)  # files have an order of their own, and "a.b" comes along with "a"
                if self.allowed is not None:
                    check(batch, planned_for, self.allowed.piece, start)
                origin, rows = FileOrigin(path, start.row_group, start.row, spans, done), batch.num_rows
                done += rows
                block = self._block(batch, origin, keys, workspace, carry=carry)
                del batch  # and below the block: their memory is what the next batch is decoded into
                if gathered is not None:
                    block = gathered.take(rows, block)
                if block is not None:
                    yield block
                del block
            with parquet_errors(path):
                more = next(batches, None)
            if more is not None and more.num_rows:
                raise miscounted(path, f"{done} rows in the row groups {list(groups)}, as the file says", "more")
            if gathered is not None and (block := gathered.whole()) is not None:
                yield block

    def values_of(self, carried: str, fragment: Fragment) -> Iterator[tuple[pa.Array, str]]:
        planned, keys = self.files[fragment.file], self.keys[fragment.file] if self.keys else {}
        path, origin = join(self.root, planned.path), Origin(join(self.root, planned.path), fragment.start)
        if carried in keys:
            yield constant(keys[carried], self.carried.field(carried).type, 1), origin.at()
            return
        wanted = dict.fromkeys([carried, *(self.where.columns if self.where else ())])
        with self._open(path, planned) as (file, footer), parquet_errors(path):
            reader = pq.ParquetFile(file, metadata=footer.metadata, pre_buffer=False, buffer_size=READ)
            groups = list(range(fragment.start, fragment.stop))
            rows = self._step(1 << 16, list(wanted), file, footer.metadata, groups)
            for batch in reader.iter_batches(rows, row_groups=groups, columns=list(wanted), use_threads=False):
                if self.where is not None:
                    batch = batch.filter(pa.array(self.where.keeps(batch, keys)))
                yield batch.column(carried), origin.at()

    def columns(self, *, carry: bool, filtered: bool = False) -> tuple[str, ...]:
        """The columns to read from the files, or those that are needed once rows are ``filtered``.

        Those of the layout come first.
        """
        carried = [n for n in self.carried.names if not (self.keys and n in self.keys[0])] if carry else []
        weights = [] if self.weights is None else [self.weights]
        where = () if self.where is None or filtered else self.where.columns
        return tuple(dict.fromkeys([*self.layout.columns, *weights, *where, *carried]))

    def _block(
        self,
        batch: pa.RecordBatch,
        origin: FileOrigin,
        keys: Mapping[str, PartitionValue],
        workspace: Workspace,
        *,
        carry: bool,
    ) -> Block | None:
        if self.where is not None:
            mask = self.where.keeps(batch, keys)
            if not mask.any():
                return None
            if not mask.all():
                batch = batch.select(self.columns(carry=carry, filtered=True))
                batch = batch.filter(pa.array(mask))
                origin = replace(origin, kept=np.flatnonzero(mask))
        carried = None
        if carry and len(self.carried):
            arrays = [
                constant(keys[f.name], f.type, batch.num_rows) if f.name in keys else batch.column(f.name)
                for f in self.carried
            ]
            arrays = [a if a.type == f.type else a.cast(f.type) for a, f in zip(arrays, self.carried, strict=True)]
            carried = pa.RecordBatch.from_arrays(arrays, schema=self.carried)
        weights: F64 | None = None
        if self.weights is not None:
            weights = numbers(batch.column(self.weights)).astype(np.float64, copy=False)
        return Block(self.layout.matrix(batch, origin), weights, carried, origin, workspace)

    @contextmanager
    def _open(self, path: str, planned: FileInfo) -> Iterator[tuple[pa.NativeFile, Footer]]:
        """The file and its footer, once they are known to be the planned ones."""
        try:
            with parquet_errors(path):
                opened = self.store.filesystem.open_input_file(path)
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise ChangedInputError(
                    f"expected the file that was planned, found none at {path}; give a path that every worker sees, or "
                    "start again if it was removed meanwhile"
                ) from error
            raise
        with opened:
            with parquet_errors(path):
                if opened.size() != planned.size:
                    raise _changed(path, f"{opened.size()} bytes instead of {planned.size}")
                footer = read_footer(opened, path)
            if footer.digest != planned.digest:
                raise _changed(path, "another footer")
            yield opened, footer


def _changed(path: str, found: str) -> ChangedInputError:
    return ChangedInputError(
        f"expected the file that was planned, found {found} at {path}; the input changed meanwhile: start again, "
        "or let every worker see the place under this name"
    )


def plan(
    listing: Listing, want: Wanted, filters: object = None, format: Format | None = None, verify: Verify = "hints"
) -> ParquetSource:
    """The source over the listed files; reads footers, and the first rows if a vector's width must be found.

    With ``verify="content"`` every file is read, to be known by the SHA-256 of its bytes.

    Raises:
        ConfigError: ``verify`` is something else.
        SchemaError: the files disagree, or a column is missing or of the wrong type.
        DataError: a file cannot be read.
    """
    if verify not in get_args(Verify):
        raise ConfigError(f"expected verify among {', '.join(get_args(Verify))}, found {verify!r}")
    first_path, read = join(listing.root, listing.files[0]), partial(_footer, listing)
    schema = _schema(read(listing.files[0]), first_path)
    hive = _hive_schema(listing, schema)
    everything = pa.schema([*schema, *hive])
    once = pa.schema([f for f in everything if len(everything.get_all_field_indices(f.name)) == 1])
    where = row_filter(filters, once, hive.names)
    unasked = frozenset(where.columns if where else ())
    layout = choose(schema, want, partial(_first, listing), first_path, unasked=unasked)
    carried = pa.schema([_carried(everything, name, first_path) for name in want.carry])
    if want.weights is not None:
        weights_field(schema, want.weights, first_path)
    source = ParquetSource(
        store=listing.store,
        root=listing.root,
        files=(),
        layout=layout,
        carried=carried,
        weights=want.weights,
        where=where,
        keys=_keys(listing, [n for n in hive.names if n in carried.names or (where and n in where.hive)]),
        listed=listing.listed,
        format=format or current(),
    )
    columns = source.columns(carry=True)
    expected = {name: schema.field(name).type for name in columns}
    flat = {name for name, kind in expected.items() if not pa.types.is_nested(kind)}
    vector = layout.column if isinstance(layout, SparkVector) else None
    extents, dense = Extents(expected), True

    def infos() -> Iterator[FileInfo]:
        nonlocal dense
        digesting = partial(_footer, listing, whole=verify == "content")
        every = _ahead(digesting, listing.files, READERS[listing.store.remote])
        for (relative, footer), hint in zip(every, listing.hints or repeat(""), strict=False):
            path = join(listing.root, relative)
            _agree(_schema(footer, path), expected, path, first_path)
            with parquet_errors(path):
                info = info_of(footer, relative, path, columns, flat, layout.columns[-1] if layout.sparse else None)
                info = replace(info, hint=hint, content=footer.content)
                extents.add(path, footer.size, footer.metadata)
                dense = dense and (vector is None or all_dense(footer.metadata, vector))
            yield info

    files = Files(infos())
    if isinstance(layout, SparkVector):
        layout = replace(layout, sparse=not dense)
    with parquet_errors(listing.root):
        found = extents.look(listing.store.filesystem.open_input_file, read_footer, remote=listing.store.remote)
    return replace(source, files=files, layout=layout, varying=extents.schema, extents=found)


def _keys(listing: Listing, used: Sequence[str]) -> tuple[Mapping[str, PartitionValue], ...]:
    """The hive keys of each file that are needed; none if none are."""
    if not used:
        return ()
    each = {id(values): {name: values[name] for name in used} for values in listing.partitions}
    return tuple(each[id(values)] for values in listing.partitions)


def _footer(listing: Listing, relative: str, *, whole: bool = False) -> Footer:
    path, filesystem = join(listing.root, relative), listing.store.filesystem
    with parquet_errors(path), filesystem.open_input_file(path) as file:
        content = digest_file(filesystem, path).sha256 if whole else ""
        return replace(read_footer(file, path), content=content)


def _first(listing: Listing, column: str) -> Iterator[pa.Array]:
    """The first rows of a column, of one file after the other."""
    for path in (join(listing.root, file) for file in listing.files):
        with (
            parquet_errors(path),
            listing.store.filesystem.open_input_file(path) as file,
            pq.ParquetFile(file, pre_buffer=False, buffer_size=READ) as reader,
        ):
            for batch in reader.iter_batches(16, columns=[column], use_threads=False):
                yield batch.column(column)


def _ahead(read: Callable[[str], Footer], files: Sequence[str], readers: int) -> Iterator[tuple[str, Footer]]:
    """The files with their footers in order, read by many threads a few ahead of the one that parses them.

    Parsed in one thread, their memory is used again; parsed in many, each keeps some of its own.
    """
    with ThreadPoolExecutor(min(readers, len(files))) as pool:
        waiting = deque[tuple[str, Future[Footer]]]()
        for file in files:
            waiting.append((file, pool.submit(read, file)))
            if len(waiting) > readers:
                file, footer = waiting.popleft()
                yield file, footer.result()
        for file, footer in waiting:
            yield file, footer.result()


def _schema(footer: Footer, path: str) -> pa.Schema:
    with parquet_errors(path), pq.ParquetFile(pa.BufferReader(footer.tail), metadata=footer.metadata) as reader:
        return reader.schema_arrow


def _carried(schema: pa.Schema, name: str, path: str) -> pa.Field:
    return pa.field(name, field_of(schema, name, "carry", path).type)


def _hive_schema(listing: Listing, schema: pa.Schema) -> pa.Schema:
    """The hive keys that all files have. A column in the files goes before a key of that name."""
    keys = [k for k in listing.partitions[0] if all(k in values for values in listing.partitions)]
    taken = set(schema.names)

    def type_(key: str) -> pa.DataType:
        known = [values[key] for values in listing.partitions if values[key] is not None]
        return pa.int64() if known and all(isinstance(value, int) for value in known) else pa.string()

    return pa.schema([pa.field(key, type_(key)) for key in keys if key not in taken])


def _agree(schema: pa.Schema, expected: Mapping[str, pa.DataType], path: str, first: str) -> None:
    """Refuse a file whose columns have other types than in the first file."""
    for name, type_ in expected.items():
        found = field_of(schema, name, "as in the first file", path).type
        if found != type_ and plain(found) != plain(type_):
            raise SchemaError(
                f"expected column {name!r} to have one type, found {type_} in {first} and {found} in {path}; "
                "write the files again with one schema, or read them as two data sets"
            )
