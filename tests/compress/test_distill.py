"""Teachers' logits beside the rows, copies of pictures, low rank, and folded projections."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import log_softmax

from eigenmill.compress import (
    EntropyPenalty,
    LearnedStep,
    Model,
    Samples,
    Validation,
    distill,
    factorize,
    fold_projection,
    gather,
    load,
    pack,
    pooling,
    quantize,
    teach,
    train,
)
from eigenmill.compress.core.model import whole_net
from eigenmill.compress.packed.pack import packed_bytes, unpack
from eigenmill.compress.training.augment import Affine, augmentation
from eigenmill.compress.training.train import Epoch
from eigenmill.reduce import PCA, Dataset
from eigenmill.reduce.errors import ConfigError, DataError, OutputError, SchemaError
from tests.compress.conftest import OPTIMIZER, error, read
from tests.compress.made_tables import NAMES, data_of, late

MOVES = Affine(8, 8, shift=0.7, turn=8, zoom=0.05, shear=4)


def test_an_affine_copy_is_a_picture_and_the_seed_decides_it(digits: Any) -> None:
    X = digits[0].astype(np.float32)
    still = Affine(8, 8, shift=0, turn=0, zoom=0, shear=0)
    np.testing.assert_allclose(still(X, np.random.default_rng(0)), X, atol=1e-4)
    a, b, c = (MOVES(X, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    assert a.min() >= 0
    assert a.max() <= X.max() + 1e-4
    # A shift by a whole pixel moves what is inside, and blank comes in.
    one = np.zeros((1, 16), np.float32)
    one[0, 5] = 1
    moved = Affine(4, 4, shift=1, turn=0, zoom=0, shear=0)(np.repeat(one, 400, 0), np.random.default_rng(0))
    centre = (moved.reshape(-1, 4, 4) * np.arange(4)).sum((1, 2))
    assert 0 <= centre.min() < 0.2
    assert 1.8 < centre.max() <= 2.0


def test_augmentations_have_names_and_refuse_other_shapes(samples: Samples) -> None:
    assert augmentation({"name": "affine", "height": 8, "width": 8}) == Affine(8, 8)
    for wrong in ({"name": "elastic"}, {"name": "affine", "heigth": 8}, {"name": "affine", "height": 0, "width": 8}):
        with pytest.raises(ConfigError, match="expected"):
            augmentation(wrong)
    with pytest.raises(SchemaError, match="7 x 8"):
        train(Model.mlp(None, [4], 10), samples, epochs=1, augment={"name": "affine", "height": 7, "width": 8})
    one, two, other = (
        train(Model.mlp(None, [4], 10), samples, epochs=1, augment=MOVES, seed=seed).layers[0].weights
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_teachers_are_asked_once_and_their_logits_lie_beside_the_rows(
    digits: Any, folder: Path, trained: Model, small: Model, tmp_path: Path
) -> None:
    path = tmp_path / "taught.parquet"
    asked = [0]

    def third(X: Any) -> Any:
        asked[0] += len(X)
        return trained.scores(X) * 2

    third.digest = "third"  # type: ignore[attr-defined]
    members = [trained, whole_net(small), third]
    data = teach(members, read(folder), path)
    n, once = len(digits[0]), asked[0]
    assert once == n
    table = pq.read_table(path)
    assert set(table.column_names) == {"id", "label", "pixels", "teacher"}
    order = np.argsort(table["id"].to_numpy())
    found = table["teacher"].combine_chunks().flatten().to_numpy().reshape(n, 10)[order]
    expected = np.mean(
        [np.log(m.predict_proba(digits[0])) for m in (trained, small)]
        + [2 * trained.scores(digits[0]) - np.logaddexp.reduce(2 * trained.scores(digits[0]), axis=1)[:, None]],
        axis=0,
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert teach(members, read(folder), path).digest == data.digest
    assert asked[0] == once
    teach(members, read(folder), path, seed=1)
    assert asked[0] == 2 * once


@pytest.mark.parametrize("error", [ValueError("no more answers"), KeyboardInterrupt()], ids=["error", "stopped"])
def test_a_teacher_that_fails_half_way_leaves_the_file_that_was_there(error: BaseException, tmp_path: Path) -> None:
    for part in range(2):
        rows = {"a": np.arange(4.0) + part, "label": [0, 1, 0, 1]}
        pq.write_table(pa.table(rows), tmp_path / f"part-{part}.parquet")
    data = Dataset.from_parquet(str(tmp_path / "part-*.parquet"), columns=["a"], carry=["label"])
    place, asked = tmp_path / "taught", list[int]()
    place.mkdir()
    teach(lambda X: np.c_[-X, X], data, place / "taught.parquet")
    before = (place / "taught.parquet").read_bytes()

    def failing(X: Any) -> Any:
        asked.append(len(X))
        if len(asked) == 2:
            raise error
        return np.c_[X, -X]

    with pytest.raises(type(error)) as caught:
        teach(failing, data, place / "taught.parquet")
    assert caught.value is error
    assert asked == [4, 4]
    del caught
    gc.collect()  # the encoder goes without a word
    assert [path.name for path in place.iterdir()] == ["taught.parquet"]
    assert (place / "taught.parquet").read_bytes() == before


def test_the_loss_is_hintons_distance_from_the_teacher(folder: Path, trained: Model, tmp_path: Path) -> None:
    data, seen = teach(trained, read(folder), tmp_path / "t.parquet"), list[Epoch]()
    rows = gather(Model.mlp(None, [8], 10), data, teacher="teacher", validation=None)
    options: dict[str, Any] = {"optimizer": {"name": "sgd", "lr": 0}, "epochs": 1, "progress": seen.append}
    model = train(rows.model, rows, teacher="teacher", share=1.0, temperature=3.0, **options)
    codes, _, said = next(iter(rows.batches(rows.n_rows, np.random.default_rng(0))))
    own, wanted = log_softmax(model.forward(rows.front.scaled_inputs(codes))[-1] / 3, 1), log_softmax(said / 3, 1)
    apart = (np.exp(wanted) * (wanted - own)).sum(axis=1)
    assert seen[0].loss == pytest.approx(9 * apart.mean(), rel=1e-5)


def test_copies_stay_on_the_side_of_their_row(folder: Path, trained: Model, tmp_path: Path, digits: Any) -> None:
    data = teach(trained, read(folder), tmp_path / "t.parquet", copies=3, augment=MOVES, dtype="uint8")
    model, by_id = Model.mlp(None, [8], 10), Validation(0.2, "id")
    plain = gather(model, read(folder), validation=by_id)
    rows = gather(model, data, teacher="teacher", validation=by_id)
    assert (rows.n_rows, rows.n_held) == (4 * plain.n_rows, 4 * plain.n_held)
    assert rows.front.bits == 8
    codes, _, logits = next(iter(rows.batches(64, np.random.default_rng(0))))
    assert logits is not None
    np.testing.assert_allclose(logits, np.log(trained.predict_proba(codes)), atol=1e-3)


def table_of(rows: int = 900) -> pa.Table:
    """A label that hangs on three columns of different kinds, with gaps."""
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(1e6, 1, rows), rng.integers(0, 2**40, rows), rng.random(rows) < 0.5
    late = (a - 1e6) + (b / 2**40 - 0.5) * 3 + c > 0.5
    a[::50] = np.nan
    return pa.table({"a": a, "b b": b, "c": c, "label": late, "id": np.arange(rows)})


def test_columns_keep_their_names_and_values_and_the_students_file_reads_the_raw_ones(tmp_path: Path) -> None:
    rows = table_of()
    pq.write_table(rows, tmp_path / "rows.parquet")
    options: dict[str, Any] = {"carry": ["id", "label"], "missing": "mean", "filters": [("id", "<", 700)]}
    data = Dataset.from_parquet(tmp_path / "rows.parquet", columns=["a", "b b", "c"], **options)
    other = Dataset.from_parquet(tmp_path / "rows.parquet", columns=["c", "a"], **options)
    # Of fewer columns in another order: it is asked by their names.
    teacher = train(Model.mlp(["c", "a"], [16]), other, optimizer=OPTIMIZER, epochs=3)
    taught = teach(teacher, data, tmp_path / "taught.parquet")
    assert taught.source.describe() == data.source.describe()
    found = pq.read_table(tmp_path / "taught.parquet")
    assert found.column_names == ["a", "b b", "c", "id", "label", "teacher"]
    np.testing.assert_array_equal(found["a"], rows["a"][:700])
    np.testing.assert_array_equal(found["b b"], rows["b b"][:700])
    said = found["teacher"].combine_chunks().flatten().to_numpy().reshape(700, 2)
    np.testing.assert_allclose(said, np.log(teacher.predict_proba(rows.slice(0, 700))), atol=1e-5)
    student = distill(Model.mlp(None, [8]), teacher, data, tmp_path / "again.parquet", optimizer=OPTIMIZER, epochs=3)
    pack(quantize(student, data), tmp_path / "m.emill")
    small = load(tmp_path / "m.emill")
    assert small.front.names == ["a", "b b", "c"]
    assert np.mean(small.predict(rows) == rows["label"].to_numpy()) > 0.8
    again = gather(student, taught, teacher="teacher", validation=None)
    plainly = gather(student, data, validation=None)
    for one, two in zip(again.blocks(), plainly.blocks(), strict=True):
        np.testing.assert_array_equal(one[0], two[0])


def test_rows_without_a_value_are_dropped_for_the_teacher_as_they_are_for_the_student(tmp_path: Path) -> None:
    rows = table_of()
    data = Dataset.from_arrow(rows, columns=["a", "b b", "c"], carry=["label", "id"], missing="drop")
    teacher = train(Model.mlp(None, [8]), data, optimizer=OPTIMIZER, epochs=2)
    taught = teach(teacher, data, tmp_path / "t.parquet")
    whole = rows["id"].to_numpy()[np.isfinite(rows["a"].to_numpy())]
    np.testing.assert_array_equal(pq.read_table(tmp_path / "t.parquet")["id"], whole)
    assert gather(teacher, taught, validation=None).n_rows == len(whole)


def test_categories_are_taught_and_learnt(tmp_path: Path) -> None:
    rows = late(2000)
    data = data_of(rows)
    teacher = train(Model.mlp(None, [24], categories=NAMES), data, label="late", optimizer=OPTIMIZER, epochs=8)
    path, options = tmp_path / "t.parquet", {"label": "late", "validation": 0.2}
    student = Model.mlp(None, [], categories=NAMES)
    small = distill(student, teacher, data, path, share=1.0, optimizer=OPTIMIZER, epochs=8, **options)
    found = pq.read_table(path)
    assert found.column_names == ["distance", "city", "when", "late", "teacher", "held_out"]
    said = found["teacher"].combine_chunks().flatten().to_numpy().reshape(-1, 2)
    np.testing.assert_allclose(said, np.log(teacher.predict_proba(rows)), atol=1e-5)
    new = late(2000, seed=1)
    pack(quantize(small, data, label="late"), tmp_path / "m.emill")
    assert np.mean(load(tmp_path / "m.emill").predict(new) == new["late"].to_numpy()) > 0.75
    assert np.mean(small.predict(new) == teacher.predict(new)) > 0.85


@pytest.mark.parametrize("split", [0.2, {"share": 0.2, "by": "id"}, {"by": "id", "since": 1200}])
def test_rows_held_out_are_the_same_beside_copies_and_have_none(
    split: Any, folder: Path, trained: Model, tmp_path: Path
) -> None:
    path = tmp_path / "t.parquet"
    data = teach(trained, read(folder), path, copies=2, augment=MOVES, validation=split)
    plain = gather(trained, read(folder), validation=split)
    taught = gather(trained, data, teacher="teacher", validation={"by": "held_out", "equals": True})
    assert (taught.n_rows, taught.n_held) == (3 * plain.n_rows, plain.n_held)
    for one, two in zip(taught.blocks("held"), plain.blocks("held"), strict=True):
        np.testing.assert_array_equal(one[0], two[0])
    found = pq.read_table(path)
    held = set(found["id"].to_numpy()[found["held_out"].to_numpy()].tolist())
    assert held.isdisjoint(found["id"].to_numpy()[~found["held_out"].to_numpy()].tolist())


def test_teachers_of_other_labels_and_names_that_are_taken_are_refused(
    folder: Path, trained: Model, digits: Any, tmp_path: Path
) -> None:
    upside = replace(trained, labels=trained.labels[::-1])
    with pytest.raises(DataError, match="same labels in the same order"):
        teach([trained, upside], read(folder), tmp_path / "t.parquet")
    table = pa.table({"teacher": np.arange(30.0), "label": np.arange(30) % 2})
    data = Dataset.from_arrow(table, columns=["teacher"], carry=["label"])
    with pytest.raises(ConfigError, match="found one of them; rename it"):
        teach(lambda X: X, data, tmp_path / "t.parquet")
    teach(lambda X: np.c_[X, X], data, tmp_path / "t.parquet", column="said")
    assert pq.read_table(tmp_path / "t.parquet").column_names == ["teacher", "label", "said"]
    with pytest.raises(ConfigError, match="raw, dense rows"):
        teach(trained, PCA(3).fit(read(folder)).transform(read(folder)), tmp_path / "t.parquet")


def test_a_student_comes_nearer_to_its_teacher_than_labels_alone_bring_it(
    digits: Any, folder: Path, samples: Samples, tmp_path: Path
) -> None:
    teacher = train(Model.mlp(None, [128], 10), samples, optimizer=OPTIMIZER, epochs=25)
    student = Model.mlp(None, [6], 10)
    options: dict[str, Any] = {"optimizer": OPTIMIZER, "epochs": 15, "validation": {"by": "id"}}
    alone = train(student, read(folder), **options)
    taught = distill(
        student, teacher, read(folder), tmp_path / "t.parquet", copies=3, augment=MOVES, share=0.9, **options
    )
    distances = []
    for model in (alone, taught):
        p, q = (m.predict_proba(digits[2]) for m in (teacher, model))
        distances.append(float(np.mean(np.sum(p * np.log(np.maximum(p, 1e-12) / np.maximum(q, 1e-12)), axis=1))))
    assert distances[1] < 0.8 * distances[0]
    assert error(taught, *digits[2:]) < error(alone, *digits[2:])


def test_teachers_that_disagree_and_samples_without_logits_are_refused(
    folder: Path, samples: Samples, trained: Model, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="one shape"):
        teach([trained, lambda X: np.zeros((len(X), 3))], read(folder), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="finite"):
        teach(lambda X: np.full((len(X), 10), np.nan), read(folder), tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()
    with pytest.raises(ConfigError, match="at least one teacher"):
        teach([], read(folder), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="gather them with teacher="):
        train(Model.mlp(None, [4], 10), samples, teacher="teacher", epochs=1)
    data = teach(lambda X: np.zeros((len(X), 3)), read(folder), tmp_path / "b.parquet")
    with pytest.raises(SchemaError, match="lists of 10 numbers"):
        gather(Model.mlp(None, [4], 10), data, teacher="teacher")


def test_a_pooled_net_is_small_and_its_tiles_are_declared(digits: Any, samples: Samples) -> None:
    model = train(Model.mlp(pooling(8, 8), [16], 10), samples, optimizer=OPTIMIZER, epochs=30)
    np.testing.assert_array_equal(model.layers[0].weights, pooling(8, 8).weights)
    assert model.layers[1].n_in == 16
    X = digits[2].astype(np.float32)
    front = model.trained().front
    assert front is not None
    pooled = X.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16)
    np.testing.assert_allclose(model.forward(front.scaled_inputs(front.codes(X)))[0] * front.spread, pooled, atol=1e-3)
    whole = quantize(model, samples, bits=6)
    back = unpack(packed_bytes(whole))
    np.testing.assert_array_equal(back.scores(X), whole_net(whole).scores(X))
    assert error(whole, *digits[2:]) < error(model, *digits[2:]) + 0.02 < 0.14
    with pytest.raises(ConfigError, match="whole 3 x 3 tiles"):
        pooling(8, 8, 3)


def test_a_factorized_layer_is_the_best_of_its_rank_and_is_smaller(trained: Model, digits: Any) -> None:
    model = factorize(trained, rank=5, only=0)
    first, second = model.layers[:2]
    assert (first.n_out, first.relu, second.relu) == (5, False, True)
    assert model.parameters < trained.parameters
    u, s, vt = np.linalg.svd(trained.layers[0].weights)
    np.testing.assert_allclose(first.weights @ second.weights, (u[:, :5] * s[:5]) @ vt[:5], atol=1e-5)
    same = factorize(trained, energy=1.0)
    assert [la.n_out for la in same.layers] == [la.n_out for la in trained.layers]
    np.testing.assert_array_equal(same.scores(digits[2]), trained.scores(digits[2]))
    for wrong in ({"rank": 0}, {"energy": 0.0}, {"only": 7}):
        with pytest.raises(ConfigError, match="expected a rank"):
            factorize(trained, **wrong)


def test_a_low_rank_net_can_be_trained_on_and_packed(trained: Model, samples: Samples, digits: Any) -> None:
    model = train(factorize(trained, rank=8, only=0), samples, optimizer=OPTIMIZER, epochs=5)
    small = quantize(model, samples, bits=8)
    np.testing.assert_array_equal(unpack(packed_bytes(small)).scores(digits[2]), small._whole.scores(digits[2]))
    assert error(small, *digits[2:]) < 0.06


def test_a_projection_folds_into_the_next_layer_where_that_is_smaller(folder: Path, digits: Any) -> None:
    pca = PCA(n_components=20).fit(read(folder))
    fits: dict[str, Any] = {"optimizer": OPTIMIZER, "epochs": 2}
    narrow = train(Model.mlp(pca, [12], 10), read(folder), **fits)
    folded = fold_projection(narrow)
    assert [la.n_in for la in folded.layers] == [64, 12]
    assert folded.parameters < narrow.parameters
    np.testing.assert_allclose(folded.scores(digits[2]), narrow.scores(digits[2]), atol=1e-3)
    wide = train(Model.mlp(pca, [60], 10), read(folder), **fits)
    assert len(fold_projection(wide).layers) == 3
    assert len(fold_projection(wide, always=True).layers) == 2
    again = train(folded, read(folder), **fits)
    assert (again.layers[0].weights != folded.layers[0].weights).any()


def test_all_together_a_twelfth_of_the_bytes_at_no_more_error_than_the_float_net(
    digits: Any, folder: Path, trained: Model, samples: Samples, tmp_path: Path
) -> None:
    teachers = [
        train(Model.mlp(None, [128], 10, seed=seed), samples, optimizer=OPTIMIZER, epochs=25) for seed in range(2)
    ]
    student = distill(
        Model.mlp(None, [24], 10),
        teachers,
        read(folder),
        tmp_path / "t.parquet",
        copies=3,
        augment=MOVES,
        dtype="uint8",
        optimizer={"name": "adam", "lr": 0.01},
        epochs=30,
        validation={"by": "id"},
        constraints=[LearnedStep(4, start=1.0), EntropyPenalty(3e-5)],
    )
    pack(quantize(student, read(folder), bits=4), tmp_path / "m.emill")
    size = (tmp_path / "m.emill").stat().st_size
    assert trained.float_bytes / size > 12
    assert error(load(tmp_path / "m.emill"), *digits[2:]) < error(trained, *digits[2:]) + 0.005


def test_a_resumed_distillation_equals_an_uninterrupted_one(folder: Path, trained: Model, tmp_path: Path) -> None:
    data = teach(trained, read(folder), tmp_path / "t.parquet")
    options: dict[str, Any] = {"teacher": "teacher", "augment": MOVES, "epochs": 4, "patience": 3}
    options |= {"constraints": [LearnedStep(4), EntropyPenalty(1e-6)], "optimizer": {"name": "adam", "lr": 0.005}}
    start = Model.mlp(pooling(8, 8), [8], 10)
    whole = train(start, data, **options)

    class StopError(Exception):
        pass

    def stop(epoch: Any) -> None:
        if epoch.number == 2:
            raise StopError

    with pytest.raises(StopError):
        train(start, data, **options, checkpoint=tmp_path / "c", progress=stop)
    for other in ({"share": 0.4}, {"temperature": 3.0}, {"augment": Affine(8, 8)}):
        with pytest.raises(OutputError, match="another's"):
            train(start, data, **{**options, **other}, checkpoint=tmp_path / "c")
    resumed = train(start, data, **options, checkpoint=tmp_path / "c")
    files = [packed_bytes(quantize(model, read(folder), bits=4)) for model in (whole, resumed)]
    assert files[0] == files[1]


def test_a_regression_learns_the_values_of_its_teacher(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 3))
    y = 1000 + 50 * X[:, 0] + rng.normal(size=1500) * 200

    def teacher(rows: Any) -> Any:
        return 1000 + 50 * rows[:, 0]

    model = distill(
        Model.linear(task="regression"),
        teacher,
        (X, y),
        tmp_path / "t.parquet",
        optimizer={"name": "adam", "lr": 0.02},
        epochs=40,
        share=1.0,
        validation=None,
    )
    assert np.abs(model.predict(X) - teacher(X)).max() < 5


def test_fewer_rows_than_features_train() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 200))
    y = (X[:, 0] > 0).astype(int)
    model = train(Model.mlp(None, [8]), (X, y), optimizer={"name": "adam", "lr": 0.01}, epochs=30, validation=None)
    assert error(model, X, y) < 0.1
