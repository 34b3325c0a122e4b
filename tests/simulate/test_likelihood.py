"""Densities along flows: closed forms, an independent library, and the error of the probes."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from cellflow import toys
from cellflow.dynamics import Dynamics, divergence, rademacher
from cellflow.networks import MLPConfig, Units
from cellflow.simulate import Limits, log_likelihood
from cellflow.simulate.integration import Integration
from closed_forms import linear_flow

F64 = torch.float64
EXACT = Integration(solver="dopri5", limits=Limits(rtol=1e-9, atol=1e-9))


def cells(n: int, d: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def normal(d: int) -> MultivariateNormal:
    return MultivariateNormal(torch.zeros(d, dtype=F64), torch.eye(d, dtype=F64))


def network(d: int, seed: int = 0):
    return MLPConfig(width=32, depth=2).build(Units((0.0,) * d), generator=seed).double()


@pytest.mark.parametrize("times", [(1.0, 3.0), (3.0, 1.0)], ids=["base before", "base after"])
@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_density_under_a_linear_flow_is_that_of_the_moved_normal_law(times, solver) -> None:
    base_time, time = times
    a = torch.tensor([[-0.3, 0.8], [-0.5, 0.2]], dtype=F64)
    b, m = torch.tensor([0.5, -1.0], dtype=F64), torch.tensor([1.0, 2.0], dtype=F64)
    cov = torch.tensor([[1.0, 0.4], [0.4, 0.7]], dtype=F64)
    flow = torch.linalg.matrix_exp((time - base_time) * a)
    mean = linear_flow(time - base_time, m[None], matrix=a, offset=b)[0]
    expected = MultivariateNormal(mean, flow @ cov @ flow.T)
    x, base = 2 * cells(20), MultivariateNormal(m, cov)
    how = EXACT if solver == "dopri5" else Integration(max_step=0.02)
    linear = Dynamics(lambda t, y: y @ a.T + b)
    found = log_likelihood(linear, x, time, base=base, base_time=base_time, how=how)
    assert_close(found.log_prob, expected.log_prob(x), rtol=1e-7, atol=1e-7)
    back = linear_flow(base_time - time, x, matrix=a, offset=b)
    assert_close(found.base_cells, back, rtol=1e-7, atol=1e-7)
    assert found.standard_error is None
    # Mass that grows at the rate 0.3 t: by 0.15 (9 - 1) in all.
    grown = Dynamics(linear.velocity, growth=lambda t, y: (0.3 * t).to(y).expand(len(y)))
    more = log_likelihood(grown, x, time, base=base, base_time=base_time, how=how).log_prob
    assert_close(more - found.log_prob, torch.full((20,), 0.6 * (time - base_time), dtype=F64))


def test_density_of_a_gaussian_bridge_is_that_of_its_marginals() -> None:
    """Along the probability flow of a process with noise."""
    source = toys.Gaussian([0.0, 0.0], [[1.0, 0.3], [0.3, 0.5]])
    target = toys.Gaussian([3.0, 1.0], [[0.4, -0.2], [-0.2, 1.2]])
    bridge = toys.GaussianBridge(source, target, span=3.0, sigma=0.8)
    x, base = cells(20) + 1, MultivariateNormal(source.mean, source.cov)
    found = log_likelihood(bridge.dynamics(), x, 1.7, base=base, base_time=0.0, how=EXACT)
    law = bridge.at(1.7)
    assert_close(found.log_prob, MultivariateNormal(law.mean, law.cov).log_prob(x))


def test_jumps_of_the_field_end_steps() -> None:
    """Cells spread at the rate 1 until 0.3, and draw together at the rate 2 from then on."""
    jump = Dynamics(lambda t, x: torch.where(t < 0.3, 1.0, -2.0) * x, breaks=(0.3,))
    how = Integration(max_step=0.25)
    found = log_likelihood(jump, cells(5), 1.0, base=normal(2), base_time=0.0, how=how)
    change = found.log_prob - normal(2).log_prob(found.base_cells)
    assert_close(change, torch.full((5,), -2 * (0.3 - 2 * 0.7), dtype=F64))


def test_density_agrees_with_zuko() -> None:
    from zuko.transforms import FreeFormJacobianTransform

    net, x = network(3), cells(20, 3)
    zero, two = torch.tensor(0.0, dtype=F64), torch.tensor(2.0, dtype=F64)
    settings = {"atol": 1e-9, "rtol": 1e-9, "exact": True}
    peer = FreeFormJacobianTransform(net, two, zero, **settings)
    there, log_volume = peer.call_and_ladj(x)
    flow = Dynamics(net)
    found = log_likelihood(flow, x, 2.0, base=normal(3), base_time=0.0, how=EXACT)
    assert_close(found.base_cells, there, rtol=1e-6, atol=1e-6)
    assert_close(found.log_prob, normal(3).log_prob(there) + log_volume, rtol=1e-6, atol=1e-6)


def test_density_by_probes_is_unbiased_and_states_its_error() -> None:
    """Of 200 cells with 16 probes each: deviations in standard errors are those of Student's t."""
    net, x = network(60), cells(200, 60)
    how = Integration(max_step=0.25)
    flow, base = Dynamics(lambda t, y: 10 * net(t, y)), normal(60)
    exact = log_likelihood(flow, x, 1.0, base=base, base_time=0.0, probes=60, how=how)
    found = log_likelihood(flow, x, 1.0, base=base, base_time=0.0, generator=3, how=how)
    assert exact.standard_error is None
    assert_close(found.base_cells, exact.base_cells)
    z = (found.log_prob - exact.log_prob) / found.standard_error
    assert abs(float(z.mean())) < 4 / 200**0.5
    assert 0.83 < float(z.std()) < 1.31  # 1.07; four standard errors are .24
    again = log_likelihood(flow, x, 1.0, base=base, base_time=0.0, generator=3, how=how)
    other = log_likelihood(flow, x, 1.0, base=base, base_time=0.0, generator=4, how=how)
    assert torch.equal(again.log_prob, found.log_prob)
    assert not torch.equal(other.log_prob, found.log_prob)
    few = Integration(max_step=0.25, limits=Limits(memory=1e6))  # some cells at a time
    parts = log_likelihood(flow, x, 1.0, base=base, base_time=0.0, generator=3, how=few)
    assert_close(parts.log_prob, found.log_prob)
    assert_close(parts.standard_error, found.standard_error)


