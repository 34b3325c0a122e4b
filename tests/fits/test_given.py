"""Fits of a course with conditions: closed form, guidance, populations, files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import cellflow
from cellflow import TimeCourse
from cellflow.conditions import Categorical, Conditions, Continuous
from cellflow.fits import Ensemble, Fit
from cellflow.methods import OTCFM, SF2M, UOTCFM, FewSteps, Iterated, MeanFlow, Shooting
from cellflow.networks import MLPConfig
from cellflow.several.members import fit_members, resampled
from cellflow.timecourse import Snapshot
from cellflow.toys import DosedGaussians, Gaussian
from cellflow.training import FitOptions

DOSES = (0.0, 1.0, 2.0)
SMALL = MLPConfig(32, 2)
SPREAD = 0.5


def shift(dose: float) -> torch.Tensor:
    return torch.tensor([2 * dose, 1 - dose])


def doses(n: int = 300, order: tuple[int, ...] = (0, 1, 2)) -> TimeCourse:
    """Normal clouds whose mean at time 1 is linear in the dose; codes in this `order`."""
    g = torch.Generator().manual_seed(0)
    known = Conditions((Continuous("dose", centre=1.0),), tuple(DOSES[k] for k in order))
    start, end = (SPREAD * torch.randn(3 * n, 2, generator=g) for _ in range(2))
    end += torch.cat([shift(d).expand(n, 2) for d in DOSES])
    code = torch.cat([torch.full((n,), order.index(k)) for k in range(3)])
    snapshots = Snapshot(start, 0.0, condition=code), Snapshot(end, 1.0, condition=code)
    return TimeCourse(snapshots, conditions=known)


def fitted(steps: int = 20, method=None, order: tuple[int, ...] = (0, 1, 2), n: int = 60) -> Fit:
    method = OTCFM(net=SMALL) if method is None else method
    return method.fit(doses(n, order), steps=steps, progress=False)


@pytest.fixture(scope="module")
def trained() -> Fit:
    return fitted(800, n=300)


@pytest.fixture(scope="module")
def quick() -> Fit:
    return fitted()


def cells(n: int = 200) -> torch.Tensor:
    return SPREAD * torch.randn(n, 2, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("dose", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_doses_between_and_at_those_seen_follow_the_closed_form(trained: Fit, dose: float) -> None:
    """The optimal map of clouds that a dose shifts is that shift."""
    known = replace(trained.course.conditions, control=0)  # whose cells unseen ones start from
    fit = replace(trained, course=replace(trained.course, conditions=known)).given(dose)
    end = fit.simulate(cells(), [0.0, 1.0]).final
    off = (end - cells() - shift(dose)).norm(dim=1).mean()
    assert off < (0.4 if dose in DOSES else 0.55)
    assert_close(end.mean(0), (cells() + shift(dose)).mean(0), atol=0.3, rtol=0)


def test_one_fit_of_all_conditions_is_as_good_as_one_of_each(trained: Fit) -> None:
    together, apart = [], []
    for dose in DOSES:
        course = trained.course.under(dose)
        alone = OTCFM(net=SMALL).fit(course, steps=300, progress=False)
        for fit, out in ((trained.given(dose), together), (alone, apart)):
            end = fit.simulate(cells(), [0.0, 1.0]).final
            out.append(float((end - cells() - shift(dose)).norm(dim=1).mean()))
    assert sum(together) < 2 * sum(apart) + 0.3


def test_guidance_goes_from_the_unbound_fit_through_the_condition(quick: Fit) -> None:
    x, t = cells(), 0.4
    bound, nothing = quick.given(2.0), quick.velocity(t, x)
    told = bound.velocity(t, x)
    assert not torch.allclose(told, nothing)
    assert torch.equal(quick.given(2.0, guidance=1.0).velocity(t, x), told)
    assert torch.equal(quick.given(2.0, guidance=0.0).velocity(t, x), nothing)
    assert_close(quick.given(2.0, guidance=3.0).velocity(t, x), nothing + 3 * (told - nothing))
    way = quick.given(2.0, guidance=0.0).simulate(x, [0.0, 1.0]).final
    assert torch.equal(way, quick.simulate(x, [0.0, 1.0]).final)
    with pytest.raises(ValueError, match="guidance"):
        quick.given(2.0, guidance=-1.0)


def test_populations_are_those_of_the_condition(quick: Fit) -> None:
    course, bound = quick.course.under(2.0), quick.given(2.0)
    assert bound.course.conditions is None
    assert torch.equal(bound.interpolate(1.0).x, course.snapshots[1].x)
    half = bound.interpolate(0.5, n_cells=40, generator=3)
    assert len(half) == 40
    assert_close(bound.interpolate(0.5, n_cells=40, generator=3).x, half.x)
    assert bound.log_prob(cells(5), 1.0).isfinite().all()
    with pytest.raises(ValueError, match="condition"):
        bound.given(1.0)  # it has one
    with pytest.raises(ValueError, match="condition"):
        OTCFM(net=SMALL).fit(course, steps=1, progress=False).given(1.0)


@pytest.mark.parametrize("kind", ["concat", "film"])
def test_score_growth_and_clock_are_told_as_well(kind: str) -> None:
    net, x = replace(SMALL, condition=kind), cells(30)
    noisy = fitted(method=SF2M(net=net))
    a, b = (noisy.given(d) for d in (0.0, 2.0))
    for field in ("score", "velocity"):
        assert not torch.allclose(getattr(a, field)(0.5, x), getattr(b, field)(0.5, x))
    how = {"solver": "sra1", "generator": 1}
    ends = [fit.predict(Snapshot(x, 0.0), 1.0, **how).x for fit in (a, b)]
    assert not torch.allclose(*ends)
    growing = fitted(method=UOTCFM(net=net))
    a, b = (growing.given(d) for d in (0.0, 2.0))
    assert not torch.allclose(a.growth(0.5, x), b.growth(0.5, x))
    assert a.log_prob(x, 1.0).isfinite().all()
    clocked = fitted(method=replace(OTCFM(net=net), clock="distance"))
    told = clocked.given(1.0).simulate(x, [0.0, 0.5, 1.0]).final
    assert not torch.allclose(told, clocked.simulate(x, [0.0, 0.5, 1.0]).final)


def test_few_steps_go_along_the_averages_of_the_condition() -> None:
    fit = fitted(method=MeanFlow(net=SMALL))
    a, b, nothing = (FewSteps(f, 2).transport(cells(9)) for f in (fit.given(0), fit.given(2), fit))
    assert not torch.allclose(a, b)
    assert not torch.allclose(a, nothing)


def test_codes_do_not_matter_but_for_seeds(trained: Fit) -> None:
    other = fitted(800, order=(2, 0, 1), n=300)
    for dose in DOSES:
        ends = [f.given(dose).simulate(cells(), [0.0, 1.0]).final for f in (trained, other)]
        assert (ends[0] - ends[1]).norm(dim=1).mean() < 0.5


def test_saved_fits_hold_their_conditions(quick: Fit, tmp_path) -> None:
    known = Conditions((Categorical("drug", ("A", "B"), doses=True),), ({"A": 1.5}, "B", "A+B"))
    course = replace(quick.course, conditions=replace(known, control=0))
    fit = OTCFM(net=replace(SMALL, pool="attention")).fit(course, steps=5, progress=False)
    loaded = cellflow.load(fit.save(tmp_path / "fit"))
    assert loaded.course.conditions.facts() == course.conditions.facts()
    for condition in (*course.conditions.values, {"A": 0.1, "B": 3.0}):
        ends = [f.given(condition).simulate(cells(), [0.0, 1.0]).final for f in (fit, loaded)]
        assert torch.equal(*ends)
    assert torch.equal(loaded.simulate(cells(), [0, 1]).final, fit.simulate(cells(), [0, 1]).final)
    with pytest.raises(ValueError, match=r"given one condition.*[Ss]ave"):
        fit.given("B").save(tmp_path / "bound")
    assert not (tmp_path / "bound").exists()


@pytest.mark.parametrize("edit", ["gone", "fewer", "kind"])
def test_edited_conditions_are_refused(quick: Fit, tmp_path, edit: str) -> None:
    file = quick.save(tmp_path / "fit") / "fit.json"
    facts = json.loads(file.read_text())
    if edit == "gone":
        facts["conditions"] = None
    elif edit == "fewer":
        facts["conditions"]["values"].pop()
    else:
        facts["conditions"]["covariates"][0]["kind"] = "of another kind"
    file.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="not a readable fit"):
        cellflow.load(tmp_path / "fit")


def test_ensembles_are_given_conditions_and_keep_strata(tmp_path) -> None:
    course = doses(40)
    for seed in (1, 2):
        drawn = resampled(course, seed)
        for s, whole in zip(drawn.snapshots, course.snapshots, strict=True):
            for k in range(3):
                assert_close(s.mass[s.condition == k].sum(), whole.mass[whole.condition == k].sum())
    options = FitOptions(steps=5, progress=False)
    both = fit_members(OTCFM(net=SMALL), course, options, members=2, bootstrap=True, workers=1)
    loaded = cellflow.load(both.save(tmp_path / "members"))
    assert isinstance(loaded, Ensemble)
    bound = loaded.given(1.0, guidance=2.0)
    assert torch.equal(bound.course.x, course.under(1.0).x)
    wanted = torch.stack([f.given(1.0, guidance=2.0).velocity(0.5, cells(9)) for f in both])
    assert torch.equal(bound.velocity(0.5, cells(9)).members, wanted)
    assert len(bound.interpolate(0.5).members) == 2


@pytest.mark.parametrize("method", [Shooting(), Iterated(OTCFM(), 1)])
def test_methods_that_cannot_learn_conditions_say_so(method) -> None:
    with pytest.raises(ValueError, match=r"`conditions`.*under\(condition\)"):
        method.fit(doses(20), steps=2, progress=False)


DRUGS = {"A": (2.0, 0.0, 0.0), "B": (0.0, 2.0, 0.0), "C": (0.0, 0.0, -2.0)}
SEEN = ("A", "B", "C", "A+B", "A+C")


def drugs(n: int = 150) -> tuple[DosedGaussians, TimeCourse]:
    """Normal clouds that drugs shift, one axis each: what they do adds up."""
    law = Gaussian(torch.zeros(3), SPREAD**2 * torch.eye(3))
    toy = DosedGaussians(law, law, DRUGS, log=False)
    return toy, toy.course(n, SEEN, generator=0)


@pytest.fixture(scope="module")
def combined() -> Fit:
    return OTCFM(net=MLPConfig(48, 2)).fit(drugs()[1], steps=900, progress=False)


@pytest.mark.parametrize("condition", ["B+C", "A+B+C"])
def test_unseen_combinations_of_what_adds_up_are_predicted(combined: Fit, condition: str) -> None:
    """The mean is within a fifth of the shift, nearer than that of any condition seen."""
    toy, _ = drugs()
    law, cells = toy.law(condition), combined.given(condition).interpolate(1.0).x
    off = [float((cells.mean(0) - toy.law(c).mean).norm()) for c in (condition, *SEEN, "control")]
    assert off[0] < 0.2 * float(law.mean.norm())
    assert off[0] < min(off[1:]) / 2
    assert_close(cells.std(0), torch.full((3,), SPREAD), atol=0.2, rtol=0)


def test_populations_of_unseen_conditions_are_predicted_and_not_those_of_others() -> None:
    course = drugs(40)[1]
    middle = replace(course.snapshots[1], time=2.0)
    course = replace(course, snapshots=(*course.snapshots, middle))
    fit = OTCFM(net=SMALL).fit(course, steps=5, progress=False)
    bound, start = fit.given("B+C"), course.under("control").snapshots[0]
    assert bound.course.times == (0.0, 1.0, 2.0)
    assert bound.course.conditions is None
    assert torch.equal(bound.course.snapshots[0].x, start.x)
    context = course.conditions.context("B+C")
    for time in (1.0, 2.0):
        own = bound.interpolate(time)
        assert torch.equal(own.x, bound.predict(start, time).x)
        assert_close(own.mass, start.mass.to(own.mass))
        far = torch.cdist(own.x, course.snapshots[1].x).min()
        assert far > 0  # nobody's cells
    told = fit.networks["velocity"](torch.tensor(0.5), start.x, context)
    assert_close(bound.velocity(0.5, start.x), told)
    other = OTCFM(net=SMALL).fit(course, steps=5, generator=1, progress=False)
    both = Ensemble((fit, other), (0, 1))
    told = both.given("B+C").interpolate(2.0)
    for one, member in zip(both, told.members, strict=True):
        assert torch.equal(member.x, one.given("B+C").interpolate(2.0).x)


def test_an_unseen_condition_needs_a_control_and_known_levels(quick: Fit) -> None:
    with pytest.raises(ValueError, match=r"condition.*1\.5.*control"):
        quick.given(1.5)
    fit = OTCFM(net=SMALL).fit(drugs(20)[1], steps=1, progress=False)
    with pytest.raises(ValueError, match="drug.*D"):
        fit.given("A+D")
