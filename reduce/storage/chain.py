"""What changes: a chain of small records, each of which names the files that hold from then on.

::

    _generations/00000002.json                    a record: its number, what it replaces, an attempt and its files
    _generations/00000002-6f1c0a52b9d4e873/...    the files of that attempt, written before its record; those of the
                                                  first generation may lie in the directory itself
    _generations/lock                             waiting, on local file systems

**Truth is the record of the highest number.** A commit creates the next number if it is absent
(:mod:`eigenmill.reduce.storage.exclusive`), so of two writers that began from the same record one wins and the other is
told. Records stay for good: a number that is free again could be taken twice. The files of an attempt whose number is
taken by another can never hold again, and go. What lies in the directory itself is a view, for people and for tools;
who reads by the chain is never wrong for it.

The lock only makes waiting polite. It is an ``flock`` on a file that is never replaced, so it ends with its process,
however that ends; where locks do nothing, the chain decides alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import re
import secrets
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyarrow import fs as pafs

from eigenmill.reduce.errors import ArtifactError, OutputError
from eigenmill.reduce.storage import exclusive, files, plain
from eigenmill.reduce.storage.places import is_local

log = logging.getLogger("eigenmill")
FOLDER = "_generations"
FORMAT, VERSION = "eigenmill-generation", 1
TOLD_SECONDS = 30.0
"""How often it is said that a lock is waited for."""
_RECORD, _ATTEMPT = re.compile(r"(\d{8})\.json"), re.compile(r"(\d{8})-[0-9a-f]{16}")
_NAME = re.compile(r"\w[\w.-]*")


class ConflictError(OutputError):
    """Another writer has committed since this one had read."""


@dataclass(frozen=True)
class Generation:
    """What holds: a number from 1, the attempt that made it, and its files by name.

    ``replaces`` is the digest of what it took the place of, as its maker knew it. A damaged record of which only the
    number is known has no attempt.
    """

    number: int
    attempt: str = ""
    files: Mapping[str, files.WrittenFile] = field(default_factory=dict)
    replaces: str = ""

    def path(self, directory: str, name: str) -> str:
        """Where a file of this generation lies."""
        return _path(directory, self.attempt, name)


def _path(directory: str, attempt: str, name: str) -> str:
    return f"{directory}/{FOLDER}/{attempt}/{name}" if attempt else f"{directory}/{name}"


NONE = Generation(0)
"""Before the first commit."""


# Reading


def head(fs: pafs.FileSystem, directory: str) -> Generation:
    """The generation that holds in ``directory``; :data:`NONE` before the first one.

    Raises:
        ArtifactError: its record is damaged.
    """
    number = newest(fs, directory)
    return read(fs, directory, number) if number else NONE


def newest(fs: pafs.FileSystem, directory: str) -> int:
    """The highest number that has a record. A listing may be late, so the next ones are asked for by name."""
    found = [int(match[1]) for name in files.names(fs, f"{directory}/{FOLDER}") if (match := _RECORD.fullmatch(name))]
    number = max(found, default=0)
    while files.exists(fs, _record(directory, number + 1)):
        number += 1
    return number


def read(fs: pafs.FileSystem, directory: str, number: int) -> Generation:
    """The generation of a number.

    Raises:
        ArtifactError: its record is not there, or damaged.
    """
    where = _record(directory, number)
    try:
        value = files.read_json(fs, where, ArtifactError)
    except FileNotFoundError:
        raise ArtifactError(f"expected the record {where}, found none; restore it") from None
    held = dict(value) if isinstance(value, dict) else {}
    digest = held.pop("digest", None)
    if (held.get("format"), held.get("version")) != (FORMAT, VERSION):
        raise ArtifactError(
            f"expected {where} to be {FORMAT} of version {VERSION}, found another; restore it, or use the eigenmill "
            "that wrote it"
        )
    try:
        found = Generation(number, held["attempt"], _entries(held["files"]), held["replaces"])
        whole = digest == plain.digest(held) and held["number"] == number and _known(found)
    except (KeyError, TypeError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise ArtifactError(f"expected {where} to be as it was written, found other content: it is damaged; restore it")
    return found


def _entries(named: Any) -> dict[str, files.WrittenFile]:
    return {name: files.WrittenFile(int(size), str(sha256)) for name, (size, sha256) in named.items()}


def _known(found: Generation) -> bool:
    """Whether a record names nothing outside of its directory."""
    return bool(found.attempt == "" or _ATTEMPT.fullmatch(found.attempt)) and all(map(_NAME.fullmatch, found.files))


def read_bytes(fs: pafs.FileSystem, directory: str, generation: Generation, name: str) -> bytes:
    """A file of a generation, held against its digest.

    Raises:
        ArtifactError: it is damaged. FileNotFoundError: it is not there, or no longer.
    """
    where, entry = generation.path(directory, name), generation.files[name]
    content = files.read_bytes(fs, where, files.MAX_LISTS, ArtifactError)
    if files.measured(content) != entry:
        raise ArtifactError(
            f"expected {where} to have {entry.bytes} bytes and the digest {entry.sha256[:12]}, found others: it is "
            "damaged; restore it"
        )
    return content


def earlier(fs: pafs.FileSystem, directory: str, generation: Generation) -> Iterator[Generation]:
    """The generations before one, from the last one down."""
    for number in range(generation.number - 1, 0, -1):
        yield read(fs, directory, number)


def _record(directory: str, number: int) -> str:
    return f"{directory}/{FOLDER}/{number:08d}.json"


# Committing


@dataclass
class Attempt:
    """Files that are to hold after ``base``; :meth:`commit` makes them hold.

    Attributes:
        directory: of which they are a generation.
        base: what held when the attempt began.
        in_place: the files are those in the directory itself, which nobody else writes.
    """

    fs: pafs.FileSystem
    directory: str
    base: Generation
    in_place: bool = False
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = "" if self.in_place else f"{self.base.number + 1:08d}-{secrets.token_hex(8)}"

    def path(self, name: str) -> str:
        """Where a file of this attempt is to be written."""
        return _path(self.directory, self.name, name)

    def write(self, name: str, content: Iterable[bytes]) -> files.WrittenFile:
        """Write a file of this attempt; one that is in place already is only measured."""
        if self.in_place:
            with files.storage_errors(self.path(name), "read"):
                return files.digest_file(self.fs, self.path(name))
        with files.draft(self.fs, self.path(name)) as made:
            for piece in content:
                with files.storage_errors(self.path(name)):
                    files.write_all(made.file, piece)
        return made.written

    def commit(self, written: Mapping[str, files.WrittenFile], replaces: str = "") -> Generation:
        """Make the files ``written`` hold, all at once.

        Raises:
            ConflictError: another writer has committed after ``base``.
            OutputError: the file system refused, or cannot tell two writers apart.
        """
        number = self.base.number + 1
        record: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "number": number,
            "attempt": self.name,
            "replaces": replaces,
            "files": {name: [entry.bytes, entry.sha256] for name, entry in sorted(written.items())},
        }
        record["digest"] = plain.digest(record)
        if not exclusive.create(self.fs, _record(self.directory, number), plain.pieces(record, indent=1)):
            raise self.lost()
        return Generation(number, self.name, dict(written), replaces)

    def abandon(self) -> bool:
        """Remove the attempt's files, unless they hold: an error may come after the record. Whether another won."""
        number = self.base.number + 1
        taken = newest(self.fs, self.directory) >= number
        held = taken and read(self.fs, self.directory, number).attempt == self.name
        if not self.in_place and not held:
            _remove(self.fs, f"{self.directory}/{FOLDER}/{self.name}")
        return taken and not held

    def lost(self) -> ConflictError:
        """What is said to who comes second."""
        return ConflictError(
            f"expected {self.directory} to be as it was when this run read it (generation {self.base.number}), "
            "found that another run has changed it meanwhile; run again"
        )


