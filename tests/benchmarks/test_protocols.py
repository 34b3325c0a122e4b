"""The OT-CFM paper's protocol: who is trained on what, and how results are summarised."""

from __future__ import annotations

import pytest
import torch

from accuracy import protocols
from cellflow import evaluate
from cellflow.couplings import Exact, Independent
from cellflow.methods import SF2M, FlowMatching
from cellflow.timecourse import TimeCourse
from cellflow.training.cells import split

N_CELLS = 50


@pytest.fixture
def course() -> TimeCourse:
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1.0, 9.0, dtype=torch.float64)
    xs = [
        scale * torch.randn(N_CELLS, 8, generator=generator, dtype=torch.float64) + k
        for k in range(4)
    ]
    return TimeCourse.from_arrays(xs, [2.0, 3.0, 4.0, 7.0])


def test_methods_are_the_papers():
    """Tong et al. 2024, appendix: the settings as printed."""
    otcfm, icfm = protocols.paper_method("otcfm"), protocols.paper_method("icfm")
    assert isinstance(otcfm.coupling, Exact)
    assert isinstance(icfm.coupling, Independent)
    for method in (otcfm, icfm):
        net, batching, training = method.net, method.batching, method.training
        assert (net.depth, net.width, net.activation) == (3, 64, "selu")
        assert (batching.batch_size, batching.block_size, batching.reuse) == (128, 128, 1)
        assert (training.learning_rate, training.weight_decay) == (1e-3, 1e-5)
        assert training.patience is not None
        assert method.path.sigma == 0.1
    training = protocols.paper_method("otcfm", constant_rate=True).training
    assert (training.schedule, training.ema, training.clip) == ("constant", 0.0, 1e12)


def test_unknown_method():
    with pytest.raises(ValueError, match="`method`: got 'otcmf', .* Did you mean 'otcfm'"):
        protocols.paper_method("otcmf")


def test_five_components_are_whitened_on_all_cells_and_more_are_not(course):
    five, eight = protocols.paper_course(course, 5), protocols.paper_course(course, 8)
    torch.testing.assert_close(five.x.std(0, correction=0), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(five.x.mean(0), torch.zeros(5, dtype=torch.float64))
    assert torch.equal(eight.x, course.x)
    assert five.times == eight.times == (0.0, 1.0, 2.0, 3.0)
    with pytest.raises(ValueError, match="`n_dims`: got 9, expected at most 8"):
        protocols.paper_course(course, 9)


def test_each_fit_sees_80_percent_of_the_other_days(course, monkeypatch):
    seen, fit = [], FlowMatching.fit

    def spy(self, cells, **keywords):
        seen.append((self, cells, keywords["generator"]))
        return fit(self, cells, **keywords)

    monkeypatch.setattr(FlowMatching, "fit", spy)
    rows = protocols.paper_protocol(course, seeds=2, steps=1, progress=False)
    assert len(seen) == 2 * 2 * 2
    assert [seed for _, _, seed in seen] == [0, 1] * 4
    assert not torch.equal(seen[0][1].x, seen[1][1].x)  # each seed sets other cells aside
    for method, cells, seed in seen:
        assert cells.times in {(0.0, 2.0, 3.0), (0.0, 1.0, 3.0)}
        kept, held = split(cells, method.training.validation, seed)
        assert {len(s) for s in kept.snapshots} == {int(0.8 * N_CELLS)}
        assert {len(s) for s in held.snapshots} == {int(0.1 * N_CELLS)}
    assert {(r.n_pred, r.n_true) for r in rows} == {(N_CELLS, N_CELLS)}
    assert {r.held_out for r in rows} == {3.0, 4.0}
    assert [r.method for r in rows].count("ot_midpoint") == 2


def test_one_fit_is_carried_by_every_solver_it_can(course):
    """A method without a score has no row under a stochastic solver."""
    methods = ["otcfm", SF2M(1.0, coupling="exact")]
    options = {"n_dims": 2, "seeds": 1, "steps": 2, "progress": False, "midpoint": False}
    options["methods"] = methods
    rows = protocols.paper_protocol(course, solvers=("rk4", "euler_maruyama"), **options)
    names = [row.method for row in rows if row.held_out == 3.0]
    assert names == ["otcfm", "sf2m_exact", "sf2m_exact, euler_maruyama"]
    values = {row.method: row.value for row in rows if row.held_out == 3.0}
    assert values["sf2m_exact"] != values["sf2m_exact, euler_maruyama"]
    (alone,) = (
        row.value
        for row in protocols.paper_protocol(course, solvers=("euler_maruyama",), **options)
        if row.held_out == 3.0
    )
    assert alone == values["sf2m_exact, euler_maruyama"]


def test_unknown_solver(course):
    with pytest.raises(ValueError, match="`solvers`: got 'rk5'"):
        protocols.paper_protocol(course, solvers=("rk5",))


def test_too_few_time_points(course):
    with pytest.raises(ValueError, match="`course`: got 2 time points, expected at least 3"):
        protocols.paper_protocol(course.without(0).without(0))


def test_seeds_and_days_are_kept_apart():
    """Days 1 and 3 apart, and seeds 0.2 apart: each spread is seen once, where it belongs."""
    values = {(1.0, 0): 1.0, (1.0, 1): 1.2, (2.0, 0): 3.0, (2.0, 1): 3.2}
    rows = [evaluate.Row(day, "otcfm", s, "w1", v, 9, 9) for (day, s), v in values.items()]
    (summary,) = protocols.summarise(rows)
    assert summary.mean == pytest.approx(2.1)
    assert summary.days[1.0] == pytest.approx((1.1, 0.02**0.5))
    assert summary.std_over_seeds == pytest.approx(0.02**0.5)
    assert summary.spread_over_days == pytest.approx(2**0.5)
    head, line = protocols.report(rows, protocols.PUBLISHED["cite"]).splitlines()
    assert head.startswith("W1")
    assert line.endswith("2.100  0.141           1.414             0.882 ± 0.058")
