"""Held-out W1 of OT-CFM and I-CFM by the OT-CFM paper's protocol, beside torchcfm, in one run.

    python benchmarks/accuracy/otcfm.py cite PATH            # 5 whitened components
    python benchmarks/accuracy/otcfm.py cite PATH --dims 50  # unwhitened
    python benchmarks/accuracy/otcfm.py eb bundled

Same data, network (MLP 3 x 64, SELU), batch size, optimiser and number of steps, and the same
seeded stream of cells. Ours differs in how it is trained: decaying learning rate, averaged weights,
pairs coupled ahead of time and drawn without replacement. `--early-stopping` runs the paper's full
protocol for ours instead.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import click
import torch

from cellflow.datasets import embryoid, load_paper_dataset
from cellflow.methods import FlowMatching
from cellflow.pp import course as read_course
from cellflow.reproduce import PUBLISHED, paper_method, paper_protocol, report, summarise

sys.path.insert(0, str(Path(__file__).parents[1]))
from peers import TorchCFM


def ours(name: str) -> FlowMatching:
    """The paper's method, trained by our loop for the whole budget."""
    method = paper_method(name)
    training = replace(method.training, patience=None)
    return replace(method, training=training, name=f"cellflow_{name}")


@click.command()
@click.argument("dataset", type=click.Choice(sorted(PUBLISHED)))
@click.argument("path")
@click.option("--dims", default=5, help="Principal components; 5 are whitened, more are not.")
@click.option("--seeds", default=5)
@click.option("--steps", default=5000)
@click.option("--method", "names", multiple=True, default=("icfm", "otcfm"))
@click.option("--early-stopping", is_flag=True, help="The paper's full protocol, for ours.")
@click.option("--json", "target", type=click.Path(dir_okay=False))
def main(dataset, path, dims, seeds, steps, names, early_stopping, target) -> None:
    torch.set_num_threads(1)
    if path == "bundled":
        adata, note = embryoid(), "the bundled subset of the embryoid bodies"
    else:
        adata, note = load_paper_dataset(dataset, path)
    cells, _ = read_course(adata, time_key="day")
    if early_stopping:
        methods = list(names)
        steps = None
    else:
        methods = [*(TorchCFM(m) for m in names), *(ours(m) for m in names)]
    start = time.perf_counter()
    rows = paper_protocol(cells, methods=methods, n_dims=dims, seeds=seeds, steps=steps)
    budget = "early stopping" if steps is None else f"{steps} steps"
    print(f"{dataset}, {dims} components, {budget}, {seeds} seeds; {note}")
    published = PUBLISHED[dataset] if dims == 5 else {}
    beside = {f"{kind}_{m}": v for m, v in published.items() for kind in ("cellflow", "torchcfm")}
    print(report(rows, published | beside))
    means = {s.method: s.mean for s in summarise(rows)}
    for m in () if early_stopping else names:
        ratio = means[f"cellflow_{m}"] / means[f"torchcfm_{m}"]
        print(f"{m}: ours / torchcfm = {ratio:.3f}")
    print(f"{time.perf_counter() - start:.0f} s")
    if target:
        Path(target).write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
