"""Every constant that decides the bytes of a result, as one value that travels with the data and the passes.

A constant belongs here when another value of it would be right as well and give other bytes: sizes, heights,
thresholds, shares. It does not when it is a matter of speed only (how many tasks, how often to save), a default that a
user's parameter shows (``tol``, ``max_scans``), or a number of a theorem or proof, which stands beside it.

The defaults of :class:`Format` are format 1 and stay so for ever. A new format is another *value*::

    CURRENT = replace(FORMAT_1, version=2, leaf_bytes=32 << 20)

and a constant that is new gets the default that format 1 has had without it. Digests, states and jobs say nothing of a
format that is format 1, and name what differs in any other (:meth:`Format.changes`): so old files keep their keys.
Constants of compact models have a record of their own, in ``eigenmill.compress.format``: what ``reduce`` writes does
not depend on them, and ``reduce`` does not know ``compress``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from eigenmill.reduce.errors import ArtifactError

VERSION = 1
"""The newest format that this program writes and knows."""


@dataclass(frozen=True)
class Format:
    """The constants of one format. Small, and picklable as what differs from format 1."""

    version: int = 1
    """Number of the format, by which a reader knows constants that it may not have."""

    # How rows are cut: into leaves of the merge tree, and these into blocks.

    leaf_bytes: int = 64 << 20
    """Least decoded size of a leaf, in float64: large beside what a task costs, small beside memory."""
    leaf_rows_per_column: int = 2
    """Least rows of a leaf for every column: then merging d x d states is cheap beside making them."""
    wide: int = 20_000
    """Columns above which no d x d matrix is formed unasked, and leaves are cut for products with few vectors."""
    wide_columns_per_row: int = 4
    """Columns for every row of a leaf of wide data: merging d x l states stays cheap, and all workers busy."""
    block_bytes: int = 64 << 20
    """Most bytes of a dense block, in float64: every thread holds one."""
    widened_bytes: int = 256 << 20
    """Most bytes that a transform makes of a whole block, in float64; wider rows are made a lower block at a time."""
    max_height: int = 8192
    """Most rows of a block: products of so many keep BLAS busy, and their float32 sums keep their digits."""
    min_height: int = 16
    """Least rows of a block, however wide: a product of fewer is as slow as reading the other factor."""
    digest_rows: int = 1 << 16
    """Rows of an Arrow table that are digested at a time: its content is copied so many rows at once."""

    # How a block meets a state.

    pivot_rows: int = 256
    """Rows at the head of a block whose mean becomes the pivot: enough for a centre, little to read twice."""
    far_single: float = 2.0**55
    """Deviations up to which 8,192 squares and their sum stay within float32's range."""
    far_double: float = 2.0**500
    """The same for float64; above it the data are refused."""
    dense_share: float = 1 / 8
    """Share of stored entries above which sparse rows are multiplied dense, because that is faster then."""
    gram_panel: int = 512
    """Rows of a panel of the packed lower half of a d x d matrix: the product of one stays in cache."""
    dual_bytes: int = 32 << 20
    """Bytes of a panel of columns of kept rows, in float64: what the n x n Gram matrix is summed from at a time."""
    panel_rows: int = 2048
    """Rows of a panel of a tall matrix in products: they stay in cache."""
    panel_groups: int = 16
    """Runs of rows of a tall matrix that are summed apart, and so by as many threads at most."""

    # Which solver: work of the iteration against that of the exact one.

    gram_always: int = 5_000
    """Columns up to which ``auto`` forms a d x d matrix whatever an iteration would cost: it takes one scan."""
    dual_numbers: int = 1 << 28
    """Numbers of dense rows (2 GiB) up to which ``auto`` keeps them when it could iterate."""
    usual_scans: int = 8
    """Scans that an iteration usually takes, for its cost."""
    sparse_cost: int = 10
    """Cost of a stored number in sparse rows beside one in dense rows."""
    gain: int = 4
    """How many times cheaper than the exact solver an iteration must be to be chosen."""
    usual_share: int = 5
    """One more vector for so many values wanted (10 at least), for the cost of an iteration."""

    # The iteration.

    extra_columns: int = 10
    """Least vectors beyond the values wanted, at the start and in what is refined: they make the last ones converge."""
    start_share: int = 4
    """One more vector at the start for so many values wanted."""
    kept_share: int = 10
    """One more direction for a refinement to turn among, for so many values wanted."""
    singular: float = 1e-6
    """Smallest over largest singular value down to which Cholesky QR is trusted: its square is far above rounding."""
    deflate: float = 32 * float(np.finfo(np.float64).eps)
    """Directions of a new block smaller than this, relative to the matrix, hold rounding only and are dropped."""
    faint: int = 256
    """A direction that many times smaller than what it was parted from is parted from the basis once more."""
    cutoff: float = float(np.sqrt(np.finfo(np.float64).eps))
    """Directions that one product shortens to less than this of its largest are left out: inverses of rounding."""

    # What is said of a spectrum: bounds, noise, ties.

    chance: float = 1e-10
    """Probability that any bound from the random start fails."""
    spare_columns: int = 4
    """Least columns of the start beyond the index that it bounds: with fewer the bound is useless."""
    trace_points: int = 8
    """Values of mu that are tried for the bound by the trace; each costs one decomposition."""
    start_points: int = 600
    """Points that are tried for the gap-free bound by the start."""
    noise: float = 8.0
    """Eigenvalues below so many ``sqrt(d) eps`` of the largest cannot be told from 0."""
    gross_noise: float = 4.0
    """The same for what centring has taken away from the sum of squares, in units of ``eps / 2`` a column."""
    sum_noise: float = 4.0
    """A share of a sum of d eigenvalues below so many ``d eps`` is rounding."""
    single_noise: float = 4.0
    """Eigenvalues below so many float32 ``eps`` of the largest are noise where products are made in float32."""
    tie: float = 1e-6
    """Entries of a vector within this of the largest may each decide its sign, and the first does."""
    subset_share: int = 3
    """At most one of so many eigenpairs is asked of the driver for some; for more of them all are made."""
    refine_above: float = 1e4
    """So many times above the noise the wanted values alone are refined; nearer to it all directions are."""

    # Files of features.

    part_least: int = 8 << 20
    """Least feature bytes of a part, unless asked for: a smaller file costs a reader more than it holds."""
    part_most: int = 128 << 20
    """Most feature bytes aimed at for a part: what is written anew after a kill."""
    parts: int = 64
    """Parts that an output has between these bounds: enough for the tasks of a small cluster."""
    group_bytes: int = 8 << 20
    """A row group ends at so many bytes of features, or of carried columns: what a reader holds at a time."""
    carried_bytes: int = 64 << 20
    """A block ends early with so many bytes of carried columns: of 8 KB a row and more, no full block fits."""
    group_rows: int = 1_000_000
    """Most rows of a row group, for few narrow features."""
    partition_bytes: int = 128 << 20
    """What a partitioned part gathers before it writes one file per value."""
    zstd_level: int = 1
    """As fast as no compression; higher levels save little of floating-point numbers."""

    def leaf_rows(self, n_features: int) -> int:
        """Rows that close a leaf of so many columns."""
        d = max(n_features, 1)
        least = self.leaf_rows_per_column * d if d <= self.wide else d // self.wide_columns_per_row
        return max(self.leaf_bytes // (8 * d), least)

    def block_height(self, n_features: int) -> int:
        """Rows of one block: the largest power of two up to ``max_height`` whose dense float64 form is small enough."""
        fit = max(self.block_bytes // (8 * max(n_features, 1)), self.min_height)
        return min(self.max_height, 1 << (fit.bit_length() - 1))

    def widened_height(self, rows: int, n_features: int) -> int:
        """Rows of a block of so many rows that a transform to so many columns makes at a time."""
        return rows if 8 * rows * n_features <= self.widened_bytes else min(rows, self.block_height(n_features))

    def far(self, dtype: np.dtype[Any]) -> float:
        """Deviations up to which squares stay within the range of float32 or float64."""
        return self.far_single if dtype == np.float32 else self.far_double

    def changes(self) -> dict[str, int | float]:
        """The constants that are not those of format 1, by name; none for format 1."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    @classmethod
    def of(cls, changes: Mapping[str, Any]) -> Format:
        """The format that differs from format 1 by :meth:`changes`.

        Raises:
            ArtifactError: it is newer than this program, or has a constant that this program does not know.
        """
        known = {f.name: type(f.default) for f in fields(cls)}
        strange = [name for name, value in changes.items() if type(value) is not known.get(name)]
        if strange or changes.get("version", 1) > VERSION:
            raise ArtifactError(
                f"expected constants of a format up to {VERSION}, found {dict(changes)!r:.200}; "
                "use the eigenmill that wrote it"
            )
        return cls(**changes)

    def __reduce__(self) -> tuple[Callable[[dict[str, int | float]], Format], tuple[dict[str, int | float]]]:
        return Format.of, (self.changes(),)


FORMAT_1 = Format()
"""What every file that names no format was written by."""
CURRENT = FORMAT_1
"""What data are read by unless another is given."""


def current() -> Format:
    """:data:`CURRENT`, looked up by whoever opens data without saying by which format."""
    return CURRENT


__all__ = ["CURRENT", "FORMAT_1", "VERSION", "Format", "current"]
