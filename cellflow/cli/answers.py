"""Commands that ask about cells, one for each such function of :mod:`cellflow.tl`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cellflow._files import whole_file
from cellflow.cli import files, options
from cellflow.cli.front import Command

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: Functions that have a command: those that return a table, write one into ``obsm``, or write
#: nothing but columns of cells.
TABLES = ("batch_free", "composition", "drivers", "gene_trends", "perturb")
CHANCES = ("ancestors", "fates")
COLUMNS = ("density_ratio", "growth", "outlier_score", "velocity")
#: Rows of a table that are printed.
_ROWS = 20


def command(function: str) -> click.Command:
    """Return the command of a `function`: a fit is a folder, cells are a file, genes are words."""
    asked = options.positional(function)[1:]  # the first is the cells
    of_genes = not {"genes", "fate"}.isdisjoint(asked)

    def ask(
        *,
        file: Path,
        keywords: dict[str, Any],
        out: Path,
        fit: Path | None = None,
        fate: str | None = None,
        genes: Sequence[str] = (),
        condition: str | None = None,
        guidance: float | None = None,
    ) -> None:
        from cellflow import tl

        whole, rep = out.suffix == ".h5ad", "X_pca"
        if function in COLUMNS and not whole:
            raise click.BadParameter(f"{str(out)!r} is no .h5ad file.", param_hint="'--out'")
        given: dict[str, Any] = {"fit": fit, "fate": fate, "genes": list(genes)}
        for place in (given, keywords):
            if place.get("fit") is not None:
                place["fit"] = files.read_fit(place["fit"], condition, guidance)
                rep = place["fit"].origin.get("use_rep", rep)
        adata = files.read_cells(file, None if whole or of_genes else rep)
        table = getattr(tl, function)(adata, *(given[name] for name in asked), **keywords)
        if function in CHANCES:
            entropy = f"{function.removesuffix('s')}_entropy"
            table = adata.obsm[function].assign(**{entropy: adata.obs[entropy]})
        if whole:
            files.write_cells(adata, out)
        else:
            with whole_file(out) as path:
                table.to_csv(path, index=table.index.dtype.kind != "i")  # names, not numbers
        click.echo(f"{_told(adata, function, table)}saved to {out}")

    kinds, text = "FILE.h5ad|FILE.csv", "The cells with the answer, or its table."
    if function in COLUMNS:
        kinds, text = "FILE.h5ad", "The cells with the answer."
    made: Any = options.of(function)(options.output(kinds, files.check_new_file, text)(ask))
    if "fit" in asked:
        made = options.given(made)
    for name in ("genes", "fate", "adata", "fit"):  # from the last to the first
        if name in ("adata", *asked):
            made = options.ARGUMENTS[name](made)
    name, text = function.replace("_", "-"), options.summary(function)
    return click.command(name, cls=Command, help=text)(made)


def _told(adata: AnnData, function: str, table: pd.DataFrame | None) -> str:
    """What is printed of an answer: its first rows, of probabilities their means by time."""
    if table is None:
        return f"{adata.n_obs} cells, "
    if function in TABLES:
        return f"{table.head(_ROWS).round(3).to_string()}\n{len(table)} rows, "
    about = adata.uns[function]
    if about["time_key"] not in adata.obs:  # times were those of conditions
        return f"{adata.n_obs} cells, "
    means = adata.obsm[function].groupby(adata.obs[about["time_key"]].astype(str)).mean()
    head = f"mean {function} at {about['unit']} {about['time']:g}, by {about['time_key']}"
    return f"{head}\n{means.round(3).to_string()}\n{len(table) - about['n_without']} cells, "
