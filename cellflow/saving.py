"""Read what was saved: a fit, an ensemble or a matching."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cellflow import _checks, _doors
from cellflow._files import read_state, recover
from cellflow._typing import Tensor
from cellflow.clock import Clock
from cellflow.conditions import Conditions
from cellflow.densities import FittedDensity
from cellflow.densities import from_facts as density_of
from cellflow.fits import folder as files
from cellflow.fits.ensemble import Ensemble
from cellflow.fits.fit import Fit
from cellflow.methods import BaseMatching, DirectMatching, FlowMatching, Matching
from cellflow.methods.generative import FittedGenerative
from cellflow.methods.method import Method, kinds
from cellflow.networks import NetworkLike, OwnNetworks, Units
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training.networks import assemble, build_networks
from cellflow.training.trainer import History

#: What reading stumbles over where a file is missing, cut short, or was edited.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)


@_doors.door
def load(
    folder: str | Path, *, device: torch.device | str = "cpu", net: NetworkLike | None = None
) -> Fit | Ensemble | Matching:
    """Read a fit, an ensemble or a matching that was saved, without the AnnData it came from.

    It predicts exactly as the saved one did.

    The `folder` is what :meth:`Fit.save`, :meth:`Ensemble.save` or :meth:`Matching.save` wrote, or
    a member of an ensemble, and `device` is where to put it. What the method was given as `net` is
    wanted if that was the user's own: a folder holds the weights of such networks, but not their
    code.
    """
    folder = Path(folder)
    recover(folder)
    place = _checks.as_device(device, torch.device("cpu"))
    if (folder / files.ENSEMBLE).is_file():
        facts, shared = _read(folder, files.ENSEMBLE, files.CELLS, place)
        with _undamaged(folder):
            seeds = tuple(_checks.count(seed, "seeds", low=0) for seed in facts["seeds"])
            bootstrap = bool(facts["bootstrap"])
        names = [f"member-{k}" for k in range(len(seeds))]
        fits = [_fit(folder / name, place, shared, net) for name in names]
        fits = [replace(fit, course=fits[0].course) for fit in fits]
        return Ensemble(tuple(fits), seeds, bootstrap)
    if (folder / files.MATCH).is_file():
        return _matching(folder, place, net)
    if not (folder / files.FIT).is_file():
        got, expected = f"{str(folder)!r}", "a folder written by `fit.save`"
        raise FileNotFoundError(_checks.message("folder", got, expected))
    return _fit(folder, place, {}, net)


def _fit(
    folder: Path, place: torch.device, cells: dict[str, Tensor], net: NetworkLike | None
) -> Fit:
    """Read a fit; its `cells` too, from itself or from the ensemble around it."""
    facts, tensors = _read(folder, files.FIT, files.NUMBERS, place)
    with _undamaged(folder):
        method = files.from_facts(
            facts["method"], kinds(), FlowMatching, given={} if net is None else {"net": net}
        )
        own = method.parts.net
    if isinstance(own, OwnNetworks) and isinstance(own.net, files.Unsaved):
        got, remedy = "none", "Call load(folder, net=...) with what the method was given."
        expected = f"the fit's own network, {own.net.text}, which is code"
        raise ValueError(_checks.message("net", got, expected, remedy))
    with _undamaged(folder):
        if not cells and "x/0" not in tensors:
            cells, _ = read_state(folder.resolve().parent / files.CELLS)
            cells = {name: tensor.to(place) for name, tensor in cells.items()}
        return _build(method, facts, tensors | cells)


def _matching(folder: Path, place: torch.device, net: NetworkLike | None) -> Matching:
    """Read a matching: one fit, or a model of each side and the cells beside them."""
    if (folder / files.WHOLE).is_dir():
        return DirectMatching(_fit(folder / files.WHOLE, place, {}, net))
    _, cells = _read(folder, files.MATCH, files.CELLS, place)
    source, target = (_model(folder / side, place, net) for side in files.SIDES)
    with _undamaged(folder):
        xs, masses = ([cells[f"{name}/{k}"] for k in (0, 1)] for name in ("x", "mass"))
        return BaseMatching(source, target, TimeCourse.from_arrays(xs, masses=masses))


def _model(
    path: Path, place: torch.device, net: NetworkLike | None
) -> FittedDensity | FittedGenerative:
    """Read a model of one side: a fit of its own, or a density's file."""
    if path.is_dir():
        return FittedGenerative(_fit(path, place, {}, net))
    with _undamaged(path.parent):
        tensors, facts = read_state(path)
        return density_of(facts, {name: tensor.to(place) for name, tensor in tensors.items()})


