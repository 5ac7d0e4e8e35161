"""Files that are whole or absent, on any ``pyarrow.fs`` file system.

Locally a file is written as ``.NAME.<host>-<pid>-<random>.tmp`` beside its target, synced, and moved onto
it: a reader sees the old file, the new one or none. Other file systems have no rename that can be relied on:
a file is made in an anonymous local spool and uploaded by one stream, piece by piece. **A remote stream is never closed
after an exception**: closing is what publishes an object, also a truncated one.

What the operating system refuses (full disk, no permission) becomes an :class:`OutputError` with its errno.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa
from pyarrow import fs as pafs

from eigenmill.reduce.errors import EigenmillError, OutputError
from eigenmill.reduce.storage import long_lists, plain
from eigenmill.reduce.storage.digest import sha256_of, sha256_of_file, size_and_sha256
from eigenmill.reduce.storage.places import is_local

MAX_JSON = 256 << 20
"""Bytes of the largest JSON file that is read: a million feature names take 20 MB."""
MAX_LISTS = 4 << 30
"""Bytes of the largest JSON file that is read item by item: ten million input files take 2 GB."""
SILENT_SECONDS = 3600.0
"""A temporary file of another host counts as abandoned when it was not written to for so long."""
OBJECT_STORES = ("s3", "gcs", "abfs")
"""File systems without directories: creating one leaves an empty object behind."""

SHOWN_SECONDS = 30.0
"""How long a store may take to show a new object."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
"""What file systems answer that have no locks, or none on what is open for reading."""
PIECE, IN_FLIGHT = 4 << 20, 32 << 20
"""Bytes that an upload reads at a time; bytes that a store may send in the background before they are waited for."""

HOST = re.sub("[^0-9A-Za-z]", "", socket.gethostname())[:32] or "host"
"""This host's name in characters that no separator of a temporary name uses."""
_ATTEMPT = re.compile(r"\.(?P<host>[0-9A-Za-z]+)-\d+-[0-9a-f]{8}\.tmp$")


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """What was published: size in bytes and SHA-256 in hex."""

    bytes: int
    sha256: str


def split(path: str) -> tuple[str, str]:
    """Parent directory and last name of a path with slashes."""
    parent, _, name = path.rpartition("/")
    return parent, name


# Writing


@contextlib.contextmanager
def storage_errors(path: str, doing: str = "write") -> Iterator[None]:
    """Turns an ``OSError`` inside into an :class:`OutputError` that keeps its errno."""
    try:
        yield
    except EigenmillError:
        raise
    except OSError as error:
        code = error.errno
        reason = os.strerror(code) if code else str(error).strip().splitlines()[0]
        message = f"expected to {doing} {path}, found: {reason}; {_advice(code)}"
        raise (OutputError(code, message) if code else OutputError(message)) from error


def _advice(code: int | None) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "free some space or choose another path, then run again: finished parts are kept"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose a path that this user may write to, or change its permissions"
    if code in (errno.ENOENT, errno.ENOTDIR):
        return "check that nothing removed or replaced the directory meanwhile, then run again"
    return "repair the cause and run again: finished parts are kept"


@dataclass
class Draft:
    """A file in the making.

    Attributes:
        file: a local file to fill, empty and seekable at first.
        written: what was published, once the draft has ended.
    """

    file: BinaryIO
    written: WrittenFile = field(init=False)


def draft(fs: pafs.FileSystem, path: str) -> AbstractContextManager[Draft]:
    """A local file that appears as ``path`` when the ``with`` statement ends, whole or not at all.

    Args:
        fs: the file system, from :func:`eigenmill.reduce.storage.places.resolve`.
        path: the target; its parent directory is created; an existing file is replaced.

    Raises:
        OutputError: the file system refused. After this and any other exception nothing is published.
    """
    return _beside(path) if is_local(fs) else _spooled(fs, path)


