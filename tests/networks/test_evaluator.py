"""Networks without gradients: the fast evaluation is the network."""

from __future__ import annotations

import pytest
import torch

from cellflow.dynamics import Dynamics
from cellflow.networks import MLP, MLPConfig, Units
from cellflow.networks import fast as fast_products
from cellflow.paths import BrownianBridge
from cellflow.simulate import simulate
from cellflow.simulate.integration import Integration
from cellflow.simulate.job import Job
from cellflow.training.networks import BridgeVelocity

UNITS = Units((300.0, -2.0, 0.5, 1e-3), scale=7.0, origin=3.0, span=2.5)


def normal(n: int) -> torch.Tensor:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    return 7 * x + torch.tensor(UNITS.centre)


def network(answer: str = "velocity", seed: int = 0, **config) -> MLP:
    return MLP(UNITS, MLPConfig(**config), answer=answer, generator=seed).float()


CONFIGS = [
    {},
    {"activation": "selu", "depth": 1},
    {"activation": "tanh", "width": 200, "depth": 2},
    {"time": False},
    {"skip": True},
    {"time": False, "skip": True},
]


def evaluated(dynamics: Dynamics, like: torch.Tensor) -> Dynamics:
    times = torch.tensor([3.0, 5.5], dtype=torch.float64)
    return Job.prepare(dynamics, like, times, how=Integration()).dynamics


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("answer", ["velocity", "score", "growth"])
@pytest.mark.parametrize("n", [1, 50, 3000])
def test_evaluator_equals_its_network(answer: str, n: int, config: dict) -> None:
    net, x = network(answer, **config), normal(n)
    if net.gate is not None:  # opened
        torch.nn.init.constant_(net.gate[-1].bias, 1.5)
        torch.nn.init.constant_(net.gate[-1].weight, -0.2)
    double = MLP(UNITS, net.config, answer=answer).double()
    double.load_state_dict({k: v.double() for k, v in net.state_dict().items()})
    fast = net.evaluator(x)
    assert fast is not net
    with torch.no_grad():
        for time in (3.0, 4.7, -100.0):
            t = torch.tensor(time, dtype=torch.float64)
            exact = double(t, x.double())
            size = float(exact.abs().max())
            off = [float((f(t, x) - exact).abs().max()) / size for f in (fast, net)]
            assert off[0] < 3 * off[1] + 1e-6
            assert fast(t, x).shape == net(t, x).shape


def test_evaluator_does_not_depend_on_the_product_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    x, t, fast = normal(3000), torch.tensor(4.0), network().evaluator(normal(1))
    with torch.no_grad():
        first = fast(t, x)
        monkeypatch.setattr(fast_products, "has_onednn", lambda: False)
        torch.testing.assert_close(first, fast(t, x), rtol=1e-5, atol=1e-5)


def test_simulation_shares_the_evaluators_of_shared_networks() -> None:
    score = network("score", seed=1)
    velocity = BridgeVelocity(network(seed=2), score, BrownianBridge(0.5), (3.0, 5.5))
    dynamics = Dynamics(velocity, score, network("growth"), sigma=0.5)
    fast = evaluated(dynamics, normal(2))
    assert fast.velocity.mean is not velocity.mean
    assert fast.velocity.score is fast.score
    assert fast.score is not score
    assert fast.growth is not dynamics.growth
    x0, times = normal(600), [3.0, 4.0, 5.5]
    score.register_forward_hook(lambda *_: None)  # whoever listens is heard
    assert evaluated(dynamics, x0).score is score
    for solver in ("rk4", "sra1"):
        one = simulate(fast, x0, times, solver=solver)
        other = simulate(dynamics, x0, times, solver=solver)
        torch.testing.assert_close(one.x, other.x, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(one.log_mass, other.log_mass, rtol=1e-4, atol=1e-4)


def test_other_fields_have_no_evaluator() -> None:
    class Other(MLP):
        pass

    def field(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return -x

    x = normal(2)
    for kept in (field, Other(UNITS).float()):
        assert evaluated(Dynamics(kept), x).velocity is kept
    net = network()
    assert evaluated(Dynamics(net), x.double()).velocity is net
    assert evaluated(Dynamics(net.double()), x).velocity is net
    bridge = BridgeVelocity(field, field, BrownianBridge(0.5), (0.0, 1.0))
    parts = evaluated(Dynamics(bridge, field, sigma=0.5), x).velocity.parts
    assert parts == bridge.parts


def test_evaluator_is_made_anew_for_each_simulation() -> None:
    net, x = network(), normal(5)
    dynamics = Dynamics(net)
    before = simulate(dynamics, x, [3.0, 4.0]).final
    with torch.no_grad():
        net.layers[0].weight.mul_(2)
    after = simulate(dynamics, x, [3.0, 4.0]).final
    assert not torch.allclose(before, after)
