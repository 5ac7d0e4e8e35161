"""Deep Compression (Han, Mao and Dally 2016) on LeNet-300-100: prune, share, Huffman; file against float32.

    python -m benchmarks deep_compression            # seed 0, all 60,000 training digits

The float net and the compressed one have the same seed, and see the same digits, shifted by up to a pixel. The test
digits are scored once for each: by the float net, and by the integer model that the file decodes to.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import CACHE
from benchmarks.frontier import digits
from compress import Magnitude, Model, gather, load, pack, quantize, share_weights, train
from compress.augment import Affine
from compress.pack import CODERS

MOVES = Affine(28, 28, shift=1, turn=5, zoom=0.05, shear=5)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks deep_compression", description="LeNet-300-100, compressed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--sparsity", type=float, default=0.93)
    parser.add_argument("--bits", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=CACHE / "frontier")
    args = parser.parse_args(argv)
    X, y, X_test, y_test, _ = digits(args.cache)
    seed, begun = args.seed, Model.mlp(None, [300, 100], 10, seed=args.seed)
    samples = gather(begun, (X, y), validation=None, seed=seed)

    def trained(model: Model, epochs: int, rate: float, **options: Any) -> Model:
        options |= {"optimizer": {"name": "adam", "lr": rate}, "epochs": epochs, "batch": 256, "augment": MOVES}
        return train(model, samples, seed=seed, progress=lambda e: print(e, flush=True), **options)

    plain = trained(begun, args.epochs, 2e-3)
    float_error = 100 * float(np.mean(plain.predict(X_test) != y_test))
    print(json.dumps({"float_bytes": plain.float_bytes, "float_error": float_error}), flush=True)
    thin = trained(plain, args.epochs, 2e-3, constraints=[Magnitude(args.sparsity, until=0.5)])
    shared = trained(share_weights(thin, args.bits), max(args.epochs // 4, 1), 2e-4)
    small = quantize(shared, samples, bits=10)
    place = args.cache / "deep_compression"
    place.mkdir(parents=True, exist_ok=True)
    sizes = {coder: pack(small, place / f"lenet-{coder}-{seed}.emill", coder=coder) for coder in CODERS}
    net = load(place / f"lenet-huffman-{seed}.emill")
    row = {
        "seed": seed,
        "float_bytes": plain.float_bytes,
        "float_error": float_error,
        "nonzero": small.nonzero,
        "bytes": sizes,
        "ratio": {coder: plain.float_bytes / size for coder, size in sizes.items()},
        "error": 100 * float(np.mean(net.predict(X_test) != y_test)),
    }
    (place / f"lenet-{seed}.json").write_text(json.dumps(row))
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
