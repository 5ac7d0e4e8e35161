"""Digests: BLAKE2b of values, for keys that say what something was made from, and SHA-256 of what files hold.

Both are formats: a key that came out otherwise would be another job's, and a stopped one could not go on. So what is
fed hangs on no name in the program. Each class that is digested, and each state that is written, declares once by which
literal name it and its fields are known (:func:`tagged`); renaming a class or field changes the declaration's left side
only. Format 1 is the feed that these declarations give.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from eigenmill.reduce.format import Format

C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Tag:
    """By which names a class and its fields are known in digests and files.

    Attributes:
        name: of the class.
        fields: (attribute, name) in the order in which they are fed.
        later: (attribute, name, default) of fields that were not in format 1: fed only where they differ from it.
    """

    name: str
    fields: tuple[tuple[str, str], ...]
    later: tuple[tuple[str, str, Any], ...] = ()


_TAGS: dict[type, Tag] = {}


def tagged(name: str, fields: str = "", later: Mapping[str, Any] | None = None) -> Callable[[C], C]:
    """Declares how a dataclass is digested and how its fields are called in files.

    Args:
        name: of the class, for ever.
        fields: names of its fields in the order of the feed, separated by blanks; ``attribute:name`` for one whose
            attribute is called otherwise by now.
        later: fields that came after format 1, with the value that stands for not having it.
    """

    def pairs(texts: Iterable[str]) -> list[tuple[str, str]]:
        return [(text.partition(":")[0], text.partition(":")[2] or text) for text in texts]

    def declare(kind: C) -> C:
        fixed, more = pairs(fields.split()), later or {}
        new = [(attribute, name, more[text]) for text, (attribute, name) in zip(more, pairs(more), strict=True)]
        said = [attribute for attribute, *_ in (*fixed, *new)]
        found = [f.name for f in dataclasses.fields(kind) if f.compare]
        if sorted(said) != sorted(found):
            raise TypeError(f"expected the fields {found} of {kind.__name__} to be declared, found {said}")
        _TAGS[kind] = Tag(name, tuple(fixed), tuple(new))
        return kind

    return declare


def tag_of(kind: type) -> Tag:
    """The declaration of a class.

    Raises:
        TypeError: there is none, so that its names would be what happens to stand in the program.
    """
    found = _TAGS.get(kind)
    if found is None:
        raise TypeError(f"expected a class declared by digest.tagged, found {kind.__name__}; declare its names")
    return found


def declared() -> Mapping[type, Tag]:
    """All declarations so far."""
    return dict(_TAGS)


def named(value: Any) -> Any:
    """Plain values as they are; declared ones as mappings by their literal names, within lists and mappings too."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: named(each) for name, each in items_of(value)}
    if isinstance(value, Mapping):
        return {key: named(each) for key, each in value.items()}
    return type(value)(map(named, value)) if type(value) in (list, tuple) else value


def text_of(value: object) -> str:
    """``Name(field=value, ...)`` of a declared value by its literal names; the representation of any other."""
    if type(value) not in _TAGS:
        return repr(value)
    return f"{_TAGS[type(value)].name}({', '.join(f'{name}={each!r}' for name, each in items_of(value))})"


def items_of(value: object) -> Iterator[tuple[str, Any]]:
    """(name, value) of the fields of a declared value, without later ones that say nothing."""
    tag = tag_of(type(value))
    for attribute, name in tag.fields:
        yield name, getattr(value, attribute)
    for attribute, name, default in tag.later:
        if getattr(value, attribute) != default:
            yield name, getattr(value, attribute)


def digest_of(value: object) -> str:
    """BLAKE2b, 128 bits in hex, of declared classes, mappings, sequences, arrays and plain values.

    Equal values give equal digests, on every engine and in every process.

    Raises:
        TypeError: a value is of another kind, or of a class that is not declared.
    """
    h = hashlib.blake2b(digest_size=16)
    _feed(h, value)
    return h.hexdigest()


def digest_of_bytes(pieces: Iterable[bytes | memoryview]) -> str:
    """BLAKE2b, 128 bits in hex, of bytes as they are."""
    h = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        h.update(piece)
    return h.hexdigest()


def sha256_of(pieces: Iterable[bytes | memoryview]) -> str:
    """SHA-256 in hex of what a file holds, given in pieces: what other programs can compare it by."""
    return size_and_sha256(pieces)[1]


def size_and_sha256(pieces: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Bytes of what a file holds, given in pieces, and their SHA-256 in hex."""
    h, size = hashlib.sha256(), 0
    for piece in pieces:
        h.update(piece)
        size += len(piece)
    return size, h.hexdigest()


def sha256_of_file(file: Any) -> str:
    """SHA-256 in hex of the rest of a file, open for reading bytes."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def _feed(h: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        h.update(f"array:{value.dtype.str}:{value.shape}:".encode())
        h.update(np.ascontiguousarray(value).view(np.uint8).data)
    elif isinstance(value, Format):
        _feed(h, value.changes())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        h.update(f"{tag_of(type(value)).name}(".encode())
        for name, each in items_of(value):
            h.update(f"{name}=".encode())
            _feed(h, each)
        h.update(b")")
    elif isinstance(value, Mapping):
        h.update(b"{")
        for key in sorted(value, key=str):
            h.update(f"{key!r}:".encode())
            _feed(h, value[key])
        h.update(b"}")
    elif isinstance(value, Sequence | Iterator) and not isinstance(value, str | bytes):
        h.update(b"[")
        for item in value:
            _feed(h, item)
            h.update(b",")
        h.update(b"]")
    elif value is None or isinstance(value, str | bytes | bool | int | float | np.generic | np.dtype | datetime.date):
        plain = value.item() if isinstance(value, np.generic) else value
        h.update(f"{type(plain).__name__}:{plain!r};".encode())
    else:
        raise TypeError(f"no digest for a value of type {type(value).__name__}")
