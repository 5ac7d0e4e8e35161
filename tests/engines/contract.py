"""What every engine promises. An engine's tests inherit :class:`EngineContract` and give the fixture ``engine``.

The reference is the local engine with one worker; engines must agree with it to the byte.
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from eigenmill.compress.core.categories import vocabulary_pass
from eigenmill.reduce import (
    PCA,
    DataError,
    Dataset,
    DoesNotFitError,
    MissingValueError,
    Sink,
    StandardScaler,
    TruncatedSVD,
    connect,
)
from eigenmill.reduce.engines.base import Tree
from eigenmill.reduce.engines.kinds import ENGINES, costs_of
from eigenmill.reduce.passes.base import to_arrays
from eigenmill.reduce.passes.gram import GramPass
from eigenmill.reduce.passes.intake import Intake
from eigenmill.reduce.passes.moments import MomentsPass
from eigenmill.reduce.passes.rows import RowsPass
from eigenmill.reduce.passes.sketch import SketchPass
from eigenmill.reduce.passes.tsqr import TsqrPass
from eigenmill.reduce.rows.cleaning import MEAN
from eigenmill.reduce.storage.digest import digest_of
from tests.engines.counting import FailingScans, failing_at
from tests.support.formats import use
from tests.support.progress import Recorder
from tests.support.tables import columns
from tests.support.trees import tree

KINDS = ("moments", "gram", "rows", "tsqr", "sketch")
INPUTS = (
    "scalar",
    "scalar32",
    "list",
    "sparse",
    "missing",
    "weights",
    "filters",
    "one row",
    "empty file",
    "transformed",
)
D, N = 6, 160

MakeEngine = Callable[..., Any]


def write_files(folder: Path, *, dtype: Any = np.float64, bad_row: int | None = None, n: int = N) -> Path:
    """Three files with row groups of 7 rows: scalars f*, gaps g*, a list, sparse pairs, weights, an id."""
    folder = folder / "data"
    folder.mkdir(exist_ok=True)
    for k, content in enumerate(_files(np.dtype(dtype), bad_row, n)):
        (folder / f"part-{k}.parquet").write_bytes(content)
    return folder


@lru_cache
def _files(dtype: np.dtype[Any], bad_row: int | None, n: int) -> list[bytes]:
    rng = np.random.default_rng(5)
    X = (rng.normal(size=(n, D)) * np.linspace(3, 1, D) + 1e3).astype(dtype)
    if bad_row is not None:
        X[bad_row, 2] = np.nan
    S = np.where(rng.random((n, D)) < 0.4, np.round(rng.normal(size=(n, D)), 2), 0)
    G = np.where(rng.random((n, D)) < 0.15, np.nan, X)
    index = [np.flatnonzero(row).tolist() for row in S]
    table = pa.table(
        {
            "id": np.arange(n),
            **columns(X, "f"),
            **{f"g{j}": pa.array(G[:, j], from_pandas=True) for j in range(D)},
            "v": pa.array(X.tolist(), pa.list_(pa.from_numpy_dtype(dtype))),
            "i": pa.array(index, pa.list_(pa.int32())),
            "x": pa.array([S[r, c].tolist() for r, c in enumerate(index)], pa.list_(pa.float64())),
            "w": rng.integers(0, 3, n),
        }
    )
    files = [io.BytesIO() for _ in range(3)]
    for file, (a, b) in zip(files, [(0, n // 3), (n // 3, n // 2), (n // 2, n)], strict=True):
        pq.write_table(table.slice(a, b - a), file, row_group_size=7)
    return [file.getvalue() for file in files]


def open_input(kind: str, folder: Path) -> Dataset:
    scalars, gaps = [f"f{j}" for j in range(D)], [f"g{j}" for j in range(D)]
    if kind == "scalar32":
        return Dataset.from_parquet(write_files(folder, dtype=np.float32), columns=scalars)
    path = write_files(folder)
    if kind == "list":
        return Dataset.from_parquet(path, vector="v", carry="id")
    if kind == "sparse":
        return Dataset.from_parquet(path, sparse=("i", "x", D), carry="id")
    if kind == "missing":
        return Dataset.from_parquet(path, columns=gaps, missing="mean", carry="id")
    if kind == "weights":
        return Dataset.from_parquet(path, columns=gaps, missing="drop", weights="w", clip=(998.0, 1003.0), carry="id")
    if kind == "filters":
        return Dataset.from_parquet(
            path,
            columns=scalars,
            filters=(pc.bit_wise_and(pc.field("id"), pc.scalar(3)) != 0) & (pc.field("id") > 40),
            carry="id",
        )
    if kind == "one row":
        return Dataset.from_parquet(path, columns=scalars, filters=pc.field("id") == 77, carry="id")
    if kind == "empty file":
        pq.write_table(pq.read_table(path / "part-0.parquet").slice(0, 0), path / "part-00.parquet")
        return Dataset.from_parquet(path, columns=scalars, carry="id")
    data = Dataset.from_parquet(path, columns=scalars, carry="id")
    if kind == "transformed":
        scaler = StandardScaler().fit(data)
        return PCA(3).fit(scaler.transform(data)).transform(scaler.transform(data))
    return data


def pass_of(kind: str, data: Dataset) -> Any:
    names = data.feature_names
    intake = Intake(names, data.dtype, data.cleaning.resolve(names), data.format)
    if kind == "tsqr":
        d = len(names)
        return TsqrPass(replace(intake, dtype=np.dtype(np.float64)), np.zeros(d), np.full(d, 0.25), np.eye(d)[:, :2])
    if kind == "sketch":
        d = len(names)
        weights = np.random.default_rng(3).normal(size=(d, 3))
        # Filling by the mean wants what an earlier scan would have found.
        filled = bool((intake.policy.code == MEAN).any())
        return SketchPass(intake, weights, *((np.full(d, 1e3), np.full(d, 0.5)) if filled else ()))
    return {"moments": MomentsPass, "gram": GramPass, "rows": RowsPass}[kind](intake)


def bytes_of(result: Any) -> str:
    return digest_of(result if isinstance(result, np.ndarray) else to_arrays(result))


def same_arrays(mine: Any, theirs: Any) -> None:
    """Two fitted models are equal to the byte."""
    arrays = {name: value for name, value in vars(theirs).items() if isinstance(value, np.ndarray)}
    assert len(arrays) > 3
    for name, value in arrays.items():
        assert getattr(mine, name).tobytes() == value.tobytes(), name


def costing(patch: pytest.MonkeyPatch, kind: str, **changes: Any) -> None:
    """Let a kind of cluster cut, merge and write otherwise."""
    costs = costs_of(kind)
    patch.setitem(ENGINES, kind, replace(ENGINES[kind], costs=replace(costs, **changes)))


def reference() -> Any:
    return connect("local", workers=1)


class EngineContract:
    """Inherit, and define ``make_engine``: a fixture that gives a function of the options ``memory``, ``work`` and
    ``progress`` to an engine. Leaves are made tiny in this process; to others they travel with the data."""

    @pytest.fixture
    def make_engine(self) -> MakeEngine:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def tiny_leaves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        use(monkeypatch, leaf_bytes=1)  # a leaf is 12 rows: two row groups

    @pytest.fixture
    def engine(self, make_engine: MakeEngine) -> Any:
        return make_engine()

    @pytest.mark.parametrize("input_", INPUTS)
    def test_the_bytes_of_every_pass(self, engine: Any, input_: str, tmp_path: Path) -> None:
        data = open_input(input_, tmp_path)
        for kind in KINDS:
            pass_ = pass_of(kind, data)
            assert bytes_of(engine.run(pass_, data)) == bytes_of(reference().run(pass_, data)), kind

    @pytest.mark.parametrize("counted", [1 << 16, 8])
    def test_the_bytes_of_vocabularies(self, engine: Any, counted: int, tmp_path: Path) -> None:
        """Of carried columns: text, whole numbers and parts of dates, with nulls; and when more than 8 are too many."""
        rng, days = (
            np.random.default_rng(3),
            [None, datetime.datetime(2001, 12, 31, 23), datetime.datetime(2004, 2, 29)],
        )
        texts = [None, "", "a", "b", "\N{LATIN SMALL LETTER O WITH DIAERESIS}", "\0", "a\0", "aa", *map(str, range(30))]
        share = np.r_[0.05, np.full(3, 0.25), np.full(4, 0.02), np.full(30, 0.12 / 30)]
        table = pa.table(
            {
                "x": rng.normal(size=N),
                "text": pa.array([texts[i] for i in rng.choice(len(texts), N, p=share)], pa.string()),
                "port": pa.array(np.minimum(rng.geometric(0.3, N), 9) - (1 << 60)),
                "when": pa.array([days[i] for i in rng.integers(0, 3, N)], pa.timestamp("us")),
                "id": np.arange(N),
            }
        )
        pq.write_table(table, tmp_path / "t.parquet", row_group_size=7)
        names = ["text", "port", "weekday(when)", "hour(when)"]
        data = Dataset.from_parquet(tmp_path / "t.parquet", columns=["x"], carry=["text", "port", "when", "id"])
        pass_ = replace(vocabulary_pass(data.carried, names, 20, 2), counted=counted)
        trees: list[Tree[Any]] = [Tree(), Tree()]
        found, wanted = (e.run(pass_, data, tree=tree) for e, tree in zip((engine, reference()), trees, strict=True))
        assert found == wanted
        mine, theirs = ({k: bytes_of(s) for k, s in tree.nodes.items()} for tree in trees)
        assert mine == theirs
        assert any(state.taken.any() for state in trees[0].nodes.values()) == (counted == 8)
        assert {"", "a", "b"} <= set(found[0].values)
        many = replace(vocabulary_pass(data.carried, ["id"], 20, 2), counted=counted, least=1 if counted == 8 else 2)
        if counted == 8:
            with pytest.raises(DataError, match="category 'id', found more different ones than the 8 that"):
                engine.run(many, data)
        else:
            assert engine.run(many, data)[0].values == ()

    @pytest.mark.parametrize("input_", [i for i in INPUTS if i != "one row"])
    def test_the_bytes_of_models_and_parts(self, engine: Any, input_: str, tmp_path: Path) -> None:
        data = open_input(input_, tmp_path)
        Model: Any = TruncatedSVD if input_ == "sparse" else PCA
        mine, theirs = (Model(2, scale=True, refine=True).fit(data, engine=e) for e in (engine, reference()))
        same_arrays(mine, theirs)
        for e, out in ((engine, "a"), (reference(), "b")):
            e.write(mine.transform(data), Sink(tmp_path / out, part_bytes=300))
        assert tree(tmp_path / "a") == tree(tmp_path / "b")
        assert len(tree(tmp_path / "a")) > 4

    def whole_leaves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Undo ``tiny_leaves`` within a test."""
        monkeypatch.undo()

    def test_a_large_leaf_of_many_blocks(self, engine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.whole_leaves(monkeypatch)
        X = np.random.default_rng(0).normal(size=(20_000, D))
        pq.write_table(pa.table(columns(X, "f")), tmp_path / "t.parquet", row_group_size=9000)
        data = Dataset.from_parquet(tmp_path / "t.parquet")
        for kind in KINDS:
            assert bytes_of(engine.run(pass_of(kind, data), data)) == bytes_of(
                reference().run(pass_of(kind, data), data)
            )

    def test_no_rows(self, engine: Any, tmp_path: Path) -> None:
        path = write_files(tmp_path)
        data = Dataset.from_parquet(path, columns=["f0", "f1"], filters=pc.field("id") < 0, carry="id")
        for kind in KINDS:
            assert bytes_of(engine.run(pass_of(kind, data), data)) == bytes_of(
                reference().run(pass_of(kind, data), data)
            )
        with pytest.raises(DataError, match="at least one row"):
            PCA(1).fit(data, engine=engine)
        assert engine.write(data, Sink(tmp_path / "out")).rows == 0
        assert pq.read_table(tmp_path / "out").num_rows == 0

    def test_collecting_keeps_the_order_of_rows(self, engine: Any, tmp_path: Path) -> None:
        data = open_input("scalar", tmp_path)
        np.testing.assert_array_equal(
            data.to_numpy(engine), pq.read_table(tmp_path / "data", columns=list(data.feature_names)).to_pandas()
        )

    def test_data_errors_keep_their_words(self, engine: Any, tmp_path: Path) -> None:
        path = write_files(tmp_path, bad_row=150)
        data = Dataset.from_parquet(path, columns=[f"f{j}" for j in range(D)])
        with pytest.raises(
            MissingValueError, match=r"column 'f2', found a missing value .* at .*part-2.parquet, row group 10, row 0 "
        ) as raised:
            engine.run(pass_of("gram", data), data)
        with pytest.raises(MissingValueError) as expected:
            reference().run(pass_of("gram", data), data)
        assert str(raised.value) == str(expected.value)
        dropping = PCA(2).fit(data.with_cleaning(missing="drop"), engine=engine)
        assert engine.write(dropping.transform(data), Sink(tmp_path / "dropped")).rows == N - 1
        strict = PCA(2).fit(Dataset.from_parquet(write_files(tmp_path), columns=[f"f{j}" for j in range(D)]))
        write_files(tmp_path, bad_row=150)
        with pytest.raises(MissingValueError, match="column 'f2'"):
            engine.write(strict.transform(data), Sink(tmp_path / "out"))
        assert not (tmp_path / "out" / "_SUCCESS").exists()

    def test_a_vanished_file_is_an_error(self, engine: Any, tmp_path: Path) -> None:
        data = open_input("scalar", tmp_path)
        (tmp_path / "data" / "part-1.parquet").unlink()
        with pytest.raises(DataError, match=r"part-1\.parquet"):
            engine.run(pass_of("moments", data), data)

    def test_an_engine_survives_an_error(self, engine: Any, tmp_path: Path) -> None:
        data = open_input("missing", tmp_path)
        strict = data.with_cleaning(missing="error")
        for _ in range(2):
            with pytest.raises(MissingValueError):
                engine.run(pass_of("gram", strict), strict)
            assert bytes_of(engine.run(pass_of("gram", data), data)) == bytes_of(
                reference().run(pass_of("gram", data), data)
            )

    def test_going_on_from_a_tree(self, engine: Any, tmp_path: Path) -> None:
        data = open_input("missing", tmp_path)
        files = range(len(data.source.files))
        for kind in KINDS:
            pass_, trees, results = pass_of(kind, data), [], []
            for e in (engine, reference()):
                tree: Tree[Any] = Tree()
                for day in (files[:1], files[1:2], files[2:]):
                    results.append(bytes_of(e.run(pass_, replace(data, source=data.source.only(day)), tree=tree)))
                trees.append(tree)
            assert results[:3] == results[3:]
            assert results[2] == bytes_of(reference().run(pass_, data))
            mine, theirs = trees
            assert (mine.leaves, mine.open_rows) == (theirs.leaves, theirs.open_rows)
            assert {k: bytes_of(s) for k, s in mine.nodes.items()} == {k: bytes_of(s) for k, s in theirs.nodes.items()}

    def test_progress_is_told(self, make_engine: MakeEngine, tmp_path: Path) -> None:
        data, told = open_input("scalar", tmp_path), Recorder()
        engine = make_engine(progress=told)
        engine.run(pass_of("gram", data), data)
        assert (told.planned, told.rows, told.ends) == ([("gram", N)], N, 1)
        engine.write(data, Sink(tmp_path / "out"))
        assert (told.planned[1:], told.rows, told.ends) == ([("write", N)], 2 * N, 2)
        with pytest.raises(DataError):
            engine.run(pass_of("gram", data), failing_at(data, 9, DataError("expected more")))
        assert told.ends == 3

    def test_what_does_not_fit_is_refused_before_reading(self, make_engine: MakeEngine, tmp_path: Path) -> None:
        data = open_input("scalar", tmp_path)
        for file in (tmp_path / "data").iterdir():
            file.unlink()  # reading would be another error
        # However much the process holds already: other tests of this one may have brought a gigabyte.
        with pytest.raises(DoesNotFitError, match=r"expected a plan within .*found that .* needs? \d+\.\d [MG]iB"):
            make_engine(memory="1MiB").run(pass_of("gram", data), data)
        with pytest.raises(DoesNotFitError):
            PCA(2).fit(data, engine=make_engine(memory=1 << 20))
        with pytest.raises(DoesNotFitError):
            make_engine(memory="1MiB").write(data, Sink(tmp_path / "out"))

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("fragment", [0, 11])
    def test_a_stopped_scan_goes_on(self, make_engine: MakeEngine, kind: str, fragment: int, tmp_path: Path) -> None:
        data = open_input("missing", tmp_path)
        pass_, work = pass_of(kind, data), tmp_path / "work"
        with pytest.raises(DataError, match="just once"):
            make_engine(work=work).run(pass_, failing_at(data, fragment, DataError("just once")))
        assert bytes_of(make_engine(work=work).run(pass_, data)) == bytes_of(reference().run(pass_, data))
        # What is finished is not read again.
        never = failing_at(data, fragment, DataError("never"))
        assert bytes_of(make_engine(work=work).run(pass_, never)) == bytes_of(reference().run(pass_, data))

    @pytest.mark.parametrize(
        ("input_", "Model", "options", "scans"),
        [
            ("list", PCA, {"scale": True, "refine": True, "max_scans": 4}, ["Moments", "Sketch", "Sketch", "Tsqr"]),
            ("sparse", PCA, {"max_scans": 3}, ["Moments", "Sketch", "Sketch"]),
            ("sparse", TruncatedSVD, {"refine": True, "max_scans": 4}, ["Sketch", "Sketch", "Sketch", "Tsqr"]),
            ("list", PCA, {"max_scans": 1}, ["Sketch"]),
        ],
        ids=["dense", "sparse centred", "sparse", "single scan"],
    )
    def test_the_bytes_of_an_iteration(
        self, engine: Any, input_: str, Model: Any, options: dict[str, Any], scans: list[str], tmp_path: Path
    ) -> None:
        data, counting = open_input(input_, tmp_path), FailingScans(engine, [], "")
        mine, theirs = (
            Model(2, solver="sketch", block_size=2, tol=None, **options).fit(data, engine=e)
            for e in (counting, reference())
        )
        assert counting.scans == [f"{name}Pass" for name in scans]
        same_arrays(mine, theirs)

    def test_a_stopped_iteration_goes_on(self, make_engine: MakeEngine, tmp_path: Path) -> None:
        """In its third scan; the scans before it are not read again."""
        data, work = open_input("list", tmp_path), tmp_path / "work"
        model = PCA(2, solver="sketch", block_size=2, tol=None, max_scans=3)
        with pytest.raises(DataError, match="just once"):
            model.fit(data, engine=FailingScans(make_engine(work=work), [3], "just once"))
        again = PCA(**model.get_params()).fit(data, engine=FailingScans(make_engine(work=work), [1, 2], "never"))
        same_arrays(again, PCA(**model.get_params()).fit(data, engine=reference()))
        assert again.n_scans_ == 3

    def test_a_stopped_write_goes_on(self, engine: Any, tmp_path: Path) -> None:
        data = open_input("missing", tmp_path)
        features = PCA(2).fit(data).transform(data)
        with pytest.raises(DataError, match="just once"):
            engine.write(failing_at(features, 17, DataError("just once")), Sink(tmp_path / "a", part_bytes=300))
        engine.write(features, Sink(tmp_path / "a", part_bytes=300))
        reference().write(features, Sink(tmp_path / "b", part_bytes=300))
        assert tree(tmp_path / "a") == tree(tmp_path / "b")

    def test_checkpoints_belong_to_one_history(self, make_engine: MakeEngine, tmp_path: Path) -> None:
        """Two models that go on with the same day from different pasts must not share that day's checkpoint."""
        rng = np.random.default_rng(0)
        one, two, day = rng.normal(size=(50, 3)), rng.normal(size=(50, 3)) * 9, rng.normal(size=(30, 3))
        engine = make_engine(work=tmp_path / "work")
        for past in (one, two):
            model = PCA().fit(past, engine=engine).partial_fit(day, engine=engine)
            whole = PCA().fit(np.vstack([past, day]), engine=reference())
            np.testing.assert_allclose(model.explained_variance_, whole.explained_variance_, rtol=1e-12)

    def test_a_damaged_checkpoint_costs_time_only(self, make_engine: MakeEngine, tmp_path: Path) -> None:
        data = open_input("scalar", tmp_path)
        pass_, work = pass_of("gram", data), tmp_path / "work"
        make_engine(work=work).run(pass_, data)
        for file in work.rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[:-3] + b"abc")
        assert bytes_of(make_engine(work=work).run(pass_, data)) == bytes_of(reference().run(pass_, data))


__all__ = ["EngineContract", "bytes_of", "open_input", "pass_of", "write_files"]
