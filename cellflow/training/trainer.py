"""One training run: settings, weights, optimiser, average and history."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path as FilePath
from typing import Generic, Protocol, TypeVar

import torch
from torch import nn

from cellflow import _checks
from cellflow._files import read_state, write_state
from cellflow._process_group import ProcessGroup
from cellflow._typing import Tensor
from cellflow.training.optimizers import AdamW, FlatParameters, OwnOptimizer
from cellflow.training.options import StepReport

SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Parameters
    ----------
    learning_rate, weight_decay
        Of AdamW.
    optimizer
        Instead of AdamW, a function from a list of parameters to a ``torch.optim.Optimizer``; its
        learning rates are multiplied by the schedule. All weights are one vector to it.
    schedule
        Decay of the learning rate over the budget of steps: ``"cosine"``, ``"linear"`` (both to
        zero) or ``"constant"``, or a function from the share that is done, 0 to 1, to a factor.
    clip
        Largest norm of the gradient of the loss in network units.
    ema
        Decay of the exponential moving average of the weights, which is what is kept; 0 keeps
        the weights themselves.
    validation
        Fraction of each snapshot's cells held back to measure the loss. They are coupled among
        themselves: fewer cells are farther from their partners, so that the validation loss lies
        above the training loss from the start. Its course tells, not its level.
    check_every
        Steps between two validations.
    patience
        Validations without improvement before training stops early; None uses the whole budget.
    label_dropout
        Where cells have conditions, share of the pairs whose condition the networks are not told,
        so that they answer for all conditions together as well (:cite:`ho2022`, section 3.2).
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    schedule: str | Callable[[float], float] = "cosine"
    clip: float = 1.0
    ema: float = 0.999
    validation: float = 0.1
    check_every: int = 100
    patience: int | None = None
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None
    label_dropout: float = 0.1

    def __post_init__(self) -> None:
        _checks.number(self.learning_rate, "learning_rate", low=0.0, open_low=True)
        _checks.number(self.weight_decay, "weight_decay", low=0.0)
        if not callable(self.schedule):
            _checks.choice(self.schedule, SCHEDULES, "schedule")
        _checks.number(self.clip, "clip", low=0.0, open_low=True)
        _checks.number(self.ema, "ema", low=0.0, high=0.999999)
        _checks.number(self.validation, "validation", low=0.0, high=0.5)
        _checks.number(self.label_dropout, "label_dropout", low=0.0, high=1.0)
        _checks.count(self.check_every, "check_every")
        if self.patience is not None:
            _checks.count(self.patience, "patience")

    def factor(self, done: float) -> float:
        """Factor of the learning rate where this share of the steps is `done`."""
        schedule = self.schedule if callable(self.schedule) else SCHEDULES[self.schedule]
        return _checks.number(schedule(done), "schedule", low=0.0)


@dataclass
class History:
    """What happened during training, one entry a check.

    Lists of equal length are `step`, `train_loss`, `validation_loss` and `learning_rate`;
    `best_step` is that of the weights that were kept, and training took so many `seconds`. In
    `timing` is where they went: waiting for pairs (``"coupling"``), gathering them and drawing
    noise (``"data"``), gradients (``"network"``), validation and checkpoints (``"checks"``); those
    of the process, which runs ahead of a GPU. It `stopped` by ``"budget"``, ``"patience"`` or
    ``"interrupted"``. The health of the couplings is `coupling`: see
    :class:`cellflow.batches.CouplingHealth`. For methods that are fitted in rounds `rounds` has
    that of each entry; each has losses of its own, which do not compare.
    """

    step: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    best_step: int = 0
    seconds: float = 0.0
    timing: dict[str, float] = field(default_factory=dict)
    stopped: str = "budget"
    coupling: dict[str, float] = field(default_factory=dict)
    rounds: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        columns = ("step", "train_loss", "validation_loss", "learning_rate")
        values = {name: getattr(self, name) for name in columns}
        if not all(isinstance(v, list) and len(v) == len(self.step) for v in values.values()):
            raise ValueError(_checks.message("history", f"{values!r:.40}", "lists of equal length"))
        values |= {"seconds": [self.seconds, *self.timing.values(), *self.coupling.values()]}
        for name, value in ((name, value) for name, some in values.items() for value in some):
            _checks.number(value, f"history.{name}")

    def spend(self, timing: dict[str, float], share: float = 1.0) -> None:
        """Count this `share` of the seconds of `timing`."""
        for what, seconds in timing.items():
            self.timing[what] = self.timing.get(what, 0.0) + share * seconds


class Batch(Protocol):
    """Batch of training, of which each process of a group may hold a part."""

    @property
    def share(self) -> Tensor | float:
        """Weight of this part, of mean one over the parts."""


B = TypeVar("B", bound=Batch)


@dataclass
class Trainer(Generic[B]):
    """One training run: its weights, optimiser, average and history.

    It trains the network `module` in place, for at most `steps`, as `training` says. `loss` goes
    from a batch to named terms in data units; it is divided by `unit` before clipping, so that it
    is of order one. Each process of `group` trains on its share of every batch.
    """

    module: nn.Module
    loss: Callable[[B], dict[str, Tensor]]
    unit: float
    training: Training
    steps: int
    group: ProcessGroup = field(default_factory=ProcessGroup)

    def __post_init__(self) -> None:
        self.module.train()  # that of an earlier fit answers as one that is trained no more
        self.flat = FlatParameters(self.module)
        t = self.training
        self.optimizer: AdamW | OwnOptimizer
        if t.optimizer is None:
            rate, decay = t.learning_rate, t.weight_decay
            self.optimizer = AdamW(self.flat.value, rate=rate, weight_decay=decay)
        else:
            self.optimizer = OwnOptimizer(self.flat.value, t.optimizer, rate=t.learning_rate)
        self.average = self.flat.value.detach().clone()
        self.best = self.average.clone()
        self.best_loss = math.inf
        self.step = 0
        self.since_best = 0
        self.history = History()
        self.train_loss = self.loss_now = torch.zeros((), device=self.average.device)

    def advance(self, batch: B) -> None:
        """Take one step on `batch`."""
        t = self.training
        self.optimizer.rate = t.learning_rate * t.factor(self.step / self.steps)
        grad = self.flat.grad
        grad.zero_()
        loss = self._loss(batch)
        loss.backward()
        self.group.mean_(grad, loss, share=batch.share)
        norm = torch.linalg.vector_norm(grad)
        grad.mul_((t.clip / (norm + 1e-12)).clamp_(max=1.0))
        self.optimizer.step()
        self.step += 1
        decay = min(t.ema, self.step / (10 + self.step))  # a short memory while all is new
        self.average.lerp_(self.flat.value.detach(), 1 - decay)
        self.loss_now = loss.detach()
        self.train_loss += self.loss_now

    @torch.no_grad()
    def check(self, batch: B | None) -> bool:
        """Validate the averaged weights on `batch`; return whether patience has run out."""
        t, h = self.training, self.history
        done = self.step - (h.step[-1] if h.step else 0)
        train = float(self.train_loss) / max(done, 1)
        valid = train if batch is None else self._evaluate(batch)
        self.train_loss.zero_()
        if not (math.isfinite(train) and math.isfinite(valid)):
            raise FloatingPointError(
                f"The training loss became {train:g} at step {self.step}. Lower `learning_rate` "
                f"(now {t.learning_rate:g}) or look for extreme values among the cells."
            )
        h.step.append(self.step)
        h.train_loss.append(train * self.unit)
        h.validation_loss.append(valid * self.unit)
        h.learning_rate.append(self.optimizer.rate)
        self.since_best += 1
        if valid < self.best_loss:
            self.best_loss, self.since_best, h.best_step = valid, 0, self.step
            self.best.copy_(self.average)
        return self.out_of_patience

    def report(self) -> StepReport:
        """Return what is known after the last step."""
        checked = self.history.step[-1:] == [self.step]
        valid = self.history.validation_loss[-1] if checked else None
        return StepReport(self.step, float(self.loss_now) * self.unit, self.optimizer.rate, valid)

    @property
    def out_of_patience(self) -> bool:
        """Whether the last validations brought no improvement for too long."""
        patience = self.training.patience
        return patience is not None and self.since_best >= patience

    def _loss(self, batch: B) -> Tensor:
        first, *rest = self.loss(batch).values()
        return sum(rest, start=first) / self.unit

    def _evaluate(self, batch: B) -> float:
        live = self.flat.value.detach().clone()
        self.flat.value.data.copy_(self.average)
        self.module.eval()
        try:
            loss = self._loss(batch)
            self.group.mean_(loss, share=batch.share)
            return float(loss)
        finally:
            self.flat.value.data.copy_(live)
            self.module.train()

    @torch.no_grad()
    def keep_best(self) -> None:
        """Leave the best averaged weights in the module, as parameters of their own."""
        self.flat.value.data.copy_(self.best if self.history.step else self.average)
        for p in self.module.parameters():
            p.data = p.data.clone()
            p.grad = None
        self.module.eval()  # a network of one's own may answer otherwise while it is trained

    def save(self, path: str | FilePath, fingerprint: dict) -> None:
        """Write everything that the next step depends on to `path`, with a `fingerprint`."""
        facts = {"step": self.step, "since_best": self.since_best, "fingerprint": fingerprint}
        facts["history"] = asdict(self.history)
        write_state(path, self._state() | self.optimizer.state, facts)

    def _state(self) -> dict[str, Tensor]:
        own = {"value": self.flat.value, "average": self.average}
        return own | {"best": self.best, "train_loss": self.train_loss}

    @torch.no_grad()
    def restore(self, path: str | FilePath, fingerprint: dict) -> None:
        """Continue from what :meth:`save` wrote to `path` with the same `fingerprint`."""
        tensors, facts = self.group.broadcast(lambda: read_state(path, "checkpoint"))
        expected = "a checkpoint of this very fit"
        remedy = "Name another file, or remove this one."
        found = facts.get("fingerprint")
        if found != json.loads(json.dumps(fingerprint)):
            known = found if isinstance(found, dict) else {}
            differ = [k for k, v in fingerprint.items() if known.get(k) != v]
            got = f"{str(path)!r} of a fit that differs in {', '.join(differ) or 'its settings'}"
            raise ValueError(_checks.message("checkpoint", got, expected, remedy))
        own = self._state()
        state = own | self.optimizer.state
        try:
            wrong = [k for k, v in state.items() if tensors[k].shape != v.shape]
            wrong += [k for k in state if not bool(tensors[k].isfinite().all())]
            step = _checks.count(facts["step"], "step", low=0, high=self.steps)
            since_best = _checks.count(facts["since_best"], "since_best", low=0)
            history = History(**facts["history"])
            losses = [v / self.unit for v in history.validation_loss]
        except (LookupError, TypeError, ValueError) as error:
            wrong = [f"{type(error).__name__}: {error}"]
        if wrong:
            got = f"{str(path)!r}, which is damaged ({', '.join(wrong)})"
            raise ValueError(_checks.message("checkpoint", got, expected, remedy))
        for name, tensor in own.items():
            tensor.copy_(tensors.pop(name))
        self.optimizer.restore(tensors, step)
        self.step, self.since_best, self.history = step, since_best, history
        self.best_loss = min(losses, default=math.inf)
