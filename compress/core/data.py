"""Samples: the rows of a data set, as codes, scattered over files so that training reads them in random order.

One scan of the data writes every row to one of P pieces, chosen at random from the seed; a piece holds at most about
16 MiB. An epoch reads the pieces in a random order and shuffles each in memory. So the order of the rows does not
matter to training, a file sorted by label included, and memory holds one piece, however many rows there are.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eigenmill.compress.core.front import Codes, Front, learn_front, with_categories
from eigenmill.compress.core.layers import F32, Label
from eigenmill.compress.core.model import Model, with_first_weights
from eigenmill.compress.core.split import SplitLike, Validation, split_of
from eigenmill.compress.format import current
from eigenmill.reduce import Dataset, connect
from eigenmill.reduce.engines.base import Engine
from eigenmill.reduce.errors import ConfigError, DataError, SchemaError
from eigenmill.reduce.rows.blocks import Block, Workspace
from eigenmill.reduce.rows.cleaning import DROP
from eigenmill.reduce.sources.layouts import Scalars
from eigenmill.reduce.sources.parquet import ParquetSource
from eigenmill.reduce.storage.digest import digest_of, text_of

MAX_CLASSES = 1 << 12

Targets = npt.NDArray[np.int64 | np.float64]


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows ready to train on. The files live as long as this object.

    Attributes:
        directory: where the pieces are.
        model: what was trained for: front and labels are those of the rows.
        pieces: rows of each training piece.
        held: rows of each validation piece.
        counts: (classes,) training rows by class; (1,) for a regression.
        digest: of the data, the front, the split and the seed.
        owner: the samples whose files these are, if not their own.
        taught: whether a teacher's logits lie beside the training rows.
    """

    directory: Path
    model: Model
    pieces: tuple[int, ...]
    held: tuple[int, ...]
    counts: npt.NDArray[np.int64]
    digest: str
    owner: Samples | None = None
    taught: bool = False

    @property
    def front(self) -> Front:
        assert self.model.front is not None
        return self.model.front

    @property
    def n_rows(self) -> int:
        """Training rows."""
        return sum(self.pieces)

    @property
    def n_held(self) -> int:
        """Validation rows."""
        return sum(self.held)

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[tuple[Codes, Targets, F32 | None]]:
        """One epoch in random order, ``size`` rows at a time (the last has fewer).

        Yields:
            Codes (b, d), targets (b,) and, if there was a teacher, its logits (b, outputs).
        """
        rest: list[npt.NDArray[Any]] = []
        for piece in rng.permutation(len(self.pieces)):
            count = self.pieces[piece]
            arrays: list[npt.NDArray[Any]] = [*self._read("train", int(piece), count)]
            if self.taught:
                path = self.directory / f"train-{piece}.taught"
                arrays.append(np.fromfile(path, np.float32).reshape(count, self.model.outputs))
            order = rng.permutation(count)
            arrays = [array[order] for array in arrays]
            if rest:
                arrays = [np.concatenate(pair) for pair in zip(rest, arrays, strict=True)]
            whole = len(arrays[1]) - len(arrays[1]) % size
            for a in range(0, whole, size):
                yield _batch([array[a : a + size] for array in arrays])
            rest = [array[whole:] for array in arrays]
        if rest and len(rest[1]):
            yield _batch(rest)

    def blocks(self, part: str = "train") -> Iterator[tuple[Codes, Targets]]:
        """All rows of ``"train"`` or ``"held"``, at most 4,096 at a time, in the order of the pieces."""
        for piece, rows in enumerate(self.pieces if part == "train" else self.held):
            codes, targets = self._read(part, piece, rows)
            for a in range(0, rows, 4096):
                yield codes[a : a + 4096], targets[a : a + 4096]

    def sample(self, rows: int) -> tuple[Codes, Targets]:
        """About ``rows`` training rows, for calibration: the first ones of the first pieces, which are random."""
        codes, targets, found = [], [], 0
        for c, t in self.blocks():
            codes.append(c[: rows - found])
            targets.append(t[: rows - found])
            found += len(codes[-1])
            if found >= rows:
                break
        return np.concatenate(codes), np.concatenate(targets)

    def _read(self, part: str, piece: int, rows: int) -> tuple[Codes, Targets]:
        d = self.front.n_codes
        codes = np.fromfile(self.directory / f"{part}-{piece}.codes", self.front.kind)
        kind = np.int64 if self.model.task == "classification" else np.float64
        return codes.reshape(rows, d), np.fromfile(self.directory / f"{part}-{piece}.targets", kind)


