"""Laws of the set encoder: order, padding, and the condition of which nothing is said."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from cellflow.conditions import Categorical, Conditions, Context
from cellflow.networks import SetEncoder

POOLS = ("sum", "mean", "attention")
DRUGS = Conditions((Categorical("drug", ("A", "B", "C"), doses=True),), ("A", "B+C", {"C": 2.0}))


def encoder(pool: str, seed: int = 0) -> SetEncoder:
    return SetEncoder(DRUGS.features, 16, pool=pool, generator=seed).double()


@pytest.mark.parametrize("pool", POOLS)
def test_encoder_depends_neither_on_the_order_of_tokens_nor_on_padding(pool: str) -> None:
    context = DRUGS.context()
    out = encoder(pool)(context)
    assert out.shape == (3, 16)
    other = Context(context.tokens.flip(1), context.present.flip(1))
    assert_close(encoder(pool)(other), out)
    noise = torch.full((3, 4, DRUGS.features), torch.e, dtype=torch.float64)
    tokens = torch.cat([context.tokens, noise], 1)
    present = torch.cat([context.present, torch.zeros(3, 4, dtype=torch.bool)], 1)
    assert_close(encoder(pool)(Context(tokens, present)), out)
    alone = torch.cat([encoder(pool)(DRUGS.context(c)) for c in DRUGS.values])
    assert_close(alone, out)


@pytest.mark.parametrize("pool", POOLS)
def test_conditions_of_which_nothing_is_said_have_the_same_finite_row(pool: str) -> None:
    none = encoder(pool)()
    assert none.shape == (1, 16)
    assert none.isfinite().all()
    dropped = DRUGS.context(*DRUGS.values, {})
    assert_close(encoder(pool)(dropped)[-1:], none)
    assert not torch.allclose(encoder(pool)(dropped)[0], none[0])


def test_pooling_is_the_mean_or_the_sum_over_tokens() -> None:
    """What follows is an affine map, with the same constant for each condition."""
    one, two, both = (encoder("mean")(DRUGS.context(c)) for c in ("B", "C", "B+C"))
    assert_close(both, (one + two) / 2)
    net = encoder("sum")
    one, two, both = (net(DRUGS.context(c)) for c in ("B", "C", "B+C"))
    assert_close(both, one + two - net.out.bias)


@pytest.mark.parametrize("pool", POOLS)
def test_encoder_follows_its_seed_and_leaves_global_state(pool: str) -> None:
    state = torch.get_rng_state()
    same, other = (encoder(pool, seed)(DRUGS.context()) for seed in (0, 1))
    assert torch.equal(encoder(pool)(DRUGS.context()), same)
    assert not torch.allclose(same, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_encoder_refuses_tokens_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"context.*got 7 features"):
        SetEncoder(DRUGS.features + 1, 4).double()(DRUGS.context())
