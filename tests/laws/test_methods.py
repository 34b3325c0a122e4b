"""Fits whose answer is known in closed form, and the laws that every method obeys."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow import OTCFM, TimeCourse, toys
from cellflow.batches import Batching
from cellflow.couplings import Given, Independent
from cellflow.methods import METHODS, FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import Pairs, Straight
from cellflow.preprocessing import fit_preprocessing
from cellflow.training.trainer import Training
from closed_forms import gaussian_displacement

F64 = torch.float64
SMALL = {
    "net": MLPConfig(width=16, depth=2),
    "batching": Batching(32, 32),
    "training": Training(check_every=20),
}


def cloud(n: int, seed: int, dtype: torch.dtype = F64, d: int = 2) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def course(times=(0.0, 1.0, 3.0), dtype: torch.dtype = F64) -> TimeCourse:
    return TimeCourse.from_arrays([cloud(60 + k, k, dtype) + k for k in range(3)], times)


def tiny(name: str, c: TimeCourse, **options):
    return METHODS[name](**SMALL).fit(c, steps=30, progress=False, **options)


# --- closed forms ----------------------------------------------------------------------------


def test_translation_is_learned_as_a_constant_velocity() -> None:
    """Exact coupling of x with x + c pairs each cell with its copy: v = c / span everywhere."""
    x, shift = cloud(400, 0), torch.tensor([3.0, -1.0], dtype=F64)
    c = TimeCourse.from_arrays([x, x + shift], [2.0, 4.0])
    fit = OTCFM(0.0, batching=Batching(200, 360), training=Training(learning_rate=5e-3)).fit(
        c, steps=600, progress=False
    )
    v = fit.velocity(3.0, x + shift / 2)
    # The network approximates: 5 % of the speed is its error after this budget, measured 1-2 %.
    assert float((v - shift / 2).norm(dim=1).mean()) < 0.05 * float(shift.norm()) / 2
    end = fit.simulate(x, [2.0, 4.0]).final
    assert_close(end.mean(0), (x + shift).mean(0), atol=0.1, rtol=0)


def test_gaussians_follow_the_displacement_interpolation() -> None:
    """Means and covariances at the middle are those of the closed form of Gaussian transport."""
    n = 4000
    source = toys.Gaussian([0.0, 0.0], [[1.0, 0.3], [0.3, 0.5]])
    target = toys.Gaussian([3.0, 1.0], [[0.4, -0.2], [-0.2, 1.2]])
    x0 = source.sample(n, generator=0)
    x1 = target.sample(n, generator=1)
    fit = OTCFM(0.0, training=Training(learning_rate=5e-3)).fit(
        TimeCourse.from_arrays([x0, x1], [0.0, 2.0]), steps=800, progress=False
    )
    middle = fit.interpolate(1.0).x
    exact = gaussian_displacement(0.5, source, target)
    # Four standard errors of a mean or covariance of 4,000 cells are .06; as much again is the
    # network's own error after this budget.
    assert_close(middle.mean(0), exact.mean, atol=0.12, rtol=0)
    assert_close(torch.cov(middle.T), exact.cov, atol=0.12, rtol=0)


def test_conditional_targets_agree_with_torchcfm() -> None:
    """Same pairs, times and noise: the same states and velocities as an independent library."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

    x0, x1, noise = cloud(50, 1), cloud(50, 2), cloud(50, 3)
    s = torch.linspace(0, 1, 50, dtype=F64)
    zero = torch.zeros(50, 1, dtype=F64)
    point = Straight(0.2).at(Pairs(x0, x1, zero, zero + 1), s[:, None], noise)
    peer = ConditionalFlowMatcher(sigma=0.2)
    assert_close(point.x, peer.sample_xt(x0, x1, s, noise))
    assert_close(point.velocity, peer.compute_conditional_flow(x0, x1, s, point.x))


def test_exact_coupling_agrees_with_torchcfm() -> None:
    """The same cells, coupled by its sampler: the same plan."""
    from torchcfm.optimal_transport import OTPlanSampler

    x0, x1 = cloud(60, 1), cloud(60, 2)
    ours = cf.couplings.Exact()(cf.Snapshot(x0, 0.0), cf.Snapshot(x1, 1.0)).dense()
    peer = OTPlanSampler(method="exact").get_map(x0, x1)
    assert_close(ours, torch.as_tensor(peer), rtol=0, atol=1e-12)


def test_entropic_coupling_agrees_with_torchcfm() -> None:
    """Its regularisation is that of the full squared distance: twice ours."""
    from torchcfm.optimal_transport import OTPlanSampler

    x0, x1 = cloud(60, 1), cloud(60, 2)
    plan = cf.couplings.Entropic(epsilon=0.5, tolerance=1e-12)
    ours = plan(cf.Snapshot(x0, 0.0), cf.Snapshot(x1, 1.0)).dense()
    peer = OTPlanSampler(method="sinkhorn", reg=1.0).get_map(x0, x1)
    # POT stops at a marginal error of 1e-9.
    assert_close(ours, torch.as_tensor(peer), rtol=1e-5, atol=1e-9)


