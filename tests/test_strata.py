"""Strata: who is coupled with whom, in which share, and what nothing else depends on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.testing import assert_close

from cellflow import Snapshot, TimeCourse
from cellflow.batches import Batching, PairSampler
from cellflow.conditions import Categorical, Conditions
from cellflow.couplings import Exact, Geodesic, Given, Independent, Reach, Unbalanced
from cellflow.strata import links, told
from cellflow.training.cells import canonical, split_in_canonical_order

#: Cells of each condition at each time: B has none at the start, A none in the middle.
SIZES = {"control": (60, 40, 50), "A": (30, 0, 45), "B": (0, 35, 25)}
TIMES = (0.0, 1.0, 3.0)
ORDER = ("control", "A", "B", "C")


def conditions(levels=tuple(SIZES), **how) -> Conditions:
    drug = Categorical("drug", ("A", "B", "C"), none="control")
    return Conditions((drug,), levels, **{"control": levels.index("control"), **how})


def course(sizes=None, known: Conditions | None = None, *, seed=0, **more) -> TimeCourse:
    """Cells whose second dimension tells the condition, in random order."""
    sizes = SIZES if sizes is None else sizes
    known = conditions(tuple(sizes)) if known is None else known
    g = torch.Generator().manual_seed(seed)
    snapshots = []
    for k, time in enumerate(TIMES):
        x = [torch.randn(n[k], 3, generator=g).double() for n in sizes.values()]
        for name, some in zip(sizes, x, strict=True):
            some[:, 1] = 0.01 * ORDER.index(name)
        code = [torch.full((len(some),), known.code(n)) for n, some in zip(sizes, x, strict=True)]
        order = torch.randperm(sum(map(len, x)), generator=g)
        snapshots.append(Snapshot(torch.cat(x)[order], time, condition=torch.cat(code)[order]))
    return TimeCourse(tuple(snapshots), conditions=known, **more)


def batch(c: TimeCourse, coupling=None, seed=1, **how):
    batching = Batching(**{"batch_size": 30, "block_size": 16, "prefetch": False, **how})
    return PairSampler(c, coupling or Exact(), batching, seed).batch(0)


def told_by(x: torch.Tensor) -> torch.Tensor:
    return (x[:, 1] * 100).round().long()


def in_order(*ends: torch.Tensor) -> list[list[float]]:
    return sorted(torch.cat(ends, 1).tolist())


@pytest.mark.parametrize("how", [{}, {"block_size": None}, {"refresh": "every_step"}], ids=str)
@pytest.mark.parametrize("coupling", [Exact(), Independent(), Unbalanced(), Reach(), Geodesic()])
def test_pairs_never_cross_strata_and_tell_their_condition(coupling, how) -> None:
    pairs = batch(course(), coupling, **how)
    code = pairs.condition[:, 0]
    assert (told_by(pairs.x1) == code).all()
    borrowed = (code == 2) & (pairs.t0[:, 0] == 0)
    assert (told_by(pairs.x0) == torch.where(borrowed, 0, code)).all()


def test_strata_share_a_batch_alike_and_link_what_they_have() -> None:
    pairs = batch(course())
    got = {}
    for c, a, b in torch.cat([pairs.condition, pairs.t0, pairs.t1], 1).tolist():
        got[c, a, b] = got.get((c, a, b), 0) + 1
    ways = [(0, 0, 1), (0, 1, 3), (1, 0, 3), (2, 0, 1), (2, 1, 3)]
    assert got == {(*map(float, way),): 10 for way in ways}


def test_what_is_done_about_missing_time_points_is_said() -> None:
    assert told(course()) == (
        "conditions A: no cells at 1\nconditions B: the control's cells at 0",
        False,
    )
    lone = course({"control": (0, 20, 20), "A": (20, 0, 0)})
    assert told(lone) == (
        "conditions A: cells at one time point only, left out\nconditions control: no cells at 0",
        True,
    )
    assert {link.stratum for link in links(lone)} == {1}
    start = course({"control": (20, 0, 0), "A": (0, 20, 20)})
    assert told(start)[1] is False
    assert {link.stratum for link in links(start)} == {0}
    assert told(TimeCourse.from_arrays([[[0.0]], [[1.0]]])) == ("", False)


def test_whole_plans_are_those_of_each_condition_alone() -> None:
    c = course({"control": (20, 20, 20), "A": (20, 20, 20)})
    pairs = batch(c, block_size=None, batch_size=40)
    for code, name in enumerate(("control", "A")):
        alone = c.under(name)
        x, y = (s.x for s in alone.snapshots[:2])
        rows, cols = linear_sum_assignment(torch.cdist(x, y).square().numpy())
        mine = (pairs.condition[:, 0] == code) & (pairs.t0[:, 0] == 0)
        assert in_order(pairs.x0[mine], pairs.x1[mine]) == in_order(x[rows], y[cols])


def test_codes_and_the_order_of_cells_change_nothing_else() -> None:
    c = course()
    known = conditions(("B", "control", "A"))
    to_new = torch.tensor([known.code(v) for v in c.conditions.values])
    g = torch.Generator().manual_seed(3)
    orders = [torch.randperm(len(s), generator=g) for s in c.snapshots]
    moved = (
        replace(s, condition=to_new[s.condition]).subset(order)
        for s, order in zip(c.snapshots, orders, strict=True)
    )
    other = TimeCourse(tuple(moved), conditions=known)
    for part, twin in zip(
        split_in_canonical_order(c, 0.2, 0), split_in_canonical_order(other, 0.2, 0), strict=True
    ):
        a, b = batch(part), batch(twin)
        assert torch.equal(a.x0, b.x0)
        assert torch.equal(a.x1, b.x1)
        assert torch.equal(to_new[a.condition], b.condition)
        assert not torch.equal(a.x0, batch(part, seed=2).x0)


def test_cells_are_there_once_whoever_borrows_them() -> None:
    sizes = {"control": (50, 0, 0), "A": (0, 20, 0), "B": (0, 20, 0), "C": (0, 0, 20)}
    c = canonical(course(sizes))
    found = links(c)
    assert len(found) == 3
    assert len({link.source.x.data_ptr() for link in found}) == 1
    places = {s.x.untyped_storage().data_ptr() for link in found for s in link[:2]}
    assert places == {c.snapshots[0].x.untyped_storage().data_ptr()}
    for link in found:
        assert torch.equal(c.x[link.rows], link.source.x)
        assert torch.equal(c.x[link.cols], link.target.x)


def donors(**how) -> Conditions:
    drug = Categorical("drug", ("A",), none="control")
    donor = Categorical("donor", ("1", "2"))
    values = [{"drug": drug, "donor": donor} for drug in ("control", "A") for donor in "12"]
    return Conditions((drug, donor), tuple(values), control=0, **how)


def pairs_of_donors(coupling, **how) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes of both ends, and those that pairs have: the first dimension of a cell is its code."""
    code = [torch.tensor([0, 1]).repeat(20), torch.tensor([0, 1, 2, 3]).repeat(20)]
    x = [torch.stack([c.double(), torch.zeros(len(c)).double()], 1) for c in code]
    cells = (Snapshot(x, t, condition=c) for t, (x, c) in enumerate(zip(x, code, strict=True)))
    pairs = batch(TimeCourse(tuple(cells), conditions=donors(**how)), coupling, batch_size=200)
    return pairs.x0[:, 0].long(), pairs.x1[:, 0].long(), pairs.condition[:, 0]


