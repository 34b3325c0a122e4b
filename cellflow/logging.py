"""What the package says: how much, through which logger, and of which versions it is made."""

from __future__ import annotations

import logging
import os
import platform
import sys
from enum import IntEnum
from importlib import metadata
from typing import TextIO

from cellflow import _checks
from cellflow.__about__ import __version__

__all__ = ["Verbosity", "Settings", "versions", "print_versions"]

#: Distributions of which a report should tell the version, where they are installed.
_TOLD = (
    *("numpy", "scipy", "pandas", "torchdyn", "pot", "numba", "scikit-learn", "anndata", "scanpy"),
    *("matplotlib", "zarr", "zuko", "torchgfn", "cellrank", "scvelo"),
)


class Verbosity(IntEnum):
    """How much is said: ``error`` (0), ``warning``, ``info``, ``hint`` or ``debug`` (4).

    Each level adds to those before it: from ``warning`` on there are progress bars, from ``info``
    on words beside them. Warnings are Python's own, which its filters silence, and errors are
    raised: neither depends on this.
    """

    error = 0
    warning = 1
    info = 2
    hint = 3
    debug = 4

    @property
    def level(self) -> int:
        """The level of :mod:`logging` that it stands for."""
        return (logging.ERROR, logging.WARNING, logging.INFO, 15, logging.DEBUG)[self]


class Settings:
    """Settings of the package: ``cf.settings.verbosity = "error"``."""

    __slots__ = ()  # a misspelled name is an error

    @property
    def verbosity(self) -> Verbosity:
        """How much is said: a :class:`Verbosity`, its name or its number; ``info`` at the start."""
        return max(v for v in Verbosity if v.level >= _LOGGER.level or v == Verbosity.error)

    @verbosity.setter
    def verbosity(self, value: Verbosity | int | str) -> None:
        if not isinstance(value, str):
            _checks.count(value, "verbosity", low=0, high=max(Verbosity))
            _LOGGER.setLevel(Verbosity(value).level)
            return
        name = _checks.choice(value, Verbosity.__members__, "verbosity")
        _LOGGER.setLevel(Verbosity[name].level)

    def __repr__(self) -> str:
        return f"Settings(verbosity={self.verbosity.name!r})"


class _Said(logging.Handler):
    """Writes to standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm.auto import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


_LOGGER = logging.getLogger("cellflow")
logging.addLevelName(Verbosity.hint.level, "HINT")
if not _LOGGER.handlers:
    _LOGGER.addHandler(_Said())
    _LOGGER.propagate = False  # or a handler of the root would say it again
if _LOGGER.level == logging.NOTSET:
    _LOGGER.setLevel(Verbosity.info.level)

#: Those in force, as ``cf.settings``.
settings = Settings()


def shown(progress: bool | None) -> bool:
    """Whether to show bars: as `progress` says, as the verbosity says where it is None."""
    return settings.verbosity >= Verbosity.warning if progress is None else bool(progress)


def say(text: str, *, show: bool | None = True, at: Verbosity = Verbosity.info) -> None:
    """Log `text` `at` this verbosity unless `show`, as :func:`shown` reads it, says no."""
    if shown(show):
        _LOGGER.log(at.level, text)


def versions() -> dict[str, str]:
    """Versions of the package, of Python and of what it works with; device and threads."""
    import torch

    found = {"cellflow": __version__, "python": platform.python_version()}
    found["torch"] = torch.__version__
    for name in _TOLD:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    return found | {"system": platform.platform(), "device": device, "threads": threads}


def print_versions(*, file: TextIO | None = None) -> None:
    """Print :func:`versions` to a `file`, to standard output when omitted."""
    rows = versions()
    width = max(map(len, rows))
    lines = [f"{name:<{width}}  {version}\n" for name, version in rows.items()]
    (file or sys.stdout).write("".join(lines))
