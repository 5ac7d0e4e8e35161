"""Augmentation: pictures shifted, turned and stretched at random, by name and from a seed.

A picture is a row of ``height * width`` inputs, row by row; what moves in from outside is 0, the blank of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from eigenmill.compress.core.layers import F32
from eigenmill.reduce.errors import ConfigError, SchemaError
from eigenmill.reduce.storage.digest import tagged


@tagged("Affine", "height width shift turn zoom shear")
@dataclass(frozen=True)
class Affine:
    """A random affine map of every picture, drawn anew each time (Simard, Steinkraus and Platt 2003, section 2).

    Args:
        height, width: of the pictures.
        shift: largest shift to any side, in pixels.
        turn: largest turn, in degrees.
        zoom: largest change of either side's length, as a share.
        shear: largest slant, in degrees.
    """

    height: int
    width: int
    shift: float = 2.0
    turn: float = 12.0
    zoom: float = 0.12
    shear: float = 10.0

    def __post_init__(self) -> None:
        sizes = (self.shift, self.turn, self.zoom, self.shear)
        if self.height < 1 or self.width < 1 or not all(0 <= s < 90 for s in sizes) or self.zoom >= 1:
            raise ConfigError(
                f"expected a height and a width, a zoom below 1 and other sizes from 0 to below 90, found {self}"
            )

    def __call__(self, X: F32, rng: np.random.Generator) -> F32:
        """Pictures (b, height * width), each changed in its own way.

        Raises:
            SchemaError: the rows are no such pictures.
        """
        import torch
        from torch.nn.functional import affine_grid, grid_sample

        b = len(X)
        if X.shape[1] != self.height * self.width:
            raise SchemaError(f"expected pictures of {self.height} x {self.width} inputs, found {X.shape[1]} inputs")
        turn, slant = (np.radians(rng.uniform(-a, a, b)) for a in (self.turn, self.shear))
        across, down = 1 + rng.uniform(-self.zoom, self.zoom, (2, b))
        # torch measures places from -1 to 1, whatever the size.
        shifts = rng.uniform(-self.shift, self.shift, (2, b)) * 2 / np.array([[self.width], [self.height]])
        maps = np.empty((b, 2, 3), np.float32)
        maps[:, 0, 0], maps[:, 0, 1] = across * np.cos(turn), -across * np.sin(turn + slant)
        maps[:, 1, 0], maps[:, 1, 1] = down * np.sin(turn), down * np.cos(turn + slant)
        maps[:, :, 2] = shifts.T
        pictures = torch.from_numpy(np.ascontiguousarray(X, dtype=np.float32)).view(b, 1, self.height, self.width)
        grid = affine_grid(torch.from_numpy(maps), list(pictures.shape), align_corners=False)
        found: F32 = grid_sample(pictures, grid, align_corners=False).view(b, -1).numpy()
        return found


AUGMENTATIONS = {"affine": Affine}
"""The closed registry of augmentations."""


def augmentation(value: Mapping[str, Any]) -> Affine:
    """The augmentation that ``{"name": ..., its settings}`` asks for."""
    given = dict(value)
    name = given.pop("name", None)
    if name not in AUGMENTATIONS:
        raise ConfigError(f"expected an augmentation among {', '.join(AUGMENTATIONS)}, found {name!r}")
    try:
        return AUGMENTATIONS[name](**given)
    except TypeError as error:
        raise ConfigError(f"expected the settings of {name}, found {sorted(given)}: {error}") from error


__all__ = ["AUGMENTATIONS", "Affine", "augmentation"]
