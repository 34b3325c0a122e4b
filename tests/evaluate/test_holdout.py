"""Hold-out evaluation: yardsticks with known values, verdicts, and what is trained on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from cellflow import OTCFM, TimeCourse, evaluate
from cellflow.batches import Batching
from cellflow.evaluate import YARDSTICKS, HoldoutProtocol, HoldoutTable, Row, Scorer, holdout
from cellflow.evaluate import scorer as scoring
from cellflow.evaluate.table import BEST, DRAWN
from cellflow.networks import MLPConfig
from cellflow.timecourse import Snapshot

F64 = torch.float64


def moving(n: int = 80, times=(0.0, 1.0, 4.0)) -> TimeCourse:
    """The same cloud, moved by 2 per unit of time along the first axis."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    step = torch.tensor([2.0, 0.0], dtype=F64)
    return TimeCourse.from_arrays([x + t * step for t in times], times)


METHOD = OTCFM(net=MLPConfig(16, 2), batching=Batching(32, 32))


def table(course: TimeCourse | None = None, **options) -> HoldoutTable:
    options = {"steps": 20, "seeds": 2, "progress": False} | options
    return holdout(course or moving(), METHOD, **options)


def test_yardsticks_of_a_moving_cloud_are_known() -> None:
    t = table()
    value = {y: t.values(1.0, y, "w1")[0] for y in YARDSTICKS}
    assert value["previous"] == pytest.approx(2.0)
    assert value["next"] == pytest.approx(6.0)
    # Exact transport of a cloud to its copy is the translation: its point a quarter of the way
    # is the held-out cloud itself.
    assert value["ot_midpoint"] == pytest.approx(0.0, abs=1e-6)
    # At least the distance of means; at most, by convexity, the mean of both distances.
    assert 2.0 <= value["pooled"] <= 4.0
    assert 0 < value["floor"] < 1


def test_pooled_snapshots_weigh_as_many_cells_as_they_have() -> None:
    """Three cells before, all at 0; four after, two of them at 1: two of seven parts have moved."""
    before = Snapshot(torch.zeros(3, 1, dtype=F64), 0.0, torch.tensor([1.0, 2.0, 3.0], dtype=F64))
    truth = Snapshot(torch.zeros(5, 1, dtype=F64), 1.0)
    after = Snapshot(torch.tensor([[0.0], [0.0], [1.0], [1.0]], dtype=F64), 2.0)
    course = TimeCourse((before, truth, after))
    (row,) = Scorer(1.0, truth, ("w1",)).yardstick("pooled", course, 1, seed=0)
    assert row.value == pytest.approx(2 / 7)  # all that is not at 0 has 1 to go


def test_the_floor_splits_the_cells_anew_for_each_seed() -> None:
    floor = table(seeds=3).values(1.0, "floor", "w1")
    assert len(set(floor)) == 3


def test_index_time_puts_the_midpoint_in_the_middle() -> None:
    t = table(protocol=HoldoutProtocol(time="index"))
    assert t.held_out == [1.0]  # named by the user's time all the same
    # Halfway between 0 and 8 is 4; the truth is at 2.
    assert t.values(1.0, "ot_midpoint", "w1")[0] == pytest.approx(2.0)


def test_rows_count_cells_and_cover_every_metric_and_seed() -> None:
    t = table(moving(times=(0.0, 1.0, 2.0, 3.0)), metrics=("w1", "energy"))
    assert t.held_out == [1.0, 2.0]
    for name in ("otcfm", "floor"):
        rows = [r for r in t.rows if r.method == name]
        assert len(rows) == 2 * 2 * 2
        assert {r.seed for r in rows} == {0, 1}
    assert {(r.n_pred, r.n_true) for r in t.rows if r.method == "floor"} == {(40, 40)}
    assert {(r.n_pred, r.n_true) for r in t.rows if r.method == "pooled"} == {(160, 80)}
    assert {(r.n_pred, r.n_true) for r in t.rows if r.method == "otcfm"} == {(80, 80)}


def test_the_held_out_day_is_never_trained_on(monkeypatch) -> None:
    seen = []
    fit = type(METHOD).fit

    def recording(self, course, **options):
        seen.append(course.times)
        return fit(self, course, **options)

    monkeypatch.setattr(type(METHOD), "fit", recording)
    table(moving(times=(0.0, 1.0, 2.0, 3.0)), seeds=1)
    assert seen == [(0.0, 2.0, 3.0), (0.0, 1.0, 3.0)]


