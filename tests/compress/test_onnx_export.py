"""ONNX of a model: standard operators, the integer net's scores and probabilities, whatever the labels."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenmill.compress import Model, pack, to_onnx
from eigenmill.compress.core.integer import WholeNet
from eigenmill.compress.exports.onnx import agreement, graph, run_onnx
from eigenmill.reduce.errors import ConfigError, SchemaError
from tests.compress.nets import NETS, front, layer, net, refusals, rows

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def opened(made: WholeNet) -> Any:
    return run_onnx(graph(made).SerializeToString())


def scores_of(made: WholeNet, X: Any) -> Any:
    """The graph's own sums of the last layer."""
    model = graph(made)
    last = next(node.output[0] for node in reversed(model.graph.node) if node.op_type == "Gemm")
    model.graph.output.append(onnx.ValueInfoProto(name=last))
    return run_onnx(model.SerializeToString()).session.run([last], {"X": X})[0]


@pytest.mark.parametrize("name", NETS)
def test_scores_are_those_of_the_integer_net(name: str) -> None:
    made = NETS[name]
    X = rows(made.front, 2000, dtype=np.float32)
    kept = refusals(made.front, X) == 0
    np.testing.assert_array_equal(scores_of(made, X)[kept], made.scores(X[kept]))
    exported = opened(made)
    found = agreement(made, exported, X[kept])
    assert found.rows == found.same == kept.sum() > 500
    assert found.difference < 1e-6
    assert found.decided == found.same_decided
    answer = exported.predict(X) if made.task == "regression" else exported.predict_proba(X).sum(axis=1)
    np.testing.assert_array_equal(np.isnan(answer), ~kept)


def test_the_nets_take_every_way() -> None:
    """Single and double precision, and products in whole numbers."""
    kinds = {
        name: {onnx.TensorProto.DataType.Name(c.data_type) for c in graph(made).graph.initializer}
        for name, made in NETS.items()
    }
    operators = {name: {node.op_type for node in graph(made).graph.node} for name, made in NETS.items()}
    assert "FLOAT" in kinds["pixels"]
    assert "FLOAT" not in kinds["wide scores"]
    assert "Mod" in operators["wide sums"]
    assert "Mod" not in operators["pixels"]
    assert {"INT8", "INT16"} <= kinds["projection"]


def test_a_trained_model_agrees(small: Model, digits: Any, tmp_path: Path) -> None:
    pack(small, tmp_path / "m.emill")
    size = to_onnx(tmp_path / "m.emill", tmp_path / "m.onnx")
    assert size == (tmp_path / "m.onnx").stat().st_size < small.float_bytes / 2
    exported = run_onnx(tmp_path / "m.onnx")
    found = agreement(small, exported, digits[2])
    assert found.rows == found.same == len(digits[2])
    assert found.difference < 1e-6
    np.testing.assert_array_equal(exported.predict(digits[2]), small.predict(digits[2]))
    to_onnx(small, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()


def test_only_standard_operators(small: Model) -> None:
    model = graph(replace(NETS["projection"], labels=("a", "b", "c")))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions


def test_agreement_counts_what_differs() -> None:
    made = net(front(4), layer(4, 3, 50, bits=0))
    other = net(front(4), replace(layer(4, 3, 50, bits=0), bias=np.array([10**6, 0, 0])))
    X = np.nan_to_num(rows(made.front, 200, dtype=np.float32), posinf=0, neginf=0)
    found = agreement(made, opened(other), X)
    assert found.same < found.rows
    assert found.same_decided < found.decided
    assert found.difference > 0.1
    with pytest.raises(SchemaError, match="rows to compare on, found none"):
        agreement(made, opened(made), X[:0])


@pytest.mark.parametrize("labels", [(False, True), (7, 3), (-(1 << 60), 1 << 60), ("no", "yes")])
def test_labels_keep_their_type(labels: Any) -> None:
    made = net(front(3), layer(3, 2, 100, bits=0), labels=labels)
    X = np.nan_to_num(rows(made.front, 100, dtype=np.float32), posinf=0, neginf=0)
    found = opened(made).predict(X)
    assert [str(label) for label in found] == [str(label) for label in made.predict(X)]
    assert len(set(found.tolist())) == 2
    assert isinstance(found[0], str) or found.dtype == np.asarray(labels).dtype


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=40) | st.text('"\\?/*\n\r\0%a1', max_size=12), min_size=2, max_size=30, unique=True))
def test_any_labels_and_columns_load(texts: list[str]) -> None:
    inputs = replace(front(len(texts)), layout={"columns": texts})
    made = net(inputs, layer(len(texts), len(texts), 20, bits=0), labels=tuple(texts))
    exported = opened(made)
    X = np.nan_to_num(rows(inputs, 20, dtype=np.float32), posinf=0, neginf=0)
    assert exported.predict(X).tolist() == [texts[i] for i in made.scores(X).argmax(axis=1)]
    kept = [list(c.string_data) for c in graph(made).graph.initializer if c.string_data]
    assert kept == [[text.encode() for text in texts]]
    assert json.loads(exported.session.get_modelmeta().custom_metadata_map["columns"]) == texts


def test_exporting_needs_neither_torch_nor_onnxruntime(small: Model, tmp_path: Path) -> None:
    pack(small, tmp_path / "m.emill")
    code = (
        "import sys\nfrom eigenmill.compress import to_onnx, to_c\n"
        f"to_onnx({str(tmp_path / 'm.emill')!r}, {str(tmp_path / 'm.onnx')!r})\n"
        f"to_c({str(tmp_path / 'm.emill')!r}, {str(tmp_path / 'm.c')!r})\n"
        "print([m for m in ['torch', 'constriction', 'onnxruntime'] if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_it_says_what_is_wrong(trained: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="call quantize"):
        to_onnx(trained, tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="text in UTF-8"):
        to_onnx(replace(NETS["linear"], labels=("a", "\ud800")), tmp_path / "m.onnx")
