"""Methods: a coupling, a path and what is learned, which fitting turns into dynamics."""

from cellflow import _doors
from cellflow.methods.few_steps import FewSteps, MeanFlow, RectifiedFlow, distill
from cellflow.methods.flow_matching import FlowMatching
from cellflow.methods.generative import GENERATIVE, FittedGenerative, Generative
from cellflow.methods.iterated import Iterated
from cellflow.methods.match import BaseMatching, DirectMatching, Matching, match
from cellflow.methods.method import METHODS, Method
from cellflow.methods.recipes import (
    DSBM,
    ICFM,
    MMFM,
    OTCFM,
    SBCFM,
    SF2M,
    UBSB,
    UOTCFM,
    WFRFM,
    CurlyFM,
    ReachFM,
)
from cellflow.methods.simulating import CNF, Shooting
from cellflow.methods.with_network import with_network

__all__ = [
    "CNF",
    "DSBM",
    "GENERATIVE",
    "ICFM",
    "METHODS",
    "MMFM",
    "OTCFM",
    "SBCFM",
    "SF2M",
    "UBSB",
    "UOTCFM",
    "WFRFM",
    "BaseMatching",
    "CurlyFM",
    "DirectMatching",
    "FewSteps",
    "FittedGenerative",
    "FlowMatching",
    "Generative",
    "Iterated",
    "Matching",
    "MeanFlow",
    "Method",
    "ReachFM",
    "RectifiedFlow",
    "Shooting",
    "distill",
    "match",
    "with_network",
]

_doors.guard(__name__)
