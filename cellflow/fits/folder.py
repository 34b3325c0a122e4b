"""A fit as a folder: facts in JSON, numbers in safetensors, nothing pickled.

An ensemble is a folder of such folders, which share the cells beside them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from cellflow import _checks
from cellflow._files import whole_folder, write_state
from cellflow._typing import Tensor
from cellflow.fits.facts import FittedMethod, to_facts
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import TimeCourse
from cellflow.training.trainer import History

#: Raised when the layout of the folder changes.
FORMAT = 2
#: The files of a fit and of an ensemble.
FIT, NUMBERS, ENSEMBLE, CELLS = (
    "fit.json",
    "tensors.safetensors",
    "ensemble.json",
    "cells.safetensors",
)


class _Fit(Protocol):
    """What a folder holds of a fit."""

    @property
    def method(self) -> FittedMethod: ...
    @property
    def course(self) -> TimeCourse: ...
    @property
    def networks(self) -> nn.ModuleDict: ...
    @property
    def preprocessing(self) -> Preprocessing | None: ...
    @property
    def history(self) -> History: ...
    @property
    def origin(self) -> dict[str, Any]: ...


def save_fit(fit: _Fit, folder: str | Path) -> Path:
    """Write a fit to a folder, whole or not at all, and return it."""
    folder = _replaceable(folder)
    with whole_folder(folder) as place:
        _write(fit, place, _cells(fit))
    return folder


def save_ensemble(
    fits: Sequence[_Fit], folder: str | Path, *, seeds: Sequence[int], bootstrap: bool
) -> Path:
    """Write an ensemble of `fits` to a folder, whole or not at all; the cells are written once."""
    folder = _replaceable(folder)
    with whole_folder(folder) as place:
        write_state(place / CELLS, _cells(fits[0]), {})
        for k, fit in enumerate(fits):
            (place / f"member-{k}").mkdir()
            _write(fit, place / f"member-{k}", {})
        facts = {"format": FORMAT, "seeds": list(seeds), "bootstrap": bootstrap}
        (place / ENSEMBLE).write_text(json.dumps(facts, indent=2), encoding="utf-8")
    return folder


def _write(fit: _Fit, folder: Path, cells: dict[str, Tensor]) -> None:
    write_state(folder / NUMBERS, _tensors(fit) | cells, {})
    text = json.dumps(_facts(fit), indent=2, ensure_ascii=False)
    (folder / FIT).write_text(text, encoding="utf-8")


def _replaceable(folder: str | Path) -> Path:
    """Return the whole path of `folder`, which holds nothing but a fit or an ensemble, if that."""
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or _strangers(folder)):
        got = f"{str(folder)!r}, which holds other things"
        raise FileExistsError(_checks.message("folder", got, "a new or empty folder"))
    return folder


def _tensors(fit: _Fit) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, network in fit.networks.items():
        out |= {f"{name}/{k}": v for k, v in network.state_dict().items()}
    maps = {"preprocessing": fit.preprocessing, "components": fit.origin.get("components")}
    for name, p in maps.items():
        if p is not None:
            parts = {"mean": p.mean, "scale": p.scale, "loadings": p.loadings}
            out |= {f"{name}/{k}": v for k, v in parts.items() if v is not None}
    return out


def _cells(fit: _Fit) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for k, snapshot in enumerate(fit.course.snapshots):
        out |= {f"x/{k}": snapshot.x, f"mass/{k}": snapshot.mass}
        if snapshot.growth is not None:
            out[f"prior/{k}"] = snapshot.growth
    return out


def _facts(fit: _Fit) -> dict[str, Any]:
    labels = [None if s.labels is None else list(s.labels) for s in fit.course.snapshots]
    return {
        "format": FORMAT,
        "method": to_facts(fit.method),
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
