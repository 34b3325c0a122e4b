"""A fit, or coupled cells, as a kernel of CellRank."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cellflow import _checks
from cellflow._typing import Rng
from cellflow.answers import chances
from cellflow.fits import Ensemble, Fit
from cellflow.timecourse import Snapshot
from cellflow.tl.coupled import Coupled
from cellflow.tl.fates import cells_of
from cellflow.tl.velocity import velocity

#: Column of times that is made for CellRank's RealTimeKernel.
TIME_KEY = "cellrank_time"


def to_cellrank(
    adata: AnnData,
    fit: Fit | Ensemble | Coupled,
    *,
    kernel: str = "velocity",
    n_futures: int = 10,
    neighbours: int = 15,
    rng: Rng = 0,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Return a kernel of CellRank :cite:p:`weiler2024`, with its transition matrix computed.

    Estimators, such as ``cellrank.estimators.GPCCA(kernel)``, find macrostates, fates and genes
    from it.

    Parameters
    ----------
    adata
        Cells with the representation and the time column that the fit was made from.
    fit
        A fit, an ensemble, or what :func:`cellflow.tl.couple` returned.
    kernel
        ``"velocity"``, of a fit: VelocityKernel, from each cell to those of its neighbours (call
        :func:`scanpy.pp.neighbors` before) that lie in the direction of its velocity, which
        :func:`cellflow.tl.velocity` writes. ``"realtime"``, of coupled cells: RealTimeKernel, from
        each cell to its partners at the next time; times are put in ``obs["cellrank_time"]``, as
        the categories that it needs. ``"precomputed"``, of either: PrecomputedKernel, from each
        cell to the observed cells where its futures come to at the next time
        (:func:`cellflow.answers.chances`), or to its partners; cells of the last time, and those
        without a partner, stay where they are.
    n_futures, neighbours, rng
        Of ``"precomputed"`` from a fit: futures of each cell, where the method learned noise;
        observed cells among which a future is shared out; seed or generator of the noise.
    options
        Arguments of the kernel's ``compute_transition_matrix``, by name. Where they do not say
        otherwise, velocities are compared by their ``similarity="cosine"``, because a correlation
        would leave out the mean over components, and ``conn_kwargs`` have the representation that
        was coupled.

    Raises
    ------
    ImportError
        If CellRank is not installed, or does not work with this version of numpy.
    ValueError
        If the kernel is not one of such a fit, or cells have no time.
    """
    _checks.choice(kernel, ("velocity", "realtime", "precomputed"), "kernel")
    if kernel == ("velocity" if isinstance(fit, Coupled) else "realtime"):
        got, door = f"{kernel!r} of a {type(fit).__name__}", "fit" if kernel[0] == "v" else "couple"
        expected = f"one of what cellflow.tl.{door} returns"
        raise ValueError(_checks.message("kernel", got, expected))
    how = dict(options or {})
    if kernel == "precomputed" and how:
        expected = "none for a matrix that is made here"
        raise ValueError(_checks.message("options", ", ".join(how), expected))
    try:
        from cellrank import kernels
    except ImportError as error:
        remedy = 'pip install "cellflow-sb[cellrank]"'
        raise ImportError(f"A kernel of CellRank needs cellrank: {remedy}.") from error
    if not isinstance(fit, Coupled) and kernel == "velocity":
        made = _velocity_kernel(adata, fit, kernels.VelocityKernel)
        return made.compute_transition_matrix(**{"similarity": "cosine"} | how)
    times, x = cells_of(adata, fit)
    if np.isnan(times).any():
        got, remedy = f"{np.isnan(times).sum()} cells without a time", "Leave them out at first."
        raise ValueError(_checks.message("adata", got, "a time for each cell", remedy))
    if not isinstance(fit, Coupled):
        cells = [Snapshot(x[times == time], time) for time in np.unique(times)]
        step = partial(chances, fit, n_futures=n_futures, neighbours=neighbours, generator=rng)
        steps = [step(before, after) for before, after in pairwise(cells)]
        return kernels.PrecomputedKernel(_whole(steps, times), adata)
    chain = fit.transitions
    if kernel == "precomputed":
        steps = [chain.matrix(*pair) for pair in pairwise(chain.times)]
        return kernels.PrecomputedKernel(_whole(steps, times), adata)
    plans = dict(zip(pairwise(chain.times), fit.tmaps().values(), strict=True))
    adata.obs[TIME_KEY] = pd.Categorical(times, categories=chain.times)
    made = kernels.RealTimeKernel(adata, time_key=TIME_KEY, couplings=plans)
    return made.compute_transition_matrix(**{"conn_kwargs": {"use_rep": fit.index.use_rep}} | how)


def _velocity_kernel(adata: AnnData, fit: Fit | Ensemble, kind: Any) -> Any:
    """Return a VelocityKernel, a class of which is `kind`, of velocities that are written here."""
    velocity(adata, fit)
    rep = fit.origin["use_rep"]
    keys = {"attr": "obsm", "xkey": rep, "vkey": f"velocity_{rep.removeprefix('X_')}"}
    try:
        return kind(adata, **keys) if rep != "X" else kind(adata)  # layers "Ms" and "velocity"
    except TypeError as error:  # of CellRank 2.0.7, which calls numpy by names that are gone
        remedy = 'pip install "cellflow-sb[cellrank]", which takes numpy < 2.3'
        got = f"CellRank's VelocityKernel does not work with numpy {np.__version__}"
        raise ImportError(f"{got}: {remedy}.") from error


def _whole(steps: list[sparse.csr_matrix], times: np.ndarray) -> sparse.csr_matrix:
    """Return one matrix of all cells from those between consecutive `times`, rows of sum one.

    A cell that goes nowhere stays.
    """
    rows = [np.flatnonzero(times == time) for time in np.unique(times)]
    n, parts = len(times), [step.tocoo() for step in steps]
    here = np.concatenate([at[part.row] for at, part in zip(rows, parts, strict=False)])
    there = np.concatenate([at[part.col] for at, part in zip(rows[1:], parts, strict=True)])
    mass = np.concatenate([part.data for part in parts])
    out = sparse.csr_matrix((mass, (here, there)), shape=(n, n), dtype=float)
    total = np.asarray(out.sum(1)).ravel()
    stays = sparse.diags((total == 0).astype(float))
    return (sparse.diags(1 / np.where(total > 0, total, 1)) @ out + stays).tocsr()