Unscattered = Dataset | tuple[npt.ArrayLike, npt.ArrayLike]
"""A data set that carries labels, or a pair of arrays X (n, d) and y (n,)."""
Labelled = Unscattered | Samples


def _batch(arrays: list[npt.NDArray[Any]]) -> tuple[Codes, Targets, F32 | None]:
    return arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else None


def gather(
    model: Model,
    data: Unscattered,
    label: str = "label",
    *,
    teacher: str | None = None,
    validation: SplitLike = 0.1,
    seed: int = 0,
    engine: Engine | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> Samples:
    """Read ``data`` once and scatter its rows, ready for :func:`eigenmill.compress.train` and the steps after it.

    Args:
        model: for which the rows are; its front and labels are learnt here if it has none.
        data: a Dataset with ``label`` among its carried columns, or a pair of arrays X (n, d) and y (n,).
        label: the carried column of classes (whole numbers, text or booleans) or values (numbers).
        teacher: the carried column of a teacher's logits, one list of ``outputs`` numbers a row, as
            :func:`eigenmill.compress.teach` writes it.
        validation: rows to hold out: a share, the keywords of :class:`Validation`, or None.
        seed: of the order of the rows.
        engine: where the scan of moments runs, if the model needs one.
        directory: where the pieces go, one to two bytes a value; a temporary place by default.

    Raises:
        DataError: a label is missing, or there is one class only, or there are no rows.
        SchemaError: the columns are not those of the model, or there is no such label.
    """
    if isinstance(data, Samples):
        raise ConfigError("expected a data set, found samples; hand them to train as they are")
    data, split = as_labelled(data, label), split_of(validation)
    _check_columns(model, data, [label, *(name for name in (split.by, teacher) if name)])
    front = _front(model, data, split, engine or connect("local"))
    model = with_first_weights(model, front, *_learn_targets(data, label, model))
    labels = model.labels
    place = Path(tempfile.mkdtemp(prefix="eigenmill-samples-", dir=directory))
    try:
        pieces, held, counts = _scatter(model, front, data, label, teacher, split, seed, place)
        _check_rows(sum(pieces), sum(held), split)
        digest = digest_of(
            [data.digest, label, teacher, model.task, front, list(labels), text_of(split), seed, pieces, held]
        )
        samples = Samples(place, model, pieces, held, counts, digest, taught=teacher is not None)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    weakref.finalize(samples, shutil.rmtree, place, ignore_errors=True)
    return samples


def _check_columns(model: Model, data: Dataset, needed: Sequence[str]) -> None:
    """Refuses data without the carried columns that are needed, or whose features the model cannot take."""
    for column in needed:
        if column not in data.source.carried.names:
            raise SchemaError(
                f"expected the carried column {column!r}, found {data.source.carried.names}; add it to carry="
            )
    if data.cleaning.clip_sd is not None:
        raise ConfigError("expected no clip_sd; the input's codes reach to 8 standard deviations; remove it")
    if "columns" in model.columns and model.front is None:
        wanted = list(model.columns["columns"])
        if list(data.feature_names) != wanted:
            raise SchemaError(f"expected the features {wanted}, found {list(data.feature_names)}; read these columns")


def _front(model: Model, data: Dataset, split: Validation, engine: Engine) -> Front:
    """The model's input; what it does not know of it yet is learnt from the data."""
    asked = {k: v for k, v in model.columns.items() if k != "columns"}
    front = model.front
    if front is None:
        front = learn_front(data, engine, model.bits, split=split, **asked)
    elif asked and not front.categories:  # the front of a fitted projection knows numbers only
        limits = asked["max_categories"], asked["min_frequency"]
        front = with_categories(front, data, engine, asked["categories"], *limits, split)
    absent = [name for name in front.carried if name not in data.source.carried.names]
    if absent:
        raise SchemaError(
            f"expected the carried columns {absent} of categories, found {data.source.carried.names}; add to carry="
        )
    if front.n_features != data.n_features or data.transforms or data.sparse:
        raise SchemaError(
            f"expected {front.n_features} raw, dense features, found {data.n_features}; give the columns of the model"
        )
    return front


def _check_rows(trained: int, held: int, split: Validation) -> None:
    """Refuses a split that leaves no rows on a side that was asked for."""
    if trained == 0:
        raise DataError("expected rows to train on, found none left after cleaning and validation; give more rows")
    if held == 0 and (split.equals is not None or split.since is not None):
        chosen = f"equal to {split.equals!r}" if split.equals is not None else f"since {split.since!r}"
        raise DataError(
            f"expected rows to hold out with {split.by!r} {chosen}, found none; give a value that is there, or "
            "hold out a share"
        )


def as_labelled(data: object, label: str = "label") -> Dataset:
    """The data set of a pair of arrays (X, y), or the data set itself."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        X, y = np.asarray(data[0]), np.asarray(data[1])
        if X.ndim != 2 or y.shape != (len(X),):
            raise SchemaError(f"expected X (n, d) and y (n,), found {X.shape} and {y.shape}; reshape them")
        kind = np.float64 if X.dtype.itemsize > 4 else np.float32
        X = np.ascontiguousarray(X, dtype=X.dtype if X.dtype == np.uint8 else kind)
        rows = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1])
        try:
            # Arrow would take a text in numpy's own form to end at its first zero.
            table = pa.table({"x": rows, label: pa.array(y.tolist() if y.dtype.kind == "U" else y)})
        except (pa.ArrowException, TypeError, UnicodeError) as error:
            raise SchemaError(f"expected labels of one type, found: {error}; convert them") from error
        return Dataset.from_arrow(table, vector="x", n_features=X.shape[1], carry=[label])
    raise ConfigError(f"expected a Dataset or a pair (X, y), found {type(data).__name__}; make one of these")


def labelled_blocks(data: Dataset, label: str) -> Iterator[tuple[Block, int]]:
    """The blocks of a data set with their carried columns, and the number of the first row of each."""
    workspace, start = Workspace(), 0
    for fragment in data.fragments:
        row = start
        for block in data.blocks(fragment, workspace, carry=True):
            yield block, row
            row += block.rows
        start += fragment.rows


def clean_blocks(data: Dataset, label: str) -> Iterator[tuple[Block, int]]:
    """As :func:`labelled_blocks`, without the rows that the cleaning policy drops."""
    dropping = data.cleaning.resolve(data.feature_names).code == DROP
    for block, first in labelled_blocks(data, label):
        if dropping.any():
            keep = np.asarray(np.isfinite(block.dense(np.float64)[:, dropping]).all(axis=1))
            block = block if keep.all() else block.take(keep)
        yield block, first


def target_column(block: Block, label: str) -> pa.Array:
    """The labels of a block, refused where one is missing."""
    assert block.carried is not None
    column = block.carried.column(label)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(
            f"expected a label in every row, found none in column {label!r} at {block.at(row)}; "
            f"leave such rows out with filters=[({label!r}, 'is not', None)], or fill them"
        )
    return column


def _label_alone(data: Dataset, label: str) -> Dataset:
    """The rows with no column but the label, as far as files allow."""
    source = data.source
    if not isinstance(source, ParquetSource) or (source.keys and label in source.keys[0]):
        return data
    bare = Scalars((), np.dtype(np.float64))
    return Dataset(replace(source, layout=bare, carried=pa.schema([source.carried.field(label)])))


def _learn_targets(data: Dataset, label: str, model: Model) -> tuple[tuple[Label, ...], tuple[float, float]]:
    """The classes in order, or mean and standard deviation of the values; one scan of the label alone."""
    data = _label_alone(data, label)
    kind = data.source.carried.field(label).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if model.task == "regression":
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise SchemaError(f"expected numbers in {label!r} for a regression, found {kind}; convert the column")
        if model.layers and model.front is not None and (model.offset, model.scale) != (0.0, 1.0):
            return (), (model.offset, model.scale)
        count, mean, m2 = 0, 0.0, 0.0
        for block, _ in labelled_blocks(data, label):
            y = target_values(target_column(block, label), label)
            if len(y):
                with np.errstate(over="ignore", invalid="ignore"):
                    delta = y.mean() - mean
                    m2 += float(((y - y.mean()) ** 2).sum() + delta**2 * count * len(y) / (count + len(y)))
                    mean += delta * len(y) / (count + len(y))
                count += len(y)
        if not count:
            raise DataError("expected rows to train on, found none; give more rows")
        if not np.isfinite(m2):
            raise DataError(
                f"expected values in {label!r} whose squares float64 can hold, found larger ones; rescale the column"
            )
        return (), (float(mean), float(np.sqrt(m2 / count)) or 1.0)
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_text(kind)):
        raise SchemaError(
            f"expected whole numbers, text or booleans in {label!r}, found {kind}; convert the column, or use "
            "task='regression'"
        )
    found: set[Label] = set()
    for block, _ in labelled_blocks(data, label):
        found |= set(pc.unique(target_column(block, label)).to_pylist())
        if len(found) > MAX_CLASSES:
            raise DataError(f"expected at most {MAX_CLASSES} classes in {label!r}, found more; is it a number?")
    strange = [value for value in found if isinstance(value, int) and value >= 1 << 63]
    if strange:
        raise DataError(
            f"expected classes of 64 bits with a sign in {label!r}, found {strange[0]}; convert the column to text"
        )
    if model.labels and found <= set(model.labels):
        return model.labels, (0.0, 1.0)
    if len(found) < 2:
        raise DataError(f"expected at least two classes in {label!r}, found {sorted(found)}; give rows of another")
    if model.outputs and len(found) != model.outputs:
        raise DataError(
            f"expected {model.outputs} classes in {label!r}, found {len(found)}: {sorted(found)[:10]}; "
            "give rows of all classes, or leave classes= out"
        )
    return tuple(sorted(found)), (0.0, 1.0)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def target_values(column: pa.Array, label: str) -> npt.NDArray[np.float64]:
    """Numbers to predict, refused unless finite."""
    y = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    if not np.isfinite(y).all():
        raise DataError(f"expected finite values in {label!r}, found {y[~np.isfinite(y)][0]}; leave such rows out")
    return y


def target_indices(column: pa.Array, labels: Sequence[Label], label: str) -> npt.NDArray[np.int64]:
    """Places of the labels among those known.

    Raises:
        DataError: a label is none of them.
    """
    known = pa.array(list(labels))
    found = pc.index_in(column.cast(known.type), known)
    if found.null_count:
        strange = column.filter(found.is_null())[0].as_py()
        raise DataError(f"expected labels among {list(labels)[:10]}, found {strange!r} in {label!r}")
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)


def _scatter(
    model: Model,
    front: Front,
    data: Dataset,
    label: str,
    teacher: str | None,
    split: Validation,
    seed: int,
    place: Path,
) -> tuple[tuple[int, ...], tuple[int, ...], npt.NDArray[np.int64]]:
    size = front.n_codes * np.dtype(front.kind).itemsize + 8
    pieces = max(1, -(-data.n_rows * size // current().piece_bytes))
    rows = {"train": np.zeros(pieces, np.int64), "held": np.zeros(pieces, np.int64)}
    counts = np.zeros(max(len(model.labels), 1), np.int64)
    for part, piece in [(part, piece) for part in rows for piece in range(pieces)]:
        for ending in ("codes", "targets", *(["taught"] if teacher else [])):
            (place / f"{part}-{piece}.{ending}").touch()
    for number, (block, first) in enumerate(clean_blocks(data, label)):
        codes = front.block_codes(block).astype(front.kind)
        column = target_column(block, label)
        if model.task == "classification":
            targets: Targets = target_indices(column, model.labels, label)
        else:
            targets = (target_values(column, label) - model.offset) / model.scale
        arrays = {"codes": codes, "targets": targets}
        if teacher is not None:
            arrays["taught"] = _logits(block, teacher, model)
        held = split.held_out(block, first)
        to = np.random.default_rng([seed, 2, number]).integers(0, pieces, block.rows)
        counts += np.bincount(targets[~held] if len(model.labels) else np.zeros((~held).sum(), int), None, len(counts))
        for part, mask in (("train", ~held), ("held", held)):
            for piece in np.unique(to[mask]):
                chosen = mask & (to == piece)
                rows[part][piece] += int(chosen.sum())
                for ending, values in arrays.items():
                    if part == "held" and ending == "taught":
                        continue
                    with open(place / f"{part}-{piece}.{ending}", "ab") as file:
                        file.write(np.ascontiguousarray(values[chosen]).tobytes())
    return tuple(map(int, rows["train"])), tuple(map(int, rows["held"])), counts


def _logits(block: Block, teacher: str, model: Model) -> F32:
    """(h, outputs) what the teacher said of a block's rows; of a regression in the units that it is trained in."""
    assert block.carried is not None
    column = block.carried.column(teacher)
    listed = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
    flat = column.flatten() if listed else column
    if column.null_count or len(flat) != block.rows * model.outputs or not pa.types.is_floating(flat.type):
        raise SchemaError(
            f"expected lists of {model.outputs} numbers in {teacher!r}, found {column.type} of {len(flat)} numbers in "
            f"{block.rows} rows; write the column with teach()"
        )
    values = np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"expected finite numbers in {teacher!r}, found others; ask the teacher again")
    if model.task == "regression":
        values = ((values.astype(np.float64) - model.offset) / model.scale).astype(np.float32)
    return values.reshape(block.rows, model.outputs)


def samples_of(model: Model, data: Labelled, label: str, **options: Any) -> Samples:
    """``data`` as samples: gathered now, or at hand already and fit for the model."""
    if not isinstance(data, Samples):
        return gather(model, data, label, **options)
    front, theirs = model.front, data.front
    asked = model.columns.get("categories", [])
    if asked and asked != [category.name for category in theirs.categories]:
        raise ConfigError("expected samples with the model's categories, found those of another; gather them anew")
    if front is not None and asked and not front.categories:  # the front of a fitted projection knows numbers only
        front = replace(front, categories=theirs.categories, hot=theirs.hot)
    if model.task != data.model.task or model.outputs not in (0, data.model.outputs):
        raise ConfigError("expected samples gathered for such a model, found those of another; gather them anew")
    if front is None:
        front = theirs
    if digest_of(front) != digest_of(theirs) or (model.labels and model.labels != data.model.labels):
        raise ConfigError("expected samples gathered for this model, found those of another; gather them anew")
    return replace(
        data,
        owner=data,
        model=with_first_weights(model, front, data.model.labels, (data.model.offset, data.model.scale)),
    )


__all__ = ["Samples", "Validation", "gather"]
