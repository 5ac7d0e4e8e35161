"""What ``model.json`` says: the record of a model, and the files of arrays that it lists, checked before allocating."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from pyarrow import fs as pafs

from eigenmill.reduce.errors import ArtifactError
from eigenmill.reduce.storage import files, places, plain, tensors
from eigenmill.reduce.storage.digest import sha256_of, size_and_sha256
from eigenmill.reduce.storage.tensors import Array, damaged, expect

FORMAT, VERSION = "eigenmill-model", 1
FILE = re.compile(r"(arrays|state)-[0-9a-f]{16}\.safetensors")
LISTS = (("state", "meta", "files"),)
"""Where a model has a long list: the files that its state has seen, read and written one by one."""


def read_record(fs: pafs.FileSystem, where: str) -> dict[str, Any]:
    """The record of a model, checked. Raises FileNotFoundError when it is absent."""
    model = files.read_lists(fs, where, LISTS, ArtifactError)
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
            match = FILE.fullmatch(entry["file"])
            if not match or match[1] != part or entry["file"] != _file_name(part, entry["sha256"]):
                raise damaged(f"the file {part}-<sha256> in {where}", f"{entry['file']!r:.80}")
            for name, about in entry["table"].items():
                expect(about, {"dtype": str, "shape": list}, where)
                tensors.size_of(about["dtype"], about["shape"], f"{name!r:.40} in {where}")
    if model["state"] is not None and not all(isinstance(name, str) for name in model["state"]["empty"]):
        raise damaged(f"names of states in {where}", f"{model['state']['empty']!r:.80}")
    return model


# Files that model.json lists


def _file_name(part: str, sha256: str) -> str:
    return f"{part}-{sha256[:16]}.safetensors"


def entry_of(part: str, arrays: Mapping[str, Array]) -> dict[str, Any]:
    """What model.json says of a file of arrays."""
    size, digest = size_and_sha256(tensors.chunks(arrays, {}))
    header = tensors.header_of(arrays, {})
    table = {name: {"dtype": about["dtype"], "shape": about["shape"]} for name, about in header.items()}
    return {"file": _file_name(part, digest), "bytes": size, "sha256": digest, "table": table}


def publish(fs: pafs.FileSystem, path: str, arrays: Mapping[str, Array], entry: Mapping[str, Any]) -> None:
    """Publishes a file of arrays, unless ``path`` is whole already and what ``entry`` says."""
    if files.exists(fs, path):
        with files.storage_errors(path, "read"):
            found = files.digest_file(fs, path)
        if (found.bytes, found.sha256) == (entry["bytes"], entry["sha256"]):
            return
    tensors.publish(fs, path, arrays, {})


def read_listed(fs: pafs.FileSystem, path: str, entry: Mapping[str, Any]) -> dict[str, Array]:
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


__all__ = ["FILE", "FORMAT", "VERSION", "entry_of", "publish", "read_listed", "read_record"]
