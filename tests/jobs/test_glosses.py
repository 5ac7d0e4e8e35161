"""All of WordNet's glosses, from texts to features by conf/glosses.yaml, beside ARPACK on the same rows."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import sparse
from scipy.sparse.linalg import svds

from benchmarks.data import CACHE
from benchmarks.glosses import KINDS, glosses, of_kind
from eigenmill.jobs.reduction import texts as text
from eigenmill.jobs.reduction.config import load_job
from eigenmill.jobs.reduction.run import run
from eigenmill.reduce import load

ROOT = Path(__file__).parents[2]


def wordnet() -> Path:
    """The benchmarks' copy, fetched on first use."""
    try:
        glosses(ROOT / CACHE)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"WordNet's glosses (Debian's package wordnet-base) cannot be had here: {error}")
    return ROOT / CACHE


@pytest.mark.slow
def test_texts_become_features_as_accurate_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = wordnet()
    monkeypatch.chdir(tmp_path)
    texts = tmp_path / "data/texts"
    texts.mkdir(parents=True)
    for kind in KINDS:
        (texts / f"{kind}.txt").write_text("\n".join(of_kind(cache, kind)) + "\n", encoding="utf-8")
    written = text.write(texts, "data/glosses", workers=2)
    assert (written.files, written.documents, written.features) == (4, 117_659, 65_536)
    job = load_job(ROOT / "conf/glosses.yaml")
    report = run(job)
    assert report.status == "complete"
    assert [scan.name for scan in report.scans][-1] == "write"

    table = pq.read_table("data/glosses")
    indices, values = (table.column(name).combine_chunks() for name in ("indices", "values"))
    ends = np.concatenate([[0], np.cumsum(indices.value_lengths().to_numpy())])
    X = sparse.csr_array((values.flatten().to_numpy(), indices.flatten().to_numpy(), ends), shape=(117_659, 65_536))
    true = np.sort(svds(X.astype(np.float64), k=100, return_singular_vectors=False, random_state=0))[::-1]
    model = load("out/glosses/model")
    s = model.singular_values_
    np.testing.assert_allclose(s, true, rtol=1e-3)
    assert (np.abs(s - true) <= model.error_bounds_).all()
    assert model.converged_
    features = pq.read_table("out/glosses/features")
    assert features.column_names[0] == "document"
    np.testing.assert_array_equal(features.column("document").to_pylist(), table.column("document").to_pylist())
    Z = np.stack([column.to_numpy() for column in features.columns[1:]], axis=1) if features.num_columns > 2 else None
    if Z is None:
        Z = features.column(1).combine_chunks().flatten().to_numpy().reshape(-1, 100)
    np.testing.assert_allclose(Z[:1_000], X[:1_000] @ model.components_.T, atol=1e-5)
    # The features' own size: what the model says, at the accuracy of vectors.
    np.testing.assert_allclose(np.linalg.norm(Z, axis=0), s, rtol=1e-4)
