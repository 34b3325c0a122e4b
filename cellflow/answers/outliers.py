"""Outliers: cells that a density of others does not expect, at a stated rate of false alarms."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cellflow import _checks
from cellflow._random import draw_seed, shuffle
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.densities import Density, FittedDensity


@dataclass(frozen=True, eq=False)
class Outliers:
    """How little a `density` of reference cells expects each of `n` cells.

    The `score` is the negative log-density, in nats, ``(n,)``; the `p_value`, ``(n,)``, the share
    of held-back reference cells that are as strange. Cells of scores above the `threshold` are
    called. `calibration` has the sorted scores of the cells held back, ``(m,)``, and `fitted` the
    rows of the reference that were not.
    """

    score: Tensor
    p_value: Tensor
    threshold: float
    density: FittedDensity
    calibration: Tensor
    fitted: Tensor


def outliers(
    x: ArrayLike,
    reference: ArrayLike,
    density: Density,
    *,
    false_positive_rate: float = 0.05,
    steps: int | None = None,
    generator: Rng = 0,
) -> Outliers:
    r"""Score cells by a density of reference cells, half of which say what is strange.

    The density is fitted to one half. With scores :math:`s_j = -\log p(x_j)` of the :math:`m` cells
    of the other, a cell of score :math:`s` has the p value :math:`(1 + \#\{s_j \ge s\}) / (1 + m)`
    :cite:p:`bates2023`: of new cells drawn as the reference was, at most a share
    `false_positive_rate` is called, whatever the density is worth, on average over such halves;
    of one half, give or take :math:`\sqrt{\alpha (1 - \alpha) / m}`.

    Parameters
    ----------
    x
        Cells to score, shape ``(n, d)``.
    reference
        Cells that are as they should be, shape ``(k, d)``. Of cells that are in `x` too, the half
        that was fitted looks less strange than it is.
    density
        Density model to fit, such as ``NSF()``.
    false_positive_rate
        Share :math:`\alpha` of such cells that may be called; at least one in ``k / 2 + 1``.
    steps, generator
        As in :meth:`~cellflow.densities.Density.fit`; the generator also draws the halves.
    """
    known = _checks.as_cells(reference, "reference", min_cells=4)
    cells = _checks.as_cells(x, "x", dim=known.shape[1])
    m = len(known) // 2
    rate = _checks.number(false_positive_rate, "false_positive_rate", low=0.0, high=0.5)
    called = int(rate * (m + 1) * (1 + 1e-12))  # rounding must not lose a cell
    if called == 0:
        expected = f"at least {1 / (m + 1):.3g} for {len(known):,} reference cells"
        raise ValueError(_checks.message("false_positive_rate", rate, expected))
    seed = draw_seed(generator)
    order = shuffle(len(known), torch.Generator().manual_seed(seed)).to(known.device)
    fitted = density.fit(known[order[m:]], steps=steps, generator=seed)
    calibration, score = (-fitted.log_prob(some).detach() for some in (known[order[:m]], cells))
    calibration = calibration.sort().values
    p_value = (1 + m - torch.searchsorted(calibration, score)).double() / (m + 1)
    threshold = float(calibration[m - called])
    return Outliers(score, p_value, threshold, fitted, calibration, order[m:])