def test_bridge_targets_agree_with_torchcfm() -> None:
    from torchcfm.conditional_flow_matching import SchrodingerBridgeConditionalFlowMatcher

    x0, x1, noise = cloud(50, 1), cloud(50, 2), cloud(50, 3)
    s = torch.linspace(0.01, 0.99, 50, dtype=F64)
    zero = torch.zeros(50, 1, dtype=F64)
    point = cf.paths.BrownianBridge(0.7).at(Pairs(x0, x1, zero, zero + 1), s[:, None], noise)
    peer = SchrodingerBridgeConditionalFlowMatcher(sigma=0.7)
    assert_close(point.x, peer.sample_xt(x0, x1, s, noise))
    # torchcfm adds 1e-8 to a denominator: its own tolerance.
    assert_close(
        point.velocity, peer.compute_conditional_flow(x0, x1, s, point.x), rtol=1e-5, atol=1e-5
    )


# --- laws ------------------------------------------------------------------------------------


def test_every_recipe_has_a_short_cut() -> None:
    """Those that are one setting of another, such as ``"sf2m_exact"``, have that one's."""
    recipes = {getattr(recipe, "func", recipe) for recipe in METHODS.values()}
    assert {getattr(cf, recipe.__name__) for recipe in recipes} == recipes


@dataclass(frozen=True)
class Doubled(FlowMatching):
    """A method of the user's own, with a setting more."""

    factor: float = 1.0


def test_a_class_of_methods_is_found_by_its_name_in_a_saved_fit(tmp_path) -> None:
    method = Doubled(Independent(), Straight(0.1), **SMALL, factor=2.0)
    fit = method.fit(course(), steps=5, progress=False)
    assert cf.load(fit.save(tmp_path / "fit")).method == method


@pytest.mark.parametrize("name", METHODS)
def test_one_seed_decides_everything_and_global_state_is_untouched(name: str) -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = tiny(name, course(), generator=3), tiny(name, course(), generator=3)
    other = tiny(name, course(), generator=4)
    x = cloud(9, 9)
    assert torch.equal(first.velocity(0.5, x), second.velocity(0.5, x))
    assert not torch.equal(first.velocity(0.5, x), other.velocity(0.5, x))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_cells_changes_nothing(name: str) -> None:
    c = course()
    flipped = TimeCourse.from_arrays([s.x.flip(0) for s in c.snapshots], c.times)
    x = cloud(9, 9)
    assert torch.equal(tiny(name, c).velocity(0.5, x), tiny(name, flipped).velocity(0.5, x))


@pytest.mark.parametrize("name", ["otcfm", "icfm"])
def test_halving_every_gap_doubles_every_velocity(name: str) -> None:
    slow, fast = course((0.0, 2.0, 6.0)), course((0.0, 1.0, 3.0))
    x = cloud(9, 9)
    assert_close(tiny(name, fast).velocity(1.5, x), 2 * tiny(name, slow).velocity(3.0, x))


@pytest.mark.parametrize("name", METHODS)
def test_a_shift_in_time_and_space_only_shifts_the_answer(name: str) -> None:
    c = course()
    far = TimeCourse.from_arrays([s.x + 50.0 for s in c.snapshots], [t + 7 for t in c.times])
    x = cloud(9, 9)
    # Cells are centred before they reach the network: what is left is rounding, amplified by
    # thirty steps of training.
    a, b = tiny(name, c).velocity(0.5, x), tiny(name, far).velocity(7.5, x + 50.0)
    assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_and_loaded_fits_predict_the_same(name: str, dtype, tmp_path) -> None:
    c = course(dtype=dtype)
    prep = fit_preprocessing(c.x, n_components=1, whiten=True)
    fit = tiny(name, c, preprocessing=prep)
    loaded = cf.load(fit.save(tmp_path / "fit"))
    x = cloud(9, 9, dtype)
    assert loaded.velocity(0.5, x).dtype == dtype
    assert torch.equal(loaded.velocity(0.5, x), fit.velocity(0.5, x))
    assert torch.equal(loaded.interpolate(2.0).x, fit.interpolate(2.0).x)
    assert loaded.method == fit.method
    assert loaded.history == fit.history
    assert loaded.course.times == fit.course.times


def test_no_pickle_is_written(tmp_path) -> None:
    folder = tiny("otcfm", course()).save(tmp_path / "fit")
    assert sorted(f.name for f in folder.iterdir()) == ["fit.json", "tensors.safetensors"]
    assert json.loads((folder / "fit.json").read_text())["method"]["name"] == "otcfm"


def test_saving_replaces_a_fit_but_nothing_else(tmp_path) -> None:
    fit = tiny("otcfm", course())
    fit.save(tmp_path / "fit")
    fit.save(tmp_path / "fit")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(FileExistsError, match="`folder`: got .*holds other things.*new or empty"):
        fit.save(tmp_path / "mine")
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fit", "mine"]
    with pytest.raises(FileNotFoundError, match="`folder`: got .*a folder written by `fit.save`"):
        cf.load(tmp_path / "nowhere")


