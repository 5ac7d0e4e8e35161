"""Safetensors: eight bytes of length, a JSON header, and the arrays one after the other.

The header is checked against the size of the file before anything is allocated; damage raises
:class:`~eigenmill.reduce.errors.ArtifactError`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import fs as pafs

from eigenmill.reduce.errors import ArtifactError
from eigenmill.reduce.storage import files, places, plain

Array = npt.NDArray[Any]
MAX_HEADER = 64 << 20
"""Bytes of the largest safetensors header that is read."""
MAX_ELEMENTS = 1 << 48
"""Most elements of an array, zero dimensions counted as one."""
MAX_DIMENSIONS = 8

_DTYPES = {
    **{"BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "F16": "<f2"},
    **{"U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8"},
}
_CODES = {np.dtype(text): code for code, text in _DTYPES.items()}


def damaged(expected: str, found: str) -> ArtifactError:
    """The refusal of a file that is not what it was when it was saved."""
    advice = "the file is damaged or not ours: restore it, or fit and save again"
    return ArtifactError(f"expected {expected}, found {found}; {advice}")


def expect(value: object, fields: Mapping[str, type | tuple[type, ...]], where: str) -> None:
    """Refuses anything but an object with exactly these fields, of these types."""
    if not isinstance(value, dict) or set(value) != set(fields):
        found = sorted(value)[:20] if isinstance(value, dict) else type(value).__name__
        raise damaged(f"the fields {sorted(fields)} in {where}", f"{found!r:.200}")
    for name, kind in fields.items():
        if not isinstance(value[name], kind) or isinstance(value[name], bool):
            raise damaged(f"{name} in {where} to be {kind}", f"{value[name]!r:.80}")


def contiguous(array: Array) -> Array:
    """The array in C order and little-endian, as the file holds it."""
    array = np.asarray(array)
    if array.dtype.newbyteorder("<") not in _CODES:
        raise ArtifactError(f"expected arrays of numbers or booleans, found dtype {array.dtype}; convert it")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def octets(array: Array) -> memoryview:
    """The bytes of a contiguous array."""
    return memoryview(cast(Any, array.reshape(-1).view(np.uint8)))


def data_order(header: Mapping[str, Any]) -> list[str]:
    """Names in the order of the data: wide types first, so that all are aligned (as safetensors does)."""
    names = [name for name in header if name != "__metadata__"]
    return sorted(names, key=lambda name: (-np.dtype(_DTYPES[header[name]["dtype"]]).itemsize, name))


def header_of(arrays: Mapping[str, Array], texts: Mapping[str, str]) -> dict[str, Any]:
    """The header of a file of arrays; ``texts`` are its metadata."""
    header: dict[str, Any] = {"__metadata__": dict(texts)} if texts else {}
    for name, array in arrays.items():
        if not name or name == "__metadata__":
            raise ArtifactError(f"expected a name for every array, found {name!r}; rename the array")
        code, shape = _CODES.get(contiguous(array).dtype, ""), list(np.shape(array))
        size_of(code, shape, repr(name))
        header[name] = {"dtype": code, "shape": shape}
    offset = 0
    for name in data_order(header):
        end = offset + size_of(header[name]["dtype"], header[name]["shape"], repr(name))
        header[name]["data_offsets"] = [offset, end]
        offset = end
    return header


def chunks(arrays: Mapping[str, Array], texts: Mapping[str, str]) -> Iterator[Any]:
    """The bytes of the file, piece by piece; the data start at a multiple of eight."""
    header = header_of(arrays, texts)
    text = plain.canonical(header)
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in data_order(header):
        yield octets(contiguous(arrays[name]))


def publish(fs: pafs.FileSystem, path: str, arrays: Mapping[str, Array], texts: Mapping[str, str]) -> None:
    """Publishes a file of arrays; ``texts`` are its metadata."""
    with files.draft(fs, path) as made, files.storage_errors(path):
        for chunk in chunks(arrays, texts):
            files.write_all(made.file, chunk)


def opened(fs: pafs.FileSystem, path: str) -> Any:
    """The file for random access. Raises FileNotFoundError, and ArtifactError for any other refusal."""
    try:
        return open(path, "rb") if places.is_local(fs) else fs.open_input_file(path)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"expected to read {path}, found: {error}; check its permissions") from error


def pieces(file: Any) -> Iterator[bytes]:
    """The rest of a file, piece by piece."""
    while piece := file.read(1 << 20):
        yield piece


def read_header(file: Any, size: int, path: str) -> tuple[dict[str, Any], int]:
    """The header, checked against the size of the file, and where the data start; ``file`` stands there."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER):
        raise damaged(f"a header of at most {min(max(size - 8, 0), MAX_HEADER)} bytes in {path}", f"{length}")
    header = plain.parse(file.read(length), path, ArtifactError)
    if not isinstance(header, dict):
        raise damaged(f"an object as the header of {path}", f"{type(header).__name__}")
    texts = header.get("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise damaged(f"text as the metadata of {path}", f"{texts!r:.80}")
    for name, about in header.items():
        if name != "__metadata__":
            expect(about, {"dtype": str, "shape": list, "data_offsets": list}, path)
            size_of(about["dtype"], about["shape"], f"{name!r:.40} in {path}")
    offset = 0
    for name in data_order(header):
        about = header[name]
        end = offset + size_of(about["dtype"], about["shape"], name)
        if about["data_offsets"] != [offset, end]:
            where = f"{name!r:.40} at bytes {offset} to {end} of {path}"
            raise damaged(where, f"{about['data_offsets']!r:.80}")
        offset = end
    if 8 + length + offset != size:
        raise damaged(f"{8 + length + offset} bytes in {path}", f"{size}")
    return header, 8 + length


def size_of(code: str, shape: list[Any], where: str) -> int:
    """Bytes of an array; refuses unknown dtypes and shapes that no array has."""
    if code not in _DTYPES:
        raise damaged(f"one of the dtypes {', '.join(_DTYPES)} for {where}", f"{code!r:.40}")
    sound = len(shape) <= MAX_DIMENSIONS and all(type(n) is int and 0 <= n <= MAX_ELEMENTS for n in shape)
    if not sound or math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS:
        limits = f"at most {MAX_DIMENSIONS} dimensions and {MAX_ELEMENTS} elements"
        raise damaged(f"{limits} for {where}", f"{shape!r:.80}")
    return int(math.prod(shape)) * np.dtype(_DTYPES[code]).itemsize


def read_arrays(file: Any, header: Mapping[str, Any], path: str) -> dict[str, Array]:
    """The arrays of an open file that stands where its data start."""
    arrays: dict[str, Array] = {}
    for name in data_order(header):
        about = header[name]
        array = np.empty(about["shape"], dtype=_DTYPES[about["dtype"]])
        view = octets(array)
        while view:
            taken = file.readinto(view)
            if not taken:
                raise damaged(f"{len(view)} more bytes in {path}", "its end")
            view = view[taken:]
        if array.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
            raise damaged(f"booleans 0 and 1 in {name!r:.40} of {path}", "others")
        arrays[name] = array
    return arrays
