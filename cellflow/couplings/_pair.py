"""What the couplings ask of two snapshots, and what they share about pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.plans.forms import PairPlan
from cellflow.timecourse import Snapshot

#: Numbers that differences between paired cells may take at once.
ENTRIES = 2**22


def check_pair(source: Snapshot, target: Snapshot) -> None:
    """Check that two snapshots can be coupled.

    Raises
    ------
    TypeError
        If an argument is not a snapshot.
    ValueError
        If dimensions or devices differ.
    """
    for name, value in (("source", source), ("target", target)):
        if not isinstance(value, Snapshot):
            got = type(value).__name__
            raise TypeError(_checks.message(name, got, "a Snapshot", "Use Snapshot(x, time)."))
    if source.x.shape[1] != target.x.shape[1]:
        got = f"{target.x.shape[1]} dimensions"
        raise ValueError(
            _checks.message("target", got, f"{source.x.shape[1]} as in the source snapshot")
        )
    if source.x.device != target.x.device:
        got = f"device {target.x.device}"
        raise ValueError(
            _checks.message("target", got, f"{source.x.device} as the source", "Move it with .to.")
        )


def centred(source: Snapshot, target: Snapshot) -> tuple[Tensor, Tensor]:
    """Return the cells of both in float64 about their common centre, after checking the pair.

    Raises
    ------
    TypeError, ValueError
        If the snapshots do not fit each other.
    """
    check_pair(source, target)
    x, y = source.x.detach().double(), target.x.detach().double()
    centre = (x.mean(0) + y.mean(0)) / 2
    return x - centre, y - centre


def pair_plan(
    pairs: tuple[Tensor, Tensor, Tensor],
    cells: tuple[Tensor, Tensor],
    masses: tuple[Tensor, Tensor],
    *,
    converged: bool = True,
) -> PairPlan:
    """Make a plan of rows, cols and mass, with its cost and the error of its marginals.

    Differences of cells of any precision are taken in float64.
    """
    rows, cols, mass = pairs
    step = max(1, ENTRIES // cells[0].shape[1])
    gaps = (
        cells[0][i].double() - cells[1][j].double()
        for i, j in zip(rows.split(step), cols.split(step))
    )
    squared = torch.cat([(gap * gap).sum(1) for gap in gaps])
    attained = [
        torch.zeros_like(asked).index_add_(0, index, mass)
        for index, asked in zip((rows, cols), masses, strict=True)
    ]
    return PairPlan(
        rows=rows,
        cols=cols,
        mass=mass,
        size=(len(masses[0]), len(masses[1])),
        cost=0.5 * float(torch.dot(mass, squared)),
        converged=converged,
        marginal_error=l1_error(attained, masses),
    )


def permutation_plan(cols: Tensor, *, cost: float, converged: bool) -> PairPlan:
    """Make the plan that pairs cell i with cell ``cols[i]``, all of equal mass."""
    n = len(cols)
    mass = torch.full((n,), 1.0 / n, dtype=torch.float64, device=cols.device)
    rows = torch.arange(n, device=cols.device)
    plan = PairPlan(rows=rows, cols=cols, mass=mass, size=(n, n), cost=cost, converged=converged)
    plan.__dict__["is_permutation"] = True  # a cached property, known without a search
    return plan


def l1_error(attained: Sequence[Tensor], asked: Sequence[Tensor]) -> float:
    """Return the larger of the two L1 distances between marginals."""
    gaps = [(p - q).abs().sum() for p, q in zip(attained, asked, strict=True)]
    return float(torch.stack(gaps).max())