def test_a_donor_borrows_its_own_control_and_is_crossed_where_asked() -> None:
    source, target, code = pairs_of_donors(Exact(), nuisance=("donor",))
    assert (source == target % 2).all()
    assert (target == code).all()
    source, target, code = pairs_of_donors(Independent(), across=("donor",))
    assert (target == code).all()
    found = {*zip(source.tolist(), target.tolist(), strict=True)}
    assert found == {(a, b) for a in (0, 1) for b in range(4)}


def test_masses_tell_the_growth_of_each_stratum() -> None:
    """One by default; where masses are told, the sums of each stratum's."""
    c = course({"control": (20, 40, 20), "A": (40, 20, 10)})
    for k in range(3):
        assert_close(c.under("A").snapshots[k].total_mass, 1.0)
    assert batch(c, Unbalanced()).mean_growth.abs().max() < 1e-6
    told = TimeCourse(
        tuple(replace(s, mass=torch.ones(len(s))) for s in c.snapshots), conditions=c.conditions
    )
    pairs = batch(told, Unbalanced())
    for code, sizes in enumerate(((20, 40, 20), (40, 20, 10))):
        for k, span in enumerate((1.0, 2.0)):
            mine = (pairs.condition[:, 0] == code) & (pairs.t0[:, 0] == TIMES[k])
            wanted = math.log(sizes[k + 1] / sizes[k]) / span
            assert_close(pairs.mean_growth[mine], torch.full((int(mine.sum()), 1), wanted).double())


