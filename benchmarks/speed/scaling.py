"""How time and memory grow with cells, dimensions and batches, and what an atlas would take.

    python benchmarks/speed/scaling.py                   # up to 10,000,000 cells, some ten minutes
    python benchmarks/speed/scaling.py --quick           # what the table runs: up to a million
    python benchmarks/speed/scaling.py --output docs/benchmarks/scaling.txt

Cells are synthetic, so that no file is needed: normal clouds of four days in random order, and
sparse counts for expression. Each measurement is the work of a process of its own on one thread.
Seconds are those of the processor, so that a busy machine tells the same; memory is the peak of the
process, less what it held before it began, an AnnData included. Laws a·nᵇ are least squares in
logarithms over the points from a hundred thousand cells on (all points where there are fewer than
two of these). What they say of more cells is never less than the last point, in proportion.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import click
import numpy as np
from timing import Row, in_subprocess, peak_mb

DAYS = 4
GENES, FILLED = 2000, 0.07
ATLAS = 100_000_000
NAMES = 100  # bytes of a row of obs and its name
#: Cells, dimensions, batch and width of the steps that are timed; the first one makes the plan.
CASES = [
    (10_000, 50, 256, 64),
    (1_000_000, 50, 256, 64),
    (10_000, 5, 256, 64),
    (10_000, 50, 1024, 64),
    (10_000, 50, 4096, 64),
    (10_000, 50, 256, 256),
]
Points = list[tuple[int, float]]


def cloud(n: int, d: int):
    """An AnnData of `n` cells, days in random order."""
    import anndata
    import pandas as pd

    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d), dtype=np.float32)
    days = rng.integers(0, DAYS, n).astype(np.int8)
    x[:, 0] += days
    obs = pd.DataFrame({"day": pd.Categorical.from_codes(days, [f"day {k}" for k in range(DAYS)])})
    obs.index = obs.index.astype(str)
    return anndata.AnnData(obs=obs, obsm={"X_pca": x})


def prepare(n: int, d: int) -> tuple[float, float, float]:
    """Seconds from an AnnData of a tenth of the cells, and of all, to the first training step.

    And megabytes held before the latter.
    """
    import torch

    import cellflow as cf
    from cellflow.batches import Batching

    torch.set_num_threads(1)
    method = cf.ICFM(batching=Batching(prefetch=False))  # nothing but the cells is prepared

    def seconds(adata) -> float:
        start = time.process_time()
        cf.tl.fit(adata, time_key="day", method=method, steps=1, progress=False)
        return time.process_time() - start

    seconds(cloud(200, d))  # imports
    tenth, adata = seconds(cloud(n // 10, d)), cloud(n, d)
    before = peak_mb()
    return tenth, seconds(adata), before


def train(n: int, d: int, batch: int = 256, width: int = 64) -> float:
    """Milliseconds of a step, without coupling."""
    import torch

    import cellflow as cf
    from cellflow.batches import Batching
    from cellflow.networks import MLPConfig

    torch.set_num_threads(1)
    course, _ = cf.pp.course(cloud(n, d), time_key="day")
    batching = Batching(batch, 256, prefetch=False)
    method = cf.ICFM(net=MLPConfig(width=width), batching=batching)

    def seconds(steps: int) -> float:
        start = time.process_time()
        method.fit(course, steps=steps, progress=False)
        return time.process_time() - start

    few, many = 20, 20 + max(100, 400 * 256 // batch)
    seconds(few)
    return 1e3 * (seconds(many) - seconds(few)) / (many - few)


def couple(n: int, d: int) -> float:
    """Microseconds that coupling a pair takes, exactly and in blocks of 256."""
    import torch

    import cellflow as cf
    from cellflow.batches import Batching, PairSampler
    from cellflow.couplings import Exact

    torch.set_num_threads(1)

    def seconds(n: int) -> tuple[float, int]:
        course, _ = cf.pp.course(cloud(n, d), time_key="day")
        sampler = PairSampler(course, Exact(), Batching(256, 256, prefetch=False))
        start = time.process_time()
        sampler.batch(0)
        return time.process_time() - start, sampler.steps_per_epoch * 256 * (DAYS - 1)

    seconds(2000)  # compiles
    spent, pairs = seconds(n)
    return 1e6 * spent / pairs


def carry(n: int, d: int) -> float:
    """Seconds in which `n` cells are carried over one interval."""
    import torch

    import cellflow as cf

    torch.set_num_threads(1)
    course, _ = cf.pp.course(cloud(2000, d), time_key="day")
    fit = cf.ICFM().fit(course, steps=20, progress=False)
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    fit.simulate(x[:1000], [0.0, 1.0])
    start = time.process_time()
    fit.simulate(x, [0.0, 1.0])
    return time.process_time() - start


def find_components(n: int, genes: int = GENES) -> float:
    """Seconds in which the components of `n` cells in a sparse .h5ad are found."""
    import anndata
    import scipy.sparse as sp

    import cellflow as cf

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cells.h5ad"
        rng, seen = np.random.default_rng(0), int(FILLED * genes)
        where = rng.integers(0, genes, (n, seen), dtype=np.int32).ravel()
        values = rng.random(n * seen, dtype=np.float32)
        x = sp.csr_matrix((values, where, np.arange(0, n * seen + 1, seen)), shape=(n, genes))
        x.sum_duplicates()
        anndata.AnnData(x).write_h5ad(file)
        adata = anndata.read_h5ad(file, backed="r")
        few = adata[:200].to_memory()
        cf.pp.pca(few, n_components=50)  # compiles
        start = time.process_time()
        cf.pp.pca(adata, n_components=50)
        return time.process_time() - start


def law(points: Points) -> tuple[float, float]:
    """a and b of y = a·nᵇ."""
    late = [p for p in points if p[0] >= 100_000]
    x, y = np.log(np.array(late if len(late) > 1 else points, dtype=float)).T
    b = float(np.polyfit(x, y, 1)[0])
    return float(np.exp((y - b * x).mean())), b


def at(points: Points, n: float) -> float:
    """What `points` say of `n`: their law, but at least in proportion to the last of them."""
    a, b = law(points)
    last, y = points[-1]
    return max(a * n**b, y * n / last)


def curve(work: Callable, sizes: Sequence[int], *rest: int) -> tuple[list, list[float]]:
    """What `work` returned for each size, in a fresh process each, and the peaks of these."""
    found = [in_subprocess(work, n, *rest) for n in sizes]
    return [value for value, _ in found], [peak for _, peak in found]


def preparation(sizes: Sequence[int], d: int) -> tuple[Points, Points]:
    """Seconds and megabytes from an AnnData to the first step, for each size."""
    values, peaks = curve(prepare, sizes, d)
    seconds = [(n, s) for n, (_, s, _) in zip(sizes, values, strict=True)]
    pairs = zip(sizes, values, peaks, strict=True)
    return seconds, [(n, max(peak - before, 0.1)) for n, (_, _, before), peak in pairs]


def small_parts(n: int, cells: int) -> tuple[float, float, float, float]:
    """Of one process: a step for 10,000 and for `n` cells, coupling a pair, carrying a cell."""
    few, many = train(10_000, 50), train(n, 50)
    return few, many, couple(cells, 50), 1e6 * carry(cells, 50) / cells


def rows(data: Path | None = None, *, quick: bool = True) -> Iterator[Row]:
    """Rows of the table: preparation at a million (ten million) cells, what does not grow."""
    d, n, most = 50, 1_000_000 if quick else 10_000_000, 100_000
    (tenth, seconds, before), peak = in_subprocess(prepare, n, d)
    times = (peak - before) / (n * d * 4 / 2**20)
    note = f"n^{math.log10(seconds / tenth):.2f}; memory {times:.2f} x the data beyond the AnnData"
    name, target = f"AnnData to first step, {n:,} x {d}", f"≤ {60 * n / 1e7:g} s"
    yield Row(name, "-", seconds, None, "CPU s", target, None, note, peak)
    (small, large, pair, cell), _ = in_subprocess(small_parts, most, 20_000)
    note = f"{small:.2f} ms for 10,000"
    yield Row(f"training step, {most:,} cells, {d}-D", "-", large, None, "CPU ms", "-", None, note)
    yield Row(f"coupling, {d}-D, a pair", "-", pair, None, "CPU us", "-", None, "blocks of 256")
    yield Row(f"carrying, {d}-D, a cell and interval", "-", cell, None, "CPU us", "-", None)


def line(name: str, points: Points, unit: str) -> str:
    """A curve, its law and what that says of the atlas."""
    values = "".join(f"{y:>12.4g}" for _, y in points)
    a, b = law(points)
    return f"{name:<34}{values}   {a:.3g} n^{b:.2f} {unit}; at 1e8: {at(points, ATLAS):,.0f} {unit}"


def report(quick: bool) -> Iterator[str]:
    """All curves, and the plan of an atlas, as lines of text."""
    sizes = [10_000, 100_000, 1_000_000] + ([] if quick else [10_000_000])
    yield f"{'cells':<34}" + "".join(f"{n:>12,}" for n in sizes)
    seconds, megabytes = preparation(sizes, 50)
    yield line("AnnData to first step, 50-D, s", seconds, "s")
    yield line("  memory beyond the AnnData, MB", megabytes, "MB")
    part = sizes[:3]
    narrow, _ = preparation(part, 5)
    yield line("AnnData to first step, 5-D, s", narrow, "s")
    carried = [(n, curve(carry, [n], 50)[0][0]) for n in part]
    yield line("simulate one interval, 50-D, s", carried, "s")
    read = [10_000, 30_000, 100_000]
    found = [(n, curve(find_components, [n])[0][0]) for n in read]
    yield line(f"components of {GENES:,} genes, s", found, "s") + f" (to {read[-1]:,})"
    yield ""
    yield f"{'a step of 3 intervals, ms':<34}{'cells':>10}{'d':>6}{'batch':>7}{'width':>7}"
    steps = {}
    for case in CASES:
        steps[case] = in_subprocess(train, *case)[0]
        n, d, batch, width = case
        yield f"{steps[case]:<34.3g}{n:>10,}{d:>6}{batch:>7}{width:>7}"
    yield ""
    yield "coupling, us a pair" + "".join(f"{k:>12}-D" for k in (5, 50))
    pairs = [in_subprocess(couple, n, d)[0] for n, d in ((40_000, 5), (40_000, 50))]
    yield " " * 19 + "".join(f"{pair:>14.3g}" for pair in pairs)
    yield ""
    step, pair = steps[CASES[0]], pairs[1]
    yield from plan(seconds, megabytes, carried, found, step=step, pair=pair)


def plan(
    seconds: Points, megabytes: Points, carried: Points, found: Points, *, step: float, pair: float
) -> Iterator[str]:
    """What an atlas takes by these laws, on one core."""
    yield f"An atlas of {ATLAS:,} cells x 50 components, 10 time points, by these laws, on one core"
    data = ATLAS * 50 * 4 / 1e9
    beyond = at(megabytes, ATLAS) * 2**20 / 1e9
    yield f"  representation                {data:8.1f} GB"
    names = ATLAS * NAMES / 1e9
    whole = data + beyond + names
    yield f"  names and times of cells      {names:8.1f} GB"
    yield f"  memory of a fit               {whole:8.1f} GB, with the AnnData's own copy"
    for memory in (16, 64, 256):
        most = 0.9 * memory / whole * ATLAS / 1e6  # a tenth is left to the system
        yield f"  most cells in {memory:>3} GB           {most:8.0f} million"
    hours = {
        f"components, {GENES:,} genes": at(found, ATLAS),
        "AnnData to first step": at(seconds, ATLAS),
        "30,000 steps, 9 intervals x 256": 30_000 * step * 3 / 1e3,
        "their couplings, each pair used once": 30_000 * 9 * 256 * pair / 1e6,
        "all cells over one interval": at(carried, ATLAS),
    }
    for name, value in hours.items():
        yield f"  {name:<34}{value / 3600:8.2f} core hours"
    yield f"  {'sum':<34}{sum(hours.values()) / 3600:8.2f} core hours, times your price of one"


@click.command()
@click.option("--quick", is_flag=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Also to a file.")
def main(quick, output) -> None:
    from table import facts

    lines = []
    for text in chain(facts("cpu"), [""], report(quick)):
        lines.append(text)
        print(text, flush=True)
    if output is not None:
        output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
