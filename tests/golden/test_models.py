"""Models and states of ba05dba are read, used, saved again and continued."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.golden import inputs
from tests.golden.conftest import copied, same
from tests.golden.library import Counter, Library
from tests.golden.rooms import fits

Golden = Callable[[str], Path]


@pytest.mark.filterwarnings("ignore:expected singular values")
@pytest.mark.parametrize("name", fits.MODELS)
def test_today_writes_the_same_models(name: str, golden: Golden, today: Golden) -> None:
    same(today("models") / name, golden("models") / name)
    same(today("models") / "work" / name, golden("models") / "work" / name)


@pytest.mark.parametrize("name", fits.MODELS)
def test_a_model_is_read(name: str, lib: Library, golden: Golden, place: Path) -> None:
    saved = golden("models") / name
    model = lib.reduce.load(saved)
    data = lib.data("small/a.parquet", **fits.MODELS[name][2])
    np.testing.assert_array_equal(model.transform(data).to_numpy(), np.load(saved.with_suffix(".npy")))
    model.save("again")
    same(place / "again", saved)
    model.save(copied(saved, place / "copy"))
    same(place / "copy", saved)


@pytest.mark.filterwarnings("ignore:expected singular values")
@pytest.mark.parametrize("name", fits.MODELS)
def test_what_its_scans_have_left_is_taken(name: str, lib: Library, golden: Golden, place: Path) -> None:
    work, counter = copied(golden("models") / "work" / name, place / "work"), Counter()
    data = lib.data(**fits.MODELS[name][2])
    fits.estimator(lib, name).fit(data, engine=lib.engine(work=work, progress=counter)).save("model")
    assert {rows for _, rows in counter.read} == {0}
    same(place / "model", golden("models") / name)


@pytest.mark.parametrize("name", [*fits.STATES, "long"])
def test_today_writes_the_same_states(name: str, golden: Golden, today: Golden) -> None:
    same(today("states") / name, golden("states") / name)


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("name", fits.STATES)
def test_a_state_is_continued(name: str, after: int, lib: Library, golden: Golden, place: Path) -> None:
    saved = golden("states") / name
    options = fits.MODELS[name][2]
    unseen = lib.data([f"small/{file}.parquet" for file in inputs.SMALL[after:]], **options)
    went_on(lib, saved, str(after), lib.data("small", **options), rows=len(unseen.to_numpy()))


def test_a_state_of_several_leaves_is_continued(lib: Library, golden: Golden, place: Path) -> None:
    went_on(lib, golden("states") / "long", "1", lib.data("long"), rows=2 * inputs.LONG_GROUP)


def went_on(lib: Library, saved: Path, ending: str, data: object, rows: int) -> None:
    """Reads only the rows that the state has not seen, and equals the full fit."""
    model, counter = lib.reduce.load(saved / ending), Counter()
    model.save("again", state=True)
    same(Path("again"), saved / ending)
    model.partial_fit(data, engine=lib.engine(progress=counter))
    assert [count for _, count in counter.read] == [rows]
    model.save("on", state=True)
    same(Path("on"), saved / "whole")
