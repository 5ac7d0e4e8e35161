"""What evaluate says agrees with scikit-learn, SciPy and the file system, whatever the blocks."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import log_loss, r2_score, roc_auc_score, root_mean_squared_error

from eigenmill.compress import Evaluation, Model, Samples, evaluate, gather, load, pack, quantize, train
from eigenmill.compress.judging.evaluate import share
from eigenmill.reduce.errors import ConfigError, DataError, SchemaError
from tests.compress.conftest import OPTIMIZER, read, write


def test_it_agrees_with_its_peers(small: Model, digits: Any, tmp_path: Path) -> None:
    _, _, X, y = digits
    path = tmp_path / "model.emill"
    pack(small, path)
    found = evaluate(path, read(write(tmp_path / "test", X, y, 50)))
    net = load(path)
    chosen, sure = net.predict(X), net.predict_proba(X)
    assert found.rows == len(X)
    assert found.bytes == os.stat(path).st_size
    assert found.ratio == pytest.approx(small.float_bytes / os.stat(path).st_size)
    assert found.accuracy is not None
    assert found.accuracy.right == (chosen == y).sum()
    assert found.error == pytest.approx(np.mean(chosen != y))
    assert [s.right for _, s in found.classes] == [int(((chosen == y) & (y == k)).sum()) for k in range(10)]
    assert found.log_loss == pytest.approx(log_loss(y, sure), rel=1e-9)
    top = sure.max(axis=1)
    bins = np.minimum((top * 15).astype(int), 14)
    gaps = [abs((top[bins == b] - (chosen == y)[bins == b]).sum()) for b in range(15)]
    assert found.calibration_error == pytest.approx(sum(gaps) / len(y))
    assert found.multiply_adds == 64 * 32 + 32 * 10
    assert found.nonzero_multiply_adds == sum(np.count_nonzero(layer.weights) for layer in net.layers)
    assert (found.parameters, found.nonzero) == (
        small.parameters,
        sum(np.count_nonzero(layer.weights) + np.count_nonzero(layer.bias) for layer in net.layers),
    )


def test_files_blocks_arrays_and_models_score_alike(small: Model, digits: Any, tmp_path: Path) -> None:
    _, _, X, y = digits
    one, many = (evaluate(small, read(write(tmp_path / str(group), X, y, group))) for group in (1000, 7))
    arrays = evaluate(small, (X, y))
    assert {dataclasses.replace(found, data="") for found in (many, arrays)} == {dataclasses.replace(one, data="")}


def test_before_and_after(trained: Model, small: Model, digits: Any) -> None:
    _, _, X, y = digits
    found = evaluate(small, (X, y), against=trained, teacher=trained)
    before, after = trained.predict(X) == y, small.predict(X) == y
    first, second = int((before & ~after).sum()), int((after & ~before).sum())
    assert found.mcnemar is not None
    assert (found.mcnemar.only_before, found.mcnemar.only_after) == (first, second)
    assert found.mcnemar.p_value == pytest.approx(binomtest(first, first + second).pvalue)
    assert found.agreement == pytest.approx(np.mean(trained.predict(X) == small.predict(X)))
    assert found.float_bytes == trained.float_bytes
    assert evaluate(trained, (X, y)).bytes is None


def test_validation_rows_are_scored_from_their_codes(
    trained: Model, small: Model, samples: Samples, folder: Path
) -> None:
    X, y = (np.concatenate(parts) for parts in zip(*samples.blocks("held"), strict=True))
    for model in (trained, small):
        found, true = evaluate(model, samples, against=trained), evaluate(model, (X, y), against=trained)
        assert found.rows == samples.n_held > 100
        assert dataclasses.replace(found, data="") == dataclasses.replace(true, data="")
    other = gather(Model.mlp(None, [32], 10, input_bits=3), read(folder))
    with pytest.raises(ConfigError, match="gathered for this model"):
        evaluate(small, other)


def test_two_classes_have_an_area_and_values_an_error(digits: Any) -> None:
    X, y, Xt, yt = digits
    model = train(Model.linear(), (X, (y > 4).astype(int)), epochs=5)
    found = evaluate(model, (Xt, (yt > 4).astype(int)))
    true = roc_auc_score(yt > 4, np.diff(model.scores(Xt), axis=1)[:, 0])
    assert found.auc is not None
    assert found.auc_within is not None
    assert abs(found.auc - true) <= found.auc_within + 1e-12
    assert found.auc_within < 1e-3
    values = X[:, 20:30].sum(axis=1).astype(float)
    wanted = Xt[:, 20:30].sum(axis=1).astype(float)
    line = quantize(train(Model.linear(task="regression"), (X, values), epochs=20), (X, values), bits=12)
    found = evaluate(line, (Xt, wanted), teacher=line)
    predicted = load_again(line).predict(Xt)
    assert found.rmse == pytest.approx(root_mean_squared_error(wanted, predicted))
    assert found.r2 == pytest.approx(r2_score(wanted, predicted))
    assert found.agreement == 0
    assert found.accuracy is None


def load_again(model: Model) -> Any:
    from eigenmill.compress.packed.pack import packed_bytes, unpack

    return unpack(packed_bytes(model))


@pytest.mark.parametrize(("right", "rows"), [(9850, 10000), (0, 5), (5, 5), (1, 3)])
def test_the_interval_is_wilsons(right: int, rows: int) -> None:
    true = binomtest(right, rows).proportion_ci(0.95, method="wilson")
    found = share(right, rows)
    assert (found.low, found.high) == pytest.approx((true.low, true.high), abs=1e-12)


def test_time_is_measured_by_backend_and_batch(small: Model, digits: Any) -> None:
    _, _, X, y = digits
    calls: list[int] = []

    def other(rows: Any) -> Any:
        calls.append(len(rows))
        return small.predict(rows)

    found = evaluate(small, (X, y), batches=(1, 700), backends={"other": other})
    assert [(t.backend, t.batch) for t in found.latency] == [
        ("numpy", 1),
        ("numpy", 700),
        ("other", 1),
        ("other", 700),
    ]
    assert set(calls) == {1, 700}
    assert all(0 < t.p50_us <= t.p95_us and t.calls >= 20 for t in found.latency)


def test_it_is_plain_json(small: Model, digits: Any) -> None:
    _, _, X, y = digits
    found = evaluate(small, (X, y), against=small, batches=(3,))
    plain = json.loads(json.dumps(found.as_json()))
    assert Evaluation.from_json(plain) == found
    assert plain["kb"] == plain["bytes"] / 1000
    assert plain["mcnemar"] == {"only_before": 0, "only_after": 0, "p_value": 1.0}
    assert len(plain["classes"]) == 10


def test_what_cannot_be_scored_is_refused(small: Model, trained: Model, samples: Samples, digits: Any) -> None:
    X, y, Xt, yt = digits
    with pytest.raises(SchemaError, match="64 raw, dense features"):
        evaluate(small, (Xt[:, :5], yt))
    with pytest.raises(DataError, match="labels among"):
        evaluate(small, (Xt, yt + 5))
    with pytest.raises(DataError, match="rows to score"):
        evaluate(small, (Xt[:0], yt[:0]))
    with pytest.raises(ConfigError, match="trained model"):
        evaluate(Model.mlp(), (Xt, yt))
    with pytest.raises(ConfigError, match="same task and labels"):
        evaluate(small, (Xt, yt), against=train(Model.linear(), (X, y > 3), epochs=1, optimizer=OPTIMIZER))
