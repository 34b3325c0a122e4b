"""Reading for the tools: a course and its preprocessing, a method by its name, cells of a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from anndata import AnnData

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs import CostLike
from cellflow.couplings import Coupling
from cellflow.couplings.coupling import FunctionCoupling
from cellflow.densities import DENSITIES, Density
from cellflow.evaluate import Auto
from cellflow.fits import Ensemble, Fit
from cellflow.logging import say
from cellflow.methods import METHODS, FlowMatching, Method
from cellflow.pp import CourseIndex, access, parse_times
from cellflow.pp.components import project
from cellflow.pp.conditions import times_of
from cellflow.pp.genes import gene_facts
from cellflow.pp.reading import Reading, check_finite, read
from cellflow.pp.times import is_missing, read_time
from cellflow.preprocessing import Preprocessing, fit_preprocessing
from cellflow.timecourse import Snapshot, TimeCourse


def read_course(
    adata: AnnData, keys: Reading, *, streams: bool = True, show: bool | None = False
) -> tuple[TimeCourse, CourseIndex, int | None]:
    """Return the course, its index, and how many components to fit (None for none).

    Where it `streams`, a course of expression on disk is in components already. With `show` the
    table of times goes to standard error.
    """
    time_key = keys.time_key or "time"
    if keys.label_key in ("mass", time_key):
        other = f"another column than {time_key!r} and 'mass', which predictions have as well"
        remedy = "Copy it under another name."
        raise ValueError(_checks.message("label_key", repr(keys.label_key), other, remedy))
    n_components = None
    if keys.use_rep == "X":
        n_components, keys = keys.n_dims, replace(keys, n_dims=None)
        if streams and n_components is not None and access.expression_on_disk(adata):
            n_components, keys = None, replace(keys, n_components=n_components)
    cells, index = read(adata, keys)
    say(str(index.table), show=show)
    return cells, index, n_components


def origin_of(
    adata: AnnData, keys: Reading, cells: TimeCourse, index: CourseIndex
) -> dict[str, Any]:
    """Return where the `cells` of a fit came from: facts that its answers need."""
    labels = dict(zip(index.table.labels, index.table.times, strict=True))
    facts: dict[str, Any] = {"use_rep": index.use_rep, "labels": labels, "n_dims": cells.dim}
    facts |= {name: getattr(keys, name) for name in ("time_key", "label_key", "mass_key")}
    if keys.conditions.columns:
        facts["condition_key"] = list(keys.conditions.columns)
    if keys.time_key is None:
        told = keys.conditions.told.items()
        facts["control"] = {k: v.item() if isinstance(v, np.generic) else v for k, v in told}
    facts |= gene_facts(adata, index.use_rep, cells.dim)
    if index.components is not None:
        facts["components"] = index.components
    return facts


def preprocessing_of(
    x: Tensor | Sequence[Tensor], n_components: int | None, whiten: bool
) -> Preprocessing | None:
    """Return components and scales of cells `x` ``(n, d)``; None if neither is asked for."""
    if n_components is None and not whiten:
        return None
    return fit_preprocessing(x, n_components=n_components, whiten=whiten)


def resolve_method(
    method: str | Method, sigma: float | None = None, cost: CostLike | None = None
) -> Method:
    """Return the method that a string names, with its defaults but for `sigma` and `cost`.

    ``"auto"`` names the one that is chosen on the course.
    """
    if cost is not None:
        return resolve_method(method, sigma).by_cost(cost)
    if isinstance(method, str):
        if _checks.choice(method, [*METHODS, "auto"], "method") == "auto":
            if sigma is not None:
                remedy = "Name a method, or give Auto(candidates)."
                raise ValueError(_checks.message("sigma", sigma, "none for 'auto'", remedy))
            return Auto()
        recipe = METHODS[method]
        return recipe() if sigma is None else recipe(sigma)
    if isinstance(method, type) or not isinstance(method, Method):
        expected = f"one of {', '.join(map(repr, METHODS))}, or a method such as OTCFM()"
        raise TypeError(_checks.message("method", type(method).__name__, expected))
    return method


def resolve_methods(method: str | Method | Sequence[str | Method]) -> list[Method]:
    """Return the methods that one or several strings name, as :func:`resolve_method` does."""
    asked = [method] if isinstance(method, str | Method) else _checks.several(method, "method")
    return [resolve_method(m) for m in asked]


def resolve_density(method: str | Density) -> Density:
    """Return the density that a string names, with its defaults."""
    if isinstance(method, Density):
        return method
    return DENSITIES[_checks.choice(method, DENSITIES, "method")]()


def read_all(adata: AnnData, use_rep: str, n_dims: int | None) -> Tensor:
    """Return all cells in a representation, whether they have a time or not, ``(n, d)``.

    Its first `n_dims`; of expression, as many principal components.
    """
    rep, stored = access.find_representation(adata, use_rep)
    own = None if rep == "X" else n_dims
    x = access.read_states(stored, slice(None), n_dims=own, dtype=None, name=rep)
    check_finite(x, adata.obs_names, name=rep)
    if rep != "X" or n_dims is None:
        return x
    return fit_preprocessing(x, n_components=n_dims).apply(x)


def _tried(methods: Sequence[Method]) -> list[Method]:
    return [c for m in methods for c in (m.candidates if isinstance(m, Auto) else (m,))]


def check_reference(methods: Sequence[Method], reference: str | None) -> None:
    """Refuse a `reference` that no method has a use for, or the lack of one."""
    tried = [m for m in _tried(methods) if isinstance(m.parts, FlowMatching)]
    names = ", ".join(repr(m.name) for m in tried if m.parts.path.needs_reference)
    if names and reference is None:
        expected = f"a key of obsm with velocities, which {names} follows"
        raise ValueError(_checks.message("reference", "None", expected))
    if reference is not None and not names:
        got, remedy = f"{reference!r}, of which no method makes use", "Fit with method='curly'."
        raise ValueError(_checks.message("reference", got, "a method relative to it", remedy))


def warn_of_unused_growth(methods: Sequence[Method]) -> None:
    """Say so if no method has a use for prior growth rates."""
    if all(map(_ignores_growth, _tried(methods))):
        names = ", ".join(repr(method.name) for method in methods)
        _checks.warn(
            f"growth_key: {names} has no use for growth rates, which are ignored. Fit with "
            "method='uotcfm' or 'ubsb'."
        )


def _ignores_growth(method: Method) -> bool:
    """Whether the coupling is known to take no growth rates; one of the user's own may."""
    coupling = method.parts.coupling
    if not isinstance(coupling, Coupling) or isinstance(coupling, FunctionCoupling):
        return False
    return not coupling.grows