def test_splits_keep_all_strata_and_their_masses() -> None:
    c = course({"control": (60, 40, 50), "A": (30, 20, 3), "B": (20, 35, 25)})
    kept, held = split_in_canonical_order(c, 0.1, 0)
    assert [sorted(s.condition.unique().tolist()) for s in kept.snapshots] == [[0, 1, 2]] * 3
    assert [sorted(s.condition.unique().tolist()) for s in held.snapshots] == [[0, 2]] * 3
    for k, (a, b) in enumerate(zip(kept.snapshots, held.snapshots, strict=True)):
        assert in_order(torch.cat([a.x, b.x])) == in_order(c.snapshots[k].x)
        for part in (a, b):
            for code in part.condition.unique():
                assert_close(part.mass[part.condition == code].sum(), torch.ones(()).double())
    few = course({"control": (9, 9, 9), "A": (50, 50, 50), "B": (0, 0, 50)})
    kept, held = split_in_canonical_order(few, 0.1, 0)
    assert {link.stratum for link in links(held)} == {0}  # nor B, which begins with them
    sizes = {"control": (9, 9, 9), "A": (0, 50, 50)}
    assert len(split_in_canonical_order(course(sizes), 0.1, 0)) == 1


def test_a_plan_of_whole_snapshots_is_refused() -> None:
    c = course({"control": (20, 20, 20), "A": (20, 20, 20)})
    with pytest.raises(ValueError, match="2 strata"):
        batch(c, Given(torch.ones(40, 40)))
    alone = {"control": (20, 0, 0), "A": (0, 20, 0), "B": (0, 0, 20)}
    with pytest.raises(ValueError, match="two time points"):
        batch(course(alone, conditions(control=None)))


def test_a_course_under_a_condition_has_its_cells_and_those_before_it_of_the_control() -> None:
    c = course()
    for name, times in (("control", (0, 1, 3)), ("A", (0, 3)), ("B", (0, 1, 3))):
        alone = c.under(name)
        assert alone.times == times
        assert alone.conditions is None
        lent = [told_by(s.x).unique().tolist() for s in alone.snapshots]
        assert lent == [[0 if name == "B" and t == 0 else ORDER.index(name)] for t in times]
        assert c.saw(name)
        assert torch.equal(c.start_of(name).x, alone.snapshots[0].x)
    assert not c.saw("C")
    assert torch.equal(c.start_of("C").x, c.under("control").snapshots[0].x)
    bare = course(known=conditions(control=None))
    assert bare.under("B").times == (1, 3)
    assert bare.start_of("C") is None
    with pytest.raises(ValueError, match="predicted"):
        c.under("C")
    with pytest.raises(ValueError, match="has none"):
        bare.under("A").under("A")


def test_a_condition_that_tells_less_is_that_of_all_cells_which_agree() -> None:
    drug, donor = Categorical("drug", ("A", "B")), Categorical("donor", ("x", "y"))
    values = [{"drug": a, "donor": b} for a in ("A", "B") for b in ("x", "y")]
    known = Conditions((drug, donor), values)
    codes = torch.tensor([0, 1, 2, 3, 3])
    x = torch.arange(5.0)[:, None]
    parts = (Snapshot(x, t, condition=codes) for t in (0.0, 1.0))
    course = TimeCourse(tuple(parts), conditions=known)
    for some, wanted in (
        ({"drug": "B"}, [2, 3, 4]),
        ({"donor": "x"}, [0, 2]),
        ({}, [0, 1, 2, 3, 4]),
    ):
        assert known.codes(some) == tuple(codes[wanted].unique().tolist())
        assert course.under(some).snapshots[1].x[:, 0].tolist() == wanted


@pytest.mark.parametrize("codes", [(0, 0, 1, 1), (0, 1, 0, 1)])
def test_cells_under_a_condition_keep_their_velocities(codes) -> None:
    x, code = torch.arange(8.0).reshape(4, 2), torch.tensor(codes)
    cells = (Snapshot(x, t, condition=code, velocity=-x) for t in (0.0, 1.0))
    found = TimeCourse(tuple(cells), conditions=conditions(("control", "A"))).under("A")
    assert [torch.equal(s.velocity, -s.x) for s in found.snapshots] == [True, True]
