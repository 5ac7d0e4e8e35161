"""The commands that use a model, each with ``--engine``: what they need, and what they leave."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eigenmill.jobs.cli import app
from eigenmill.reduce import Dataset
from tests.jobs.conftest import write_vectors
from tests.support.trees import tree

Call = Callable[[list[str]], Any]
"""Runs the command of these arguments to its end, and asserts that it ended well."""


def here(arguments: list[str]) -> None:
    """The local engine in this process."""
    done = CliRunner().invoke(app, [*arguments, "--quiet"])
    assert done.exit_code == 0, done.output


def prepared(place: Path) -> Path:
    """Three files, a model of the first two with its state, and a packed net."""
    pytest.importorskip("torch")
    from eigenmill.compress import Model, gather, pack, quantize, train

    data = write_vectors(place / "data", rows=600, group=100)
    job = place / "job.yaml"
    job.write_text(
        f"input: {{path: [{data}/0.parquet, {data}/1.parquet], vector: x, carry: [id]}}\n"
        f"reduce: {{components: 5, scale: true}}\noutput: {{model: {place}/model, state: true}}\n"
    )
    here(["reduce", str(job)])
    samples = gather(Model.mlp(None, [4], 3), Dataset.from_parquet(data, vector="x", carry=["id", "label"]))
    net = train(Model.mlp(None, [4], 3), samples, epochs=1)
    pack(quantize(net, samples, bits=8), place / "model.emill")
    return place


def used(place: Path, out: Path, call: Call) -> dict[str, str]:
    """Transform, reconstruct, predict and update by ``call``: the digests of all they have written."""
    data, model, features = (str(place / name) for name in ("data", "model", "local/features"))
    call(["transform", model, data, "--out", f"{out}/features"])
    # What another engine reads has to be where the local one has read it: manifests name their input by its digest.
    call(["reconstruct", model, features, "--out", f"{out}/back", "--against", data])
    call(["predict", str(place / "model.emill"), data, "--out", f"{out}/labels", "--carry", "id", "--vector", "x"])
    shutil.copytree(model, out / "model")
    call(["update", f"{out}/model", data])
    return tree(out)


def agree(place: Path, call: Call) -> None:
    """The commands leave the same bytes by ``call`` as on the local engine."""
    prepared(place)
    expected = used(place, place / "local", here)
    before = tree(place / "model")
    assert {f"{name}/_SUCCESS" for name in ("features", "back", "labels")} <= expected.keys()
    assert before != {n.removeprefix("model/"): d for n, d in expected.items() if n.startswith("model/")}, "updated"
    assert used(place, place / "cluster", call) == expected