def test_preprocessing_without_the_held_out_day_leaves_it_out() -> None:
    """A held-out day far away would dominate the scale: leaving it out enlarges distances."""
    c = moving()
    x = c.snapshots[1].x + torch.tensor([0.0, 1000.0], dtype=F64)
    c = TimeCourse.from_arrays([c.snapshots[0].x, x, c.snapshots[2].x], c.times)
    with_it = table(c, protocol=HoldoutProtocol(whiten=True), seeds=1).values(
        1.0, "previous", "w1"
    )[0]
    own = HoldoutProtocol(whiten=True, preprocess_on="train")
    without = table(c, protocol=own, seeds=1).values(1.0, "previous", "w1")[0]
    assert with_it < 3
    assert without > 500


def test_components_are_rotated_to_when_asked() -> None:
    c = moving().map(lambda x: torch.cat([x, 1e-3 * x[:, :1]], 1))
    t = table(c, protocol=HoldoutProtocol(n_components=2), seeds=1)
    assert t.values(1.0, "previous", "w1")[0] == pytest.approx(2.0, rel=1e-3)


def rows(method: str, values: list[float]) -> tuple[Row, ...]:
    return tuple(Row(1.0, method, k, "w1", v, 9, 9) for k, v in enumerate(values))


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([0.50, 0.52], "better"),
        ([1.50, 1.52], "worse"),
        ([0.99, 1.00], "undecided"),
        ([0.20, 1.60], "undecided"),
        ([0.50], "undecided"),
    ],
)
def test_better_means_by_more_than_two_standard_errors(ours: list[float], verdict: str) -> None:
    yardsticks = sum((rows(y, [1.0]) for y in YARDSTICKS[:-1]), ())
    t = HoldoutTable(rows("otcfm", ours) + yardsticks + rows("floor", [0.10, 0.12]))
    assert {v.verdict for v in t.verdicts()} == {verdict}
    assert [v.yardstick for v in t.verdicts()] == [*YARDSTICKS[:-1], BEST]


def test_without_draws_the_standard_error_combines_seeds_and_the_floor() -> None:
    yardsticks = sum((rows(y, [1.0]) for y in YARDSTICKS[:-1]), ())
    t = HoldoutTable(rows("otcfm", [0.4, 0.6]) + yardsticks + rows("floor", [0.1, 0.3]))
    # Spread over seeds .1414 / sqrt(2) = .1; spread of the floor .1414.
    assert t.verdicts()[0].standard_error == pytest.approx((0.1**2 + 0.02) ** 0.5)
    assert t.verdicts()[0].difference == pytest.approx(-0.5)


def paired(ours: list[tuple[float, ...]], theirs: tuple[float, ...], n: int = 9) -> HoldoutTable:
    """A table of a model at .5 for all seeds and of the next day at 1, with these draws."""
    made = [Row(1.0, "otcfm", k, "w1", 0.5, n, 2 * n, b) for k, b in enumerate(ours)]
    return HoldoutTable((*made, Row(1.0, "next", 0, "w1", 1.0, n, n, theirs)))


def test_draws_are_compared_one_by_one() -> None:
    """What both share cancels: differences -1 and 1 for the mean of seeds, whatever is added."""
    for common in (0.0, 100.0):
        t = paired([(1 + common, 5.0), (1 + common, 7.0)], (2 + common, 5.0))
        assert [v.standard_error for v in t.verdicts()] == pytest.approx([2**0.5] * 2)
    # Draws of a quarter of the cells spread twice as much as draws of all.
    t = paired([(1.0, 5.0), (1.0, 7.0)], (2.0, 5.0), 4 * DRAWN)
    assert t.verdicts()[0].standard_error == pytest.approx(2**0.5 / 2)


def test_draws_make_a_verdict_of_one_seed() -> None:
    assert paired([(1.0, 2.0)], (1.1, 2.3)).verdicts()[0].verdict == "better"
    assert paired([(1.0, 2.0)], (1.1, 3.3)).verdicts()[0].verdict == "undecided"
    assert paired([()], (1.1, 2.3)).verdicts()[0].verdict == "undecided"


def test_the_best_yardstick_is_that_of_each_day() -> None:
    days = {1.0: {"previous": 3.0, "next": 2.0}, 2.0: {"previous": 1.0, "next": 4.0}}
    made = [Row(d, y, 0, "w1", v, 9, 9) for d, of in days.items() for y, v in of.items()]
    made += [Row(d, m, 0, "w1", v, 9, 9) for d in days for m, v in (("floor", 0.1), ("own", 2.5))]
    t = HoldoutTable(tuple(made))
    assert [t.values(d, BEST, "w1") for d in days] == [[2.0], [1.0]]
    found = {(v.yardstick, v.held_out): v.difference for v in t.verdicts()}
    assert [found[BEST, d] for d in days] == [0.5, 1.5]
    (line,) = [s for s in str(t).splitlines() if s.startswith("best yardstick")]
    assert line.endswith("1.500")


