"""The manifest of a finished output: what it is, which files it has, and from which input they came.

``_manifest.json`` is plain JSON with a digest over all of it; what is read is checked field by field, and a
path in it never leads out of the output's directory. Files and parts are written, read and held item by item.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyarrow import fs as pafs

from eigenmill.reduce.errors import OutputError
from eigenmill.reduce.storage import files, places, plain
from eigenmill.reduce.storage.digest import items_of, named, tagged
from eigenmill.reduce.storage.long_lists import Mapped, PackedList
from eigenmill.reduce.storage.sequences import OnDemand

FORMAT, VERSION = "eigenmill-output", 1
MANIFEST = "_manifest.json"
LISTS = (("input", "files"), ("parts",))
"""Where a manifest, and a job, have long lists."""
RESTORE = "the file is damaged or not ours: restore it, or write the output again"


@tagged("FileRecord", "path rows bytes sha256")
@dataclass(frozen=True, slots=True)
class FileRecord:
    """A finished file: ``path`` relative to the output directory, its rows and bytes, SHA-256 in hex."""

    path: str
    rows: int
    bytes: int
    sha256: str


@tagged("PartRecord", "index rows files source")
@dataclass(frozen=True, slots=True)
class PartRecord:
    """A finished part: its files (none when a partitioned part has no rows), and where it came from."""

    index: int
    rows: int
    files: tuple[FileRecord, ...]
    source: tuple[tuple[int, int, int], ...]

    @classmethod
    def from_json(cls, value: Any, where: str) -> PartRecord:
        """Raises OutputError when ``value`` is not what ``digest.named`` made of a record."""
        expect(value, {"index": int, "rows": int, "files": list, "source": list}, where)
        for item in value["files"]:
            expect(item, {"path": str, "rows": int, "bytes": int, "sha256": str}, where)
            _check_relative(item["path"], where)
        for item in value["source"]:
            if not (isinstance(item, list) and len(item) == 3 and all(type(i) is int for i in item)):
                raise OutputError(f"expected sources (file, start, stop) in {where}, found {item!r}; {RESTORE}")
        if sum(item["rows"] for item in value["files"]) != value["rows"]:
            raise OutputError(f"expected the rows of part {value['index']} to add up in {where}; {RESTORE}")
        return cls.of(value)

    @classmethod
    def of(cls, value: Any) -> PartRecord:
        """From what was checked before."""
        return cls(
            value["index"],
            value["rows"],
            tuple(FileRecord(f["path"], f["rows"], f["bytes"], f["sha256"]) for f in value["files"]),
            tuple((a, b, c) for a, b, c in value["source"]),
        )


@tagged("Manifest", "key model transforms options input schema rows parts versions")
@dataclass(frozen=True)
class Manifest:
    """What an output is: ``_manifest.json``, checked.

    Attributes:
        key: digest of options, input, model and part plan.
        model: digest of the chain of transforms; ``transforms`` has one digest for each.
        options: how features are laid out.
        input: what was read: rows, features, and files (path, size, digest) or the content's digest.
        schema: (name, type) of every column, the partition column included.
        rows: rows written.
        parts: their records, in order, made when asked for.
        versions: of the packages that wrote the manifest.
    """

    key: str
    model: str
    transforms: tuple[str, ...]
    options: Mapping[str, Any]
    input: Mapping[str, Any]
    schema: tuple[tuple[str, str], ...]
    rows: int
    parts: Sequence[PartRecord]
    versions: Mapping[str, str]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for part in self.parts for file in part.files)

    @property
    def content(self) -> dict[str, Any]:
        """What ``_manifest.json`` says but its digest; lists as :mod:`eigenmill.reduce.storage.plain` writes them."""
        return {"format": FORMAT, "version": VERSION, **dict(items_of(self)), "parts": Mapped(named, self.parts)}

    @property
    def digest(self) -> str:
        """Of all its content."""
        return plain.digest(self.content)

    def as_json(self) -> dict[str, Any]:
        """The content of ``_manifest.json``, as plain values: about a kilobyte for every input file."""
        value = {name: list(v) if isinstance(v, OnDemand) else v for name, v in self.content.items()}
        value["input"] = {name: list(v) if isinstance(v, OnDemand) else v for name, v in self.input.items()}
        return {**value, "digest": self.digest}


def read_manifest(path: str | os.PathLike[str], filesystem: object = None) -> Manifest:
    """The manifest of a finished output.

    Raises:
        OutputError: there is none, or it is damaged, of a newer format, or names files outside the directory.
    """
    fs, directory = places.resolve(path, filesystem)
    return read_at(fs, directory)


def read_at(fs: pafs.FileSystem, directory: str) -> Manifest:
    """:func:`read_manifest` of a directory on an open file system."""
    where = f"{directory}/{MANIFEST}"
    try:
        value = files.read_lists(fs, where, LISTS)
    except FileNotFoundError as error:
        raise OutputError(f"expected a finished output in {directory}, found no {MANIFEST}; finish the job") from error
    expect_format(value, FORMAT, where)
    kinds: dict[str, type] = {"key": str, "model": str, "transforms": list, "options": dict, "input": dict}
    kinds |= {"schema": list, "rows": int, "parts": list, "versions": dict}
    expect(value, kinds | {"format": str, "version": int, "digest": str}, where)
    stated = value.pop("digest")
    if stated != plain.digest(value):
        raise OutputError(f"expected {where} to have the digest {stated}, found {plain.digest(value)}; {RESTORE}")
    del value["format"], value["version"]
    parts, rows, whole = value.pop("parts"), 0, True
    for index, part in enumerate(parts):
        record = PartRecord.from_json(part, where)
        rows, whole = rows + record.rows, whole and record.index == index
    if not whole or rows != value["rows"]:
        raise OutputError(f"expected the parts in {where} to be whole and to have {value['rows']} rows; {RESTORE}")
    schema, transforms = value.pop("schema"), value.pop("transforms")
    pairs = all(isinstance(pair, list) and len(pair) == 2 for pair in schema)
    if not pairs or not all(isinstance(text, str) for text in [*transforms, *(t for pair in schema for t in pair)]):
        raise OutputError(f"expected pairs (name, type) as schema and digests as transforms in {where}; {RESTORE}")
    columns = tuple((name, kind) for name, kind in schema)
    return Manifest(**value, transforms=tuple(transforms), schema=columns, parts=records(parts))


def records(checked: Sequence[Any]) -> Sequence[PartRecord]:
    """The records that :meth:`PartRecord.from_json` has taken, made when asked for."""
    return Mapped(PartRecord.of, checked)


def expect(value: object, kinds: Mapping[str, type], where: str) -> None:
    """Refuses anything but an object with exactly these fields, of these types, numbers not negative."""
    if not isinstance(value, dict) or set(value) != set(kinds):
        given = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise OutputError(f"expected the fields {sorted(kinds)} in {where}, found {given}; {RESTORE}")
    for name, kind in kinds.items():
        found = type(value[name])
        if (list if found is PackedList else found) is not kind or (kind is int and value[name] < 0):
            raise OutputError(f"expected {name} in {where} to be {kind.__name__}, found {value[name]!r:.80}; {RESTORE}")


def expect_format(value: object, kind: str, where: str) -> None:
    """Refuses another kind of file, and other versions."""
    found = (value.get("format"), value.get("version")) if isinstance(value, dict) else (None, None)
    if found != (kind, VERSION):
        raise OutputError(
            f"expected {where} to be {kind} of version {VERSION}, found {found[0]!r:.40} {found[1]!r:.9}; "
            "read it with the eigenmill that wrote it, or choose another path"
        )


def _check_relative(path: str, where: str) -> None:
    names = path.split("/")
    if path.startswith("/") or "\\" in path or "\0" in path or any(n[:1] in ("", ".", "_") for n in names):
        raise OutputError(f"expected paths inside the output directory in {where}, found {path!r}; do not trust it")
