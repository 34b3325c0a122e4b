"""The population at a day nobody sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cellflow._typing import Rng
from cellflow.methods import Fit

if TYPE_CHECKING:
    from anndata import AnnData


def interpolate(
    fit: Fit,
    *,
    time: float,
    n_cells: int | None = None,
    solver: str = "rk4",
    rng: Rng = 0,
) -> AnnData:
    """Cells of the population at any time, as an AnnData to carry on with in scanpy.

    The cells of the last snapshot before `time` are carried forward to it.

    Parameters
    ----------
    fit
        What :func:`cellflow.tl.fit` or :func:`cellflow.load` returned; no AnnData is needed.
    time
        Time asked for, in the fit's unit.
    n_cells
        How many cells; those of the earlier snapshot, each once, when omitted. More than these
        are drawn again: see :meth:`cellflow.methods.Fit.interpolate`.
    solver
        As in :func:`cellflow.tl.simulate`.
    rng
        Seed or generator of the choice of cells, and of a stochastic solver.

    Returns
    -------
    AnnData of shape ``(n, 0)`` with the states in ``obsm[use_rep]`` (for a fit to expression,
    shape ``(n, genes)`` with them in ``X``, genes named as in the data), ``obs[time_key]``,
    ``obs["mass"]`` (grown where the method learned growth), labels if the fit has them, and
    ``uns["interpolation"]``.

    Raises
    ------
    ValueError
        If `time` is not finite or `n_cells` not positive.
    """
    import pandas as pd
    from anndata import AnnData

    snapshot = fit.interpolate(time, n_cells=n_cells, solver=solver, generator=rng)
    x = snapshot.x.cpu().numpy()
    rep = fit.origin.get("use_rep", "X_state")
    obs = pd.DataFrame(
        {
            fit.origin.get("time_key", "time"): np.full(len(x), float(time)),
            "mass": snapshot.mass.cpu().numpy(),
        },
        index=[f"predicted-{i}" for i in range(len(x))],
    )
    if snapshot.labels is not None:
        obs[fit.origin.get("label_key") or "label"] = pd.Categorical(snapshot.labels)
    if rep == "X":
        out = AnnData(X=x, obs=obs)
        out.var_names = fit.origin.get("var_names", out.var_names)
    else:
        out = AnnData(obs=obs, obsm={rep: x})
    out.uns["interpolation"] = {
        "method": fit.method.name,
        "time": float(time),
        "unit": fit.course.unit,
        "observed_times": np.array(fit.course.times),
    }
    return out
