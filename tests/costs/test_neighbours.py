"""Neighbour graphs and the distances along them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist

from cellflow.costs import neighbours
from cellflow.costs.neighbours import neighbour_graph


def arc(angle):
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def normal(n, d=3):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=g, dtype=torch.float64).numpy()


def test_paths_on_an_arc_have_its_length():
    angle = np.sort(np.random.default_rng(0).uniform(0, 5.8, 400))
    graph = neighbour_graph(arc(angle), 10)
    everything = np.arange(400)
    got = graph.paths(everything, everything)
    # Chords of ten neighbours: an angle a of about 0.07 is short by a³/24 of it.
    np.testing.assert_allclose(got, cdist(angle[:, None], angle[:, None]), rtol=0.01, atol=1e-12)


def test_paths_on_a_swiss_roll_are_straight_once_it_is_unrolled():
    rng = np.random.default_rng(0)
    s, h = rng.uniform(1.5 * np.pi, 4.5 * np.pi, 3000), rng.uniform(0, 20, 3000)
    x = np.stack([s * np.cos(s), h, s * np.sin(s)], 1)
    length = (s * np.sqrt(1 + s * s) + np.arcsinh(s)) / 2  # of the spiral of Archimedes
    flat = np.stack([length, h], 1)
    some = np.arange(40)
    got = neighbour_graph(x, 15).paths(some, np.arange(3000))
    true = cdist(flat[some], flat)
    far = true > 10
    ratio = got[far] / true[far]
    assert abs(np.median(ratio) - 1) < 0.04
    assert ratio.min() > 0.97 and ratio.max() < 1.2
    assert np.median(cdist(x[some], x)[far] / true[far]) < 0.7  # straight distances cut through


def test_the_complete_graph_has_straight_distances():
    x = normal(50)
    everything = np.arange(50)
    for k in (49, 500):
        np.testing.assert_allclose(
            neighbour_graph(x, k).paths(everything, everything), cdist(x, x), rtol=1e-12
        )


def test_components_are_joined_like_a_minimum_spanning_tree():
    g = np.random.default_rng(3)
    centres = g.uniform(0, 100, (9, 2))
    label = np.repeat(np.arange(9), 12)
    x = centres[label] + g.normal(size=(108, 2)) * 0.1
    graph = neighbour_graph(x, 4)
    assert graph.component.max() >= 8
    bridged = graph.component[graph.edges[:, 0]] != graph.component[graph.edges[:, 1]]
    between = cdist(x, x)
    groups = [np.flatnonzero(graph.component == c) for c in range(graph.component.max() + 1)]
    gaps = [[between[np.ix_(a, b)].min() for b in groups] for a in groups]
    assert bridged.sum() == len(groups) - 1
    assert graph.lengths[bridged].sum() == pytest.approx(minimum_spanning_tree(gaps).sum())
    everything = np.arange(108)
    paths = graph.paths(everything, everything)
    assert np.isfinite(paths).all()
    assert (paths >= between - 1e-9).all()


def test_repeated_cells_are_at_no_distance_of_each_other():
    x = np.repeat(normal(5), 12, axis=0)
    everything = np.arange(60)
    graph = neighbour_graph(x, 10)
    assert graph.component.max() == 4
    paths = graph.paths(everything, everything)
    assert np.isfinite(paths).all()
    same = everything[:, None] // 12 == everything // 12
    assert (paths[same] == 0).all() and (paths[~same] > 0).all()


def test_large_sets_are_searched_in_parts(monkeypatch):
    x = np.concatenate([normal(40), normal(30) + 50])
    some, everything = np.arange(7), np.arange(70)

    def answers():
        graph = neighbour_graph(x, 5)
        return graph.paths(some, everything)

    whole = answers()
    monkeypatch.setattr(neighbours, "CHUNK", 100)
    np.testing.assert_allclose(whole, answers(), rtol=1e-9)


@pytest.mark.slow
def test_approximate_neighbours_are_nearly_the_exact_ones(monkeypatch):
    pytest.importorskip("pynndescent")
    x = normal(600, 16)
    exact = set(map(tuple, neighbour_graph(x, 10).edges))
    monkeypatch.setattr(neighbours, "LARGE", 500)
    found = set(map(tuple, neighbour_graph(x, 10).edges))
    assert all(i < j for i, j in found)
    assert len(exact & found) > 0.95 * len(exact | found)
