"""Where cells become more and where fewer between two times."""

from __future__ import annotations

from anndata import AnnData

from cellflow import _checks
from cellflow._random import draw_seed
from cellflow._typing import Rng
from cellflow.densities import Density
from cellflow.pp.access import column_of
from cellflow.pp.times import parse_times, read_time
from cellflow.tl._reading import read_all, resolve_density


def density_ratio(
    adata: AnnData,
    *,
    time_key: str,
    start: float | str,
    end: float | str,
    method: str | Density = "nsf",
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    steps: int | None = None,
    key_added: str = "density_ratio",
    rng: Rng = 0,
) -> None:
    """Tell of each cell's place how much denser it is at one time than at another.

    It says where cells become more; whether they divided there or came from elsewhere, it does not.

    Parameters
    ----------
    adata, time_key
        As in :func:`fit`.
    start, end
        Times to compare: numbers, or labels such as ``"E7.5"``.
    method, use_rep, n_dims, steps, key_added, rng
        As in :func:`outlier_score`. A density is fitted to the cells of either time.

    Returns
    -------
    None
        Writes ``obs["density_ratio"]``: the log-density of a cell's place at the end less
        that at the start, in nats, whatever time the cell is of, an extrapolation far from
        the cells of both. Shares of cells are compared, not numbers. ``uns["density_ratio"]`` has
        the times and the method.
    """
    key, density = _checks.key(key_added, "key_added"), resolve_density(method)
    column = column_of(adata, time_key, "time_key")
    table = parse_times(column, missing="drop", name=f"obs[{time_key!r}]")
    labels = dict(zip(table.labels, table.times, strict=True))
    times = {"start": start, "end": end}
    times = {k: read_time(t, labels, unit=table.unit, name=k) for k, t in times.items()}
    for name, time in times.items():
        if time not in table.time_points or times["end"] == times["start"]:
            known = ", ".join(f"{t:g}" for t in table.time_points)
            raise ValueError(_checks.message(name, f"{time:g}", f"another one of {known}"))
    x, seed = read_all(adata, use_rep, n_dims), draw_seed(rng)
    before, after = (
        density.fit(x[table.kept[table.cell_times == t]], steps=steps, generator=seed)
        for t in times.values()
    )
    adata.obs[key] = (after.log_prob(x) - before.log_prob(x)).detach().cpu().numpy()
    adata.uns[key] = {**times, "method": type(density).__name__}
