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


from typing import Any

from eigenmill.compress.c import to_c
from eigenmill.compress.constraints import EntropyPenalty, LearnedStep, Magnitude
from eigenmill.compress.data import Samples, Validation, gather
from eigenmill.compress.distill import distill, teach
from eigenmill.compress.evaluate import Evaluation, evaluate
from eigenmill.compress.factorize import factorize, fold_projection
from eigenmill.compress.imports import from_onnx, from_safetensors, from_sklearn, from_torch
from eigenmill.compress.model import Model
from eigenmill.compress.native import Footprint, compiled, footprint
from eigenmill.compress.onnx_export import Agreement, agreement, run_onnx, to_onnx
from eigenmill.compress.pack import load, pack
from eigenmill.compress.prune import prune, prune_neurons, regrow
from eigenmill.compress.quantize import quantize, share_weights
from eigenmill.compress.search import Candidate, Search, SearchSettings, Target, search
from eigenmill.compress.train import train
from eigenmill.compress.transforms import dct, pooling

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
    from eigenmill.compress import estimators

    return getattr(estimators, name)
