"""A sweep over diffusions as a figure."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from cellflow import _checks
from cellflow.evaluate import SigmaSweep
from cellflow.pl import _frame


def sigma(sweep: SigmaSweep, *, metric: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw how well each diffusion predicts the time points that were left out.

    By a `metric` of the `sweep` that :func:`cellflow.tl.suggest_sigma` returned, the one that
    decides when omitted; on the axes `ax` or in a new figure. Thin lines are single time points,
    the thick one their mean; bars are two standard errors of its difference to the least, which the
    dot marks. Diffusions in the shaded band are not told apart from that. The dashed line is the
    default of a fit.
    """
    if not sweep.rows:
        remedy = "Only a time point between two others can be left out."
        raise ValueError(_checks.message("sweep", "no rows", "at least one", remedy))
    metric = sweep.metric if metric is None else _checks.choice(metric, sweep.metrics, "metric")
    ax = _frame.axes(ax, size=(4.6, 2.8))
    sigmas = np.array(sweep.sigmas)
    colors = _frame.TIME_COLORS(np.linspace(0.15, 0.95, len(sweep.held_out)))
    for time, color in zip(sweep.held_out, colors, strict=True):
        curve = sweep.curve(metric, held_out=time)
        ax.plot(sigmas, curve, color=color, lw=0.9, label=f"{sweep.unit} {time:g}")
    mean = np.array(sweep.curve(metric))
    blue = _frame.PALETTE[0]
    if len(sweep.held_out) > 1:
        ax.plot(sigmas, mean, color=blue, lw=1.8, label="mean", zorder=3)
    bars = 2 * np.array(sweep.errors(metric))
    ax.errorbar(sigmas, mean, yerr=bars, ls="", color=blue, elinewidth=1, capsize=2, zorder=3)
    least = int(mean.argmin())
    found = f"least, {sigmas[least]:.3g}"
    ax.plot(sigmas[least], mean[least], "o", ms=5, color=blue, zorder=4, label=found)
    ax.axvspan(*sweep.span(metric), color="#e6e6e6", lw=0, zorder=0, label="not told apart")
    default = f"default, {sweep.default:.3g}"
    ax.axvline(sweep.default, color=_frame.DARK, lw=1, ls=(0, (4, 2)), label=default)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    unit = f"√{sweep.unit}" if sweep.unit else "√time"
    name = _frame.metric_label(metric)
    _frame.dress(ax, x=f"diffusion (data units / {unit})", y=f"{name} to the cells left out")
    _frame.legend(ax, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
