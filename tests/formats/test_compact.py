"""Each constant of compact models, changed, is noticed in what comes out: in a vocabulary, a cut, a net, a file, in C.

As in ``test_format.py`` every case tells, in whole numbers or texts that no machine changes, what the program has done.
Constants that modules take once, because they belong to a file's magic bytes, are changed in a process of its own,
before anything is imported.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eigenmill.compress import Model, gather, quantize, train
from eigenmill.compress.core.categories import VocabularyPass
from eigenmill.compress.core.integer import ratio
from eigenmill.compress.core.layers import Dense
from eigenmill.compress.core.model import whole_net
from eigenmill.compress.core.transforms import dct
from eigenmill.compress.exports.c import to_c
from eigenmill.compress.format import FORMAT_1, Format
from eigenmill.compress.packed import huffman
from eigenmill.compress.packed.coder import Decoder, Encoder
from eigenmill.compress.search import Candidate, Trial, _is_over, _with_price
from eigenmill.compress.steps.quantize import best_step
from eigenmill.compress.training.constraints import EntropyPenalty, LearnedStep
from eigenmill.compress.training.trained import TrainedLayer
from eigenmill.reduce.errors import ArtifactError
from eigenmill.reduce.rows.blocks import Block
from tests.support.formats import use_compact

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    """What is told under format 1, and another value under which something else is told."""

    other: int | float
    told: Callable[[Path], Any]
    literal: Any


# What models learn from


def vocabulary(values: list[str]) -> Any:
    pass_ = VocabularyPass(("c",), ("text",), most=100_000, least=1)
    carried = pa.record_batch({"c": values})
    state = pass_.fold(pass_.start(), replace(Block(np.zeros((len(values), 1))), carried=carried))
    return list(pass_.finalize(state)[0].values)


def few(place: Path) -> Any:
    """Of six values, each as frequent as it says, those that enter the vocabulary."""
    return vocabulary([str(n) for n in (1, 2, 3, 20, 30, 40) for _ in range(n)])


def long(place: Path) -> Any:
    """How many of 400 values of 900 bytes enter the vocabulary, of which 100 come often."""
    values = [f"{n:0900d}" for n in range(400)]
    return len(vocabulary(values + values[:100] * 9))


def far(place: Path) -> Any:
    """The code of 1 in a column of 999 numbers 0 and 1, and one of 1,000."""
    X = np.tile([0.0, 1.0], 500)[:, None]
    X[0] = 1000.0
    found = gather(Model.mlp(None, [2], task="regression"), (X, X[:, 0]), validation=None).front
    return found.codes(np.array([[1.0], [100.0]])).ravel().tolist()


def pieces(place: Path) -> Any:
    """Rows of each piece that is held in memory: a number of 2 bytes, and 8 of the target."""
    X = np.arange(4000.0)[:, None]
    return list(gather(Model.mlp(None, [2], task="regression"), (X, X[:, 0]), validation=None).pieces)


# Training and rounding


def refreshed(place: Path) -> Any:
    """How often the price of bits follows the frequencies in 210 steps, for two layers."""
    updates, real = [], TrainedLayer.update_costs

    def spy(self: Any) -> None:
        updates.append(self)
        real(self)

    X = np.random.default_rng(0).normal(size=(210, 3))
    constraints = [LearnedStep(4), EntropyPenalty(1e-6)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainedLayer, "update_costs", spy)
        start = Model.mlp(None, [2], task="regression")
        train(start, (X, X[:, 0]), epochs=1, batch=1, validation=None, constraints=constraints)
    return len(updates)


def steps(place: Path) -> Any:
    """The step of three bits for a weight of 1 and a hundred of 0.63, as a share of the largest one."""
    return round(best_step(np.array([1.0, *[0.63] * 100]), None, 3) * 3, 6)


def made(task: Any) -> tuple[Model, Any, Any]:
    """A net whose only hidden result is its input, its front and rows from 0 to 255."""
    X = np.arange(256.0)[:, None].repeat(2, axis=1)
    y = np.arange(256) % 2
    one = Dense(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), relu=True)
    last = Dense(np.array([[0.3, -0.2], [0.1, 0.5]], np.float32), np.array([0.123, -0.456], np.float32), relu=False)
    start = gather(Model.mlp(None, [2], 2, task=task), (X, y), validation=None).model
    return replace(start, layers=(one, last)), X, y


def saturated(place: Path) -> Any:
    """The step of the hidden results, which rise evenly, as a share of the largest one over 255."""
    model, X, y = made("classification")
    found = quantize(model, (X, y), bits=8)
    assert found.activations is not None
    most = model.front.scaled_inputs(model.front.codes(X)).max()  # type: ignore[union-attr]
    return round(found.activations.steps[0] * 255 / float(most), 6)


def last_biases(place: Path) -> Any:
    model, X, y = made("classification")
    return whole_net(quantize(model, (X, y), bits=8)).layers[-1].bias.tolist()


# The search


def tries(place: Path) -> Any:
    """Trials in a row without anything better after which a search is over."""
    trials = [Trial(Candidate((2,)), 9, error, None, 0.0, 1.0) for error in (0.1, *[0.2] * 9)]
    return next(n for n in range(1, 10) if _is_over(trials[:n], judged=True)) - 1


def price(factor: float) -> Callable[[Path], Any]:
    return lambda place: _with_price(Candidate((2,), penalty=1e-5), factor).penalty


# C and the packed file


def loops(place: Path) -> Any:
    """Where the loops over 40 inputs begin and end."""
    from tests.compress.nets import front, layer, net  # it makes nets at once, which need the format's multipliers

    made = net(front(40), layer(40, 3, 9, bits=0))
    to_c(made, place / "net.c")
    return [
        (int(a), int(b)) for a, b in re.findall(r"for \(i = (\d+); i < (\d+); i\+\+\)", (place / "net.c").read_text())
    ]


DECISIONS = [(n * n % 5, int(n * n % 7 < 2)) for n in range(150)]
"""(context, bit) of decisions that lean to zeros."""


def coded(place: Path) -> Any:
    encoder = Encoder()
    for context, bit in DECISIONS:
        encoder.bit(context, bit)
    return encoder.content().hex()


def decoded(place: Path) -> Any:
    """Decisions that arbitrary words stand for."""
    decoder = Decoder(bytes(n * 37 % 256 for n in range(64)))
    try:
        return "".join(str(decoder.bit(context)) for context, _ in DECISIONS[:60])
    except ArtifactError:
        return "refused"


def distances(place: Path) -> Any:
    """Distances of two weights, 3 and 80 places on."""
    ranks = np.zeros((1, 90), np.int64)
    ranks[0, [3, 84]] = 1
    return huffman.symbols_of(ranks)[0]


CASES: dict[str, Case] = {
    "counted": Case(3, few, ["1", "2", "20", "3", "30", "40"]),
    "entry_bytes": Case(2, long, 400),
    "outlier": Case(16.0, far, [2043, 2845]),
    "piece_bytes": Case(1 << 14, pieces, [4000]),
    "refresh": Case(50, refreshed, 6),
    "grid": Case(16, steps, 0.949206),
    "quantile": Case(0.9, saturated, 1.0),
    "score_step": Case(1 / 2, last_biases, [2304, -8448]),
    "patience": Case(2, tries, 3),
    "least_penalty": Case(1e-7, price(1e-9), 1e-08),
    "most_penalty": Case(1e-1, price(1e9), 0.01),
    "lanes": Case(8, loops, [[0, 40], [0, 32], [32, 40]]),
    "multiplier_bits": Case(14, lambda place: ratio(0.3), [19661, 16]),
    "cosine_unit": Case(
        32,
        lambda place: dct(2, 2, 2).whole().tolist(),
        [[4096, 4096, 4096, 4096], [4096, -4096, 4096, -4096], [4096, 4096, -4096, -4096], [4096, -4096, -4096, 4096]],
    ),
    "precision": Case(11, coded, "f4ce74c10c95af07bde53523f0a2d52f034a4cbc"),
    "whole": Case(
        1 << 16,
        decoded,
        "011110011011111011000110001110011111110101101010110111101111",
    ),
    "skip": Case(15, distances, [3, 31, 31, 18]),
}
ONCE = {"counted", "lanes", "multiplier_bits", "cosine_unit", "precision", "whole", "skip"}
"""Those that modules take when they are imported."""

CHILD = """
import importlib.util, json, sys
from dataclasses import replace
from pathlib import Path
name, place = sys.argv[1:]
spec = importlib.util.spec_from_file_location("eigenmill.compress.format", "compress/format.py")
format = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(format)
found = json.load(sys.stdin)
format.FORMAT_1 = format.CURRENT = replace(format.FORMAT_1, **found)
from tests.formats.test_compact import CASES
print(json.dumps(CASES[name].told(Path(place))))
"""


def plain(told: Any) -> Any:
    """As it comes from another process."""
    return json.loads(json.dumps(told))


def told_anew(name: str, place: Path) -> Any:
    """What a case tells in a process in which the constant has never been another one."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, name, str(place)],
        input=json.dumps({name: CASES[name].other}), capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [field.name for field in fields(Format)])
def test_each_constant_is_noticed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]  # a new constant needs one
    assert case.other != getattr(FORMAT_1, name)
    assert plain(case.told(tmp_path)) == case.literal
    if name in ONCE:
        found = told_anew(name, tmp_path)
    else:
        use_compact(monkeypatch, **{name: case.other})
        found = plain(case.told(tmp_path))
    assert found != case.literal


def test_every_constant_has_a_case() -> None:
    assert list(CASES) == [field.name for field in fields(Format)]
