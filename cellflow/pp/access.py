"""Access to what an AnnData holds: columns, representations, rows; in memory, a file, or lazily."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cellflow import _checks

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: Rows read to learn how full a sparse matrix is.
_SAMPLE = 256


def column_of(adata: AnnData, key: str, name: str) -> pd.Series:
    """Return a column of ``obs`` by its key."""
    column = adata.obs[_checks.choice(key, [str(column) for column in adata.obs.columns], name)]
    return column if hasattr(column, "iloc") else column.to_series()  # of a lazy AnnData


def numbers_of(adata: AnnData, key: str, name: str) -> np.ndarray:
    """Return a column of ``obs`` as numbers, shape (n,)."""
    column = column_of(adata, key, name)
    try:
        if np.iscomplexobj(np.asarray(column)):
            raise TypeError
        return np.asarray(column, dtype=float)
    except (TypeError, ValueError) as error:
        got = f"dtype {column.dtype}"
        raise TypeError(_checks.message(f"obs[{key!r}]", got, "numbers")) from error


def labels_of(adata: AnnData, key: str, kept: np.ndarray, *, name: str = "label_key") -> np.ndarray:
    """Return the label of every cell as text, shape (n,), checked where the cell is kept."""
    column = column_of(adata, key, name)
    absent = int(column.isna().to_numpy()[kept].sum())
    if absent:
        got, remedy = f"{absent} cells without a label", "Name them, for example 'unknown'."
        raise ValueError(_checks.message(f"obs[{key!r}]", got, "a label in every cell", remedy))
    return np.array([str(label) for label in column], dtype=object)


def find_representation(adata: AnnData, key: str, name: str = "use_rep") -> tuple[str, Any]:
    """Return a key of ``obsm`` in full, and its stored values, not yet read if on disk.

    `name` is what messages call it. A `use_rep`, unlike an embedding, may be ``"X"``.
    """
    keys = list(adata.obsm.keys())
    if key not in keys and f"X_{key}" in keys:
        key = f"X_{key}"
    if key == "X_pca" and "X_pca" not in keys:
        got = f"'X_pca', but obsm has {', '.join(map(repr, keys)) or 'nothing'}"
        remedy = "Run scanpy.pp.pca(adata) first, or name another representation."
        raise ValueError(_checks.message(name, got, "a key of obsm, or 'X'", remedy))
    others = ["X"] if name == "use_rep" else []
    if not key.startswith("X"):
        others += [k.removeprefix("X_") for k in keys]
    _checks.choice(key, [*keys, *others], name)
    if key != "X":
        return key, checked(adata.obsm[key], f"obsm[{key!r}]")
    if adata.X is None or adata.n_vars == 0:
        got = "'X', but this AnnData has no expression"
        raise ValueError(_checks.message(name, got, f"one of {', '.join(map(repr, keys))}"))
    return key, checked(adata.X, "X")


def checked(stored: Any, name: str) -> Any:
    """Return `stored`, called `name`, if it is no sparse matrix that points outside of itself.

    On disk, that is said of the ends of its rows; :func:`take` looks at each row that it reads.
    """
    if hasattr(stored, "check_format"):
        return _checks.sound(stored, name)
    if getattr(stored, "format", None) in ("csr", "csc") and hasattr(stored, "group"):
        parts = [stored.group.get(part) for part in ("indptr", "indices", "data")]
        if any(not hasattr(part, "dtype") for part in parts):
            raise _checks.unsound(name, "a part of it is missing")
        kinds = "".join(part.dtype.kind for part in parts)
        half = parts[2].dtype == np.float16  # which scipy does not know
        if kinds[:2] not in ("ii", "uu", "iu", "ui") or kinds[2] not in "fiub" or half:
            raise _checks.unsound(name, "its parts are no numbers of a matrix")
        if any(len(part.shape) != 1 for part in parts) or parts[1].shape != parts[2].shape:
            raise _checks.unsound(name, "its parts have other shapes than those of a matrix")
        ends, size = parts[0][:].astype(np.int64), parts[1].shape[0]
        if len(ends) != stored.shape[stored.format == "csc"] + 1:
            raise _checks.unsound(name, "indptr has another length than the matrix")
        if ends[0] != 0 or ends[-1] > size or (np.diff(ends) < 0).any():
            raise _checks.unsound(name, "indptr must increase from 0 to the number of values")
    return stored


def read_states(
    stored: Any,
    rows: np.ndarray | slice,
    *,
    n_dims: int | None,
    dtype: torch.dtype | None,
    name: str,
) -> torch.Tensor:
    """Read the first `n_dims` columns of `rows` (increasing) into a dense tensor ``(n, d)``.

    It is a new one, but for a slice of an array in memory. `stored` is an array, sparse matrix,
    frame or dataset on disk, called `name` in messages. None for `dtype` keeps float32 and
    float64, and makes float32 of everything else.
    """
    if hasattr(stored, "iloc"):  # a DataFrame in obsm
        stored = stored.to_numpy()
    if len(stored.shape) != 2:
        raise ValueError(_checks.message(name, f"shape {stored.shape}", "shape (n, d)"))
    if n_dims is not None and _checks.count(n_dims, "n_dims") > stored.shape[1]:
        got, most = f"{n_dims}", f"at most {stored.shape[1]}, the columns of {name}"
        raise ValueError(_checks.message("n_dims", got, most))
    if n_dims is not None and isinstance(stored, np.ndarray):
        stored = stored[:, :n_dims]  # a view: the others are not copied
    block = take(stored, rows)
    if n_dims is not None:
        block = block[:, :n_dims]
    block = block.toarray() if hasattr(block, "toarray") else block
    if block.dtype.kind not in "fiub":
        raise TypeError(_checks.message(name, f"dtype {block.dtype}", "numbers"))
    x = _checks.as_floats(_checks.as_numbers(block, name), name)
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return x if dtype is None else x.to(dtype)


def expression_on_disk(adata: AnnData) -> bool:
    """Whether the expression of `adata` is yet to be read."""
    return adata.isbacked or (adata.X is not None and on_disk(adata.X))


def on_disk(stored: Any) -> bool:
    """Whether the values of `stored` are yet to be read, from a file or by a graph of tasks."""
    in_memory = isinstance(stored, np.ndarray) or hasattr(stored, "iloc")
    return not (in_memory or hasattr(stored, "tocoo"))


def take(stored: Any, rows: Any) -> Any:
    """Return `rows` (a slice, or increasing numbers) of `stored`: an array or a sparse matrix."""
    if hasattr(stored, "oindex") and not isinstance(rows, slice):  # zarr
        return stored.oindex[rows]
    block = stored[rows]
    block = block.compute() if hasattr(block, "compute") else block
    return checked(block, "X") if on_disk(stored) else block


def row_chunks(stored: Any, *, memory: float, name: str) -> Iterator[tuple[slice, Any]]:
    """Yield consecutive rows of `stored`, each once and in order, as arrays or CSR matrices.

    `stored` is an array, a sparse matrix, a dataset of HDF5 or zarr, or a dask array ``(n, g)``,
    called `name` in messages; `memory` is bytes for one chunk in float64. Chunks of the store are
    read whole where they fit. Raises ValueError for a matrix on disk that is stored by columns.
    """
    n, g = stored.shape
    memory = _checks.number(memory, "memory", low=0.0)
    if getattr(stored, "format", None) == "csc":
        if on_disk(stored):
            got = "expression stored by genes (CSC) on disk, which cannot be read cell by cell"
            remedy = "Write it as CSR once, or read it all: adata.to_memory()."
            raise ValueError(_checks.message(name, got, "expression stored by cells", remedy))
        stored = stored.tocsr()
    first = take(stored, slice(0, min(n, _SAMPLE)))
    # A value in float64 for each gene; or for each entry a number, a value, and that in float64.
    each = 8 * g if isinstance(first, np.ndarray) else 24 * (1 + first.nnz / max(1, first.shape[0]))
    rows = max(1, int(memory / each))
    chunks, unit = getattr(stored, "shards", None) or getattr(stored, "chunks", None), 1
    if chunks:  # rows that are stored together
        unit = math.ceil(max(chunks[0])) if isinstance(chunks[0], tuple) else int(chunks[0])
    if unit <= rows:
        rows = rows // unit * unit
    for start in range(0, n, rows):
        part = slice(start, min(n, start + rows))
        block = take(stored, part)
        yield part, block if isinstance(block, np.ndarray) else block.tocsr()
