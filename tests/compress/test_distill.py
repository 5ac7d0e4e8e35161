"""Teachers' logits beside the rows, copies of pictures, low rank, and folded projections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from compress import (
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
from compress.augment import Affine, augmentation
from compress.integer import whole_net
from compress.pack import packed, unpacked
from reduce import PCA
from reduce.errors import ConfigError, DataError, OutputError, SchemaError
from tests.compress.conftest import OPTIMIZER, error, read

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
    assert set(table.column_names) == {"id", "label", "features", "teacher"}
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
    np.testing.assert_allclose(model.forward(front.scaled(front.codes(X)))[0] * front.spread, pooled, atol=1e-3)
    whole = quantize(model, samples, bits=6)
    back = unpacked(packed(whole))
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
    np.testing.assert_array_equal(unpacked(packed(small)).scores(digits[2]), small._whole.scores(digits[2]))
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
    files = [packed(quantize(model, read(folder), bits=4)) for model in (whole, resumed)]
    assert files[0] == files[1]
