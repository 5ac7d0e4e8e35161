"""One safetensors file that holds its own digest: arrays and plain values, as in a checkpoint of a scan.

**Digests detect damage, not forgery**: who can write a file can write a digest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from eigenmill.reduce.errors import ArtifactError
from eigenmill.reduce.storage import places, plain, tensors
from eigenmill.reduce.storage.digest import sha256_of
from eigenmill.reduce.storage.tensors import Array, damaged

CHECKPOINT = "eigenmill-arrays 1"


def save_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, Array], meta: Mapping[str, Any], filesystem: Any = None
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


def load_arrays(path: str | os.PathLike[str], filesystem: Any = None) -> tuple[dict[str, Array], dict[str, Any]]:
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


def _content_digest(header: Mapping[str, Any], pieces: Iterator[Any]) -> str:
    return sha256_of(chain([plain.canonical(header)], pieces))


__all__ = ["load_arrays", "save_arrays"]
