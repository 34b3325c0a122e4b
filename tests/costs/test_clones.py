"""Known clones: kept together as strongly as is asked for, and unknown ones left alone."""

from __future__ import annotations

from dataclasses import replace

import anndata
import numpy as np
import ot
import pandas as pd
import pytest
import torch

import cellflow as cf
from cellflow.costs import UNKNOWN, Added
from cellflow.couplings import Coupling, Entropic, Exact, Given, Partial, Reach, Unbalanced
from cellflow.plans import Plan
from cellflow.timecourse import Snapshot

COUPLINGS = (Exact(), Unbalanced(relative_epsilon=0.05), Reach(), Exact(solver="pot"))


def couple_clones(source: Snapshot, target: Snapshot, *, coupling: Coupling, bonus: float) -> Plan:
    return coupling.by_cost(Added("clones", bonus, cost=coupling.ground))(source, target)


def pair(clones, others, d: int = 3, weighted: bool = False) -> tuple[Snapshot, Snapshot]:
    rng = torch.Generator().manual_seed(0)
    out = []
    for time, names in enumerate((clones, others)):
        x = torch.randn(len(names), d, generator=rng)
        mass = torch.rand(len(names), generator=rng) + 0.5 if weighted else None
        out.append(Snapshot(x, float(time), mass, labels=names))
    return out[0], out[1]


def alike(source: Snapshot, target: Snapshot) -> torch.Tensor:
    return torch.tensor([[a == b != UNKNOWN for b in target.labels] for a in source.labels])


@pytest.mark.parametrize("coupling", COUPLINGS, ids=str)
def test_a_huge_bonus_leaves_pairs_of_one_clone_only(coupling) -> None:
    clones = [str(k % 5) for k in range(60)]
    source, target = pair(clones, clones[::-1])
    plain = coupling(source, target).dense()
    plan = couple_clones(source, target, coupling=coupling, bonus=1e4)
    differ = ~alike(source, target)
    assert float(plain[differ].sum()) > 0.5
    assert float(plan.dense()[differ].sum()) < 1e-12
    assert plan.converged
    if isinstance(coupling, Exact):  # then it is exact within each clone
        x, y = source.x.double(), target.x.double()
        inner = 0.0
        for name in set(clones):
            rows, cols = ([c == name for c in s.labels] for s in (source, target))
            inner += ot.emd2([], [], 0.5 * torch.cdist(x[rows], y[cols]).square().numpy()) / 5
        assert plan.cost == pytest.approx(inner)


@pytest.mark.parametrize("coupling", COUPLINGS, ids=str)
def test_without_bonus_or_known_clones_the_plan_is_the_same_bit_for_bit(coupling) -> None:
    some = [str(k % 3) for k in range(40)]
    none = [UNKNOWN] * 40
    cases = ((some, some, 0.0), (none, none, 1.0), (some, none, 1.0), (["a"] * 40, ["b"] * 40, 1.0))
    for clones, others, bonus in cases:
        source, target = pair(clones, others)
        plan = couple_clones(source, target, coupling=coupling, bonus=bonus)
        same = coupling(source, target)
        assert torch.equal(plan.dense(), same.dense())
        assert plan.cost == pytest.approx(same.cost, rel=1e-12)


@pytest.mark.parametrize("bonus", [0.3, 2.0])
def test_costs_are_those_of_the_formula(bonus) -> None:
    """Against POT's solvers of the matrix, with unknown clones on both sides."""
    names = ["a", "b", "c", UNKNOWN]
    source, target = pair([names[k % 4] for k in range(30)], [names[k % 3 + 1] for k in range(24)])
    cost = 0.5 * torch.cdist(source.x.double(), target.x.double()).square()
    changed = cost - bonus * cost.median() * alike(source, target)
    exact = couple_clones(source, target, coupling=Exact(), bonus=bonus)
    best = ot.emd2([], [], changed.numpy())
    assert float((exact.dense() * changed).sum()) == pytest.approx(best)
    assert exact.cost == pytest.approx(float((exact.dense() * cost).sum()))
    known = ot.bregman.sinkhorn_log(
        source.weights.numpy(), target.weights.numpy(), changed.numpy(), 0.3, numItermax=20000
    )
    for entropic in (Unbalanced(epsilon=0.3, relaxation=None), Entropic(epsilon=0.3)):
        found = couple_clones(source, target, coupling=entropic, bonus=bonus)
        np.testing.assert_allclose(found.dense().numpy(), known, atol=1e-6)
        assert found.cost == pytest.approx(float((found.dense() * cost).sum()))


