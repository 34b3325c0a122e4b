"""From states back to genes, and the population at a time between those that were sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.answers import labels_at
from cellflow.fits import Ensemble, Fit, Interpolation
from cellflow.logging import Verbosity, say
from cellflow.pp.genes import pca_keys
from cellflow.timecourse import Snapshot
from cellflow.tl._genes import columns_of, readout_of
from cellflow.tl._reading import time_of

#: From states ``(n, d)`` to a table of ``n`` rows, with a column for each gene.
Decoder: TypeAlias = "Callable[[np.ndarray], pd.DataFrame]"
#: Most bytes of expression that are made at once.
MEMORY = 2.0**32


def expression(
    fit: Fit | Ensemble,
    states: ArrayLike,
    *,
    genes: Sequence[str] | None = None,
    decoder: Decoder | None = None,
    floor: bool = True,
    memory: float = MEMORY,
) -> np.ndarray:
    """Expression of genes in states of a fit.

    Parameters
    ----------
    fit
        A fit of ``use_rep="X"``, or to principal components whose loadings and expression were in
        the AnnData; any fit with a `decoder`.
    states
        As its answers have them, shape ``(..., d)``: cells, or the ``x`` of a trajectory.
    genes
        Names, in the order wanted; all genes of the fit when omitted.
    decoder
        Function from states ``(n, d)``, an array, to a DataFrame with a row for each and a column
        for each gene, for fits to a latent space. Of scVI, with a model of one batch::

            def decoder(z):
                z, zero = torch.as_tensor(z), torch.zeros(len(z), 1)
                scale = model.module.generative(z, zero, zero.long())["px"].scale.detach()
                return pd.DataFrame(scale.cpu().numpy(), columns=model.adata.var_names)

    floor
        Set expression below zero to zero, where that of the cells never is. The log (at the level
        ``INFO``) says how much that was.
    memory
        Most bytes that the answer may take, without a decoder.

    Returns
    -------
    Expression, shape ``(..., genes)``, in the floating dtype of `states`: of a fit to components
    what these say of it, without what they leave out; else in that of the decoder.
    """
    return decode(fit, states, Wanted(genes, decoder, floor, memory)).values


class Wanted(NamedTuple):
    """Which `genes` are wanted, and how they are made: as in :func:`expression`."""

    genes: Sequence[str] | None
    decoder: Decoder | None
    floor: bool
    memory: float = MEMORY


@dataclass(frozen=True, eq=False)
class Decoded:
    """Expression `values` ``(..., g)`` of the genes `names`, and what the floor took away.

    That is `cut`: ``entries``, the share of negative ones, and ``mass``, their sum relative to what
    is left. The `loadings` are ``(g, d)``; None where states are genes, or were decoded otherwise.
    """

    names: list[str]
    values: np.ndarray
    loadings: Tensor | None
    cut: dict[str, float]


def decode(fit: Fit | Ensemble, states: ArrayLike, wanted: Wanted) -> Decoded:
    """Return expression as :func:`expression` does, with its names and what was cut."""
    genes, decoder, floor, memory = wanted
    x = _checks.as_numbers(states, "states").detach().cpu()
    x = x if x.is_floating_point() else x.float()
    if x.ndim == 0:
        raise ValueError(_checks.message("states", "one number", "states of shape (..., d)"))
    if not bool(x.isfinite().all()):
        raise ValueError(_checks.message("states", "NaN or infinite values", "finite numbers"))
    if decoder is not None:
        return _by_decoder(decoder, x, genes)
    names, found = readout_of(fit.origin)
    width = len(names) if found is None else found.loadings.shape[1]  # type: ignore[union-attr]
    if x.shape[-1] != width:
        raise ValueError(_checks.message("states", f"shape {tuple(x.shape)}", f"(..., {width})"))
    columns: slice | np.ndarray = slice(None)
    if genes is not None:
        names, columns = columns_of(names, genes)
    _checks.number(memory, "memory", low=0.0)
    size = x.numel() // width * len(names) * x.element_size()
    if size > memory:
        got = f"{size / 2**30:.1f} GiB for {x.numel() // width} states of {len(names)} genes"
        remedy = "Ask for some `genes`, or for fewer cells."
        raise ValueError(_checks.message("states", got, f"at most {memory / 2**30:.3g}", remedy))
    if found is None:
        loadings, values = None, x[..., columns].numpy()
    else:
        loadings = found.loadings[columns]  # type: ignore[index] # it has some
        values = replace(found, loadings=loadings, mean=found.mean[columns]).invert(x).numpy()
    if not (floor and fit.origin.get("non_negative")):
        return Decoded(names, values, loadings, {})
    return Decoded(names, np.maximum(values, 0), loadings, _cut(values))


def _cut(values: np.ndarray) -> dict[str, float]:
    """Return how much of `values` is below zero, and say so in the log."""
    negative = values < 0
    below = -float(values[negative].sum(dtype=np.float64))
    kept = float(values.sum(dtype=np.float64)) + below
    cut = {"entries": float(negative.mean()), "mass": below / kept if kept else 0.0}
    if below:
        share, rest = 100 * cut["entries"], cut["mass"]
        text = f"{share:.1f} % of the decoded expression was negative and is zero now"
        say(f"{text}: {rest:.2g} of the rest.", at=Verbosity.hint)
    return cut


def _by_decoder(decoder: Decoder, x: torch.Tensor, genes: Sequence[str] | None) -> Decoded:
    """Return what a `decoder` of the user's own makes of states `x` ``(..., d)``."""
    flat = x.reshape(-1, x.shape[-1]).numpy()
    if not callable(decoder):
        raise TypeError(_checks.message("decoder", type(decoder).__name__, "a function of states"))
    with _checks.by_function("decoder"):
        table = decoder(flat)
    if not hasattr(table, "columns") or len(table) != len(flat):
        shape = getattr(table, "shape", "no shape")
        got = f"a {type(table).__name__} of {shape} for {len(flat)} states"
        expected = "a DataFrame with a row for each state and a column for each gene"
        raise ValueError(_checks.message("decoder", got, expected))
    names = list(map(str, table.columns))
    values = table.to_numpy()
    if genes is not None:
        names, columns = columns_of(names, genes)
        values = values[:, columns]
    return Decoded(names, values.reshape(*x.shape[:-1], len(names)), None, {})


