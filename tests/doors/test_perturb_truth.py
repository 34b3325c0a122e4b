"""Knock-outs by a fit against knock-outs in the network that made its cells."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd

import cellflow as cf
from cellflow import tl
from cellflow.toys import BIFURCATING

TIMES, CELLS = (0.5, 1.5, 2.5, 3.5, 4.8), 200


def shares(x: np.ndarray) -> float:
    """Share of the cells that are of the fate of g4."""
    at = BIFURCATING.genes.index("g4"), BIFURCATING.genes.index("g6")
    return float((x[:, at[0]] > x[:, at[1]]).mean())


def test_knock_outs_of_genes_that_decide_are_those_of_the_network() -> None:
    """Also at a start where neither is on: what is missing later has the effect."""
    course = BIFURCATING.course(CELLS, TIMES, generator=0)
    x = np.concatenate([s.x.numpy() for s in course.snapshots])
    fate = np.where(x[:, 3] > x[:, 4], "g4", "g6")
    obs = pd.DataFrame({"hour": np.repeat(TIMES, CELLS), "fate": fate}).set_axis(
        [f"c{k}" for k in range(len(x))]
    )
    adata = anndata.AnnData(x, obs, pd.DataFrame(index=list(BIFURCATING.genes)))
    fit = tl.fit(
        adata, time_key="hour", use_rep="X", label_key="fate", method=cf.OTCFM(), steps=600,
        progress=False,
    )  # fmt: skip
    found = tl.perturb(adata, fit, ["g4", "g6"]).set_index(["gene", "group"])["effect"]
    wild = shares(BIFURCATING.simulate(500, [TIMES[-1]])[0].numpy())
    for gene in ("g4", "g6"):
        without = BIFURCATING.perturbed(knock_out=[gene]).simulate(500, [TIMES[-1]])[0].numpy()
        truth = shares(without) - wild
        assert abs(truth) > 0.4
        assert found[gene, "g4"] * np.sign(truth) > 0.2
