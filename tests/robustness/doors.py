# ruff: noqa: E501 -- tables of values
"""Public doors, arguments that they take, and values that they should refuse in a sentence."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

import cellflow as cf
from cellflow.batches import Batching
from cellflow.couplings import Coupling, Exact
from cellflow.evaluate import HoldoutProtocol
from cellflow.fits.bases import gaussian_mixture
from cellflow.methods import METHODS, FlowMatching, Method
from cellflow.networks import MLPConfig, NetworkConfig
from cellflow.paths import Path as CellPath
from cellflow.paths import Straight
from cellflow.simulate import Limits
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training import Training


def _words(text: str) -> set[str]:
    return set(text.split())


#: Rooms whose ``__all__`` are doors. Of classes, those that check what they are given.
ROOMS = "tl pp pl evaluate metrics simulate couplings methods densities training batches networks paths toys"
#: Objects whose methods are doors.
HOSTS = ("fit", "ensemble", "coupled", "course", "snapshot", "transitions")
#: Not doors: what others of ours call, with arguments that are ours, or a process's own.
INSIDE = _words("""
from_facts encoded part rest GeneNetwork History Row SigmaRow Trainer Network MLP PairSampler Scorer PathPoint Pairs StepReport
""")
#: A large number of these is long work that was asked for, with a bar, not a mistake.
PATIENCE = _words("""
steps budget n_permutations n_boot n_null n_futures seeds members rounds repeats max_iter sweeps
per_interval n_paths n_cells n_projections substeps n_splines width depth scales workers
block_size batch_size reuse draws max_evaluations n rtol atol max_step radius
""")
SMALL = 24  # cells of a snapshot


class World:
    """Small data and fits, made once."""

    @cached_property
    def cells(self) -> anndata.AnnData:
        rng, n = np.random.default_rng(0), 3 * SMALL
        day = np.repeat([0.0, 1.0, 3.0], SMALL)
        obs = pd.DataFrame({"day": day, "mass": rng.uniform(0.5, 2, n)})
        obs["label"] = pd.Categorical(np.array(["a", "b", "c"])[rng.integers(3, size=n)])
        obs["batch"] = np.array(["u", "v"])[np.arange(n) % 2]
        obs["rate"], obs["clone"] = rng.normal(size=n) / 9, np.where(day > 0, "k", "l")
        obs.index = [f"c{k}" for k in range(n)]
        genes = pd.DataFrame(index=[f"g{k}" for k in range(6)])
        out = anndata.AnnData(
            rng.poisson(2 + day[:, None], (n, 6)).astype(np.float32), obs=obs, var=genes
        )
        out.layers["counts"] = out.X.copy()
        cf.pp.pca(out, n_components=3)
        out.obsm["X_umap"] = out.obsm["X_pca"][:, :2].copy()
        out.obsm["velocity_obs"] = rng.normal(size=(n, 3)).astype(np.float32)
        return out

    def _fit(self, method: str, **given: Any) -> Any:
        given = {"use_rep": "X_pca", "label_key": "label", "steps": 3, **given}
        return cf.tl.fit(self.cells, time_key="day", method=method, progress=False, **given)

    @cached_property
    def fit(self) -> Any:
        return self._fit("uotcfm")

    @cached_property
    def bridge(self) -> Any:
        return self._fit("sf2m")

    @cached_property
    def ensemble(self) -> Any:
        return self._fit("reach", members=2, workers=1)

    @cached_property
    def conditional(self) -> Any:
        return self._fit("otcfm", condition_key="batch", control="u")

    @cached_property
    def density(self) -> Any:
        return cf.densities.NSF().fit(self.snapshot.x, steps=2)

    @cached_property
    def holdout(self) -> Any:
        few = {"steps": 2, "seeds": 2, "workers": 1, "progress": False}
        return cf.evaluate.holdout(self.course, _method(), **few)

    @cached_property
    def sweep(self) -> Any:
        few = {"seeds": 2, "workers": 1, "progress": False}
        return cf.evaluate.sigma_sweep(self.course, sigmas=[0.5, 1.0], **few)

    @cached_property
    def coupled(self) -> Any:
        return cf.tl.couple(self.cells, time_key="day", progress=False)

    @cached_property
    def transitions(self) -> Any:
        return self.coupled.transitions

    @cached_property
    def course(self) -> TimeCourse:
        return cf.pp.course(self.cells, time_key="day", label_key="label")[0]

    @cached_property
    def snapshot(self) -> Snapshot:
        return self.course.snapshots[0]

    def answered(self) -> anndata.AnnData:
        """Cells with fates, which drivers and trends read."""
        out = self.cells.copy()
        cf.tl.fates(out, self.fit, n_futures=2, neighbours=3)
        return out

    @cached_property
    def told(self) -> anndata.AnnData:
        """Cells with all answers, which figures draw."""
        out = self.answered()
        cf.tl.velocity(out, self.fit, basis="umap")
        cf.tl.growth(out, self.fit)
        cf.tl.composition(out, self.fit)
        cf.tl.drivers(out, "a")
        cf.tl.gene_trends(out, ["g0"], n_boot=3)
        cf.tl.perturb(out, self.fit, "g0", n_null=3)
        cf.tl.influence(out, self.fit)
        cf.tl.uncertainty(out, self.ensemble)
        cf.tl.outlier_score(out, reference=np.arange(len(out)) % 3 > 0, steps=2)
        cf.tl.batch_free(out, batch_key="batch", steps=2)
        few = {"n_permutations": 2, "steps": 2, "workers": 1, "progress": False}
        cf.tl.compare(out, condition_key="batch", time_key="day", **few)
        return out


WORLD = World()
#: What doors are given where nothing nasty is: by the name of the argument, or of door and it.
GOOD: dict[str, Callable[[], Any]] = {
    "adata": lambda: WORLD.cells.copy(),
    "drivers.adata": WORLD.answered,
    "forecast.cells": lambda: cf.tl.forecast(WORLD.fit, time=4.0, cuts=1, steps=2),
    "gene_trends.adata": WORLD.answered,
    "fit": lambda: WORLD.fit,
    "flow": lambda: WORLD.fit,
    "pl.adata": lambda: WORLD.told.copy(),
    "x1": lambda: WORLD.course.snapshots[1].x,
    "teacher": lambda: WORLD.density,
    "toys.source": lambda: cf.toys.Gaussian(torch.zeros(2), torch.eye(2)),
    "toys.target": lambda: cf.toys.Gaussian(torch.ones(2), torch.eye(2)),
    "trajectory": lambda: cf.tl.simulate(WORLD.cells, WORLD.fit, n_cells=3),
    "predicted": lambda: cf.tl.interpolate(WORLD.fit, time=1.5),
    "transitions.table": lambda: WORLD.coupled.table("label", 0.0, 1.0),
    "holdout.table": lambda: WORLD.holdout,
    "sweep": lambda: WORLD.sweep,
    "sampler": cf.answers.AllSets,
    "uncertainty.fit": lambda: WORLD.ensemble,
    "velocity_agreement.fit": lambda: WORLD.bridge,
    "predict.start": lambda: WORLD.snapshot,
    "predict.fit": lambda: WORLD.conditional,
    "holdout_conditions.course": lambda: WORLD.conditional.course,
    "mean_changes.control": lambda: WORLD.cells,
    "observed": lambda: WORLD.cells,
    "transform": lambda: lambda x: 2 * x,
    "generator": lambda: torch.Generator().manual_seed(0),
    "subset.index": lambda: torch.tensor([0, 2]),
    "reference": lambda: np.arange(3 * SMALL) % 3 > 0,
    "plan": lambda: Exact()(*WORLD.course.snapshots[:2]),
    "mean": lambda: torch.zeros(2, dtype=torch.float64),
    "cov": lambda: torch.eye(2, dtype=torch.float64),
    "xs": lambda: [s.x for s in WORLD.course.snapshots],
    "course": lambda: WORLD.course,
    "source": lambda: WORLD.course.snapshots[0],
    "target": lambda: WORLD.course.snapshots[1],
    "dynamics": lambda: WORLD.bridge.dynamics,
    "snapshots": lambda: WORLD.course.snapshots,
    "labels": lambda: WORLD.cells.obs["label"],
    "values": lambda: WORLD.cells.obs["mass"],
    "parse_times.values": lambda: ["day 1", "day 2"],
    "x": lambda: WORLD.snapshot.x,
    "y": lambda: WORLD.course.snapshots[1].x,
    "x0": lambda: WORLD.snapshot.x,
    "log_likelihood.base": lambda: gaussian_mixture(WORLD.snapshot),
    "states": lambda: WORLD.fit.course.x,
    "points": lambda: WORLD.cells.obsm["X_pca"][:4],
    "velocity": lambda: WORLD.cells.obsm["velocity_obs"],
    "mass": lambda: np.ones(SMALL),
    "expect.values": lambda: np.ones(SMALL),
    "recall.values": lambda: np.ones(SMALL),
    "rows": lambda: [0, 2],
    "exclude": lambda: [1.0],
    "metric": lambda: cf.metrics.wasserstein2,
    "candidates": lambda: [cf.OTCFM(), cf.ICFM()],
    "path": lambda: Straight(0.1),
    "base": cf.SF2M,
    "times": lambda: [0.0, 1.0, 3.0],
    "genes": lambda: ["g0", "g1"],
    "net": lambda: MLPConfig(8, 2),
    "coupling": Exact,
    "method": cf.ICFM,
    "suggest_sigma.method": lambda: cf.SF2M,
    "sigma_sweep.method": lambda: cf.SF2M,
    "methods": cf.ICFM,
    "sigmas": lambda: [0.5, 1.0],
} | {
    key: partial(lambda value: value, value)
    for key, value in {
        "time_key": "day", "condition_key": "batch", "control": "u", "condition": "v", "conditions": ["v"], "start": 0.0, "forecast.time": 4.0, "choose.metric": "w1", "Auto.metric": "w1", "folder": "out", "open_trajectory.path": "none.zarr", "label_key": "label", "batch_key": "batch", "mass_key": "mass", "growth_key": "rate", "clone_key": "clone", "basis": "umap", "velocity_key": "velocity_obs", "weights.time": 1.0, "expect.start": 0.0, "expect.end": 1.0, "centre": 0.3, "width": 0.2, "most": 5, "fate": "a", "group": "a", "density_ratio.end": 3.0, "t": 0.5, "base_time": 0.0, "index": 0, "device": "cpu", "proliferation": ["g0"], "apoptosis": ["g1"], "time": 1.5, "end": 3.0, "t0": 0.0, "t1": 1.0, "steps": 2, "budget": 2, "workers": 1, "progress": False, "n_futures": 2,
        "neighbours": 3, "n_neighbors": 3, "n_permutations": 9, "n_boot": 3, "n_null": 5, "n_cells": 5, "seeds": 2, "n_components": 2, "per_interval": 2, "n": 5, "sigma": 0.5, "fraction": 0.5, "block_size": 8, "batch_size": 8, "rounds": 2, "n_projections": 4, "repeats": 2, "members": 2, "max_iter": 1000, "n_splines": 4, "Entropic.epsilon": 0.5, "solver": "euler", "seed": 0,
    }.items()
}  # fmt: skip
#: Budgets that are given even though they have a default, so that a case is short.
BUDGETS = _words("""
steps budget workers progress n_futures neighbours n_permutations n_boot n_null per_interval repeats
seeds sigmas candidates n_splines net rounds n_neighbors n_components epsilon sampler time_key
""")


def _closed() -> Any:
    file = io.StringIO("")
    file.close()
    return file


_RNG = np.random.default_rng(1)
_CLOUD = _RNG.normal(size=(SMALL, 3)).astype(np.float32)
#: Values for which a door has a sentence, or an answer.
NASTY: dict[str, Callable[[], Any]] = {
    "masked array": lambda: np.ma.masked_less(_CLOUD.copy(), 0),
    "object": object,
    "closed file": _closed,
    "series": lambda: pd.Series([1.0, np.nan]),
    "categories": lambda: pd.Categorical(["a", None]),
    "a frame": lambda: pd.DataFrame({"a": [1.0, 2.0]}),
    "sparse": lambda: sp.csr_matrix(np.eye(3)),
    "bad sparse": lambda: _unsound(),
    "generator": lambda: (k for k in range(3)),
    "class": lambda: dict,
    "function": lambda: lambda *a, **k: None,
    "of lists": lambda: lambda *a, **k: [1],
    "view": lambda: WORLD.cells[::2],
    "no cells": lambda: WORLD.cells[:0],
    "one cell": lambda: WORLD.cells[:1].copy(),
    "other fit": lambda: WORLD.bridge,
    "ensemble": lambda: WORLD.ensemble,
    "coupled": lambda: WORLD.coupled,
    "course": lambda: WORLD.course,
    "snapshot": lambda: WORLD.snapshot,
    "numpy generator": lambda: np.random.default_rng(0),
    "cells with NaN": lambda: np.where(_CLOUD > 1, np.nan, _CLOUD),
    "cells": lambda: _CLOUD.copy(),
    "cells 1e30": lambda: _CLOUD * np.float32(1e30),
    "cells int": lambda: _CLOUD.astype(int),
    "cells bool": lambda: _CLOUD > 0,
    "cells text": lambda: _CLOUD.astype(str),
    "cells objects": lambda: _CLOUD.astype(object),
    "cells complex": lambda: _CLOUD + 1j,
    "cells float16": lambda: _CLOUD.astype(np.float16),
    "cells big-endian": lambda: _CLOUD.astype(">f8"),
    "cells backwards": lambda: _CLOUD[::-1, ::-1],
    "cells more": lambda: np.tile(_CLOUD, (2, 1)),
    "cells wider": lambda: np.tile(_CLOUD, 2),
    "cells none": lambda: _CLOUD[:0],
    "cells flat": lambda: _CLOUD[:, 0],
    "cells 3-d": lambda: _CLOUD[None],
    "tensor": lambda: torch.tensor(_CLOUD),
    "tensor meta": lambda: torch.empty(3, device="meta"),
    "tensor grad": lambda: torch.ones(SMALL, requires_grad=True),
    "tensor sparse": lambda: torch.eye(3).to_sparse(),
    "tensor bfloat": lambda: torch.ones(SMALL, dtype=torch.bfloat16),
    "zeros": lambda: np.zeros(SMALL),
    "negative": lambda: -np.ones(SMALL),
} | {
    repr(value)[:30]: partial(lambda value: value, value)
    for value in (
        *(None, True, False, 0, 1, -1, 2, 3.5, 0.5, 1e-300, 1e308, -1e308, 10**9, 10**400, -(10**400)),
        *(float("nan"), float("inf"), -float("inf"), 1 + 1j, "", "x", "day", "a/b", "a\0b", "../x"),
        *("X", "X_pca", "nan", "1", "é" * 300, "w1", "rk4", "exact", b"", b"x", [], (), {}, set()),
        *([None], [1, 1], [1, 2], [2, 1, 0], [0, 1, 2], [0.0, float("nan")], ["a", "b"], [[1], [2, 3]]),
        *({"a": 1}, {1: "a"}, {"a": float("nan")}, {None: 1}, range(3), slice(3), ..., 2**63, 2**31),
        *(np.float32("nan"), np.int8(3), np.bool_(True), np.str_("x"), np.array(2), np.array(2.5)),
        *(np.array([]), np.array(["a"]), np.datetime64("NaT"), np.timedelta64(3, "D"), pd.NaT, pd.NA),
        *(pd.Timestamp(0), pd.Timedelta(1, "D"), torch.tensor(2.0), torch.tensor([]), torch.float16),
        *(torch.float64, np.float32, "float16", Path("x"), Path("/proc/x"), Path("/dev/null"), NotImplemented),
        *([10**400], [1e308, -1e308], [True], "g0", ["g0", "g0"], ["nope"], ("a",), [1.5, 1.5], "1e400"),
    )
}  # fmt: skip


def _unsound() -> Any:
    out = sp.csr_matrix(np.ones((SMALL, 3), np.float32))
    out.indices[3] = 10**6
    return out


@dataclass(frozen=True)
class Door:
    """A callable, and its arguments that are given here."""

    name: str
    call: Callable[..., Any]
    parameters: tuple[inspect.Parameter, ...]
    told: str = ""

    def good(self) -> dict[str, Any]:
        """Arguments that are sound; of those without a default, all for which one is known."""
        needed = [p for p in self.parameters if p.default is p.empty or p.name in BUDGETS]
        made = {p.name: self.value(p.name) for p in needed}
        return {name: make() for name, make in made.items() if make is not None}

    def value(self, name: str) -> Callable[[], Any] | None:
        """What makes a sound value of an argument."""
        room, *_, own = self.name.split(".")
        found = (GOOD.get(key) for key in (f"{room}.{name}", f"{own}.{name}", name))
        return next((make for make in found if make is not None), None)


def _door(name: str, call: Callable, signature_of: Callable | None = None) -> Door:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(signature_of or call).parameters.values()
    told = inspect.getdoc(signature_of or call) or ""
    return Door(
        name, call, tuple(p for p in found if p.kind not in kinds and p.name[0] != "_"), told
    )


def doors() -> Iterator[Door]:
    """All doors, in order: functions, settings, recipes, methods of what they return."""
    seen: set[int] = set()
    for room in ROOMS.split():
        module = import_module(f"cellflow.{room}")
        for name in sorted(module.__all__):
            value = getattr(module, name)
            settings = inspect.isclass(value) and hasattr(value, "__post_init__")
            checks = inspect.isfunction(value) or settings
            if id(value) in seen or name in INSIDE or not checks or inspect.isabstract(value):
                continue
            seen.add(id(value))
            if any(p.name[:1] != "_" for p in inspect.signature(value).parameters.values()):
                yield _door(f"{room}.{name}", partial(_used, value), value)
    for name, recipe in METHODS.items():
        yield _door(f"METHODS.{name}", partial(_used, recipe), recipe)
    for call in (cf.TimeCourse, cf.TimeCourse.from_arrays, cf.Snapshot, cf.load):
        yield _door(f"cellflow.{call.__name__}", call)
    for host in HOSTS:
        value = getattr(WORLD, host)
        for name, member in sorted(vars(type(value)).items()):
            if name[0] != "_" and inspect.isfunction(member) and name not in INSIDE:
                call = getattr(value, name)
                if inspect.signature(call).parameters:
                    yield _door(f"{host}.{name}", call)


def _used(make: Callable, **given: Any) -> Any:
    """Make something, and use it if it is a setting: what it accepts should work."""
    made = make(**given)
    first, second, *_ = WORLD.course.snapshots
    parts: dict[type, Callable] = {
        Method: lambda: made.fit(WORLD.course, steps=2, progress=False),
        Coupling: lambda: made(first, second),
        Training: lambda: _small(training=made),
        Batching: lambda: _small(batching=made),
        NetworkConfig: lambda: _small(net=made),
        CellPath: lambda: _small(path=made),
        Limits: lambda: WORLD.fit.simulate(first.x, [0.0, 1.0], solver="dopri5", limits=made),
        HoldoutProtocol: lambda: cf.evaluate.holdout(
            WORLD.course, _method(), steps=2, seeds=2, protocol=made, workers=1, progress=False
        ),
    }
    for kind, use in parts.items():
        if isinstance(made, kind) and not isinstance(made, type):
            return use()
    return made


def _method(**part: Any) -> FlowMatching:
    parts = {"net": MLPConfig(8, 2), "batching": Batching(8, 8), "path": Straight(0.1)} | part
    return FlowMatching(Exact(), **parts)


def _small(**part: Any) -> Any:
    return _method(**part).fit(WORLD.course, steps=2, progress=False)