def interpolate(
    fit: Fit | Ensemble,
    *,
    time: float | str,
    n_cells: int | None = None,
    weighted: bool = True,
    solver: str = "rk4",
    rng: Rng = 0,
    genes: Sequence[str] | None = None,
    decoder: Decoder | None = None,
    floor: bool = True,
) -> AnnData:
    """Cells of the population at any time, as an AnnData to carry on with in scanpy.

    The cells of the last snapshot before `time` are carried forward to it, by the default method
    also those of the next one back; by an ensemble, each of them by every member. Where the method
    learned growth, cells count by ``obs["mass"]``; ask for equal ones with ``weighted=False``.

    Parameters
    ----------
    fit
        What :func:`cellflow.tl.fit` or :func:`cellflow.load` returned; no AnnData is needed.
    time
        Time asked for: a number in the fit's unit, or a label of a time, such as ``"E7.6"``.
    n_cells
        How many cells; those of these snapshots, each once, when omitted. More than these are drawn
        again: see :meth:`cellflow.fits.Fit.interpolate`. Of an ensemble, so many by each member.
    weighted
        Whether cells carry their masses; if not, `n_cells` (as many as the earlier snapshot has)
        are drawn in proportion to mass and count the same.
    solver, rng
        As in :func:`cellflow.tl.simulate`; the choice of cells is random, too.
    genes, decoder
        As in :func:`cellflow.tl.expression`. An empty list of genes leaves them out.
    floor
        Whether to set expression below zero to zero, as :func:`cellflow.tl.expression` does.

    Returns
    -------
    AnnData of shape ``(n, genes)`` with expression in ``X``, genes named as in the data, and the
    states in ``obsm[use_rep]`` (of a fit to expression on disk ``obsm["X_pca"]``), with their
    loadings in ``varm``; of shape ``(n, 0)`` where the fit has no way back to genes. Besides
    ``obs[time_key]``, ``obs["mass"]`` (grown where the method learned growth) and
    ``uns["interpolation"]``: in its ``cut`` how much the floor took away, as shares of ``entries``
    and, relative to what is left, of ``mass``. If the fit has labels, the
    column of its `label_key` has that of the place which a cell reached, by the observed cells
    around it at the nearest times, ``obsm["<label_key>_probability"]`` how sure that is, and
    ``obs["origin_<label_key>"]`` the label of the cell that it was carried from. Of an ensemble,
    the cells of all members as one population, with ``obs["member"]``, ``obs["cell"]``, the number
    of the cell that was carried, and ``obs["spread"]``, how far from each other the members took
    that cell: the root of its squared distance to their mean, averaged over them, in data units.
    """
    time = time_of(fit, time)
    found = fit.interpolate(time, n_cells=n_cells, weighted=weighted, solver=solver, generator=rng)
    snapshot, several = pooled(found)
    x = snapshot.x.cpu().numpy()
    columns = {fit.origin.get("time_key") or "time": np.full(len(x), time)}
    columns |= {"mass": snapshot.mass.cpu().numpy(), **several}
    obs = pd.DataFrame(columns, index=[f"predicted-{i}" for i in range(len(x))])
    tables = {} if snapshot.labels is None else _label(obs, fit, snapshot)
    out = population(fit, x, obs, wanted=Wanted(genes, decoder, floor))
    out.obsm.update(tables)
    out.uns["interpolation"] |= {
        "method": fit.method.name,
        "time": time,
        "unit": fit.course.unit,
        "observed_times": np.array(fit.course.times),
    }
    if several:
        out.uns["interpolation"]["members"] = len(fit)  # type: ignore[arg-type] # an Ensemble
    return out


