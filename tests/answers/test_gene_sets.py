"""Sets of genes drawn in proportion to their effect, beside closed forms."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from cellflow.answers import AllSets, GFlowNet, Sampler, gene_sets

WEIGHTS = {"a": 1.0, "b": 2.0, "c": 0.5, "d": 4.0, "e": 0.0}
GENES = list(WEIGHTS)


def product(sets):
    return [math.prod(WEIGHTS[gene] for gene in one) for one in sets]


def log_sum(size: int, beta: float) -> float:
    """Log Z of products: a sum of the coefficients of Π (1 + w x), symmetric polynomials."""
    coefficients = np.polynomial.polynomial.polyfromroots([-1 / w**beta for w in (1, 2, 0.5, 4)])
    return float(np.log((coefficients / coefficients[0])[1 : size + 1].sum()))


@pytest.mark.parametrize(("size", "beta"), [(1, 1.0), (3, 2.0), (5, 0.5)])
def test_sets_come_in_proportion_to_a_power_of_their_effect(size, beta) -> None:
    draws = 20_000
    found = gene_sets(product, GENES, size=size, beta=beta, sampler=AllSets(), draws=draws)
    assert found.exact_log_z == pytest.approx(log_sum(size, beta), abs=1e-12)
    assert found.log_z == pytest.approx(found.exact_log_z, abs=0.05)  # whose zeros are not quite
    for one, effect, share, p in zip(
        found.sets, found.effect, found.frequency, found.probability, strict=True
    ):
        assert len(one) <= size and list(one) == sorted(one)
        assert effect == product([one])[0]
        truth = float(effect) ** beta / math.exp(log_sum(size, beta))
        assert p == pytest.approx(truth, abs=1e-12)
        assert abs(share - truth) < 5 * math.sqrt(truth / draws) + 2e-3
    assert found.frequency.sum() == pytest.approx(1.0)
    assert (found.frequency.diff() <= 0).all()


class Uniform(Sampler):
    """Sampler that knows no reward, of single things and none."""

    def draw(self, log_reward, *, n, size, draws, seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.eye(n + 1, n)[torch.randint(n + 1, (draws,), generator=generator)], 1.5


def test_the_distance_is_that_of_shares_and_probabilities() -> None:
    p, draws = np.array([1, 2, 0.5, 4, 0]) / 7.5, 50_000
    found = gene_sets(product, GENES, size=1, sampler=Uniform(), draws=draws)
    distance = np.abs(p - 0.2).sum() / 2  # sets of none have no effect, and are left out
    assert found.total_variation == pytest.approx(distance, abs=0.03)
    expected = np.sqrt(2 * p * (1 - p) / (np.pi * draws)).sum() / 2
    assert found.noise == pytest.approx(expected, rel=1.5)
    assert found.log_z == pytest.approx(1.5 + np.log(4))  # beside the best single gene
    few = gene_sets(product, GENES, size=1, sampler=Uniform(), draws=draws, list_to=4)
    assert few.exact_log_z is few.total_variation is few.noise is None
    torch.testing.assert_close(few.probability, few.effect / math.exp(few.log_z))


def test_each_set_is_asked_for_once() -> None:
    asked = []

    def effect(sets):
        asked.extend(sets)
        return product(sets)

    found = gene_sets(effect, GENES, size=2, sampler=AllSets())
    assert len(asked) == len(set(asked)) == found.n_evaluated == 15
    again = gene_sets(product, GENES, size=2, sampler=AllSets())
    assert again.sets == found.sets
    assert torch.equal(again.frequency, found.frequency)


def test_what_is_no_effect_is_refused() -> None:
    for wrong in ([-1.0], [np.nan], [np.inf], [1.0, 2.0]):
        with pytest.raises(ValueError, match="`effect`"):
            gene_sets(lambda sets, wrong=wrong: wrong * len(sets), GENES, sampler=AllSets())
    with pytest.raises(ValueError, match="zero for all of 15 sets"):
        gene_sets(lambda sets: [0.0] * len(sets), GENES, size=2, sampler=AllSets())
    for genes in (["a"], ["a", "a"]):
        with pytest.raises(ValueError, match="`genes`"):
            gene_sets(product, genes, sampler=AllSets())


def test_a_gflownet_without_its_package_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gfn.estimators", None)
    with pytest.raises(ImportError, match=r"cellflow-sb\[gflownet\]"):
        gene_sets(product, GENES)


def test_a_gflownet_learns_the_shares_of_all_sets() -> None:
    pytest.importorskip("gfn", reason="needs torchgfn")
    before = torch.get_rng_state()
    found, again = (
        gene_sets(product, GENES, size=2, sampler=GFlowNet(400), draws=5000) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found.frequency, again.frequency)
    assert found.total_variation < found.noise + 0.05
    assert found.log_z == pytest.approx(found.exact_log_z, abs=0.1)
