"""CONTRIBUTING's recipes are built as the page says, in the files that it names, and do what their checks say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.trees import tree

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
HOUSE = ("src", "reduce", "compress", "jobs")
FENCE = re.compile(
    r"""^```python title="(?P<title>[^"]+)"(?: (?P<how>after|replace)='(?P<where>[^\n]+)')?\n(?P<code>.*?)^```$""",
    re.MULTILINE | re.DOTALL,
)
LONGEST = 80
"""Lines of a recipe, its words and its check included."""


@dataclass(frozen=True)
class Piece:
    """One block of code: a new file, or what goes into an existing one."""

    title: str
    how: str | None
    where: str | None
    code: str

    def put(self, house: Path) -> None:
        path = house / self.title
        if self.how is None:
            assert not path.exists(), f"{self.title} is there already"
            path.write_text(self.code)
            return
        text, where = path.read_text(), self.where or ""
        assert text.count(where) == 1, f"{where!r} stands {text.count(where)} times in {self.title}"
        if self.how == "replace":
            path.write_text(text.replace(where, self.code.rstrip("\n")))
            return
        lines = text.splitlines(keepends=True)
        at = next(i for i, line in enumerate(lines) if line.strip() == where)
        apart = "\n\n" if self.code.startswith(("@", "class ", "def ")) else ""
        path.write_text("".join([*lines[: at + 1], apart, self.code, *lines[at + 1 :]]))


def pieces(text: str) -> list[Piece]:
    return [Piece(m["title"], m["how"], m["where"], m["code"]) for m in FENCE.finditer(text)]


INTRODUCTION, *SECTIONS = re.split(
    r"^### ", re.split(r"^## ", PAGE.partition("## The shape of things")[2], flags=re.M)[0], flags=re.M
)
RECIPES = {section.partition("\n")[0].removeprefix("Add "): section for section in SECTIONS}


def named() -> dict[str, tuple[set[str], set[str]]]:
    """(files to make, files to change) of each recipe, as the table says."""
    rows = re.findall(r"^\| (an? \w+) \| (.*?) ?\| (.*?) ?\|$", INTRODUCTION, re.MULTILINE)
    return {what: (set(made.split()), set(changed.replace("`", "").split())) for what, made, changed in rows}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the code, links kept; whoever imports from it never meets the original."""
    house = tmp_path / "house"
    for folder in HOUSE:
        shutil.copytree(ROOT / folder, house / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return house


def check(house: Path, code: str) -> str:
    """What the check prints, run in a directory beside the house."""
    place = house.parent / "work"
    place.mkdir()
    (place / "tests").symlink_to(ROOT / "tests")
    head = f"import eigenmill.reduce\nassert eigenmill.reduce.__file__.startswith({str(house)!r})\n"
    (place / "check.py").write_text(f"{head}{code}\nprint('done to the end')\n")
    env = {**os.environ, "PYTHONPATH": str(house / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run([sys.executable, "check.py"], cwd=place, env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_table_names_the_files_of_every_recipe() -> None:
    assert list(named()) == list(RECIPES)
    assert list(RECIPES) == ["a statistic", "an engine", "an estimator", "a layout", "a source", "an export"]
    for what, section in RECIPES.items():
        *built, last = pieces(section)
        assert last.title == "check"
        assert named()[what] == ({p.title for p in built if p.how is None}, {p.title for p in built if p.how}), what
        assert last.code.count("assert") >= 2, what
        assert section.count("```") == 2 * (len(built) + 1), f"a block of {what} has no marker"
        assert section.count("\n") <= LONGEST, what


@pytest.mark.parametrize("what", RECIPES)
def test_a_recipe_builds_what_it_says_in_the_files_that_it_names(what: str, house: Path) -> None:
    before = tree(house, without="__pycache__")
    (start,) = pieces(INTRODUCTION)
    *built, last = pieces(RECIPES[what])
    for piece in built:
        piece.put(house)
    assert check(house, start.code + last.code).endswith("done to the end\n")
    after = tree(house, without="__pycache__")
    made, changed = named()[what]
    assert set(after) - set(before) == made
    assert {path for path in before if after.get(path) != before[path]} == changed


def test_the_table_of_commands_is_that_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    told = re.findall(r"^\| `make ([a-z-]+)` \|", PAGE, re.MULTILINE)
    assert len(told) == len(set(told))
    assert set(told) == targets - {"help", "airflow", "lint-fix"}  # steps of others, and another name


def test_the_floor_of_coverage_is_the_one_that_is_told() -> None:
    told = re.search(r"coverage, which must reach (\d+) %", PAGE)
    floor = re.search(r"^fail_under = (\d+)$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert told is not None
    assert floor is not None
    assert told[1] == floor[1] == "95"
