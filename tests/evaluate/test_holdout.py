"""Hold-out evaluation: yardsticks with known values, verdicts, and what is trained on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from cellflow import OTCFM, TimeCourse, evaluate
from cellflow.batches import Batching
from cellflow.evaluate import YARDSTICKS, HoldoutProtocol, HoldoutTable, Row, holdout
from cellflow.networks import MLPConfig

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
    assert len(t.verdicts()) == 4


def test_the_standard_error_combines_seeds_and_sampling() -> None:
    yardsticks = sum((rows(y, [1.0]) for y in YARDSTICKS[:-1]), ())
    t = HoldoutTable(rows("otcfm", [0.4, 0.6]) + yardsticks + rows("floor", [0.1, 0.3]))
    # Spread over seeds .1414 / sqrt(2) = .1; spread of the floor .1414.
    assert t.verdicts()[0].standard_error == pytest.approx((0.1**2 + 0.02) ** 0.5)
    assert t.verdicts()[0].difference == pytest.approx(-0.5)


def test_json_is_the_documented_list(tmp_path) -> None:
    t = table(seeds=1)
    t.to_json(tmp_path / "rows.json")
    read = json.loads((tmp_path / "rows.json").read_text())
    keys = ["held_out", "method", "seed", "metric", "value", "n_pred", "n_true"]
    assert all(list(r) == keys for r in read)
    assert HoldoutTable(tuple(Row(**r) for r in read)) == t


def test_the_printed_table_shows_every_method_and_verdict() -> None:
    text = str(table())
    for name in ("otcfm", *YARDSTICKS, "w1", "w2", "energy"):
        assert name in text
    assert "otcfm against ot_midpoint (w1):" in text


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
