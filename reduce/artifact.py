"""Saved models, states and checkpoints: JSON and safetensors, written whole, checked before allocating.

A model is a directory::

    arrays-<sha256>.safetensors    written first
    state-<sha256>.safetensors     only with a state, from which a fit goes on day by day
    model.json                     last: kind, parameters, and name, size and digest of the files above

``model.json`` is replaced atomically and is what a reader believes, so that a model changes at once; files
that it no longer names are removed afterwards. It holds no times and no absolute paths: the same model makes
the same bytes. One process at a time saves to one path.

A checkpoint is one safetensors file that holds its own digest.

Loading never executes code. **Digests detect damage, not forgery**: who can write a file can write a digest.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
from pyarrow import fs as pafs

from reduce import files
from reduce.blocks import Array
from reduce.errors import ArtifactError, OutputError

FORMAT, VERSION = "eigenmill-model", 1
CHECKPOINT = "eigenmill-arrays 1"
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
_FILE = re.compile(r"(arrays|state)-[0-9a-f]{16}\.safetensors")
_MODEL = "model.json"


@dataclass(frozen=True)
class Loaded:
    """A saved model: what it is, its plain parameters, its arrays by name, other plain values, its digest."""

    kind: str
    parameters: dict[str, Any]
    arrays: dict[str, Array]
    meta: dict[str, Any]
    digest: str


@dataclass(frozen=True)
class LoadedState:
    """A saved state: arrays by name for each named state, and plain values."""

    states: dict[str, dict[str, Array]]
    meta: dict[str, Any]


def _damaged(expected: str, found: str) -> ArtifactError:
    advice = "the file is damaged or not ours: restore it, or fit and save again"
    return ArtifactError(f"expected {expected}, found {found}; {advice}")


# Models


def save_model(
    path: str | os.PathLike[str],
    kind: str,
    parameters: Mapping[str, Any],
    arrays: Mapping[str, Array],
    meta: Mapping[str, Any],
    states: Mapping[str, Mapping[str, Array]] | None = None,
    state_meta: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
    filesystem: Any = None,
) -> str:
    """Saves a model as the directory ``path``; returns its digest. The same model again changes nothing.

    Args:
        path: a local path or URI; the directory is created.
        kind: what the model is, for whoever loads it.
        parameters: plain JSON values with string keys; floats are kept exactly, NaN and infinities refused.
        arrays: numeric or boolean arrays of any shape.
        meta: other plain JSON values.
        states: arrays of states by the state's name, kept in a file of their own.
        state_meta: plain JSON values that belong to the states.
        overwrite: replace another model.
        filesystem: a ``pyarrow.fs`` or fsspec file system that ``path`` is on.

    Raises:
        OutputError: another model is at ``path``, or it cannot be written.
        ArtifactError: a value cannot be saved.
    """
    fs, directory = files.resolve(path, filesystem)
    listed = {"arrays": _entry("arrays", arrays)}
    if states is not None:
        flat = {f"{state}/{name}": a for state, held in states.items() for name, a in held.items()}
        if any("/" in state for state in states):
            raise ArtifactError(f"expected state names without '/', found {sorted(states)}; rename the states")
        empty = sorted(state for state, held in states.items() if not held)
        listed["state"] = {**_entry("state", flat), "meta": dict(state_meta or {}), "empty": empty}
    model = {
        "format": FORMAT,
        "version": VERSION,
        "kind": str(kind),
        "parameters": _plain(dict(parameters), "parameters"),
        "meta": _plain(dict(meta), "meta"),
        "arrays": listed["arrays"],
        "state": _plain(listed.get("state"), "state_meta"),
    }
    model["digest"] = files.digest(model)
    target = f"{directory}/{_MODEL}"
    present = files.exists(fs, target)
    if present and not overwrite:
        _refuse_other(fs, target, model["digest"])
    if files.is_local(fs):
        files.clean(fs, directory)
    for part, held in (("arrays", arrays), ("state", flat if states is not None else None)):
        if held is not None:
            _publish_tensors(fs, f"{directory}/{listed[part]['file']}", held, {}, listed[part])
    if not (present and _same_model(fs, target, model["digest"])):
        files.write_json(fs, target, model)
    for name in files.names(fs, directory):
        if _FILE.fullmatch(name) and name not in [entry["file"] for entry in listed.values()]:
            files.remove(fs, f"{directory}/{name}")
    return str(model["digest"])


def load_model(path: str | os.PathLike[str], filesystem: Any = None) -> Loaded:
    """The model saved at ``path``.

    Raises:
        ArtifactError: there is none, it is damaged, or of a newer format.
    """
    fs, directory = files.resolve(path, filesystem)
    model, arrays = _load(fs, directory, "arrays")
    return Loaded(model["kind"], model["parameters"], arrays, model["meta"], model["digest"])


def load_state(path: str | os.PathLike[str], filesystem: Any = None) -> LoadedState:
    """The state saved with the model at ``path``.

    Raises:
        ArtifactError: as :func:`load_model`, or the model was saved without a state.
    """
    fs, directory = files.resolve(path, filesystem)
    model, arrays = _load(fs, directory, "state")
    states: dict[str, dict[str, Array]] = {name: {} for name in model["state"]["empty"]}
    for name, array in arrays.items():
        state, _, inner = name.partition("/")
        states.setdefault(state, {})[inner] = array
    return LoadedState(states, model["state"]["meta"])


def _load(fs: pafs.FileSystem, directory: str, part: str) -> tuple[dict[str, Any], dict[str, Array]]:
    where = f"{directory}/{_MODEL}"
    model = _read_model(fs, where)
    while True:
        entry = model[part]
        if entry is None:
            raise ArtifactError(f"expected a state in {where}, found none; save the model with state=True")
        try:
            return model, _read_listed(fs, f"{directory}/{entry['file']}", entry)
        except FileNotFoundError as error:
            # A save may have replaced the model since model.json was read; then the new one is loaded.
            before, model = model, _read_model(fs, where)
            if model["digest"] == before["digest"]:
                raise _damaged(f"{entry['file']} in {directory}", "no such file") from error


def _read_model(fs: pafs.FileSystem, where: str) -> dict[str, Any]:
    try:
        model = files.read_json(fs, where, ArtifactError)
    except FileNotFoundError as error:
        raise ArtifactError(f"expected a saved model, found no {where}; give the directory of a model") from error
    if not isinstance(model, dict) or (model.get("format"), model.get("version")) != (FORMAT, VERSION):
        found = [model.get("format"), model.get("version")] if isinstance(model, dict) else type(model).__name__
        raise ArtifactError(
            f"expected {where} to be {FORMAT} of version {VERSION}, found {found!r:.80}; "
            "load it with the eigenmill that saved it"
        )
    fields: dict[str, type | tuple[type, ...]] = {"format": str, "version": int, "kind": str, "digest": str}
    fields |= {"parameters": dict, "meta": dict, "arrays": dict, "state": (dict, type(None))}
    _expect(model, fields, where)
    content = {name: value for name, value in model.items() if name != "digest"}
    if model["digest"] != files.digest(content):
        raise _damaged(f"{where} to have the digest {model['digest']:.80}", "another")
    for part in ("arrays", "state"):
        entry = model[part]
        if entry is not None:
            fields = {"file": str, "bytes": int, "sha256": str, "table": dict}
            fields |= {"meta": dict, "empty": list} if part == "state" else {}
            _expect(entry, fields, where)
            match = _FILE.fullmatch(entry["file"])
            if not match or match[1] != part or entry["file"] != _file_name(part, entry["sha256"]):
                raise _damaged(f"the file {part}-<sha256> in {where}", f"{entry['file']!r:.80}")
            for name, about in entry["table"].items():
                _expect(about, {"dtype": str, "shape": list}, where)
                _size(about["dtype"], about["shape"], f"{name!r:.40} in {where}")
    if model["state"] is not None and not all(isinstance(name, str) for name in model["state"]["empty"]):
        raise _damaged(f"names of states in {where}", f"{model['state']['empty']!r:.80}")
    return model


def _refuse_other(fs: pafs.FileSystem, target: str, wanted: str) -> None:
    try:
        found = _read_model(fs, target)["digest"]
    except ArtifactError as error:
        raise OutputError(
            f"expected no other model, found one that cannot be read: {error}; or use overwrite=True"
        ) from error
    if found != wanted:
        raise OutputError(
            f"expected {target} to be absent or the same model (digest {wanted[:12]}), found {found[:12]}; "
            "choose another path, or save with overwrite=True"
        )


def _same_model(fs: pafs.FileSystem, target: str, digest: str) -> bool:
    try:
        return bool(_read_model(fs, target)["digest"] == digest)
    except ArtifactError:
        return False


def _expect(value: Any, fields: Mapping[str, type | tuple[type, ...]], where: str) -> None:
    if not isinstance(value, dict) or set(value) != set(fields):
        found = sorted(value)[:20] if isinstance(value, dict) else type(value).__name__
        raise _damaged(f"the fields {sorted(fields)} in {where}", f"{found!r:.200}")
    for name, kind in fields.items():
        if not isinstance(value[name], kind) or isinstance(value[name], bool):
            raise _damaged(f"{name} in {where} to be {kind}", f"{value[name]!r:.80}")


def _plain(value: Any, where: str, depth: int = files.MAX_DEPTH - 8) -> Any:
    """``value`` when JSON gives it back as it is (tuples become lists)."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float) and not isinstance(value, np.generic):
        if isinstance(value, float) and not math.isfinite(value):
            raise ArtifactError(f"expected finite numbers in {where}, found {value}; leave it out, or use None")
        return value
    if depth and isinstance(value, list | tuple):
        return [_plain(item, where, depth - 1) for item in value]
    if depth and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, f"{where}.{key}", depth - 1) for key, item in value.items()}
    raise ArtifactError(f"expected plain JSON values in {where}, found {type(value).__name__}; convert it to one")