@contextlib.contextmanager
def _beside(path: str) -> Iterator[Draft]:
    parent, name = os.path.split(path)
    with storage_errors(path):
        _make_local(parent)
        file, temporary = create_temporary(parent, name)
    made = Draft(file)
    try:
        with file:
            yield made
            with storage_errors(path):
                os.fsync(file.fileno())
                made.written = _measure(file)
                # Moved while the lock is held: a cleaner never takes a finished file for an abandoned one.
                os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    with storage_errors(path):
        sync_directory(parent)


def create_temporary(parent: str, name: str) -> tuple[BinaryIO, str]:
    """A new temporary file and its path; the lock on it lives and dies with its writer."""
    while True:
        temporary = os.path.join(parent, f".{name}.{attempt()}.tmp")
        # Unbuffered: the encoder writes whole pages. Mode 0o666 leaves the decision to the umask.
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            lock(handle)
            if os.fstat(handle).st_nlink:  # else a cleaner came between creation and lock
                return cast(BinaryIO, os.fdopen(handle, "w+b", buffering=0)), temporary
        except BaseException:
            os.close(handle)
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        os.close(handle)


def lock(handle: int) -> None:
    """Waits for the lock on an open file or directory, which ends with its process; some file systems know no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


@contextlib.contextmanager
def _spooled(fs: pafs.FileSystem, path: str) -> Iterator[Draft]:
    # Anonymous: the spool is gone with this process, however it ends.
    with _spooling():
        made = Draft(cast(BinaryIO, tempfile.TemporaryFile(buffering=0)))  # noqa: SIM115
    with made.file:
        yield made
        with _spooling():
            made.written = _measure(made.file)
            made.file.seek(0)
        _upload(fs, path, made.file, made.written.bytes)


def _spooling() -> AbstractContextManager[None]:
    return storage_errors("the spool in " + tempfile.gettempdir())


def _upload(fs: pafs.FileSystem, path: str, spool: BinaryIO, size: int) -> None:
    """Copies ``size`` bytes into an object, a few pieces at a time in memory."""
    with storage_errors(path):
        make_directory(fs, split(path)[0])
        stream = fs.open_output_stream(path)
    try:
        sent = 0
        while sent < size:
            with _spooling():
                piece = spool.read(PIECE)
                if not piece:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            sent += len(piece)
            with storage_errors(path):
                stream.write(piece)
                if sent % IN_FLIGHT < len(piece):
                    stream.flush()
        with storage_errors(path):
            stream.close()
    except BaseException:
        # One reference too many: a stream that nobody holds is closed, and closing publishes what there is of it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
        raise
    await_shown(fs, path, size)


def measured(content: bytes) -> WrittenFile:
    """What a file of this content is."""
    return WrittenFile(len(content), sha256_of([content]))


def await_shown(fs: pafs.FileSystem, path: str, size: int) -> None:
    """Waits until a store shows an object that has been put; some show a new one late.

    Raises:
        OutputError: it has another size, or is not shown within half a minute.
    """
    until = time.monotonic() + SHOWN_SECONDS
    while True:
        with storage_errors(path):
            found = fs.get_file_info(path)
        if found.size == size:
            return
        if found.type != pafs.FileType.NotFound or time.monotonic() > until:
            raise OutputError(f"expected {path} to have {size} bytes after its upload, found {found.size}; run again")
        time.sleep(0.05)


def _measure(file: BinaryIO) -> WrittenFile:
    file.seek(0)
    digest = sha256_of_file(file)
    return WrittenFile(file.tell(), digest)


def sync_directory(path: str) -> None:
    """Makes the names in a local directory survive a power failure."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(fs: pafs.FileSystem, path: str) -> None:
    """The directory and its parents; nothing where there are no directories."""
    if path and fs.type_name not in OBJECT_STORES:
        with storage_errors(path, "create"):
            _make_local(path) if is_local(fs) else fs.create_dir(path, recursive=True)


