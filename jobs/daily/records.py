"""What a day-by-day job leaves beside models and features: one small JSON record for each stage of each day.

::

    daily.json                       what must not change from day to day
    model/                           the model that goes on, with its state
    days/2026-11-01/fit.json         files of the day, digest of the model after them
    days/2026-11-01/gate.json        measures of drift, and whether a new version is due
    days/2026-11-01/project.json     which features were written, by which version
    days/2026-11-01/publish.json     the day is done
    versions/v0001/model/            a model as it was published: canonical, without state
    versions/v0001/version.json      its number, digest, and alignment to the version before
    versions/v0001/features/day=2026-11-01/
    published.json                   the pointer: version, and the days that are whole, with digests; replaced at once
    published                        on a local file system: a link to the directory of that version

Every record names the digest of the model it was made from (``candidate``); a stage whose record names the same one
as the stage before has nothing to do. Records hold no times and no absolute paths.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar

from pyarrow import fs as pafs

from eigenmill.reduce.errors import OutputError
from eigenmill.reduce.storage import files, places
from eigenmill.reduce.storage.digest import items_of, tag_of, tagged

FORMAT, VERSION = "eigenmill-daily", 1


@dataclass(frozen=True)
class Record:
    """A JSON file with the fields of a dataclass; ``name`` is the file's."""

    name: ClassVar[str]

    def as_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {**_form(type(self)), **dict(items_of(self))}

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """The record in a parsed file; other formats and fields are refused."""
        known, form = tag_of(cls).fields, _form(cls)
        if not isinstance(value, dict) or any(value.get(k) != v for k, v in form.items()):
            raise OutputError(
                f"expected {where} to be {form['format']} of version {VERSION}, found another; "
                "restore it, or go on with the eigenmill that wrote it"
            )
        found = {k: v for k, v in value.items() if k not in form}
        fields = sorted(name for _, name in known)
        if sorted(found) != fields:
            raise OutputError(f"expected the fields {fields} in {where}, found {sorted(found)}; restore it")
        return cls(**{attribute: found[name] for attribute, name in known})


def _form(kind: type[Record]) -> dict[str, Any]:
    """What a file says that it is."""
    return {"format": f"{FORMAT}-{tag_of(kind).name}", "version_of_format": VERSION}


@tagged("settings", "settings")
@dataclass(frozen=True)
class Settings(Record):
    """What must stay as it is: see :meth:`eigenmill.jobs.daily.config.Daily.settings`."""

    settings: dict[str, Any]
    name: ClassVar[str] = "daily.json"


@tagged("fit", "day files rows candidate")
@dataclass(frozen=True)
class Fit(Record):
    """A day's files (path below their root, size, footer digest), its rows, and the model after them."""

    day: str
    files: list[list[Any]]
    rows: int
    candidate: str
    name: ClassVar[str] = "fit.json"


@tagged("gate", "day candidate published version measures")
@dataclass(frozen=True)
class Gate(Record):
    """What the gate found: ``version`` is the number of a new version, None when the published one stays."""

    day: str
    candidate: str
    published: int | None
    version: int | None
    measures: dict[str, Any]
    name: ClassVar[str] = "gate.json"


@tagged("project", "day candidate version transforms features")
@dataclass(frozen=True)
class Project(Record):
    """Which version wrote the features of which days, with the digests of their manifests."""

    day: str
    candidate: str
    version: int
    transforms: list[str]
    features: dict[str, str]
    name: ClassVar[str] = "project.json"


@tagged("publish", "day candidate version")
@dataclass(frozen=True)
class Publish(Record):
    """The day is done."""

    day: str
    candidate: str
    version: int
    name: ClassVar[str] = "publish.json"


@tagged("version", "version day candidate model aligned_to alignment")
@dataclass(frozen=True)
class Version(Record):
    """A version: the model's digest, and how its components become columns (None: as they are)."""

    version: int
    day: str
    candidate: str
    model: str
    aligned_to: int | None
    alignment: dict[str, Any] | None
    name: ClassVar[str] = "version.json"


@tagged("pointer", "version model model_digest features days")
@dataclass(frozen=True)
class Pointer(Record):
    """What is published: the version, its model and features below the job's directory, and its days."""

    version: int
    model: str
    model_digest: str
    features: str
    days: dict[str, str] = field(default_factory=dict)
    name: ClassVar[str] = "published.json"


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Place:
    """The directory of a day-by-day job: a local path or a URI."""

    root: str

    def path(self, *names: str) -> str:
        """A path or URI below the directory."""
        return places.below(self.root, *names)

    def read(self, kind: type[R], *folders: str) -> R | None:
        """The record in a folder below the directory; None when there is none.

        Raises:
            OutputError: it is damaged.
        """
        fs, where = places.resolve(self.path(*folders, kind.name))
        try:
            return kind.from_json(files.read_json(fs, where), where)
        except FileNotFoundError:
            return None

    def write(self, record: Record, *folders: str) -> bool:
        """Put a record into a folder, unless that very one is there; whether it was not."""
        fs, where = places.resolve(self.path(*folders, record.name))
        with contextlib.suppress(FileNotFoundError):
            if files.read_json(fs, where) == record.as_json():
                return False
        files.write_json(fs, where, record.as_json())
        return True

    def exists(self, *names: str) -> bool:
        """Whether something is there."""
        fs, where = places.resolve(self.path(*names))
        return files.exists(fs, where)

    def remove_version(self, number: int) -> None:
        """Remove a version and its features; it need not be there."""
        fs, where = places.resolve(self.path("versions", folder(number)))
        files.remove(fs, where, "directory")

    def reopen(self, day: str) -> None:
        """Take back that a day is done."""
        fs, where = places.resolve(self.path("days", day, Publish.name))
        files.remove(fs, where)

    def days(self) -> dict[str, set[str]]:
        """The days that have been fitted, in order, with the names of their records."""
        fs, where = places.resolve(self.path("days"))
        with files.storage_errors(where, "list"):
            found = fs.get_file_info(pafs.FileSelector(where, allow_not_found=True, recursive=True))
        days: dict[str, set[str]] = {}
        for info in found:
            if info.type == pafs.FileType.File:
                days.setdefault(info.path.split("/")[-2], set()).add(info.base_name)
        return {day: names for day, names in sorted(days.items()) if Fit.name in names}

    def versions(self) -> list[int]:
        """The versions that are there, in order."""
        fs, where = places.resolve(self.path("versions"))
        with files.storage_errors(where, "list"):
            found = fs.get_file_info(pafs.FileSelector(where, allow_not_found=True))
        names = [info.base_name for info in found if info.type == pafs.FileType.Directory]
        return sorted(int(name[1:]) for name in names if name[1:].isdigit())

    def link(self, target: str) -> None:
        """Make ``published`` a link to a folder below the directory, at once; on local file systems only."""
        fs, path = places.resolve(self.path("published"))
        if not places.is_local(fs):
            return
        with files.storage_errors(path, "replace"):
            if os.path.islink(path) and os.readlink(path) == target:
                return
            waiting = os.path.join(os.path.dirname(path), ".published.next")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(waiting)
            os.symlink(target, waiting)
            os.replace(waiting, path)
            files.sync_directory(os.path.dirname(path))


def folder(version: int) -> str:
    """The name of a version's directory."""
    return f"v{version:04d}"


__all__ = ["Fit", "Gate", "Place", "Pointer", "Project", "Publish", "Record", "Settings", "Version", "folder"]
