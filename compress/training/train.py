"""Training: gradient descent on samples, with what constrains the weights while it goes on.

torch is the trainer, in one thread, so that the same data, recipe, seed and build give the same bytes. It is imported
here, when :func:`train` is called, and in no other module.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from eigenmill.compress.core.data import Labelled, Samples, Targets, samples_of
from eigenmill.compress.core.front import Codes
from eigenmill.compress.core.layers import Dense
from eigenmill.compress.core.model import Model
from eigenmill.compress.format import current
from eigenmill.compress.training.augment import Affine
from eigenmill.compress.training.constraints import EntropyPenalty, LearnedStep, Magnitude, smallest
from eigenmill.compress.training.settings import Augmentation, TrainKeywords, TrainSettings
from eigenmill.compress.training.trained import TrainedLayer
from eigenmill.reduce.errors import ConfigError, OutputError
from eigenmill.reduce.storage.artifact import load_arrays, save_arrays
from eigenmill.reduce.storage.digest import digest_of, named, tag_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch: mean losses, and the validation's error (a share, or root mean square)."""

    number: int
    loss: float
    held_loss: float | None
    held_error: float | None
    nonzero: int


def train(
    model: Model,
    data: Labelled,
    settings: TrainSettings | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[Epoch], None] | None = None,
    **changes: Unpack[TrainKeywords],
) -> Model:
    """Train ``model``, from first weights or onwards.

    What is pruned stays pruned, what is shared stays shared (its values are trained), what is on a grid stays on it
    (its step is trained). A model with rounded activations is trained without the rounding; quantize it again.

    Args:
        model: from :meth:`Model.mlp`, or trained before.
        data: a Dataset that carries the label, a pair (X, y), or :class:`~eigenmill.compress.Samples`.
        settings: how it goes about it; None for the defaults.
        checkpoint: a file that training goes on from when it is stopped; removed when it is done. A resumed
            training gives the same bytes as one in one go.
        progress: called after every epoch.
        **changes: fields of ``settings`` that are other than there.

    Raises:
        ConfigError: an argument is unknown or out of range, or the loss is no longer finite.
        DataError: see :func:`eigenmill.compress.gather`.
        OutputError: the checkpoint belongs to another training.
    """
    given = replace(settings or TrainSettings(), **changes)
    options = {"teacher": given.teacher, "validation": given.validation, "seed": given.seed}
    with one_torch_thread():
        samples = samples_of(model, data, given.label, **options)
        if given.teacher is not None and not samples.taught:
            raise ConfigError("expected samples with a teacher's logits, found others; gather them with teacher=")
        if given.patience is not None and not samples.n_held:
            raise ConfigError("expected validation rows to stop early by, found none; set validation, or no patience")
        return _Training(samples, given).run(checkpoint, progress)


