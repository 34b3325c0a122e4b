"""The command line: ``cellflow demo``, ``fit``, ``interpolate``, ``holdout``, ``fates`` and others.

Progress goes to standard error and results to standard output. Exit code 2 with one line says what
was wrong with the input, 130 that Ctrl-C was pressed; anything else keeps its traceback.
"""

from cellflow.cli.commands import main

__all__ = ["main"]
