"""Which defects would the tests notice? ``make mutants`` makes small ones, one at a time, and runs what covers them.

``make mutants ARGS='--seed 7 --count 150'`` chooses 150 mutants of reduce, compress and jobs, the same ones for the
same seed and sources, at most one a line. ``--packages jobs`` takes some packages, ``--id 3f09c2d1aa`` one mutant
again, ``--list`` shows them without running any. Sources are mutated in copies of the tree below build/mutants, never
in the working tree. Once for all, tests are run with coverage, which tells for every line the tests that reach it
(more than ten minutes; ``--tests tests/laws`` takes some tests only); what it has found is kept there until a source
or a test changes. Verdicts are printed and written to build/mutants.json:

- killed: a test failed. timeout: the tests took three times as long as they should, and half a minute more.
- survived: all tests passed, as many as ``--seconds`` allow, the shortest ones first. Write the one that fails, or say
  why the mutant is equivalent.
- uncovered: no test of this process reaches the function.
- broken: the tests do not run without the mutant either; with ``--stale``, some have gone since.

Why no framework: mutmut rewrites functions to switches that forked children read, which neither BLAS threads nor the
worker processes of Dask and Spark survive; cosmic-ray runs one command for every mutant, whatever the line, and takes
all mutants rather than a seeded choice. Both want a package below one root, and ours is three links. What is left
to be done is the table of changes in mutations.py, and coverage, which is here already.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.mutations import Mutant, chosen, mutants_of, statements

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "mutants"
PACKAGES = ("reduce", "compress", "jobs")

# Trees, and the tests that reach a line.


def listed() -> list[str]:
    """The files of the working tree, those not yet committed too."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    return sorted({name for name in names if name and os.path.lexists(ROOT / name)})


def copy_tree(target: Path) -> Path:
    """The files as they are, links as links, in a directory of their own."""
    shutil.rmtree(target, ignore_errors=True)
    for name in listed():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    return target


def digest(tests: Sequence[str]) -> str:
    """Of all that decides what a line's tests are."""
    found = hashlib.sha256(json.dumps(list(tests)).encode())
    for name in listed():
        if name.startswith((*PACKAGES, "src/", "tests/", "pyproject.toml")) and (ROOT / name).is_file():
            found.update(name.encode() + b"\0" + hashlib.sha256((ROOT / name).read_bytes()).digest())
    return found.hexdigest()[:16]


