"""Distillation: a small model learns what larger ones think of each row (Hinton, Vinyals and Dean 2015).

Teachers are asked once. Their logits are a column of a Parquet file beside the rows, so that every student, every
penalty and every seed after that trains at the speed of its own net.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from eigenmill.compress.core.data import Unscattered, as_labelled, clean_blocks
from eigenmill.compress.core.integer import WholeNet
from eigenmill.compress.core.layers import F32
from eigenmill.compress.core.model import Model
from eigenmill.compress.core.split import SplitLike, Validation, split_of
from eigenmill.compress.judging.evaluate import logits
from eigenmill.compress.packed.pack import packed_bytes
from eigenmill.compress.training.augment import augmentation
from eigenmill.compress.training.settings import Augmentation
from eigenmill.compress.training.train import train
from eigenmill.reduce import Dataset
from eigenmill.reduce.errors import ConfigError, DataError
from eigenmill.reduce.rows.blocks import F64
from eigenmill.reduce.sources.apart import refuse_files
from eigenmill.reduce.storage import files, places
from eigenmill.reduce.storage.digest import digest_of, text_of


@runtime_checkable
class Classifier(Protocol):
    """A teacher of one's own that answers with probabilities, such as scikit-learn's."""

    def predict_proba(self, X: npt.NDArray[np.generic], /) -> npt.ArrayLike:
        """(n, outputs)."""
        ...


@runtime_checkable
class Digested(Protocol):
    """A teacher of one's own of which ``digest`` says all that its answers depend on."""

    digest: str | None


Teacher = Model | WholeNet | Classifier | Callable[[npt.NDArray[np.generic]], npt.ArrayLike]
"""A model, a packed model, anything with ``predict_proba``, or a function from raw rows to logits (n, outputs)."""
KEY = b"eigenmill.taught"
VERSION = 2
"""Of the files: those of another version are written again."""
TEACHER = "teacher"
"""The column of the teachers' logits."""
HELD = "held_out"
"""The column of rows that are held out of training."""


def distill(
    student: Model,
    teachers: Teacher | Sequence[Teacher],
    data: Unscattered,
    path: str | os.PathLike[str],
    *,
    label: str = "label",
    copies: int = 0,
    augment: Augmentation | Mapping[str, Any] | None = None,
    dtype: str | None = None,
    validation: SplitLike = 0.1,
    seed: int = 0,
    **options: Any,
) -> Model:
    """Train ``student`` on labels and on what the teachers say: :func:`teach`, then :func:`eigenmill.compress.train`.

    Args:
        student: as of :func:`eigenmill.compress.train`, not trained, or trained before.
        teachers: one or an ensemble.
        data: as of :func:`eigenmill.compress.train`.
        path: of the Parquet file with the teachers' logits; used again if it is there and nothing has changed.
        label: the column of classes or values.
        copies: of each row, as of :func:`teach`.
        augment: what changes the copies.
        dtype: of the features in the file.
        validation: rows to hold out, as of :func:`eigenmill.compress.gather`; they have no copies.
        seed: of the copies and of the training.
        **options: of :func:`eigenmill.compress.train`: ``temperature``, ``share``, ``epochs``, ``constraints`` ...
    """
    given: dict[str, Any] = {"label": label, "copies": copies, "augment": augment, "dtype": dtype, "seed": seed}
    taught = teach(teachers, data, path, validation=validation, **given)
    split = None if validation is None else Validation(by=HELD, equals=True)
    return train(student, taught, label=label, teacher=TEACHER, validation=split, seed=seed, **options)


