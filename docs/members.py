"""Tables of the members of every family, written from the registries."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from cellflow.couplings.coupling import COUPLINGS
from cellflow.methods import METHODS
from cellflow.metrics import METRICS
from cellflow.networks import NETWORKS
from cellflow.paths import PATHS
from cellflow.simulate import SOLVERS

#: Title, registry, and what its names are given to.
FAMILIES: tuple[tuple[str, Mapping[str, object], str], ...] = (
    ("Methods", METHODS, '`cf.tl.fit(adata, "day", method=...)`, `cellflow fit --method`'),
    ("Couplings", COUPLINGS, "`cf.tl.couple(adata, method=...)`, `cellflow couple --method`"),
    ("Paths", PATHS, "part of a method"),
    ("Networks", NETWORKS, "`net=` of a method"),
    ("Solvers", SOLVERS, "`fit.simulate(solver=...)`, `cellflow simulate --solver`"),
    ("Metrics", METRICS, "distances between two clouds"),
)


def first_line(member: object) -> str:
    """Return the summary of a member's docstring."""
    text = inspect.getdoc(member) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def tables() -> str:
    """Return one Markdown table for each family."""
    parts = []
    for title, registry, use in FAMILIES:
        rows = "\n".join(f"| `{name}` | {first_line(registry[name])} |" for name in registry)
        parts.append(f"## {title}\n\n{use}\n\n| name | what it is |\n|---|---|\n{rows}\n")
    return "# Members of every family\n\n" + "\n".join(parts)
