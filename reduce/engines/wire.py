"""Merge trees as rows of bytes, for clusters that move tables: pieces small enough for any message limit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from eigenmill.reduce.engines.base import Tree, restore_tree, tree_arrays
from eigenmill.reduce.errors import ArtifactError
from eigenmill.reduce.passes.base import Pass

PIECE = 8 << 20
"""Bytes of one piece."""


def to_bytes(tree: Tree[Any]) -> bytes:
    """A tree in safetensors form."""
    arrays, meta = tree_arrays(tree)
    plain = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    return bytes(safetensors.numpy.save(plain, {"tree": json.dumps(meta)}))


def from_bytes(payload: bytes, pass_: Pass[Any, Any]) -> Tree[Any]:
    """The inverse of :func:`to_bytes`, for states of ``pass_``."""
    size = int.from_bytes(payload[:8], "little")
    try:
        meta = json.loads(json.loads(payload[8 : 8 + size])["__metadata__"]["tree"])
        arrays = safetensors.numpy.load(payload)
    except (KeyError, ValueError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"expected a merge tree from a worker, found {error!r}") from error
    tree: Tree[Any] = Tree()
    restore_tree(arrays, meta, pass_.state_type(), tree)
    return tree


def pieces(payload: bytes) -> Iterator[bytes]:
    """``payload`` cut into pieces, at least one."""
    for start in range(0, max(len(payload), 1), PIECE):
        yield payload[start : start + PIECE]


def joined(rows: Iterable[tuple[int, int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """(key, payload) in the order of keys, from (key, piece number, piece) in any order."""
    found: dict[int, list[tuple[int, bytes]]] = {}
    for key, number, piece in rows:
        found.setdefault(key, []).append((number, piece))
    for key in sorted(found):
        # Keyed by number, because a cluster may deliver the row of a task that it ran twice.
        yield key, b"".join(piece for _, piece in sorted(dict(found[key]).items()))
