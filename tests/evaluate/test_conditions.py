"""Conditions left out: yardsticks in closed form, what is trained on, and what a table says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from cellflow import OTCFM, Fit, Snapshot, TimeCourse
from cellflow.conditions import Categorical, Conditions
from cellflow.evaluate import CONDITION_YARDSTICKS, HoldoutTable, Row, holdout_conditions
from cellflow.networks import MLPConfig

F64 = torch.float64
#: What drugs add to the mean; B acts in a dimension of its own.
EFFECTS = {"A": (4.0, 0.0, 0.0), "B": (0.0, 2.0, 0.0), "C": (0.0, 0.0, -1.0)}
DRUG = Categorical("drug", ("A", "B", "C", "D"), none="control")
NAMES = ("control", "A", "B", "C", "A+B", "B+D")
METHOD = OTCFM(net=MLPConfig(8, 1))


def shift(name: str) -> torch.Tensor:
    """Single effects, added up; that of D is minus all of them."""
    known = {k: torch.tensor(v, dtype=F64) for k, v in EFFECTS.items()}
    known |= {"D": -sum(known.values()), "control": torch.zeros(3, dtype=F64)}
    return sum(known[part] for part in name.split("+"))


def course(names: tuple[str, ...] = NAMES, n: int = 30) -> TimeCourse:
    """The same cloud under each condition, moved: all distances are those of the shifts."""
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    end = torch.cat([x + shift(name) for name in names])
    codes = torch.arange(len(names)).repeat_interleave(n)
    start = Snapshot(x - 1.0, 0.0, condition=torch.zeros(n, dtype=torch.long))
    known = Conditions((DRUG,), names, control=0)
    return TimeCourse((start, Snapshot(end, 2.0, condition=codes)), conditions=known)


def table(given: TimeCourse | None = None, **options) -> HoldoutTable:
    options = {"steps": 1, "seeds": 2, "progress": False, "workers": 1} | options
    return holdout_conditions(given or course(), options.pop("methods", METHOD), **options)


@pytest.fixture(scope="module")
def both() -> HoldoutTable:
    return table(conditions=["A+B", "C"])


def expected(held_out: str) -> dict[str, torch.Tensor]:
    """Shift that each yardstick predicts."""
    seen = [shift(name) for name in NAMES if name not in ("control", held_out)]
    near = {"A+B": ("A", "B"), "C": ("A", "B")}[held_out]
    out = {"control": shift("control"), "nearest": sum(shift(n) for n in near) / len(near)}
    out["all_conditions"] = sum(seen) / len(seen)
    return out | ({"additive": shift("A") + shift("B")} if held_out == "A+B" else {})


@pytest.mark.parametrize("held_out", ["A+B", "C"])
def test_yardsticks_are_their_closed_forms(both: HoldoutTable, held_out: str) -> None:
    truth = shift(held_out)
    for name, found in expected(held_out).items():
        (w1,), (r2,), (rank,) = (both.values(held_out, name, m) for m in ("w1", "r2", "rank"))
        # A cloud is as far from its copy as that was moved.
        assert w1 == pytest.approx(float((found - truth).norm()), abs=1e-5)
        error = (found - truth).square().sum() / truth.square().sum()
        assert r2 == pytest.approx(float(1 - error), abs=1e-6)
        far = torch.stack([(found - shift(name)).norm() for name in NAMES])
        mine, tie = (found - truth).norm(), 1e-6
        assert (far < mine - tie).sum() < rank <= (far < mine + tie).sum()
    assert both.values(held_out, "control", "r2") == [0.0]


def test_single_effects_that_add_up_are_exact_and_others_have_none(both: HoldoutTable) -> None:
    one = {m: both.values("A+B", "additive", m) for m in ("w1", "r2", "rank")}
    assert one["w1"] == pytest.approx([0.0], abs=1e-6)
    assert one["r2"] == pytest.approx([1.0])
    assert one["rank"] == [1.0]
    assert both.values("C", "additive", "w1") == []  # no combination
    assert not [v for v in both.verdicts() if v.yardstick == "additive" and v.held_out == "C"]
    unknown = table(conditions=["B+D"], seeds=1)  # D was never seen alone
    assert "additive" not in unknown.yardsticks
    assert set(unknown.yardsticks) == set(CONDITION_YARDSTICKS) - {"additive", "floor"}


def test_r2_counts_what_changes_most() -> None:
    """Of sixty dimensions, the last ten change least: what is wrong there does not count."""
    wide, moved = torch.ones(60, dtype=F64), torch.arange(60) < 50
    x = torch.randn(20, 60, generator=torch.Generator().manual_seed(0), dtype=F64)
    shifts = {"control": 0 * wide, "A": moved * wide, "B": 9.0 * ~moved * wide}
    shifts["A+B"] = shifts["A"] + 0.1 * ~moved * wide
    codes = torch.arange(4).repeat_interleave(20)
    start = Snapshot(x, 0.0, condition=0 * codes[:20])
    end = Snapshot(torch.cat([x + s for s in shifts.values()]), 1.0, condition=codes)
    given = TimeCourse((start, end), conditions=Conditions((DRUG,), tuple(shifts), control=0))
    (r2,) = table(given, conditions=["A+B"], seeds=1).values("A+B", "additive", "r2")
    assert r2 == pytest.approx(1.0)


def test_masses_weigh_in_shifts() -> None:
    given = course(("control", "A", "B", "A+B"))
    start, end = given.snapshots
    mass = torch.linspace(1, 3, 30, dtype=F64).repeat(4)
    end = replace(end, mass=mass / mass.sum())
    t = table(replace(given, snapshots=(start, end)), conditions=["A+B"], seeds=1)
    assert t.values("A+B", "additive", "w1") == pytest.approx([0.0], abs=1e-6)
    assert t.values("A+B", "control", "w1") == pytest.approx([float(shift("A+B").norm())])


def test_all_conditions_but_controls_are_left_out_and_never_trained_on(monkeypatch) -> None:
    seen, fit = [], type(METHOD).fit

    def recording(self, course, **options):
        seen.append({course.conditions.texts[c] for s in course.snapshots for c in s.condition})
        return fit(self, course, **options)

    monkeypatch.setattr(type(METHOD), "fit", recording)
    found = table(seeds=1)
    assert found.held_out == list(NAMES[1:])
    assert seen == [set(NAMES) - {name} for name in NAMES[1:]]
    counts = {(r.method, r.held_out): r.n_pred for r in found.rows if r.method != "floor"}
    assert set(counts.values()) == {30}


def donors() -> TimeCourse:
    """Two donors, the second ten to the right; drugs do to both the same."""
    known = Conditions(
        (DRUG, Categorical("donor", ("1", "2"))),
        tuple({"drug": name, "donor": d} for d in "12" for name in ("control", "A", "B", "A+B")),
        control=0,
        nuisance=("donor",),
    )
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    right = 10 * torch.eye(3, dtype=F64)[0]
    ends = [x + shift(v["drug"]) + right * (v["donor"] == "2") for v in known.values]
    codes = torch.arange(8).repeat_interleave(20)
    start = Snapshot(torch.cat([x, x + right]), 0.0, condition=codes[:40] * 4)
    return TimeCourse((start, Snapshot(torch.cat(ends), 1.0, condition=codes)), conditions=known)


def test_each_donor_has_its_own_control_and_is_left_out_with_the_others(monkeypatch) -> None:
    seen, fit = [], type(METHOD).fit

    def recording(self, course, **options):
        seen.append({int(c) for s in course.snapshots for c in s.condition})
        return fit(self, course, **options)

    monkeypatch.setattr(type(METHOD), "fit", recording)
    found = table(donors(), seeds=1)
    assert "control, 2" not in found.held_out
    assert len(found.held_out) == 6
    for donor in "12":
        key = f"A+B, {donor}"
        assert found.values(key, "control", "w1") == pytest.approx([float(shift("A+B").norm())])
        assert found.values(key, "additive", "w1") == pytest.approx([0.0], abs=1e-5)
        assert found.values(key, "control", "r2") == [0.0]
    assert seen[2] == seen[5] == {0, 1, 2, 4, 5, 6}
    texts = table(donors(), seeds=1, conditions=["drug=A+B,donor=2"])
    assert texts.held_out == ["A+B, 2"]


def test_cells_start_from_their_own_or_the_control_and_guidance_is_passed_on(monkeypatch) -> None:
    told, given = [], Fit.given

    def recording(self, condition, *, guidance=1.0):
        told.append((condition, guidance))
        return given(self, condition, guidance=guidance)

    starts, predict = [], Fit.predict

    def predicting(self, start, *args, **options):
        starts.append(start)
        return predict(self, start, *args, **options)

    monkeypatch.setattr(Fit, "given", recording)
    monkeypatch.setattr(Fit, "predict", predicting)
    table(conditions=["A+B"], seeds=1, guidance=2.0)
    assert told == [({"drug": "A+B"}, 2.0)]
    control = course().snapshots[0].x
    assert torch.equal(starts[-1].x, control)
    own = course()
    start = Snapshot(
        torch.cat([control, control + 7]), 0.0, condition=torch.tensor([0] * 30 + [4] * 30)
    )
    table(replace(own, snapshots=(start, own.snapshots[1])), conditions=["A+B"], seeds=1)
    assert torch.equal(starts[-1].x, control + 7)


def test_a_time_of_one_condition_alone_goes_with_it() -> None:
    own = course()
    alone = Snapshot(own.snapshots[1].x[:9], 1.0, condition=torch.full((9,), 4))
    given = replace(own, snapshots=(own.snapshots[0], alone, own.snapshots[1]))
    assert table(given, conditions=["A+B"], seeds=1).values("A+B", "otcfm", "w1")


def test_a_model_that_does_not_beat_single_effects_says_so(both: HoldoutTable) -> None:
    told = str(both)
    assert "otcfm against additive (w1): worse at 1 of 1" in told
    lines = {line.split("  ")[0]: line for line in told.split("\n\n")[0].splitlines()}
    assert "–" in lines["additive"]  # of C
    worse = {v.yardstick for v in both.verdicts() if v.verdict == "worse" and v.held_out == "A+B"}
    assert {"additive", "best_yardstick"} <= worse
    r2 = {v.yardstick: v for v in both.verdicts("r2") if v.held_out == "A+B"}
    assert r2["additive"].difference < 0
    assert r2["best_yardstick"].difference == r2["additive"].difference


@pytest.mark.parametrize(("ours", "said"), [((0.8, 0.81), "better"), ((0.2, 0.21), "worse")])
def test_more_of_r2_is_better(ours: tuple[float, ...], said: str) -> None:
    rows = [Row("A", "flow", k, "r2", value, 9, 9) for k, value in enumerate(ours)]
    rows += [Row("A", "control", 0, "r2", 0.0, 9, 9), Row("A", "nearest", 0, "r2", 0.5, 9, 9)]
    found = {v.yardstick: v for v in HoldoutTable(tuple(rows), "condition").verdicts("r2")}
    assert found["nearest"].verdict == found["best_yardstick"].verdict == said
    assert found["control"].verdict == "better"


def test_tables_of_conditions_are_written_and_read(both: HoldoutTable, tmp_path) -> None:
    both.to_json(tmp_path / "rows.json")
    rows = tuple(Row(**row) for row in json.loads((tmp_path / "rows.json").read_text()))
    again = HoldoutTable(rows, "condition")
    assert again == both
    assert str(again) == str(both)
    assert list(both.to_frame()["held_out"].unique()) == ["A+B", "C"]


def test_yardsticks_do_not_depend_on_codes(both: HoldoutTable) -> None:
    other = table(
        course(("control", "B+D", "A+B", "C", "B", "A")), conditions=["A+B", "C"], seeds=1
    )
    for name in CONDITION_YARDSTICKS[:-1]:
        for held_out in ("A+B", "C"):
            values = [t.values(held_out, name, "w1") for t in (both, other)]
            assert_close(*map(torch.tensor, values))


@pytest.mark.parametrize(
    ("given", "options", "match"),
    [
        (course().under("control"), {}, "course.*conditions"),
        (replace(course(), conditions=Conditions((DRUG,), NAMES)), {}, "without a control"),
        (course(), {"conditions": ["E"]}, "drug.*E"),
        (course(), {"conditions": ["A+C"]}, "conditions.*A[+]C"),
        (course(), {"conditions": ["control"]}, "not the control"),
        (course(), {"conditions": []}, "conditions.*none"),
        (course(), {"metrics": ["r2"]}, "metrics"),
        (course(), {"guidance": -1.0}, "guidance"),
    ],
)
def test_what_cannot_be_left_out_is_one_clear_error(given, options, match) -> None:
    with pytest.raises(ValueError, match=match):
        table(given, **options)


@pytest.mark.filterwarnings("ignore:conditions A")  # with cells at the start alone
def test_conditions_without_cells_after_the_start_cannot_be_left_out() -> None:
    own = course()
    start = replace(own.snapshots[0], condition=torch.tensor([0] * 25 + [4] * 5))
    late = own.snapshots[1].subset((own.snapshots[1].condition != 4).nonzero()[:, 0])
    given = replace(own, snapshots=(start, late))
    assert "A+B" not in table(given, seeds=1).held_out
    with pytest.raises(ValueError, match="A[+]B.*after the start"):
        table(given, conditions=["A+B"])
