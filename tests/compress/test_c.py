"""C of a model: the same scores as the integer net on every row, clean under every warning, whatever the labels."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenmill.compress import Model, footprint, load, pack, to_c
from eigenmill.compress.core.integer import WholeNet
from eigenmill.compress.core.model import whole_net
from eigenmill.compress.exports.c import Number, score_type, source
from eigenmill.compress.exports.c_names import literal
from eigenmill.compress.exports.native import STRICT, compiled
from eigenmill.reduce.errors import ConfigError, EigenmillError, MissingValueError, SchemaError
from tests.compress.nets import NETS, front, layer, net, refusals, rows
from tests.compress.programs import CHIP, CHIP_RUN, HOST_RUN, SANITIZED, build, cortex, run

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def built(net: WholeNet, number: Number, folder: Path, compiler: list[str]) -> None:
    """The driver with this net as the program ``model`` in a folder."""
    d, outputs = net.front.n_features, net.layers[-1].weights.shape[1]
    sizes = {"NUMBER": number, "FEATURES": d, "SCORE": score_type(net), "OUTPUTS": outputs}
    build(net, number, "driver.c", sizes, folder, compiler)


def agrees(net: WholeNet, X: Any, folder: Path, command: list[str]) -> None:
    """The program gives the scores of the integer net on all rows, and refuses those that it must."""
    X.tofile(folder / "rows.bin")
    run(command, folder)
    found = np.fromfile(folder / "scores.bin", np.int64).reshape(len(X), -1)
    refused = refusals(net.front, X)
    np.testing.assert_array_equal(found[:, 0], refused)
    np.testing.assert_array_equal(found[refused == 0, 1:], net.scores(X[refused == 0]))


@pytest.mark.parametrize("name", NETS)
def test_scores_are_those_of_the_integer_net_under_sanitizers(name: str, tmp_path: Path) -> None:
    made = NETS[name]
    number: Number = "float" if name in ("pixels", "projection") else "double"
    built(made, number, tmp_path, SANITIZED)
    X = rows(made.front, 400, dtype=np.float32 if number == "float" else np.float64)
    agrees(made, X, tmp_path, HOST_RUN)


@cortex
@pytest.mark.slow
@pytest.mark.parametrize("number", ["double", "float"])
@pytest.mark.parametrize("name", NETS)
def test_a_cortex_m4_gives_the_same_scores(name: str, number: Number, tmp_path: Path) -> None:
    made = NETS[name]
    built(made, number, tmp_path, CHIP)
    X = rows(made.front, 1000, dtype=np.float32 if number == "float" else np.float64, seed=1)
    agrees(made, X, tmp_path, CHIP_RUN)


@cortex
@pytest.mark.slow
def test_a_trained_model_on_a_cortex_m4(small: Model, digits: Any, tmp_path: Path) -> None:
    made = whole_net(small)
    X = np.r_[digits[0], digits[2]].astype(np.float32)
    built(made, "float", tmp_path, CHIP)
    agrees(made, X, tmp_path, CHIP_RUN)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_net_under_sanitizers(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Widths, bits, sizes of weights and shares of zeros by chance."""
    widths = data.draw(st.lists(st.integers(1, 300), min_size=2, max_size=5))
    bits = [*(data.draw(st.integers(1, 16)) for _ in widths[2:]), 0]
    inputs = front(
        widths[0],
        data.draw(st.integers(1, 16)),
        alike=data.draw(st.booleans()),
        refuse=data.draw(st.booleans()),
        seed=data.draw(st.integers(0, 99)),
    )
    layers = [
        layer(
            n_in,
            n_out,
            data.draw(st.sampled_from([1, 7, 127, 128, 32767])),
            zero=data.draw(st.sampled_from([0.0, 0.5, 0.9, 0.99])),
            relu=data.draw(st.booleans()),
            bits=b,
        )
        for n_in, n_out, b in zip(widths[:-1], widths[1:], bits, strict=True)
    ]
    made = net(inputs, *layers)
    folder = tmp_path_factory.mktemp("any")
    built(made, "double", folder, SANITIZED)
    agrees(made, rows(inputs, 200), folder, HOST_RUN)


def test_the_nets_take_every_way() -> None:
    """Else the tests above would show less than they seem to."""
    texts = {name: source(made) for name, made in NETS.items()}
    assert "int64_t sum" in texts["wide sums"]
    assert "int64_t scores" in texts["wide scores"]
    assert "gaps_0" in texts["thin"]
    assert re.search(r"gaps_0\[.*\b255, ", texts["thin"], re.S)
    assert "int32_t in_0" in texts["wide sums"]
    assert "model_fill[i] < 0" in texts["projection"]
    for made in NETS.values():
        finite = np.where(np.isfinite(X := rows(made.front)), X, 0.0)
        assert len(np.unique(made.scores(finite))) > 4 or made is NETS["no weights"]


