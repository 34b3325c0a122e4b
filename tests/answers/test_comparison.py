"""Comparison of conditions: calibrated where there is nothing, sure where there is something."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import cellflow as cf
from cellflow import tl
from cellflow.answers.comparison import compare
from cellflow.batches import Batching
from cellflow.networks import MLPConfig
from cellflow.timecourse import Snapshot, TimeCourse

QUICK = cf.OTCFM(0.1, net=MLPConfig(16, 1), batching=Batching(32, 32, prefetch=False))


def course(seed: int, turn: float = 0.0, n: int = 60) -> TimeCourse:
    """Cells of two conditions that start alike; those of the second turn aside on the way."""
    rng, out = torch.Generator().manual_seed(seed), []
    for time in (0.0, 1.0, 2.0):
        x = torch.randn(n, 2, generator=rng) + torch.tensor([2.0 * time, 0.0])
        treated = torch.rand(n, generator=rng) < 0.4
        x[:, 1] += turn * time * treated
        out.append(Snapshot(x, time, labels=["drug" if t else "control" for t in treated]))
    return TimeCourse(tuple(out))


def test_a_planted_difference_is_found_where_it_is() -> None:
    found = compare(course(0, turn=3.0), QUICK, steps=150, n_permutations=19, workers=1)
    assert found.conditions == ("control", "drug")
    assert found.overall == pytest.approx(1 / 20)
    assert float(found.difference.min()) > 1.0  # of 3 a unit of time, after a short training
    assert [len(cells) for cells in found.cells] == [60] * 3
    squares = torch.stack([cells.square().mean() for cells in found.cells]).double()
    torch.testing.assert_close(found.difference.square(), squares, rtol=1e-5, atol=1e-6)


def test_p_values_are_uniform_where_conditions_make_no_difference() -> None:
    """Ranks of the observed labeling among four permuted ones, in 25 experiments."""
    p = [
        compare(course(seed), QUICK, steps=15, n_permutations=4, workers=1, generator=seed).overall
        for seed in range(25)
    ]
    counts = [sum(abs(value - k / 5) < 1e-9 for value in p) for k in range(1, 6)]
    assert sum(counts) == 25
    assert stats.chisquare(counts).pvalue > 0.01


def test_the_answer_depends_on_neither_workers_nor_the_names_order() -> None:
    one, two = (compare(course(1), QUICK, steps=10, n_permutations=3, workers=w) for w in (1, 2))
    assert torch.equal(one.difference, two.difference)
    assert one.overall == two.overall


def test_conditions_are_checked() -> None:
    bare = TimeCourse.from_arrays([torch.zeros(20, 2), torch.ones(20, 2)])
    with pytest.raises(ValueError, match="`course`: got 0 conditions"):
        compare(bare, QUICK)
    few = TimeCourse(
        tuple(Snapshot(torch.zeros(20, 2), t, labels=["a"] * 15 + ["b"] * 5) for t in (0.0, 1.0))
    )
    with pytest.raises(ValueError, match="got 5 cells of 'b' at time 0, expected at least 10"):
        compare(few, QUICK)


def test_door_writes_where_conditions_differ() -> None:
    cells = course(2, turn=3.0)
    obs = pd.DataFrame(
        {
            "day": np.repeat(cells.times, 60),
            "drug": [label for s in cells.snapshots for label in s.labels],
        },
        index=[f"c{i}" for i in range(180)],
    )
    adata = anndata.AnnData(obs=obs, obsm={"X_pca": cells.x.numpy()})
    options = {"condition_key": "drug", "time_key": "day", "method": QUICK, "steps": 100}
    table = tl.compare(adata, n_permutations=9, **options)
    assert table["p"].iloc[-1] == pytest.approx(0.1)
    assert table["time"].tolist()[:3] == [0.0, 1.0, 2.0]
    by_day = adata.obs.groupby("day")["flow_difference"].apply(lambda d: (d**2).mean() ** 0.5)
    np.testing.assert_allclose(by_day, table["difference"][:3], rtol=1e-5)
    adata.obs.loc["c0", "drug"] = "other"
    with pytest.raises(ValueError, match="got 3 conditions"):
        tl.compare(adata, n_permutations=9, **options)