# Checkpoints


def save_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, Array], meta: Mapping[str, Any], filesystem: Any = None
) -> str:
    """Saves arrays and plain values as one safetensors file, replacing what was there; returns its digest.

    Raises:
        OutputError: it cannot be written.
        ArtifactError: a value cannot be saved.
    """
    fs, target = files.resolve(path, filesystem)
    texts = {"format": CHECKPOINT, "meta": files.canonical(_plain(dict(meta), "meta")).decode()}
    header = _header(arrays, texts)
    digest = _content_digest(header, (_octets(_contiguous(arrays[name])) for name in _data_order(header)))
    _publish_tensors(fs, target, arrays, {**texts, "sha256": digest})
    return digest


def load_arrays(path: str | os.PathLike[str], filesystem: Any = None) -> tuple[dict[str, Array], dict[str, Any]]:
    """What :func:`save_arrays` saved: the arrays by name, and the plain values.

    Raises:
        ArtifactError: there is no such file, or it is damaged.
    """
    fs, target = files.resolve(path, filesystem)
    try:
        with _opened(fs, target) as file:
            size = os.fstat(file.fileno()).st_size if files.is_local(fs) else file.size()
            header, start = _read_header(file, size, target)
            texts = header.get("__metadata__", {})
            if set(texts) != {"format", "meta", "sha256"} or texts["format"] != CHECKPOINT:
                raise _damaged(f"{target} to be a checkpoint ({CHECKPOINT})", "none")
            stated = texts.pop("sha256")
            meta = files.parse_json(texts["meta"].encode("utf-8", "surrogatepass"), target, ArtifactError)
            # Read once for the digest and once more into arrays: nothing is allocated for damaged content.
            file.seek(start)
            if stated != _content_digest(header, _pieces(file)):
                raise _damaged(f"{target} to have the digest {stated:.80}", "another")
            file.seek(start)
            arrays = _read_arrays(file, header, target)
    except FileNotFoundError as error:
        raise ArtifactError(f"expected a checkpoint, found no {target}; start from the beginning") from error
    if not isinstance(meta, dict):
        raise _damaged(f"an object as the values in {target}", f"{type(meta).__name__}")
    return arrays, meta