def test_it_answers_in_this_process(small: Model, digits: Any, tmp_path: Path) -> None:
    X = digits[2].astype(np.float64)
    pack(small, tmp_path / "m.emill")
    found = compiled(tmp_path / "m.emill")
    np.testing.assert_array_equal(found.scores(X), load(tmp_path / "m.emill").scores(X))
    np.testing.assert_array_equal(found.predict(X), small.predict(X))
    np.testing.assert_array_equal(found.predict_proba(X), small.predict_proba(X))
    assert (found.seconds(X[:50]) > 0).all()
    with pytest.raises(SchemaError, match="rows of 64 numbers"):
        found.scores(X[:, 1:])
    strict = net(front(6, refuse=True), layer(6, 2, 9, bits=0))
    strict = replace(strict, front=replace(strict.front, fill=np.full(1, -1)))
    with pytest.raises(MissingValueError, match="expected finite numbers in column 'x_2', found nan in row 1"):
        compiled(strict).scores([[0] * 6, [0, 0, np.nan, 0, 0, 0]])


def asked(made: WholeNet, row: Any, folder: Path) -> list[str]:
    """What a small program prints of a row: the class and the probabilities, or the value; then labels as bytes."""
    outputs = made.layers[-1].weights.shape[1]
    numbers = ", ".join(float(v).hex() for v in row)
    body = (
        f"double p[{outputs}]; model_probabilities(s, p);"
        f'printf("%d\\n", model_class(s)); for (int k = 0; k < {outputs}; k++) printf("%a\\n", p[k]);'
        if made.task == "classification"
        else 'printf("%a\\n", model_value(s));'
    )
    shown = ""
    if made.labels and isinstance(made.labels[0], str):
        loop = 'for (size_t i = 0; i < {0}[k].bytes; i++) printf("%02x", (unsigned)(unsigned char){0}[k].text[i]);'
        shown = f'for (int k = 0; k < {outputs}; k++) {{ {loop.format("model_labels")} printf("\\n"); }}'
        columns = (
            f'for (int k = 0; k < {made.front.n_features}; k++) {{ {loop.format("model_columns")} printf("\\n"); }}'
        )
        shown += columns if "columns" in made.front.layout else ""
    elif made.labels:
        shown = f'for (int k = 0; k < {outputs}; k++) printf("%lld\\n", (long long)model_labels[k]);'
    (folder / "model.c").write_text(source(made), "ascii")
    (folder / "main.c").write_text(
        f'#include "model.c"\n#include <stdio.h>\nint main(void) {{ double row[] = {{ {numbers} }};'
        f"{score_type(made)} s[{outputs}]; if (model_scores(row, s)) return 1; {body} {shown} return 0; }}\n"
    )
    subprocess.run(["cc", *STRICT, "main.c", "-o", "main", "-lm"], cwd=folder, check=True)
    run = subprocess.run(["./main"], cwd=folder, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


@pytest.mark.parametrize("together", [True, False], ids=["one translation unit", "two"])
def test_two_models_in_one_program(together: bool, tmp_path: Path) -> None:
    """Names differ, those inside too: of two models with layers of every kind, each gives its own scores."""
    thin, per_column = NETS["thin"], NETS["projection"]
    given = {"first": thin, "second": per_column}
    main = "#include <stdio.h>\n"
    body = ""
    for name, made in given.items():
        d, outputs, score = made.front.n_features, made.layers[-1].weights.shape[1], score_type(made)
        to_c(made, tmp_path / f"{name}.c", name=name)
        head = f"int {name}_scores(const double row[{d}], {score} scores[{outputs}]);\n"
        main += f'#include "{name}.c"\n' if together else f"#include <stdint.h>\n{head}"
        row = np.abs(rows(made.front)[3:4])
        numbers = ", ".join(float(v).hex() for v in np.where(np.isfinite(row), row, 1.0)[0])
        body += f"{{ const double row[] = {{ {numbers} }}; {score} s[{outputs}]; if ({name}_scores(row, s)) return 1;"
        body += f' for (int k = 0; k < {outputs}; k++) printf("%lld\\n", (long long)s[k]); }}\n'
    (tmp_path / "main.c").write_text(f"{main}int main(void) {{ {body} return 0; }}\n")
    texts = ["main.c"] if together else ["main.c", "first.c", "second.c"]
    subprocess.run(["cc", *STRICT, *texts, "-o", "main", "-lm"], cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=True)
    wanted: list[int] = []
    for made in given.values():
        row = np.abs(rows(made.front)[3:4])
        wanted += made.scores(np.where(np.isfinite(row), row, 1.0))[0].tolist()
    assert [int(line) for line in done.stdout.splitlines()] == wanted


@pytest.mark.parametrize("labels", [(0, 1, 2), (-(1 << 62), 5, 1 << 62)])
def test_class_probabilities_and_labels(labels: Any, tmp_path: Path) -> None:
    made = net(front(4), layer(4, 9, 100), layer(9, 3, 100, bits=0), labels=labels)
    row = rows(front(4))[5]
    found = asked(made, row, tmp_path)
    expected = made.predict_proba(row[None])[0]
    assert int(found[0]) == made.scores(row[None])[0].argmax()
    np.testing.assert_allclose([float.fromhex(p) for p in found[1:4]], expected, rtol=1e-14)
    assert [int(label) for label in found[4:]] == list(labels)


def test_the_value_of_a_regression(tmp_path: Path) -> None:
    made = NETS["number"]
    row = np.zeros(6)
    assert float.fromhex(asked(made, row, tmp_path)[0]) == made.predict(row[None])[0]


NASTY = ['"', "\\", "??/", "*/", "//", "\n\r\0", "a\0b", "é€😀", "%s%n", "\\x41", "", "0'1", "#include <x>", "\ud800"]


def named(texts: list[str]) -> WholeNet:
    """A net with these labels and names of columns."""
    inputs = front(len(texts))
    inputs = replace(inputs, layout={"columns": texts})
    return net(inputs, layer(len(texts), len(texts), 20, bits=0), labels=tuple(texts))


def bytes_of(texts: list[str]) -> list[str]:
    return [text.encode("utf-8", "surrogatepass").hex() for text in texts]


def test_labels_and_columns_are_data(tmp_path: Path) -> None:
    found = asked(named(NASTY), np.zeros(len(NASTY)), tmp_path)
    assert found[-2 * len(NASTY) :] == 2 * bytes_of(NASTY)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.text(max_size=40) | st.text('"\\?/*\n\r\0%a1', max_size=12), min_size=2, max_size=30, unique=True))
