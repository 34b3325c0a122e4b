"""Members of an ensemble trained as one: their weights in one tensor, their batches in another.

On a GPU a step of a small network is the launching of its kernels; members that take the step
together launch them once. On a CPU nothing is gained, so there they run side by side.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path as FilePath
from typing import Any, NamedTuple, TypeGuard, cast

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from cellflow._process_group import ProcessGroup
from cellflow._random import stream_seed
from cellflow._typing import Tensor
from cellflow.clock import Clock
from cellflow.fits.fit import Fit
from cellflow.methods import FlowMatching, Method
from cellflow.networks import OwnNetworks, Units
from cellflow.networks.network import ANSWERS
from cellflow.paths import Pairs, PathPoint
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import TimeCourse
from cellflow.training.loop import run
from cellflow.training.networks import assemble
from cellflow.training.optimizers import AdamW
from cellflow.training.options import FitOptions, StepReport
from cellflow.training.prepare import PreparedFit, prepare
from cellflow.training.train_on_pairs import context_of, drawn, objective
from cellflow.training.trainer import History, Trainer

#: Tensors of a :class:`PathPoint`, by name, with a dimension of members in front.
Stack = dict[str, Tensor]


class UnequalStepsError(ValueError):
    """Members have come differently far, so that they cannot step together."""


def fit_stacked(
    method: FlowMatching,
    courses: Sequence[TimeCourse],
    options: Sequence[FitOptions],
    *,
    preprocessing: Preprocessing | None = None,
) -> list[Fit]:
    """Fit members as one; each as ``method.fit_with(courses[k], options[k], ...)`` to rounding.

    Sums come in another order. Memory is that of all members at once, and of one step of all.
    The `options` differ in seed and checkpoint, which must all be of one step.
    """
    members: list[StackedFit] = []
    clocks: list[Clock | None] = []
    try:
        for course, own in zip(courses, options, strict=True):
            quiet = replace(own, progress=False)
            clock = method.clock_of(course, quiet, preprocessing)
            model = course if clock is None else clock.retime(course)
            prepared = prepare(method, model, quiet, preprocessing=preprocessing)
            members.append(StackedFit(prepared, own))
            clocks.append(clock)
        stacked = StackedTrainer(members)
        everything = run(
            stacked,
            lambda step: stack([m.meet(m.prepared.sampler.batch(step), step) for m in members]),
            [m.aside for m in members],
            fingerprint={},
            options=options[0],
        )
    finally:
        for m in members:
            m.prepared.sampler.close()
    fits = []
    everyone = zip(members, courses, clocks, stacked.trainers, strict=True)
    for m, course, clock, trainer in everyone:
        of, history = m.prepared, trainer.history
        history.seconds += everything.seconds / len(members)
        history.spend(everything.timing, 1 / len(members))
        history.stopped = "patience" if trainer.out_of_patience else everything.stopped
        of.account(history)
        parts = of.dynamics, of.method, course, of.networks, preprocessing, history
        fits.append(Fit(*parts, clock=clock))
    return fits


class StackedFit(NamedTuple):
    """Fit that is trained with others."""

    prepared: PreparedFit
    options: FitOptions

    def meet(self, pairs: Pairs, step: int, stream: int = 12) -> PathPoint:
        """Return where on their paths the `pairs` of `step` are met, by noise from `stream`.

        Of those to train on, which are met by the default, not all conditions are told.
        """
        noise = torch.Generator(device=pairs.x0.device)
        noise.manual_seed(stream_seed(self.options.seed, step, stream))
        told = self.prepared.parts[0].conditions if stream == 12 else None
        return drawn(self.prepared.method, pairs, noise, dropping=told)

    @property
    def aside(self) -> PathPoint | None:
        """What to validate on, if anything."""
        return None if self.prepared.held is None else self.meet(self.prepared.held, 0, 14)


def stackable(method: Method) -> TypeGuard[FlowMatching]:
    """Whether members of `method` can be trained as one: they are all of ours."""
    own = isinstance(method.parts.net, OwnNetworks) or method.parts.training.optimizer is not None
    return type(method) is FlowMatching and not own and not method.path.source_free


def stack(points: Sequence[PathPoint]) -> Stack:
    """Return the tensors of `points`, of equal shapes, with a dimension of members in front."""
    out = {}
    for name in (f.name for f in fields(PathPoint)):
        parts = [getattr(point, name) for point in points]
        if isinstance(parts[0], Tensor):
            out[name] = torch.stack(parts)
    return out


class StackedTrainer:
    """Trainers of all members, whose weights, gradients and averages are rows of one tensor.

    What is done every step is done once, to all rows; what is done now and then (validation,
    history, checkpoints) each trainer does for itself.
    """

    def __init__(self, members: Sequence[StackedFit]) -> None:
        self.training = members[0].prepared.method.training
        self.steps = members[0].options.steps
        self.trainers: list[Trainer[PathPoint]] = []
        for of in (m.prepared for m in members):
            context = context_of(of.parts[0].conditions, next(of.networks.parameters()))
            terms = objective(of.method, of.dynamics, units=of.units, context=context)
            trainer = Trainer(of.networks, terms, of.units.speed**2, self.training, self.steps)
            self.trainers.append(trainer)
        self.files = [(m.options.checkpointing.path, m.prepared.facts) for m in members]
        self.group = ProcessGroup()
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
            trainer.average, trainer.train_loss = self.average[k], self.losses[k]
            own, all_ = cast(AdamW, trainer.optimizer), self.optimizer
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
        rate = t.learning_rate * t.factor(self.step / self.steps)
        self.optimizer.rate = rate
        grad, loss = self._gradients(self.value.detach(), batch)
        norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
        self.value.grad = grad.mul_((t.clip / (norm + 1e-12)).clamp_(max=1.0))
        self.optimizer.step()
        for trainer, now in zip(self.trainers, loss, strict=True):
            trainer.step, trainer.loss_now = trainer.step + 1, now
            trainer.optimizer.rate = rate
        self.average.lerp_(self.value.detach(), 1 - min(t.ema, self.step / (10 + self.step)))
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

    def report(self) -> StepReport:
        """Return what is known of the first member after the last step."""
        return self.trainers[0].report()

    def keep_best(self) -> None:
        """Leave the best averaged weights of each member in its networks."""
        for trainer in self.trainers:
            trainer.keep_best()

    def save(self, path: str | FilePath, fingerprint: dict[str, Any]) -> None:
        """Write a file for each member, as it would alone; not `path`, nor its `fingerprint`."""
        for trainer, (file, facts) in zip(self.trainers, self.files, strict=True):
            if file is not None:
                trainer.save(file, facts)

    def restore(self, path: str | FilePath, fingerprint: dict[str, Any]) -> None:
        """Do nothing: each member goes on from its own file, before the first step."""

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


class _Terms(nn.Module):
    """The loss of one member as a function of its weights, its units and its batch."""

    def __init__(self, of: PreparedFit) -> None:
        super().__init__()
        self.networks = copy.deepcopy(of.networks)
        self.method = of.method
        self.times = of.parts[0].times  # of all members the same
        self.dynamics = assemble(of.method, self.networks, self.times)
        like = next(self.networks.parameters())
        self.context = context_of(of.parts[0].conditions, like)  # of all members the same

    def forward(self, batch: Stack, units: Tensor) -> Tensor:
        own = Units((), *units.unbind(), self.times)  # type: ignore[arg-type,call-arg] # as tensors
        for network in self.networks.values():
            scale, span = ANSWERS[network.answer]  # type: ignore[index]
            network.units = own  # type: ignore[assignment]
            network.unit = own.scale**scale * own.span**span  # type: ignore[assignment]
        terms = objective(self.method, self.dynamics, units=own, context=self.context)
        return sum(terms(PathPoint(**batch)).values()) / own.speed**2  # type: ignore[return-value]


def _gradients(members: Sequence[StackedFit]) -> Callable[[Tensor, Stack], tuple[Tensor, Tensor]]:
    """Return a map from weights ``(m, p)`` and a stack to their gradients and losses ``(m,)``."""
    starts = [m.prepared for m in members]
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
