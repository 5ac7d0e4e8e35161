"""A file is its path and its content: other rows under an equal footer are never taken for those seen before."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenmill.reduce import PCA, Dataset, connect, load
from eigenmill.reduce.errors import ArtifactError, ChangedInputError, ConfigError, OutputError
from eigenmill.reduce.storage.chain import FOLDER
from tests.conftest import in_memory
from tests.sources.made_files import CHANGES, changed, footer, put, rows

DAY = 86_400 * 10**9


def touch(path: Path, days: int = 1) -> None:
    """Another time of change, the content as it is."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + days * DAY))


def rewrite(path: Path, how: str = "signs", seed: int = 1) -> None:
    """Other rows; size and footer stay, and the time of change moves on."""
    before, time = footer(path), path.stat().st_mtime_ns
    put(path, changed(rows(0), how, seed))
    os.utime(path, ns=(time + DAY, time + DAY))
    assert footer(path) == before


def fitted(place: Path, **options: Any) -> Any:
    """A model with its state, saved and loaded."""
    data = Dataset.from_parquet(place / "data", **options)
    PCA(2, solver="gram").fit(data, keep_state=True).save(place / "model", state=True)
    return load(place / "model")


def test_case_f03_a_rewritten_file_of_equal_footer_is_not_the_one_that_was_seen(tmp_path: Path) -> None:
    put(tmp_path / "data/a.parquet", rows(0))
    model = fitted(tmp_path)
    rewrite(tmp_path / "data/a.parquet")
    with pytest.raises(ChangedInputError, match=r"a\.parquet as it was .*changed last 20.*found changed last 20.*fit"):
        model.partial_fit(str(tmp_path / "data"))


def test_case_b11_two_equal_files_on_two_days_are_two_files(tmp_path: Path) -> None:
    put(tmp_path / "data/day=1/a.parquet", np.array([[1.0] * 5, [2.0] * 5, [4.0] * 5]))
    model = fitted(tmp_path)
    (tmp_path / "data/day=2").mkdir()
    (tmp_path / "data/day=2/a.parquet").write_bytes((tmp_path / "data/day=1/a.parquet").read_bytes())
    assert model.partial_fit(str(tmp_path / "data")).n_samples_ == 6
    assert model.partial_fit(str(tmp_path / "data")).n_samples_ == 6


def test_content_tells_a_touched_file_from_a_rewritten_one(tmp_path: Path) -> None:
    path = tmp_path / "data/a.parquet"
    put(path, rows(0))
    model = fitted(tmp_path, verify="content")
    touch(path)
    assert model.partial_fit(str(tmp_path / "data")) is model
    rewrite(path)
    with pytest.raises(ChangedInputError, match=r"a\.parquet .*SHA-256"):
        model.partial_fit(str(tmp_path / "data"))


def test_content_is_compared_whatever_the_time_says(tmp_path: Path) -> None:
    path = tmp_path / "data/a.parquet"
    put(path, rows(0))
    model, time = fitted(tmp_path, verify="content"), path.stat().st_mtime_ns
    rewrite(path)
    os.utime(path, ns=(time, time))
    with pytest.raises(ChangedInputError, match="SHA-256"):
        model.partial_fit(Dataset.from_parquet(tmp_path / "data", verify="content"))


def test_small_files_are_known_by_content_at_no_cost(tmp_path: Path) -> None:
    path = tmp_path / "data/a.parquet"
    put(path, rows(0)[:9])
    model = fitted(tmp_path)
    touch(path)
    assert model.partial_fit(str(tmp_path / "data")).n_samples_ == 9


def test_a_state_without_a_record_is_known_by_footers_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "data/a.parquet", rows(0))
    model = fitted(tmp_path)
    os.unlink(tmp_path / "model/_seen.json")
    with pytest.raises(ArtifactError, match=r"_seen\.json"):  # what was committed is not absent
        load(tmp_path / "model").partial_fit(str(tmp_path / "data"))
    shutil.rmtree(tmp_path / "model" / FOLDER)  # as of before there were records
    touch(tmp_path / "data/a.parquet")
    put(tmp_path / "data/b.parquet", rows(1)[:9])
    model.partial_fit(str(tmp_path / "data"))
    assert "1 file(s) are known by path, size and footer alone" in caplog.text
    model.save(tmp_path / "model", state=True, overwrite=True)
    caplog.clear()
    rewrite(tmp_path / "data/a.parquet")  # from now on its time is known
    with pytest.raises(ChangedInputError):
        load(tmp_path / "model").partial_fit(str(tmp_path / "data"))
    assert "alone" not in caplog.text


