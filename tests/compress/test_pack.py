"""The packed file: the same net comes back, every byte is specified, and damage is refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eigenmill.compress import Model, Samples, load, pack, pooling, quantize, share_weights, train
from eigenmill.compress.core.front import Front
from eigenmill.compress.core.integer import WholeLayer, WholeNet
from eigenmill.compress.core.model import whole_net
from eigenmill.compress.packed import huffman
from eigenmill.compress.packed.coder import Decoder, Encoder, code_numbers, code_weights
from eigenmill.compress.packed.flat import FlatReader, varint
from eigenmill.compress.packed.pack import DIGEST, MAGIC, MAGIC_COSINES, packed_bytes, unpack
from eigenmill.compress.packed.pack_front import front_bytes
from eigenmill.reduce import Dataset
from eigenmill.reduce.errors import ArtifactError, ConfigError, EigenmillError, SchemaError
from tests.compress.nets import NETS

GOLDEN = Path(__file__).parent / "golden"


def made(seed: int = 0, **changes: Any) -> WholeNet:
    """A small net with everything in it: columns, fills, text labels, a projection, a picture's width."""
    rng = np.random.default_rng(seed)
    front = Front(
        {"columns": ["temp", "höhe", 'a"b\\n', "d"]}, 4, 10,
        np.float32([-3, 0, 1.5, -100]), np.float32([0.01, 1, 0.5, 2]), np.array([3, -1, 0, 1023]), 0.0, 1.0,
    )  # fmt: skip
    layers = (
        WholeLayer(rng.integers(-127, 128, (4, 3)), rng.integers(-(10**6), 10**6, 3), False, 20_000, 24, 8),
        WholeLayer(rng.integers(-2, 3, (3, 6)), rng.integers(-100, 100, 6), True, 30_000, 16, 8),
        WholeLayer(rng.choice([0, -9000, 32000], (6, 2)), np.array([5, -5]), False, 0, 0, 0),
    )
    return replace(WholeNet("classification", ("no", "yes"), front, layers, 1e-6, 0.0), **changes)


def equal(a: WholeNet, b: WholeNet) -> bool:
    same = all(
        (x.weights == y.weights).all()
        and (x.bias == y.bias).all()
        and (x.relu, x.multiplier, x.shift, x.bits) == (y.relu, y.multiplier, y.shift, y.bits)
        for x, y in zip(a.layers, b.layers, strict=True)
    )
    fronts = all(np.array_equal(getattr(a.front, n), getattr(b.front, n)) for n in ("low", "step", "fill"))
    return same and fronts and (a.task, a.labels, a.scale, a.offset) == (b.task, b.labels, b.scale, b.offset)


def test_a_width_is_that_of_a_picture_of_all_inputs_or_none() -> None:
    for width in range(5):
        assert equal(unpack(packed_bytes(made(), width=width)), made())
    for width in (-1, 5):
        with pytest.raises(ConfigError, match=f"a width of at most 4 inputs, found {width}"):
            packed_bytes(made(), width=width)


def test_a_file_of_zstandard_says_what_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    content = packed_bytes(made(), coder="zstd")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ArtifactError, match=r"packed with zstd wants pip install 'eigenmill\[compress\]'"):
        unpack(content)


