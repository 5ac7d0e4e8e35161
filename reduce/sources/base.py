"""What a source of rows is: it knows where rows come from and cuts them into fragments; nothing is read by planning.

The cut is part of every result, so it depends on the files, the number of columns and the source's format only:

- a *fragment* is one row group, or consecutive small row groups of one file up to :meth:`Format.leaf_rows` rows;
- a *leaf* of the merge tree is a run of consecutive fragments, closed as soon as it holds that many rows.
  Files appended later continue an open last leaf, which is why a fit can go on to the byte.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa

from eigenmill.reduce.format import FORMAT_1, Format
from eigenmill.reduce.rows.blocks import NO_COLUMNS, Block, Workspace
from eigenmill.reduce.sources.catalog import FileInfo, Fragment, total_rows
from eigenmill.reduce.sources.extents import Reading


class NumberedNames(Sequence[str]):
    """Feature names ``prefix0 ... prefix{size-1}`` without holding them: vector columns may have a million."""

    __slots__ = ("prefix", "size")

    def __init__(self, prefix: str, count: int) -> None:
        self.prefix, self.size = prefix, count

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return tuple(f"{self.prefix}{i}" for i in range(self.size)[index])
        return f"{self.prefix}{range(self.size)[index]}"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, NumberedNames):
            return self.prefix == other.prefix and self.size == other.size
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self.prefix, self.size))

    def __repr__(self) -> str:
        return f"Numbered({self.prefix!r}, {self.size})"


def feature_dtype(dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    """float32 when every dtype is exact in it (float16, float32, bool, integers of up to 16 bits), else float64."""
    small = all(
        t.kind == "b" or (t.kind == "f" and t.itemsize <= 4) or (t.kind in "iu" and t.itemsize <= 2) for t in dtypes
    )
    return np.dtype(np.float32 if small and dtypes else np.float64)


class Source(ABC):
    """Where rows come from, in one of three forms: files, arrays, or a collection of a cluster.

    Picklable; carries no credentials and no data beyond what the user passed in.

    Attributes:
        files: empty for data in memory and for collections.
        root: directory that the files' paths are relative to.
        listed: whether the files are all that a directory or pattern holds, as against an explicit list.
        carried: schema of the carried columns (possibly empty).
        format: the constants by which the rows are cut, and all that is computed from them.
    """

    files: Sequence[FileInfo] = ()
    root: str = ""
    listed: bool = False
    carried: pa.Schema = NO_COLUMNS
    format: Format = FORMAT_1

    if TYPE_CHECKING:  # each source has these as properties or as plain attributes; the base must not be in their way

        @property
        def names(self) -> Sequence[str]:
            """Feature names, d of them."""

        @property
        def dtype(self) -> np.dtype[Any]:
            """float32 when every feature column is exact in it, else float64."""

        @property
        def fragments(self) -> Sequence[Fragment]:
            """The units of reading, in order."""

        @property
        def digest(self) -> str:
            """Identifies the rows and how they are read: the files and the layout, or the content of arrays."""

    @property
    def sparse(self) -> bool:
        """Whether blocks arrive as CSR."""
        return False

    @property
    def stored_columns(self) -> int:
        """Columns that a fit decodes."""
        return len(self.names)

    @property
    def values(self) -> int:
        """Numbers stored: the entries of sparse rows, else n d."""
        return total_rows(self.fragments) * len(self.names)

    @property
    def row_values(self) -> float:
        """Numbers of a sparse row, on average."""
        return self.values / max(total_rows(self.fragments), 1)

    def reading(self, height: int, rows: int, *, carry: bool) -> Reading:
        """What reading blocks of ``height`` rows takes, at most, out of fragments of so many ``rows``."""
        return Reading()

    def within(self, allowed: Reading) -> Source:
        """The same source, which refuses to decode more at a time than is ``allowed``."""
        return self

    def only(self, files: Sequence[int]) -> Source:
        """The same source over some of its files, by their numbers."""
        return self

    def content(self, file: int) -> str:
        """SHA-256 of the bytes of a file, by its number; it is read for that."""
        return ""

    def real(self, paths: Iterable[str]) -> Iterator[str]:
        """Where the files at full paths really lie, links followed."""
        return iter(paths)

    def real_files(self) -> Iterator[str]:
        """Where its own files really lie; none unless they lie on a local disk."""
        return iter(())

    @abstractmethod
    def blocks(self, fragment: Fragment, height: int, workspace: Workspace, *, carry: bool) -> Iterator[Block]:
        """The fragment's rows as blocks of ``height`` rows (the last is shorter), in order.

        ``carry=False`` leaves out the carried columns (a fit does not need them).
        """

    def values_of(self, carried: str, fragment: Fragment) -> Iterator[tuple[pa.Array, str]]:
        """Values of a carried column, with their places; nothing where they cannot be had without all the rest."""
        yield from ()

    def describe(self) -> Mapping[str, Any]:
        """JSON-able keywords with which ``Dataset.from_parquet(path, **keywords)`` reads such input again."""
        return {}


class StandIn(Source):
    """A source in the place of another one: it makes the blocks in a way of its own, and is the same in all else."""

    def __init__(self, source: Source) -> None:
        self.source, self.files, self.root, self.listed = source, source.files, source.root, source.listed
        self.carried, self.format = source.carried, source.format

    @property
    def names(self) -> Sequence[str]:
        return self.source.names

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    @property
    def fragments(self) -> Sequence[Fragment]:
        return self.source.fragments

    @property
    def digest(self) -> str:
        return self.source.digest

    @property
    def sparse(self) -> bool:
        return self.source.sparse

    @property
    def stored_columns(self) -> int:
        return self.source.stored_columns

    @property
    def values(self) -> int:
        return self.source.values

    @property
    def row_values(self) -> float:
        return self.source.row_values

    def reading(self, height: int, rows: int, *, carry: bool) -> Reading:
        return self.source.reading(height, rows, carry=carry)

    def within(self, allowed: Reading) -> Source:
        bounded = copy.copy(self)  # what stands in stays: it tells, keeps or replaces blocks
        bounded.source = self.source.within(allowed)
        return bounded

    def only(self, files: Sequence[int]) -> Source:
        return self.source.only(files)

    def content(self, file: int) -> str:
        return self.source.content(file)

    def real(self, paths: Iterable[str]) -> Iterator[str]:
        return self.source.real(paths)

    def real_files(self) -> Iterator[str]:
        return self.source.real_files()

    def values_of(self, carried: str, fragment: Fragment) -> Iterator[tuple[pa.Array, str]]:
        return self.source.values_of(carried, fragment)

    def describe(self) -> Mapping[str, Any]:
        return self.source.describe()
