"""Declared transforms: fixed first layers in whole numbers, which a packed file names in a few bytes.

:func:`pooling` takes the means of square tiles of a picture, :func:`dct` low frequencies of its cosine transform. Both
are a matrix of whole numbers times a step, so that the integer net is exact; no step of a recipe changes them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from eigenmill.compress.core.layers import Dense
from eigenmill.compress.format import FORMAT_1
from eigenmill.reduce.errors import ConfigError

I64 = npt.NDArray[np.int64]


def pooling(height: int, width: int, tile: int = 2) -> Dense:
    """A fixed first layer: the means of tiles of ``tile`` x ``tile`` inputs of a picture, row by row.

    Inputs are measured alike and 0 is blank (pixels), so that means are never negative; a packed file declares the
    layer in a few bytes.

    Raises:
        ConfigError: tiles do not fill the picture.
    """
    if tile < 1 or height < 1 or width < 1 or height % tile or width % tile:
        raise ConfigError(f"expected a picture of whole {tile} x {tile} tiles, found {height} x {width} inputs")
    members = tiles(height, width, tile)
    step = 1.0 / tile**2
    bias = np.zeros(members.shape[1], np.float32)
    return Dense((members * step).astype(np.float32), bias, relu=True, step=step, most=1, frozen=True)


def tiles(height: int, width: int, tile: int) -> npt.NDArray[np.int64]:
    """(height * width, tiles) 1 where an input is in a tile, else 0."""
    y, x = np.divmod(np.arange(height * width), width)
    own = y // tile * (width // tile) + x // tile
    found = np.zeros((height * width, (height // tile) * (width // tile)), np.int64)
    found[np.arange(height * width), own] = 1
    return found


def dct(height: int, width: int, block: int | None = None, *, count: int | None = None) -> Dense:
    """A fixed first layer: low frequencies of the two-dimensional cosine transform of a picture (DCT-II).

    Its weights are those of :func:`cosines`, scaled so that results have about the variance of the inputs.

    Args:
        height: of the picture, in inputs.
        width: of the picture, in inputs.
        block: keep the first ``block`` x ``block`` frequencies, row by row.
        count: instead: keep so many in zigzag order, as JPEG does.

    Raises:
        ConfigError: none or both are given, or there are not as many frequencies.
    """
    most = min(height, width) if block is not None else height * width
    kept = block if block is not None else count
    if (block is None) == (count is None) or kept is None or not 1 <= kept <= most:
        raise ConfigError(
            f"expected either block or count, of at least 1 and at most the frequencies of a picture of {height} x "
            f"{width} inputs, found {block} and {count}"
        )
    weights = cosines(height, width, frequencies(height, width, block or 0, count or kept * kept))
    # Most of the variance lies in the frequencies that are kept.
    step = math.sqrt(weights.shape[1]) / (UNIT * UNIT * height * width)
    bias = np.zeros(weights.shape[1], np.float32)
    largest = int(np.abs(weights).max())
    return Dense((weights * step).astype(np.float32), bias, relu=False, step=step, most=largest, frozen=True)


UNIT = FORMAT_1.cosine_unit
"""What a constant wave is in :func:`waves`; all others then fit into 8 bits, as in the transform of HEVC."""


def waves(size: int, kept: int) -> I64:
    """(kept, size) whole numbers: ``floor(UNIT c_u cos(pi (2 x + 1) u / (2 size)) + 1/2)``, c_0 = 1, else sqrt(2).

    None lies near enough to a half that the rounding of a cosine could matter: ``UNIT`` is even, and the only rational
    values of the product are 0 and multiples of ``UNIT`` / 2.
    """
    u, x = np.arange(kept)[:, None], np.arange(size)
    # Reduced to less than a turn in whole numbers, so that large angles lose no digits.
    angle = (2 * x + 1) * u % (4 * size)
    gain = np.where(u == 0, 1.0, math.sqrt(2))
    return np.floor(UNIT * gain * np.cos(np.pi * angle / (2 * size)) + 0.5).astype(np.int64)


def frequencies(height: int, width: int, block: int, count: int) -> I64:
    """(n, 2) frequencies down and across: ``block`` x ``block`` row by row, or for ``block`` 0 ``count`` by zigzag.

    Zigzag order goes along the diagonals of equal sum, each the other way than the one before, the first step across.
    """
    if block:
        return np.stack(np.divmod(np.arange(block * block), block), axis=1)
    v, u = np.divmod(np.arange(height * width), width)
    along = np.where((v + u) % 2 == 1, v, u)
    return np.stack([v, u], axis=1)[np.lexsort((along, v + u))[:count]]


def cosines(height: int, width: int, kept: I64) -> I64:
    """(height * width, n) products of two :func:`waves`, one down and one across, for frequencies ``kept`` (n, 2)."""
    down, across = waves(height, int(kept[:, 0].max()) + 1), waves(width, int(kept[:, 1].max()) + 1)
    found = down[kept[:, 0]][:, :, None] * across[kept[:, 1]][:, None, :]
    return np.ascontiguousarray(found.reshape(len(kept), -1).T)


def block_of(weights: I64, width: int) -> int | None:
    """The side of the block of :func:`cosines` that weights are, 0 if the order is zigzag; None if they are neither."""
    n_in, n_out = weights.shape
    if not width or n_in % width or n_out > n_in or not _begins_constant(weights):
        return None
    height, side = n_in // width, math.isqrt(n_out)
    blocks = [side] if side * side == n_out and side <= min(height, width) else []
    for block in [*blocks, 0]:
        if np.array_equal(weights, cosines(height, width, frequencies(height, width, block, n_out))):
            return block
    return None


def picture_of(weights: I64) -> int | None:
    """The width of the pictures of which weights are :func:`cosines`; None if they are something else."""
    if not _begins_constant(weights):
        return None
    n_in = len(weights)
    widths = [width for width in range(1, n_in + 1) if n_in % width == 0]
    # A square first: two pictures may have a frequency in common.
    widths.sort(key=lambda width: abs(width - n_in // width))
    return next((width for width in widths if block_of(weights, width) is not None), None)


def _begins_constant(weights: I64) -> bool:
    """Whether the first column may be that of frequency 0, which hardly any other weights are."""
    return bool(weights.size) and bool((weights[:, 0] == UNIT * UNIT).all())


__all__ = ["block_of", "cosines", "dct", "frequencies", "picture_of", "pooling", "tiles", "waves"]
