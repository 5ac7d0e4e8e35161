"""Categories: vocabularies that merge, codes with a stated rule for every value, and nets that look rows up."""

from __future__ import annotations

import datetime
import functools
import itertools
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenmill.compress import (
    EntropyPenalty,
    LearnedStep,
    Model,
    evaluate,
    gather,
    load,
    pack,
    prune,
    prune_neurons,
    quantize,
    regrow,
    share_weights,
    train,
)
from eigenmill.compress.core.categories import Category, VocabularyPass, columns_of, vocabulary_pass
from eigenmill.compress.core.model import whole_net
from eigenmill.compress.format import FORMAT_1
from eigenmill.compress.packed.pack import packed_bytes
from eigenmill.compress.packed.predict import predictions
from eigenmill.reduce import PCA, Dataset, connect
from eigenmill.reduce.errors import ConfigError, DataError, MissingValueError, SchemaError
from eigenmill.reduce.passes.base import from_arrays, to_arrays
from eigenmill.reduce.rows.blocks import Block, Columns
from tests.compress.conftest import error
from tests.compress.made_tables import CATEGORIES, NAMES, data_of, late, months
from tests.support.formats import other

GOLDEN = Path(__file__).parent / "golden"
OPTIMIZER = {"name": "adam", "lr": 0.02}
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return late()


@pytest.fixture(scope="module")
def trained(rows: pa.Table) -> Model:
    return train(Model.mlp(hidden=[12], categories=NAMES), data_of(rows), label="late", optimizer=OPTIMIZER, epochs=8)


@pytest.fixture(scope="module")
def small(trained: Model, rows: pa.Table) -> Model:
    return quantize(trained, data_of(rows), bits=8, label="late")


# Vocabularies


def block_of(values: list[Any], type_: pa.DataType | None = None) -> Block:
    return Block(Columns([], len(values)), None, pa.record_batch({"c": pa.array(values, type_)}))


def counted(pass_: VocabularyPass, parts: list[list[Any]], type_: pa.DataType | None = None) -> Any:
    state = pass_.start()
    for part in parts:
        state = pass_.fold(state, block_of(part, type_))
    return state


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.sampled_from("abcdefgh"), st.text(max_size=2)), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=3),
    st.integers(1, 5),
)
def test_a_vocabulary_is_the_most_frequent_values_however_rows_are_cut(values: Any, cuts: Any, most: int) -> None:
    pass_ = VocabularyPass(("c",), ("text",), most, 1)
    edges = sorted({0, len(values), *(min(c, len(values)) for c in cuts)})
    parts = [values[a:b] for a, b in itertools.pairwise(edges)]
    (found,) = pass_.finalize(counted(pass_, parts, pa.string()))
    counts = Counter(v for v in values if v is not None)
    best = sorted(counts, key=lambda v: (-counts[v], v.encode()))[:most]
    assert found.values == tuple(sorted(best, key=str.encode))
    assert found.nulls == (None in values)
    # Merged from halves, and through the bytes of its states, it is the same.
    halves = [counted(pass_, part, pa.string()) for part in (parts[: len(parts) // 2], parts[len(parts) // 2 :])]
    stored = [from_arrays(pass_.state_type(), to_arrays(half)) for half in halves]
    assert pass_.finalize(pass_.merge(*stored)) == (found,)


def test_counts_are_bounded_and_frequent_values_survive() -> None:
    rng = np.random.default_rng(0)
    pass_ = VocabularyPass(("c",), ("whole",), 3, 2, counted=40)
    rare = rng.permutation(3000)
    parts = [[*rare[a : a + 100].tolist(), *([-7] * 20), *([-1] * 15)] for a in range(0, 3000, 100)]
    state = counted(pass_, parts)
    assert len(pa.ipc.open_stream(state.entries.tobytes()).read_all()) <= 40
    assert state.taken[0] > 0
    (found,) = pass_.finalize(state)
    assert {-7, -1} <= set(found.values)


def test_the_bytes_of_counted_values_are_bounded_too() -> None:
    pass_ = VocabularyPass(("c",), ("text",), 50, 2, counted=40)
    parts = [[*(f"{i}{'x' * 500}" for i in range(a, a + 100)), *(["often" * 50] * 30)] for a in range(0, 2000, 100)]
    state = counted(pass_, parts)
    held = pa.ipc.open_stream(state.entries.tobytes()).read_all()["value"].to_pylist()
    assert sum(map(len, held)) <= 40 * FORMAT_1.entry_bytes
    (found,) = pass_.finalize(state)
    assert found.values == ("often" * 50,)
    assert 0 < state.taken[0] < 30 * 20


@pytest.mark.parametrize("least", [1, 2])
@pytest.mark.parametrize("nulls", [[], [None]])
def test_a_column_of_nothing_but_different_values_is_refused(least: int, nulls: list[None]) -> None:
    """Else the vocabulary would be some rows' names by chance."""
    pass_ = VocabularyPass(("id",), ("whole",), 10, least, counted=40)
    parts = [[*range(a, a + 7), *nulls] for a in range(0, 700, 7)]
    blocks = [Block(Columns([], len(part)), None, pa.record_batch({"id": pa.array(part)})) for part in parts]
    state = functools.reduce(pass_.fold, blocks, pass_.start())
    with pytest.raises(DataError, match="'id', found more different ones than the 40 that are counted"):
        pass_.finalize(state)


def test_rare_and_long_values_are_left_out() -> None:
    pass_ = vocabulary_pass(pa.schema([("c", pa.string())]), ["c"], 10, 2)
    (found,) = pass_.finalize(counted(pass_, [["once", "twice", "twice", "x" * 2000, "x" * 2000]]))
    assert found == Category("c", "text", ("twice",), False)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array(["b", "a", None, "b"]).dictionary_encode(), Category("c", "text", ("a", "b"), True)),
        (pa.array(["b", "a"], pa.large_string()), Category("c", "text", ("a", "b"), False)),
        (pa.array([10, 9, -2], pa.int8()), Category("c", "whole", (-2, 9, 10), False)),
        (pa.array([10.0, float("nan"), 9.0]), Category("c", "whole", (9, 10), True)),
        (pa.array([True, None]), Category("c", "boolean", (True,), True)),
    ],
)
def test_columns_of_all_kinds(values: pa.Array, expected: Category) -> None:
    data = Dataset.from_arrow(pa.table({"c": values}), columns=[], carry=["c"])
    (found,) = connect("local").run(vocabulary_pass(data.carried, ["c"], 10, 1), data)
    assert found == expected
    assert found.codes(values).max() == found.width - 1


