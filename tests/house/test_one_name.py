"""One name: whatever is installed, zipped or found beside it, ours is ``eigenmill`` and nothing else."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import eigenmill
import eigenmill.reduce
from tests.support.tables import columns

ROOT = Path(__file__).parents[2]
OURS = ("reduce", "compress", "jobs")


def run(*command: str | Path, cwd: Path, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A working directory whose modules bear the names of our folders, and end whoever imports them."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "reduce.py").write_text("raise SystemExit('the reduce of someone else')\n")
    for name in ("compress", "jobs"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"raise SystemExit('the {name} of someone else')\n")
    X = np.random.default_rng(0).normal(size=(200, 6))
    pq.write_table(pa.table(columns(X)), folder / "rows.parquet")
    job = {
        "input": {"path": "rows.parquet"},
        "reduce": {"components": 2},
        "output": {"features": "out/features", "model": "out/model"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A wheel of this tree, and one of its sdist."""
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", out, cwd=ROOT)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    run("tar", "xzf", sdist, "-C", out, cwd=out)
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out / "again", cwd=out / sdist.name[:-7])
    (again,) = (out / "again").glob("*.whl")
    return [wheel, again]


def test_a_wheel_and_that_of_an_sdist_hold_eigenmill_alone(built: list[Path]) -> None:
    names = [sorted(zipfile.ZipFile(each).namelist()) for each in built]
    assert names[0] == names[1]
    tops = {name.split("/")[0] for name in names[0]}
    assert tops == {"eigenmill", f"eigenmill-{eigenmill.__version__}.dist-info"}
    files = {path.relative_to(ROOT).as_posix() for folder in OURS for path in (ROOT / folder).rglob("*.py")}
    assert {f"eigenmill/{name}" for name in files} <= set(names[0])
    assert {"eigenmill/__init__.py", "eigenmill/__main__.py", "eigenmill/py.typed"} <= set(names[0])


def test_the_zip_for_spark_submit_holds_eigenmill_alone(tmp_path: Path) -> None:
    run(sys.executable, "scripts/zip_packages.py", tmp_path / "eigenmill.zip", "src/eigenmill", cwd=ROOT)
    names = zipfile.ZipFile(tmp_path / "eigenmill.zip").namelist()
    assert {name.split("/")[0] for name in names} == {"eigenmill"}
    assert {f"eigenmill/{folder}/__init__.py" for folder in OURS} <= set(names)


@pytest.mark.parametrize("command", [["-m", "eigenmill"], ["-c", "from eigenmill.jobs.cli import main; main()"]])
def test_files_of_our_folders_names_in_the_working_directory_change_nothing(hostile: Path, command: list[str]) -> None:
    done = run(sys.executable, *command, "reduce", "job.yaml", "--json", cwd=hostile, PYTHONPATH=str(hostile))
    assert json.loads(done.stdout)["status"] == "complete"


def test_the_command_runs_beside_files_of_our_folders_names(hostile: Path) -> None:
    program = Path(sys.executable).with_name("eigenmill")
    if not program.exists():
        pytest.skip("the package is not installed")
    run(program, "explain", "job.yaml", cwd=hostile, PYTHONPATH=str(hostile))


@pytest.mark.parametrize("name", [*OURS, "reduce.errors", "jobs.cli"])
def test_a_file_is_never_two_modules(name: str, tmp_path: Path) -> None:
    done = run(sys.executable, "-c", f"import {name}", cwd=tmp_path, code=1, PYTHONPATH=str(ROOT))
    top = name.partition(".")[0]
    assert f"ImportError: expected 'import eigenmill.{top}'" in done.stderr


def test_public_names_stand_on_eigenmill_and_are_those_of_reduce() -> None:
    public = set(eigenmill.reduce.__all__)
    assert set(eigenmill.__all__) == public | set(OURS)
    assert set(dir(eigenmill)) == set(eigenmill.__all__)
    assert all(getattr(eigenmill, name) is getattr(eigenmill.reduce, name) for name in public)
    with pytest.raises(AttributeError, match="module 'eigenmill' has no attribute 'nothing'"):
        _ = eigenmill.nothing


