"""JSON with long lists: read item by item it is the same, wherever the pieces end, and the same is refused."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigenmill.reduce.errors import OutputError
from eigenmill.reduce.storage import long_lists, plain
from eigenmill.reduce.storage.long_lists import Mapped, PackedList

LISTS = (("input", "files"), ("parts",))
TEXT = st.text(max_size=5) | st.sampled_from(["é\n", '"', "\\", "\ud800", "parts", "files"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)
NAMES = st.sampled_from(["input", "parts", "files", "rows"])
DOCUMENTS = VALUES | st.dictionaries(NAMES, VALUES | st.dictionaries(NAMES, VALUES, max_size=3), max_size=4)


def read(text: bytes, piece: int = 1 << 16, lists: Any = LISTS) -> Any:
    stream = io.BytesIO(text)
    return long_lists.parse(lambda n: stream.read(min(n, piece)), "x.json", OutputError, lists)


@given(DOCUMENTS, st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
def test_the_same_as_read_at_once(value: Any, piece: int, indent: int | None, ascii_only: bool) -> None:
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return
    found = read(text, piece)
    assert found == value == plain.parse(text, "x.json", OutputError)
    for path in LISTS:
        inner, outer = value, found
        for key in path:
            inner = inner.get(key) if isinstance(inner, dict) else None
            outer = outer.get(key) if isinstance(outer, dict) else None
        assert isinstance(outer, PackedList) == isinstance(inner, list)
    assert plain.digest(found) == hashlib.sha256(plain.canonical(value)).hexdigest()
    assert b"".join(plain.pieces(found, 1)) == json.dumps(value, indent=1, sort_keys=True).encode()


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b" ", b"{", b"NaN", b"[Infinity]", b"1e999", b"\xff\xfe", b"\xef\xbb\xbf{}", b"{} {}", b"{}x", b"{,}"),
        *(b'{"a": 1, "a": 2}', b'{"parts": [], "parts": []}', b'{"parts": [{"a": 1, "a": 2}]}', b'{"parts": [NaN]}'),
        *(
            b'{"parts": [1,]}',
            b'{"parts": [1 2]}',
            b'{"parts": [1',
            b'{"parts": [1}',
            b'{"parts": [,]}',
            b'{"parts" 1}',
        ),
        *(
            b'{"parts": [1]',
            b'{"parts": [1],}',
            b"{parts: []}",
            b"{1: []}",
            b'{"parts": ["\xff"]}',
            b'{"parts": ["\xc3',
        ),
        *(b'{"rows": ' + b"1" * 10_000 + b"}", b"[" * 100 + b"]" * 100, b"[" * 1_000_000),
        *(b'{"parts": [' + b"[" * 1_000_000, b'{"parts": ' + b"[" * 64 + b"]" * 64 + b"}"),
        *(b'{"input": {"files": ' + b"[" * 63 + b"]" * 63 + b"}}",),
    ],
)
def test_damage_is_refused(text: bytes) -> None:
    with pytest.raises(OutputError, match=r"x\.json to be plain JSON"):
        plain.parse(text, "x.json", OutputError)
    for piece in (1 << 20, 3) if len(text) < 2_000 else (1 << 20,):
        with pytest.raises(OutputError, match=r"x\.json to be plain JSON"):
            read(text, piece)


def test_depth_is_that_of_the_whole() -> None:
    deepest = b'{"input": {"files": ' + b"[" * 62 + b"]" * 62 + b"}}"
    assert read(deepest) == plain.parse(deepest, "x.json", OutputError)


def test_items_longer_than_a_piece() -> None:
    value = {"parts": ["x" * 300_000, "y" * 200_000, 1], "z": "w" * 200_000}
    assert read(json.dumps(value).encode()) == value


def test_made_sequences_are_written_as_lists() -> None:
    value = {"a": Mapped(str, range(3)), "b": PackedList([{"z": 1, "a": [1.5]}]), "c": PackedList(), "d": (1, 2)}
    plainly = {"a": ["0", "1", "2"], "b": [{"z": 1, "a": [1.5]}], "c": [], "d": [1, 2]}
    assert plain.digest(value) == plain.digest(plainly)
    for indent in (None, 1):
        assert json.loads(b"".join(plain.pieces(value, indent))) == plainly
    assert plain.checked(value, "x") == plainly
    assert pickle.loads(pickle.dumps(value)) == value
    with pytest.raises(TypeError, match="set"):
        plain.digest({"a": set()})
    with pytest.raises(TypeError, match="expected a plain JSON value, found set"):
        list(plain.pieces({"a": set()}, 1))
    with pytest.raises(ValueError, match="JSON compliant"):
        plain.digest({"a": Mapped(float, ["nan"])})
