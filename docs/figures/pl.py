"""A picture of each function of cellflow.pl, which its page of the API shows; in minutes.

python docs/figures/pl.py        # writes pl/NAME.png, and one .gif, beside it
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # whatever window there may be
import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from matplotlib.animation import PillowWriter
from PIL import Image

import cellflow as cf

FOLDER = Path(__file__).with_name("pl")
#: Bytes of a picture and of a film, at most.
PICTURE, FILM = 50_000, 200_000
#: Of every fit: what is enough for a picture.
QUICK: dict[str, Any] = {"n_dims": 10, "steps": 300, "progress": False}


def keep(name: str, axes: Any) -> None:
    """Write the figure of the axes, in as few colours as it takes."""
    figure = np.ravel(axes)[0].figure
    raw = BytesIO()
    figure.savefig(raw, dpi=130, bbox_inches="tight")
    mpl.pyplot.close(figure)
    picture = Image.open(raw).convert("RGB")
    file = FOLDER / f"{name}.png"
    for colors in (256, 128, 64, 32):
        picture.quantize(colors, dither=Image.Dither.NONE).save(file, optimize=True)
        if file.stat().st_size <= PICTURE:
            return
    raise SystemExit(f"{file} has {file.stat().st_size:,} bytes")


def embryoid() -> None:
    """Cells without genes on five days: where they move, and how well that is known."""
    cells = cf.datasets.embryoid()[::2].copy()  # in minutes
    sc.pp.neighbors(cells, use_rep="X_pca", n_pcs=50, random_state=0)
    sc.tl.umap(cells, random_state=0)
    keys = {"time_key": "day", "whiten": True, **QUICK}
    fit = cf.tl.fit(cells, **keys | {"steps": 1500})
    keep("history", cf.pl.history(fit))
    paths = cf.tl.simulate(cells, fit, start=1.5, end=25.5, n_cells=150)
    umap = {"time_key": "day", "basis": "umap"}
    keep("trajectories", cf.pl.trajectories(cells, paths, **umap))
    cf.tl.velocity(cells, fit, basis="umap")
    keep("velocity", cf.pl.velocity(cells, **umap))
    times = np.linspace(1.5, 25.5, 17)
    film = cf.tl.simulate(cells, fit, times=times, n_cells=150)
    writer = PillowWriter(fps=5)
    cf.pl.animation(cells, film, **umap).save(FOLDER / "animation.gif", writer=writer, dpi=80)
    seen = cells[cells.obs["day"] != 13.5].copy()
    new = cf.tl.interpolate(cf.tl.fit(seen, **keys), time=13.5)
    keep("interpolation", cf.pl.interpolation(cells, new, **umap))
    table = cf.tl.holdout(cells, method="otcfm", seeds=2, **keys)
    keep("holdout", cf.pl.holdout(table))
    some = {"n_dims": 10, "whiten": True, "seeds": 2, "n_cells": 200, "progress": False}
    keep("sigma", cf.pl.sigma(cf.pp.suggest_sigma(cells, time_key="day", **some)))
    keep("forecast", cf.pl.forecast(cf.tl.forecast(fit, time=30.0, steps=300)))
    several = cf.tl.fit(cells, members=3, **keys)
    cf.tl.velocity(cells, several, basis="umap")
    cf.tl.uncertainty(cells, several)
    keep("uncertainty", cf.pl.uncertainty(cells, basis="umap"))


def reprogramming() -> None:
    """Cells with genes and types: fates, the genes that go with them, growth."""
    cells = cf.datasets.reprogramming()
    sc.pp.highly_variable_genes(cells, n_top_genes=500)
    cells = cells[:, cells.var["highly_variable"]].copy()
    sc.pp.pca(cells, n_comps=30)
    sc.pp.neighbors(cells, n_pcs=15, random_state=0)
    sc.tl.umap(cells, random_state=0)
    keys = {"time_key": "day", "label_key": "cell_type"}
    fit = cf.tl.fit(cells, method="uotcfm", **keys, **QUICK)
    cf.tl.growth(cells, fit)
    keep("growth", cf.pl.growth(cells, label_key="cell_type"))
    cf.tl.composition(cells, fit, held_out=True, progress=False)
    keep("composition", cf.pl.composition(cells))
    masses = cf.tl.transitions(cells, fit, normalize=None)
    keep("transitions", cf.pl.transitions(masses, cells, label_key="cell_type"))
    cf.tl.fates(cells, fit)
    types = [name for name in cells.obsm["fates"] if name != "unknown"]
    for fate in types:
        cf.tl.drivers(cells, fate)
    keep("drivers", cf.pl.drivers(cells, types))
    genes = ["Epcam", "Krt8", "Acta2", "Actg2"]
    cf.tl.gene_trends(cells, genes, fate=["Epithelial", "Stromal"])
    keep("gene_trends", cf.pl.gene_trends(cells))
    cf.tl.perturb(cells, fit, genes, n_null=30)
    keep("perturbation", cf.pl.perturbation(cells, groups=["Epithelial", "Stromal"]))
    first = [cells.uns[f"drivers_{fate}"].index[:5] for fate in ("Epithelial", "Stromal")]
    cf.tl.influence(cells, fit, [gene for some in first for gene in some])
    keep("influence", cf.pl.influence(cells, n_edges=25))
    early, middle, _ = (cells[cells.obs["day"] == day] for day in (10, 10.5, 11))
    seen = cf.tl.fit(cells[cells.obs["day"] != 10.5].copy(), **keys, **QUICK)
    new = cf.tl.interpolate(seen, time=10.5, genes=list(cells.var_names))
    keep("mean_changes", cf.pl.mean_changes(new, middle, early))
    likeness = {"reference": (cells.obs["cell_type"] == "Stromal").to_numpy(), "n_dims": 5}
    cf.tl.outlier_score(cells, **likeness, steps=200)
    keep("outliers", cf.pl.outliers(cells, "cell_type"))


def larry() -> None:
    """Blood cells on the map of the paper: many fates, and two conditions and batches made up."""
    cells = cf.datasets.larry()
    keys = {"time_key": "day", **QUICK}
    fit = cf.tl.fit(cells, label_key="cell_type", **keys)
    cf.tl.fates(cells, fit, terminal=["Baso", "Mast", "Meg", "Monocyte", "Neutrophil"])
    keep("fates", cf.pl.fates(cells, basis="spring"))
    keep("fate_simplex", cf.pl.fate_simplex(cells))
    rng = np.random.default_rng(0)
    one = rng.random(cells.n_obs) < 0.5
    cells.obs["drug"] = pd.Categorical(np.where(one, "none", "drug"))
    lost = ~one & cells.obs["cell_type"].isin(["Monocyte", "Neutrophil"]).to_numpy()
    left = cells[~lost].copy()  # two fates, without the drug alone
    cf.tl.compare(left, condition_key="drug", n_permutations=29, **keys | {"steps": 60})
    keep("comparison", cf.pl.comparison(left, basis="spring"))
    lane = np.where(rng.random(cells.n_obs) < 0.5, "lane 1", "lane 2")
    x = cells.obsm["X_pca"][:, :5] * np.where(lane == "lane 1", 1.0, 1.3)[:, None]
    x[lane == "lane 2"] += 4.0
    mixed = AnnData(obs=cells.obs.assign(lane=pd.Categorical(lane)), obsm={"X_pca": x})
    cf.tl.batch_free(mixed, batch_key="lane", method="maf", steps=200)
    keep("batches", cf.pl.batches(mixed, "lane"))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for draw in (larry, reprogramming, embryoid):
        draw()
    drawn = {file.stem: file.stat().st_size for file in FOLDER.iterdir()}
    if set(drawn) != set(cf.pl.__all__) or max(drawn.values()) > FILM:
        raise SystemExit(f"{set(drawn) ^ set(cf.pl.__all__)}, or a large one of {drawn}")
