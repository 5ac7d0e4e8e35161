"""Places: where a path or URI lies that a user gives: of an input, an output, a model, a work directory, a job file.

A local path may begin with ``~`` and may be relative; ``file://`` URIs are local paths too, percent-decoded, and every
other URI belongs to pyarrow's file system of that scheme, else to fsspec's. The path in such a URI is taken as it
stands: names of objects may hold blanks and percent signs.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from pyarrow import fs as pafs

from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.storage import secrets, uris

Location = str | os.PathLike[str]
"""A local path or a URI."""
QUERY = re.compile(r"\?(?=[a-z_]+=)")


@dataclass(frozen=True)
class Store:
    """A file system by description: workers open it with their own credentials, unless one was given."""

    uri: str | None = field(default=None, repr=False)
    given: Any = field(default=None, repr=False)

    @property
    def filesystem(self) -> pafs.FileSystem:
        if self.given is not None:
            return self.given
        return _LOCAL if self.uri is None else _from_uri(self.uri)[0]

    @property
    def remote(self) -> bool:
        """Whether a read may cost a request."""
        return not is_local(self.filesystem)


_LOCAL = pafs.LocalFileSystem()


def locate(path: Location, filesystem: object = None) -> tuple[Store, str]:
    """The store, and the path in it; local paths are absolute, for workers run in directories of their own.

    Args:
        path: a path, or a URI (``s3://bucket/key``, ``file:///...``); patterns stay as they are.
        filesystem: a ``pyarrow.fs`` or fsspec file system that ``path`` is on, by default the one of the URI.

    Raises:
        ConfigError: no file system is known for the URI, or ``filesystem`` is none.
    """
    text = os.fspath(path)
    if filesystem is not None:
        return _within(text, filesystem)
    if "://" not in text:
        return Store(), _local(text)
    scheme = secrets.SCHEME.match(text)
    if scheme is None:
        raise uris.refused(text, "pyarrow or fsspec", "let it begin with its scheme", ValueError("no scheme"))
    # The file system is found by scheme, authority and query alone: a pattern or a blank is no valid URI.
    query = QUERY.search(text)
    options = text[query.start() :] if query else ""
    authority, slash, rest = text[scheme.end() : len(text) - len(options)].partition("/")
    if scheme[1].lower() == "file":
        if authority not in ("", "localhost", "~"):
            raise uris.refused(text, "this machine", "write file:///path", ValueError(f"another host: {authority}"))
        return Store(), _local(("~" if authority == "~" else "") + unquote(slash + rest))
    uri = f"{scheme[0]}{authority}{options}"
    try:
        base = _from_uri(uri)[1]
    except _UnknownError as error:
        advice = "install the fsspec package for it, or give filesystem="
        raise uris.refused(text, "pyarrow or fsspec", advice, *error.reasons) from None
    return Store(uri=uri), f"{base.rstrip('/')}{slash}{rest}".rstrip("/") or "/"


class _UnknownError(Exception):
    """Neither pyarrow nor fsspec opens a URI; it must not be shown, for the URI may hold a secret."""

    def __init__(self, *reasons: Exception) -> None:
        super().__init__()
        self.reasons = reasons


@lru_cache(maxsize=16)
def _from_uri(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system and the path in it: pyarrow's own if it knows the scheme, else fsspec's."""
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
        return filesystem, path
    except (ValueError, NotImplementedError) as error:
        unknown = error
    except OSError as error:
        raise _UnknownError(error) from None
    try:
        from fsspec.core import url_to_fs

        filesystem, path = url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise _UnknownError(unknown, error) from None
    return _from_fsspec(filesystem), path


def _from_fsspec(filesystem: object) -> pafs.FileSystem:
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem))


def _within(text: str, filesystem: Any) -> tuple[Store, str]:
    """The path on a file system that was given."""
    if not isinstance(filesystem, pafs.FileSystem):
        if not (hasattr(filesystem, "pipe_file") and hasattr(filesystem, "_strip_protocol")):
            found = type(filesystem).__name__
            raise ConfigError(f"expected a pyarrow or fsspec file system in filesystem=, found {found}")
        filesystem = _from_fsspec(filesystem)
    store = Store(given=filesystem)
    if _is_fsspec(filesystem):
        return store, str(filesystem.handler.fs._strip_protocol(text))
    scheme = secrets.SCHEME.match(text)
    text = text if scheme is None else text[scheme.end() :]
    return store, _local(text) if is_local(filesystem) else text.rstrip("/") or "/"


def resolve(path: Location, filesystem: object = None) -> tuple[pafs.FileSystem, str]:
    """The file system that holds the files themselves, and the path on it; arguments and errors as of :func:`locate`.

    What is a local disk in another dress (a subtree, fsspec's ``file``) is ``pyarrow.fs.LocalFileSystem`` here, whose
    files can be moved onto each other.
    """
    store, inner = locate(path, filesystem)
    found = store.filesystem
    while isinstance(found, pafs.SubTreeFileSystem):
        inner, found = found.base_path.rstrip("/") + "/" + inner.lstrip("/"), found.base_fs
    if _is_fsspec(found):
        inner, protocol = found.handler.fs._strip_protocol(inner), found.handler.fs.protocol
        if "file" in ((protocol,) if isinstance(protocol, str) else protocol):
            found = _LOCAL
    return found, _local(inner) if is_local(found) else inner.rstrip("/") or "/"


def _is_fsspec(filesystem: pafs.FileSystem) -> bool:
    return isinstance(filesystem, pafs.PyFileSystem) and isinstance(filesystem.handler, pafs.FSSpecHandler)


def is_local(filesystem: pafs.FileSystem) -> bool:
    """Whether files can be moved onto each other atomically."""
    return isinstance(filesystem, pafs.LocalFileSystem)


def _local(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text)).replace(os.sep, "/")


def absolute(path: Location) -> str:
    """The place as processes in other directories name it: a local path expanded and absolute, another URI as it is."""
    text = os.fspath(path)
    return text if "://" in text and not text.lower().startswith("file://") else locate(text)[1]


def below(place: str, *names: str) -> str:
    """The path or URI of what lies below ``place``."""
    path, query = _split(place)
    return "/".join([path.rstrip("/"), *names]) + query


def beside(place: str, prefix: str, suffix: str) -> str:
    """The path or URI next to ``place`` whose last name is that of ``place`` with a prefix and a suffix."""
    path, query = _split(absolute(place))
    parent, _, name = path.rstrip("/").rpartition("/")
    return f"{parent}/{prefix}{name}{suffix}{query}"


def _split(place: str) -> tuple[str, str]:
    """Path and query of a URI; a path has no query."""
    if "://" not in place:
        return place, ""
    path, question, query = place.partition("?")
    return path, question + query


__all__ = ["Store", "absolute", "below", "beside", "is_local", "locate", "resolve"]
