"""theislab's CellFlow on simulated conditions: run by its own Python, asked by speed.py.

    python benchmarks/conditions/peer.py CELLS.npz --steps 500 --batch 256

Both packages import as `cellflow`, so that it has an environment of its own, of `cellflow-tools`
and `requests`. CELLS.npz has `x0` (n, d) of the control, `x1` (k, m, d) of k conditions. It prints
a line of JSON: seconds a step, seconds of predicting all conditions from all control cells, the
second time and the first, the mean error of their means, and the number of parameters.
"""

from __future__ import annotations

import json
import time

import anndata as ad
import click
import jax
import numpy as np
import pandas as pd

from cellflow.model import CellFlow


@click.command(help=__doc__)
@click.argument("cells")
@click.option("--steps", default=500)
@click.option("--batch", default=256)
@click.option("--width", default=64)
def main(cells: str, steps: int, batch: int, width: int) -> None:
    data = np.load(cells)
    x0, x1 = data["x0"], data["x1"]
    k = len(x1)
    names = np.repeat(["control", *(f"drug{j}" for j in range(k))], [len(x0), *[len(x1[0])] * k])
    obs = pd.DataFrame({"drug": pd.Categorical(names), "control": names == "control"})
    obs.index = obs.index.astype(str)
    x = np.concatenate([x0, *x1]).astype(np.float32)
    adata = ad.AnnData(np.zeros((len(x), 1), np.float32), obs, obsm={"X_pca": x})
    known = {f"drug{j}": np.eye(k, dtype=np.float32)[j] for j in range(k)}
    adata.uns["drugs"] = known | {"control": np.zeros(k, np.float32)}
    model = CellFlow(adata, solver="otfm")
    model.prepare_data(
        sample_rep="X_pca",
        control_key="control",
        perturbation_covariates={"drug": ["drug"]},
        perturbation_covariate_reps={"drug": "drugs"},
    )
    model.prepare_model(
        pooling="mean",
        condition_embedding_dim=width,
        time_encoder_dims=(width,),
        hidden_dims=(width, width, width),
        decoder_dims=(width,),
    )
    marks = []
    for n in (20, 20 + steps):  # the first compiles
        begin = time.perf_counter()
        model.train(num_iterations=n, batch_size=batch, valid_freq=10**9)
        marks.append(time.perf_counter() - begin)
    control = adata[adata.obs["control"].to_numpy()].copy()
    wanted = pd.DataFrame({"drug": [f"drug{j}" for j in range(k)], "control": False})
    wanted["name"] = wanted["drug"]
    took, found = [], {}
    for _ in range(2):
        begin = time.perf_counter()
        found = model.predict(
            control, covariate_data=wanted, sample_rep="X_pca", condition_id_key="name"
        )
        took.append(time.perf_counter() - begin)
    means = np.stack([np.asarray(found[f"drug{j}"]).mean(0) for j in range(k)])
    error = float(np.abs(means - x1.mean(1)).mean())
    leaves = jax.tree_util.tree_leaves(model.solver.vf_state.params)
    out = {"step": marks[1] / (20 + steps), "predict": took[1], "first": took[0], "error": error}
    print(json.dumps(out | {"parameters": int(sum(leaf.size for leaf in leaves))}))


if __name__ == "__main__":
    main()