def _augmentation_values(augment: Augmentation | None) -> list[str] | None:
    """What a checkpoint remembers of an augmentation."""
    if augment is None:
        return None
    if isinstance(augment, Affine):
        return [tag_of(Affine).name, repr(named(augment))]
    # A user's own function or object is known by its class and by what it holds.
    return [type(augment).__name__, repr(getattr(augment, "__dict__", ""))]


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch with one thread: sums come in one order, and small nets train no slower."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ConfigError(f"expected the extra for training: pip install 'eigenmill[compress]' ({error})") from error
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Training:
    """One training: layers, optimizer, and where it stands."""

    def __init__(self, samples: Samples, given: TrainSettings) -> None:
        import torch

        self.samples, self.given, self.settings, self.augment = samples, given, given.optimizing(), given.moves()
        self.batch = samples.n_rows if self.settings["name"] == "gradient_descent" else given.batch
        self.share = given.share if samples.taught else 0.0
        self.forget = given.forget if samples.front.categories else 0.0
        self.magnitude = next((c for c in given.constraints if isinstance(c, Magnitude)), None)
        learned = next((c for c in given.constraints if isinstance(c, LearnedStep)), None)
        self.penalty = next((c for c in given.constraints if isinstance(c, EntropyPenalty)), None)
        self.layers = [TrainedLayer(layer, learned) for layer in samples.model.layers]
        if self.penalty is not None and all(layer.log_step is None for layer in self.layers):
            raise ConfigError("expected LearnedStep beside EntropyPenalty, found free weights; add LearnedStep")
        self.fingerprint = digest_of([layer.layer for layer in self.layers])
        front = samples.front
        self.front = front
        self.weights = None
        if given.class_weight == "balanced" and samples.model.task == "classification":
            counts = np.maximum(samples.counts, 1)
            self.weights = torch.tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32)
        self.optimizer = self._make_optimizer()

    def _make_optimizer(self) -> torch.optim.Optimizer:
        import torch

        s = self.settings
        steps = [layer.log_step for layer in self.layers if layer.log_step is not None]
        others = [p for layer in self.layers for p in layer.parameters[:2]]
        # The gradient of a step is the sum of those of all its weights. Adam scales it; other optimizers would move the
        # step too far, so they take a hundredth of the learning rate.
        groups: list[dict[str, Any]] = [{"params": others, "weight_decay": s["weight_decay"]}]
        if s["name"] == "adam":
            groups += [{"params": steps, "weight_decay": 0.0}] if steps else []
            return torch.optim.Adam(groups, lr=s["lr"], betas=(s["beta1"], s["beta2"]))
        groups += [{"params": steps, "weight_decay": 0.0, "lr": s["lr"] * 1e-2}] if steps else []
        return torch.optim.SGD(groups, lr=s["lr"], momentum=s.get("momentum", 0.0))

    def key(self) -> str:
        """A digest of all that decides what comes of it."""
        given = self.given
        decides: list[object] = [self.samples.digest, self.settings, given.epochs, self.batch, given.schedule]
        decides += [[named(c) for c in given.constraints], given.class_weight, given.seed, given.patience]
        decides += [self.fingerprint, _augmentation_values(self.augment), given.temperature, self.share, self.forget]
        return digest_of(decides)

    def run(self, checkpoint: str | os.PathLike[str] | None, progress: Callable[[Epoch], None] | None) -> Model:
        start, best, best_loss, waited, patience = 0, None, math.inf, 0, self.given.patience
        key = "" if checkpoint is None else self.key()
        if checkpoint is not None and os.path.exists(checkpoint):
            start, best, best_loss, waited = self._resume(checkpoint, key)
        for number in range(start, self.given.epochs):
            if patience is not None and waited >= patience:
                break
            loss = self._epoch(number)
            held_loss, held_error = self._held_out_loss()
            settled = self.magnitude is None or (number + 1) / self.given.epochs >= self.magnitude.until
            if patience is not None and held_loss is not None and settled:
                waited += 1
                if held_loss < best_loss:
                    best_loss, waited, best = held_loss, 0, [layer.as_dense() for layer in self.layers]
            if checkpoint is not None:
                self._save(checkpoint, key, number + 1, best, best_loss, waited)
            if progress is not None:
                nonzero = sum(int((layer.weights() != 0).sum()) for layer in self.layers)
                progress(Epoch(number + 1, loss, held_loss, held_error, nonzero))
        layers = [layer.as_dense() for layer in self.layers] if best is None else best
        if checkpoint is not None:
            with contextlib.suppress(FileNotFoundError):
                os.remove(checkpoint)
        return replace(self.samples.model, layers=tuple(layers), activations=None)

    def _rate(self, progress: float) -> float:
        if self.given.schedule == "constant":
            return 1.0
        warm = 0.05
        return progress / warm if progress < warm else 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))

    def _epoch(self, number: int) -> float:
        import torch

        rng = np.random.default_rng([self.given.seed, 3, number])
        steps = -(-self.samples.n_rows // self.batch)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        total, rows = 0.0, 0
        for i, (codes, wanted, taught) in enumerate(self.samples.batches(self.batch, rng)):
            at = (number + (i + 1) / steps) / self.given.epochs
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * self._rate(at)
            if self.magnitude is not None and (i % 16 == 0 or i + 1 == steps):
                self._mask_smallest(self.magnitude.at(at))
            if self.penalty is not None and i % current().refresh == 0:
                for layer in self.layers:
                    if layer.log_step is not None:
                        layer.update_costs()
            if self.forget:
                codes = self._with_unseen(codes, rng)
            z, picked = self._inputs(codes)
            if self.augment is not None:
                z = torch.from_numpy(np.ascontiguousarray(self.augment(z.numpy(), rng), dtype=np.float32))
            scores = self._forward(z, picked)
            loss = self._loss(scores, wanted)
            if taught is not None:
                distance = _distance(scores, torch.from_numpy(taught), self.given.temperature)
                loss = (1 - self.share) * loss + self.share * distance
            total, rows = total + float(loss.detach()) * len(wanted), rows + len(wanted)
            if self.penalty is not None:
                # The bits of all layers are priced at once, beside the mean loss of a row.
                priced = [layer.bits() for layer in self.layers if layer.log_step is not None]
                loss = loss + self.penalty.weight * torch.stack(priced).sum()
            self.optimizer.zero_grad()
            loss.backward()
            self._hold_masks()
            self.optimizer.step()
            self._hold_masks()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if not math.isfinite(total) or not all(bool(p.isfinite().all()) for la in self.layers for p in la.parameters):
            raise ConfigError(
                f"expected a finite loss, found {total / max(rows, 1)} in epoch {number + 1}; "
                f"lower the learning rate of {self.settings['lr']}"
            )
        return total / rows

    def _with_unseen(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """The codes, some of those of categories at random as of values that the vocabulary leaves out."""
        codes = codes.copy()
        d = self.front.n_features
        codes[:, d:][rng.random((len(codes), self.front.n_codes - d)) < self.forget] = 0
        return codes

    def _inputs(self, codes: Codes) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scaled numbers (b, d), and which inputs of the categories are hot (b, c)."""
        import torch

        front = self.front
        z = torch.from_numpy(codes[:, : front.n_features].astype(np.float32)).sub_(front.centre).div_(front.spread)
        return z, torch.from_numpy(front.hot_inputs(codes)) if front.categories else None

    def _forward(self, z: torch.Tensor, picked: torch.Tensor | None) -> torch.Tensor:
        import torch

        for i, layer in enumerate(self.layers):
            weights = layer.weights()
            if i == 0 and picked is not None:
                hot = self.front.hot / self.front.spread
                rows = torch.nn.functional.embedding_bag(picked, weights, mode="sum")
                z = torch.addmm(torch.add(layer.bias, rows, alpha=hot), z, weights[: self.front.n_features])
            else:
                z = torch.addmm(layer.bias, z, weights)
            z = torch.relu(z) if layer.layer.relu else z
        return z

    def _loss(self, scores: torch.Tensor, wanted: Targets, *, plain: bool = False) -> torch.Tensor:
        import torch

        if self.samples.model.task == "regression":
            return torch.nn.functional.mse_loss(scores[:, 0], torch.from_numpy(wanted.astype(np.float32)))
        weights = None if plain else self.weights
        return torch.nn.functional.cross_entropy(scores, torch.from_numpy(wanted), weights)

    def _held_out_loss(self) -> tuple[float | None, float | None]:
        import torch

        if not self.samples.n_held:
            return None, None
        loss, wrong, rows = 0.0, 0.0, 0
        with torch.no_grad():
            for codes, wanted in self.samples.blocks("held"):
                scores = self._forward(*self._inputs(codes))
                loss += float(self._loss(scores, wanted, plain=True)) * len(wanted)
                if self.samples.model.task == "classification":
                    wrong += int((scores.argmax(1).numpy() != wanted).sum())
                rows += len(wanted)
        regression = self.samples.model.task == "regression"
        return loss / rows, math.sqrt(loss / rows) * self.samples.model.scale if regression else wrong / rows

    # Masks.

    def _mask_smallest(self, sparsity: float) -> None:
        """Masks of the smallest weights; what is pruned already stays so."""
        import torch

        assert self.magnitude is not None
        held = [layer for layer in self.layers if layer.codes is None and not layer.layer.frozen]
        with torch.no_grad():
            sizes = [layer.free.abs() * (1.0 if layer.mask is None else layer.mask) for layer in held]
            masks = smallest([size.numpy() for size in sizes], sparsity, self.magnitude.scope)
            for layer, mask in zip(held, masks, strict=True):
                layer.mask = torch.from_numpy(mask.astype(np.float32))
        self._hold_masks()

    def _hold_masks(self) -> None:
        """Pruned weights, their gradients and their optimizer state are 0."""
        import torch

        with torch.no_grad():
            for layer in self.layers:
                if layer.mask is None or layer.codes is not None:
                    continue
                layer.free.mul_(layer.mask)
                if layer.free.grad is not None:
                    layer.free.grad.mul_(layer.mask)
                for value in self.optimizer.state.get(layer.free, {}).values():
                    if torch.is_tensor(value) and value.shape == layer.mask.shape:
                        value.mul_(layer.mask)

    # Checkpoints.

    def _save(
        self,
        path: str | os.PathLike[str],
        key: str,
        epoch: int,
        best: list[Dense] | None,
        best_loss: float,
        waited: int,
    ) -> None:
        import torch

        arrays: dict[str, Any] = {}
        for i, layer in enumerate(self.layers):
            for j, parameter in enumerate(layer.parameters):
                arrays[f"now.{i}.{j}"] = parameter.detach().numpy()
                for name, value in self.optimizer.state.get(parameter, {}).items():
                    arrays[f"state.{i}.{j}.{name}"] = value.numpy() if torch.is_tensor(value) else np.asarray(value)
            if layer.mask is not None:
                arrays[f"now.{i}.mask"] = layer.mask.numpy()
        for i, kept in enumerate(best or []):
            if kept.frozen:
                continue
            arrays |= {f"best.{i}.{name}": array for name, array in kept.arrays().items() if name != "codes"}
            arrays[f"best.{i}.step"] = np.asarray(-1.0 if kept.step is None else kept.step)
        loss = None if math.isinf(best_loss) else best_loss
        save_arrays(path, arrays, {"key": key, "epoch": epoch, "best_loss": loss, "waited": waited})

    def _resume(self, path: str | os.PathLike[str], key: str) -> tuple[int, list[Dense] | None, float, int]:
        import torch

        arrays, meta = load_arrays(path)
        if meta.get("key") != key:
            raise OutputError(
                f"expected a checkpoint of this training at {path}, found another's; remove it, or name another file"
            )
        with torch.no_grad():
            for i, layer in enumerate(self.layers):
                for j, parameter in enumerate(layer.parameters):
                    parameter.copy_(torch.from_numpy(arrays[f"now.{i}.{j}"]))
                    prefix = f"state.{i}.{j}."
                    held = {
                        n.removeprefix(prefix): torch.from_numpy(a) for n, a in arrays.items() if n.startswith(prefix)
                    }
                    if held:
                        self.optimizer.state[parameter] = held
                mask = arrays.get(f"now.{i}.mask")
                layer.mask = None if mask is None else torch.from_numpy(mask)
        best = None
        if any(name.startswith("best.") for name in arrays):
            best = []
            for i, layer in enumerate(self.layers):
                if layer.layer.frozen:
                    best.append(layer.layer)
                    continue
                step = float(arrays[f"best.{i}.step"])
                held = {n: arrays.get(f"best.{i}.{n}") for n in ("weights", "bias", "mask", "codebook")}
                best.append(replace(layer.layer, step=None if step < 0 else step, **held))
        loss = meta["best_loss"]
        return int(meta["epoch"]), best, math.inf if loss is None else float(loss), int(meta["waited"])


def _distance(scores: torch.Tensor, wanted: torch.Tensor, temperature: float) -> torch.Tensor:
    """How far the scores are from a teacher's (Hinton, Vinyals and Dean 2015, section 2)."""
    import torch

    if scores.shape[1] == 1:
        return torch.nn.functional.mse_loss(scores, wanted.float().reshape(scores.shape))
    soft = torch.log_softmax(scores / temperature, 1)
    target = torch.softmax(wanted.float() / temperature, 1)
    return torch.nn.functional.kl_div(soft, target, reduction="batchmean") * temperature**2


__all__ = ["Epoch", "TrainKeywords", "TrainSettings", "train"]
