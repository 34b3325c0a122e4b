"""Principal components of expression that is read in turn, never whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.linalg import blas, eigh
from scipy.sparse.linalg import LinearOperator, eigsh

from cellflow import _checks
from cellflow.pp.access import find_representation, row_chunks
from cellflow.preprocessing import Preprocessing, oriented

if TYPE_CHECKING:
    from anndata import AnnData

#: Bytes of expression in memory at a time, and most genes whose covariances are held: 0.8 GB.
MEMORY, MAX_GENES = 2.0**28, 10_000


def pca(
    adata: AnnData,
    *,
    n_components: int = 50,
    genes: str | None = None,
    key_added: str = "X_pca",
    memory: float = MEMORY,
) -> None:
    """Find principal components of expression, in memory or on disk, and write them down.

    The `n_components` exact components, from two passes over the cells: one for means and
    covariances, one that projects. Expression is read in chunks of `memory` bytes; beside these,
    the covariances of the genes (``8 g²`` bytes) and the representation are held. Rows are read in
    sequence, which is the fastest way there is; a loader of shuffled minibatches would gain nothing
    here.

    Of cells `adata`, also backed by a file or read lazily, whose expression is normalised as it
    should be, and of the `genes` for which that boolean column of ``var`` is true, such as
    ``"highly_variable"``; of all genes when omitted. It writes ``obsm["X_pca"]``, or another
    `key_added`, and, as scanpy does, ``varm["PCs"]`` and ``uns["pca"]`` with variances and their
    ratios; ``uns["pca"]["mean"]`` has the mean of each gene.
    """
    _checks.key(key_added, "key_added")
    chosen = np.ones(adata.n_vars, dtype=bool)
    if genes is not None:
        _checks.choice(genes, [str(key) for key in adata.var.columns], "genes")
        chosen = np.asarray(adata.var[genes]).astype(bool)
    _, stored = find_representation(adata, "X")
    columns = None if chosen.all() else np.flatnonzero(chosen)
    found, variances, total = components(stored, n_components, columns=columns, memory=memory)
    states = project(stored, found, columns=columns, memory=memory)
    loadings = np.zeros((adata.n_vars, n_components))
    loadings[chosen] = found.loadings.numpy()  # type: ignore[union-attr] # it has some
    mean = np.zeros(adata.n_vars)
    mean[chosen] = found.mean.numpy()
    adata.obsm[key_added] = states
    adata.varm["PCs"] = loadings
    adata.uns["pca"] = {
        "params": {"zero_center": True, "mask_var": genes},
        "variance": variances,
        "variance_ratio": variances / total,
        "mean": mean,
    }


def components(
    stored: Any,
    n_components: int,
    *,
    rows: np.ndarray | None = None,
    columns: np.ndarray | None = None,
    memory: float = MEMORY,
) -> tuple[Preprocessing, np.ndarray, float]:
    """Return the leading components of the cells in `stored`, their variances and the total one.

    O(n z²) operations for z expressed genes a cell where `stored` is sparse, O(n g²) where it is
    dense, and one pass over the file. Cells that count are those of the mask `rows` ``(n,)``, genes
    the numbers `columns`; all when omitted.
    """
    n, g = stored.shape[0] if rows is None else int(rows.sum()), stored.shape[1]
    g = g if columns is None else len(columns)
    _checks.count(n_components, "n_components")
    if n_components > min(n, g):
        raise ValueError(_checks.message("n_components", n_components, f"at most {min(n, g)}"))
    if g > MAX_GENES:
        remedy = "Choose highly variable genes first: cellflow.pp.pca(adata, genes=...)."
        raise ValueError(_checks.message("X", f"{g} genes", f"at most {MAX_GENES}", remedy))
    gram, centre, shift = np.zeros((g, g)), np.zeros(g), None
    for _, block in expression_chunks(stored, rows, columns, memory=memory):
        if isinstance(block, np.ndarray):
            block = block.astype(np.float64)
            # Around a cell-like point, so that large means do not drown small variances.
            shift = block.mean(0) if shift is None and len(block) else shift
            block -= 0.0 if shift is None else shift
            # The lower triangle to a library that reads columns is the upper one here.
            blas.dsyrk(1.0, block.T, beta=1.0, c=gram.T, lower=1, overwrite_c=1)
            centre += block.sum(0)
        else:
            from cellflow.pp._gram import add_sparse

            block.sum_duplicates()  # and sort
            add_sparse(gram, block.data, block.indices, block.indptr)
            # In float64, unlike the sum of a sparse matrix.
            centre += np.bincount(block.indices, weights=block.data, minlength=g)
    centre /= n
    variances, basis = _leading(gram, centre, n, n_components)
    total = float(np.trace(gram) / n - centre @ centre)
    mean = torch.from_numpy(centre if shift is None else centre + shift)
    loadings = oriented(torch.from_numpy(basis.copy()))
    scale = torch.ones(n_components, dtype=torch.float64)
    return Preprocessing(mean, scale, loadings), variances, total


def project(
    stored: Any, found: Preprocessing, *, columns: np.ndarray | None = None, memory: float = MEMORY
) -> np.ndarray:
    """Return the cells of `stored` in components that were `found`, shape ``(n, k)``.

    float64 where `stored` is, float32 otherwise. One pass over the file.
    """
    loadings = found.loadings.double().numpy()  # type: ignore[union-attr] # it has some
    offset = found.mean.double().numpy() @ loadings
    kind = np.float64 if stored.dtype == np.float64 else np.float32
    out = np.empty((stored.shape[0], loadings.shape[1]), dtype=kind)
    for part, block in expression_chunks(stored, None, columns, memory=memory):
        out[part] = block @ loadings - offset
    return out


def expression_chunks(
    stored: Any, rows: np.ndarray | None, columns: np.ndarray | None, *, memory: float
) -> Iterator[tuple[slice, Any]]:
    """Yield where a chunk of `stored` is, and its chosen rows and columns, checked.

    As :func:`cellflow.pp.access.row_chunks`, of `memory` bytes. Cells that count are those of the
    mask `rows` ``(n,)``, genes the numbers `columns`; None for all.
    """
    for part, block in row_chunks(stored, memory=memory, name="X"):
        if block.dtype.kind not in "fiub":
            raise TypeError(_checks.message("X", f"dtype {block.dtype}", "numbers"))
        if rows is not None:
            block = block[rows[part]]
        if columns is not None:
            block = block[:, columns]
        values = block if isinstance(block, np.ndarray) else block.data
        if not np.isfinite(values.sum(dtype=np.float64)):
            got = f"NaN or infinite values in rows {part.start} to {part.stop - 1}"
            raise ValueError(_checks.message("X", got, "finite numbers", "Remove or impute them."))
        yield part, block


def _leading(gram: np.ndarray, centre: np.ndarray, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenvalues of the covariance, ``(k,)``, and their vectors, ``(g, k)``.

    Of `gram` the upper triangle is read.
    """
    g = len(gram)
    if g <= 500 or 4 * k > g:
        covariance = np.triu(gram) / n
        covariance += np.triu(covariance, 1).T - np.outer(centre, centre)
        values, vectors = eigh(covariance, subset_by_index=[g - k, g - 1])
    else:

        def product(x: np.ndarray) -> np.ndarray:
            x = x.ravel()
            return blas.dsymv(1 / n, gram.T, x, lower=1) - centre * (centre @ x)

        start = np.random.default_rng(0).standard_normal(g)
        operator = LinearOperator((g, g), matvec=product, dtype=np.float64)
        values, vectors = eigsh(operator, k, v0=start)
        order = np.argsort(values)
        values, vectors = values[order], vectors[:, order]
    return values[::-1].copy(), vectors[:, ::-1]
