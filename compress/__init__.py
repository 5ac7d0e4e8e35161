"""Compact models: train on Parquet, prune, quantize, share, pack, and prove what came of it.

A Model is the whole way from a raw row to a prediction: input, cleaning, projection, net, labels. What ships is that,
in one file. Every step is ``step(model, ...) -> model``. Training needs torch (the extra ``compress``), packing
constriction; loading a packed model and predicting with it need neither.
"""

from typing import Any

from compress.c import to_c
from compress.constraints import EntropyPenalty, LearnedStep, Magnitude
from compress.data import Samples, Validation, gather
from compress.distill import distill, teach
from compress.evaluate import Evaluation, evaluate
from compress.factorize import factorize, fold_projection
from compress.imports import from_onnx, from_safetensors, from_sklearn, from_torch
from compress.model import Model
from compress.native import Footprint, compiled, footprint
from compress.onnx_export import Agreement, agreement, run_onnx, to_onnx
from compress.pack import load, pack
from compress.prune import prune, prune_neurons, regrow
from compress.quantize import quantize, share_weights
from compress.search import Candidate, Search, Target, search
from compress.train import train
from compress.transforms import dct, pooling

__all__ = [
    "Agreement",
    "Candidate",
    "CompactClassifier",
    "CompactRegressor",
    "EntropyPenalty",
    "Evaluation",
    "Footprint",
    "LearnedStep",
    "Magnitude",
    "Model",
    "Samples",
    "Search",
    "Target",
    "Validation",
    "agreement",
    "compiled",
    "dct",
    "distill",
    "evaluate",
    "factorize",
    "fold_projection",
    "footprint",
    "from_onnx",
    "from_safetensors",
    "from_sklearn",
    "from_torch",
    "gather",
    "load",
    "pack",
    "pooling",
    "prune",
    "prune_neurons",
    "quantize",
    "regrow",
    "run_onnx",
    "search",
    "share_weights",
    "teach",
    "to_c",
    "to_onnx",
    "train",
]


def __getattr__(name: str) -> Any:
    # scikit-learn is most of the time of an import, and a prediction never needs it.
    if name not in ("CompactClassifier", "CompactRegressor"):
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    from compress import estimators

    return getattr(estimators, name)
