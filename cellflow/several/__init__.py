"""Many fits, or many processes for one."""

from cellflow.several.devices import Devices, join
from cellflow.several.launch import fit_on
from cellflow.several.members import fit_members

__all__ = ["Devices", "fit_members", "fit_on", "join"]
