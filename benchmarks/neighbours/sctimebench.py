"""cellflow as a method of scTimeBench 0.1.2 (`pip install "scTimeBench[benchmark]"`).

    python benchmarks/neighbours/sctimebench.py FILE.npz     # moscot_mef1000_genes.npz: runs it all
    python benchmarks/neighbours/sctimebench.py --yaml_config FILE   # as scTimeBench calls it

scTimeBench writes a test set and asks a method, a script, for files: embeddings, the next time
point of each cell, or all time points from the first. `train` fits genes in 50 components;
`generate` simulates. Settings of `cellflow.tl.fit` are read from `metadata` of the method.

With a file, 1,000 cells of MEF reprogramming (three days, 1,479 genes; a part of the experiment of
its `MEFDataset`, whose own file has to be downloaded) are written as that class reads them, day
10.5 is left out, and its metrics of expression at the next time point are run: Sinkhorn
divergence, energy distance, MMD and Hausdorff distance, in its own code. "No change" leaves the
cells of day 10 as they are.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import yaml
from scTimeBench.method_utils.method_runner import BaseMethod, main
from scTimeBench.shared.constants import ObservationColumns

import cellflow as cf

TIME = ObservationColumns.TIMEPOINT.value
METRICS = ("WassersteinOTLoss", "EnergyDistanceLoss", "MMDLoss", "HausdorffLoss")
RIVALS = {
    "no change": {"still": True},
    "OT-CFM": {"method": "otcfm"},
    "SF2M": {"method": "sf2m"},
    "reach": {"method": "reach"},
}


def dense(cells: ad.AnnData) -> np.ndarray:
    """Return expression as an array."""
    return cells.X.toarray() if hasattr(cells.X, "toarray") else np.asarray(cells.X)


class Cellflow(BaseMethod):
    """A flow of genes, learned in their principal components."""

    def train(self, ann_data: ad.AnnData, all_tps: list[float] | None = None) -> None:
        """Fit; the time points of the test set, `all_tps`, are not needed."""
        how = {"n_dims": 50, "method": "otcfm"} | self.config["method"].get("metadata", {})
        self.still = how.pop("still", False)  # a yardstick: cells stay as they are
        self.fit = cf.tl.fit(ann_data, time_key=TIME, use_rep="X", progress=False, **how)

    def generate_embedding(self, test_ann_data: ad.AnnData) -> np.ndarray:
        """Principal components of the fit."""
        return self.fit.preprocessing.apply(dense(test_ann_data)).numpy()

    def generate_next_tp_gex(self, test_ann_data: ad.AnnData) -> np.ndarray:
        """Each cell at the next time point of the test set; NaN after the last."""
        x, at = dense(test_ann_data), test_ann_data.obs[TIME].to_numpy(float)
        out, times = np.full(x.shape, np.nan, np.float32), np.unique(at)
        for time, after in pairwise(times):
            out[at == time] = self._carried(x[at == time], [time, after])[-1]
        return out

    def generate_next_tp_embedding(self, test_ann_data: ad.AnnData) -> np.ndarray:
        """Principal components of each cell at the next time point."""
        x = self.generate_next_tp_gex(test_ann_data)
        known = ~np.isnan(x).any(1)
        found = self.fit.preprocessing.apply(x[known]).numpy()
        out = np.full((len(x), found.shape[1]), np.nan, np.float32)
        out[known] = found
        return out

    def generate_zero_to_end_pred_gex(
        self, first_tp_cells: ad.AnnData, all_tps: list[float]
    ) -> ad.AnnData:
        """Cells of the first time point at all time points."""
        states = self._carried(dense(first_tp_cells), [float(time) for time in all_tps])
        parts = []
        for time, x in zip(all_tps, states, strict=True):
            parts.append(ad.AnnData(x, first_tp_cells.obs.copy(), first_tp_cells.var.copy()))
            parts[-1].obs[TIME] = time
        return ad.concat(parts, index_unique="-", keys=map(str, all_tps), merge="same")

    def _carried(self, x: np.ndarray, times: list[float]) -> np.ndarray:
        if self.still:
            return np.repeat(x[None], len(times), 0)
        solver = "sra1" if self.fit.dynamics.noisy else "rk4"
        found = self.fit.simulate(x, times, solver=solver, generator=0).x.numpy()
        return np.maximum(found, 0)  # expression


def compare(file: Path) -> None:
    """Run scTimeBench on the cells of `file`, and print what its database says."""
    with tempfile.TemporaryDirectory() as folder:
        home, data = Path(folder), np.load(file)
        obs = pd.DataFrame({"timepoint": data["t"]}, [f"c{k}" for k in range(len(data["t"]))])
        cells = ad.AnnData(data["X"], obs, pd.DataFrame(index=data["genes"].astype(str)))
        cells.write_h5ad(home / "mef.h5ad")
        script = f"#!/bin/bash\n{sys.executable} {Path(__file__).resolve()} --yaml_config $1\n"
        (home / "run.sh").write_text(script)
        steps = [{"name": "TestTimepointSelection", "test_tps": [10.5]}]
        mef = {"name": "MEFDataset", "data_path": str(home / "mef.h5ad")}
        for name, metadata in RIVALS.items():
            method = {"name": name, "train_and_test_script": str(home / "run.sh")}
            config = {
                "method": method | {"metadata": metadata},
                "datasets": [mef | {"data_preprocessing_steps": steps}],
                "metrics": [{"name": metric} for metric in METRICS],
            }
            (home / "config.yaml").write_text(yaml.safe_dump(config))
            command = [Path(sys.executable).parent / "scTimeBench", "--config", "config.yaml"]
            subprocess.run(command, cwd=home, check=True, stdout=subprocess.DEVNULL)
        with sqlite3.connect(home / "scTimeBench.db") as store:
            methods, metrics, found = (
                store.execute(f"select * from {table}").fetchall()
                for table in ("method_outputs", "metrics", "evals")
            )
    names = {row[0]: row[1] for row in methods}
    whole = {row[0]: row[1] for row in metrics if '"timepoint"' not in row[2]}
    rows = [(names[m], whole[k], float(value)) for _, m, k, value in found if k in whole]
    table = pd.DataFrame(rows, columns=["method", "metric", "value"])
    print(table.pivot(index="method", columns="metric", values="value").loc[list(RIVALS)])


if __name__ == "__main__":
    if sys.argv[1].startswith("--"):
        main(Cellflow)
    else:
        compare(Path(sys.argv[1]))
