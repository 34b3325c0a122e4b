"""A fit as a folder: facts in JSON, numbers in safetensors, nothing pickled.

An ensemble is a folder of such folders, which share the cells beside them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from cellflow import _checks
from cellflow._store import read_state, write_state
from cellflow._typing import Tensor
from cellflow.methods.ensemble import Ensemble
from cellflow.methods.fit import Fit
from cellflow.methods.flow_matching import FlowMatching
from cellflow.methods.iterated import Iterated
from cellflow.methods.networks import assemble, build_networks
from cellflow.methods.recipe import describe, parts
from cellflow.methods.shooting import Shooting
from cellflow.nets import Units
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training import History

#: Raised when the layout of the folder changes.
FORMAT = 2
#: The files of a fit and of an ensemble.
_FIT, _NUMBERS, _ENSEMBLE, _CELLS = (
    "fit.json",
    "tensors.safetensors",
    "ensemble.json",
    "cells.safetensors",
)
#: Classes of methods that a file can name.
KINDS = {kind.__name__: kind for kind in (FlowMatching, Iterated, Shooting)}
#: What reading stumbles over where a file is missing, cut short, or was edited.
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, StopIteration)


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
        write_state(place / _CELLS, _cells(ensemble.members[0]), {})
        for k, fit in enumerate(ensemble.members):
            (place / f"member-{k}").mkdir()
            _write(fit, place / f"member-{k}", {})
        facts = {"format": FORMAT, "seeds": ensemble.seeds, "bootstrap": ensemble.bootstrap}
        (place / _ENSEMBLE).write_text(json.dumps(facts, indent=2), encoding="utf-8")

    return _whole_folder(Path(folder), write)


def _write(fit: Fit, folder: Path, cells: dict[str, Tensor]) -> None:
    write_state(folder / _NUMBERS, _tensors(fit) | cells, {})
    text = json.dumps(_facts(fit), indent=2, ensure_ascii=False)
    (folder / _FIT).write_text(text, encoding="utf-8")


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


def load(folder: str | Path, *, device: torch.device | str = "cpu") -> Fit | Ensemble:
    """Read a fit or an ensemble that was saved, without the AnnData it came from.

    Parameters
    ----------
    folder
        What :meth:`Fit.save` or :meth:`Ensemble.save` wrote, or a member of the latter.
    device
        Where to put it.

    Returns
    -------
    Fit or Ensemble
        What predicts exactly as the saved one did.

    Raises
    ------
    FileNotFoundError
        If the folder holds no fit.
    ValueError
        If it was written by a newer version, is damaged, or the device is not there.
    """
    folder = Path(folder)
    place = _checks.as_device(device, torch.device("cpu"))
    if (folder / _ENSEMBLE).is_file():
        facts, shared = _read(folder, _ENSEMBLE, _CELLS, place)
        names = [f"member-{k}" for k in range(len(facts["seeds"]))]
        fits = [_fit(folder / name, place, shared) for name in names]
        fits = [replace(fit, course=fits[0].course) for fit in fits]
        return Ensemble(tuple(fits), tuple(facts["seeds"]), facts["bootstrap"])
    if not (folder / _FIT).is_file():
        raise FileNotFoundError(
            _checks.message("folder", f"{str(folder)!r}", "a folder written by `fit.save`")
        )
    return _fit(folder, place, {})


def _fit(folder: Path, place: torch.device, cells: dict[str, Tensor]) -> Fit:
    """Read a fit; its `cells` too, from itself or from the ensemble around it."""
    facts, tensors = _read(folder, _FIT, _NUMBERS, place)
    try:
        if not cells and "x/0" not in tensors:
            cells, _ = read_state(folder.resolve().parent / _CELLS)
            cells = {name: tensor.to(place) for name, tensor in cells.items()}
        return _build(facts, tensors | cells)
    except _DAMAGE as error:
        raise _damaged(folder, error) from error


def _read(
    folder: Path, facts_file: str, tensors_file: str, place: torch.device
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read both files of a folder."""
    try:
        facts = json.loads((folder / facts_file).read_text(encoding="utf-8"))
        layout = facts.get("format")
        if layout == FORMAT:
            tensors, _ = read_state(folder / tensors_file)
            return facts, {name: tensor.to(place) for name, tensor in tensors.items()}
    except _DAMAGE as error:
        raise _damaged(folder, error) from error
    remedy = "It is of another version of cellflow: load it with that one, or fit again."
    raise ValueError(_checks.message("folder", f"format {layout}", f"format {FORMAT}", remedy))


def _damaged(folder: Path, error: Exception) -> ValueError:
    got = f"{str(folder)!r}, not a readable fit ({type(error).__name__}: {error})"
    return ValueError(_checks.message("folder", got, "one written by `fit.save`"))


def _build(facts: dict[str, Any], tensors: dict[str, Tensor]) -> Fit:
    method = _method(facts["method"])
    units = Units(**{**facts["units"], "centre": tuple(facts["units"]["centre"])})
    networks = build_networks(method, units)
    for name, network in networks.items():
        weights = _under(name, tensors)
        network.to(next(iter(weights.values()))).load_state_dict(weights)
    snapshots = [
        Snapshot(
            tensors[f"x/{k}"],
            time,
            tensors[f"mass/{k}"],
            facts["labels"][k],
            tensors.get(f"prior/{k}"),
        )
        for k, time in enumerate(facts["times"])
    ]
    affine, genes = (_under(name, tensors) for name in ("preprocessing", "components"))
    return Fit(
        assemble(method, networks, facts["times"]),
        method,
        TimeCourse(tuple(snapshots), facts["unit"]),
        networks,
        preprocessing=Preprocessing(**affine) if affine else None,
        history=History(**facts["history"]),
        origin=facts["origin"] | ({"components": Preprocessing(**genes)} if genes else {}),
    )


def _method(facts: dict[str, Any]) -> Any:
    facts = dict(facts)
    kind = KINDS.get(facts.get("kind"), FlowMatching)
    inner = {
        field: _method(facts.pop(field))
        for field, part in list(facts.items())
        if isinstance(part, dict) and part.get("kind") in KINDS
    }
    return kind(**parts(facts), **inner)


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


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        k.removeprefix(f"{prefix}/"): v for k, v in tensors.items() if k.startswith(f"{prefix}/")
    }


def _strangers(folder: Path) -> bool:
    """Whether the folder holds anything that a fit or an ensemble does not consist of."""
    names = {f.name for f in folder.iterdir()}
    known = {_FIT, _NUMBERS}
    if _ENSEMBLE in names:
        known = {_ENSEMBLE, _CELLS, *(f"member-{k}" for k in range(len(names)))}
    return not names <= known
