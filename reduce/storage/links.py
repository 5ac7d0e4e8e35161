"""What lies at a path on a local disk: a file, a directory, or what is refused before it is opened.

A link is what it leads to. One that leads nowhere or back to itself is an error that names it, and so is a pipe, a
socket or a device: reading one may never end.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from eigenmill.reduce.errors import DataError

SPECIAL = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What a name stands for.

    Attributes:
        path: the name, below the directory that was listed.
        directory: whether it is one, and no file.
        link: whether the name is a link to it.
        modified: when a file was changed last, in nanoseconds since 1970; None where a store does not say.
    """

    path: str
    directory: bool
    link: bool = False
    modified: int | None = None


def names(directory: str) -> Iterator[tuple[str, str]]:
    """(name, path) of what lies directly in a directory, sorted; nothing where there is none.

    Raises:
        DataError: it cannot be listed.
    """
    try:
        found = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        found = []
    except OSError as error:
        raise DataError(
            f"expected to list the directory {directory}, found an error: {error}; check permissions"
        ) from error
    return ((name, os.path.join(directory, name)) for name in found)


def entry(path: str) -> Entry | None:
    """What a path stands for; None when nothing has this name.

    Raises:
        DataError: it is a link that leads to no file or directory, a pipe, a socket or a device.
    """
    try:
        link = stat.S_ISLNK(os.lstat(path).st_mode)
        about = os.stat(path)
    except OSError as error:
        if not os.path.islink(path):
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise DataError(f"expected to find {path}, found an error: {error}; check the path and permissions") from (
                error
            )
        found = "a link that leads back to itself" if error.errno == errno.ELOOP else "a link that leads nowhere"
        raise DataError(
            f"expected a file or directory at {path}, found {found} (to {os.readlink(path)}); "
            "remove it, or put back what it leads to"
        ) from error
    special = SPECIAL.get(stat.S_IFMT(about.st_mode))
    if special is not None:
        raise DataError(f"expected a file or directory at {path}, found {special}; move it away, or name a file")
    directory = stat.S_ISDIR(about.st_mode)
    return Entry(path, directory, link, None if directory else about.st_mtime_ns)


class Reals:
    """Where paths really lie, links followed; each directory is looked up once."""

    def __init__(self) -> None:
        self.directories: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        if os.path.islink(path):
            return os.path.realpath(path)
        directory, name = os.path.split(path)
        if directory not in self.directories:
            self.directories[directory] = os.path.realpath(directory)
        return os.path.join(self.directories[directory], name)


def reals(paths: Iterable[str]) -> Iterator[str]:
    """Where each path really lies."""
    return map(Reals(), paths)


__all__ = ["Entry", "Reals", "entry", "names", "reals"]
