"""The picture of the landing page: a population moving.

python docs/figures/landing.py        # writes landing.png beside it
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import scanpy as sc

import cellflow as cf

cells = cf.datasets.embryoid()
sc.pp.neighbors(cells, use_rep="X_pca", n_pcs=50, n_neighbors=30, random_state=0)
sc.tl.umap(cells, random_state=0)
fit = cf.tl.fit(cells, time_key="day", n_dims=10, whiten=True, steps=1500, progress=False)
paths = cf.tl.simulate(cells, fit, start=1.5, end=25.5, n_cells=200)

figure, ax = plt.subplots(figsize=(6.6, 5.2), layout="constrained")
cf.pl.trajectories(
    cells, paths, time_key="day", basis="umap", n_trajectories=60, size=9, title="", ax=ax
)
ax.set(xlabel="", ylabel="")
ax.spines[["left", "bottom"]].set_visible(False)
figure.savefig(Path(__file__).with_name("landing.png"), dpi=120)
