"""A fit as a folder: facts in JSON, numbers in safetensors, nothing pickled.

An ensemble is a folder of such folders, which share the cells beside them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellflow import _checks
from cellflow._files import write_state
from cellflow._typing import Tensor
from cellflow.fits.facts import describe

if TYPE_CHECKING:
    from cellflow.fits.ensemble import Ensemble
    from cellflow.fits.fit import Fit

#: Raised when the layout of the folder changes.
FORMAT = 2
#: The files of a fit and of an ensemble.
FIT, NUMBERS, ENSEMBLE, CELLS = (
    "fit.json",
    "tensors.safetensors",
    "ensemble.json",
    "cells.safetensors",
)


def save(fit: Fit, folder: str | Path) -> Path:
    """Write a fit to a folder, whole or not at all.

    Parameters
    ----------
    fit
        The fit to save.
    folder
        A folder that does not exist, is empty, or holds an earlier fit, which is replaced.

    Returns
    -------
    The folder.

    Raises
    ------
    FileExistsError
        If the folder holds anything else.
    """
    return _whole_folder(Path(folder), lambda place: _write(fit, place, _cells(fit)))


def save_ensemble(ensemble: Ensemble, folder: str | Path) -> Path:
    """Write an ensemble to a folder, whole or not at all; the cells are written once.

    Parameters
    ----------
    ensemble
        The fits to save.
    folder
        As in :func:`save`. A folder in it, such as ``member-0``, is a fit that :func:`load` reads.

    Returns
    -------
    The folder.

    Raises
    ------
    FileExistsError
        If the folder holds anything else.
    """

    def write(place: Path) -> None:
        write_state(place / CELLS, _cells(ensemble.members[0]), {})
        for k, fit in enumerate(ensemble.members):
            (place / f"member-{k}").mkdir()
            _write(fit, place / f"member-{k}", {})
        facts = {"format": FORMAT, "seeds": ensemble.seeds, "bootstrap": ensemble.bootstrap}
        (place / ENSEMBLE).write_text(json.dumps(facts, indent=2), encoding="utf-8")

    return _whole_folder(Path(folder), write)


def _write(fit: Fit, folder: Path, cells: dict[str, Tensor]) -> None:
    write_state(folder / NUMBERS, _tensors(fit) | cells, {})
    text = json.dumps(_facts(fit), indent=2, ensure_ascii=False)
    (folder / FIT).write_text(text, encoding="utf-8")


def _whole_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a new folder, which takes the place of `folder` if all goes well."""
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or _strangers(folder)):
        raise FileExistsError(
            _checks.message(
                "folder", f"{str(folder)!r}, which holds other things", "a new or empty folder"
            )
        )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(temporary, folder)
        except OSError:
            if old.exists():
                os.replace(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _tensors(fit: Fit) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, network in fit.networks.items():
        out |= {f"{name}/{k}": v for k, v in network.state_dict().items()}
    maps = {"preprocessing": fit.preprocessing, "components": fit.origin.get("components")}
    for name, p in maps.items():
        if p is not None:
            parts = {"mean": p.mean, "scale": p.scale, "loadings": p.loadings}
            out |= {f"{name}/{k}": v for k, v in parts.items() if v is not None}
    return out


def _cells(fit: Fit) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for k, snapshot in enumerate(fit.course.snapshots):
        out |= {f"x/{k}": snapshot.x, f"mass/{k}": snapshot.mass}
        if snapshot.growth is not None:
            out[f"prior/{k}"] = snapshot.growth
    return out


def _facts(fit: Fit) -> dict[str, Any]:
    labels = [None if s.labels is None else list(s.labels) for s in fit.course.snapshots]
    return {
        "format": FORMAT,
        "method": describe(fit.method),
        "units": asdict(fit.networks["velocity"].units),  # type: ignore[call-overload] # an MLP
        "times": list(fit.course.times),
        "unit": fit.course.unit,
        "labels": labels,
        "origin": {k: v for k, v in fit.origin.items() if k != "components"},
        "history": asdict(fit.history),
    }


def _strangers(folder: Path) -> bool:
    """Whether the folder holds anything that a fit or an ensemble does not consist of."""
    names = {f.name for f in folder.iterdir()}
    known = {FIT, NUMBERS}
    if ENSEMBLE in names:
        known = {ENSEMBLE, CELLS, *(f"member-{k}" for k in range(len(names)))}
    return not names <= known
