"""Models with categories as packed files, C and ONNX: the same scores everywhere, and nothing hostile gets in."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from eigenmill.compress import (
    Model,
    footprint,
    gather,
    to_c,
)
from eigenmill.compress.core.categories import Category
from eigenmill.compress.core.integer import bounds
from eigenmill.compress.exports.c import source
from eigenmill.compress.exports.native import STRICT, compiled
from eigenmill.compress.packed.pack import DIGEST, MAGIC_CATEGORIES, packed_bytes, unpack
from eigenmill.reduce import Dataset
from eigenmill.reduce.errors import ArtifactError, ConfigError, MissingValueError
from tests.compress.made_tables import HOSTILE, NETS, mixed, table, whole
from tests.compress.test_pack import mutated

GOLDEN = Path(__file__).parent / "golden"
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


# The packed file


@pytest.mark.parametrize("coder", ["range", "zstd", "huffman"])
@pytest.mark.parametrize("name", NETS)
def test_nets_come_back(name: str, coder: str) -> None:
    net = NETS[name]
    content = packed_bytes(net, coder=coder)
    assert content.startswith(MAGIC_CATEGORIES)
    back = unpack(content)
    assert (back.front.categories, back.front.hot) == (net.front.categories, net.front.hot)
    rows = table(net.front)
    np.testing.assert_array_equal(back.scores(rows), net.scores(rows))
    assert packed_bytes(back, coder=coder) == content


def test_the_golden_file() -> None:
    """No later version may read these bytes otherwise."""
    net = NETS["both"]
    assert packed_bytes(net) == (GOLDEN / "categories.emill").read_bytes()
    rows = table(net.front, 20)
    scores = np.loadtxt(GOLDEN / "categories.scores", dtype=np.int64)
    np.testing.assert_array_equal(unpack((GOLDEN / "categories.emill").read_bytes()).scores(rows), scores)


def test_scores_are_sums_of_rows() -> None:
    """The definition, in whole numbers of Python."""
    net = NETS["both"]
    rows, front, first = table(net.front, 30), net.front, net.layers[0]
    codes = front.codes(rows)
    for row, scores in zip(codes.tolist(), net.scores(rows).tolist(), strict=True):
        inputs = [*row[: front.n_features]]
        for code, category in zip(row[front.n_features :], front.categories, strict=True):
            inputs += [front.hot if code == k else 0 for k in range(category.width)]
        sums = [
            int(b) + sum(int(w) * q for w, q in zip(column, inputs, strict=True))
            for b, column in zip(first.bias, first.weights.T.tolist(), strict=True)
        ]
        assert max(map(abs, sums)) <= bounds(net)[0]
        hidden = [
            min(max((s * first.multiplier + (1 << (first.shift - 1))) >> first.shift, first.low), first.high)
            for s in sums
        ]
        last = net.layers[1]
        assert scores == [
            int(b) + sum(int(w) * h for w, h in zip(column, hidden, strict=True))
            for b, column in zip(last.bias, last.weights.T.tolist(), strict=True)
        ]


def attack(count: int) -> int:
    """Reads mutated files with a fitting digest; anything but a refusal or a valid net fails."""
    rng, read, start = np.random.default_rng(1), 0, len(MAGIC_CATEGORIES) + DIGEST
    contents = [packed_bytes(net) for net in NETS.values()]
    for i in range(count):
        body = mutated(contents[i % len(contents)][start:], rng)
        content = MAGIC_CATEGORIES + hashlib.sha256(body).digest()[:DIGEST] + body
        try:
            net = unpack(content)
        except ArtifactError:
            continue
        read += 1
        codes = np.column_stack(
            [np.zeros((3, net.front.n_features), int), *([0, 1, c.width - 1] for c in net.front.categories)]
        )
        assert net.scores_of(np.minimum(codes, 1 << 15)).shape == (3, net.layers[-1].weights.shape[1])
        assert unpack(packed_bytes(net)).front.categories == net.front.categories
    return read


def test_mutated_files_are_refused_or_valid() -> None:
    assert 0 < attack(300) < 300


@pytest.mark.slow
def test_ten_thousand_mutated_files_in_little_memory() -> None:
    code = "import resource\nfrom tests.compress.test_category_files import attack\n"
    code += "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\nprint(attack(10_000))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1500)
    assert run.returncode == 0, run.stderr[-2000:]
    assert 0 < int(run.stdout) < 10_000


def test_a_huge_vocabulary_in_a_few_bytes_is_refused() -> None:
    head = b"\x00\x01" + np.array([1.0, 0.0]).tobytes() + b"\x04\x01\x00" + b"\x01"

    def refuse(tail: bytes, message: str) -> None:
        body = head + tail
        with pytest.raises(ArtifactError, match=message):
            unpack(MAGIC_CATEGORIES + hashlib.sha256(body).digest()[:DIGEST] + body)

    refuse(b"\xff\xff\x03" + b"\x01a\x00", "categories, found")
    refuse(b"\x01" + b"\x01a\x04" + b"\xff\xff\x01" + b"\x00" * 9, "values, found")
    refuse(b"\x01" + b"\x01a\x04" + b"\x02" + b"\x00\x01b" + b"\x00\x01a", "in order")
    refuse(b"\x01" + b"\x01a\x04" + b"\x02" + b"\x00\x01b" + b"\x00\x02bc" + b"\x00\x01\x01", "as it is packed")
    refuse(b"\x02" + b"\x01a\x01\x00" * 2, "from 0 to")


# Exports


@needs_cc
@pytest.mark.parametrize("name", NETS)
def test_c_gives_the_same_scores(name: str) -> None:
    net = NETS[name]
    rows = table(net.front, 300)
    flags = ("-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all")
    np.testing.assert_array_equal(compiled(net, flags=flags).scores(rows), net.scores(rows))
    missing = compiled(net, number="float") if net.front.n_features > 1 else None
    if missing is not None:
        broken = rows.set_column(1, "n1", pa.array([np.nan] * len(rows)))
        with pytest.raises(MissingValueError, match="'n1'"):
            missing.scores(broken)


@needs_cc
@pytest.mark.parametrize("name", ["both", "names only", "one text"])
def test_c_looks_up_codes(name: str, tmp_path: Path) -> None:
    """Every value and some strangers, under sanitizers; texts are compared by bytes."""
    net = NETS[name]
    to_c(net, tmp_path / "model.c")
    lines, wanted = [], []
    for j, category in enumerate(replace(each, name="c") for each in net.front.categories):
        strangers: dict[str, list[Any]] = {"text": ["AB", "ABEX", "~", "a"], "whole": [7, -6, 1 << 62], "boolean": [0]}
        for value in [*category.values, *strangers[category.kind]]:
            if isinstance(value, str):
                raw = value.encode()
                text = "".join(f"\\{b:03o}" for b in raw)
                lines.append(f'printf("%d\\n", (int)model_text_code({j}, "{text}", {len(raw)}));')
                wanted.append(int(category.codes(pa.array([value]))[0]))
            else:
                literal = f"({int(value) + 1}LL - 1)" if value == -(1 << 63) else f"{int(value)}LL"
                lines.append(f'printf("%d\\n", (int)model_whole_code({j}, {literal}));')
                kind = pa.bool_() if category.kind == "boolean" else pa.int64()
                wanted.append(int(category.codes(pa.array([int(value)], pa.int64()).cast(kind))[0]))
        lines.append(f'printf("%d\\n", (int)model_null_code({j}));')
        wanted.append(category.null)
    lines.append('printf("%d\\n", (int)model_text_code(99, "x", 1) + (int)model_null_code(-1));')
    wanted.append(0)
    (tmp_path / "main.c").write_text(
        '#include "model.c"\n#include <stdio.h>\nint main(void)\n{\n' + "\n".join(lines) + "\nreturn 0;\n}\n"
    )
    flags = [*STRICT, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(["cc", *flags, "-o", "main", "main.c", "-lm"], cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [int(line) for line in done.stdout.split()] == wanted


def test_names_are_data_in_c() -> None:
    text = source(NETS["both"])
    assert HOSTILE not in text
    assert "日" not in text
    assert "??/" not in text


@pytest.mark.parametrize("name", NETS)
def test_onnx_agrees(name: str) -> None:
    pytest.importorskip("onnxruntime")
    from eigenmill.compress.exports.onnx import agreement, graph, run_onnx

    net = NETS[name]
    rows = table(net.front, 300)
    for column in {"city", "home", "port"} & set(rows.column_names):
        # Tensors have no null: the empty text and the least number, which stand for it, keep their own codes here.
        rows = rows.filter(pc.is_valid(rows[column]))
    exported = run_onnx(graph(net).SerializeToString())
    found = agreement(net, exported, rows)
    assert found.rows == found.same == len(rows)
    assert found.difference < 1e-6


def test_a_front_like_the_packed_one_has_examples() -> None:
    front = mixed()
    codes = front.codes(table(front, 50))
    codes[:, front.n_features + 1] = 0  # of a part of a date there is no example
    again = front.codes(front.example(codes))
    np.testing.assert_array_equal(again[:, front.n_features :], codes[:, front.n_features :])


def test_a_huge_vocabulary_stays_within_its_bounds() -> None:
    many = [f"c{i}" for i in range(3)]
    table = pa.table({name: np.arange(30_000) for name in many} | {"label": np.arange(30_000) % 2})
    data = Dataset.from_arrow(table, columns=[], carry=[*many, "label"])
    model = Model.mlp([], categories=many, max_categories=30_000, min_frequency=1)
    with pytest.raises(ConfigError, match="at most 65536 inputs"):
        gather(model, data)


def test_other_bounds_than_the_sums_of_ones() -> None:
    """A category counts once: with a hundred values it reaches no further than with the largest one."""
    front = mixed(0, 1, (Category("c", "whole", tuple(range(100)), False),))
    net = whole(front, most=100, zero=0.0)
    first = net.layers[0]
    assert bounds(net)[0] <= int(np.abs(first.bias).max()) + 100


@needs_cc
def test_the_vocabulary_counts_as_names_in_a_footprint() -> None:
    for name in ("both", "names only"):
        taken = footprint(NETS[name], compiler="cc", flags=("-Os",))
        texts = {v for c in NETS[name].front.categories if c.kind == "text" for v in c.values}
        # A pointer and a length each, beside the bytes.
        assert taken.names >= sum(len(str(text).encode()) + 16 for text in texts) > 0
