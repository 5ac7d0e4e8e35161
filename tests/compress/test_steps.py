"""Pruning, sharing and rounding: what they promise of the weights, and what they cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from eigenmill.compress import Model, Samples, prune, prune_neurons, quantize, regrow, share_weights, train
from eigenmill.compress.core.front import RUN, Front
from eigenmill.compress.core.integer import MAX_ACC, WholeLayer, WholeNet, bounds, check
from eigenmill.compress.core.model import whole_net
from eigenmill.compress.steps.prune import _gradients
from eigenmill.compress.steps.quantize import best_step
from eigenmill.reduce.errors import ConfigError, MissingValueError
from tests.compress import made_tables
from tests.compress.conftest import OPTIMIZER, error
from tests.compress.nets import NETS, rows


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_smallest_weights_go(trained: Model, scope: str) -> None:
    model = prune(trained, 0.75, scope=scope)
    before = [np.abs(layer.weights) for layer in trained.layers]
    kept = [layer.weights != 0 for layer in model.layers]
    groups = [(np.concatenate([b.ravel() for b in before]), np.concatenate([k.ravel() for k in kept]))]
    if scope == "layer":
        groups = [(b.ravel(), k.ravel()) for b, k in zip(before, kept, strict=True)]
    for sizes, alive in groups:
        assert alive.sum() == round(0.25 * alive.size)
        assert sizes[alive].min() >= sizes[~alive].max()


def test_pruning_further_counts_what_is_pruned(trained: Model) -> None:
    once, twice = prune(trained, 0.8), prune(prune(trained, 0.5), 0.8)
    for a, b in zip(once.layers, twice.layers, strict=True):
        np.testing.assert_array_equal(a.weights, b.weights)


def test_retraining_makes_up_for_pruning(trained: Model, pruned: Model, digits: Any) -> None:
    X, y = digits[2:]
    assert sum(np.count_nonzero(layer.weights) for layer in pruned.layers) <= round(0.2 * (64 * 32 + 320)) + 1
    assert error(pruned, X, y) < 0.5 * error(prune(trained, 0.8), X, y)


def test_fewer_neurons_make_narrower_layers(trained: Model, samples: Samples, digits: Any) -> None:
    X, y = digits[2:]
    model = prune_neurons(trained, samples, keep=0.5)
    assert [layer.weights.shape for layer in model.layers] == [(64, 16), (16, 10)]
    assert model.float_bytes < 0.6 * trained.float_bytes
    after = train(model, samples, optimizer=OPTIMIZER, epochs=5)
    assert error(after, X, y) < error(trained, X, y) + 0.03
    random = np.random.default_rng(0).permutation(32)[:16]
    assert error(model, X, y) < 0.5 * _keep_only(trained, random, X, y)


def _keep_only(model: Model, kept: Any, X: Any, y: Any) -> float:
    front = model.front
    assert front is not None
    hidden = model.forward(front.scaled_inputs(front.codes(X)))[0][:, kept]
    last = model.layers[1]
    return float(np.mean((hidden @ last.weights[kept] + last.bias).argmax(1) != y))


def test_a_neuron_that_says_nothing_goes_first(trained: Model, samples: Samples, digits: Any) -> None:
    from dataclasses import replace

    first, last = trained.layers
    weights = np.c_[first.weights, np.zeros((64, 3), np.float32)]
    bias = np.r_[first.bias, np.float32([0.0, 1.0, 2.0])]
    more = np.r_[last.weights, np.ones((3, 10), np.float32) * 5]
    wide = replace(
        trained, layers=(replace(first, weights=weights, bias=bias), replace(last, weights=more)), hidden=(35,)
    )
    model = prune_neurons(wide, samples, keep=32 / 35)
    np.testing.assert_allclose(model.scores(digits[2]), wide.scores(digits[2]), atol=1e-4)


def test_shared_weights_have_few_values_and_zeros_stay(pruned: Model, samples: Samples, digits: Any) -> None:
    model = share_weights(pruned, bits=3)
    for before, layer in zip(pruned.layers, model.layers, strict=True):
        assert len(np.unique(layer.weights)) <= 8
        np.testing.assert_array_equal(layer.weights == 0, before.weights == 0)
    tuned = train(model, samples, optimizer={"name": "adam", "lr": 0.003}, epochs=4)
    for before, layer in zip(model.layers, tuned.layers, strict=True):
        assert layer.codebook is not None
        np.testing.assert_array_equal(layer.codes, before.codes)
        np.testing.assert_array_equal(layer.weights, layer.codebook[layer.codes])
        assert layer.codebook[0] == 0
        assert (layer.codebook != before.codebook).any()
    X, y = digits[2:]
    assert error(tuned, X, y) < error(pruned, X, y) + 0.05


def test_k_means_is_a_local_optimum(trained: Model) -> None:
    layer, before = share_weights(trained, bits=4, rounds=500).layers[0], trained.layers[0].weights
    assert layer.codebook is not None
    assert layer.codes is not None
    for level in range(1, 16):
        members = before[layer.codes == level]
        if members.size:
            np.testing.assert_allclose(layer.codebook[level], members.mean(), atol=1e-5)
            distances = np.abs(members[:, None] - layer.codebook[1:])
            assert (distances[:, level - 1] <= distances.min(axis=1) + 1e-6).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 12, 16])
def test_rounded_weights_are_multiples_within_their_bits(bits: int, trained: Model, samples: Samples) -> None:
    model = quantize(trained, samples, bits=bits)
    for layer in model.layers:
        assert np.abs(layer.whole()).max() <= 2 ** (bits - 1) - 1
        assert layer.step is not None
        np.testing.assert_allclose(layer.weights, layer.whole() * layer.step, rtol=1e-6)


def test_eight_bits_cost_little_and_two_more(trained: Model, samples: Samples, digits: Any) -> None:
    X, y = digits[2:]
    errors = {bits: error(quantize(trained, samples, bits=bits), X, y) for bits in (8, 2)}
    assert errors[8] <= error(trained, X, y) + 0.01
    assert errors[8] < errors[2]
    agreement = (quantize(trained, samples, bits=12, activations=12).predict(X) == trained.predict(X)).mean()
    assert agreement > 0.99


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("activations", [4, 8])
def test_results_take_the_whole_range_and_hardly_ever_leave_it(
    activations: int, relu: bool, trained: Model, samples: Samples
) -> None:
    first, *others = trained.layers
    rounded = quantize(replace(trained, layers=(replace(first, relu=relu), *others)), samples, activations=activations)
    assert rounded.activations is not None
    results = replace(rounded, activations=None).forward(samples.front.scaled_inputs(samples.sample(1000)[0]))
    for layer, result, step in zip(whole_net(rounded).layers[:-1], results, rounded.activations.steps, strict=False):
        assert layer.low == (0 if relu else -layer.high - 1)
        assert np.mean(np.abs(result) > step * (layer.high + 0.5)) < 0.002
        assert np.abs(result).max() > 0.9 * step * layer.high


def test_weights_on_a_grid_are_kept_as_they_are(trained: Model, samples: Samples) -> None:
    once = quantize(trained, samples, bits=5)
    again = quantize(once, samples, bits=8)
    for a, b in zip(once.layers, again.layers, strict=True):
        np.testing.assert_array_equal(a.weights, b.weights)


def test_the_best_step_is_no_worse_than_the_extremes() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=5000)

    def loss(step: float) -> float:
        return float(np.square(np.clip(np.rint(values / step), -7, 7) * step - values).sum())

    found = best_step(values, None, 7)
    assert loss(found) < 0.7 * loss(np.abs(values).max() / 7)
    assert best_step(np.array([0.5, -1.0, 1.5]), None, 3) == 0.5


def test_the_step_of_shared_values_is_that_of_all_weights_that_share_them(pruned: Model, samples: Samples) -> None:
    values, counts = np.array([0.3, 1.0]), np.array([1000.0, 1.0])
    assert best_step(values, counts, 3) == best_step(np.repeat(values, [1000, 1]), None, 3)
    assert abs(best_step(values, counts, 3) - 0.3) < 0.002 < abs(best_step(values, None, 3) - 0.3)
    shared = share_weights(pruned, 4)
    for layer, rounded in zip(shared.layers, quantize(shared, samples, bits=3).layers, strict=True):
        assert rounded.step == pytest.approx(best_step(layer.weights.ravel().astype(np.float64), None, 3), rel=1e-12)


def test_the_integer_net_is_what_plain_integers_say(small: Model, digits: Any) -> None:
    net, X = whole_net(small), digits[2][:20]
    expected = []
    for row in X:
        a = [int(q) for q in row]  # pixels up to 16 are their own codes
        for layer in net.layers:
            sums = [
                int(b) + sum(q * int(w) for q, w in zip(a, column, strict=True))
                for b, column in zip(layer.bias, layer.weights.T, strict=True)
            ]
            if layer.bits:
                half = 1 << (layer.shift - 1)
                a = [min(max((s * layer.multiplier + half) >> layer.shift, layer.low), layer.high) for s in sums]
        expected.append(sums)
    np.testing.assert_array_equal(net.scores(X), expected)
    np.testing.assert_array_equal(small.predict(X), np.argmax(expected, axis=1))


def test_the_integer_net_is_near_the_net_it_rounds(trained: Model, samples: Samples, digits: Any) -> None:
    model = quantize(trained, samples, bits=16, activations=16)
    np.testing.assert_allclose(model.scores(digits[2]), trained.scores(digits[2]), atol=0.02)


def test_bounds_hold_and_are_reached(small: Model) -> None:
    net = whole_net(small)
    first = net.layers[0]
    found = bounds(net)
    # The worst input of a unit lights exactly the pixels with weights of one sign.
    positive = first.bias + net.front.top * np.maximum(first.weights, 0).sum(axis=0)
    negative = first.bias + net.front.top * np.minimum(first.weights, 0).sum(axis=0)
    assert found[0] == max(np.abs(positive).max(), np.abs(negative).max())
    assert max(found) < MAX_ACC
    codes = np.random.default_rng(0).integers(0, net.front.top + 1, (200, 64))
    assert np.abs(net.scores_of(codes)).max() <= found[-1]


def after_signed_results(weights: list[int], bias: int, bits: int) -> WholeNet:
    """A regression by one sum over hidden results that take every whole number of ``bits`` bits with a sign."""
    front = Front({}, len(weights), bits, np.float32([0]), np.float32([1]), np.array([-1]), 0.0, 1.0)
    shifted = np.full(len(weights), -(1 << (bits - 1)))  # codes begin at 0, results at the least number with a sign
    first = WholeLayer(np.eye(len(weights), dtype=np.int64), shifted, False, 1 << 14, 14, bits)
    last = WholeLayer(np.array(weights)[:, None], np.array([bias]), False, 0, 0, 0)
    return WholeNet("regression", (), front, (first, last), 1.0, 0.0)


@pytest.mark.parametrize("bias", [0, 100, -100])
@pytest.mark.parametrize("weights", [[3, 5], [-3, -5], [3, -5], [5, -3], [-7, 0]])
def test_bounds_count_what_negative_results_add(weights: list[int], bias: int) -> None:
    """No sum over all inputs is larger than its bound, and one is as large."""
    net = after_signed_results(weights, bias, 4)
    codes = np.stack(np.meshgrid(np.arange(16), np.arange(16)), axis=-1).reshape(-1, 2)
    assert bounds(net) == [8, np.abs(net.scores_of(codes)).max()]
    assert (net.scores_of(codes)[0, 0], net.scores_of(codes)[-1, 0]) == (
        bias - 8 * sum(weights),
        bias + 7 * sum(weights),
    )


@pytest.mark.parametrize(("weight", "bias"), [(32767, -1), (-32767, 1)])
def test_a_sum_that_only_negative_results_overflow_is_refused(weight: int, bias: int) -> None:
    """The least result, -2**15, times 32,767, and the bias make 2**47; one less is allowed."""
    rest = 2**47 - 2**15 * 32767
    check(after_signed_results([weight], bias * (rest - 1), 16))
    with pytest.raises(ConfigError, match=f"expected sums below 2\\*\\*47, found up to {2**47};"):
        check(after_signed_results([weight], bias * rest, 16))


def test_it_says_what_is_out_of_range(trained: Model, samples: Samples) -> None:
    for wrong in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="sparsity"):
            prune(trained, wrong)
    with pytest.raises(ConfigError, match="share of neurons"):
        prune_neurons(trained, samples, keep=0)
    with pytest.raises(ConfigError, match="2 to 16 bits"):
        quantize(trained, samples, bits=1)
    with pytest.raises(ConfigError, match="2 to 16 bits"):
        quantize(trained, samples, bits=[8])
    with pytest.raises(ConfigError, match="prune before"):
        prune(share_weights(trained, 4), 0.5)
    with pytest.raises(ConfigError, match="call quantize"):
        whole_net(trained)


def test_masks_open_where_the_gradient_is_largest_and_nowhere_else(
    pruned: Model, samples: Samples, digits: Any
) -> None:
    grown = regrow(pruned, samples, 0.25)
    np.testing.assert_array_equal(grown.scores(digits[2]), pruned.scores(digits[2]))
    closed = [~la.mask for la in pruned.layers if la.mask is not None]
    opened = [b.mask & ~a.mask for a, b in zip(pruned.layers, grown.layers, strict=True)]  # type: ignore[operator]
    assert sum(int(o.sum()) for o in opened) == round(0.25 * sum(int(c.sum()) for c in closed))
    assert all((c | ~o).all() for c, o in zip(closed, opened, strict=True))
    # The gradient is what small changes of the weights do to the loss.
    codes, targets = samples.sample(4096)
    z = samples.front.scaled_inputs(codes)
    slopes = _gradients(pruned, z, targets)

    def loss(model: Model) -> float:
        scores = model.forward(z)[-1].astype(np.float64)
        return float(np.mean(np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(targets)), targets]))

    for i, slope in enumerate(slopes):
        at = np.unravel_index(int(np.abs(slope).argmax()), slope.shape)
        sides = []
        for change in (-1e-2, 1e-2):
            weights = pruned.layers[i].weights.copy()
            weights[at] += change
            layers = [replace(la, weights=weights) if j == i else la for j, la in enumerate(pruned.layers)]
            sides.append(loss(replace(pruned, layers=tuple(layers))))
        assert (sides[1] - sides[0]) / 2e-2 == pytest.approx(float(slope[at]), rel=0.05)
    least = min(float(np.abs(s[o]).min()) for s, o in zip(slopes, opened, strict=True) if o.any())
    most = max(float(np.abs(s[c & ~o]).max()) for s, c, o in zip(slopes, closed, opened, strict=True))
    assert least >= most
    trained_on = train(grown, samples, optimizer=OPTIMIZER, epochs=2)
    assert trained_on.nonzero > pruned.nonzero
    with pytest.raises(ConfigError, match="prune it first"):
        regrow(replace(pruned, layers=tuple(replace(la, mask=None) for la in pruned.layers)), samples)


def test_many_rows_are_predicted_in_runs() -> None:
    """Of numbers, in rows or columns, and of categories; an error counts the rows before its run."""
    strict = NETS["projection"]
    X = rows(strict.front, 2 * RUN + 7)
    X[~np.isfinite(X)] = 0.0
    wanted = np.concatenate([strict.scores(X[a : a + 100]) for a in range(0, len(X), 100)])
    np.testing.assert_array_equal(strict.scores(X), wanted)
    np.testing.assert_array_equal(strict.scores(np.asfortranarray(X)), wanted)
    X[RUN + 5, 0] = np.inf
    with pytest.raises(MissingValueError, match=rf"'x_0', found inf {RUN + 5} rows after row 0;"):
        strict.scores(X)
    named = made_tables.NETS["both"]
    table = made_tables.table(named.front, RUN + 100)
    parts = [named.scores(table.slice(a, 90)) for a in range(0, RUN + 100, 90)]
    np.testing.assert_array_equal(named.scores(table), np.concatenate(parts))