def teach(
    teachers: Teacher | Sequence[Teacher],
    data: Unscattered,
    path: str | os.PathLike[str],
    *,
    label: str = "label",
    column: str = TEACHER,
    copies: int = 0,
    augment: Augmentation | Mapping[str, Any] | None = None,
    dtype: str | None = None,
    validation: SplitLike = None,
    seed: int = 0,
) -> Dataset:
    """Write the rows once more with the teachers' logits beside them, and changed copies if wanted.

    An ensemble's logits are the mean of its members' log-probabilities; of a regression, the mean of their values.
    Copies keep the carried columns of their row, so that a validation split by an id keeps them on its side. Columns
    keep their names; rows that the cleaning policy drops are left out.

    Args:
        teachers: one or an ensemble. Models see the columns they were trained on, functions the numbers only.
        data: a Dataset that carries ``label``, or a pair (X, y).
        path: of one Parquet file. It is not written again if it is there and data, teachers and arguments are the
            same; what a function answers is not known, so with one it is always written, unless the function has an
            attribute ``digest``.
        label: the carried column of classes or values.
        column: the name of the new column.
        copies: of each row, beside the row itself.
        augment: what changes the copies, as of :func:`eigenmill.compress.train`; it sees raw values.
        dtype: of the features in the file: ``"float32"``, ``"float64"``, or ``"uint8"`` for pixels, which are
            rounded; by default that of ``data``.
        validation: as of :func:`eigenmill.compress.gather`. Rows that it holds out have no copies, and the
            column ``HELD`` says which they are, for ``Validation(by=HELD, equals=True)``. None leaves the column out.
        seed: of the copies.

    Returns:
        The new file as a data set like ``data``, which carries what that carries, and the new columns.

    Raises:
        ConfigError: an argument is out of range, or the data has a feature of a new column's name.
        DataError: teachers disagree on labels or outputs, or answer with other than finite numbers.
    """
    members = list(teachers) if isinstance(teachers, Sequence) else [teachers]
    moved = augmentation(augment) if isinstance(augment, Mapping) else augment
    data = as_labelled(data, label)
    refuse_files(data.source, {"path": path})
    kind = data.source.dtype.name if dtype is None else dtype
    if not members or copies < 0 or (copies and moved is None) or kind not in ("float32", "float64", "uint8"):
        raise ConfigError(
            "expected at least one teacher, an augmentation if there are copies, and dtype float32, float64 or uint8, "
            f"found {len(members)} teachers, {copies} copies, {augment} and {dtype!r}"
        )
    split = None if validation is None else split_of(validation)
    questions = _Questions(members, data, label, column, copies, moved, kind, split, seed)
    questions.check()
    key = questions.key()
    fs, target = places.resolve(path)
    known = files.exists(fs, target) and (pq.read_schema(target, filesystem=fs).metadata or {}).get(KEY)
    if not key or known != key:
        with files.draft(fs, target) as made:
            _write(made.file, questions.answered(), {KEY: key})
    carry = [*questions.kept, *questions.added]
    return replace(Dataset.from_parquet(path, **questions.layout, carry=carry), cleaning=data.cleaning)


@dataclass(frozen=True)
class _Questions:
    """What teachers are asked, and in which form it is kept; fields as of :func:`teach`."""

    members: Sequence[Teacher]
    data: Dataset
    label: str
    column: str
    copies: int
    moved: Augmentation | None
    kind: str
    split: Validation | None
    seed: int

    @property
    def added(self) -> list[str]:
        """The new columns."""
        return [self.column, *([] if self.split is None else [HELD])]

    @property
    def kept(self) -> list[str]:
        """The columns that the rows carry already."""
        return [name for name in self.data.source.carried.names if name not in self.added]

    @property
    def layout(self) -> Mapping[str, Any]:
        """How ``Dataset.from_parquet`` reads the features."""
        return self.data.source.describe()

    def check(self) -> None:
        """Refuses what :func:`teach` refuses before it asks."""
        if self.data.transforms or self.data.sparse:
            raise ConfigError("expected raw, dense rows, found transformed or sparse ones; give the files themselves")
        if set(self.added) & {self.label, *self.layout.get("columns", []), self.layout.get("vector")}:
            raise ConfigError(f"expected a label and features other than {self.added}, found one of them; rename it")
        _same_labels(self.members)

    def key(self) -> bytes:
        """A digest of all that decides the answers; empty if they cannot be known without asking."""
        known = [_digest(member) for member in self.members]
        settings = [VERSION, self.label, self.column, self.copies, text_of(self.moved), self.kind, text_of(self.split)]
        settings += [text_of(self.data.cleaning), self.seed]
        return b"" if None in known else digest_of([self.data.digest, known, settings]).encode()

    def answered(self) -> Iterator[pa.Table]:
        """The rows, block by block and each followed by its copies, with the answers beside them."""
        rng = np.random.default_rng([self.seed, 4])
        for block, first in clean_blocks(self.data, self.label):
            held = None if self.split is None else self.split.held_out(block, first)
            for copy in range(self.copies + 1):
                if copy == 1 and held is not None:
                    block, held = block.take(~held), held[~held]
                if not block.rows:
                    break
                X = block.dense(np.float64 if self.kind == "float64" else np.float32)
                if copy and self.moved is not None:
                    X = self.moved(np.asarray(X, dtype=np.float32), rng)
                Z = np.clip(np.rint(X), 0, 255).astype(np.uint8) if self.kind == "uint8" else X.astype(self.kind)
                assert block.carried is not None
                rows = _features(Z, self.layout) | {name: block.carried.column(name) for name in self.kept}
                said = _ensemble(self.members, Z, rows, named="columns" in self.layout)
                rows[self.column] = pa.FixedSizeListArray.from_arrays(pa.array(said.ravel()), said.shape[1])
                yield pa.table(rows if held is None else rows | {HELD: pa.array(held)})


