"""Batches taken out of cells: a flow of each into one base, and out by that of a reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from cellflow import _checks
from cellflow._random import draw_seed
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.answers.labels import NEIGHBOURS
from cellflow.densities import Density

#: Cells of a batch by which it is judged, at most.
_MOST = 2000


@dataclass(frozen=True, eq=False)
class BatchFree:
    """Cells in the coordinates of one batch, and what is left of batches and labels.

    Parameters
    ----------
    x
        Cells, ``(n, d)``; those of the reference are as they were.
    reference
        The batch whose coordinates these are.
    batch_accuracy
        Before and after, how often nearest neighbours tell the batch of a cell that was left out:
        of equally many cells of each batch, so that it is a balanced accuracy.
    chance
        What this is where batches are alike.
    label_purity
        Before and after, the share of nearest neighbours with a cell's own label; NaN without
        labels.
    label_transfer
        The same among neighbours in other batches alone.
    """

    x: Tensor
    reference: str
    batch_accuracy: tuple[float, float]
    chance: float
    label_purity: tuple[float, float]
    label_transfer: tuple[float, float]


def batch_free(
    x: ArrayLike,
    batches: ArrayLike,
    density: Density,
    *,
    labels: ArrayLike | None = None,
    reference: str | None = None,
    steps: int | None = None,
    generator: Rng = 0,
) -> BatchFree:
    r"""Map the cells of all batches to where those of one would be.

    Each batch :math:`b` has a flow :math:`f_b` into one normal base, as in fair normalizing flows
    :cite:p:`balunovic2022`; a cell goes to :math:`f_r^{-1}(f_b(x))`, with r the reference. Many
    maps make two clouds alike, and flows of several layers find any of them; an autoregressive flow
    of one layer, such as ``NSF(1)``, is triangular and increasing, and so is what two of them make:
    of such maps there is one :cite:p:`rosenblatt1952`, which begins with the first dimension.

    What batches differ by is taken away, **be it biology or not**: where their shares of cell types
    differ, cells of one type are moved to another. Compare `label_transfer` with what it was.

    Parameters
    ----------
    x
        Cells, shape ``(n, d)``.
    batches, labels
        Batch and label of each cell, ``(n,)``. Labels are not used for the map.
    density
        Flow to fit to each batch.
    reference
        Batch whose coordinates are kept; that of most cells when omitted.
    steps, generator
        As in :meth:`~cellflow.densities.Density.fit`.
    """
    cells, seed = _checks.as_cells(x, "x"), draw_seed(generator)
    of = np.asarray(batches).astype(str)
    names, sizes = np.unique(of, return_counts=True)
    if len(of) != len(cells) or len(names) < 2 or sizes.min() < 10:
        got = f"{len(of)} batches of {len(cells)} cells: {dict(zip(names, sizes, strict=True))}"
        raise ValueError(_checks.message("batches", got, "two or more, each of ten cells or more"))
    target = str(names[sizes.argmax()]) if reference is None else reference
    _checks.choice(target, list(map(str, names)), "reference")
    if not density.invertible:
        expected = "a flow, such as 'nsf'"
        raise ValueError(_checks.message("density", type(density).__name__, expected))
    flows = {b: density.fit(cells[of == b], steps=steps, generator=seed) for b in names}
    out = cells.clone()
    for b in names[names != target]:
        out[of == b] = flows[target].decode(flows[b].encode(cells[of == b])).detach().to(out)
    marks = None if labels is None else np.asarray(labels).astype(str)
    told = [_scores(z.cpu().double().numpy(), of, marks, seed) for z in (cells, out)]
    accuracy, purity, transfer = zip(*told, strict=True)
    return BatchFree(out, target, accuracy, 1 / len(names), purity, transfer)


def _scores(
    x: np.ndarray, batches: np.ndarray, labels: np.ndarray | None, seed: int
) -> tuple[float, float, float]:
    """Return how well neighbours tell batches, and labels, and labels of other batches."""
    rng = np.random.default_rng(seed)
    names, counts = np.unique(batches, return_counts=True)
    size = min(counts.min(), _MOST)
    some = [rng.permutation(np.flatnonzero(batches == b))[:size] for b in names]
    rows = np.concatenate(some)
    x, batches = x[rows], batches[rows]
    near = min(NEIGHBOURS, size - 1)
    folds = StratifiedKFold(5, shuffle=True, random_state=int(rng.integers(2**31)))
    said = cross_val_predict(KNeighborsClassifier(near), x, batches, cv=folds)
    accuracy = float((said == batches).mean())
    if labels is None:
        return accuracy, np.nan, np.nan
    labels = labels[rows]
    search = NearestNeighbors(n_neighbors=near).fit(x).kneighbors(return_distance=False)
    own, other = float((labels[search] == labels[:, None]).mean()), []
    for b in names:
        here, rest = batches == b, np.flatnonzero(batches != b)
        found = NearestNeighbors(n_neighbors=near).fit(x[rest]).kneighbors(x[here])[1]
        other.append((labels[rest][found] == labels[here][:, None]).mean())
    return accuracy, own, float(np.mean(other))
