"""What the tests of the command line share: how it is called, and a file of cells."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from click.testing import CliRunner, Result

from cellflow import datasets
from cellflow.cli import main


def cellflow_(*words: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(w) for w in words])


def write_cells(path: Path) -> Path:
    """Write 306 embryoid-body cells, with expression that only ``--use-rep X`` reads."""
    full = datasets.embryoid()[::9]
    out = anndata.AnnData(np.ones((full.n_obs, 4), np.float32), full.obs.copy())
    out.obsm["X_pca"] = full.obsm["X_pca"].copy()
    out.obs["stage"] = out.obs["stage"].astype(str)
    out.obs["word"] = pd.Categorical(["early"] * 100 + ["late"] * (out.n_obs - 100))
    out.obs["gaps"] = out.obs["day"].where(out.obs["day"] > 2)
    out.write_h5ad(path)
    return path
