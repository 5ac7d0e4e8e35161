"""The cosine transform is what it says, exact in whole numbers, and takes a few bytes of a file."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.fft import dctn

from eigenmill.compress import (
    Model,
    Samples,
    dct,
    fold_projection,
    load,
    pack,
    prune,
    prune_neurons,
    quantize,
    share_weights,
    train,
)
from eigenmill.compress.core.integer import WholeNet
from eigenmill.compress.core.model import whole_net
from eigenmill.compress.core.transforms import UNIT, block_of, cosines, frequencies, picture_of, waves
from eigenmill.compress.exports.c import source
from eigenmill.compress.packed.pack import MAGIC, MAGIC_CATEGORIES, MAGIC_COSINES, packed_bytes, sections, unpack
from eigenmill.reduce.errors import ArtifactError, ConfigError
from tests.compress.conftest import OPTIMIZER, error
from tests.compress.nets import NETS, rows
from tests.compress.test_pack import attack, equal

GOLDEN = Path(__file__).parent / "golden"
COSINES = ("block", "zigzag")


@pytest.mark.parametrize("size", [1, 2, 5, 8, 28, 33])
def test_waves_are_rounded_cosines_and_nearly_orthogonal(size: int) -> None:
    found = waves(size, size)
    exact = [
        [UNIT * (math.sqrt(2) if u else 1) * math.cos(math.pi * (2 * x + 1) * u / (2 * size)) for x in range(size)]
        for u in range(size)
    ]
    assert np.abs(found - exact).max() <= 0.5 + 1e-9
    assert np.abs(found).max() < 128
    np.testing.assert_allclose(found @ found.T / (UNIT**2 * size), np.eye(size), atol=0.02)


def test_no_wave_lies_near_a_half_where_a_library_could_round_it_otherwise() -> None:
    for size in range(1, 129):
        u, x = np.arange(size)[:, None], np.arange(size)
        exact = UNIT * np.where(u, math.sqrt(2), 1) * np.cos(np.pi * ((2 * x + 1) * u % (4 * size)) / (2 * size))
        assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-7


def test_zigzag_is_the_order_of_jpeg() -> None:
    # ITU-T T.81, figure A.6: the number of each frequency.
    order = """0 1 5 6 14 15 27 28 2 4 7 13 16 26 29 42 3 8 12 17 25 30 41 43 9 11 18 24 31 40 44 53
        10 19 23 32 39 45 52 54 20 22 33 38 46 51 55 60 21 34 37 47 50 56 59 61 35 36 48 49 57 58 62 63"""
    numbers = np.empty((8, 8), int)
    numbers[tuple(frequencies(8, 8, 0, 64).T)] = np.arange(64)
    assert numbers.ravel().tolist() == [int(word) for word in order.split()]
    assert frequencies(2, 3, 0, 6).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [1, 2]]


@pytest.mark.parametrize(("height", "width", "block", "count"), [(8, 8, 5, None), (6, 9, None, 20), (28, 28, 28, None)])
def test_a_layer_is_the_transform_of_scipy_up_to_its_rounding(
    height: int, width: int, block: int | None, count: int | None
) -> None:
    layer = dct(height, width, block, count=count)
    assert layer.frozen
    assert not layer.relu
    X = np.random.default_rng(0).random((50, height * width))
    exact = dctn(X.reshape(50, height, width), axes=(1, 2), norm="ortho")
    kept = frequencies(height, width, block or 0, count or (block or 0) ** 2)
    wanted = exact[:, kept[:, 0], kept[:, 1]]
    found = X @ layer.weights.astype(np.float64)
    scale = math.sqrt(len(kept) / (height * width))
    np.testing.assert_allclose(found / scale, wanted, atol=0.02 * np.abs(wanted).max())
    np.testing.assert_array_equal(layer.whole(), cosines(height, width, kept))
    assert block_of(layer.whole(), width) == (block or 0)
    assert picture_of(layer.whole()) == width


@pytest.mark.parametrize("wrong", [{}, {"block": 3, "count": 4}, {"block": 0}, {"block": 7}, {"count": 55}])
def test_other_frequencies_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="either block or count"):
        dct(6, 9, **wrong)


@pytest.mark.parametrize("coder", ["range", "zstd", "huffman"])
@pytest.mark.parametrize("name", COSINES)
def test_a_file_names_it_in_a_few_bytes(name: str, coder: str) -> None:
    net = NETS[name]
    content = packed_bytes(net, coder=coder)
    assert content.startswith(MAGIC_COSINES)
    back, taken = sections(content)
    assert equal(back, net)
    assert packed_bytes(back, coder=coder) == content
    assert taken["layer 0"] < 16 + net.layers[0].weights.shape[1]  # a byte for each bias
    X = rows(net.front)
    np.testing.assert_array_equal(back.scores(X), net.scores(X))
    # Other weights are given as they are, by the first version.
    other = net.layers[0].weights.copy()
    other[3, 2] += 1
    changed = replace(net, layers=(replace(net.layers[0], weights=other), *net.layers[1:]))
    content = packed_bytes(changed, coder=coder)
    assert content.startswith(MAGIC)
    assert equal(unpack(content), changed)


def test_without_geometry_it_is_given_by_its_weights() -> None:
    content = packed_bytes(NETS["block"], width=0)
    assert content.startswith(MAGIC)
    assert len(content) > 2 * len(packed_bytes(NETS["block"]))
    assert equal(unpack(content), NETS["block"])


def test_golden_files_are_read_as_ever_and_written_alike() -> None:
    for name in COSINES:
        path = GOLDEN / f"{name}-range.emill"
        net = unpack(path.read_bytes())
        assert equal(net, NETS[name])
        X = rows(net.front, 20)
        np.testing.assert_array_equal(net.scores(X), np.loadtxt(GOLDEN / f"{name}.scores", dtype=np.int64))
        assert packed_bytes(NETS[name]) == path.read_bytes()


def test_a_version_that_does_not_fit_and_mutated_files_are_refused() -> None:
    content = packed_bytes(NETS["block"])
    for magic in (MAGIC, MAGIC_CATEGORIES):
        with pytest.raises(ArtifactError):
            unpack(magic + content[len(MAGIC) :])
    with pytest.raises(ArtifactError, match="version 3 only"):
        unpack(MAGIC_COSINES + packed_bytes(NETS["pixels"])[len(MAGIC) :])
    with pytest.raises(ArtifactError, match="version 3 only"):
        unpack(MAGIC + content[len(MAGIC) :])
    contents = [
        packed_bytes(NETS[name], coder=coder) for name, coder in itertools.product(COSINES, ("range", "huffman"))
    ]
    assert attack(contents, 200, fitting=False) == 0
    assert 0 < attack(contents, 400, fitting=True) < 400


def test_c_holds_its_waves_only() -> None:
    """28 x 28 pixels to 100 frequencies: 78,400 weights, of which C holds 560."""
    text = source(WholeNet("regression", (), *_wide()))
    assert "model_down_0[280]" in text
    assert "model_across_0[280]" in text
    assert "model_weights_0" not in text


def _wide() -> tuple[Any, ...]:
    base = NETS["block"]
    front = replace(base.front, n_features=784, layout={"vector": "x", "n_features": 784})
    weights = dct(28, 28, 10).whole()
    first = replace(base.layers[0], weights=weights, bias=np.zeros(100, np.int64))
    last = replace(base.layers[-1], weights=np.ones((100, 1), np.int64), bias=np.zeros(1, np.int64))
    return front, (first, last), 1.0, 0.0


def test_a_net_behind_it_learns_and_no_step_changes_it(digits: Any, samples: Samples, tmp_path: Path) -> None:
    model = train(Model.mlp(dct(8, 8, 5), [16], 10), samples, optimizer=OPTIMIZER, epochs=20)
    fixed = dct(8, 8, 5)
    for changed in (
        model, prune(model, 0.5), prune_neurons(model, samples, 0.5), share_weights(model, 4), fold_projection(model)
    ):  # fmt: skip
        np.testing.assert_array_equal(changed.layers[0].weights, fixed.weights)
        assert changed.layers[0].frozen
    small = quantize(model, samples, bits=7)
    np.testing.assert_array_equal(small.layers[0].whole(), fixed.whole())
    pack(small, tmp_path / "m.emill")
    back = load(tmp_path / "m.emill")
    np.testing.assert_array_equal(back.scores(digits[2]), whole_net(small).scores(digits[2]))
    assert error(back, *digits[2:]) < error(model, *digits[2:]) + 0.03 < 0.16