def test_importing_eigenmill_loads_nothing_of_its_own(tmp_path: Path) -> None:
    code = "import sys, eigenmill; print(sorted(m for m in sys.modules if m.startswith('eigenmill.') or m == 'numpy'))"
    assert run(sys.executable, "-c", code, cwd=tmp_path).stdout.strip() == "[]"


def test_the_dag_imports_airflow_and_the_standard_library_only() -> None:
    tree = ast.parse((ROOT / "jobs/airflow_dag.py").read_text())
    found = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    found |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    tops = {name.partition(".")[0] for name in found}
    assert "airflow" in tops
    assert tops - {"airflow"} <= set(sys.stdlib_module_names)


@pytest.mark.slow
def test_the_wheel_works_beside_packages_named_like_our_folders(built: list[Path], hostile: Path) -> None:
    """A fresh environment: demonstration, a Dask job, a Spark job and the notebook, run from within jobs/."""
    place = hostile.parent
    run(sys.executable, "-m", "venv", place / "env", cwd=place)
    python = place / "env/bin/python"
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    run(*pip, f"{built[0]}[dask,spark,s3]", "nbclient", "nbformat", "ipykernel", "matplotlib", cwd=place)
    site = Path(run(python, "-c", "import numpy; print(numpy.__path__[0])", cwd=place).stdout.strip()).parent
    (site / "reduce.py").write_text((hostile / "reduce.py").read_text())
    for name in ("compress", "jobs"):
        (site / name).mkdir()
        (site / name / "__init__.py").write_text((hostile / name / "__init__.py").read_text())
    own = {"PYTHONPATH": "", "PYSPARK_PYTHON": str(python), "PYSPARK_DRIVER_PYTHON": str(python), "JUPYTER_PATH": ""}
    eigenmill_ = place / "env/bin/eigenmill"
    run(eigenmill_, "demo", cwd=hostile, **own)
    run(eigenmill_, "reduce", "job.yaml", cwd=hostile, **own)
    dask = "from distributed import LocalCluster; c = LocalCluster(n_workers=1, threads_per_worker=1, "
    dask += "dashboard_address=None); import subprocess, sys; "
    dask += "sys.exit(subprocess.run([sys.argv[1], 'reduce', 'job.yaml', '--engine', 'dask', '--set', "
    dask += "'engine.address=' + c.scheduler_address, '--set', 'output.features=out/dask', '--set', "
    dask += "'output.model=out/m']).returncode)"
    (place / "cluster.py").write_text(f"if __name__ == '__main__':\n    {dask}\n")
    run(python, place / "cluster.py", eigenmill_, cwd=hostile, **own)
    spark = ["--master", "local[1]", ROOT / "jobs/spark_submit.py", "job.yaml"]
    outputs = ["--set", "output.features=out/spark", "--set", "output.model=out/m2"]
    run(site / "pyspark/bin/spark-submit", *spark, *outputs, cwd=hostile, **own)
    for name in ("dask", "spark"):
        for part in sorted((hostile / "out/features").glob("*.parquet")):
            assert part.read_bytes() == (hostile / "out" / name / part.name).read_bytes()
    notebook = place / "notebook.py"
    notebook.write_text(
        "import nbformat, nbclient, sys\n"
        "nb = nbformat.read(sys.argv[1], as_version=4)\n"
        "nbclient.NotebookClient(nb, timeout=300, kernel_name='python3',"
        " resources={'metadata': {'path': sys.argv[2]}}).execute()\n"
    )
    place_ = {"EIGENMILL_PLACE": str(place / "nb"), "IPYTHONDIR": str(place / "ipython")}
    run(python, notebook, ROOT / "jobs/dask_cluster.ipynb", ROOT / "jobs", cwd=hostile, **own, **place_)
