"""Losses of training, the hold-out table, and a sweep over diffusions."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from cellflow import _checks
from cellflow.evaluate import CONDITION_YARDSTICKS, YARDSTICKS, HoldoutTable, SigmaSweep
from cellflow.fits import Fit
from cellflow.pl import _cells, _frame
from cellflow.training.trainer import History

NAMES = {
    "previous": "previous time point",
    "next": "next time point",
    "pooled": "both pooled",
    "ot_midpoint": "OT midpoint, unlearned",
    "uot_midpoint": "Reach-limited midpoint, unlearned",
    "uot_clock": "Reach-limited by the clock, unlearned",
    "nearest": "mean shift of the nearest",
    "additive": "sum of single effects",
    "all_conditions": "mean shift of all conditions",
}
_OTHERS = {"r2": "explained share of mean changes", "rank": "place of the condition among all"}
_YARDSTICKS = (*YARDSTICKS[:-1], *CONDITION_YARDSTICKS[:-1])
_MARKERS = dict(zip(_YARDSTICKS, "<>sDPXv^ph", strict=True))
#: Width of the dots of one time point, where two are one apart; and span of losses for a log axis.
_SPREAD, _LOG_FROM = 0.62, 5.0


def holdout(table: HoldoutTable, *, metric: str = "w1", ax: Axes | None = None) -> Axes:
    """Draw how far models and yardsticks are from each held-out time point or condition.

    The `table` is what :func:`cellflow.tl.holdout` returned, `metric` one of its metrics, and `ax`
    where to draw; a new figure when omitted. Filled dots are models, open markers are predictions
    that need no model; bars are one standard deviation over seeds. The shaded band reaches up to
    the noise floor, the distance between two halves of the held-out cells: below it, nothing can be
    told apart.
    """
    if not table.rows:
        raise ValueError(_checks.message("table", "no rows", "at least one"))
    _checks.choice(metric, table.metrics, "metric")
    ax = _frame.axes(ax, size=(4.6, 2.8))
    present = {r.method for r in table.rows if r.metric == metric}
    names = [n for n in (*table.models, *_YARDSTICKS) if n in present]
    colors = dict(zip(table.models, _cells.category_colors(len(table.models)), strict=True))
    offsets = _SPREAD * (np.arange(len(names)) - (len(names) - 1) / 2) / max(len(names), 1)
    handles: list[Artist | BarContainer] = []
    for name, offset in zip(names, offsets, strict=True):
        where, mean, std = _summary(table, name, metric)
        grey = "#6e6e6e"
        style: dict[str, Any] = {"label": NAMES.get(name, name), "color": colors.get(name, grey)}
        if name in colors:
            style |= {"marker": "o", "ms": 5, "mfc": colors[name], "zorder": 3}
        else:
            style |= {"marker": _MARKERS[name], "ms": 4, "mfc": "white", "zorder": 2}
        drawn = ax.errorbar(where + offset, mean, yerr=std, ls="", elinewidth=1, capsize=2, **style)
        drawn.lines[0].set_label(drawn.get_label())
        handles.append(drawn.lines[0])  # without its error bar
    handles += _draw_floor(ax, table, metric)
    told = [t if isinstance(t, str) else f"{t:g}" for t in table.held_out]
    ax.set_xticks(range(len(told)), told, rotation=90 if max(map(len, told)) > 8 else 0)
    ax.set_xlim(-0.5, len(table.held_out) - 0.5)
    label = _OTHERS.get(metric) or f"{_frame.metric_label(metric)} to the held-out cells"
    _frame.dress(ax, x=f"held-out {table.unit}", y=label)
    _frame.legend(ax, handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _summary(
    table: HoldoutTable, name: str, metric: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, means and standard deviations over seeds (0 for one seed)."""
    values = [table.values(t, name, metric) for t in table.held_out]
    where = np.array([k for k, v in enumerate(values) if v], dtype=float)
    mean = np.array([np.mean(v) for v in values if v])
    std = np.array([np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in values if v])
    return where, mean, std


def _draw_floor(ax: Axes, table: HoldoutTable, metric: str) -> list[BarContainer]:
    """Shade below the floor of each time point, from the lower edge of the axes."""
    where, mean, _ = _summary(table, "floor", metric)
    if len(where) == 0:
        return []
    # Room below the floor, so that the band is seen; distances are never negative.
    bottom, top = ax.get_ylim()
    low = max(0.0, min(bottom, mean.min() - 0.15 * (top - mean.min())))
    ax.set_ylim(bottom=low)
    style: dict[str, Any] = {"width": 0.86, "color": "#e6e6e6", "zorder": 0}
    return [ax.bar(where, mean - low, bottom=low, label="noise floor", **style)]


def sigma(sweep: SigmaSweep, *, metric: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw how well each diffusion predicts the time points that were left out.

    By a `metric` of the `sweep` that :func:`cellflow.pp.suggest_sigma` returned, the one that
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


def history(fit: Fit | History, *, ax: Axes | None = None) -> Axes:
    """Draw training and validation loss, the step that was kept, and the learning rate.

    Of what :func:`cellflow.tl.fit` returned, or of its history (`fit`), on the axes `ax` or in a
    new figure; those of the learning rate lie over it. Flow-matching losses do not go to zero: what
    remains is how far pairs that cross disagree.
    """
    record = fit.history if isinstance(fit, Fit) else fit
    unit = "model units² / time²"
    if isinstance(fit, Fit):  # whose network may be trained in coordinates that are scaled
        prep = fit.preprocessing
        scaled = prep is not None and bool((prep.scale != 1).any())
        unit = f"{'model' if scaled else 'data'} units² / {fit.course.unit}²"
    if not record.step:
        raise ValueError(_checks.message("fit", "an empty history", "at least one check"))
    ax = _frame.axes(ax, size=(4.0, 2.7))
    rate = ax.twinx()
    rate.plot(record.step, record.learning_rate, color=_frame.GREY, lw=1, ls=(0, (4, 2)))
    ax.plot(record.step, record.train_loss, color=_frame.PALETTE[0], lw=1.2, label="training")
    # Without held-back cells the validation loss is the training loss.
    if record.validation_loss != record.train_loss:
        ax.plot(
            record.step, record.validation_loss, color=_frame.PALETTE[1], lw=1.2, label="validation"
        )
    if record.best_step in record.step:
        best = record.validation_loss[record.step.index(record.best_step)]
        ring: dict[str, Any] = {"ms": 5, "mfc": "white", "mec": _frame.DARK, "clip_on": False}
        label = f"kept (step {record.best_step:,})"
        ax.plot([record.best_step], [best], "o", label=label, zorder=4, **ring)
    losses = [*record.train_loss, *record.validation_loss]
    if min(losses) > 0 and max(losses) > _LOG_FROM * min(losses):
        ax.set_yscale("log")
    ax.set_zorder(rate.get_zorder() + 1)  # losses over the learning rate
    ax.patch.set_visible(False)
    _frame.dress(ax, x="training step", y=f"loss ({unit})")
    _frame.dress(rate, x="", y="learning rate")
    rate.spines["right"].set(visible=True, color=_frame.GREY)
    rate.spines["left"].set_visible(False)
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_locator(MaxNLocator(4))
    rate.yaxis.set_major_formatter("{x:g}")
    rate.tick_params(colors="#8f8f8f")
    rate.yaxis.label.set_color("#8f8f8f")
    _frame.legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.2)
    return ax
