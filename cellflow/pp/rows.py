"""Read a matrix of cells row by row, wherever it is: in memory, in a file, or lazily."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from cellflow import _checks

#: Rows read to learn how full a sparse matrix is.
_SAMPLE = 256


def on_disk(stored: Any) -> bool:
    """Whether the values of `stored` are yet to be read, from a file or by a graph of tasks."""
    return not (
        isinstance(stored, np.ndarray) or hasattr(stored, "iloc") or hasattr(stored, "tocoo")
    )


def take(stored: Any, rows: Any) -> Any:
    """Return `rows` (a slice, or increasing numbers) of `stored`: an array or a sparse matrix."""
    if hasattr(stored, "oindex") and not isinstance(rows, slice):  # zarr
        return stored.oindex[rows]
    block = stored[rows]
    return block.compute() if hasattr(block, "compute") else block


def row_chunks(stored: Any, *, memory: float, name: str) -> Iterator[tuple[slice, Any]]:
    """Yield consecutive rows of `stored`, each once and in order, as arrays or CSR matrices.

    Parameters
    ----------
    stored
        An array, a sparse matrix, a dataset of HDF5 or zarr, or a dask array, shape ``(n, g)``.
    memory
        Bytes for one chunk in float64; chunks of the store are read whole where they fit.
    name
        How to call it in messages.

    Yields
    ------
    rows
        Which rows.
    block
        Their values.

    Raises
    ------
    ValueError
        If a matrix on disk is stored by columns, so that its rows cannot be read in turn.
    """
    n, g = stored.shape
    if getattr(stored, "format", None) == "csc":
        if on_disk(stored):
            got = "expression stored by genes (CSC) on disk, which cannot be read cell by cell"
            remedy = "Write it as CSR once, or read it all: adata.to_memory()."
            raise ValueError(_checks.message(name, got, "expression stored by cells", remedy))
        stored = stored.tocsr()
    first = take(stored, slice(0, min(n, _SAMPLE)))
    # A value in float64 for each gene; or for each entry a number, a value, and that in float64.
    each = 8 * g if isinstance(first, np.ndarray) else 24 * (1 + first.nnz / max(1, len_of(first)))
    rows = max(1, int(memory / each))
    unit = _stored_together(stored)
    if unit <= rows:
        rows = rows // unit * unit
    for start in range(0, n, rows):
        part = slice(start, min(n, start + rows))
        block = take(stored, part)
        yield part, block if isinstance(block, np.ndarray) else block.tocsr()


def len_of(block: Any) -> int:
    """Return the number of rows of an array or a sparse matrix."""
    return int(block.shape[0])


def _stored_together(stored: Any) -> int:
    """Rows of a chunk of the store; 1 where there are none."""
    chunks = getattr(stored, "shards", None) or getattr(stored, "chunks", None)
    if not chunks:
        return 1
    return math.ceil(max(chunks[0])) if isinstance(chunks[0], tuple) else int(chunks[0])
