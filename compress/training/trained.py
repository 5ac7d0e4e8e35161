"""One layer while torch trains it: its free parameters, and the weights that they stand for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from eigenmill.compress.core.layers import Dense
from eigenmill.compress.training.constraints import LearnedStep

if TYPE_CHECKING:
    import torch


class TrainedLayer:
    """One layer while it is trained: its free parameters, and the weights that they stand for."""

    def __init__(self, layer: Dense, learned: LearnedStep | None) -> None:
        import torch

        self.layer = layer
        if learned is not None and layer.codes is None and layer.step is None and not layer.frozen:
            most = (1 << (learned.bits - 1)) - 1
            kept = layer.weights[layer.weights != 0]
            step = max(learned.start * float(kept.std() if kept.size else 1.0), 1e-8)
            self.layer = layer = replace(layer, step=step, most=most)
        shared = layer.codes is not None and layer.codebook is not None
        self.free = torch.tensor(layer.codebook if shared else layer.weights, requires_grad=not layer.frozen)
        self.bias = torch.tensor(layer.bias, requires_grad=not layer.frozen)
        self.codes = torch.from_numpy(layer.codes.astype(np.int64)) if layer.codes is not None else None
        self.mask = torch.from_numpy(layer.mask.astype(np.float32)) if layer.mask is not None else None
        stepped = layer.step is not None and not shared and not layer.frozen
        self.log_step = torch.tensor(math.log(layer.step), requires_grad=True) if stepped and layer.step else None
        self.cost: torch.Tensor | None = None

    @property
    def parameters(self) -> list[torch.Tensor]:
        if self.layer.frozen:
            return []
        return [self.free, self.bias, *([] if self.log_step is None else [self.log_step])]

    def weights(self) -> torch.Tensor:
        import torch

        if self.codes is not None:
            book = torch.cat([torch.zeros(1), self.free[1:]])
            return book[self.codes]
        w = self.free
        if self.log_step is not None:
            step = torch.exp(self.log_step)
            u = torch.clamp(w / step, -self.layer.most, self.layer.most)
            w = step * (u + (torch.round(u) - u).detach())
        return w if self.mask is None else w * self.mask

    def bits(self) -> torch.Tensor:
        """How many bits the packed weights take by the cost table; between two multiples costs are interpolated."""
        import torch

        assert self.log_step is not None
        assert self.cost is not None
        most = self.layer.most
        u = torch.clamp(self.free / torch.exp(self.log_step), -most, most)
        below = torch.clamp(torch.floor(u.detach()), -most, most - 1)
        share = u - below
        at = (below + most).long()
        price = self.cost[at] * (1 - share) + self.cost[at + 1] * share
        return (price if self.mask is None else price * self.mask).sum()

    def update_costs(self) -> None:
        """Makes the cost table from how often each multiple occurs now.

        Each count is raised by a half, so that multiples that do not occur have a finite cost.
        """
        import torch

        assert self.log_step is not None
        most = self.layer.most
        with torch.no_grad():
            u = torch.clamp(torch.round(self.free / torch.exp(self.log_step)), -most, most).long() + most
            counts = torch.bincount(u.ravel(), minlength=2 * most + 1).double() + 0.5
            # Costs never fall with the distance from zero: a rare multiple between frequent ones would else push
            # weights outwards.
            cost = -torch.log2(counts / counts.sum())
            up = torch.cummax(cost[most:], 0).values
            down = torch.cummax(cost[: most + 1].flip(0), 0).values.flip(0)
            self.cost = torch.cat([down[:-1], up]).float()

    def as_dense(self) -> Dense:
        import torch

        if self.layer.frozen:
            return self.layer
        with torch.no_grad():
            weights = self.weights().numpy().copy()
            book = torch.cat([torch.zeros(1), self.free[1:]]).numpy().copy() if self.codes is not None else None
            step = None if self.log_step is None else float(torch.exp(self.log_step))
        mask = None if self.mask is None else self.mask.numpy() > 0
        bias = self.bias.detach().numpy().copy()
        return replace(self.layer, weights=weights, bias=bias, mask=mask, codebook=book, step=step)


__all__ = ["TrainedLayer"]
