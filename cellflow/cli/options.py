"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cellflow.cli import files

if TYPE_CHECKING:
    from anndata import AnnData

#: As in `cellflow.methods.METHODS`, which is slow to load.
METHODS = (
    "otcfm",
    "icfm",
    "mmfm",
    "sbcfm",
    "sf2m",
    "sf2m_exact",
    "sf2m_geodesic",
    "sf2m_independent",
    "dsbm",
    "uotcfm",
    "ubsb",
)
#: As in `cellflow.several.devices.STRATEGIES`.
STRATEGIES = ("auto", "ddp", "ddp_spawn", "ddp_notebook")
#: As in `cellflow.simulate.SOLVERS`.
SOLVERS = ("rk4", "euler", "midpoint", "dopri5", "euler_maruyama", "sra1")
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
PATH = click.Path(path_type=Path)
POSITIVE = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**63 - 1)

quiet = click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
json = click.option(
    "--json", type=PATH, metavar="FILE", callback=files.check_new_file, help="Write the rows here."
)

members = click.option(
    "--members",
    type=POSITIVE,
    default=1,
    show_default=True,
    metavar="N",
    help="Fit N times, to know how sure the answers are.",
)
bootstrap = click.option(
    "--bootstrap", is_flag=True, help="Each member on cells drawn with replacement."
)
_DEVICES = [
    click.option(
        "--devices",
        type=POSITIVE,
        metavar="N",
        help="Processes that train together on each node; those of torchrun by default.",
    ),
    click.option("--num-nodes", type=POSITIVE, default=1, metavar="N", help="Nodes of them."),
    click.option(
        "--strategy",
        type=click.Choice(STRATEGIES),
        default="auto",
        show_default=True,
        help="Who starts the processes, by Lightning's names.",
    ),
    click.option(
        "--checkpoint",
        type=PATH,
        metavar="FILE",
        help="Write the training down here, and go on from it if it exists.",
    ),
]
workers = click.option(
    "--workers",
    type=POSITIVE,
    metavar="N",
    help="Processes that share the fits; as many as there are cores by default.",
)


@dataclass(frozen=True)
class Cells:
    """Which cells, and how to read them.

    Parameters
    ----------
    file
        The ``.h5ad``.
    time_key, use_rep, n_dims, whiten, mass_key, growth_key
        As in :func:`cellflow.tl.fit`.
    """

    file: Path
    time_key: str
    use_rep: str
    n_dims: int | None
    whiten: bool
    mass_key: str | None
    growth_key: str | None

    def read(self) -> AnnData:
        """Read the file."""
        return files.read_cells(self.file, self.use_rep)

    def arguments(self) -> dict[str, Any]:
        """Return what the functions of :mod:`cellflow.tl` need to know of the cells."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "file"}


_CELLS = [
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
        "n_dims",
        type=POSITIVE,
        metavar="N",
        help="Use the first N dimensions; of X, N components fitted here.",
    ),
    click.option("--whiten", is_flag=True, help="Scale each dimension to unit deviation."),
    click.option("--mass-key", metavar="K", help="Column of obs with the mass of each cell."),
    click.option(
        "--growth-key",
        metavar="K",
        help="Column of obs with known growth rates, for uotcfm and ubsb.",
    ),
]
_METHOD = [
    click.option(
        "--method",
        default="otcfm",
        show_default=True,
        metavar="M",
        help=f"One of {', '.join(METHODS)}.",
    ),
    click.option(
        "--sigma",
        type=click.FloatRange(min=0.0),
        metavar="S",
        help="Noise of the method, in data units (bridges: per root of time).",
    ),
]


def cells(command: Callable) -> Callable:
    """Add to `command` the options that say which cells, as one argument `cells`."""

    @functools.wraps(command)
    def bundled(**options: Any) -> Any:
        chosen = Cells(**{f.name: options.pop(f.name) for f in fields(Cells)})
        return command(cells=chosen, **options)

    for option in reversed(_CELLS):
        bundled = option(bundled)
    return bundled


def together(command: Callable) -> Callable:
    """Add to `command` what says which processes train together, as one argument `together`."""

    @functools.wraps(command)
    def bundled(**options: Any) -> Any:
        names = ("devices", "num_nodes", "strategy", "checkpoint")
        return command(together={name: options.pop(name) for name in names}, **options)

    for option in reversed(_DEVICES):
        bundled = option(bundled)
    return bundled


def method(command: Callable) -> Callable:
    """Add to `command` the options that say which method, as one argument `method`."""

    @functools.wraps(command)
    def resolved(*, method: str, sigma: float | None, **options: Any) -> Any:
        from cellflow.tl.fit import resolve_method

        return command(method=resolve_method(method, sigma), **options)

    for option in reversed(_METHOD):
        resolved = option(resolved)
    return resolved


def new_folder(text: str) -> Callable:
    """Return the option ``--out``, a folder that does not exist yet, explained by `text`."""
    return click.option(
        "--out",
        type=PATH,
        required=True,
        metavar="DIR",
        callback=files.check_new_folder,
        help=text,
    )


solver = click.option(
    "--solver",
    type=click.Choice(SOLVERS),
    default="rk4",
    show_default=True,
    help="Mean flow, or with euler_maruyama and sra1 random paths of a bridge.",
)
