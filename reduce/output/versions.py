"""Directories that are replaced at once, by moving a link: ``NAME`` points to one of ``.NAME.v000002``, ...

A link is moved by one rename, so that who opens ``NAME`` finds the old directory or the new one whole. Local
file systems only.
"""

from __future__ import annotations

import contextlib
import os
import re

from eigenmill.reduce.storage import files


def path_of(path: str, number: int) -> str:
    """The hidden directory beside ``path`` that holds its version ``number``."""
    parent, name = os.path.split(path)
    return os.path.join(parent, f".{name}.v{number:06d}")


def numbers(path: str) -> list[int]:
    """The versions of ``path`` that exist beside it, ascending."""
    parent, name = os.path.split(path)
    pattern = re.compile(rf"\.{re.escape(name)}\.v(\d{{6,}})")
    with files.storage_errors(parent, "list"):
        return sorted(int(match[1]) for entry in os.listdir(parent) if (match := pattern.fullmatch(entry)))


def current(path: str) -> int:
    """The version that the link ``path`` points to; 0 when it is a plain directory or absent."""
    if os.path.islink(path):
        for number in numbers(path):
            if os.readlink(path) == os.path.basename(path_of(path, number)):
                return number
    return 0


def follow_foreign_links(path: str) -> str:
    """``path`` with links followed, except one to a version of it: a user's own link must not be replaced."""
    while os.path.islink(path) and not re.fullmatch(r"\..+\.v\d{6,}", os.readlink(path)):
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    return path


def point(path: str, version: str) -> None:
    """Makes ``path`` a link to the directory ``version`` beside it, atomically if it is a link already.

    A plain directory at ``path`` is first renamed to the version number below; a crash between the two steps
    leaves no ``path``, and :func:`finish_pointing` takes the second.
    """
    parent, name = os.path.split(version)
    with files.storage_errors(path, "replace"):
        if os.path.islink(path) and os.readlink(path) == name:
            return
        waiting = _waiting_link(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(waiting)
        os.symlink(name, waiting)
        if os.path.isdir(path) and not os.path.islink(path):
            os.rename(path, path_of(path, int(name.rpartition(".v")[2]) - 1))
        os.replace(waiting, path)
        files.sync_directory(parent)


def finish_pointing(path: str) -> None:
    """Repairs what a crash within :func:`point` left."""
    waiting = _waiting_link(path)
    with files.storage_errors(path, "replace"):
        if os.path.islink(waiting):
            if os.path.lexists(path):
                os.unlink(waiting)
            else:
                os.replace(waiting, path)


def _waiting_link(path: str) -> str:
    parent, name = os.path.split(path)
    return os.path.join(parent, f".{name}.next")
