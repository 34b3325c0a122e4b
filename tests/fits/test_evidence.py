"""Evidence: nothing where conditions are names alone, all where they matter, whatever the names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from cellflow import TimeCourse
from cellflow.conditions import Categorical, Conditions, Continuous
from cellflow.fits import evidence
from cellflow.methods import OTCFM
from cellflow.networks import MLPConfig
from cellflow.several import fit_members
from cellflow.training import FitOptions, Training

DRUGS = ("control", "A", "B", "C")


def course(seed: int = 2, *, shift: float = 0.0, scale: float = 1.0, n: int = 40) -> TimeCourse:
    """Normal clouds of n cells of each drug at two times; A shifts and scales the last one."""
    rng = torch.Generator().manual_seed(seed)
    known = Conditions((Categorical("drug", DRUGS),), DRUGS, control=0)
    xs = list(torch.randn(2, 4 * n, 3, generator=rng))
    code = torch.arange(4 * n) % 4
    of_drug = code == 1
    xs[1][of_drug] = scale * xs[1][of_drug] + shift
    return TimeCourse.from_arrays(xs, conditions=known, codes=[code, code])


def test_chance_is_taken_for_an_effect_as_often_as_the_level_says() -> None:
    """Of 60 draws without effects at most 5 % and three standard errors have evidence."""
    assert sum(evidence(course(seed)) > 0 for seed in range(60)) / 60 < 0.05 + 3 * 0.028


def test_evidence_grows_with_the_effect_and_with_the_cells_to_one() -> None:
    by_effect = [evidence(course(shift=shift)) for shift in (0.0, 0.5, 1.0, 4.0)]
    by_cells = [evidence(course(shift=0.8, n=n)) for n in (5, 40, 600)]
    for found in (by_effect, by_cells):
        assert found == sorted(found)
        assert found[-1] == 1
    assert by_effect[0] == 0
    assert evidence(course(scale=3.0, n=100)) > 0.8  # means are alike
    assert evidence(replace(course(), conditions=None, snapshots=_bare(course()))) == 1


def _bare(c: TimeCourse) -> tuple:
    return tuple(replace(s, condition=None) for s in c.snapshots)


def test_the_share_is_that_of_the_analysis_of_variance() -> None:
    """On a line where two points are all there is, distances are squares: F of textbooks."""
    counts = torch.tensor([[22, 18], [18, 22], [10, 30], [20, 20]])  # of zeros and ones, by drug
    x = torch.cat([torch.arange(2.0).repeat_interleave(row) for row in counts])[:, None]
    code = torch.arange(4).repeat_interleave(40)
    known = Conditions((Categorical("drug", DRUGS),), DRUGS)
    both = TimeCourse.from_arrays([x, x], conditions=known, codes=[code, code])
    means, n = counts[:, 1] / 40, len(x)
    within = float((40 * means * (1 - means)).sum()) / (n - 4)
    against = 40 * (means - means.mean()).square() / (0.75 * within)  # of one drug, by its rank
    f = [float(40 * (means - means.mean()).square().sum()) / 3 / within, float(against.max())]
    assert_close(evidence(both), 1 - 1 / max(f))


def test_names_order_and_position_of_conditions_do_not_matter() -> None:
    c = course(shift=0.7)
    order = [2, 0, 3, 1]
    place = torch.tensor([order.index(k) for k in range(4)])
    known = Conditions((Categorical("drug", ("x", "y", "z", "w")),), tuple("zxwy"), control=1)
    moved = tuple(replace(s, condition=place[s.condition]) for s in c.snapshots)
    other = replace(c, snapshots=moved, conditions=known)
    assert 0 < evidence(c) < 1
    assert_close(evidence(other), evidence(c))
    assert_close(evidence(c.map(lambda x: 7 * x - 3)), evidence(c), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("slope", "least", "most"), [(0.0, 0.0, 0.0), (6.0, 0.95, 1.0)])
def test_many_doses_of_few_cells_are_told_by_their_trend(slope, least, most) -> None:
    rng = torch.Generator().manual_seed(1)
    doses = torch.linspace(0, 1, 100)
    known = Conditions((Continuous("dose"),), doses.tolist(), across=("dose",))
    code = torch.arange(200) % 100
    x, y = torch.randn(2, 200, 3, generator=rng)
    y[:, 0] += slope * doses[code]
    found = evidence(TimeCourse.from_arrays([x, y], conditions=known, codes=[code, code]))
    assert least <= found <= most


def test_what_nuisance_does_is_no_evidence_of_drugs() -> None:
    rng = torch.Generator().manual_seed(1)
    named = Categorical("drug", DRUGS), Categorical("donor", ("D", "E"))
    values = tuple({"drug": d, "donor": e} for d in DRUGS for e in "DE")
    code = torch.arange(240) % 8
    x, y = torch.randn(2, 240, 3, generator=rng)
    y += 3.0 * (code % 2)[:, None]
    found = []
    for nuisance in ((), ("donor",)):
        known = Conditions(named, values, nuisance=nuisance)
        found.append(evidence(TimeCourse.from_arrays([x, y], conditions=known, codes=[code, code])))
    assert found == [1.0, 0.0]


def test_masses_that_differ_between_drugs_are_evidence_of_their_own() -> None:
    c = course()
    dead = tuple(replace(s, mass=torch.where(s.condition == 1, 0.5, 1.0)) for s in c.snapshots)
    assert evidence(replace(c, snapshots=dead)) == 1


def test_fits_answer_by_the_evidence_unless_told() -> None:
    """None: all alike, with a warning; some: in proportion; beyond doubt, or by 1: as learned."""
    x, method = torch.randn(5, 3), OTCFM(net=MLPConfig(8, 1))
    for shift in (0.0, 0.7, 4.0):
        fit = method.fit(course(shift=shift), steps=5, progress=False)
        w = evidence(fit.course)
        assert (w == 0) == (shift == 0)
        assert fit.evidence == w
        assert ("more than chance" in fit.summary) == (w < 1)
        if w == 0:
            with pytest.warns(UserWarning, match="more than chance"):
                found = fit.given("A").velocity(0.5, x)
        else:
            found = fit.given("A").velocity(0.5, x)
        assert torch.equal(found, fit.given("A", guidance=w).velocity(0.5, x))
    untold = replace(method, training=Training(label_dropout=0.0))
    assert untold.fit(course(), steps=2, progress=False).evidence == 1


def test_members_of_an_ensemble_share_one_evidence_and_one_warning():
    options = FitOptions(steps=3, progress=False)
    fits = fit_members(OTCFM(net=MLPConfig(8, 1)), course(), options, members=2, workers=1)
    with pytest.warns(UserWarning, match="more than chance") as told:
        given = fits.given("A")
    assert len(told) == 1
    x, alike = torch.randn(5, 3), fits.given("A", guidance=0.0)
    for one, other in zip(given, alike, strict=True):
        assert torch.equal(one.velocity(0.5, x), other.velocity(0.5, x))
