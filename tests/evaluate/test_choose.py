"""Choosing by inner hold-out: known scores, the rule, and that a held-out day is never seen."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from types import SimpleNamespace

import anndata
import numpy as np
import pytest
import torch

import cellflow as cf
from cellflow import OTCFM, TimeCourse, evaluate
from cellflow.batches import Batching
from cellflow.evaluate import Auto, HoldoutProtocol, Scorer, choose, family
from cellflow.methods import Method
from cellflow.networks import MLPConfig
from cellflow.timecourse import Snapshot

MODULE = importlib.import_module("cellflow.evaluate.choose")
LEARNED = OTCFM(net=MLPConfig(16, 2), batching=Batching(32, 32))


@dataclass(frozen=True)
class Drift(Method):
    """Moves all cells along the first axis, at a speed that is not learned.

    The distance of the same cloud, moved by another way, is the difference of the two ways.
    """

    speed: float
    name: str

    def fit_with(self, course, options, preprocessing=None):
        def predict(start: Snapshot, time: float, **_) -> Snapshot:
            move = torch.zeros(course.dim, dtype=start.x.dtype)
            move[0] = self.speed * (time - start.time)
            return Snapshot(start.x + move, time)

        return SimpleNamespace(history=SimpleNamespace(stopped="budget"), predict=predict)


def moving(places, n: int = 60) -> TimeCourse:
    """The same cloud at all times 0, 1, …, moved to these places on the first axis."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axis = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return TimeCourse.from_arrays([x + p * axis for p in places], range(len(places)))


def chosen(places, *speeds: float, **options) -> evaluate.Choice:
    candidates = [Drift(v, f"drift_{v:g}") for v in speeds]
    return choose(moving(places), candidates, **({"steps": 1, "progress": False} | options))


def test_mean_and_error_are_those_of_paired_log_ratios() -> None:
    places, ours, default = [0.0, 2.0, 4.1, 5.9, 9.0], 1.5, 3.0
    out = chosen(places, default, ours)
    moves = np.diff(places)[:-1]  # to the interior time points
    ratios = [math.log(abs(ours - m) / abs(default - m)) for m in moves]
    mean, error = fmean(ratios), stdev(ratios) / math.sqrt(3)
    assert mean < -2 * error
    assert out.method.name == "drift_1.5"
    assert f"{-math.expm1(mean):.2%} lower" in out.reason
    assert f"standard error of {math.exp(mean) * error:.2%} over 3 time points" in out.reason
    # Row by row: the default's scores are as far off as its speed.
    scores = [out.table.values(t, "drift_3", "w1")[0] for t in out.table.held_out]
    assert scores == pytest.approx([abs(default - m) for m in moves])
    assert out.reason in str(out)
    assert str(out.table) in str(out)


def test_the_default_stays_within_two_standard_errors() -> None:
    """Better on two of three days, and on average, but not surely."""
    out = chosen([0.0, 2.0, 4.0, 7.0, 9.0], 2.5, 1.8)  # distances .5, .5, .5 and .2, .2, 1.2
    assert out.method is out.default
    assert out.reason.startswith(
        "The default 'drift_2.5' stays: the best other is 'drift_1.8', but"
    )
    assert "lower" in out.reason


def test_the_default_stays_where_it_is_better() -> None:
    out = chosen([0.0, 2.0, 4.1, 6.0], 2.5, 9.0, 1.0)
    assert out.method.name == "drift_2.5"
    assert "the best other is 'drift_1', but its w1 is" in out.reason
    assert "higher" in out.reason


def test_the_best_of_several_is_chosen() -> None:
    assert chosen([0.0, 2.0, 4.1, 6.0], 2.5, 9.0, 2.15, 2.3).method.name == "drift_2.15"


