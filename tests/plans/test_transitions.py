"""Masses along chains of plans, against dense matrices; plans as pairs, with their marginals."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch.testing import assert_close

from cases import COUPLINGS
from cellflow.couplings import Exact, Independent
from cellflow.plans import DensePlan, PairPlan, Transitions, sparsify
from cellflow.timecourse import Snapshot

SIZES = (30, 41, 25, 25)
TIMES = (0.0, 1.0, 3.0, 4.5)


def snapshots() -> list[Snapshot]:
    """Unequal masses; some growth is known beforehand."""
    generator = torch.Generator().manual_seed(0)

    def cells(n: int) -> torch.Tensor:
        return torch.randn(n, 3, generator=generator, dtype=torch.float64)

    return [
        Snapshot(
            cells(n), t, 0.2 + torch.rand(n, generator=generator).double(), None, cells(n)[:, 0]
        )
        for n, t in zip(SIZES, TIMES, strict=True)
    ]


@cache
def chain(name: str) -> Transitions:
    steps = list(zip(snapshots(), snapshots()[1:], strict=False))
    plans = [sparsify(COUPLINGS[name](a, b)(a, b), keep=1.0) for a, b in steps]
    return Transitions(TIMES, tuple(plans))


def dense(plan: PairPlan) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward and backward matrices by their definitions; empty rows and columns are zero."""
    matrix = plan.dense()
    start = matrix.sum(1, keepdim=True)
    if plan.source_growth is not None:
        matrix = matrix * (plan.source_growth[:, None] + plan.target_growth).exp()
    end = matrix.sum(0)
    return (matrix / start).nan_to_num(0.0), (matrix / end).nan_to_num(0.0)


@pytest.mark.parametrize("name", COUPLINGS)
def test_masses_follow_the_product_of_dense_matrices(name: str) -> None:
    moves = chain(name)
    generator = torch.Generator().manual_seed(1)
    first, last = (torch.rand(n, 2, generator=generator).double() for n in (SIZES[0], SIZES[-1]))
    forward, backward = zip(*map(dense, moves.plans), strict=True)
    assert_close(moves.push(first, 0.0, 4.5), torch.linalg.multi_dot(forward).T @ first)
    assert_close(moves.pull(last, 0.0, 4.5), torch.linalg.multi_dot(backward) @ last)
    matrix = torch.from_numpy(moves.matrix(0.0, 4.5).toarray())
    assert_close(matrix, torch.linalg.multi_dot(forward))
    total = matrix.sum(1, keepdim=True)
    assert_close(moves.expect(last, 0.0, 4.5), (matrix @ last / total).nan_to_num(0.0))
    product = torch.linalg.multi_dot(backward)
    total = product.sum(0)[:, None]
    assert_close(moves.recall(first, 0.0, 4.5), (product.T @ first / total).nan_to_num(0.0))


@pytest.mark.parametrize("name", COUPLINGS)
def test_push_and_pull_carry_one_population_to_the_other(name: str) -> None:
    moves = chain(name)
    for plan, start, end in zip(moves.plans, TIMES, TIMES[1:], strict=False):
        pushed = moves.push(plan.row_mass, start, end)
        matrix = plan.dense()
        if plan.source_growth is None:
            assert_close(pushed, plan.col_mass)
            assert_close(moves.pull(plan.col_mass, start, end), plan.row_mass)
        else:
            ratio = (
                snapshots()[TIMES.index(end)].total_mass
                / snapshots()[TIMES.index(start)].total_mass
            )
            if plan.unmatched == 0:
                assert_close(pushed, snapshots()[TIMES.index(end)].weights * ratio)
            matrix = matrix * (plan.source_growth[:, None] + plan.target_growth).exp()
            assert_close(moves.pull(pushed, start, end), matrix.sum(1))


@pytest.mark.parametrize("name", COUPLINGS)
def test_weights_are_those_of_the_plan_from_a_time_and_of_arrivals_at_the_last(name: str) -> None:
    moves = chain(name)
    for plan, start in zip(moves.plans, TIMES, strict=False):
        assert_close(moves.weights(start), plan.row_mass)
    arrived = moves.push(moves.weights(3.0), 3.0, 4.5)
    assert_close(moves.weights(4.5), arrived / arrived.sum())


@pytest.mark.parametrize("name", COUPLINGS)
def test_pull_keeps_mass_and_push_changes_it_by_growth_alone(name: str) -> None:
    moves = chain(name)
    reached = (moves.plans[0].col_mass > 0).double()
    assert_close(moves.pull(reached, 0.0, 1.0).sum(), reached.sum())
    if moves.plans[0].source_growth is None:
        leaving = (moves.plans[0].row_mass > 0).double()
        assert_close(moves.push(leaving, 0.0, 1.0).sum(), leaving.sum())


def test_pushing_and_expecting_are_adjoint_where_mass_is_conserved() -> None:
    moves = chain("entropic")
    mass, values = torch.rand(30).double(), torch.rand(25).double()
    left = torch.dot(moves.push(mass, 0.0, 4.5), values)
    assert_close(left, torch.dot(mass, moves.expect(values, 0.0, 4.5)))


