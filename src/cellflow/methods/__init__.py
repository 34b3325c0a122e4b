"""Recipes that wire coupling, path and objective; and what fitting them returns."""

from cellflow.methods.fit import Fit
from cellflow.methods.flow_matching import FlowMatching
from cellflow.methods.icfm import ICFM
from cellflow.methods.mmfm import MMFM
from cellflow.methods.otcfm import OTCFM
from cellflow.methods.sbcfm import SBCFM
from cellflow.methods.sf2m import SF2M
from cellflow.methods.store import load

#: Methods by the names that the AnnData door and the command line use.
METHODS = {"otcfm": OTCFM, "icfm": ICFM, "mmfm": MMFM, "sbcfm": SBCFM, "sf2m": SF2M}

__all__ = ["ICFM", "METHODS", "MMFM", "OTCFM", "SBCFM", "SF2M", "Fit", "FlowMatching", "load"]
