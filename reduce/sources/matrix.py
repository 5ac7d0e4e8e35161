"""Matrix: rows of a source, the cleaning policy, and the row-local transforms still to be applied.

Passes, engines and outputs take one. Users make a :class:`eigenmill.reduce.Dataset`, which adds ways in and out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa

from eigenmill.reduce.errors import SchemaError
from eigenmill.reduce.format import FORMAT_1, Format
from eigenmill.reduce.rows.blocks import Block, Workspace
from eigenmill.reduce.rows.cleaning import Cleaning
from eigenmill.reduce.rows.transforms import Transform, applied
from eigenmill.reduce.sources.base import Source
from eigenmill.reduce.sources.catalog import Fragment, total_rows
from eigenmill.reduce.storage.digest import digest_of


@dataclass(frozen=True)
class Matrix:
    """A matrix of n rows and d features, described and not yet read.

    Attributes:
        source: where rows come from.
        cleaning: the policy for missing values and outliers that the next estimator applies and learns.
        transforms: row-local transforms of fitted models, applied in order to every block.
    """

    source: Source
    cleaning: Cleaning = field(default_factory=Cleaning)
    transforms: tuple[Transform, ...] = ()

    @property
    def format(self) -> Format:
        """The constants that decide the bytes of all that is computed from the data; its source is cut by them."""
        return self.source.format

    @property
    def feature_names(self) -> Sequence[str]:
        return self.transforms[-1].names if self.transforms else self.source.names

    @property
    def n_features(self) -> int:
        return len(self.feature_names)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.transforms[-1].dtype if self.transforms else self.source.dtype

    @property
    def sparse(self) -> bool:
        """Whether blocks arrive as CSR."""
        return self.source.sparse and all(t.sparse for t in self.transforms)

    @property
    def carried(self) -> pa.Schema:
        """Arrow schema of the carried columns: those of the source, without what transforms hide, and what they add."""
        fields = list(self.source.carried)
        for step in self.transforms:
            fields = [*(f for f in fields if f.name not in step.hidden), *step.carried]
        return pa.schema(fields)

    @property
    def n_rows(self) -> int:
        """Rows according to the metadata, before filters and dropped rows."""
        return total_rows(self.source.fragments)

    @property
    def stored(self) -> int:
        """Numbers stored, by the metadata: the entries of sparse rows, else n d."""
        return self.source.values if self.sparse else self.n_rows * self.n_features

    @property
    def fragments(self) -> Sequence[Fragment]:
        return self.source.fragments

    def with_cleaning(self, **policy: Any) -> Self:
        """The same data under another policy; keywords as of :class:`eigenmill.Cleaning`."""
        return replace(self, cleaning=Cleaning(**policy))

    def then(self, transform: Transform) -> Self:
        """The data set after one more row-local transform, with nothing left to clean."""
        if transform.n_features_in != self.n_features:
            raise SchemaError(
                f"expected {transform.n_features_in} features, found {self.n_features}; "
                "give the columns that the model was fitted on"
            )
        return replace(self, transforms=(*self.transforms, transform), cleaning=Cleaning())

    @property
    def digest(self) -> str:
        """Identifies the input: files (path, size, footer digest) or arrays, how they are read, and the transforms."""
        parts = [self.source.digest, list(self.feature_names), [t.digest for t in self.transforms]]
        return digest_of(parts if self.format == FORMAT_1 else [*parts, self.format])

    def blocks(
        self, fragment: Fragment, workspace: Workspace, *, carry: bool = False, height: int | None = None
    ) -> Iterator[Block]:
        """The fragment's blocks with all transforms applied, in row order.

        They have :meth:`Format.block_height` rows by default; sparse rows that come out dense are read ``max_height``
        at a time, and lower blocks are cut where a transform makes them dense at full width.
        """
        if height is None:
            many = self.source.sparse and not self.sparse
            height = self.format.max_height if many else self.format.block_height(len(self.source.names))
        for block in self.source.blocks(fragment, height, workspace, carry=carry):
            yield from applied(block, self.transforms, self.format)
            del block