def test_a_permutation_moves_labels_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, generator=generator)
    order = [torch.randperm(60, generator=generator) for _ in range(2)]
    clouds = [Snapshot(x, 0.0), Snapshot(x[order[0]], 1.0), Snapshot(x[order[0]][order[1]], 2.0)]
    plans = (Exact()(*clouds[:2]), Exact()(*clouds[1:]))
    marks = torch.eye(60, dtype=torch.float64)
    pushed = Transitions((0.0, 1.0, 2.0), plans).push(marks, 0.0, 2.0)
    assert torch.equal(pushed.argmax(1), order[0][order[1]])
    assert torch.equal(pushed.sum(0), torch.ones(60, dtype=torch.float64))


@pytest.mark.parametrize("name", ["entropic", "unbalanced", "independent"])
@pytest.mark.parametrize("limit", [10, 10**6])
def test_sparsify_keeps_the_marginals(name: str, limit: int) -> None:
    a, b = snapshots()[:2]
    plan = COUPLINGS[name](a, b)(a, b)
    pairs = sparsify(plan, keep=0.9, limit=limit)
    assert_close(pairs.row_mass, plan.row_mass)
    if plan.source_growth is None:
        assert_close(pairs.col_mass, plan.col_mass)
    elif limit > 10:
        growth = plan.source_growth.exp()
        assert_close(growth @ pairs.dense(), growth @ plan.dense())
    if limit > 10:
        moved = float((pairs.dense() - plan.dense()).abs().sum())
        assert moved < 2.5 * 0.1  # a tenth is left out, at most, and as much put elsewhere
        assert len(pairs.mass) < plan.shape[0] * plan.shape[1]
    assert pairs.source_growth is plan.source_growth
    assert pairs.cost == plan.cost


def test_sparsify_keeps_the_ancestors_of_a_rare_cell() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.rand(20, 20, generator=generator).double() ** 4
    matrix[:, 7] *= 1e-6  # never among the largest of a row
    plan = DensePlan(matrix=matrix / matrix.sum(), cost=1.0)
    before, after = (
        p.dense()[:, 7] / p.dense()[:, 7].sum() for p in (plan, sparsify(plan, keep=0.9))
    )
    assert float((before - after).abs().sum()) < 0.3


def test_sparsify_draws_without_bias() -> None:
    a, b = snapshots()[:2]
    plan = Independent()(a, b)
    mean = torch.stack([sparsify(plan, limit=10, generator=k).dense() for k in range(200)]).mean(0)
    # 1,312 draws over 1,230 pairs: an entry of about one draw has that variance, in 200 means.
    error = (plan.dense() / 1312 / 200).sqrt()
    assert float(((mean - plan.dense()) / error).abs().max()) < 5


def test_marginals_that_the_kept_pairs_cannot_carry_are_completed() -> None:
    # The largest entry of each row and column alone: two rows share a column.
    matrix = torch.tensor([[0.3, 0.04, 0.0], [0.28, 0.05, 0.0], [0.0, 0.03, 0.3]]).double()
    plan = DensePlan(matrix=matrix / matrix.sum(), cost=1.0)
    pairs = sparsify(plan, keep=0.01)
    assert_close(pairs.row_mass, plan.row_mass)
    assert_close(pairs.col_mass, plan.col_mass)
    assert float(pairs.mass.min()) > 0


def test_sparsify_returns_pairs_as_they_are() -> None:
    plan = Exact()(*snapshots()[2:])
    assert sparsify(plan) is plan


def test_transitions_refuse_unknown_times_and_wrong_shapes() -> None:
    moves = chain("exact")
    with pytest.raises(ValueError, match=r"`end`: got 0, expected a time after 1"):
        moves.push(torch.ones(41), 1.0, 0.0)
    with pytest.raises(ValueError, match=r"start`: .*0\.5.*one of 0, 1, 3, 4\.5"):
        moves.push(torch.ones(30), 0.5, 1.0)
    with pytest.raises(ValueError, match=r"mass`: .*\(31,\).*the cells at time 0"):
        moves.push(torch.ones(31), 0.0, 1.0)
    with pytest.raises(ValueError, match=r"values`: .*NaN"):
        moves.expect(torch.full((41,), torch.nan), 0.0, 1.0)
    with pytest.raises(ValueError, match=r"plans`: .*2 plans"):
        Transitions((0.0, 1.0), moves.plans[:2])
    with pytest.raises(ValueError, match="41 and 25 cells at time 1"):
        Transitions((0.0, 1.0, 2.0), (moves.plans[0], moves.plans[2]))
    with pytest.raises(ValueError, match="Push or pull masses"):
        moves.matrix(0.0, 4.5, limit=3)
    with pytest.raises(ValueError, match="keep"):
        sparsify(Independent()(*snapshots()[:2]), keep=0.0)
