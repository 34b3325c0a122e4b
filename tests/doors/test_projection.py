"""Into an embedding: closed forms for linear embeddings, points on cells, and bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy.sparse import csr_matrix

from cellflow.tl.projection import embedding, nearest_category, project_points, project_velocity

MAP = np.array([[2.0, -0.5], [1.0, 1.5], [-0.3, 0.7]])


def as_adata(x: np.ndarray, **obsm: np.ndarray) -> AnnData:
    obs = pd.DataFrame(index=[f"c{i}" for i in range(len(x))])
    return AnnData(obs=obs, obsm={"X_pca": x, **obsm})


@pytest.fixture
def linear() -> AnnData:
    """Cells whose embedding is a linear map of the representation."""
    x = np.random.default_rng(0).normal(size=(400, 3))
    return as_adata(x, X_umap=x @ MAP)


def lattice() -> np.ndarray:
    """A cubic lattice of 5³ points; the one in the middle has neighbours on all sides alike."""
    return np.array(list(itertools.product(range(-2, 3), repeat=3)), dtype=float)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_a_point_on_a_cell_lands_on_it(linear):
    x = linear.obsm["X_pca"][:25]
    got = project_points(linear, x, basis="umap", bandwidth=1e-6)
    np.testing.assert_allclose(got, linear.obsm["X_umap"][:25], atol=1e-12)


def test_one_neighbour_is_the_nearest_cell(linear):
    x = np.random.default_rng(1).normal(size=(40, 3))
    nearest = ((x[:, None] - linear.obsm["X_pca"]) ** 2).sum(-1).argmin(1)
    got = project_points(linear, x, basis="X_umap", n_neighbors=1)
    np.testing.assert_allclose(got, linear.obsm["X_umap"][nearest])


def test_weights_are_gaussian():
    x = np.array([[0.0], [1.0], [3.0]])
    adata = as_adata(np.hstack([x, np.zeros_like(x)]), X_umap=np.array([[0, 0], [1, 0], [0, 1.0]]))
    got = project_points(adata, [[0.0, 0.0]], basis="umap", n_neighbors=3, bandwidth=2.0)
    weight = np.exp(-np.array([0, 1, 9]) / 8)
    np.testing.assert_allclose(got, [weight[1:] / weight.sum()])


@pytest.mark.parametrize("n", [30, 60])
def test_the_default_bandwidth_is_near_a_linear_map_inside_the_cloud(linear, n):
    """Averages of a linear map are the map of averages; only the spread of neighbours remains."""
    x = 0.3 * np.random.default_rng(2).normal(size=(100, 3))
    got = project_points(linear, x, basis="umap", n_neighbors=n)
    error = np.linalg.norm(got - x @ MAP, axis=1)
    assert error.mean() < 0.25 * np.linalg.norm(linear.obsm["X_umap"].std(0))


def test_far_points_do_not_underflow(linear):
    got = project_points(linear, [[1e6, 0.0, 0.0]], basis="umap", bandwidth=1e-3)
    assert np.isfinite(got).all()
    assert np.abs(got - linear.obsm["X_umap"]).max(1).min() < 1e-9


def test_duplicates_are_averaged():
    x = np.ones((5, 3))
    y = np.arange(10.0).reshape(5, 2)
    adata = as_adata(x, X_umap=y)
    got = project_points(adata, x[:1], basis="umap", n_neighbors=5)
    np.testing.assert_allclose(got, [y.mean(0)])
    assert (project_velocity(adata, x, basis="umap", n_neighbors=4) == 0).all()


@pytest.mark.parametrize("dims", [(0, 1), (2, 0)])
def test_a_slice_of_the_representation_is_exact(linear, dims):
    rng = np.random.default_rng(3)
    points, v = rng.normal(size=(7, 3)), rng.normal(size=(400, 3))
    columns = list(dims)
    np.testing.assert_array_equal(
        project_points(linear, points, basis="pca", dims=dims), points[:, columns]
    )
    np.testing.assert_array_equal(
        project_velocity(linear, v, basis="pca", dims=dims), v[:, columns]
    )
    np.testing.assert_array_equal(
        embedding(linear, "pca", dims=dims), linear.obsm["X_pca"][:, columns]
    )


def test_velocity_among_even_neighbours_is_the_linear_image():
    """By symmetry, the expected step along an axis of the lattice is parallel to it."""
    x = lattice()
    adata = as_adata(x, X_umap=x @ MAP)
    middle = int(np.flatnonzero((x == 0).all(1))[0])
    for axis, speed in itertools.product(range(3), (0.5, -4.0)):
        v = np.zeros_like(x)
        v[middle, axis] = speed
        got = project_velocity(adata, v, basis="umap", n_neighbors=26)
        np.testing.assert_allclose(got[middle], speed * MAP[axis], rtol=1e-9)
        assert (np.delete(got, middle, axis=0) == 0).all()


@pytest.mark.parametrize("kappa", [1.0, 10.0])
def test_velocity_is_parallel_to_the_linear_image(linear, kappa):
    v = np.tile([0.4, 0.3, -0.2], (400, 1))
    inside = np.linalg.norm(linear.obsm["X_pca"], axis=1) < 1
    got = project_velocity(linear, v, basis="umap", n_neighbors=100, sharpness=kappa)[inside]
    image = (v @ MAP)[inside]
    assert np.median(cosines(got, image)) > 0.97
    ratio = np.linalg.norm(got, axis=1) / np.linalg.norm(image, axis=1)
    assert 0.8 < np.median(ratio) < 1.25


def test_velocity_scales_with_speed_and_with_the_embedding(linear):
    v = np.random.default_rng(4).normal(size=(400, 3))
    once = project_velocity(linear, v, basis="umap")
    np.testing.assert_allclose(project_velocity(linear, 3 * v, basis="umap"), 3 * once)
    linear.obsm["X_big"] = 10 * linear.obsm["X_umap"] + 7
    np.testing.assert_allclose(project_velocity(linear, v, basis="big"), 10 * once)


def test_permuting_cells_permutes_velocities(linear):
    v = np.random.default_rng(5).normal(size=(400, 3))
    order = np.random.default_rng(6).permutation(400)
    moved = project_velocity(linear[order].copy(), v[order], basis="umap")
    np.testing.assert_allclose(moved, project_velocity(linear, v, basis="umap")[order], rtol=1e-9)


def test_fewer_dimensions_and_other_containers(linear):
    """Values in the first columns; representations as sparse matrix, data frame, float32, X."""
    x = np.asarray(linear.obsm["X_pca"])
    linear.obsm["X_sparse"] = csr_matrix(x)
    linear.obsm["X_frame"] = pd.DataFrame(x, index=linear.obs_names, columns=list("abc"))
    whole = AnnData(X=x, obsm={"X_umap": linear.obsm["X_umap"]})
    points = torch.zeros(2, 2)
    expected = project_points(linear, points, basis="umap")
    for rep in ("sparse", "X_frame"):
        got = project_points(linear, points, basis="umap", use_rep=rep)
        np.testing.assert_allclose(got, expected)
    np.testing.assert_allclose(project_points(whole, points, basis="umap", use_rep="X"), expected)


def test_bad_input(linear):
    x = np.zeros((400, 3))
    linear.obsm["X_line"] = x[:, :1]
    bad = [
        (
            lambda: project_points(x, x, basis="umap"),
            TypeError,
            "`adata`: got ndarray, expected an",
        ),
        (lambda: embedding(linear, "umpa"), ValueError, "Did you mean 'umap'"),
        (lambda: embedding(linear, "line"), ValueError, "`dims`: got .0, 1., expected two"),
        (lambda: embedding(linear, "pca", dims=(1, 1)), ValueError, "integers from 0 to 2"),
        (lambda: embedding(linear, "pca", dims=3), ValueError, "`dims`: got 3"),
        (lambda: project_points(linear, x[:2], basis="umap", use_rep="pac"), ValueError, "'pca'"),
        (lambda: project_points(linear, np.zeros((2, 4)), basis="umap"), ValueError, "at most 3"),
        (lambda: project_points(linear, x[:2] + np.nan, basis="umap"), ValueError, "NaN"),
        (lambda: project_points(linear, x, basis="umap", n_neighbors=0), ValueError, "at least 1"),
        (lambda: project_points(linear, x, basis="umap", bandwidth=0), ValueError, "`bandwidth`"),
        (lambda: project_velocity(linear, x[:9], basis="umap"), ValueError, "got 9 rows"),
        (lambda: project_velocity(linear, x, basis="umap", sharpness=-1), ValueError, "sharpness"),
        (
            lambda: project_velocity(linear, x, basis="umap", n_neighbors=1),
            ValueError,
            "at least 2",
        ),
    ]
    for call, error, text in bad:
        with pytest.raises(error, match=text):
            call()


def test_the_nearest_category_is_the_likeliest_around():
    """Neighbours count by a normal kernel as wide as their median distance."""
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(50, 3)), rng.normal(size=(9, 2))
    codes = rng.integers(-1, 3, size=50)
    got = nearest_category(as_adata(x), z, codes, n_neighbors=7)
    known = codes >= 0
    for point, code in zip(z, got, strict=True):
        distances = np.linalg.norm(x[known, :2] - point, axis=1)
        near = distances.argsort()[:7]
        weights = np.exp(-0.5 * (distances[near] / np.median(distances[near])) ** 2)
        assert code == np.bincount(codes[known][near], weights, minlength=3).argmax()
    assert (nearest_category(as_adata(x), z, np.full(50, -1)) == -1).all()
