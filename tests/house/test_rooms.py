"""The house keeps its rules: rooms with a page, imports one way, no circle, nothing imported late, nothing too long."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from scripts import house

ROOT = Path(__file__).parents[2]
OURS = ("reduce", "compress", "jobs")
FILES = sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py"))
FUNCTION, MODULE = 64, 510
"""Lines, at most: about a screen, and about ten of them."""

LATE: dict[tuple[str, str], set[str]] = {}
"""Imports of ours inside functions; there are none."""

BY_NAME = {
    "reduce/__init__.py",  # public names that are loaded when they are first asked for
    "compress/__init__.py",
    "reduce/engines/kinds.py",  # engines, whose packages may not be installed
    "reduce/engines/collections.py",  # what reads their collections
}
"""Modules with a table of what they import by name."""


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return house.graph()


def test_there_is_no_circle(imports: grimp.ImportGraph) -> None:
    assert house.circles(house.module_edges(imports)) == []
    assert house.circles(house.room_edges(imports)) == []


def rooms() -> list[Path]:
    return sorted({path.parent for path in FILES} - {ROOT / folder for folder in OURS})


@pytest.mark.parametrize("room", rooms(), ids=lambda room: room.relative_to(ROOT).as_posix())
def test_a_room_says_what_is_in_it_and_imports_no_more(room: Path, imports: grimp.ImportGraph) -> None:
    """Its page ends with ``May import: a, b.``, and its imports are those: none missing, none too many."""
    page = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
    told = re.search(r"^May import: (.*)\.\Z", page, re.MULTILINE | re.DOTALL)
    assert told is not None, f"no line 'May import: ...' at the end of the page of {room.name}"
    package = "eigenmill." + room.relative_to(ROOT).as_posix().replace("/", ".")
    inner = [
        f"eigenmill.{other.relative_to(ROOT).as_posix().replace('/', '.')}" for other in rooms() if other.parent == room
    ]
    inside = {m for m in imports.modules if m == package or m.startswith(package + ".")}
    inside = {m for m in inside if not any(m == other or m.startswith(other + ".") for other in inner)}
    found = {b for a in inside for b in imports.find_modules_directly_imported_by(a)} - inside
    assert {name_of(module, room) for module in found} == set(re.split(r",\s+", told[1]))


def name_of(module: str, importer: Path) -> str:
    """How a page names the room of ``module``: ``storage`` in the same package, else the other package."""
    top, *rest = module.split(".")[1:]
    if top != importer.relative_to(ROOT).parts[0]:
        return top
    place = ROOT.joinpath(top, *rest)
    return ".".join(rest if place.is_dir() or len(rest) == 1 else rest[:-1])


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path.relative_to(ROOT).as_posix(), node


def test_nothing_of_ours_is_imported_inside_a_function() -> None:
    found: dict[tuple[str, str], set[str]] = {}
    for path, function in functions():
        for node in ast.walk(function):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            ours = {name for name in names if name.partition(".")[0] == "eigenmill"}
            if ours:
                found.setdefault((path, function.name), set()).update(ours)
    assert found == LATE


def test_what_is_imported_by_name_stands_in_a_table() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in FILES if "import_module" in path.read_text()}
    assert found == BY_NAME


def test_functions_and_modules_can_be_read_at_once() -> None:
    long = {f"{path}:{f.name}": n for path, f in functions() if (n := (f.end_lineno or 0) - f.lineno + 1) > FUNCTION}
    assert long == {}
    large = {str(path): n for path in FILES if (n := len(path.read_text().splitlines())) > MODULE}
    assert large == {}


def test_no_module_hides_what_it_has() -> None:
    """``__getattr__`` only where a lazy public table needs it."""
    found = {path for path, function in functions() if function.name == "__getattr__"}
    assert found == {"reduce/__init__.py", "compress/__init__.py"}


def test_no_room_of_jobs_bears_the_name_of_a_module_that_can_be_imported() -> None:
    """Jupyter puts the notebook's directory first on the path: a ``jobs/yaml/`` would take the place of PyYAML."""
    known = {"yaml", "dask", "numpy", "pyarrow", "matplotlib", "sklearn", "scipy", "distributed", "rich", "typer"}
    ours = {path.stem for path in (ROOT / "jobs").iterdir()}
    import sys

    assert not ours & (known | set(sys.stdlib_module_names))
