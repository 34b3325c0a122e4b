"""The trainers of several members as one: rows of the same tensors, one step for all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path as FilePath

import torch
from torch import nn

from cellflow._process_group import ProcessGroup
from cellflow._random import stream_seed
from cellflow._typing import Tensor
from cellflow.batches import PairSampler
from cellflow.networks import Units
from cellflow.networks.network import ANSWERS
from cellflow.paths import Pairs, PathPoint
from cellflow.training.networks import assemble
from cellflow.training.optimizer import AdamW
from cellflow.training.prepare import Start
from cellflow.training.train_on_pairs import objective
from cellflow.training.trainer import SCHEDULES, History, Trainer

#: Tensors of a :class:`PathPoint`, by name, with a dimension of members in front.
Stack = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Member:
    """A fit that is trained with others.

    Parameters
    ----------
    start
        As it was prepared.
    sampler
        Of its pairs.
    held
        Pairs to validate on, or None.
    checkpoint
        Its file, or None.
    """

    start: Start
    sampler: PairSampler
    held: Pairs | None
    checkpoint: FilePath | None = None

    def meet(self, pairs: Pairs, step: int, stream: int) -> PathPoint:
        """Return where on their paths the `pairs` of `step` are met, by noise from `stream`."""
        noise = torch.Generator(device=pairs.x0.device)
        noise.manual_seed(stream_seed(self.start.seed, step, stream))
        return self.start.method.path.draw(pairs, noise)

    def trainer(self, steps: int) -> Trainer:
        """Return what would train it alone, for `steps`."""
        of = self.start
        terms = objective(of.method, of.networks, of.dynamics, units=of.units)
        return Trainer(of.networks, terms, of.units.speed**2, of.method.training, steps)


def stack(points: Sequence[PathPoint]) -> Stack:
    """Return the tensors of `points`, of equal shapes, with a dimension of members in front."""
    out = {}
    for name in (f.name for f in fields(PathPoint)):
        parts = [getattr(point, name) for point in points]
        if isinstance(parts[0], Tensor):
            out[name] = torch.stack(parts)
    return out


class Together:
    """The trainers of all members, whose weights, gradients and averages are rows of one tensor.

    What is done every step is done once, to all rows; what is done now and then (validation,
    history, checkpoints) each trainer does for itself.

    Parameters
    ----------
    members
        What to train.
    steps
        Budget of steps.
    """

    def __init__(self, members: Sequence[Member], steps: int) -> None:
        self.trainers = [m.trainer(steps) for m in members]
        self.files = [(m.checkpoint, m.start.facts) for m in members]
        self.training, self.steps, self.ranks = (
            members[0].start.method.training,
            steps,
            ProcessGroup(),
        )
        self.history = History()
        self.value = nn.Parameter(torch.stack([t.flat.value.detach() for t in self.trainers]))
        self.average = self.value.detach().clone()
        self.losses = self.value.new_zeros(len(members))
        t = self.training
        self.optimizer = AdamW(self.value, rate=t.learning_rate, weight_decay=t.weight_decay)
        for k, trainer in enumerate(self.trainers):
            trainer.flat.value.data = self.value.data[k]
            start = 0
            for p in trainer.module.parameters():
                p.data = self.value.data[k, start : start + p.numel()].view_as(p)
                start += p.numel()
            trainer.average, trainer._train_loss = self.average[k], self.losses[k]
            own, all_ = trainer.optimizer, self.optimizer
            own.mean, own.square, own.count = all_.mean[k], all_.square[k], all_.count
        self._gradients = _gradients(members)
        self._resume()

    @property
    def step(self) -> int:
        """Steps taken, by all members."""
        return self.trainers[0].step

    @property
    def out_of_patience(self) -> bool:
        """Whether the patience of every member has run out."""
        return all(trainer.out_of_patience for trainer in self.trainers)

    def advance(self, batch: Stack) -> None:
        """Take one step of every member on its part of `batch`."""
        t = self.training
        rate = t.learning_rate * SCHEDULES[t.schedule](self.step / self.steps)
        self.optimizer.rate = rate
        grad, loss = self._gradients(self.value.detach(), batch)
        norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
        self.value.grad = grad.mul_((t.clip / (norm + 1e-12)).clamp_(max=1.0))
        self.optimizer.step()
        for trainer in self.trainers:
            trainer.step += 1
            trainer.optimizer.rate = rate
        decay = min(t.ema, self.step / (10 + self.step))
        self.average.lerp_(self.value.detach(), 1 - decay)
        self.losses += loss

    def check(self, batches: Sequence[PathPoint | None]) -> bool:
        """Validate every member that has patience left; return whether none has."""
        for k, trainer in enumerate(self.trainers):
            if not trainer.out_of_patience:
                trainer.check(batches[k])
        last = [trainer.history.validation_loss[-1] for trainer in self.trainers]
        self.history.step.append(self.step)
        self.history.validation_loss.append(sum(last) / len(last))
        return self.out_of_patience

    def keep_best(self) -> None:
        """Leave the best averaged weights of each member in its networks."""
        for trainer in self.trainers:
            trainer.keep_best()

    def save(self, path: str | FilePath, fingerprint: dict) -> None:
        """Write a file for each member, as it would alone; not `path`, nor its `fingerprint`."""
        for trainer, (file, facts) in zip(self.trainers, self.files, strict=True):
            if file is not None:
                trainer.save(file, facts)

    @torch.no_grad()
    def _resume(self) -> None:
        """Go on from the files of the members, where all of them have come as far."""
        for trainer, (file, facts) in zip(self.trainers, self.files, strict=True):
            if file is not None and FilePath(file).exists():
                trainer.restore(file, facts)
        steps = sorted({trainer.step for trainer in self.trainers})
        if len(steps) > 1:
            raise UnequalStepsError(f"Checkpoints of members are of steps {steps}.")
        if steps[0]:
            self.history.step.append(self.trainers[0].history.step[-1])


class UnequalStepsError(ValueError):
    """Members have come differently far, so that they cannot step together."""


class _Terms(nn.Module):
    """The loss of one member as a function of its weights, its units and its batch."""

    def __init__(self, start: Start) -> None:
        super().__init__()
        self.networks = copy.deepcopy(start.networks)
        self.method = start.method
        self.dynamics = assemble(start.method, self.networks, start.parts[0].times)

    def forward(self, batch: Stack, units: Tensor) -> Tensor:
        own = Units((), *units.unbind())  # type: ignore[arg-type] # numbers, as tensors
        for network in self.networks.values():
            scale, span = ANSWERS[network.answer]  # type: ignore[index]
            network.units = own  # type: ignore[assignment]
            network.unit = own.scale**scale * own.span**span  # type: ignore[assignment]
        terms = objective(self.method, self.networks, self.dynamics, units=own)
        return sum(terms(PathPoint(**batch)).values()) / own.speed**2  # type: ignore[return-value]


def _gradients(members: Sequence[Member]) -> Callable[[Tensor, Stack], tuple[Tensor, Tensor]]:
    """Return a map from weights ``(m, p)`` and a stack to their gradients and losses ``(m,)``."""
    from torch.func import functional_call, grad_and_value, vmap

    starts = [m.start for m in members]
    terms = _Terms(starts[0])
    shapes = {name: p.shape for name, p in terms.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]
    like = next(terms.parameters())
    numbers = [(s.units.scale, s.units.origin, s.units.span) for s in starts]
    units = torch.tensor(numbers, dtype=torch.float64, device=like.device)
    buffers = {
        f"networks.{name}": torch.stack([dict(s.networks.named_buffers())[name] for s in starts])
        for name, _ in starts[0].networks.named_buffers()
    }

    def loss(weights: Tensor, batch: Stack, unit: Tensor, buffer: Stack) -> Tensor:
        parts = zip(shapes.items(), weights.split(sizes), strict=True)
        own = {name: part.view(shape) for (name, shape), part in parts}
        return functional_call(terms, {**own, **buffer}, (batch, unit))

    stacked = vmap(grad_and_value(loss))
    return lambda weights, batch: stacked(weights, batch, units, buffers)
