"""Whatever a source or a transform may offer is a member of its base class, with a default."""

from __future__ import annotations

import ast
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse

from eigenmill.reduce import PCA, Dataset, StandardScaler
from eigenmill.reduce.rows import transforms
from eigenmill.reduce.rows.blocks import Block, Workspace
from eigenmill.reduce.rows.transforms import Align, Transform
from eigenmill.reduce.sources import base
from eigenmill.reduce.sources.base import Source, StandIn
from eigenmill.reduce.sources.catalog import total_rows
from eigenmill.reduce.sources.extents import Reading

X = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0], [4.0, 0.0, 5.0], [0.0, 0.0, 6.0]])


def members(module: Any, name: str) -> set[str]:
    """The public members of a class, those that only type checkers see among them."""
    (found,) = (n for n in ast.parse(inspect.getsource(module)).body if isinstance(n, ast.ClassDef) and n.name == name)
    inner = [m for n in found.body for m in (n.body if isinstance(n, ast.If) else [n])]
    named = {n.name for n in inner if isinstance(n, ast.FunctionDef)}
    named |= {n.target.id for n in inner if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    return {name for name in named if not name.startswith("_")}


def parquet(folder: Path, **options: Any) -> Source:
    table = pa.table({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "id": np.arange(4)})
    pq.write_table(table, folder / "x.parquet")
    return Dataset.from_parquet(folder, columns=["a", "b", "c"], carry="id", **options).source


def pairs(folder: Path) -> Source:
    table = pa.table({"i": [[0, 2], [1], [0, 2], [2]], "v": [[1.0, 2.0], [3.0], [4.0, 5.0], [6.0]]})
    pq.write_table(table, folder / "x.parquet")
    return Dataset.from_parquet(folder, sparse=("i", "v", 3)).source


FORMS: dict[str, Callable[[Path], Source]] = {
    "files": parquet,
    "sparse files": pairs,
    "array": lambda _: Dataset.from_numpy(X).source,
    "sparse array": lambda _: Dataset.from_numpy(scipy.sparse.csr_array(X)).source,
    "table": lambda _: Dataset.from_arrow(pa.table({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2]})).source,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_source_offers_every_member(tmp_path: Path, form: str) -> None:
    source = FORMS[form](tmp_path)
    assert {"names", "dtype", "fragments", "digest", "values", "only"} <= members(base, "Source")
    assert [name for name in members(base, "Source") if not hasattr(source, name)] == []
    sparse = "sparse" in form
    assert (len(source.names), total_rows(source.fragments), source.sparse) == (3, 4, sparse)
    assert source.values == (6 if sparse else 12)
    assert source.stored_columns == (2 if form == "sparse files" else 3)
    assert (len(source.files), source.listed, bool(source.root)) == (
        (1, True, True) if "files" in form else (0, False, False)
    )
    assert source.only(range(len(source.files))).digest == source.digest
    assert pickle.loads(pickle.dumps(source)).digest == source.digest


FILES = ("content", "real", "real_files")


@pytest.mark.parametrize("form", FORMS)
def test_a_stand_in_is_the_same_in_all_but_its_blocks(tmp_path: Path, form: str) -> None:
    class Told(StandIn):
        def blocks(self, *args: Any, **options: Any) -> Any:
            return self.source.blocks(*args, **options)

    source = FORMS[form](tmp_path)
    stand_in = Told(source)
    for name in members(base, "Source") - {"blocks", "values_of", "only", "within", "reading", "describe", *FILES}:
        assert getattr(stand_in, name) == getattr(source, name), name
    assert stand_in.describe() == source.describe()
    assert stand_in.reading(64, 100, carry=True) == source.reading(64, 100, carry=True)
    assert stand_in.within(Reading(piece=1)).digest == source.digest
    assert list(stand_in.real_files()) == list(source.real_files())
    assert list(stand_in.real([str(tmp_path)])) == list(source.real([str(tmp_path)]))
    assert [stand_in.content(i) for i in range(len(source.files))] == [
        source.content(i) for i in range(len(source.files))
    ]
    assert stand_in.only([0] if source.files else []).digest == source.only([0] if source.files else []).digest
    assert Told in type(stand_in).__mro__
    assert members(base, "Source") - {"blocks"} <= members(base, "StandIn") | {
        "files",
        "root",
        "listed",
        "carried",
        "format",
    }


def chains(policy: str) -> list[Transform]:
    """One of every kind, with rows that are dropped under ``policy="drop"``."""
    gaps = np.where(X == 3, np.nan, X)
    data = Dataset.from_numpy(np.vstack([gaps, X + 1])).with_cleaning(missing=policy)
    pca = PCA(2).fit(data)
    scaled = StandardScaler().fit(data)
    made = [pca.transform(data), scaled.transform(data), pca.score_samples(data)]
    made += [scaled.inverse_transform(data), pca.inverse_transform(pca.transform(data))]
    align = Align(np.array([1, 0]), np.array([1.0, -1.0]), ("a", "b"), np.dtype(np.float64))
    return [*(d.transforms[-1] for d in made), align]


def test_every_transform_offers_every_member() -> None:
    found = chains("mean")
    for transform in found:
        assert isinstance(transform, Transform)
        assert [name for name in members(transforms, "Transform") if not hasattr(transform, name)] == []
        assert (transform.hidden, len(transform.carried), transform.drops) == ((), 0, False)
        assert pickle.loads(pickle.dumps(transform)).digest == transform.digest
    assert len({type(t) for t in found}) == len(found) == 6


def test_what_drops_rows_says_so() -> None:
    rows = np.array([[1.0, np.nan, 2.0], [0.0, 3.0, 1.0]])
    for transform in chains("drop"):
        if transform.n_features_in == 3:
            left = transform(Block(rows.copy(), workspace=Workspace())).rows
            assert transform.drops == (left == 1)
