"""Laws of networks that time and condition modulate: shut gates, order, positions, derivatives."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.testing import assert_close

import cellflow as cf
from cellflow.conditions import Categorical, Conditions, Context
from cellflow.couplings import Exact
from cellflow.dynamics import divergence
from cellflow.networks import DiTConfig, MMDiTConfig, Network, NetworkConfig, ResidualConfig, Units
from cellflow.networks.fast import written_out
from cellflow.networks.layers import Heads, attention, rotated
from cellflow.paths import Straight

SHAPES: list[NetworkConfig] = [
    ResidualConfig(16, 2),
    DiTConfig(16, 2, tokens=3),
    MMDiTConfig(16, 1, 1, tokens=3),
    MMDiTConfig(16, 1, 1, tokens=3, positions="rotary"),
]
DRUGS = Conditions((Categorical("drug", ("A", "B", "C"), doses=True),), ("A", "B+C", {"C": 2.0}))
KNOTS = (5.0, 7.0, 9.0)
UNITS = Units((1.0, -2.0, 0.5, 0.0, 2.0), scale=3.0, origin=5.0, span=2.0, knots=KNOTS)
TOLD = Units(UNITS.centre, 3.0, 5.0, 2.0, KNOTS, features=DRUGS.features)
T = torch.tensor(6.0, dtype=torch.float64)
every = pytest.mark.parametrize("config", SHAPES, ids=str)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


X = normal(6, 5)


def opened(config: NetworkConfig, units: Units = UNITS, answer: str = "velocity") -> Network:
    """A network whose gates, shut at the start, are open."""
    net = config.build(units, answer=answer, generator=0).double()
    for k, p in enumerate(net.parameters()):
        if not p.any():
            p.data = 0.3 * normal(*p.shape, seed=k)
    return net


@every
def test_untrained_network_is_linear_in_the_state_and_does_not_know_the_time(config) -> None:
    net = config.build(TOLD, answer="velocity", generator=0).double()
    mean = net(T, (X + X.flip(0)) / 2)
    assert_close(mean, (net(T, X) + net(T, X.flip(0))) / 2)
    assert_close(net(T + 2, X, DRUGS.context("A")), net(T, X))
    net = opened(config)
    assert not torch.allclose(net(T, (X + X.flip(0)) / 2), (net(T, X) + net(T, X.flip(0))) / 2)
    assert not torch.allclose(net(T + 2, X), net(T, X))


@every
def test_condition_is_a_set_and_its_padding_is_not_seen(config) -> None:
    net, context = opened(config, TOLD), DRUGS.context("B+C")
    out = net(T, X, context)
    assert_close(net(T, X, Context(context.tokens.flip(1), context.present)), out)
    tokens = torch.cat([context.tokens, torch.full((1, 2, DRUGS.features), torch.e)], 1)
    present = torch.cat([context.present, torch.zeros(1, 2, dtype=torch.bool)], 1)
    assert_close(net(T, X, Context(tokens, present)), out)
    assert not torch.allclose(net(T, X, DRUGS.context("B")), out)
    nothing = Context(context.tokens, torch.zeros_like(context.present))
    assert_close(net(T, X, nothing), net(T, X))


@every
def test_each_cell_has_the_answer_of_its_own_time_and_condition(config) -> None:
    net, rows, times = opened(config, TOLD), torch.tensor([0, 1, 2, 2, 1, 3]), T + torch.arange(6)
    every = DRUGS.context(*DRUGS.values, {})
    out = net(times, X, Context(every.tokens, every.present, rows))
    for k, row in enumerate(rows):
        alone = DRUGS.context(DRUGS.values[row]) if row < 3 else None
        assert_close(net(times[k], X[k : k + 1], alone), out[k : k + 1])


@pytest.mark.parametrize("config", SHAPES[1:], ids=str)
def test_positions_of_the_tokens_of_a_cell_matter(config) -> None:
    # Three blocks of the same numbers: without positions, all would have the same answer.
    x = UNITS.scale * normal(4, 2).repeat(1, 3)[:, :5] + torch.tensor(UNITS.centre)
    first, second = opened(config)(T, x.double())[:, :4].chunk(2, 1)
    assert not torch.allclose(first, second, rtol=0.01)


@every
@pytest.mark.parametrize("answer", ["velocity", "growth"])
def test_derivatives_of_every_kind_agree(config, answer) -> None:
    net = opened(config, answer=answer)
    each = torch.stack([jacrev(lambda x: net(T, x[None])[0])(x) for x in X])
    along = jvp(lambda x: net(T, x), (X,), (X,))[1]
    assert_close(along, (each @ X[..., None])[..., 0] if each.ndim == 3 else (each * X).sum(1))
    if answer == "velocity":
        assert_close(divergence(net, T, X), each.diagonal(dim1=1, dim2=2).sum(1))
        divergence(net, T, X.clone().requires_grad_()).sum().backward()  # of parameters as well
        assert all(p.grad is not None for p in net.time.parameters())


@every
def test_gradients_of_training_are_those_of_the_explicit_attention(config) -> None:
    net = opened(config, TOLD)

    def gradients() -> list[torch.Tensor]:
        loss = net(T, X, DRUGS.context("B+C")).square().mean()
        return list(torch.autograd.grad(loss, list(net.parameters()), allow_unused=True))

    explicit = gradients()
    with written_out():
        assert_close(gradients(), explicit)


@every
def test_networks_are_stacked(config) -> None:
    nets = [config.build(UNITS, answer="score", generator=k).double() for k in range(2)]
    own = [dict(net.named_parameters()) for net in nets]
    stacked = {k: torch.stack([o[k].detach() for o in own]) for k in own[0]}

    def loss(weights):
        return functional_call(nets[0], weights, (T, X)).square().sum()

    found = vmap(grad(loss))(stacked)
    for k, net in enumerate(nets):
        net(T, X).square().sum().backward()
        for name, p in net.named_parameters():
            assert_close(found[name][k], torch.zeros_like(p) if p.grad is None else p.grad)


@pytest.mark.parametrize("config", SHAPES[:3], ids=str)
def test_fit_is_saved_and_goes_on(config, tmp_path) -> None:
    course = cf.TimeCourse.from_arrays([normal(40, 3, seed=k).float() + k for k in range(3)])
    method = cf.methods.FlowMatching(Exact(), Straight(), net=config)
    fit = method.fit(course, steps=1, progress=False)
    more = cf.methods.FlowMatching(Exact(), Straight(), net=fit.networks)
    for one in (fit, more.fit(course, steps=1, progress=False)):
        again = cf.load(one.save(tmp_path / str(one is fit)))
        assert again.method.net == config
        x = course.snapshots[0].x
        assert_close(again.simulate(x, [0, 2]).final, one.simulate(x, [0, 2]).final)


def test_attention_is_that_of_torch() -> None:
    torch_own = torch.nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
    torch_own.in_proj_weight.data = torch.eye(8, dtype=torch.float64).repeat(3, 1)
    torch_own.out_proj.weight.data = torch.eye(8, dtype=torch.float64)
    q, k, v = (normal(3, m, 8, seed=m) for m in (4, 5, 5))
    v = v.flip(0)
    hidden = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]).bool()
    split = [x.unflatten(-1, (2, 4)).transpose(1, 2) for x in (q, k, v)]
    own = attention(*split, shown=~hidden[:, None, None]).transpose(1, 2).flatten(2)
    assert_close(own, torch_own(q, k, v, key_padding_mask=hidden)[0])


def test_queries_and_keys_have_unit_mean_square_and_values_are_as_they_are() -> None:
    qkv = 100 * normal(2, 5, 24)
    q, k, v = Heads(8, 2).double().split(qkv)
    for x in (q, k):
        assert_close(x.square().mean(-1), torch.ones(2, 2, 5, dtype=torch.float64))
    assert_close(v.transpose(1, 2).flatten(2), qkv[..., 16:])


def test_products_of_rotated_tokens_depend_on_distances_alone() -> None:
    q, k = normal(1, 8).expand(6, 8), normal(1, 8, seed=1).expand(6, 8)
    angles = torch.arange(6.0, dtype=torch.float64)[:, None] * normal(4, seed=2)
    scores = rotated(q, angles) @ rotated(k, angles).T
    assert_close(scores[1:, 1:], scores[:-1, :-1])
    assert not torch.allclose(scores[0, 1:], scores[0, :-1])
    assert_close(rotated(q, angles).norm(dim=1), q.norm(dim=1))
    assert_close(rotated(q, 0 * angles), q)


@pytest.mark.parametrize("kind", [DiTConfig, MMDiTConfig])
def test_heads_that_do_not_divide_the_width_are_refused(kind) -> None:
    with pytest.raises(ValueError, match="heads"):
        kind(width=10, heads=4)
    with pytest.raises(ValueError, match="heads"):
        MMDiTConfig(width=6, heads=2, positions="rotary")
