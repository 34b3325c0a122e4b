"""Recipes that wire coupling, path and objective; and what fitting them returns."""

from collections.abc import Callable
from functools import partial
from typing import Any

from cellflow.methods.dsbm import DSBM
from cellflow.methods.flow_matching import FlowMatching
from cellflow.methods.icfm import ICFM
from cellflow.methods.iterated import Iterated
from cellflow.methods.method import Method
from cellflow.methods.mmfm import MMFM
from cellflow.methods.otcfm import OTCFM
from cellflow.methods.sbcfm import SBCFM
from cellflow.methods.sf2m import SF2M
from cellflow.methods.shooting import Shooting
from cellflow.methods.ubsb import UBSB
from cellflow.methods.uotcfm import UOTCFM

#: Methods by the names that the AnnData door and the command line use; each takes a sigma.
METHODS: dict[str, Callable[..., Any]] = {
    "otcfm": OTCFM,
    "icfm": ICFM,
    "mmfm": MMFM,
    "sbcfm": SBCFM,
    "sf2m": SF2M,
    "sf2m_exact": partial(SF2M, coupling="exact"),
    "sf2m_geodesic": partial(SF2M, coupling="geodesic"),
    "sf2m_independent": partial(SF2M, coupling="independent"),
    "dsbm": DSBM,
    "uotcfm": UOTCFM,
    "ubsb": UBSB,
}

__all__ = [
    "DSBM",
    "ICFM",
    "METHODS",
    "MMFM",
    "OTCFM",
    "SBCFM",
    "SF2M",
    "UBSB",
    "UOTCFM",
    "FlowMatching",
    "Iterated",
    "Method",
    "Shooting",
]
