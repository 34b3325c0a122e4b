"""Iterated fitting: refit on the couplings that a method's own dynamics induce."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

import torch
from tqdm import tqdm

from cellflow import _checks
from cellflow._process_group import ProcessGroup
from cellflow._random import draw_seed, stream_seed
from cellflow._typing import Rng
from cellflow.batches import Batching
from cellflow.fits.facts import describe
from cellflow.fits.fit import Fit
from cellflow.methods.flow_matching import FlowMatching
from cellflow.methods.induced import InducedPairs
from cellflow.networks import MLPConfig
from cellflow.paths import Path
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import TimeCourse
from cellflow.training.cells import split
from cellflow.training.loop import Checkpointing, deferred_interrupt
from cellflow.training.networks import assemble
from cellflow.training.train_on_pairs import learn
from cellflow.training.trainer import History, Training

#: Pairs per interval on which the validation loss of a round is measured.
_VALIDATION_PAIRS = 1024


@dataclass(frozen=True)
class Iterated:
    r"""Refit a method, in rounds, on the pairs that its own dynamics make.

    One pass is biased: it inherits the coupling that it was given, and plans of minibatches are
    not the plan of all cells. Round 0 is the base's own fit. Each further round simulates the
    dynamics so far from the cells that were observed, and learns anew, with the networks it has,
    from the pairs of where a cell was and where it came to. With Brownian bridges and their
    stochastic dynamics this is iterative Markovian fitting, whose only fixed point is the
    Schrödinger bridge, whatever the first coupling (Shi et al. 2023, DSBM, theorem 8 and
    algorithm 1; Peluchetti 2023, proposition 2). With straight paths and deterministic dynamics
    it is the reflow of rectified flows, which straightens them (Liu et al. 2023).

    Pairs made forward have the observed cells at their source only, pairs made backward at their
    target only. Odd rounds go forward, even ones backward: what one round lets drift at one end
    the next one puts right, as DSBM does.

    Parameters
    ----------
    base
        The method that is iterated: with a score, unless its path is free of diffusion.
    rounds
        Rounds after the first fit. After an even number the last pairs ended in observed cells.
    first_share
        Share of the budget of steps that the first fit has; the rounds have the rest in equal
        parts, each with a learning-rate schedule of its own.
    name
        What tables and files call this method.

    Raises
    ------
    ValueError
        If a value is out of its range, or `base` learns growth, bends its paths, or has diffusion
        and no score.
    TypeError
        If `base` is another kind of method.
    """

    base: FlowMatching
    rounds: int = 4
    first_share: float = 0.5
    name: str = "iterated"

    def __post_init__(self) -> None:
        _checks.count(self.rounds, "rounds")
        _checks.number(self.first_share, "first_share", low=0.0, high=1.0, open_low=True)
        if type(self.base) is not FlowMatching:  # a kind of its own is not fitted on pairs
            expected = "a FlowMatching, such as SF2M()"
            raise TypeError(_checks.message("base", type(self.base).__name__, expected))
        path, problem = self.base.path, None
        if self.base.growth:
            problem = "which learns growth", "a method without it, such as SF2M()"
        elif path.needs_rates:
            problem = "whose paths bend", "one of straight paths or bridges"
        elif path.diffusion > 0 and not self.base.score:
            problem = "which has diffusion but no score", "one that learns it, such as SF2M()"
        if problem is not None:
            got = f"{self.base.name!r}, {problem[0]}"
            raise ValueError(_checks.message("base", got, problem[1]))

    @property
    def path(self) -> Path:
        """That of the base."""
        return self.base.path

    @property
    def net(self) -> MLPConfig:
        """That of the base."""
        return self.base.net

    @property
    def batching(self) -> Batching:
        """That of the base."""
        return self.base.batching

    @property
    def training(self) -> Training:
        """That of the base, in every round."""
        return self.base.training

    @property
    def score(self) -> bool:
        """Whether the base learns the score."""
        return self.base.score

    @property
    def growth(self) -> bool:
        """Whether the base learns growth: never."""
        return self.base.growth

    @property
    def direct_velocity(self) -> bool:
        """That of the base."""
        return self.base.direct_velocity

    def budgets(self, steps: int) -> list[int]:
        """Return the shares of `steps` of the first fit and of each round."""
        first = max(1, round(self.first_share * _checks.count(steps, "steps")))
        rest, n = steps - first, self.rounds
        return [first, *(rest * (k + 1) // n - rest * k // n for k in range(n))]

    def fit(
        self,
        course: TimeCourse,
        *,
        steps: int = 3000,
        generator: Rng = 0,
        preprocessing: Preprocessing | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        checkpointing: Checkpointing | None = None,
        progress: bool = True,
        ranks: ProcessGroup | None = None,
    ) -> Fit:
        """Learn the dynamics that carry each snapshot into the next, round by round.

        Parameters
        ----------
        course
            Snapshots of the population, in data coordinates.
        steps
            Budget of training steps of all rounds.
        generator
            Seed or generator; it decides everything that is random.
        preprocessing
            As in :meth:`FlowMatching.fit`.
        device, dtype
            As in :meth:`FlowMatching.fit`.
        checkpointing
            File of the first fit; the rounds have files beside it (``run.round1.safetensors``).
            All of them are resumed from.
        progress
            Whether to show bars, the device and the rounds on standard error.
        ranks
            As in :meth:`FlowMatching.fit`. Every rank simulates the pairs of the rounds.

        Returns
        -------
        The fit of the last round. Its history has all rounds, its losses measured on the pairs of
        each; the health of couplings is that of the first fit. Interrupted, what is learned so far.

        Raises
        ------
        ValueError
            If an argument is out of its range.
        FloatingPointError
            If training diverges.
        IntegrationError
            If the dynamics of a round do not carry the cells to finite places.
        """
        first, *rest = self.budgets(steps)
        ranks = ranks or ProcessGroup()
        seed = draw_seed(generator, ranks)
        asked = checkpointing or Checkpointing()
        fit = self.base.fit(
            course,
            steps=first,
            generator=seed,
            preprocessing=preprocessing,
            device=device,
            dtype=dtype,
            checkpointing=asked,
            progress=progress,
            ranks=ranks,
        )
        method = replace(self, base=fit.method)
        model = method.base.prepare(course, preprocessing, device=device, dtype=dtype)
        kept, held = model, None
        if not method.base.knows_rows:
            # The base drew its own seed from the one it was given: these cells stay held back.
            kept, held = split(model, method.training.validation, draw_seed(seed))
        facts = method.base.fingerprint([model], steps, seed) | {"method": describe(method)}
        run = _Run(method, fit, kept, held, seed=seed, facts=facts, progress=progress, ranks=ranks)
        history = _join(History(), fit.history, 0)
        with deferred_interrupt() as interrupted:
            for k, budget in enumerate(rest, 1):
                if history.stopped == "interrupted" or budget == 0:
                    break
                if any(ranks.gather(interrupted())):  # between two rounds
                    history.stopped = "interrupted"
                    break
                beside = replace(asked, path=_beside(asked.path, k))
                _join(history, run.round(k, steps=budget, checkpointing=beside), k)
        return replace(fit, method=method, history=ranks.broadcast(lambda: history))


@dataclass(frozen=True, eq=False)
class _Run:
    """What is the same for all rounds."""

    method: Iterated
    fit: Fit
    kept: TimeCourse
    held: TimeCourse | None
    seed: int
    facts: dict[str, Any]
    progress: bool
    ranks: ProcessGroup

    def round(self, k: int, *, steps: int, checkpointing: Checkpointing) -> History:
        """Train the networks of the fit on the pairs that they make as they are now."""
        base, networks = self.method.base, self.fit.networks
        backward = k % 2 == 0
        if self.progress:
            way = "backward" if backward else "forward"
            text = f"{self.method.name}: round {k} of {self.method.rounds}, cells carried {way}"
            tqdm.write(text, file=sys.stderr)
        frozen = copy.deepcopy(networks).requires_grad_(False)
        dynamics = assemble(base, frozen, self.kept.times)
        seed = stream_seed(self.seed, k, 16)
        pairs = InducedPairs(dynamics, self.kept, base.batching, seed, backward)
        aside = None
        if self.held is not None:
            batching = Batching(_VALIDATION_PAIRS)
            other = stream_seed(self.seed, k, 17)
            aside = InducedPairs(dynamics, self.held, batching, other, backward).batch(0)
        history = learn(
            base,
            networks,
            self.fit.dynamics,
            pairs=pairs.batch,
            held=aside,
            units=networks["velocity"].units,  # type: ignore[arg-type] # an MLP
            steps=steps,
            seed=seed,
            fingerprint=self.facts | {"round": k},
            checkpointing=checkpointing,
            progress=self.progress,
            ranks=self.ranks,
        )
        if history.stopped == "interrupted" and not history.step:
            networks.load_state_dict(frozen.state_dict())  # what was hardly begun is not better
        return history


def _join(history: History, more: History, k: int) -> History:
    """Append to `history`, in place, what happened in round `k`."""
    before = history.step[-1] if history.step else 0
    history.step += [before + step for step in more.step]
    history.train_loss += more.train_loss
    history.validation_loss += more.validation_loss
    history.learning_rate += more.learning_rate
    history.rounds += [k] * len(more.step)
    if more.step:
        history.best_step = before + more.best_step
    history.seconds += more.seconds
    for what, seconds in more.timing.items():
        history.timing[what] = history.timing.get(what, 0.0) + seconds
    history.stopped = more.stopped
    history.coupling |= more.coupling
    return history


def _beside(path: str | FilePath | None, k: int) -> FilePath | None:
    """Return the file of round `k` beside that of the first fit."""
    if path is None:
        return None
    path = FilePath(path)
    return path.with_name(f"{path.stem}.round{k}{path.suffix}")
