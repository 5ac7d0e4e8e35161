"""Nets trained elsewhere give the same scores here, and go on to be trained, quantized and packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.decomposition import PCA
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import nn

from eigenmill.compress import Model, from_onnx, from_safetensors, from_sklearn, from_torch, load, pack, quantize, train
from eigenmill.compress.imports.onnx import chain
from eigenmill.reduce.errors import ArtifactError, ConfigError, EigenmillError, SchemaError

onnx = pytest.importorskip("onnx")
GOLDEN = Path(__file__).parent / "golden"
helper, numpy_helper = onnx.helper, onnx.numpy_helper


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(24, 12, bias=False), nn.ReLU())
    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Dropout(), inner, nn.Linear(12, 10), nn.Softmax(1)).eval()


def logits(net: Any, X: Any) -> Any:
    with torch.no_grad():
        return net[:-1](torch.from_numpy(X.astype(np.float32))).numpy()


@pytest.fixture(scope="module")
def fitted(digits: Any) -> Any:
    X, y = digits[:2]
    return MLPClassifier(24, max_iter=60, random_state=0, tol=1e-2).fit(X / 1.0, y)


def test_torch(net: Any, digits: Any) -> None:
    found = from_torch(net, digits[0], labels=list("abcdefghij"))
    np.testing.assert_allclose(found.scores(digits[2]), logits(net, digits[2]), atol=1e-5)
    assert (found.hidden, found.labels[:2]) == ((24, 12), ("a", "b"))
    assert set(found.predict(digits[2])) <= set("abcdefghij")


def test_columns_of_other_ranges(net: Any) -> None:
    """Codes of 16 bits say what the columns hold to a hundred-thousandth of their range."""
    rng = np.random.default_rng(0)
    X = rng.normal(rng.normal(0, 5, 64), rng.exponential(1, 64), (500, 64))
    found = from_torch(net, X, input_bits=16)
    wanted = logits(net, X)
    assert np.abs(found.scores(X) - wanted).max() < 1e-3 * np.abs(wanted).max()


def test_one_output_is_a_regression_and_with_a_sigmoid_two_classes(digits: Any) -> None:
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 1))
    number = from_torch(plain, digits[0])
    with torch.no_grad():
        wanted = plain(torch.from_numpy(digits[2].astype(np.float32))).numpy()[:, 0]
    np.testing.assert_allclose(number.predict(digits[2]), wanted, atol=1e-5)
    two = from_torch(nn.Sequential(*plain, nn.Sigmoid()), digits[0], labels=["no", "yes"])
    np.testing.assert_allclose(two.predict_proba(digits[2])[:, 1], 1 / (1 + np.exp(-wanted)), atol=1e-5)


def test_it_goes_on_to_be_trained_and_packed(fitted: Any, digits: Any, tmp_path: Path) -> None:
    X, y, test, truth = digits
    found = from_sklearn(fitted, X)
    better = train(found, (X, y), optimizer={"name": "adam", "lr": 0.003}, epochs=5)
    small = quantize(better, (X, y), bits=8)
    pack(small, tmp_path / "m.emill")
    before = np.mean(fitted.predict(test / 1.0) != truth)
    assert np.mean(load(tmp_path / "m.emill").predict(test) != truth) <= before + 0.01


def test_a_sklearn_classifier(fitted: Any, digits: Any) -> None:
    found = from_sklearn(fitted, digits[0])
    np.testing.assert_allclose(found.predict_proba(digits[2]), fitted.predict_proba(digits[2] / 1.0), atol=1e-5)
    assert found.labels == tuple(range(10))


def test_a_sklearn_pipeline_with_two_classes(digits: Any) -> None:
    X, y, test, _ = digits
    X, test = X / 1.0, test / 1.0
    named = np.where(y > 4, "high", "low")
    for whiten in (False, True):
        steps = StandardScaler(), PCA(12, whiten=whiten), MLPClassifier(9, max_iter=300, random_state=0, tol=0.05)
        made = make_pipeline(*steps).fit(X, named)
        found = from_sklearn(made, digits[0])
        np.testing.assert_allclose(found.predict_proba(digits[2]), made.predict_proba(test), atol=1e-4)
        assert found.labels == ("high", "low")
        assert found.hidden == (9,)
        assert [layer.relu for layer in found.layers] == [False, True, False]


def test_a_sklearn_regressor(digits: Any) -> None:
    X, y, test, _ = digits
    made = make_pipeline(
        StandardScaler(with_mean=False), MLPRegressor(hidden_layer_sizes=(9,), max_iter=300, random_state=0, tol=50.0)
    )
    made.fit(X / 1.0, y * 100.0)
    np.testing.assert_allclose(from_sklearn(made, X).predict(test), made.predict(test / 1.0), rtol=1e-4, atol=1e-2)


def test_safetensors(net: Any, digits: Any, tmp_path: Path) -> None:
    tensors = {key: value.numpy() for key, value in net.state_dict().items()}
    assert sorted(tensors) == ["0.bias", "0.weight", "3.0.weight", "4.bias", "4.weight"]
    save_file(tensors, tmp_path / "net.safetensors")
    found = from_safetensors(tmp_path / "net.safetensors", digits[0])
    np.testing.assert_allclose(found.scores(digits[2]), logits(net, digits[2]), atol=1e-5)
    tensors = {"in.weight": tensors["0.weight"], "mid.weight": tensors["3.0.weight"], "out.weight": tensors["4.weight"]}
    save_file(tensors, tmp_path / "named.safetensors")
    with pytest.raises(ConfigError, match="give order="):
        from_safetensors(tmp_path / "named.safetensors", digits[0])
    assert from_safetensors(tmp_path / "named.safetensors", digits[0], order=["in", "mid", "out"]).hidden == (24, 12)
    with pytest.raises(ConfigError, match="expected layer 1 to take 12"):
        from_safetensors(tmp_path / "named.safetensors", digits[0], order=["mid", "in", "out"])
    with pytest.raises(ConfigError, match=r"NAME\.weight and NAME\.bias"):
        from_safetensors(tmp_path / "named.safetensors", digits[0], order=["in", "mid"])
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "net.safetensors").read_bytes()[:-3])
    for name in ("cut", "none"):
        with pytest.raises(ArtifactError, match="safetensors file"):
            from_safetensors(tmp_path / f"{name}.safetensors", digits[0])
    save_file({"0.weight": np.ones((2, 64), np.int32)}, tmp_path / "whole.safetensors")
    with pytest.raises(ConfigError, match="floating-point"):
        from_safetensors(tmp_path / "whole.safetensors", digits[0])


def keras_like(net: Any, *, gemm: bool = False) -> Any:
    """The ONNX that Keras exports of a dense net: MatMul, Add and Relu; or torch's Gemm with transB."""
    nodes, constants, at = [], [], "input"
    linear = [net[0], net[3][0], net[4]]
    for i, module in enumerate(linear):
        weight = module.weight.detach().numpy()
        bias = module.bias.detach().numpy() if module.bias is not None else None
        constants.append(numpy_helper.from_array(weight if gemm else weight.T.copy(), f"w{i}"))
        if bias is not None:
            constants.append(numpy_helper.from_array(bias, f"b{i}"))
        given = [f"b{i}"] if bias is not None else []
        if gemm:
            nodes.append(helper.make_node("Gemm", [at, f"w{i}", *given], [f"s{i}"], transB=1))
        else:
            nodes.append(helper.make_node("MatMul", [at, f"w{i}"], [f"m{i}"]))
            nodes.append(helper.make_node("Add" if given else "Identity", [f"m{i}", *given], [f"s{i}"]))
        at = f"s{i}"
        if i < 2:
            nodes.append(helper.make_node("Relu", [at], [f"r{i}"]))
            at = f"r{i}"
    nodes.append(helper.make_node("Softmax", [at], ["output"]))
    graph = helper.make_graph(
        nodes,
        "keras",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [None, 64])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [None, 10])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_an_onnx_file_that_keras_has_exported() -> None:
    """golden/README.md says how the file was made, and what Keras predicted."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    found = from_onnx(GOLDEN / "keras-digits.onnx", X)
    assert found.hidden == (16,)
    # Inputs are rounded to 12 bits, which Keras does not do.
    np.testing.assert_allclose(found.predict_proba(X[:5]), np.loadtxt(GOLDEN / "keras-digits.txt"), atol=1e-3)
    assert np.mean(found.predict(X) == y) > 0.94
    made = onnx.load(GOLDEN / "keras-digits.onnx")
    cast = next(node for node in made.graph.node if node.op_type == "Cast")
    cast.attribute[0].i = onnx.TensorProto.INT8
    with pytest.raises(ConfigError, match="found Cast after 0 layers"):
        chain(made.SerializeToString(), "changed")


@pytest.mark.parametrize("gemm", [False, True])
def test_onnx(net: Any, gemm: bool, digits: Any, tmp_path: Path) -> None:
    made = keras_like(net, gemm=gemm)
    onnx.checker.check_model(made, full_check=True)
    onnx.save(made, tmp_path / "net.onnx")
    found = from_onnx(tmp_path / "net.onnx", digits[0])
    np.testing.assert_allclose(found.scores(digits[2]), logits(net, digits[2]), atol=1e-5)
    assert found.hidden == (24, 12)


def _external(model: Any) -> None:
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
    tensor.ClearField("raw_data")


def _custom(model: Any) -> None:
    model.graph.node[2].domain = "evil"


def _subgraph(model: Any) -> None:
    model.graph.node[2].attribute.append(helper.make_attribute("then_branch", onnx.GraphProto(name="g")))


def _function(model: Any) -> None:
    model.functions.append(onnx.FunctionProto(name="Relu", domain="evil"))


def _other(model: Any) -> None:
    model.graph.node[2].op_type = "Tanh"


def _branch(model: Any) -> None:
    model.graph.node[-1].input[0] = "r0"


def _huge(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [1 << 40, 1 << 40]


def _short(model: Any) -> None:
    model.graph.initializer[0].raw_data = b"\0" * 8


def _whole(model: Any) -> None:
    model.graph.initializer[0].data_type = onnx.TensorProto.INT64


def _nan(model: Any) -> None:
    model.graph.initializer[0].raw_data = b"\xff" * len(model.graph.initializer[0].raw_data)


def _many(model: Any) -> None:
    model.graph.node.extend([model.graph.node[0]] * 1000)


def _two(model: Any) -> None:
    model.graph.output.append(model.graph.output[0])


def _across(model: Any) -> None:
    model.graph.node[-1].attribute.append(helper.make_attribute("axis", 0))


def _one_row(model: Any) -> None:
    model.graph.node[2].op_type = "Flatten"
    model.graph.node[2].attribute.append(helper.make_attribute("axis", 0))


def _still_training(model: Any) -> None:
    model.graph.node[2].op_type = "Dropout"
    model.graph.node[2].input.extend(["", "b0"])


def _shadowed(model: Any) -> None:
    model.graph.node[2].output[0] = model.graph.node[3].input[0] = "w2"


def _no_number(model: Any) -> None:
    model.graph.node[0].op_type = "Gemm"
    model.graph.node[0].attribute.append(helper.make_attribute("alpha", "x"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_across, "found Softmax after 3 layers"),
        (_one_row, "found Flatten after 1 layers"),
        (_still_training, "found Dropout after 1 layers"),
        (_shadowed, "beside the chain"),
        (_no_number, "Gemm with 'alpha' of type 3"),
        (_external, "kept in other files"),
        (_custom, "standard operators only"),
        (_subgraph, "without subgraphs"),
        (_function, "functions or operators"),
        (_other, "found Tanh after 1 layers"),
        (_branch, "beside the chain"),
        (_huge, "weights in floating point"),
        (_short, "numbers in a tensor"),
        (_whole, "weights in floating point"),
        (_nan, "finite numbers"),
        (_many, "at most 256"),
        (_two, "2 outputs"),
    ],
)
def test_other_onnx_is_refused(change: Any, message: str, net: Any, digits: Any, tmp_path: Path) -> None:
    made = keras_like(net)
    change(made)
    (tmp_path / "net.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(EigenmillError, match=message):
        from_onnx(tmp_path / "net.onnx", digits[0])


def test_mutated_onnx_is_refused_or_a_chain(net: Any) -> None:
    content, rng, read = keras_like(net).SerializeToString(), np.random.default_rng(0), 0
    for _ in range(400):
        raw = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            # The structure is in few of the bytes: half of the changes go to the last ones, where it is.
            first = len(raw) - 300 if rng.random() < 0.5 else 0
            raw[int(rng.integers(first, len(raw)))] = int(rng.integers(256))
        try:
            layers, _ = chain(bytes(raw), "m")
        except (ArtifactError, ConfigError):
            continue
        read += 1
        assert all(weights.ndim == 2 and bias.ndim == 1 for weights, bias, _ in layers)
    assert 0 < read < 400


def test_what_is_no_live_perceptron_is_refused(fitted: Any, digits: Any, tmp_path: Path) -> None:
    X, y = digits[:2]
    with pytest.raises(ConfigError, match=r"live torch\.nn\.Sequential, found str"):
        from_torch("net.pt", X)
    with pytest.raises(ConfigError, match="found Tanh"):
        from_torch(nn.Sequential(nn.Linear(64, 3), nn.Tanh(), nn.Linear(3, 2)), X)
    with pytest.raises(ConfigError, match="found ReLU"):
        from_torch(nn.Sequential(nn.ReLU(), nn.Linear(64, 2)), X)
    with pytest.raises(ConfigError, match="no ReLU at the end"):
        from_torch(nn.Sequential(nn.Linear(64, 2), nn.ReLU()), X)
    with pytest.raises(SchemaError, match="10 outputs and labels alike, found 2"):
        from_torch(nn.Sequential(nn.Linear(64, 10)), X, labels=["a", "b"])
    with pytest.raises(SchemaError, match="rows of 30 features"):
        from_torch(nn.Sequential(nn.Linear(30, 10)), X)
    with pytest.raises(ConfigError, match="live MLPClassifier or MLPRegressor, found str"):
        from_sklearn("net.joblib", X)
    with pytest.raises(ConfigError, match="found 'tanh'"):
        from_sklearn(MLPClassifier(3, activation="tanh", max_iter=200, tol=1.0).fit(X / 1.0, y), X)
    scaled = make_pipeline(MinMaxScaler(), MLPClassifier(3, max_iter=200, tol=1.0)).fit(X / 1.0, y)
    with pytest.raises(ConfigError, match="found MinMaxScaler"):
        from_sklearn(scaled, X)
    with pytest.raises(ArtifactError, match="ONNX file at"):
        from_onnx(tmp_path / "none.onnx", X)
    (tmp_path / "bad.onnx").write_bytes(b"\xff\xff nonsense")
    with pytest.raises(EigenmillError):
        from_onnx(tmp_path / "bad.onnx", X)
    assert isinstance(from_sklearn(fitted, X), Model)
