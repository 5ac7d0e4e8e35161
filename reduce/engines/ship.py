"""How an instruction travels to a worker: pickled in transit, with large arrays beside it as files.

A pass or transform may hold a matrix of hundreds of megabytes. Arrays above :data:`LARGE` are written once, under
their digest, to a directory that all workers see, and each worker process reads them once. Nothing pickled is ever
written to disk; the files are plain safetensors.
"""

from __future__ import annotations

import functools
import io
import pickle
from typing import Any

import numpy as np

from reduce import files
from reduce.artifact import load_arrays, save_arrays
from reduce.digest import digest_of
from reduce.errors import ConfigError

LARGE = 32 << 20
"""Bytes above which an array travels as a file."""


class _Packer(pickle.Pickler):
    def __init__(self, out: io.BytesIO, work: str | None) -> None:
        super().__init__(out, protocol=5)
        self.work = work

    def persistent_id(self, obj: Any) -> tuple[str, str] | None:
        if not isinstance(obj, np.ndarray) or obj.nbytes <= LARGE or obj.dtype.hasobject:
            return None
        if self.work is None:
            raise ConfigError(
                f"expected work=, a directory that all workers see, for an array of {obj.nbytes >> 20} MiB; "
                "give it to connect()"
            )
        name = digest_of(obj)
        fs, path = files.resolve(f"{self.work.rstrip('/')}/{name}.shared")
        if not files.exists(fs, path):
            files.make_directory(fs, files.split(path)[0])
            save_arrays(f"{self.work.rstrip('/')}/{name}.shared", {"array": obj}, {})
        return self.work, name


class _Unpacker(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        return _shared(*pid)


@functools.lru_cache(maxsize=8)
def _shared(work: str, name: str) -> Any:
    return load_arrays(f"{work.rstrip('/')}/{name}.shared")[0]["array"]


def pack(value: Any, work: str | None = None) -> bytes:
    """``value`` as bytes for a worker; large arrays go to ``work``."""
    out = io.BytesIO()
    _Packer(out, work).dump(value)
    return out.getvalue()


def unpack(payload: bytes) -> Any:
    """What :func:`pack` packed."""
    return _Unpacker(io.BytesIO(payload)).load()
