"""A network of one's own: registered in one file, it trains, is saved and simulated."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import cellflow as cf
from cellflow.networks import NETWORKS, MLPConfig, Network, NetworkConfig, Units


class Affine(Network):
    """The field ``A x + b``, the same at all times."""

    def __init__(self, units: Units, answer: str, generator: int) -> None:
        super().__init__(units)
        self.answer = answer
        torch.manual_seed(generator % 1000)
        self.layer = nn.Linear(len(units.centre), 1 if answer == "growth" else len(units.centre))

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        out = self.layer(x)
        return out[:, 0] if self.answer == "growth" else out


@NETWORKS.register("affine")
@dataclass(frozen=True)
class AffineConfig(NetworkConfig):
    """Shape of `Affine`, which has none."""

    small: bool = True

    def build(self, units: Units, *, answer: str, generator: int) -> Affine:
        return Affine(units, answer, generator)


def course() -> cf.TimeCourse:
    g = torch.Generator().manual_seed(0)
    return cf.TimeCourse.from_arrays([torch.randn(40, 2, generator=g) + k for k in range(3)])


@pytest.mark.parametrize("recipe", [cf.OTCFM, cf.SF2M])
def test_registered_network_is_trained_saved_and_loaded(recipe, tmp_path) -> None:
    state = torch.get_rng_state()
    fit = recipe(net=AffineConfig()).fit(course(), steps=3, progress=False)
    again = cf.load(fit.save(tmp_path / "fit"))
    torch.set_rng_state(state)
    assert isinstance(again.networks["velocity"], Affine)
    assert again.method.net == fit.method.net
    x = course().snapshots[0].x
    assert torch.equal(fit.simulate(x, [0, 2]).final, again.simulate(x, [0, 2]).final)


def test_settings_that_are_gone_and_were_off_do_not_hinder_loading(tmp_path) -> None:
    fit = cf.OTCFM(net=MLPConfig(8, 1)).fit(course(), steps=1, progress=False)
    file = fit.save(tmp_path / "fit") / "fit.json"
    facts = json.loads(file.read_text())
    facts["method"]["net"]["time_features"] = 0
    facts["method"]["direct_everything"] = False
    file.write_text(json.dumps(facts))
    assert cf.load(file.parent).method == fit.method
    facts["method"]["net"]["time_features"] = 2  # this network cannot be built any more
    file.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="not a readable fit"):
        cf.load(file.parent)
