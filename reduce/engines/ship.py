"""How an instruction travels to a worker: pickled in transit, with large arrays beside it as files.

A pass or transform may hold a matrix of hundreds of megabytes. Arrays above :data:`LARGE` are written once, under
their digest, to a directory that all workers see, and each worker process reads them once. Nothing pickled is ever
written to disk; the files are plain safetensors. What the tasks of a scan have in common, and is not small, can be
packed once for all of them (:class:`Common`). No instruction carries credentials.
"""

from __future__ import annotations

import functools
import inspect
import io
import os
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pyarrow import fs as pafs

from eigenmill.reduce.errors import ArtifactError, ConfigError, EngineError
from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.storage import files, places, secrets
from eigenmill.reduce.storage.artifact import load_arrays, save_arrays
from eigenmill.reduce.storage.digest import digest_of
from eigenmill.reduce.storage.places import Store

LARGE = 32 << 20
"""Bytes above which an array travels as a file."""
SHARED = 64 << 10
"""Bytes from which an array that several instructions have in common is packed apart."""
NAMES = 64
"""Names from which on they are, too."""
COMMON = 0


class Common:
    """Arrays and long tuples of names that several instructions share: packed once, read-only for who unpacks them."""

    def __init__(self) -> None:
        self.objects: list[object] = []
        self._numbers: dict[int, int] = {}

    def number(self, obj: object) -> int | None:
        """The number of an object that is worth sharing."""
        if isinstance(obj, np.ndarray):
            if obj.nbytes < SHARED or obj.dtype.hasobject:
                return None
        elif type(obj) is not tuple or len(obj) < NAMES or type(obj[0]) is not str:
            return None
        if id(obj) not in self._numbers:
            self._numbers[id(obj)] = len(self.objects)
            self.objects.append(obj)
        return self._numbers[id(obj)]

    def pack(self) -> bytes:
        """All of them as bytes, for :func:`unpack_common`."""
        return pickle.dumps(self.objects, protocol=5)


def unpack_common(payload: bytes) -> list[object]:
    """The objects of a packed :class:`Common`."""
    objects: list[object] = pickle.loads(payload)
    for obj in objects:
        if isinstance(obj, np.ndarray):
            obj.flags.writeable = False
    return objects


class _Packer(pickle.Pickler):
    def __init__(self, out: io.BytesIO, work: str | None, common: Common | None) -> None:
        super().__init__(out, protocol=5)
        self.work, self.common = work, common

    def persistent_id(self, obj: object) -> tuple[object, ...] | None:
        if isinstance(obj, Store):
            refuse_secrets(obj.uri, obj.given)
        elif isinstance(obj, Sink):
            refuse_secrets(os.fspath(obj.path), obj.filesystem)
        if not isinstance(obj, np.ndarray) or obj.nbytes <= LARGE or obj.dtype.hasobject:
            number = None if self.common is None else self.common.number(obj)
            return None if number is None else (COMMON, number)
        if self.work is None:
            raise ConfigError(
                f"expected work=, a directory that all workers see, for an array of {obj.nbytes >> 20} MiB; "
                "give it to connect()"
            )
        refuse_secrets(self.work, None)
        name = digest_of(obj)
        fs, directory = places.resolve(self.work)
        if not files.exists(fs, f"{directory}/{name}.shared"):
            files.make_directory(fs, directory)
            save_arrays(f"{directory}/{name}.shared", {"array": obj}, {}, filesystem=fs)
        return self.work, name


class _Unpacker(pickle.Unpickler):
    def __init__(self, payload: bytes, common: Sequence[object]) -> None:
        super().__init__(io.BytesIO(payload))
        self.common = common

    def persistent_load(self, pid: Any) -> Any:
        place, name = pid
        return self.common[name] if place == COMMON else _shared(place, name)


@functools.lru_cache(maxsize=8)
def _shared(work: str, name: str) -> Any:
    fs, directory = places.resolve(work)
    try:
        array = load_arrays(f"{directory}/{name}.shared", filesystem=fs)[0]["array"]
    except ArtifactError as error:
        raise EngineError(
            f"expected an array of this scan in work={work!r} on every worker, found {error}; "
            "give a directory that this process and all workers see"
        ) from error
    array.flags.writeable = False
    return array


def workplace(work: str | os.PathLike[str] | None) -> str | None:
    """The work directory as workers name it, which run in directories of their own.

    Raises:
        ConfigError: it holds credentials.
    """
    if work is None:
        return None
    place = os.fspath(work)
    refuse_secrets(place, None)
    return places.absolute(place)


def refuse_secrets(uri: str | None, filesystem: object) -> None:
    """Refuse a place whose description holds credentials: descriptions travel, and workers have their own.

    Raises:
        ConfigError: the URI or the file system holds a user, password, key or token.
    """
    if secrets.holds([uri, _options(filesystem)]):
        place = "a file system" if uri is None or "://" not in uri else secrets.masked_uri(uri)
        raise ConfigError(
            f"expected {place} without credentials, found some in it; a task's description travels through the "
            "cluster: give the workers credentials of their own, by their environment or role"
        )


def _options(value: Any) -> Any:
    """A file system as the nested options that it was made with, which may hold other file systems."""
    if isinstance(value, pafs.FSSpecHandler):
        return _options(value.fs)
    if isinstance(value, pafs.FileSystem):
        return _options(value.__reduce__()[1])  # how it travels
    if hasattr(value, "storage_options"):  # fsspec's
        names = list(inspect.signature(type(value).__init__).parameters)[1:]
        return _options([dict(zip(names, value.storage_args, strict=False)), value.storage_options])
    if isinstance(value, Mapping):
        return {name: _options(held) for name, held in value.items()}
    return [_options(item) for item in value] if isinstance(value, list | tuple) else value


def pack(value: object, work: str | None = None, common: Common | None = None) -> bytes:
    """``value`` as bytes for a worker; large arrays go to ``work``, shared ones to ``common``.

    Raises:
        ConfigError: there is a large array and no ``work``, or ``value`` holds credentials.
    """
    out = io.BytesIO()
    _Packer(out, work, common).dump(value)
    return out.getvalue()


def unpack(payload: bytes, common: Sequence[object] = ()) -> Any:
    """What :func:`pack` packed. Arrays from elsewhere are read-only: this process keeps them."""
    return _Unpacker(payload, common).load()
