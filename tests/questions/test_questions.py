"""Every question of a biologist takes three lines at most after a fit, on three real data sets.

The lines are run as they stand here. What they answer is checked by what holds whatever the cells
do: shares and chances sum to one, intervals hold their centre, nothing is NaN.
"""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import anndata
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib import pyplot as plt
from PIL import Image

import cellflow as cf
from cellflow.cli import main

#: Data sets beside the checkout, which not everybody has.
DATA = Path(os.environ.get("CELLFLOW_DATA", Path(__file__).parents[3] / "shared" / "data"))

FIT = (
    'fit = cf.tl.fit(adata, time_key="day", n_dims=10, label_key="kind", '
    'method="uotcfm", members=2)'
)

QUESTIONS = {
    "is the data fit for it": """
        found = cf.pp.check(adata, time_key="day", label_key="kind")
    """,
    "where do cells go": """
        cf.tl.velocity(adata, fit, basis="pca")
        cf.pl.velocity(adata, basis="pca", time_key="day")
    """,
    "which fate has each cell, and how sure is that": """
        cf.tl.fates(adata, fit)
        cf.pl.fates(adata, basis="pca")
        cf.pl.fate_simplex(adata)
    """,
    "where did cells come from": """
        cf.tl.ancestors(adata, fit)
    """,
    "which type becomes which": """
        table = cf.tl.transitions(adata, fit, normalize=None)
        cf.pl.transitions(table, adata, label_key="kind")
    """,
    "what grows": """
        cf.tl.growth(adata, fit)
        cf.pl.growth(adata, basis="pca", label_key="kind")
    """,
    "what was there on a day nobody sampled": """
        day = cf.tl.interpolate(fit, time=middle)
        table = cf.tl.composition(adata, fit)
        cf.pl.composition(adata)
    """,
    "where are we least sure": """
        table = cf.tl.uncertainty(adata, fit)
        cf.pl.uncertainty(adata, basis="pca")
    """,
    "do two conditions flow differently": """
        table = cf.tl.compare(adata, condition_key="half", time_key="day", n_permutations=4)
        cf.pl.comparison(adata, basis="pca")
    """,
    "show me": """
        path = cf.tl.simulate(adata, fit.members[0], n_cells=60)
        cf.pl.animation(adata, path, film, time_key="day", color="kind", seconds=1)
    """,
}
OF_GENES = {
    "what drives a fate": """
        table = cf.tl.drivers(adata, fate)
        cf.pl.drivers(adata, kind="volcano")
    """,
    "how do genes change on the way": """
        table = cf.tl.gene_trends(adata, genes, fate=fate, n_boot=50)
        cf.pl.gene_trends(adata)
    """,
    "what if a gene were gone": """
        table = cf.tl.perturb(adata, fit, genes[0], n_null=10, n_futures=2)
        cf.pl.perturbation(adata)
    """,
    "which gene acts on which": """
        table = cf.tl.influence(adata, fit, genes)
        cf.pl.influence(adata)
    """,
}
OF_VELOCITY = {
    "does it agree with RNA velocity": """
        table = cf.tl.velocity_agreement(adata, fit, velocity_key="rna_velocity_pca")
    """
}


