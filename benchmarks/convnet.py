"""Teachers for the frontier: small convolutional nets on MNIST, trained here and kept in the cache.

A teacher may be anything: it is not in the file that is measured.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from eigenmill.compress.training.augment import Affine

EPOCHS, BATCH = 12, 128


def convnet(wide: int) -> nn.Sequential:
    """Two convolutions with pooling, one hidden layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, wide, 5), nn.BatchNorm2d(wide), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(wide, 2 * wide, 5), nn.BatchNorm2d(2 * wide), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * wide, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


class Teacher:
    """Logits of raw pixels."""

    def __init__(self, net: nn.Sequential, path: Path) -> None:
        self.net = net.eval()
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def __call__(self, X: Any) -> Any:
        with torch.no_grad():
            blocks = torch.from_numpy(np.asarray(X, np.float32) / np.float32(255)).view(-1, 1, 28, 28).split(1000)
            return torch.cat([self.net(block) for block in blocks]).numpy()


def teacher(X: Any, y: Any, seed: int, place: Path, wide: int = 16) -> Teacher:
    """A net trained on pixels X (n, 784) with labels y, or the one kept from before."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    net, path = convnet(wide), place / f"teacher-{wide}-{seed}-{len(X)}.safetensors"
    if path.exists():
        net.load_state_dict(load_file(path))
        return Teacher(net, path)
    rng, moved = np.random.default_rng(seed), Affine(28, 28)
    steps = EPOCHS * (len(X) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-4)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.15)
    for epoch in range(EPOCHS):
        net.train()
        order, total = rng.permutation(len(X)), 0.0
        for a in range(0, len(X) - BATCH + 1, BATCH):
            rows = order[a : a + BATCH]
            z = torch.from_numpy(moved(X[rows].astype(np.float32) / np.float32(255), rng)).view(-1, 1, 28, 28)
            loss = nn.functional.cross_entropy(net(z), torch.from_numpy(y[rows].astype(np.int64)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            plan.step()
            total += loss.item()
        print(f"teacher {seed}, epoch {epoch + 1}: loss {total * BATCH / len(X):.4f}", flush=True)
        assert math.isfinite(total)
    place.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), path)
    return Teacher(net, path)
