"""Distillation: a small model learns what larger ones think of each row (Hinton, Vinyals and Dean 2015).

Teachers are asked once. Their logits are a column of a Parquet file beside the rows, so that every student, every
penalty and every seed after that trains at the speed of its own net.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from compress.augment import augmentation
from compress.data import as_labelled, labelled_blocks
from compress.front import F32
from compress.integer import WholeNet
from compress.model import Model
from compress.pack import packed
from compress.train import Augmentation, train
from reduce import Dataset, files
from reduce.blocks import F64, Block
from reduce.digest import digest_of
from reduce.errors import ConfigError, DataError

Teacher = Model | WholeNet | Callable[[Any], Any] | Any
"""A model, a packed model, anything with ``predict_proba``, or a function from raw rows to logits (n, outputs)."""
KEY = b"eigenmill.taught"
FEATURES = "features"


def distill(
    student: Model,
    teachers: Teacher | Sequence[Teacher],
    data: Any,
    path: str | os.PathLike[str],
    *,
    label: str = "label",
    copies: int = 0,
    augment: Augmentation | Mapping[str, Any] | None = None,
    dtype: str = "float32",
    seed: int = 0,
    **options: Any,
) -> Model:
    """Train ``student`` on labels and on what the teachers say: :func:`teach`, then :func:`compress.train`.

    Args:
        student: as of :func:`compress.train`, not trained, or trained before.
        teachers: one or an ensemble.
        data: as of :func:`compress.train`.
        path: of the Parquet file with the teachers' logits; used again if it is there and nothing has changed.
        label: the column of classes or values.
        copies: of each row, as of :func:`teach`.
        augment: what changes the copies.
        dtype: of the features in the file.
        seed: of the copies and of the training.
        **options: of :func:`compress.train`: ``temperature``, ``share``, ``epochs``, ``constraints`` ...
    """
    taught = teach(teachers, data, path, label=label, copies=copies, augment=augment, dtype=dtype, seed=seed)
    return train(student, taught, label=label, teacher="teacher", seed=seed, **options)


def teach(
    teachers: Teacher | Sequence[Teacher],
    data: Any,
    path: str | os.PathLike[str],
    *,
    label: str = "label",
    column: str = "teacher",
    copies: int = 0,
    augment: Augmentation | Mapping[str, Any] | None = None,
    dtype: str = "float32",
    seed: int = 0,
) -> Dataset:
    """Write the rows once more with the teachers' logits beside them, and changed copies if wanted.

    An ensemble's logits are the mean of its members' log-probabilities; of a regression, the mean of their values.
    Copies keep the carried columns of their row, so that a validation split by an id keeps them on its side.

    Args:
        teachers: one or an ensemble.
        data: a Dataset that carries ``label``, or a pair (X, y).
        path: of one Parquet file. It is not written again if it is there and data, teachers and arguments are the
            same; what a function answers is not known, so with one it is always written, unless the function has an
            attribute ``digest``.
        label: the carried column of classes or values.
        column: the name of the new column.
        copies: of each row, beside the row itself.
        augment: what changes the copies, as of :func:`compress.train`; it sees raw values.
        dtype: of the features in the file: ``"float32"``, or ``"uint8"`` for pixels, which are rounded.
        seed: of the copies.

    Returns:
        The new file as a data set of vectors, which carries what ``data`` carries, and ``column``.

    Raises:
        ConfigError: an argument is out of range.
        DataError: teachers disagree on the number of outputs, or answer with other than finite numbers.
    """
    members = list(teachers) if isinstance(teachers, Sequence) else [teachers]
    moved = augmentation(augment) if isinstance(augment, Mapping) else augment
    if not members or copies < 0 or (copies and moved is None) or dtype not in ("float32", "uint8"):
        raise ConfigError(
            "expected at least one teacher, an augmentation if there are copies, and dtype float32 or uint8, found "
            f"{len(members)} teachers, {copies} copies, {augment} and {dtype!r}"
        )
    data = as_labelled(data, label)
    known = [_digest(member) for member in members]
    settings = [label, column, copies, repr(moved), dtype, seed]
    key = b"" if None in known else digest_of([data.digest, known, settings]).encode()
    fs, target = files.resolve(path)
    kept = [name for name in data.source.carried.names if name != column]

    def read() -> Dataset:
        return Dataset.from_parquet(path, vector=FEATURES, n_features=data.n_features, carry=[*kept, column])

    if key and files.exists(fs, target) and (pq.read_schema(target, filesystem=fs).metadata or {}).get(KEY) == key:
        return read()

    def write(file: BinaryIO) -> None:
        writer: pq.ParquetWriter | None = None
        rng = np.random.default_rng([seed, 4])
        for block, _ in labelled_blocks(data, label):
            X = np.asarray(block.dense(np.float32), dtype=np.float32)
            for copy in range(copies + 1):
                Z = X if copy == 0 or moved is None else moved(X, rng)
                Z = np.clip(np.rint(Z), 0, 255).astype(np.uint8) if dtype == "uint8" else Z
                table = _table(Z, block, kept, column, _ensemble(members, Z))
                if writer is None:
                    writer = pq.ParquetWriter(file, table.schema.with_metadata({KEY: key}), compression="zstd")
                writer.write_table(table)
        if writer is None:
            raise DataError("expected rows to teach, found none; give more rows")
        writer.close()

    files.publish(fs, target, write)
    return read()


def _digest(teacher: Teacher) -> str | None:
    if isinstance(teacher, Model):
        return digest_of([teacher.front, list(teacher.layers), teacher.activations])
    if isinstance(teacher, WholeNet):
        return digest_of([packed(teacher).hex()])
    given = getattr(teacher, "digest", None)
    return None if given is None else str(given)


def _ensemble(teachers: Sequence[Teacher], X: Any) -> F32:
    answers = [_answer(teacher, X) for teacher in teachers]
    if len({answer.shape for answer in answers}) > 1 or not all(np.isfinite(answer).all() for answer in answers):
        raise DataError(
            f"expected finite answers of one shape from all teachers, found shapes {[a.shape for a in answers]}; "
            "ask teachers that know the same labels in the same order"
        )
    return np.asarray(np.mean(answers, axis=0), dtype=np.float32)


def _answer(teacher: Teacher, X: Any) -> F64:
    """Log-probabilities (n, classes), or values (n, 1)."""
    if isinstance(teacher, Model):
        scores = teacher.scores(X)
    elif isinstance(teacher, WholeNet):
        scores = teacher.decision(X)
    elif hasattr(teacher, "predict_proba"):
        with np.errstate(divide="ignore"):
            scores = np.maximum(np.log(np.asarray(teacher.predict_proba(X), dtype=np.float64)), -30.0)
    else:
        scores = np.asarray(teacher(X), dtype=np.float64)
    scores = scores.reshape(len(X), -1)
    if scores.shape[1] == 1:
        return np.asarray(scores)
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _table(X: Any, block: Block, kept: Sequence[str], column: str, logits: F32) -> pa.Table:
    assert block.carried is not None
    arrays = {name: block.carried.column(name) for name in kept}
    arrays[FEATURES] = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(X).ravel()), X.shape[1])
    arrays[column] = pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), logits.shape[1])
    return pa.table(arrays)


__all__ = ["distill", "teach"]
