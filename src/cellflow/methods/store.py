"""A fit as a folder: facts in JSON, numbers in safetensors, nothing pickled."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cellflow import _checks
from cellflow._store import read_state, write_state
from cellflow._typing import Tensor
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
    folder = Path(folder).resolve()
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
        write_state(temporary / "tensors.safetensors", _tensors(fit), {})
        text = json.dumps(_facts(fit), indent=2, ensure_ascii=False)
        (temporary / "fit.json").write_text(text, encoding="utf-8")
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


def load(folder: str | Path, *, device: torch.device | str = "cpu") -> Fit:
    """Read a fit that was saved, without the AnnData it came from.

    Parameters
    ----------
    folder
        What :meth:`Fit.save` wrote.
    device
        Where to put it.

    Returns
    -------
    Fit
        A fit that predicts exactly what the saved one did.

    Raises
    ------
    FileNotFoundError
        If the folder holds no fit.
    ValueError
        If it was written by a newer version, is damaged, or the device is not there.
    """
    folder = Path(folder)
    if not (folder / "fit.json").is_file():
        raise FileNotFoundError(
            _checks.message("folder", f"{str(folder)!r}", "a folder written by `fit.save`")
        )
    place = _checks.as_device(device, torch.device("cpu"))
    try:
        facts = json.loads((folder / "fit.json").read_text(encoding="utf-8"))
        layout = facts.get("format")
        if layout == FORMAT:
            tensors, _ = read_state(folder / "tensors.safetensors")
            return _build(facts, {name: tensor.to(place) for name, tensor in tensors.items()})
    except _DAMAGE as error:
        got = f"{str(folder)!r}, not a readable fit ({type(error).__name__}: {error})"
        raise ValueError(_checks.message("folder", got, "one written by `fit.save`")) from error
    remedy = "It is of another version of cellflow: load it with that one, or fit again."
    raise ValueError(_checks.message("folder", f"format {layout}", f"format {FORMAT}", remedy))


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
    affine = _under("preprocessing", tensors)
    return Fit(
        assemble(method, networks, facts["times"]),
        method,
        TimeCourse(tuple(snapshots), facts["unit"]),
        networks,
        preprocessing=Preprocessing(**affine) if affine else None,
        history=History(**facts["history"]),
        origin=facts["origin"],
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
    for k, snapshot in enumerate(fit.course.snapshots):
        out |= {f"x/{k}": snapshot.x, f"mass/{k}": snapshot.mass}
        if snapshot.growth is not None:
            out[f"prior/{k}"] = snapshot.growth
    if fit.preprocessing is not None:
        p = fit.preprocessing
        out |= {"preprocessing/mean": p.mean, "preprocessing/scale": p.scale}
        if p.loadings is not None:
            out["preprocessing/loadings"] = p.loadings
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
        "origin": fit.origin,
        "history": asdict(fit.history),
    }


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        k.removeprefix(f"{prefix}/"): v for k, v in tensors.items() if k.startswith(f"{prefix}/")
    }


def _strangers(folder: Path) -> bool:
    return any(f.name not in {"fit.json", "tensors.safetensors"} for f in folder.iterdir())
