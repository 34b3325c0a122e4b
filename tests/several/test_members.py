"""Several fits at once: each is the fit it would be alone, and their spread says what it claims."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow._random import draw_seed
from cellflow.batches import Batching
from cellflow.couplings import Exact, Given
from cellflow.fits import Ensemble
from cellflow.methods import UOTCFM, FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import Straight
from cellflow.several import fit_members
from cellflow.several.members import resampled
from cellflow.timecourse import Snapshot
from cellflow.training import Checkpointing, FitOptions, Training

F64 = torch.float64
SMALL = {"net": MLPConfig(16, 2), "batching": Batching(32, 32)}
METHOD = cf.OTCFM(**SMALL)


def cloud(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)


def course(n: int = 60) -> cf.TimeCourse:
    return cf.TimeCourse.from_arrays([cloud(n, k) + k for k in range(3)])


def ensemble(method=METHOD, c=None, **options) -> Ensemble:
    several = {"members": 3, "workers": 1}
    names = {"members", "workers", "bootstrap"} & options.keys()
    several |= {name: options.pop(name) for name in names}
    options = FitOptions(**{"steps": 20, "progress": False} | options)
    return fit_members(method, c or course(), options, **several)


@pytest.fixture(scope="module")
def three() -> Ensemble:
    return ensemble()


def weights(fit) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in fit.networks.parameters()])


@pytest.mark.parametrize("workers", [1, 2])
def test_member_is_the_fit_of_its_seed(three, workers):
    some = three if workers == 1 else ensemble(workers=workers)
    assert some.seeds == three.seeds
    for seed, member in zip(some.seeds, some, strict=True):
        alone = METHOD.fit(course(), steps=20, generator=seed, progress=False)
        assert torch.equal(weights(member), weights(alone))
        assert member.history.validation_loss == alone.history.validation_loss
        assert member.course is some.course


def test_members_may_have_parts_defined_locally():
    """As what is defined in a notebook does."""

    class Mine:
        def __call__(self, source, target):
            return Exact()(source, target)

    method = FlowMatching(Mine(), Straight(0.1), **SMALL)
    one, two = (ensemble(method, members=2, workers=w) for w in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(weights(a), weights(b))
        assert type(b.method.coupling.function) is Mine


def test_members_differ_and_more_of_them_begin_with_the_same(three):
    assert len({float(weights(m).sum()) for m in three}) == 3
    two = ensemble(members=2)
    assert two.seeds == three.seeds[:2]
    assert torch.equal(weights(two.members[1]), weights(three.members[1]))


def test_ensemble_answers_are_moments_of_the_members(three):
    x = cloud(9, 5)
    v = torch.stack([m.velocity(0.5, x) for m in three])
    answer = three.velocity(0.5, x)
    assert_close(answer.mean, v.mean(0))
    assert_close(answer.std, ((v - v.mean(0)).square().sum(0) / 2).sqrt())
    paths = torch.stack([m.simulate(x, [0.0, 0.5, 2.0]).x for m in three])
    trajectory = three.simulate(x, [0.0, 0.5, 2.0])
    assert_close(trajectory.x, paths.mean(0))
    assert_close(trajectory.std, paths.std(0))
    assert_close(trajectory.final, paths.mean(0)[-1])
    assert trajectory.log_mass is None


def test_ensemble_interpolate_pools_cells_and_has_the_mass_of_one(three):
    cells = three.interpolate(0.5, n_cells=20, generator=3)
    pooled = cells.pooled
    # One number is drawn from the generator, so that all members carry the same cells.
    alone = [m.interpolate(0.5, n_cells=20, generator=_first(3)).x for m in three]
    assert torch.equal(pooled.x, torch.cat(alone))
    assert float(pooled.mass.sum()) == pytest.approx(float(three.course.snapshots[0].mass.sum()))
    assert_close(cells.states.std, torch.stack(alone).std(0))
    start = three.interpolate(1.0, n_cells=20)  # observed then: nothing to disagree on
    assert float(start.states.std.max()) == 0.0


def _first(seed: int) -> int:
    return int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed)))


def test_ensemble_draws_the_same_noise_for_all_members():
    """Members that learned the same differ by nothing, whatever noise is drawn."""
    fit = cf.SF2M(0.5, **SMALL).fit(course(), steps=5, progress=False)
    twins = Ensemble((fit, fit), (0, 1))
    path = twins.simulate(cloud(5, 1), [0.0, 1.0], solver="euler_maruyama", generator=4)
    assert float(path.std.abs().max()) == 0.0
    assert float((path.x[1] - fit.simulate(cloud(5, 1), [0.0, 1.0]).final).abs().max()) > 0.1
    assert float(twins.score(0.5, cloud(5, 1)).std.max()) == 0.0


def test_ensemble_growth_has_its_spread():
    some = ensemble(UOTCFM(**SMALL), members=2)
    x = cloud(7, 2)
    g = some.growth(0.5, x)
    assert_close(g.mean, (some.members[0].growth(0.5, x) + some.members[1].growth(0.5, x)) / 2)
    path = some.simulate(x, [0.0, 1.0])
    masses = torch.stack([m.simulate(x, [0.0, 1.0]).log_mass for m in some])
    assert_close(path.log_mass, masses.mean(0))
    assert_close(path.log_mass_std, masses.std(0))


def test_saved_ensemble_and_each_member_answer_the_same(three, tmp_path):
    x = cloud(9, 5)
    folder = three.save(tmp_path / "some")
    three.save(folder)  # replaces it
    loaded = cf.load(folder)
    assert torch.equal(loaded.velocity(0.5, x).members, three.velocity(0.5, x).members)
    assert (loaded.seeds, loaded.bootstrap) == (three.seeds, False)
    assert loaded.members[1].course is loaded.course
    assert loaded.history == three.history
    one = cf.load(folder / "member-2")
    assert torch.equal(one.velocity(0.5, x), three.members[2].velocity(0.5, x))
    assert torch.equal(one.course.x, three.course.x)
    three.members[0].save(folder)  # a fit in the place of an ensemble
    assert isinstance(cf.load(folder), cf.Fit)


def test_save_refuses_to_replace_a_folder_of_fits(three, tmp_path):
    three.members[0].save(tmp_path / "fits" / "member-0")
    with pytest.raises(FileExistsError, match="holds other things"):
        three.save(tmp_path / "fits")


def test_interrupted_ensemble_resumes(three, tmp_path, monkeypatch):
    """The second member is stopped after 10 steps: no third is begun, and it goes on from there."""
    fit, fitted = FlowMatching.fit_with, []

    def stopping(self, c, options, preprocessing):
        out = fit(self, c, options, preprocessing)
        fitted.append(options.seed)
        if len(fitted) == 2:
            out.history.stopped = "interrupted"
        return out

    keep = Checkpointing(tmp_path / "run.safetensors", every=10)
    with monkeypatch.context() as patch:
        patch.setattr(FlowMatching, "fit_with", stopping)
        with pytest.raises(KeyboardInterrupt):
            ensemble(checkpointing=keep)
    assert fitted == [draw_seed(seed) for seed in three.seeds[:2]]
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["run.member0.safetensors", "run.member1.safetensors"]
    again = ensemble(checkpointing=keep)
    for a, b in zip(again, three, strict=True):
        assert torch.equal(weights(a), weights(b))


def test_resampled_cells_have_the_bootstraps_law():
    """Multiplicities of n draws: mean 1, variance 1 - 1/n, and a share (1 - 1/n)^n never drawn."""
    n = 4000
    mass = torch.ones(n, dtype=F64)
    mass[:10] = 3.0
    snapshots = [Snapshot(cloud(n, 0), 0.0, mass), Snapshot(cloud(n, 1), 1.0)]
    drawn = resampled(cf.TimeCourse(tuple(snapshots)), 7)
    for s, whole in zip(drawn.snapshots, snapshots, strict=True):
        assert float(s.mass.sum()) == pytest.approx(float(whole.mass.sum()))
        # Four standard errors of a share of 4,000 cells, .0049 each.
        assert len(s) / n == pytest.approx(1 - (1 - 1 / n) ** n, abs=0.02)
        assert len(torch.unique(s.x, dim=0)) == len(s)
    times = (drawn.snapshots[1].mass / drawn.snapshots[1].mass.min()).round()
    assert float(times.sum()) == n
    # Of the second moment of a Poisson count, 2, to four standard errors (variance 11) of .05.
    assert float(times.square().sum()) / n == pytest.approx(2.0, abs=0.21)
    assert not torch.equal(drawn.snapshots[0].x, resampled(drawn, 7).snapshots[0].x)


def test_bootstrapped_member_is_the_fit_of_its_cells():
    some = ensemble(bootstrap=True, members=2)
    own = METHOD.fit(
        resampled(course(), some.seeds[1]), steps=20, generator=some.seeds[1], progress=False
    )
    assert torch.equal(weights(some.members[1]), weights(own))
    assert torch.equal(some.course.x, course().x)


def test_bootstrap_spread_is_the_standard_error_of_a_mean():
    """A shift: the flow's mean velocity is the difference of two sample means of n cells.

    Its standard error is sqrt(2/n). Of 12 members the spread is known to 1/sqrt(22) = 21 %, and
    the training adds its own; seeds alone leave the sampling of cells out.
    """
    n = 40
    c = cf.TimeCourse.from_arrays([cloud(n, 0), cloud(n, 1) + 3.0])
    still = FlowMatching(
        cf.couplings.Independent(),
        Straight(0.0),
        net=MLPConfig(8, 1),
        batching=Batching(64, None),
        training=Training(learning_rate=2e-2, validation=0.0, ema=0.9),
    )
    x = c.snapshots[0].x
    spreads = {}
    for bootstrap in (True, False):
        some = ensemble(still, c, members=12, steps=200, bootstrap=bootstrap)
        means = torch.stack([(m.simulate(x, [0.0, 1.0]).final - x).mean(0) for m in some])
        spreads[bootstrap] = means.std(0)
        if bootstrap:
            error, spread = (means.mean(0) - 3.0).abs(), means.std(0)
            assert bool((error < 4 * spread).all())  # the truth is covered
    expected = math.sqrt(2 / n)
    assert bool((spreads[True] > 0.6 * expected).all())
    assert bool((spreads[True] < 2.0 * expected).all())
    assert bool((spreads[False] < 0.6 * spreads[True]).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": 1}, "`members`: got 1, expected an integer of at least 2"),
        ({"workers": 0}, "`workers`: got 0, expected an integer of at least 1"),
        ({"steps": 0}, "`steps`: got 0"),
    ],
)
def test_fit_members_names_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        ensemble(**options)


def test_fit_members_refuses_to_resample_cells_known_by_rows():
    method = FlowMatching(Given(torch.eye(60)), Straight(0.0))
    c = cf.TimeCourse.from_arrays([cloud(60, 0), cloud(60, 1)])
    with pytest.raises(ValueError, match="`bootstrap`: got True, expected False for a coupling"):
        ensemble(method, c, bootstrap=True)


def test_ensemble_has_two_members_at_least(three):
    with pytest.raises(ValueError, match="`members`: got 1 fits and 1 seeds, expected two or more"):
        Ensemble(three.members[:1], three.seeds[:1])


def test_ensemble_health_is_that_of_the_worst_member(three):
    assert three.health.startswith("0 of 3 members have problems; member 0:\ncoupling: good")
    assert three.summary.startswith("3 members, the first:") and three.health in three.summary
