"""Growth rates of observed cells, and masses of their descendants."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from anndata import AnnData

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.fits import Ensemble, Fit
from cellflow.plans.plan import CHILDLESS
from cellflow.simulate import Trajectory
from cellflow.tl._reading import masses_of, states_and_times


def growth(
    adata: AnnData,
    fit: Fit | Ensemble,
    *,
    key_added: str = "growth",
    solver: str = "rk4",
    n_paths: int = 1,
    rng: Rng = 0,
) -> None:
    r"""Write each cell's learned growth rate, and what becomes of it, into the AnnData.

    The descendants of a cell that starts at :math:`x` with mass one have, at the next snapshot,
    the mass :math:`\exp \int g(t, x_t)\,dt` along its path. A cell whose descendants carry less
    than a twentieth of what those of the mean cell of its time do counts as one without
    descendants (:data:`cellflow.plans.plan.CHILDLESS`).

    It writes ``obs["growth"]``, the rate at the cell's own time, births less deaths per unit of
    time; ``obs["growth_descendants"]``, the expected mass of the descendants at the next snapshot
    relative to the cell's own, which is 1 where births and deaths balance;
    ``obs["growth_childless"]``, whether a cell has none; and ``uns["growth_fit"]``, with the share
    of cells without descendants among those that could have some (``"childless"``). Rates are NaN
    for cells without a time; masses also for those of the last time point, which nothing follows,
    and neither counts as childless. Of an ensemble, rates and masses are means over its members,
    and ``obs["growth_std"]`` is the rates' standard deviation.

    Parameters
    ----------
    adata, fit
        As in :func:`simulate`; of a method with growth, such as ``"uotcfm"`` or ``"ubsb"``.
    key_added
        Column of ``obs`` for the rates, and first part of the other keys.
    solver, rng
        As in :func:`simulate`: along the mean flow, or with a stochastic solver over random
        futures.
    n_paths
        Futures of each cell over which the mass of its descendants is averaged, for a stochastic
        solver; without noise they are all the same.
    """
    _checks.key(key_added, "key_added")
    members = list(fit) if isinstance(fit, Ensemble) else [fit]
    if members[0].dynamics.growth is None:
        got, remedy = f"a fit of {fit.method.name!r}", "Fit with method='uotcfm' or 'ubsb'."
        raise ValueError(_checks.message("fit", got, "one of a method with growth", remedy))
    n_paths = _checks.count(n_paths, "n_paths")
    generator = _checks.as_generator(rng, "rng")
    _, times, states = states_and_times(adata, fit)
    x = torch.from_numpy(states[:, : fit.course.dim])
    mass = masses_of(adata, fit)
    weights = np.where(np.isfinite(mass) & (mass > 0), mass, 0.0)
    rates, log_mass = np.full((len(members), len(x)), np.nan), np.full(len(x), np.nan)
    childless = np.zeros(len(x), dtype=bool)
    for time in np.unique(times[np.isfinite(times)]):
        rows = np.flatnonzero(times == time)
        rates[:, rows] = [one.growth(time, x[rows]).cpu().numpy() for one in members]
        later = [t for t in fit.course.times if t > time]
        if not later:
            continue
        clock = [time, later[0]]
        paths = []
        for one in (one for one in members for _ in range(n_paths)):
            path = one.simulate(x[rows], clock, solver=solver, generator=generator)
            # Nothing was stored, and there is growth: checked above.
            paths.append(cast(Tensor, cast(Trajectory, path).log_mass)[-1].double())
        mean = torch.logsumexp(torch.stack(paths), 0) - math.log(len(paths))
        log_mass[rows] = mean.cpu().numpy()
        share = weights[rows] / weights[rows].sum()
        # Relative to the largest, which cannot overflow.
        relative = np.exp(log_mass[rows] - log_mass[rows].max())
        childless[rows] = relative < CHILDLESS * (share @ relative)
    followed = np.isfinite(log_mass)
    adata.obs[key_added] = rates.mean(0)
    if len(members) > 1:
        adata.obs[f"{key_added}_std"] = rates.std(0, ddof=1)
    adata.obs[f"{key_added}_descendants"] = np.exp(log_mass)
    adata.obs[f"{key_added}_childless"] = childless
    adata.uns[f"{key_added}_fit"] = {
        "method": fit.method.name,
        "unit": f"per {fit.course.unit}",
        "childless": float(childless[followed].mean()) if followed.any() else 0.0,
        "childless_below": CHILDLESS,
        "n_without_time": int((~np.isfinite(times)).sum()),
    }
