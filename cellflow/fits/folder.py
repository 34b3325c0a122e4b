"""A fit as a folder: facts in JSON, numbers in safetensors, nothing pickled.

An ensemble is a folder of such folders, which share the cells beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from cellflow import _checks, paths
from cellflow._files import whole_folder, write_state
from cellflow._typing import Tensor
from cellflow.batches import Batching
from cellflow.clock import Clock
from cellflow.costs import COSTS
from cellflow.couplings.coupling import COUPLINGS, FunctionCoupling
from cellflow.networks import NETWORKS, OwnNetworks
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import TimeCourse
from cellflow.training.networks import FittedMethod
from cellflow.training.trainer import History, Training

T = TypeVar("T")
#: Raised when the layout of the folder changes.
FORMAT = 2
#: The files of a fit and of an ensemble.
FIT, NUMBERS = "fit.json", "tensors.safetensors"
ENSEMBLE, CELLS = "ensemble.json", "cells.safetensors"
#: The file of a matching, its one fit, and the models of its two sides.
MATCH, WHOLE, SIDES = "match.json", "fit", ("source", "target")


@dataclass(frozen=True)
class Unsaved:
    """Part of a loaded method that a file cannot hold, such as a precomputed plan: its `text`.

    The `diffusion` is that of a path.
    """

    text: str
    diffusion: float = 0.0
    needs_rates: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False
    source_free: ClassVar[bool] = False

    def __call__(
        self, *what: object, part: object = None, times: object = None, per_pair: object = None
    ) -> None:
        """Raise RuntimeError, whatever is asked: the part was not saved."""
        raise RuntimeError(f"{self.text} was not saved with this fit; build the method anew.")

    half_variance_rate = draw = by_cost = __call__


paths.Path.register(Unsaved)  # which may have been one


def _known() -> dict[str, type]:
    """Return the classes of parts that a file can name."""
    settings = (Batching, Training, Unsaved)
    registered = (*COUPLINGS.values(), *COSTS.values(), *paths.PATHS.values(), *NETWORKS.values())
    return {part.__name__: part for part in (*registered, *settings)}


def to_facts(method: FittedMethod) -> dict[str, Any]:
    """Return the parts of `method` as JSON-able facts; `from_facts` reads them."""
    out: dict[str, Any] = {"kind": type(method).__name__}
    known = _known()
    for name, part in _settings(method).items():
        if isinstance(part, FunctionCoupling):
            part = part.function
        if isinstance(part, OwnNetworks):
            part = part.shape or part.net
        kind = type(part).__name__
        if isinstance(part, str | bool | int | float):
            out[name] = part
        elif isinstance(part, FittedMethod):  # a method within a method
            out[name] = to_facts(part)
        elif known.get(kind) is type(part) and all(map(_is_json, _settings(part).values())):
            out[name] = {"kind": kind} | _settings(part)
        else:  # a part of the user's own: described, but not to be read back
            diffusion = part.diffusion if isinstance(part, paths.Path | Unsaved) else 0.0
            out[name] = {"kind": "Unsaved", "text": kind, "diffusion": diffusion}
    return out


def from_facts(
    facts: dict[str, Any],
    methods: Mapping[str, type[T]],
    default: type[T],
    *,
    given: Mapping[str, object] | None = None,
) -> T:
    """Build the method that :func:`to_facts` described, of one of the classes `methods`.

    Parts that were not saved are those `given`, by their names.
    """
    known: dict[str, type] = _known()

    def part(name: str, value: object) -> object:
        if not isinstance(value, dict):
            return value
        if value["kind"] in methods:
            return from_facts(value, methods, default, given=given)
        if value["kind"] == Unsaved.__name__ and given and name in given:
            return given[name]
        settings = {key: part(key, each) for key, each in value.items()}  # a cost, in a coupling
        return _build(known[_checks.choice(value["kind"], known, "kind")], settings)

    parts = {name: part(name, value) for name, value in facts.items()}
    kind = facts.get("kind")  # earlier fits had none
    made = default if kind is None else methods[_checks.choice(kind, methods, "kind")]
    return _build(made, parts)


def _build(kind: type[T], settings: Mapping[str, Any]) -> T:
    """Make a part; settings of an earlier version that were off, and are gone, are left out."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type] # all parts are dataclasses
    return kind(**{k: v for k, v in settings.items() if k in known or (v and k != "kind")})


def _settings(part: object) -> dict[str, Any]:
    """Return the fields of a dataclass, with numbers of numpy and torch as Python's own."""
    if not is_dataclass(part):
        return {}
    return {f.name: _plain(getattr(part, f.name)) for f in fields(part)}


