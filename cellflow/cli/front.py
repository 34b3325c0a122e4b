"""Group of all commands: one line for an error, exit codes, warnings of this package alone."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

BAD_INPUT, INTERRUPTED = 2, 130

#: Arguments of Python functions whose option has another name.
_OPTIONS = {
    "n_components": "--dims",
    "methods": "--method",
    "store": "--out",
    "path": "--path",
    "folder": "DIR",
    "genes": "GENE...",
}
#: Remedies that no option of the commands offers.
_REMEDIES = {
    "Pass their times: time_map=": "From Python, pass time_map=",
    "Pass time_map=": "From Python, pass time_map=",
    "Set missing='drop'": "Set --missing drop",
    "Give `checkpoint`": "Give --checkpoint",
}
# The phrasing that all checks of the package share; see `cellflow._checks.message`.
_PHRASED = re.compile(r"`(?P<name>[^`]+)`: got .*, expected ", re.DOTALL)
_PACKAGE = str(Path(__file__).parents[1])


class Command(click.Command):
    """A command that does not write over what it reads, or one output over another."""

    def invoke(self, context: click.Context) -> Any:
        """Run it."""
        read: list[tuple[str, Path]] = []
        written: list[tuple[str, Path]] = []
        for parameter in self.params:
            path = context.params.get(parameter.name or "")
            if isinstance(path, Path):
                side = read if isinstance(parameter, click.Argument) else written
                side.append((parameter.opts[-1], path.resolve()))
        for k, (name, path) in enumerate(written):
            for other, place in [*read, *written[:k]]:
                if path == place or (other == "folder" and place in path.parents):
                    what = "is read" if (other, place) in read else f"is that of {other}"
                    raise click.BadParameter(f"{str(path)!r} {what}.", param_hint=f"'{name}'")
        return super().invoke(context)


class Front(click.Group):
    """A group of commands that answers bad input with one line on standard error."""

    command_class = Command

    def main(  # type: ignore[override] # the same but for its overloads
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        *,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
    ) -> Any:
        """Run and exit, as :meth:`click.Command.main` does; bad input is one line."""

        def run() -> Any:
            return super(Front, self).main(
                args,
                prog_name or "cellflow",
                complete_var=complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
            )

        if not standalone_mode:
            return run()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # names of files are any bytes
        try:
            with quiet_neighbours():
                code = run()
        except click.Abort as stop:
            if isinstance(stop.__context__, EOFError):  # click takes it for Ctrl-C: it is not
                raise stop.__context__ from None
            click.echo("Interrupted.", err=True)
            code = INTERRUPTED
        except Exception as error:
            # Options of all commands, by the arguments of Python functions that they set.
            given = [p for command in self.commands.values() for p in command.params if p.name]
            spelled = {str(p.name): p.opts[-1] for p in given if isinstance(p, click.Option)}
            line = as_one_line(error, spelled | _OPTIONS)
            if line is None:
                raise
            click.echo(f"Error: {line}", err=True)
            code = BAD_INPUT
        sys.exit(code if isinstance(code, int) else 0)


def as_one_line(error: Exception, options: Mapping[str, str] = _OPTIONS) -> str | None:
    """Phrase `error` for a user in one line, arguments as `options`; None for a bug."""
    if isinstance(error, click.ClickException):
        text, context = error.format_message(), getattr(error, "ctx", None)
        if context is not None:
            text = f"{text} See '{context.command_path} --help'."
    elif isinstance(error, OSError) and not _PHRASED.match(str(error)):
        text = error.strerror or f"A file cannot be read ({error})."  # in the words of HDF5
        text = f"{text}: {error.filename}" if error.filename else text
    else:
        text = str(error.args[0]) if error.args else ""
        worded = ("FloatingPointError", "IntegrationError", "RankLost")
        if type(error).__name__ in worded:
            pass  # the data, the settings or the machine, in words already
        elif not _PHRASED.match(text):
            return None
        name = text[1:].partition("`")[0]
        text = text.replace(f"`{name}`", options.get(name, f"`{name}`"), 1)
        for remedy, elsewhere in _REMEDIES.items():
            text = text.replace(remedy, elsewhere)
    return " ".join(text.split())


@contextmanager
def quiet_neighbours() -> Iterator[None]:
    """Show our own warnings as one line each on standard error, and no others."""

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if str(filename).startswith(_PACKAGE):
            click.echo(f"Warning: {' '.join(str(message).split())}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show
        yield