def time_of(fit: Fit | Ensemble, value: float | str, name: str = "time") -> float:
    """Return the time that `value` means to `fit`: a number in its unit, or a label."""
    return read_time(value, fit.origin.get("labels", {}), unit=fit.course.unit, name=name)


def states_and_times(adata: AnnData, fit: Fit | Ensemble) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the fit's representation key, and every cell's time ``(n,)`` and state ``(n, d)``.

    The time of a cell without one is NaN.
    """
    for key in ("use_rep", "time_key"):
        if key not in fit.origin:
            remedy = "Call fit.velocity(time, x) with tensors instead."
            got, expected = "a fit to tensors", "one to an AnnData"
            raise ValueError(_checks.message("fit", got, expected, remedy))
    rep, time_key = fit.origin["use_rep"], fit.origin["time_key"]
    if rep != "X":
        _checks.choice(rep, list(adata.obsm.keys()), "adata.obsm")
    x = _states(adata, fit, rep)
    if x.shape[1] < fit.course.dim:
        got = f"shape {x.shape}"
        raise ValueError(_checks.message(rep, got, f"at least {fit.course.dim} columns"))
    column = times_of(adata, time_key, fit.origin.get("control", {}))
    known = fit.origin["labels"]
    unknown = [label for label in column.dropna().unique() if str(label) not in known]
    name, meant = f"obs[{time_key!r}]", known if all(map(is_missing, unknown)) else None
    # Times as the fit read them.
    table = parse_times(column, time_map=meant, missing="drop", unit=fit.course.unit, name=name)
    read = zip(table.labels, table.times, strict=True)
    if any(known.get(label, time) != time for label, time in read):
        new = ", ".join(repr(label) for label in table.labels if label not in known)
        remedy = "Leave those cells out, or fit with a `time_map` that has them."
        raise ValueError(_checks.message(name, f"label(s) {new}", "those of the fit", remedy))
    times = np.full(len(x), np.nan)
    times[table.kept] = table.cell_times
    return rep, times, x


def label_key_of(origin: Mapping[str, Any], label_key: str | None) -> str:
    """Return `label_key`, or that of a fit of this `origin`."""
    key = label_key or origin.get("label_key")
    if key is None:
        got = "None, and the fit has no labels"
        raise ValueError(_checks.message("label_key", got, "a column of adata.obs"))
    return str(key)


def masses_of(adata: AnnData, fit: Fit | Ensemble) -> np.ndarray:
    """Return the mass of each cell ``(n,)`` from the column that the fit read; else ones."""
    if fit.origin.get("mass_key") in adata.obs.columns:
        return access.numbers_of(adata, fit.origin["mass_key"], "adata.obs")
    return np.ones(adata.n_obs)


def labelled_course(adata: AnnData, fit: Fit | Ensemble, label_key: str | None) -> TimeCourse:
    """Return the cells of `adata` that have a time of the fit and a label, with both.

    Labels are those of the column `label_key` (that of the fit when omitted), masses those that
    the fit read. A time without a labelled cell is an error.
    """
    key = label_key_of(fit.origin, label_key)
    column = access.column_of(adata, key, "label_key")
    _, times, states = states_and_times(adata, fit)
    known, snapshots = column.notna().to_numpy(), []
    mass = masses_of(adata, fit)
    for time in fit.course.times:
        rows = np.flatnonzero((times == time) & known)
        if len(rows) == 0:
            got = f"no cell with a label at time {time:g}"
            raise ValueError(_checks.message(f"obs[{key!r}]", got, "some at every time"))
        x = torch.from_numpy(states[rows, : fit.course.dim])
        weights = torch.from_numpy(mass[rows]).to(x.dtype)
        snapshots.append(Snapshot(x, time, weights, [str(v) for v in column.iloc[rows]]))
    return TimeCourse(tuple(snapshots), fit.course.unit)


def _states(adata: AnnData, fit: Fit | Ensemble, rep: str) -> np.ndarray:
    """Every cell in the representation of the fit, or in the components that it found."""
    _, stored = access.find_representation(adata, rep)
    found, order = fit.origin.get("components"), order_of_genes(adata, fit)
    if found is not None and rep == "X":
        return project(stored, found, columns=order)
    x = access.read_states(stored, slice(None), n_dims=None, dtype=None, name=rep).numpy()
    return x if order is None else x[:, order]


def order_of_genes(adata: AnnData, fit: Fit | Ensemble) -> np.ndarray | None:
    """Return where the genes of a fit to expression are in `adata`; None where they are in place.

    Another set of genes is an error.
    """
    if fit.origin["use_rep"] != "X":
        return None
    names, here = list(fit.origin["var_names"]), [str(name) for name in adata.var_names]
    if here == names:
        return None
    if sorted(here) != sorted(names) or len(set(names)) < len(names):
        absent = sorted(set(names) - set(here))
        lacking = f", which lack {', '.join(map(repr, absent[:3]))}" if absent else ""
        remedy = "Take them: adata[:, fit.origin['var_names']]."
        expected = f"the {len(names)} genes of the fit"
        raise ValueError(_checks.message("X", f"{len(here)} genes{lacking}", expected, remedy))
    at = {name: k for k, name in enumerate(here)}
    return np.array([at[name] for name in names])
