"""Agreement of velocities with others, such as RNA velocity, measured on the same cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy import stats

from cellflow import _checks
from cellflow._random import draw_seed, stream_rng
from cellflow._typing import Rng, Tensor

#: Sums of cosines up to which rounding makes a difference.
_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class Agreement:
    """Cosines between two velocities of each cell, and those that chance makes.

    For each of ``T`` groups, `cells` has the cosine of each cell, ``(n_k,)``, NaN where a velocity
    is zero or not finite. Tensors ``(T + 1,)``, of which the last entry is of all groups together,
    are `count`, the cells with a cosine; its `mean` and the 95 % interval of that, `low` to `high`;
    `chance`, the mean cosine of a cell with the other velocity of any cell of its group, which a
    common direction makes; and `p_value`, the share of the permutations, the observed one among
    them, whose mean is as high.
    """

    cells: tuple[Tensor, ...]
    count: Tensor
    mean: Tensor
    low: Tensor
    high: Tensor
    chance: Tensor
    p_value: Tensor


def agreement(
    velocities: Sequence[Tensor],
    others: Sequence[Tensor],
    *,
    n_permutations: int = 999,
    generator: Rng = 0,
) -> Agreement:
    """Compare the directions of `velocities` with those of `others`, on the same cells.

    Both are tensors ``(n_k, d)``, one for each group of cells, such as those of a time. Lengths do
    not matter, so neither do units. The null hypothesis is that `others` say nothing of a cell
    beside what they say of its whole group: they are permuted `n_permutations` times between the
    cells of a group, by a seed or `generator`; the smallest possible p value is one over one more.
    Cells count as independent, in p values and intervals (Student's, of a mean). Raises ValueError
    if shapes differ, or a group has fewer than two cells with both velocities.
    """
    count = _checks.count(n_permutations, "n_permutations")
    seed = draw_seed(generator)
    cells, sums, expected = [], [], []
    for k, (one, two) in enumerate(zip(velocities, others, strict=True)):
        if one.shape != two.shape:
            got = f"shape {tuple(two.shape)} of group {k}"
            raise ValueError(_checks.message("others", got, f"{tuple(one.shape)}"))
        u, w = (v.detach().double().cpu() for v in (one, two))
        u, w = (v / v.norm(dim=1, keepdim=True) for v in (u, w))
        cosines = (u * w).sum(1)
        known = cosines.isfinite()
        u, w, n = u[known], w[known], int(known.sum())
        if n < 2:
            got = f"{n} cells of group {k} with both velocities"
            raise ValueError(_checks.message("velocities", got, "at least 2", "Leave it out."))
        rng = stream_rng(seed, k, 100)
        drawn = [(u * w[torch.randperm(n, generator=rng)]).sum() for _ in range(count)]
        sums.append(torch.stack([cosines[known].sum(), *drawn]))
        expected.append(n * u.mean(0) @ w.mean(0))
        cells.append(cosines.where(known, torch.nan))
    return _summary(cells, torch.stack(sums), torch.stack(expected))


def _summary(cells: list[Tensor], sums: Tensor, expected: Tensor) -> Agreement:
    """Return means of groups and of all, of cosines whose `sums` come first of the permuted."""
    groups = [c[c.isfinite()] for c in cells]
    groups.append(torch.cat(groups))
    n = torch.tensor([float(len(g)) for g in groups], dtype=torch.float64)
    mean = torch.stack([g.mean() for g in groups])
    error = torch.stack([g.std() for g in groups]) / n.sqrt()
    half = torch.tensor(stats.t.ppf(0.975, n.numpy() - 1)) * error
    sums = torch.cat([sums, sums.sum(0)[None]])
    expected = torch.cat([expected, expected.sum()[None]])
    return Agreement(
        cells=tuple(cells),
        count=n.long(),
        mean=mean,
        low=(mean - half).clamp(min=-1.0),
        high=(mean + half).clamp(max=1.0),
        chance=expected / n,
        p_value=(sums >= sums[:, :1] - _ROUNDING).double().mean(1),
    )