def _content_digest(header: Mapping[str, Any], pieces: Iterator[Any]) -> str:
    sha = hashlib.sha256(files.canonical(header))
    for piece in pieces:
        sha.update(piece)
    return sha.hexdigest()


# Safetensors: eight bytes of length, a JSON header, and the arrays one after the other


def _contiguous(array: Array) -> Array:
    """The array in C order and little-endian, as the file holds it."""
    array = np.asarray(array)
    if array.dtype.newbyteorder("<") not in _CODES:
        raise ArtifactError(f"expected arrays of numbers or booleans, found dtype {array.dtype}; convert it")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _octets(array: Array) -> memoryview:
    return memoryview(cast(Any, array.reshape(-1).view(np.uint8)))


def _data_order(header: Mapping[str, Any]) -> list[str]:
    """Names in the order of the data: wide types first, so that all are aligned (as safetensors does)."""
    names = [name for name in header if name != "__metadata__"]
    return sorted(names, key=lambda name: (-np.dtype(_DTYPES[header[name]["dtype"]]).itemsize, name))


def _header(arrays: Mapping[str, Array], texts: Mapping[str, str]) -> dict[str, Any]:
    """The header of a file of arrays; ``texts`` are its metadata."""
    header: dict[str, Any] = {"__metadata__": dict(texts)} if texts else {}
    for name, array in arrays.items():
        if not name or name == "__metadata__":
            raise ArtifactError(f"expected a name for every array, found {name!r}; rename the array")
        code, shape = _CODES.get(_contiguous(array).dtype, ""), list(np.shape(array))
        _size(code, shape, repr(name))
        header[name] = {"dtype": code, "shape": shape}
    offset = 0
    for name in _data_order(header):
        end = offset + _size(header[name]["dtype"], header[name]["shape"], repr(name))
        header[name]["data_offsets"] = [offset, end]
        offset = end
    return header


