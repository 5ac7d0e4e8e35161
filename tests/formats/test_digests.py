"""Digests and names in files hang on the names that are declared, not on those in the program."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eigenmill
from eigenmill.reduce.passes.base import from_arrays, to_arrays
from eigenmill.reduce.passes.gram import GramPass, GramState
from eigenmill.reduce.passes.intake import Intake, Moments, Pending
from eigenmill.reduce.rows.cleaning import Cleaning
from eigenmill.reduce.storage.digest import (
    declared,
    digest_of,
    digest_of_bytes,
    named,
    sha256_of,
    tag_of,
    tagged,
    text_of,
)
from tests.formats import made
from tests.support.formats import other

OF_BA05DBA = json.loads(Path(__file__).with_name("digests.json").read_text())
NEW: set[str] = set()
"""Classes that were not there in format 1: they have no digest to keep."""


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """Made of the classes that are declared by these names, wherever they are and however they are called."""
    pytest.importorskip("torch")
    for module in pkgutil.walk_packages(eigenmill.__path__, "eigenmill."):
        if not module.name.startswith(("eigenmill.jobs.airflow", "eigenmill.jobs.spark_submit")):
            importlib.import_module(module.name)
    kinds = {tag.name: kind for kind, tag in declared().items() if kind.__module__.startswith("eigenmill.")}

    def get(module: str, name: str) -> Any:
        return kinds[name.lower() if module == "jobs.daily_records" else name]

    return made.values(get)


@pytest.mark.parametrize("name", OF_BA05DBA["values"])
def test_digests_are_those_of_ba05dba(name: str, values: dict[str, Any]) -> None:
    assert digest_of(values[name]) == OF_BA05DBA["values"][name]


@pytest.mark.parametrize("name", OF_BA05DBA["arrays"])
def test_states_have_the_names_of_ba05dba_in_files(name: str, values: dict[str, Any]) -> None:
    found = to_arrays(values[name])
    assert sorted(found) == OF_BA05DBA["names"][name]
    assert digest_of(found) == OF_BA05DBA["arrays"][name]


@pytest.mark.parametrize("name", OF_BA05DBA["texts"])
def test_texts_are_those_of_ba05dba(name: str, values: dict[str, Any]) -> None:
    assert text_of(values[name]) == OF_BA05DBA["texts"][name]


def test_every_declared_class_has_a_digest_here(values: dict[str, Any]) -> None:
    ours = {kind for kind in declared() if kind.__module__.startswith("eigenmill.")}
    records = {kind for kind in ours if kind.__module__ == "eigenmill.jobs.daily.records"}
    covered = {type(value) for value in values.values()} | records
    assert {kind.__name__ for kind in ours - covered} == NEW
    assert {kind.__name__ for kind in records} == {
        "Settings",
        "Fit",
        "Gate",
        "Project",
        "Publish",
        "Version",
        "Pointer",
    }


def test_renaming_changes_nothing(values: dict[str, Any]) -> None:
    """The same values in classes and fields of other names, declared by the old ones."""

    @tagged("Moments", " ".join(f"{f.name}_:{f.name}" for f in dataclasses.fields(Moments)))
    @dataclass
    class Renamed:
        rows_: int
        total_: float
        count_: np.ndarray[Any, Any]
        pivot_: np.ndarray[Any, Any]
        offset_: np.ndarray[Any, Any]
        m2_: np.ndarray[Any, Any]
        low_: np.ndarray[Any, Any]
        high_: np.ndarray[Any, Any]
        missing_: np.ndarray[Any, Any]
        infinite_: np.ndarray[Any, Any]
        pending_: Pending | None = None

    before = values["Moments"]
    after = Renamed(*(getattr(before, f.name) for f in dataclasses.fields(Moments)))
    assert digest_of(after) == OF_BA05DBA["values"]["Moments"]
    assert digest_of(to_arrays(after)) == OF_BA05DBA["arrays"]["Moments"]
    assert set(named(after)) == set(named(before))
    assert digest_of(to_arrays(from_arrays(Renamed, to_arrays(before)))) == OF_BA05DBA["arrays"]["Moments"]
    assert digest_of(dataclasses.replace(values["GramState"], moments=after)) == OF_BA05DBA["values"]["GramState"]


def test_the_order_of_the_declaration_counts_not_of_the_fields() -> None:
    @tagged("Cleaning", "missing clip clip_sd")
    @dataclass(frozen=True)
    class Shuffled:
        clip_sd: float | None = None
        missing: Any = "error"
        clip: Any = None

    assert digest_of(Shuffled(3.0, "mean")) == digest_of(Cleaning("mean", clip_sd=3.0))


def test_an_undeclared_class_or_field_is_an_error() -> None:
    @dataclass(frozen=True)
    class Unknown:
        x: int

    for use in (digest_of, named, to_arrays):
        with pytest.raises(TypeError, match=r"expected a class declared by digest.tagged, found Unknown"):
            use(Unknown(3))
    with pytest.raises(TypeError, match=r"expected the fields \['x'\] of Unknown to be declared, found \['y'\]"):
        tagged("Unknown", "y")(Unknown)
    with pytest.raises(TypeError, match="no digest for a value of type object"):
        digest_of(object())


def test_a_later_field_is_fed_only_where_it_says_something(values: dict[str, Any]) -> None:
    intake: Intake = values["Intake"]
    assert tag_of(Intake).later[0][:2] == ("format", "format")
    fine, coarse = (dataclasses.replace(intake, format=other(pivot_rows=rows)) for rows in (256, 255))
    assert digest_of(fine) == OF_BA05DBA["values"]["Intake"] != digest_of(coarse)
    assert digest_of(GramPass(coarse)) != digest_of(GramPass(fine)) == OF_BA05DBA["values"]["GramPass"]


def test_digests_of_bytes() -> None:
    assert digest_of_bytes([b"ab", b"c"]) == "cf4ab791c62b8d2b2109c90275287816"
    assert sha256_of([b"ab", b"c"]).startswith("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


def test_a_state_without_a_field_is_refused(values: dict[str, Any]) -> None:
    found = to_arrays(values["GramState"])
    with pytest.raises(Exception, match="expected the field 'gross' in a saved GramState"):
        from_arrays(GramState, {name: array for name, array in found.items() if name != "gross"})
