"""The whole way on real cells: hold out, fit, interpolate, draw, write."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from cellflow import pl, tl
from cellflow._files import whole_file
from cellflow.datasets import embryoid
from cellflow.evaluate import HoldoutTable
from cellflow.fits import Fit
from cellflow.logging import say
from cellflow.pl._frame import save
from cellflow.simulate import Trajectory

#: The day that is predicted without being sampled, and the one drawn beside the real cells.
UNSAMPLED_DAY, HELD_OUT_DAY = 10.5, 13.5
#: Components 2 and 3 are drawn: the first holds mostly what all cells have in common.
DRAWN = (1, 2)
N_DIMS, HOLDOUT_STEPS, SEEDS, FIT_STEPS = 5, 600, 2, 1000
SEED = 0
#: How cells are read.
READ: dict[str, Any] = {"time_key": "day", "n_dims": N_DIMS, "whiten": True}


def demo(
    folder: Path,
    *,
    echo: Callable[[str], None] = print,
    steps: int = FIT_STEPS,
    holdout_steps: int = HOLDOUT_STEPS,
    seeds: int = SEEDS,
    progress: bool | None = None,
) -> list[Path]:
    """Run OT-CFM on the bundled embryoid-body cells, write everything it answers to `folder`.

    Returns the paths. Files of an earlier demo are replaced, others left alone; Ctrl-C leaves what
    was written so far. `echo` takes each piece of the result as text; with `progress`, standard
    error says what is going on. The fit to all days takes `steps`, those that leave a day out, with
    `seeds` each, take `holdout_steps`.
    """
    tell = partial(say, show=progress)
    folder.mkdir(parents=True, exist_ok=True)
    cells = embryoid()
    tell("1/4  Fitting all days")
    fit = _fitted(cells, steps, progress=progress)
    tl.velocity(cells, fit)
    tell("2/4  Leaving out each interior day: is the model better than doing nothing clever?")
    table = tl.holdout(cells, **READ, steps=holdout_steps, seeds=seeds, progress=progress)
    echo(f"Distance of predicted from real cells, {N_DIMS} whitened PCs (lower is better)\n")
    echo(str(table))

    tell(f"3/4  Fitting without day {HELD_OUT_DAY:g}, for the figure")
    others = cells[cells.obs["day"] != HELD_OUT_DAY].copy()
    without = _fitted(others, holdout_steps, progress=False)

    tell("4/4  Predicting, drawing, writing")
    unsampled = tl.interpolate(fit, time=UNSAMPLED_DAY, rng=SEED)
    written = [fit.save(folder / "fit")]
    writers: dict[str, Callable[[Path], object]] = {
        "holdout.json": table.to_json,
        "interpolated.h5ad": unsampled.write_h5ad,
        "velocity.h5ad": cells.write_h5ad,
    }
    for name, axes in _figures(cells, fit, without, table).items():
        writers[f"{name}.png"] = partial(save, axes)
    for name, write in writers.items():
        written.append(folder / name)
        with whole_file(written[-1]) as file:
            write(file)
    echo(_closing_words(written, unsampled, folder))
    return written


def _fitted(cells: AnnData, steps: int, *, progress: bool | None) -> Fit:
    fit = tl.fit(cells, **READ, steps=steps, rng=SEED, progress=progress)
    if not isinstance(fit, Fit) or fit.history.stopped == "interrupted":
        raise KeyboardInterrupt  # a fit keeps its best weights; the demo ends
    return fit


def _figures(cells: AnnData, fit: Fit, without: Fit, table: HoldoutTable) -> dict[str, Axes]:
    """One axes of each figure, by file name."""
    plt.switch_backend("Agg")  # figures go to files: no display is needed
    paths = tl.simulate(cells, fit, n_cells=100, rng=SEED)
    predicted = tl.interpolate(without, time=HELD_OUT_DAY, rng=SEED)
    scores = {
        label: fmean(table.values(HELD_OUT_DAY, name, "w1"))
        for label, name in {"$W_1$": "reach", "noise floor": "floor"}.items()
    }
    interpolation = pl.interpolation(cells, predicted, time_key="day", dims=DRAWN, scores=scores)
    return {
        "trajectories": pl.trajectories(cells, cast(Trajectory, paths), time_key="day", dims=DRAWN),
        "velocity": pl.velocity(cells, basis="pca", time_key="day", dims=DRAWN),
        "held_out_day": interpolation[0],
        "holdout": pl.holdout(table),
        "history": pl.history(fit),
    }


def _closing_words(written: list[Path], unsampled: AnnData, folder: Path) -> str:
    names = ", ".join(path.name + "/" * path.is_dir() for path in written)
    return "\n".join(
        [
            "",
            f"Written to {folder}/: {names}",
            f"interpolated.h5ad holds {unsampled.n_obs} cells of day {UNSAMPLED_DAY:g}, "
            "which was not sampled.",
            "",
            "Next, in Python:",
            f"    import scanpy as sc; day = sc.read_h5ad({str(folder / 'interpolated.h5ad')!r})",
            '    sc.pl.embedding(day, "X_pca")',
            f"    import cellflow as cf; fit = cf.load({str(folder / 'fit')!r})",
        ]
    )
