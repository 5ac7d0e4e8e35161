"""The notebook runs as it is, against a scheduler and two worker processes; it is kept without outputs."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from tests.engines.dask_processes import ROOT, cluster

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("matplotlib")
NOTEBOOK = ROOT / "jobs/dask_cluster.ipynb"


def test_it_is_kept_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_it_runs_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with cluster(tmp_path / "cluster") as found:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", found.address)
        monkeypatch.setenv("EIGENMILL_PLACE", str(tmp_path / "place"))
        monkeypatch.setenv("PYTHONPATH", f"{ROOT}/src:{ROOT}")
        monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
        client = nbclient.NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute()
        workers = "".join(found.log(f"worker-{i}") for i in range(2))
    assert "Run out-of-band function 'versions'" in workers
    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert "1,797 rows of 8 x 8 pixels in 4 files" in text
    assert "gram (64 columns" in text
    assert "local and cluster agree in every byte" in text
    pictures = [base64.b64decode(o["data"]["image/png"]) for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 3
    assert min(map(len, pictures)) > 10_000
    assert (tmp_path / "place/features/_SUCCESS").exists()
    # To look at: EIGENMILL_PICTURES=directory.
    if folder := os.environ.get("EIGENMILL_PICTURES"):
        for i, picture in enumerate(pictures):
            (Path(folder) / f"notebook-{i}.png").write_bytes(picture)
