"""Reading for questions about genes: expression, loadings, the table of fates, times of cells."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.fits import Ensemble, Fit
from cellflow.pp import parse_times
from cellflow.pp.access import checked, column_of, find_representation
from cellflow.preprocessing import Preprocessing

#: What stands for `adata.raw` in place of the name of a layer.
RAW = "raw"


def expression_of(adata: AnnData, layer: str | None) -> tuple[list[str], Any]:
    """Return names of genes, and the stored expression, not yet read if on disk.

    Of ``X``, a `layer`, or ``"raw"``. Names that occur twice are an error.
    """
    part = adata.raw if layer == RAW and adata.raw is not None else adata
    names = [str(name) for name in part.var_names]
    _check_unique(names)
    if layer is None:
        return names, find_representation(adata, "X")[1]
    if part is not adata:
        return names, checked(part.X, "raw")
    layers = [key for key in adata.layers if key is not None]  # anndata 0.13 lists X as well
    return names, checked(adata.layers[_checks.choice(layer, layers, "layer")], layer)


def _check_unique(names: Sequence[str]) -> None:
    """Refuse genes of which two have the same name."""
    if len(set(names)) < len(names):
        again = next(name for k, name in enumerate(names) if name in names[:k])
        remedy = "Call adata.var_names_make_unique() first."
        raise ValueError(_checks.message("adata", f"gene {again!r} twice", "unique names", remedy))


def columns_of(names: Sequence[str], genes: str | Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the `genes` as a list, and where they are among all `names`."""
    asked = [genes] if isinstance(genes, str) else list(map(str, _checks.several(genes, "genes")))
    if not asked:
        raise ValueError(_checks.message("genes", "none", "names of genes"))
    if len(set(asked)) < len(asked):
        raise ValueError(_checks.message("genes", f"{asked}", "each gene once"))
    where = {name: k for k, name in enumerate(names)}
    for gene in asked:
        if gene not in where:
            _checks.choice(gene, names, "genes")
    return asked, np.array([where[gene] for gene in asked])


def readout_of(origin: Mapping[str, Any]) -> tuple[list[str], Preprocessing | None]:
    """Return names of the genes of a fit, and the components that its states are; None for genes.

    They were found in the AnnData when the fit of this `origin` was made.
    """
    rep, found = origin.get("use_rep"), origin.get("components")
    if found is None and rep != "X":
        why = origin.get("no_genes", "none were found when it was made")
        remedy = "Call cellflow.pp.pca(adata) or scanpy.pp.pca(adata), and fit to 'X_pca'."
        got = f"a fit of use_rep={rep!r} without genes ({why})"
        raise ValueError(_checks.message("fit", got, "one of 'X_pca' or 'X'", remedy))
    return list(origin["var_names"]), found


def loadings_of(adata: AnnData, fit: Fit | Ensemble) -> tuple[list[str], Tensor]:
    """Return names of the genes, and how much a unit of each moves a cell: ``(genes, d)``.

    That `adata` lacks some of them is an error.
    """
    names, found = readout_of(fit.origin)
    places_of(adata, names)
    if found is None or found.loadings is None:
        return names, torch.eye(len(names))
    return names, found.loadings / found.scale


def places_of(adata: AnnData, names: Sequence[str]) -> np.ndarray:
    """Return where the genes of a fit are among those of `adata`, ``(genes,)``."""
    known = [str(name) for name in adata.var_names]
    if known == list(names):
        return np.arange(len(names))
    _check_unique(known)
    places = pd.Index(known).get_indexer(list(names))
    if (places < 0).any():
        got = f"no gene {names[(places < 0).argmax()]!r}"
        got += f" ({(places < 0).sum()} of {len(names)} are missing)"
        raise ValueError(_checks.message("adata", got, "the genes that the fit was made from"))
    return places


def fates_in(adata: AnnData, key: str) -> pd.DataFrame:
    """Return the table of fates in ``obsm[key]``."""
    remedy = "Call cellflow.tl.fates(adata, fit) first."
    if key not in adata.obsm:
        got = f"{key!r}, which is not in obsm"
        raise ValueError(_checks.message("key", got, "a table of fates in obsm", remedy))
    table = adata.obsm[key]
    if not hasattr(table, "columns"):
        got = f"a {type(table).__name__} without names of fates in obsm[{key!r}]"
        raise ValueError(_checks.message("key", got, "a DataFrame", remedy))
    return table


def chances_of(adata: AnnData, key: str, fate: str) -> np.ndarray:
    """Return the probability of a fate for each cell, ``(n,)``; NaN where it is not known."""
    table = fates_in(adata, key)
    columns = {str(column): column for column in table.columns}
    return np.asarray(table[columns[_checks.choice(fate, columns, "fate")]], dtype=float)


def times_of(adata: AnnData, key: str, time_key: str | None) -> np.ndarray:
    """Return the time of each cell, ``(n,)``, NaN for cells without one.

    The column is `time_key`, or that of the fit which ``uns[key]`` tells of; labels mean what they
    meant to the fit.
    """
    told = adata.uns.get(key)
    told = told if isinstance(told, Mapping) else {}
    name = time_key or told.get("time_key")
    if name is None:
        raise ValueError(_checks.message("time_key", "None", "a column of adata.obs with times"))
    column = column_of(adata, str(name), "time_key")
    known: dict[Hashable, float] | None = None
    if "times" in told:
        pairs = zip(told["time_labels"], told["times"], strict=True)
        meant: dict[Hashable, float] = {str(label): float(time) for label, time in pairs}
        # Of plans it is not known which column they were made from.
        same = {str(v) for v in column.dropna().unique()} <= set(meant)
        if told.get("time_key", name if same else None) == name:
            known = meant
    table = parse_times(column, time_map=known, missing="drop", name=f"obs[{name!r}]")
    times = np.full(adata.n_obs, np.nan)
    times[table.kept] = table.cell_times
    return times