def check_writable(fs: pafs.FileSystem, directory: str) -> None:
    """Refuses a local directory that cannot be made or written to, as far as one can tell without trying."""
    if not is_local(fs):
        return
    at = directory
    while not os.path.lexists(at):
        at = os.path.dirname(at)
    if not os.path.isdir(at):
        raise OutputError(
            f"expected a directory at {directory}, or none yet, found {at}, which is no directory; choose another path"
        )
    if not os.access(at, os.W_OK | os.X_OK):
        code = errno.EROFS if os.statvfs(at).f_flag & os.ST_RDONLY else errno.EACCES
        with storage_errors(directory):
            raise OSError(code, os.strerror(code), at)


def _make_local(path: str) -> None:
    """The directory and its parents; each new one is synced into the one above: its files are lost with its name."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    _make_local(above)
    try:
        os.mkdir(path)
    except FileExistsError:  # by another writer meanwhile
        if not os.path.isdir(path):
            raise
    sync_directory(above)


def write_bytes(fs: pafs.FileSystem, path: str, content: bytes) -> WrittenFile:
    """Publishes ``content`` as ``path``."""
    with draft(fs, path) as made, storage_errors(path):
        write_all(made.file, content)
    return made.written


def write_all(file: BinaryIO, content: Any) -> None:
    """Writes a whole buffer to an unbuffered file, which may take less at a time."""
    view = memoryview(content).cast("B")
    while view:
        view = view[file.write(view) :]


def write_json(fs: pafs.FileSystem, path: str, value: object) -> WrittenFile:
    """Publishes ``value`` as indented JSON: keys sorted, floats exact, no NaN or infinity."""
    with draft(fs, path) as made:
        for piece in chain(plain.pieces(value, indent=1), [b"\n"]):
            with storage_errors(path):
                write_all(made.file, piece)
    return made.written


# Reading


def exists(fs: pafs.FileSystem, path: str) -> bool:
    """Whether there is a file or directory at ``path``."""
    with storage_errors(path, "look for"):
        return bool(fs.get_file_info(path).type != pafs.FileType.NotFound)


def size(fs: pafs.FileSystem, path: str) -> int | None:
    """Bytes of the file at ``path``; None when there is none."""
    with storage_errors(path, "look for"):
        found = fs.get_file_info(path)
    return int(found.size) if found.type == pafs.FileType.File else None


def digest_file(fs: pafs.FileSystem, path: str) -> WrittenFile:
    """Size and SHA-256 of a file, read once in small pieces. Raises ``OSError``."""
    if is_local(fs):
        with open(path, "rb") as file:
            return WrittenFile(os.fstat(file.fileno()).st_size, sha256_of_file(file))
    with fs.open_input_stream(path) as stream:
        return WrittenFile(*size_and_sha256(iter(lambda: stream.read(1 << 20), b"")))


@contextlib.contextmanager
def _opened(fs: pafs.FileSystem, path: str, limit: int, refusal: plain.Refusal) -> Iterator[tuple[Any, int]]:
    """A stream over a file of at most ``limit`` bytes, and its size; absence raises ``FileNotFoundError``."""
    try:
        info = fs.get_file_info(path)
        if info.type == pafs.FileType.NotFound:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if info.type != pafs.FileType.File or info.size > limit:
            found = f"{info.size} bytes" if info.type == pafs.FileType.File else "a directory"
            raise refusal(f"expected {path} to be a file of at most {limit} bytes, found {found}; restore it")
        with fs.open_input_stream(path) as stream:
            yield stream, info.size
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, EigenmillError):
            raise
        raise refusal(f"expected to read {path}, found: {error}; check its permissions") from error


def read_bytes(fs: pafs.FileSystem, path: str, limit: int, refusal: plain.Refusal = OutputError) -> bytes:
    """All of a file; more than ``limit`` bytes or damage raises ``refusal``, absence ``FileNotFoundError``."""
    with _opened(fs, path, limit, refusal) as (stream, size):
        # One byte more than there should be: a read of the limit would allocate all of it.
        return bytes(stream.read(size + 1))


def read_json(fs: pafs.FileSystem, path: str, refusal: plain.Refusal = OutputError, limit: int = MAX_JSON) -> Any:
    """The value in a JSON file; damage raises ``refusal``, absence ``FileNotFoundError``.

    Refused are more than ``limit`` bytes, and what :func:`eigenmill.reduce.storage.plain.parse` refuses.
    """
    return plain.parse(read_bytes(fs, path, limit, refusal), path, refusal)


def read_lists(
    fs: pafs.FileSystem, path: str, lists: Collection[long_lists.Path], refusal: plain.Refusal = OutputError
) -> Any:
    """As :func:`read_json`, from a file that may be longer: its long lists become :class:`long_lists.Packed`."""
    with _opened(fs, path, MAX_LISTS, refusal) as (stream, _):
        return long_lists.parse(stream.read, path, refusal, lists)


# Listing and removing


def visible_files(fs: pafs.FileSystem, directory: str) -> dict[str, int]:
    """Relative path and size of every file below ``directory`` that readers of Parquet take for data.

    They skip files and directories whose name starts with ``_`` or ``.``.
    """
    with storage_errors(directory, "list"):
        found = fs.get_file_info(pafs.FileSelector(directory, allow_not_found=True, recursive=True))
    files = {_below(i.path, directory): i.size for i in found if i.type == pafs.FileType.File}
    return {p: size for p, size in sorted(files.items()) if p and not any(n[:1] in "_." for n in p.split("/"))}


def names(fs: pafs.FileSystem, directory: str) -> list[str]:
    """Sorted names of the files directly in ``directory``; none when it does not exist."""
    with storage_errors(directory, "list"):
        found = fs.get_file_info(pafs.FileSelector(directory, allow_not_found=True, recursive=False))
    return sorted(i.base_name for i in found if i.type == pafs.FileType.File)


def _below(path: str, directory: str) -> str:
    return path.removeprefix(directory.rstrip("/") + "/").strip("/") if directory else path


def remove(fs: pafs.FileSystem, path: str, kind: Literal["file", "directory"] = "file") -> None:
    """Removes a file or a whole directory; neither has to exist."""
    with storage_errors(path, "remove"), contextlib.suppress(FileNotFoundError):
        if exists(fs, path):
            fs.delete_file(path) if kind == "file" else fs.delete_dir(path)


def clean(fs: pafs.FileSystem, directory: str) -> list[str]:
    """Removes what dead attempts left below a local directory; the paths removed.

    A temporary file is abandoned when nobody holds its lock and its writer was on this host; locks may not
    reach across hosts, so another host's file must also have been silent for an hour.
    """
    removed: list[str] = []
    if is_local(fs):
        for parent, _, files in os.walk(directory):
            paths = [os.path.join(parent, f) for f in files if f.startswith(".") and f.endswith(".tmp")]
            removed += [path for path in paths if _remove_abandoned(path)]
    return removed


def _remove_abandoned(path: str) -> bool:
    name = _ATTEMPT.search(path)
    if name is None:
        return False
    with contextlib.suppress(OSError):  # gone meanwhile, locked by a living writer, or not ours to touch
        young = time.time() - os.lstat(path).st_mtime < SILENT_SECONDS
        if name["host"] != HOST and young:
            return False
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if young and not _excluded(path):
                return False
            os.unlink(path)
            return True
        finally:
            os.close(handle)
    return False


def _excluded(path: str) -> bool:
    """Whether the lock that is held on a file keeps others out; on some file systems locks do nothing."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def attempt() -> str:
    """A name for what one writer makes once, in the form that a cleaner knows."""
    return f"{HOST}-{os.getpid()}-{secrets.token_hex(4)}"
