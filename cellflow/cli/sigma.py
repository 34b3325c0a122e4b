"""``cellflow suggest-sigma``."""

from __future__ import annotations

from pathlib import Path

import click

from cellflow.cli import files, options


@click.command("suggest-sigma")
@options.cells
@click.option(
    "--exclude",
    multiple=True,
    metavar="T",
    help="A time, or its label, that is not looked at; may be repeated.",
)
@click.option("--learned", is_flag=True, help="Train networks: minutes to hours, not seconds.")
@click.option("--steps", type=options.POSITIVE, default=1000, hidden=True)
@click.option("--seeds", type=options.POSITIVE, default=5, show_default=True, metavar="N")
@click.option(
    "--figure",
    type=options.PATH,
    metavar="FILE",
    callback=files.check_new_file,
    help="Draw the curve into this file: .png, .pdf, .svg.",
)
@options.workers
@options.json
@options.quiet
def suggest_sigma(
    *,
    cells: options.Cells,
    exclude: tuple[str, ...],
    learned: bool,
    steps: int,
    seeds: int,
    figure: Path | None,
    workers: int | None,
    json: Path | None,
    quiet: bool,
) -> None:
    """Suggest how much cells diffuse, by predicting time points left out.

    The answer is the sigma of [SF]2M, in data units per square root of time.
    """
    from cellflow import pp
    from cellflow._files import whole_file

    sweep = pp.suggest_sigma(
        cells.read(),
        **cells.arguments(),
        exclude=exclude,
        learned=learned,
        steps=steps,
        seeds=seeds,
        workers=workers,
        progress=not quiet,
    )
    click.echo(str(sweep))
    if json is not None:
        with whole_file(json) as temporary:
            sweep.to_json(temporary)
    if figure is not None and sweep.rows:
        from cellflow import pl

        pl.sigma(sweep).figure.savefig(figure, dpi=200)
