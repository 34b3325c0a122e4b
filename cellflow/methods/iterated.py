"""Iterated fitting: refit on the couplings that a method's own dynamics induce."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from cellflow import _checks
from cellflow._files import beside
from cellflow._random import draw_seed, shuffle, stream_rng, stream_seed
from cellflow._typing import Tensor
from cellflow.batches import Batching
from cellflow.dynamics import Dynamics
from cellflow.fits.fit import Fit
from cellflow.logging import say
from cellflow.methods.flow_matching import FlowMatching
from cellflow.methods.method import Method
from cellflow.paths import Pairs
from cellflow.preprocessing import Preprocessing
from cellflow.simulate import simulate
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training.cells import canonical, refuse_conditions, split, to_device
from cellflow.training.loop import deferred_interrupt
from cellflow.training.networks import assemble
from cellflow.training.options import FitOptions
from cellflow.training.prepare import VALIDATION_PAIRS, fingerprint
from cellflow.training.train_on_pairs import train_on_pairs
from cellflow.training.trainer import History

#: Steps of the solver in each interval. On bridges whose dynamics are known exactly, the moments
#: of SRA1's ends are within the statistical error of 10,000 cells already at this number.
STEPS_PER_INTERVAL = 8


@dataclass(frozen=True)
class Iterated(Method):
    r"""Refit a method, in rounds, on the pairs that its own dynamics make.

    One pass is biased: it inherits the coupling that it was given, and plans of minibatches are
    not the plan of all cells. Round 0 is the base's own fit. Each further round simulates the
    dynamics so far from the cells that were observed, and learns anew, with the networks it has,
    from the pairs of where a cell was and where it came to. With Brownian bridges and their
    stochastic dynamics this is iterative Markovian fitting, whose only fixed point is the
    Schrödinger bridge, whatever the first coupling (DSBM, :cite:`shi2023`, theorem 8 and
    algorithm 1; :cite:`peluchetti2023`, proposition 2). With straight paths and deterministic
    dynamics it is the reflow of rectified flows, which straightens them :cite:`liu2023`.

    Pairs made forward have the observed cells at their source only, pairs made backward at their
    target only. Odd rounds go forward, even ones backward: what one round lets drift at one end
    the next one puts right, as DSBM does.

    Parameters
    ----------
    base
        The method that is iterated: without growth, of paths that do not bend, and with a score
        unless these are free of diffusion.
    rounds
        Rounds after the first fit. After an even number the last pairs ended in observed cells.
    first_share
        Share of the budget of steps that the first fit has; the rounds have the rest in equal
        parts, each with a learning-rate schedule of its own.
    name
        What tables and files call this method.
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
        elif path.needs_rates or path.source_free:
            problem = "whose paths bend or start from noise", "one of straight paths or bridges"
        elif path.diffusion > 0 and not self.base.score:
            problem = "which has diffusion but no score", "one that learns it, such as SF2M()"
        if problem is not None:
            got = f"{self.base.name!r}, {problem[0]}"
            raise ValueError(_checks.message("base", got, problem[1]))

    @property
    def parts(self) -> FlowMatching:
        return self.base

    def budgets(self, steps: int) -> list[int]:
        """Return the shares of `steps` of the first fit and of each round."""
        first = max(1, round(self.first_share * steps))
        rest, n = steps - first, self.rounds
        return [first, *(rest * (k + 1) // n - rest * k // n for k in range(n))]

    def fit_with(
        self, course: TimeCourse, options: FitOptions, preprocessing: Preprocessing | None = None
    ) -> Fit:
        """Learn the dynamics of `course` round by round; see :meth:`Method.fit_with`.

        `options` has the budget of all rounds and the checkpoint of the first fit; the rounds have
        files beside it (``run.round1.safetensors``). All of them are resumed from. The fit is that
        of the last round, or what is learned so far when interrupted. Its history has all rounds,
        its losses measured on the pairs of each; the health of couplings is that of the first fit.
        """
        refuse_conditions(course, self.name)
        first, *rest = self.budgets(options.steps)
        seed = draw_seed(options.seed)
        fit = self.base.fit_with(course, replace(options, steps=first, seed=seed), preprocessing)
        method = replace(self, base=cast(FlowMatching, fit.method))  # with absolute sigmas
        model = course if fit.clock is None else fit.clock.retime(course)
        model = model if preprocessing is None else model.map(preprocessing.apply)
        if not self.knows_rows:
            model = canonical(model)
        model = to_device(model, options)
        # The seed of the first fit, so that the cells that it held back stay so.
        held = self.base.training.validation
        parts = (model, None) if self.knows_rows else split(model, held, seed)
        facts = fingerprint(method.base, [model], options) | {"method": method.facts()}
        history, group = _join(History(), fit.history, 0), options.group
        with deferred_interrupt() as interrupted:
            for k, budget in enumerate(rest, 1):
                if history.stopped == "interrupted" or budget == 0:
                    break
                if any(group.gather(interrupted())):  # between two rounds
                    history.stopped = "interrupted"
                    break
                file = beside(options.checkpointing.path, f"round{k}")
                saved = replace(options.checkpointing, path=file)
                this = replace(options, steps=budget, checkpointing=saved)
                _join(history, method._round(k, fit, parts, options=this, facts=facts), k)
        return replace(fit, method=method, history=group.broadcast(lambda: history))

    def _round(
        self,
        k: int,
        fit: Fit,
        parts: tuple[TimeCourse, TimeCourse | None],
        *,
        options: FitOptions,
        facts: dict[str, Any],
    ) -> History:
        """Train the networks of `fit` on the pairs that they make as they are now."""
        base, networks, (kept, held) = self.base, fit.networks, parts
        backward = k % 2 == 0
        way = "backward" if backward else "forward"
        text = f"{self.name}: round {k} of {self.rounds}, cells carried {way}"
        say(text, show=options.progress)
        frozen = copy.deepcopy(networks).requires_grad_(False)
        dynamics = assemble(base, frozen, kept.times)
        seed, other = (stream_seed(options.seed, k, stream) for stream in (16, 17))
        pairs = InducedPairs(dynamics, kept, base.batching, seed, backward)
        aside = None
        if held is not None:
            batching = Batching(VALIDATION_PAIRS)
            aside = InducedPairs(dynamics, held, batching, other, backward).batch(0)
        history = train_on_pairs(
            base,
            networks,
            fit.dynamics,
            pairs=pairs.batch,
            held=aside,
            units=networks["velocity"].units,  # type: ignore[arg-type] # an MLP
            options=replace(options, seed=seed),
            fingerprint=facts | {"round": k},
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
    history.spend(more.timing)
    history.stopped = more.stopped
    history.coupling |= more.coupling
    return history


@dataclass(eq=False)
class InducedPairs:
    """Training batches of the pairs that dynamics induce: a cell, and where they take it.

    **Law.** A *pool* holds pairs of every interval. Carried forward, cells are drawn from the
    source in proportion to mass and simulated to the target's time; carried backward, they are
    drawn from the target and simulated back, by the reverse-time equation where there is noise. A
    pool serves ``reuse`` epochs as those of :mod:`cellflow.batches.sampler` do; then the next one
    is simulated. Nothing is coupled in blocks. The dynamics must not change.
    """

    dynamics: Dynamics
    course: TimeCourse
    batching: Batching
    seed: int = 0
    backward: bool = False

    def __post_init__(self) -> None:
        size = self.batching.batch_size
        longest = max(max(len(a), len(b)) for a, b in self.course.steps)
        self.steps_per_epoch = max(1, math.ceil(longest / size))
        x = self.course.snapshots[0].x
        pairs = [(a.time, b.time) for a, b in self.course.steps]
        times = torch.tensor(pairs, dtype=torch.float64).repeat_interleave(size, 0)
        self._times = times.to(device=x.device, dtype=_checks.time_dtype(x.device))
        self._pool: tuple[int, Tensor] | None = None
        self._order: tuple[int, Tensor] | None = None

    def batch(self, step: int) -> Pairs:
        """Return batch number `step`: ``batch_size`` pairs of every interval, in turn."""
        epoch, part = divmod(step, self.steps_per_epoch)
        k = epoch // self.batching.reuse
        if self._pool is None or self._pool[0] != k:
            self._pool = (k, self._simulate(k))
        pool = self._pool[1]
        if self._order is None or self._order[0] != epoch:
            order = shuffle(pool.shape[2], stream_rng(self.seed, epoch, 1))
            self._order = (epoch, order.to(pool.device))
        size = self.batching.batch_size
        rows = self._order[1][part * size : (part + 1) * size]
        x0, x1 = pool[:, :, rows].flatten(1, 2)
        return Pairs(x0, x1, self._times[:, :1], self._times[:, 1:])

    def _simulate(self, k: int) -> Tensor:
        """Pool number `k`: both ends of the pairs, shape ``(2, intervals, pairs, d)``."""
        total = self.steps_per_epoch * self.batching.batch_size
        noisy = self.dynamics.noisy
        ends = []
        for j, (source, target) in enumerate(self.course.steps):
            here, there = (target, source) if self.backward else (source, target)
            seed = stream_seed(self.seed, k, 2 * j + 40)
            x = here.x[_draw(here, total, seed)]
            carried = simulate(
                self.dynamics,
                x,
                [here.time, there.time],
                solver="sra1" if noisy else "rk4",
                max_step=(target.time - source.time) / STEPS_PER_INTERVAL,
                generator=stream_seed(self.seed, k, 2 * j + 41),
            ).final
            ends.append(torch.stack([carried, x] if self.backward else [x, carried]))
        return torch.stack(ends, 1)


def _draw(snapshot: Snapshot, size: int, seed: int) -> Tensor:
    """Draw `size` cells so that each comes floor or ceil of its share, in random order."""
    generator = torch.Generator().manual_seed(seed)
    n = len(snapshot)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    ticks = (torch.arange(size) + start) / size
    # Cells in random order: with fewer draws than cells it shall not be every other one.
    order = torch.randperm(n, generator=generator)
    edges = snapshot.weights.cpu()[order].cumsum(0)
    index = order[torch.searchsorted(edges, ticks).clamp_(max=n - 1)]
    return index[torch.randperm(size, generator=generator)].to(snapshot.x.device)
