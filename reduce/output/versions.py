"""Directories that are replaced at once: ``NAME`` changes places with a version of it, ``.NAME.v000002``.

Versions lie beside ``NAME``, or in a directory of their own. While one waits there, the names of its Parquet files end
in ``.aside``: DuckDB, Polars and Dask look into hidden directories, but no pattern for ``*.parquet`` finds such names,
wherever it starts.

The two change places by one call (``renameat2`` with ``RENAME_EXCHANGE``). Who opens ``NAME`` finds the old directory
or the new one whole, and ``NAME`` stays a directory: below a pattern, DuckDB and Dask do not follow links. Where a file
system cannot do that (NFS), ``NAME`` becomes a link to its version, which is moved by one rename. Local file systems
only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyarrow import fs as pafs

from eigenmill.reduce.errors import OutputError
from eigenmill.reduce.storage import files

ASIDE = ".aside"
"""How the names of Parquet files end in a version that is not published."""
SUCCESS = "_SUCCESS"
_VERSION = re.compile(r"\..+\.v\d{6,}")
_EXCHANGE = 2
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
"""What a system says that does not know how to exchange."""


@dataclass(frozen=True)
class Versions:
    """The versions of the directory ``path``, which lie in the directory ``place``: absolute local paths."""

    path: str
    place: str

    def waiting(self) -> list[str]:
        """The versions that are not published, the latest last."""
        published = self._target()
        return [version for _, version in _listed(self.path, self.place) if version != published]

    def new(self) -> str:
        """Makes the directory of a new version, which no other run makes too."""
        files.make_directory(pafs.LocalFileSystem(), self.place)
        while True:
            version = self._next()
            with files.storage_errors(version, "create"), contextlib.suppress(FileExistsError):
                os.mkdir(version)
                files.sync_directory(self.place)
                return version

    def _next(self) -> str:
        latest = max((number for number, _ in _listed(self.path, self.place)), default=0)
        return os.path.join(self.place, f".{os.path.basename(self.path)}.v{latest + 1:06d}")

    def settle(self) -> None:
        """Ends what a crash has cut short, and brings what an earlier eigenmill has left into today's form.

        A link that waits is moved; versions beside ``path`` go to ``place``; a version with a link to it takes the
        link's place; Parquet files of versions that wait are put aside.
        """
        parent = os.path.dirname(self.path)
        if not os.path.isdir(parent):
            return
        with files.storage_errors(self.path, "replace"), _locked(parent):
            link, published = _waiting_link(self.path), self._target()
            if os.path.islink(link):
                if os.path.lexists(self.path):
                    os.unlink(link)
                else:
                    os.replace(link, self.path)
            if published is not None and os.path.isdir(published) and exchange(published, self.path):
                os.unlink(published)
                files.sync_directory(parent)
            if self.place != parent:
                for version in Versions(self.path, parent).waiting():
                    files.make_directory(pafs.LocalFileSystem(), self.place)
                    os.rename(version, self._next())
            for version in self.waiting():
                if os.path.islink(version):  # of a version that has taken its place
                    os.unlink(version)
                else:
                    put_aside(version)

    def publish(self, version: str, ours: Callable[[str, str], bool]) -> None:
        """Makes ``version`` the directory at ``path``, atomically.

        What was at ``path`` becomes a version that waits if it was complete; all others are removed.

        Args:
            version: one that waits.
            ours: whether a directory, whose Parquet files have that ending, is the complete output of this job.
                Another run of it may have published it.

        Raises:
            OutputError: another job has published its own meanwhile, and has removed this version.
        """
        parent = os.path.dirname(self.path)
        with files.storage_errors(self.path, "replace"), _locked(parent):
            if self._target() == version:
                return
            if not ours(version, ASIDE):  # looked at under the lock: another run may have removed its files
                if ours(self.path, ""):
                    return
                raise OutputError(
                    f"expected the new version of {self.path} in {version}, found that another job has replaced the "
                    "output meanwhile; run again to replace that one, and let one job at a time write there"
                )
            bring_back(version)
            before = version
            if not os.path.lexists(self.path):
                os.rename(version, self.path)
            elif not exchange(version, self.path):
                before = self._link(version)
            files.sync_directory(parent)
            for other in {*self.waiting(), before}:
                if other == before and os.path.exists(os.path.join(other, SUCCESS)):
                    put_aside(other)
                elif os.path.islink(other):
                    os.unlink(other)
                else:  # another job may be at work in it, and is told when it ends
                    shutil.rmtree(other, ignore_errors=True)

    def _link(self, version: str) -> str:
        """Makes ``path`` a link to ``version``; returns where what it was before is now.

        A directory at ``path`` is renamed first; a crash between the two steps leaves no ``path``, and :meth:`settle`
        takes the second.
        """
        waiting, before = _waiting_link(self.path), self._target() or self._next()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(waiting)
        os.symlink(os.path.relpath(version, os.path.dirname(self.path)), waiting)
        if not os.path.islink(self.path):
            os.rename(self.path, before)
        os.replace(waiting, self.path)
        return before

    def _target(self) -> str | None:
        """The version that ``path`` is a link to."""
        if not (os.path.islink(self.path) and _VERSION.fullmatch(os.path.basename(os.readlink(self.path)))):
            return None
        return os.path.normpath(os.path.join(os.path.dirname(self.path), os.readlink(self.path)))


def follow_foreign_links(path: str) -> str:
    """``path`` with links followed, except one to a version of it: a user's own link must not be replaced."""
    while os.path.islink(path) and not _VERSION.fullmatch(os.path.basename(os.readlink(path))):
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    return path


def put_aside(directory: str) -> None:
    """Gives all Parquet files in a version names that no reader looks for; may be repeated."""
    _rename(directory, "", ASIDE)


def bring_back(directory: str) -> None:
    """Gives all Parquet files in a version their names again; may be repeated."""
    _rename(directory, ASIDE, "")


def _rename(directory: str, old: str, new: str) -> None:
    for parent, _, names in os.walk(directory):
        found = [name for name in names if name.endswith(f".parquet{old}")]
        for name in found:
            path = os.path.join(parent, name)
            os.rename(path, path.removesuffix(old) + new)
        if found:
            files.sync_directory(parent)


def _listed(path: str, place: str) -> list[tuple[int, str]]:
    """Numbers and directories of the versions of ``path`` in ``place``, ascending."""
    pattern = re.compile(rf"\.{re.escape(os.path.basename(path))}\.v(\d{{6,}})")
    with files.storage_errors(place, "list"), contextlib.suppress(FileNotFoundError):
        matches = [match for entry in os.listdir(place) if (match := pattern.fullmatch(entry))]
        return sorted((int(match[1]), os.path.join(place, match[0])) for match in matches)
    return []


def _waiting_link(path: str) -> str:
    parent, name = os.path.split(path)
    return os.path.join(parent, f".{name}.next")


def exchange(a: str, b: str) -> bool:
    """Lets two paths change places at once; False when the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    here = -100  # AT_FDCWD
    if rename(here, os.fsencode(a), here, os.fsencode(b), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), a, None, b)


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Waits for others that replace something in a directory, as far as its file system has locks."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files.lock(handle)
        yield
    finally:
        os.close(handle)
