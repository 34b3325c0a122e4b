"""Tables of this repository by name: what ``cellflow reproduce`` runs, from the root of a checkout.

cellflow reproduce planar --seeds 1
cellflow reproduce sf2m eb bundled
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import click

ROOT = Path(__file__).parent
#: Files of tables by name: those of these folders that have a command.
TABLES = {
    path.stem: path
    for folder in ("accuracy", "answers", "conditions", "family", "speed")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "\ndef main(" in path.read_text(encoding="utf8")
}
TABLES["otcfm"] = ROOT / "accuracy" / "protocols.py"  # the paper's whole protocol


def about(path: Path) -> str:
    """What a file says of itself in its first line."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf8"))) or "").split("\n")[0]


def command_of(table: str) -> click.Command:
    """The command that prints `table`."""
    path = TABLES[table]
    try:
        module = import_module(f"{path.parent.name}.{path.stem}")
    except ModuleNotFoundError as error:
        text = f"{table} needs {error.name}, which is not there. "
        raise click.UsageError(text + 'Peers come with: pip install -e ".[bench]"') from error
    if table == "otcfm":
        return module.reproduce
    module.main.help = "\n\n".join(f"\b\n{part}" for part in (module.__doc__ or "").split("\n\n"))
    return module.main


LISTED = "".join(f"{name:<16}{about(path)}\n" for name, path in TABLES.items())


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=f"\b\nTables:\n{LISTED}",
)
@click.argument("table", type=click.Choice(list(TABLES)), metavar="TABLE")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def main(context: click.Context, table: str, words: tuple[str, ...]) -> None:
    """Print a TABLE of the repository anew, with the options that TABLE --help lists."""
    program = f"{context.command_path} {table}"
    command_of(table).main(words, prog_name=program, standalone_mode=False)


if __name__ == "__main__":
    main()
