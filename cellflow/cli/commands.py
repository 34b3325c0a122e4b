"""The commands. Heavy imports wait inside them, so that ``--help`` is quick."""

from __future__ import annotations

import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from cellflow.__about__ import __version__
from cellflow._files import whole_file
from cellflow.cli import answers, files, options, report
from cellflow.cli.front import Front

#: The file in a checkout that knows its tables.
TABLES = "benchmarks/reproduce.py"
#: Times that a simulation writes, at most.
MOST_TIMES = 100_000


@click.group(cls=Front, no_args_is_help=False)
@click.version_option(__version__, prog_name="cellflow")
def main() -> None:
    """How do cells move between the days that were sampled?

    Fits flow matching and Schrödinger bridges to time courses of single cells. Progress goes to
    standard error, results to standard output.
    """


@main.command()
@click.option(
    "--out",
    type=options.PATH,
    default="cellflow_demo",
    show_default=True,
    metavar="DIR",
    callback=files.check_folder,
    help="Where to write; an earlier demo is replaced.",
)
@click.option("--steps", type=options.POSITIVE, hidden=True, help="Of every fit.")
@options.quiet
def demo(*, out: Path, steps: int | None, quiet: bool) -> None:
    """Fit a flow to bundled embryoid-body cells, in about a minute.

    Leaves out each interior day and scores the prediction, fits all days, predicts a day that
    was not sampled, and writes tables, an .h5ad and figures.
    """
    from cellflow import demo as demonstration

    demonstration.demo(
        out,
        echo=click.echo,
        steps=steps or demonstration.FIT_STEPS,
        holdout_steps=steps or demonstration.HOLDOUT_STEPS,
        progress=not quiet,
    )


@main.command()
@options.cells
@options.of("fit")
@options.sigma
@options.output("DIR", files.check_new_folder, "New folder for the fit.")
def fit(*, file: Path, keywords: dict[str, Any], sigma: float | None, out: Path) -> None:
    """Learn how cells move, and save the fit to a folder.

    Ctrl-C ends the training early and saves the best weights so far; of several members, nothing.
    """
    from cellflow import tl
    from cellflow._process_group import here
    from cellflow.tl._reading import resolve_method

    method = resolve_method(keywords.pop("method"), sigma)
    done = tl.fit(files.read_cells(file, keywords["use_rep"]), method=method, **keywords)
    if not here().is_main:  # of the processes that trained together
        return
    done.save(out)
    course = done.course
    histories = done.history if isinstance(done.history, tuple) else (done.history,)
    times = ", ".join(f"{time:g}" for time in course.times)
    click.echo(f"{done.method.name}: {len(course.x)} cells, {course.dim} dimensions")
    click.echo(f"times ({course.unit}): {times}")
    best = ", ".join(f"{h.best_step}" for h in histories)
    seconds = sum(h.seconds for h in histories)
    click.echo(f"weights of step {best} of {histories[0].step[-1]}, {seconds:.1f} s")
    click.echo(done.health)
    click.echo(f"saved to {out}")
    if histories[0].stopped == "interrupted":
        raise click.Abort


@main.command()
@options.fitted
@options.of("interpolate", as_text=("time",))
@options.given
@options.output("FILE.h5ad", files.check_new_file, "File to write.")
def interpolate(
    *,
    folder: Path,
    keywords: dict[str, Any],
    condition: str | None,
    guidance: float | None,
    out: Path,
) -> None:
    """Predict the cells of any time from a saved fit, as an .h5ad.

    The time is in the fit's unit, or a label as 'day 10'.
    """
    from cellflow import tl

    saved = files.read_fit(folder, condition, guidance)
    cells = tl.interpolate(saved, **keywords)
    files.write_cells(cells, out)
    moment = cells.uns["interpolation"]["time"]
    click.echo(f"{cells.n_obs} cells at {saved.course.unit} {moment:g}, saved to {out}")


@main.command()
@options.fitted
@options.cells
@options.of("predict", as_text=("time",))
@options.conditions("Condition to predict, such as 'drug=A+B,dose=3'", required=True)
@options.output("FILE.h5ad", files.check_new_file, "File to write.")
def predict(
    *, folder: Path, file: Path, keywords: dict[str, Any], condition: list[str], out: Path
) -> None:
    """Predict cells under conditions from a saved fit, as an .h5ad.

    The cells of the first time point of FILE.h5ad, such as those of a control, are carried.
    """
    from cellflow import tl

    saved = files.read_fit(folder)
    known, rep = saved.course.conditions, saved.origin.get("use_rep", "X_pca")
    asked: list[Any] = [known.read(text) for text in condition] if known else condition
    cells = tl.predict(files.read_cells(file, rep), saved, condition=asked, **keywords)
    files.write_cells(cells, out)
    click.echo(f"{cells.n_obs} cells under {' and '.join(condition)}, saved to {out}")


