"""Compact models: train on Parquet, prune, quantize, share, pack, and prove what came of it.

A Model is the whole way from a raw row to a prediction: input, cleaning, projection, net, labels. What ships is that,
in one file. Every step is ``step(model, ...) -> model``. Training needs torch (the extra ``compress``), packing
constriction; loading a packed model and predicting with it need neither.
"""

from compress.constraints import EntropyPenalty, LearnedStep, Magnitude
from compress.data import Samples, Validation, gather
from compress.distill import distill, teach
from compress.factorize import factorize, fold_projection
from compress.model import Model, pooling
from compress.pack import load, pack
from compress.prune import prune, prune_neurons, regrow
from compress.quantize import quantize, share_weights
from compress.train import train

__all__ = [
    "EntropyPenalty",
    "LearnedStep",
    "Magnitude",
    "Model",
    "Samples",
    "Validation",
    "distill",
    "factorize",
    "fold_projection",
    "gather",
    "load",
    "pack",
    "pooling",
    "prune",
    "prune_neurons",
    "quantize",
    "regrow",
    "share_weights",
    "teach",
    "train",
]