def test_parts_of_dates() -> None:
    when = pa.array([datetime.datetime(2001, 12, 31, 23, 5), None], pa.timestamp("us"))
    names = [f"{part}(a.b)" for part in ("year", "month", "day", "weekday", "hour")]
    assert columns_of(names) == ["a.b"]
    data = Dataset.from_arrow(pa.table({"a.b": when}), columns=[], carry=["a.b"])
    found = connect("local").run(vocabulary_pass(data.carried, names, 10, 1), data)
    assert [category.values for category in found] == [(2001,), (12,), (31,), (0,), (23,)]
    assert [category.codes(when).tolist() for category in found] == [[1, 2]] * 5
    with pytest.raises(SchemaError, match="expected dates or times for 'month\\(c\\)', found string"):
        vocabulary_pass(pa.schema([("c", pa.string())]), ["month(c)"], 10, 1)


def test_every_value_has_a_code() -> None:
    city = CATEGORIES[0]
    column = pa.array(["", "ABQ", "zzz", None, "日本"])
    assert city.codes(column).tolist() == [1, 3, 0, 7, 6]
    assert replace(city, nulls=False).codes(column).tolist() == [1, 3, 0, 0, 6]
    assert city.codes(pa.nulls(2)).tolist() == [7, 7]
    for category in (replace(each, name="c") for each in CATEGORIES):
        every = np.arange(category.width)
        if category.unlisted_value is not None:
            np.testing.assert_array_equal(category.codes(category.array(every)), every)


def test_vocabularies_are_the_same_on_any_number_of_workers(rows: pa.Table, tmp_path: Path) -> None:
    pq.write_table(rows, tmp_path / "a.parquet", row_group_size=100)
    data = Dataset.from_parquet(tmp_path, columns=["distance"], carry=["city", "when"])
    pass_ = vocabulary_pass(data.carried, NAMES, 1000, 1)
    small = other(leaf_bytes=8 * 500)
    cut = Dataset.from_parquet(tmp_path, columns=["distance"], carry=["city", "when"], format=small)
    found = [connect("local", workers=n).run(pass_, d) for n in (1, 3) for d in (data, cut)]
    assert all(one == found[0] for one in found)
    assert found[0][0].values == ("ABE", "ABQ", "JFK", "LAX", "ÖSD")


# The whole way