def test_preprocessing_is_undone_in_every_answer() -> None:
    """Whitened training answers in data units: scaling the data scales its answers."""
    c = course()
    scaled = c.map(lambda x: x * torch.tensor([10.0, 0.1], dtype=F64))

    def fit(c: TimeCourse):
        return tiny("otcfm", c, preprocessing=fit_preprocessing(c.x, whiten=True))

    a, b = fit(c), fit(scaled)
    x, scale = cloud(9, 9), torch.tensor([10.0, 0.1], dtype=F64)
    assert_close(a.velocity(0.5, x) * scale, b.velocity(0.5, x * scale))
    assert_close(a.interpolate(0.5).x * scale, b.interpolate(0.5).x)


def test_forward_and_back_returns_to_the_start() -> None:
    fit, x = tiny("otcfm", course()), cloud(9, 9)
    there = fit.simulate(x, [0.0, 1.0, 3.0])
    back = fit.simulate(there.final, [3.0, 0.0])
    assert_close(back.final, x, atol=1e-5, rtol=0)
    adaptive = fit.simulate(x, [0.0, 1.0, 3.0], solver="dopri5")
    # SELU's slope jumps at zero, so that neither solver attains its order across such a kink.
    assert_close(adaptive.x, there.x, atol=1e-3, rtol=0)


@pytest.mark.filterwarnings("ignore:.*an extrapolation")
def test_interpolation_starts_from_the_snapshot_before() -> None:
    c = course()
    fit = tiny("otcfm", c)
    assert torch.equal(fit.interpolate(1.0).x, c.snapshots[1].x)
    expected = fit.simulate(c.snapshots[1].x, [1.0, 2.5]).final
    assert_close(fit.interpolate(2.5).x, expected)
    assert len(fit.interpolate(2.5, n_cells=7).x) == 7
    assert fit.interpolate(-1.0).x.shape == (60, 2)  # carried back from the first snapshot


def test_more_cells_than_observed_are_new_cells() -> None:
    fit = tiny("otcfm", course())
    x = fit.interpolate(2.5, n_cells=200).x
    assert len(torch.unique(x, dim=0)) == 200


def test_a_given_plan_trains_on_its_pairs() -> None:
    """The plan sends cell i to cell n - 1 - i: the flow's mean displacement tells."""
    x = torch.linspace(-1, 1, 40, dtype=F64)[:, None]
    method = FlowMatching(
        Given(torch.eye(40).flip(0)), Straight(0.0), training=Training(learning_rate=5e-3)
    )
    crossing = method.fit(TimeCourse.from_arrays([x, x]), steps=1000, progress=False)
    # All cells meet in the middle: x_s = (1 - 2s) x_0, so that v = -2 x / (1 - 2s) before it.
    s = 0.2
    state = (1 - 2 * s) * x
    v = crossing.velocity(s, state)
    slope = float((v * state).sum() / (state * state).sum())
    assert slope == pytest.approx(-2 / (1 - 2 * s), rel=0.15)  # the network's own error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.velocity(0.5, torch.zeros(3, 5)), "`x`: got 5 dimensions, expected 2"),
        (lambda f: f.velocity(0.5, [[float("nan"), 0]]), "`x`: got NaN or infinite values"),
        (lambda f: f.velocity(torch.zeros(4), torch.zeros(3, 2)), r"`time`: got shape \(4,\)"),
        (lambda f: f.interpolate(float("inf")), "`time`: got inf"),
        (lambda f: f.interpolate(0.5, n_cells=0), "`n_cells`: got 0"),
        (lambda f: OTCFM().fit(f.course, device="cdua"), "`device`: got 'cdua', expected an avail"),
        (lambda f: f.simulate(torch.zeros(3, 2), [0.0]), "`times`: got 1 times"),
        (lambda f: f.simulate(torch.zeros(3, 2), [0, 1], solver="rk5"), "Did you mean 'rk4'"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(tiny("otcfm", course()))


@pytest.mark.parametrize(
    ("xs", "times", "message"),
    [
        ([torch.zeros(3, 2)], [0], r"`snapshots`: got 1 time point\(s\), expected at least two"),
        ([torch.zeros(3, 2)] * 2, [1, 0], "`times`: got 0 after 1, expected strictly increasing"),
        ([torch.zeros(3, 2)] * 2, [1, 1], "`times`: got 1 after 1, expected strictly increasing"),
        ([torch.zeros(3, 2)] * 2, [0], "`times`: got 1 times, expected 2"),
        ([torch.zeros(3, 2), torch.zeros(3, 4)], [0, 1], "got 4 dimensions, expected 2"),
        ([torch.zeros(3), torch.zeros(3)], [0, 1], r"`xs\[0\]`: got shape \(3,\)"),
        ([torch.full((3, 2), torch.inf)] * 2, [0, 1], r"`xs\[0\]`: got NaN or infinite values"),
        ([torch.zeros(0, 2)] * 2, [0, 1], r"`xs\[0\]`: got 0 cells"),
    ],
)
def test_bad_courses_are_named(xs, times, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimeCourse.from_arrays(xs, times)