@pytest.mark.parametrize(("n_times", "folds"), [(2, 0), (3, 1)])
def test_one_time_point_left_out_decides_nothing(n_times: int, folds: int) -> None:
    out = chosen([2.0 * k for k in range(n_times)], 100.0, 2.0)
    assert out.method is out.default
    assert out.method.name == "drift_100"
    assert f"can be left out: {folds}, and a comparison takes two" in out.reason
    assert out.table.rows == ()
    assert str(out) == out.reason


def test_a_lone_candidate_is_not_trained() -> None:
    out = chosen([0.0, 2.0, 4.0, 6.0], 2.0)
    assert (out.method.name, out.table.rows) == ("drift_2", ())


def test_nonsense_is_never_chosen_and_always_left() -> None:
    course, nonsense = moving([0.0, 2.0, 4.0, 6.0]), Drift(-50.0, "nonsense")
    options = {"steps": 50, "seeds": 1, "progress": False}
    assert choose(course, [LEARNED, nonsense], **options).method == LEARNED
    assert choose(course, [nonsense, LEARNED], **options).method == LEARNED


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="`methods`: got names 'drift_2' more than once"):
        chosen([0.0, 2.0, 4.0], 2.0, 2.0)
    with pytest.raises(ValueError, match="`metric`: got 'w3'"):
        chosen([0.0, 2.0, 4.0], 1.0, 2.0, metric="w3")
    with pytest.raises(ValueError, match="`methods`: got none"):
        Auto(())


def test_the_family_is_of_distinct_names_and_starts_with_the_default_of_the_doors() -> None:
    names = [m.name for m in family()]
    assert names[0] == "reach"
    assert len(set(names)) == len(names) > 1
    assert Auto().candidates == family()


# --- in a hold-out and in fits ---------------------------------------------------------------

PLACES = [0.0, 2.0, 4.1, 6.0, 8.2]
#: All of these are trained or known; which is best is not, on so few steps.
AUTO = Auto((replace(LEARNED, name="a"), Drift(1.9, "drift"), Drift(-9.0, "nonsense")), seeds=1)


def test_a_holdout_repeats_the_choice_and_scores_what_was_chosen(capsys) -> None:
    """Rows of the choice are, to the bit, those of the method chosen without that day."""
    course = moving(PLACES)
    options = {"steps": 20, "seeds": 2, "workers": 1}
    table = evaluate.holdout(course, [AUTO, *AUTO.candidates], **options)
    said = capsys.readouterr().err
    for k in (1, 2, 3):
        choice = choose(course.without(k), AUTO.candidates, steps=20, seeds=1, progress=False)
        ours, theirs = (table.values(k, m, "w1") for m in ("auto", choice.method.name))
        assert ours == theirs
        assert f"auto without {k}: {choice.reason}" in said


def test_a_held_out_day_of_noise_changes_no_choice_and_no_prediction(monkeypatch) -> None:
    choices, predictions = {}, {}
    plain_choose, plain_score = choose, Scorer.__call__

    def choosing(course, *args, **options):
        out = plain_choose(course, *args, **options)
        choices[course.times] = out
        return out

    def scoring(self, method, seed, cells):
        if method == "auto":
            predictions[self.held_out, seed] = cells.x
        return plain_score(self, method, seed, cells)

    monkeypatch.setattr(MODULE, "choose", choosing)
    monkeypatch.setattr(Scorer, "__call__", scoring)
    protocol = HoldoutProtocol(n_components=2, whiten=True, preprocess_on="train")
    auto = Auto((Drift(-9.0, "nonsense"), LEARNED), seeds=1)  # predictions are learned ones
    course, seen = moving(PLACES), []
    rng = torch.Generator().manual_seed(1)
    noise = 40 * torch.randn(77, 2, generator=rng, dtype=torch.float64)
    for x in (course.snapshots[2].x, noise):
        days = [s.x if k != 2 else x for k, s in enumerate(course.snapshots)]
        evaluate.holdout(
            TimeCourse.from_arrays(days, course.times),
            auto,
            steps=20,
            seeds=1,
            protocol=protocol,
            workers=1,
            progress=False,
        )
        seen.append((dict(choices), dict(predictions)))
    (choices, before), (noisy, after) = seen
    without = (0.0, 1.0, 3.0, 4.0)
    assert noisy[without] == choices[without]  # with all scores that led to it
    assert choices[without].method is auto.candidates[1]
    assert torch.equal(after[2.0, 0], before[2.0, 0])
    # The other folds are trained on that day, and do change.
    with_it = (0.0, 2.0, 3.0, 4.0)
    assert noisy[with_it].table != choices[with_it].table
    assert not torch.equal(after[1.0, 0], before[1.0, 0])


