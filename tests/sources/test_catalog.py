"""Files and fragments in a few arrays: what they are, and how few bytes they take."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigenmill.reduce.sources.catalog import FileInfo, Files, Fragment, Fragments, RowGroups
from eigenmill.reduce.storage.sequences import HashIndex, PackedTexts, Subset

# Row groups as writers make them: runs of equal ones, and a shorter one at the end.
RUNS = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 9)), max_size=5)
ROWS = st.lists(RUNS.map(lambda runs: [rows for rows, count in runs for _ in range(count)]), max_size=4)


def one_by_one(files: list[list[int]], target: int) -> Iterator[Fragment]:
    """The definition: row groups are added while they fit, and one that is too large is alone."""
    index = 0
    for number, groups in enumerate(files):
        start, rows = 0, 0
        for group, more in enumerate((*groups, None)):
            if more is None or (rows and rows + more > target):
                if rows:
                    yield Fragment(index, number, start, group, rows)
                    index += 1
                start, rows = group, 0
            rows += more or 0


def made(files: list[list[int]]) -> Files:
    infos = (FileInfo(f"t/part-{i}.parquet", 9 + i, f"d{i}", tuple(rows), i, 2 * i) for i, rows in enumerate(files))
    return Files(infos)


@given(ROWS, st.integers(1, 30))
def test_fragments_are_cut_in_runs_as_one_by_one(files: list[list[int]], target: int) -> None:
    expected = tuple(one_by_one(files, target))
    found = Fragments(made(files), target)
    assert tuple(found) == expected
    assert [found[i] for i in reversed(range(len(found)))] == list(reversed(expected))
    assert found[1:3] == expected[1:3]
    assert found.n_rows == sum(rows * count for rows, count in found.counts()) == sum(f.rows for f in expected)
    assert [rows for rows, count in found.counts() for _ in range(count)] == [f.rows for f in expected]
    assert pickle.loads(pickle.dumps(found)) == found == expected


@given(ROWS)
def test_files_are_what_was_put_in(files: list[list[int]]) -> None:
    found = made(files)
    assert [tuple(f.rows) for f in found] == [tuple(rows) for rows in files]
    assert [len(f.rows) for f in found] == [len(rows) for rows in files]
    assert [[f.rows[i] for i in range(len(f.rows))] for f in found] == files
    assert [(f.path, f.size, f.digest, f.encoded, f.values) for f in found] == [
        (f"t/part-{i}.parquet", 9 + i, f"d{i}", i, 2 * i) for i in range(len(files))
    ]
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    assert hash(again) == hash(found)


def test_sequences_behave_like_tuples() -> None:
    texts = PackedTexts(["a", "", "täxt"])
    assert texts == ("a", "", "täxt")
    assert texts[-1] == "täxt"
    assert texts[1:] == ("", "täxt")
    assert texts != ("a", "")
    assert texts != "a"
    assert Subset(texts, [2, 0]) == ("täxt", "a")
    assert RowGroups.of([5, 5, 3]) == (5, 5, 3)
    for wrong in (3, -4):
        with pytest.raises(IndexError):
            texts[wrong]


@given(st.lists(st.text(max_size=2) | st.tuples(st.integers(-2, 2), st.text(max_size=1))), st.text(max_size=2))
def test_a_lookup_finds_all_that_are_equal(keys: list[Any], other: str) -> None:
    found = HashIndex(keys)
    for key in [*keys, other]:
        assert [i for i in found.near(key) if keys[i] == key] == [i for i, k in enumerate(keys) if k == key]


def held(make: Callable[[], Any]) -> int:
    """Bytes that what ``make`` returns holds."""
    tracemalloc.start()
    kept = make()
    found = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept is not None
    return found


def many(files: int, groups: int) -> Files:
    """As a writer makes them: equal row groups and a shorter one at the end."""
    digest = "0123456789abcdef" * 2
    return Files(
        FileInfo(f"part-{i:08d}.parquet", 10**8, digest, RowGroups((9_000, 7_000), (groups - 1, groups)), 10**8)
        for i in range(files)
    )


def test_a_row_group_takes_nothing() -> None:
    few, more = held(lambda: many(20, 2)), held(lambda: many(20, 50_000))
    assert abs(more - few) < 2_000  # a million row groups
    files, target = many(20, 50_000), 10_000
    assert len(Fragments(files, target)) == 1_000_000
    assert held(lambda: Fragments(files, target)) < 2_000


def test_a_file_takes_about_a_hundred_bytes() -> None:
    files = many(5_000, 3)
    assert held(lambda: many(5_000, 3)) < 5_000 * 110
    assert held(lambda: Fragments(files, 10_000)) < 5_000 * 6