def stored(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a data set."""
    if not (DATA / f"{name}.npz").is_file():
        pytest.skip(f"{name}.npz is not in {DATA}")
    with np.load(DATA / f"{name}.npz", allow_pickle=True) as file:
        return dict(file)


def reprogramming() -> anndata.AnnData:
    """Expression of 1,479 genes at three times, with components by scanpy."""
    sc, file = pytest.importorskip("scanpy"), stored("moscot_mef1000_genes")
    adata = anndata.AnnData(file["X"].astype(np.float32))
    adata.var_names = file["genes"].astype(str)
    adata.obs["day"], adata.obs["kind"] = file["t"], pd.Categorical(file["cell_type"].astype(str))
    sc.pp.pca(adata, n_comps=10)
    return adata


def haematopoiesis() -> anndata.AnnData:
    """Components alone, nine types, 34 cells on the first day."""
    file = stored("larry_cospar781_pca40")
    adata = anndata.AnnData(obs=pd.DataFrame({"day": file["t"], "kind": file["state"].astype(str)}))
    adata.obsm["X_pca"] = file["X"]
    return adata


def embryoid() -> anndata.AnnData:
    """Components and RNA velocity at five times; thirds of the second component as types."""
    adata = cf.datasets.embryoid()[::4].copy()
    second = adata.obsm["X_pca"][:, 1]
    adata.obs["kind"] = pd.qcut(second, 3, labels=["low", "middle", "high"]).astype(str)
    return adata


SETS = {
    "reprogramming": (reprogramming, QUESTIONS | OF_GENES),
    "haematopoiesis": (haematopoiesis, QUESTIONS),
    "embryoid": (embryoid, QUESTIONS | OF_VELOCITY),
}


def lines(code: str) -> list[str]:
    return [line.strip() for line in code.strip().splitlines()]


@pytest.fixture(scope="module", params=SETS)
def fitted(request, tmp_path_factory) -> dict:
    """Names that the lines may use, after the fit; the questions of the set among them."""
    make, questions = SETS[request.param]
    adata = make()
    adata.obs["half"] = np.where(np.arange(adata.n_obs) % 2, "odd", "even")
    quick = FIT.replace("members=2", "members=2, steps=200, progress=False")
    names = {"cf": cf, "adata": adata, "questions": questions, "film": None}
    names["film"] = tmp_path_factory.mktemp("film") / "film.gif"
    exec(quick, names)
    times = names["fit"].course.times
    names["middle"] = (times[-2] + times[-1]) / 2
    cf.tl.fates(adata, names["fit"])
    names["fate"] = str(adata.obsm["fates"].sum().idxmax())
    names["genes"] = list(adata.var_names[:4])
    return names


@pytest.mark.parametrize("question", QUESTIONS | OF_GENES | OF_VELOCITY)
def test_three_lines_answer(fitted, question) -> None:
    if question not in fitted["questions"]:
        pytest.skip("this set has not what it takes")
    code = lines(fitted["questions"][question])
    assert len(code) <= 3
    exec("\n".join(code), fitted)
    plt.close("all")
    table = fitted.pop("table", None)
    if table is not None:
        table = table.dropna(how="all")  # genes that do not vary
        assert len(table) > 0
        assert not np.isinf(table.select_dtypes("number").to_numpy()).any()
    if question in CHECKS:
        CHECKS[question](fitted, table)


def chances(key: str):
    """Rows of chances sum to one; their entropy is from 0, one fate, to 1, an even guess."""

    def check(names: dict, table: object) -> None:
        found = names["adata"].obsm[key].dropna()
        assert len(found) > 0
        np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)
        entropy = names["adata"].obs[f"{key.removesuffix('s')}_entropy"].dropna()
        assert entropy.between(-1e-6, 1 + 1e-6).all()

    return check


def check_day(names: dict, table: pd.DataFrame) -> None:
    """An unsampled day has cells with labels; shares of each kind and time sum to one."""
    day = names["day"]
    assert set(day.obs["kind"]) <= set(names["adata"].obs["kind"].astype(str))
    np.testing.assert_allclose(day.obsm["kind_probability"].sum(axis=1), 1.0, atol=1e-5)
    assert np.isfinite(day.obsm["X_pca"]).all()


def check_transitions(names: dict, table: pd.DataFrame) -> None:
    """Masses that flow, and their shares in what leaves each kind."""
    assert (table.to_numpy() >= 0).all()
    shares = cf.tl.transitions(names["adata"], names["fit"])
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(table.div(table.sum(axis=1), axis=0), shares, atol=1e-6)


def check_drivers(names: dict, table: pd.DataFrame) -> None:
    assert table["correlation"].between(table["low"], table["high"]).all()
    assert (table["fdr"].between(table["p_value"], 1)).all()


def check_film(names: dict, table: object) -> None:
    with Image.open(names["film"]) as film:
        assert film.n_frames > 5


CHECKS = {
    "which fate has each cell, and how sure is that": chances("fates"),
    "where did cells come from": chances("ancestors"),
    "which type becomes which": check_transitions,
    "what was there on a day nobody sampled": check_day,
    "what drives a fate": check_drivers,
    "show me": check_film,
}

#: The same in the shell: the command without the cells and the fit, which come first.
COMMANDS = {
    "velocity": "",
    "fates": "",
    "ancestors": "",
    "composition": "",
    "growth": "",
    "gene-trends": "{gene}",
    "drivers": "{fate}",
    "perturb": "{gene} --n-null 5 --n-futures 1",
}


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory) -> dict:
    """Cells and a fit as files."""
    folder, adata = tmp_path_factory.mktemp("shell"), reprogramming()
    adata.write_h5ad(folder / "cells.h5ad")
    asked = f"fit {folder}/cells.h5ad --time-key day --dims 10 --label-key kind --method uotcfm"
    result = CliRunner().invoke(main, [*asked.split(), "--steps", "100", "--out", f"{folder}/fit"])
    assert result.exit_code == 0, result.output
    return {"folder": folder, "gene": adata.var_names[0]}


def test_one_line_each_in_the_shell(on_disk) -> None:
    """Each command reads the cells that the one before wrote."""
    folder, cells = on_disk["folder"], on_disk["folder"] / "cells.h5ad"
    for k, (command, rest) in enumerate(COMMANDS.items()):
        out = folder / f"answer{k}.h5ad"
        asked = [str(cells)]
        words = rest.format(gene=on_disk["gene"], fate=on_disk.get("fate", "")).split()
        if command not in ("drivers", "gene-trends"):
            asked = [str(folder / "fit"), *asked]
        result = CliRunner().invoke(main, [command, *asked, *words, "--out", str(out)])
        assert result.exit_code == 0, f"{command}: {result.output}"
        cells = out
        if command == "fates":
            on_disk["fate"] = str(anndata.read_h5ad(out).obsm["fates"].sum().idxmax())
