"""Files that commands read and write: checked before the work, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cellflow._files import obstacle, whole_file
from cellflow.cli.front import as_one_line

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from cellflow.evaluate import HoldoutTable, SigmaSweep
    from cellflow.fits import Ensemble, Fit


def read_cells(path: Path, use_rep: str | None) -> AnnData:
    """Read an ``.h5ad`` for one representation; expression stays on disk until it is needed.

    The whole file is read where `use_rep` is None.
    """
    import anndata

    with _told(f"{str(path)!r} is not a readable .h5ad file"):
        cells = None if use_rep is None else _read_parts(path, use_rep)
        return anndata.read_h5ad(path) if cells is None else cells


@contextmanager
def _told(what: str, passed: type[Exception] = MemoryError) -> Iterator[None]:
    """Say `what` of the user's file, and why, whatever a reader or writer stumbles over."""
    try:
        yield
    except (MemoryError, passed):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise click.BadParameter(f"{what} ({reason}).") from error


def _read_parts(path: Path, use_rep: str) -> AnnData | None:
    """Cells with one representation; None for a layout of old, or expression stored by genes."""
    import anndata
    import h5py
    from anndata.io import read_elem, sparse_dataset

    from cellflow.pp.genes import pca_keys

    stored = h5py.File(path, "r")  # open for as long as expression is yet to be read
    x, *parts = (stored.get(key) for key in ("X", "obs", "var" if use_rep == "X" else "obsm"))
    csr = x is not None and x.attrs.get("encoding-type") == "csr_matrix"
    by_cells = csr or isinstance(x, h5py.Dataset)
    if not all(isinstance(part, h5py.Group) for part in parts) or (use_rep == "X" and not by_cells):
        stored.close()
        return None
    obs, other = map(read_elem, parts)
    lazy = x if x is None or isinstance(x, h5py.Dataset) else sparse_dataset(x)
    if use_rep == "X":
        return anndata.AnnData(lazy, obs=obs, var=other)
    loadings, facts = pca_keys(f"X_{use_rep.removeprefix('X_')}")
    if lazy is None or "var" not in stored or loadings not in stored.get("varm", ()):
        stored.close()
        return anndata.AnnData(obs=obs, obsm=dict(other))
    return anndata.AnnData(  # with the way back to genes
        lazy,
        obs=obs,
        var=read_elem(stored["var"]),
        obsm=dict(other),
        varm={loadings: read_elem(stored["varm"][loadings])},
        uns={facts: read_elem(stored["uns"][facts])} if facts in stored.get("uns", ()) else {},
    )


def read_points(path: Path, use_rep: str) -> np.ndarray:
    """Read an array of points: ``.npy``, the columns of numbers of a ``.csv``, or an ``.h5ad``."""
    import numpy as np
    import pandas as pd

    from cellflow import _checks

    if path.suffix == ".h5ad":
        cells = read_cells(path, use_rep)
        _checks.choice(use_rep, cells.obsm, "use_rep")
        return np.asarray(cells.obsm[use_rep])
    with _told(f"{str(path)!r} holds no points"):
        if path.suffix == ".npy":
            return np.load(path)
        return pd.read_csv(path).select_dtypes("number").to_numpy()


def read_fit(
    folder: Path, condition: str | None = None, guidance: float | None = None
) -> Fit | Ensemble:
    """Read a saved fit or ensemble, and give it the `condition`, if any, with its `guidance`."""
    from cellflow.methods import Matching
    from cellflow.saving import load

    try:
        saved = load(folder)
    except MemoryError:
        raise
    except Exception as error:  # damaged JSON, missing tensors, a part that is not known
        reason = as_one_line(error) or f"not a readable fit: {' '.join(str(error).split())[:160]}"
        raise click.BadParameter(f"{str(folder)!r}: {reason}") from error
    if isinstance(saved, Matching):
        raise click.BadParameter(f"{str(folder)!r} is a matching of two clouds, not of a course.")
    known = saved.course.conditions
    if condition is None or known is None:
        if condition is not None or guidance is not None:
            text = "the fit has none." if known is None else "--guidance wants one."
            raise click.BadParameter(text, param_hint="'--condition'")
        return saved
    return saved.given(known.read(condition), guidance=guidance)


def write_cells(adata: AnnData, out: Path) -> None:
    """Write `adata`, of which some may have been damaged, whole or not at all."""
    with whole_file(out) as path, _told(f"{str(out)!r} cannot hold these cells", OSError):
        adata.write_h5ad(path)


def write_table(
    table: HoldoutTable | SigmaSweep, *, json: Path | None, csv: Path | None = None
) -> None:
    """Write the rows of `table` to the files that are named; to `csv` without bootstrap draws."""
    if json is not None:
        with whole_file(json) as temporary:
            table.to_json(temporary)
    if csv is not None:
        with whole_file(csv) as temporary:
            table.to_frame().drop(columns="bootstrap").to_csv(temporary, index=False)


def read_table(path: Path, unit: str) -> HoldoutTable:
    """Read the rows of a table of times in `unit`, or of conditions, from its JSON."""
    from cellflow.evaluate import HoldoutTable, Row

    with _told(f"{str(path)!r} holds no rows of a hold-out"):
        rows = tuple(Row(**row) for row in json.loads(path.read_text(encoding="utf-8")))
        named = any(isinstance(row.held_out, str) for row in rows)
        return HoldoutTable(rows, "condition" if named else unit)


def check_new_file(context: click.Context, option: click.Parameter, path: Path | None):
    """Refuse an output file that could not be written, before the work: `path` of an `option`."""
    if path is None:
        return None
    if path.is_dir():
        raise click.BadParameter(f"{str(path)!r} is a folder, a file is expected.")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise click.BadParameter(f"There is no folder {str(path.parent)!r} to write to.")
    if (folder / "fit.json").exists() or (folder / "ensemble.json").exists():
        raise click.BadParameter(f"The folder {str(path.parent)!r} is that of a fit, which stays.")
    _check_writable(path)
    return path


def check_figure(context: click.Context, option: click.Parameter, path: Path | None):
    """Refuse the file of a figure that could not be drawn into: `path` of an `option`."""
    check_new_file(context, option, path)
    if path is not None:
        from matplotlib.backend_bases import FigureCanvasBase

        known = sorted(FigureCanvasBase.get_supported_filetypes())
        if path.suffix.removeprefix(".").lower() not in known:
            listed = ", ".join(f".{ending}" for ending in known)
            raise click.BadParameter(f"{str(path)!r} should end with one of {listed}.")
    return path


def _check_writable(path: Path) -> None:
    why = obstacle(path)
    if why is not None:
        raise click.BadParameter(f"{str(path)!r} cannot be written ({why}).")


def check_new_folder(context: click.Context, option: click.Parameter, path: Path):
    """Refuse an output folder that is not new or empty, before the work."""
    check_folder(context, option, path)
    if path.is_dir() and any(path.iterdir()):
        raise click.BadParameter(f"{str(path)!r} is not empty. Name a new folder.")
    return path


def check_folder(context: click.Context, option: click.Parameter, path: Path):
    """Refuse a folder that cannot be made or written to; what is in it may stay."""
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise click.BadParameter(f"{str(there)!r} is a file, a folder is expected.")
    _check_writable(path)
    return path
