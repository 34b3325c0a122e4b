"""What a fit is made of before it is trained, and what is written down after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cellflow._process_group import ProcessGroup
from cellflow.batches import PairSampler
from cellflow.dynamics import Dynamics
from cellflow.networks import Units
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import TimeCourse
from cellflow.training.cells import arrange, moved
from cellflow.training.networks import assemble, build_networks
from cellflow.training.trainer import History


@dataclass(frozen=True, eq=False)
class Start:
    """A fit that has not been trained.

    Parameters
    ----------
    method
        With absolute sigmas.
    parts
        Cells to train on and, if there are any, those held back, in model coordinates.
    units
        Of the networks.
    networks
        To train, in place.
    dynamics
        That they are parts of.
    seed
        Of the fit.
    facts
        That a checkpoint must agree on.
    """

    method: Any
    parts: Sequence[TimeCourse]
    units: Units
    networks: nn.ModuleDict
    dynamics: Dynamics
    seed: int
    facts: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the cells are."""
        return self.parts[0].snapshots[0].x.device

    def account(self, history: History, sampler: PairSampler, upfront: float) -> None:
        """Write into `history` how coupling went.

        Parameters
        ----------
        history
            Of the training.
        sampler
            Of its pairs.
        upfront
            Seconds that coupling took before the training.
        """
        health, facts = sampler.health, history.coupling
        history.seconds += upfront
        history.timing["data"] = history.timing.get("data", 0.0) - health.waited + upfront
        history.timing["coupling"] = history.timing.get("coupling", 0.0) + health.waited
        facts.clear()
        facts |= health.summary() | {"unused": sampler.unused}
        if getattr(self.method.coupling, "sigma", None) is not None:  # plans blur with it
            facts["blurred_by_sigma"] = 1.0
        if facts["mean_cost"] > 0:
            noise = self.method.path.diffusion**2 * self.parts[0].dim * self.units.span / 2
            facts["noise_share"] = noise / facts["mean_cost"]


def begin(
    method: Any,
    course: TimeCourse,
    preprocessing: Preprocessing | None,
    *,
    seed: int,
    steps: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    ranks: ProcessGroup | None = None,
) -> Start:
    """Prepare a fit of `method`, a :class:`~cellflow.methods.FlowMatching`.

    Parameters
    ----------
    method
        What to fit.
    course, preprocessing, steps, device, dtype, ranks
        As in :meth:`FlowMatching.fit`.
    seed
        From which everything random follows.
    """
    model = course if preprocessing is None else course.map(preprocessing.apply)
    parts: tuple[TimeCourse, ...] = (model,)
    if not method.knows_rows:  # a precomputed plan knows cells by their rows
        parts = arrange(model, method.training.validation, seed)
    parts = tuple(moved(part, device, dtype) for part in parts)
    own, units = method.scaled_to(*parts), Units.of(*parts)
    facts = own.fingerprint(parts, steps, seed)
    if ranks is not None:
        ranks.require_same(facts, "ranks")
    networks = build_networks(own, units, seed=seed).to(parts[0].snapshots[0].x)
    dynamics = assemble(own, networks, parts[0].times)
    return Start(own, parts, units, networks, dynamics, seed, facts)
