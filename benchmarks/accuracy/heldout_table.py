"""The table of the held-out benchmark, from its rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from accuracy.heldout_scores import FLOOR, YARDSTICKS
from cellflow.evaluate.table import deviation

MIDPOINT = "ot_midpoint"
#: Distances, which are compared with the midpoint's, and what explains them.
COMPARED = ("w1", "w1_equal", "w2", "energy", "composition")
EXPLAINED = ("shift", "centred", "nearest", "effective", "seconds")
#: W1 in index time as published: of OT-CFM (Tong et al. 2024), and the best claim that we know of.
PUBLISHED = {
    ("cite13176_pca100", 5): {"OT-CFM": 0.882, "best claim": 0.724},
    ("cite13176_pca100", 50): {"best claim": 36.394},
    ("eb_sub2750_pca100", 5): {"OT-CFM": 0.790, "best claim": 0.690},
}
Row = dict[str, object]


def per_seed(rows: Sequence[Row], method: str, metric: str) -> list[float]:
    """Mean over days of `metric`, for each seed with which `method` predicted all of them."""
    ours = [r for r in rows if r["method"] == method and "error" not in r]
    out = []
    for seed in sorted({r["seed"] for r in ours}):
        days = {r["fold"]: r[metric] for r in ours if r["seed"] == seed}
        if ours and len(days) == ours[0]["folds"]:
            out.append(fmean(days.values()))
    return out


def ratio(rows: Sequence[Row], method: str, metric: str) -> float:
    """Mean of `method` over that of the midpoint; NaN where one is missing, or zero."""
    ours, theirs = (per_seed(rows, name, metric) for name in (method, MIDPOINT))
    ends = (fmean(ours), fmean(theirs)) if ours and theirs else (0.0, 0.0)
    return ends[0] / ends[1] if min(ends) > 0 else math.nan


def geometric_mean(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the geometric mean of `ratios`, and a 95 % bootstrap interval over them."""
    logs, rng = np.log(ratios), np.random.default_rng(0)
    low, high = np.quantile(rng.choice(logs, (10_000, len(logs))).mean(1), (0.025, 0.975))
    return float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high))


def table(rows: Sequence[Row]) -> str:
    """Print all `rows`: a table for each set, and means over sets."""
    names = list(dict.fromkeys(r["method"] for r in rows))
    names.sort(key=[*YARDSTICKS, FLOOR].__contains__)  # methods first, each as they came
    blocks = _by(rows, "set", "dims", "time")
    steps = {f"{r['method']} {r['steps']}": None for r in rows if r["steps"]}
    most = {str(r["most_cells"] or "all") for r in rows}
    parts = [
        f"Steps: {', '.join(steps)}. Cells of a time point at most: {', '.join(sorted(most))}."
    ]
    parts += [_block(*key, part, names) for key, part in sorted(blocks.items())]
    for dims in sorted({r["dims"] for r in rows}):
        for time in ("index", "physical"):
            ours = {s: part for (s, d, t), part in blocks.items() if (d, t) == (dims, time)}
            if time == "physical" and ours:  # where time points are even, index time is physical
                for (s, d, _), part in blocks.items():
                    if d == dims and part[0]["even"]:
                        ours[s] = part
            if ours:
                parts.append(_summary(dims, time, ours, names))
    parts += [
        f"failed: {r['set']}, {r['dims']}, {r['time']}, fold {r['fold']}, {r['method']}, "
        f"seed {r['seed']}: {r['error']}"
        for r in rows
        if "error" in r
    ]
    return "\n\n".join(parts)


def _by(rows: Sequence[Row], *keys: str) -> dict[tuple, list[Row]]:
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _block(name: str, dims: int, time: str, rows: Sequence[Row], names: Sequence[str]) -> str:
    """One set: means over days, ± the standard error over seeds, and in brackets the ratio."""
    title = f"{name}, {dims} components, {time} time, days left out: {rows[0]['folds']}"
    if time == "index" and rows[0]["even"]:
        title += " (time points are even: physical time is the same)"
    lines = [["", "seeds", *(f"{m} (ratio)" for m in COMPARED), *EXPLAINED]]
    for method in names:
        values = per_seed(rows, method, "w1")
        if not values:
            if any(r["method"] == method for r in rows):
                lines.append([method, "incomplete"])
            continue
        cells = []
        for metric in COMPARED:
            found = per_seed(rows, method, metric)
            told = metric == "w1" and len(found) > 1
            error = f" ± {deviation(found) / len(found) ** 0.5:.3f}" if told else ""
            part = ratio(rows, method, metric)
            beside = "" if math.isnan(part) else f" ({part:.3f})"
            cells.append(f"{fmean(found):.4g}{error}{beside}")
        cells += [f"{fmean(per_seed(rows, method, metric)):.3g}" for metric in EXPLAINED]
        lines.append([method, str(len(values)), *cells])
    claims = PUBLISHED.get((name, dims), {}) if time == "index" else {}
    told = ", ".join(f"{who} {value:.3f}" for who, value in claims.items())
    notes = [f"published, of other cells of the experiment: W1 {told}"] if told else []
    return "\n".join([title, *_aligned(lines), *notes])


def _summary(dims: int, time: str, sets: dict[str, list[Row]], names: Sequence[str]) -> str:
    """Geometric means over sets of the ratios to the midpoint."""
    title = f"Ratio to {MIDPOINT}, {dims} components, {time} time: geometric means over sets"
    lines = [["", "sets", "w1", "95 % interval", "lowest", "highest", *COMPARED[1:]]]
    for method in names:
        if method in (MIDPOINT, FLOOR):
            continue
        found = {s: ratio(rows, method, "w1") for s, rows in sets.items()}
        found = {s: value for s, value in found.items() if not math.isnan(value)}
        if not found:
            continue
        mean, low, high = geometric_mean(list(found.values()))
        ends = [
            f"{found[s]:.3f} {s}" for s in (min(found, key=found.get), max(found, key=found.get))
        ]
        others = []
        for metric in COMPARED[1:]:
            values = [ratio(sets[s], method, metric) for s in found]
            values = [v for v in values if not math.isnan(v)]
            others.append(f"{geometric_mean(values)[0]:.3f}" if values else "-")
        span = f"{low:.3f} to {high:.3f}"
        lines.append([method, str(len(found)), f"{mean:.3f}", span, *ends, *others])
    return "\n".join([title, *_aligned(lines)])


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    full = [line for line in lines if len(line) == len(lines[0])]
    widths = [max(len(line[k]) for line in full) for k in range(len(lines[0]))]
    return [
        "  ".join(f"{text:<{w}}" for text, w in zip(line, widths, strict=False)).rstrip()
        for line in lines
    ]
