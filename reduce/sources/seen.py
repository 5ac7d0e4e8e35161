"""Whether a file is the one that was seen before. A file is its path and its content; its time is a hint.

Digests know a file by its path, size and footer. The footer of a file of up to :data:`TAIL` bytes is digested with all
that lies before it, so that such a file is compared by content. Of a larger one two things more are known, which lie
beside what was made of it, in a ``_seen.json``, and are fed to no digest; a model commits its own with itself:

- ``hint``: what changes when a file is written again: its time of change, or its ETag or version;
- ``content``: the SHA-256 of all its bytes, where ``verify="content"`` has asked for it.

A file of the same size and footer is the same if its hint is, and with ``verify="content"`` if its content is. If the
hint differs its content is compared, and where that was not kept the file counts as changed.
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from pyarrow import fs as pafs

from eigenmill.reduce.errors import ArtifactError, ChangedInputError, OutputError
from eigenmill.reduce.sources.base import Source
from eigenmill.reduce.sources.catalog import FileInfo
from eigenmill.reduce.sources.discovery import join
from eigenmill.reduce.sources.footers import TAIL
from eigenmill.reduce.storage import files, long_lists, places, plain
from eigenmill.reduce.storage.artifact import load_beside
from eigenmill.reduce.storage.places import Location

NAME, FORMAT, VERSION = "_seen.json", "eigenmill-seen", 1
LISTS = (("files",),)
Known = Literal["footer", "hint", "content"]
ORDER: tuple[Known, ...] = ("footer", "hint", "content")
"""By what a file is known, the weakest first."""
Marks = Mapping[str, tuple[str, str]]
"""Hint and content of files by their full paths."""


def known_by(path: str, before: FileInfo, now: FileInfo, content: Callable[[], str]) -> Known:
    """By what the file ``now`` at ``path`` is known to be the one that was seen ``before``.

    Args:
        path: for messages.
        before: what was known of the file.
        now: what is known of it.
        content: reads the file, and gives its SHA-256.

    Raises:
        ChangedInputError: it is another file.
    """
    if (before.size, before.digest) != (now.size, now.digest):
        raise _changed(path, f"{before.size} bytes, footer {before.digest}", f"{now.size} bytes, footer {now.digest}")
    if now.size <= TAIL:
        return "content"
    if before.content and (now.content or before.hint != now.hint):
        found = now.content or content()
        if found != before.content:
            raise _changed(path, f"SHA-256 {before.content[:16]}", f"{found[:16]} at the same size and footer")
        return "content"
    if not before.hint or not now.hint:
        return "footer"
    if before.hint != now.hint:
        raise _changed(
            path,
            f"changed last {_shown(before.hint)}",
            f"changed last {_shown(now.hint)} at the same size and footer, and its content was not kept "
            "(verify: content keeps it)",
        )
    return "hint"


def _changed(path: str, before: str, now: str) -> ChangedInputError:
    return ChangedInputError(f"expected {path} as it was when it was seen ({before}), found {now}; fit all files again")


def _shown(hint: str) -> str:
    if not hint.isdigit():
        return hint
    seconds, rest = divmod(int(hint), 10**9)
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def weakest(found: Iterable[Known]) -> Known:
    """By what all of them are known."""
    return min(found, key=ORDER.index, default="content")


# The record


def absolute_files(source: Source) -> Iterator[FileInfo]:
    """The source's files under their full paths, which tell days in directories of their own apart."""
    return (replace(f, path=join(source.root, f.path)) for f in source.files)


def record(seen: Iterable[FileInfo]) -> dict[str, Any]:
    """Hint and content of files, which have their full paths, as JSON; nothing where there are none."""
    rows = [[file.path, file.hint, file.content] for file in seen]
    value = {"format": FORMAT, "version": VERSION, "files": rows}
    return {**value, "digest": plain.digest(value)} if rows else {}


def write(fs: pafs.FileSystem, path: str, seen: Iterable[FileInfo]) -> None:
    """Keep hint and content of files, which have their full paths; nothing where there are none."""
    if value := record(seen):
        files.write_json(fs, path, value)


def read(fs: pafs.FileSystem, path: str, refusal: plain.Refusal = OutputError) -> Marks:
    """What :func:`write` has kept; nothing where there is no record.

    Raises:
        refusal: it is damaged.
    """
    try:
        return _marks(files.read_lists(fs, path, LISTS, refusal), path, refusal)
    except FileNotFoundError:
        return {}


def of_model(path: Location) -> Marks:
    """What is known of the files that the model saved at ``path`` was fitted to; nothing where it does not say.

    Raises:
        ArtifactError: it is damaged.
    """
    content, where = load_beside(path, NAME), places.below(places.absolute(path), NAME)
    if content is None:
        return {}
    return _marks(long_lists.parse(io.BytesIO(content).read, where, ArtifactError, LISTS), where, ArtifactError)


def _marks(value: Any, path: str, refusal: plain.Refusal) -> Marks:
    stated = value.pop("digest", None) if isinstance(value, dict) else None
    form = (value.get("format"), value.get("version")) if isinstance(value, dict) else None
    if form != (FORMAT, VERSION) or stated != plain.digest(value):
        raise refusal(
            f"expected {path} to say which files were seen, with its digest, found other content; the file is damaged "
            "or of a newer eigenmill: restore it"
        )
    return {name: (hint, content) for name, hint, content in value["files"]}


def check(source: Source, marks: Marks) -> Known:
    """By what the files of ``source`` are known to be those of ``marks``, which are of files of equal digests.

    Raises:
        ChangedInputError: a file is another one.
    """
    found = set[Known]()
    for number, now in enumerate(source.files):
        full = join(source.root, now.path)
        hint, content = marks.get(full, ("", ""))
        before = FileInfo(full, now.size, now.digest, (), 0, 0, hint, content)
        found.add(known_by(full, before, now, lambda number=number: source.content(number)))  # type: ignore[misc]
    return weakest(found)


def marked(rows: Iterable[FileInfo], marks: Marks) -> Iterable[FileInfo]:
    """Files with their full paths, and with what a record says of them."""
    for file in rows:
        hint, content = marks.get(file.path, ("", ""))
        yield replace(file, hint=hint, content=content)


__all__ = [
    "NAME",
    "Known",
    "Marks",
    "absolute_files",
    "check",
    "known_by",
    "marked",
    "of_model",
    "read",
    "record",
    "weakest",
    "write",
]