@pytest.mark.parametrize("coupling", COUPLINGS[:2], ids=str)
def test_cells_of_unknown_clones_pair_as_they_would(coupling) -> None:
    """Far from the others, which are in clones."""
    source, target = pair(["a", "b"] * 10 + [UNKNOWN] * 20, ["b", "a"] * 10 + [UNKNOWN] * 20)
    for s in (source, target):
        s.x[20:, 0] += 100.0
    plain = coupling(source, target).dense()
    plan = couple_clones(source, target, coupling=coupling, bonus=0.01).dense()
    assert not torch.equal(plain[:20, :20], plan[:20, :20])
    torch.testing.assert_close(plain[20:], plan[20:], atol=1e-7, rtol=0.0)


def test_what_cannot_be_is_refused(monkeypatch) -> None:
    source, target = pair(["a"] * 4, ["a", "a", "b", "b"])
    with pytest.raises(
        TypeError, match=r"`coupling`: got Partial, expected one that takes a `cost`"
    ):
        couple_clones(source, target, coupling=Partial(0.5), bonus=1.0)
    with pytest.raises(ValueError, match="`weight`: got -1"):
        couple_clones(source, target, coupling=Exact(), bonus=-1.0)
    with pytest.raises(ValueError, match="`labels`: got none, expected the clones of all cells"):
        couple_clones(Snapshot(source.x, 0.0), target, coupling=Exact(), bonus=1.0)
    monkeypatch.setattr("cellflow.couplings.coupling.DENSE_LIMIT", 15)
    with pytest.raises(ValueError, match="got Added of 4 × 4 cells, expected up to 15 pairs"):
        couple_clones(source, target, coupling=Exact(), bonus=1.0)


def cells() -> anndata.AnnData:
    rng = np.random.default_rng(0)
    clone = pd.Categorical(rng.permuted(np.repeat(["a", "b", "c", "none"], 30))).remove_categories(
        "none"
    )
    obs = pd.DataFrame({"day": np.tile([0, 1, 3], 40), "clone": clone})
    obs.index = [f"c{i}" for i in range(120)]
    return anndata.AnnData(obs=obs, obsm={"X_pca": rng.normal(size=(120, 2)).astype(np.float32)})


def couple(adata: anndata.AnnData, **options):
    return cf.tl.couple(adata, time_key="day", progress=False, **options)


@pytest.mark.parametrize("coupling", ["auto", "unbalanced"])
def test_door_keeps_clones_together(coupling) -> None:
    adata = cells()
    plain = couple(adata, coupling=coupling)
    moves = couple(adata, coupling=coupling, clone_key="clone", clone_bonus=100.0)
    named = np.where(adata.obs["clone"].isna(), "?", adata.obs["clone"].astype(object))
    within = [
        np.diag(m.table(named, 0, 3, normalize=None).drop("?").drop(columns="?")).sum()
        for m in (plain, moves)
    ]
    assert within[1] > 1.5 * within[0]
    zero = couple(adata, coupling=coupling, clone_key="clone", clone_bonus=0.0)
    for one, two in zip(plain.transitions.plans, zero.transitions.plans, strict=True):
        assert torch.equal(one.dense(), two.dense())
    with pytest.raises(ValueError, match="`clone_key`: got 'clones'.*Did you mean 'clone'"):
        couple(adata, clone_key="clones")
    with pytest.raises(TypeError, match="got Hierarchical, expected one that takes a `cost`"):
        couple(adata, coupling="global", clone_key="clone")


def test_a_flow_learns_plans_with_clones() -> None:
    adata = cells()
    moves = couple(adata, clone_key="clone", clone_bonus=100.0)
    method = replace(cf.OTCFM(), coupling=Given(moves.tmaps()))
    fit = cf.tl.fit(adata, time_key="day", method=method, steps=5, progress=False)
    (start, end), mass = fit.course.snapshots[:2], moves.transitions.plans[0].dense()
    torch.testing.assert_close(fit.method.coupling(start, end).dense(), mass.double())
