"""Mutation testing: a seeded set of realistic mutants, each run against the tests that cover its line.

    make mutants ARGS='--seed 7 --count 150'
    make mutants ARGS='--only reduce/passes/gram.py:120:16:compare'

The first run measures which test covers which line (the fast suite once, kept in ``build/mutants``; ``--remeasure``
makes it new). Mutants live in a copy of the tree. One is *killed* when a test that covers its line fails or takes too
long, *survives* when all pass, and is *uncovered* when no test reaches its line. The set is a function of seed, count
and sources. mutmut and cosmic-ray were looked at: both change the working tree or want their own runner and
configuration, and neither picks tests by coverage contexts; what is needed here is small.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("reduce", "compress", "jobs")
BUILD = ROOT / "build/mutants"
TESTS = 60
"""Tests that one mutant is run against, at most."""
LIMIT = 300.0
"""Seconds that they may take together, at most."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """One change: the source between two places of a file, and what stands there instead."""

    path: str
    line: int
    column: int
    end_line: int
    end_column: int
    kind: str
    after: str

    @property
    def id(self) -> str:
        return f"{self.path}:{self.line}:{self.column}:{self.kind}"

    def before(self, source: str) -> str:
        """What stands there now; its first line."""
        return source.encode().split(b"\n")[self.line - 1][self.column :].decode()

    def applied(self, source: str) -> str:
        """The source of the file with the change."""
        lines = source.encode().split(b"\n")
        head, tail = lines[self.line - 1][: self.column], lines[self.end_line - 1][self.end_column :]
        lines[self.line - 1 : self.end_line] = [head + self.after.encode() + tail]
        return b"\n".join(lines).decode()


def changed(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """(kind, what may stand in the place of the node)."""
    other = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and isinstance(other, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        other.ops[0] = COMPARISONS[type(node.ops[0])]()
        yield "compare", other
    elif isinstance(node, ast.BinOp) and isinstance(other, ast.BinOp) and type(node.op) in ARITHMETIC:
        other.op = ARITHMETIC[type(node.op)]()
        yield "arithmetic", other
    elif isinstance(node, ast.BoolOp) and isinstance(other, ast.BoolOp):
        other.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        yield "logic", other
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "negation", node.operand
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield "constant", ast.Constant(node.value + 1)
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield "constant", ast.Constant(not node.value)
    elif isinstance(node, ast.Call) and isinstance(other, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in NAMES:
            other.func = ast.Name(NAMES[node.func.id])
            yield "name", other
        elif len(node.args) == 2 and not any(isinstance(arg, ast.Starred) for arg in node.args):
            other.args.reverse()
            yield "swap", other
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "drop", ast.Pass()
    elif isinstance(node, ast.AugAssign) and isinstance(other, ast.AugAssign) and type(node.op) in ARITHMETIC:
        other.op = ARITHMETIC[type(node.op)]()
        yield "arithmetic", other


def mutants_of(path: Path) -> list[Mutant]:
    """All mutants of one file, in the order of its lines."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    # Annotations, defaults of type variables and docstrings are no behaviour.
    quiet = {
        id(inner) for node in ast.walk(tree) for field in ("annotation", "returns") for inner in _below(node, field)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in quiet or not hasattr(node, "lineno"):
            continue
        for kind, other in changed(node):
            after = ast.unparse(ast.fix_missing_locations(other))
            after = f"({after})" if isinstance(node, ast.expr) and not isinstance(node, ast.Constant) else after
            place = (node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0)
            found.append(Mutant(path.relative_to(ROOT).as_posix(), *place, kind, after))
    return sorted(found, key=lambda m: (m.line, m.column, m.kind))


def _below(node: ast.AST, field: str) -> Iterator[ast.AST]:
    value = getattr(node, field, None)
    if isinstance(value, ast.AST):
        yield from ast.walk(value)


def chosen(seed: int, count: int, packages: Sequence[str]) -> list[Mutant]:
    """``count`` mutants of the packages, the same for the same seed and sources."""
    files = sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))
    every = [mutant for path in files for mutant in mutants_of(path)]
    return sorted(random.Random(seed).sample(every, min(count, len(every))), key=lambda m: m.id)


def measured(again: bool) -> dict[str, dict[int, list[str]]]:
    """Tests by line and file, from one run of the fast suite with coverage contexts."""
    import coverage

    data = BUILD / "coverage"
    if again or not data.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "auto",
            "--dist",
            "loadfile",
            "--cov",
            "--cov-context=test",
        ]
        run = subprocess.run([*command, "--cov-report="], cwd=ROOT, env={**os.environ, "COVERAGE_FILE": str(data)})
        if run.returncode not in (0, 1) or not data.exists():
            raise SystemExit(f"expected the suite to run with coverage, found exit code {run.returncode}")
    found = coverage.CoverageData(str(data))
    found.read()
    tests: dict[str, dict[int, list[str]]] = {}
    for file in found.measured_files():
        path = Path(file).resolve()
        if path.is_relative_to(ROOT):
            lines = tests.setdefault(path.relative_to(ROOT).as_posix(), {})
            for line, contexts in found.contexts_by_lineno(file).items():
                lines.setdefault(line, []).extend(sorted({c.partition("|")[0] for c in contexts} - {""}))
    return tests


def copied(place: Path) -> None:
    """The files that git knows, and those it does not ignore, with links as links."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name, follow_symlinks=False)


def verdict(mutant: Mutant, tests: Sequence[str], place: Path, rng: random.Random) -> str:
    """``killed``, ``timeout``, ``survived`` or ``uncovered``."""
    if not tests:
        return "uncovered"
    file = place / mutant.path
    source = file.read_text(encoding="utf-8")
    picked = list(tests) if len(tests) <= TESTS else rng.sample(list(tests), TESTS)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *picked]
    file.write_text(mutant.applied(source), encoding="utf-8")
    try:
        env = {**os.environ, "PYTHONPATH": f"{place / 'src'}{os.pathsep}{place}"}
        run = subprocess.run(command, cwd=place, env=env, capture_output=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        file.write_text(source, encoding="utf-8")
    return "survived" if run.returncode == 0 else "killed"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--package", action="append", choices=PACKAGES, help="may be repeated; all by default")
    parser.add_argument("--only", help="one mutant, by its id")
    parser.add_argument("--remeasure", action="store_true", help="measure again which test covers which line")
    options = parser.parse_args(arguments)
    if options.only:
        every = mutants_of(ROOT / options.only.partition(":")[0])
        wanted = [mutant for mutant in every if mutant.id == options.only]
    else:
        wanted = chosen(options.seed, options.count, options.package or PACKAGES)
    tests, ends = measured(options.remeasure), list[dict[str, object]]()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        copied(place)
        for number, mutant in enumerate(wanted):
            began = time.monotonic()
            covering = tests.get(mutant.path, {}).get(mutant.line, [])
            end = verdict(mutant, covering, place, random.Random(f"{options.seed} {mutant.id}"))
            print(
                f"{end:<9} {time.monotonic() - began:5.0f} s  {mutant.id}  {mutant.before!r} -> {mutant.after!r}",
                flush=True,
            )
            ends.append({"number": number, "end": end, "tests": len(covering), **asdict(mutant)})
            BUILD.mkdir(parents=True, exist_ok=True)
            (BUILD / "mutants.json").write_text(json.dumps(ends, indent=1))
    print(dict(Counter(str(end["end"]) for end in ends)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
