"""Mean changes of genes under a condition: predicted against observed."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from cellflow import _checks
from cellflow.pl import _cells, _frame


def mean_changes(
    predicted: AnnData,
    observed: AnnData,
    control: AnnData,
    *,
    n_genes: int = 5,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw the mean change of each gene from the control, predicted against observed.

    On the dashed line both agree; on the horizontal axis lies the prediction that nothing happens.
    The share explained of the changes is
    :math:`1 - \sum_g (\hat\Delta_g - \Delta_g)^2 / \sum_g \Delta_g^2`, over the genes of all three,
    as in :func:`cellflow.evaluate.holdout_conditions`: 0 for the control itself.

    Parameters
    ----------
    predicted
        Predicted cells of the condition, such as :func:`cellflow.tl.predict` returns, with
        expression in ``X``.
    observed, control
        Cells measured under the condition, and those of the control, such as
        ``adata[adata.obs["drug"] == "A"]``, on the same scale. Cells weigh by ``obs["mass"]`` where
        there is one.
    n_genes
        Genes to name: those that change most.
    ax
        Where to draw; a new figure when omitted.
    """
    n = _checks.count(n_genes, "n_genes", low=0)
    genes = observed.var_names.intersection(predicted.var_names, sort=False)
    genes = genes.intersection(control.var_names, sort=False)
    if len(genes) == 0:
        got, remedy = "no gene of all three", "Predict with genes: tl.predict(..., genes=None)."
        raise ValueError(_checks.message("predicted", got, "genes in common", remedy))
    before, after, found = (_mean(a[:, genes]) for a in (control, observed, predicted))
    wanted, found = after - before, found - before
    total = float((wanted**2).sum())
    ax = _frame.axes(ax, size=(3.0, 2.8))
    _cells.draw(ax, np.stack([wanted, found], 1), color=_frame.PALETTE[0], s=12, alpha=0.7)
    ends = np.array([min(wanted.min(), found.min()), max(wanted.max(), found.max())])
    ax.plot(ends, ends, ls="--", lw=0.8, color=_frame.GREY, zorder=0)
    ax.axhline(0.0, lw=0.6, color=_frame.GREY, zorder=0)
    named = np.argsort(-np.abs(wanted))[:n]
    heights = _frame.spread(found[named], 0.06 * np.ptp(ends)) if n else np.empty(0)
    text: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
    for g, height in zip(named, heights, strict=True):  # no name over another
        ax.annotate(str(genes[g]), (wanted[g], height), (4, 0), fontsize=_frame.SMALL, **text)
    _frame.dress(ax, x="observed mean change", y="predicted mean change")
    if total:
        share = f"explained {1 - float(((found - wanted) ** 2).sum()) / total:.2f}"
        ax.annotate(share, (0.03, 0.97), xycoords="axes fraction", va="top", fontsize=_frame.SMALL)
    return ax


def _mean(cells: AnnData) -> np.ndarray:
    """Mean of the expression of `cells` by their masses, ``(g,)``."""
    mass = cells.obs["mass"].to_numpy(dtype=float) if "mass" in cells.obs else np.ones(cells.n_obs)
    return np.asarray((mass / mass.sum()) @ cells.X).ravel()
