"""Sets of genes whose change together has an effect, drawn in proportion to it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import torch

from cellflow import _checks
from cellflow._random import draw_seed, seeded_draws, stream_rng
from cellflow._threads import one_thread
from cellflow._typing import ArrayLike, Rng, Tensor

#: Logarithm of the smallest reward, beside that of the best single gene: of no effect has none.
_LEAST = -8.0
#: Share of genes at random while a GFlowNet is trained, units of its two hidden layers, learning
#: rate of its policy at the start, and of log Z.
_EXPLORE, _WIDTH, _RATE, _LOG_Z_RATE = 0.1, 64, 3e-3, 0.1


class Sampler(Protocol):
    """Draws sets in proportion to a reward."""

    def __call__(
        self, log_reward: Callable[[Tensor], Tensor], *, n: int, size: int, draws: int, seed: int
    ) -> tuple[Tensor, float]:
        """Return sets of at most `size` of `n` things ``(draws, n)``, and log Z.

        A set is a row of zeros and ones; `log_reward` takes some, and says ``(m,)`` of them.
        """


@dataclass(frozen=True)
class GFlowNet:
    r"""Sampler that learns to add genes one after another, for more sets than can be listed.

    After :cite:t:`bengio2021`, by torchgfn :cite:p:`lahlou2023`, and trained by trajectory balance
    :cite:p:`malkin2022`: with a policy :math:`P_F` of which gene is next or that the set is
    complete, and :math:`P_B` that takes out any of them, :math:`(\log Z + \sum \log P_F - \log R -
    \sum \log P_B)^2` is zero on all ways to all sets only where sets come in proportion to R.

    Parameters
    ----------
    steps
        Training steps; the learning rate falls to zero by a cosine.
    batch_size
        Sets in a batch.
    """

    steps: int = 2000
    batch_size: int = 64

    def __post_init__(self) -> None:
        _checks.count(self.steps, "steps")
        _checks.count(self.batch_size, "batch_size")

    def __call__(
        self, log_reward: Callable[[Tensor], Tensor], *, n: int, size: int, draws: int, seed: int
    ) -> tuple[Tensor, float]:
        """Train on the reward, and draw: see :class:`Sampler`."""
        try:
            from gfn.estimators import DiscretePolicyEstimator
            from gfn.gflownet import TBGFlowNet
            from gfn.gym.set_addition import SetAddition
            from gfn.preprocessors import IdentityPreprocessor
            from gfn.utils.modules import MLP
        except ImportError as error:
            remedy = 'pip install "cellflow-sb[gflownet]"; beside numpy 2, see the how-to guide'
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


def all_sets(
    log_reward: Callable[[Tensor], Tensor], *, n: int, size: int, draws: int, seed: int
) -> tuple[Tensor, float]:
    """Draw sets by the reward of every one, exactly: for not too many.

    A :class:`Sampler`, which says what `log_reward`, `n`, `size` and `draws` are; draws follow from
    the `seed`.
    """
    sets = _listed(n, size)
    log = log_reward(sets)
    drawn = log.softmax(0).multinomial(draws, replacement=True, generator=stream_rng(seed, 0, 0))
    return sets[drawn], float(log.logsumexp(0))


@dataclass(frozen=True, eq=False)
class GeneSets:
    r"""Sets of genes that were drawn, and how well that matched what they should be drawn by.

    Parameters
    ----------
    sets
        Genes of each of `m` sets, those that were drawn most often first.
    effect
        Effect of each, ``(m,)``.
    frequency
        Share of each among all draws, ``(m,)``.
    probability
        Effect to the power of beta, over Z: the exact one where all sets were listed, and else that
        of the sampler, ``(m,)``.
    log_z
        Logarithm of Z, the sum of all effects to the power of beta, as the sampler has it.
    exact_log_z
        The same of all sets, where they were listed.
    total_variation
        Distance :math:`\frac12 \sum |\text{frequency} - \text{probability}|` over all sets, where
        they were listed.
    noise
        The same of as many exact draws.
    n_evaluated
        Sets whose effect the sampler asked for.
    """

    sets: tuple[tuple[str, ...], ...]
    effect: Tensor
    frequency: Tensor
    probability: Tensor
    log_z: float
    exact_log_z: float | None
    total_variation: float | None
    noise: float | None
    n_evaluated: int


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
    r"""Draw sets of genes with probability proportional to :math:`\text{effect}^\beta`.

    Many different sets of much effect come back, and not one best one with its neighbours.

    Parameters
    ----------
    effect
        Function of several sets, each a tuple of genes in the order of `genes`, that returns the
        effect of each, at least zero. It is called once for each set.
    genes
        Names that sets are made of.
    size
        Genes of a set at most; at least one.
    beta
        The larger, the more the sets of the largest effects come.
    sampler
        ``GFlowNet()`` when omitted, or :func:`all_sets`.
    draws
        Sets that are drawn, with replacement.
    list_to
        If there are no more sets than this, the effects of all of them judge the draws.
    generator
        Seed or generator of training and of draws.
    """
    names, seed = _checks.several(genes, "genes"), draw_seed(generator)
    n, size = len(names), _checks.count(size, "size")
    if n < 2 or len(set(names)) < n or size > n:
        got = f"{names} for sets of {size}"
        raise ValueError(
            _checks.message("genes", got, "two or more, each once, no fewer than that")
        )
    beta = _checks.number(beta, "beta", low=0.0, open_low=True)
    draws, list_to = _checks.count(draws, "draws"), _checks.count(list_to, "list_to", low=0)
    log_effect = _Effects(effect, names)
    single = log_effect(torch.eye(n)).max()
    scale = single if single.isfinite() else torch.zeros_like(single)

    def log_reward(sets: Tensor) -> Tensor:
        return (beta * (log_effect(sets) - scale)).clamp(min=_LEAST)

    found, log_z = (sampler or GFlowNet())(log_reward, n=n, size=size, draws=draws, seed=seed)
    log_effect(found)  # also of what the sampler has not asked for
    known = log_effect.known
    log_z, n_evaluated = log_z + float(beta * scale), len(known) - 1
    if not any(known.values()):
        got = f"zero for all of {n_evaluated} sets"
        raise ValueError(_checks.message("effect", got, "more than zero for some"))
    counts = Counter(_members(row) for row in found)
    counts.pop((), None)  # of no effect
    draws = counts.total()
    rows = sorted(counts, key=lambda one: (-counts[one], -known[one], one))
    frequency = torch.tensor([counts[one] for one in rows], dtype=torch.float64) / draws
    exact = distance = noise = None
    if _number(n, size) <= list_to:
        sets = _listed(n, size)
        log = beta * log_effect(sets)
        exact, p = float(log.logsumexp(0)), log.softmax(0)
        fresh = p.multinomial(draws, replacement=True, generator=stream_rng(seed, 1, 0))
        drawn = torch.tensor([counts[_members(row)] for row in sets]) / draws
        distance, noise = (
            float((share - p).abs().sum() / 2)
            for share in (drawn, fresh.bincount(minlength=len(p)) / draws)
        )
    effects = torch.tensor([known[one] for one in rows], dtype=torch.float64)
    probability = (beta * effects.log() - (log_z if exact is None else exact)).exp()
    named = tuple(tuple(names[k] for k in one) for one in rows)
    return GeneSets(
        named, effects, frequency, probability, log_z, exact, distance, noise, n_evaluated
    )


class _Effects:
    """Logarithms of effects of sets of `names`, each asked for once."""

    def __init__(
        self, effect: Callable[[list[tuple[str, ...]]], ArrayLike], names: list[str]
    ) -> None:
        self.effect, self.names = effect, names
        self.known: dict[tuple[int, ...], float] = {(): 0.0}

    def __call__(self, sets: Tensor) -> Tensor:
        asked = [_members(row) for row in sets]
        new = sorted(set(asked) - self.known.keys())
        if new:
            said = self.effect([tuple(self.names[k] for k in one) for one in new])
            values = torch.as_tensor(said, dtype=torch.float64)
            if values.shape != (len(new),) or not (values >= 0).all() or values.isinf().any():
                got = f"{said} of {len(new)} sets"
                raise ValueError(_checks.message("effect", got, "a number of each, at least zero"))
            self.known.update(zip(new, values.tolist(), strict=True))
        return torch.tensor([self.known[one] for one in asked], dtype=torch.float64).log()


def _members(row: Tensor) -> tuple[int, ...]:
    """Where a set ``(n,)`` has ones."""
    return tuple(row.nonzero()[:, 0].tolist())


def _number(n: int, size: int) -> int:
    """How many sets of one to `size` of `n` things there are."""
    return sum(math.comb(n, k) for k in range(1, size + 1))


def _listed(n: int, size: int) -> Tensor:
    """All sets of one to `size` of `n` things, each a row of zeros and ones."""
    rows = [one for k in range(1, size + 1) for one in combinations(range(n), k)]
    sets = torch.zeros(len(rows), n)
    for row, one in zip(sets, rows, strict=True):
        row[list(one)] = 1
    return sets
