"""Networks that are told conditions: guidance, gradients, names and evaluators."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cellflow.conditions import Categorical, Conditions, Context, Continuous
from cellflow.networks import MLP, MLPConfig, Units, as_network_config
from cellflow.networks.fast import written_out

KNOWN = Conditions(
    (Categorical("drug", ("A", "B", "C")), Continuous("dose", centre=1.0)),
    ({"drug": "A", "dose": 0.0}, {"drug": "B+C", "dose": 2.0}, {"drug": "B", "dose": 1.0}),
)
UNITS = Units((1.0, -2.0, 0.5), 3.0, 1.0, 2.0, (1.0, 2.0, 5.0), KNOWN.features)
KINDS = ("concat", "film")
T = torch.tensor(2.5)


def network(condition: str = "concat", answer: str = "velocity", **config) -> MLP:
    """A network that conditions change, its zeros filled."""
    net = MLP(UNITS, MLPConfig(24, 2, condition=condition, **config), answer=answer)
    g = torch.Generator().manual_seed(1)
    for p in net.parameters():
        if not p.any():
            p.data.normal_(std=0.3, generator=g)
    return net


def cells(n: int = 40) -> torch.Tensor:
    return 2 * torch.randn(n, 3, generator=torch.Generator().manual_seed(0))


def rows(n: int = 40) -> torch.Tensor:
    return torch.arange(n) % len(KNOWN)


@pytest.mark.parametrize("condition", KINDS)
@pytest.mark.parametrize("config", [{}, {"skip": True}, {"intervals": True}, {"average": True}])
@pytest.mark.parametrize("answer", ["velocity", "score", "growth"])
def test_each_cell_gets_what_its_condition_alone_would_give(condition, config, answer) -> None:
    net, x = network(condition, answer, **config), cells()
    together = net(T, x, replace(KNOWN.context(), rows=rows()))
    until = torch.tensor(4.0)
    average = net.between(T, until, x, context=replace(KNOWN.context(), rows=rows()))
    for k, value in enumerate(KNOWN.values):
        mine, context = rows() == k, KNOWN.context(value)
        assert_close(together[mine], net(T, x[mine], context))
        assert_close(average[mine], net.between(T, until, x[mine], context=context))
        assert not torch.allclose(net(T, x, context), net(T, x))
    assert torch.allclose(together, average) == (not config.get("average"))


@pytest.mark.parametrize("condition", KINDS)
def test_conditions_have_no_order(condition: str) -> None:
    net, x, order = network(condition), cells(), [2, 0, 1]
    other = Conditions(KNOWN.covariates, tuple(KNOWN.values[k] for k in order))
    codes = torch.tensor([order.index(int(k)) for k in rows()])
    found = net(T, x, replace(other.context(), rows=codes))
    assert_close(found, net(T, x, replace(KNOWN.context(), rows=rows())))


@pytest.mark.parametrize("condition", KINDS)
def test_guidance_goes_from_nothing_through_the_condition(condition: str) -> None:
    net, x, context = network(condition), cells(), KNOWN.context(KNOWN.values[1])
    nothing, told = net(T, x), net(T, x, context)
    assert torch.equal(nothing, net(T, x, Context.nothing(KNOWN.features)))
    assert torch.equal(nothing, net(T, x, KNOWN.context({})))
    assert torch.equal(net.given(context)(T, x), told)
    assert torch.equal(net.given(context, 0.0)(T, x), nothing)
    for w in (0.3, 1.0 + 1e-9, 2.5):
        assert_close(net.given(context, w)(T, x), nothing + w * (told - nothing))
        between = net.given(context, w).between(T, T, x)
        assert_close(between, nothing + w * (told - nothing))


@pytest.mark.parametrize("condition", KINDS)
def test_film_and_plain_networks_begin_alike(condition: str) -> None:
    """Weights that plain networks have as well are the same; closed FiLM changes nothing."""
    config, x = MLPConfig(24, 3, condition=condition, skip=True), cells()
    plain, told = (MLP(u, config, generator=3) for u in (replace(UNITS, features=0), UNITS))
    assert plain.encoder is None
    own = told.state_dict()
    assert all(torch.equal(own[name], value) for name, value in plain.state_dict().items())
    found = told(T, x, replace(KNOWN.context(), rows=rows()))
    assert torch.equal(found, plain(T, x)) == (condition == "film")


@pytest.mark.parametrize("condition", KINDS)
@pytest.mark.parametrize("told", ["each", "one", "nothing"])
def test_gradients_written_out_equal_those_of_autograd(condition: str, told: str) -> None:
    net, x = network(condition, skip=True).double(), cells().double()
    y = torch.roll(x, 1, 0)
    each, one = replace(KNOWN.context(), rows=rows()), KNOWN.context({"drug": "A+C"})
    contexts = {"each": each, "one": one, "nothing": None}
    context = contexts[told]

    def gradients() -> tuple[torch.Tensor, ...]:
        loss = (net(T, x, context) - y).square().mean()
        return torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True)

    wanted = gradients()
    with written_out():
        for found, value in zip(gradients(), wanted, strict=True):
            assert_close(found, value, rtol=1e-10, atol=1e-12)
    assert any(g.any() for g in wanted[-4:])  # those of the encoder, or of what FiLM makes of it


@pytest.mark.parametrize("condition", KINDS)
@pytest.mark.parametrize(
    "config", [{}, {"skip": True, "activation": "tanh"}, {"intervals": True}, {"pool": "attention"}]
)
def test_evaluators_equal_their_fields(condition: str, config: dict) -> None:
    net, x, one = network(condition, **config), cells(), KNOWN.context({"drug": "A+B"})
    each = replace(KNOWN.context(), rows=rows())
    for field in (net, net.given(one), net.given(one, 1.7), net.given(one, 0.0), net.given(each)):
        fast = field.evaluator(x)
        assert fast is not field
        with torch.no_grad():
            for t in (torch.tensor(1.0), torch.tensor(4.2)):
                assert_close(fast(t, x), field(t, x), rtol=1e-4, atol=1e-5)


def test_own_modules_are_called_with_the_context_where_there_are_conditions() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of_tokens = nn.Linear(KNOWN.features, 3)

        def forward(self, t: torch.Tensor, x: torch.Tensor, context: Context) -> torch.Tensor:
            each = self.of_tokens(context.tokens) * context.present[..., None]
            return context.of_cells(each.sum(1)) + t[:, None] - x

    net, x = as_network_config(Own()).build(UNITS, answer="velocity", generator=0), cells()
    told = net(T, x, replace(KNOWN.context(), rows=rows()))
    assert_close(told[rows() == 2], net(T, x, KNOWN.context(KNOWN.values[2]))[rows() == 2])
    seen = (T - UNITS.origin) / UNITS.span - (x - torch.tensor(UNITS.centre)) / UNITS.scale
    assert_close(net(T, x), seen * UNITS.speed)  # nothing is said
    assert not torch.allclose(told, net(T, x))


@torch.no_grad()
def silence(net: MLP) -> None:
    """Tell the hidden layers nothing, of which the first numbers are scales and shifts."""
    hidden = 2 * net.config.depth * net.config.width
    net.change.weight[:hidden] = 0
    net.change.bias[:hidden] = 0


@pytest.mark.parametrize("answer", ["velocity", "growth"])
def test_what_drugs_add_to_the_answer_adds_up(answer: str) -> None:
    """Where the hidden layers are told nothing, one more drug does the same beside any others."""
    net, x = network("film", answer), cells()
    silence(net)

    def answered(drug: str) -> torch.Tensor:
        with torch.no_grad():
            return net(T, x, KNOWN.context({"drug": drug}))

    change = answered("A+B") - answered("B")
    assert_close(answered("A+B+C") - answered("B+C"), change, atol=1e-5, rtol=1e-5)
    assert_close(change, change[:1].expand_as(change), atol=1e-5, rtol=1e-5)  # of all cells
    assert change.abs().max() > 1e-2
    for pool in ("mean", "attention"):
        other = network("film", answer, pool=pool)
        silence(other)
        told = [other(T, x, KNOWN.context({"drug": d})) for d in ("A+B", "B", "A+B+C", "B+C")]
        assert not torch.allclose(told[0] - told[1], told[2] - told[3], atol=1e-3)
