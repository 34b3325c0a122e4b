"""Forecasts of the last two times of real courses from those before, as ``cf.tl.forecast`` does.

    python benchmarks/family/forecast.py FOLDER        # with the eight sets below

W1 in the data's units, five dimensions at most, whitened for the fit; up to 500 cells of a time,
400 steps, one seed. The last three columns are beside the last snapshot as it was: below one is
nearer. At the end their geometric means, and how often they are below one.
"""

from __future__ import annotations

import sys
from dataclasses import astuple
from pathlib import Path

import anndata
import numpy as np

import cellflow as cf

#: Sets, and the methods that are fitted to them.
SETS = {
    "eb_sub2750_pca100": ("otcfm", "sf2m", "reach"),
    "emt_ae10": ("otcfm", "sf2m", "reach"),
    "semrau_mesc_ra41": ("otcfm", "sf2m", "reach"),
    "tigon_sim3d": ("reach",),
    "simgene2d": ("reach",),
    "cite13176_pca100": ("reach",),
    "larry_spring2d": ("reach",),
    "larry_cospar781_pca40": ("reach",),
}
NAMED = ("time", "ahead", "model", "recurrent", "last", "mean", "floor")


def read(file: Path) -> anndata.AnnData:
    """Return up to 500 cells of each time, in five dimensions."""
    with np.load(file, allow_pickle=True) as stored:
        x, time = stored["X"][:, :5].astype(np.float32), stored["t"]
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.flatnonzero(time == t))[:500] for t in np.unique(time)]
    rows = np.concatenate(rows)
    out = anndata.AnnData(obsm={"X_pca": x[rows]})
    out.obs["day"] = time[rows]
    return out


def main(folder: Path) -> None:
    print(f"{'cells':22} {'method':6}" + "".join(f"{name:>10}" for name in NAMED), end="")
    print("     model recurrent      mean")
    ratios = []
    for name, methods in SETS.items():
        adata = read(folder / f"{name}.npz")
        for method in methods:
            options = {"time_key": "day", "use_rep": "X_pca", "whiten": True, "method": method}
            fit = cf.tl.fit(adata, steps=400, progress=False, **options)
            for row in cf.answers.forecast_errors(fit):
                beside = [value / row.last for value in (row.model, row.recurrent, row.mean)]
                print(f"{name:22} {method:6}" + "".join(f"{v:10.3g}" for v in astuple(row)), end="")
                print("".join(f"{value:10.2f}" for value in beside), flush=True)
                if method == "reach":
                    ratios.append(beside)
    found, of = np.array(ratios), f"of {len(ratios)}"
    for text, values in (("mean", np.exp(np.log(found).mean(0))), (of, (found < 1).sum(0))):
        print(f"{'reach, ' + text:99}" + "".join(f"{v:10.3g}" for v in values))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
