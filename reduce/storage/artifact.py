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

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pyarrow import fs as pafs

from eigenmill.reduce.errors import ArtifactError, OutputError
from eigenmill.reduce.storage import files, places, plain, tensors
from eigenmill.reduce.storage.digest import sha256_of, size_and_sha256
from eigenmill.reduce.storage.tensors import Array, damaged, expect

FORMAT, VERSION = "eigenmill-model", 1
CHECKPOINT = "eigenmill-arrays 1"

_FILE = re.compile(r"(arrays|state)-[0-9a-f]{16}\.safetensors")
_MODEL = "model.json"
LISTS = (("state", "meta", "files"),)
"""Where a model has a long list: the files that its state has seen, read and written one by one."""


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
    filesystem: object = None,
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
    fs, directory = places.resolve(path, filesystem)
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
        "parameters": plain.checked(dict(parameters), "parameters"),
        "meta": plain.checked(dict(meta), "meta"),
        "arrays": listed["arrays"],
        "state": plain.checked(listed.get("state"), "state_meta"),
    }
    model["digest"] = plain.digest(model)
    target = f"{directory}/{_MODEL}"
    present = files.exists(fs, target)
    if present and not overwrite:
        _refuse_other(fs, target, model["digest"])
    if places.is_local(fs):
        files.clean(fs, directory)
    for part, held in (("arrays", arrays), ("state", flat if states is not None else None)):
        if held is not None:
            _publish_listed(fs, f"{directory}/{listed[part]['file']}", held, listed[part])
    if not (present and _same_model(fs, target, model["digest"])):
        files.write_json(fs, target, model)
    for name in files.names(fs, directory):
        if _FILE.fullmatch(name) and name not in [entry["file"] for entry in listed.values()]:
            files.remove(fs, f"{directory}/{name}")
    return str(model["digest"])


def load_model(path: str | os.PathLike[str], filesystem: object = None) -> Loaded:
    """The model saved at ``path``.

    Raises:
        ArtifactError: there is none, it is damaged, or of a newer format.
    """
    fs, directory = places.resolve(path, filesystem)
    model, arrays = _load(fs, directory, "arrays")
    return Loaded(model["kind"], model["parameters"], arrays, model["meta"], model["digest"])


def load_state(path: str | os.PathLike[str], filesystem: object = None) -> LoadedState:
    """The state saved with the model at ``path``.

    Raises:
        ArtifactError: as :func:`load_model`, or the model was saved without a state.
    """
    fs, directory = places.resolve(path, filesystem)
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
                raise damaged(f"{entry['file']} in {directory}", "no such file") from error


def _read_model(fs: pafs.FileSystem, where: str) -> dict[str, Any]:
    try:
        model = files.read_lists(fs, where, LISTS, ArtifactError)
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
    expect(model, fields, where)
    content = {name: value for name, value in model.items() if name != "digest"}
    if model["digest"] != plain.digest(content):
        raise damaged(f"{where} to have the digest {model['digest']:.80}", "another")
    for part in ("arrays", "state"):
        entry = model[part]
        if entry is not None:
            fields = {"file": str, "bytes": int, "sha256": str, "table": dict}
            fields |= {"meta": dict, "empty": list} if part == "state" else {}
            expect(entry, fields, where)
            match = _FILE.fullmatch(entry["file"])
            if not match or match[1] != part or entry["file"] != _file_name(part, entry["sha256"]):
                raise damaged(f"the file {part}-<sha256> in {where}", f"{entry['file']!r:.80}")
            for name, about in entry["table"].items():
                expect(about, {"dtype": str, "shape": list}, where)
                tensors.size_of(about["dtype"], about["shape"], f"{name!r:.40} in {where}")
    if model["state"] is not None and not all(isinstance(name, str) for name in model["state"]["empty"]):
        raise damaged(f"names of states in {where}", f"{model['state']['empty']!r:.80}")
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


# Files that model.json lists


def _file_name(part: str, sha256: str) -> str:
    return f"{part}-{sha256[:16]}.safetensors"


def _entry(part: str, arrays: Mapping[str, Array]) -> dict[str, Any]:
    """What model.json says of a file of arrays."""
    size, digest = size_and_sha256(tensors.chunks(arrays, {}))
    header = tensors.header_of(arrays, {})
    table = {name: {"dtype": about["dtype"], "shape": about["shape"]} for name, about in header.items()}
    return {"file": _file_name(part, digest), "bytes": size, "sha256": digest, "table": table}


