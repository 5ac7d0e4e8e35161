"""The images are built, both clusters run from them, and give the bytes of the local engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_the_images_run_the_demonstration_on_both_clusters(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("buildah cannot be installed, nor mount, without root")
    command = [sys.executable, ROOT / "docker/verify.py", "--place", tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode == 3:
        pytest.skip(run.stderr.splitlines()[-1])
    assert run.returncode == 0, run.stdout + run.stderr
    for cluster in ("dask", "spark"):
        assert f"{cluster}: " in run.stdout
    assert run.stdout.count("are those of the local engine") == 2
