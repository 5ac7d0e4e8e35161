"""Training: it learns, from any order of rows; the same again gives the same bytes; stopped, it goes on."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from eigenmill.compress import (
    EntropyPenalty,
    LearnedStep,
    Magnitude,
    Model,
    Samples,
    Validation,
    evaluate,
    gather,
    prune,
    quantize,
    train,
)
from eigenmill.compress.core.data import clean_blocks
from eigenmill.compress.packed.pack import packed_bytes
from eigenmill.compress.training.settings import TrainKeywords, TrainSettings
from eigenmill.compress.training.train import Epoch, _Training
from eigenmill.reduce import PCA, Dataset, StandardScaler
from eigenmill.reduce.errors import ConfigError, DataError, MissingValueError, OutputError, SchemaError
from eigenmill.reduce.sources.parquet import ParquetSource
from tests.compress.conftest import OPTIMIZER, error, read, write
from tests.support.formats import use_compact


def same(a: Model, b: Model) -> bool:
    return all(
        x.weights.tobytes() == y.weights.tobytes() and x.bias.tobytes() == y.bias.tobytes()
        for x, y in zip(a.layers, b.layers, strict=True)
    )


def test_it_learns(trained: Model, digits: Any) -> None:
    assert error(trained, *digits[2:]) < 0.06
    proba = trained.predict_proba(digits[2])
    np.testing.assert_allclose(proba.sum(axis=1), 1)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "gradient_descent", "lr": 0.5},
        {"name": "sgd", "lr": 0.1},
        {"name": "momentum", "lr": 0.05, "momentum": 0.9},
        {"name": "adam", "lr": 0.003},
    ],
    ids=lambda o: o["name"],
)
def test_every_optimizer_lowers_the_loss(optimizer: dict[str, Any], samples: Samples) -> None:
    losses: list[float] = []
    train(Model.mlp(None, [16], 10), samples, optimizer=optimizer, epochs=8, progress=lambda e: losses.append(e.loss))
    assert losses[-1] < 0.8 * losses[0]


def test_the_same_again_gives_the_same_bytes_and_another_seed_others(folder: Path) -> None:
    def run(seed: int) -> Model:
        return train(Model.mlp(None, [8], 10), read(folder), optimizer=OPTIMIZER, epochs=2, seed=seed)

    assert same(run(0), run(0))
    assert not same(run(0), run(1))


def test_a_file_sorted_by_label_trains_as_well(digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_compact(monkeypatch, piece_bytes=20_000)  # several pieces
    X, y, X_test, y_test = digits
    order = np.argsort(y, kind="stable")
    sorted_, shuffled = write(tmp_path / "sorted", X[order], y[order]), write(tmp_path / "shuffled", X, y)
    errors = []
    for place in (sorted_, shuffled):
        rows = gather(Model.mlp(None, [32], 10), read(place), validation=None)
        assert len(rows.pieces) > 3
        model = train(Model.mlp(None, [32], 10), rows, optimizer=OPTIMIZER, epochs=12)
        errors.append(error(model, X_test, y_test))
    assert abs(errors[0] - errors[1]) < 0.02
    assert max(errors) < 0.07


def test_the_order_of_the_file_changes_the_error_by_less_than_a_fifth_of_a_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_compact(monkeypatch, piece_bytes=20_000)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 12)) * 1.1
    y = rng.integers(0, 5, 70_000)
    X = (centres[y] + rng.normal(size=(len(y), 12))).astype(np.float32)
    errors = []
    for order in (np.arange(10_000), np.argsort(y[:10_000], kind="stable")):
        place = write(tmp_path / str(len(errors)), X[order], y[order], group=1000)
        rows = gather(Model.mlp(None, [16], 5), read(place), validation=None)
        assert len(rows.pieces) > 3
        options: dict[str, Any] = {"optimizer": {"name": "adam", "lr": 0.005}, "epochs": 8}
        models = [train(Model.mlp(None, [16], 5, seed=seed), rows, seed=seed, **options) for seed in range(3)]
        errors.append(float(np.mean([error(model, X[10_000:], y[10_000:]) for model in models])))
    assert 0.02 < errors[0] < 0.25
    assert abs(errors[0] - errors[1]) < 0.002


def test_an_epoch_has_every_row_once(samples: Samples) -> None:
    rng = np.random.default_rng(0)
    batches = list(samples.batches(100, rng))
    assert sum(len(t) for _, t, _ in batches) == samples.n_rows
    assert all(len(t) == 100 for _, t, _ in batches[:-1])
    read_ = np.concatenate([np.c_[c, t] for c, t, _ in batches])
    kept = np.concatenate([np.c_[c, t] for c, t in samples.blocks()])
    np.testing.assert_array_equal(np.sort(read_, axis=0), np.sort(kept, axis=0))
    assert samples.counts.sum() == samples.n_rows


def test_a_row_stays_on_its_side_of_the_split(digits: Any, tmp_path: Path) -> None:
    X, y = digits[:2]
    whole = gather(Model.mlp(None, [4], 10), read(write(tmp_path / "a", X, y)), validation={"by": "id", "share": 0.2})
    fewer = gather(
        Model.mlp(None, [4], 10), read(write(tmp_path / "b", X[:900], y[:900])), validation=Validation(0.2, "id")
    )
    assert 0.15 < whole.n_held / len(X) < 0.25
    held = {bytes(c) for codes, _ in whole.blocks("held") for c in codes}
    assert all(bytes(c) in held for codes, _ in fewer.blocks("held") for c in codes)
    assert not any(bytes(c) in held for codes, _ in whole.blocks() for c in codes)


NUMBERED = pa.table(
    {
        "a": np.where(np.arange(40) % 7 == 3, np.nan, np.arange(40.0)),
        "label": np.arange(40) % 2,
        "id": np.arange(40) - 20,
        "name": [*(f"n{i}" for i in range(39)), None],
    }
)


@pytest.mark.parametrize(
    ("by", "held"),
    [
        (None, [3, 10, 18, 20, 21, 33]),
        ("id", [4, 15, 23, 30, 38]),
        ("name", [0, 17, 19, 23, 28, 30, 32, 34, 37]),
    ],
)
def test_the_split_is_that_of_every_version(by: str | None, held: list[int], tmp_path: Path) -> None:
    """Stages, searches and teachers' files of other days were made with these rows held out.

    A row that cleaning drops does not move the others to another side.
    """
    for part in range(2):  # rows are numbered through all files
        pq.write_table(NUMBERED.slice(20 * part, 20), tmp_path / f"part-{part}.parquet")
    options: dict[str, Any] = {"columns": ["a"], "carry": ["label", "id", "name"]}
    split = Validation(0.3, by)
    for missing in ("zero", "drop"):
        data = Dataset.from_parquet(tmp_path, **options, missing=missing)
        found: list[int] = []
        for block, first in clean_blocks(data, "label"):
            assert block.carried is not None
            found += (np.asarray(block.carried.column("id"))[split.held_out(block, first)] + 20).tolist()
        assert found == [row for row in held if missing == "zero" or row % 7 != 3]
        assert gather(Model.linear(["a"]), data, validation=split).n_held == len(found)


@pytest.mark.parametrize(
    ("key", "hashed"),
    [(0, 0xE220A8397B1DCDAF), (-0x61C8864680B583EB, 0x6E789E6AA1B965F4), (0x3C6EF372FE94F82A, 0x06C45D188009454F)],
)
def test_a_row_is_held_out_by_the_first_53_bits_of_splitmix64(key: int, hashed: int) -> None:
    """The first numbers that the generator gives for seed 0, as its authors publish them."""
    table = pa.table({"a": [0.0], "label": [0], "id": [key]})
    data = Dataset.from_arrow(table, columns=["a"], carry=["label", "id"])
    ((block, first),) = clean_blocks(data, "label")
    number = (hashed >> 11) / 2**53
    assert not Validation(number, "id").held_out(block, first)[0]
    assert Validation(float(np.nextafter(number, 1)), "id").held_out(block, first)[0]


def test_a_column_may_say_what_is_held_out(tmp_path: Path) -> None:
    n = 200
    table = pa.table({"a": np.arange(n, dtype=float), "label": np.arange(n) % 2, "split": ["fit", "held"] * (n // 2)})
    data = Dataset.from_arrow(table, columns=["a"], carry=["label", "split"])
    found = gather(Model.linear(["a"]), data, validation={"by": "split", "equals": "fit"})
    assert (found.n_rows, found.n_held) == (100, 100)
    with pytest.raises(DataError, match="rows to train on"):
        gather(Model.linear(["a"]), data, validation={"by": "label", "since": 0})


def test_rows_since_a_time_may_be_held_out(tmp_path: Path) -> None:
    days = np.datetime64("2001-01-01") + np.arange(100)
    table = pa.table({"a": np.arange(100.0), "label": np.arange(100) % 2, "day": days})
    data = Dataset.from_arrow(table, columns=["a"], carry=["label", "day"])
    since = datetime.date(2001, 3, 2)
    found = gather(Model.linear(["a"]), data, validation=Validation(by="day", since=since))
    assert (found.n_rows, found.n_held) == (60, 40)
    low = min(int(c.min()) for c, _ in found.blocks("held"))
    assert low > max(int(c.max()) for c, _ in found.blocks())
    for kind in (pa.date32(), pa.timestamp("us"), pa.timestamp("ns", "Europe/Berlin")):
        times = table.set_column(2, "day", table["day"].cast(kind))
        data = Dataset.from_arrow(times, columns=["a"], carry=["label", "day"])
        for given in ("2001-03-02", since):
            assert gather(Model.linear(["a"]), data, validation={"by": "day", "since": given}).n_held == 40
    with pytest.raises(SchemaError, match=r"'day' to compare with 'soon', found timestamp\[ns.*give a value"):
        gather(Model.linear(["a"]), data, validation={"by": "day", "since": "soon"})
    with pytest.raises(DataError, match="hold out with 'day' since '2002-01-01', found none"):
        gather(Model.linear(["a"]), data, validation={"by": "day", "since": "2002-01-01"})
    with pytest.raises(ConfigError, match=r"found \['bye', 'since'\]; use these names"):
        gather(Model.linear(["a"]), data, validation={"bye": "day", "since": since})


def test_settings_are_a_record_and_keywords_alike(samples: Samples) -> None:
    """Whatever ba05dba took as a keyword is one still, and a record of them says the same."""
    names = ["label", "optimizer", "epochs", "batch", "schedule", "constraints", "patience", "validation"]
    names += ["class_weight", "seed", "augment", "teacher", "temperature", "share", "forget"]
    assert get_type_hints(TrainKeywords) == get_type_hints(TrainSettings)
    assert list(get_type_hints(TrainSettings)) == names
    start, record = Model.mlp(None, [8], 10), TrainSettings(optimizer=OPTIMIZER, epochs=2, batch=64)
    assert same(train(start, samples, record, epochs=1), train(start, samples, optimizer=OPTIMIZER, epochs=1, batch=64))
    assert not same(train(start, samples, record), train(start, samples, record, epochs=1))
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'"):
        train(start, samples, epoch=3)  # type: ignore[call-arg]


class StopError(Exception):
    pass


@pytest.mark.parametrize("optimizer", [OPTIMIZER, {"name": "adam", "lr": 0.003}], ids=["momentum", "adam"])
def test_a_resumed_training_equals_an_uninterrupted_one(optimizer: Any, samples: Samples, tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": optimizer, "epochs": 6, "patience": 5}
    options["constraints"] = [Magnitude(0.7, until=0.5), LearnedStep(4), EntropyPenalty(1e-6)]
    whole = train(Model.mlp(None, [8], 10), samples, **options)
    path = tmp_path / "checkpoint"

    def stop(epoch: Epoch) -> None:
        if epoch.number == 4:
            raise StopError

    with pytest.raises(StopError):
        train(Model.mlp(None, [8], 10), samples, **options, checkpoint=path, progress=stop)
    assert path.exists()
    with pytest.raises(OutputError, match="another's"):
        train(Model.mlp(None, [8], 10), samples, **{**options, "epochs": 7}, checkpoint=path)
    seen: list[int] = []
    resumed = train(
        Model.mlp(None, [8], 10), samples, **options, checkpoint=path, progress=lambda e: seen.append(e.number)
    )
    assert seen == [5, 6]
    assert same(whole, resumed)
    assert packed_bytes(quantize(whole, samples, bits=4)) == packed_bytes(quantize(resumed, samples, bits=4))
    assert [a.step for a in whole.layers] == [b.step for b in resumed.layers]
    assert not path.exists()


def test_the_rate_rises_for_a_twentieth_of_the_steps_and_falls_to_nothing(samples: Samples) -> None:
    rates: list[float] = []
    recorded = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    try:
        train(Model.mlp(None, [4], 10), samples, optimizer={"name": "sgd", "lr": 0.1}, epochs=10, batch=100)
    finally:
        recorded.remove()
    assert len(rates) == 10 * -(-samples.n_rows // 100)
    done = np.arange(1, len(rates) + 1) / len(rates)
    fall = (done - 0.05) / 0.95
    np.testing.assert_allclose(rates, 0.1 * np.where(fall < 0, done / 0.05, np.cos(np.pi / 2 * fall) ** 2), atol=1e-15)


def test_early_stopping_keeps_the_best(samples: Samples) -> None:
    seen: list[Epoch] = []
    model = train(
        Model.mlp(None, [32], 10), samples, optimizer=OPTIMIZER, epochs=60, schedule="constant", patience=3,
        progress=seen.append,
    )  # fmt: skip
    assert len(seen) < 60
    best = min(seen, key=lambda e: e.held_loss or 0)
    assert best.number == len(seen) - 3
    wrong = sum(
        int((model.forward(samples.front.scaled_inputs(c))[-1].argmax(1) != t).sum()) for c, t in samples.blocks("held")
    )
    assert wrong / samples.n_held == best.held_error


def test_early_stopping_waits_until_pruning_is_done(trained: Model, samples: Samples) -> None:
    """Epochs that end with more weights have less loss, and are not what was asked for. Nothing moves but the masks."""
    seen: list[Epoch] = []
    model = train(
        trained, samples, optimizer={"name": "sgd", "lr": 0}, epochs=8, patience=1, progress=seen.append,
        constraints=[Magnitude(0.6, until=0.5)],
    )  # fmt: skip
    losses = [epoch.held_loss or 0 for epoch in seen]
    assert losses[0] < losses[3] == losses[4]  # of the first epoch with all masks, and of the one that was waited for
    assert len(seen) == 5
    assert len({epoch.nonzero for epoch in seen}) == 4
    assert evaluate(model, samples).log_loss == pytest.approx(losses[3], rel=1e-5)
    assert np.mean(np.concatenate([layer.weights.ravel() for layer in model.layers]) == 0) == pytest.approx(0.6, 1e-3)


def test_what_is_pruned_stays_pruned(trained: Model, samples: Samples) -> None:
    start = prune(trained, 0.7)
    for optimizer in (OPTIMIZER, {"name": "adam", "weight_decay": 0.01}):
        after = train(start, samples, optimizer=optimizer, epochs=1)
        for before, layer in zip(start.layers, after.layers, strict=True):
            assert before.mask is not None
            assert (layer.weights[~before.mask] == 0).all()
            assert (layer.weights[before.mask] != before.weights[before.mask]).any()


def test_the_optimizer_forgets_pruned_weights(samples: Samples, trained: Model) -> None:
    atonce = (Magnitude(0.5, "at once"),)
    given = TrainSettings(optimizer=OPTIMIZER, epochs=2, batch=64, schedule="constant", constraints=atonce)
    run = _Training(replace(samples, model=trained), given)
    run._epoch(0)
    for layer in run.layers:
        assert layer.mask is not None
        gone = layer.mask.numpy() == 0
        state = run.optimizer.state[layer.free]["momentum_buffer"].numpy()
        assert gone.any()
        assert (state[gone] == 0).all()
        assert (state[~gone] != 0).any()


def test_gradual_pruning_reaches_its_share(samples: Samples) -> None:
    counts: list[int] = []
    model = train(
        Model.mlp(None, [32], 10), samples, optimizer=OPTIMIZER, epochs=10, constraints=[Magnitude(0.85)],
        progress=lambda e: counts.append(e.nonzero),
    )  # fmt: skip
    total = sum(layer.weights.size for layer in model.layers)
    assert sum(np.count_nonzero(layer.weights) for layer in model.layers) == round(0.15 * total)
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_learned_steps_keep_weights_on_a_grid_and_the_penalty_lowers_their_entropy(samples: Samples) -> None:
    entropies, fast = [], {"name": "adam", "lr": 0.01}
    for constraints in ([LearnedStep(4)], [LearnedStep(4), EntropyPenalty(1e-3)]):
        model = train(Model.mlp(None, [16], 10), samples, optimizer=fast, epochs=20, constraints=constraints)
        bits = 0.0
        for layer in model.layers:
            assert layer.step is not None
            ints = layer.weights / np.float32(layer.step)
            np.testing.assert_allclose(ints, np.rint(ints), atol=1e-3)
            assert np.abs(ints).max() <= 7.001
            p = np.unique(layer.whole(), return_counts=True)[1] / layer.weights.size
            bits += layer.weights.size * float(-(p * np.log2(p)).sum())
        entropies.append(bits)
    assert entropies[1] < 0.8 * entropies[0]


def test_a_regression_finds_its_line() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 5)) * [1, 10, 100, 1000, 1e4] + 1e5
    y = X @ [1, 0.1, 0.01, 0.001, 1e-4] + 7e5
    linear = train(
        Model.linear(task="regression"), (X, y), optimizer={"name": "adam", "lr": 0.02}, epochs=30, validation=None
    )
    residual = linear.predict(X) - y
    assert residual.std() < 0.05 * y.std()


def test_a_pca_is_the_first_layer(digits: Any, folder: Path) -> None:
    X_test, y_test = digits[2:]
    data = Dataset.from_parquet(folder, vector="pixels")
    pca = PCA(n_components=12, scale=False).fit(data)
    model = Model.mlp(pca, [16], 10)
    front, first = model.front, model.layers[0]
    assert front is not None
    features = model.forward(front.scaled_inputs(front.codes(X_test)))[0]
    expected = pca.transform(X_test.astype(np.float32))
    ratio = expected.std() / features.std()
    np.testing.assert_allclose(features * ratio, expected, atol=2e-3 * np.abs(expected).max())
    assert (first.relu, first.n_out) == (False, 12)
    model = train(model, read(folder), optimizer=OPTIMIZER, epochs=15)
    assert error(model, X_test, y_test) < 0.08


def test_balanced_weights_find_the_rare_class() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(3000) < 0.04).astype(int)
    X = rng.normal(size=(3000, 3)) + 1.2 * y[:, None]
    options: dict[str, Any] = {"optimizer": {"name": "adam", "lr": 0.02}, "epochs": 6}
    plain, even = (train(Model.linear(), (X, y), class_weight=w, **options) for w in (None, "balanced"))
    recall = [float((m.predict(X)[y == 1] == 1).mean()) for m in (plain, even)]
    assert recall[1] > recall[0] + 0.3


def test_the_loss_of_rows_held_out_counts_every_row_once_whatever_training_weighs() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(1000) < 0.1).astype(int)
    X = rng.normal(size=(1000, 3)) + y[:, None]
    rows, seen = gather(Model.linear(), (X, y), validation=0.3), list[Epoch]()
    model = train(Model.linear(), rows, class_weight="balanced", epochs=2, progress=seen.append)
    assert seen[-1].held_loss == pytest.approx(evaluate(model, rows).log_loss, rel=1e-5)


def test_values_of_many_files_are_scaled_by_all_of_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(mean, 1, rows) for mean, rows in ((1e6, 30), (-5, 200), (1e6 + 40, 7))]
    for i, y in enumerate(parts):
        pq.write_table(pa.table({"a": y, "y": y}), tmp_path / f"{i}.parquet")
    data = Dataset.from_parquet(tmp_path, columns=["a"], carry=["y"])
    model = gather(Model.linear(["a"], task="regression"), data, "y").model
    whole = np.concatenate(parts)
    assert (model.offset, model.scale) == pytest.approx((whole.mean(), whole.std()), rel=1e-12)


def test_labels_may_be_text_or_booleans() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2))
    for y in (np.where(X[:, 0] > 0, "up", "down"), X[:, 0] > 0, np.where(X[:, 0] > 0, -7, 12)):
        model = train(Model.linear(), (X, y), optimizer={"name": "adam", "lr": 0.1}, epochs=10)
        assert (model.predict(X) == y).mean() > 0.95


def test_missing_values_follow_the_policy_of_the_data() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3))
    y = (X[:, 0] > 0).astype(int)
    X[::7, 1] = np.nan
    table = pa.table({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "label": y})
    columns: dict[str, Any] = {"columns": ["a", "b", "c"], "carry": ["label"]}
    with pytest.raises(MissingValueError, match="'b'"):
        train(Model.linear(), Dataset.from_arrow(table, **columns))
    for missing in ("mean", "zero", "drop"):
        model = train(Model.linear(), Dataset.from_arrow(table, **columns, missing=missing), epochs=2)
        if missing == "drop":
            with pytest.raises(MissingValueError):
                model.predict(X)
        else:
            filled = np.where(np.isnan(X), np.nanmean(X, axis=0) if missing == "mean" else 0.0, X)
            np.testing.assert_allclose(model.scores(X), model.scores(filled), atol=1e-6)


def test_labels_that_cannot_be_are_refused() -> None:
    X = np.random.default_rng(0).normal(size=(100, 2))
    up = X[:, 0] > 0
    large, lone = np.where(up, np.uint64((1 << 64) - 1), np.uint64(3)), np.where(up, "a\ud800", "b")
    with pytest.raises(DataError, match="64 bits with a sign in 'label', found 18446744073709551615"):
        gather(Model.linear(), (X, large))
    with pytest.raises(SchemaError, match="surrogates not allowed"):
        gather(Model.linear(), (X, lone))
    with pytest.raises(DataError, match="squares float64 can hold"):
        gather(Model.linear(task="regression"), (X, X[:, 0] * 1e200))
    for value in (np.nan, np.inf):
        with pytest.raises(DataError, match="expected finite values in 'label'"):
            gather(Model.linear(task="regression"), (X, np.where(up, value, 1.0)))
    assert gather(Model.linear(), (X, np.where(up, "a\0b", "a"))).model.labels == ("a", "a\0b")


def test_it_says_what_is_wrong(digits: Any, folder: Path, samples: Samples, tmp_path: Path) -> None:
    X, y = digits[:2]
    model = Model.mlp(None, [4], 10)
    with pytest.raises(DataError, match="two classes"):
        train(Model.mlp(None, [4]), (X, np.zeros(len(X), int)))
    with pytest.raises(DataError, match="expected 10 classes"):
        train(model, (X, y % 3))
    with pytest.raises(SchemaError, match="carried column 'label'"):
        train(model, Dataset.from_parquet(folder, vector="pixels"))
    with pytest.raises(ConfigError, match="optimizer among"):
        train(model, samples, optimizer="newton")
    with pytest.raises(ConfigError, match="settings of adam"):
        train(model, samples, optimizer={"name": "adam", "momentum": 0.9})
    with pytest.raises(ConfigError, match=r"a fitted PCA or TruncatedSVD as the first layer, found .* StandardScaler"):
        Model.mlp(StandardScaler().fit(X), [4], 10)
    with pytest.raises(ConfigError, match="finite loss"):
        train(Model.linear(task="regression"), (X, y.astype(float)), optimizer={"name": "sgd", "lr": 1e3})
    with pytest.raises(ConfigError, match="call train"):
        model.predict(X)
    with pytest.raises(ConfigError, match="LearnedStep beside"):
        train(model, samples, constraints=[EntropyPenalty()])
    table = pq.read_table(folder)
    holes = table.set_column(1, "label", pa.array([None if i == 700 else 1 for i in range(len(table))]))
    pq.write_table(holes, tmp_path / "holes.parquet", row_group_size=300)
    with pytest.raises(DataError, match="row group 2, row 100"):
        train(model, Dataset.from_parquet(tmp_path / "holes.parquet", vector="pixels", carry=["label"]))


def test_a_model_is_saved_between_steps(pruned: Model, small: Model, tmp_path: Path, digits: Any) -> None:
    for model in (pruned, small):
        model.save(tmp_path / "model.safetensors")
        back = Model.restore(tmp_path / "model.safetensors")
        np.testing.assert_array_equal(back.scores(digits[2]), model.scores(digits[2]))
        assert back.labels == model.labels


def test_the_features_are_decoded_twice_and_the_labels_alone_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_by: list[tuple[str, ...]] = []
    blocks = ParquetSource.blocks

    def told(self: ParquetSource, fragment: Any, *arguments: Any, carry: bool) -> Any:
        if fragment.index == 0:
            read_by.append(self.columns(carry=carry))
        return blocks(self, fragment, *arguments, carry=carry)

    monkeypatch.setattr(ParquetSource, "blocks", told)
    gather(Model.mlp(None, [8], 10), read(folder))
    assert read_by == [("pixels",), ("label",), ("pixels", "id", "label")]
