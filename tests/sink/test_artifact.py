from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eigenmill.reduce.errors import ArtifactError, OutputError
from eigenmill.reduce.storage import artifact
from eigenmill.reduce.storage.array_file import load_arrays, save_arrays
from eigenmill.reduce.storage.artifact import load_model, load_state, save_model
from tests.support.trees import tree

ARRAYS = {
    "components": np.arange(6.0).reshape(2, 3),
    "flags": np.array([True, False, True]),
    "count": np.array(7, dtype=np.int64),
    "empty": np.empty((0, 4), np.float32),
    "half": np.array([1.5], np.float16),
}
PARAMETERS = {
    "n_components": 2,
    "tol": 0.1,
    "names": ["é", "b"],
    "none": None,
    "nested": {"x": [1, [2.5, True]]},
}
META = {"features": ["a", "b", "c"], "tiny": 5e-324, "big": 2**63}


def save(path, **changes):
    given = {"kind": "pca", "parameters": PARAMETERS, "arrays": ARRAYS, "meta": META, **changes}
    return save_model(path, **given)


def same(a, b):
    assert sorted(a) == sorted(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def test_a_model_comes_back(tmp_path):
    digest = save(tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert (loaded.kind, loaded.parameters, loaded.meta, loaded.digest) == ("pca", PARAMETERS, META, digest)
    same(loaded.arrays, ARRAYS)
    loaded.arrays["components"][0, 0] = 9  # writable, and aligned
    assert all(a.flags.aligned for a in loaded.arrays.values())
    with pytest.raises(ArtifactError, match="save the model with state=True"):
        load_state(tmp_path / "m")
    text = (tmp_path / "m" / "model.json").read_text()
    assert str(tmp_path) not in text


def test_it_is_what_safetensors_reads(tmp_path):
    save(tmp_path / "m")
    (name,) = [n for n in os.listdir(tmp_path / "m") if n.endswith(".safetensors")]
    same(safetensors.numpy.load_file(tmp_path / "m" / name), ARRAYS)
    save_arrays(tmp_path / "c", ARRAYS, {"scan": 3})
    same(safetensors.numpy.load_file(tmp_path / "c"), ARRAYS)


def test_a_state_is_a_file_of_its_own(tmp_path):
    states = {"moments": {"sum": np.ones(3), "n": np.array(5)}, "none": {}}
    save(tmp_path / "m", states=states, state_meta={"files": ["a.parquet"]})
    found = load_state(tmp_path / "m")
    assert found.meta == {"files": ["a.parquet"]}
    assert sorted(found.states) == ["moments", "none"]
    same(found.states["moments"], states["moments"])
    assert found.states["none"] == {}
    for name in os.listdir(tmp_path / "m"):
        if name.startswith("state-"):
            (tmp_path / "m" / name).unlink()
    same(load_model(tmp_path / "m").arrays, ARRAYS)
    with pytest.raises(ArtifactError, match=r"expected state-.*found no such file"):
        load_state(tmp_path / "m")
    save(tmp_path / "m", states=states, state_meta={"files": ["a.parquet"]})  # the same model heals it
    same(load_state(tmp_path / "m").states["moments"], states["moments"])
    with pytest.raises(ArtifactError, match="without '/'"):
        save(tmp_path / "n", states={"a/b": {}})


def test_the_same_model_is_the_same_bytes(tmp_path):
    arrays = {n: np.array(a, order="F").astype(a.dtype.newbyteorder(">")) for n, a in reversed(ARRAYS.items())}
    assert save(tmp_path / "a") == save(tmp_path / "b", arrays=arrays, meta=dict(reversed(META.items())))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()}
    save(tmp_path / "a")
    save(tmp_path / "a", overwrite=True)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()} == before


