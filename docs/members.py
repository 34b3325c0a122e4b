"""Tables of the members of every family, written from the registries."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import partial
from importlib import import_module

from cellflow.conditions import COVARIATES
from cellflow.costs import COSTS
from cellflow.couplings.coupling import COUPLINGS
from cellflow.densities import DENSITIES, Density
from cellflow.methods import GENERATIVE, METHODS, FlowMatching, Generative
from cellflow.metrics import METRICS
from cellflow.metrics.metric import Metric
from cellflow.networks import NETWORKS
from cellflow.paths import PATHS, TIMESTEPS
from cellflow.simulate import SOLVERS
from cellflow.simulate.solver import Solver

#: Of these pages each has to say something of every method: its entry, or its row of the table.
ENTRIES = {"methods.md": ("### ", (METHODS, GENERATIVE)), "choosing.md": ("| ", (METHODS,))}

#: Title, registry, and what its names are given to.
FAMILIES: tuple[tuple[str, Mapping[str, object], str], ...] = (
    ("Methods", METHODS, "`cf.tl.fit(adata, method=...)`, `cellflow fit --method`"),
    ("Densities", DENSITIES, "`DENSITIES[name](size=...).fit(x)`: flows and mixtures of one cloud"),
    ("Generative models", GENERATIVE, "one cloud from noise: `GENERATIVE[name]().fit(x)`"),
    ("Couplings", COUPLINGS, "`cf.tl.couple(adata, coupling=...)`, `cellflow couple --coupling`"),
    ("Costs", COSTS, '`cost=` of a coupling, as in `Exact(cost="cosine")`'),
    ("Covariates", COVARIATES, "parts of a condition; `cf.tl.fit(adata, covariates=...)`"),
    ("Paths", PATHS, "part of a method"),
    ("Densities of time", TIMESTEPS, "`timesteps=` of a method"),
    ("Networks", NETWORKS, "`net=` of a method, `cf.tl.fit(adata, network=...)`, `--network`"),
    ("Solvers", SOLVERS, "`fit.simulate(solver=...)`, `cellflow simulate --solver`"),
    ("Metrics", METRICS, "distances between two clouds"),
)


def first_line(member: object) -> str:
    """Return the summary of a member's docstring: of its function, where it is a record of one."""
    if isinstance(member, Metric):
        member = member.function
    elif isinstance(member, Solver):
        step = member.step.__module__ if member.step else "cellflow.simulate.steps.dopri5"
        member = import_module(step)
    elif isinstance(member, partial) and member.func is Generative:
        flow = member().flow
        return f"{first_line(type(flow.path))} `{flow.path}` predicts the {flow.predict}."
    elif isinstance(member, partial):
        settings = ", ".join(f"{name}={value!r}" for name, value in member.keywords.items())
        return f"`{member.func.__name__}({settings})`"
    text = inspect.getdoc(member) or ""
    if not (inspect.isclass(member) and issubclass(member, Density)):  # whose words are few
        text = text.split("\n\n")[0]
    text = text.split("\n\nParameters\n")[0]
    text = re.sub(r":([a-z:]+):`", r"{\1}`", text)  # roles, as Markdown writes them
    return " ".join(text.split()).replace("|", "\\|")


def tables() -> str:
    """Return one Markdown table for each family."""
    parts = []
    for title, registry, use in FAMILIES:
        rows = "\n".join(f"| `{name}` | {first_line(registry[name])} |" for name in registry)
        parts.append(f"## {title}\n\n{use}\n\n| name | what it is |\n|---|---|\n{rows}\n")
    return "# Members of every family\n\n" + "\n".join(parts)


def recipes() -> str:
    """Return a table of what methods are made of, by their names."""
    lines = ["| method | pairs cells by | path | learns | made by |", "|---|---|---|---|---|"]
    for name, maker in METHODS.items():
        parts = maker().parts
        kinds = [f"`{type(part).__name__}`" for part in (parts.coupling, parts.path)]
        if not isinstance(parts, FlowMatching):
            kinds = ["not, it simulates", "–"]
        learns = ["velocity", *(answer for answer in ("score", "growth") if getattr(parts, answer))]
        made = maker.func if isinstance(maker, partial) else maker
        made_by = f"{{py:obj}}`~cellflow.methods.{made.__name__}`"
        lines.append(f"| `{name}` | {' | '.join(kinds)} | {', '.join(learns)} | {made_by} |")
    return "\n".join(lines) + "\n"


def unwritten(page: str, text: str) -> list[str]:
    """Return the names that the `text` of a `page` of :data:`ENTRIES` has no entry for."""
    start, registries = ENTRIES[page]
    heads = " ".join(line.split(" | ")[0] for line in text.splitlines() if line.startswith(start))
    return [name for registry in registries for name in registry if f"`{name}`" not in heads]
