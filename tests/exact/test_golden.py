"""Every method's weights, simulation and plan of a seeded short fit equal the recorded ones.

    python tests/exact/test_golden.py            # record anew; a commit says why

Recorded in float64, where other processors and other orders of sums differ by rounding only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import cellflow as cf
from cellflow.batches import Batching
from cellflow.methods import METHODS

RECORD = Path(__file__).with_suffix(".npz")
STEPS = 20


def course() -> cf.TimeCourse:
    """Three snapshots of unequal size, unequally spaced, the last two bent away and spread out."""
    draws = np.random.default_rng(0)
    x = [draws.normal(size=(n, 3)) * (1 + 0.2 * k) for k, n in enumerate((40, 48, 44))]
    shifts = np.array([[0, 0, 0], [1.0, 0.5, 0], [1.5, 2.0, -0.5]])
    return cf.TimeCourse.from_arrays([a + b for a, b in zip(x, shifts, strict=True)], [0, 1, 3.5])


def values(name: str) -> dict[str, np.ndarray]:
    """Weights, simulation and plan of a fit by the method `name`."""
    # The sigma of OT-CFM is a standard deviation, that of bridges and entropic plans a diffusion.
    method = METHODS[name](0.5, batching=Batching(32))
    snapshots = course()
    fit = method.fit(snapshots, steps=STEPS, generator=0, dtype=torch.float64, progress=False)
    weights = [p.detach().flatten() for p in fit.networks.parameters()]
    noisy = fit.dynamics.score is not None
    trajectory = fit.simulate(
        snapshots.snapshots[0].x[:8],
        [0.0, 0.4, 1.0, 3.0],
        solver="sra1" if noisy else "rk4",
        generator=1,
        progress=False,
    )
    base = getattr(fit.method, "base", fit.method)
    plan = base.coupling(*(s.subset(torch.arange(16)) for s in snapshots.snapshots[:2]))
    out = {"weights": torch.cat(weights), "simulation": trajectory.x, "plan": plan.dense()}
    if trajectory.mass is not None:
        out["mass"] = trajectory.mass
    # One weight in a hundred keeps the record small, and each depends on all others' gradients.
    out["weights"] = out["weights"][::101]
    return {f"{name}/{key}": value.double().numpy() for key, value in out.items()}


@pytest.mark.parametrize("name", METHODS)
def test_method_reproduces_recorded_fit(name):
    with np.load(RECORD) as record:
        expected = {key: record[key] for key in record if key.split("/")[0] == name}
    found = values(name)
    assert found.keys() == expected.keys()
    for key, value in found.items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-5, atol=1e-7, err_msg=key)


@pytest.mark.parametrize("name", ["otcfm", "ubsb"])
def test_method_repeats_itself_to_the_bit(name):
    first, second = values(name), values(name)
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)


if __name__ == "__main__":
    np.savez_compressed(RECORD, **{k: v for name in METHODS for k, v in values(name).items()})
