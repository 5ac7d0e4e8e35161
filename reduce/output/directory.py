"""What is in an output's directory: whose it is, how far it came, and what of it can be trusted.

Beginning, going on and finishing are steps over the files that :mod:`eigenmill.reduce.output.sink` lists; each may be
repeated.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal

import pyarrow as pa
from pyarrow import fs as pafs

from eigenmill.reduce.errors import REMADE, ChangedInputError, OutputError
from eigenmill.reduce.output.manifest import (
    FORMAT,
    LISTS,
    MANIFEST,
    RESTORE,
    Manifest,
    PartRecord,
    expect,
    expect_format,
    read_at,
    records,
)
from eigenmill.reduce.output.parts import Part
from eigenmill.reduce.output.versions import SUCCESS
from eigenmill.reduce.sources import seen
from eigenmill.reduce.sources.base import Source
from eigenmill.reduce.sources.filters import bound_to
from eigenmill.reduce.storage import about, exclusive, files, plain
from eigenmill.reduce.storage.digest import named
from eigenmill.reduce.storage.long_lists import PackedList

log = logging.getLogger("eigenmill")
JOB, RECORDS = "_job.json", "_parts"
AT_ONCE = 256
"""Files that are verified in one go."""
_PART_FILE = re.compile(r"(?:[^/]+=[^/]+/)?part-(\d{5,})(?:-\d+)?\.parquet")


# Looking


@dataclass(frozen=True, slots=True)
class Found:
    """What is at a path: whose output it is (``key``; None when it is damaged: see ``reason``), and of which input."""

    state: Literal["nothing", "begun", "finished", "foreign"]
    key: str | None = None
    reason: str = ""
    input: str = ""


def look(fs: pafs.FileSystem, directory: str) -> Found:
    """What is at ``directory``; reads its manifest or its job, no data."""
    with files.storage_errors(directory, "look into"):
        kind = fs.get_file_info(directory).type
    if kind == pafs.FileType.File:
        return Found("foreign", reason="a file")
    present = set(files.names(fs, directory))
    try:
        if {SUCCESS, MANIFEST} <= present:
            manifest = read_at(fs, directory)
            return Found("finished", manifest.key, input=str(manifest.input.get("digest", "")))
        if JOB in present:
            job = _read_job(fs, directory)
            return Found("begun", job["key"], input=str(job["input"].get("digest", "")))
    except OutputError as error:
        return Found("finished" if SUCCESS in present else "begun", reason=str(error))
    visible = list(files.visible_files(fs, directory))
    return Found("foreign", reason=f"files such as {visible[0]}") if visible else Found("nothing")


def refusal(found: Found, directory: str, key: str, input: str = "") -> str:
    """Why the job ``key`` (empty: not known yet) over the ``input`` of that digest cannot write where ``found`` is."""
    what = {"begun": "an unfinished output", "finished": "a finished output", "foreign": "files"}[found.state]
    if found.reason:
        what = found.reason
    elif found.key != key:
        what += f" of another job (key {str(found.key)[:12]})"
        what += " over another input" if found.input != input else ""
        theirs, mine = bound_to(found.input), bound_to(input)
        if theirs != mine:
            what += (
                "; a filter given as an expression is known by the bytes of one pyarrow, "
                f"{theirs or 'up to 26'} there and {mine or pa.__version__} here: "
                "if it is this job, finish it under that one"
            )
    advice = "choose another path" + ("" if found.state == "foreign" else ", or write with overwrite=True")
    return (
        f"expected {directory} to be absent, empty, or an output of the same data, model and options "
        f"{f'(key {key[:12]})' if key else 'as this one'}, found {what}; {advice}"
    )


def _read_job(fs: pafs.FileSystem, directory: str) -> dict[str, Any]:
    where = f"{directory}/{JOB}"
    try:
        value = files.read_lists(fs, where, LISTS)
    except FileNotFoundError as error:
        raise OutputError(f"expected a job in {directory}, found no {JOB}; open the sink again") from error
    expect_format(value, FORMAT + "-job", where)
    fields: dict[str, type] = {
        "format": str,
        "version": int,
        "key": str,
        "model": str,
        "transforms": list,
        "options": dict,
    }
    if isinstance(value, dict) and "constants" in value:  # of another format than the first
        fields["constants"] = dict
    expect(value, {**fields, "input": dict, "schema": list, "parts": list}, where)
    if value["key"] != plain.digest({name: v for name, v in value.items() if name != "key"}):
        raise OutputError(f"expected {where} to match its key {value['key']}, found other content; {RESTORE}")
    return dict(value)


# Beginning


def begin(fs: pafs.FileSystem, directory: str, description: Mapping[str, Any]) -> bool:
    """Creates ``_job.json``, with which an output begins and belongs to its job; False when there is something else.

    Where the file system cannot create a file unless it is there, two that begin at once are not told apart.
    """
    files.make_directory(fs, directory)
    files.clean(fs, directory)
    job = f"{directory}/{JOB}"
    if not exclusive.claim(fs, job, chain(plain.pieces(description, indent=1), [b"\n"])):
        return False
    present = {SUCCESS, MANIFEST} & set(files.names(fs, directory))
    if len(present) == 2:  # finished by another run since we looked
        files.remove(fs, job)
        return False
    # A manifest or marker without the other is left of something else, and would make a later look go wrong.
    for name in present:
        files.remove(fs, f"{directory}/{name}")
    return True


def keep_input(source: Source, fs: pafs.FileSystem, directory: str) -> None:
    """Keeps what tells the input of an output that has begun from another of equal digests."""
    files.remove(fs, f"{directory}/{seen.NAME}")
    seen.write(fs, f"{directory}/{seen.NAME}", seen.absolute_files(source))


# Going on


def check_input(source: Source, fs: pafs.FileSystem, directory: str, *, begun: bool) -> None:
    """Refuses another input than the one that an output was begun with; a run that has only begun may not say yet."""
    if begun and not files.exists(fs, f"{directory}/{seen.NAME}"):
        keep_input(source, fs, directory)
    try:
        seen.check(source, seen.read(fs, f"{directory}/{seen.NAME}"))
    except ChangedInputError as error:
        raise OutputError(
            f"expected {directory} to be of this input; {error}, or choose another path, or write with overwrite=True"
        ) from error


def _record_path(directory: str, index: int) -> str:
    return f"{directory}/{RECORDS}/{index:05d}.json"


def write_record(fs: pafs.FileSystem, directory: str, key: str, record: PartRecord) -> None:
    """Says that a part is finished; goes after its files."""
    files.write_json(fs, _record_path(directory, record.index), {"key": key, "part": named(record)})


def read_records(fs: pafs.FileSystem, directory: str, key: str, planned: Sequence[Part]) -> Sequence[PartRecord]:
    """The records that there are, in order. One that cannot be read is none: its part is written again.

    A record is of the version of its job, whose key it names.
    """
    found = PackedList()
    for part in planned if files.exists(fs, f"{directory}/{RECORDS}") else ():
        where = _record_path(directory, part.index)
        with contextlib.suppress(FileNotFoundError):
            try:
                value = files.read_json(fs, where)
                expect(value, {"key": str, "part": dict}, where)
                record = PartRecord.from_json(value["part"], where)
            except OutputError as error:
                log.warning(
                    "part %d is written again, for its record cannot be read: %s", part.index, error, extra=REMADE
                )
                continue
            if value["key"] != key or record.index != part.index or record.source != part.source:
                raise OutputError(
                    f"expected {where} to be of this job (key {key[:12]}), found the record of part "
                    f"{record.index} of the job {value['key'][:12]}; remove it to have the part written again"
                )
            found.append(value["part"])
    return records(found)


def without_record(planned: Sequence[Part], done: Sequence[PartRecord]) -> Iterator[int]:
    """Numbers of the parts that are still to be written."""
    recorded = bytearray(len(planned))
    for record in done:
        recorded[record.index] = 1
    return (i for i in range(len(planned)) if not recorded[i])


def check_listing(
    fs: pafs.FileSystem, directory: str, done: Sequence[PartRecord], pending: Sequence[Part], ending: str = ""
) -> None:
    """Refuses files of another size, and data files without a record; pending parts may have left some.

    On disk the names of data files have that ``ending`` beyond what the records say.
    """
    visible = {path.removesuffix(ending): size for path, size in files.visible_files(fs, directory).items()}
    for record in done:
        for file in record.files:
            size = visible.pop(file.path, None)
            if size is None:  # a listing may be late
                size = files.size(fs, f"{directory}/{file.path}{ending}")
            if size != file.bytes:
                found = "no such file" if size is None else f"{size} bytes"
                raise OutputError(_other_file(f"{directory}/{file.path}", f"{file.bytes} bytes", found))
    expected = {part.index for part in pending} if visible else ()
    for path in visible:
        match = _PART_FILE.fullmatch(path)
        if not (match and int(match[1]) in expected):
            raise OutputError(
                f"expected only files of this output in {directory}, found {path}, which readers would take "
                "for a part of it; move it away"
            )


def verify(fs: pafs.FileSystem, directory: str, done: Sequence[PartRecord], ending: str = "") -> None:
    """Reads every finished file and compares it with its record."""

    def check(record: PartRecord) -> None:
        for file in record.files:
            path = f"{directory}/{file.path}{ending}"
            with files.storage_errors(path, "read"):
                found = files.digest_file(fs, path)
            if (found.bytes, found.sha256) != (file.bytes, file.sha256):
                raise OutputError(_other_file(path, f"the digest {file.sha256[:16]}", found.sha256[:16]))

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, len(done), AT_ONCE):  # a pool takes all that it is given at once
            for _ in pool.map(check, done[start : start + AT_ONCE]):
                pass


def _other_file(path: str, expected: str, found: str) -> str:
    return (
        f"expected {path} to have {expected} as recorded, found {found}: it is damaged, or a part of another "
        "output; restore it, or remove its record in _parts/ to have it written again, or use overwrite=True"
    )


# Finishing


def finish(fs: pafs.FileSystem, directory: str, key: str, planned: Sequence[Part], ending: str = "") -> Manifest:
    """Writes the manifest, then ``_SUCCESS``.

    Raises:
        OutputError: a part is missing, another job is here, or there are files that no part has written.
    """
    description = _read_job(fs, directory)
    if description["key"] != key:
        raise OutputError(refusal(Found("begun", description["key"]), directory, key))
    done = read_records(fs, directory, key, planned)
    if len(done) < len(planned):
        missing = list(islice(without_record(planned, done), 10))
        raise OutputError(
            f"expected records of {len(planned)} parts in {directory}, found {len(done)}; write the parts "
            f"{missing} first, and if they were written elsewhere, give a directory that every worker sees"
        )
    check_listing(fs, directory, done, (), ending)
    manifest = Manifest(
        key=key,
        model=description["model"],
        transforms=tuple(description["transforms"]),
        options=description["options"],
        input=description["input"],
        schema=tuple((name, kind) for name, kind in description["schema"]),
        rows=sum(record.rows for record in done),
        parts=done,
        versions={name: about.versions()[name] for name in ("eigenmill", "numpy", "pyarrow")},
    )
    files.write_json(fs, f"{directory}/{MANIFEST}", {**manifest.content, "digest": manifest.digest})
    files.write_bytes(fs, f"{directory}/{SUCCESS}", b"")
    return manifest


def remove_traces(fs: pafs.FileSystem, directory: str) -> None:
    """What only an unfinished job needs, and what dead attempts left."""
    files.remove(fs, f"{directory}/{RECORDS}", "directory")
    files.remove(fs, f"{directory}/{JOB}")
    files.clean(fs, directory)
