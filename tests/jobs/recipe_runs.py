"""A small recipe for the digits, and the command that runs recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from eigenmill.jobs.cli import app
from tests.support.stopped import Stopped

RECIPE = """\
input:
  path: {data}
  vector: pixels
  carry: [id]
  filters: [[id, "<", 1400]]
validation: {{share: 0.2, by: id}}
test:
  path: {data}
  filters: [[id, ">=", 1400]]
model: {{hidden: [24], seed: 1}}
steps:
  - step: train
    epochs: 12
    optimizer: {{name: momentum, lr: 0.05, momentum: 0.9}}
  - step: prune
    sparsity: 0.7
  - step: train
    epochs: 6
  - step: quantize
    bits: 6
output:
  path: {out}
  batches: [1]
  exports: [c, onnx]
"""


def invoke(*args: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["compress", *args, "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def training(conf: Path, moment: Path) -> Stopped:
    """The recipe in a process that stops training when there is a checkpoint of this pattern."""
    driver = """
from eigenmill.compress.training.train import _Training
true = _Training._epoch
def epoch(self, number):
    hold()
    return true(self, number)
_Training._epoch = epoch
from eigenmill.jobs.cli import main
main()
"""
    return Stopped(driver, moment, "compress", str(conf), "--json")
