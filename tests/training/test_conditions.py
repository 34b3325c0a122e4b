"""What networks are told of conditions while they are trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from cellflow import TimeCourse
from cellflow.batches import Batching
from cellflow.conditions import Categorical, Conditions
from cellflow.methods import METHODS, OTCFM
from cellflow.networks import MLPConfig
from cellflow.paths import Pairs
from cellflow.several.members import resampled
from cellflow.several.stacked import fit_stacked
from cellflow.timecourse import Snapshot
from cellflow.training import FitOptions, Training
from cellflow.training.train_on_pairs import context_of, drawn

F64 = torch.float64
DRUGS = (Categorical("drug", ("A", "B")), Categorical("donor", ("x", "y")))
VALUES = tuple({"drug": a, "donor": b} for a in ("A", "B") for b in ("x", "y"))


def course(known: Conditions, n: int = 120) -> TimeCourse:
    g = torch.Generator().manual_seed(0)
    code = torch.arange(n) % len(known)
    x = [torch.randn(n, 2, generator=g, dtype=F64) + k * code[:, None] for k in range(2)]
    parts = (Snapshot(cells, float(k), condition=code) for k, cells in enumerate(x))
    return TimeCourse(tuple(parts), conditions=known)


@pytest.mark.parametrize("nuisance", [(), ("donor",)])
def test_conditions_are_dropped_as_often_as_asked(nuisance: tuple[str, ...]) -> None:
    known, n, rate = Conditions(DRUGS, VALUES, nuisance=nuisance), 20_000, 0.2
    x, code = torch.zeros(n, 2), torch.arange(n)[:, None] % 4
    pairs = Pairs(x, x, torch.zeros(n, 1), torch.ones(n, 1), condition=code)
    method = OTCFM(training=Training(label_dropout=rate))
    context = context_of(known, x)
    assert context is not None
    of_donor = 2  # features of a token of the drug come first
    rng = torch.Generator().manual_seed(3)
    points = drawn(method, pairs, rng, dropping=known)
    told = replace(context, rows=points.condition)
    present, tokens = told.of_cells(told.present), told.of_cells(told.tokens)
    gone = ~present.any(1)
    donor = (tokens[..., of_donor + 1 :] * present[..., None]).any(2).any(1)
    chance = 0.5 if nuisance else 0.0
    for found, wanted in ((gone, rate), (~donor, rate + (1 - rate) * chance)):
        error = (wanted * (1 - wanted) / n) ** 0.5
        assert abs(float(found.double().mean()) - wanted) < 4.5 * error
    for k, value in enumerate(VALUES):  # what is left is that of the pair
        mine = (code[:, 0] == k) & ~gone
        drug = {"drug": value["drug"]}
        assert_close(
            tokens[mine][:, 0], known.context(drug).tokens[0].float().expand(mine.sum(), -1)
        )
    plain = drawn(method, pairs, torch.Generator().manual_seed(3))
    assert torch.equal(plain.condition, code[:, 0])  # as in validation


def test_untold_networks_learn_the_whole_population_alone() -> None:
    """With every label dropped, conditions only draw other numbers."""
    known = Conditions(DRUGS, VALUES)
    fit = OTCFM(net=MLPConfig(16, 2), training=Training(label_dropout=1.0)).fit(
        course(known), steps=30, progress=False
    )
    start = OTCFM(net=MLPConfig(16, 2)).fit(course(known), steps=1, progress=False)
    token = [f.networks["velocity"].encoder.token.weight for f in (fit, start)]
    assert (token[0] - token[1]).abs().max() < 2e-3  # but for the decay of weights, and step 1
    null = [f.networks["velocity"].encoder.null for f in (fit, start)]
    assert (null[0] - null[1]).abs().max() > 5e-3


@pytest.mark.parametrize("name", ["otcfm", "mean_flow", "sf2m", "uotcfm"])
@pytest.mark.parametrize("kind", ["concat", "film"])
def test_stacked_members_are_the_fits_of_their_seeds(name: str, kind: str) -> None:
    known = Conditions(DRUGS, VALUES, nuisance=("donor",), across=("donor",))
    net = MLPConfig(16, 2, condition=kind, pool="attention")
    method = METHODS[name](net=net, batching=Batching(32, 32), training=Training(check_every=10))
    courses = [resampled(course(known), seed) for seed in (1, 2)]
    options = [FitOptions(steps=20, generator=seed, progress=False) for seed in (1, 2)]
    for fit, c, own in zip(fit_stacked(method, courses, options), courses, options, strict=True):
        alone = method.fit_with(c, own)
        x = c.snapshots[0].x
        for condition in (VALUES[2], {"drug": "B"}):
            ends = [f.given(condition).velocity(0.5, x) for f in (fit, alone)]
            assert_close(*ends, rtol=0, atol=1e-9)
        assert_close(fit.history.validation_loss, alone.history.validation_loss)