def _publish_listed(fs: pafs.FileSystem, path: str, arrays: Mapping[str, Array], entry: Mapping[str, Any]) -> None:
    """Publishes a file of arrays, unless ``path`` is whole already and what ``entry`` says."""
    if files.exists(fs, path):
        with files.storage_errors(path, "read"):
            found = files.digest_file(fs, path)
        if (found.bytes, found.sha256) == (entry["bytes"], entry["sha256"]):
            return
    tensors.publish(fs, path, arrays, {})


def _read_listed(fs: pafs.FileSystem, path: str, entry: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays of a file that model.json describes. Raises FileNotFoundError when it is absent."""
    with tensors.opened(fs, path) as file:
        size = os.fstat(file.fileno()).st_size if places.is_local(fs) else file.size()
        if size != entry["bytes"]:
            raise damaged(f"{path} to have {entry['bytes']} bytes", f"{size}")
        if sha256_of(tensors.pieces(file)) != entry["sha256"]:
            raise damaged(f"{path} to have the digest {entry['sha256']:.80}", "another")
        file.seek(0)
        header, _ = tensors.read_header(file, size, path)
        table = {
            name: {"dtype": a["dtype"], "shape": a["shape"]} for name, a in header.items() if name != "__metadata__"
        }
        if table != entry["table"]:
            raise damaged(f"{path} to hold the arrays that model.json lists", "others")
        return tensors.read_arrays(file, header, path)


# Checkpoints


def save_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, Array], meta: Mapping[str, Any], filesystem: object = None
) -> str:
    """Saves arrays and plain values as one safetensors file, replacing what was there; returns its digest.

    Raises:
        OutputError: it cannot be written.
        ArtifactError: a value cannot be saved.
    """
    fs, target = places.resolve(path, filesystem)
    texts = {"format": CHECKPOINT, "meta": plain.canonical(plain.checked(dict(meta), "meta")).decode()}
    header = tensors.header_of(arrays, texts)
    digest = _content_digest(
        header, (tensors.octets(tensors.contiguous(arrays[name])) for name in tensors.data_order(header))
    )
    tensors.publish(fs, target, arrays, {**texts, "sha256": digest})
    return digest


def load_arrays(path: str | os.PathLike[str], filesystem: object = None) -> tuple[dict[str, Array], dict[str, Any]]:
    """What :func:`save_arrays` saved: the arrays by name, and the plain values.

    Raises:
        ArtifactError: there is no such file, or it is damaged.
    """
    fs, target = places.resolve(path, filesystem)
    try:
        with tensors.opened(fs, target) as file:
            size = os.fstat(file.fileno()).st_size if places.is_local(fs) else file.size()
            header, start = tensors.read_header(file, size, target)
            texts = header.get("__metadata__", {})
            kind = str(texts.get("format", ""))
            if kind != CHECKPOINT and kind.startswith(CHECKPOINT.split()[0]):
                raise ArtifactError(
                    f"expected {target} to be {CHECKPOINT}, found {kind!r:.80}; "
                    "load it with the eigenmill that saved it"
                )
            if set(texts) != {"format", "meta", "sha256"} or kind != CHECKPOINT:
                raise damaged(f"{target} to be a checkpoint ({CHECKPOINT})", "none")
            stated = texts.pop("sha256")
            meta = plain.parse(texts["meta"].encode("utf-8", "surrogatepass"), target, ArtifactError)
            # Read once for the digest and once more into arrays: nothing is allocated for damaged content.
            file.seek(start)
            if stated != _content_digest(header, tensors.pieces(file)):
                raise damaged(f"{target} to have the digest {stated:.80}", "another")
            file.seek(start)
            arrays = tensors.read_arrays(file, header, target)
    except FileNotFoundError as error:
        raise ArtifactError(f"expected a checkpoint, found no {target}; start from the beginning") from error
    if not isinstance(meta, dict):
        raise damaged(f"an object as the values in {target}", f"{type(meta).__name__}")
    return arrays, meta


def _content_digest(header: Mapping[str, Any], pieces: Iterator[bytes | memoryview]) -> str:
    return sha256_of(chain([plain.canonical(header)], pieces))


__all__ = [
    "Loaded",
    "LoadedState",
    "load_arrays",
    "load_model",
    "load_state",
    "save_arrays",
    "save_model",
]
