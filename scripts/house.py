"""The house as the imports draw it: rooms, their sizes, the edges between them, and circles. ``make house`` prints it.

A room is a folder below one of the three packages, or a module that lies directly in one. All imports count, those
inside functions and those for type checkers too.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

SOURCE = Path(__file__).parent.parent / "src"
PACKAGE = "eigenmill"


def graph() -> grimp.ImportGraph:
    """All imports between modules of ours."""
    return grimp.build_graph(PACKAGE, exclude_type_checking_imports=False, cache_dir=None)


def room_of(module: str) -> str:
    """The room that a module lies in: ``reduce/engines``, or ``reduce/plan.py`` for a module without a folder."""
    parts = module.split(".")[1:]
    if len(parts) < 2:
        return "/".join(parts) or "."
    place = "/".join(parts[:2])
    return place if (SOURCE / PACKAGE / place).is_dir() else f"{place}.py"


def module_edges(imports: grimp.ImportGraph) -> set[tuple[str, str]]:
    """(importer, imported) for every pair of modules."""
    return {(a, b) for a in imports.modules for b in imports.find_modules_directly_imported_by(a)}


def room_edges(imports: grimp.ImportGraph) -> Counter[tuple[str, str]]:
    """How many imports lead from one room into another."""
    pairs = ((room_of(a), room_of(b)) for a, b in module_edges(imports))
    return Counter((a, b) for a, b in pairs if a != b)


def circles(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Circles among the edges, each one broken at its last edge before the next is looked for."""
    left: dict[str, set[str]] = {}
    for a, b in edges:
        left.setdefault(a, set()).add(b)
    found: list[list[str]] = []
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            # graphlib tells a circle against the direction of the edges.
            circle = list(reversed(error.args[1]))
            found.append(circle)
            left[circle[-2]].discard(circle[-1])
        else:
            return found


def lines_of(module: str) -> int:
    """Lines of the module's file."""
    path = SOURCE / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return len(file.read_text(encoding="utf-8").splitlines())


def page(imports: grimp.ImportGraph) -> str:
    """What ``make house`` prints."""
    modules, sizes = Counter[str](), Counter[str]()
    for module in imports.modules:
        modules[room_of(module)] += 1
        sizes[room_of(module)] += lines_of(module)
    edges = room_edges(imports)
    lines = [f"{'room':<28} {'modules':>7} {'lines':>6}  imports"]
    for room in sorted(modules):
        into = ", ".join(f"{b} {n}" for (a, b), n in sorted(edges.items()) if a == room)
        lines.append(f"{room:<28} {modules[room]:>7} {sizes[room]:>6}  {into}")
    told: Mapping[str, list[list[str]]] = {"rooms": circles(edges), "modules": circles(module_edges(imports))}
    for kind, found in told.items():
        lines += ["", f"circles of {kind}: {len(found) or 'none'}", *(f"  {' > '.join(circle)}" for circle in found)]
    return "\n".join(lines)


def main() -> int:
    """Print the house; 1 when there is a circle."""
    imports = graph()
    print(page(imports))
    return 1 if circles(room_edges(imports)) or circles(module_edges(imports)) else 0


if __name__ == "__main__":
    sys.exit(main())
