"""Sets of genes whose change together has an effect, drawn in proportion to it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import torch

from cellflow import _checks
from cellflow._random import draw_seed, seeded_draws, stream_rng
from cellflow._threads import one_thread
from cellflow._typing import ArrayLike, Rng, Tensor

#: Logarithms of the rewards ``(m,)`` of sets ``(m, n)``.
Reward: TypeAlias = Callable[[Tensor], Tensor]

#: Logarithm of the smallest reward, beside that of the best single gene: of no effect has none.
_LEAST = -8.0
#: Share of genes at random in training, units of the two layers of the policy, learning rates of
#: it at the start and of log Z.
_EXPLORE, _WIDTH, _RATE, _LOG_Z_RATE = 0.1, 64, 3e-3, 0.1


class Sampler(ABC):
    """Draws sets in proportion to rewards."""

    @abstractmethod
    def draw(
        self, log_reward: Reward, *, n: int, size: int, draws: int, seed: int
    ) -> tuple[Tensor, float]:
        """Return so many `draws` of sets of at most `size` of `n` things, and log Z.

        Sets are rows of zeros and ones, ``(draws, n)``, of which `log_reward` tells the logarithm.
        All that is random follows from the `seed`.
        """


@dataclass(frozen=True)
class GFlowNet(Sampler):
    r"""Sampler that learns to add genes one after another, for more sets than can be listed.

    After :cite:t:`bengio2021`, by torchgfn :cite:p:`lahlou2023`, and trained by trajectory balance
    :cite:p:`malkin2022`: with a policy :math:`P_F` of which gene is next or that the set is
    complete, and :math:`P_B` that takes out any of them, :math:`(\log Z + \sum \log P_F - \log R -
    \sum \log P_B)^2` is zero on all ways to all sets only where sets come in proportion to R. In
    each of `steps`, `batch_size` sets; the learning rate falls to zero.
    """

    steps: int = 2000
    batch_size: int = 64

    def __post_init__(self) -> None:
        _checks.count(self.steps, "steps")
        _checks.count(self.batch_size, "batch_size")

    def draw(
        self, log_reward: Reward, *, n: int, size: int, draws: int, seed: int
    ) -> tuple[Tensor, float]:
        """Train on rewards, and draw: see :meth:`Sampler.draw`."""
        try:
            from gfn.estimators import DiscretePolicyEstimator
            from gfn.gflownet import TBGFlowNet
            from gfn.gym.set_addition import SetAddition
            from gfn.preprocessors import IdentityPreprocessor
            from gfn.utils.modules import MLP
        except ImportError as error:
            remedy = 'pip install "cellflow-sb[gflownet]"; with numpy 2, see docs/start.md'
            raise ImportError(f"A GFlowNet needs torchgfn: {remedy}.") from error
        with seeded_draws(seed), one_thread():
            sets = SetAddition(n, size, log_reward)  # whose rewards are given below, as logarithms
            policy = DiscretePolicyEstimator(MLP(n, n + 1, _WIDTH), n + 1)
            back = DiscretePolicyEstimator.uniform(n + 1, IdentityPreprocessor(n))
            flow = TBGFlowNet(policy, back, init_logZ=math.log(_number(n, size)))
            rates = {"params": flow.logz_parameters(), "lr": _LOG_Z_RATE}
            adam = torch.optim.Adam([{"params": policy.parameters()}, rates], _RATE)
            falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)
            for _ in range(self.steps):
                ways = flow.sample_trajectories(sets, self.batch_size, epsilon=_EXPLORE)
                rewards = log_reward(ways.terminating_states.tensor).float()
                adam.zero_grad()
                flow.loss(sets, ways, log_rewards=rewards).backward()
                adam.step()
                falling.step()
            with torch.no_grad():
                drawn = flow.sample_terminating_states(sets, draws).tensor
        return drawn, float(flow.logZ.detach())


@dataclass(frozen=True)
class AllSets(Sampler):
    """Sampler by the reward of every set, exact: for not too many."""

    def draw(
        self, log_reward: Reward, *, n: int, size: int, draws: int, seed: int
    ) -> tuple[Tensor, float]:
        """List all sets, and draw: see :meth:`Sampler.draw`."""
        sets, rng = _listed(n, size), stream_rng(seed, 0, 0)
        log = log_reward(sets)
        drawn = log.softmax(0).multinomial(draws, replacement=True, generator=rng)
        return sets[drawn], float(log.logsumexp(0))


@dataclass(frozen=True, eq=False)
class GeneSets:
    r"""Sets of genes that were drawn, the most frequent first, and how well that matched.

    Of each of `m` `sets` the `effect`, the `frequency` among all draws, and the `probability`, its
    effect to the power of beta over Z, each ``(m,)``; `log_z`, that of the sampler, which asked for
    `n_evaluated` effects. Where all sets were listed, `exact_log_z` is in the probability, and
    `total_variation` is :math:`\frac12 \sum |\text{frequency} - \text{probability}|` over all,
    beside `noise`, that of as many exact draws.
    """

    sets: tuple[tuple[str, ...], ...]
    effect: Tensor
    frequency: Tensor
    probability: Tensor
    log_z: float
    n_evaluated: int
    exact_log_z: float | None = None
    total_variation: float | None = None
    noise: float | None = None


def gene_sets(
    effect: Callable[[list[tuple[str, ...]]], ArrayLike],
    genes: Sequence[str],
    *,
    size: int = 3,
    beta: float = 1.0,
    sampler: Sampler | None = None,
    draws: int = 1000,
    list_to: int = 1000,
    generator: Rng = 0,
) -> GeneSets:
    r"""Draw sets of up to `size` `genes` with probability proportional to effect to the `beta`.

    Many different sets of much effect come back, and not one best one with its neighbours. The
    `effect` is a function of several sets, each a tuple of genes in their order, that returns a
    number of each, at least zero; each set is asked for once. With replacement, `draws` are drawn
    by the `sampler`, ``GFlowNet()`` when omitted; up to `list_to` sets are listed to judge them.
    Training and draws follow from the `generator`.
    """
    names, seed = _checks.several(genes, "genes"), draw_seed(generator)
    n, size = len(names), min(_checks.count(size, "size"), len(names))
    if n < 2 or len(set(names)) < n:
        raise ValueError(_checks.message("genes", f"{names}", "two or more, each once"))
    beta = _checks.number(beta, "beta", low=0.0, high=100.0, open_low=True)
    draws, list_to = _checks.count(draws, "draws"), _checks.count(list_to, "list_to", low=0)
    known: dict[tuple[int, ...], float] = {(): 0.0}

    def log_effect(sets: Tensor) -> Tensor:
        asked = [_members(row) for row in sets]
        new = sorted(set(asked) - known.keys())
        if new:
            said = effect([tuple(names[k] for k in one) for one in new])
            values = torch.as_tensor(said, dtype=torch.float64)
            if values.shape != (len(new),) or not ((values >= 0) & values.isfinite()).all():
                got, expected = f"{said} of {len(new)} sets", "a number of each, at least zero"
                raise ValueError(_checks.message("effect", got, expected))
            known.update(zip(new, values.tolist(), strict=True))
        return torch.tensor([known[one] for one in asked], dtype=torch.float64).log()

    single = log_effect(torch.eye(n)).max()
    scale = single if single.isfinite() else torch.zeros_like(single)

    def log_reward(sets: Tensor) -> Tensor:
        return (beta * (log_effect(sets) - scale)).clamp(min=_LEAST)

    found, log_z = (sampler or GFlowNet()).draw(log_reward, n=n, size=size, draws=draws, seed=seed)
    log_effect(found)  # also of what the sampler has not asked for
    log_z, n_evaluated = log_z + float(beta * scale), len(known) - 1
    if not any(known.values()):
        got = f"zero for all of {n_evaluated} sets"
        raise ValueError(_checks.message("effect", got, "more than zero for some"))
    counts = Counter(_members(row) for row in found)
    counts.pop((), None)  # of no effect
    rows = sorted(counts, key=lambda one: (-counts[one], -known[one], one))
    share = torch.tensor([counts[one] for one in rows], dtype=torch.float64) / counts.total()
    effects = torch.tensor([known[one] for one in rows], dtype=torch.float64)
    judged: tuple[float, ...] = ()
    if _number(n, size) <= list_to:
        sets = _listed(n, size)
        log = beta * log_effect(sets)
        p = log.softmax(0)
        fresh = p.multinomial(draws, replacement=True, generator=stream_rng(seed, 1, 0))
        drawn = torch.tensor([counts[_members(row)] for row in sets]) / counts.total()
        shares = torch.stack([drawn, fresh.bincount(minlength=len(p)) / draws])
        judged = (float(log.logsumexp(0)), *((shares - p).abs().sum(1) / 2).tolist())
    probability = (beta * effects.log() - (judged or (log_z,))[0]).exp()
    named = tuple(tuple(names[k] for k in one) for one in rows)
    return GeneSets(named, effects, share, probability, log_z, n_evaluated, *judged)


def _members(row: Tensor) -> tuple[int, ...]:
    """Where a set ``(n,)`` has ones."""
    return tuple(row.nonzero()[:, 0].tolist())


def _number(n: int, size: int) -> int:
    """How many sets of one to `size` of `n` things there are."""
    return sum(math.comb(n, k) for k in range(1, size + 1))


def _listed(n: int, size: int) -> Tensor:
    """All sets of one to `size` of `n` things, each a row of zeros and ones."""
    rows = [one for k in range(1, size + 1) for one in combinations(range(n), k)]
    return torch.stack([torch.eye(n)[list(one)].sum(0) for one in rows])