@main.command()
@options.fitted
@options.of("simulate", without=("store", "store_dtype"), as_text=("start", "end"))
@options.given
@click.option(
    "--n-times",
    type=click.IntRange(min=2, max=MOST_TIMES),
    default=50,
    show_default=True,
    metavar="N",
    help="Evenly spaced times to write.",
)
@click.option("--half", is_flag=True, help="Write float16: half the size, three digits.")
@options.output(
    "DIR.zarr", files.check_folder, "Folder to write; an interrupted one is gone on with."
)
def simulate(
    *,
    folder: Path,
    keywords: dict[str, Any],
    condition: str | None,
    guidance: float | None,
    n_times: int,
    half: bool,
    out: Path,
) -> None:
    """Carry the cells of a saved fit through time, into a zarr store.

    States are written part by part, so that millions of cells need no more memory than
    thousands. After Ctrl-C the same command goes on where it stopped.
    """
    import numpy as np
    import torch

    from cellflow.fits import Fit
    from cellflow.tl._reading import time_of

    saved = files.read_fit(folder, condition, guidance)
    if not isinstance(saved, Fit):
        text = f"{str(folder)!r} is an ensemble, a fit is expected."
        raise click.BadParameter(text, param_hint="DIR")
    course, start, end = saved.course, keywords.pop("start"), keywords.pop("end")
    first = course.times[0] if start is None else time_of(saved, start, "start")
    last = course.times[-1] if end is None else time_of(saved, end, "end")
    known = {snapshot.time: snapshot for snapshot in course.snapshots}
    if first not in known:
        text = f"{first:g} is none of the fit's times: {', '.join(f'{t:g}' for t in known)}."
        raise click.BadParameter(text, param_hint="'--start'")
    if first == last:
        raise click.BadParameter(f"{last:g} is where the cells start.", param_hint="'--end'")
    x, rng = known[first].x, torch.Generator().manual_seed(keywords.pop("rng"))
    n_cells = keywords.pop("n_cells")
    if n_cells is not None:
        x = x[torch.randperm(len(x), generator=rng)[:n_cells].to(x.device)]
    clock, kind = np.linspace(first, last, n_times).tolist(), "float16" if half else None
    path = saved.simulate(x, clock, generator=rng, store=out, store_dtype=kind, **keywords)
    click.echo(f"{path.x.shape[1]} cells at {n_times} times, {course.unit} {first:g} to {last:g}")
    click.echo(f"saved to {out}: cellflow.simulate.open_trajectory reads it")


@main.command()
@options.cells
@options.of("holdout")
@options.sigma
@options.json
@options.file("--csv", files.check_new_file, "Write the rows here, as a table for a spreadsheet.")
def holdout(
    *,
    file: Path,
    keywords: dict[str, Any],
    sigma: float | None,
    json: Path | None,
    csv: Path | None,
) -> None:
    """Leave out each interior time point, predict it, and compare.

    Beside the model stand predictions that learn nothing (the time point before, the one after,
    both, their optimal-transport midpoint) and the noise floor.
    """
    from cellflow import tl
    from cellflow._process_group import here
    from cellflow.tl._reading import resolve_method

    method = resolve_method(keywords.pop("method"), sigma)
    table = tl.holdout(files.read_cells(file, keywords["use_rep"]), method=method, **keywords)
    if not here().is_main:  # of the processes that shared the fits
        return
    click.echo(str(table))
    files.write_table(table, json=json, csv=csv)


@main.command("holdout-conditions")
@options.cells
@options.of("holdout_conditions")
@options.conditions("Condition to leave out, such as 'drug=A+B,dose=3'; all when omitted")
@options.sigma
@options.json
@options.file("--csv", files.check_new_file, "Write the rows here, as a table for a spreadsheet.")
def holdout_conditions(
    *,
    file: Path,
    keywords: dict[str, Any],
    condition: list[str] | None,
    sigma: float | None,
    json: Path | None,
    csv: Path | None,
) -> None:
    """Leave out each condition, predict its cells from the control's, and compare.

    Beside the model stand predictions that learn nothing (the control, mean shifts of other
    conditions, the sum of single effects) and the noise floor.
    """
    from cellflow import tl
    from cellflow.tl._reading import resolve_method

    keywords |= {"method": resolve_method(keywords["method"], sigma), "conditions": condition}
    table = tl.holdout_conditions(files.read_cells(file, keywords["use_rep"]), **keywords)
    click.echo(str(table))
    files.write_table(table, json=json, csv=csv)


