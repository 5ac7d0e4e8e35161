"""What a day-by-day fit goes on from, and which files of today's data it has not seen yet."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reduce.cleaning import Resolved
from reduce.dataset import Dataset, FileInfo, Source
from reduce.digest import digest_of
from reduce.discovery import join
from reduce.engines.base import Tree
from reduce.errors import ChangedInputError, ConfigError

log = logging.getLogger("eigenmill")


@dataclass(frozen=True)
class Record:
    """The merge tree with everything that must agree when it goes on.

    Attributes:
        tree: complete states and the open leaf.
        files: the files seen, in order, by their full paths; empty for arrays.
        rows: rows seen, by the metadata.
        solver: the solver that the tree belongs to; empty before the first run.
        policy: the cleaning policy, limits included; means are learnt anew each time.
        dtype: precision of the products.
    """

    tree: Tree[Any]
    files: Sequence[FileInfo]
    rows: int
    solver: str
    policy: Resolved
    dtype: np.dtype[Any]


def fingerprint(files: Sequence[FileInfo], rows: int) -> dict[str, Any]:
    """Numbers of files and rows, and one digest over the contents of the files in order; None for arrays."""
    content = ([f.size, f.digest] for f in files)
    return {"files": len(files), "rows": rows, "digest": digest_of(content) if len(files) else None}


def unseen(data: Dataset, record: Record) -> Dataset:
    """``data`` less the files that the record has seen. Changed and vanished files are refused."""
    source = data.source
    if not source.files:
        if record.files:
            raise ConfigError("expected files, as in the fit that this model goes on from, found data in memory")
        return data
    if not record.files:
        raise ConfigError("expected arrays, as in the fit that this model goes on from, found files")
    seen = {f.path: f for f in record.files}
    contents = {(f.size, f.digest) for f in record.files}
    fresh, listed = list[int](), set[str]()
    for i, f in enumerate(source.files):
        path = join(source.root, f.path)
        known = seen.get(path)
        if known is not None:
            listed.add(known.path)
        if known is not None and (known.size, known.digest) != (f.size, f.digest):
            raise ChangedInputError(
                f"expected {f.path} as it was when the model saw it ({known.size} bytes, footer {known.digest}), "
                f"found {f.size} bytes, footer {f.digest}; fit all files again"
            )
        if known is None and (f.size, f.digest) not in contents:
            fresh.append(i)
    if source.listed:
        gone = [p for p in seen if p.startswith(source.root.rstrip("/") + "/") and p not in listed]
        if gone:
            raise ChangedInputError(
                f"expected all {len(seen)} files that the model has seen, found {len(gone)} of them gone from "
                f"{source.root}, first {gone[0]}; bring them back, give only the new files, or fit again"
            )
    latest = max(seen)
    late = [path for path in (source.files[i].path for i in fresh) if join(source.root, path) < latest]
    if late:
        log.warning("%d file(s) sort before files already seen and are appended, first %s", len(late), late[0])
    return replace(data, source=source.only(fresh))


def located(source: Source) -> Iterator[FileInfo]:
    """The source's files under their full paths, which tell days in directories of their own apart."""
    return (replace(f, path=join(source.root, f.path)) for f in source.files)
