"""Predict: a packed model as a transform of data sets, so that any engine applies it and any sink resumes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from eigenmill.compress.core.integer import WholeNet
from eigenmill.compress.core.layers import softmax
from eigenmill.reduce import Dataset
from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.rows.blocks import F64, Block
from eigenmill.reduce.rows.transforms import Transform
from eigenmill.reduce.storage.digest import digest_of

F32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Predict(Transform):
    """What a model says of a block's rows: probabilities, or values, as features; the label as a carried column.

    Args:
        net: the model.
        column: name of the carried column of labels.
        hidden: carried columns that the model reads and that are not passed on.
    """

    net: WholeNet
    column: str = "prediction"
    hidden: tuple[str, ...] = ()

    @property
    def n_features_in(self) -> int:
        return self.net.front.n_features

    @property
    def names(self) -> Sequence[str]:
        """``p_LABEL`` for every class, or ``column`` for a regression."""
        labels = self.net.labels
        return [f"p_{label}" for label in labels] if self.net.task == "classification" else [self.column]

    @property
    def dtype(self) -> np.dtype[np.float32]:
        return F32

    @cached_property
    def digest(self) -> str:
        return digest_of(["compress.predict", self.net, self.column, *([list(self.hidden)] if self.hidden else [])])

    def _without_hidden(self, carried: pa.RecordBatch | None) -> pa.RecordBatch | None:
        if carried is None or not self.hidden:
            return carried
        left = [name for name in carried.schema.names if name not in self.hidden]
        return carried.select(left) if left else None

    @property
    def carried(self) -> pa.Schema:
        """The carried columns that it adds: the label of a classification."""
        if self.net.task == "regression":
            return pa.schema([])
        return pa.schema([pa.field(self.column, self._labels.type)])

    @cached_property
    def _labels(self) -> pa.Array:
        return pa.array(list(self.net.labels))

    def __call__(self, block: Block) -> Block:
        scores = self.net.scores_of(self.net.front.block_codes(block))
        decision: F64 = np.asarray(scores * self.net.scale + self.net.offset)
        if self.net.task == "regression":
            block = block.with_matrix(decision.astype(F32))
            return replace(block, carried=self._without_hidden(block.carried))
        carried = self._without_hidden(block.carried)
        fields = [] if carried is None else list(carried.schema)
        columns = [] if carried is None else carried.columns
        labels = self._labels.take(pa.array(scores.argmax(axis=1)))
        schema = pa.schema([*fields, *self.carried])
        added = pa.RecordBatch.from_arrays([*columns, labels], schema=schema)
        return Block(softmax(decision).astype(F32), block.weights, added, block.origin, block.workspace, block.offsets)


def predictions(net: WholeNet, path: Any, *, column: str = "prediction", **options: Any) -> Dataset:
    """Files with the columns of a packed model, as what the model says of them; nothing is read yet.

    Args:
        net: from :func:`eigenmill.compress.load`; its file says which columns it reads.
        path: Parquet files, as of ``Dataset.from_parquet``.
        column: name of the predicted label or value.
        options: as of ``Dataset.from_parquet``: ``carry``, ``filters``, or another ``vector`` or ``columns``.

    Raises:
        ConfigError: a carried column has the name of a predicted one, or the file does not say which columns it reads.
        SchemaError: the columns are not there.
    """
    layout = layout_of(net)
    if not layout and not {"vector", "columns"} & set(options):
        raise ConfigError(
            "expected a model that names its columns, found one trained on arrays; name them with vector or columns"
        )
    chosen = {} if {"vector", "columns"} & set(options) else layout
    given = options.pop("carry", ())
    asked = [given] if isinstance(given, str) else list(given)
    hidden = tuple(name for name in net.front.carried if name not in asked)
    data = Dataset.from_parquet(path, **chosen, carry=[*asked, *hidden], **options)
    step = Predict(net, column, hidden)
    taken = sorted({column, *step.names} & set(asked))
    if taken:
        raise ConfigError(f"expected other names than {taken} among the carried columns; leave them out, or rename")
    return data.then(step)


def layout_of(net: WholeNet) -> Mapping[str, Any]:
    """How ``Dataset.from_parquet`` reads rows for the model; empty if it was trained on arrays."""
    front = net.front
    if front.layout.get("columns") is not None:
        return {"columns": [str(name) for name in front.layout["columns"]]}
    if front.layout.get("vector"):
        return {"vector": str(front.layout["vector"]), "n_features": front.n_features}
    return {}


__all__ = ["Predict", "layout_of", "predictions"]