def test_another_model_is_refused_or_replaced(tmp_path):
    save(tmp_path / "m")
    before = tree(tmp_path)
    other = {"components": np.zeros((2, 3))}
    with pytest.raises(OutputError, match="another path, or save with overwrite=True"):
        save(tmp_path / "m", arrays=other)
    assert tree(tmp_path) == before
    save(tmp_path / "m", arrays=other, overwrite=True)
    same(load_model(tmp_path / "m").arrays, other)
    assert len(tree(tmp_path / "m")) == 2
    (tmp_path / "m" / "model.json").write_text("{")
    with pytest.raises(OutputError, match="cannot be read"):
        save(tmp_path / "m")
    save(tmp_path / "m", overwrite=True)
    same(load_model(tmp_path / "m").arrays, ARRAYS)


def test_a_model_that_changes_while_it_is_loaded(tmp_path, monkeypatch):
    save(tmp_path / "m")
    read, changed = artifact.read_record, []

    def slow(fs, where):
        model = read(fs, where)
        if not changed:
            changed.append(True)
            save(tmp_path / "m", arrays={"x": np.ones(2)}, overwrite=True)
        return model

    monkeypatch.setattr(artifact, "read_record", slow)
    same(load_model(tmp_path / "m").arrays, {"x": np.ones(2)})


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {"x": float("nan")}},
        {"meta": {"x": [float("inf")]}},
        {"parameters": {"x": np.float64(1)}},
        {"parameters": {"x": object()}},
        {"parameters": {1: 2}},
        {"arrays": {"x": np.array(["text"])}},
        {"arrays": {"x": np.array([object()])}},
        {"arrays": {"x": np.array(["2024-01-01"], "M8[D]")}},
        {"arrays": {"": np.ones(1)}},
        {"arrays": {"__metadata__": np.ones(1)}},
    ],
)
def test_values_that_cannot_be_saved(tmp_path, changes):
    with pytest.raises(ArtifactError, match="expected"):
        save(tmp_path / "m", **changes)
    assert not (tmp_path / "m").exists()


def test_what_is_not_a_model(tmp_path):
    with pytest.raises(ArtifactError, match=r"found no .*model\.json; give the directory"):
        load_model(tmp_path)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "no"):
        with pytest.raises(ArtifactError):
            load_model(path)
        with pytest.raises(ArtifactError):
            load_arrays(path)
    (tmp_path / "m" / "model.json").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="a directory"):
        load_model(tmp_path / "m")
    with pytest.raises(ArtifactError):
        load_arrays(tmp_path / "m")


def test_a_model_of_a_newer_format(tmp_path):
    save(tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    model = json.loads(path.read_text())
    path.write_text(json.dumps({**model, "version": 2, "more": 1}))
    with pytest.raises(ArtifactError, match=r"of version 1, found .*2\]; load it with the eigenmill that saved it"):
        load_model(tmp_path / "m")


def test_arrays_of_another_model(tmp_path):
    save(tmp_path / "a")
    save(
        tmp_path / "b",
        arrays={n: np.asarray(a + 1 if a.dtype != bool else ~a, a.dtype) for n, a in ARRAYS.items()},
    )
    (a,), (b,) = (list((tmp_path / m).glob("arrays-*")) for m in "ab")
    shutil.copy(b, a)
    with pytest.raises(ArtifactError, match="to have the digest"):
        load_model(tmp_path / "a")


@settings(deadline=None, max_examples=40)
@given(
    arrays=st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda t: t != "__metadata__"),
        hnp.arrays(
            hnp.integer_dtypes(endianness="?")
            | hnp.floating_dtypes(sizes=(16, 32, 64), endianness="?")
            | st.just(np.bool_),
            hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        ),
        max_size=5,
    ),
    meta=st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
            lambda s: st.lists(s, max_size=3),
            max_leaves=5,
        ),
        max_size=3,
    ),
)
def test_checkpoints_come_back(tmp_path, arrays, meta):
    path = tmp_path / "c" / "state"
    digest = save_arrays(path, arrays, meta)
    found, values = load_arrays(path)
    assert values == meta
    assert sorted(found) == sorted(arrays)
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype.newbyteorder("<")
        assert found[name].tobytes() == array.astype(found[name].dtype).tobytes()
    assert save_arrays(path, found, values) == digest
    assert os.listdir(path.parent) == ["state"]