def test_a_damaged_record_is_an_error_that_names_it(tmp_path: Path) -> None:
    put(tmp_path / "data/a.parquet", rows(0))
    model, record = fitted(tmp_path), tmp_path / "model/_seen.json"
    for damage in (record.read_bytes().replace(b"a.parquet", b"b.parquet"), record.read_bytes()[:-9], b"[]", b"{}"):
        record.write_bytes(damage)
        with pytest.raises(ValueError, match=r"_seen\.json"):
            model.partial_fit(str(tmp_path / "data"))


def test_the_same_file_by_a_link_is_seen_once(tmp_path: Path) -> None:
    put(tmp_path / "data/a.parquet", rows(0))
    model = fitted(tmp_path)
    (tmp_path / "other").mkdir()
    os.symlink(tmp_path / "data/a.parquet", tmp_path / "other/b.parquet")
    os.symlink(tmp_path / "data", tmp_path / "again")
    for path in (tmp_path / "other", tmp_path / "again"):
        assert model.partial_fit(str(path)).n_samples_ == len(rows(0))


def test_an_output_of_other_rows_is_not_gone_on_with(tmp_path: Path) -> None:
    path, out = tmp_path / "data/a.parquet", tmp_path / "out"
    put(path, rows(0))

    def written(**options: Any) -> bytes:
        Dataset.from_parquet(tmp_path / "data").to_parquet(out, **options)
        return (out / "part-00000.parquet").read_bytes()

    first = written()
    assert written() == first
    rewrite(path)
    with pytest.raises(OutputError, match=r"of this input; expected .*a\.parquet .*overwrite"):
        written()
    assert written(overwrite=True) != first


def test_a_checkpoint_of_other_rows_is_not_gone_on_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "data/a.parquet"
    put(path, rows(0))

    def mean() -> Any:
        engine = connect("local", workers=1, work=tmp_path / "work")
        return PCA(2, solver="gram").fit(Dataset.from_parquet(tmp_path / "data"), engine=engine).mean_

    first = mean()
    assert list((tmp_path / "work").glob("*.state"))
    np.testing.assert_array_equal(mean(), first)
    assert not caplog.text
    rewrite(path)
    assert np.abs(mean() - first).max() > 1e-4
    assert "its checkpoint is of another input" in caplog.text


def test_what_to_verify_is_named(tmp_path: Path) -> None:
    put(tmp_path / "a.parquet", rows(0)[:9])
    with pytest.raises(ConfigError, match="verify among hints, content, found 'all'"):
        Dataset.from_parquet(tmp_path, verify="all")  # type: ignore[arg-type]


@settings(max_examples=30)
@given(
    steps=st.lists(st.sampled_from([*CHANGES, "touch", "nothing"]), min_size=1, max_size=4),
    verify=st.sampled_from(["hints", "content"]),
    seed=st.integers(0, 99),
)
def test_random_rewrites_are_never_nothing_new(steps: list[str], verify: Any, seed: int) -> None:
    """Against the rule: the same bytes are accepted where content was kept, other bytes never."""
    with in_memory() as place:
        path = place / "data/a.parquet"
        put(path, rows(0))
        original, model, moved = path.read_bytes(), fitted(place, verify=verify), False
        for number, step in enumerate(steps):
            if step == "touch":
                touch(path)
            elif step != "nothing":
                put(path, changed(rows(0), step, seed + number))
            moved = moved or step != "nothing"
            same = path.read_bytes() == original
            accepted = same and (verify == "content" or not moved)
            try:
                model.partial_fit(Dataset.from_parquet(place / "data"))
                found = True
            except ChangedInputError:
                found = False
            assert found == accepted, (step, same)
