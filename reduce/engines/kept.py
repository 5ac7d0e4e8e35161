"""Decoded blocks kept between the scans of an iteration, in the memory that its plan leaves free.

Blocks are the same numbers whether decoded or kept, so results are too. Only the engine of this process keeps any:
on a cluster, which worker will read a leaf again is not known.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse

from reduce.blocks import Block, Workspace
from reduce.dataset import Dataset, Fragment


class Kept:
    """Blocks by fragment and height, up to a number of bytes in all; a fragment is kept whole or not at all."""

    def __init__(self) -> None:
        self.bytes = 0
        self._blocks: dict[tuple[int, int], list[Block]] = {}
        self._digest = ""
        self._lock = threading.Lock()

    def over(self, data: Dataset, room: int) -> Dataset:
        """``data`` with what is kept of it in the place of its files; up to ``room`` bytes more are kept."""
        digest = data.source.digest
        if digest != self._digest:
            self._blocks, self.bytes, self._digest = {}, 0, digest
        return replace(data, source=_Reread(data.source, self, self.bytes + max(room, 0)))

    def get(self, fragment: Fragment, height: int) -> list[Block] | None:
        return self._blocks.get((fragment.index, height))

    def claim(self, size: int, limit: int) -> bool:
        """Whether there was room for ``size`` bytes, which are taken then."""
        with self._lock:
            fits = self.bytes + size <= limit
            self.bytes += size if fits else 0
            return fits

    def give_back(self, size: int) -> None:
        with self._lock:
            self.bytes -= size

    def put(self, fragment: Fragment, height: int, blocks: list[Block]) -> None:
        self._blocks[fragment.index, height] = blocks


class _Reread:
    """A source whose blocks are kept; in all else the source itself."""

    def __init__(self, source: Any, kept: Kept, limit: int) -> None:
        self._source, self._kept, self._limit = source, kept, limit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def blocks(self, fragment: Fragment, height: int, workspace: Workspace, *, carry: bool) -> Iterator[Block]:
        kept = self._kept.get(fragment, height)
        if kept is not None and not carry:
            for block in kept:
                yield replace(block, workspace=workspace)
            return
        copies: list[Block] | None = None if carry else []
        claimed = 0
        for block in self._source.blocks(fragment, height, workspace, carry=carry):
            if copies is not None:
                size = _size(block)
                if size is not None and self._kept.claim(size, self._limit):
                    claimed += size
                    copies.append(_copy(block))
                else:
                    copies = None
                    self._kept.give_back(claimed)
            yield block
            del block
        if copies is not None:
            self._kept.put(fragment, height, copies)


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
