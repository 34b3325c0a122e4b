"""Courses under drugs against their closed forms, equations solved by scipy, and symmetry."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch.testing import assert_close

from cellflow.toys import TOGGLE, DosedGaussians, Gaussian, ToggleSwitch
from closed_forms import gaussian_ot_map

START = Gaussian([0.0, 0.0], [[1.0, 0.2], [0.2, 0.5]])
END = Gaussian([1.0, -1.0], [[0.5, 0.0], [0.0, 1.5]])
EFFECTS = {"A": [2.0, 0.0], "B": [0.0, 3.0]}


@pytest.mark.parametrize(("log", "factor"), [(True, math.log1p(0.5)), (False, 0.5)])
def test_doses_shift_the_mean_and_drugs_add_up(log: bool, factor: float) -> None:
    toy = DosedGaussians(START, END, EFFECTS, log)
    both = toy.law({"A": 0.5, "B": 0.5})
    assert_close(both.mean, END.mean + factor * torch.tensor([2.0, 3.0]).double())
    singles = toy.law("A:0.5").mean + toy.law("B:0.5").mean - toy.law("control").mean
    assert_close(both.mean, singles)
    assert_close(both.cov, END.cov)


def test_drawn_cells_have_the_laws_that_the_map_leads_to() -> None:
    """Within five standard errors of 4,000 cells."""
    toy, n = DosedGaussians(START, END, EFFECTS), 4000
    course = toy.course(n, ["A", "A:3+B"], generator=1)
    assert [len(s) for s in course.snapshots] == [n, 3 * n]
    assert course.conditions.texts == ("control", "A:1", "A:3+B:1")
    for value in course.conditions.values:
        source, target = (s.x.double() for s in course.under(value).snapshots)
        matrix, offset = gaussian_ot_map(START, toy.law(value["drug"]))
        moved = source @ matrix.T + offset
        spread = toy.law(value["drug"]).cov.diagonal().sqrt()
        assert ((moved.mean(0) - target.mean(0)).abs() < 5 * spread * (2 / n) ** 0.5).all()
        assert ((moved.std(0) / target.std(0)).log().abs() < 5 / n**0.5).all()


def test_without_noise_a_switch_is_the_ordinary_equation() -> None:
    """Euler's error at a step of 0.05, whose halves are those of scipy's at a quarter."""
    switch, times = ToggleSwitch({"A": (0.4, -0.2)}, noise=0.0), [0.0, 0.5, 2.0]
    start, *rest = switch.simulate("A:2", 3, times, generator=0)

    def rates(t, y):
        a, b, c, d = y
        p, q = math.exp(0.8), math.exp(-0.4)
        return [3 * p / (1 + b**4) - a, 3 * q / (1 + a**4) - b, a - c, b - d]

    for cell in range(3):
        exact = solve_ivp(rates, (0, 2), start[cell].numpy(), t_eval=times[1:], rtol=1e-9).y.T
        assert_close(torch.stack(rest)[:, cell], torch.from_numpy(exact), rtol=0.1, atol=0.05)


def test_drugs_of_a_switch_do_not_add_up() -> None:
    """D undoes the switch, and with it what A does; A and C are mirror images."""
    ends = {
        name: TOGGLE.simulate(name, 1000, [5.0], generator=k)[0]
        for k, name in enumerate(("control", "A", "C", "D", "A+D"))
    }
    mean = {name: x.mean(0) for name, x in ends.items()}
    error = max(float(x.std(0).max()) for x in ends.values()) / 1000**0.5
    additive = mean["A"] + mean["D"] - mean["control"]
    assert (mean["A+D"] - additive).abs().max() > 20 * error
    assert ((mean["A"] - mean["C"][[1, 0, 3, 2]]).abs() < 5 * 2**0.5 * error).all()
    assert (mean["A"] - mean["control"])[0] > 10 * error


def test_a_course_of_a_switch_starts_from_cells_of_the_control() -> None:
    course = TOGGLE.course(20, [1.0, 2.0], ["A", {"A": 0.5, "B": 2.0}], generator=0)
    assert course.times == (0.0, 1.0, 2.0)
    counts = [torch.bincount(s.condition, minlength=3).tolist() for s in course.snapshots]
    assert counts == [[20, 0, 0], [20, 20, 20], [20, 20, 20]]
    assert torch.equal(course.start_of("C").x, course.snapshots[0].x)
    again = TOGGLE.course(20, [1.0, 2.0], ["A", {"A": 0.5, "B": 2.0}], generator=0)
    assert torch.equal(course.x, again.x)
    with pytest.raises(ValueError, match="increasing"):
        TOGGLE.course(20, [2.0, 1.0], ["A"])
    with pytest.raises(ValueError, match="drug"):
        TOGGLE.simulate("E", 3, [1.0])
