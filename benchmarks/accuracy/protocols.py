"""The OT-CFM paper's protocol beside its published numbers: what ``cellflow reproduce`` runs.

cellflow reproduce otcfm --dataset cite --path FILE  # from the root of a checkout
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import click
import torch
from tqdm import tqdm

from accuracy.published import load_paper_dataset
from cellflow import _checks, pp
from cellflow._files import whole_file
from cellflow._random import stream_seed
from cellflow.batches import Batching
from cellflow.cli import options
from cellflow.couplings import Exact
from cellflow.evaluate import HoldoutTable, Row
from cellflow.evaluate.scorer import as_methods, as_seeds
from cellflow.evaluate.table import deviation
from cellflow.methods import ICFM, OTCFM, FlowMatching
from cellflow.metrics import wasserstein1
from cellflow.networks import MLPConfig
from cellflow.preprocessing import fit_preprocessing
from cellflow.simulate import SOLVERS
from cellflow.timecourse import TimeCourse
from cellflow.training.cells import split
from cellflow.training.trainer import Training

BATCH_SIZE = 128
#: Cells set aside for testing, of each time point; as many again validate. The paper tests on
#: all cells of the day that was left out, so these are simply not trained on.
TEST_SHARE = 0.1
#: Epochs at most, epochs between two validations (both as in the authors' configurations), and
#: validations without improvement before stopping (not published: ours).
EPOCHS, CHECK_EPOCHS, PATIENCE = 1000, 10, 10
#: Steps over which our learning rate decays.
STEPS = 5000

#: W1 of the days left out, mean and deviation as printed (Tong et al. 2024, TMLR; 5 whitened PCs).
PUBLISHED = {
    "cite": {"icfm": (0.965, 0.111), "otcfm": (0.882, 0.058)},
    "eb": {"icfm": (0.872, 0.087), "otcfm": (0.790, 0.068)},
    "multi": {"icfm": (1.085, 0.099), "otcfm": (0.937, 0.054)},
}
_RECIPES = {"icfm": ICFM, "otcfm": OTCFM}


@dataclass(frozen=True)
class Summary:
    """Distances of one method, over days left out and seeds."""

    method: str
    #: For each day left out, mean and standard deviation over seeds.
    days: dict[float, tuple[float, float]]
    #: Mean over days and seeds.
    mean: float
    #: Standard deviation over seeds of the mean over days.
    std_over_seeds: float
    #: Standard deviation over days of the mean over seeds, which more seeds cannot reduce.
    spread_over_days: float


def paper_method(name: str, *, check_every: int = 100, constant_rate: bool = False) -> FlowMatching:
    """Build a method as the OT-CFM paper set it up (Tong et al. 2024, TMLR).

    MLP of three hidden layers of 64 with SELU; AdamW at 1e-3 with weight decay 1e-5; 128 pairs per
    interval and step, coupled afresh by exact optimal transport (or at random); straight paths
    with a deviation of 0.1; early stopping on the validation loss, every `check_every` steps. With
    a `constant_rate` gradients are not clipped and weights not averaged, as in the paper; by
    default all three are as with us.
    """
    _checks.choice(name, _RECIPES, "method")
    training = Training(
        learning_rate=1e-3,
        weight_decay=1e-5,
        validation=TEST_SHARE / (1 - TEST_SHARE),  # of what the test cells left
        check_every=check_every,
        patience=PATIENCE,
    )
    if constant_rate:
        training = replace(training, schedule="constant", clip=1e12, ema=0.0)
    return _RECIPES[name](
        0.1,
        net=MLPConfig(width=64, depth=3, activation="selu"),
        batching=Batching(BATCH_SIZE, BATCH_SIZE, reuse=1),
        training=training,
    )


def paper_course(course: TimeCourse, n_dims: int = 5) -> TimeCourse:
    """Return the course as the paper saw it: first principal components, time 0, 1, 2, ….

    Five components are whitened on all cells, more are left as they are.
    """
    if _checks.count(n_dims, "n_dims") > course.dim:
        raise ValueError(_checks.message("n_dims", n_dims, f"at most {course.dim}"))
    cells = course.map(lambda x: x[:, :n_dims]).retimed(range(len(course)))
    return cells.map(fit_preprocessing(cells.x, whiten=True).apply) if n_dims == 5 else cells


def paper_steps(course: TimeCourse) -> tuple[int, int]:
    """Return the most steps, and the steps between validations, for the cells of `course`."""
    fewest = min(len(s) for s in course.snapshots)
    epoch = max(1, int((1 - 2 * TEST_SHARE) * fewest) // BATCH_SIZE)
    return EPOCHS * epoch, CHECK_EPOCHS * epoch


def paper_protocol(
    course: TimeCourse,
    *,
    methods: Sequence[str | FlowMatching] = ("icfm", "otcfm"),
    n_dims: int = 5,
    seeds: int | Sequence[int] = 5,
    steps: int | None = None,
    constant_rate: bool = False,
    solvers: Sequence[str] = ("rk4",),
    midpoint: bool = True,
    progress: bool = True,
) -> list[Row]:
    """Leave out each interior day, train on the others, push the day before to it; exact W1.

    Each of `solvers` has rows of its own; under all but the first the name of a method bears that
    of the solver. Stochastic ones skip methods without a score. `steps` are at most 5,000 when
    omitted, or 1,000 epochs at a `constant_rate`. With `midpoint` there is ``ot_midpoint`` as well,
    the exact optimal-transport interpolation of the two neighbouring days, which learns nothing.
    """
    if len(course) < 3:
        raise ValueError(_checks.message("course", f"{len(course)} time points", "at least 3"))
    cells = paper_course(course, n_dims)
    most, check_every = paper_steps(course)
    if steps is None:
        steps = most if constant_rate else STEPS
    recipes = as_methods(
        paper_method(m, check_every=check_every, constant_rate=constant_rate)
        if isinstance(m, str)
        else m
        for m in methods
    )
    seeds = as_seeds(seeds)
    solvers = [_checks.choice(solver, SOLVERS, "solvers") for solver in solvers]
    rows = []
    folds = range(1, len(course) - 1)
    with tqdm(total=len(folds) * len(recipes) * len(seeds), disable=not progress) as bar:
        for k in folds:
            day, start, truth = course.times[k], cells.snapshots[k - 1].x, cells.snapshots[k].x
            if midpoint:
                rows.append(_row(day, "ot_midpoint", _midpoint(cells, k), truth))
            for method in recipes:
                for seed in seeds:
                    bar.set_description(f"{method.name}, without day {day:g}, seed {seed}")
                    kept, _ = split(cells, TEST_SHARE, stream_seed(seed, k, 30))
                    fit = method.fit(kept.without(k), steps=steps, generator=seed, progress=False)
                    if fit.history.stopped == "interrupted":
                        raise KeyboardInterrupt
                    for solver in solvers:
                        if SOLVERS[solver].stochastic and fit.dynamics.score is None:
                            continue
                        name = method.name if solver == solvers[0] else f"{method.name}, {solver}"
                        out = fit.simulate(start, [k - 1, k], solver=solver, generator=seed)
                        rows.append(_row(day, name, out.final, truth, seed))
                    bar.update()
    return rows


def _midpoint(cells: TimeCourse, k: int) -> torch.Tensor:
    before, after = cells.snapshots[k - 1], cells.snapshots[k + 1]
    rows, cols = Exact()(before, after).sample(len(before), stream_seed(0, k, 31))
    return torch.lerp(before.x[rows], after.x[cols], 0.5)


def _row(day: float, method: str, x: torch.Tensor, truth: torch.Tensor, seed: int = 0) -> Row:
    return Row(day, method, seed, "w1", wasserstein1(x, truth), len(x), len(truth))


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Summarise the `rows` of each method, in order of appearance, keeping seeds and days apart."""
    out = []
    for method in dict.fromkeys(r.method for r in rows):
        ours = [r for r in rows if r.method == method]
        by_day = {d: [r.value for r in ours if r.held_out == d] for d in _distinct(ours)}
        by_seed = [
            [r.value for r in ours if r.seed == s] for s in dict.fromkeys(r.seed for r in ours)
        ]
        days = {d: (fmean(v), deviation(v)) for d, v in by_day.items()}
        means = [mean for mean, _ in days.values()]
        seeds = deviation([fmean(v) for v in by_seed])
        out.append(Summary(method, days, fmean(means), seeds, deviation(means)))
    return out


