"""Comparison of conditions: calibrated where there is nothing, sure where there is something."""

from __future__ import annotations

from itertools import combinations, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

import cellflow as cf
from cellflow.answers.comparison import Comparison, compare
from cellflow.batches import Batching
from cellflow.methods import Method
from cellflow.networks import MLPConfig
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training import FitOptions, Training

QUICK = cf.OTCFM(
    0.1,
    net=MLPConfig(16, 1),
    batching=Batching(32, 32, prefetch=False),
    training=Training(learning_rate=5e-3, validation=0.0),
)


class MeanFlow(Method):
    """A method that is known in closed form: all cells move as their mean does, in data units."""

    def fit_with(self, course: TimeCourse, options, preprocessing=None) -> SimpleNamespace:
        means = torch.stack([s.weights @ s.x.double() for s in course.snapshots])
        times = torch.tensor(course.times, dtype=torch.float64)
        v = means.diff(dim=0) / times.diff()[:, None]
        return SimpleNamespace(
            velocity=lambda t, x: v[min(course.times.index(t), len(v) - 1)].expand(len(x), -1)
        )


def with_networks(course: TimeCourse, steps: int, *, seed: int = 0, **options) -> Comparison:
    how = FitOptions(steps=steps, seed=seed, progress=False)
    return compare(course, QUICK, how, **({"workers": 1} | options))


def quick(course: TimeCourse, replicates=None, *, seed: int = 0, **options) -> Comparison:
    how = FitOptions(seed=seed, progress=False)
    return compare(course, MeanFlow(), how, replicates=replicates, workers=1, **options)


def animals(
    seed: int, each: int, *, spread: float = 0.0, turn: float = 0.0, n: int = 15, nested=False
) -> tuple[TimeCourse, list[list[str]]]:
    """Cells of `each` animals of two conditions, whose moves differ by `spread`; and the animals.

    All are seen at three times, or others at each time if `nested`.
    """
    rng, snapshots, names = np.random.default_rng(seed), [], []
    offset = {}
    for time in (0.0, 1.0, 2.5):
        who = [f"{k}{time if nested else ''}{c}" for c in "ab" for k in range(each)]
        offset |= {w: rng.normal(size=3) * spread for w in who if w not in offset}
        of = np.repeat(who, n)
        x = rng.normal(size=(len(of), 3)) + time * np.stack([offset[w] for w in of])
        x[:, 0] += turn * time * np.char.endswith(of, "b")
        snapshots.append(Snapshot(torch.from_numpy(x), time, labels=[w[-1] for w in of]))
        names.append(of.tolist())
    return TimeCourse(tuple(snapshots)), names


def uniform(p: list[float], of: int, seed: int = 0) -> float:
    """Kolmogorov and Smirnov's p of ranks ``p * of``, spread evenly within each rank."""
    spread = np.random.default_rng(seed).random(len(p)) / of
    return float(stats.kstest(np.asarray(p) - spread, "uniform").pvalue)


def course(seed: int, turn: float = 0.0, n: int = 60) -> TimeCourse:
    """Cells of two conditions that start alike; those of the second turn aside on the way."""
    rng, out = torch.Generator().manual_seed(seed), []
    for time in (0.0, 1.0, 2.0):
        x = torch.randn(n, 2, generator=rng) + torch.tensor([2.0 * time, 0.0])
        treated = torch.rand(n, generator=rng) < 0.4
        x[:, 1] += turn * time * treated
        out.append(Snapshot(x, time, labels=["drug" if t else "control" for t in treated]))
    return TimeCourse(tuple(out))


def test_a_planted_difference_is_found_where_it_is() -> None:
    found = with_networks(course(0, turn=3.0), 150, n_permutations=19)
    assert found.conditions == ("control", "drug")
    assert found.overall == pytest.approx(1 / 20)
    assert float(found.difference.min()) > 1.0  # of 3 a unit of time, after a short training
    assert [len(cells) for cells in found.cells] == [60] * 3
    squares = torch.stack([cells.square().mean() for cells in found.cells]).double()
    torch.testing.assert_close(found.difference.square(), squares, rtol=1e-5, atol=1e-6)


def test_p_values_are_uniform_where_conditions_make_no_difference() -> None:
    """Ranks of the observed labeling among four permuted ones, in 25 experiments."""
    p = [with_networks(course(seed), 15, n_permutations=4, seed=seed).overall for seed in range(25)]
    counts = [sum(abs(value - k / 5) < 1e-9 for value in p) for k in range(1, 6)]
    assert sum(counts) == 25
    assert stats.chisquare(counts).pvalue > 0.01


