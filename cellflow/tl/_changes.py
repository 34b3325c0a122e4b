"""Changes of genes: what they are, in cells and in coordinates of a fit, before and on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from anndata import AnnData

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.answers.fates import BENDS, Bend
from cellflow.fits import Ensemble, Fit
from cellflow.pp.components import MEMORY, expression_chunks
from cellflow.timecourse import Snapshot
from cellflow.tl._genes import columns_of, loadings_of
from cellflow.tl._reading import masses_of, states_and_times, time_of
from cellflow.tl.fates import groups_of, labelled_at, observed_time


@dataclass(frozen=True, eq=False)
class Pool:
    """Genes that can be changed: their columns in ``X``, what a unit moves, and how far."""

    names: list[str]
    columns: np.ndarray
    loadings: Tensor
    size: Tensor

    def of(self, chosen: Sequence[int]) -> Pool:
        """Some of them."""
        rows, names = list(chosen), [self.names[k] for k in chosen]
        return Pool(names, self.columns[rows], self.loadings[rows], self.size[rows])


def pool_of(adata: AnnData, fit: Fit | Ensemble, names: list[str]) -> Pool:
    """Genes that move a cell, in the coordinates that the fit was trained in."""
    loaded, loadings = loadings_of(adata, fit)
    if fit.origin["use_rep"] == "X" and loaded != names:
        got = f"{len(names)} genes that are not those of the fit, or in another order"
        raise ValueError(_checks.message("adata", got, "the genes that the fit was made from"))
    reach, prep = loadings.double(), fit.preprocessing
    if prep is not None:
        reach = reach if prep.loadings is None else reach @ prep.loadings.cpu().double()
        reach = reach / prep.scale.cpu().double()
    size = reach.norm(dim=1)
    kept = (size > 0).nonzero()[:, 0].tolist()
    where = {name: k for k, name in enumerate(names)}
    columns = np.array([where[name] for name in loaded], dtype=int)
    return Pool(loaded, columns, loadings, size).of(kept)


def where_in(pool: Pool, names: list[str], genes: str | Sequence[str]) -> list[int]:
    """Return where the asked `genes` are in the pool."""
    asked, _ = columns_of(names, genes)
    at = {name: k for k, name in enumerate(pool.names)}
    lost = [gene for gene in asked if gene not in at]
    if lost:
        got = f"{', '.join(map(repr, lost))}, which the components of the fit leave out"
        remedy = "Choose genes with loadings, or find components of more genes."
        raise ValueError(_checks.message("genes", got, "genes with a loading", remedy))
    return [at[gene] for gene in asked]


def cells_at(
    adata: AnnData,
    fit: Fit | Ensemble,
    *,
    label_key: str | None,
    times: Sequence[float | str] | None,
) -> tuple[Snapshot, Snapshot, np.ndarray]:
    """Return cells to change, labelled cells at the end, and the rows of the first.

    The former are in an order of their own, so that each has the same noise wherever it stands.
    """
    known = fit.course.times
    if times is not None and (isinstance(times, str) or len(times) != 2):
        raise ValueError(_checks.message("times", repr(times), "two, a start and an end"))
    first, last = (known[0], known[-1]) if times is None else (time_of(fit, t) for t in times)
    first = observed_time(known[:-1], first, "start")
    last = observed_time([t for t in known if t > first], last, "end")
    labels = groups_of(adata, fit, label_key)
    _, at, states = states_and_times(adata, fit)
    there = labelled_at(at, labels, last)
    rows, x = np.flatnonzero(at == first), torch.from_numpy(states[:, : fit.course.dim])
    if len(rows) == 0:
        raise ValueError(_checks.message("times", f"no cell at {first:g}", "cells to change"))
    rows = rows[np.lexsort(x[rows].numpy().T)]
    start = Snapshot(x[rows], first, masses_of(adata, fit)[rows])
    return start, Snapshot(x[there], last, labels=labels.iloc[there].tolist()), rows


@dataclass(frozen=True, eq=False)
class Measured:
    """Mean of each gene over the changed cells, and its deviation over all."""

    rows: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def measure(stored: Any, rows: np.ndarray) -> Measured:
    """Read the expression once for what is known of each gene."""
    n, g = stored.shape
    chosen = np.zeros(n, dtype=bool)
    chosen[rows] = True
    here, total, squares = np.zeros(g), np.zeros(g), np.zeros(g)
    for part, block in expression_chunks(stored, None, None, memory=MEMORY):
        block = block.astype(np.float64)
        if block.min() < 0:
            remedy = "Keep log-normalised expression there, not scaled one."
            raise ValueError(_checks.message("X", "negative values", "expression", remedy))
        square = block**2 if isinstance(block, np.ndarray) else block.multiply(block)
        here += np.asarray(block[chosen[part]].sum(0)).ravel()
        total += np.asarray(block.sum(0)).ravel()
        squares += np.asarray(square.sum(0)).ravel()
    variance = np.maximum(squares / n - (total / n) ** 2, 0)
    return Measured(rows, here / len(rows), np.sqrt(variance))


def steps_of(
    stored: Any, measured: Measured, columns: np.ndarray, *, change: str | float
) -> Tensor:
    """Change of expression of the changed cells in each of some genes, ``(n, genes)``."""
    chosen = np.zeros(stored.shape[0], dtype=bool)
    chosen[measured.rows] = True
    parts = []
    for _, block in expression_chunks(stored, chosen, columns, memory=MEMORY):
        parts.append(block if isinstance(block, np.ndarray) else block.toarray())
    values = np.concatenate(parts)[measured.rows.argsort().argsort()].astype(np.float64)
    return torch.from_numpy(_step(values, change, measured.deviation[columns]))


def _step(value: np.ndarray, change: str | float, deviation: np.ndarray) -> np.ndarray:
    """Change of expression ``(n, genes)``, of genes of some deviation ``(genes,)``."""
    if not isinstance(change, str):
        return value * (change - 1)
    if change == "knock-out":
        return -value
    by = deviation if change == "up" else -deviation
    return np.maximum(value + by, 0) - value


def bend(loadings: Tensor, factor: float) -> Bend:
    """What becomes of displacements where what genes gain or lose is multiplied by `factor`.

    The components of expression whose columns of the genes, those of their `loadings` ``(m, d)``,
    are multiplied.
    """
    to = (factor - 1) * loadings / torch.linalg.matrix_norm(loadings, 2).square().clamp(min=1)
    return lambda step: step + step @ loadings.T @ to


def gains(fit: Fit | Ensemble, start: Snapshot, end: float, loadings: Tensor) -> Tensor:
    """How much the genes of some `loadings` gain or lose on the mean way, ``(n, genes)``."""
    members = list(fit) if isinstance(fit, Ensemble) else [fit]
    times = np.linspace(start.time, end, BENDS + 1)
    total = torch.zeros(len(start), len(loadings), dtype=torch.float64)
    for one in members:
        for here, there in pairwise(one.simulate(start.x, times).x):
            total += ((there - here).cpu().double() @ loadings.double().T).abs() / len(members)
    return total
