"""Damaged models, states and checkpoints: an ArtifactError, never anything else."""

from __future__ import annotations

import copy
import errno
import json
import os
import random
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eigenmill.reduce.errors import ArtifactError
from eigenmill.reduce.storage import artifact, files, plain
from eigenmill.reduce.storage.artifact import load_arrays, load_model, load_state, save_arrays, save_model
from tests.faults.test_sink_exceptions import Failing, caught
from tests.support.trees import tree

ARRAYS = {"a": np.arange(12.0).reshape(3, 4), "b": np.array([True, False]), "c": np.ones(3, np.float32)}
QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved")
    save_model(path / "m", "pca", {"k": 2, "t": 0.5}, ARRAYS, {"names": ["x"]}, {"s": ARRAYS}, {"files": [1]})
    save_arrays(path / "c", ARRAYS, {"scan": 3})
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


def same(found):
    return sorted(found) == sorted(ARRAYS) and all((found[n] == ARRAYS[n]).all() for n in ARRAYS)


def lay(place, saved, name, content):
    """The saved things in ``place``, with one file replaced."""
    for file in ("c", *(f"m/{n}" for n in os.listdir(saved / "m"))):
        (place / file).parent.mkdir(exist_ok=True)
        (place / file).write_bytes(content if file == name else (saved / file).read_bytes())


def load_all(place):
    """What loads is what was saved; the rest is refused with an ArtifactError."""
    refused = 0
    for load in (
        lambda: same(load_model(place / "m").arrays),
        lambda: same(load_state(place / "m").states["s"]),
        lambda: same(load_arrays(place / "c")[0]) and load_arrays(place / "c")[1] == {"scan": 3},
    ):
        try:
            assert load()
        except ArtifactError as error:
            refused += "expected" in str(error) and "found" in str(error)
    return refused


def names(saved):
    return sorted(["c", *(f"m/{n}" for n in os.listdir(saved / "m"))])


@QUICK
@given(
    which=st.integers(0, 3),
    cut=st.floats(0, 1, exclude_max=True),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
    tail=st.binary(max_size=9),
)
def test_bytes_that_are_cut_flipped_or_added(saved, place, which, cut, flips, tail):
    name = names(saved)[which]
    content = bytearray((saved / name).read_bytes())
    before = bytes(content)
    for position, mask in flips:
        content[int(position * len(content))] ^= mask
    if not flips and not tail:
        content = content[: int(cut * len(content))]
    content += tail
    lay(place, saved, name, bytes(content))
    # JSON may be changed without changing what it says (a space); then it loads.
    assert load_all(place) or bytes(content) == before or name == "m/model.json"


STRANGE = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        2**63,
        1e308,
        "",
        "x",
        "../../etc/passwd",
        "\ud800",
        [],
        [[]],
        {},
        {"a": 1},
        "F64",
        "arrays-0.safetensors",
    ]
)


def paths(value, at=()):
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths(value[key], (*at, key))


def changed(value, at, new):
    value = copy.deepcopy(value)
    if not at:
        return new
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = new
    return value


@QUICK
@given(seed=st.integers(0, 10**6), new=STRANGE, honest=st.booleans(), drop=st.booleans())
def test_values_that_are_swapped(saved, place, seed, new, honest, drop):
    """Also with the digest made right again: a forger can, and must not do more than that."""
    model = json.loads((saved / "m" / "model.json").read_text())
    at = random.Random(seed).choice(list(paths(model)))
    damaged = changed(model, at, new)
    if drop and at and isinstance(at[-1], str):
        damaged = copy.deepcopy(model)
        inner = damaged
        for key in at[:-1]:
            inner = inner[key]
        del inner[at[-1]]
    if not honest and isinstance(damaged, dict) and damaged.pop("digest", None):
        damaged["digest"] = plain.digest(damaged)
    lay(place, saved, "m/model.json", json.dumps(damaged).encode())
    free = at[:1] in (("parameters",), ("meta",), ("kind",)) or at[:2] in (
        ("state", "meta"),
        ("state", "empty"),
    )
    assert load_all(place) or free or damaged == model


