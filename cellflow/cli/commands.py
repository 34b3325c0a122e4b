"""The commands. Heavy imports wait inside them, so that ``--help`` is quick."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cellflow.__about__ import __version__
from cellflow.cli import files, options
from cellflow.cli.couple import couple
from cellflow.cli.front import Front
from cellflow.cli.sigma import suggest_sigma
from cellflow.cli.simulate import simulate

if TYPE_CHECKING:
    from cellflow.methods import Method

#: The file of protocols in a checkout.
PROTOCOLS = "benchmarks/accuracy/protocols.py"


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
@click.option(
    "--steps", type=options.POSITIVE, hidden=True, help="Of every fit, to try things out."
)
@options.quiet
def demo(*, out: Path, steps: int | None, quiet: bool) -> None:
    """Run OT-CFM on bundled embryoid-body cells, in about a minute.

    Leaves out each interior day and scores the prediction, fits all days, predicts a day that
    nobody sampled, and writes tables, an .h5ad and figures.
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
@options.method
@click.option("--steps", type=options.POSITIVE, default=3000, show_default=True, metavar="N")
@click.option("--seed", type=options.SEED, default=0, show_default=True, metavar="S")
@options.members
@options.bootstrap
@options.workers
@options.together
@options.new_folder("New folder for the fit.")
@options.quiet
def fit(
    *,
    cells: options.Cells,
    method: Method,
    steps: int,
    seed: int,
    members: int,
    bootstrap: bool,
    workers: int | None,
    together: dict[str, Any],
    out: Path,
    quiet: bool,
) -> None:
    """Learn how cells move, and save the fit to a folder.

    Ctrl-C ends the training early and saves the best weights so far; of several members, nothing.
    """
    from cellflow import tl
    from cellflow._process_group import here

    done = tl.fit(
        cells.read(),
        **cells.arguments(),
        method=method,
        steps=steps,
        rng=seed,
        members=members,
        bootstrap=bootstrap,
        workers=workers,
        **together,
        progress=not quiet,
    )
    if not here().is_main:  # of the processes that trained together
        return
    done.save(out)
    course = done.course
    histories = done.history if isinstance(done.history, tuple) else (done.history,)
    times = ", ".join(f"{time:g}" for time in course.times)
    click.echo(f"{method.name}: {len(course.x)} cells, {course.dim} dimensions")
    click.echo(f"times ({course.unit}): {times}")
    best = ", ".join(f"{h.best_step}" for h in histories)
    seconds = sum(h.seconds for h in histories)
    click.echo(f"weights of step {best} of {steps}, {seconds:.1f} s")
    click.echo(done.health)
    click.echo(f"saved to {out}")
    if histories[0].stopped == "interrupted":
        raise click.Abort


@main.command()
@click.argument("folder", type=options.FOLDER, metavar="DIR")
@click.option(
    "--time", required=True, metavar="T", help="A time in the fit's unit, or a label as 'day 10'."
)
@click.option(
    "--n-cells",
    type=options.POSITIVE,
    metavar="N",
    help="How many; all of the day before by default.",
)
@options.solver
@click.option("--seed", type=options.SEED, default=0, show_default=True, metavar="S")
@click.option(
    "--out",
    type=options.PATH,
    required=True,
    metavar="FILE.h5ad",
    callback=files.check_new_file,
    help="File to write.",
)
def interpolate(
    *, folder: Path, time: str, n_cells: int | None, solver: str, seed: int, out: Path
) -> None:
    """Predict the cells of any time from a saved fit, as an .h5ad."""
    from cellflow import tl
    from cellflow._files import whole_file

    saved = files.read_fit(folder)
    moment = files.read_time(time, saved.course.unit)
    first, last = saved.course.times[0], saved.course.times[-1]
    if not first <= moment <= last:
        click.echo(
            f"Warning: {moment:g} is outside the fit's times, {first:g} to {last:g}: "
            "an extrapolation.",
            err=True,
        )
    cells = tl.interpolate(saved, time=moment, n_cells=n_cells, solver=solver, rng=seed)
    with whole_file(out) as file:
        cells.write_h5ad(file)
    click.echo(f"{cells.n_obs} cells at {saved.course.unit} {moment:g}, saved to {out}")


@main.command()
@options.cells
@options.method
@click.option(
    "--time",
    type=click.Choice(["index", "physical"]),
    default="physical",
    show_default=True,
    help="Times as they are, or 0, 1, 2, ….",
)
@options.solver
@click.option("--seeds", type=options.POSITIVE, default=3, show_default=True, metavar="N")
@click.option("--steps", type=options.POSITIVE, default=2000, hidden=True)
@options.workers
@options.json
@options.quiet
def holdout(
    *,
    cells: options.Cells,
    method: Method,
    solver: str,
    time: str,
    seeds: int,
    steps: int,
    workers: int | None,
    json: Path | None,
    quiet: bool,
) -> None:
    """Leave out each interior time point, predict it, and compare.

    Beside the model stand predictions that learn nothing (the time point before, the one after,
    both, their optimal-transport midpoint) and the noise floor.
    """
    from cellflow import tl
    from cellflow._files import whole_file
    from cellflow._process_group import here

    table = tl.holdout(
        cells.read(),
        **cells.arguments(),
        method=method,
        steps=steps,
        seeds=seeds,
        time=time,
        solver=solver,
        workers=workers,
        progress=not quiet,
    )
    if not here().is_main:  # of the processes that shared the fits
        return
    click.echo(str(table))
    if json is not None:
        with whole_file(json) as temporary:
            table.to_json(temporary)


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def reproduce(context: click.Context, *, words: tuple[str, ...]) -> None:
    """Run a paper's protocol beside its published numbers, from a checkout.

    The protocols are benchmarks, which are not installed with the package.
    """
    places = (Path.cwd(), Path(__file__).parents[2])
    found = [p / "benchmarks" for p in places if (p / PROTOCOLS).is_file()]
    if not found:
        raise click.UsageError(
            f"There is no {PROTOCOLS} here: protocols are not installed with the package. "
            "Run this command in the root of a checkout of its repository."
        )
    sys.path.insert(0, str(found[0]))
    protocols = import_module("accuracy.protocols")
    protocols.reproduce.main(words, prog_name=context.command_path, standalone_mode=False)


main.add_command(couple)
main.add_command(suggest_sigma)
main.add_command(simulate)
