"""Plans from what others hand out: matrices, and pairs of indices."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch

from cellflow import _checks
from cellflow.plans.forms import PairPlan, pair_plan
from cellflow.plans.plan import Plan
from cellflow.timecourse import Snapshot

#: Entries of a matrix: rows, cols, mass and shape.
Matrix: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]
_EXPECTED = "a Plan, a matrix (n, m), or a tuple of indices (rows, cols)"


def as_plan(answer: object, source: Snapshot, target: Snapshot) -> Plan:
    """Return the `answer` of a function that couples `source` ``(n, d)`` with `target` ``(m, d)``.

    It is a plan of this shape, a matrix ``(n, m)``, or a tuple ``(rows, cols)`` of the numbers of
    cells that are paired, each pair of the same mass.
    """
    name, size = "coupling", (len(source), len(target))
    if isinstance(answer, Plan):
        if answer.shape != size:
            got, expected = f"a plan of shape {answer.shape}", f"{size}: source × target cells"
            raise ValueError(_checks.message(name, got, expected))
        return answer
    if answer is None or isinstance(answer, str | Plan | type):
        got = "nothing" if answer is None else type(answer).__name__
        raise TypeError(_checks.message(name, got, _EXPECTED, "Return it from the function."))
    if isinstance(answer, tuple) and len(answer) == 2:
        answer = _matrix_of(answer, size)
    return plan_of(entries_of(answer, name), source, target, name=name)


def plan_of(matrix: Matrix, source: Snapshot, target: Snapshot, *, name: str) -> PairPlan:
    """Return the entries of a `matrix`, called `name`, as a plan of `source` and `target`."""
    rows, cols, mass, shape = matrix
    if shape != (len(source), len(target)):
        expected = f"{(len(source), len(target))}: source × target cells"
        remedy = "Subset it to the cells of the snapshots, or transpose it."
        raise ValueError(_checks.message(name, f"shape {shape}", expected, remedy))
    i, j, share = (torch.as_tensor(part, device=source.x.device) for part in (rows, cols, mass))
    cells = source.x.detach(), target.x.detach()
    return pair_plan((i, j, share), cells, (source.weights, target.weights))


def _matrix_of(pairs: tuple[Any, Any], size: tuple[int, int]) -> Any:
    """Return the sparse matrix of `pairs` of indices, after checking them."""
    from scipy import sparse

    sides = [_checks.as_numbers(side, "coupling", _EXPECTED).numpy(force=True) for side in pairs]
    whole = all(k.ndim == 1 and k.dtype.kind in "iu" for k in sides)
    if not whole or len(sides[0]) != len(sides[1]):
        got = f"a tuple of shapes {sides[0].shape} and {sides[1].shape}"
        raise ValueError(_checks.message("coupling", got, _EXPECTED, "Indices are whole numbers."))
    for k, n, side in zip(sides, size, ("source", "target"), strict=True):
        if len(k) and (k.min() < 0 or k.max() >= n):
            got, expected = (
                f"indices from {k.min()} to {k.max()}",
                f"0 to {n - 1}, the {side} cells",
            )
            raise ValueError(_checks.message("coupling", got, expected))
    return sparse.coo_matrix((np.ones(len(sides[0])), sides), shape=size)


def entries_of(plan: Any, name: str) -> Matrix:
    """Return rows, cols, mass of total one, and shape of a plan of any supported kind."""
    from scipy import sparse

    for attribute in ("transport_matrix", "X"):
        plan = getattr(plan, attribute, plan)
    if isinstance(plan, torch.Tensor) and plan.layout != torch.strided:
        plan = plan.to_dense()
    if sparse.issparse(plan):
        plan = _checks.sound(plan, name).tocoo()
        _checks.as_numbers(plan.data, name)
    else:
        plan = _checks.as_numbers(plan, name, "an (n, m) matrix of numbers")
        plan = plan.detach().cpu().double().numpy()
    if len(plan.shape) != 2 or 0 in plan.shape:
        raise ValueError(_checks.message(name, f"shape {plan.shape}", "a matrix (n, m)"))
    coo = sparse.coo_matrix(plan, dtype=np.float64)
    coo.sum_duplicates()
    if not np.isfinite(coo.data).all():
        raise ValueError(_checks.message(name, "NaN or infinite values", "finite numbers"))
    if (coo.data < 0).any():
        raise ValueError(_checks.message(name, f"minimum {coo.data.min():g}", "no negative values"))
    keep = coo.data > 0
    if not keep.any():
        raise ValueError(_checks.message(name, "only zeros", "a plan with mass"))
    mass = coo.data[keep]
    rows, cols = coo.row[keep].astype(np.int64), coo.col[keep].astype(np.int64)
    return rows, cols, mass / mass.sum(), (int(plan.shape[0]), int(plan.shape[1]))
