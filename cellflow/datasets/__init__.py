"""Real time courses: one bundled set, and loaders for published files that the user has."""

from cellflow.datasets.bundled import embryoid
from cellflow.datasets.published import PublishedFile, from_npz, load_paper_dataset

__all__ = ["PublishedFile", "embryoid", "from_npz", "load_paper_dataset"]
