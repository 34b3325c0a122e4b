"""Edges of the stochastic methods that a user reaches sooner or later."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow.batches import Batching, PairSampler
from cellflow.couplings import Exact, Partial, Unbalanced
from cellflow.methods import METHODS, FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import Straight
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training import Checkpointing
from cellflow.training.cells import canonical
from cellflow.training.trainer import Training

PARTS = {
    "net": MLPConfig(width=16),
    "batching": Batching(64, 64, 1, prefetch=False),
    "training": Training(validation=0.0),
}


def normals(*sizes: int, shift: float = 2.0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [
        torch.randn(n, 2, generator=g, dtype=torch.float64) + shift * k for k, n in enumerate(sizes)
    ]


def course(*sizes: int, **keywords) -> TimeCourse:
    return TimeCourse.from_arrays(normals(*(sizes or (60, 60))), **keywords)


def test_weight_of_an_interval_does_not_depend_on_growth_of_the_population() -> None:
    """A thousandfold growth in the first interval leaves the second one equally weighted."""
    masses = [np.ones(64), np.full(64, 1e3), np.full(64, 1e3)]
    sampler = PairSampler(course(64, 64, 64, masses=masses), Unbalanced(), PARTS["batching"])
    batch = sampler.batch(0)
    s = torch.full((128, 1), 0.5, dtype=torch.float64)
    point = Straight(0.0).at(batch, s, torch.zeros_like(batch.x0))
    shares = point.weight.view(2, 64).mean(1)
    # At the end of an interval the pairs' shares sum to one; half-way, by Jensen, to less.
    assert bool((shares > 0.5).all() and (shares <= 1.1).all())
    # The growth that is learned is that of the population all the same.
    ends = (batch.growth[:, 0].view(2, 64)).exp().mean(1)
    assert_close(ends.log()[0], torch.tensor(np.log(1e3)), rtol=0.05, atol=0)


def test_interval_after_a_burst_of_growth_is_learned() -> None:
    """Straight up after a burst of growth: before, the flow went on as in the burst."""
    g = torch.Generator().manual_seed(0)
    at = [(0.0, 0.0), (2.0, 0.0), (2.0, 2.0)]
    xs = [0.3 * torch.randn(100, 2, generator=g) + torch.tensor(mean) for mean in at]
    grown = TimeCourse.from_arrays(xs, masses=[np.ones(100), *[np.full(100, 1e6)] * 2])
    method = cf.UOTCFM(net=MLPConfig(width=32), training=Training(3e-3, validation=0.0))
    fit = method.fit(grown, steps=200, progress=False)
    end = fit.predict(grown.snapshots[1], 2.0).x.mean(0)
    assert_close(end, torch.tensor(at[2]), atol=0.6, rtol=0)


@pytest.mark.parametrize("name", ["otcfm", "sf2m", "uotcfm", "dsbm"])
def test_resumed_run_does_not_report_cells_never_paired(name, tmp_path) -> None:
    """Resumed at its end it pairs nobody: before, that was a problem of 100 % of the cells."""
    method = METHODS[name](**PARTS)
    keywords = {"steps": 8, "progress": False}
    keywords["checkpointing"] = Checkpointing(tmp_path / "run.safetensors")
    first = method.fit(course(), **keywords)
    again = method.fit(course(), **keywords)
    assert first.history.step == again.history.step
    assert again.history.coupling["unused"] == 0.0
    assert "never paired" not in again.health


def test_cells_paired_do_not_depend_on_prefetching() -> None:
    few = course(500, 400)
    for steps in (1, 3):
        unused = []
        for prefetch in (False, True):
            batching = Batching(32, 32, 1, prefetch=prefetch)
            parts = PARTS | {"batching": batching}
            fit = cf.SF2M(**parts).fit(few, steps=steps, progress=False)
            unused.append(fit.history.coupling["unused"])
        assert unused[0] == unused[1]


@pytest.mark.parametrize("coupling", ["independent", "exact"])
def test_report_does_not_blame_sigma_for_couplings_with_many_partners(coupling: str) -> None:
    for cells in (course(), course(2, 2)):
        fit = cf.SF2M(0.5, coupling=coupling, **PARTS).fit(cells, steps=3, progress=False)
        assert "at random" not in fit.health


def test_report_does_not_blame_sigma_for_single_cell_snapshots() -> None:
    fit = cf.SF2M(0.1, **PARTS).fit(course(1, 1), steps=3, progress=False)
    assert fit.health.startswith("coupling: good")


def test_report_does_not_count_cells_that_a_partial_plan_leaves_out() -> None:
    method = FlowMatching(Partial(0.7), Straight(0.1), **PARTS)
    fit = method.fit(course(64, 64), steps=20, progress=False)
    assert fit.history.coupling["unused"] > 0.1
    assert fit.health.startswith("coupling: good")


def test_clouds_at_one_point_are_assigned_exactly() -> None:
    """Heavy cells fill a block with themselves: what centring leaves of it is rounding."""
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        x, y = torch.randn(2, 1, 3, generator=g, dtype=torch.float64)
        plan = Exact()(Snapshot(x.expand(6, 3), 0.0), Snapshot(y.expand(6, 3), 1.0))
        assert plan.converged


def test_prior_rates_order_cells_that_are_the_same() -> None:
    x = torch.zeros(6, 2, dtype=torch.float64)
    rates = torch.arange(6.0, dtype=torch.float64)
    orders = []
    for order in (torch.arange(6), torch.tensor([3, 5, 0, 1, 4, 2])):
        growths = [rates[order], None]
        cells = TimeCourse.from_arrays([x, x + 1], growths=growths)
        orders.append(canonical(cells).snapshots[0].growth)
    assert_close(orders[0], orders[1], rtol=0, atol=0)


@pytest.mark.parametrize("sigma", [np.float32(0.5), np.int64(1), torch.tensor(0.5)])
@pytest.mark.parametrize("name", ["otcfm", "sf2m", "ubsb", "dsbm"])
def test_numbers_of_other_libraries_are_saved(name: str, sigma, tmp_path) -> None:
    method = METHODS[name](sigma, **PARTS)
    checkpoint = Checkpointing(tmp_path / "run.safetensors")
    fit = method.fit(course(), steps=2, progress=False, checkpointing=checkpoint)
    loaded = cf.load(fit.save(tmp_path / "fit"))
    assert loaded.dynamics.sigma == fit.dynamics.sigma
    x = course().snapshots[0].x
    assert_close(loaded.velocity(0.5, x), fit.velocity(0.5, x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["otcfm", "sf2m", "ubsb"])
def test_text_in_place_of_a_number_raises(name: str) -> None:
    with pytest.raises(TypeError, match=r"`sigma`: got '0.5', expected a finite number"):
        METHODS[name]("0.5")


@pytest.mark.filterwarnings("ignore:.*an extrapolation")
def test_mass_beyond_the_range_of_numbers_raises_and_names_the_time() -> None:
    masses = [np.ones(60), np.full(60, 1e-9)]
    cells = course(masses=masses).to(dtype=torch.float32)
    fit = cf.UOTCFM(**PARTS).fit(cells, steps=40, progress=False)
    with pytest.raises(ValueError, match=r"`time`: got \S+, by when masses have grown"):
        fit.interpolate(600.0)


def test_prior_rates_that_a_coupling_ignores_warn() -> None:
    cells = cf.datasets.embryoid()[::20].copy()
    cells.obs["rate"] = 0.1
    options = {"time_key": "day", "n_dims": 2, "growth_key": "rate", "progress": False}
    with pytest.warns(UserWarning, match="'otcfm' has no use for growth rates"):
        cf.tl.fit(cells, method=cf.OTCFM(**PARTS), steps=1, **options)
    with pytest.warns(UserWarning, match="'dsbm' has no use for growth rates"):
        cf.tl.fit(cells, method=cf.methods.DSBM(**PARTS), steps=1, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cf.tl.fit(cells, method=cf.UOTCFM(**PARTS), steps=1, **options)
        both = [cf.OTCFM(**PARTS), cf.UOTCFM(**PARTS)]
        cf.tl.holdout(cells, method=both, steps=1, seeds=1, **options)


class Own(Straight):
    """A path of the user's own."""


def test_fit_with_an_unsaved_path_raises(tmp_path) -> None:
    fit = FlowMatching(Exact(), Own(0.1), **PARTS).fit(course(), steps=1, progress=False)
    loaded = cf.load(fit.save(tmp_path / "fit"))
    x = course().snapshots[0].x
    assert_close(loaded.velocity(0.5, x), fit.velocity(0.5, x), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="Own was not saved with this fit"):
        loaded.method.fit(course(), steps=1, progress=False)


def test_folder_of_another_version_raises_with_a_remedy(tmp_path) -> None:
    folder = cf.OTCFM(**PARTS).fit(course(), steps=1, progress=False).save(tmp_path / "fit")
    facts = folder / "fit.json"
    facts.write_text(facts.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(ValueError, match="got format 1, expected format 2.*or fit again"):
        cf.load(folder)
