"""How much memory a scan takes in one process, and with how many threads it fits.

The model counts what is resident at the peak: what the process holds already, one state and one block with its
decoded Arrow batch per thread, the states that wait in the merge tree, and the dense algebra at the end.
Workers never change a result, so a budget may lower their number; what the result depends on it may not touch.
"""

from __future__ import annotations

import ctypes
import math
import re
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from eigenmill.reduce.engines.base import plan_leaves
from eigenmill.reduce.errors import ConfigError, DoesNotFitError
from eigenmill.reduce.output.sink import Writing
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.sources.catalog import row_counts
from eigenmill.reduce.sources.extents import SKEW, Reading
from eigenmill.reduce.sources.matrix import Matrix

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
GIVING = 64 << 20
"""Bytes that rows take on their way to who has asked for them."""
RESERVE = 112 << 20
"""Allocator slack, thread stacks and the reader's metadata."""

Work = Pass[Any, Any] | Writing | None
"""What a scan does: fold a pass, write, or give rows."""


def parse_bytes(size: int | str | None) -> int | None:
    """Bytes from a number or text like ``"512MiB"``, ``"2 GB"``."""
    if size is None:
        return None
    if isinstance(size, int) and not isinstance(size, bool):
        value = size
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", str(size), re.IGNORECASE)
        if match is None:
            raise ConfigError(f"expected a size such as '2GiB' or a number of bytes, found {size!r}")
        value = int(float(match[1]) * UNITS[(match[2] or "").upper()])
    if value <= 0:
        raise ConfigError(f"expected a size above 0, found {size!r}")
    return value


def format_bytes(size: float) -> str:
    """Text such as ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def resident() -> int:
    """Bytes of this process in memory now (Linux; 0 where /proc is absent), less what Arrow can give back."""
    pa.default_memory_pool().release_unused()
    try:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * 4096
    except OSError:
        return 0


def give_back() -> None:
    """Give the system back what this process has freed; glibc keeps it for every thread that has ever computed."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@dataclass(frozen=True)
class Memory:
    """The peak of one scan in bytes, by what takes it; ``column`` takes most of what is decoded, if it is known."""

    workers: int
    process: int
    states: int
    blocks: int
    decoding: int
    tree: int
    finalize: int
    column: str = ""

    @property
    def scan(self) -> int:
        """The peak of the scan alone: what a cluster's worker needs, which does not finalize."""
        return self.process + RESERVE + self.workers * (self.states + self.blocks + self.decoding) + self.tree

    @property
    def peak(self) -> int:
        """The peak of scan and finalization in one process."""
        return max(self.scan, self.process + RESERVE + self.finalize)


def estimate(work: Work, data: Matrix, workers: int, *, process: int | None = None) -> Memory:
    """The peak of a scan of ``data`` with this many threads.

    Args:
        work: a pass, a write, or None for a scan that gives rows.
        data: what is read.
        workers: threads.
        process: what the process holds before it reads, by default what this one holds now.
    """
    process = resident() if process is None else process
    source, format = data.source, data.format
    d, leaves = len(source.names), plan_leaves(data)
    largest = max((rows for rows, _ in row_counts(data.fragments)), default=0)
    workers = max(min(workers, work.parts if isinstance(work, Writing) else len(leaves)), 1)
    height = read_height(data, work)
    rows, dense = min(height, largest), min(format.block_height(d), largest) * d * data.dtype.itemsize
    found = read_by(work, data)
    if source.sparse:
        csr = sparse_block(data, height, largest)
        # As it comes, by columns, and without the thick ones; and the piece of it that may have to be made dense.
        blocks, decoding = 3 * csr + 2 * dense, csr + 2 * found.piece
    else:
        blocks, decoding = 2 * dense, 4 * dense + 2 * found.piece if source.files else 0
    decoding += found.pages + found.pages // 8
    blocks += 2 * found.carried + transformed(data, rows)
    if not isinstance(work, Pass):
        given = GIVING if work is None else work.memory
        return Memory(workers, process, 0, int(blocks - dense + given), int(decoding), 0, 0, found.column)
    state, scratch, final = work.sizes(rows, data.n_rows)
    # The counter's own nodes, and those that wait for leaves still running, which are at most 4 per worker behind.
    waiting = workers * math.ceil(math.log2(4 * workers)) if workers > 1 else 0
    pending = min(math.ceil(math.log2(len(leaves) + 1)) + waiting, len(leaves))
    return Memory(workers, process, state, int(blocks + scratch), int(decoding), pending * state, final, found.column)


def read_by(work: Work, data: Matrix) -> Reading:
    """What reading takes beside dense features."""
    largest = max((rows for rows, _ in row_counts(data.fragments)), default=0)
    carry = isinstance(work, Writing) or (isinstance(work, Pass) and work.carries)
    return data.source.reading(read_height(data, work), largest, carry=carry)


def within(work: Work, data: Matrix) -> Matrix:
    """The same data, which refuse to decode more at a time than was planned."""
    return replace(data, source=data.source.within(read_by(work, data)))


def read_height(data: Matrix, work: Work) -> int:
    """Rows of a block as it is read."""
    low = data.format.max_height if data.source.sparse else None
    if data.sparse:
        low = work.sparse_height if isinstance(work, Pass) else None
    return data.format.block_height(len(data.source.names)) if low is None else low


def transformed(data: Matrix, rows: int) -> int:
    """Bytes of what transforms make of a block of so many rows: in float64, and as it is handed on."""
    sizes = [rows * len(data.source.names) * 8]
    for step in data.transforms:
        rows = data.format.widened_height(rows, len(step.names))
        sizes.append(rows * len(step.names) * (8 + step.dtype.itemsize))
    return sum(sizes[1:])


def sparse_block(data: Matrix, height: int, largest: int) -> int:
    """Bytes of a block of ``height`` sparse rows out of at most ``largest``: values, indices and ends."""
    d, source = len(data.source.names), data.source
    rows = min(height, largest)
    values = min(min(largest, SKEW * height) * source.row_values, rows * d)
    return int(values * (source.dtype.itemsize + (4 if values < 1 << 31 else 8)) + 8 * rows)


def refusal(need: Memory, data: Matrix, memory: int) -> DoesNotFitError:
    """The error for a scan of ``data`` that needs more than ``memory`` with one worker."""
    most = f", most of the decoding for column {need.column!r}" if need.column else ""
    return DoesNotFitError(
        f"expected a plan within memory={format_bytes(memory)}, found that one worker needs {format_bytes(need.peak)} "
        f"({format_bytes(need.process)} held by the process, {format_bytes(need.states)} state, "
        f"{format_bytes(need.blocks)} block, {format_bytes(need.decoding)} decoding, "
        f"{format_bytes(need.tree)} merge tree, {format_bytes(need.finalize)} to finalize) "
        f"for {data.n_features} features{most}; give memory='{format_bytes(need.peak * 1.02).replace(' ', '')}', "
        "choose fewer columns, or write smaller row groups"
    )
