"""Recipes that ba05dba has begun are gone on with; what it has packed is read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.golden.conftest import copied, same
from tests.golden.library import Library, files_written
from tests.golden.rooms import recipes
from tests.support.trees import stamps

pytest.importorskip("torch")
Golden = Callable[[str], Path]


def test_today_writes_the_same_recipes(golden: Golden, today: Golden) -> None:
    same(today("recipes"), golden("recipes"))


LEFT = {
    **dict.fromkeys(recipes.RECIPES, (99, 0)),
    "numbers-training": (0, 2 + 4),
    "numbers-keeping": (1, 4),
    "numbers-priced": (3, 2),
    "numbers-packing": (5, 0),
    "taught-teacher": (0, 2 + 3),
    "taught-asked": (0, 3),
    "taught-student": (0, 2),
    "searched-training": (2, 2 + 3),
    "searched-logging": (2, 3 + 3),
    "mixed-training": (0, 2),
}
"""Steps that are found done, and epochs that are left to train."""


@pytest.mark.parametrize("name", LEFT)
def test_a_recipe_is_gone_on_with(name: str, lib: Library, golden: Golden, place: Path) -> None:
    recipe = name.partition("-")[0]
    copied(golden("recipes") / "pca", place / "pca")
    copied(golden("recipes") / name, place / "out")
    with files_written() as files:
        found = recipes.compress(lib, recipe)
    same(place / "out", golden("recipes") / recipe)
    steps, epochs = LEFT[name]
    assert [stage["resumed"] for stage in found["stages"]] == [i < steps for i in range(len(found["stages"]))]
    endings = Counter(os.path.splitext(path)[1] for path in files)
    assert endings[".checkpoint"] == epochs
    assert endings[".parquet"] == (name in ("taught-teacher", "taught-asked"))


@pytest.mark.parametrize("name", recipes.PACKED)
def test_a_packed_file_says_the_same(name: str, lib: Library, golden: Golden, place: Path) -> None:
    said, model = golden("recipes") / "said" / name, golden("recipes") / name / "model.emill"
    recipes.predict(lib, str(model), "new")
    same(place / "new", said)
    before = stamps(copied(said, place / "old"))
    recipes.predict(lib, str(model), "old")
    assert stamps(place / "old") == before
