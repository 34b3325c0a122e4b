"""torchcfm as it is used: its own classes, in the loop of its single-cell notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torchcfm.conditional_flow_matching import (
    ConditionalFlowMatcher,
    ExactOptimalTransportConditionalFlowMatcher,
)
from torchcfm.models import MLP

from cellflow.batches import Batching, PairSampler
from cellflow.couplings import Independent
from cellflow.dynamics import Dynamics
from cellflow.fits import Fit
from cellflow.timecourse import TimeCourse
from cellflow.training.trainer import History

MATCHERS = {"icfm": ConditionalFlowMatcher, "otcfm": ExactOptimalTransportConditionalFlowMatcher}


class Field(torch.nn.Module):
    """torchcfm's network as a field of ours."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.net(torch.cat([x, t.expand(len(x))[:, None].to(x)], 1))


class Loop:
    """One training step of torchcfm: its couplings and targets, AdamW, constant learning rate.

    Cells are drawn as in its notebook, or with `shared` from the same seeded stream as ours, which
    takes longer; torchcfm couples them itself. Its own sampling of pairs draws from numpy's and
    torch's global state, which is therefore seeded here.
    """

    def __init__(
        self,
        course: TimeCourse,
        method: str,
        batch_size: int,
        seed: int,
        *,
        net: torch.nn.Module | None = None,
        shared: bool = False,
    ) -> None:
        import numpy as np

        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - where torchcfm draws from
        self.matcher = MATCHERS[method](sigma=0.1)
        self.net = (net or MLP(dim=course.dim, w=64, time_varying=True)).to(course.x)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), 1e-3, weight_decay=1e-5)
        batching = Batching(batch_size, batch_size, reuse=1, prefetch=False)
        self.cells = PairSampler(course, Independent(), batching, seed) if shared else None
        self.course, self.size, self.step = course, batch_size, 0

    def some(self, x: torch.Tensor) -> torch.Tensor:
        return x[torch.randint(len(x), (self.size,), device=x.device)]

    def advance(self) -> None:
        self.optimizer.zero_grad()
        batch = None if self.cells is None else self.cells.batch(self.step)
        times, states, targets = [], [], []
        for k, (before, after) in enumerate(self.course.steps):
            span = after.time - before.time
            if batch is None:
                x0, x1 = self.some(before.x), self.some(after.x)
            else:
                part = slice(k * self.size, (k + 1) * self.size)
                x0, x1 = batch.x0[part], batch.x1[part]
            t, x, u = self.matcher.sample_location_and_conditional_flow(x0, x1)
            times.append(before.time + span * t)
            states.append(x)
            targets.append(u / span)
        t, x, u = torch.cat(times), torch.cat(states), torch.cat(targets)
        loss = torch.mean((self.net(torch.cat([x, t[:, None].to(x)], 1)) - u) ** 2)
        loss.backward()
        self.optimizer.step()
        self.step += 1


@dataclass(frozen=True)
class TorchCFM:
    """torchcfm behind the face of a method, so that one protocol scores both.

    Where it is timed, `shared` is false: its own way to draw cells is the quicker one.
    """

    method: str = "otcfm"
    batch_size: int = 128
    shared: bool = True
    both_sides: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return f"torchcfm_{self.method}"

    def fit(self, course: TimeCourse, *, steps: int, generator: int, progress: bool = False) -> Fit:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            loop = Loop(course, self.method, self.batch_size, generator, shared=self.shared)
            for _ in range(steps):
                loop.advance()
        finally:
            torch.set_num_threads(threads)
        networks = torch.nn.ModuleDict({"velocity": Field(loop.net)})
        return Fit(Dynamics(networks["velocity"]), self, course, networks, history=History())
