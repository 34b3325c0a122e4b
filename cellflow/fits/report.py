"""Report of a fit: the health of its couplings, with remedies, and its training."""

from __future__ import annotations

from collections.abc import Mapping

from cellflow.timecourse import TimeCourse
from cellflow.training.trainer import History

#: A marginal error of 1 % of the mass is visible in the answers.
_MARGINAL = 0.01
#: Shares of cells above which they are worth a word.
_UNUSED, _CHILDLESS, _INDEPENDENT = 0.01, 0.05, 0.5
#: Share of the cost that is noise's, below which it is not noise that pairs cells at random.
_NOISY = 0.1
#: Effective share of the cells below which a prediction rests on a few.
_FEW = 0.2


def coupling_problems(facts: Mapping[str, float]) -> list[str]:
    """Return a sentence, with its remedy, for each problem in ``fit.history.coupling``."""
    out = []
    plans = max(facts.get("plans", 0), 1)
    bad = max(facts.get("fallbacks", 0), facts.get("unconverged", 0))
    if bad:
        out.append(
            f"{bad:.0f} of {plans:.0f} plans did not converge: raise sigma or epsilon, or the "
            "coupling's max_iter."
        )
    if facts.get("marginal_error", 0.0) > _MARGINAL:
        out.append(
            f"A plan misses its marginals by {facts['marginal_error']:.1%} of the mass: lower the "
            "coupling's tolerance."
        )
    random = facts.get("mean_partner_share", 0.0) > _INDEPENDENT and "blurred_by_sigma" in facts
    # In blocks of few cells, or of cells at one place, partners are many without any noise.
    if random and facts.get("noise_share", 0.0) > _NOISY:
        out.append(
            f"A cell has {facts['mean_partners']:.0f} partners, {facts['mean_partner_share']:.0%} "
            "of all: sigma is so large that cells are paired nearly at random. Lower it."
        )
    if facts.get("noise_share", 0.0) > 1.0:
        out.append(
            f"The noise alone would carry cells {facts['noise_share'] ** 0.5:.1f} times as far as "
            "they go: sigma is too large for these data. Lower it."
        )
    if facts.get("effective_share", 1.0) < _FEW:
        out.append(
            f"Growth leaves a prediction to rest on {facts['effective_share']:.0%} of a snapshot's "
            "cells: train for fewer steps, or take a larger relaxation or reach."
        )
    if facts.get("unused", 0.0) - facts.get("mean_unmatched", 0.0) > _UNUSED:
        out.append(f"{facts['unused']:.1%} of the cells were never paired: train for longer.")
    return out


def coupling_report(facts: Mapping[str, float]) -> str:
    """Describe ``fit.history.coupling``: in one line, or with what is wrong."""
    if not facts.get("plans"):
        return "coupling: no plans were made"
    line = (
        f"{facts['plans']:.0f} plans, {facts['mean_partners']:.3g} partners per cell, "
        f"cost {facts['mean_cost']:.3g}"
    )
    if facts.get("noise_share"):
        share = facts["noise_share"]
        line += f", noise {share:.0%} of it" if share < 10 else f", noise {share:.3g} times that"
    if facts.get("mean_childless", 0.0) > _CHILDLESS:
        line += f", {facts['mean_childless']:.0%} of the mass without descendants"
    if facts.get("mean_unmatched"):
        line += f", {facts['mean_unmatched']:.0%} unmatched"
    if "effective_share" in facts:
        line += f", predictions rest on {facts['effective_share']:.0%} of the cells"
    problems = coupling_problems(facts)
    if not problems:
        return f"coupling: good ({line})"
    return "\n".join([f"coupling: PROBLEMS ({line})", *(f"  - {text}" for text in problems)])


def fit_report(name: str, history: History, evidence: float = 1.0) -> str:
    """Describe a training: steps, where the time went, how coupling went, and weak `evidence`."""
    steps = history.step[-1] if history.step else 0
    loss = f", loss {history.validation_loss[-1]:.4g}" if history.step else ""
    total = max(history.seconds, 1e-12)
    shares = ", ".join(
        f"{what} {history.timing[what] / total:.0%}"
        for what in ("coupling", "network", "data", "checks")
        if what in history.timing
    )
    each = f", {history.seconds / steps * 1e3:.3g} ms a step" if steps else ""
    lines = [
        f"{name}: {steps} steps ({history.stopped}){loss}",
        f"time: {history.seconds:.3g} s{each}" + (f" ({shares})" if shares else ""),
        coupling_report(history.coupling),
    ]
    if evidence < 1:
        lines.append(f"conditions: of what they change, {evidence:.0%} is more than chance")
    return "\n".join(lines)


def fit_rows(name: str, course: TimeCourse, history: History) -> list[tuple[str, str]]:
    """Return names and values by which a fit of the method `name` is printed."""
    parts = (part.partition(": ") for part in fit_report(name, history).split("\n", 2))
    return [
        ("cells", f"{len(course.x):,} × {course.dim} dimensions"),
        (f"times ({course.unit})", ", ".join(f"{t:g}" for t in course.times)),
        *((what, told) for what, _, told in parts),
    ]
