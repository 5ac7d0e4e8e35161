"""What the documents say is true: code runs, files and commands exist, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from eigenmill.jobs.shown import exits
from tests.support.tables import vectors

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("docker/*.md")]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_first_example_of_the_readme_runs(tmp_path: Path) -> None:
    digits = load_digits()
    table = pa.table(
        {
            "id": np.arange(len(digits.data)),
            "label": digits.target,
            "pixels": vectors(digits.data),
        }
    )
    (tmp_path / "data/digits").mkdir(parents=True)
    pq.write_table(table, tmp_path / "data/digits/part-0.parquet")
    run = subprocess.run([sys.executable, "-c", blocks("python")[0]], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out/features/_SUCCESS").exists()
    assert pq.read_table(tmp_path / "out/features").column_names == ["id", "label", "features"]


def test_every_example_of_the_readme_compiles() -> None:
    for block in blocks("python"):
        compile(block, "README.md", "exec")


def test_the_readme_names_commands_that_exist() -> None:
    commands = set(re.findall(r"^eigenmill (\w+)", "\n".join(blocks("sh")), re.MULTILINE))
    assert {"reduce", "explain", "inspect", "transform", "reconstruct", "update"} <= commands
    listed = subprocess.run(
        [sys.executable, "-m", "eigenmill.jobs.cli", "--help"], capture_output=True, text=True, check=True
    )
    for command in commands:
        assert command in listed.stdout
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", (ROOT / "README.md").read_text())) <= targets


def test_the_readme_tells_every_exit_code() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    told = re.search(r"exit codes that a scheduler can tell apart: (.*?)\. ", text)
    assert told is not None
    assert {int(code) for code in re.findall(r"\b\d+\b", told[1])} == set(exits.MEANINGS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (page.parent / target).exists(), target
    for path in re.findall(r"`((?:reduce|jobs|tests|benchmarks|docs|conf)/[\w./]+\.(?:py|md|yaml))`", text):
        if "NAME" not in path:
            assert (ROOT / path).exists(), path


def test_importing_reduce_loads_nothing_heavy() -> None:
    heavy = ["dask", "distributed", "pyspark", "torch", "pydantic", "typer", "rich", "yaml", "pyarrow.dataset"]
    code = f"import eigenmill.reduce, sys; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
