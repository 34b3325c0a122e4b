"""What tests of figures share: no window, no figure that stays open, no setting that changes."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

from collections.abc import Iterator

import pytest
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """No figure stays open, and no global setting of matplotlib changes."""
    before = dict(matplotlib.rcParams)
    yield
    plt.close("all")
    assert dict(matplotlib.rcParams) == before