def report(rows: Sequence[Row], published: dict[str, tuple[float, float]] | None = None) -> str:
    """Print `rows` as a table beside the `published` mean and deviation of each method."""
    days = sorted(_distinct(rows))
    head = ["W1", *(f"day {d:g}" for d in days), "mean", "std over seeds", "spread over days"]
    lines = [[*head, "published"]]
    for s in summarise(rows):
        mean, std = (published or {}).get(s.method, (math.nan, math.nan))
        cells = [f"{s.days[d][0]:.3f} ± {s.days[d][1]:.3f}" for d in days]
        cells += [f"{s.mean:.3f}", f"{s.std_over_seeds:.3f}", f"{s.spread_over_days:.3f}"]
        lines.append([s.method, *cells, "-" if math.isnan(mean) else f"{mean:.3f} ± {std:.3f}"])
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{text:<{w}}" for text, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _distinct(rows: Sequence[Row]) -> list[float]:
    return list(dict.fromkeys(r.held_out for r in rows))


@click.command()
@click.option("--dataset", type=click.Choice(["cite", "eb", "multi"]), required=True)
@click.option(
    "--path", type=options.PATH, required=True, metavar="FILE", help="The data, on this disk."
)
@click.option(
    "--dims",
    type=options.POSITIVE,
    default=5,
    show_default=True,
    metavar="N",
    help="Principal components: 5 are whitened, more are not.",
)
@click.option("--seeds", type=options.POSITIVE, default=5, show_default=True, metavar="N")
@click.option(
    "--constant-rate",
    is_flag=True,
    help="Train at a constant rate as the paper did, not with our decay and averaging.",
)
@click.option(
    "--steps", type=options.POSITIVE, hidden=True, help="At most, instead of the protocol's."
)
@options.json
@options.quiet
def reproduce(
    *,
    dataset: str,
    path: Path,
    dims: int,
    seeds: int,
    constant_rate: bool,
    steps: int | None,
    json: Path | None,
    quiet: bool,
) -> None:
    """Run the protocol of the OT-CFM paper beside its published numbers.

    Tong et al. 2024 (TMLR): each interior day left out, I-CFM and OT-CFM, exact W1. Data,
    network, batches, optimiser and early stopping are the paper's; the learning rate decays.
    """
    cells, note = load_paper_dataset(dataset, path)
    course, _ = pp.course(cells, time_key="day")
    rows = paper_protocol(
        course,
        n_dims=dims,
        seeds=seeds,
        steps=steps,
        constant_rate=constant_rate,
        progress=not quiet,
    )
    published = PUBLISHED[dataset] if dims == 5 else None
    click.echo(report(rows, published))
    click.echo(f"\nThe file: {note}")
    if json is not None:
        with whole_file(json) as temporary:
            HoldoutTable(tuple(rows)).to_json(temporary)
