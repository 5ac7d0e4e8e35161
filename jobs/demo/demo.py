"""The demonstration: real digits through the main job, and a page that shows what came of them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from rich.console import Group, RenderableType
from rich.text import Text

from eigenmill.jobs.demo.digits import Digits, prepare
from eigenmill.jobs.reduction.config import load_job
from eigenmill.jobs.reduction.report import RunReport
from eigenmill.jobs.reduction.run import run
from eigenmill.jobs.shown import page, show
from eigenmill.jobs.shown.words import count, number, percent, seconds
from eigenmill.reduce import Dataset, connect, load
from eigenmill.reduce.engines.base import Progress
from eigenmill.reduce.engines.memory import format_bytes
from eigenmill.reduce.estimators.base import Estimator
from eigenmill.reduce.storage import files, places

JOB = """\
# The demonstration's job: MNIST digits, standardized, reduced to the components that keep 95 % of the variance.
# Run it again: eigenmill reduce {job}
input:
  path: {data}
  vector: pixels          # one fixed-size list of {d} numbers per row
  carry: [id, label]      # these travel along to the features
reduce:
  method: pca
  scale: true             # every pixel to mean 0 and standard deviation 1, in the same scan
  components: 0.95        # a share of the variance; or a number of components
output:
  features: {features}
  model: {model}
  report: {report}
  overwrite: true
engine:
  kind: local
  memory: 2GiB            # refused before anything is read if it does not fit
