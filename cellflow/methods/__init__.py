"""Methods: a coupling, a path and what is learned, which fitting turns into dynamics."""

from cellflow import _doors
from cellflow.methods.flow_matching import FlowMatching
from cellflow.methods.iterated import Iterated
from cellflow.methods.match import BaseMatching, DirectMatching, Matching, match
from cellflow.methods.method import METHODS, Method
from cellflow.methods.recipes import DSBM, ICFM, MMFM, OTCFM, SBCFM, SF2M, UBSB, UOTCFM, ReachFM
from cellflow.methods.shooting import Shooting

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
    "BaseMatching",
    "DirectMatching",
    "FlowMatching",
    "Iterated",
    "Matching",
    "Method",
    "ReachFM",
    "Shooting",
    "match",
]

_doors.guard(__name__)