@pytest.mark.parametrize("coder", ["range", "zstd", "huffman"])
def test_a_file_gives_the_net_back(coder: str, small: Model, digits: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.emill"
    size = pack(small, path, coder=coder)
    assert path.stat().st_size == size
    back = load(path)
    assert equal(back, whole_net(small))
    np.testing.assert_array_equal(back.scores(digits[2]), whole_net(small).scores(digits[2]))
    np.testing.assert_array_equal(back.predict_proba(digits[2]), small.predict_proba(digits[2]))
    assert packed_bytes(small, coder=coder) == path.read_bytes() == packed_bytes(back, coder=coder)


@pytest.mark.parametrize("labels", [("no", "yes"), (False, True), (0, 1), (-5, 1 << 40)])
@pytest.mark.parametrize("coder", ["range", "zstd", "huffman"])
def test_columns_labels_and_fills_come_back(labels: Any, coder: str) -> None:
    net = made(labels=labels)
    back = unpack(packed_bytes(net, coder=coder))
    assert equal(back, net)
    assert back.front.names == net.front.names
    assert [type(label) for label in back.labels] == [type(label) for label in labels]


def test_pruned_and_shared_weights_take_fewer_bytes(trained: Model, pruned: Model, samples: Samples) -> None:
    dense, thin = (len(packed_bytes(quantize(m, samples, bits=8))) for m in (trained, pruned))
    shared = len(packed_bytes(quantize(share_weights(pruned, 4), samples, bits=8)))
    assert trained.float_bytes / dense > 3.5
    assert thin < 0.45 * dense
    assert shared < 0.9 * thin
    assert thin < len(packed_bytes(quantize(pruned, samples, bits=8), coder="zstd"))
    paper = quantize(share_weights(pruned, 4), samples, bits=8)
    assert shared < len(packed_bytes(paper, coder="huffman")) < len(packed_bytes(paper, coder="zstd"))


@settings(max_examples=60)
@given(
    arrays(np.int64, st.tuples(st.integers(1, 12), st.integers(1, 9)), elements=st.integers(-(2**15) + 1, 2**15 - 1)),
    st.floats(0, 1),
    st.integers(0, 4),
)
def test_the_decoder_undoes_the_encoder(weights: Any, keep: float, width: int) -> None:
    weights = weights * (np.random.default_rng(0).random(weights.shape) < keep)
    encoder = Encoder()
    code_weights(encoder, weights.copy(), width, 1 << 16)
    decoder, found = Decoder(encoder.content()), np.zeros_like(weights)
    code_weights(decoder, found, width, 1 << 15)
    decoder.finish()
    np.testing.assert_array_equal(found, weights)


@settings(max_examples=300)
@given(
    st.lists(st.integers(0, 2**32 - 1), max_size=4),
    st.integers(0, 30),
    st.sampled_from([0, 1, 31, 95]),
    st.integers(1, 6),
    st.integers(0, 3),
)
def test_what_is_decoded_is_encoded_to_the_same_bytes(words: Any, seed: int, bit: int, rows: int, width: int) -> None:
    """Of any words whatever, and of encoded ones with a bit changed."""
    rng = np.random.default_rng(seed)
    encoder = Encoder()
    code_weights(encoder, rng.integers(-2, 3, (rows, 4)), width, 1 << 15)
    content = bytearray(encoder.content())
    content[len(content) - 1 - bit // 8 % len(content)] ^= 1 << bit % 8
    for given_bytes in (encoder.content(), bytes(content), np.array(words, "<u4").tobytes()):
        decoder, found = Decoder(given_bytes), np.zeros((rows, 4), np.int64)
        try:
            code_weights(decoder, found, width, 1 << 15)
            decoder.finish()
        except ArtifactError:
            assert given_bytes != encoder.content()
            continue
        again = Encoder()
        code_weights(again, found.copy(), width, 1 << 16)
        assert again.content() == given_bytes


def test_coded_size_is_near_the_entropy() -> None:
    rng = np.random.default_rng(0)
    for share in (0.02, 0.1, 0.5):
        weights = (rng.random((300, 100)) < share) * rng.choice([-1, 1], (300, 100))
        entropy = -(share * np.log2(share / 2) + (1 - share) * np.log2(1 - share)) * weights.size / 8
        encoder = Encoder()
        code_weights(encoder, weights, 0, 1 << 16)
        assert len(encoder.content()) < 1.04 * entropy + 60


def test_golden_files_are_read_as_ever_and_written_alike() -> None:
    """No version of a library or of this code may read these bytes otherwise: if it does, raise the version."""
    for seed, coder in ((0, "range"), (1, "range"), (0, "zstd"), (0, "huffman")):
        path = GOLDEN / f"net-{seed}-{coder}.emill"
        net = unpack(path.read_bytes())
        assert equal(net, made(seed))
        X = np.array([[0.0, 5.0, 2.0, 7.0], [np.nan, 1e9, -np.inf, np.inf], [-1e300, 0.5, 1e300, -99.0]])
        scores = np.loadtxt(GOLDEN / f"net-{seed}.scores", dtype=np.int64)
        np.testing.assert_array_equal(net.scores(X), scores)
        if coder != "zstd":
            assert packed_bytes(made(seed), coder=coder) == path.read_bytes()


def test_missing_infinite_and_far_values_have_their_codes() -> None:
    front = made().front
    X = np.array([[np.nan, 0.49, np.inf, -np.inf], [1e308, 0.5, -1e308, 1e308]])
    np.testing.assert_array_equal(front.codes(X), [[3, 0, 0, 1023], [1023, 1, 0, 1023]])


def test_rows_of_objects_are_numbers_or_refused() -> None:
    front = made().front
    X = np.array([[7, 0.49, -1e308, 1e308]], object)
    np.testing.assert_array_equal(front.codes(X), front.codes(X.astype(float)))
    for gap in (None, np.nan):
        X[0, 0] = gap
        np.testing.assert_array_equal(front.codes(X), [[3, 0, 0, 1023]])
    for strange in ([["a"] * 4], np.ones((1, 4)) * 1j, np.array([["a", 1, 2, 3]], object)):
        with pytest.raises(SchemaError, match="expected numbers, found"):
            front.codes(strange)


def test_loading_and_predicting_need_neither_torch_nor_constriction(small: Model, tmp_path: Path) -> None:
    pack(small, tmp_path / "m.emill")
    code = f"""
import sys
from eigenmill.compress import load
import numpy as np
print(load({str(tmp_path / "m.emill")!r}).predict(np.zeros((1, 64))).tolist())
print([m for m in ["torch", "constriction", "zstandard", "onnx", "onnxruntime"] if m in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:2] == [str(small.predict(np.zeros((1, 64))).tolist()), "[]"]


def test_a_mixture_of_columns_is_packed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1e4, 3, 800), rng.exponential(1e-3, 800)
    table = pa.table({"a": a, "b": b, "label": np.where(a > 1e4, "high", "low")})
    data = Dataset.from_arrow(table, columns=["a", "b"], carry=["label"], missing="mean")
    model = train(Model.mlp(["a", "b"], [8]), data, optimizer={"name": "adam", "lr": 0.02}, epochs=10)
    model = quantize(model, data, bits=8)
    pack(model, tmp_path / "m.emill")
    back = load(tmp_path / "m.emill")
    X = np.c_[a, b]
    assert back.front.layout == {"columns": ["a", "b"]}
    assert (back.predict(X) == np.asarray(table["label"])).mean() > 0.97
    X[0] = np.nan
    np.testing.assert_array_equal(back.scores(X), whole_net(model).scores(X))


def test_a_regression_is_packed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 4))
    y = np.abs(X[:, 0]) * 50 + 1000
    model = train(Model.mlp(None, [16], task="regression"), (X, y), optimizer={"name": "adam", "lr": 0.01}, epochs=20)
    small = quantize(model, (X, y), bits=10, activations=10)
    pack(small, tmp_path / "m.emill")
    predicted = load(tmp_path / "m.emill").predict(X)
    np.testing.assert_array_equal(predicted, small.predict(X))
    assert np.std(predicted - y) < 0.25 * np.std(y)
    assert np.abs(predicted - model.predict(X)).max() < 5


def again(body: bytes, magic: bytes = MAGIC) -> bytes:
    """The body with a digest that fits."""
    return magic + hashlib.sha256(body).digest()[:DIGEST] + body


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    raw = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at, kind = int(rng.integers(len(raw))), rng.integers(5)
        if kind == 0:
            raw[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            raw[at] = int(rng.choice([0, 1, 127, 128, 255]))
        elif kind == 2:
            del raw[at : at + int(rng.integers(1, 9))]
        elif kind == 3:
            raw[at:at] = rng.bytes(int(rng.integers(1, 9)))
        else:
            raw[at : at + 4] = b"\xff\xff\xff\x7f"
        if not raw:
            break
    return bytes(raw) if raw != content else mutated(content, rng)  # a byte may have been set to what it was


def attack(contents: list[bytes], count: int, *, fitting: bool) -> int:
    """Reads mutated files; anything but a refusal or a valid net that predicts fails. Returns how many were read."""
    rng, read = np.random.default_rng(1), 0
    start = len(MAGIC) + DIGEST
    for i in range(count):
        content = contents[i % len(contents)]
        content = again(mutated(content[start:], rng), content[: len(MAGIC)]) if fitting else mutated(content, rng)
        try:
            net = unpack(content)
        except ArtifactError:
            continue
        read += 1
        X = np.zeros((2, net.front.n_features))
        scores = net.scores(X)
        assert scores.shape == (2, 1 if net.task == "regression" else len(net.labels))
    return read


def test_mutated_files_are_refused(small: Model) -> None:
    contents = [
        packed_bytes(made()),
        packed_bytes(small),
        packed_bytes(made(1), coder="zstd"),
        packed_bytes(small, coder="huffman"),
    ]
    assert attack(contents, 300, fitting=False) == 0


def test_mutated_files_with_a_fitting_digest_are_refused_or_valid_nets(small: Model) -> None:
    contents = [
        packed_bytes(made()),
        packed_bytes(made(), coder="zstd"),
        packed_bytes(made(2, labels=(3, 9))),
        packed_bytes(small),
    ]
    contents += [packed_bytes(made(3), coder="huffman"), packed_bytes(wide(6))]
    assert 0 < attack(contents, 600, fitting=True) < 600


@pytest.mark.slow
def test_twenty_thousand_mutated_files_in_little_memory(tmp_path: Path, small: Model) -> None:
    pack(small, tmp_path / "m.emill")
    code = f"""
import resource
from tests.compress import test_pack as t
from tests.compress.nets import NETS
contents = [t.packed_bytes(net, coder=c) for c in ("range", "zstd", "huffman") for net in (t.made(), NETS["block"])]
contents.append(open({str(tmp_path / "m.emill")!r}, "rb").read())
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
assert t.attack(contents, 10_000, fitting=False) == 0
print(t.attack(contents, 10_000, fitting=True))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1500)
    assert run.returncode == 0, run.stderr[-2000:]
    assert 0 < int(run.stdout) < 10_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00" * 60,
        b"\x00\x01" + b"\x00" * 7 + b"\xf0?" + b"\x00" * 8 + b"\xff" * 60,
    ],
    ids=["empty", "zeros", "endless numbers"],
)
def test_nonsense_is_refused(body: bytes) -> None:
    with pytest.raises(ArtifactError):
        unpack(again(body))


