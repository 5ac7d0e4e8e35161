"""Texts to sparse rows: what scikit-learn makes of them in memory, whatever the number of processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from eigenmill.jobs.reduction import texts as text
from eigenmill.jobs.shown import exits
from eigenmill.reduce import Dataset, TruncatedSVD
from eigenmill.reduce.errors import ConfigError, DataError, OutputError
from tests.support.trees import tree

TEXTS = {
    "noun": ["a large cat", "a small dog; dogs bark", "", "Cat and DOG", "café au lait"],
    "verb": ["bark like a dog", "purr like a cat cat cat"],
}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    place = tmp_path / "texts"
    place.mkdir()
    for name, lines in TEXTS.items():
        (place / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place


def rows(out: Path, features: int) -> Any:
    found = []
    for path in sorted(out.glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            line = np.zeros(features)
            line[row["indices"]] = row["values"]
            found.append(line)
    return np.array(found)


def in_memory(features: int, weighted: bool) -> Any:
    hasher = HashingVectorizer(n_features=features, token_pattern=text.PATTERN, norm=None, alternate_sign=False)
    counts = hasher.transform([line for lines in TEXTS.values() for line in lines])
    return (TfidfTransformer().fit_transform(counts) if weighted else counts).toarray()


@pytest.mark.parametrize("weights", ["tfidf", "counts"])
def test_equals_scikit_learn_in_memory(
    texts: Path, tmp_path: Path, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "ROWS", 2)  # several row groups in a file
    features, names = 64, [f"{name}:{i + 1}" for name, lines in TEXTS.items() for i in range(len(lines))]
    idf = None
    if weights == "tfidf":
        counted = [text.frequencies(text.Hashing(features), texts / f"{name}.txt") for name in TEXTS]
        idf = np.log((1 + 7) / (1 + sum(seen for _, seen in counted))) + 1
    for name in TEXTS:
        text.write_part(text.Hashing(features), idf, str(tmp_path), texts / f"{name}.txt")
    np.testing.assert_allclose(rows(tmp_path, features), in_memory(features, weights == "tfidf"), rtol=1e-6)
    tables = [pq.ParquetFile(tmp_path / f"{name}.parquet") for name in TEXTS]
    assert [table.num_row_groups for table in tables] == [3, 1]
    assert [name for table in tables for name in table.read()["document"].to_pylist()] == names


def test_any_number_of_processes_writes_the_same_files_and_they_reduce(
    texts: Path, tmp_path: Path, eigenmill: Any
) -> None:
    out = tmp_path / "out"
    options = ("--features", 64, "--workers")
    found = json.loads(eigenmill("text", texts, "--out", out, *options, 2, "--json").stdout)
    assert (found["files"], found["documents"], found["features"]) == (2, 7, 64)
    assert found["stored"] == np.count_nonzero(in_memory(64, True))
    first = tree(out)
    text.write(texts, out, hashing=text.Hashing(64), workers=1)
    assert tree(out) == first
    model = TruncatedSVD(2).fit(Dataset.from_parquet(out, sparse=("indices", "values", 64)))
    truth = np.linalg.svd(in_memory(64, True), compute_uv=False)
    np.testing.assert_allclose(model.singular_values_, truth[:2], rtol=1e-6)


def test_a_file_that_cannot_be_read_leaves_none_behind(texts: Path, tmp_path: Path, eigenmill: Any) -> None:
    (texts / "adj.txt").write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(DataError, match=r"expected UTF-8, found invalid start byte in .*adj\.txt, line 2; convert"):
        text.write_part(text.Hashing(8), None, str(tmp_path), texts / "adj.txt")
    assert not list(tmp_path.glob("*adj*"))
    result = eigenmill("text", texts, "--out", tmp_path / "o", "--workers", 1, code=exits.BAD_DATA)
    assert "line 2" in result.stderr


def test_what_is_wrong_is_refused(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"files \*\.txt in .*, found none; give a directory"):
        text.write(tmp_path, tmp_path / "o")
    for hashing in (text.Hashing(0), text.Hashing(pattern="[a")):
        with pytest.raises(ConfigError, match=r"expected .* found .*;"):
            text.write(texts, tmp_path / "o", hashing=hashing)
    with pytest.raises(ConfigError, match="tfidf or counts, found 'bm25'"):
        text.write(texts, tmp_path / "o", weights="bm25")  # type: ignore[arg-type]
    (tmp_path / "o").mkdir()
    (tmp_path / "o/mine.parquet").write_bytes(b"")
    with pytest.raises(OutputError, match=r"found mine\.parquet; give another"):
        text.write(texts, tmp_path / "o")
    assert sparse.issparse(text.Hashing(8).rows(["a b", "cc dd"]))
