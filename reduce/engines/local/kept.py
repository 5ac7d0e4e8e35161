"""Decoded blocks kept between the scans of an iteration: in the memory that its plan leaves free, then on local disk.

Blocks are the same numbers whether decoded or kept, so results are too. Only the engine of this process keeps any:
on a cluster, which worker will read a leaf again is not known.

On disk a block is an Arrow record batch in a file without a name: the system removes it when this process ends, in
whatever way, so that nothing is left to be trusted later. It is read into the thread's own buffer, not mapped, because
mapped pages count as memory.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from eigenmill.reduce.errors import DataError
from eigenmill.reduce.rows.blocks import Array, Block, Workspace
from eigenmill.reduce.sources.base import Source, StandIn
from eigenmill.reduce.sources.catalog import Fragment
from eigenmill.reduce.sources.matrix import Matrix


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A block without its numbers, and where these lie: the record batch of its arrays at ``start:stop``.

    Attributes:
        empty: the block with None for matrix and weights.
        shape: of the matrix. order: ``C``, ``F``, or ``S`` for CSR. canonical: whether CSR is known to be so.
    """

    empty: Block
    schema: pa.Schema
    start: int
    stop: int
    shape: tuple[int, int]
    order: str
    canonical: bool


class Kept:
    """Blocks by data, fragment and height, up to a number of bytes; a fragment is kept whole or not at all.

    Args:
        directory: where to keep what memory has no room for.
        disk: bytes there, at most.
    """

    def __init__(self, directory: Path | None = None, disk: int = 0) -> None:
        self.bytes = self.disk_bytes = 0
        self._blocks: dict[tuple[str, int, int], list[Block | OnDisk]] = {}
        self._lock = threading.Lock()
        self._directory, self._disk = directory, 0 if directory is None else disk
        self._file: Any = None

    def close(self) -> None:
        """Let go of everything."""
        self._blocks, self.bytes, self.disk_bytes = {}, 0, 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def forget_all(self) -> None:
        """Give back the memory of all blocks; those on disk stay."""
        self._blocks = {
            key: blocks for key, blocks in self._blocks.items() if all(isinstance(each, OnDisk) for each in blocks)
        }
        self.bytes = 0

    def over(self, data: Matrix, room: int) -> Matrix:
        """``data`` with what is kept of it in the place of its files; up to ``room`` bytes more are kept in memory."""
        return replace(data, source=_Reread(data.source, self, self.bytes + max(room, 0)))

    def get(self, digest: str, fragment: Fragment, height: int) -> list[Block | OnDisk] | None:
        return self._blocks.get((digest, fragment.index, height))

    def put(self, digest: str, fragment: Fragment, height: int, blocks: list[Block | OnDisk]) -> None:
        self._blocks[digest, fragment.index, height] = blocks

    def keep(self, block: Block, limit: int) -> Block | OnDisk | None:
        """A copy of the block in memory if ``limit`` bytes suffice, else on disk; None where neither has room."""
        size = _size(block)
        if size is None:
            return None
        with self._lock:
            if self.bytes + size <= limit:
                self.bytes += size
                return _copy(block)
        # The frame of a message and the padding of its arrays take less than this.
        return self._write(block) if self.disk_bytes + size + (4 << 10) <= self._disk else None

    def forget(self, kept: list[Block | OnDisk]) -> None:
        """Give back the memory of blocks that are not kept after all; disk is not used again."""
        with self._lock:
            self.bytes -= sum(_size(each) or 0 for each in kept if isinstance(each, Block))

    def read(self, kept: OnDisk, workspace: Workspace) -> Block:
        """The block, in a buffer of the workspace."""
        size = kept.stop - kept.start
        buffer = memoryview(workspace.array("kept", (size,), np.uint8).data)
        done = 0
        while done < size:
            count = os.preadv(self._file.fileno(), [buffer[done:]], kept.start + done)
            if count == 0:
                raise DataError(
                    f"expected the {size} bytes of a kept block, found {done}; the disk of the work directory "
                    "has failed: run again without disk="
                )
            done += count
        batch = pa.ipc.read_record_batch(pa.py_buffer(buffer), kept.schema)
        arrays = {name: batch.column(name).values.to_numpy() for name in batch.schema.names}
        X: Any = arrays["data"]
        if kept.order == "S":
            X = sparse.csr_array((X, arrays["indices"], arrays["indptr"]), shape=kept.shape)
            if kept.canonical:
                X.has_canonical_format = True
        else:
            X = X.reshape(kept.shape[::-1]).T if kept.order == "F" else X.reshape(kept.shape)
        return replace(kept.empty, X=X, weights=arrays.get("weights"), workspace=workspace)

    def _write(self, block: Block) -> OnDisk | None:
        arrays, order = _arrays(block)
        columns = [pa.LargeListArray.from_arrays([0, len(a)], pa.array(a)) for a in arrays.values()]
        batch = pa.record_batch(columns, names=list(arrays))
        message = batch.serialize()
        with self._lock:
            start = self.disk_bytes
            if start + message.size > self._disk:
                return None
            self.disk_bytes += message.size
            if self._file is None and self._directory is not None:
                self._directory.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - open until close()
        done, rest = 0, memoryview(message)
        try:
            while done < message.size:
                done += os.pwrite(self._file.fileno(), rest[done:], start + done)
        except OSError:  # a full disk: what is there serves on, and the rest is decoded again
            self._disk = 0
            return None
        canonical = order == "S" and bool(block.X.has_canonical_format)
        empty = replace(block, X=None, weights=None, workspace=Workspace())
        return OnDisk(empty, batch.schema, start, start + message.size, block.X.shape, order, canonical)


