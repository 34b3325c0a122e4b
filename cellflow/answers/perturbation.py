"""Perturbation: what a change of cells does to their fates, and whether that is much."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat

import torch

from cellflow import _checks
from cellflow._random import draw_seed
from cellflow._typing import Rng, Tensor
from cellflow.answers.fates import Bend, fates_by_flow
from cellflow.answers.labels import NEIGHBOURS
from cellflow.fits import Ensemble, Fit
from cellflow.timecourse import Snapshot


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects of each of `m` changes of the same cells on the probabilities of `k` groups.

    Parameters
    ----------
    groups
        Names of the groups.
    effect
        Probability after the change minus that before, mean over cells by mass, ``(m, k)``; rows
        have a sum of zero.
    standard_error
        Of this mean, paired over cells, ``(m, k)``; NaN of a single cell.
    member_std
        Standard deviation between the members of an ensemble, ``(m, k)``; None of one fit.
    """

    groups: tuple[str, ...]
    effect: Tensor
    standard_error: Tensor
    member_std: Tensor | None = None


def effect_on_fates(
    fit: Fit | Ensemble,
    start: Snapshot,
    moved: Iterable[Tensor],
    *,
    ends: Snapshot,
    bends: Iterable[Bend] | None = None,
    n_futures: int = 20,
    growth: bool = True,
    neighbours: int = NEIGHBOURS,
    generator: Rng = 0,
) -> Effects:
    """Compare the fates of cells that were moved with their fates where they are.

    Futures before and after have the same noise (common random numbers): a cell that stays where
    it is has no effect at all, and a small one is not lost among the differences of noise.

    Parameters
    ----------
    fit
        A fit or an ensemble.
    start
        Cells in data coordinates, at their time, with masses.
    moved
        For each change the states of these cells after it, ``(n, d)``, in the same order; each is
        asked for when its turn comes.
    ends
        Cells with labels at a later time.
    bends
        For each change what becomes of later displacements, as in
        :func:`~cellflow.answers.fates.fates_by_flow`; cells go on freely when omitted.
    n_futures, growth, neighbours
        As in :func:`~cellflow.answers.fates.fates_by_flow`.
    generator
        Seed or generator of the noise, the same for all changes and members.
    """
    seed = draw_seed(_checks.as_generator(generator))
    members = list(fit) if isinstance(fit, Ensemble) else [fit]
    groups: tuple[str, ...] = ()
    fates = partial(fates_by_flow, n_futures=n_futures, growth=growth, neighbours=neighbours)

    def chances(x: Tensor, bend: Bend | None) -> Tensor:
        nonlocal groups
        if x.shape != start.x.shape:
            expected = f"{tuple(start.x.shape)}, that of the cells at the start"
            raise ValueError(_checks.message("moved", f"shape {tuple(x.shape)}", expected))
        cells = replace(start, x=x)
        found = [fates(one, cells, ends, bend=bend, generator=seed) for one in members]
        groups = found[0].groups
        return torch.stack([f.probabilities for f in found])

    before = chances(start.x, None if bends is None else lambda step: step)
    pairs = zip(moved, repeat(None)) if bends is None else zip(moved, bends, strict=True)
    found = [_summary(chances(x, bend) - before, start.weights.cpu()) for x, bend in pairs]
    if not found:
        raise ValueError(_checks.message("moved", "no change", "states after at least one"))
    effect, error, between = (torch.stack(values) for values in zip(*found, strict=True))
    return Effects(groups, effect, error, between if len(members) > 1 else None)


def _summary(change: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of a `change` ``(members, n, k)`` by weight, its error, and spread of members."""
    by_member = torch.einsum("n,mnk->mk", weights, change)
    n, mean = len(weights), by_member.mean(0)
    off = (change.mean(0) - mean).square()
    correction = n / (n - 1) if n > 1 else torch.nan
    error = (weights.square() @ off * correction).sqrt()
    return mean, error, by_member.std(0) if len(by_member) > 1 else torch.zeros_like(mean)


def most_alike(features: Tensor, which: int, number: int) -> Tensor:
    """Return up to `number` other rows of `features` ``(g, f)`` nearest to the row `which`.

    The distance is Euclidean, with each column divided by its standard deviation; of equal ones the
    first counts.
    """
    spread = features.std(0, correction=0)
    scaled = features / torch.where(spread > 0, spread, 1.0)
    order = (scaled - scaled[which]).square().sum(1).argsort(stable=True)
    return order[order != which][:number]


def p_value(effect: Tensor, null: Tensor) -> Tensor:
    """Share of the `null` ``(m, k)`` that is as far from zero as the `effect` ``(k,)``, or farther.

    The effect itself counts as one of them: no p value is below ``1 / (1 + m)``, and if the effect
    is exchangeable with the null, p is at most a with probability at most a.
    """
    return (1 + (null.abs() >= effect.abs()).sum(0)).double() / (1 + len(null))
