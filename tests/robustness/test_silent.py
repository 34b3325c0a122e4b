"""Nothing is answered that was not asked, and nothing given is dropped without a word."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import torch
from scipy import sparse

import cellflow as cf
from cellflow import OTCFM, _checks
from cellflow.couplings import Given
from cellflow.dynamics import Dynamics
from cellflow.evaluate.scorer import as_seeds
from cellflow.fits import Ensemble, Fit
from cellflow.pp.access import numbers_of, read_states
from cellflow.simulate import Limits, simulate
from cellflow.timecourse import Snapshot, TimeCourse

GENES = ["a", "b", "c"]
DECAY = Dynamics(lambda t, x: -x)


@pytest.fixture(scope="module")
def cells() -> anndata.AnnData:
    """Expression of three genes at two days."""
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    adata = anndata.AnnData(x, var={"name": GENES})
    adata.var_names = GENES
    adata.obs["day"] = np.repeat([0.0, 1.0], 20)
    return adata


@pytest.fixture(scope="module")
def fit(cells) -> Fit:
    """Barely trained: what is asked is whether genes are told apart."""
    return cf.tl.fit(cells, time_key="day", use_rep="X", method="icfm", steps=2, progress=False)


# --- genes -----------------------------------------------------------------------------------
def test_permuted_genes_are_put_in_order(cells, fit) -> None:
    """The same cells get the same answers, each gene in its place."""
    other = cells[:, ["c", "a", "b"]].copy()
    cf.tl.velocity(cells, fit)
    cf.tl.velocity(other, fit)
    want = cells.obsm["velocity_X"][:, [2, 0, 1]]
    np.testing.assert_array_equal(other.obsm["velocity_X"], want)
    paths = [cf.tl.simulate(adata, fit, times=[0.0, 1.0]).x for adata in (cells, other)]
    assert torch.equal(*paths)


@pytest.mark.parametrize("names", [["a", "b", "d"], ["a", "b", "c", "d"], ["a", "b"]])
def test_another_set_of_genes_is_refused(names, cells, fit) -> None:
    adata = anndata.AnnData(np.zeros((40, len(names)), np.float32), obs=cells.obs)
    adata.var_names = names
    for door in (cf.tl.velocity, cf.tl.simulate):
        with pytest.raises(ValueError, match="`X`: got . genes.*the 3 genes of the fit"):
            door(adata, fit)


# --- certainty that is none ------------------------------------------------------------------
def test_a_seed_counts_once(fit) -> None:
    with pytest.raises(ValueError, match="`seeds`: got 1 more than once"):
        as_seeds([0, 1, 1])
    with pytest.raises(ValueError, match="`seeds`: got 1 more than once"):
        Ensemble((fit, fit), (1, 1))


def test_every_door_of_a_fit_warns_of_extrapolation(fit) -> None:
    x, said = torch.zeros(2, 3), "outside the fit's times, 0 to 1: an extrapolation"
    asked = {
        "9 is": lambda: fit.velocity(9.0, x),
        "-1 and 9 are": lambda: fit.velocity([-1.0, 9.0], x),
        "3 is": lambda: fit.simulate(x, [0.0, 3.0]),
        "4 is": lambda: fit.interpolate(4.0),
        "-2 is": lambda: fit.predict(fit.course.snapshots[0], -2.0),
    }
    for who, ask in asked.items():
        with pytest.warns(UserWarning, match=f"^{who} {said}"):
            ask()
    fit.velocity([0.0, 1.0], x)  # no warning, which would be an error here


# --- numbers that would be cut ---------------------------------------------------------------
@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.int32, np.uint32])
def test_whole_numbers_stay_apart(kind) -> None:
    """2^24 and its successor are one number in float32."""
    x = np.array([[2**24, 2**24 + 1]], dtype=kind)
    for got in (Snapshot(x, 0.0).x, read_states(x, slice(None), n_dims=None, dtype=None, name="x")):
        assert got.tolist() == [[2**24, 2**24 + 1]]
    assert Snapshot(x // 4, 0.0).x.dtype == torch.float32


def test_whole_numbers_that_no_float_holds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"integers beyond 2\^53"):
        Snapshot(np.array([[2**60, 2**60 + 1]]), 0.0)


X = np.ones((2, 2))
HALF = np.ma.masked_array([1.0, 2.0], [False, True])
LOST = {
    "complex cells": lambda: Snapshot(X + 1j, 0.0),
    "complex masses": lambda: Snapshot(X, 0.0, X[0] + 1j),
    "complex growth": lambda: Snapshot(X, 0.0, growth=X[0] + 1j),
    "complex time": lambda: Snapshot(X, np.complex128(1 + 1j)),
    "complex plan": lambda: Given(X + 1j),
    "complex tensor": lambda: Given(torch.tensor(X + 1j)),
    "complex sparse plan": lambda: Given(sparse.csr_matrix(X + 1j)),
    "complex times": lambda: simulate(DECAY, X, np.array([0, 1 + 1j])),
    "complex column": lambda: numbers_of(
        anndata.AnnData(X, obs={"mass": X[0] + 1j}), "mass", "adata.obs"
    ),
    "masked cells": lambda: Snapshot(HALF[None], 0.0),
    "masked masses": lambda: Snapshot(X, 0.0, HALF),
    "masked growth": lambda: Snapshot(X, 0.0, growth=HALF),
    "masked plan": lambda: Given(HALF[None]),
    "masked times": lambda: simulate(DECAY, X, HALF),
}


@pytest.mark.parametrize("what", LOST)
def test_what_a_conversion_would_lose_is_refused(what) -> None:
    with pytest.raises((TypeError, ValueError), match="complex|masked|finite number|numbers"):
        LOST[what]()


def test_a_mask_that_hides_nothing_is_no_mask() -> None:
    assert Snapshot(np.ma.masked_array(X), 0.0).x.tolist() == X.tolist()


# --- options that a solver does not have -----------------------------------------------------
@pytest.mark.parametrize(
    ("solver", "options", "named"),
    [
        ("dopri5", {"max_step": 0.1}, "max_step"),
        ("rk4", {"limits": Limits(rtol=1e-9)}, "rtol"),
        ("euler", {"limits": Limits(atol=1e-9)}, "atol"),
        ("midpoint", {"limits": Limits(max_evaluations=7)}, "max_evaluations"),
    ],
)
def test_an_option_that_a_solver_ignores_is_named(solver, options, named, fit) -> None:
    for run, what in ((simulate, DECAY), (Fit.simulate, fit)):
        with pytest.warns(UserWarning, match=f"^solver='{solver}' takes no `{named}`, which is"):
            run(what, torch.zeros(2, 3), [0, 1], solver=solver, **options)


def test_times_beyond_all_floats_are_refused() -> None:
    with pytest.raises(ValueError, match="beyond 1e308"):
        _checks.number(10**400, "time")


def test_a_course_of_whole_numbers_takes_one_type() -> None:
    course = TimeCourse.from_arrays([np.array([[2**24 + 1]]), np.array([[1]])])
    assert course.snapshots[0].x.item() == 2**24 + 1


def test_a_score_of_ones_own_path_is_not_called_no_noise(fit) -> None:
    """The path does not say its diffusion, but a score was learned."""
    from dataclasses import replace

    own = replace(fit, dynamics=replace(fit.dynamics, score=lambda t, x: -x))
    with pytest.warns(UserWarning, match="learned a score, but its path declares no noise"):
        own.simulate(torch.zeros(2, 3), [0, 1], solver="sra1")


def test_plain_fits_are_said_to_have_no_noise(fit) -> None:
    assert isinstance(OTCFM().parts.path.diffusion, float)
    with pytest.warns(UserWarning, match="learned no noise"):
        fit.simulate(torch.zeros(2, 3), [0, 1], solver="sra1")