def test_a_fit_is_one_of_the_method_chosen() -> None:
    course, auto = moving(PLACES), Auto((Drift(-9.0, "nonsense"), LEARNED), seeds=1)
    options = {"steps": 20, "progress": False, "generator": 3}
    fit, same = auto.fit(course, **options), LEARNED.fit(course, **options)
    assert fit.method == same.method
    assert torch.equal(fit.velocity(0.5, course.x), same.velocity(0.5, course.x))
    assert fit.origin["choice"].startswith("'otcfm' is chosen over the default 'nonsense'")


# --- through the doors -----------------------------------------------------------------------


def adata(places=(0.0, 2.0, 4.0, 6.0), n: int = 30) -> anndata.AnnData:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n * len(places), 2))
    x[:, 0] += np.repeat(places, n)
    out = anndata.AnnData(obsm={"X_pca": x})
    out.obs["day"] = np.repeat(range(len(places)), n)
    return out


@pytest.mark.parametrize("members", [1, 2])
def test_the_door_fits_the_method_chosen_and_keeps_the_reason(members, capsys, tmp_path) -> None:
    auto = Auto((Drift(-50.0, "nonsense"), LEARNED), seeds=1)
    options = {"time_key": "day", "steps": 10, "whiten": True, "members": members, "workers": 1}
    fit = cf.tl.fit(adata(), method=auto, **options)
    same = cf.tl.fit(adata(), method=LEARNED, **options)
    for ours, theirs in zip(*([f] if members == 1 else f for f in (fit, same)), strict=True):
        x = ours.course.x
        assert torch.equal(ours.velocity(0.5, x), theirs.velocity(0.5, x))
    reason = fit.origin["choice"]
    assert reason.startswith("'otcfm' is chosen over")
    assert reason in capsys.readouterr().err.splitlines()
    assert cf.load(fit.save(tmp_path / "fit")).origin["choice"] == reason


def test_the_name_stands_for_the_family(capsys) -> None:
    options = {"time_key": "day", "steps": 2, "progress": False}
    fit = cf.tl.fit(adata(), method="auto", **options)
    assert fit.method.name in {m.name for m in family()}
    assert "over 2 time points" in fit.origin["choice"]
    assert capsys.readouterr().err == ""
    table = cf.tl.holdout(adata(), method=["auto", "icfm"], seeds=1, **options)
    # Each fold of four time points has one left to choose by: the default stays.
    assert table.models == ["auto", "icfm"]
    default = cf.tl.holdout(adata(), method=family()[0], seeds=1, **options)
    for k in (1.0, 2.0):
        assert table.values(k, "auto", "w1") == default.values(k, family()[0].name, "w1")


def test_growth_is_of_use_if_it_is_to_a_candidate() -> None:
    cells = adata()
    cells.obs["rate"] = 0.1
    options = {"time_key": "day", "growth_key": "rate", "steps": 1, "progress": False}
    cf.tl.holdout(cells, method="auto", seeds=1, **options)  # warnings are errors
    with pytest.warns(UserWarning, match="no use for growth rates"):
        cf.tl.holdout(cells, method=Auto((LEARNED,)), seeds=1, **options)


def test_an_unknown_name_is_told_of_auto() -> None:
    with pytest.raises(ValueError, match="Did you mean 'auto'"):
        cf.tl.fit(adata(), time_key="day", method="aut")
