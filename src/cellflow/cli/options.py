"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from cellflow.cli import files

#: As in `cellflow.methods.METHODS`, which is slow to load.
METHODS = ("otcfm", "icfm", "mmfm", "sbcfm", "sf2m")
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
PATH = click.Path(path_type=Path)
POSITIVE = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**63 - 1)

quiet = click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
json = click.option(
    "--json", type=PATH, metavar="FILE", callback=files.check_new_file, help="Write the rows here."
)


def cells(command: Callable) -> Callable:
    """Add to `command` the options that say which cells."""
    for option in reversed(
        [
            click.argument("file", type=FILE, metavar="FILE.h5ad"),
            click.option(
                "--time-key",
                required=True,
                metavar="K",
                help="Column of obs with times: numbers, or labels such as 'day 10' or '12h'.",
            ),
            click.option(
                "--use-rep",
                default="X_pca",
                show_default=True,
                metavar="R",
                help="Key of obsm with the cells' states, or X for expression.",
            ),
            click.option(
                "--dims",
                type=POSITIVE,
                metavar="N",
                help="Use the first N dimensions; of X, N components fitted here.",
            ),
            click.option("--whiten", is_flag=True, help="Scale each dimension to unit deviation."),
            click.option(
                "--method",
                default="otcfm",
                show_default=True,
                metavar="M",
                help=f"One of {', '.join(METHODS)}.",
            ),
        ]
    ):
        command = option(command)
    return command
