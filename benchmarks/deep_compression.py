"""Deep Compression (Han, Mao and Dally 2016) on LeNet-300-100: prune, share, Huffman; file against float32.

    python -m benchmarks deep_compression            # seeds 0, 1 and 2, all 60,000 training digits

Both nets learn from the same 60,000 digits, as they are: as in the paper nothing is augmented. The compressed one
starts from the float net of its seed, and while it is pruned and its shared values are trained, the float net is its
teacher; nobody else is. Settings were chosen with 10,000 training digits held out. The test digits are scored once for
each net: by the float net, and by the integer model that the file decodes to.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import CACHE
from benchmarks.frontier import digits
from eigenmill.compress import Magnitude, Model, Samples, gather, load, pack, quantize, share_weights, teach, train
from eigenmill.compress.packed.pack import CODERS

DECAY = 1e-4
"""Of the float net's weights."""
SHARE, TEMPERATURE = 0.7, 3.0
"""How the float net teaches."""
RATIO, FLOAT_ERROR, MORE_ERROR = 40.0, 1.7, 0.1
"""The bars: times smaller, and percent of errors."""


def case(seed: int, args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """One seed, or what was found when that was done."""
    key = hashlib.sha256(json.dumps([args.epochs, args.retrain, args.sparsity, args.bits]).encode()).hexdigest()[:8]
    told = place / f"lenet-{key}-{seed}.json"
    if told.exists():
        row: dict[str, Any] = json.loads(told.read_text())
        return row
    place.mkdir(parents=True, exist_ok=True)
    X, y, X_test, y_test, _ = digits(args.cache)
    begun = Model.mlp(None, [300, 100], 10, seed=seed)

    def trained(model: Model, samples: Samples, epochs: int, rate: float, decay: float, **options: Any) -> Model:
        options |= {"optimizer": {"name": "adam", "lr": rate, "weight_decay": decay}, "epochs": epochs, "batch": 256}
        return train(model, samples, seed=seed, progress=lambda e: print(seed, e, flush=True), **options)

    plain = trained(begun, gather(begun, (X, y), validation=None, seed=seed), args.epochs, 2e-3, DECAY)
    data = teach(plain, (X, y), place / f"taught-{key}-{seed}.parquet", dtype="uint8")
    taught = gather(plain, data, teacher="teacher", validation=None, seed=seed)
    by: dict[str, Any] = {"teacher": "teacher", "share": SHARE, "temperature": TEMPERATURE}
    thin = trained(plain, taught, args.retrain, 2e-3, 0.0, constraints=[Magnitude(args.sparsity, until=0.5)], **by)
    shared = trained(share_weights(thin, args.bits), taught, max(args.retrain // 5, 1), 2e-4, 0.0, **by)
    small = quantize(shared, taught, bits=10)
    sizes = {coder: pack(small, place / f"lenet-{coder}-{seed}.emill", coder=coder) for coder in CODERS}
    net = load(place / f"lenet-huffman-{seed}.emill")
    row = {
        "seed": seed,
        "float_bytes": plain.float_bytes,
        "float_error": 100 * float(np.mean(plain.predict(X_test) != y_test)),
        "nonzero": small.nonzero,
        "bytes": sizes,
        "ratio": {coder: plain.float_bytes / size for coder, size in sizes.items()},
        "error": 100 * float(np.mean(net.predict(X_test) != y_test)),
    }
    told.write_text(json.dumps(row))
    return row


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks deep_compression", description="LeNet-300-100, compressed")
    parser.add_argument("--seed", type=int, action="append", help="default: 0, 1 and 2")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--retrain", type=int, default=25)
    parser.add_argument("--sparsity", type=float, default=0.925)
    parser.add_argument("--bits", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=CACHE / "frontier")
    args = parser.parse_args(argv)
    rows = [case(seed, args, args.cache / "deep_compression") for seed in args.seed or [0, 1, 2]]
    print("| seed | weights other than 0 | bytes, Huffman | times smaller | range coder | float error % | error % |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        sizes = f"{row['bytes']['huffman']:,} | {row['ratio']['huffman']:.1f} | {row['ratio']['range']:.1f}"
        print(f"| {row['seed']} | {row['nonzero']:,} | {sizes} | {row['float_error']:.2f} | {row['error']:.2f} |")
    ratio = float(np.mean([row["ratio"]["huffman"] for row in rows]))
    before, after = (float(np.mean([row[name] for row in rows])) for name in ("float_error", "error"))
    print(f"| mean |  |  | {ratio:.1f} |  | {before:.2f} | {after:.2f} |")
    if ratio < RATIO or before > FLOAT_ERROR + 1e-9 or after > before + MORE_ERROR + 1e-9:
        raise SystemExit(f"expected {RATIO:.0f} times, float error {FLOAT_ERROR} %, +{MORE_ERROR} points: MISSED")


if __name__ == "__main__":
    main()