"""
SEED, TRAIN, TEST, SHOWN = 0, 10_000, 2_000, 2_000


@dataclass(frozen=True)
class Demo:
    """What the demonstration has found.

    ``errors`` is as of :meth:`eigenmill.PCA.reconstruction_error`; ``raw`` and ``reduced`` are the shares of test
    digits that their nearest neighbour names rightly, by pixels and by features.
    """

    digits: Digits
    report: RunReport
    errors: dict[str, Any]
    raw: float
    reduced: float
    job: str
    page: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "data": {"path": self.digits.path, "origin": self.digits.kind.origin, "rows": self.digits.rows},
            "report": self.report.as_json(),
            "reconstruction": {"rmse_total": self.errors["rmse_total"], "unexplained": self.errors["unexplained"]},
            "nearest_neighbour": {"pixels": self.raw, "features": self.reduced},
            "job": self.job,
            "page": self.page,
            "seconds": self.seconds,
        }

    def shown(self) -> RenderableType:
        """Everything as tables."""
        assert self.report.explained_variance_ratio is not None
        k, d = len(self.report.explained_variance_ratio), self.report.features
        return Group(
            Text(self.digits.kind.origin, "bold"),
            "",
            show.report(self.report),
            show.variance(self.report.explained_variance_ratio),
            "",
            Text(f"From {k} of {d} numbers, {rebuilt(self.errors, self.digits.kind.top)}"),
            Text(neighbours(self.raw, self.reduced)),
            "",
            Text.assemble(("look at  ", "dim"), self.page),
            Text.assemble(("go on    ", "dim"), f"eigenmill explain {self.job}"),
            Text.assemble(("         ", "dim"), f"eigenmill inspect {Path(self.job).parent / 'model'}"),
            Text.assemble(("         ", "dim"), f"eigenmill reduce {self.job} --set reduce.components=50"),
            Text(f"All of it took {seconds(self.seconds)}, {seconds(self.digits.seconds)} of it for the data.", "dim"),
        )


def neighbours(raw: float, reduced: float) -> str:
    """What the reduction costs a classifier."""
    return (
        f"A nearest neighbour names {percent(raw)} of unseen digits rightly by pixels, {percent(reduced)} by features."
    )


def rebuilt(errors: dict[str, Any], top: float) -> str:
    """What the reduction costs a pixel."""
    return f"a pixel is rebuilt with an error of {number(errors['rmse_total'])} of {top:.0f} (root mean square)."


def demonstrate(directory: str, *, small: bool, progress: Progress | None, notice: Callable[[str], None]) -> Demo:
    """Run the demonstration below ``directory``: data, job, features, model, report and page."""
    began = time.perf_counter()
    digits = prepare(Path(directory), small=small, notice=notice)
    root = Path(digits.path).parent
    job = root / "job.yaml"
    fs, path = places.resolve(job)
    files.write_bytes(fs, path, job_text(root, digits.side**2).encode())
    report = run(load_job(job), progress)
    model = load(root / "model")
    data = Dataset.from_parquet(digits.path, **model.snapshot().layout)
    errors = model.reconstruction_error(data, engine=connect("local", progress=progress))
    pixels, labels = _read(digits.path, "pixels")
    features, _ = _read(str(root / "features"), "features")
    raw, reduced = _neighbours(pixels, features, labels)
    found = Demo(digits, report, errors, raw, reduced, str(job), str(root / "report.html"), time.perf_counter() - began)
    fs, path = places.resolve(found.page)
    files.write_bytes(fs, path, page.render(_content(found, model, pixels, features, labels)).encode())
    return found


def job_text(root: Path, d: int) -> str:
    """The job file for data in ``root/data``."""
    # A blank, a colon or the like in a path wants quotes.
    plain = re.fullmatch(r"[A-Za-z0-9_./-]+", root.as_posix())
    place = {name: f"{root.as_posix()}/{name}" for name in ("data", "features", "model", "report.json", "job.yaml")}
    return JOB.format(
        d=d, **{name.partition(".")[0]: path if plain else json.dumps(path) for name, path in place.items()}
    )


def _read(path: str, column: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """A vector column (n, d) of a directory of Parquet files in order, and the labels (n,)."""
    parts = [pq.read_table(file, columns=[column, "label"]) for file in sorted(Path(path).glob("part-*.parquet"))]
    chunks = [chunk for table in parts for chunk in table[column].chunks]
    vectors = [chunk.flatten().to_numpy().reshape(len(chunk), -1) for chunk in chunks]
    return np.concatenate(vectors), np.concatenate([t["label"].to_numpy() for t in parts])


def _neighbours(pixels: npt.NDArray[Any], features: npt.NDArray[Any], labels: npt.NDArray[Any]) -> tuple[float, float]:
    """Accuracy of one nearest neighbour on a sample, by pixels and by features."""
    from sklearn.neighbors import KNeighborsClassifier

    order = np.random.default_rng(SEED).permutation(len(labels))
    test, train = np.split(order[: TRAIN + TEST], [min(TEST, len(labels) // 4)])
    scores = []
    for X in (pixels, features):
        nearest = KNeighborsClassifier(1, algorithm="brute").fit(X[train].astype(np.float32), labels[train])
        scores.append(float(nearest.score(X[test].astype(np.float32), labels[test])))
    return scores[0], scores[1]


def _content(
    found: Demo,
    model: Estimator,
    pixels: npt.NDArray[Any],
    features: npt.NDArray[Any],
    labels: npt.NDArray[Any],
) -> page.Content:
    report, side = found.report, found.digits.side
    # One of each digit, the first that comes.
    first = np.array([int(np.argmax(labels == label)) for label in np.unique(labels)])
    top = found.digits.kind.top
    back = model.inverse_transform(features[first])
    sample = np.sort(np.random.default_rng(SEED).permutation(len(labels))[:SHOWN])
    ratio = np.asarray(report.explained_variance_ratio)
    second = features[sample, :2] if features.shape[1] > 1 else np.c_[features[sample, 0], np.zeros(len(sample))]
    return page.Content(
        title=f"{count(report.rows)} digits, {count(report.features)} pixels, {count(len(ratio))} components",
        origin=found.digits.kind.origin,
        facts=[
            ("of the variance kept", percent(float(ratio.sum()))),
            ("input, encoded", format_bytes(report.bytes.input)),
            ("features, encoded", format_bytes(report.bytes.written)),
            ("fit and write", seconds(report.seconds["total"])),
            ("rows per second", count(report.rows_per_second)),
            ("memory at the peak", format_bytes(report.peak_memory)),
        ],
        ratio=ratio,
        features=report.features,
        originals=pixels[first].reshape(-1, side, side) * (255 / top),
        reconstructed=back.reshape(-1, side, side) * (255 / top),
        points=second,
        labels=labels[sample],
        stages=[(name, took) for name, took in report.seconds.items() if name != "total"],
        scans=[(scan.name, scan.seconds, scan.rows_per_second) for scan in report.scans],
        notes=[
            f"From {len(ratio)} numbers {rebuilt(found.errors, top)}",
            neighbours(found.raw, found.reduced),
            f"Features in {report.output.features}, the model in {report.output.model}, the job in {found.job}.",
        ],
    )


__all__ = ["JOB", "Demo", "demonstrate", "job_text"]