def test_a_model_learns_from_categories(trained: Model, rows: pa.Table) -> None:
    test = late(2000, seed=1)
    found = evaluate(trained, data_of(test), label="late")
    numbers = train(Model.mlp(hidden=[12]), data_of(rows), label="late", optimizer=OPTIMIZER, epochs=8)
    alone = evaluate(numbers, data_of(test), label="late")
    assert found.auc is not None
    assert alone.auc is not None
    assert found.auc > 0.85 > alone.auc + 0.1
    assert trained.front is not None
    assert [category.width for category in trained.front.categories] == [7, 8, 25]


def test_a_quantized_model_is_its_file(small: Model, trained: Model, rows: pa.Table, tmp_path: Path) -> None:
    size = pack(small, tmp_path / "m.emill")
    back = load(tmp_path / "m.emill")
    assert back.front.categories == small.front.categories  # type: ignore[union-attr]
    np.testing.assert_array_equal(back.scores(rows), whole_net(small).scores(rows))
    assert np.abs(back.predict_proba(rows) - trained.predict_proba(rows)).max() < 0.1
    assert packed_bytes(back) == (tmp_path / "m.emill").read_bytes()
    vocabulary = sum(len(str(v).encode()) for c in back.front.categories[:1] for v in c.values)
    assert vocabulary < size < 700
    found = evaluate(tmp_path / "m.emill", data_of(rows), label="late", against=trained, batches=(1, 64))
    assert found.bytes == size
    assert [latency.batch for latency in found.latency] == [1, 64]


def test_rows_come_as_any_table(small: Model, rows: pa.Table) -> None:
    net = whole_net(small)
    scores = net.scores(rows)
    np.testing.assert_array_equal(net.scores(rows.to_pandas()), scores)
    np.testing.assert_array_equal(net.scores(rows.to_pylist()), scores)
    np.testing.assert_array_equal(net.scores({name: rows[name].to_pylist() for name in rows.column_names}), scores)
    np.testing.assert_array_equal(net.scores(rows.to_batches()[0]), scores)
    frame = rows.to_pandas()
    frame["city"] = frame["city"].astype("category")
    np.testing.assert_array_equal(net.scores(frame), scores)
    one = {name: rows[name][5].as_py() for name in rows.column_names}
    np.testing.assert_array_equal(net.scores(one), scores[5:6])
    assert net.scores(rows.slice(0, 0)).shape == (0, 2)
    # A value never seen is code 0 of its column; here nothing has taught that one.
    strange = net.front.codes({**one, "city": "never seen", "when": None})
    assert strange[0, 1:].tolist() == [0, 0, 0]
    with pytest.raises(SchemaError, match="expected a table with the columns"):
        net.scores(np.zeros((1, 4)))
    with pytest.raises(SchemaError, match="city"):
        net.scores(rows.drop_columns(["city"]))
    with pytest.raises(SchemaError, match="expected text values in the category 'city', found int64"):
        net.scores({**one, "city": 5})


def test_missing_numbers_are_refused_or_filled(rows: pa.Table) -> None:
    with pytest.raises(MissingValueError, match="'distance'"):
        train(Model.mlp(categories=NAMES), data_of(rows, missing="error"), label="late", epochs=1)
    dropped = gather(Model.mlp(categories=NAMES), data_of(rows, missing="drop"), "late", validation=None)
    assert dropped.n_rows == rows.num_rows - rows["distance"].null_count


def test_only_categories(rows: pa.Table, tmp_path: Path) -> None:
    data = data_of(rows, columns=[])
    model = train(Model.mlp([], [8], categories=NAMES), data, label="late", optimizer=OPTIMIZER, epochs=6)
    pack(quantize(model, data, label="late"), tmp_path / "m.emill")
    net = load(tmp_path / "m.emill")
    assert net.front.n_features == 0
    assert np.mean(net.predict(rows) == rows["late"].to_numpy()) > 0.75
    np.testing.assert_allclose(net.predict_proba(rows), model.predict_proba(rows), atol=0.1)


def test_a_projection_beside_categories(rows: pa.Table) -> None:
    rng = np.random.default_rng(0)
    wide = rows.append_column("more", pa.array(rng.normal(size=len(rows))))
    data = data_of(wide, columns=["distance", "more"])
    model = Model.mlp(PCA(1).fit(data), [12], categories=NAMES)
    samples = gather(model, data, "late")
    found = train(model, samples, optimizer=OPTIMIZER, epochs=8)
    assert [layer.relu for layer in found.layers] == [False, True, False]
    assert found.layers[0].n_in == 2 + 7 + 8 + 25
    assert error(quantize(found, samples), wide, wide["late"].to_numpy()) < 0.25


