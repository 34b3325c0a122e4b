"""The way from a representation back to genes, as principal components leave it in an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cellflow.pp.access import checked, on_disk, read_states, row_chunks
from cellflow.pp.components import MEMORY
from cellflow.preprocessing import Preprocessing

if TYPE_CHECKING:
    from anndata import AnnData

#: Cells whose states are compared with what expression makes of them, and the largest difference.
SAMPLE, TOLERANCE = 256, 0.01


def pca_keys(rep: str) -> tuple[str, str]:
    """Return where scanpy keeps the loadings of `rep`, in ``varm``, and the rest, in ``uns``."""
    return ("PCs", "pca") if rep == "X_pca" else (rep, rep)


def gene_facts(adata: AnnData, rep: str, n_dims: int) -> dict[str, Any]:
    """Return what a fit to `n_dims` dimensions of `rep` keeps, so that it can answer in genes.

    ``var_names``, the genes; ``non_negative``, whether no expression is below zero, as a sample of
    cells has it; and, unless `rep` is ``"X"``, the ``components`` that turn genes into states. Or
    ``no_genes`` alone: why there is no way back.
    """
    if rep == "X":
        x = _sampled(adata.X, _sample(adata.n_obs))
        return {"var_names": list(map(str, adata.var_names)), "non_negative": bool(x.min() >= 0)}
    found = _behind(adata, rep, n_dims)
    return {"no_genes": found} if isinstance(found, str) else found


def _behind(adata: AnnData, rep: str, d: int) -> dict[str, Any] | str:
    """Return the facts of a representation, or why it has none."""
    key, place = pca_keys(rep)
    loadings, facts = adata.varm.get(key), adata.uns.get(place, {})
    kind = np.asarray(loadings).dtype.kind  # None and text have none that counts
    if kind not in "fiu" or loadings.ndim != 2 or loadings.shape[1] < d:
        return f"varm[{key!r}] has no loadings of {rep!r}"
    params = facts.get("params", {})
    layer = params.get("layer")
    source = "X" if layer is None else f"layers[{layer!r}]"
    if adata.isbacked and adata.is_view:
        return f"{source} of this view would have to be read whole"
    stored = adata.X if layer is None else adata.layers.get(layer)
    if stored is None:
        return f"{source} is not there"
    if getattr(stored, "format", None) == "csc" and on_disk(stored):
        return f"{source} is stored by genes on disk"
    basis = np.asarray(loadings, dtype=float)[:, :d]
    told = np.any(basis != 0, axis=1)  # others were left out, as by a mask of variable genes
    basis = basis[told]
    if not np.allclose(basis.T @ basis, np.eye(d), atol=1e-3):
        return f"varm[{key!r}] is not orthonormal: genes were removed, or it was changed"
    rows = _sample(adata.n_obs)
    x, mean = _sampled(stored, rows), np.zeros(told.sum())
    if x.shape[1] != len(told):
        return f"varm[{key!r}] has {len(told)} genes, and {source} {x.shape[1]}"
    x = x[:, told]
    states = _sampled(adata.obsm[rep], rows)[:, :d]
    if params.get("zero_center", True):
        mean = _mean(stored, facts.get("mean"))[told]
        # Of cells that were removed since, states have the mean.
        mean = mean + basis @ ((x - mean) @ basis - states).mean(0)
    off = np.linalg.norm((x - mean) @ basis - states)
    off /= max(np.linalg.norm(states - states.mean(0)), np.finfo(float).tiny)
    if not off <= TOLERANCE:  # or NaN
        return f"{rep!r} is not what varm[{key!r}] makes of {source}: one of them was changed since"
    return {
        "var_names": [str(v) for v, kept in zip(adata.var_names, told, strict=True) if kept],
        "non_negative": bool(x.min() >= 0),
        "components": Preprocessing(
            torch.from_numpy(mean), torch.ones(d, dtype=torch.float64), torch.from_numpy(basis)
        ),
    }


def _sample(n: int) -> np.ndarray:
    """Return rows spread evenly over `n` cells, each once."""
    return np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(int))


def _sampled(stored: Any, rows: np.ndarray) -> np.ndarray:
    x = checked(stored, "X")
    return read_states(x, rows, n_dims=None, dtype=torch.float64, name="X").numpy()


def _mean(stored: Any, known: Any) -> np.ndarray:
    """Return the mean of each gene, from one pass where it is not `known`."""
    n, g = stored.shape
    if known is not None and np.shape(known) == (g,) and np.asarray(known).dtype.kind in "fiu":
        return np.asarray(known, dtype=float)
    total = np.zeros(g)
    for _, block in row_chunks(stored, memory=MEMORY, name="X"):
        total += np.asarray(block.sum(0, dtype=np.float64)).ravel()
    return total / n