def test_any_labels_and_columns_compile(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    found = asked(named(texts), np.zeros(len(texts)), tmp_path_factory.mktemp("any"))
    assert found[-2 * len(texts) :] == 2 * bytes_of(texts)


@given(st.text() | st.text('"\\?/*\n\r\0%a1'))
def test_a_literal_is_plain_and_closed(text: str) -> None:
    assert re.fullmatch(r'"([ A-Za-z0-9_.,:;+-]|\\[0-3][0-7][0-7])*"', literal(text))


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="no compiler of Cortex-M: make cortex")
def test_footprint_of_a_chip(small: Model) -> None:
    found = footprint(small)
    nonzero = sum(int(np.count_nonzero(la.weights)) for la in small.layers)
    assert nonzero < found.flash < small.float_bytes / 2
    assert found.ram == 0
    assert 2 * (64 + 32) <= found.stack < 600


def test_footprint_here() -> None:
    texts = ["a label of some length" * 3 + str(i) for i in range(5)]
    plain = replace(named(texts), labels=(0, 1, 2, 3, 4), front=front(5))
    small, large = (footprint(made, compiler="cc", flags=("-Os",)) for made in (plain, named(texts)))
    assert small.names == 40
    assert large.names > 5 * 66
    assert small.flash - small.names == large.flash - large.names
    dense, thin = (
        footprint(
            net(front(400, alike=True), layer(400, 40, 100, zero=zero), layer(40, 2, 9, bits=0)),
            compiler="cc",
            flags=("-Os",),
        )
        for zero in (0.0, 0.9)
    )
    assert 16_000 < dense.flash < 18_000
    assert thin.flash < 0.3 * dense.flash
    assert dense.ram == 0


def test_it_says_what_is_wrong(trained: Model, small: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="call quantize"):
        to_c(trained, tmp_path / "m.c")
    with pytest.raises(ConfigError, match="letters, digits and _"):
        to_c(small, tmp_path / "m.c", name="1; int x")
    with pytest.raises(ConfigError, match="'double' or 'float'"):
        to_c(small, tmp_path / "m.c", number="half")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected the compiler 'no-such-cc', found none"):
        compiled(small, compiler="no-such-cc")
    with pytest.raises(EigenmillError, match="to compile the model"):
        compiled(small, flags=("--no-such-flag",))
    size = to_c(small, tmp_path / "m.c", name="digits", number="float")
    text = (tmp_path / "m.c").read_text()
    assert size == len(text)
    assert "int digits_scores(const float row[64]" in text
    assert "licen" not in text.lower()
