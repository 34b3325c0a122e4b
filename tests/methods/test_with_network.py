"""Networks by name, by shape and by what a course asks for, from the doors and for methods."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import torch
from torch import nn

import cellflow as cf
from cellflow.methods import CNF, MeanFlow, Method, Shooting, with_network
from cellflow.networks import DiTConfig, MLPConfig, ResidualConfig, suggested


def course(dim: int, n: int = 30) -> cf.TimeCourse:
    g = torch.Generator().manual_seed(0)
    return cf.TimeCourse.from_arrays([torch.randn(n, dim, generator=g) + k for k in range(3)])


def adata(dim: int = 3) -> anndata.AnnData:
    obs = {"day": np.repeat([0.0, 1.0, 2.0], 30)}
    return anndata.AnnData(obs=obs, obsm={"X_pca": course(dim).x.numpy()})


def test_width_grows_with_the_dimension_between_its_bounds() -> None:
    widths = [suggested(course(d)).width for d in (2, 5, 10, 20, 50, 90)]
    assert widths == sorted(widths)
    assert widths[0] == 64
    assert widths[-1] == 512
    assert suggested(course(90), 5) == suggested(course(5))


@pytest.mark.parametrize(
    ("network", "net"),
    [
        ("dit", DiTConfig()),
        ("mlp", MLPConfig()),
        (ResidualConfig(8, 1), ResidualConfig(8, 1)),
        ("auto", MLPConfig(64, intervals=True)),  # as of the method, but for the size
    ],
)
def test_network_of_the_door_is_that_of_the_fit(network, net) -> None:
    method = "reach" if network == "auto" else "otcfm"
    options = {"time_key": "day", "steps": 1, "progress": False, "method": method}
    assert cf.tl.fit(adata(), network=network, **options).method.net == net


def test_module_of_ones_own_is_a_network_of_the_door() -> None:
    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zero = nn.Parameter(torch.zeros(1))

        def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return 0 * x + self.zero

    options = {"time_key": "day", "steps": 1, "progress": False, "method": "otcfm"}
    fit = cf.tl.fit(adata(), network=Still(), **options)
    assert isinstance(fit.networks["velocity"].module, Still)


def test_suggestion_sets_how_flow_matching_is_trained() -> None:
    found = suggested(course(40))
    method = with_network(cf.methods.UOTCFM(), found)
    assert (method.net.width, method.net.depth) == (found.width, found.depth)
    assert method.training.learning_rate == found.learning_rate
    assert method.batching.block_size == found.block_size
    assert method.training.validation == 0.0  # what is not suggested stays
    for other in (CNF(), Shooting()):
        assert with_network(other, found).training == other.training
        assert with_network(other, found).net.time == other.net.time


def test_iterated_methods_give_the_network_to_what_they_iterate() -> None:
    assert with_network(cf.methods.DSBM(), "residual").base.net == ResidualConfig()


def test_networks_that_do_not_fit_a_method_are_refused() -> None:
    assert with_network(MeanFlow(), MLPConfig(8)).net == MLPConfig(8, average=True)
    with pytest.raises(TypeError, match="until when"):
        with_network(MeanFlow(), "dit")
    with pytest.raises(ValueError, match="'residual'"):
        with_network(cf.OTCFM(), "resnet")

    class Fixed(Method):
        def fit_with(self, course, options, preprocessing=None):
            raise NotImplementedError

    with pytest.raises(TypeError, match="Fixed"):
        with_network(Fixed(), "dit")
