"""The images are built, both clusters run from them, and give the bytes of the local engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts and network namespaces need root")
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="the base image is made from Debian's archive")
def test_the_images_run_the_demonstration_on_both_clusters() -> None:
    run = subprocess.run([sys.executable, ROOT / "docker/verify.py"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    for cluster in ("dask", "spark"):
        assert re.search(rf"{cluster}-worker-2 is well", run.stdout)
        assert re.search(rf"{cluster}: \d+ files of features and \d+ files of model are those of", run.stdout)
    assert "all is well" in run.stdout
