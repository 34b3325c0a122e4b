"""Influence: how a little more of one gene changes the velocity of another."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Tensor
from cellflow.dynamics import along_probes
from cellflow.fits import Ensemble, Fit

#: Entries of the matrices of cells that are in memory at once.
BLOCK = 2**24


@dataclass(frozen=True, eq=False)
class Influence:
    """Jacobian of a fitted field over `n` cells, per unit of time.

    Of the `members` of an ensemble, or of the one fit, means over cells, ``(members, g, g)``: in
    row i and column j, what one unit more of j adds to the velocity of i. The `strength` ``(g, g)``
    is the mean over cells and members of the absolute values: an influence whose sign differs
    between cells is strong, though it may be zero in the mean.
    """

    n: int
    members: Tensor
    strength: Tensor

    @property
    def jacobian(self) -> Tensor:
        """Mean over cells and members, ``(g, g)``."""
        return self.members.mean(0)


def influence(
    fit: Fit | Ensemble,
    time: float | ArrayLike,
    x: ArrayLike,
    *,
    loadings: Tensor | None = None,
    rows: ArrayLike | None = None,
    drift: bool = False,
) -> Influence:
    r"""Average the Jacobian of a fitted field over cells, in the data's dimensions or in genes.

    With gene loadings :math:`L`, a unit more of gene j moves a cell by row j, and a cell that
    moves by :math:`v` gains :math:`v L^+` of the genes, so that the Jacobian of genes is
    :math:`(L^+)^\top J L^\top`: for orthonormal components :math:`V`, :math:`V J V^\top`,
    whichever way these are turned.

    Parameters
    ----------
    fit
        A fit or an ensemble.
    time, x
        One time, or one for each cell, and cells in data coordinates, shape ``(n, d)``.
    loadings
        How far one unit of each gene moves a cell in the data's dimensions, shape ``(genes, d)``,
        of full rank; genes are the dimensions when omitted.
    rows
        Numbers of the genes to look at, ``(g,)``; all when omitted.
    drift
        Whether to take the drift of the stochastic dynamics in place of the velocity of the flow.
        The flow also moves cells as their diffusion spreads them, which couples dimensions that
        do not act on each other.
    """
    members, strengths = [], []
    for one in list(fit) if isinstance(fit, Ensemble) else [fit]:
        if drift and one.dynamics.score is None:
            expected = "a method that learns a score, such as SF2M()"
            raise ValueError(_checks.message("drift", f"{one.method.name!r}", expected))
        field = one.dynamics.drift if drift else one.dynamics.velocity
        t, z, rate = one.encoded(time, x)
        if len(z) == 0:
            raise ValueError(_checks.message("x", "no cells", "at least one"))
        t, rate = t.expand(len(z)), rate.expand(len(z)).double()
        into, back = _maps(one, z, loadings, rows)
        unit = torch.eye(z.shape[1])[:, None]
        mean = strength = torch.zeros(len(back), len(back)).to(back)
        for part in torch.arange(len(z)).split(max(1, BLOCK // max(len(back), z.shape[1]) ** 2)):
            _, found = along_probes(field, t[part], z[part], probes=unit)
            each = back @ found.transpose(0, 1).detach().double() @ into
            each = each * rate[part, None, None]
            mean, strength = mean + each.sum(0), strength + each.abs().sum(0)
        members.append(mean.cpu() / len(z))
        strengths.append(strength.cpu() / len(z))
    return Influence(len(z), torch.stack(members), torch.stack(strengths).mean(0))


def _maps(
    fit: Fit, z: Tensor, loadings: Tensor | None, rows: ArrayLike | None
) -> tuple[Tensor, Tensor]:
    """Return what genes move in model coordinates, ``(k, g)``, and these in genes, ``(g, k)``."""
    unit, prep = torch.eye(z.shape[1], device=z.device, dtype=torch.float64), fit.preprocessing
    into = back = unit
    if prep is not None:
        into, back = prep.invert_gradients(unit), prep.invert_vectors(unit).T
    if loadings is not None:
        moved = loadings.to(into)
        into, back = into @ moved.T, torch.linalg.solve(moved.T @ moved, moved.T).T @ back
    return (into, back) if rows is None else (into[:, rows], back[rows])
