"""Places: where a path or URI lies that a user gives: of an input, an output, a model, a work directory, a job file.

A local path may begin with ``~`` and may be relative; ``file://`` URIs are local paths too, percent-decoded, and every
other URI belongs to pyarrow's file system of that scheme (``s3a`` is ``s3``), else to fsspec's. The path in such a URI
is taken as it stands: names of objects may hold blanks and percent signs. ``${NAME}`` stands for the value of an
environment variable. docs/files.md has the whole rule.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from pyarrow import fs as pafs

from eigenmill.reduce.errors import ConfigError, DataError
from eigenmill.reduce.storage import secrets, uris, waiting

Location = str | os.PathLike[str]
"""A local path or a URI."""
VERSIONS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "modified", "mtime", "created")
"""What fsspec's file systems tell of a file that changes when it is written again, the surest first."""
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
SCHEMES = {"s3a": "s3", "s3n": "s3"}
"""What Hadoop calls stores that are known by another name here."""
GOOGLE = re.compile("gc?s://", re.IGNORECASE)
RETRIES = 30
"""Seconds for which a call to Google's store is repeated while it is not answered, unless the URI says another."""
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

    def hint(self, path: str, modified: int | None) -> str:
        """What changes when a file is written again: its ETag or version where the store tells it, else its time.

        Args:
            path: the file, on this store.
            modified: its time of change in nanoseconds, if a listing has told it; empty if neither is known.
        """
        if (self.given is None and self.uri is None) or not _is_fsspec(self.filesystem):
            return "" if modified is None else str(modified)
        about = self.filesystem.handler.fs.info(path)
        return next((f"{name} {about[name]}" for name in VERSIONS if about.get(name) is not None), "")


_LOCAL = pafs.LocalFileSystem()


def locate(path: Location, filesystem: object = None) -> tuple[Store, str]:
    """The store, and the path in it; local paths are absolute, for workers run in directories of their own.

    Args:
        path: a path, or a URI (``s3://bucket/key``, ``file:///...``); patterns stay as they are.
        filesystem: a ``pyarrow.fs`` or fsspec file system that ``path`` is on, by default the one of the URI.

    Raises:
        ConfigError: no file system is known for the URI, or ``filesystem`` is none.
    """
    text = expanded(path)
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
    uri = f"{SCHEMES.get(scheme[1].lower(), scheme[1])}://{authority}{options}"
    try:
        base = _from_uri(uri)[1]
    except waiting.NoAnswerError:
        raise DataError(
            f"expected an answer of the store at {secrets.masked_uri(text)}, found none in "
            f"{waiting.PATIENCE:.0f} s; check the network, the endpoint and the region"
        ) from None
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
    """The file system, which answers, and the path in it."""
    # Google's library tries for a quarter of an hour by itself.
    limit = f"{'&' if '?' in uri else '?'}retry_limit_seconds={RETRIES}"
    limited = GOOGLE.match(uri) and "retry_limit_seconds=" not in uri

    def ask() -> tuple[pafs.FileSystem, str]:
        filesystem, path = _opened(uri + limit if limited else uri)
        with contextlib.suppress(OSError):  # what is refused here may be allowed for the files themselves
            filesystem.get_file_info(path)
        return filesystem, path

    return waiting.answer(ask)


def _opened(uri: str) -> tuple[pafs.FileSystem, str]:
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
    if isinstance(filesystem, pafs.FileSystem):
        filesystem, below = _unwrapped(filesystem)
        text = f"{below}/{text.lstrip('/')}" if below else text
    else:
        if not (hasattr(filesystem, "pipe_file") and hasattr(filesystem, "_strip_protocol")):
            found = type(filesystem).__name__
            raise ConfigError(f"expected a pyarrow or fsspec file system in filesystem=, found {found}")
        filesystem = _from_fsspec(filesystem)
    if _is_fsspec(filesystem):
        handled = filesystem.handler.fs
        inner, kind = str(handled._strip_protocol(text)), type(handled)
        # A class of somebody's own may read local files in a way of its own.
        plain = (kind.__module__, kind.__name__) == ("fsspec.implementations.local", "LocalFileSystem")
        return (Store(), _local(inner)) if plain else (Store(given=filesystem), inner)
    store = Store(given=filesystem)
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
    if _is_fsspec(found):
        protocols = found.handler.fs.protocol
        if "file" in ((protocols,) if isinstance(protocols, str) else protocols):
            return _LOCAL, _local(inner)
    return found, inner


def _unwrapped(filesystem: pafs.FileSystem) -> tuple[pafs.FileSystem, str]:
    """The file system in which a subtree lies, and where: one of a local disk is the local disk itself."""
    below = ""
    while isinstance(filesystem, pafs.SubTreeFileSystem):
        below = filesystem.base_path.rstrip("/") + ("/" + below if below else "")
        filesystem = filesystem.base_fs
    return filesystem, below


def _is_fsspec(filesystem: pafs.FileSystem) -> bool:
    return isinstance(filesystem, pafs.PyFileSystem) and isinstance(filesystem.handler, pafs.FSSpecHandler)


def is_local(filesystem: pafs.FileSystem) -> bool:
    """Whether files can be moved onto each other atomically."""
    return isinstance(filesystem, pafs.LocalFileSystem)


def _local(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text)).replace(os.sep, "/")


def absolute(path: Location) -> str:
    """The place as processes in other directories name it: a local path absolute, another URI with its variables."""
    text = expanded(path)
    return text if "://" in text and not text.lower().startswith("file://") else locate(text)[1]


def expanded(path: Location) -> str:
    """A path or URI with the values of environment variables in place of ``${NAME}``.

    A local name that is there with these very characters is meant as it stands.

    Raises:
        ConfigError: a variable is not set.
    """
    text = os.fspath(path)

    def value(found: re.Match[str]) -> str:
        end = re.compile("/|$").search(text, found.end())
        if "://" not in text and end is not None and os.path.lexists(_local(text[: end.start()])):
            return found[0]
        if found[1] not in os.environ:
            raise ConfigError(
                f"expected an environment variable {found[1]}, found none, in the path {secrets.masked(text)!r}; "
                "set it, or write the path without it"
            )
        return os.environ[found[1]]

    return VARIABLE.sub(value, text)


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


__all__ = ["Store", "absolute", "below", "beside", "expanded", "is_local", "locate", "resolve"]