def test_bootstrap_spreads_as_the_mean_of_separate_clouds_does(monkeypatch) -> None:
    """W1 to a cloud that lies wholly to the right is the difference of means, so its error is
    that of two means; two shifts of one cloud differ by the shift in each draw."""
    monkeypatch.setattr(scoring, "DRAWN", 100)
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(150, 1, generator=rng, dtype=F64)
    y = x.exp()  # not independent: draws must be
    mass = torch.rand(150, generator=rng, dtype=F64) + 0.1
    score = Scorer(1.0, Snapshot(y + 50, 1.0), ("w1", "w2"), 400)
    first, far = (score("m", 7, Snapshot(x - s, 0.0, mass))[0].bootstrap for s in (0, 3))
    assert [b - a for a, b in zip(first, far, strict=True)] == pytest.approx([3.0] * 400)
    w = mass / mass.mean()
    mean = float((w * x[:, 0]).mean())
    variances = ((w * (x[:, 0] - mean)) ** 2).mean() + (y - y.mean()).square().mean()
    # 400 draws know a deviation to 4 %.
    assert torch.tensor(first).std() == pytest.approx(float((variances / 100).sqrt()), rel=0.12)
    assert sum(first) / 400 == pytest.approx(50 - mean + float(y.mean()), abs=0.03)


def test_a_midpoint_draws_the_cells_that_a_model_draws() -> None:
    """Of a cloud that was only moved, the midpoint is the cloud before, moved, cell by cell."""
    (row,) = [r for r in table(seeds=1).rows if (r.method, r.metric) == ("ot_midpoint", "w1")]
    course = moving()
    start, truth = course.snapshots[:2]
    moved = Snapshot(start.x + truth.x.mean(0) - start.x.mean(0), 1.0)
    (ours,) = Scorer(1.0, truth, ("w1",), scoring.DRAWS)("moved", 0, moved)
    assert row.bootstrap == pytest.approx(ours.bootstrap)
    assert min(row.bootstrap) > 0.1


def test_draws_are_the_first_metrics_of_all_but_the_floor() -> None:
    for r in table(seeds=[5]).rows:
        drawn = r.metric == "w1" and r.method != "floor"
        assert len(r.bootstrap) == (scoring.DRAWS if drawn else 0)


def test_json_is_the_documented_list(tmp_path) -> None:
    t = table(seeds=1)
    t.to_json(tmp_path / "rows.json")
    read = json.loads((tmp_path / "rows.json").read_text())
    keys = ["held_out", "method", "seed", "metric", "value", "n_pred", "n_true", "bootstrap"]
    assert all(list(r) == keys for r in read)
    assert HoldoutTable(tuple(Row(**r) for r in read)) == t


def test_the_frame_has_a_line_for_each_row() -> None:
    t = table(seeds=1)
    frame = t.to_frame()
    assert HoldoutTable(tuple(Row(**r) for r in frame.to_dict("records"))) == t
    assert frame[frame.metric == "w1"].groupby("method").value.mean()["next"] == pytest.approx(6)


def test_the_printed_table_shows_every_method_and_verdict() -> None:
    text = str(table())
    for name in ("otcfm", *YARDSTICKS, "w1", "w2", "energy"):
        assert name in text
    assert "otcfm against ot_midpoint (w1):" in text
    lines = text.splitlines()
    # The midpoint is best here: it is the held-out cloud itself.
    line, midpoint = (next(s for s in lines if s.startswith(n)) for n in ("best ", "ot_midpoint"))
    assert line.removeprefix("best yardstick").split() == midpoint.split()[1:]
    assert "otcfm against best yardstick (w1): worse at 1 of 1" in lines


def test_same_seeds_same_table() -> None:
    assert table() == table()
    assert_close(table().values(1.0, "otcfm", "w1"), table(seeds=[0, 1]).values(1.0, "otcfm", "w1"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"metrics": ["w3"]}, "`metrics`: got 'w3'"), ({"seeds": 0}, "`seeds`: got 0")],
)
def test_bad_options_are_named(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(**options)


def test_bad_protocols_are_named() -> None:
    with pytest.raises(ValueError, match="`time`: got 'indices'.* Did you mean 'index'"):
        HoldoutProtocol(time="indices")
    with pytest.raises(ValueError, match="`preprocess_on`: got 'test'"):
        HoldoutProtocol(preprocess_on="test")


def test_two_time_points_have_none_to_hold_out() -> None:
    with pytest.raises(ValueError, match="`course`: got 2 time points, expected 3"):
        table(moving(times=(0.0, 1.0)))


def test_metrics_are_the_packages_own() -> None:
    t = table(seeds=1)
    x, y = moving().snapshots[0].x, moving().snapshots[1].x
    for metric, function in evaluate.METRICS.items():
        assert t.values(1.0, "previous", metric) == [function(x, y)]
    assert replace(t.rows[0], value=0.0) != t.rows[0]