@contextlib.contextmanager
def attempt(fs: pafs.FileSystem, directory: str, base: Generation, *, in_place: bool = False) -> Iterator[Attempt]:
    """An attempt whose files are removed when the ``with`` statement ends by an exception.

    Raises:
        ConflictError: another writer has committed after ``base``, and may have removed files of this attempt.
    """
    made = Attempt(fs, directory, base, in_place)
    try:
        yield made
    except BaseException as error:
        lost = False
        with contextlib.suppress(OutputError, ArtifactError):
            lost = made.abandon()
        if lost and isinstance(error, OutputError) and not isinstance(error, ConflictError):
            raise made.lost() from error
        raise


def show(fs: pafs.FileSystem, directory: str, own: re.Pattern[str]) -> Generation:
    """Let the directory itself hold the files that hold now, and remove what can never hold again.

    Args:
        fs: the file system.
        directory: what the chain is of.
        own: names in it that go when no file that holds has them.
    """
    while True:
        now = head(fs, directory)
        try:
            for name in sorted(now.files if now.attempt else (), key=lambda name: (_last(name), name)):
                _copy(fs, now.path(directory, name), f"{directory}/{name}")
        except OutputError:
            if newest(fs, directory) == now.number:
                raise
            continue
        for name in files.names(fs, directory):
            if own.fullmatch(name) and name not in now.files:
                files.remove(fs, f"{directory}/{name}")
        _retire(fs, directory, now)
        if newest(fs, directory) == now.number:
            return now