def _write(file: BinaryIO, tables: Iterator[pa.Table], metadata: Mapping[bytes, bytes]) -> None:
    first = next(tables, None)
    if first is None:
        raise DataError("expected rows to teach, found none; give more rows")
    writer = pq.ParquetWriter(file, first.schema.with_metadata(metadata), compression="zstd")
    try:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
        writer.close()
    except BaseException:
        # The file is never published now, so it gets no footer: the encoder goes with the writer.
        writer.is_open = False
        raise


def _same_labels(members: Sequence[Teacher]) -> None:
    known = {member.labels for member in members if isinstance(member, Model | WholeNet)}
    if len(known) > 1:
        raise DataError(
            f"expected teachers of the same labels in the same order, found {[list(labels)[:10] for labels in known]}; "
            "ask others"
        )


def _features(X: npt.NDArray[np.generic], layout: Mapping[str, Any]) -> dict[str, pa.Array]:
    """The feature columns of rows X (h, d), laid out and named as they came."""
    if "vector" in layout:
        flat = pa.array(np.ascontiguousarray(X).ravel())
        return {str(layout["vector"]): pa.FixedSizeListArray.from_arrays(flat, X.shape[1])}
    return {name: pa.array(np.ascontiguousarray(x)) for name, x in zip(layout["columns"], X.T, strict=True)}


def _digest(teacher: Teacher) -> str | None:
    if isinstance(teacher, Model):
        return digest_of([teacher.front, list(teacher.layers), teacher.activations])
    if isinstance(teacher, WholeNet):
        return digest_of([packed_bytes(teacher).hex()])
    return _own_digest(teacher)


def _own_digest(teacher: object) -> str | None:
    return None if not isinstance(teacher, Digested) or teacher.digest is None else str(teacher.digest)


def _ensemble(
    teachers: Sequence[Teacher], X: npt.NDArray[np.generic], rows: Mapping[str, pa.Array], *, named: bool
) -> F32:
    """What the teachers say of numbers X (h, d), which are also among the columns ``rows``: (h, outputs)."""
    answers = [_answer(teacher, X, rows, named=named) for teacher in teachers]
    if len({answer.shape for answer in answers}) > 1 or not all(np.isfinite(answer).all() for answer in answers):
        raise DataError(
            f"expected finite answers of one shape from all teachers, found shapes {[a.shape for a in answers]}; "
            "ask teachers that know the same labels in the same order"
        )
    return np.asarray(np.mean(answers, axis=0), dtype=np.float32)


def _answer(teacher: Teacher, X: npt.NDArray[np.generic], rows: Mapping[str, pa.Array], *, named: bool) -> F64:
    """Log-probabilities (n, classes), or values (n, 1)."""
    if isinstance(teacher, Model | WholeNet):
        front = teacher.trained().front if isinstance(teacher, Model) else teacher.front
        assert front is not None
        # Columns are found by name; the numbers of a vector, whatever it is called, by their place.
        by_name = front.categories or (named and "columns" in front.layout)
        scores = logits(teacher, pa.table(dict(rows)) if by_name else X)
    elif isinstance(teacher, Classifier):
        with np.errstate(divide="ignore"):
            scores = np.maximum(np.log(np.asarray(teacher.predict_proba(X), dtype=np.float64)), -30.0)
    else:
        scores = np.asarray(teacher(X), dtype=np.float64)
    scores = scores.reshape(len(X), -1)
    if scores.shape[1] == 1:
        return np.asarray(scores)
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


__all__ = ["HELD", "TEACHER", "distill", "teach"]
