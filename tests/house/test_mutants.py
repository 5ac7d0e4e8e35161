"""Mutants are programs, other ones than ours, the same for the same seed; a line is given the tests that reach it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import coverage
import pytest

from scripts import mutants, mutations

ROOT = Path(__file__).parent.parent.parent

SMALL = b'''"""A text that is no statement: 1 < 2."""
import os

LIMIT: int = 8


def write(path, rows, least=0):
    """Nothing of this changes: not True."""
    if not rows or len(rows) < least:
        raise ValueError(f"expected {least + 1} rows")
    with open(path, "wb") as file:
        file.write(b"".join(rows))
        os.fsync(file.fileno())
    return max(len(r) for r in rows) + LIMIT
'''

CHANGES = {
    (4, "constant", "9"),
    (4, "constant", "7"),
    (7, "constant", "1"),
    (9, "negated test", "not (not rows or len(rows) < least)"),
    (9, "dropped not", "(rows)"),
    (9, "and/or", "and"),
    (9, "comparison", "<="),
    (9, "comparison", ">"),
    (10, "dropped statement", "pass"),
    (11, "swapped arguments", '"wb", path'),
    (12, "dropped statement", "pass"),
    (13, "dropped durability", "pass"),
    (14, "default returned", "return None"),
    (14, "arithmetic", "-"),
    (14, "min/max", "min"),
}


@pytest.fixture(scope="module")
def sources() -> dict[str, bytes]:
    paths = (path for package in mutants.PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {str(path.relative_to(ROOT)): path.read_bytes() for path in sorted(paths)}


def test_all_changes_of_a_small_file() -> None:
    found = mutations.mutants_of("small.py", SMALL)
    assert {(m.line, m.kind, m.after) for m in found} == CHANGES
    assert len({m.id for m in found}) == len(found) == len(CHANGES)
    for mutant in found:
        assert mutations.valid(mutant, SMALL)
        assert SMALL[mutant.start : mutant.stop].decode() == mutant.before


def test_mutants_keep_their_names_when_other_lines_change() -> None:
    before = mutations.mutants_of("small.py", SMALL)
    after = mutations.mutants_of("small.py", SMALL.replace(b"import os", b"import os\nimport sys\n\nHIGH = 3"))
    assert {m.id for m in before} < {m.id for m in after}
    other = mutations.mutants_of("other.py", SMALL)
    assert not {m.id for m in before} & {m.id for m in other}


def test_mutants_of_our_packages_are_programs(sources: dict[str, bytes]) -> None:
    found = mutations.chosen(sources, 0, 120)
    assert len({m.id for m in found}) == len({(m.path, m.line) for m in found}) == 120
    assert {m.path.split("/")[0] for m in found} == set(mutants.PACKAGES)
    for mutant in found:
        assert ast.parse(mutant.applied(sources[mutant.path]))
        assert mutant.applied(sources[mutant.path]) != sources[mutant.path]
    every = [m for path, text in sources.items() for m in mutations.mutants_of(path, text)]
    assert len({m.id for m in every}) == len(every)
    kinds = Counter(m.kind for m in every)
    assert len(kinds) == 12, kinds
    # Next to all of what is made can be run.
    sample = every[:: len(every) // 100]
    assert sum(mutations.valid(m, sources[m.path]) for m in sample) >= 0.95 * len(sample)


def test_a_seed_chooses_the_same_mutants_in_every_process(sources: dict[str, bytes]) -> None:
    few = {path: text for path, text in sources.items() if path.startswith("reduce/passes/")}
    found = [m.id for m in mutations.chosen(few, 7, 20)]
    assert found == [m.id for m in mutations.chosen(dict(reversed(few.items())), 7, 20)]
    assert found[:5] == [m.id for m in mutations.chosen(few, 7, 5)]
    assert set(found) != {m.id for m in mutations.chosen(few, 8, 20)}
    options = ["--list", "--seed", "7", "--count", "20", "--packages", "reduce/passes"]
    command = [sys.executable, "-m", "scripts.mutants", *options]
    for hashes in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": hashes}
        run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert [line.split()[0] for line in run.stdout.splitlines()] == found


def test_a_line_is_given_the_tests_that_reach_it(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_bytes(SMALL)
    data = coverage.CoverageData(str(tmp_path / "data"))
    name = str(tmp_path / "small.py")
    tests = {"tests/test_a.py::test_slow": {9, 11, 12}, "tests/test_a.py::TestB::test_quick[x-[1::2]]": {9, 10}}
    first = "tests/test_a.py::test_first"  # for which the module was imported
    for test, lines in {**tests, first: {2, 4, 7}, "tests/test_a.py::test_failed": {9, 14}}.items():
        data.set_context(f"{test}|run")
        data.add_lines({name: lines})
    data.write()
    (tmp_path / "times.xml").write_text(
        '<testsuites><testsuite><testcase classname="tests.test_a" name="test_slow" time="5.0"/>'
        '<testcase classname="tests.test_a.TestB" name="test_quick[x-[1::2]]" time="0.5"/>'
        '<testcase classname="tests.test_a" name="test_failed" time="0.1"><failure/></testcase>'
        '<testcase classname="tests.test_a" name="test_first" time="0.2"/>'
        "</testsuite></testsuites>"
    )
    reach = mutants.reach_of(data, tmp_path / "times.xml", tmp_path)
    slow, quick = tests
    by_line = {m.line: m for m in mutations.mutants_of("small.py", SMALL)}
    assert reach.tests(by_line[9], SMALL, 60) == [quick, slow]
    assert reach.tests(by_line[9], SMALL, 1) == [quick]
    assert reach.tests(by_line[12], SMALL, 60) == [slow]
    # A line that nothing reaches has the tests of its function, as its header has; one outside those of the file.
    for line in (4, 7, 13):
        assert reach.tests(by_line[line], SMALL, 60) == [first, quick, slow]
    mutants.written_reach(reach, tmp_path / "reach.json")
    assert mutants.read_reach(tmp_path / "reach.json").tests(by_line[9], SMALL, 60) == [quick, slow]


def test_a_copy_is_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["Makefile", "src/eigenmill/__init__.py", "src/eigenmill/reduce", "reduce/__init__.py"]
    monkeypatch.setattr(mutants, "listed", lambda: names)
    tree = mutants.copy_tree(tmp_path / "tree")
    assert (tree / "src/eigenmill/reduce").is_symlink()
    assert (tree / "src/eigenmill/reduce/__init__.py").read_bytes() == (ROOT / "reduce/__init__.py").read_bytes()
    found = subprocess.run(
        [sys.executable, "-c", "import eigenmill; print(eigenmill.__file__)"],
        cwd=tmp_path,
        env=mutants.environment(tree),
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == tree / "src/eigenmill/__init__.py"