def _plain(value: object) -> object:
    if isinstance(value, np.generic | torch.Tensor) and value.ndim == 0:
        return value.item()
    if type(value) in COSTS.values():
        return {"kind": type(value).__name__} | _settings(value)
    return value


def _is_json(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_json, value.values()))
    if isinstance(value, tuple | list):
        return all(map(_is_json, value))
    return value is None or isinstance(value, str | bool | int | float)


# --- writing ---------------------------------------------------------------------------------


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
    @property
    def clock(self) -> Clock | None: ...


def save_fit(fit: _Fit, folder: str | Path) -> Path:
    """Write a fit to a folder, whole or not at all, and return it."""
    folder = replaceable(folder)
    with whole_folder(folder) as place:
        _write(fit, place, cells_of(fit.course))
    return folder


def save_ensemble(
    fits: Sequence[_Fit], folder: str | Path, *, seeds: Sequence[int], bootstrap: bool
) -> Path:
    """Write an ensemble of `fits` to a folder, whole or not at all; the cells are written once."""
    folder = replaceable(folder)
    with whole_folder(folder) as place:
        write_state(place / CELLS, cells_of(fits[0].course), {})
        for k, fit in enumerate(fits):
            (place / f"member-{k}").mkdir()
            _write(fit, place / f"member-{k}", {})
        facts = {"format": FORMAT, "seeds": list(seeds), "bootstrap": bootstrap}
        (place / ENSEMBLE).write_text(json.dumps(facts, indent=2), encoding="utf-8")
    return folder


def _write(fit: _Fit, folder: Path, cells: dict[str, Tensor]) -> None:
    write_state(folder / NUMBERS, tensors_of(fit) | cells, {})
    text = json.dumps(_facts(fit), indent=2, ensure_ascii=False)
    (folder / FIT).write_text(text, encoding="utf-8")


def replaceable(folder: str | Path) -> Path:
    """Return the whole path of `folder`, which holds nothing but what was saved, if that."""
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or _strangers(folder)):
        got = f"{str(folder)!r}, which holds other things"
        raise FileExistsError(_checks.message("folder", got, "a new or empty folder"))
    return folder


def tensors_of(fit: _Fit) -> dict[str, Tensor]:
    """Return weights and maps of a fit, by their names in its file."""
    out: dict[str, Tensor] = {}
    for name, network in fit.networks.items():
        out |= {f"{name}/{k}": v for k, v in network.state_dict().items()}
    maps = {"preprocessing": fit.preprocessing, "components": fit.origin.get("components")}
    for name, p in maps.items():
        if p is not None:
            parts = {"mean": p.mean, "scale": p.scale, "loadings": p.loadings}
            out |= {f"{name}/{k}": v for k, v in parts.items() if v is not None}
    return out


def cells_of(course: TimeCourse) -> dict[str, Tensor]:
    """Return the cells of a course, by their names in the file of its fit."""
    out: dict[str, Tensor] = {}
    for k, snapshot in enumerate(course.snapshots):
        out |= {f"x/{k}": snapshot.x, f"mass/{k}": snapshot.mass}
        rest = {"prior": snapshot.growth, "condition": snapshot.condition}
        rest |= {"reference": snapshot.velocity}
        out |= {f"{name}/{k}": v for name, v in rest.items() if v is not None}
    return out


def _facts(fit: _Fit) -> dict[str, Any]:
    units, conditions = fit.networks["velocity"].units, fit.course.conditions
    if conditions is None and units.features:  # type: ignore[union-attr] # a Network
        expected, remedy = "the whole fit", "Save that, and give the loaded one its condition."
        raise ValueError(_checks.message("fit", "a fit given one condition", expected, remedy))
    labels = [None if s.labels is None else list(s.labels) for s in fit.course.snapshots]
    return {
        "format": FORMAT,
        "method": to_facts(fit.method),
        "units": asdict(units),  # type: ignore[call-overload] # as above
        "times": list(fit.course.times),
        "unit": fit.course.unit,
        "conditions": None if conditions is None else conditions.facts(),
        "clock": None if fit.clock is None else asdict(fit.clock),
        "labels": labels,
        "origin": {k: v for k, v in fit.origin.items() if k != "components"},
        "history": asdict(fit.history),
    }


def _strangers(folder: Path) -> bool:
    """Whether the folder holds anything that what is saved does not consist of."""
    names = {f.name for f in folder.iterdir()}
    known = {MATCH, WHOLE, *SIDES, CELLS} if MATCH in names else {FIT, NUMBERS}
    if ENSEMBLE in names:
        known = {ENSEMBLE, CELLS, *(f"member-{k}" for k in range(len(names)))}
    return not names <= known
