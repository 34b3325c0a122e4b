"""Outliers of a density of other cells, and batches taken out by flows into one base."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from cellflow import _checks
from cellflow._random import draw_seed, shuffle
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.answers.labels import NEIGHBOURS
from cellflow.densities import Density, FittedDensity

#: Cells of a batch by which it is judged, at most.
_MOST = 2000


@dataclass(frozen=True, eq=False)
class Outliers:
    """How little a `density` of reference cells expects each of `n` cells.

    The `score` is the negative log-density, in nats, ``(n,)``; the `p_value`, ``(n,)``, the share
    of held-back reference cells that are as strange. Cells of scores above the `threshold` are
    called. `calibration` has the sorted scores of the cells held back, ``(m,)``, and `fitted` the
    rows of the reference that were not.
    """

    score: Tensor
    p_value: Tensor
    threshold: float
    density: FittedDensity
    calibration: Tensor
    fitted: Tensor


def outliers(
    x: ArrayLike,
    reference: ArrayLike,
    density: Density,
    *,
    false_positive_rate: float = 0.05,
    steps: int | None = None,
    generator: Rng = 0,
) -> Outliers:
    r"""Score cells by a density of reference cells, half of which say what is strange.

    The density is fitted to one half. With scores :math:`s_j = -\log p(x_j)` of the :math:`m` cells
    of the other, a cell of score :math:`s` has the p value :math:`(1 + \#\{s_j \ge s\}) / (1 + m)`
    :cite:p:`bates2023`: of new cells drawn as the reference was, at most a share
    `false_positive_rate` is called, whatever the density is worth, on average over such halves;
    of one half, give or take :math:`\sqrt{\alpha (1 - \alpha) / m}`.

    Parameters
    ----------
    x
        Cells to score, shape ``(n, d)``.
    reference
        Cells that are as they should be, shape ``(k, d)``. Of cells that are in `x` too, the half
        that was fitted looks less strange than it is.
    density, false_positive_rate
        Density model to fit, such as ``NSF()``; and the share :math:`\alpha` of such cells that may
        be called, at least one in ``k / 2 + 1``.
    steps, generator
        As in :meth:`~cellflow.densities.Density.fit`; the generator also draws the halves.
    """
    known = _checks.as_cells(reference, "reference", min_cells=4)
    cells = _checks.as_cells(x, "x", dim=known.shape[1])
    m = len(known) // 2
    rate = _checks.number(false_positive_rate, "false_positive_rate", low=0.0, high=0.5)
    called = int(rate * (m + 1) * (1 + 1e-12))  # rounding must not lose a cell
    if called == 0:
        expected = f"at least {1 / (m + 1):.3g} for {len(known):,} reference cells"
        raise ValueError(_checks.message("false_positive_rate", rate, expected))
    seed = draw_seed(generator)
    order = shuffle(len(known), torch.Generator().manual_seed(seed)).to(known.device)
    fitted = density.fit(known[order[m:]], steps=steps, generator=seed)
    calibration, score = (-fitted.log_prob(some).detach() for some in (known[order[:m]], cells))
    calibration = calibration.sort().values
    p_value = (1 + m - torch.searchsorted(calibration, score)).double() / (m + 1)
    threshold = float(calibration[m - called])
    return Outliers(score, p_value, threshold, fitted, calibration, order[m:])


@dataclass(frozen=True, eq=False)
class BatchFree:
    """Cells `x` ``(n, d)`` where those of the batch `reference` are; `scores` before and after.

    Of equally many cells of each batch: ``"batch_accuracy"``, how often nearest neighbours tell the
    batch of a cell that was left out, a balanced accuracy; its ``"chance"``; ``"label_purity"``,
    the share of nearest neighbours with a cell's own label, and ``"label_transfer"``, that among
    neighbours in other batches.
    """

    x: Tensor
    reference: str
    scores: dict[str, tuple[float, float]]


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
    differ, cells of one type are moved to another. Compare ``label_transfer`` with what it was.

    Parameters
    ----------
    x, batches, labels
        Cells, shape ``(n, d)``, and the batch and label of each, ``(n,)``. Labels are not used for
        the map.
    density
        Flow to fit to each batch.
    reference
        Batch whose cells stay as they are; that of most cells when omitted.
    steps, generator
        As in :meth:`~cellflow.densities.Density.fit`.
    """
    cells, seed, of = _checks.as_cells(x, "x"), draw_seed(generator), np.asarray(batches, dtype=str)
    names, sizes = np.unique(of, return_counts=True)
    if len(of) != len(cells) or len(names) < 2 or sizes.min() < 10:
        got = f"{len(of)} for {len(cells)} cells, in groups of {sizes.tolist()}"
        raise ValueError(_checks.message("batches", got, "two or more, each of ten cells or more"))
    target = str(names[sizes.argmax()]) if reference is None else reference
    _checks.choice(target, list(map(str, names)), "reference")
    if not density.invertible:
        raise ValueError(_checks.message("density", type(density).__name__, "a flow, as 'nsf' is"))
    flows = {b: density.fit(cells[of == b], steps=steps, generator=seed) for b in names}
    out = cells.clone()
    for b in names[names != target]:
        out[of == b] = flows[target].decode(flows[b].encode(cells[of == b])).detach().to(out)
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(of == b))[: min(sizes.min(), _MOST)] for b in names]
    rows = rng.permutation(np.concatenate(drawn))
    marks = None if labels is None else np.asarray(labels, dtype=str)[rows]
    judged = (z.cpu().double().numpy()[rows] for z in (cells, out))
    accuracy, purity, transfer = zip(*(_scores(z, of[rows], marks) for z in judged), strict=True)
    scores = {"batch_accuracy": accuracy, "chance": (1 / len(names),) * 2}
    kept = {} if labels is None else {"label_purity": purity, "label_transfer": transfer}
    return BatchFree(out, target, scores | kept)


def _scores(
    x: np.ndarray, batches: np.ndarray, labels: np.ndarray | None
) -> tuple[float, float, float]:
    """Return how well neighbours tell batches, labels, and labels from other batches."""
    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(x) // len(set(batches)) - 1))
    said = cross_val_predict(KNeighborsClassifier(near.n_neighbors), x, batches, cv=5)
    accuracy = float((said == batches).mean())
    if labels is None:
        return accuracy, np.nan, np.nan
    own, other = labels[near.fit(x).kneighbors(return_distance=False)] == labels[:, None], []
    for b in np.unique(batches):
        here, rest = batches == b, batches != b
        found = near.fit(x[rest]).kneighbors(x[here], return_distance=False)
        other.append((labels[rest][found] == labels[here][:, None]).mean())
    return accuracy, float(own.mean()), float(np.mean(other))
