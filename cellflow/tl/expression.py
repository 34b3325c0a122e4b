"""From states back to genes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Tensor
from cellflow.fits import Ensemble, Fit
from cellflow.tl._genes import columns_of, readout_of

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
        logging.getLogger(__name__).info(
            "%.1f %% of the decoded expression was negative and is zero now: %.2g of the rest.",
            100 * cut["entries"],
            cut["mass"],
        )
    return cut


def _by_decoder(decoder: Decoder, x: torch.Tensor, genes: Sequence[str] | None) -> Decoded:
    """Return what a `decoder` of the user's own makes of states `x` ``(..., d)``."""
    flat = x.reshape(-1, x.shape[-1]).numpy()
    if not callable(decoder):
        raise TypeError(_checks.message("decoder", type(decoder).__name__, "a function of states"))
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
