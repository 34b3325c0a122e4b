"""Forecasts of the last two times of real courses from those before, as ``cf.tl.forecast`` does.

    python benchmarks/family/forecast.py FOLDER        # with the three sets below

W1 in the data's units, five dimensions, whitened for the fit; 400 steps, one seed.
"""

from __future__ import annotations

import sys
from dataclasses import astuple
from pathlib import Path

import anndata
import numpy as np

import cellflow as cf

SETS = ("eb_sub2750_pca100", "emt_ae10", "semrau_mesc_ra41")
METHODS = ("otcfm", "sf2m", "reach")


def main(folder: Path) -> None:
    named = ("time", "ahead", "model", "last", "mean", "floor")
    print(f"{'cells':18} {'method':6}" + "".join(f"{name:>7}" for name in named))
    for name in SETS:
        with np.load(folder / f"{name}.npz", allow_pickle=True) as file:
            adata = anndata.AnnData(obsm={"X_pca": file["X"][:, :5].astype(np.float32)})
            adata.obs["day"] = file["t"]
        for method in METHODS:
            options = {"time_key": "day", "use_rep": "X_pca", "whiten": True, "method": method}
            fit = cf.tl.fit(adata, steps=400, progress=False, **options)
            for row in cf.answers.forecast_errors(fit):
                print(f"{name:18} {method:6}" + "".join(f"{v:7.2f}" for v in astuple(row)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
