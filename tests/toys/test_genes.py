"""Networks of genes against their equations, solved by others, and against Beeline's own cells."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from cellflow.toys import BIFURCATING, TRIFURCATING, GeneNetwork

NETWORKS = {"two fates": BIFURCATING, "three fates": TRIFURCATING}


def bifurcating(t: float, y: np.ndarray) -> np.ndarray:
    """The equations of the network of two fates, multiplied out by hand."""
    x, p = y[:7], y[7:]
    h = (p / 10) ** 10
    one, two, three, four, six = h[0], h[1], h[2], h[3], h[4]
    f = [
        1 / ((1 + four) * (1 + six)),
        one / (1 + one),
        two / (1 + two),
        (three + four + three * four) / ((1 + three) * (1 + four) * (1 + six)),
        (three + six + three * six) / ((1 + three) * (1 + six) * (1 + four)),
        four / (1 + four),
        1 / (1 + four),
    ]
    return np.concatenate([20 * np.array(f) - 10 * x, 10 * x - p])


def test_without_noise_it_is_the_ordinary_equation() -> None:
    """Euler's error is of first order in the step; extrapolated to none, it is that of RK45."""
    start = np.where(np.arange(7) == 0, 1.0, 0.01)
    times = [0.3, 1.0, 2.2, 5.0]
    exact = solve_ivp(
        bifurcating, (0, 5), [*start, *(10 * start)], t_eval=times, rtol=1e-9, atol=1e-10
    ).y[:7]
    coarse, fine = (BIFURCATING.simulate(1, times, noise=0, step=h)[:, 0] for h in (4e-3, 2e-3))
    off = [np.abs(found.numpy().T - exact).max() for found in (coarse, fine)]
    assert off[1] < 0.04 and off[0] / off[1] == pytest.approx(2, abs=0.15)
    np.testing.assert_allclose((2 * fine - coarse).numpy().T, exact, atol=1e-3)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_proteins_that_are_there_or_not_make_the_rules(network) -> None:
    patterns = torch.tensor(list(product([0.0, 1.0], repeat=len(network.genes)))).double()
    found = network.activity(1e3 * patterns)
    on = [dict(zip(network.genes, row, strict=True)) for row in patterns.bool().tolist()]
    for k, gene in enumerate(network.genes):
        rule = network.rules[gene]
        names = rule.__code__.co_varnames[: rule.__code__.co_argcount]
        expected = [float(rule(*(row[name] for name in names))) for row in on]
        np.testing.assert_allclose(found[:, k], expected, atol=1e-9)
    half = network.activity(torch.full((1, len(network.genes)), 10.0).double())
    assert float(half[0, network.genes.index("g2")]) == 0.5


def test_law_of_a_constant_gene() -> None:
    """Of mean m / l_x = 2 and variance s² m / 2 l_x² = 0.1; of proteins there are r m / l_x l_p."""
    alone = GeneNetwork({"a": lambda: True}, {"a": 2.0})
    x = alone.simulate(6000, [2.0], step=4e-3)[0, :, 0]
    assert float(x.mean()) == pytest.approx(2, abs=0.02)
    assert float(x.var()) == pytest.approx(0.1, rel=0.08)
    one = GeneNetwork({"a": lambda: True, "b": lambda a: a}, {})
    late = one.simulate(1, [15.0], noise=0)[0, 0]  # 20 proteins are twice k
    torch.testing.assert_close(
        late, torch.tensor([2.0, 2 / (1 + 2**-10)]).double(), rtol=1e-5, atol=0
    )


def test_perturbed_genes() -> None:
    """None is left of what is knocked out, and what needs it is off; the rest is as it was."""
    assert not BIFURCATING.perturbed(knock_out=["g1"]).simulate(50, [0.5, 4])[:, :, 0].any()
    without = BIFURCATING.perturbed(knock_out=["g4"]).simulate(200, [6.0])[0]
    assert not without[:, 3].any() and not without[:, 5].mean() > 0.05
    assert float(without[:, 4].mean()) == pytest.approx(2, abs=0.1)
    much = BIFURCATING.perturbed(over_express=["g4"]).simulate(200, [6.0])[0]
    assert float(much[:, 3].mean()) == pytest.approx(2, abs=0.1)
    assert float(much[:, 4].mean()) < 0.05
    assert BIFURCATING.perturbed() == BIFURCATING


def test_cells_are_seeded_and_measured_once() -> None:
    first, again = (TRIFURCATING.course(30, [0.5, 2.0], generator=3) for _ in range(2))
    for a, b in zip(first.snapshots, again.snapshots, strict=True):
        assert torch.equal(a.x, b.x)
        assert a.x.shape == (30, 8)
    other = TRIFURCATING.course(30, [0.5, 2.0], generator=4)
    assert not torch.equal(other.snapshots[0].x, first.snapshots[0].x)
    whole = TRIFURCATING.simulate(60, [0.5, 2.0], generator=3)
    assert torch.equal(first.snapshots[0].x, whole[0, :30].float())
    assert torch.equal(first.snapshots[1].x, whole[1, 30:].float())


#: Means of genes over Beeline's own cells of two fates, within 0.05 of these times.
BEELINE = {
    0.85: [2.02, 1.88, 0.32, 0.02, 0.02, 0.02, 1.95],
    2.45: [1.67, 1.99, 1.98, 1.46, 1.41, 0.22, 1.84],
    4.05: [0.12, 0.57, 1.67, 1.06, 0.99, 0.97, 0.99],
}


def test_cells_are_like_those_of_beeline() -> None:
    """Whose means, over 78 to 96 cells, have errors of up to 0.1."""
    found = BIFURCATING.simulate(1000, list(BEELINE)).mean(1).numpy()
    np.testing.assert_allclose(found, list(BEELINE.values()), atol=0.2)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="`gene`: got 'c', expected one of 'a', 'b'"):
        GeneNetwork({"a": lambda c: c, "b": lambda: True}, {})
    with pytest.raises(ValueError, match="`gene`: got 'g9'"):
        BIFURCATING.perturbed(knock_out=["g9"])
    with pytest.raises(ValueError, match=r"`times`: got \[2.0, 1.0\]"):
        BIFURCATING.simulate(2, [2, 1])
    with pytest.raises(ValueError, match="`step`"):
        BIFURCATING.simulate(2, [1.0], step=0)