def _last(name: str) -> bool:
    """JSON names other files, so it goes after them."""
    return name.endswith(".json")


def _copy(fs: pafs.FileSystem, source: str, target: str) -> None:
    """A second name on a local file system, where the two take the room of one; a copy within a store."""
    with files.storage_errors(target):
        if not is_local(fs):
            fs.copy_file(source, target)
        elif not (os.path.exists(target) and os.path.samefile(source, target)):
            parent, name = os.path.split(target)
            while not _renamed(source, os.path.join(parent, f".{name}.{files.attempt()}.tmp"), target):
                pass
            files.sync_directory(parent)


def _renamed(source: str, temporary: str, target: str) -> bool:
    """Gives a second name; False when a cleaner has taken it for what a dead attempt has left."""
    os.link(source, temporary)
    try:
        os.replace(temporary, target)
        return True
    except FileNotFoundError:
        return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _retire(fs: pafs.FileSystem, directory: str, now: Generation) -> None:
    with files.storage_errors(directory, "list"):
        found = fs.get_file_info(pafs.FileSelector(f"{directory}/{FOLDER}", allow_not_found=True))
    for info in found:
        match = _ATTEMPT.fullmatch(info.base_name)
        if match and int(match[1]) <= now.number and info.base_name != now.attempt:
            _remove(fs, f"{directory}/{FOLDER}/{info.base_name}")


def _remove(fs: pafs.FileSystem, folder: str) -> None:
    """Its owner may still write into it, or remove it too; what stays goes with the next commit."""
    with contextlib.suppress(OutputError):
        files.remove(fs, folder, "directory")


# Waiting

_held: weakref.WeakSet[io.BufferedWriter] = weakref.WeakSet()


def _let_go() -> None:
    """A forked child does not hold the locks of its parent, which would outlive it there."""
    for file in list(_held):
        file.close()


os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def turn(fs: pafs.FileSystem, directory: str) -> Iterator[None]:
    """Waits until no other process of this machine is within a turn of ``directory``; on local file systems only."""
    if not is_local(fs):
        yield
        return
    folder = f"{directory}/{FOLDER}"
    files.make_directory(fs, folder)
    with contextlib.ExitStack() as held:
        with files.storage_errors(folder, "lock"):
            file = held.enter_context(open(f"{folder}/lock", "ab"))
            _held.add(file)
            _wait(file.fileno(), directory)
        yield


def _wait(handle: int, directory: str) -> None:
    told = time.monotonic() - TOLD_SECONDS + 1
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() - told > TOLD_SECONDS:
                told = time.monotonic()
                log.warning("waiting for another run that is changing %s", directory)
            time.sleep(0.1)
        except OSError as error:
            if error.errno not in files.NO_LOCKS:
                raise
            return None


__all__ = [
    "NONE",
    "Attempt",
    "ConflictError",
    "Generation",
    "attempt",
    "earlier",
    "head",
    "newest",
    "read",
    "read_bytes",
    "show",
    "turn",
]
