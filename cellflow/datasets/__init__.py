"""Real time courses that ship inside the package."""

from cellflow.datasets.bundled import embryoid

__all__ = ["embryoid"]
