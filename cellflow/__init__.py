"""Infer how cells move through state space from snapshots of a population.

Every name below is loaded on first use, so that ``import cellflow`` costs next to nothing and
brings in neither anndata, scanpy, matplotlib nor torchdyn. Sub-packages stay modules: the
function is ``from cellflow.simulate import simulate``, and ``cellflow.simulate`` is where it lives.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from cellflow import _guard
from cellflow.__about__ import __version__

_guard.refuse_rivals()

#: Sub-packages and modules: ``cellflow.<name>``.
_MODULES = (
    *("reports", "tl", "pl", "pp", "datasets", "answers", "evaluate", "several", "methods", "fits"),
    *("objectives", "densities", "training", "batches", "simulate", "metrics", "toys"),
    *("couplings", "plans", "transport"),
    *("paths", "dynamics", "timecourse", "snapshot", "conditions", "clock", "costs", "networks"),
    "logging",
)
#: Names short-cut from the module where they are defined: ``cellflow.<name>``.
_NAMES = {
    "TimeCourse": "timecourse",
    "Snapshot": "snapshot",
    **dict.fromkeys(("Categorical", "Conditions", "Continuous"), "conditions"),
    "Dynamics": "dynamics",
    **dict.fromkeys(("ICFM", "OTCFM", "SBCFM", "SF2M", "DSBM", "MMFM", "CNF"), "methods"),
    **dict.fromkeys(("CurlyFM", "ReachFM", "UBSB", "UOTCFM", "WFRFM"), "methods"),
    **dict.fromkeys(("MeanFlow", "RectifiedFlow", "match"), "methods"),
    "Fit": "fits",
    "FlowTransport": "estimator",
    "load": "saving",
    **dict.fromkeys(("cite", "report"), "reports"),
    "settings": "logging",
}

__all__ = ["__version__", *_NAMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"cellflow.{name}")
    if name in _NAMES:
        value = getattr(import_module(f"cellflow.{_NAMES[name]}"), name)
        globals()[name] = value  # the next look-up does not come here
        return value
    raise AttributeError(f"module 'cellflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
