"""What a day-by-day fit goes on from, and which files of today's data it has not seen yet."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.engines.base import Tree
from eigenmill.reduce.engines.memory import format_bytes
from eigenmill.reduce.errors import ChangedInputError, ConfigError
from eigenmill.reduce.format import Format
from eigenmill.reduce.plan import Plan
from eigenmill.reduce.rows.cleaning import Resolved
from eigenmill.reduce.sources.catalog import FileInfo, Files
from eigenmill.reduce.sources.discovery import join
from eigenmill.reduce.sources.seen import known_by
from eigenmill.reduce.storage.digest import digest_of
from eigenmill.reduce.storage.sequences import HashIndex, Subset

log = logging.getLogger("eigenmill")


@dataclass(frozen=True)
class StateRecord:
    """The merge tree with everything that must agree when it goes on.

    Attributes:
        tree: complete states and the open leaf.
        files: the files seen, in order, by their full paths; empty for arrays.
        rows: rows seen, by the metadata.
        solver: the solver that the tree belongs to; empty before the first run.
        policy: the cleaning policy, limits included; means are learnt anew each time.
        dtype: precision of the products.
        format: by which the tree was cut and its states are laid out.
    """

    tree: Tree[Any]
    files: Sequence[FileInfo]
    rows: int
    solver: str
    policy: Resolved
    dtype: np.dtype[Any]
    format: Format


def fingerprint(files: Sequence[FileInfo], rows: int) -> dict[str, Any]:
    """Numbers of files and rows, and one digest over the contents of the files in order; None for arrays."""
    content = ([f.size, f.digest] for f in files)
    return {"files": len(files), "rows": rows, "digest": digest_of(content) if len(files) else None}


def rows_not_seen(data: Dataset, record: StateRecord) -> tuple[Dataset, StateRecord]:
    """``data`` less the files that the record has seen, and the record with what is known of these by now.

    Changed and vanished files are refused. A file is known by its path, links followed: one of equal content at another
    path is another file.
    """
    source = data.source
    if not source.files:
        if record.files:
            raise ConfigError("expected files, as in the fit that this model goes on from, found data in memory")
        return data, record
    if not record.files:
        raise ConfigError("expected arrays, as in the fit that this model goes on from, found files")
    seen, listed, fresh = record.files, bytearray(len(record.files)), array("q")
    at = HashIndex(f.path for f in seen)
    real: dict[str, int] | None = None
    latest, late, first = max(f.path for f in seen), 0, ""
    met, by_footer = dict[int, FileInfo](), 0
    for i, f in enumerate(source.files):
        path = join(source.root, f.path)
        known = next((n for n in at.near(path) if seen[n].path == path), None)
        if known is None:
            real = real or {lies: n for n, lies in enumerate(source.real(f.path for f in seen))}
            known = real.get(next(source.real([path])))
        if known is None:
            fresh.append(i)
            if path < latest:
                late, first = late + 1, first or f.path
            continue
        listed[known] = 1
        before = seen[known]
        by_footer += known_by(path, before, f, partial(source.content, i)) == "footer"
        if before.hint != f.hint or (f.content and not before.content):
            met[known] = replace(before, hint=f.hint, content=f.content or before.content)
    if source.listed:
        below = source.root.rstrip("/") + "/"
        gone = Subset(seen, (n for n, f in enumerate(seen) if not listed[n] and f.path.startswith(below)))
        if gone:
            raise ChangedInputError(
                f"expected all {len(seen)} files that the model has seen, found {len(gone)} of them gone from "
                f"{source.root}, first {gone[0].path}; bring them back, give only the new files, or fit again"
            )
    if late:
        log.warning("%d file(s) sort before files already seen and are appended, first %s", late, first)
    if by_footer:
        log.warning(
            "%d file(s) are known by path, size and footer alone: when they were changed last was not kept by the fit "
            "that saw them",
            by_footer,
        )
    if met:
        record = replace(record, files=Files(met.get(n, f) for n, f in enumerate(seen)))
    return replace(data, source=source.only(fresh)), record


def refuse(plan: Plan, record: StateRecord | None) -> None:
    """Refuse what cannot go on, and what does not fit where the plan knows the memory there is."""
    format = plan.data.format
    if record is not None and record.format != format:
        raise ConfigError(
            f"expected data of the format that the model was fitted by, found the constants "
            f"{format.changes() or 'of format 1'} in place of {record.format.changes() or 'format 1'}; "
            "fit all data again"
        )
    if record is not None and record.solver and plan.solver != record.solver:
        raise ConfigError(
            f"expected to go on with solver={record.solver!r}, found that {record.rows + plan.rows} rows take "
            f"{plan.solver!r}; fit all data again with solver={plan.solver!r} and go on from there"
        )
    if plan.keep_state and plan.solver == "sketch":
        raise ConfigError(
            "expected an exact solver for a fit that is to go on, found solver='sketch', whose every scan needs "
            "all rows; fit all data again with warm_start=True, or choose solver='gram'"
        )
    if record is not None and record.rows and plan.times("tsqr").most:
        raise ConfigError("expected refine=False when going on from a state, which lacks the rows; fit all data")
    if (plan.place.here or plan.cluster is not None) and plan.memory_limit is not None:
        plan.refuse(f"memory={format_bytes(plan.memory_limit)}")
