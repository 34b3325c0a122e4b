"""Refuse to start when another distribution has written into the same import package."""

from __future__ import annotations

from importlib import metadata

#: Distributions that install files under ``cellflow/`` and are not this one.
RIVALS = {"cellflow-tools": "theislab's CellFlow", "cellflow": "an unrelated project"}
OURS = "cellflow-sb"


def refuse_rivals() -> None:
    """Fail if another distribution that imports as ``cellflow`` is installed beside this one.

    Both would unpack into one folder, and the modules of whichever came last would answer.
    """
    for rival, what in RIVALS.items():
        try:
            version = metadata.version(rival)
        except metadata.PackageNotFoundError:
            continue
        raise ImportError(
            f"`{rival}` {version} ({what}) is installed beside `{OURS}`, and both import as "
            "`cellflow`: their files overwrite each other. Keep one per environment: "
            f"`pip uninstall {rival} {OURS}`, then `pip install` the one that you need."
        )