def test_the_answer_depends_on_neither_workers_nor_the_names_order() -> None:
    one, two = (with_networks(course(1), 10, n_permutations=3, workers=w) for w in (1, 2))
    assert torch.equal(one.difference, two.difference)
    assert one.overall == two.overall


def test_p_values_of_times_and_features_are_uniform_under_the_null() -> None:
    found = [quick(course(seed), n_permutations=19, seed=seed) for seed in range(200)]
    assert uniform([f.overall for f in found], 20) > 0.01
    assert uniform([float(f.p_value[1]) for f in found], 20) > 0.01
    assert uniform([float(f.features.p_value[0]) for f in found], 20) > 0.01


def test_planted_features_are_found_and_the_rate_of_false_ones_is_kept() -> None:
    """Two of ten dimensions differ: at 10 %, a tenth of what is found may be false in the mean."""
    false, rng = [], np.random.default_rng(0)
    for seed in range(20):
        snapshots = []
        for time in (0.0, 1.0):
            x = rng.normal(size=(60, 10))
            x[::2, :2] += [2.5 * time, -2.5 * time]
            snapshots.append(Snapshot(x, time, labels=["a", "b"] * 30))
        found = quick(TimeCourse(tuple(snapshots)), n_permutations=99, seed=seed).features
        assert float(found.effect[0]) == pytest.approx(-2.5, abs=1.5)
        assert float(found.effect[1]) == pytest.approx(2.5, abs=1.5)
        sure = (found.fdr <= 0.1).numpy()
        assert sure[:2].all()
        false.append(sure[2:].sum() / sure.sum())
        np.testing.assert_allclose(found.fdr, stats.false_discovery_control(found.p_value))
    assert np.mean(false) < 0.1 * 8 / 10 + 2 * np.std(false) / 20**0.5


def test_a_network_finds_the_dimension_that_differs() -> None:
    found = with_networks(course(0, turn=3.0), 150, n_permutations=19).features
    assert float(found.p_value[1]) == pytest.approx(1 / 20)
    assert float(found.effect[1]) > 1.0
    assert float(found.effect[0].abs()) < 0.5


def test_a_gene_that_does_not_differ_is_not_found_beside_one_that_does() -> None:
    """Even where conditions are so far apart that neither fit knows the cells of the other."""
    p = []
    for seed in range(4):
        found = with_networks(course(seed, turn=6.0), 250, n_permutations=9, seed=seed).features
        assert float(found.p_value[1]) == pytest.approx(1 / 10)
        p.append(float(found.p_value[0]))
    assert np.mean(p) > 0.3  # of 0.55


def test_genes_are_what_the_loadings_make_of_means_over_own_cells() -> None:
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 2)))
    scale = torch.tensor([2.0, 0.5], dtype=torch.float64)
    readout = Preprocessing(torch.zeros(5).double(), scale, torch.from_numpy(basis))
    cells = course(3, turn=1.0)
    found = with_networks(cells, 20, readout=readout, n_permutations=1)
    means = []
    for name in ("control", "drug"):
        parts = []
        for s in cells.snapshots:
            of = torch.tensor([label == name for label in s.labels])
            parts.append(Snapshot(s.x[of], s.time))
        how = FitOptions(steps=20, seed=0, progress=False)
        fit = QUICK.fit_with(TimeCourse(tuple(parts)), how)
        means.append(torch.stack([fit.velocity(s.time, s.x).mean(0) for s in parts]))
    genes = (means[1] - means[0]).double() * scale @ torch.from_numpy(basis).T
    torch.testing.assert_close(found.features.effect, genes.mean(0), rtol=1e-5, atol=1e-6)
    rms = genes.square().mean(0).sqrt()
    torch.testing.assert_close(found.features.difference, rms, rtol=1e-5, atol=1e-6)