def pooled(cells: Snapshot | Interpolation) -> tuple[Snapshot, dict[str, Any]]:
    """Return the cells of all members as one population, and what columns tell of these."""
    if isinstance(cells, Snapshot):
        return cells, {}
    m, n = len(cells.members), len(cells.members[0])
    spread = cells.states.std.square().sum(1).sqrt().cpu().numpy()
    told = {
        "member": pd.Categorical(np.repeat(np.arange(m), n)),
        "cell": np.tile(np.arange(n), m),
        "spread": np.tile(spread, m),
    }
    return cells.pooled, told


def population(fit: Fit | Ensemble, x: np.ndarray, obs: pd.DataFrame, *, wanted: Wanted) -> AnnData:
    """Return states `x` ``(n, d)`` as an AnnData, in genes where there is a way to them."""
    rep, found = fit.origin.get("use_rep", "X_state"), fit.origin.get("components")
    states = {"X_pca" if rep == "X" else rep: x} if rep != "X" or found is not None else {}
    told: dict[str, Any] = {}
    genes = None if wanted.genes is None else _checks.several(wanted.genes, "genes")
    wanted, none = wanted._replace(genes=genes), genes == []
    if states and (none or found is wanted.decoder is None):
        return AnnData(obs=obs, obsm=states, uns={"interpolation": told})
    decoded = decode(fit, x, wanted)
    if decoded.cut:
        told["cut"] = decoded.cut
    var = pd.DataFrame(index=decoded.names)
    out = AnnData(decoded.values, obs, var, obsm=states, uns={"interpolation": told})
    if decoded.loadings is not None:
        out.varm[pca_keys("X_pca" if rep == "X" else rep)[0]] = decoded.loadings.cpu().numpy()
    return out


def _label(obs: pd.DataFrame, fit: Fit | Ensemble, cells: Snapshot) -> dict[str, pd.DataFrame]:
    """Write labels of `cells` into `obs`: where they came from, and of the place they reached.

    Returns the probabilities of the latter by their key in ``obsm``. Observed cells are what they
    are.
    """
    key = fit.origin.get("label_key") or "label"
    obs[f"origin_{key}"] = obs[key] = pd.Categorical(cells.labels)
    if cells.time in fit.course.times:
        return {}
    names, shares = labels_at(fit.course, cells, preprocessing=fit.preprocessing)
    table = pd.DataFrame(shares.numpy(), obs.index, names)
    obs[key] = pd.Categorical(table.idxmax(axis=1), categories=names)
    return {f"{key}_probability": table}
