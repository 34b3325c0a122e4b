"""Agreement of velocities: exact, opposite, none, and calibrated where there is nothing."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import cellflow as cf
from cellflow import tl
from cellflow.answers import agreement
from cellflow.datasets import embryoid
from cellflow.methods import OTCFM
from cellflow.networks import MLPConfig

OPTIONS = {"time_key": "day", "method": OTCFM(net=MLPConfig(16, 1)), "progress": False}


def velocities(seed: int, sizes=(30, 50), d: int = 3, drift: float = 0.0) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [drift + torch.randn(n, d, generator=rng, dtype=torch.float64) for n in sizes]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_same_and_the_opposite_direction(sign) -> None:
    v = velocities(0)
    lengths = [torch.rand(len(x), 1, dtype=torch.float64) + 0.1 for x in v]
    found = agreement(v, [sign * a * x for a, x in zip(lengths, v, strict=True)])
    for part in (found.mean, found.low, found.high, *found.cells):
        torch.testing.assert_close(part, torch.full_like(part, sign))
    assert found.count.tolist() == [30, 50, 80]
    assert found.p_value.tolist() == pytest.approx([0.001 if sign > 0 else 1.0] * 3)


def test_chance_is_the_mean_over_all_pairs_and_what_a_common_direction_makes() -> None:
    one, two = velocities(1, drift=2.0), velocities(2, drift=2.0)
    found = agreement(one, two)
    cosine = torch.nn.functional.cosine_similarity
    pairs = [cosine(u[:, None], w[None], dim=2) for u, w in zip(one, two, strict=True)]
    expected = [float(p.mean()) for p in pairs]
    assert found.chance.tolist() == pytest.approx(
        [*expected, (30 * expected[0] + 50 * expected[1]) / 80]
    )
    assert [float(c.mean()) for c in found.cells] == pytest.approx(found.mean[:2].tolist())
    assert float(found.mean[2]) > 0.5
    assert float(found.p_value[2]) > 0.01  # that they drift alike says nothing of a cell
    same = agreement([torch.ones(5, 3)], [torch.ones(5, 3)])
    assert float(same.p_value[0]) == 1.0


def test_p_values_are_uniform_where_velocities_have_nothing_in_common_but_a_drift() -> None:
    p = [
        agreement(
            velocities(2 * k, (12, 9), drift=1.0),
            velocities(2 * k + 1, (12, 9), drift=1.0),
            n_permutations=99,
            generator=k,
        ).p_value
        for k in range(300)
    ]
    for column in torch.stack(p).T:
        # Of a hundred possible values the middle of each.
        assert stats.kstest(column.numpy() - 0.005, "uniform").pvalue > 0.01


def test_intervals_cover_the_mean_in_nineteen_cases_of_twenty() -> None:
    """On a circle, of angles of the second within ±1 of those of the first: mean sin(1)."""
    rng, covered = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        turn = torch.rand(40, generator=rng, dtype=torch.float64) * 2 - 1
        first = torch.rand(40, generator=rng, dtype=torch.float64) * 7
        one, two = (torch.stack([a.cos(), a.sin()], 1) for a in (first, first + turn))
        found = agreement([one], [two], n_permutations=1)
        covered += bool(found.low[0] <= np.sin(1.0) <= found.high[0])
    assert 0.92 < covered / 400 < 0.98


def test_rotation_and_order_of_cells_change_nothing() -> None:
    one, two = velocities(3, d=4), velocities(4, d=4)
    turn = torch.linalg.qr(velocities(5, (4,), d=4)[0]).Q
    found, turned = agreement(one, two), agreement([x @ turn for x in one], [x @ turn for x in two])
    torch.testing.assert_close(found.mean, turned.mean)
    torch.testing.assert_close(found.low, turned.low)
    assert torch.equal(found.p_value, turned.p_value)
    order = [torch.randperm(len(x), generator=torch.Generator().manual_seed(6)) for x in one]
    mixed = agreement(
        *([x[some] for x, some in zip(side, order, strict=True)] for side in (one, two))
    )
    torch.testing.assert_close(found.mean, mixed.mean)
    torch.testing.assert_close(found.chance, mixed.chance)


def test_cells_without_a_velocity_do_not_count() -> None:
    one, two = velocities(7, (10,))[0], velocities(8, (10,))[0]
    holes = two.clone()
    holes[2], holes[5] = 0.0, torch.nan
    kept = torch.tensor([k for k in range(10) if k not in (2, 5)])
    found, rest = agreement([one], [holes]), agreement([one[kept]], [two[kept]])
    assert found.cells[0].isnan().nonzero()[:, 0].tolist() == [2, 5]
    for name in ("count", "mean", "low", "chance", "p_value"):
        assert torch.equal(getattr(found, name), getattr(rest, name))
    with pytest.raises(ValueError, match="got 0 cells of group 0 with both velocities"):
        agreement([one], [torch.zeros_like(one)])
    with pytest.raises(ValueError, match=r"`others`: got shape \(10, 2\) of group 0"):
        agreement([one], [one[:, :2]])


@pytest.fixture(scope="module")
def bundled() -> tuple[anndata.AnnData, cf.Fit]:
    adata = embryoid()
    return adata, tl.fit(adata, n_dims=5, steps=30, **OPTIONS)


def test_door_compares_with_rna_velocity_in_the_representation(bundled) -> None:
    adata, fit = bundled[0].copy(), bundled[1]
    table = tl.velocity_agreement(adata, fit, velocity_key="rna_velocity_pca", n_permutations=19)
    tl.velocity(adata, fit)
    one, two = (adata.obsm[k][:, :5] for k in ("velocity_pca", "rna_velocity_pca"))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    cosine = (one * two).sum(1) / lengths
    np.testing.assert_allclose(adata.obs["velocity_agreement"], cosine, atol=1e-5)
    days = adata.obs.groupby("day")["velocity_agreement"].mean()
    np.testing.assert_allclose(table["mean"], [*days, cosine.mean()], atol=1e-6)
    assert table["cells"].tolist() == [550] * 5 + [2750]
    pd.testing.assert_frame_equal(adata.uns["velocity_agreement"], table)
    few = adata[adata.obs["day"] < 8].copy()
    few.obsm["rna"] = np.where(few.obs[["day"]] < 3, np.nan, few.obsm["rna_velocity_pca"])
    some = tl.velocity_agreement(few, fit, velocity_key="rna")
    assert some["time"].tolist()[:-1] == [7.5]
    assert few.obs["velocity_agreement"].isna().sum() == 550
    assert some["mean"][0] == pytest.approx(days[7.5], abs=1e-6)


def test_door_writes_nothing_where_it_fails(bundled) -> None:
    adata, fit = bundled[0].copy(), bundled[1]
    adata.obsm["nothing"], adata.obsm["flat"] = np.zeros((2750, 5)), np.zeros((2750, 4))
    for key, text in (
        ("rna_velocity", "Did you mean 'rna_velocity_pca'"),
        ("nothing", "without a cell that has a time and a velocity"),
        ("flat", r"got shape \(2750, 4\), expected the 5 columns of the fit"),
    ):
        with pytest.raises(ValueError, match=text):
            tl.velocity_agreement(adata, fit, velocity_key=key)
    assert not {"velocity_agreement"} & {*adata.obs, *adata.uns}
    tl.velocity(adata, fit)
    with pytest.raises(ValueError, match="which cellflow.tl.velocity has written"):
        tl.velocity_agreement(adata, fit, velocity_key="velocity_pca")


def test_layers_are_carried_through_the_loadings() -> None:
    """Genes move at velocities whose image in the components is the fit's own."""
    rng = np.random.default_rng(0)
    day = np.repeat([0.0, 1.0], 40)
    x = rng.normal(size=(80, 6)) + day[:, None] * np.arange(6)
    adata = anndata.AnnData(x, obs=pd.DataFrame({"day": day}, index=[f"c{i}" for i in range(80)]))
    cf.pp.pca(adata, n_components=3)
    fit = tl.fit(adata, steps=30, **OPTIONS)
    tl.velocity(adata, fit)
    genes = adata.obsm["velocity_pca"] @ adata.varm["PCs"].T
    adata.layers["rna"] = genes
    table = tl.velocity_agreement(adata, fit, velocity_key="rna")
    np.testing.assert_allclose(table["mean"], 1.0, atol=1e-5)
    adata.layers["rna"] = -genes
    adata.layers["rna"][:, 2] = np.nan  # a gene without a velocity
    adata.varm["PCs"][2] = 0.0
    table = tl.velocity_agreement(adata, fit, velocity_key="rna")
    assert table["mean"].max() < 0
    whole = tl.fit(adata, steps=30, use_rep="X", **OPTIONS)
    adata.layers["rna"] = np.stack(
        [whole.velocity(t, torch.tensor(c[None])).numpy()[0] for t, c in zip(day, x, strict=True)]
    )
    table = tl.velocity_agreement(adata, whole, velocity_key="rna")
    np.testing.assert_allclose(table["mean"], 1.0, atol=1e-5)
