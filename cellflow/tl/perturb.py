"""Perturbation of genes and of sets of them: what it does to the fates of cells, by the fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.stats import false_discovery_control

from cellflow import _checks
from cellflow._random import draw_seed
from cellflow._typing import Rng, Tensor
from cellflow.answers import Sampler
from cellflow.answers import gene_sets as drawn_sets
from cellflow.answers.fates import BENDS, Bend
from cellflow.answers.perturbation import Effects, effect_on_fates, most_alike, p_value
from cellflow.fits import Ensemble, Fit
from cellflow.pp.components import MEMORY, expression_chunks
from cellflow.timecourse import Snapshot
from cellflow.tl._genes import columns_of, expression_of, loadings_of
from cellflow.tl._reading import label_key_of, masses_of, states_and_times, time_of
from cellflow.tl.fates import groups_of, labelled_at, observed_time

CHANGES = ("knock-out", "up", "down")


def perturb(
    adata: AnnData,
    fit: Fit | Ensemble,
    genes: str | Sequence[str],
    *,
    change: str | float = "knock-out",
    label_key: str | None = None,
    times: tuple[float | str, float | str] | None = None,
    n_null: int = 100,
    n_futures: int = 20,
    rng: Rng = 0,
) -> pd.DataFrame:
    """Change genes, each by itself, and tell what that does to the fates of cells.

    The change of expression moves a cell in the representation of the fit: by the loadings of
    ``varm["PCs"]``, or directly where the fit is to ``X``. A knock-out lasts: what the gene would
    gain along the way is taken from the cell, so that a gene has an effect that is not yet on at
    the start; a number multiplies this gain as well. Fates of the moved cells are compared
    with those of the same cells unmoved, under the same noise
    (:func:`cellflow.answers.perturbation.effect_on_fates`), and the effect with those of other
    genes that are expressed and loaded alike, each brought in proportion to the distance by which
    the gene moves cells: nothing moves them as far as the gene of the longest loading.

    It is an effect on the fit, which has seen what goes along with what, and no cause: a marker
    that a fate switches on has as much effect as the gene which decides it, and where many
    have, they are in each other's null. A gene whose loss stops cells before they choose leaves the
    cells that were measured, and what the fit says there is a guess. Take the answer as a list to
    test. In simulated networks, whose knock-outs are known, the signs of genes that decide are
    mostly right, and a marker cannot be told from them (:doc:`/benchmarks`).

    Parameters
    ----------
    adata
        Cells that the fit was made from. ``X`` is log-normalised expression.
    fit
        A fit or an ensemble to ``obsm["X_pca"]`` or ``X``.
    genes
        Names of genes.
    change
        ``"knock-out"`` sets a gene to zero and keeps it there, and a number multiplies it at the
        start and what it gains later. ``"up"`` and ``"down"`` move it at the start only, by its
        standard deviation over all cells, not below zero.
    label_key
        Column of ``obs`` with the groups; that of the fit when omitted.
    times
        Observed times at which cells are changed, and at which their fates are read; the first and
        the last of the fit when omitted.
    n_null
        Other genes in the null: those nearest in log mean expression, over the changed cells, and
        in length of loading. Fewer where there are no more.
    n_futures
        Futures of each cell by each member, where the method learned noise; one otherwise.
    rng
        Seed or generator of the noise.

    Returns
    -------
    DataFrame
        One row for each gene and group: ``effect``, the change of the group's mean probability,
        by mass; ``standard_error``, paired over cells, which says nothing of the error of a fit;
        of an ensemble ``member_std``, the standard deviation between members; ``p``, the share of
        the gene and its null whose effect is as large, with ``n_null`` genes in it, of which the
        middle 95 % reach from ``null_low`` to ``null_high``; and ``fdr`` over all rows (Benjamini
        and Hochberg). The same is in ``uns["perturbation"]``.
    """
    if isinstance(change, str):
        _checks.choice(change, CHANGES, "change")
    else:
        _checks.number(change, "change", low=0)
    n_null, generator = _checks.count(n_null, "n_null"), _checks.as_generator(rng, "rng")
    names, stored = expression_of(adata, None)
    pool = _pool(adata, fit, names)
    asked = _where(pool, names, genes)
    start, ends, rows = _cells(adata, fit, label_key=label_key, times=times)
    measured = _measure(stored, rows)
    mean = measured.mean[pool.columns]
    least = mean[mean > 0].min() if (mean > 0).any() else 1.0
    # Log mean expression and length of loading of each gene of the pool.
    alike = torch.stack([torch.from_numpy(np.log(np.maximum(mean, least))), pool.size], 1)
    nulls = {k: most_alike(alike, k, n_null).tolist() for k in asked}
    if not all(nulls.values()):
        raise ValueError(_checks.message("fit", "a single gene with a loading", "others beside it"))
    chosen = sorted(set(asked).union(*nulls.values()))
    some = pool.of(chosen)
    steps = _steps(stored, measured, some.columns, change=change)
    moved = (
        start.x + (step[:, None] * to.double()).to(start.x)
        for step, to in zip(steps.T, some.loadings, strict=True)
    )
    factor = 0.0 if change == "knock-out" else change
    bends = None
    if not isinstance(factor, str):
        bends = [_bend(to[None].to(start.x), factor) for to in some.loadings]
        steps = steps.abs() + abs(factor - 1) * _gains(fit, start, ends.time, some.loadings)
    found = effect_on_fates(
        fit, start, moved, ends=ends, bends=bends, n_futures=n_futures, generator=generator
    )
    far = start.weights @ steps.abs() * some.size
    table = _table(found, far, {pool.names[k]: (k, nulls[k]) for k in asked}, chosen=chosen)
    adata.uns["perturbation"] = table.copy()
    key = label_key_of(fit.origin, label_key)
    adata.uns["perturbation_fit"] = {"label_key": key, "change": change}
    return table


def gene_sets(
    adata: AnnData,
    fit: Fit | Ensemble,
    genes: Sequence[str],
    *,
    group: str,
    size: int = 3,
    beta: float = 1.0,
    sampler: Sampler | None = None,
    label_key: str | None = None,
    rng: Rng = 0,
) -> pd.DataFrame:
    """Draw sets of genes by how much a group gains where they are knocked out together.

    Each set is knocked out in the cells of the first time, as :func:`perturb` does with one gene,
    and what the group's mean probability at the last time gains is its effect; a loss is none. Sets
    come in proportion to a power of it (:func:`cellflow.answers.gene_sets`). It is an effect on the
    fit and no cause; genes add up along their loadings, and what is more than a sum is of the flow.

    Parameters
    ----------
    adata, fit, label_key
        As in :func:`perturb`.
    genes, size, beta
        Names that sets are made of, how many of them at most, and the power of the effect: the
        larger, the more the best sets come.
    group
        Label of the cells at the last time that should become more.
    sampler
        ``cellflow.answers.GFlowNet()`` when omitted, which needs torchgfn. With few sets,
        ``cellflow.answers.AllSets()`` draws exactly.
    rng
        Seed or generator of noise, training and draws.

    Returns
    -------
    DataFrame
        One row for each set that was drawn, the most frequent first: ``genes``, joined by ``+``,
        the ``effect``, the ``frequency`` among 1,000 draws, and the ``probability`` that it should
        be. The same is in ``uns["gene_sets"]``, and ``uns["gene_sets_fit"]`` has how well these
        match, as :class:`cellflow.answers.GeneSets` tells it.
    """
    names, stored = expression_of(adata, None)
    pool = _pool(adata, fit, names)
    pool = pool.of(_where(pool, names, genes))
    start, ends, rows = _cells(adata, fit, label_key=label_key, times=None)
    _checks.choice(group, sorted({g for g in ends.labels or () if g is not None}), "group")
    steps = _steps(stored, _measure(stored, rows), pool.columns, change="knock-out")
    at, seed = {gene: k for k, gene in enumerate(pool.names)}, draw_seed(rng)

    def effect(sets: list[tuple[str, ...]]) -> Tensor:
        chosen = [[at[gene] for gene in one] for one in sets]
        moved = (start.x + (steps[:, k] @ pool.loadings[k].double()).to(start.x) for k in chosen)
        bends = (_bend(pool.loadings[k].to(start.x), 0.0) for k in chosen)
        found = effect_on_fates(fit, start, moved, ends=ends, bends=bends, generator=seed)
        return found.effect[:, found.groups.index(group)].clamp(min=0)

    found = drawn_sets(effect, pool.names, size=size, beta=beta, sampler=sampler, generator=seed)
    columns = ("effect", "frequency", "probability")
    table = pd.DataFrame({name: getattr(found, name).numpy() for name in columns})
    table.insert(0, "genes", [" + ".join(one) for one in found.sets])
    adata.uns["gene_sets"] = table.copy()
    adata.uns["gene_sets_fit"] = {
        k: v for k, v in vars(found).items() if isinstance(v, float | int)
    }
    return table


@dataclass(frozen=True, eq=False)
class _Pool:
    """Genes that can be changed: their columns in ``X``, what a unit moves, and how far."""

    names: list[str]
    columns: np.ndarray
    loadings: Tensor
    size: Tensor

    def of(self, chosen: Sequence[int]) -> _Pool:
        """Some of them."""
        rows, names = list(chosen), [self.names[k] for k in chosen]
        return _Pool(names, self.columns[rows], self.loadings[rows], self.size[rows])


def _pool(adata: AnnData, fit: Fit | Ensemble, names: list[str]) -> _Pool:
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
    return _Pool(loaded, columns, loadings, size).of(kept)


def _where(pool: _Pool, names: list[str], genes: str | Sequence[str]) -> list[int]:
    """Return where the asked `genes` are in the pool."""
    asked, _ = columns_of(names, genes)
    at = {name: k for k, name in enumerate(pool.names)}
    lost = [gene for gene in asked if gene not in at]
    if lost:
        got = f"{', '.join(map(repr, lost))}, which the components of the fit leave out"
        remedy = "Choose genes with loadings, or find components of more genes."
        raise ValueError(_checks.message("genes", got, "genes with a loading", remedy))
    return [at[gene] for gene in asked]


def _cells(
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
class _Measured:
    """Mean of each gene over the changed cells, and its deviation over all."""

    rows: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def _measure(stored: Any, rows: np.ndarray) -> _Measured:
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
    return _Measured(rows, here / len(rows), np.sqrt(variance))


def _steps(stored: Any, measured: _Measured, columns: np.ndarray, *, change: str | float) -> Tensor:
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


def _bend(loadings: Tensor, factor: float) -> Bend:
    """What becomes of displacements where what genes gain or lose is multiplied by `factor`.

    The components of expression whose columns of the genes, those of their `loadings` ``(m, d)``,
    are multiplied.
    """
    to = (factor - 1) * loadings / torch.linalg.matrix_norm(loadings, 2).square().clamp(min=1)
    return lambda step: step + step @ loadings.T @ to


def _gains(fit: Fit | Ensemble, start: Snapshot, end: float, loadings: Tensor) -> Tensor:
    """How much the genes of some `loadings` gain or lose on the mean way, ``(n, genes)``."""
    members = list(fit) if isinstance(fit, Ensemble) else [fit]
    times = np.linspace(start.time, end, BENDS + 1)
    total = torch.zeros(len(start), len(loadings), dtype=torch.float64)
    for one in members:
        for here, there in pairwise(one.simulate(start.x, times).x):
            total += ((there - here).cpu().double() @ loadings.double().T).abs() / len(members)
    return total


def _table(
    found: Effects, far: Tensor, asked: dict[str, tuple[int, list[int]]], *, chosen: list[int]
) -> pd.DataFrame:
    """One row for each asked gene and each group, against its null.

    Changes move cells as `far` as they do, ``(m,)``.
    """
    at, tables = {k: row for row, k in enumerate(chosen)}, []
    for gene, (k, others) in asked.items():
        row = at[k]
        beside = [at[other] for other in others]
        scale = torch.where(far[beside] > 0, far[row] / far[beside], 0.0)
        null = found.effect[beside] * scale[:, None]
        columns = {
            "gene": gene,
            "group": list(found.groups),
            "effect": found.effect[row].numpy(),
            "standard_error": found.standard_error[row].numpy(),
            "p": p_value(found.effect[row], null).numpy(),
            "n_null": len(null),
            "null_low": null.quantile(0.025, 0).numpy(),
            "null_high": null.quantile(0.975, 0).numpy(),
        }
        if found.member_std is not None:
            columns["member_std"] = found.member_std[row].numpy()
        tables.append(pd.DataFrame(columns))
    table = pd.concat(tables, ignore_index=True)
    table.insert(5, "fdr", false_discovery_control(table["p"]))
    return table
