"""The way of the format: a value that is passed, travels with the data, and is refused when it is a newer one."""

from __future__ import annotations

import ast
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eigenmill.reduce
from eigenmill.reduce import PCA, ConfigError, Dataset, Sink, load
from eigenmill.reduce.errors import ArtifactError, OutputError
from eigenmill.reduce.format import CURRENT, FORMAT_1, VERSION, Format
from tests.support.formats import other


def test_whoever_may_be_given_a_format_is_given_one() -> None:
    """A default is for tests: in the program each call passes on the format that it works by."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(Path(eigenmill.reduce.__path__[0]).rglob("*.py"))}
    places: dict[str, int] = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name != "__init__" and _defaults(node.args):
                places[node.name] = [each.arg for each in (*node.args.args, *node.args.kwonlyargs)].index("format")
            elif isinstance(node, ast.ClassDef):
                fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
                names = [ast.unparse(each.target) for each in fields]
                if any(_is_format_1(each.value) for each in fields):
                    places[node.name] = names.index("format")
                for each in node.body:
                    if isinstance(each, ast.FunctionDef) and each.name == "__init__" and _defaults(each.args):
                        places[node.name] = [arg.arg for arg in each.args.args[1:]].index("format")
    assert {"Intake", "ModelInput", "Encoding", "Shape", "Krylov", "iterate", "upper_bounds", "of_gram"} <= set(places)
    without = [
        f"{path.name}: {ast.unparse(call)}"
        for path, tree in trees.items()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and (name := getattr(call.func, "id", getattr(call.func, "attr", ""))) in places
        and len(call.args) <= places[name]
        and not any(keyword.arg in ("format", None) for keyword in call.keywords)
    ]
    assert without == ["linear.py: Shape(1, 1, 1, False)"], "which asks only whether the solver's name is known"


def _defaults(given: ast.arguments) -> bool:
    return any(map(_is_format_1, (*given.defaults, *given.kw_defaults)))


def _is_format_1(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Name) and value.id == "FORMAT_1"


def test_it_travels_as_what_differs() -> None:
    assert pickle.loads(pickle.dumps(FORMAT_1)) == FORMAT_1 == CURRENT
    changed = other(leaf_bytes=5, tie=0.5)
    assert pickle.loads(pickle.dumps(changed)) == changed
    assert changed.changes() == {"leaf_bytes": 5, "tie": 0.5}
    assert len(pickle.dumps(FORMAT_1)) < 100
    assert FORMAT_1.version == VERSION == 1


@pytest.mark.parametrize(
    "changes", [{"version": VERSION + 1}, {"unheard_of": 3}, {"leaf_bytes": "3"}, {"leaf_bytes": True}, {"tie": 1}]
)
def test_a_newer_or_strange_format_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"expected constants of a format up to 1, found .*; use the eigen"):
        Format.of(changes)


def test_a_state_goes_on_by_its_own_format_only(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(300, 5))
    small = other(leaf_bytes=1, gram_panel=2)
    for name, format in (("first", FORMAT_1), ("small", small)):
        model = PCA(2).fit(Dataset.from_numpy(X, format=format), keep_state=True)
        model.save(tmp_path / name, state=True)
    stored = {name: json.loads((tmp_path / name / "model.json").read_text()) for name in ("first", "small")}
    assert "constants" not in stored["first"]["state"]["meta"]
    assert stored["small"]["state"]["meta"]["constants"] == small.changes()
    whole = PCA(2).fit(Dataset.from_numpy(np.concatenate([X, X]), format=small))
    went_on = load(tmp_path / "small").partial_fit(Dataset.from_numpy(X, format=small))
    np.testing.assert_allclose(went_on.singular_values_, whole.singular_values_, rtol=1e-12)
    with pytest.raises(ConfigError, match=r"expected data of the format .* found the constants .*; fit all data again"):
        load(tmp_path / "first").partial_fit(Dataset.from_numpy(X, format=small))
    with pytest.raises(ConfigError, match="expected data of the format"):
        load(tmp_path / "small").partial_fit(Dataset.from_numpy(X))


def test_an_output_of_another_format_is_another_job(tmp_path: Path) -> None:
    data = {f: Dataset.from_numpy(np.eye(8), format=f) for f in (FORMAT_1, other(group_rows=3))}
    first, small = (Sink(tmp_path / str(i)).open(each) for i, each in enumerate(data.values()))
    assert first.key != small.key
    assert "constants" not in json.loads((tmp_path / "0/_job.json").read_text())
    assert json.loads((tmp_path / "1/_job.json").read_text())["constants"] == {"group_rows": 3}
    assert Sink(tmp_path / "1").open(data[other(group_rows=3)]).key == small.key
    with pytest.raises(OutputError, match="an unfinished output of another job"):
        Sink(tmp_path / "1").open(data[FORMAT_1])
    done = data[other(group_rows=3)].to_parquet(tmp_path / "1")
    assert done.key == small.key