BODY = len(MAGIC) + DIGEST


@pytest.mark.parametrize("coder", ["range", "zstd", "huffman"])
def test_bytes_after_the_end_are_refused_though_their_digest_fits(coder: str) -> None:
    content = packed_bytes(made(), coder=coder)
    assert again(content[BODY:]) == content
    for more in (b"\x00", b"EMILL", content):
        with pytest.raises(ArtifactError, match=f"expected the end, found {len(more)} more bytes"):
            unpack(again(content[BODY:] + more))


def test_a_version_that_is_not_that_of_the_layers_is_refused_though_its_digest_fits() -> None:
    plain, cosine = packed_bytes(made()), packed_bytes(NETS["block"])
    assert (plain[: len(MAGIC)], cosine[: len(MAGIC)]) == (MAGIC, MAGIC_COSINES)
    for body, magic in ((plain[BODY:], MAGIC_COSINES), (cosine[BODY:], MAGIC)):
        with pytest.raises(ArtifactError, match="cosine transform in a file of version 3 only"):
            unpack(again(body, magic))


@pytest.mark.parametrize(
    ("raw", "value"),
    [(b"\x00", 0), (b"\x7f", 127), (b"\x80\x01", 128), (b"\xff\x7f", 16383), (b"\x80\x80\x01", 16384)],
)
def test_a_number_has_one_form(raw: bytes, value: int) -> None:
    assert varint(value) == raw
    assert FlatReader(raw).varint(value, value) == value
    longer = raw[:-1] + bytes([raw[-1] | 0x80, 0])
    for least, most, given_bytes in ((0, value, longer), (value + 1, 1 << 20, raw), (0, value - 1, raw)):
        with pytest.raises(ArtifactError, match=f"expected a number from {least} to {most}, found {value}"):
            FlatReader(given_bytes).varint(most, least)