def _chunks(arrays: Mapping[str, Array], texts: Mapping[str, str]) -> Iterator[Any]:
    """The bytes of the file, piece by piece; the data start at a multiple of eight."""
    header = _header(arrays, texts)
    text = files.canonical(header)
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in _data_order(header):
        yield _octets(_contiguous(arrays[name]))


def _file_name(part: str, sha256: str) -> str:
    return f"{part}-{sha256[:16]}.safetensors"


def _entry(part: str, arrays: Mapping[str, Array]) -> dict[str, Any]:
    """What model.json says of a file of arrays."""
    sha, size = hashlib.sha256(), 0
    for chunk in _chunks(arrays, {}):
        sha.update(chunk)
        size += len(chunk)
    header = _header(arrays, {})
    table = {name: {"dtype": about["dtype"], "shape": about["shape"]} for name, about in header.items()}
    digest = sha.hexdigest()
    return {"file": _file_name(part, digest), "bytes": size, "sha256": digest, "table": table}


def _publish_tensors(
    fs: pafs.FileSystem,
    path: str,
    arrays: Mapping[str, Array],
    texts: Mapping[str, str],
    entry: Mapping[str, Any] | None = None,
) -> None:
    """Publishes a file of arrays, unless ``path`` is whole already and what ``entry`` says."""
    if entry is not None and files.exists(fs, path):
        with files.explained(path, "read"):
            found = files.digest_file(fs, path)
        if (found.bytes, found.sha256) == (entry["bytes"], entry["sha256"]):
            return

    def write(file: BinaryIO) -> None:
        with files.explained(path):
            for chunk in _chunks(arrays, texts):
                files.write_all(file, chunk)

    files.publish(fs, path, write)


def _opened(fs: pafs.FileSystem, path: str) -> Any:
    """The file for random access. Raises FileNotFoundError, and ArtifactError for any other refusal."""
    try:
        return open(path, "rb") if files.is_local(fs) else fs.open_input_file(path)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"expected to read {path}, found: {error}; check its permissions") from error