def test_a_regression_on_categories(rows: pa.Table) -> None:
    target = pa.array(np.where(np.asarray(pc.equal(rows["city"], "LAX").fill_null(False)), 900.0, 100.0))
    table = rows.append_column("price", target)
    data = data_of(table, carry=["city", "when", "price"])
    model = train(
        Model.mlp(hidden=[6], task="regression", categories=["city"]),
        data,
        label="price",
        optimizer=OPTIMIZER,
        epochs=9,
    )
    small = quantize(model, data, label="price")
    assert np.abs(small.predict(table) - np.asarray(target)).mean() < 40


def test_all_steps_know_categories(trained: Model, rows: pa.Table) -> None:
    data = data_of(rows)
    samples = gather(Model.mlp(hidden=[12], categories=NAMES), data, "late")
    thin = prune(train(samples.model, samples, optimizer=OPTIMIZER, epochs=4), 0.5)
    assert regrow(thin, samples).layers[0].mask.sum() > thin.layers[0].mask.sum()  # type: ignore[union-attr]
    half = prune_neurons(thin, samples, 0.5)
    assert half.layers[0].n_out == 6
    stepped = train(half, samples, optimizer=OPTIMIZER, epochs=2, constraints=[LearnedStep(5), EntropyPenalty(1e-6)])
    shared = share_weights(thin, 4)
    for model in (stepped, shared):
        net = whole_net(quantize(model, samples))
        assert np.abs(net.predict_proba(rows) - model.predict_proba(rows)).max() < 0.1
        assert len(packed_bytes(net)) < len(packed_bytes(quantize(trained, data, label="late")))


def test_a_saved_model_goes_on(trained: Model, rows: pa.Table, tmp_path: Path) -> None:
    trained.save(tmp_path / "m")
    back = Model.restore(tmp_path / "m")
    assert back.front.categories == trained.front.categories  # type: ignore[union-attr]
    once, again = (train(m, data_of(rows), label="late", epochs=1, seed=3) for m in (trained, back))
    np.testing.assert_array_equal(once.layers[0].weights, again.layers[0].weights)


def test_a_resumed_training_is_an_uninterrupted_one(rows: pa.Table, tmp_path: Path) -> None:
    data, model = data_of(rows), Model.mlp(hidden=[4], categories=NAMES)
    samples = gather(model, data, "late")
    whole_run = train(model, samples, epochs=3)

    def stop(epoch: Any) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, samples, epochs=3, checkpoint=tmp_path / "c", progress=stop)
    resumed = train(model, samples, epochs=3, checkpoint=tmp_path / "c")
    assert packed_bytes(quantize(resumed, samples)) == packed_bytes(quantize(whole_run, samples))