def test_a_number_in_a_longer_form_is_refused_though_the_digest_fits() -> None:
    """Or one model would have many files."""
    net = made()
    body, known = packed_bytes(net)[BODY:], front_bytes(net.front)
    at = body.index(known) + 2  # the number of columns, 4, after the flags and the bits
    assert body[at] == net.front.n_features
    with pytest.raises(ArtifactError, match="expected a number from 1 to 65536, found 4"):
        unpack(again(body[:at] + b"\x84\x00" + body[at + 1 :]))


def test_a_huge_net_in_a_few_bytes_is_refused_before_it_is_made() -> None:
    head = b"\x00\x01" + np.array([1.0, 0.0]).tobytes() + b"\x03\x08" + b"\x80\x80\x04" + b"\x00"
    head += np.float32([0, 1]).tobytes() + b"\x00" + b"\x00" + b"\x01"  # a regression on 65,536 pixels, one layer
    with pytest.raises(ArtifactError, match="at most 4194304 weights"):
        unpack(again(head + b"\x80\x01" + b"\x00" * 128 + b"\x01\x00\x00"))
    with pytest.raises(ArtifactError, match="at least a byte for"):
        unpack(again(head + b"\x20" + b"\x00" * 32 + b"\x01\x00\x00"))


def test_it_says_what_is_wrong(tmp_path: Path, small: Model, trained: Model) -> None:
    path = tmp_path / "m.emill"
    with pytest.raises(ArtifactError, match="expected a packed model at"):
        load(path)
    with pytest.raises(ConfigError, match="call quantize"):
        pack(trained, path)
    with pytest.raises(ConfigError, match="coder among"):
        pack(small, path, coder="morse")
    pack(small, path)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(EigenmillError, match="another digest"):
        load(path)
    path.write_bytes(b"EMILL\x04" + content[6:])
    with pytest.raises(ArtifactError, match="version 1 to 3"):
        load(path)
    path.write_bytes(b"EMILL\x02" + content[6:])  # a digest that fits, but no categories where they must be
    with pytest.raises(ArtifactError, match="expected a whole packed model"):
        load(path)


