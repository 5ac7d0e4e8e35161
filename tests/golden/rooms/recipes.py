"""What ``eigenmill compress`` leaves, finished and stopped: stages, checkpoints, teachers, searches, packed files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.golden.library import Library, no_time, stop_before

PICTURES = """\
input: {path: inputs/pictures, vector: pixels, carry: [id], filters: [[id, "<", 360]]}
validation: {share: 0.2, by: id}
"""
RECIPES = {
    "numbers": PICTURES
    + """\
test: {path: inputs/pictures, filters: [[id, ">=", 360]]}
model: {hidden: [8], seed: 1}
steps:
  - step: train
    epochs: 4
    optimizer: {name: momentum, lr: 0.05, momentum: 0.9}
    augment: {name: affine, height: 4, width: 4, shift: 0.4, turn: 5}
    class_weight: balanced
  - {step: prune, sparsity: 0.5}
  - {step: regrow, share: 0.2}
  - step: train
    epochs: 4
    patience: 3
    magnitude: {sparsity: 0.6}
    learned_step: {bits: 5, start: 0.5}
    entropy_penalty: {weight: 1.0e-5}
  - {step: quantize, bits: [6, 8]}
output: {path: out, exports: [c, onnx], batches: []}
""",
    "taught": PICTURES
    + """\
model: {hidden: [4], seed: 2}
teachers:
  members:
    - {hidden: [16], steps: &learn [{step: train, epochs: 3}, {step: prune, sparsity: 0.2}]}
    - {hidden: [12], seed: 3, steps: *learn}
  copies: 1
  augment: {name: affine, height: 4, width: 4, shift: 0.4}
  dtype: uint8
steps:
  - {step: distill, epochs: 3, share: 0.8, temperature: 3}
  - {step: share_weights, bits: 4}
  - {step: quantize, activations: 6}
output: {path: out, coder: huffman, batches: []}
""",
    "searched": PICTURES
    + """\
model: {hidden: [6], dct: {height: 4, width: 4, count: 9}}
steps:
  - {step: train, epochs: 2, optimizer: {name: gradient_descent}}
  - {step: quantize}
target: {max_bytes: 150, trials: 3, epochs: 3}
output: {path: out, batches: []}
""",
    "mixed": """\
input: {path: inputs/pictures, columns: [hint, noise], categories: [city]}
validation: {share: 0.25}
model: {hidden: [6, 4], input_bits: 10}
steps:
  - {step: train, epochs: 3, forget: 0.1, optimizer: {name: adam, lr: 0.02, weight_decay: 0.01}}
  - {step: prune_neurons, keep: 0.7}
  - {step: quantize, bits: 7}
output: {path: out, coder: zstd, exports: [c], batches: []}
""",
    "projected": """\
input: {path: inputs/pictures, vector: pixels}
label: hint
model: {task: regression, pca: pca, hidden: [5]}
steps:
  - {step: train, epochs: 3, schedule: constant, optimizer: {name: sgd, lr: 0.01}}
  - {step: fold_projection}
  - {step: factorize, rank: 3}
  - {step: quantize}
output: {path: out, exports: [onnx], batches: []}
""",
}
STOPS = {
    "numbers-training": ("numbers", "*/00-train-*.checkpoint", 3),
    "numbers-keeping": ("numbers", "*/01-prune.json", 1),
    "numbers-priced": ("numbers", "*/03-train-*.checkpoint", 3),
    "numbers-packing": ("numbers", "*/out/model.emill", 1),
    "taught-teacher": ("taught", "*/teachers/1-00-train-*.checkpoint", 2),
    "taught-asked": ("taught", "*/taught-*.parquet", 1),
    "taught-student": ("taught", "*/00-distill-*.checkpoint", 2),
    "searched-training": ("searched", "*/search-*/*.checkpoint", 5),
    "searched-logging": ("searched", "*/trials.json", 2),
    "mixed-training": ("mixed", "*/00-train-*.checkpoint", 2),
}
"""The recipe, and the file before which it was stopped: see :func:`stop_before`."""


def compress(lib: Library, name: str, code: int = 0) -> dict[str, object]:
    """Run a recipe over ``out``, without what tells of time and machine."""
    Path("recipe.yaml").write_text(RECIPES[name])
    with no_time():
        found: dict[str, object] = lib.command("compress", "recipe.yaml", code=code)
    for path in (Path("recipe.yaml"), Path("out/report.json"), Path("out/page.html")):
        path.unlink(missing_ok=True)
    log = Path("out/test.jsonl")
    if log.exists():
        log.write_text(re.sub(r'"at": "[^"]*"', '"at": ""', log.read_text()))
    return found


def recipes(lib: Library) -> None:
    """For each recipe, whole and stopped, what it leaves; the PCA of one, and what the packed files say."""
    lib.reduce.PCA(4).fit(lib.data("pictures", vector="pixels")).save("pca")
    for name in RECIPES:
        compress(lib, name)
        Path("out").rename(name)
    for stop, (name, pattern, number) in STOPS.items():
        with stop_before(pattern, number):
            compress(lib, name, code=1)
        shutil.rmtree("out/.work", ignore_errors=True)
        Path("out").rename(stop)
    for name in PACKED:
        predict(lib, f"{name}/model.emill", f"said/{name}")


PACKED = ("numbers", "mixed", "searched", "projected")
"""Files of format 1, 2 and 3, and a regression."""


def predict(lib: Library, model: str, out: str) -> None:
    """The rows again, with what a packed file says of them."""
    lib.command("predict", model, "inputs/pictures", "--out", out, "--carry", "id")
