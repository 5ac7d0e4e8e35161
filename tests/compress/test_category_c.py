"""C of models with categories, from the values themselves: the codes and scores of the integer net on every row."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eigenmill.compress import Model, footprint, quantize, train
from eigenmill.compress.core.categories import category_values
from eigenmill.compress.core.integer import WholeNet
from eigenmill.compress.core.model import whole_net
from eigenmill.compress.exports.c import Number, score_type
from eigenmill.reduce.rows.blocks import F64
from tests.compress.made_tables import NAMES, NETS, data_of, late, table
from tests.compress.programs import CHIP, CHIP_RUN, HOST_RUN, SANITIZED, build, cortex, run

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
OPTIMIZER = {"name": "adam", "lr": 0.02}


def built(net: WholeNet, number: Number, folder: Path, compiler: list[str]) -> None:
    """The driver with this net as the program ``model`` in a folder."""
    d = net.front.n_features
    sizes = {
        "NUMBER": number,
        "FEATURES": d,
        "CATEGORIES": len(net.front.categories),
        "SCORE": score_type(net),
        "OUTPUTS": net.layers[-1].weights.shape[1],
        "GIVEN": "row,codes" if d else "codes",
    }
    build(net, number, "category_driver.c", sizes, folder, compiler)


def written(net: WholeNet, rows: pa.Table, number: Number) -> tuple[bytes, F64]:
    """The rows as the driver reads them, and their numbers."""
    X, _ = net.front.parts(rows)
    numbers = X.astype(np.float32 if number == "float" else np.float64)
    columns = [
        category_values(rows[c.column].combine_chunks(), c.name, c.kind).to_pylist() for c in net.front.categories
    ]
    found = [struct.pack("<i", len(rows))]
    for i, row in enumerate(numbers):
        found.append(row.tobytes())
        for values in columns:
            value = values[i]
            if value is None:
                found.append(struct.pack("<iiq", 0, 0, 0))
            elif isinstance(value, str):
                text = value.encode()
                found.append(struct.pack("<iiq", 1, len(text), 0) + text)
            else:
                found.append(struct.pack("<iiq", 2, 0, int(value)))
    return b"".join(found), numbers.astype(np.float64)


def agrees(net: WholeNet, rows: pa.Table, number: Number, folder: Path, command: list[str]) -> Any:
    """The program gives the codes and scores of the integer net on all rows; these are returned."""
    content, numbers = written(net, rows, number)
    (folder / "rows.bin").write_bytes(content)
    run(command, folder)
    found = np.fromfile(folder / "scores.bin", np.int64).reshape(len(rows), -1)
    front, c = net.front, len(net.front.categories)
    refused = ~np.isfinite(numbers) & (front.fill < 0)
    wanted = np.where(refused.any(axis=1), refused.argmax(axis=1) + 1, 0) if front.n_features else np.zeros(len(rows))
    np.testing.assert_array_equal(found[:, 0], wanted)
    given = front.table(numbers, [rows[name].combine_chunks() for name in front.carried])
    np.testing.assert_array_equal(found[:, 1 : 1 + c], front.parts(given)[1])
    kept = wanted == 0
    np.testing.assert_array_equal(found[kept, 1 + c :], net.scores(given.filter(pa.array(kept))))
    return found


def odd(net: WholeNet, count: int, seed: int = 0) -> pa.Table:
    """Rows with values that are known, unknown, null, nearly known, empty, long and not ASCII; numbers missing too."""
    rows, rng = table(net.front, count, seed), np.random.default_rng(seed)
    texts = [
        "\0",
        "ABE\0",
        "AB",
        "ABEX",
        "hohe",
        "ho\u0308he",
        "h\xf6he ",
        "日",
        "日本語",
        "\U0001f600",
        "x" * 2000,
        "~",
    ]
    for category in net.front.categories:
        if category.kind != "text":
            continue
        column, at = rows[category.column].to_pylist(), rng.random(count) < 0.3
        changed = [texts[int(rng.integers(len(texts)))] if here else v for v, here in zip(column, at, strict=True)]
        rows = rows.set_column(
            rows.column_names.index(category.column), category.column, pa.array(changed, pa.string())
        )
    for j, name in enumerate(net.front.names[:2]):
        numbers = rows[name].to_numpy().copy()
        numbers[rng.random(count) < 0.05] = [np.nan, np.inf][j]
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(numbers))
    return rows


@pytest.mark.parametrize("name", NETS)
def test_values_have_the_scores_of_the_integer_net_under_sanitizers(name: str, tmp_path: Path) -> None:
    net = NETS[name]
    built(net, "double", tmp_path, SANITIZED)
    found = agrees(net, odd(net, 300), "double", tmp_path, HOST_RUN)
    codes = found[:, 1 : 1 + len(net.front.categories)]
    # Else the rows would show less than they seem to.
    for j, category in enumerate(net.front.categories):
        known = set(range(category.width)) - ({0} if category.kind == "whole" and "(" in category.name else set())
        assert known <= set(codes[:, j].tolist())


@cortex
@pytest.mark.slow
@pytest.mark.parametrize("number", ["double", "float"])
@pytest.mark.parametrize("name", NETS)
def test_a_cortex_m4_gives_the_same_scores(name: str, number: Number, tmp_path: Path) -> None:
    net = NETS[name]
    built(net, number, tmp_path, CHIP)
    agrees(net, odd(net, 1000, seed=1), number, tmp_path, CHIP_RUN)


@cortex
@pytest.mark.slow
def test_a_trained_model_on_a_cortex_m4(tmp_path: Path) -> None:
    rows = late()
    model = train(Model.mlp(hidden=[12], categories=NAMES), data_of(rows), label="late", optimizer=OPTIMIZER, epochs=4)
    net = whole_net(quantize(model, data_of(rows), bits=8, label="late"))
    built(net, "float", tmp_path, CHIP)
    cities = pa.array([None, "NEW", "ÖS", "ÖSD", ""] * 100)
    unseen = late(500, seed=3).drop_columns("city").append_column("city", cities).select(rows.column_names)
    found = agrees(net, pa.concat_tables([late(2000, seed=2), unseen]), "float", tmp_path, CHIP_RUN)
    assert {0, 6} <= set(found[:, 1].tolist())
    assert len(np.unique(found[:, -1])) > 100


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="no compiler of Cortex-M: make cortex")
@pytest.mark.parametrize("name", ["both", "names only"])
def test_footprint_of_a_chip(name: str) -> None:
    """Code, weights and vocabularies are flash; the stack holds the sums of the categories; nothing lives in RAM."""
    net = NETS[name]
    taken = footprint(net)
    weights = sum(layer.weights.size for layer in net.layers)
    texts = {v for c in net.front.categories if c.kind == "text" for v in c.values}
    wholes = {v for c in net.front.categories if c.kind == "whole" for v in c.values}
    # A pointer and a length of 4 bytes each, beside the bytes of a text.
    vocabulary = sum(len(str(text).encode()) + 8 for text in texts) + 8 * len(wholes)
    assert vocabulary <= taken.names < vocabulary + 600
    assert weights * 0.6 < taken.flash - taken.names < 2 * weights + 1500
    assert taken.ram == 0
    hidden = net.layers[0].weights.shape[1]
    assert 4 * hidden <= taken.stack < 4 * hidden + 400
