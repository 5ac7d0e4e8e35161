"""Row-local transforms: what a fitted model does to one block. Small, picklable, and known by a digest.

A transform cleans with the policy that its model has learnt, then does its algebra in the block's precision. The
shift is split in two, ``x - mean = (x - pivot) - (mean - pivot)``: the pivot is representable in the data's dtype,
so the first difference costs no digits, and the second enters the product as a constant.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eigenmill.reduce.format import FORMAT_1, Format
from eigenmill.reduce.rows.blocks import F64, NO_COLUMNS, Block, Floats, dense_slices, slices
from eigenmill.reduce.rows.cleaning import DROP, FILL, MEAN, Resolved, mend
from eigenmill.reduce.storage.digest import digest_of, tagged


class Transform(ABC):
    """A map from a block of (h, d_in) to a block of (h', d_out); it may drop rows, never reorder them.

    Attributes:
        hidden: names of the carried columns that it reads and does not pass on.
    """

    hidden: tuple[str, ...] = ()

    if TYPE_CHECKING:  # in some a field of the dataclass: a property of the base would be taken for its default

        @property
        def names(self) -> Sequence[str]:
            """(d_out,) feature names."""

        @property
        def dtype(self) -> np.dtype[Any]:
            """Of the blocks that come out."""

    @property
    @abstractmethod
    def n_features_in(self) -> int:
        """d_in."""

    @property
    def carried(self) -> pa.Schema:
        """The carried columns that it adds."""
        return NO_COLUMNS

    @property
    def sparse(self) -> bool:
        """Whether blocks may come out as CSR."""
        return False

    @property
    def drops(self) -> bool:
        """Whether it may leave rows out."""
        return False

    @cached_property
    def digest(self) -> str:
        """Identifies the transform and all its numbers."""
        return digest_of(self)

    def takes(self, block: Block) -> bool:
        """Whether sparse rows are taken as they are; otherwise they come dense, a slice at a time."""
        return False

    @abstractmethod
    def __call__(self, block: Block) -> Block:
        """The rows of ``block`` after the transform."""


def applied(block: Block, transforms: Sequence[Transform], format: Format) -> Iterator[Block]:
    """The block after all transforms, in lower blocks from where one would make many rows dense, or far wider."""
    for i, transform in enumerate(transforms):
        if block.sparse and not transform.takes(block):
            for piece in dense_slices(block, format):
                for later in transforms[i:]:
                    piece = later(piece)
                yield piece
            return
        height = format.widened_height(block.rows, len(transform.names))
        if height < block.rows:
            for piece in slices(block, height):
                yield from applied(piece, transforms[i:], format)
            return
        block = transform(block)
    yield block


@tagged("Input", "names dtype policy", later={"format": FORMAT_1})
@dataclass(frozen=True)
class ModelInput:
    """What a fitted model expects of a row, and how it cleans it.

    Args:
        names: (d,) feature names, for error messages.
        dtype: float32 or float64, the precision of the output.
        policy: the frozen cleaning policy, every fill value known.
        format: says when sparse rows are multiplied dense.
    """

    names: Sequence[str]
    dtype: np.dtype[Any]
    policy: Resolved
    format: Format = FORMAT_1

    @property
    def drops(self) -> bool:
        """Whether the policy leaves rows out."""
        return bool((self.policy.code == DROP).any())

    def clean(self, block: Block) -> tuple[Block, Floats]:
        """The rows kept, and their cleaned values (h', d) in a buffer that the caller may overwrite."""
        X = block.dense(self.dtype, name="raw")
        block, X, bad = mend(block, X, self.policy, self.names)
        filling = bad & ((self.policy.code == FILL) | (self.policy.code == MEAN))
        if filling.any():
            X[filling] = np.broadcast_to(self.policy.fill, X.shape)[filling]
        return block, X


@tagged("Standardize", "input mean scale")
@dataclass(frozen=True)
class Standardize(Transform):
    """``(x - mean) / scale``; either may be None. CSR stays CSR when there is no mean to subtract."""

    input: ModelInput
    mean: F64 | None
    scale: F64 | None

    @property
    def drops(self) -> bool:
        return self.input.drops

    @property
    def n_features_in(self) -> int:
        return len(self.input.names)

    @property
    def names(self) -> Sequence[str]:
        return self.input.names

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.input.dtype

    @property
    def sparse(self) -> bool:
        return self.mean is None

    def takes(self, block: Block) -> bool:
        return self.mean is None and not self.input.policy.clips and bool(np.isfinite(block.X.data).all())

    def __call__(self, block: Block) -> Block:
        if block.sparse and self.takes(block):
            X = block.X.astype(self.dtype)
            if self.scale is not None:
                X.data /= self.scale.astype(self.dtype)[X.indices]
            return block.with_matrix(X)
        block, X = self.input.clean(block)
        if self.mean is not None:
            pivot = self.mean.astype(self.dtype)
            X -= pivot
            X -= (self.mean - pivot).astype(self.dtype)
        if self.scale is not None:
            X /= self.scale.astype(self.dtype)
        return block.with_matrix(X)


@tagged("Unscale", "names mean scale dtype")
@dataclass(frozen=True)
class Unscale(Transform):
    """``x * scale + mean``, the inverse of :class:`Standardize`; NaN stays NaN."""

    names: Sequence[str]
    mean: F64 | None
    scale: F64 | None
    dtype: np.dtype[Any]

    @property
    def n_features_in(self) -> int:
        return len(self.names)

    def takes(self, block: Block) -> bool:
        return self.mean is None

    def __call__(self, block: Block) -> Block:
        if block.sparse and self.takes(block):
            X = block.X.astype(self.dtype)
            if self.scale is not None:
                X.data *= self.scale.astype(self.dtype)[X.indices]
            return block.with_matrix(X)
        y = block.dense(np.float64, name="unscaled")
        if self.scale is not None:
            y *= self.scale
        if self.mean is not None:
            y += self.mean
        return block.with_matrix(y.astype(self.dtype, copy=False))


@tagged("Project", "input mean weights names")
@dataclass(frozen=True)
class Project(Transform):
    """``(x - mean) @ weights``, with ``weights`` (d, k) holding basis, scaling and whitening."""

    input: ModelInput
    mean: F64
    weights: F64
    names: Sequence[str]

    @property
    def drops(self) -> bool:
        return self.input.drops

    @property
    def n_features_in(self) -> int:
        return len(self.input.names)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.input.dtype

    @cached_property
    def _rounded(self) -> tuple[Floats, Floats, Floats]:
        """Pivot, constant and weights in the block's precision; the constant makes up for the pivot's rounding."""
        pivot = self.mean.astype(self.dtype)
        constant = (pivot.astype(np.float64) - self.mean) @ self.weights
        return pivot, constant.astype(self.dtype), np.asfortranarray(self.weights.astype(self.dtype))

    @cached_property
    def _flat(self) -> tuple[Floats, F64]:
        """Weights in the block's precision, row by row, and the product of the mean: what sparse rows need."""
        return np.ascontiguousarray(self.weights, dtype=self.dtype), self.mean @ self.weights

    def takes(self, block: Block) -> bool:
        """Whether sparse rows are multiplied as they are: they are not nearly dense, and have nothing to mend."""
        X = block.X
        few = X.nnz <= self.input.format.dense_share * X.shape[0] * X.shape[1]
        return few and not self.input.policy.clips and bool(np.isfinite(X.data).all())

    def __call__(self, block: Block) -> Block:
        if block.sparse and self.takes(block):
            return block.with_matrix(self._sparse_product(block.X))
        pivot, constant, weights = self._rounded
        if not self.input.policy.clips:
            z = self._product(block.dense(self.dtype, pivot), weights, constant, block)
            # A missing or infinite value spoils its whole row of the product, so k columns tell about d.
            if np.isfinite(z).all():
                return block.with_matrix(z)
        block, X = self.input.clean(block)
        X -= pivot
        return block.with_matrix(self._product(X, weights, constant, block))

    def _sparse_product(self, X: Any) -> Floats:
        """``X W - mean W`` without making the rows dense.

        Where fewer than half of the rows have a value, the mean is smaller than the standard deviation and costs no
        digits (Cauchy and Schwarz); other columns are shifted first, in a small dense matrix.
        """
        h, d = X.shape
        weights, constant = self._flat
        X = X.astype(self.dtype, copy=False)
        if not self.mean.any():
            return np.asarray(X @ weights)
        thick = (2 * np.bincount(X.indices, minlength=d) >= h) & (self.mean != 0)
        at = np.flatnonzero(thick)
        if not len(at):
            return np.asarray(X @ weights - constant.astype(self.dtype))
        pivot = self.mean[at].astype(self.dtype)
        rest = X.copy()
        rest.data[thick[X.indices]] = 0
        z = rest @ weights + (X[:, at].toarray() - pivot) @ weights[at]
        z += (pivot @ self.weights[at] - constant).astype(self.dtype)
        return np.asarray(z)

    def _product(self, y: Floats, weights: Floats, constant: Floats, block: Block) -> Floats:
        z = block.workspace.array(f"z{id(self)}", (len(y), weights.shape[1]), self.dtype)
        np.matmul(y, weights, out=z)
        z += constant
        return z


@tagged("Align", "permutation signs names dtype")
@dataclass(frozen=True)
class Align(Transform):
    """Columns in another order and with other signs: ``z[:, permutation] * signs``; every value stays exact.

    With it the features of a new model keep the places and signs that an earlier one gave them.

    Args:
        permutation: (k,) whole numbers 0 to k - 1, each once: column j of the output is column ``permutation[j]``.
        signs: (k,) of 1.0 and -1.0.
        names: (k,) feature names of the output.
        dtype: float32 or float64, the precision of the columns.
    """

    permutation: npt.NDArray[np.int64]
    signs: F64
    names: Sequence[str]
    dtype: np.dtype[Any]

    @property
    def n_features_in(self) -> int:
        return len(self.permutation)

    def __call__(self, block: Block) -> Block:
        z = np.take(block.dense(self.dtype, name="unaligned"), self.permutation, axis=1)
        z *= self.signs.astype(self.dtype)
        return block.with_matrix(z)


@tagged("Reconstruct", "basis mean names dtype")
@dataclass(frozen=True)
class Reconstruct(Transform):
    """``z @ basis + mean``: from k reduced features back to d original columns."""

    basis: F64
    mean: F64
    names: Sequence[str]
    dtype: np.dtype[Any]

    @property
    def n_features_in(self) -> int:
        return int(self.basis.shape[0])

    def __call__(self, block: Block) -> Block:
        z = block.dense(np.float64, name="reduced")
        y = z @ self.basis
        y += self.mean
        return block.with_matrix(y.astype(self.dtype, copy=False))


@tagged("Residual", "project basis")
@dataclass(frozen=True)
class Residual(Transform):
    """``x - reconstruct(project(x))`` in original units."""

    project: Project
    basis: F64

    @property
    def drops(self) -> bool:
        return self.project.drops

    @property
    def n_features_in(self) -> int:
        return self.project.n_features_in

    @property
    def names(self) -> Sequence[str]:
        return self.project.input.names

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64)

    def __call__(self, block: Block) -> Block:
        block, X = replace(self.project.input, dtype=self.dtype).clean(block)
        X -= self.project.mean
        X -= (X @ self.project.weights) @ self.basis
        return block.with_matrix(X)


@tagged("LogLikelihood", "input mean scale components quadratic noise constant")
@dataclass(frozen=True)
class LogLikelihood(Transform):
    """Log-density of each row under the probabilistic PCA model (Tipping and Bishop 1999, section 3).

    ``quadratic`` (k,) holds the inverse variances along the basis, ``noise`` the inverse variance across it.
    """

    input: ModelInput
    mean: F64
    scale: F64 | None
    components: F64
    quadratic: F64
    noise: float
    constant: float

    @property
    def drops(self) -> bool:
        return self.input.drops

    @property
    def n_features_in(self) -> int:
        return len(self.input.names)

    @property
    def names(self) -> Sequence[str]:
        return ("log_likelihood",)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64)

    def __call__(self, block: Block) -> Block:
        block, X = replace(self.input, dtype=self.dtype).clean(block)
        X -= self.mean
        if self.scale is not None:
            X /= self.scale
        z = X @ self.components.T
        across = np.einsum("ij,ij->i", X, X) - np.einsum("ij,ij->i", z, z)
        value = self.constant - 0.5 * (z**2 @ self.quadratic + self.noise * np.maximum(across, 0.0))
        return block.with_matrix(value[:, None])
