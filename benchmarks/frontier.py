"""The front of size and error on MNIST: fully connected nets, from raw pixels, decoded from their files.

    python -m benchmarks frontier                        # every point, three seeds each: some hours
    python -m benchmarks frontier --point dense-72-40    # one of them; --seeds 1

A point is a net of whole multiples of learned steps, trained with an entropy penalty on the labels and on what two
small convolutional nets say of every training digit and of six affine copies of it. One digit in twelve of the 60,000
is held out, with its copies. The test digits are scored once per file, by the integer model that the file decodes to.
A file is written before it is scored, next to its row of the table, and is not trained again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import CACHE
from eigenmill.compress import Model, Validation, gather, load, pack, pooling, teach
from eigenmill.compress.core.data import labelled_blocks
from eigenmill.compress.distill import TEACHER
from eigenmill.compress.judging.evaluate import evaluate
from eigenmill.compress.packed.pack import packed_bytes
from eigenmill.compress.training.augment import Affine
from eigenmill.jobs.demo.digits import FULL, prepare
from eigenmill.jobs.recipes.recipe import Distill, Quantize
from eigenmill.jobs.recipes.steps import STEPS
from eigenmill.reduce import Dataset

COPIES = 6
HELD = Validation(share=1 / 12, by="id")


@dataclass(frozen=True)
class Point:
    """One net: hidden widths, the penalty per bit, and whether 2 x 2 pixels are averaged first."""

    hidden: tuple[int, ...]
    penalty: float
    pooled: bool = False
    bits: int = 5
    start: float = 2.0
    passes: int = 10
    rate: float = 3e-3

    @property
    def name(self) -> str:
        return f"{'pooled' if self.pooled else 'dense'}-{'-'.join(map(str, self.hidden))}"

    @property
    def steps(self) -> list[Distill | Quantize]:
        """Those of ``conf/mnist_front.yaml``."""
        adam = {"name": "adam", "lr": self.rate}
        pressed = {"bits": self.bits, "start": self.start}
        price = {"weight": self.penalty}
        learning = {"epochs": self.passes, "batch": 256, "optimizer": adam}
        return [
            Distill.model_validate({"step": "distill", **learning, "learned_step": pressed, "entropy_penalty": price}),
            Quantize(step="quantize", bits=self.bits),
        ]


POINTS = (
    Point((64, 32), 4.5e-6),
    Point((72, 40), 2.4e-6),
    Point((128, 48), 1.0e-6),
    Point((64, 32), 8e-6, pooled=True),
    Point((72, 40), 2.2e-6, pooled=True),
)


def digits(cache: Path) -> tuple[Any, Any, Any, Any, Any]:
    """Pixels and labels of the training digits, of the test digits, and ids of the former."""
    found = prepare(cache, small=False, notice=print)
    if found.kind is not FULL:
        raise SystemExit("expected MNIST's 70,000 digits, found a smaller set; make pip reach its index, and try again")
    table = pq.read_table(found.path)
    order = np.argsort(table["id"].to_numpy())
    X = table["pixels"].combine_chunks().flatten().to_numpy().reshape(-1, 784)[order]
    y = table["label"].to_numpy()[order]
    return X[:60000], y[:60000], X[60000:], y[60000:], np.arange(60000, dtype=np.int32)


def taught(cache: Path, X: Any, y: Any, ids: Any) -> Dataset:
    """The training digits and their copies, beside what the teachers say of them."""
    from benchmarks.convnet import teacher

    path = cache / "taught" / "part-0.parquet"
    table = pa.table(
        {"id": ids, "label": y, "pixels": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1])}
    )
    data = Dataset.from_arrow(table, vector="pixels", n_features=784, carry=["id", "label"])
    held = np.concatenate([HELD.held_out(b, first) for b, first in labelled_blocks(data, "label")])
    members = [teacher(X[~held], y[~held], seed, cache / "teachers") for seed in (0, 1)]
    return teach(members, data, path, copies=COPIES, augment=Affine(28, 28), dtype="uint8")


def run(point: Point, seed: int, data: Dataset, place: Path, test: tuple[Any, Any]) -> dict[str, Any]:
    """Train, quantize, pack, decode, and score the file once; or what was found when that was done."""
    key = hashlib.sha256(json.dumps([asdict(point), seed], sort_keys=True).encode()).hexdigest()[:8]
    file, told = place / f"{point.name}-{key}-{seed}.emill", place / f"{point.name}-{key}-{seed}.json"
    if told.exists():
        row: dict[str, Any] = json.loads(told.read_text())
        return row
    place.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    model = Model.mlp(pooling(28, 28) if point.pooled else None, point.hidden, 10, seed=seed)
    samples = gather(model, data, teacher=TEACHER, validation=HELD, seed=seed)
    for step in point.steps:
        checkpoint = place / f"{point.name}-{key}-{seed}.train"
        model = STEPS[step.step](step, model, samples, checkpoint, seed, None)
    model.save(place / f"{point.name}-{key}-{seed}.safetensors")
    held = evaluate(model, samples).error
    size = pack(model, file)
    # Without the geometry of the columns there are no tiles either.
    plain = size if point.pooled else len(packed_bytes(model, width=0))
    net = load(file)
    row = {
        "point": point.name,
        "seed": seed,
        "bytes": size,
        "without_geometry": plain,
        "held_error": 100 * held,
        "test_error": 100 * float(np.mean(net.predict(test[0]) != test[1])),
        "seconds": time.perf_counter() - began,
        "file": hashlib.sha256(file.read_bytes()).hexdigest()[:16],
        "recipe": asdict(point),
    }
    told.write_text(json.dumps(row))
    return row


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks frontier", description="size and error on MNIST")
    parser.add_argument("--point", action="append", choices=[p.name for p in POINTS], help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=CACHE / "frontier")
    args = parser.parse_args(argv)
    X, y, X_test, y_test, ids = digits(args.cache)
    data = taught(args.cache, X, y, ids)
    rows = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for point in POINTS:
            if not args.point or point.name in args.point:
                rows.append(run(point, seed, data, args.cache / "files", (X_test, y_test)))
                print(json.dumps(rows[-1]), flush=True)
    print("| net | bytes, by seed | without geometry | test error %, by seed | mean bytes | mean error % |")
    print("|---|---|---|---|---|---|")
    for name in dict.fromkeys(row["point"] for row in rows):
        own = [row for row in rows if row["point"] == name]
        columns = [", ".join(f"{row[k]:,}" for row in own) for k in ("bytes", "without_geometry")]
        errors = ", ".join(f"{row['test_error']:.2f}" for row in own)
        means = f"{np.mean([r['bytes'] for r in own]):,.0f} | {np.mean([r['test_error'] for r in own]):.2f}"
        print(f"| {name} | {columns[0]} | {columns[1]} | {errors} | {means} |")


if __name__ == "__main__":
    main()
