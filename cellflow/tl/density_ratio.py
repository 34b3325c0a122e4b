"""Where cells become more and where fewer between two times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cellflow import _checks
from cellflow._typing import Rng
from cellflow.answers import log_ratio
from cellflow.densities import Density
from cellflow.pp.reading import Reading
from cellflow.pp.times import read_time
from cellflow.tl._reading import preprocessing_of, read_course, resolve_density

if TYPE_CHECKING:
    from anndata import AnnData


def density_ratio(
    adata: AnnData,
    *,
    time_key: str,
    between: Sequence[float | str],
    method: str | Density = "nsf",
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    steps: int | None = None,
    key_added: str = "density_ratio",
    rng: Rng = 0,
) -> None:
    """Tell of each cell's place how much denser it is at one time than at another.

    By densities fitted to the cells of both times: :func:`cellflow.answers.log_ratio`. It says
    where cells become more; whether they divided there or came from elsewhere, it does not.

    Parameters
    ----------
    adata, time_key, use_rep, n_dims
        As in :func:`fit`; cells without a time are left out.
    between
        The earlier and the later time: numbers, or labels such as ``"E7.5"``.
    method
        Density to fit: a name of :data:`cellflow.densities.DENSITIES`, or one such as ``NSF()``.
    steps
        Training steps of each density at most; those of the density when omitted.
    key_added
        Key that is written.
    rng
        Seed or generator of training.

    Returns
    -------
    None
        Writes ``obs["density_ratio"]``: the log-density of a cell's place at the later time less
        that at the earlier one, in nats, NaN for cells without a time; shares of cells are
        compared, not numbers. ``uns["density_ratio"]`` has the times and the method. At cells far
        from those of both times it is an extrapolation.
    """
    key, density = _checks.key(key_added, "key_added"), resolve_density(method)
    keys = Reading(time_key=time_key, use_rep=use_rep, n_dims=n_dims, missing="drop")
    course, index, n_components = read_course(adata, keys)
    prep = preprocessing_of(course.x, n_components, False)
    labels = dict(zip(index.table.labels, index.table.times, strict=True))
    times = [read_time(t, labels, unit=course.unit, name="between") for t in between]
    if len(set(times)) != 2 or len(times) != 2 or not set(times) <= set(course.times):
        got, known = repr(list(between)), ", ".join(f"{t:g}" for t in course.times)
        raise ValueError(_checks.message("between", got, f"two times of {known}"))
    x, start, end = (
        z if prep is None else prep.apply(z)
        for z in (course.x, *(course.snapshots[course.times.index(t)].x for t in times))
    )
    ratio = np.full(adata.n_obs, np.nan)
    found = log_ratio(x, start, end, density=density, steps=steps, generator=rng)
    ratio[np.concatenate(index.rows)] = found.cpu().numpy()
    adata.obs[key] = ratio
    adata.uns[key] = {"between": np.array(times), "method": type(density).__name__}
