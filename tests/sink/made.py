"""Small data sets with carried columns, and what the sink's tests do with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.format import FORMAT_1, Format
from eigenmill.reduce.output.manifest import Manifest
from eigenmill.reduce.output.parts import Part
from eigenmill.reduce.output.sink import Sink, WriteJob
from eigenmill.reduce.rows.blocks import Block, Columns, Origin, Workspace
from eigenmill.reduce.rows.transforms import Transform
from eigenmill.reduce.sources.base import NumberedNames, Source
from eigenmill.reduce.sources.catalog import FileInfo, Fragment

FLOAT32 = np.dtype(np.float32)


@dataclass
class MadeSource(Source):
    """Rows of an array with carried columns, in fragments of ``step`` rows, in the form that is asked for."""

    X: Any
    table: pa.Table | None = None
    step: int = 100
    form: str = "dense"
    tag: str = ""
    format: Format = FORMAT_1
    files: tuple[FileInfo, ...] = ()
    fragments: tuple[Fragment, ...] = field(init=False)

    def __post_init__(self) -> None:
        n = self.X.shape[0]
        starts = enumerate(range(0, n, self.step))
        self.fragments = tuple(Fragment(i, 0, a, min(a + self.step, n), min(self.step, n - a)) for i, a in starts)
        self.carried = self.table.schema if self.table is not None else pa.schema([])
        self.names = NumberedNames("x", self.X.shape[1])
        self.dtype = self.X.dtype

    @property
    def sparse(self) -> bool:
        return self.form == "csr"

    @property
    def digest(self) -> str:
        content = hashlib.sha256(self.tag.encode() + np.ascontiguousarray(self.X).tobytes())
        return content.hexdigest()

    def blocks(self, fragment: Fragment, height: int, workspace: Workspace, *, carry: bool) -> Iterator[Block]:
        from scipy import sparse

        for a in range(fragment.start, fragment.stop, min(height, 37)):
            b = min(a + min(height, 37), fragment.stop)
            X: Any = workspace.array("made", (b - a, self.X.shape[1]), self.X.dtype)
            X[...] = self.X[a:b]
            if self.form == "fortran":
                X = np.asfortranarray(X)
            elif self.form == "columns":
                X = Columns([X[:, j] for j in range(X.shape[1])], b - a)
            elif self.form == "csr":
                X = sparse.csr_array(X)
            carried = None
            if carry and self.table is not None:
                carried = self.table.slice(a, b - a).combine_chunks().to_batches()[0]
            yield Block(X, None, carried, Origin(row=a), workspace)
            if self.form == "dense":
                X[...] = -1e30  # a block is valid until the next one is drawn


@dataclass(frozen=True)
class Scaled(Transform):
    """A transform: multiplies, and drops every ``drop``-th row."""

    width: int
    factor: float = 2.0
    drop: int = 0
    dtype: Any = FLOAT32

    @property
    def n_features_in(self) -> int:
        return self.width

    @property
    def names(self) -> Any:
        return NumberedNames("pc", self.width)

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def __call__(self, block: Block) -> Block:
        if self.drop:
            block = block.take(np.arange(block.rows) % self.drop != 0)
        return block.with_matrix(block.dense(self.dtype) * np.asarray(self.factor, self.dtype))


def carried_table(rows: int) -> pa.Table:
    ids = np.arange(rows)
    return pa.table(
        {
            "id": pa.array(ids),
            "label": pa.array([None if i % 7 == 0 else f"label {i % 3}/é" for i in ids]),
            "tags": pa.array([[int(i), 1] if i % 2 else None for i in ids]),
            "kind": pa.array([f"k{i % 5}" for i in ids]).dictionary_encode(),
        }
    )


def made(rows: int = 1000, k: int = 5, *, carry: bool = True, dtype: Any = np.float32, **source: Any) -> Dataset:
    X = np.random.default_rng(0).standard_normal((rows, k)).astype(dtype)
    return Dataset(MadeSource(X, carried_table(rows) if carry else None, **source))


def drawn(data: Dataset, part: Part) -> Iterator[Block]:
    workspace = Workspace()
    for index in part.fragments:
        yield from data.blocks(data.fragments[index], workspace, carry=True)


def write_parts(job: WriteJob, data: Dataset, parts: Iterable[Part] | None = None) -> None:
    for part in job.pending if parts is None else parts:
        with job.writing(part) as writer:
            for block in drawn(data, part):
                writer.add(block)


def run(sink: Sink, data: Dataset) -> Manifest:
    job = sink.open(data)
    write_parts(job, data)
    return job.commit()