def checkpoint(header, data=b"", digest=True):
    """A checkpoint with any header, its digest right."""
    if digest:
        texts = header.setdefault("__metadata__", {"format": artifact.CHECKPOINT, "meta": "{}"})
        texts["sha256"] = artifact._content_digest(
            {**header, "__metadata__": {k: v for k, v in texts.items() if k != "sha256"}}, iter([data])
        )
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F64", shape=(1,), offsets=(0, 8)):
    return {"x": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 1) + b"{}",
        checkpoint(entry(shape=(2**60,), offsets=(0, 2**63)), b"\0" * 8),
        checkpoint(entry(shape=(2**40, 2**40, 0), offsets=(0, 0))),
        checkpoint(entry(shape=(0, 2**62), offsets=(0, 0))),
        checkpoint(entry(shape=[1] * 40), b"\0" * 8),
        checkpoint(entry(shape=(-1, -1)), b"\0" * 8),
        checkpoint(entry(shape=(1.0,)), b"\0" * 8),
        checkpoint(entry(shape=(True,)), b"\0" * 8),
        checkpoint(entry(dtype="O"), b"\0" * 8),
        checkpoint(entry(dtype="BF16", offsets=(0, 2)), b"\0" * 2),
        checkpoint(entry(offsets=(8, 16)), b"\0" * 16),
        checkpoint(entry(offsets=(0, 8, 8)), b"\0" * 8),
        checkpoint(entry(), b"\0" * 16),
        checkpoint(entry(), b"\0" * 7),
        checkpoint(entry(dtype="BOOL", offsets=(0, 1)), b"\x02"),
        checkpoint({"x": 3}),
        checkpoint({**entry(), "y": entry()["x"]}, b"\0" * 8),
        checkpoint(entry(), b"\0" * 8, digest=False),
        checkpoint({"__metadata__": {"format": artifact.CHECKPOINT, "meta": "[]", "sha256": ""}}),
        checkpoint({"__metadata__": {"format": artifact.CHECKPOINT, "meta": "{", "sha256": ""}}),
        checkpoint({"__metadata__": {"format": artifact.CHECKPOINT, "meta": "\ud800", "sha256": ""}}),
        checkpoint({"__metadata__": {"format": 3}}, digest=False),
        checkpoint({"__metadata__": []}, digest=False),
        struct.pack("<Q", 2) + b"[]",
    ],
)
def test_headers_that_lie(tmp_path, content):
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(ArtifactError, match="expected"):
        load_arrays(tmp_path / "c")


def test_the_crafted_checkpoint_is_read(tmp_path):
    (tmp_path / "c").write_bytes(checkpoint(entry(), struct.pack("<d", 1.5)))
    found, meta = load_arrays(tmp_path / "c")
    assert found["x"].tolist() == [1.5]
    assert meta == {}


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "injected"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["replace", "fsync", "write_all"])
def test_an_exception_at_every_step_of_a_save(tmp_path, monkeypatch, step, failure):
    def save(path, factor, overwrite=False):
        arrays = {n: (a * factor).astype(a.dtype) for n, a in ARRAYS.items()}
        save_model(path, "pca", {"k": factor}, arrays, {}, {"s": arrays}, {}, overwrite=overwrite)

    save(tmp_path / "whole", 3)
    for at in range(20):
        save(tmp_path / "m", 1)
        with monkeypatch.context() as patch:
            failing = Failing(patch, files if step == "write_all" else os, step, failure, at)
            told = caught(lambda: save(tmp_path / "m", 3, overwrite=True), failure)
        assert told or failing.left >= 0
        assert not [n for n in os.listdir(tmp_path / "m") if n.endswith(".tmp")]
        loaded = load_model(tmp_path / "m")
        assert loaded.arrays["a"][0, 1] == loaded.parameters["k"]
        assert load_state(tmp_path / "m").states["s"]["a"][0, 1] == loaded.parameters["k"]
        save(tmp_path / "m", 3, overwrite=True)
        assert tree(tmp_path / "m") == tree(tmp_path / "whole")
        save(tmp_path / "m", 1, overwrite=True)
        if failing.left >= 0:
            return
    raise AssertionError("the step was reached more often than expected")
