"""What cannot be done is said in one sentence of ours, never by whatever stumbled over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import sparse

import cellflow as cf
from cellflow import MMFM, OTCFM, SF2M
from cellflow.couplings import Coupling, Exact, Given
from cellflow.couplings.coupling import as_coupling
from cellflow.dynamics import Dynamics
from cellflow.fits import Fit
from cellflow.methods import METHODS, FlowMatching, Shooting
from cellflow.paths import Straight
from cellflow.pp import parse_times
from cellflow.simulate import simulate
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training import FitOptions

XS = [torch.randn(24, 2, generator=torch.Generator().manual_seed(k)) + k for k in range(3)]
COURSE = TimeCourse.from_arrays(XS)


def fit(method, course: TimeCourse = COURSE) -> Fit:
    return method.fit(course, steps=2, progress=False)


def course_of(scale: float, dtype: torch.dtype = torch.float32) -> TimeCourse:
    return TimeCourse.from_arrays([x.to(dtype) * scale for x in XS])


# --- devices, times, noise, units ------------------------------------------------------------
@pytest.mark.parametrize("device", ["gpu", 7, -1, "meta", torch.device("meta"), 1.5, ""])
def test_devices_that_are_none(device, tmp_path) -> None:
    folder = fit(OTCFM()).save(tmp_path / "fit")
    for door in (lambda d: FitOptions(device=d), lambda d: cf.load(folder, device=d)):
        with pytest.raises(ValueError, match="`device`: got .* expected an available device: cpu"):
            door(device)


@pytest.mark.parametrize("time_map", [[0, 1], "days", 3])
def test_a_time_map_that_is_no_mapping(time_map) -> None:
    with pytest.raises(TypeError, match="`time_map`: got a .*, expected a mapping from labels"):
        parse_times(["a", "b"], time_map=time_map)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_noise_beyond_all_cells(name) -> None:
    with pytest.raises(ValueError, match=r"`sigma`: got .* spread by"):
        fit(_noisy(name))


def _noisy(name: str):
    method = METHODS[name](1e200)
    if method.parts.path.sigma != 1e200:
        pytest.skip("has no noise")
    return method


@pytest.mark.parametrize("times", [[0, 1e-300, 2e-300], [0, 1e300, 2e300], [0, 1e-30, 2e-30]])
@pytest.mark.parametrize("method", [OTCFM(), MMFM(), Shooting()], ids=lambda m: m.name)
def test_times_that_no_network_can_hold(method, times) -> None:
    with pytest.raises(ValueError, match="Rescale: take another unit"):
        fit(method, TimeCourse.from_arrays(XS, times))


@pytest.mark.parametrize("scale", [1e30, 1e18, 1e-20, 1e-30])
@pytest.mark.parametrize("method", [OTCFM(), SF2M(), MMFM(), Shooting()], ids=lambda m: m.name)
def test_units_that_no_network_can_hold(method, scale) -> None:
    with pytest.raises(ValueError, match="Rescale"):
        fit(method, course_of(scale))


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_double_precision_holds_these_units(scale) -> None:
    """The same fit, in other units: velocities are those of the plain one, scaled."""
    plain, scaled = (
        fit(SF2M(), course_of(unit, torch.float64)).velocity(0.5, XS[0].double() * unit)
        for unit in (1.0, scale)
    )
    torch.testing.assert_close(scaled / scale, plain, rtol=1e-6, atol=1e-9)


# --- couplings of one's own ------------------------------------------------------------------
@pytest.mark.parametrize("coupling", ["exact", 3, None, Exact], ids=str)
def test_what_is_no_coupling(coupling) -> None:
    for door in (as_coupling, lambda c: FlowMatching(c, Straight())):
        with pytest.raises(
            TypeError, match="`coupling`: got .*, expected a (Coupling such|subclass)"
        ):
            door(coupling)


SOURCE, TARGET = (Snapshot(x, k) for k, x in enumerate(XS[:2]))
WEIGHTS = torch.rand(24, 24, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
MATRICES = {
    "tensor": WEIGHTS,
    "array": WEIGHTS.numpy(),
    "lists": WEIGHTS.tolist(),
    "sparse": sparse.csr_matrix(WEIGHTS.numpy()),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_a_matrix_is_a_plan(kind) -> None:
    plan = as_coupling(lambda source, target: MATRICES[kind])(SOURCE, TARGET)
    torch.testing.assert_close(plan.dense(), WEIGHTS / WEIGHTS.sum())
    assert plan.cost == Given(WEIGHTS)(SOURCE, TARGET).cost


@pytest.mark.parametrize("to", [torch.tensor, np.array, list], ids=["tensor", "array", "list"])
def test_pairs_of_indices_are_a_plan(to) -> None:
    """Of equal mass each; one that is named twice has twice as much."""
    pairs = to([0, 0, 1, 5]), to([2, 2, 0, 23])
    plan = as_coupling(lambda source, target: pairs)(SOURCE, TARGET)
    want = torch.zeros(24, 24, dtype=torch.float64)
    want[[0, 1, 5], [2, 0, 23]] = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    assert torch.equal(plan.dense(), want)


def test_own_couplings_train_a_fit() -> None:
    """A permutation by pairs, by a matrix, and as a plan gives the same fit."""
    answers = [
        lambda s, t: (torch.arange(len(s)), torch.arange(len(s))),
        lambda s, t: torch.eye(len(s)),
        lambda s, t: Given(torch.eye(len(s)))(s, t),
    ]
    speeds = [fit(FlowMatching(f, Straight())).velocity(0.5, XS[0]) for f in answers]
    assert torch.equal(speeds[0], speeds[1])
    assert torch.equal(speeds[0], speeds[2])


BAD = {
    "nothing": (None, TypeError),
    "text": ("plan", TypeError),
    "a number": (3.0, ValueError),
    "a vector": ([1.0, 2.0], ValueError),
    "a class": (Exact, TypeError),
    "another shape": (torch.ones(3, 3), ValueError),
    "indices beyond": (([0, 24], [0, 1]), ValueError),
    "negative indices": (([0, -1], [0, 1]), ValueError),
    "uneven indices": (([0, 1], [0, 1, 2]), ValueError),
    "fractions": (([0.5], [1.0]), ValueError),
    "no pairs": ((torch.arange(0), torch.arange(0)), ValueError),
    "a plan of others": (Exact()(Snapshot(XS[0][:9], 0), Snapshot(XS[1][:9], 1)), ValueError),
}


@pytest.mark.parametrize("what", BAD)
def test_answers_that_are_no_plan(what) -> None:
    answer, error = BAD[what]
    with pytest.raises(error, match="`coupling`: got"):
        as_coupling(lambda source, target: answer)(SOURCE, TARGET)


def test_a_subclass_that_hands_out_no_plan() -> None:
    @dataclass(frozen=True)
    class Broken(Coupling):
        def __call__(self, source, target):
            return torch.eye(len(source))

    with pytest.raises(TypeError, match="`coupling`: got Tensor from a Coupling, expected a Plan"):
        fit(FlowMatching(Broken(), Straight()))


def test_labels_reach_couplings_in_blocks() -> None:
    """Each cell is labelled by its first coordinate, which tells whether labels follow cells."""
    course = TimeCourse(
        tuple(Snapshot(x, k, labels=[repr(v) for v in x[:, 0].tolist()]) for k, x in enumerate(XS))
    )
    seen = []

    def look(source: Snapshot, target: Snapshot):
        for s in (source, target):
            assert s.labels == [repr(v) for v in s.x[:, 0].tolist()]
        seen.append(len(source))
        return Exact()(source, target)

    fit(FlowMatching(look, Straight()), course)
    assert seen


# --- fields of one's own ---------------------------------------------------------------------
@pytest.mark.parametrize("solver", ["rk4", "dopri5", "euler_maruyama"])
@pytest.mark.parametrize("answer", [[1.0, 2.0], None, np.ones((24, 2), np.float32)], ids=type)
def test_fields_that_answer_with_no_tensor(answer, solver) -> None:
    with pytest.raises(TypeError, match=r"`dynamics.velocity`: got a .*, expected a tensor"):
        simulate(Dynamics(lambda t, x: answer), XS[0], [0, 1], solver=solver)
