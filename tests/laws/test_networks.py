"""Laws of every registered network."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from cellflow.networks import NETWORKS, Network, Units

UNITS = Units((1.0, -2.0), scale=3.0, origin=5.0, span=2.0)
X = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))


def built(name: str, seed: int = 0, answer: str = "velocity") -> Network:
    """A fresh network in the dtype of the cells, as training makes it."""
    return NETWORKS[name]().build(UNITS, answer=answer, generator=seed).to(X.dtype)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("answer", "shape"), [("velocity", (7, 2)), ("growth", (7,))])
def test_network_answers_for_each_cell(name, answer, shape):
    assert built(name, answer=answer)(torch.tensor(6.0), X).shape == shape


@pytest.mark.parametrize("name", NETWORKS)
def test_network_follows_its_seed_and_leaves_global_state(name):
    state = torch.get_rng_state()
    first, same, other = (built(name, seed) for seed in (0, 0, 1))
    t = torch.tensor(6.0)
    assert torch.equal(first(t, X), same(t, X))
    assert not torch.equal(first(t, X), other(t, X))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", NETWORKS)
def test_evaluator_answers_as_its_network(name):
    network = built(name)
    for p in network.parameters():  # also those that start at zero
        p.data += 0.1
    t = torch.tensor(6.0)
    with torch.no_grad():
        assert_close(network.evaluator(X)(t, X), network(t, X))


@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_rebuilt_from_its_state(name):
    network, other = built(name, 0), built(name, 1)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(torch.tensor(6.0), X), network(torch.tensor(6.0), X))