def test_density_at_the_time_of_the_base_is_the_base() -> None:
    x = cells(5)
    found = log_likelihood(Dynamics(network(2)), x, 1.0, base=normal(2), base_time=1.0)
    assert torch.equal(found.log_prob, normal(2).log_prob(x))


def test_density_refuses_bad_bases_and_a_single_probe() -> None:
    flow, x = Dynamics(network(2)), cells(5)

    class Wrong:
        def log_prob(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(ValueError, match=r"`base.log_prob\(x\)`: got \(5, 2\), expected a tensor"):
        log_likelihood(flow, x, 1.0, base=Wrong(), base_time=0.0)
    with pytest.raises(TypeError, match="`base`: got str, expected an object with log_prob"):
        log_likelihood(flow, x, 1.0, base="normal", base_time=0.0)
    with pytest.raises(ValueError, match="`probes`: got 1"):
        log_likelihood(flow, x, 1.0, base=normal(2), base_time=0.0, probes=1)


def test_divergence_of_a_network_is_the_trace_of_its_jacobian() -> None:
    """At one time and at one for each cell, in blocks; of a constant field it is zero."""
    net, x = network(4), cells(3000, 4)
    t = torch.linspace(0, 1, 3000, dtype=F64)
    jacobian = torch.func.jacrev(lambda y: net(t, y).sum(0))(x)
    assert_close(divergence(net, t, x), torch.einsum("knk->n", jacobian))
    assert_close(divergence(net, t[7], x)[7], divergence(net, t, x)[7])
    t, x = t[:300], x[:300]
    each = divergence(net, t, x, probes=rademacher((300, 200, 4)))
    within = (each.mean(1) - divergence(net, t, x)) / (each.std(1) / 200**0.5)
    assert float(within.detach().abs().max()) < 5
    for constant in (lambda t, y: torch.ones_like(y), lambda t, y: net(t, 0 * y.detach())):
        assert float(divergence(constant, t, x).abs().max()) == 0.0
