"""V- and U-statistics of a weighted sample, for the two kernel metrics."""

from __future__ import annotations

from cellflow import _checks
from cellflow._typing import Tensor


def within_mean(
    full_mean: float, self_value: float, mass: Tensor, *, unbiased: bool, name: str
) -> float:
    r"""Mean of a kernel over pairs of one sample.

    Parameters
    ----------
    full_mean
        :math:`\sum_{ij} a_i a_j k_{ij}`, the V-statistic.
    self_value
        The kernel of a cell with itself.
    mass
        Masses :math:`a`, shape ``(n,)``, of total one.
    unbiased
        Whether to return :math:`\sum_{i \ne j} a_i a_j k_{ij} / (1 - \sum_i a_i^2)` instead.
    name
        Name of the sample, for the error.

    Returns
    -------
    The mean.

    Raises
    ------
    ValueError
        If `unbiased` and the sample has a single cell.
    """
    if not unbiased:
        return full_mean
    if len(mass) < 2:
        raise ValueError(_checks.message(name, "1 cell", "at least 2 for an unbiased estimate"))
    repeated = float(mass @ mass)
    return (full_mean - repeated * self_value) / (1.0 - repeated)
