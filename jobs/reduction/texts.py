"""Texts to sparse rows: hashed words (scikit-learn's HashingVectorizer), weighted by TF-IDF, as Parquet.

A file of texts, one a line, makes one Parquet file with a row per text. Hashing needs no vocabulary, so files do not
wait for each other. Only the document frequencies are shared: they are counted first, and the texts are hashed twice
rather than kept.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

from eigenmill.jobs.reduction.results import Texts
from eigenmill.reduce.errors import ConfigError, DataError, OutputError
from eigenmill.reduce.sources import apart
from eigenmill.reduce.storage import files, places

FEATURES = 1 << 16
PATTERN = r"[a-z]{2,}"
ROWS = 20_000
"""Texts per row group: as many are in memory at once."""
SCHEMA = pa.schema({"document": pa.string(), "indices": pa.list_(pa.int32()), "values": pa.list_(pa.float32())})

Weights = Literal["tfidf", "counts"]


@dataclass(frozen=True)
class Hashing:
    """How a text becomes a row: the number of columns, and a regular expression of words (lower case)."""

    features: int = FEATURES
    pattern: str = PATTERN

    def rows(self, texts: Sequence[str]) -> sparse.csr_array:
        """(n, features) float32 counts of words; words that share a column are counted together."""
        hasher = HashingVectorizer(
            n_features=self.features, token_pattern=self.pattern, norm=None, alternate_sign=False, dtype=np.float32
        )
        return sparse.csr_array(hasher.transform(texts))


def write(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    hashing: Hashing | None = None,
    weights: Weights = "tfidf",
    workers: int | None = None,
) -> Texts:
    """Write every ``*.txt`` of a directory (UTF-8, a text per line) as ``out/NAME.parquet``.

    Rows have ``document`` ("NAME:line", from 1), ``indices`` and ``values``. ``tfidf`` weights them as scikit-learn's
    TfidfTransformer does: counts times ``ln((1 + n) / (1 + n_j)) + 1``, n_j texts with column j of n, and then to
    length 1. The files depend on the texts and the options only, not on ``workers`` (processes; all CPUs by default).

    Raises:
        ConfigError: an option is wrong.
        DataError: there is no text, or it is not UTF-8.
        OutputError: ``out`` has other files.
    """
    hashing = hashing or Hashing()
    _check(hashing, weights)
    pattern = places.below(os.fspath(source), "*.txt")
    apart.refuse({"INPUT": pattern}, {"--out": out}, holds=["text.parquet"], look=False)
    texts = sorted(Path(places.absolute(source)).glob("*.txt"))
    if not texts:
        raise DataError(f"expected files *.txt in {source}, found none; give a directory of texts, one per line")
    fs, target = places.resolve(out)
    names = {f"{path.stem}.parquet" for path in texts}
    if files.exists(fs, target):
        other = sorted(set(files.visible_files(fs, target)) - names)
        if other:
            raise OutputError(f"expected no files but those of {source} in {out}, found {other[0]}; give another --out")
    files.make_directory(fs, target)
    # Threads would take turns: splitting texts into words holds the interpreter's lock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers or os.cpu_count() or 1, len(texts)), mp_context=context) as pool:
        idf = None
        if weights == "tfidf":
            n, seen = 0, np.zeros(hashing.features, dtype=np.int64)
            for rows, more in pool.map(partial(frequencies, hashing), texts):
                n += rows
                seen += more
            idf = np.log((1 + n) / (1 + seen)) + 1
        found = list(pool.map(partial(write_part, hashing, idf, os.fspath(out)), texts))
    return Texts(str(out), len(found), sum(n for n, _ in found), hashing.features, sum(stored for _, stored in found))


def frequencies(hashing: Hashing, path: Path) -> tuple[int, npt.NDArray[np.int64]]:
    """(texts, (features,) texts with that column) of one file."""
    n, seen = 0, np.zeros(hashing.features, dtype=np.int64)
    for texts in _batches(path):
        n += len(texts)
        seen += np.bincount(hashing.rows(texts).indices, minlength=hashing.features)
    return n, seen


def write_part(hashing: Hashing, idf: npt.NDArray[np.float64] | None, out: str, path: Path) -> tuple[int, int]:
    """Write one file's rows; (texts, stored numbers)."""
    n = stored = 0

    def content(file: BinaryIO) -> None:
        nonlocal n, stored
        writer = pq.ParquetWriter(file, SCHEMA, compression="zstd")
        try:
            for texts in _batches(path):
                X = hashing.rows(texts)
                if idf is not None:
                    X.data *= idf[X.indices].astype(np.float32)
                    normalize(X, copy=False)
                writer.write_table(_table(X, path.stem, n), row_group_size=ROWS)
                n, stored = n + len(texts), stored + X.nnz
            writer.close()
        finally:
            # After an error there must be no footer, which closing would write.
            writer.is_open = False

    fs, target = places.resolve(f"{out.rstrip('/')}/{path.stem}.parquet")
    with files.draft(fs, target) as made:
        content(made.file)
    return n, stored


def _check(hashing: Hashing, weights: str) -> None:
    if not 1 <= hashing.features < 1 << 31:
        raise ConfigError(f"expected 1 to 2,147,483,647 features, found {hashing.features}; 65536 suits most texts")
    if weights not in ("tfidf", "counts"):
        raise ConfigError(f"expected weights tfidf or counts, found {weights!r}; give one of them")
    try:
        re.compile(hashing.pattern)
    except re.error as error:
        raise ConfigError(
            f"expected a regular expression of words, found {hashing.pattern!r}: {error}; {PATTERN!r} is one"
        ) from None


def _batches(path: Path) -> Iterator[list[str]]:
    with path.open("rb") as lines:
        before = 0
        while raw := list(itertools.islice(lines, ROWS)):
            texts = []
            for at, line in enumerate(raw, start=before + 1):
                try:
                    texts.append(line.decode())
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"expected UTF-8, found {error.reason} in {path}, line {at}; convert the file"
                    ) from None
            yield texts
            before += len(raw)


def _table(X: Any, name: str, before: int) -> pa.Table:
    offsets = pa.array(X.indptr.astype(np.int32))
    documents = pa.array([f"{name}:{before + line}" for line in range(1, X.shape[0] + 1)])
    indices = pa.ListArray.from_arrays(offsets, pa.array(X.indices.astype(np.int32)))
    return pa.Table.from_arrays(
        [documents, indices, pa.ListArray.from_arrays(offsets, pa.array(X.data))], schema=SCHEMA
    )


__all__ = ["FEATURES", "PATTERN", "Hashing", "frequencies", "write", "write_part"]
