"""How much of what tells conditions apart is more than chance."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from scipy.stats import f as fisher
from torch.nn.functional import normalize

from cellflow._typing import Tensor
from cellflow.conditions import Conditions
from cellflow.snapshot import Snapshot, totals
from cellflow.timecourse import TimeCourse

#: Cells of a snapshot, at most, that are compared.
MOST = 2000
#: Chance that any of the tests finds something where there is nothing.
LEVEL = 0.05
#: Share from which on shrinking would change nothing but the time that predictions take.
ENOUGH = 0.95
#: Eigenvalue, of numbers of cells, below which it is zero, and the same relative to the largest.
ATOL, RTOL = 1e-6, 1e-9


def evidence(course: TimeCourse) -> float:
    r"""Return the share of the effects of conditions that chance does not explain, 0 to 1.

    At each time the energy distances of Euclidean norms split into those within and those between
    conditions, an analysis of variance of all that distributions can differ in (:cite:`rizzo2010`).
    With :math:`F` the latter over what chance makes of them, the share is 0 where F is below the
    quantile of F under chance (:cite:`box1954`, by two moments), and else that of an empirical
    Bayes shrinkage (:cite:`james1961`)

    .. math:: \frac{s}{1 + s}, \qquad s = (F - 1) \frac Nn

    of N cells, of which n are compared, and 1 from .95 on. Counted is the clearest of three kinds
    of effect: of all conditions, along the sum of their tokens, and of one against the rest; each
    within the nuisance, with a third of the level of 5 %. It is 1 where nothing can be compared,
    and where masses differ between strata, which cells do not tell of.

    Parameters
    ----------
    course
        Cells in the coordinates in which the networks see them. The names and the order of its
        conditions do not matter.
    """
    if course.conditions is None or any(map(_uneven, course.snapshots, course.strata)):
        return 1.0
    tally = _effects(course, course.conditions)
    level = np.full(tally.shape[1], LEVEL / 3)
    level[2:] /= len(level) - 2
    compared = (tally[1:] > 0).all(0)
    if not compared.any():
        return 1.0
    found, chance, variance, unsure, level = (a[compared] for a in (*tally, level))
    ratio, freedom = found / chance, (2 * chance**2 / v for v in (variance, unsure))
    clear = ratio[ratio > fisher.isf(level, *freedom)]
    if not len(clear):
        return 0.0
    sizes = [len(s) for s in course.snapshots]
    signal = (clear.max() - 1) * sum(sizes) / sum(min(n, MOST) for n in sizes)
    share = float(signal / (1 + signal))
    return share if share < ENOUGH else 1.0


def _effects(course: TimeCourse, known: Conditions) -> np.ndarray:
    """Return what is between conditions, what chance makes of it, and the variances of both.

    Of all c conditions, along the sum of their tokens, and of each one: ``(4, 2 + c)``.
    """
    names = [known.text({name: v[name] for name in known.nuisance}) for v in known.values]
    context, each = known.context(), torch.eye(len(known), dtype=torch.float64)
    tokens = normalize((context.tokens * context.present[..., None]).sum(1), dim=0)
    donor = each[[names.index(name) for name in names]]
    tally = torch.zeros(4, 2 + len(known), dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    for s in course.snapshots:
        sums, size, inside, mean, square = _parts(s.shuffled(MOST, rng), len(known))
        less = each - donor @ (donor.T * size / (size @ donor).clamp(min=1)[:, None])
        sums, sizes = less.T @ sums @ less, less.T @ (size[:, None] * less)
        rank = torch.ones_like(tally[0])
        found = torch.zeros_like(rank)
        for k, kind in enumerate((each, tokens)):
            values, axes = torch.linalg.eigh(kind.T @ sizes @ kind)
            kept = values > max(ATOL, RTOL * float(values[-1]))
            axes = kind @ axes[:, kept]
            rank[k], found[k] = kept.sum(), ((axes.T @ sums @ axes).diagonal() / values[kept]).sum()
        alone = sizes.diagonal()
        rank[2:] = alone > ATOL
        found[2:] = sums.diagonal() / alone.clamp(min=ATOL)
        of_chance = rank * mean, 2 * rank * square, 2 * rank**2 * square / inside
        tally += torch.stack((found, *of_chance))
    return tally.numpy()


def _parts(cells: Snapshot, count: int) -> tuple[Tensor, Tensor, int, float, float]:
    """Return what cells say of so many conditions, their `count`, and of chance within them.

    Sums of inner products over the cells of two conditions, ``(c, c)``, and their sizes ``(c,)``;
    degrees of freedom within conditions, mean eigenvalue there, and mean square, by them.
    """
    x, code = cells.x.double(), cast(Tensor, cells.condition)
    inner = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / -2
    rows = inner.new_zeros(count, len(x)).index_add_(0, code, inner)
    sums = inner.new_zeros(count, count).index_add_(1, code, rows)
    size = torch.bincount(code, minlength=count).to(inner)
    per, n = 1 / size.clamp(min=1), max(len(x) - int((size > 0).sum()), 1)
    square = inner.square().sum() - 2 * per @ rows.square().sum(1) + per @ sums.square() @ per
    return sums.cpu(), size.cpu(), n, -float(per @ sums.diagonal()) / n, float(square) / n**2


def _uneven(snapshot: Snapshot, stratum: Tensor) -> bool:
    """Return whether the masses of a snapshot differ between strata."""
    sums = totals(snapshot.mass, stratum)
    sums = sums[sums > 0]
    return bool(sums.max() > 1.01 * sums.min())
