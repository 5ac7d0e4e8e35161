"""What is private to a module is read in that module alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MODULES = sorted(path for folder in ("reduce", "compress", "jobs") for path in (ROOT / folder).rglob("*.py"))

OTHERS = {
    # fsspec offers no other way from a URI to the path that its file systems take.
    "_strip_protocol": {"reduce/storage/places.py"},
    # What a Dask collection would compute: names and types of its columns; its key.
    "_meta": {"reduce/engines/dask/collections.py"},
    "_name": {"reduce/engines/dask/collections.py"},
    # pyspark's own way to start a gateway, to ask for a context that Connect does not have, and to end a channel.
    "_ensure_initialized": {"reduce/engines/spark/session.py"},
    "_sc": {"reduce/engines/spark/engine.py", "reduce/engines/spark/session.py", "reduce/engines/spark/watch.py"},
    "_builder": {"reduce/engines/spark/session.py"},
    "_jsc": {"reduce/engines/spark/watch.py"},
    # How pyspark's own stages declare parameters and keep their name when they are read.
    "_dummy": {"reduce/spark_ml.py"},
    "_resetUid": {"reduce/spark_ml.py"},
    # pyarrow's dataset shows its filter nowhere else.
    "_scan_options": {"reduce/sources/discovery.py"},
    # SciPy's loops over CSR arrays, without the checks that cost as much as they do.
    "_sparsetools": {"reduce/passes/thin.py"},
    # Ends a process that waits for a library which nothing can interrupt.
    "_exit": {"jobs/shown/stopping.py"},
    # scikit-learn's validation, which its own estimators call too.
    "_check_sample_weight": {"reduce/estimators/base.py"},
}
"""Private names of other projects, where they are read, and why."""


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def reads(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of each private name taken from something else than ``self``, ``cls`` and ``super()``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls", "super()"):
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if private(alias.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "delattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and isinstance(name.value, str) and private(name.value):
                yield node.lineno, name.value


def own(tree: ast.Module) -> set[str]:
    """The private names that a module gives itself: functions, methods, and attributes of its classes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
        elif isinstance(node, ast.ClassDef):
            found |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return {name for name in found if private(name)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_is_read_outside_its_module(path: Path) -> None:
    tree, name = ast.parse(path.read_text()), str(path.relative_to(ROOT))
    mine = own(tree)
    foreign = [(line, read) for line, read in reads(tree) if read not in mine and name not in OTHERS.get(read, ())]
    assert foreign == []


def test_the_list_of_others_names_nothing_that_is_gone() -> None:
    read = {(name, str(p.relative_to(ROOT))) for p in MODULES for _, name in reads(ast.parse(p.read_text()))}
    assert {(name, path) for name, paths in OTHERS.items() for path in paths} <= read