def environment(tree: Path) -> dict[str, str]:
    """Processes started for a copy import the copy, whatever is installed."""
    path = [str(tree / "src"), str(tree), *filter(None, [os.environ.get("PYTHONPATH")])]
    python = dict.fromkeys(("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON"), sys.executable)
    return {**os.environ, **python, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"}


def run_tests(tree: Path, arguments: Sequence[str], seconds: float | None) -> tuple[int | None, str]:
    """(exit code or None for a timeout, output) of pytest in ``tree``; what it has started ends with it."""
    command, log = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments], tree / "mutants.log"
    # To a file: a pipe would stay open for as long as any process that the tests have left behind.
    with (
        log.open("wb") as out,
        subprocess.Popen(
            command, cwd=tree, env=environment(tree), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        code: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session: with what it has started
    return code, log.read_text(errors="replace")


@dataclass
class Reach:
    """Which tests reach which lines, and how long each takes."""

    lines: Mapping[str, Mapping[int, Sequence[str]]]
    seconds: Mapping[str, float]

    def tests(self, mutant: Mutant, source: bytes, limit: float) -> list[str]:
        """The tests of the mutant's lines, or of its function; the shortest first, ``limit`` seconds in all.

        What runs when a module is imported, a header with its defaults too, was run for whichever test came first.
        It has the tests of the function that it heads, or of the file.
        """
        known = self.lines.get(mutant.path, {})
        body = next((s for s, name in statements(ast.parse(source)) if _spans(s, mutant.line, name)), None)
        rows: Iterable[int] = range(mutant.line, mutant.stop_line + 1) if body else known
        found = {test for row in rows for test in known.get(row, ())}
        if body is not None and (not found or mutant.line < body.body[0].lineno):
            found = {test for row in range(body.lineno, (body.end_lineno or 0) + 1) for test in known.get(row, ())}
        taken, total = list[str](), 0.0
        for test in sorted((t for t in found if t in self.seconds), key=lambda t: (self.seconds[t], t)):
            total += self.seconds[test]
            if taken and total > limit:
                break
            taken.append(test)
        return taken


def _spans(statement: ast.stmt, line: int, name: str) -> bool:
    inside = statement.lineno <= line <= (statement.end_lineno or 0)
    return inside and isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)


def reach_of(data: Any, times: Path, tree: Path) -> Reach:
    """From coverage's data with contexts and pytest's JUnit report; tests that did not pass are left out."""
    seconds, keys = dict[str, float](), dict[tuple[str, str], float]()
    for case in xml.etree.ElementTree.parse(times).iter("testcase"):
        if len(case) == 0 or all(part.tag in ("system-out", "system-err", "properties") for part in case):
            keys[case.get("classname", ""), case.get("name", "")] = float(case.get("time", 0))
    lines: dict[str, dict[int, list[str]]] = {}
    for file in data.measured_files():
        path = os.path.relpath(os.path.realpath(file), os.path.realpath(tree))
        rows = defaultdict[int, set[str]](set)
        for row, contexts in data.contexts_by_lineno(file).items():
            rows[row] |= {context.rpartition("|")[0] for context in contexts if "|" in context}
        lines[path] = {row: sorted(found) for row, found in rows.items() if found}
    for test in {test for rows in lines.values() for found in rows.values() for test in found}:
        file, _, rest = test.partition("::")
        names = rest.split("[")[0].split("::")
        name = rest[len("::".join(names[:-1])) :].removeprefix("::")
        took = keys.get((".".join([file.removesuffix(".py").replace("/", "."), *names[:-1]]), name))
        if took is not None:
            seconds[test] = took
    return Reach(lines, seconds)


def covered(tests: Sequence[str], workers: int, *, stale: bool) -> Reach:
    """The reach of the tests, from an earlier run if nothing has changed since (or ``stale`` will do)."""
    import coverage

    key = digest(tests)
    folder = BUILD / f"coverage-{key}"
    earlier = sorted(BUILD.glob("coverage-*/reach.json"), key=lambda path: path.stat().st_mtime)
    if stale and earlier:
        folder = earlier[-1].parent
    if not (folder / "reach.json").exists():
        print(f"running {' '.join(tests) or 'all tests'} with coverage, once ...", flush=True)
        tree = copy_tree(BUILD / "tree-coverage")
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["COVERAGE_FILE"] = str(folder / "data")
        parallel = ["-n", str(workers), "--dist", "loadfile"] if workers > 1 else []
        options = [
            "--cov",
            "--cov-context=test",
            "--cov-report=",
            "--cov-fail-under=0",
            f"--junitxml={folder}/times.xml",
        ]
        try:
            code, out = run_tests(tree, [*options, *parallel, *tests], None)
        finally:
            del os.environ["COVERAGE_FILE"]
        print(out[-2000:] if code else f"{out.strip().splitlines()[-1]}", flush=True)
        data = coverage.CoverageData(str(folder / "data"))
        data.read()
        written_reach(reach_of(data, folder / "times.xml", tree), folder / "reach.json")
    return read_reach(folder / "reach.json")


def written_reach(reach: Reach, path: Path) -> None:
    """As JSON, whole or not at all; tests by their numbers, for a line may have thousands."""
    number = {test: i for i, test in enumerate(reach.seconds)}
    lines = {
        file: {row: [number[test] for test in tests if test in number] for row, tests in rows.items()}
        for file, rows in reach.lines.items()
    }
    path.with_suffix(".tmp").write_text(json.dumps({"lines": lines, "seconds": reach.seconds}))
    path.with_suffix(".tmp").replace(path)


def read_reach(path: Path) -> Reach:
    found = json.loads(path.read_text())
    names = list(found["seconds"])
    lines = {
        file: {int(row): [names[i] for i in reached] for row, reached in rows.items()}
        for file, rows in found["lines"].items()
    }
    return Reach(lines, found["seconds"])


# Verdicts.


def judged(mutant: Mutant, tree: Path, reach: Reach, seconds: float) -> dict[str, Any]:
    """What the tests say of one mutant, in a tree that is whole again afterwards."""
    file = tree / mutant.path
    source, began = file.read_bytes(), time.monotonic()
    tests = reach.tests(mutant, source, seconds)
    verdict, killer = "uncovered", None
    if tests:
        names = tree / "mutant-tests.txt"
        names.write_text("\n".join(tests))
        limit = 3 * sum(reach.seconds[test] for test in tests) + 30
        file.write_bytes(mutant.applied(source))
        try:
            code, out = run_tests(tree, ["-x", f"@{names.name}"], limit)
        finally:
            file.write_bytes(source)
        verdict = "timeout" if code is None else "killed" if code else "survived"
        killer = next((line for line in out.splitlines() if line.startswith(("FAILED ", "ERROR "))), None)
        if code not in (0, 1, None) and run_tests(tree, ["-x", f"@{names.name}"], limit)[0] != 0:
            verdict = "broken"  # the tests do not run without a mutant either
        names.unlink()
    return {
        **asdict(mutant),
        "verdict": verdict,
        "tests": len(tests),
        "killer": killer,
        "seconds": round(time.monotonic() - began, 1),
    }


def written(results: Sequence[dict[str, Any]], options: argparse.Namespace) -> None:
    """build/mutants.json, whole after every verdict."""
    counts = dict(Counter(each["verdict"] for each in results))
    asked = {name: value for name, value in vars(options).items() if name != "list"}
    content = json.dumps({"asked": asked, "counts": counts, "mutants": results}, indent=1)
    path = ROOT / "build" / "mutants.json"
    path.with_suffix(".tmp").write_text(content + "\n")
    path.with_suffix(".tmp").replace(path)


def asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description="Small defects, and whether a test notices.")
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    parser.add_argument("--count", type=int, default=50, help="how many mutants (50)")
    parser.add_argument(
        "--packages", nargs="+", default=list(PACKAGES), metavar="PATH", help="packages, rooms or files"
    )
    parser.add_argument("--id", nargs="+", default=[], help="these mutants alone")
    parser.add_argument("--tests", nargs="+", default=[], help="what pytest is given; all fast tests by default")
    parser.add_argument("--seconds", type=float, default=60.0, help="of tests for one mutant (60)")
    parser.add_argument("--workers", type=int, default=1, help="copies of the tree in use at once (1)")
    parser.add_argument("--stale", action="store_true", help="take the last coverage though files have changed")
    parser.add_argument("--list", action="store_true", help="show the mutants and run none")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every verdict; 1 when a mutant lives."""
    options = asked(arguments)
    inside = tuple(each.rstrip("/") for each in options.packages)
    names = [n for n in listed() if n.endswith(".py") and any(n == i or n.startswith(f"{i}/") for i in inside)]
    sources = {name: (ROOT / name).read_bytes() for name in names if name.startswith(PACKAGES)}
    if options.id:
        mutants = [m for path, text in sources.items() for m in mutants_of(path, text) if m.id in options.id]
    else:
        mutants = chosen(sources, options.seed, options.count)
    if options.list or not mutants:
        print("\n".join(map(str, mutants)) or "no such mutant")
        return 0
    BUILD.mkdir(parents=True, exist_ok=True)
    reach = covered(options.tests, options.workers, stale=options.stale)
    trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for number in range(options.workers):
        trees.put(copy_tree(BUILD / f"tree-{number}"))

    def one(mutant: Mutant) -> dict[str, Any]:
        tree = trees.get()
        try:
            return judged(mutant, tree, reach, options.seconds)
        finally:
            trees.put(tree)

    results = list[dict[str, Any]]()
    with ThreadPoolExecutor(options.workers) as pool:
        for mutant, result in zip(mutants, pool.map(one, mutants), strict=True):
            results.append(result)
            print(f"{result['verdict']:<9} {mutant} ({result['tests']} tests, {result['seconds']} s)", flush=True)
            written(results, options)
    print(", ".join(f"{count} {verdict}" for verdict, count in Counter(r["verdict"] for r in results).items()))
    return int(any(r["verdict"] in ("survived", "broken") for r in results))


if __name__ == "__main__":
    sys.exit(main())
