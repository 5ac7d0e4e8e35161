"""Compact models: train on Parquet, prune, quantize, share, pack, and prove what came of it.

A Model is the whole way from a raw row to a prediction: input, cleaning, projection, net, labels. What ships is that,
in one file. Every step is ``step(model, ...) -> model``. Training needs torch (the extra ``compress``), packing
constriction; loading a packed model and predicting with it need neither.
"""

if __name__ != "eigenmill.compress":
    raise ImportError(
        f"expected 'import eigenmill.compress', found this package imported as {__name__!r}; "
        "one file must not be two modules: import it from eigenmill"
    )


from importlib import import_module
from typing import Any

from eigenmill.compress.core.data import Samples, Validation, gather
from eigenmill.compress.core.model import Model
from eigenmill.compress.core.transforms import dct, pooling
from eigenmill.compress.distill import distill, teach
from eigenmill.compress.exports.c import to_c
from eigenmill.compress.exports.native import Footprint, compiled, footprint
from eigenmill.compress.exports.onnx import Agreement, agreement, run_onnx, to_onnx
from eigenmill.compress.imports.nets import from_onnx, from_safetensors, from_sklearn, from_torch
from eigenmill.compress.judging.evaluate import Evaluation, evaluate
from eigenmill.compress.packed.pack import load, pack
from eigenmill.compress.search import Candidate, Search, SearchSettings, Target, search
from eigenmill.compress.steps.factorize import factorize, fold_projection
from eigenmill.compress.steps.prune import prune, prune_neurons, regrow
from eigenmill.compress.steps.quantize import quantize, share_weights
from eigenmill.compress.training.constraints import EntropyPenalty, LearnedStep, Magnitude
from eigenmill.compress.training.settings import TrainSettings
from eigenmill.compress.training.train import train

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
    "SearchSettings",
    "Target",
    "TrainSettings",
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
        raise AttributeError(f"module 'eigenmill.compress' has no attribute {name!r}")
    return getattr(import_module("eigenmill.compress.estimators"), name)
