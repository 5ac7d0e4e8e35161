"""What constants of the format decide of an iteration and of what is said of a spectrum: cases of test_format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eigenmill.reduce import PCA, Dataset
from eigenmill.reduce.estimators import sketch
from eigenmill.reduce.estimators.bounds import by_start, by_trace
from eigenmill.reduce.estimators.krylov import Krylov, Ritz, orthonormal
from eigenmill.reduce.estimators.nystrom import nystroem
from eigenmill.reduce.estimators.spectrum import Spectrum, of_gram, orient
from eigenmill.reduce.format import Format
from eigenmill.reduce.passes.gram import Gram
from eigenmill.reduce.passes.intake import Intake, Moments
from eigenmill.reduce.passes.tsqr import TsqrPass
from eigenmill.reduce.rows.cleaning import Cleaning

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
EPS = float(np.finfo(np.float64).eps)


# The iteration


def starts(format: Format, place: Path) -> Any:
    """Gaussian vectors for 20 and 80 components, and for a share."""
    return [PCA(k)._wanted(10_000, 0, format).width for k in (20, 80, 0.9)]


def refined_widths(fit: Callable[[Format], Any]) -> Callable[[Format, Path], Any]:
    """Directions that the scan of a refinement turns."""

    def told(format: Format, place: Path) -> Any:
        widths, real = [], TsqrPass.start

        def spy(self: Any) -> Any:
            widths.append(self.weights.shape[1])
            return real(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TsqrPass, "start", spy)
            fit(format)
        return widths

    return told


def kept_blocks(format: Format) -> None:
    X = np.random.default_rng(0).normal(size=(420, 400))
    PCA(120, solver="sketch", refine=True, tol=None, max_scans=3).fit(Dataset.from_numpy(X, format=format))


def refined_svd(format: Format) -> None:
    """Two values, the smaller one just above and just below 1e4 times the noise of four columns."""
    H = np.kron(np.eye(4), [[1.0], [-1.0]])
    for small in (7e-6, 5e-6):
        X = H * [1.0, small, 0.0, 0.0]
        PCA(2, solver="gram", refine=True).fit(Dataset.from_numpy(X, format=format))


def unit(d: int, *columns: dict[int, float]) -> Any:
    found = np.zeros((d, len(columns)))
    for j, column in enumerate(columns):
        for i, value in column.items():
            found[i, j] = value
    return found


def cholesky(format: Format, place: Path) -> Any:
    """Sign of the first direction, which Householder's QR turns and Cholesky's does not, at two condition numbers."""
    return [
        float(np.sign(orthonormal(unit(9, {0: 0.6, 1: 0.8}, {2: small}), 1, format)[0][0, 0]))
        for small in (1.1e-6, 0.9e-6)
    ]


def after_deflation(format: Format, place: Path) -> Any:
    """Directions that are left of two with 40 and 24 times the rounding of what they were parted from."""
    krylov = Krylov(unit(9, {0: 1.0}, {1: 1.0}), 1, format)
    krylov.absorb(unit(9, {0: 1.0, 2: 40 * EPS}, {1: 1.0, 3: 24 * EPS}))
    return krylov.block.shape[1]


def parted_again(format: Format, place: Path) -> Any:
    """How often directions are parted from the basis, for a second one that is 250 and 260 times smaller."""

    class Counted(Krylov):
        parted = 0

        def _project(self, vectors: Any, basis: Any) -> Any:
            self.parted += 1
            return super()._project(vectors, basis)

    told = []
    for times in (250, 260):
        krylov = Counted(unit(9, {0: 1.0}, {1: 1.0}), 1, format)
        krylov.absorb(unit(9, {0: 5.0, 2: 1.0}, {1: 5.0, 3: 1 / times}))
        assert krylov.block.shape[1] == 2
        told.append(krylov.parted)
    return told


def left_out(format: Format, place: Path) -> Any:
    """Exponent of how far an error swells through the smallest direction that is kept, of 1, 2e-8 and 1e-8."""
    krylov = Krylov(unit(9, {0: 1.0}, {1: 1.0}, {2: 1.0}), 1, format)
    krylov.absorb(unit(9, {0: 1.0}, {1: 2e-8}, {2: 1e-8}))
    krylov.extend()
    return f"{nystroem(krylov).swell:.3g}"


# What is said of a spectrum


def bounds_by_start(format: Format, place: Path) -> Any:
    found = by_start(np.array([100.0, 30.0, 10.0, 3.0, 1.0]), 50, 8, 6, format)
    return [f"{value:.9e}" for value in found]


def bounds_by_trace(format: Format, place: Path) -> Any:
    theta = np.linspace(100.0, 50.0, 20)
    ritz = Ritz(theta, np.eye(20), np.diag(np.linspace(2.0, 20.0, 20)))
    return f"{by_trace(ritz, 20, float(theta.sum()) + 10.0, format).sum():.9e}"


def gram_of(values: Any, gross: float = 0.0) -> Gram:
    d = len(values)
    zeros = np.zeros(d)
    return Gram(Moments.empty(d), 100.0, zeros, zeros, np.diag(values), np.asarray(values) + gross / d, 9, 2)


def rank(values: Any, gross: float = 0.0) -> Callable[[Format, Path], Any]:
    def told(format: Format, place: Path) -> Any:
        return of_gram(gram_of(values, gross), None, F64, centred=True, k=None, format=format).rank

    return told


def solved(format: Format, place: Path) -> Any:
    """Vectors that are made for 33 and 34 of 100."""
    gram = lambda: gram_of(np.arange(100.0, 0.0, -1.0))  # noqa: E731
    return [of_gram(gram(), None, F64, centred=True, k=k, format=format).vectors.shape[1] for k in (33, 34)]


def left_over(format: Format, place: Path) -> Any:
    """Whether a rest of 15 and 17 eps of a total of 1 over 4 columns is noise."""
    told = []
    for rest in (15 * EPS, 17 * EPS):
        pca = PCA(1)
        pca.mean_ = np.zeros(4)
        pca._set_spectrum(Spectrum(np.array([1 - rest]), np.eye(4)[:, :1], 1.0, 4, 0.0, 0.0), 9.0, np.ones(1), format)
        told.append(pca.noise_variance_ == 0)
    return told


def single(format: Format, place: Path) -> Any:
    """Residuals of float32 products that count as rounding, beside an eigenvalue of 1."""
    intake = Intake(("x",), F32, Cleaning().resolve(("x",)), format)
    setting = sketch.Setting(9.0, np.zeros(1), None, True, 1.0, np.zeros(1), None, 1.0, 2.0, 1)
    return float(sketch._single(intake, setting, 1.0)).hex()


def signs(format: Format, place: Path) -> Any:
    """Which of two entries decides the sign, for entries that are 5e-7 and 2e-6 apart."""
    return [float(np.sign(orient(np.array([[1.0], [-1.0 - apart]]), format)[0, 0])) for apart in (5e-7, 2e-6)]