@settings(max_examples=60)
@given(
    arrays(np.int64, st.tuples(st.integers(1, 12), st.integers(1, 40)), elements=st.integers(-9, 9)),
    st.floats(0, 1),
)
def test_huffman_decoding_undoes_encoding_and_uses_every_bit(weights: Any, keep: float) -> None:
    weights = weights * (np.random.default_rng(0).random(weights.shape) < keep)
    parts = huffman.symbols_of(weights)
    lengths = [huffman.lengths_of(symbols) for symbols in parts]
    words = [huffman.words_of(table) for table in lengths]
    content = huffman.encode([(parts[0], words[0]), (parts[1], words[1])])
    count = int(np.count_nonzero(weights))
    np.testing.assert_array_equal(huffman.decode(content, weights.shape, count, *lengths), weights)
    with pytest.raises(ArtifactError):
        huffman.decode(content + b"\x00", weights.shape, count, *lengths)
    if count:
        with pytest.raises(ArtifactError):
            huffman.decode(content[:-1], weights.shape, count, *lengths)


def test_huffman_lengths_are_the_best_of_any_prefix_code() -> None:
    rng = np.random.default_rng(0)
    for size in (2, 3, 20, 200):
        symbols = [int(s) for s in rng.zipf(1.5, 3000) % size]
        lengths = huffman.lengths_of(symbols)
        share = np.array([symbols.count(s) for s in lengths]) / len(symbols)
        mean = float(share @ np.array(list(lengths.values())))
        entropy = float(-(share * np.log2(share)).sum())
        assert entropy <= mean + 1e-9 < entropy + 1
        assert sum(2.0**-n for n in lengths.values()) == 1
    # Known by hand: frequencies 5, 2, 1, 1 take 1, 2, 3, 3 bits, and words count up.
    assert huffman.words_of(huffman.lengths_of([7] * 5 + [3] * 2 + [1, 9])) == {
        7: (0, 1), 3: (2, 2), 1: (6, 3), 9: (7, 3)
    }  # fmt: skip
    with pytest.raises(ArtifactError, match="complete code"):
        huffman.words_of({1: 1, 2: 2})


