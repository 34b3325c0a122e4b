"""Ordering, splitting and summarising cells: blocks, gathers and shortcuts against plain ways."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.testing import assert_close

from cellflow import Snapshot, TimeCourse, _checks, _moments
from cellflow.preprocessing import fit_preprocessing
from cellflow.training import cells

F64 = torch.float64


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=rng(seed))


def ties(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """Counts of a few genes: most cells agree in most of them, and some in all."""
    return torch.poisson(torch.full((n, d), 0.3), generator=rng(seed))


def course_of(*xs: torch.Tensor) -> TimeCourse:
    masses = [torch.rand(len(x), generator=rng(k)) + 0.5 for k, x in enumerate(xs)]
    return TimeCourse.from_arrays(xs, masses=masses, growths=[m - 1 for m in masses])


@pytest.mark.parametrize("d", [1, 3, 8, 12])
@pytest.mark.parametrize("make", [cloud, ties])
def test_the_order_is_that_of_all_keys_at_once(make, d: int) -> None:
    s = course_of(make(300, d), make(300, d, 1)).snapshots[0]
    x = s.x.double().numpy()
    hashes = [[zlib.crc32(row.tobytes()) for row in x]] if d > 8 else []
    keys = [*x.T[:8], *hashes, s.mass.double().numpy(), s.growth.double().numpy()]
    assert (cells.canonical_order(s).numpy() == np.lexsort(keys[::-1])).all()


@pytest.mark.parametrize("make", [cloud, ties])
def test_shuffled_cells_come_out_the_same(make) -> None:
    c = course_of(make(200, 12), make(150, 12, 1))
    orders = [torch.randperm(len(s), generator=rng(k)) for k, s in enumerate(c.snapshots)]
    shuffled = TimeCourse(
        tuple(s.subset(order) for s, order in zip(c.snapshots, orders, strict=True))
    )
    for a, b in zip(cells.canonical(c).snapshots, cells.canonical(shuffled).snapshots, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.mass, b.mass)
        assert torch.equal(a.growth, b.growth)


@pytest.mark.parametrize("fraction", [0.1, 0.0])
def test_one_gather_is_ordering_and_then_splitting(fraction: float) -> None:
    c = course_of(cloud(90, 3), cloud(130, 3, 1))
    at_once = cells.split_in_canonical_order(c, fraction, 7)
    in_turn = cells.split(cells.canonical(c), fraction, 7)
    assert len(at_once) == (1 if fraction == 0.0 else 2)
    for a, b in zip(at_once, [part for part in in_turn if part is not None], strict=True):
        for p, q in zip(a.snapshots, b.snapshots, strict=True):
            assert torch.equal(p.x, q.x)
            assert torch.equal(p.mass, q.mass)
            assert torch.equal(p.growth, q.growth)


def test_parts_have_each_cell_once_and_the_mass_of_the_whole() -> None:
    c = course_of(cloud(90, 3), cloud(130, 3, 1))
    parts = cells.split_in_canonical_order(c, 0.2, 0)
    for k, s in enumerate(c.snapshots):
        both = torch.cat([part.snapshots[k].x for part in parts])
        assert_close(both.sort(0).values, s.x.sort(0).values, rtol=0, atol=0)
        for part in parts:
            assert_close(part.snapshots[k].mass.sum(), s.mass.sum())


def test_arranged_cells_are_stacked_without_a_copy() -> None:
    c = course_of(cloud(90, 3), cloud(130, 3, 1))
    for part in cells.split_in_canonical_order(c, 0.2, 0):
        stacked = torch.cat([s.x for s in part.snapshots])
        assert torch.equal(part.x, stacked)
        assert part.x.data_ptr() == part.snapshots[0].x.data_ptr()
    assert c.x.data_ptr() != c.snapshots[0].x.data_ptr()
    reversed_in_memory = TimeCourse.from_arrays([stacked[20:], stacked[:20]])
    assert torch.equal(reversed_in_memory.x, torch.cat([stacked[20:], stacked[:20]]))
    with_a_gap = TimeCourse.from_arrays([stacked[:10], stacked[11:]])
    assert torch.equal(with_a_gap.x, torch.cat([stacked[:10], stacked[11:]]))


def test_the_digest_is_that_of_all_bytes(monkeypatch) -> None:
    c = course_of(cloud(90, 3), cloud(130, 3, 1))
    parts = [p for s in c.snapshots for p in (s.x, s.mass, s.growth)]
    whole = hashlib.sha256(b"".join(p.double().numpy().tobytes() for p in parts)).hexdigest()
    for block in (7, 2**16):
        monkeypatch.setattr(cells, "_BLOCK", block)
        assert cells.digest(c) == whole


def test_natural_sigma_is_that_of_numpy_also_in_parts(monkeypatch) -> None:
    c = TimeCourse.from_arrays([cloud(90, 3) * 2, cloud(130, 3, 1)], [0.0, 4.0])
    within = np.mean([s.x.double().numpy().var(0).mean() for s in c.snapshots])
    monkeypatch.setattr(_moments, "_BLOCK", 30)
    assert cells.natural_sigma(c) == pytest.approx((within / 4) ** 0.5, rel=1e-12)
    assert cells.natural_sigma(*cells.split_in_canonical_order(c, 0.3, 0)) == pytest.approx(
        cells.natural_sigma(c), rel=1e-12
    )


@pytest.mark.parametrize("sizes", [[500], [200, 300], [1, 2, 497]])
def test_components_in_blocks_are_those_of_scikit_learn(monkeypatch, sizes) -> None:
    """With the smallest direction a millionth of the largest: no squares were taken."""
    spread = torch.tensor([1e3, 30.0, 3.0, 1e-3], dtype=F64)
    x = cloud(500, 4).double() * spread @ torch.linalg.qr(cloud(4, 4, 1).double()).Q + 50.0
    monkeypatch.setattr(_moments, "_BLOCK", 4 * 17)
    ours = fit_preprocessing(x.split(sizes), n_components=4, whiten=True)
    theirs = PCA(4, svd_solver="full").fit(x.numpy())
    assert_close(ours.mean, torch.as_tensor(theirs.mean_))
    assert_close(
        ours.loadings.abs(), torch.as_tensor(theirs.components_).T.abs(), atol=1e-8, rtol=0
    )
    deviation = torch.as_tensor(theirs.explained_variance_ * 499 / 500).sqrt()
    # Rounding of the cells themselves, 1e-16 of a thousand, is what the smallest one feels.
    assert_close(ours.scale, deviation, rtol=1e-9, atol=0)


def test_cells_whose_sum_overflows_are_finite() -> None:
    x = torch.full((4, 3), 3e38)
    assert _checks.as_cells(x, "x") is x
    for bad in (torch.nan, torch.inf, -torch.inf):
        y = x.clone()
        y[2, 1] = bad
        with pytest.raises(ValueError, match="`x`: got NaN or infinite values in 1 cells.*row 2"):
            _checks.as_cells(y, "x")


def test_a_subset_keeps_labels() -> None:
    s = Snapshot(cloud(4, 2), 0.0, labels=list("abcd"))
    assert s.subset(torch.tensor([3, 1])).labels == ["d", "b"]