def _pieces(file: Any) -> Iterator[bytes]:
    while piece := file.read(1 << 20):
        yield piece


def _read_listed(fs: pafs.FileSystem, path: str, entry: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays of a file that model.json describes. Raises FileNotFoundError when it is absent."""
    with _opened(fs, path) as file:
        size = os.fstat(file.fileno()).st_size if files.is_local(fs) else file.size()
        if size != entry["bytes"]:
            raise _damaged(f"{path} to have {entry['bytes']} bytes", f"{size}")
        sha = hashlib.sha256()
        for piece in _pieces(file):
            sha.update(piece)
        if sha.hexdigest() != entry["sha256"]:
            raise _damaged(f"{path} to have the digest {entry['sha256']:.80}", "another")
        file.seek(0)
        header, _ = _read_header(file, size, path)
        table = {
            name: {"dtype": a["dtype"], "shape": a["shape"]} for name, a in header.items() if name != "__metadata__"
        }
        if table != entry["table"]:
            raise _damaged(f"{path} to hold the arrays that model.json lists", "others")
        return _read_arrays(file, header, path)


def _read_header(file: Any, size: int, path: str) -> tuple[dict[str, Any], int]:
    """The header, checked against the size of the file, and where the data start; ``file`` stands there."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER):
        raise _damaged(f"a header of at most {min(max(size - 8, 0), MAX_HEADER)} bytes in {path}", f"{length}")
    header = files.parse_json(file.read(length), path, ArtifactError)
    if not isinstance(header, dict):
        raise _damaged(f"an object as the header of {path}", f"{type(header).__name__}")
    texts = header.get("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise _damaged(f"text as the metadata of {path}", f"{texts!r:.80}")
    for name, about in header.items():
        if name != "__metadata__":
            _expect(about, {"dtype": str, "shape": list, "data_offsets": list}, path)
            _size(about["dtype"], about["shape"], f"{name!r:.40} in {path}")
    offset = 0
    for name in _data_order(header):
        about = header[name]
        end = offset + _size(about["dtype"], about["shape"], name)
        if about["data_offsets"] != [offset, end]:
            where = f"{name!r:.40} at bytes {offset} to {end} of {path}"
            raise _damaged(where, f"{about['data_offsets']!r:.80}")
        offset = end
    if 8 + length + offset != size:
        raise _damaged(f"{8 + length + offset} bytes in {path}", f"{size}")
    return header, 8 + length


def _size(code: str, shape: list[Any], where: str) -> int:
    """Bytes of an array; refuses unknown dtypes and shapes that no array has."""
    if code not in _DTYPES:
        raise _damaged(f"one of the dtypes {', '.join(_DTYPES)} for {where}", f"{code!r:.40}")
    sound = len(shape) <= MAX_DIMENSIONS and all(type(n) is int and 0 <= n <= MAX_ELEMENTS for n in shape)
    if not sound or math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS:
        limits = f"at most {MAX_DIMENSIONS} dimensions and {MAX_ELEMENTS} elements"
        raise _damaged(f"{limits} for {where}", f"{shape!r:.80}")
    return int(math.prod(shape)) * np.dtype(_DTYPES[code]).itemsize


def _read_arrays(file: Any, header: Mapping[str, Any], path: str) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for name in _data_order(header):
        about = header[name]
        array = np.empty(about["shape"], dtype=_DTYPES[about["dtype"]])
        view = _octets(array)
        while view:
            taken = file.readinto(view)
            if not taken:
                raise _damaged(f"{len(view)} more bytes in {path}", "its end")
            view = view[taken:]
        if array.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
            raise _damaged(f"booleans 0 and 1 in {name!r:.40} of {path}", "others")
        arrays[name] = array
    return arrays


__all__ = [
    "Loaded",
    "LoadedState",
    "load_arrays",
    "load_model",
    "load_state",
    "save_arrays",
    "save_model",
]
