"""What fits say of their couplings."""

from __future__ import annotations

import pytest
import torch

import cellflow as cf
from cellflow.batches import Batching
from cellflow.fits.report import coupling_problems, coupling_report
from cellflow.training.trainer import Training

GOOD = {"plans": 3, "mean_partners": 2.0, "mean_cost": 1.5, "mean_partner_share": 0.01}


def course(n: int = 60, shift: float = 3.0) -> cf.TimeCourse:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, n, 2, generator=g)
    return cf.TimeCourse.from_arrays([x[0], x[1] + shift], [0.0, 2.0])


def fitted(method, steps: int = 5) -> cf.Fit:
    return method.fit(course(), steps=steps, progress=False)


PARTS = {"batching": Batching(32, 32, 1, prefetch=False), "training": Training(validation=0.0)}


def test_report_of_a_good_coupling_is_one_line() -> None:
    fit = fitted(cf.OTCFM(**PARTS))
    assert fit.health.startswith("coupling: good (")
    assert "\n" not in fit.health


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({"fallbacks": 2}, "2 of 3 plans did not converge"),
        ({"unconverged": 3}, "3 of 3 plans did not converge"),
        ({"marginal_error": 0.2}, "misses its marginals by 20.0%"),
        ({"noise_share": 4.0}, "2.0 times as far"),
        ({"effective_share": 0.05}, "rest on 5% of a snapshot's cells"),
        ({"unused": 0.25}, "25.0% of the cells were never paired"),
        ({"mean_partner_share": 0.8, "noise_share": 0.5, "blurred_by_sigma": 1.0}, "80% of all"),
    ],
)
def test_report_names_each_problem_with_its_size(facts: dict, word: str) -> None:
    assert coupling_problems(GOOD) == []
    (text,) = coupling_problems(GOOD | facts)
    assert word in text
    assert "PROBLEMS" in coupling_report(GOOD | facts)


def test_share_of_noise_equals_that_of_brownian_motion() -> None:
    """A Brownian motion of diffusion sigma costs ½ d sigma² span."""
    fit = fitted(cf.SF2M(1.5, **PARTS))
    facts = fit.history.coupling
    assert facts["noise_share"] == pytest.approx(0.5 * 2 * 1.5**2 * 2.0 / facts["mean_cost"])


def test_report_names_noise_larger_than_the_data(capsys) -> None:
    fit = cf.SF2M(30.0, **PARTS).fit(course(), steps=5)
    assert "sigma is too large" in fit.health
    assert "pairs nearly at random" in fit.health or "paired nearly at random" in fit.health
    assert "coupling: PROBLEMS" in capsys.readouterr().err


def test_report_counts_cells_never_paired() -> None:
    """Five steps of 8 pairs meet the cells of one pool: those of its blocks."""
    few = {**PARTS, "batching": Batching(8, 8, 1, prefetch=False)}
    method = cf.OTCFM(**few)
    x = torch.randn(1000, 1, generator=torch.Generator().manual_seed(1))
    unequal = cf.TimeCourse.from_arrays([x, x[:16] + 1])
    assert method.fit(unequal, steps=5, progress=False).history.coupling["unused"] == 0.0
    one = torch.zeros(1000, 16)
    one[0, :] = 1 / 16
    plan = cf.couplings.Given(one + 1e-12)
    facts = cf.methods.FlowMatching(plan, cf.paths.Straight(0.1), **few).fit(
        unequal, steps=2, progress=False
    )
    assert facts.history.coupling["unused"] > 0.9
    assert "never paired" in facts.health


@pytest.mark.parametrize("method", [cf.methods.UOTCFM, cf.ReachFM])
def test_effective_share_is_that_of_predicted_masses(method) -> None:
    """Of cells carried to the next snapshot, or half-way where both sides predict, at worst."""
    fit = method(**PARTS).fit(course(), steps=100, progress=False)
    first, last = fit.course.snapshots
    there = [(first, 1.0), (last, 1.0)] if fit.method.both_sides else [(first, 2.0)]
    shares = [fit.predict(cells, time).effective / len(cells) for cells, time in there]
    assert fit.history.coupling["effective_share"] == pytest.approx(min(shares), rel=1e-4)
    assert f"predictions rest on {min(shares):.0%} of the cells" in fit.health
    assert "effective_share" not in fitted(cf.OTCFM(**PARTS)).history.coupling


def test_report_without_plans_claims_nothing() -> None:
    assert coupling_report({}) == "coupling: no plans were made"
