"""Files that ship beside this one."""

from __future__ import annotations

from importlib import resources

import numpy as np


def bundled(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of the ``.npz`` file `name` of this folder."""
    file = resources.files("cellflow.datasets") / name
    with resources.as_file(file) as path, np.load(path, allow_pickle=False) as stored:
        return dict(stored)