def wide(seed: int) -> WholeNet:
    """A net of many biases, which are multiples of powers of two."""
    rng = np.random.default_rng(seed)
    first = WholeLayer(rng.integers(-1, 2, (4, 60)), rng.integers(-200, 200, 60) * 512, True, 20_000, 24, 8)
    return made(seed, layers=(first, WholeLayer(rng.integers(-1, 2, (60, 2)), np.array([0, -96]), False, 0, 0, 0)))


def test_many_biases_are_coded_in_less_than_two_bytes_each() -> None:
    net = wide(5)
    content = packed_bytes(net)
    assert equal(unpack(content), net)
    without = replace(net, layers=tuple(replace(la, bias=np.zeros_like(la.bias)) for la in net.layers))
    assert len(content) - len(packed_bytes(without)) < 60 * 10 / 8 + 8
    assert content == (GOLDEN / "wide-5-range.emill").read_bytes()


@given(st.lists(st.integers(-(2**47) + 1, 2**47 - 1), max_size=30))
def test_numbers_come_back(numbers: list[int]) -> None:
    encoder = Encoder()
    code_numbers(encoder, np.array(numbers, np.int64), 1 << 47)
    decoder, found = Decoder(encoder.content()), np.zeros(len(numbers), np.int64)
    code_numbers(decoder, found, 1 << 47)
    decoder.finish()
    assert found.tolist() == numbers


def test_tiles_take_a_few_bytes(digits: Any) -> None:
    front = Front({}, 784, 8, np.float32([0]), np.float32([1]), np.array([-1]), 0.0, 60.0)
    rng = np.random.default_rng(0)
    weights = rng.integers(-3, 4, (196, 10)) * (rng.random((196, 10)) < 0.2)
    pooled = WholeLayer(np.rint(pooling(28, 28).weights * 4).astype(np.int64), np.zeros(196, np.int64), True, 1, 2, 8)
    last = WholeLayer(weights, np.zeros(10, np.int64), False, 0, 0, 0)
    net = WholeNet("classification", tuple(range(10)), front, (pooled, last), 1e-3, 0.0)
    alone = replace(net, front=replace(front, n_features=196), layers=(last,))
    for coder in ("range", "zstd", "huffman"):
        content = packed_bytes(net, coder=coder)
        assert equal(unpack(content), net)
        assert len(content) < len(packed_bytes(alone, coder=coder)) + 196 + 20  # a byte for each bias
    # Weights that are not tiles are packed as any others.
    other = pooled.weights.copy()
    other[0, 0] = 2
    assert equal(
        unpack(packed_bytes(replace(net, layers=(replace(pooled, weights=other), last)))),
        replace(net, layers=(replace(pooled, weights=other), last)),
    )
