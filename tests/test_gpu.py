"""The same code on an accelerator; skipped where there is none."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow.batches import Batching
from cellflow.couplings import Entropic, Exact, Partial, Unbalanced, entropic
from cellflow.networks import MLPConfig
from cellflow.timecourse import Snapshot

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA device"),
]


def course() -> cf.TimeCourse:
    g = torch.Generator().manual_seed(0)
    return cf.TimeCourse.from_arrays([k + torch.randn(200, 3, generator=g) for k in range(3)])


@pytest.mark.parametrize("make", [cf.OTCFM, cf.ICFM, cf.SBCFM])
def test_a_fit_trains_and_answers_on_the_device(make, tmp_path) -> None:
    method = make(net=MLPConfig(16, 2), batching=Batching(32, 32))
    fit = method.fit(course(), steps=50, device="cuda", progress=False)
    x = fit.interpolate(0.5).x
    assert x.device.type == "cuda"
    loaded = cf.load(fit.save(tmp_path / "fit"), device="cpu")
    assert_close(loaded.interpolate(0.5).x, x.cpu(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "coupling", [Exact(), Entropic(epsilon=0.2), Unbalanced(tolerance=1e-10), Partial(0.5)], ids=str
)
def test_plans_are_the_same_on_the_device(coupling) -> None:
    a, b = course().snapshots[:2]
    there = coupling(Snapshot(a.x.cuda(), a.time), Snapshot(b.x.cuda(), b.time))
    assert there.row_mass.device.type == "cuda"
    assert_close(there.dense().cpu(), coupling(a, b).dense(), rtol=1e-6, atol=1e-9)


def moved(snapshot: Snapshot, device: str) -> Snapshot:
    return Snapshot(snapshot.x.to(device), snapshot.time)


@pytest.mark.parametrize("coupling", [Entropic(epsilon=0.2), Unbalanced(tolerance=1e-8)], ids=str)
def test_plans_of_many_blocks_are_the_same_on_the_device(coupling) -> None:
    blocks = torch.arange(150).view(3, 50)
    pairs = [(a.subset(k), b.subset(k[:40])) for k in blocks for a, b in course().steps]
    sources, targets = zip(*pairs, strict=True)
    there = coupling.many([moved(s, "cuda") for s in sources], [moved(t, "cuda") for t in targets])
    for plan, alone in zip(there, map(coupling, sources, targets), strict=True):
        assert plan.row_mass.device.type == "cuda"
        assert_close(plan.dense().cpu(), alone.dense(), rtol=0, atol=1e-6)


def test_a_plan_held_as_potentials_is_the_same_on_the_device(monkeypatch) -> None:
    monkeypatch.setattr(entropic, "LARGE", 10)
    a, b = course().snapshots[:2]
    coupling = Entropic(epsilon=0.2)
    here, there = (coupling(moved(a, d), moved(b, d)) for d in ("cpu", "cuda"))
    assert there.converged
    assert there.sample(100, 0)[1].device.type == "cuda"
    assert_close(there.dense().cpu(), here.dense(), rtol=0, atol=1e-6)
