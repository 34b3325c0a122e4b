"""Curly flow matching: cycles that optimal transport cannot see."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow import OTCFM, Snapshot, TimeCourse, toys
from cellflow.batches import Batching
from cellflow.methods import CurlyFM, FlowMatching
from cellflow.metrics import wasserstein1
from cellflow.networks import MLPConfig
from cellflow.preprocessing import fit_preprocessing
from cellflow.training.cells import canonical, digest
from cellflow.training.trainer import Training
from cli_files import cellflow_

SMALL = {
    "net": MLPConfig(width=32, depth=2),
    "batching": Batching(64, 64),
    "training": Training(learning_rate=1e-2),
}
#: Seen 0.6 of a turn apart: the shortest way is back by 0.4.
TIMES = [0.0, 0.6, 1.2]


def course(noise: float = 0.0) -> TimeCourse:
    return toys.cycle(200, TIMES, noise=noise)


def table(c: TimeCourse) -> ad.AnnData:
    x, v = (torch.cat([getattr(s, name) for s in c.snapshots]) for name in ("x", "velocity"))
    cells = ad.AnnData(np.zeros((len(x), 1), np.float32), obsm={"X_pca": x.numpy()})
    cells.obsm["velocity_pca"] = v.numpy()
    cells.obs["day"] = np.repeat(c.times, [len(s) for s in c.snapshots])
    return cells


def missed(method: FlowMatching, c: TimeCourse) -> tuple[float, float]:
    """W1 half-way through both intervals, together, and turns per time at their starts."""
    fit = method.fit(c, steps=500, progress=False)
    wrong, turns = 0.0, []
    for t, start in ((0.3, c.snapshots[0]), (0.9, c.snapshots[1])):
        truth = toys.cycle(200, [t, t + 1], generator=7).snapshots[0].x
        wrong += wasserstein1(fit.simulate(start.x, [t - 0.3, t]).final, truth)
        x, v = start.x, fit.velocity(start.time, start.x)
        turn = x[:, 0] * v[:, 1] - x[:, 1] * v[:, 0]
        turns.append(float((turn / x.square().sum(1)).mean()) / (2 * np.pi))
    return wrong / 2, sum(turns) / 2


def test_the_way_round_is_found_where_transport_goes_back() -> None:
    """The middle of the chord of 0.6 turns is 3.9 from the cells, on a circle of radius 3."""
    wrong, turns = missed(CurlyFM(0.05, **SMALL), course())
    assert wrong < 0.3
    assert turns == pytest.approx(1.0, abs=0.1)
    wrong, turns = missed(OTCFM(0.05, **SMALL), course())
    assert wrong > 3.5
    assert turns < 0.0
    wrong, turns = missed(CurlyFM(0.05, **SMALL), course(noise=0.5))
    assert wrong < 1.0


def test_without_velocities_it_is_otcfm() -> None:
    bare = TimeCourse(tuple(replace(s, velocity=None) for s in course().snapshots))
    a, b = (method(0.1, **SMALL).fit(bare, steps=20, progress=False) for method in (CurlyFM, OTCFM))
    assert torch.equal(a.velocity(0.5, bare.x), b.velocity(0.5, bare.x))


def test_velocities_are_in_the_coordinates_and_units_of_cells() -> None:
    c = course()
    matrix = torch.tensor([[2.0, 1.0], [0.0, -3.0]], dtype=torch.float64)
    for s, moved in zip(c.snapshots, c.map(lambda x: x @ matrix + 5.0).snapshots, strict=True):
        assert_close(moved.velocity, s.velocity @ matrix)
    prep = fit_preprocessing(c.x, n_components=2, whiten=True)
    assert_close(prep.invert_vectors(c.map(prep.apply).snapshots[1].velocity),
                 c.snapshots[1].velocity)  # fmt: skip
    slow = c.retimed([0.0, 6.0, 12.0])  # ten times as long
    assert_close(slow.snapshots[1].velocity, c.snapshots[1].velocity / 10)
    assert c.to(dtype=torch.float32).snapshots[0].velocity.dtype == torch.float32
    rows = torch.tensor([3, 1])
    assert_close(c.snapshots[0].subset(rows).velocity, c.snapshots[0].velocity[rows])


def test_cells_keep_their_velocities_in_any_order() -> None:
    c = course()
    back = TimeCourse(tuple(s.subset(torch.arange(200).flip(0)) for s in c.snapshots))
    assert digest(canonical(back)) == digest(canonical(c))
    still = TimeCourse(tuple(replace(s, velocity=0 * s.velocity) for s in c.snapshots))
    assert digest(still) != digest(c)
    same = torch.zeros(200, 2)
    tied = [Snapshot(same, t, velocity=s.velocity) for t, s in enumerate(c.snapshots)]
    flipped = [s.subset(torch.arange(200).flip(0)) for s in tied]
    assert digest(canonical(TimeCourse(tied))) == digest(canonical(TimeCourse(flipped)))


def test_saved_fits_have_their_velocities(tmp_path) -> None:
    fit = CurlyFM(0.1, **SMALL).fit(course(), steps=3, progress=False)
    loaded = cf.load(fit.save(tmp_path / "fit"))
    assert loaded.method == fit.method
    for a, b in zip(loaded.course.snapshots, fit.course.snapshots, strict=True):
        assert torch.equal(a.velocity, b.velocity)
    assert torch.equal(loaded.velocity(0.5, fit.course.x), fit.velocity(0.5, fit.course.x))


def test_the_door_reads_velocities() -> None:
    c, how = course(), {"time_key": "day", "progress": False, "steps": 20}
    method = CurlyFM(0.1, **SMALL)
    fit = cf.tl.fit(table(c), method=method, reference="velocity_pca", **how)
    plain = method.fit(fit.course, steps=20, progress=False)
    assert torch.equal(fit.velocity(0.5, c.x), plain.velocity(0.5, c.x))
    assert torch.equal(fit.course.snapshots[1].velocity, c.snapshots[1].velocity)
    how |= {"workers": 1, "reference": "velocity_pca"}
    members = cf.tl.fit(table(c), method=method, members=2, bootstrap=True, **how)
    assert len(members.members) == 2
    scores = cf.tl.holdout(table(c), method=[method, OTCFM(**SMALL)], seeds=1, **how)
    assert "curly" in str(scores)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("curly", {}, "`reference`: got None, expected a key of obsm with velocities"),
        ("otcfm", {"reference": "velocity_pca"}, "of which no method makes use.*method='curly'"),
        ("curly", {"reference": "velocity"}, "`reference`: got 'velocity'.*'velocity_pca'"),
        ("curly", {"reference": "gaps"}, r"`obsm\['gaps'\]`: got NaN .*\(first: '7'\)"),
        ("curly", {"reference": "wide"}, r"`velocity`: got shape \(200, 3\), expected \(200, 2\)"),
    ],
)
def test_what_cannot_be_followed_is_named(method: str, options: dict, message: str) -> None:
    cells = table(course())
    cells.obsm["gaps"], cells.obsm["wide"] = cells.obsm["X_pca"].copy(), np.ones((600, 3))
    cells.obsm["gaps"][7] = np.nan
    with pytest.raises(ValueError, match=message):
        cf.tl.fit(cells, time_key="day", method=method, progress=False, **options)


def test_components_found_here_are_refused() -> None:
    with pytest.raises(ValueError, match="`reference`: got components fitted here"):
        cf.pp.course(table(course()), time_key="day", n_components=1, reference="velocity_pca")


def test_the_command_line_takes_a_reference(tmp_path) -> None:
    table(course()).write_h5ad(tmp_path / "cells.h5ad")
    words = ("fit", tmp_path / "cells.h5ad", "--time-key", "day", "--method", "curly", "--steps", 3)
    result = cellflow_(*words, "--reference", "velocity_pca", "--out", tmp_path / "fit")
    assert result.exit_code == 0, result.output
    assert cf.load(tmp_path / "fit").method.name == "curly"