def _read(
    folder: Path, facts_file: str, tensors_file: str, place: torch.device
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read both files of a folder."""
    with _undamaged(folder):
        facts = json.loads((folder / facts_file).read_text(encoding="utf-8"))
        layout = facts.get("format")
        if layout == files.FORMAT:
            tensors, _ = read_state(folder / tensors_file)
            return facts, {name: tensor.to(place) for name, tensor in tensors.items()}
    remedy = "It is of another version of cellflow: load it with that one, or fit again."
    raise ValueError(
        _checks.message("folder", f"format {layout!r}", f"format {files.FORMAT}", remedy)
    )


@contextmanager
def _undamaged(folder: Path) -> Iterator[None]:
    """Say that `folder` is damaged where reading stumbles."""
    try:
        yield
    except _DAMAGE as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        got = f"{str(folder)!r}, not a readable fit ({why})"
        raise ValueError(_checks.message("folder", got, "one written by `fit.save`")) from error


def _build(method: Method, facts: dict[str, Any], tensors: dict[str, Tensor]) -> Fit:
    told = facts.get("conditions")  # earlier fits had none
    conditions = None if told is None else Conditions.from_facts(told)
    units = Units(**{name: _numbers(value, name) for name, value in facts["units"].items()})
    units = replace(units, features=0 if conditions is None else conditions.features)
    networks = build_networks(method.parts, units)
    for name, network in networks.items():
        weights = _under(name, tensors)
        like = next(w for w in weights.values() if w.is_floating_point())
        if any(w.dtype != like.dtype for w in weights.values() if w.is_floating_point()):
            raise ValueError(f"weights of {name!r} in several types")
        network.to(like).eval().load_state_dict(weights)
    snapshots = []
    for k, (time, labels) in enumerate(zip(facts["times"], facts["labels"], strict=True)):
        x, mass = tensors[f"x/{k}"], tensors[f"mass/{k}"]
        rest = (tensors.get(f"{name}/{k}") for name in ("prior", "condition", "reference"))
        snapshots.append(Snapshot(x, time, mass, labels, *rest))
    course, clock = TimeCourse(tuple(snapshots), facts["unit"], conditions), None
    if facts.get("clock"):  # earlier fits had none
        clock = Clock(**facts["clock"])
    model = course if clock is None else clock.retime(course)
    affine, genes = (_under(name, tensors) for name in ("preprocessing", "components"))
    prep = Preprocessing(**affine) if affine else None
    origin = facts["origin"] | ({"components": Preprocessing(**genes)} if genes else {})
    learned = assemble(method.parts, networks, model.times), method, course, networks
    fit = Fit(*learned, prep, History(**facts["history"]), origin=origin, clock=clock)
    _check_whole(fit, units, tensors)
    return fit


def _check_whole(fit: Fit, units: Units, tensors: dict[str, Tensor]) -> None:
    """Refuse a fit whose parts do not belong together, or are no numbers: it was edited."""
    for name in ("scale", "span"):
        _checks.number(getattr(units, name), f"units.{name}", low=0.0, open_low=True)
    for name, tensor in tensors.items():
        code = name.startswith("condition/")
        if tensor.is_floating_point() == code or not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name!r} has other entries than finite numbers")
    surplus = set(tensors) - set(files.tensors_of(fit) | files.cells_of(fit.course))
    if surplus:
        raise ValueError(f"{min(surplus)!r} belongs to nothing that {files.FIT!r} tells of")
    dim, maps, genes = fit.course.dim, [], fit.origin.get("components")
    maps.append(("preprocessing", fit.preprocessing, (dim, len(units.centre))))
    if genes is not None:
        maps.append(("components", genes, (len(fit.origin["var_names"]), dim)))
    for name, found, ends in maps:
        have = (dim, dim) if found is None else (len(found.mean), len(found.scale))
        if have != ends:
            raise ValueError(f"{name} from {have[0]} to {have[1]} dimensions, not {ends}")
    if "time_key" in fit.origin and "labels" not in fit.origin:
        raise ValueError("a column of times, and no labels in it")
    for name in ("use_rep", "time_key", "label_key", "mass_key"):
        if fit.origin.get(name) is not None:
            _checks.key(fit.origin[name], f"origin.{name}")
    if fit.clock is not None and fit.clock.times != fit.course.times:
        raise ValueError(f"a clock of times {fit.clock.times}, not {fit.course.times}")


def _numbers(value: Any, name: str) -> Any:
    """Return what JSON holds of a setting of units: a number, or several."""
    if isinstance(value, list):
        return tuple(_checks.number(v, f"units.{name}") for v in value)
    return _checks.number(value, f"units.{name}")


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix += "/"
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