class _Reread(StandIn):
    """A source whose blocks are kept."""

    def __init__(self, source: Source, kept: Kept, limit: int) -> None:
        super().__init__(source)
        self._kept, self._limit, self._digest = kept, limit, source.digest

    def blocks(self, fragment: Fragment, height: int, workspace: Workspace, *, carry: bool) -> Iterator[Block]:
        kept = self._kept.get(self._digest, fragment, height)
        if kept is not None and not carry:
            for each in kept:
                block = self._kept.read(each, workspace) if isinstance(each, OnDisk) else each
                yield replace(block, workspace=workspace)
            return
        copies: list[Block | OnDisk] | None = None if carry else []
        for block in self.source.blocks(fragment, height, workspace, carry=carry):
            if copies is not None:
                copy = self._kept.keep(block, self._limit)
                if copy is None:
                    self._kept.forget(copies)
                    copies = None
                else:
                    copies.append(copy)
            yield block
            del block
        if copies is not None:
            self._kept.put(self._digest, fragment, height, copies)


def _size(block: Block) -> int | None:
    """Bytes of the block's own arrays; None for a form that is not kept."""
    weights = 0 if block.weights is None else block.weights.nbytes
    X = block.X
    if isinstance(X, np.ndarray):
        return X.nbytes + weights
    if sparse.issparse(X):
        return int(X.data.nbytes + X.indices.nbytes + X.indptr.nbytes + weights)
    return None


def _copy(block: Block) -> Block:
    """The block on memory of its own, in the same order."""
    X = block.X.copy(order="K") if isinstance(block.X, np.ndarray) else block.X.copy()
    weights = None if block.weights is None else block.weights.copy()
    return replace(block, X=X, weights=weights, workspace=Workspace())


def _arrays(block: Block) -> tuple[dict[str, Array], str]:
    """The block's arrays, flat, and the order in which the first one holds the matrix."""
    X = block.X
    if isinstance(X, np.ndarray):
        columns = X.flags.f_contiguous and not X.flags.c_contiguous
        order, arrays = "F" if columns else "C", {"data": (X.T if columns else X).ravel()}
    else:
        order, arrays = "S", {"data": X.data, "indices": X.indices, "indptr": X.indptr}
    return arrays if block.weights is None else {**arrays, "weights": block.weights}, order