@main.command()
@click.argument("source", type=options.FILE, metavar="A")
@click.argument("target", type=options.FILE, metavar="B")
@options.of("match")
@click.option("--use-rep", default="X_pca", show_default=True, help="What of .h5ad files to read.")
@options.file("--carried", files.check_new_file, "Write A's points, carried to B, here, as .npy.")
@options.output("DIR", files.check_new_folder, "New folder for the matching.")
def match(
    *,
    source: Path,
    target: Path,
    keywords: dict[str, Any],
    use_rep: str,
    carried: Path | None,
    out: Path,
) -> None:
    """Carry the points of one file to those of another.

    A and B are .npy or .csv tables of points, or .h5ad files. Prints the distance of both clouds
    before and after, and saves the matching, which cellflow.load reads.
    """
    import numpy as np

    from cellflow._files import whole_file
    from cellflow.methods import match as match_clouds
    from cellflow.metrics import wasserstein2

    x0, x1 = (files.read_points(file, use_rep) for file in (source, target))
    done = match_clouds(x0, x1, **keywords)
    done.save(out)
    click.echo(f"{len(x0)} points to {len(x1)}, {done.course.dim} dimensions")
    click.echo(f"W2 {wasserstein2(x0, x1):.4g} before, {done.score():.4g} carried")
    click.echo(f"path energy {done.path_energy():.4g}, at least W2 squared")
    if carried is not None:
        with whole_file(carried) as path, path.open("wb") as stream:
            np.save(stream, done.transport(x0).cpu().numpy())
    click.echo(f"saved to {out}")


@main.command()
@options.cells
@options.of("couple")
@click.option("--label-key", metavar="K", help="Column of obs: print how its labels change.")
@options.output("DIR", files.check_new_folder, "New folder for tmaps_<start>_<end>.h5ad.")
def couple(*, file: Path, keywords: dict[str, Any], label_key: str | None, out: Path) -> None:
    """Match the cells of each time point with those of the next.

    Nothing is learned. Writes sparse maps that CellRank's RealTimeKernel.from_wot reads.
    """
    from cellflow import _checks, tl

    adata = files.read_cells(file, keywords["use_rep"])
    if label_key is not None:
        _checks.choice(label_key, [str(c) for c in adata.obs.columns], "label_key")
    done = tl.couple(adata, **keywords)
    told = [str(done)]
    for start, end in pairwise(done.transitions.times) if label_key is not None else ():
        table = done.table(adata.obs[label_key], start, end)
        told += [f"\n{label_key}, from {start:g} (rows) to {end:g}", table.round(3).to_string()]
    done.save(out)
    click.echo("\n".join(told))
    click.echo(f"saved to {out}")


for _name in (*answers.CHANCES, *answers.TABLES, *answers.COLUMNS):
    main.add_command(answers.command(_name))
main.add_command(report.report)


@main.command("suggest-sigma")
@options.cells
@options.of("suggest_sigma")
@click.option("--exclude", multiple=True, metavar="T", help="Time to leave out; may be repeated.")
@options.file("--figure", files.check_figure, "Draw the curve into this file: .png, .pdf, .svg.")
@options.json
def suggest_sigma(
    *,
    file: Path,
    keywords: dict[str, Any],
    exclude: tuple[str, ...],
    figure: Path | None,
    json: Path | None,
) -> None:
    """Suggest how much cells diffuse, by predicting time points left out.

    The answer is the sigma of [SF]2M, in data units per square root of time.
    """
    from cellflow import pp

    cells = files.read_cells(file, keywords["use_rep"])
    sweep = pp.suggest_sigma(cells, exclude=exclude, **keywords)
    click.echo(str(sweep))
    files.write_table(sweep, json=json)
    if figure is not None and sweep.rows:
        from cellflow import pl
        from cellflow.pl._frame import save

        with whole_file(figure) as path:
            save(pl.sigma(sweep), path)


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def reproduce(context: click.Context, *, words: tuple[str, ...]) -> None:
    """Print a table of the repository anew, such as a paper's protocol, from a checkout.

    The tables are benchmarks, which are not installed with the package.
    """
    places = (Path.cwd(), Path(__file__).parents[2])
    found = [p / "benchmarks" for p in places if (p / TABLES).is_file()]
    if not found:
        raise click.UsageError(
            f"There is no {TABLES} here: tables are not installed with the package. "
            "Run this command in the root of a checkout of its repository."
        )
    sys.path.insert(0, str(found[0]))
    tables = import_module(Path(TABLES).stem)
    tables.main.main(words, prog_name=context.command_path, standalone_mode=False)
