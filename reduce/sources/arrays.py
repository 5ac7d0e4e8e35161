"""NumPy arrays and SciPy sparse matrices as a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from eigenmill.reduce.errors import SchemaError
from eigenmill.reduce.format import Format, current
from eigenmill.reduce.rows.blocks import Block, Origin, Workspace
from eigenmill.reduce.sources.base import NumberedNames, Source, feature_dtype
from eigenmill.reduce.sources.catalog import Fragment
from eigenmill.reduce.storage.digest import digest_of


class ArraySource(Source):
    """Rows of a NumPy array (n, d) or a SciPy CSR array (n, d)."""

    def __init__(
        self,
        X: Any,
        names: Sequence[str] | None = None,
        weights: npt.ArrayLike | None = None,
        format: Format | None = None,
    ) -> None:
        self.format = format or current()
        X = scipy.sparse.csr_array(X) if scipy.sparse.issparse(X) else np.asarray(X)
        if X.ndim != 2:
            raise SchemaError(f"expected a matrix with 2 dimensions, found {X.ndim}; reshape the input")
        if X.dtype.kind not in "fiub":
            raise SchemaError(
                f"expected a numeric or boolean matrix, found dtype {X.dtype}; encode it as numbers first"
            )
        self.X = X
        self.names: Sequence[str] = NumberedNames("x", X.shape[1]) if names is None else tuple(names)
        if len(self.names) != X.shape[1]:
            raise SchemaError(f"expected {X.shape[1]} feature names, found {len(self.names)}")
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float64)
        if self.weights is not None and self.weights.shape != (X.shape[0],):
            raise SchemaError(f"expected weights of shape ({X.shape[0]},), found {self.weights.shape}")
        step, n = self.format.leaf_rows(X.shape[1]), X.shape[0]
        self.fragments: Sequence[Fragment] = tuple(
            Fragment(i, 0, a, min(a + step, n), min(a + step, n) - a) for i, a in enumerate(range(0, n, step))
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        return feature_dtype([self.X.dtype])

    @property
    def sparse(self) -> bool:
        return bool(scipy.sparse.issparse(self.X))

    @property
    def values(self) -> int:
        return int(self.X.nnz if self.sparse else self.X.size)

    @property
    def digest(self) -> str:
        X = self.X
        content = [X.indptr, X.indices, X.data, list(X.shape)] if scipy.sparse.issparse(X) else X
        return digest_of([content, self.weights, list(self.names)])

    def blocks(self, fragment: Fragment, height: int, workspace: Workspace, *, carry: bool) -> Iterator[Block]:
        for a in range(fragment.start, fragment.stop, height):
            b = min(a + height, fragment.stop)
            weights = None if self.weights is None else self.weights[a:b]
            yield Block(self.X[a:b], weights, None, Origin(row=a), workspace)