def test_means_over_cells_are_by_mass() -> None:
    plain = course(4, turn=1.0)
    heavy = []
    for s in plain.snapshots:
        mass = torch.where(s.x[:, 0] > s.time * 2, 3.0, 1.0)
        heavy.append(Snapshot(s.x, s.time, mass, s.labels))
    found = with_networks(TimeCourse(tuple(heavy)), 10, n_permutations=1)
    for s, cells, difference in zip(heavy, found.cells, found.difference, strict=True):
        mean = float(s.weights @ cells.double().square())
        assert float(difference) ** 2 == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_permutations_of_two_times_three_replicates_are_all_that_there_are(seed) -> None:
    """By enumeration: of 20 labelings, each as good as its mirror image."""
    cells, names = animals(seed, 3, spread=0.5)
    found = quick(cells, names, n_permutations=99, seed=seed)
    assert found.labelings == 10
    who = sorted({name for of in names for name in of})
    squares = []
    for chosen in combinations(who, 3):
        one, two = [], []
        for s, of in zip(cells.snapshots, names, strict=True):
            of_one = np.isin(of, chosen)
            one.append(s.x.numpy()[of_one].mean(0))
            two.append(s.x.numpy()[~of_one].mean(0))
        off = np.diff(np.array(two) - np.array(one), axis=0) / np.diff(cells.times)[:, None]
        squares.append((off[[0, 1, 1]] ** 2).sum())
    observed = squares[list(combinations(who, 3)).index(("0a", "1a", "2a"))]
    p = np.mean(np.array(squares) >= observed * (1 - 1e-9))
    assert found.overall == pytest.approx(p)


def test_differences_between_animals_are_no_difference_between_conditions() -> None:
    """Permuted cells find animals; permuted animals are all alike."""
    alone, whole = [], []
    for seed in range(60):
        cells, names = animals(seed, 4, spread=0.6, n=30)
        whole.append(quick(cells, names, n_permutations=99).overall)
        if seed < 20:
            alone.append(quick(cells, n_permutations=19).overall)
    assert np.mean(alone) < 0.2
    assert uniform(whole, 35) > 0.01


def test_many_replicates_are_drawn_and_a_planted_difference_is_found() -> None:
    cells, names = animals(0, 6, spread=0.2, turn=2.0, n=5)
    found = quick(cells, names, n_permutations=49)
    assert found.labelings == 50  # of 462
    assert found.overall < 0.05
    assert float(found.features.p_value[0]) < 0.05


def test_replicates_of_one_time_change_places_within_it() -> None:
    cells, names = animals(0, 2, spread=1.0, n=10, nested=True)
    found = quick(cells, names, n_permutations=107)
    assert found.labelings == 6**3 / 2
    ways = product(*(combinations(range(4), 2) for _ in range(3)))
    squares = []
    for way in ways:
        one, two = [], []
        for s, of, chosen in zip(cells.snapshots, names, way, strict=True):
            of_one = np.isin(of, np.array(sorted(set(of)))[list(chosen)])
            one.append(s.x.numpy()[of_one].mean(0))
            two.append(s.x.numpy()[~of_one].mean(0))
        off = np.diff(np.array(two) - np.array(one), axis=0) / np.diff(cells.times)[:, None]
        squares.append((off[[0, 1, 1]] ** 2).sum())
    seen = (float(found.difference.square().sum()), found.overall)
    assert np.isclose(squares, seen[0]).sum() == 2  # it and its mirror image
    assert seen[1] == pytest.approx(np.mean(np.array(squares) >= seen[0] * (1 - 1e-9)))


def test_replicates_are_checked() -> None:
    cells, names = animals(0, 2)
    few = "got 2 of 'a' and 2 of 'b', with which the least possible p is 0.333, expected enough"
    with pytest.raises(ValueError, match=few):
        quick(cells, names)
    with pytest.raises(ValueError, match="least possible p is 1,"):
        quick(*animals(0, 1))
    with pytest.raises(ValueError, match=r"got '0' in 'a' and 'b', expected each in one condition"):
        quick(cells, [[name[0] for name in of] for of in names])
    with pytest.raises(ValueError, match=r"`replicates`: got \[60, 60\] names, expected one of"):
        quick(cells, names[:2])
    of = np.repeat(["0a", "1a", "2a", "0b", "1b", "2b"], [20, 2, 2, 10, 2, 2]).tolist()
    parts = [Snapshot(torch.zeros(38, 2), t, labels=[w[-1] for w in of]) for t in (0.0, 1.0)]
    lost = "got 6 cells of '.' at time 0 after replicates were permuted, expected at least 10"
    with pytest.raises(ValueError, match=lost):
        quick(TimeCourse(tuple(parts)), [of, of])


def test_conditions_are_checked() -> None:
    bare = TimeCourse.from_arrays([torch.zeros(20, 2), torch.ones(20, 2)])
    with pytest.raises(ValueError, match="`course`: got 0 conditions"):
        compare(bare, QUICK)
    few = TimeCourse(
        tuple(Snapshot(torch.zeros(20, 2), t, labels=["a"] * 15 + ["b"] * 5) for t in (0.0, 1.0))
    )
    with pytest.raises(ValueError, match="got 5 cells of 'b' at time 0, expected at least 10"):
        compare(few, QUICK)