def test_predictions_from_files_hide_what_was_not_asked_for(small: Model, rows: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(rows, tmp_path / "in" / "a.parquet")
    pack(small, tmp_path / "m.emill")
    net = load(tmp_path / "m.emill")
    predictions(net, tmp_path / "in", carry=["city"]).to_parquet(tmp_path / "out", layout="columns")
    found = pq.read_table(tmp_path / "out")
    assert found.column_names[:2] == ["city", "prediction"]
    np.testing.assert_array_equal(found["prediction"], net.predict(rows))
    bare = predictions(net, tmp_path / "in").to_parquet(tmp_path / "bare", layout="list")
    assert next(name for name, _ in bare.schema) == "prediction"


def test_unseen_values_are_taught_by_rare_ones() -> None:
    rng = np.random.default_rng(0)
    names = [f"rare{i}" for i in range(400)] + ["common"] * 1600
    table = pa.table({"c": names, "label": np.r_[rng.random(400) < 0.9, rng.random(1600) < 0.1]})
    data = Dataset.from_arrow(table, columns=[], carry=["c", "label"])
    model = train(Model.mlp([], [4], categories=["c"]), data, optimizer=OPTIMIZER, epochs=20)
    assert model.front is not None
    assert model.front.categories[0].values == ("common",)
    sure = model.predict_proba({"c": ["common", "never seen"]})[:, 1]
    assert sure[0] < 0.2 < 0.8 < sure[1]


def test_a_net_that_forgets_knows_what_to_say_of_a_new_month() -> None:
    table, model = months(0), Model.mlp([], [8], categories=["month(date)", "side"])
    data = Dataset.from_arrow(table, columns=[], carry=table.column_names)
    samples = gather(model, data, validation=None)
    new = Dataset.from_arrow(months(1, new=True), columns=[], carry=table.column_names)
    options = {"optimizer": OPTIMIZER, "epochs": 10}
    plain, forgetful = (train(model, samples, forget=share, **options) for share in (0.0, 0.2))
    found = [evaluate(m, new).log_loss for m in (plain, forgetful)]
    # The entropy of what ``side`` tells is 0.325.
    assert found[1] < 0.35 < 0.4 < found[0]
    seen = [evaluate(m, data).log_loss for m in (plain, forgetful)]
    assert seen[1] < 0.02
    with pytest.raises(ConfigError, match="share forget of at least 0 and below 1, found 1"):
        train(model, samples, forget=1)


def test_values_of_rows_held_out_are_unseen() -> None:
    table = pa.concat_tables([months(0), months(1, new=True)])
    data = Dataset.from_arrow(table, columns=[], carry=table.column_names)
    model = Model.mlp([], [8], categories=["month(date)", "side"])
    for since in (datetime.datetime(2001, 7, 1), "2001-07-01"):
        samples = gather(model, data, validation={"by": "date", "since": since})
        assert samples.front.categories[0].values == (1, 2, 3, 4)
        assert (samples.n_rows, samples.n_held) == (3000, 3000)
    assert all(not codes[:, 0].any() for codes, _ in samples.blocks("held"))
    assert gather(model, data, validation=0.1).front.categories[0].values == (1, 2, 3, 4, 7)


# Awkward data


def test_rare_classes_count_with_weights(rows: pa.Table) -> None:
    rng = np.random.default_rng(7)
    keep = ~rows["late"].to_numpy() | (rng.random(len(rows)) < 0.15)
    rare = rows.filter(pa.array(keep))
    model, options = Model.mlp(hidden=[6], categories=NAMES), {"label": "late", "optimizer": OPTIMIZER, "epochs": 8}
    plain, fair = (train(model, data_of(rare), class_weight=w, **options) for w in (None, "balanced"))
    found = [dict(evaluate(m, data_of(rows), label="late").classes)[True].value for m in (plain, fair)]
    assert found[0] < 0.45 < 0.6 < found[1]


def test_what_cannot_be_learnt_is_refused(rows: pa.Table) -> None:
    model = Model.mlp(hidden=[4], categories=NAMES)
    some = rows.slice(0, 300)
    holes = some.set_column(3, "late", pa.array([None, *some["late"].to_pylist()[1:]]))
    with pytest.raises(DataError, match="expected a label in every row"):
        train(model, data_of(holes), label="late")
    one = some.set_column(3, "late", pa.array([True] * 300))
    with pytest.raises(DataError, match="at least two classes"):
        train(model, data_of(one), label="late")
    with pytest.raises(ConfigError, match="expected a finite loss"):
        train(model, data_of(some), label="late", optimizer={"name": "sgd", "lr": 1e30}, epochs=2)
    nothing = some.set_column(1, "city", pa.array(["x"] * 300)).slice(0, 0)
    with pytest.raises(DataError, match="found none"):
        train(model, data_of(nothing), label="late")


def test_fewer_rows_than_inputs(rows: pa.Table) -> None:
    few = rows.slice(0, 12)
    model = train(
        Model.mlp(hidden=[8], categories=NAMES, min_frequency=1),
        data_of(few),
        label="late",
        validation=None,
        optimizer=OPTIMIZER,
        epochs=60,
    )
    assert model.front is not None
    assert model.front.width > 12
    assert error(model, few, few["late"].to_numpy()) < 0.2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"categories": ["city", "city"]}, "every category once"),
        ({"categories": ["town"]}, "town"),
        ({"categories": ["month(city)"]}, "expected dates or times"),
        ({"categories": ["city"], "max_categories": 0}, "max_categories"),
        ({"categories": ["city"], "min_frequency": 0}, "min_frequency"),
    ],
)
def test_categories_that_cannot_be(given: dict[str, Any], message: str, rows: pa.Table) -> None:
    with pytest.raises((ConfigError, SchemaError), match=message):
        gather(Model.mlp(**given), data_of(rows), "late")


def test_samples_of_other_categories_are_refused(rows: pa.Table) -> None:
    samples = gather(Model.mlp(categories=["city"]), data_of(rows), "late")
    with pytest.raises(ConfigError, match="categories"):
        train(Model.mlp(categories=NAMES), samples)


def test_null_has_a_stand_in_where_it_can(small: Model, rows: pa.Table) -> None:
    pytest.importorskip("onnxruntime")
    from eigenmill.compress.exports.onnx import agreement, graph, run_onnx

    net = whole_net(small)
    known = rows.filter(pc.is_valid(rows["distance"]))
    assert known["city"].null_count > 0
    found = agreement(net, run_onnx(graph(net).SerializeToString()), known)
    assert found.difference < 1e-5
    assert found.decided == found.same_decided
